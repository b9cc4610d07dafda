//! The keyboard controller with its keyboard and mouse, port 92h, and the interrupts they raise.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Place, Step, knock};

const PLACES: &[Place] = &[Place::Ports(0x60, 5), Place::Ports(0x60, 1), Place::Ports(0x92, 1)];

fuzz_target!(|steps: Vec<Step>| knock(PLACES, &steps));
