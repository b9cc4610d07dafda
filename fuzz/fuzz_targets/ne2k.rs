//! The RTL8029AS between a hostile driver and a hostile cable.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Card, Deed, Place, RINGS};

const NE2K: Card = Card {
    model: "ne2k_pci",
    id: 0x8029_10ec,
    bars: &[(0x10, 0xd300)],
    places: &[Place::Ports(0xd300, 0x20), Place::Ports(0xd300, 0x10)],
    reset: Place::Ports(0xd300, 1),
};

fuzz_target!(|deeds: Vec<Deed>| NE2K.drive(&deeds));
