//! The register file of the RTL8139C+ (Realtek, RTL8139C(L) and RTL8139C(L)+ datasheets, chapter 6):
//! names, and what of each the guest can change.

/// Registers, by offset. Those that are tables name their first byte.
#[rustfmt::skip]
pub(super) mod reg {
    pub const IDR: usize = 0x00;
    pub const MAR: usize = 0x08;
    /// Four of 32 bits: status of what is sent.
    pub const TSD: usize = 0x10;
    /// In the C+ mode, in the place of these: where statistics go, 64 bits.
    pub const DTCCR: usize = 0x10;
    /// Four of 32 bits: where it is.
    pub const TSAD: usize = 0x20;
    /// In the C+ mode, in the place of these: rings of normal and high priority, 64 bits each.
    pub const TNPDS: usize = 0x20;
    pub const THPDS: usize = 0x28;
    pub const RBSTART: usize = 0x30;
    pub const CR: usize = 0x37;
    pub const CAPR: usize = 0x38;
    pub const CBR: usize = 0x3a;
    pub const IMR: usize = 0x3c;
    pub const ISR: usize = 0x3e;
    pub const TCR: usize = 0x40;
    pub const RCR: usize = 0x44;
    pub const TCTR: usize = 0x48;
    pub const MPC: usize = 0x4c;
    pub const EECR: usize = 0x50;
    pub const CONFIG0: usize = 0x51;
    pub const CONFIG1: usize = 0x52;
    pub const TIMER_INT: usize = 0x54;
    pub const MSR: usize = 0x58;
    pub const CONFIG3: usize = 0x59;
    pub const CONFIG4: usize = 0x5a;
    pub const MULINT: usize = 0x5c;
    pub const RERID: usize = 0x5e;
    pub const TSAD_SUMMARY: usize = 0x60;
    pub const BMCR: usize = 0x62;
    pub const BMSR: usize = 0x64;
    pub const ANAR: usize = 0x66;
    pub const ANLPAR: usize = 0x68;
    pub const ANER: usize = 0x6a;
    pub const CSCR: usize = 0x74;
    pub const CONFIG5: usize = 0xd8;
    pub const TPPOLL: usize = 0xd9;
    pub const CPCR: usize = 0xe0;
    pub const RDSAR: usize = 0xe4;
    pub const END: usize = 0x100;
}

/// Command.
pub(super) mod cr {
    pub const EMPTY: u8 = 1 << 0;
    pub const TE: u8 = 1 << 2;
    pub const RE: u8 = 1 << 3;
    pub const RST: u8 = 1 << 4;
}

/// Reasons for an interrupt.
pub(super) mod isr {
    pub const ROK: u16 = 1 << 0;
    pub const RER: u16 = 1 << 1;
    pub const TOK: u16 = 1 << 2;
    pub const TER: u16 = 1 << 3;
    /// No descriptor to receive in.
    pub const RDU: u16 = 1 << 4;
    pub const LINK: u16 = 1 << 5;
    pub const TDU: u16 = 1 << 7;
    pub const SWINT: u16 = 1 << 8;
    pub const TIMEOUT: u16 = 1 << 14;
}

/// Status of a frame that is sent.
pub(super) mod tsd {
    pub const SIZE: u32 = 0x1fff;
    pub const OWN: u32 = 1 << 13;
    pub const TUN: u32 = 1 << 14;
    pub const TOK: u32 = 1 << 15;
    pub const TABT: u32 = 1 << 30;
    /// Collisions, the end of the heartbeat, loss of the carrier: none of which happens.
    pub const READ_ONLY: u32 = 0xbf00_0000;
}

pub(super) mod tcr {
    /// Both bits: what is sent comes back.
    pub const LOOPBACK: u32 = 3 << 17;
}

pub(super) mod rcr {
    pub const AAP: u32 = 1 << 0;
    pub const APM: u32 = 1 << 1;
    pub const AM: u32 = 1 << 2;
    pub const AB: u32 = 1 << 3;
    pub const WRAP: u32 = 1 << 7;
    pub const LENGTH_SHIFT: u32 = 11;
}

/// Configuration of the C+ mode.
pub(super) mod cpcr {
    pub const TX: u16 = 1 << 0;
    pub const RX: u16 = 1 << 1;
    pub const CHECKSUM: u16 = 1 << 5;
    pub const UNTAG: u16 = 1 << 6;
}

pub(super) mod poll {
    pub const SWINT: u8 = 1 << 0;
    pub const NORMAL: u8 = 1 << 6;
    pub const HIGH: u8 = 1 << 7;
}

/// Statistics are to be stored.
pub(super) const DTCCR_COMMAND: u8 = 1 << 3;

/// Modes of the EEPROM's control register, and wires to the chip.
pub(super) mod eecr {
    pub const MODE: u8 = 3 << 6;
    pub const AUTOLOAD: u8 = 1 << 6;
    pub const PROGRAM: u8 = 2 << 6;
    pub const UNLOCK: u8 = 3 << 6;
    pub const CS: u8 = 1 << 3;
    pub const SK: u8 = 1 << 2;
    pub const DI: u8 = 1 << 1;
    pub const DO: u8 = 1 << 0;
}

/// No link.
pub(super) const MSR_LINKB: u8 = 1 << 2;
pub(super) const BMSR_LINK: u16 = 1 << 2;
pub(super) const BMSR_NEGOTIATED: u16 = 1 << 5;
pub(super) const BMCR_RESET: u16 = 1 << 15;
/// The transceiver always negotiates, and keeps that it was told to begin anew.
pub(super) const BMCR_NEGOTIATES: u16 = 1 << 12;
pub(super) const BMCR_RESTART: u16 = 1 << 9;

/// Registers that just hold what was written, or a part of it: offset, bytes, bits. Masks of those that
/// nothing here looks at are as observed on QEMU 10.0.
#[rustfmt::skip]
const WRITABLE: &[(usize, usize, u64)] = &[
    (reg::IDR, 6, !0), (reg::MAR, 8, !0), (reg::TSD, 16, !0), (reg::TSAD, 16, !0),
    (reg::RBSTART, 4, !0), (reg::CAPR, 2, !0), (reg::IMR, 2, 0xe1ff), (reg::RCR, 4, 0x0f03_ffbf),
    (reg::TIMER_INT, 4, !0), (reg::MULINT, 2, 0x0fff), (reg::ANAR, 2, !0), (reg::ANER, 2, !0),
    (reg::CONFIG5, 1, 0x7f), (reg::CPCR, 2, 0x7b), (reg::RDSAR, 8, !0),
];

/// By byte: the bits that a plain write changes.
pub(super) static MASKS: [u8; reg::END] = {
    let mut masks = [0; reg::END];
    let mut row = 0;
    while row < WRITABLE.len() {
        let (at, len, mask) = WRITABLE[row];
        let mut byte = 0;
        while byte < len {
            masks[at + byte] = (mask >> (8 * (byte % 8))) as u8;
            byte += 1;
        }
        row += 1;
    }
    masks
};

/// Bytes that are written only while the EEPROM's control register unlocks them, and which of their bits.
pub(super) const GUARDED: &[(usize, u8)] =
    &[(reg::CONFIG0, 0x07), (reg::CONFIG1, 0xf3), (reg::CONFIG3, 0x70), (reg::CONFIG4, 0xf5)];

/// In the control register of the transmitter: which chip this is, and what can be written while the
/// transmitter is on.
pub(super) const VERSION: u32 = 0x7480_0000;
pub(super) const TCR_WRITABLE: u32 = 0x030f_07f0;

/// What the EEPROM configures.
pub(super) const CONFIGURATION_AT_RESET: &[(usize, u8)] =
    &[(reg::CONFIG0, 0), (reg::CONFIG1, 0x0c), (reg::CONFIG3, 0x01), (reg::CONFIG4, 0)];

/// Other bytes that are not zero after a reset: transmit and receive flow control, and a revision.
pub(super) const AT_RESET: &[(usize, u8)] = &[(reg::MSR, 0xd0), (reg::RERID, 0x20)];

/// The transceiver, without what tells of a link.
pub(super) const TRANSCEIVER_AT_RESET: &[(usize, u16)] = &[
    (reg::BMCR, BMCR_NEGOTIATES),
    (reg::BMSR, 0x7809),
    (reg::ANAR, 0x05e1),
    (reg::ANLPAR, 0x05e1),
    (reg::ANER, 0x0001),
    (reg::CSCR, 0x0340),
];
