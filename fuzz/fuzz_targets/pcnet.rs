//! The Am79C970A between a hostile driver and a hostile cable.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Card, Deed, Place, RINGS};

const MEMORY: u64 = 0xfd40_0000;

const PCNET: Card = Card {
    model: "pcnet",
    id: 0x2000_1022,
    bars: &[(0x10, 0xd400), (0x14, MEMORY)],
    places: &[
        Place::Memory(MEMORY + 0x10, 0x10),
        Place::Ports(0xd400, 0x20),
        Place::Memory(MEMORY, 0x20),
        RINGS,
    ],
    // The address.
    reset: Place::Ports(0xd400, 0x10),
};

fuzz_target!(|deeds: Vec<Deed>| PCNET.drive(&deeds));
