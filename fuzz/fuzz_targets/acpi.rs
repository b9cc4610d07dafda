//! Power management: PM1, GPE, APM, the SMBus, and the hot-plug registers of processors and slots.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Board, Place, Step};

const PLACES: &[Place] = &[
    Place::Ports(0x600, 0x40),
    Place::Ports(0x700, 0x10),
    Place::Ports(0xafe0, 4),
    Place::Ports(0xb2, 2),
    Place::Ports(0xae00, 0x18),
    Place::Ports(0xaf00, 0xc),
    Place::Ports(0xcf9, 1),
];

/// Where firmware puts the registers of the power management function: its slot's configuration
/// address, then the base (with its enable bit) of PM1 and of the SMBus.
const SETTINGS: [(u64, u64); 4] =
    [(0x8000_0b40, 0x601), (0x8000_0b80, 0x01), (0x8000_0b90, 0x701), (0x8000_0bd0, 0x0100_0000)];

fuzz_target!(|steps: Vec<Step>| {
    Board::with(|board| {
        for (address, value) in SETTINGS {
            board.wired().ports().write_uint(0xcf8, 4, address);
            board.wired().ports().write_uint(0xcfc, 4, value);
        }
        steps.iter().for_each(|step| step.take(board, PLACES));
    });
});
