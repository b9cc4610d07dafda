//! The interval timer, the real-time clock, the HPET and the power-management timer, over time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Place, Step, knock};

const PLACES: &[Place] = &[
    Place::Ports(0x40, 4),
    Place::Ports(0x61, 1),
    Place::Ports(0x70, 2),
    Place::Memory(0xfed0_0000, 0x180),
    Place::Ports(0x608, 4),
];

fuzz_target!(|steps: Vec<Step>| knock(PLACES, &steps));
