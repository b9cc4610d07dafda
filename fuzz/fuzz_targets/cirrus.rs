//! The CL-GD5446: a VGA with banks, a pointer and a blitter, and the pictures that come of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Act, Adapter, Place};

const MEMORY: u64 = 0xe000_0000;
const BLITTER: u64 = MEMORY + 0x100_0000;
const REGISTERS: u64 = 0xf100_0000;

const CIRRUS: Adapter = Adapter {
    device: "cirrus-vga",
    id: 0x00b8_1013,
    bars: &[(0x10, MEMORY), (0x14, REGISTERS)],
    places: &[
        Place::Ports(0x3c0, 16),
        Place::Ports(0x3d4, 7),
        Place::Ports(0x3b4, 7),
        Place::Memory(0xa_0000, 0x2_0000),
        Place::Memory(MEMORY, 0x1_0000),
        // The end of it, where the blitter's registers may be, and the pointer's patterns.
        Place::Memory(MEMORY + 0x3f_f000, 0x1010),
        Place::Memory(BLITTER, 0x1000),
        Place::Memory(REGISTERS, 0x100),
        // The blitter's registers.
        Place::Memory(REGISTERS + 0x100, 0x50),
    ],
};

fuzz_target!(|acts: Vec<Act>| CIRRUS.drive(&acts));
