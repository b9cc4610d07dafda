//! The VGA: its ports, its window, its memory, and the pictures that come of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Act, Adapter, Place};

const MEMORY: u64 = 0xe000_0000;
const REGISTERS: u64 = 0xf100_0000;

const VGA: Adapter = Adapter {
    device: "VGA",
    id: 0x1111_1234,
    bars: &[(0x10, MEMORY), (0x18, REGISTERS)],
    places: &[
        Place::Ports(0x3c0, 16),
        Place::Ports(0x3d4, 7),
        Place::Ports(0x3b4, 7),
        Place::Ports(0x1ce, 4),
        Place::Memory(0xa_0000, 0x2_0000),
        Place::Memory(MEMORY, 0x1_0000),
        // The end of it.
        Place::Memory(MEMORY + 0xff_fff0, 0x20),
        Place::Memory(REGISTERS, 0x1000),
    ],
};

fuzz_target!(|acts: Vec<Act>| VGA.drive(&acts));
