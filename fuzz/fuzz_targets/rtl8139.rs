//! The RTL8139C+ between a hostile driver and a hostile cable.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Card, Deed, Place, RINGS};

const MEMORY: u64 = 0xfd30_0000;

const RTL8139: Card = Card {
    model: "rtl8139",
    id: 0x8139_10ec,
    bars: &[(0x10, 0xd200), (0x14, MEMORY)],
    places: &[
        Place::Memory(MEMORY, 0x100),
        // Where frames are told of in the older of its ways.
        Place::Memory(MEMORY + 0x10, 0x30),
        Place::Ports(0xd200, 0x100),
        RINGS,
    ],
    // From the command register to the configuration of receiving.
    reset: Place::Ports(0xd237, 0x11),
};

fuzz_target!(|deeds: Vec<Deed>| RTL8139.drive(&deeds));
