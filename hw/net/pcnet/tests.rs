use net::{Offload, Side};
use proptest::prelude::*;

use super::registers::{bcr, csr, extended, features, mode, status};
use super::*;
use crate::net::frames::lance_hash;
use crate::net::testbed::{BAR, Bed, PORTS as BASE, send};

const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const BLOCK: u64 = 0x1000;
const RECEIVE: u64 = 0x2000;
const TRANSMIT: u64 = 0x3000;
const BUFFERS: u64 = 0x1_0000;
const SEND: u64 = 0x8_0000;
/// Descriptors in either ring.
const SLOTS: u64 = 4;

const OWNED: u32 = 1 << 31;
const WHOLE: u32 = 3 << 24;

fn bed() -> Bed {
    Bed::new(|place, nic| Pcnet::plug(place, &PcnetProps { nic, ..PcnetProps::default() }).unwrap())
}

trait Guest {
    fn csr(&self, number: usize) -> u16;
    fn set_csr(&self, number: usize, value: u16);
    fn bcr(&self, number: usize) -> u16;
    fn set_bcr(&self, number: usize, value: u16);
    fn word(&self, at: u64) -> u32;
    fn store(&self, at: u64, words: &[u32]);
    fn bytes(&self, at: u64, len: usize) -> Vec<u8>;
    fn receive_descriptor(&self, style: u16, n: u64, size: u32);
    fn transmit_descriptor(&self, style: u16, n: u64, from: u64, flags: u32, len: u32);
    fn start(&self, style: u16, mode: u16);
}

impl Guest for Bed {
    fn csr(&self, number: usize) -> u16 {
        self.memory.write_uint(BAR + 0x12, 2, number as u64);
        self.memory.read_uint(BAR + 0x10, 2) as u16
    }

    fn set_csr(&self, number: usize, value: u16) {
        self.memory.write_uint(BAR + 0x12, 2, number as u64);
        self.memory.write_uint(BAR + 0x10, 2, value.into());
    }

    fn bcr(&self, number: usize) -> u16 {
        self.memory.write_uint(BAR + 0x12, 2, number as u64);
        self.memory.read_uint(BAR + 0x16, 2) as u16
    }

    fn set_bcr(&self, number: usize, value: u16) {
        self.memory.write_uint(BAR + 0x12, 2, number as u64);
        self.memory.write_uint(BAR + 0x16, 2, value.into());
    }

    fn word(&self, at: u64) -> u32 {
        self.memory.read_uint(at, 4) as u32
    }

    fn store(&self, at: u64, words: &[u32]) {
        for (n, &word) in (0..).zip(words) {
            self.memory.write_uint(at + 4 * n, 4, word.into());
        }
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(at, &mut bytes);
        bytes
    }

    fn receive_descriptor(&self, style: u16, n: u64, size: u32) {
        descriptor(self, style, RECEIVE, n, BUFFERS + 0x800 * n, OWNED, size);
    }

    fn transmit_descriptor(&self, style: u16, n: u64, from: u64, flags: u32, len: u32) {
        descriptor(self, style, TRANSMIT, n, from, flags, len);
    }

    /// All buffers are the controller's, all interrupts are let through.
    fn start(&self, style: u16, mode: u16) {
        self.set_csr(csr::STATUS, status::STOP);
        self.set_bcr(bcr::STYLE, style);
        (0..SLOTS).for_each(|n| self.receive_descriptor(style, n, 0x600));
        (0..SLOTS).for_each(|n| self.transmit_descriptor(style, n, SEND, 0, 1));
        let [a, b, c, d, e, f] = OWN.map(u32::from);
        let (low, high) = (a | b << 8 | c << 16 | d << 24, e | f << 8);
        let (mode, receive, transmit) = (u32::from(mode), RECEIVE as u32, TRANSMIT as u32);
        match style {
            0 => self.store(
                BLOCK,
                &[
                    mode | low << 16,
                    low >> 16 | high << 16,
                    0,
                    0,
                    receive | 2 << 29,
                    transmit | 2 << 29,
                ],
            ),
            _ => self.store(BLOCK, &[mode | 2 << 20 | 2 << 28, low, high, 0, 0, receive, transmit]),
        }
        self.set_csr(csr::INIT_LOW, BLOCK as u16);
        self.set_csr(csr::INIT_HIGH, 0);
        self.set_csr(csr::STATUS, status::INIT);
        assert_eq!(self.csr(csr::STATUS), status::INIT | status::IDON | status::INTR);
        self.set_csr(csr::STATUS, status::IDON | status::STRT | status::IENA);
    }
}

/// Writes a descriptor of any style.
fn descriptor(bed: &Bed, style: u16, ring: u64, n: u64, buffer: u64, flags: u32, size: u32) {
    let count = 0xf000 | size.wrapping_neg() & 0xfff;
    let buffer = buffer as u32;
    match style {
        0 => bed.store(ring + 8 * n, &[buffer & 0xffff | buffer & 0xff_0000 | flags, count]),
        3 => bed.store(ring + 16 * n, &[0, flags | count, buffer, 0]),
        _ => bed.store(ring + 16 * n, &[buffer, flags | count, 0, 0]),
    }
}

/// What a descriptor says when it was given back: flags, and the length of what came.
fn state(bed: &Bed, style: u16, ring: u64, n: u64) -> (u32, u32) {
    match style {
        0 => (bed.word(ring + 8 * n) & 0xff00_0000, bed.word(ring + 8 * n + 4) >> 16),
        3 => (bed.word(ring + 16 * n + 4) & 0xffff_0000, bed.word(ring + 16 * n)),
        _ => (bed.word(ring + 16 * n + 4) & 0xffff_0000, bed.word(ring + 16 * n + 8)),
    }
}

fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
    bytes[..6].copy_from_slice(&to);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes
}

#[test]
fn frames_go_out_in_every_style() {
    for style in [0, 1, 2, 3] {
        let mut bed = bed();
        bed.start(style, 0);
        bed.run();
        let bytes = frame([0xff; 6], 100);
        bed.memory.write(SEND, &bytes);
        bed.transmit_descriptor(style, 0, SEND, OWNED | 1 << 25, 40);
        bed.transmit_descriptor(style, 1, SEND + 40, OWNED | 1 << 24, 60);
        bed.set_csr(csr::STATUS, status::TDMD | status::IENA);
        bed.run();
        assert_eq!(bed.sent(), [(bytes, Offload::default())], "style {style}");
        assert_eq!(state(&bed, style, TRANSMIT, 0), (1 << 25, 0));
        assert_eq!(state(&bed, style, TRANSMIT, 1), (1 << 24, 0));
        assert!(bed.interrupts());
        assert_eq!(bed.csr(csr::STATUS) & status::TINT, status::TINT);
        assert_eq!(bed.csr(csr::TRANSMIT_LEFT), 2);
        bed.set_csr(csr::STATUS, status::TINT | status::IENA);
        assert!(!bed.interrupts());
    }
}

#[test]
fn frames_come_in_in_every_style() {
    for style in [0, 1, 2, 3] {
        let mut bed = bed();
        bed.start(style, 0);
        let own = frame(OWN, 1000);
        assert_eq!(send(&bed.plug, &own, Offload::default()), Delivery::Taken);
        let (flags, len) = state(&bed, style, RECEIVE, 0);
        assert_eq!((flags & 0xff00_0000, len), (WHOLE, 1004), "style {style}");
        assert_eq!(bed.bytes(BUFFERS, 1000), own);
        assert!(bed.interrupts());
        // One that takes two buffers.
        let long = frame([0xff; 6], 2000);
        assert_eq!(send(&bed.plug, &long, Offload::default()), Delivery::Taken);
        let flags = [1, 2].map(|n| state(&bed, style, RECEIVE, n).0 >> 24);
        assert_eq!(flags, [2, 1]);
        assert_eq!(state(&bed, style, RECEIVE, 2).1, 2004);
        let mut joined = bed.bytes(BUFFERS + 0x800, 0x600);
        joined.extend(bed.bytes(BUFFERS + 0x1000, 2000 - 0x600));
        assert_eq!(joined, long);
        // One buffer is left, then none: the frame waits until the controller finds one.
        assert_eq!(send(&bed.plug, &long, Offload::default()), Delivery::Full);
        assert_eq!(send(&bed.plug, &own, Offload::default()), Delivery::Taken);
        assert_eq!(send(&bed.plug, &own, Offload::default()), Delivery::Full);
        bed.receive_descriptor(style, 0, 0x600);
        bed.wait(2_000_000);
        assert!(bed.wire.woken.load(std::sync::atomic::Ordering::Relaxed) > 0);
        assert_eq!(send(&bed.plug, &own, Offload::default()), Delivery::Taken);
    }
}

#[test]
fn the_controller_finds_work_by_itself() {
    let mut bed = bed();
    bed.start(2, 0);
    bed.run();
    bed.memory.write(SEND, &frame(OWN, 30));
    bed.set_csr(csr::FEATURES, features::PAD);
    bed.transmit_descriptor(2, 0, SEND, OWNED | WHOLE, 30);
    bed.run();
    assert!(bed.sent().is_empty());
    bed.wait(2_000_000);
    assert_eq!(bed.sent()[0].0.len(), MIN_FRAME, "filled up");
    bed.set_csr(csr::FEATURES, features::NO_POLLING);
    bed.transmit_descriptor(2, 1, SEND, OWNED | WHOLE, 30);
    bed.wait(4_000_000);
    assert!(bed.sent().is_empty());
    // While it is suspended, it does nothing.
    bed.set_csr(csr::EXTENDED, extended::SUSPEND);
    bed.set_csr(csr::STATUS, status::TDMD | status::IENA);
    bed.run();
    assert!(bed.sent().is_empty());
    bed.set_csr(csr::EXTENDED, 0);
    bed.run();
    assert_eq!(bed.sent().len(), 1);
}

#[test]
fn frames_are_filtered() {
    let bed = bed();
    let group = [0x01, 0, 0x5e, 1, 2, 3];
    let taken = |to| {
        (0..SLOTS).for_each(|n| bed.receive_descriptor(2, n, 0x600));
        let left = bed.csr(csr::RECEIVE_LEFT);
        assert_eq!(send(&bed.plug, &frame(to, 60), Offload::default()), Delivery::Taken);
        bed.csr(csr::RECEIVE_LEFT) != left
    };
    bed.start(2, 0);
    assert_eq!([OWN, [0xff; 6], group, [2; 6]].map(taken), [true, true, false, false]);
    bed.start(2, mode::NO_BROADCAST | mode::NO_ADDRESS);
    let bit = lance_hash(group) as usize;
    bed.set_csr(csr::EXTENDED, extended::SUSPEND);
    bed.set_csr(csr::GROUPS + bit / 16, 1 << (bit % 16));
    bed.set_csr(csr::EXTENDED, 0);
    assert_eq!([OWN, [0xff; 6], group, [2; 6]].map(taken), [false, false, true, false]);
    bed.start(2, mode::PROMISCUOUS);
    assert_eq!([OWN, [0xff; 6], group, [2; 6]].map(taken), [true; 4]);
    bed.start(2, mode::NO_RECEIVER);
    assert!(!taken(OWN));
}

/// Reads of QEMU 10.0's adapter.
#[test]
fn registers_after_power_up() {
    let bed = bed();
    let not_zero: Vec<_> = (0..128).map(|n| (n, bed.csr(n))).filter(|(_, v)| *v != 0).collect();
    let expected = [
        (0, 0x4),
        (4, 0x115),
        (12, 0x5452),
        (13, 0x1200),
        (14, 0x5634),
        (58, 0x200),
        (72, 1),
        (74, 1),
        (76, 1),
        (78, 1),
        (80, 0x1410),
        (88, 0x1003),
        (89, 0x262),
        (100, 0x200),
        (103, 0x105),
    ];
    assert_eq!(not_zero, expected);
    let not_zero: Vec<_> = (0..40).map(|n| (n, bed.bcr(n))).filter(|(_, v)| *v != 0).collect();
    let expected = [
        (0, 5),
        (1, 5),
        (2, 2),
        (4, 0x80c0),
        (5, 0x84),
        (6, 0x88),
        (7, 0x90),
        (18, 0x9001),
        (19, 2),
        (20, 0x200),
        (22, 0xff06),
    ];
    assert_eq!(not_zero, expected);
    let written: Vec<_> = (0..40u16)
        .filter(|&n| {
            bed.set_bcr(n.into(), !0x80);
            bed.bcr(n.into()) == !0x80
        })
        .collect();
    assert_eq!(written, [2, 4, 5, 6, 7, 9, 18, 19, 22]);
    let styles = [0, 1, 2, 3, 4].map(|style| {
        bed.set_bcr(bcr::STYLE, style);
        bed.csr(csr::STYLE)
    });
    assert_eq!(styles, [0x200, 0x101, 0x302, 0x303, 0x200]);
    let written = [1, 3, 4, 5, 6, 7, 15, 47, 58, 76, 80, 88, 112].map(|n| {
        bed.set_csr(n, !0x80);
        bed.csr(n)
    });
    let kept =
        [!0x80, !0x80, 0xfd15, 0xf56f, 0, 0, !0x80, !0x80, 0x200, !0x80, 0x1410, 0x1003, !0x80];
    assert_eq!(written, kept);
}

#[test]
fn ports_are_of_two_widths() {
    let bed = bed();
    let prom: Vec<u8> = (0..16).map(|at| bed.ports.read_uint(BASE + at, 1) as u8).collect();
    let sum: u16 = [&prom[..12], &prom[14..]].concat().iter().map(|byte| u16::from(*byte)).sum();
    assert_eq!(prom[..6], OWN);
    assert_eq!((&prom[14..], &prom[12..14]), (&b"WW"[..], &sum.to_le_bytes()[..]));
    assert_eq!(bed.csr(csr::STATUS), status::STOP);
    bed.ports.write_uint(BASE + 0x10, 4, 0);
    bed.ports.write_uint(BASE + 0x14, 4, csr::CHIP_LOW as u64);
    assert_eq!(bed.ports.read_uint(BASE + 0x10, 4), 0x1003);
    bed.ports.write_uint(BASE + 0x14, 4, bcr::BURST as u64);
    assert_eq!(bed.ports.read_uint(BASE + 0x1c, 4), 0x9081);
    bed.set_csr(csr::CHIP_LOW, 0);
    assert_eq!(bed.ports.read_uint(BASE + 0x14, 4), bcr::BURST as u64, "no longer 16 bits");
}

#[test]
fn the_link_shows() {
    let bed = bed();
    assert_eq!(bed.bcr(bcr::LAMPS), 0x80c0);
    bed.nics.list()[0].cable.set_link(Side::Guest, false);
    assert_eq!(bed.bcr(bcr::LAMPS), 0x00c0);
}

#[test]
fn in_loopback_frames_come_back() {
    let mut bed = bed();
    bed.start(2, mode::LOOP);
    bed.memory.write(SEND, &frame(OWN, 60));
    bed.transmit_descriptor(2, 0, SEND, OWNED | WHOLE, 60);
    bed.set_csr(csr::STATUS, status::TDMD | status::IENA);
    bed.run();
    assert!(bed.sent().is_empty());
    assert_eq!(bed.bytes(BUFFERS, 60), frame(OWN, 60));
}

proptest! {
    /// Whatever a driver writes, nothing breaks, and a reset ends it.
    #[test]
    fn nonsense_does_no_harm(
        writes in prop::collection::vec((0u16..128, any::<bool>(), any::<u16>()), 1..200),
        memory in prop::collection::vec(any::<u32>(), 64),
        style in 0u16..5,
        len in 14usize..5000,
    ) {
        let mut bed = bed();
        bed.start(style.min(3), mode::PROMISCUOUS);
        for at in [BLOCK, RECEIVE, TRANSMIT] {
            bed.store(at, &memory);
        }
        for (number, bus, value) in writes {
            match bus {
                true => bed.set_bcr(number.into(), value & 0xff7f),
                false => bed.set_csr(number.into(), value),
            }
            bed.wait(1_000_000);
            let _ = send(&bed.plug, &frame(OWN, len), Offload::default());
            bed.csr(number.into());
        }
        bed.function.reset();
        bed.place();
        prop_assert_eq!(bed.csr(csr::STATUS), status::STOP);
        prop_assert!(!bed.interrupts());
    }
}
