//! What a machine consists of, for monitors to tell.

use std::sync::Arc;

use cpu::cpuid::{Place, Support};

use crate::machines::MachineType;

/// What a machine consists of.
pub struct Inventory {
    /// Its type.
    pub machine: &'static MachineType,
    /// Whether the host's kernel runs the guest's processors.
    pub kvm: bool,
    /// What its accelerator lets processor models have.
    pub support: Support,
    /// The type name of its processors.
    pub cpu_type: Option<String>,
    /// Its processors, and the places for more.
    pub cpus: Vec<CpuSlot>,
    /// Bytes of memory on each NUMA node; empty if there are none.
    pub node_sizes: Vec<u64>,
    /// Bytes of RAM that it started with.
    pub ram: u64,
    /// Slots for memory devices.
    pub memory_slots: u64,
    /// Whether it can sleep and wake up.
    pub can_suspend: bool,
    /// Tells what the translator has made, if there is one.
    pub translator_report: Option<Arc<dyn Fn() -> String + Send + Sync>>,
}

/// A place for a processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSlot {
    /// Path of the processor, if there is one.
    pub path: Option<String>,
    /// Where it sits.
    pub place: Place,
    /// Whether the board tells dies apart.
    pub has_dies: bool,
    /// Whether the board tells modules apart.
    pub has_modules: bool,
    /// Its NUMA node, if there are nodes.
    pub node: Option<u32>,
}
