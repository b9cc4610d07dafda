//! The register file of the 82540EM (Intel, PCI/PCI-X Family of Gigabit Ethernet Controllers, Software
//! Developer's Manual, chapter 13): names, and what of each the guest can change.

/// Registers, by offset. Those that are tables name their first word.
#[rustfmt::skip]
pub(super) mod reg {
    pub const CTRL: u32 = 0x0000;
    pub const STATUS: u32 = 0x0008;
    pub const EECD: u32 = 0x0010;
    pub const EERD: u32 = 0x0014;
    pub const MDIC: u32 = 0x0020;
    pub const VET: u32 = 0x0038;
    pub const ICR: u32 = 0x00c0;
    pub const ITR: u32 = 0x00c4;
    pub const ICS: u32 = 0x00c8;
    pub const IMS: u32 = 0x00d0;
    pub const IMC: u32 = 0x00d8;
    pub const RCTL: u32 = 0x0100;
    pub const TCTL: u32 = 0x0400;
    pub const AIT: u32 = 0x0458;
    pub const LEDCTL: u32 = 0x0e00;
    pub const PBA: u32 = 0x1000;
    pub const RDBAL: u32 = 0x2800;
    pub const RDBAH: u32 = 0x2804;
    pub const RDLEN: u32 = 0x2808;
    pub const RDH: u32 = 0x2810;
    pub const RDT: u32 = 0x2818;
    pub const RDTR: u32 = 0x2820;
    pub const RADV: u32 = 0x282c;
    pub const TDBAL: u32 = 0x3800;
    pub const TDBAH: u32 = 0x3804;
    pub const TDLEN: u32 = 0x3808;
    pub const TDH: u32 = 0x3810;
    pub const TDT: u32 = 0x3818;
    pub const TXDCTL: u32 = 0x3828;
    pub const TADV: u32 = 0x382c;
    /// Statistics, all of which are cleared by reading.
    pub const STATISTICS: u32 = 0x4000;
    /// Received frames of up to 64, 127, 255, 511, 1023 and more bytes.
    pub const PRC64: u32 = 0x405c;
    pub const GPRC: u32 = 0x4074;
    pub const BPRC: u32 = 0x4078;
    pub const MPRC: u32 = 0x407c;
    pub const GPTC: u32 = 0x4080;
    pub const GORCL: u32 = 0x4088;
    pub const GOTCL: u32 = 0x4090;
    pub const ROC: u32 = 0x40ac;
    pub const TORL: u32 = 0x40c0;
    pub const TOTL: u32 = 0x40c8;
    pub const TPR: u32 = 0x40d0;
    pub const TPT: u32 = 0x40d4;
    /// Transmitted frames by size.
    pub const PTC64: u32 = 0x40d8;
    pub const MPTC: u32 = 0x40f0;
    pub const BPTC: u32 = 0x40f4;
    pub const TSCTC: u32 = 0x40f8;
    pub const STATISTICS_END: u32 = 0x4100;
    pub const RXCSUM: u32 = 0x5000;
    pub const MTA: u32 = 0x5200;
    pub const RAL: u32 = 0x5400;
    pub const VFTA: u32 = 0x5600;
    pub const MANC: u32 = 0x5820;
    pub const END: u32 = 0x6000;
}

pub(super) const CTRL_RST: u32 = 1 << 26;
pub(super) const CTRL_VME: u32 = 1 << 30;

pub(super) const STATUS_LU: u32 = 1 << 1;

/// Interrupt causes.
pub(super) mod cause {
    pub const TXDW: u32 = 1 << 0;
    pub const TXQE: u32 = 1 << 1;
    pub const LSC: u32 = 1 << 2;
    pub const RXDMT0: u32 = 1 << 4;
    pub const RXO: u32 = 1 << 6;
    pub const RXT0: u32 = 1 << 7;
    pub const MDAC: u32 = 1 << 9;
}

pub(super) mod rctl {
    pub const EN: u32 = 1 << 1;
    pub const SBP: u32 = 1 << 2;
    pub const UPE: u32 = 1 << 3;
    pub const MPE: u32 = 1 << 4;
    pub const LPE: u32 = 1 << 5;
    pub const LBM: u32 = 3 << 6;
    pub const RDMTS_SHIFT: u32 = 8;
    pub const MO_SHIFT: u32 = 12;
    pub const BAM: u32 = 1 << 15;
    pub const BSIZE_SHIFT: u32 = 16;
    pub const VFE: u32 = 1 << 18;
    pub const BSEX: u32 = 1 << 25;
    pub const SECRC: u32 = 1 << 26;
}

pub(super) const TCTL_EN: u32 = 1 << 1;
pub(super) const RXCSUM_IP: u32 = 1 << 8;
pub(super) const RXCSUM_TCP: u32 = 1 << 9;

/// Receive addresses.
pub(super) const ADDRESSES: u32 = 16;
/// Of the upper half of a receive address: it counts.
pub(super) const ADDRESS_VALID: u32 = 1 << 31;

/// Words of the register file.
pub(super) const WORDS: usize = (reg::END / 4) as usize;

/// Registers that just hold what was written, or a part of it: the first offset, how many, the bits.
/// Masks of those that nothing here looks at are as observed on QEMU 10.0.
#[rustfmt::skip]
const WRITABLE: &[(u32, u32, u32)] = &[
    (reg::VET, 1, !0), (reg::ITR, 1, 0xffff), (reg::TCTL, 1, !0),
    (reg::AIT, 1, 0xffff), (reg::LEDCTL, 1, !0), (reg::PBA, 1, !0),
    // Heads, tails and counts of the packet buffers' FIFOs, for diagnosis.
    (0x2410, 1, 0x1fff), (0x2418, 1, 0x1fff), (0x2420, 1, 0x1fff), (0x2428, 1, 0x1fff), (0x2430, 1, 0x1fff),
    (0x3410, 1, 0x7ff), (0x3418, 1, 0x7ff), (0x3420, 1, 0x1fff), (0x3428, 1, 0x1fff), (0x3430, 1, 0x1fff),
    (reg::RDBAL, 1, !0xf), (reg::RDBAH, 1, !0), (reg::RDLEN, 1, 0xf_ff80), (reg::RDH, 1, 0xffff),
    (reg::RDT, 1, 0xffff), (reg::RDTR, 1, 0xffff), (reg::RADV, 1, 0xffff),
    (reg::TDBAL, 1, !0xf), (reg::TDBAH, 1, !0), (reg::TDLEN, 1, 0xf_ff80), (reg::TDH, 1, 0xffff),
    (reg::TDT, 1, 0xffff), (reg::TXDCTL, 1, !0), (reg::TADV, 1, 0xffff),
    (reg::RXCSUM, 1, 0x7ff), (reg::MTA, 128, !0), (reg::RAL, 2 * ADDRESSES, !0), (reg::VFTA, 128, !0),
    // Wake-up: control, filters, status, addresses and patterns.
    (0x5800, 1, !0), (0x5808, 1, !0), (0x5810, 1, !0), (0x5838, 1, !0), (0x5840, 7, !0),
    (0x5880, 4, !0), (0x5a00, 32, !0), (0x5f00, 7, 0x7ff),
    // Software semaphore.
    (0x5b50, 1, !0),
];

/// By word: the bits that a plain write changes.
pub(super) static MASKS: [u32; WORDS] = {
    let mut masks = [0; WORDS];
    let mut at = 0;
    while at < WRITABLE.len() {
        let (first, count, mask) = WRITABLE[at];
        let mut word = 0;
        while word < count {
            masks[(first / 4 + word) as usize] = mask;
            word += 1;
        }
        at += 1;
    }
    masks
};

/// Registers that are not zero after a reset.
pub(super) const AT_RESET: &[(u32, u32)] = &[
    // Full duplex, 1000 Mb/s, link up, ADVD3WUC.
    (reg::CTRL, 0x0014_0240),
    (reg::STATUS, 0x8008_0783),
    (reg::VET, 0x8100),
    (reg::LEDCTL, 0x0602),
    (reg::PBA, 0x0010_0030),
    (reg::MANC, 0x0022_2300),
];
