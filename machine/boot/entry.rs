//! The CPU state in which a kernel starts.

use super::low;

/// Operating mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode.
    Real,
    /// 32-bit protected mode without paging.
    Protected32,
    /// 64-bit mode with identity-mapped memory.
    Long64,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Bits 40 to 55 of the descriptor, with the bits of the limit zero: type, S, DPL and P in bits 0 to 7; AVL, L, D/B
    /// and G in bits 12 to 15.
    pub access: u16,
}

/// A descriptor table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Base.
    pub base: u64,
    /// Limit.
    pub limit: u16,
}

/// State of the first CPU. What is not named is as after reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuEntry {
    /// Operating mode that the registers below amount to.
    pub mode: Mode,
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// General registers in the order of their encoding: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 ...
    pub gprs: [u64; 16],
    /// Code segment.
    pub cs: Segment,
    /// All data segments: DS, ES, FS, GS and SS.
    pub data: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdt: Table,
    /// Interrupt descriptor table.
    pub idt: Table,
    /// Control register 0.
    pub cr0: u64,
    /// Control register 3.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended feature enable register.
    pub efer: u64,
}

/// Index of RAX in [`CpuEntry::gprs`].
pub const RAX: usize = 0;
/// Index of RBX.
pub const RBX: usize = 3;
/// Index of RSP.
pub const RSP: usize = 4;
/// Index of RSI.
pub const RSI: usize = 6;

// Selectors that the Linux boot protocol prescribes.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const BOOT_TR: u16 = 0x20;

const CODE: u16 = 0x9b;
const DATA: u16 = 0x93;
const BUSY_TSS: u16 = 0x8b;
const LONG: u16 = 1 << 13;
const SIZE_32: u16 = 1 << 14;
const PAGES: u16 = 1 << 15;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const FLAGS_RESERVED: u64 = 1 << 1;

fn flat(selector: u16, access: u16) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, access: access | PAGES }
}

fn descriptor(segment: &Segment) -> u64 {
    let limit =
        u64::from(if segment.access & PAGES != 0 { segment.limit >> 12 } else { segment.limit });
    let base = segment.base;
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | u64::from(segment.access) << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

/// Protected or long mode with flat segments, and the descriptor table to write for it.
fn flat_entry(mode: Mode, rip: u64, gdt: u64) -> (CpuEntry, (u64, Vec<u8>)) {
    let code_size = if mode == Mode::Long64 { LONG } else { SIZE_32 };
    let cs = flat(BOOT_CS, CODE | code_size);
    let data = flat(BOOT_DS, DATA | SIZE_32);
    let tr = Segment { selector: BOOT_TR, base: 0, limit: 0x67, access: BUSY_TSS };
    let table: Vec<u8> = [0, 0, descriptor(&cs), descriptor(&data), descriptor(&tr), 0]
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    let entry = CpuEntry {
        mode,
        rip,
        rflags: FLAGS_RESERVED,
        gprs: [0; 16],
        cs,
        data,
        tr,
        gdt: Table { base: gdt, limit: table.len() as u16 - 1 },
        idt: Table::default(),
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
    };
    (entry, (gdt, table))
}

/// Bytes of the global descriptor table.
pub(super) const GDT_LENGTH: u64 = 48;

/// 32-bit protected mode without paging, with the descriptor table at `gdt`.
pub(super) fn protected32(rip: u64, gdt: u64, writes: &mut Vec<(u64, Vec<u8>)>) -> CpuEntry {
    let (entry, table) = flat_entry(Mode::Protected32, rip, gdt);
    writes.push(table);
    entry
}

/// Long mode with the first 4 GiB mapped to themselves.
pub(super) fn long64(rip: u64, writes: &mut Vec<(u64, Vec<u8>)>) -> CpuEntry {
    let (mut entry, table) = flat_entry(Mode::Long64, rip, low::GDT);
    writes.push(table);
    writes.push((low::PAGE_TABLES, identity_map()));
    entry.cr3 = low::PAGE_TABLES;
    entry.cr4 = CR4_PAE;
    entry.cr0 |= CR0_PG;
    entry.efer = EFER_LME | EFER_LMA;
    entry
}

/// Real mode at `segment:0` plus `offset`.
pub(super) fn real(code: u16, offset: u16, data: u16, sp: u16) -> CpuEntry {
    let segment = |selector: u16, access| Segment {
        selector,
        base: u64::from(selector) << 4,
        limit: 0xffff,
        access,
    };
    let mut gprs = [0; 16];
    gprs[RSP] = sp.into();
    CpuEntry {
        mode: Mode::Real,
        rip: offset.into(),
        rflags: FLAGS_RESERVED,
        gprs,
        cs: segment(code, CODE),
        data: segment(data, DATA),
        tr: Segment { access: BUSY_TSS, limit: 0xffff, ..Segment::default() },
        gdt: Table::default(),
        idt: Table { base: 0, limit: 0x3ff },
        cr0: CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
    }
}

/// Real mode with all memory within reach of the data segments, as firmware runs option ROMs (PCI Firmware
/// Specification 3.2, 5.2.1.8).
pub(super) fn big_real(code: u16, offset: u16, sp: u16) -> CpuEntry {
    let entry = real(code, offset, 0, sp);
    let data = Segment { limit: u32::MAX, access: entry.data.access | PAGES, ..entry.data };
    CpuEntry { data, ..entry }
}

/// What wakes up from suspend to RAM: real mode at the address that the operating system left in the FACS (ACPI 6.5,
/// 5.2.10), which is below 1 MiB.
pub fn waking(vector: u32) -> CpuEntry {
    real((vector >> 4) as u16, (vector & 0xf) as u16, 0, 0)
}

/// One top-level table, one of the second level, and four directories of 2 MiB pages.
fn identity_map() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const ENTRIES: u64 = 512;
    const GIBIBYTES: u64 = 4;
    let table = |index: u64| low::PAGE_TABLES + index * super::PAGE;
    let mut entries = vec![0u64; (ENTRIES * (2 + GIBIBYTES)) as usize];
    entries[0] = table(1) | PRESENT_WRITABLE;
    for gibibyte in 0..GIBIBYTES {
        entries[(ENTRIES + gibibyte) as usize] = table(2 + gibibyte) | PRESENT_WRITABLE;
    }
    for page in 0..GIBIBYTES * ENTRIES {
        entries[(2 * ENTRIES + page) as usize] = page << 21 | PRESENT_WRITABLE | LARGE;
    }
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}
