//! virtio-net between a hostile driver and a hostile cable.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Card, Deed, Place, RINGS};

const MEMORY: u64 = 0xfd20_0000;

const VIRTIO_NET: Card = Card {
    model: "virtio-net-pci",
    id: 0x1000_1af4,
    bars: &[(0x10, 0xd100), (0x14, 0xfd10_0000), (0x20, MEMORY), (0x24, 0)],
    places: &[
        // What is common to all devices, and notifications.
        Place::Memory(MEMORY, 0x40),
        Place::Memory(MEMORY + 0x3000, 0x10),
        Place::Memory(MEMORY, 0x4000),
        Place::Ports(0xd100, 0x20),
        RINGS,
    ],
    reset: Place::Memory(MEMORY, 0x40),
};

fuzz_target!(|deeds: Vec<Deed>| VIRTIO_NET.drive(&deeds));
