use net::{Checksum, Delivery, GsoKind, Offload, Offloads, Side};
use proptest::prelude::*;

use super::registers::{TCTL_EN, cause, rctl, reg};
use super::*;
use crate::net::testbed::{BAR, Bed, PORTS, send};

const RX_RING: u64 = 0x1000;
const TX_RING: u64 = 0x2000;
const RX_BUFFERS: u64 = 0x1_0000;
const TX_BUFFER: u64 = 0x8_0000;
const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const SLOTS: u64 = 8;

fn bed() -> Bed {
    Bed::new(|place, nic| E1000::plug(place, &E1000Props { nic, ..E1000Props::default() }).unwrap())
}

trait Guest {
    fn get(&self, register: u32) -> u32;
    fn set(&self, register: u32, value: u32);
    fn start(&self, more_rctl: u32);
    fn descriptor(&self, n: u64, low: u64, high: u64);
    fn received(&self, n: u64) -> (Vec<u8>, u8, u8, u16);
}

impl Guest for Bed {
    fn get(&self, register: u32) -> u32 {
        self.memory.read_uint(BAR + u64::from(register), 4) as u32
    }

    fn set(&self, register: u32, value: u32) {
        self.memory.write_uint(BAR + u64::from(register), 4, value.into());
    }

    /// Rings of eight descriptors, seven buffers to receive in, all interrupts.
    fn start(&self, more_rctl: u32) {
        for n in 0..SLOTS {
            self.memory.write_uint(RX_RING + 16 * n, 8, RX_BUFFERS + 0x800 * n);
        }
        for (register, value) in [
            (reg::RDBAL, RX_RING as u32),
            (reg::RDLEN, 16 * SLOTS as u32),
            (reg::RDT, SLOTS as u32 - 1),
            (reg::TDBAL, TX_RING as u32),
            (reg::TDLEN, 16 * SLOTS as u32),
            (reg::IMS, !0),
            (reg::RXCSUM, 0x300),
            (reg::RCTL, rctl::EN | rctl::BAM | rctl::SECRC | more_rctl),
            (reg::TCTL, TCTL_EN),
        ] {
            self.set(register, value);
        }
    }

    fn descriptor(&self, n: u64, low: u64, high: u64) {
        self.memory.write_uint(TX_RING + 16 * n, 8, low);
        self.memory.write_uint(TX_RING + 16 * n + 8, 8, high);
    }

    /// What a descriptor says: bytes, status, errors, tag.
    fn received(&self, n: u64) -> (Vec<u8>, u8, u8, u16) {
        let word = self.memory.read_uint(RX_RING + 16 * n + 8, 8).to_le_bytes();
        let len = u64::from(u16::from_le_bytes([word[0], word[1]]));
        let at = |i| self.memory.read_uint(RX_BUFFERS + 0x800 * n + i, 1) as u8;
        ((0..len).map(at).collect(), word[4], word[5], u16::from_le_bytes([word[6], word[7]]))
    }
}

fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
    bytes[..6].copy_from_slice(&to);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes
}

/// Reads of QEMU 10.0's adapter.
#[test]
fn registers_after_power_up() {
    let bed = bed();
    for (register, value) in [
        (reg::CTRL, 0x0014_0240),
        (reg::STATUS, 0x8008_0783),
        (reg::EECD, 0x188),
        (reg::VET, 0x8100),
        (reg::LEDCTL, 0x602),
        (reg::PBA, 0x10_0030),
        (reg::MANC, 0x22_2300),
        (reg::RAL, 0x1200_5452),
        (reg::RAL + 4, 0x8000_5634),
        (0x0178, 0),
    ] {
        assert_eq!(bed.get(register), value, "{register:#x}");
    }
    for register in [reg::RDLEN, reg::TDT, reg::RDTR, 0x2410, 0x3410, 0x5808] {
        bed.set(register, !0);
    }
    let masked = [reg::RDLEN, reg::TDT, reg::RDTR, 0x2410, 0x3410, 0x5808].map(|r| bed.get(r));
    assert_eq!(masked, [0xf_ff80, 0xffff, 0xffff, 0x1fff, 0x7ff, !0]);
    bed.ports.write_uint(PORTS, 4, reg::VET.into());
    assert_eq!(bed.ports.read_uint(PORTS + 4, 4), 0x8100, "by way of ports");
    bed.set(reg::CTRL, CTRL_RST);
    assert_eq!(bed.get(reg::RDLEN), 0);
}

#[test]
fn causes_are_masked_and_cleared_by_reading() {
    let bed = bed();
    bed.set(reg::ICS, cause::LSC);
    assert!(!bed.interrupts() && bed.get(reg::ICS) == cause::LSC);
    bed.set(reg::IMS, cause::LSC);
    assert!(bed.interrupts());
    assert_eq!((bed.get(reg::ICR), bed.get(reg::ICR)), (cause::LSC, 0));
    assert!(!bed.interrupts());
    bed.set(reg::ICS, 0xff);
    bed.set(reg::ICR, cause::LSC);
    assert!(!bed.interrupts() && bed.get(reg::ICR) == 0xfb);
    bed.set(reg::IMC, !0);
    assert_eq!(bed.get(reg::IMS), 0);
}

#[test]
fn interrupts_come_no_oftener_than_allowed() {
    let mut bed = bed();
    bed.set(reg::ITR, 1000);
    bed.set(reg::IMS, !0);
    bed.set(reg::ICS, cause::RXT0);
    assert!(bed.interrupts());
    bed.get(reg::ICR);
    bed.set(reg::ICS, cause::RXT0);
    bed.wait(255_999);
    assert!(!bed.interrupts());
    bed.wait(1);
    assert!(bed.interrupts());
}

#[test]
fn a_legacy_frame_goes_out() {
    let mut bed = bed();
    bed.start(0);
    let bytes = frame([0xff; 6], 100);
    bed.memory.write(TX_BUFFER, &bytes);
    // Two buffers: end of packet and report with the second.
    bed.descriptor(0, TX_BUFFER, 40);
    bed.descriptor(1, TX_BUFFER + 40, 60 | 0x09 << 24);
    bed.set(reg::TDT, 2);
    bed.run();
    assert_eq!(bed.sent(), [(bytes, Offload::default())]);
    assert_eq!(bed.memory.read_uint(TX_RING + 16 + 12, 1), 1, "done");
    assert_eq!(bed.get(reg::TDH), 2);
    assert!(bed.interrupts());
    assert_eq!(bed.get(reg::ICR) & (cause::TXDW | cause::TXQE), cause::TXDW | cause::TXQE);
    assert_eq!((bed.get(reg::GPTC), bed.get(reg::GPTC), bed.get(reg::BPTC)), (1, 0, 1));
}

/// A packet of TCP over IPv4 as drivers leave it: no lengths, no sums.
fn tcp(payload: usize) -> Vec<u8> {
    let mut bytes = vec![0; 54 + payload];
    bytes[..6].copy_from_slice(&OWN);
    bytes[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    bytes[22..24].copy_from_slice(&[64, 6]);
    bytes[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
    bytes[46] = 5 << 4;
    bytes[54..].fill(0x5a);
    bytes
}

/// The context of such packets, cut into `segment` bytes each.
fn context(bed: &Bed, n: u64, segment: u64, len: u64) {
    let low = 14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40;
    bed.descriptor(n, low, len | 0x27 << 24 | 54 << 40 | segment << 48);
}

#[test]
fn a_large_segment_is_handed_on_whole_or_cut() {
    let mut bed = bed();
    bed.start(0);
    let bytes = tcp(3000);
    bed.memory.write(TX_BUFFER, &bytes);
    let data = |bed: &Bed, n| {
        let high = bytes.len() as u64 | 0x10_0000 | 0x2d << 24 | 3 << 40;
        bed.descriptor(n, TX_BUFFER, high);
    };
    *bed.wire.accepts.lock() = Offloads::ALL;
    context(&bed, 0, 1448, 3000);
    data(&bed, 1);
    bed.set(reg::TDT, 2);
    bed.run();
    let (whole, offload) = bed.sent().remove(0);
    assert_eq!(offload.checksum, Checksum::Partial { start: 34, offset: 16 });
    let gso = offload.gso.unwrap();
    assert_eq!((gso.kind, gso.size, gso.header_len), (GsoKind::Tcp4, 1448, 54));
    assert_eq!(whole[16..18], 3040u16.to_be_bytes(), "the length was filled in");
    *bed.wire.accepts.lock() = Offloads::default();
    data(&bed, 2);
    bed.set(reg::TDT, 3);
    bed.run();
    let pieces = bed.sent();
    assert_eq!(pieces.iter().map(|(bytes, _)| bytes.len()).collect::<Vec<_>>(), [1502, 1502, 158]);
    for (bytes, _) in &pieces {
        let pseudo =
            net::checksum::pseudo_header(&bytes[26..30], &bytes[30..34], 6, bytes.len() - 34);
        assert_eq!(pseudo.bytes(&bytes[34..]).finish(), 0);
    }
    assert_eq!(bed.get(reg::TSCTC), 2);
    assert_eq!(bed.get(reg::GPTC), 6);
}

#[test]
fn what_does_not_fit_waits() {
    let mut bed = bed();
    bed.start(0);
    bed.wire.full.store(true, std::sync::atomic::Ordering::Relaxed);
    bed.memory.write(TX_BUFFER, &frame(OWN, 60));
    for n in 0..2 {
        bed.descriptor(n, TX_BUFFER, 60 | 0x09 << 24);
    }
    bed.set(reg::TDT, 2);
    bed.run();
    assert_eq!(bed.get(reg::TDH), 1, "the second waits in the ring");
    bed.wire.full.store(false, std::sync::atomic::Ordering::Relaxed);
    bed.plug.ready();
    bed.run();
    assert_eq!((bed.sent().len(), bed.get(reg::TDH)), (2, 2));
}

#[test]
fn frames_come_in_through_the_filters() {
    let bed = bed();
    bed.start(0);
    let group = [0x01, 0, 0x5e, 1, 2, 3];
    let take = |to| {
        let head = bed.get(reg::RDH);
        assert_eq!(send(&bed.plug, &frame(to, 60), Offload::default()), Delivery::Taken);
        bed.get(reg::RDH) != head
    };
    assert_eq!([take(OWN), take([0xff; 6]), take(group), take([2; 6])], [true, true, false, false]);
    // The hash is bits 47 to 36 of the address.
    let hash = (u32::from(group[5]) << 8 | u32::from(group[4])) >> 4 & 0xfff;
    bed.set(reg::MTA + 4 * (hash >> 5), 1 << (hash & 31));
    assert!(take(group));
    bed.set(reg::RCTL, bed.get(reg::RCTL) | rctl::UPE);
    assert!(take([2; 6]));
    assert!(bed.interrupts());
    assert_eq!(bed.get(reg::ICR) & cause::RXT0, cause::RXT0);
    let (bytes, status, errors, _) = bed.received(0);
    assert_eq!((bytes, status & 3, errors), (frame(OWN, 60), 3, 0));
    assert_eq!((bed.get(reg::GPRC), bed.get(reg::BPRC), bed.get(reg::MPRC)), (4, 1, 1));
}

#[test]
fn long_frames_take_several_buffers_and_tags_are_stripped() {
    let bed = bed();
    bed.start(rctl::LPE);
    let bytes = frame(OWN, 5000);
    assert_eq!(send(&bed.plug, &bytes, Offload::default()), Delivery::Taken);
    let pieces: Vec<_> = (0..3).map(|n| bed.received(n)).collect();
    let joined: Vec<u8> = pieces.iter().flat_map(|piece| piece.0.clone()).collect();
    assert_eq!(joined, bytes);
    assert_eq!(pieces.iter().map(|piece| piece.1 & 3).collect::<Vec<_>>(), [1, 1, 3]);
    bed.set(reg::CTRL, bed.get(reg::CTRL) | 1 << 30);
    let mut tagged = frame(OWN, 100);
    tagged[12..16].copy_from_slice(&[0x81, 0, 0x60, 5]);
    assert_eq!(send(&bed.plug, &tagged, Offload::default()), Delivery::Taken);
    let (bytes, status, _, tag) = bed.received(3);
    assert_eq!((bytes.len(), status & 8, tag), (96, 8, 0x6005));
    assert_eq!(bytes[12..], tagged[16..]);
}

#[test]
fn sums_are_checked() {
    let bed = bed();
    bed.start(0);
    let mut bytes = tcp(10);
    bytes[16..18].copy_from_slice(&50u16.to_be_bytes());
    let header = net::checksum::Sum::default().bytes(&bytes[14..34]).finish();
    bytes[24..26].copy_from_slice(&header.to_be_bytes());
    let pseudo = net::checksum::pseudo_header(&bytes[26..30], &bytes[30..34], 6, 30).folded();
    bytes[50..52].copy_from_slice(&pseudo.to_be_bytes());
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    let offload = Offload { checksum, gso: None };
    assert_eq!(send(&bed.plug, &bytes, offload), Delivery::Taken);
    assert_eq!((bed.received(0).1 & 0x64, bed.received(0).2), (0x60, 0), "the cable completed it");
    assert_eq!(send(&bed.plug, &bytes, Offload::default()), Delivery::Taken);
    assert_eq!(bed.received(1).2, 0x20, "as it is, it is wrong");
}

#[test]
fn a_full_ring_keeps_frames_on_the_wire() {
    let mut bed = bed();
    bed.start(0);
    let fill = |bed: &Bed| {
        let taken =
            |_: &u32| send(&bed.plug, &frame(OWN, 60), Offload::default()) == Delivery::Taken;
        (0..20).take_while(taken).count()
    };
    assert_eq!(fill(&bed), 7);
    assert_eq!(bed.get(reg::ICR) & cause::RXDMT0, cause::RXDMT0);
    bed.set(reg::RDT, 2);
    bed.run();
    assert!(bed.wire.woken.load(std::sync::atomic::Ordering::Relaxed) > 0);
    assert_eq!(fill(&bed), 3);
}

#[test]
fn the_link_follows_the_cable_and_negotiation() {
    let mut bed = bed();
    bed.set(reg::IMS, !0);
    let cable = bed.nics.list()[0].cable.clone();
    cable.set_link(Side::Guest, false);
    assert_eq!(bed.get(reg::STATUS) & STATUS_LU, 0);
    assert!(bed.interrupts() && bed.get(reg::ICR) == cause::LSC);
    cable.set_link(Side::Guest, true);
    bed.wait(NEGOTIATION);
    assert_eq!(bed.get(reg::STATUS) & STATUS_LU, STATUS_LU);
    bed.get(reg::ICR);
    // The driver restarts negotiation.
    bed.set(reg::MDIC, 0x0420_1340);
    assert_eq!(bed.get(reg::STATUS) & STATUS_LU, 0);
    bed.wait(NEGOTIATION);
    assert_eq!(bed.get(reg::STATUS) & STATUS_LU, STATUS_LU);
    assert_eq!(bed.get(reg::ICR), cause::LSC);
}

#[test]
fn in_loopback_frames_come_back() {
    let mut bed = bed();
    bed.start(rctl::LBM);
    bed.memory.write(TX_BUFFER, &frame(OWN, 60));
    bed.descriptor(0, TX_BUFFER, 60 | 0x09 << 24);
    bed.set(reg::TDT, 1);
    bed.run();
    assert!(bed.sent().is_empty());
    assert_eq!(bed.received(0).0, frame(OWN, 60));
}

#[test]
fn a_card_that_goes_leaves_its_cable() {
    let bed = bed();
    assert_eq!(bed.nics.list().len(), 1);
    bed.function.release();
    assert!(bed.nics.list().is_empty());
    assert!(!bed.plug.has_peer());
}

proptest! {
    /// Whatever a driver writes to registers and rings, nothing breaks, and a reset ends it.
    #[test]
    fn nonsense_does_no_harm(
        writes in prop::collection::vec((0u32..0x1800, any::<u32>()), 1..200),
        ring in prop::collection::vec(any::<u64>(), 64),
        len in 14usize..3000,
    ) {
        let mut bed = bed();
        bed.start(0);
        for (at, value) in (0..).zip(&ring) {
            bed.memory.write_uint(0x1000 + 8 * at, 8, *value & 0x7fff_ffff_003f_ffff);
        }
        for (word, value) in writes {
            bed.set(4 * word, value);
            bed.get(4 * word);
            bed.run();
            let _ = send(&bed.plug, &frame(OWN, len), Offload::default());
        }
        bed.function.reset();
        bed.place();
        prop_assert_eq!(bed.get(reg::CTRL), 0x0014_0240);
        prop_assert!(!bed.interrupts());
    }
}
