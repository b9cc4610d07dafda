//! The permissions of pages: every combination of what entries, control registers and accesses say,
//! for pages of all sizes, against a model written from the manual (SDM vol. 3, 4.6 and 4.7).

use crate::boot::{PML4, Table};
use crate::cpu::{self, cr0, cr4, feature, flag, invlpg, set_cr0, set_cr3, set_cr4};
use crate::trap::{self, FINE, Outcome, catch, enter, kernel_frame, vector::*};
use core::arch::asm;
use core::ptr::addr_of_mut;

pub const P: u64 = 1;
pub const W: u64 = 2;
pub const U: u64 = 4;
pub const A: u64 = 0x20;
pub const D: u64 = 0x40;
pub const PS: u64 = 0x80;
pub const G: u64 = 0x100;
pub const NX: u64 = 1 << 63;
const ALL: u64 = P | W | U;

/// Where the tests map things: the third 512 GiB.
pub const T: u64 = 2 << 39;
/// What they map there: plain RAM, aligned to 2 MiB, outside of the image.
pub const DATA: u64 = 0x600_0000;

pub static mut TABLES: [Table; 6] = [const { Table([0; 512]) }; 6];

pub fn entry(level: usize, index: u64) -> *mut u64 {
    unsafe { addr_of_mut!(TABLES[level].0[index as usize & 511]) }
}

pub fn table(level: usize) -> u64 {
    unsafe { addr_of_mut!(TABLES[level]) as u64 }
}

/// A mapping at `T`: the levels are 1 (page table) to 3 (page-directory pointers).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    Small,
    Large,
    Huge,
}

impl Size {
    /// The level of the leaf.
    pub fn leaf(self) -> usize {
        self as usize + 1
    }
    /// A linear address that leads to `DATA`.
    pub fn linear(self) -> u64 {
        if self == Size::Huge { T + DATA } else { T }
    }
    /// A bit of the leaf that must be zero.
    fn reserved(self) -> u64 {
        if self == Size::Small { 1 << 51 } else { 1 << 13 }
    }
    pub fn entry(self, level: usize) -> *mut u64 {
        entry(level, self.linear() >> (12 + 9 * (level - 1)))
    }
}

/// Maps `DATA`: `flags` in the leaf, `parent` in the entry above it, everything in those above.
pub fn map(size: Size, flags: u64, parent: u64) {
    unsafe {
        addr_of_mut!(PML4.0[(T >> 39) as usize]).write_volatile(table(3) | ALL);
        for level in 2..=3 {
            size.entry(level).write_volatile(table(level - 1) | ALL);
        }
        let leaf = size.leaf();
        let base = if size == Size::Huge { 0 } else { DATA };
        let large = if size == Size::Small { 0 } else { PS };
        if leaf < 3 {
            size.entry(leaf + 1).write_volatile(table(leaf) | parent);
        } else {
            addr_of_mut!(PML4.0[(T >> 39) as usize]).write_volatile(table(3) | parent);
        }
        size.entry(leaf).write_volatile(base | large | flags);
    }
    invlpg(size.linear());
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Read,
    Write,
    Fetch,
}

pub const KINDS: [Kind; 3] = [Kind::Read, Kind::Write, Kind::Fetch];

/// What decides about an access.
#[derive(Clone, Copy, Debug)]
struct Point {
    size: Size,
    flags: u64,
    parent: u64,
    wp: bool,
    smep: bool,
    smap: bool,
    ac: bool,
    user: bool,
    kind: Kind,
}

pub fn code_bits(kind: Kind, user: bool) -> u64 {
    let kind = match kind {
        Kind::Read => 0,
        Kind::Write => 2,
        Kind::Fetch => 0x10,
    };
    kind | if user { 4 } else { 0 }
}

/// The #PF error code that the manual says, or none.
fn expected(p: &Point) -> (u64, u64) {
    let code = code_bits(p.kind, p.user);
    if p.flags & P == 0 {
        return (PF, code);
    }
    if p.flags & p.size.reserved() != 0 {
        return (PF, code | 9);
    }
    let both = p.flags & p.parent;
    let nx = (p.flags | p.parent) & NX != 0;
    let user_page = both & U != 0;
    let denied = if p.user {
        !user_page || p.kind == Kind::Write && both & W == 0
    } else {
        user_page && p.kind == Kind::Fetch && p.smep
            || user_page && p.kind != Kind::Fetch && p.smap && !p.ac
            || p.kind == Kind::Write && both & W == 0 && p.wp
    };
    if denied || p.kind == Kind::Fetch && nx { (PF, code | 1) } else { FINE }
}

/// Reads, writes or executes at `linear`. What is there begins with INT 0x80.
pub fn access(linear: u64, kind: Kind, user: bool, ac: bool) -> Outcome {
    let ac_flag = if ac { flag::AC } else { 0 };
    if user {
        let code = match kind {
            Kind::Read => code!(64, "mov rax, [rbx]", "int 0x80"),
            Kind::Write => code!(64, "mov [rbx + 8], rax", "int 0x80"),
            Kind::Fetch => code!(64, "jmp rbx"),
        };
        let rip = trap::to_user_at(code, 64 * kind as u64);
        let mut frame = trap::user_frame(&[]);
        frame.rip = rip;
        frame.rbx = linear;
        return enter(&frame);
    }
    match kind {
        Kind::Fetch => {
            let mut frame = kernel_frame(linear);
            frame.rflags |= ac_flag;
            enter(&frame)
        }
        Kind::Read => catch(|| unsafe {
            asm!("push {1}", "popfq", "mov {0}, [{0}]", inout(reg) linear => _, in(reg) ac_flag | 2)
        }),
        Kind::Write => catch(|| unsafe {
            asm!("push {1}", "popfq", "mov [{0} + 8], {0}", in(reg) linear, in(reg) ac_flag | 2)
        }),
    }
}

/// What an access came to; one that reached INT 0x80 was fine.
fn result(outcome: &Outcome) -> (u64, u64) {
    if outcome.is(DONE, 0) { FINE } else { outcome.what() }
}

/// INT 0x80 at `DATA`, for fetches.
pub fn prepare() {
    unsafe { (DATA as *mut [u8; 2]).write_volatile([0xcd, 0x80]) };
}

/// The same by way of a user page, past SMAP.
pub fn prepare_late(linear: u64) {
    unsafe { asm!("stac", "mov word ptr [{}], 0x80cd", "clac", in(reg) linear) };
}

pub fn run() {
    prepare();
    for size in [Size::Small, Size::Large, Size::Huge] {
        if size == Size::Huge && !feature::GBPAGES.offered() {
            tap_skip("1 GiB pages");
            continue;
        }
        for wp in [false, true] {
            for smep in [false, true] {
                for smap in [false, true] {
                    if smep && !feature::SMEP.offered() || smap && !feature::SMAP.offered() {
                        continue;
                    }
                    matrix(size, wp, smep, smap);
                }
            }
        }
        bits(size);
    }
    structure();
    caching();
    crossing();
}

fn tap_skip(what: &str) {
    crate::tap::skip(what);
}

fn with<T>(set0: u64, clear0: u64, set4: u64, run: impl FnOnce() -> T) -> T {
    let (old0, old4) = (cpu::cr0(), cpu::cr4());
    set_cr4(old4 | set4);
    set_cr0(old0 & !clear0 | set0);
    let result = run();
    set_cr0(old0);
    set_cr4(old4);
    result
}

fn matrix(size: Size, wp: bool, smep: bool, smap: bool) {
    let mut wrong = 0;
    let mut first = None;
    let clear0 = if wp { 0 } else { cr0::WP };
    let mut set4 = if smep { cr4::SMEP } else { 0 };
    if smap {
        set4 |= cr4::SMAP;
    }
    let phys_bits = cpu::cpuid(0x8000_0008, 0)[0] & 0xff;
    with(0, clear0, set4, || {
        for flags in 0..32u64 {
            let mut leaf = flags & ALL;
            if flags & 8 != 0 {
                leaf |= NX;
            }
            if flags & 16 != 0 {
                if size == Size::Small && phys_bits == 52 {
                    continue;
                }
                leaf |= size.reserved();
            }
            for parent in 0..8u64 {
                let parent = P | parent << 1 & (W | U) | if parent & 4 != 0 { NX } else { 0 };
                for kind in KINDS {
                    for (user, ac) in [(true, false), (false, false), (false, true)] {
                        let point =
                            Point { size, flags: leaf, parent, wp, smep, smap, ac, user, kind };
                        map(size, leaf, parent);
                        let outcome = access(size.linear(), kind, user, ac);
                        let got = result(&outcome);
                        let wanted = expected(&point);
                        let at = size.linear() + if kind == Kind::Write { 8 } else { 0 };
                        if got != wanted || got.0 == PF && outcome.cr2 != at {
                            wrong += 1;
                            first = first.or(Some((point, got, wanted)));
                        }
                    }
                }
            }
        }
    });
    unsafe { asm!("clac") };
    let name = format_args!("{size:?} pages with WP={wp} SMEP={smep} SMAP={smap}");
    crate::tap::report(name, wrong == 0, format_args!("{wrong} differ, first {first:x?}"));
}

/// Accessed and dirty bits.
fn bits(size: Size) {
    let leaf = size.entry(size.leaf());
    let read = || unsafe { leaf.read_volatile() & (A | D) };
    for (kind, want) in [(Kind::Read, A), (Kind::Write, A | D), (Kind::Fetch, A)] {
        for user in [false, true] {
            map(size, ALL, ALL);
            let what = result(&access(size.linear(), kind, user, false));
            check!(what == FINE && read() == want, "{size:?}: A and D after {kind:?}, user {user}");
            if size != Size::Huge {
                let parent = unsafe { size.entry(size.leaf() + 1).read_volatile() };
                check_eq!(parent & (A | D), A, "{size:?}: A above the leaf, and no D");
            }
        }
    }
    map(size, ALL, ALL);
    access(size.linear(), Kind::Read, false, false);
    check_eq!(read(), A, "{size:?}: read first");
    access(size.linear(), Kind::Write, false, false);
    check_eq!(read(), A | D, "{size:?}: then written");
    unsafe { leaf.write_volatile(leaf.read_volatile() & !(A | D)) };
    invlpg(size.linear());
    access(size.linear(), Kind::Write, true, false);
    check_eq!(read(), A | D, "{size:?}: set again after INVLPG");
    map(size, P | U, ALL);
    let what = access(size.linear(), Kind::Write, true, false).what();
    check_eq!((what, read() & D), ((PF, 7), 0), "{size:?}: a store that faults leaves D clear");
}

/// Things wrong in the tables themselves.
fn structure() {
    let top = unsafe { addr_of_mut!(PML4.0[(T >> 39) as usize]) };
    let read = || access(T, Kind::Read, false, false).what();
    let put = |at: *mut u64, value: u64| unsafe {
        at.write_volatile(value);
        set_cr3(cpu::cr3());
    };
    map(Size::Small, ALL, ALL);
    check_eq!(read(), FINE, "four levels");
    put(top, table(3) | ALL | PS);
    check_eq!(read(), (PF, 9), "PS is reserved in a PML4E");
    put(top, table(3) | W | U);
    check_eq!(read(), (PF, 0), "a PML4E that is not present");
    map(Size::Small, ALL, ALL);
    let phys_bits = cpu::cpuid(0x8000_0008, 0)[0] & 0xff;
    if phys_bits < 52 {
        for (level, at) in [(4, top), (3, entry(3, 0)), (2, entry(2, 0)), (1, entry(1, 0))] {
            map(Size::Small, ALL, ALL);
            let good = unsafe { at.read_volatile() };
            put(at, good | 1 << phys_bits);
            check_eq!(read(), (PF, 9), "an address beyond the physical width at level {level}");
            put(at, good | 1 << 52);
            check_eq!(read(), FINE, "bit 52 is software's at level {level}");
            put(at, good);
        }
    }
    // Where a page's entry tells that it is global, AMD's processors want zero in upper tables.
    for (level, at) in [(4, top), (3, entry(3, 0)), (2, entry(2, 0))] {
        map(Size::Small, ALL, ALL);
        let good = unsafe { at.read_volatile() };
        put(at, good | 1 << 8);
        if level > 2 && cpu::is_amd() {
            check_eq!(read(), (PF, 9), "bit 8 is reserved at level {level}");
        } else {
            check_eq!(read(), FINE, "bit 8 is ignored at level {level}");
        }
        put(at, good);
    }
    let efer = cpu::rdmsr(cpu::msr::EFER);
    map(Size::Small, ALL | NX, ALL);
    cpu::wrmsr(cpu::msr::EFER, efer & !0x800);
    set_cr3(cpu::cr3());
    let what = read();
    let fetch = access(T, Kind::Fetch, false, false).what();
    cpu::wrmsr(cpu::msr::EFER, efer);
    check_eq!(what, (PF, 9), "NX is reserved without EFER.NXE");
    check!(fetch == (PF, 9) || fetch == (PF, 0x19), "and for fetches, too");
    if !feature::GBPAGES.offered() {
        map(Size::Small, ALL, ALL);
        put(entry(3, 0), DATA | ALL | PS);
        check_eq!(read(), (PF, 9), "PS is reserved in a PDPTE without 1 GiB pages");
    }
}

fn caching() {
    let two = DATA + 0x1000;
    unsafe {
        (DATA as *mut u64).write_volatile(0x80cd);
        (two as *mut u64).write_volatile(2);
    }
    let value = || unsafe { (T as *const u64).read_volatile() };
    map(Size::Small, ALL, ALL);
    check_eq!(value(), 0x80cd, "a mapping");
    unsafe { entry(1, 0).write_volatile(two | ALL) };
    invlpg(T);
    check_eq!(value(), 2, "INVLPG lets a changed one be seen");
    unsafe { entry(1, 0).write_volatile(DATA | ALL) };
    set_cr3(cpu::cr3());
    check_eq!(value(), 0x80cd, "so does a CR3 write");

    // Global pages survive a CR3 write; whether they are cached at all is the processor's choice.
    let old = cpu::cr4();
    set_cr4(old | cr4::PGE);
    unsafe { entry(1, 0).write_volatile(DATA | ALL | G) };
    invlpg(T);
    value();
    unsafe { entry(1, 0).write_volatile(two | ALL | G) };
    invlpg(T);
    check_eq!(value(), 2, "INVLPG of a global page");
    unsafe { entry(1, 0).write_volatile(DATA | ALL | G) };
    set_cr4(old);
    set_cr4(old | cr4::PGE);
    check_eq!(value(), 0x80cd, "a change of CR4.PGE forgets global pages");
    set_cr4(old);

    // A large page and INVLPG of another address in it.
    map(Size::Large, ALL, ALL);
    value();
    unsafe { entry(2, 0).write_volatile(DATA + 0x20_0000 | ALL | PS) };
    unsafe { ((DATA + 0x20_0000) as *mut u64).write_volatile(3) };
    invlpg(T + 0x12_3456);
    check_eq!(value(), 3, "INVLPG of any address in a large page");

    // WP matters at once, without INVLPG.
    map(Size::Small, P | U, ALL);
    let store = || access(T, Kind::Write, false, false).what();
    check_eq!(with(0, cr0::WP, 0, store), FINE, "a store without WP");
    check_eq!(store(), (PF, 3), "the same with WP, right after");
    check_eq!(with(0, cr0::WP, 0, store), FINE, "and without again");

    // A raised permission needs no INVLPG after the fault.
    map(Size::Small, P | U, ALL);
    check_eq!(store(), (PF, 3), "a read-only page");
    unsafe { entry(1, 0).write_volatile(DATA | ALL) };
    check_eq!(store(), FINE, "made writable, right after the fault");
    unsafe { entry(1, 0).write_volatile(0) };
    invlpg(T);
    check_eq!(store(), (PF, 2), "no page");
    unsafe { entry(1, 0).write_volatile(DATA | ALL) };
    check_eq!(store(), FINE, "made present, right after the fault");
    prepare();
}

/// Accesses over the end of a page.
fn crossing() {
    map(Size::Small, ALL, ALL);
    let second = entry(1, 1);
    let end = T + 0xffc;
    let put = |value: u64| {
        unsafe { second.write_volatile(value) };
        invlpg(T + 0x1000);
    };
    unsafe { ((DATA + 0xff8) as *mut u64).write_volatile(0x1111_1111_1111_1111) };
    let first = || unsafe { ((DATA + 0xff8) as *const u64).read_volatile() };
    let store = || catch(|| unsafe { asm!("mov [{0}], {0}", in(reg) end) });
    put(0);
    let what = store();
    check!(what.is(PF, 2) && what.cr2 == T + 0x1000, "a store into the next page, absent");
    check_eq!(first(), 0x1111_1111_1111_1111, "nothing of it is stored");
    put(DATA + 0x1000 | P | U);
    let what = store();
    check!(what.is(PF, 3) && what.cr2 == T + 0x1000, "a store into the next page, read-only");
    check_eq!(first(), 0x1111_1111_1111_1111, "nothing of it is stored");
    let add = catch(|| unsafe { asm!("lock add [{0}], {0}", in(reg) end) });
    check!(add.is(PF, 3) && add.cr2 == T + 0x1000, "a locked addition across pages");
    check_eq!(first(), 0x1111_1111_1111_1111, "nothing of it is stored");
    put(DATA + 0x1000 | ALL);
    check_eq!(store().what(), FINE, "both writable");
    check_eq!(first() >> 32, end & 0xffff_ffff, "the first half is stored");
    // An instruction across pages.
    let code = code!(64, "mov eax, 0x12345678", "int 0x80");
    unsafe {
        core::ptr::copy_nonoverlapping(code.as_ptr(), (DATA + 0xffe) as *mut u8, code.len());
    }
    let run = || enter(&kernel_frame(T + 0xffe));
    let done = run();
    check!(done.is(DONE, 0) && done.frame.rax == 0x1234_5678, "an instruction across pages");
    put(DATA + 0x1000 | ALL | NX);
    let what = run();
    check!(what.is(PF, 0x11) && what.cr2 == T + 0x1000, "its second half not executable");
    check_eq!(what.frame.rip, T + 0xffe, "the instruction's address is pushed");
    put(0);
    let what = run();
    check!(what.is(PF, 0x10) && what.cr2 == T + 0x1000, "its second half absent");
    prepare();
}
