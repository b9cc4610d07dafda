//! Any port and any memory of the whole board, in any order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Place, Step, knock};

/// All ports, then memory: what lies below 1 MiB, RAM above it, and the chips' pages. The first
/// entries are repeated by nobody: an index picks each as often as any other.
const PLACES: &[Place] = &[
    Place::Ports(0, 0x1_0000),
    Place::Ports(0, 0x400),
    Place::Ports(0xcf8, 8),
    Place::Ports(0x510, 0xc),
    Place::Ports(0x600, 0x40),
    Place::Ports(0xae00, 0x200),
    Place::Memory(0, 0x1_0000),
    Place::Memory(0xa_0000, 0x1_0000),
    Place::Memory(0xf_0000, 0x1_0000),
    Place::Memory(0xfec0_0000, 0x1000),
    Place::Memory(0xfed0_0000, 0x400),
    Place::Memory(0xfee0_0000, 0x1000),
    Place::Memory(0xffff_0000, 0x1_0000),
];

fuzz_target!(|steps: Vec<Step>| knock(PLACES, &steps));
