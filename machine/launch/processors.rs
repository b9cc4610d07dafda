//! The processors of a machine, on the accelerator that was asked for.

use std::sync::Arc;

use base::memory::{FlatView, ViewListener};
use cpu::cpuid::{Dynamic, Model, Selection, Topology, select};
use cpu::signals::{Signals, request};
use cpu::vcpu::{Engine, Vcpus};

use super::accelerator::Accelerator;
use super::{fault, globals};
use crate::config::{ConfigError, MachineConfig, SmpLimits};
use crate::vm::Vm;

/// Most processors of a PC without interrupt remapping.
const MAX_CPUS: u32 = 255;

/// What is known of the processors before the board is built.
pub(super) struct Processors {
    pub model: Arc<Model>,
    /// What `-cpu` selected.
    pub selection: Selection,
    /// The type name of the model.
    pub type_name: String,
    pub topology: Topology,
    /// The same as the command line has it.
    pub smp: crate::config::Topology,
    pub count: u32,
    /// Processors there can be.
    pub max: u32,
}

impl Processors {
    pub fn choose(
        config: &MachineConfig,
        machine: &str,
        accelerator: &Accelerator,
    ) -> Result<Self, ConfigError> {
        // On an i440FX dies and modules are allowed, as on every PC since.
        let limits = SmpLimits { machine, max_cpus: MAX_CPUS, dies_and_modules: true };
        let smp = config.smp.resolve(&limits)?;
        let topology = Topology {
            sockets: smp.sockets,
            dies: smp.dies,
            modules: smp.modules,
            cores: smp.cores,
            threads: smp.threads,
        };
        let spec = globals::processor(config, "qemu64");
        let selection = select(&spec, &accelerator.support()?, topology).map_err(fault)?;
        for warning in &selection.warnings {
            eprintln!("qemu-system-x86_64: warning: {warning}");
        }
        Ok(Processors {
            model: Arc::new(selection.model.clone()),
            type_name: format!("{}-x86_64-cpu", spec.split(',').next().unwrap_or_default()),
            selection,
            topology,
            smp,
            count: smp.cpus,
            max: smp.maxcpus,
        })
    }

    /// CPUID leaf 1: EAX and EDX.
    pub fn identity(&self) -> (u32, u32) {
        let now = Dynamic { apic_enabled: true, ..Dynamic::default() };
        let [eax, _, _, edx] = self.model.cpuid(0, 1, 0, &now);
        (eax, edx)
    }

    /// Whether the model has the x2APIC.
    pub fn has_x2apic(&self) -> bool {
        self.model.has(cpu::cpuid::feature::X2APIC)
    }

    /// Whether the model has long mode.
    pub fn long_mode(&self) -> bool {
        self.model.has(cpu::cpuid::feature::LM)
    }
}

/// Makes processors forget translations when the memory map changes.
pub(super) struct FlushOnChange(pub Vec<Arc<Signals>>);

impl ViewListener for FlushOnChange {
    fn view_changed(&self, _: &FlatView, _: &FlatView) {
        self.0.iter().for_each(|signals| signals.post(request::FLUSH_TLB));
    }
}

/// Starts parked threads for engines.
pub(super) fn start(
    engines: Vec<(Arc<Signals>, Box<dyn Engine>)>,
    vm: &Arc<Vm>,
    name: &str,
) -> Result<Vcpus, ConfigError> {
    Vcpus::start(engines, &vm.vcpu_events(), name)
        .map_err(|error| ConfigError::new(format!("cannot start a vCPU thread: {error}")))
}

/// No processor executes anything.
pub(super) fn none(vm: &Arc<Vm>) -> Result<Vcpus, ConfigError> {
    start(Vec::new(), vm, "")
}
