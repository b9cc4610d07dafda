//! The 82540EM between a hostile driver and a hostile cable.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Card, Deed, Place, RINGS};

const MEMORY: u64 = 0xfd00_0000;

const E1000: Card = Card {
    model: "e1000",
    id: 0x100e_8086,
    bars: &[(0x10, MEMORY), (0x14, 0xd000)],
    places: &[
        Place::Memory(MEMORY, 0x400),
        // Receive and transmit rings.
        Place::Memory(MEMORY + 0x2800, 0x40),
        Place::Memory(MEMORY + 0x3800, 0x40),
        Place::Memory(MEMORY, 0x6000),
        Place::Ports(0xd000, 8),
        RINGS,
    ],
    reset: Place::Memory(MEMORY, 0x400),
};

fuzz_target!(|deeds: Vec<Deed>| E1000.drive(&deeds));
