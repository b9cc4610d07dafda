use net::Offload;
use proptest::prelude::*;

use super::registers::{cr, dcr, isr, rcr, tcr};
use super::*;
use crate::net::testbed::{Bed, PORTS as BASE, send};

const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
/// The ring, and behind it where frames are sent from.
const START: u8 = 0x46;
const STOP: u8 = 0x80;
const SEND: u8 = 0x40;

/// Ports of the controller.
const CR: u64 = 0;
const BOUNDARY: u64 = 3;
const ISR: u64 = 7;

fn bed() -> Bed {
    Bed::new(|place, nic| Ne2k::plug(place, &Ne2kProps { nic, ..Ne2kProps::default() }).unwrap())
}

trait Guest {
    fn get(&self, port: u64) -> u8;
    fn set(&self, port: u64, value: u8);
    fn page(&self, page: u8);
    fn start(&self, filter: u8);
    fn remote(&self, command: u8, at: u16, len: u16);
    fn load(&self, at: u16, len: u16) -> Vec<u8>;
    fn store(&self, at: u16, bytes: &[u8]);
    fn current(&self) -> u8;
}

impl Guest for Bed {
    fn get(&self, port: u64) -> u8 {
        self.ports.read_uint(BASE + port, 1) as u8
    }

    fn set(&self, port: u64, value: u8) {
        self.ports.write_uint(BASE + port, 1, value.into());
    }

    fn page(&self, page: u8) {
        self.set(CR, cr::NO_DMA | 2 | page << cr::PAGE_SHIFT);
    }

    fn start(&self, filter: u8) {
        self.set(CR, cr::NO_DMA | cr::STOP);
        for (port, value) in
            [(0xe, dcr::WORDS), (1, START), (2, STOP), (3, START), (0xc, filter), (0xf, 0x7f)]
        {
            self.set(port, value);
        }
        self.set(CR, cr::NO_DMA | cr::STOP | 1 << cr::PAGE_SHIFT);
        OWN.into_iter().zip(1..).for_each(|(byte, port)| self.set(port, byte));
        self.set(7, START + 1);
        self.page(0);
    }

    fn remote(&self, command: u8, at: u16, len: u16) {
        let [[at_low, at_high], [low, high]] = [at, len].map(u16::to_le_bytes);
        for (port, value) in [(8, at_low), (9, at_high), (0xa, low), (0xb, high)] {
            self.set(port, value);
        }
        self.set(CR, command | 2);
    }

    fn load(&self, at: u16, len: u16) -> Vec<u8> {
        self.remote(cr::REMOTE_READ, at, len);
        let words = (0..len / 2).map(|_| self.ports.read_uint(BASE + 0x10, 2) as u16);
        words.flat_map(u16::to_le_bytes).collect()
    }

    fn store(&self, at: u16, bytes: &[u8]) {
        self.remote(cr::REMOTE_WRITE, at, bytes.len() as u16);
        for word in bytes.chunks(4) {
            let size = word.len() as u8;
            let mut value = [0; 8];
            value[..word.len()].copy_from_slice(word);
            self.ports.write_uint(BASE + 0x10, size, u64::from_le_bytes(value));
        }
    }

    fn current(&self) -> u8 {
        self.page(1);
        let current = self.get(7);
        self.page(0);
        current
    }
}

fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
    bytes[..6].copy_from_slice(&to);
    bytes
}

#[test]
fn the_address_is_in_memory() {
    let bed = bed();
    bed.start(rcr::BROADCAST);
    let prom = bed.load(0, 32);
    assert_eq!(prom[..6], [0x52, 0x52, 0x54, 0x54, 0, 0]);
    assert_eq!(prom[28..], [0x57; 4]);
    assert_eq!(bed.get(ISR), isr::RDC);
    assert!(bed.interrupts());
    bed.set(ISR, isr::RDC);
    assert!(!bed.interrupts());
    bed.store(0x4000, &frame(OWN, 62));
    assert_eq!(bed.load(0x4000, 62), frame(OWN, 62));
    bed.store(0x2000, &[1, 2]);
    assert_eq!(bed.load(0x2000, 2), [0xff; 2], "there is nothing");
}

#[test]
fn a_frame_goes_out() {
    let mut bed = bed();
    bed.start(0);
    bed.store(u16::from(SEND) << 8, &frame([0xff; 6], 100));
    bed.set(ISR, 0xff);
    for (port, value) in [(4, SEND), (5, 100), (6, 0)] {
        bed.set(port, value);
    }
    bed.set(CR, cr::NO_DMA | cr::TXP | 2);
    assert_eq!(bed.get(CR) & cr::TXP, cr::TXP, "under way");
    bed.run();
    assert_eq!(bed.sent(), [(frame([0xff; 6], 100), Offload::default())]);
    assert_eq!((bed.get(CR) & cr::TXP, bed.get(4), bed.get(ISR)), (0, 1, isr::PTX));
    assert!(bed.interrupts());
    bed.set(0xd, tcr::LOOPBACK);
    bed.set(CR, cr::NO_DMA | cr::TXP | 2);
    bed.run();
    assert!(bed.sent().is_empty(), "in loopback nothing goes out");
}

#[test]
fn frames_come_into_the_ring() {
    let mut bed = bed();
    bed.start(rcr::BROADCAST);
    let taken = |bed: &Bed, to, len| {
        let before = bed.current();
        let _ = send(&bed.plug, &frame(to, len), Offload::default());
        bed.current() != before
    };
    assert!(taken(&bed, OWN, 300) && !taken(&bed, [2; 6], 60) && taken(&bed, [0xff; 6], 60));
    assert_eq!(bed.get(ISR), isr::PRX);
    let at = u16::from(START + 1) << 8;
    assert_eq!(bed.load(at, 4), [1, START + 3, 48, 1]);
    assert_eq!(bed.load(at + 4, 300), frame(OWN, 300));
    assert_eq!(bed.load(at + 0x200, 4), [0x21, START + 4, 64, 0]);
    // Fill it, then read a part of it.
    let mut count = 0;
    while send(&bed.plug, &frame(OWN, 1000), Offload::default()) == Delivery::Taken {
        count += 1;
    }
    assert_eq!(count, (STOP - START - 4) / 4);
    assert!(!taken(&bed, OWN, 1000));
    bed.set(BOUNDARY, START + 11);
    bed.run();
    assert!(bed.wire.woken.load(std::sync::atomic::Ordering::Relaxed) > 0);
    let at = u16::from(bed.current()) << 8;
    assert!(taken(&bed, OWN, 1000));
    // The data port goes round as the ring does.
    assert_eq!(bed.load(at + 4, 1000), frame(OWN, 1000));
}

#[test]
fn a_full_ring_is_told_of_again() {
    let bed = bed();
    bed.start(rcr::BROADCAST);
    let send = || send(&bed.plug, &frame(OWN, 1000), Offload::default());
    while send() == Delivery::Taken {}
    assert!(bed.get(ISR) & isr::PRX != 0);
    // The driver acknowledges before it has seen what came last.
    bed.set(ISR, 0x7f);
    assert_eq!(bed.get(ISR) & isr::PRX, 0);
    assert_eq!(send(), Delivery::Full);
    assert!(bed.get(ISR) & isr::PRX != 0);
}

#[test]
fn groups_are_let_through_by_their_bits() {
    let bed = bed();
    bed.start(rcr::MULTICAST);
    let group = [0x01, 0, 0x5e, 1, 2, 3];
    let taken = |to| {
        let before = bed.current();
        let _ = send(&bed.plug, &frame(to, 60), Offload::default());
        bed.current() != before
    };
    assert!(!taken(group));
    let bit = group_hash(group);
    bed.page(1);
    bed.set(8 + u64::from(bit / 8), 1 << (bit % 8));
    bed.page(0);
    assert!(taken(group) && !taken([0xff; 6]));
    bed.set(0xc, rcr::PROMISCUOUS);
    assert!(taken([2; 6]));
    bed.set(CR, cr::NO_DMA | cr::STOP);
    assert_eq!(bed.get(ISR) & isr::RST, isr::RST);
    let _ = send(&bed.plug, &frame([2; 6], 60), Offload::default());
    bed.page(0);
    assert!(!taken(group), "it was stopped");
}

proptest! {
    /// Whatever a driver writes, nothing breaks, and a reset ends it.
    #[test]
    fn nonsense_does_no_harm(
        writes in prop::collection::vec((0u64..0x22, prop::sample::select(vec![1u8, 2, 4]), any::<u32>()), 1..300),
        len in 14usize..2000,
    ) {
        let mut bed = bed();
        bed.start(rcr::PROMISCUOUS | rcr::BROADCAST);
        for (port, size, value) in writes {
            bed.ports.write_uint(BASE + port, size, value.into());
            if port < 0x18 {
                bed.ports.read_uint(BASE + port, size);
            }
            bed.run();
            let _ = send(&bed.plug, &frame(OWN, len), Offload::default());
        }
        bed.function.reset();
        bed.place();
        prop_assert_eq!(bed.get(CR), cr::STOP | cr::NO_DMA);
        prop_assert!(!bed.interrupts());
    }
}
