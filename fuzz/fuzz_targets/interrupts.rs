//! The interrupt controllers and the DMA controllers, with the interval timer as a source.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Place, Step, knock};

const PLACES: &[Place] = &[
    Place::Ports(0x20, 2),
    Place::Ports(0xa0, 2),
    Place::Ports(0x4d0, 2),
    Place::Memory(0xfec0_0000, 0x44),
    Place::Ports(0x40, 4),
    Place::Ports(0x00, 0x10),
    Place::Ports(0x80, 0x10),
    Place::Ports(0xc0, 0x20),
];

fuzz_target!(|steps: Vec<Step>| knock(PLACES, &steps));
