use net::{Checksum, Delivery, GsoKind, Offload, Offloads, Side};
use proptest::prelude::*;

use super::registers::{DTCCR_COMMAND, cpcr, cr, eecr, isr, poll, rcr, reg, tcr, tsd};
use super::*;
use crate::net::microwire::Pins;
use crate::net::microwire::tests::{clock, command};
use crate::net::testbed::{BAR, Bed, PORTS, send};

const BUFFER: u64 = 0x1_0000;
const SEND: u64 = 0x8_0000;
const RING: u64 = 0x2000;
const RECEIVE_RING: u64 = 0x3000;
const DUMP: u64 = 0x4000;
const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

fn bed() -> Bed {
    Bed::new(|place, nic| {
        let props = Rtl8139Props { nic, ..Rtl8139Props::default() };
        Rtl8139::plug(place, &props).unwrap()
    })
}

trait Guest {
    fn get(&self, register: usize, size: u8) -> u32;
    fn set(&self, register: usize, size: u8, value: u32);
    fn start(&self, config: u16, more_rcr: u32);
    fn words<const N: usize>(&self, at: u64) -> [u32; N];
    fn store(&self, at: u64, words: &[u32]);
    fn bytes(&self, at: u64, len: usize) -> Vec<u8>;
}

impl Guest for Bed {
    fn get(&self, register: usize, size: u8) -> u32 {
        self.memory.read_uint(BAR + register as u64, size) as u32
    }

    fn set(&self, register: usize, size: u8, value: u32) {
        self.memory.write_uint(BAR + register as u64, size, value.into());
    }

    /// Everything on, frames for the adapter and for all, all interrupts.
    fn start(&self, config: u16, more_rcr: u32) {
        self.set(reg::CPCR, 2, config.into());
        self.set(reg::RBSTART, 4, BUFFER as u32);
        self.set(reg::RCR, 4, rcr::APM | rcr::AB | more_rcr);
        self.set(reg::TNPDS, 4, RING as u32);
        self.set(reg::RDSAR, 4, RECEIVE_RING as u32);
        self.set(reg::IMR, 2, 0xffff);
        self.set(reg::CR, 1, (cr::RE | cr::TE).into());
    }

    fn words<const N: usize>(&self, at: u64) -> [u32; N] {
        std::array::from_fn(|n| self.memory.read_uint(at + 4 * n as u64, 4) as u32)
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
}

fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
    bytes[..6].copy_from_slice(&to);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes
}

/// A packet of TCP over IPv4 as drivers leave it: no sums.
fn tcp(payload: usize) -> Vec<u8> {
    let mut bytes = vec![0; 54 + payload];
    bytes[..6].copy_from_slice(&OWN);
    bytes[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    bytes[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
    bytes[22..24].copy_from_slice(&[64, 6]);
    bytes[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
    bytes[46] = 5 << 4;
    bytes[54..].fill(0x5a);
    bytes
}

/// Reads of QEMU 10.0's adapter.
#[test]
fn registers_after_power_up() {
    let bed = bed();
    for (register, size, value) in [
        (reg::IDR, 4, 0x1200_5452),
        (reg::TSD + 4, 4, 0x2000),
        (reg::CR, 1, 0x11),
        (reg::CAPR, 2, 0xfff0),
        (reg::TCR, 4, 0x7480_0000),
        (0x50, 4, 0x000c_0000),
        (reg::MSR, 2, 0x01d0),
        (reg::RERID, 1, 0x20),
        (reg::TSAD_SUMMARY, 2, 0xf),
        (reg::BMCR, 2, 0x1000),
        (reg::BMSR, 2, 0x782d),
        (reg::ANAR, 2, 0x05e1),
        (reg::ANLPAR, 2, 0x05e1),
        (reg::ANER, 2, 1),
        (reg::CSCR, 2, 0x340),
    ] {
        assert_eq!(bed.get(register, size), value, "{register:#x}");
    }
    let masks: &[(usize, u8, u32, u32)] = &[
        (reg::IMR, 2, 0xe1ff, 0xe1ff),
        (reg::RCR, 4, 0x0f03_ffbf, 0x0f03_ffbf),
        (reg::TCR, 4, 0x7480_0000, 0x7480_0000),
        (reg::CONFIG0, 1, 0, 7),
        (reg::CONFIG1, 1, 0x0c, 0xff),
        (reg::CONFIG3, 1, 1, 0x71),
        (reg::CONFIG4, 1, 0, 0xf5),
        (reg::MULINT, 2, 0xfff, 0xfff),
        (reg::BMCR, 2, 0x1200, 0x1200),
        (reg::CPCR, 2, 0x7b, 0x7b),
    ];
    let written = |register, size| {
        bed.set(register, size, !0x8000 & u32::MAX >> (32 - 8 * u32::from(size)));
        bed.get(register, size)
    };
    for &(register, size, locked, _) in masks {
        assert_eq!(written(register, size) | locked & 0x8000, locked, "{register:#x}, locked");
    }
    bed.set(reg::EECR, 1, eecr::UNLOCK.into());
    for &(register, size, _, unlocked) in masks {
        assert_eq!(written(register, size) | unlocked & 0x8000, unlocked, "{register:#x}");
    }
    bed.set(reg::CR, 1, cr::TE.into());
    bed.set(reg::TCR, 4, !0);
    assert_eq!(bed.get(reg::TCR, 4), 0x778f_07f0);
    bed.set(reg::CR, 1, cr::RST.into());
    assert_eq!((bed.get(reg::CR, 1), bed.get(reg::TCR, 4)), (1, 0x7480_0000));
}

#[test]
fn frames_go_out_from_four_registers_in_turn() {
    let mut bed = bed();
    bed.start(0, 0);
    for n in 0..3 {
        let bytes = frame([0xff; 6], 100 + n);
        bed.memory.write(SEND + 0x800 * n as u64, &bytes);
        bed.set(reg::TSAD + 4 * n, 4, (SEND + 0x800 * n as u64) as u32);
        bed.set(reg::TSD + 4 * n, 4, bytes.len() as u32);
    }
    assert_eq!(bed.get(reg::TSD, 4), 100, "under way");
    bed.run();
    let lengths: Vec<_> = bed.sent().iter().map(|(bytes, _)| bytes.len()).collect();
    assert_eq!(lengths, [100, 101, 102]);
    assert_eq!(bed.get(reg::TSD, 4), 100 | tsd::OWN | tsd::TOK);
    assert_eq!(bed.get(reg::TSAD_SUMMARY, 2), 0x700f);
    assert!(bed.interrupts() && bed.get(reg::ISR, 2) == u32::from(isr::TOK));
    bed.set(reg::ISR, 2, u32::from(isr::TOK));
    assert!(!bed.interrupts());
    bed.set(reg::TSD, 4, 60);
    bed.run();
    assert!(bed.sent().is_empty(), "the fourth is next");
}

#[test]
fn frames_come_into_the_buffer_and_go_round() {
    let mut bed = bed();
    bed.start(0, 0);
    assert_eq!(bed.get(reg::CR, 1) as u8 & cr::EMPTY, cr::EMPTY);
    let take = |bed: &Bed, to, len| {
        let before = bed.get(reg::CBR, 2);
        assert_eq!(send(&bed.plug, &frame(to, len), Offload::default()), Delivery::Taken);
        bed.get(reg::CBR, 2) != before
    };
    assert!(!take(&bed, [2; 6], 60), "somebody else's");
    assert!(take(&bed, OWN, 61));
    assert_eq!(bed.get(reg::CBR, 2), 72, "a header, a checksum, whole words");
    assert_eq!(bed.words::<1>(BUFFER), [65 << 16 | 0x4001]);
    let bytes = bed.bytes(BUFFER + 4, 65);
    assert_eq!(bytes[..61], frame(OWN, 61));
    assert_eq!(bytes[61..], super::super::frames::fcs(&bytes[..61]));
    assert!(bed.interrupts() && bed.get(reg::ISR, 2) == u32::from(isr::ROK));
    // Fill what is left of 8 KiB.
    let mut count = 1;
    while send(&bed.plug, &frame([0xff; 6], 1000), Offload::default()) == Delivery::Taken {
        count += 1;
    }
    assert_eq!(count, 1 + (0x2000 - 72 - 1) / 1008);
    assert_eq!(bed.words::<1>(BUFFER + 72), [1004 << 16 | 0x2001]);
    let at = bed.get(reg::CBR, 2);
    // The driver has read the first ones.
    bed.set(reg::CAPR, 2, 72 + 1008 * 4 - 16);
    bed.run();
    assert!(bed.wire.woken.load(std::sync::atomic::Ordering::Relaxed) > 0);
    assert!(take(&bed, OWN, 1000));
    let (first, rest) = ((0x2000 - at) as usize, 1004 - (0x2000 - at) as usize + 4);
    let mut seen = bed.bytes(BUFFER + u64::from(at), first);
    seen.extend(bed.bytes(BUFFER, rest));
    assert_eq!(seen[4..1004], frame(OWN, 1000));
    assert_eq!(u64::from(bed.get(reg::CBR, 2)), (rest as u64).next_multiple_of(4));
}

#[test]
fn frames_may_go_on_behind_the_buffer() {
    let bed = bed();
    bed.start(0, rcr::WRAP);
    for _ in 0..8 {
        assert_eq!(send(&bed.plug, &frame(OWN, 1000), Offload::default()), Delivery::Taken);
        bed.set(reg::CAPR, 2, bed.get(reg::CBR, 2).wrapping_sub(16) & 0xffff);
    }
    assert_eq!(send(&bed.plug, &frame(OWN, 1000), Offload::default()), Delivery::Taken);
    assert_eq!(bed.bytes(BUFFER + 8 * 1008 + 4, 1000), frame(OWN, 1000), "in one piece");
    assert_eq!(bed.get(reg::CBR, 2), 9 * 1008 - 0x2000);
}

#[test]
fn groups_are_let_through_by_their_bits() {
    let bed = bed();
    bed.start(0, rcr::AM);
    let group = [0x01, 0, 0x5e, 1, 2, 3];
    let taken = |to| {
        let before = bed.get(reg::CBR, 2);
        let _ = send(&bed.plug, &frame(to, 60), Offload::default());
        bed.get(reg::CBR, 2) != before
    };
    assert!(!taken(group));
    let bit = group_hash(group) as usize;
    bed.set(reg::MAR + bit / 8, 1, 1 << (bit % 8));
    assert!(taken(group) && !taken([3; 6]));
    bed.set(reg::RCR, 4, rcr::AAP);
    assert!(taken([2; 6]));
}

const OWNED: u32 = 1 << 31;
const WHOLE: u32 = 3 << 28;

#[test]
fn a_ring_is_sent_from() {
    let mut bed = bed();
    bed.start(cpcr::TX | cpcr::RX, 0);
    let bytes = tcp(100);
    bed.memory.write(SEND, &bytes);
    // In two pieces, with a tag and sums of IP and TCP; then the ring ends.
    bed.store(RING, &[OWNED | 1 << 29 | 5 << 16 | 40, 0x2_0000 | 0x0560, SEND as u32, 0]);
    let last = OWNED | 1 << 30 | 1 << 28 | 114;
    bed.store(RING + 16, &[last, 0, SEND as u32 + 40, 0]);
    *bed.wire.accepts.lock() = Offloads::ALL;
    bed.set(reg::TPPOLL, 1, poll::NORMAL.into());
    bed.run();
    let (sent, offload) = bed.sent().remove(0);
    assert_eq!(sent[12..16], [0x81, 0, 0x60, 5]);
    assert_eq!((&sent[..12], &sent[58..]), (&bytes[..12], &bytes[54..]));
    assert_eq!(offload.checksum, Checksum::Partial { start: 38, offset: 16 });
    assert_eq!(net::checksum::Sum::default().bytes(&sent[18..38]).finish(), 0);
    assert_eq!(bed.words::<1>(RING), [1 << 29 | 40], "given back");
    assert_eq!(bed.words::<1>(RING + 16), [1 << 30 | 1 << 28 | 114]);
    assert_eq!(bed.get(reg::ISR, 2) as u16 & isr::TOK, isr::TOK);
    // A large segment, in the first descriptor again.
    let bytes = tcp(3000);
    bed.memory.write(SEND, &bytes);
    let large = OWNED | WHOLE | 1 << 27 | 1448 << 16 | bytes.len() as u32;
    bed.store(RING, &[large, 0, SEND as u32, 0]);
    bed.set(reg::TPPOLL, 1, poll::NORMAL.into());
    bed.run();
    let (_, offload) = bed.sent().remove(0);
    let gso = offload.gso.unwrap();
    assert_eq!((gso.kind, gso.size, gso.header_len), (GsoKind::Tcp4, 1448, 54));
    assert_eq!(bed.words::<1>(RING), [WHOLE | bytes.len() as u32], "without the size of segments");
    bed.store(RING + 16, &[OWNED | WHOLE | 60, 0, SEND as u32, 0]);
    bed.set(reg::THPDS, 4, RING as u32 + 0x100);
    assert_eq!(bed.sent(), [], "nobody has asked");
}

#[test]
fn a_ring_is_received_in() {
    let mut bed = bed();
    bed.start(cpcr::TX | cpcr::RX | cpcr::CHECKSUM | cpcr::UNTAG, 0);
    bed.store(RECEIVE_RING, &[OWNED | 0x600, 0, BUFFER as u32, 0]);
    bed.store(RECEIVE_RING + 16, &[OWNED | 1 << 30 | 0x600, 0, BUFFER as u32 + 0x600, 0]);
    let mut bytes = tcp(30);
    sum_up(&mut bytes);
    assert_eq!(send(&bed.plug, &bytes, Offload::default()), Delivery::Taken);
    assert_eq!(bed.words::<2>(RECEIVE_RING), [WHOLE | 1 << 25 | 1 << 16 | 88, 0]);
    assert_eq!(bed.bytes(BUFFER, 84), bytes);
    // A wrong sum, and a tag.
    bytes[60] ^= 1;
    bytes.splice(12..12, [0x81, 0, 0x60, 5]);
    assert_eq!(send(&bed.plug, &bytes, Offload::default()), Delivery::Taken);
    let status = WHOLE | 1 << 30 | 1 << 25 | 1 << 16 | 1 << 13 | 88;
    assert_eq!(bed.words::<2>(RECEIVE_RING + 16), [status, 0x1_0560]);
    assert!(bed.interrupts());
    bed.set(reg::ISR, 2, 0xffff);
    assert_eq!(send(&bed.plug, &bytes, Offload::default()), Delivery::Full);
    assert_eq!(bed.get(reg::ISR, 2), u32::from(isr::RDU));
    bed.store(RECEIVE_RING, &[OWNED | 0x600, 0, BUFFER as u32, 0]);
    bed.set(reg::ISR, 2, 0xffff);
    bed.run();
    assert!(bed.wire.woken.load(std::sync::atomic::Ordering::Relaxed) > 0);
    assert_eq!(send(&bed.plug, &bytes, Offload::default()), Delivery::Taken, "it goes round");
    // What was counted: three frames for this address.
    bed.set(reg::DTCCR + 4, 4, 0);
    bed.set(reg::DTCCR, 4, DUMP as u32 | u32::from(DTCCR_COMMAND));
    assert_eq!(bed.get(reg::DTCCR, 4), DUMP as u32);
    assert_eq!(bed.words::<16>(DUMP), [0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0]);
}

/// Fills in both sums of a packet.
fn sum_up(bytes: &mut [u8]) {
    let header = net::checksum::Sum::default().bytes(&bytes[14..34]).finish();
    bytes[24..26].copy_from_slice(&header.to_be_bytes());
    let l4 = bytes.len() - 34;
    let pseudo = net::checksum::pseudo_header(&bytes[26..30], &bytes[30..34], 6, l4);
    let sum = pseudo.bytes(&bytes[34..]).finish();
    bytes[50..52].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn the_timer_interrupts_once_a_round() {
    let mut bed = bed();
    bed.set(reg::IMR, 2, u32::from(isr::TIMEOUT));
    bed.set(reg::TIMER_INT, 4, 1000);
    bed.set(reg::TCTR, 4, 0);
    bed.wait(1000 * CYCLE - 1);
    assert!(!bed.interrupts());
    assert_eq!(bed.get(reg::TCTR, 4), 999);
    bed.wait(1);
    assert!(bed.interrupts() && bed.get(reg::ISR, 2) == u32::from(isr::TIMEOUT));
    bed.set(reg::ISR, 2, 0xffff);
    bed.wait(2000 * CYCLE);
    assert!(!bed.interrupts());
    bed.set(reg::TIMER_INT, 4, 3500);
    bed.wait(500 * CYCLE);
    assert!(bed.interrupts());
}

#[test]
fn the_eeprom_is_read_and_written_bit_by_bit() {
    let bed = bed();
    let set = |pins: Pins| {
        let wire = |on: bool, bit: u8| if on { bit } else { 0 };
        let wires =
            wire(pins.select, eecr::CS) | wire(pins.clock, eecr::SK) | wire(pins.data, eecr::DI);
        bed.set(reg::EECR, 1, (eecr::PROGRAM | wires).into());
    };
    let read = |address: u32| {
        command(0b110 << 6 | address, 9, set);
        (0..16).fold(0u16, |word, _| {
            clock(false, set);
            word << 1 | u16::from(bed.get(reg::EECR, 1) as u8 & eecr::DO != 0)
        })
    };
    assert_eq!([0, 1, 2, 7, 8, 9].map(read), [0x8129, 0x10ec, 0x8139, 0x5452, 0x1200, 0x5634]);
    command(0b100 << 6 | 0b11_0000, 9, set);
    command(0b101 << 6 | 9, 9, set);
    (0..16).rev().for_each(|bit| clock(0x7856 >> bit & 1 != 0, set));
    assert_eq!(read(9), 0x7856);
    bed.set(reg::EECR, 1, eecr::AUTOLOAD.into());
    assert_eq!(bed.get(reg::IDR + 4, 2), 0x7856);
}

#[test]
fn the_link_follows_the_cable() {
    let bed = bed();
    bed.set(reg::IMR, 2, 0xffff);
    let cable = bed.nics.list()[0].cable.clone();
    assert_eq!((bed.get(reg::BMSR, 2) >> 2 & 1, bed.get(reg::MSR, 1) >> 2 & 1), (1, 0));
    cable.set_link(Side::Guest, false);
    assert!(bed.interrupts() && bed.get(reg::ISR, 2) == u32::from(isr::LINK));
    assert_eq!((bed.get(reg::BMSR, 2) >> 2 & 1, bed.get(reg::MSR, 1) >> 2 & 1), (0, 1));
}

#[test]
fn in_loopback_frames_come_back() {
    let mut bed = bed();
    bed.start(0, 0);
    bed.set(reg::TCR, 4, tcr::LOOPBACK);
    assert_eq!(bed.get(reg::TCR, 4), 0x7486_0000);
    bed.memory.write(SEND, &frame(OWN, 60));
    bed.set(reg::TSAD, 4, SEND as u32);
    bed.set(reg::TSD, 4, 60);
    bed.run();
    assert!(bed.sent().is_empty());
    assert_eq!(bed.bytes(BUFFER + 4, 60), frame(OWN, 60));
}

proptest! {
    /// Whatever a driver writes to registers, rings and buffers, nothing breaks, and a reset ends it.
    #[test]
    fn nonsense_does_no_harm(
        writes in prop::collection::vec((0usize..256, prop::sample::select(vec![1u8, 2, 4]), any::<u32>()), 1..200),
        ring in prop::collection::vec(any::<u32>(), 64),
        len in 14usize..5000,
        rings in any::<bool>(),
    ) {
        let mut bed = bed();
        bed.start(if rings { 0x63 } else { 0 }, rcr::AAP);
        for at in [RING, RECEIVE_RING] {
            bed.store(at, &ring);
        }
        for (at, size, value) in writes {
            bed.memory.write_uint(BAR + at as u64, size, value.into());
            bed.ports.read_uint(PORTS + at as u64, size);
            bed.run();
            let _ = send(&bed.plug, &frame(OWN, len), Offload::default());
        }
        bed.function.reset();
        bed.place();
        prop_assert_eq!(bed.get(reg::ISR, 2), 0);
        prop_assert_eq!(bed.get(reg::TSD, 4), tsd::OWN);
        prop_assert!(!bed.interrupts());
    }
}
