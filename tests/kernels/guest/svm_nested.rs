//! Nested paging: what faults in the host's tables, and what an exit tells of it (APM vol. 2, 15.25).

use crate::boot::PML4;
use crate::cpu::{self, cr4, feature, msr, rdmsr, set_cr4, wrmsr};
use crate::svm::{NESTED, at, begins, code, ends, enter, get, guest, intercept, nested_tables};
use crate::svm::{prepare, set};
use crate::trap::{self, vector::*};
use core::arch::naked_asm;
use core::ptr::{addr_of, addr_of_mut};

/// Bits of EXITINFO1: the address of the access itself, or of one of the guest's tables.
const FINAL: u64 = 1 << 32;
const WALK: u64 = 1 << 33;
const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const RESERVED: u64 = 8;
const FETCH: u64 = 0x10;
const ALL: u64 = 7;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const GLOBAL: u64 = 0x100;
const NX: u64 = 1 << 63;
const EFER_NXE: u64 = 1 << 11;

const DATA: u64 = 0x600_0000;
const PAGE: u64 = DATA + 0x40;

guest!(nothing, "nop");
guest!(reads, "mov ecx, 0x6000040", "mov eax, [rcx]");
guest!(writes, "mov ecx, 0x6000040", "mov [rcx], ecx");
guest!(adds, "mov ecx, 0x6000040", "lock add dword ptr [rcx], 1");
guest!(reads_apic, "mov ecx, 0xfee00030", "mov eax, [rcx]");
guest!(writes_apic, "mov ecx, 0xfee00030", "mov [rcx], ecx");
guest!(jumps, "mov ecx, 0x6000040", "jmp rcx");

pub fn run() {
    if !feature::SVM.offered() || !feature::NPT.offered() || !begins() {
        return crate::tap::skip("nested paging");
    }
    leaves();
    fetches();
    upper_levels();
    own_tables();
    devices();
    events();
    marks();
    ends();
}

/// A guest behind tables that map one to one; the entry of the page at [`DATA`].
fn start(guest: extern "C" fn()) -> *mut u64 {
    let entry = nested_tables();
    prepare(guest);
    set(at::NESTED, 1);
    set(at::NESTED_CR3, addr_of!(NESTED) as u64);
    // The tables were made anew.
    set(at::ASID, 1 | 1 << 32);
    entry
}

/// Splits the nested page of 2 MiB that `address` lies in; the entry of its page of 4 KiB.
fn split(address: u64) -> *mut u64 {
    let (table, entry) =
        unsafe { (addr_of_mut!(NESTED[6]), addr_of_mut!(NESTED[2 + (address >> 30) as usize])) };
    for i in 0..512 {
        let page = (address & !0x1f_ffff) + i as u64 * 4096;
        unsafe { (*table).0[i] = page | ALL };
    }
    unsafe {
        (*entry).0[(address >> 21) as usize & 511] = table as u64 | ALL;
        addr_of_mut!((*table).0[(address >> 12) as usize & 511])
    }
}

fn check_fault(name: &str, error: u64, address: u64) {
    check_eq!(enter(), code::NPF, "{name}");
    check_eq!(get(at::INFO1), error, "{name}: the error code");
    check_eq!(get(at::INFO2), address, "{name}: the address");
    check_eq!(get(at::NEXT_RIP), 0, "{name}: no next instruction");
}

fn leaves() {
    let table: [(extern "C" fn(), u64, u64, &str); 9] = [
        (reads, 0, U, "reading what is not there"),
        (writes, 0, U | W, "writing what is not there"),
        (adds, 0, U | W, "adding to what is not there"),
        (reads, P | W, P | U, "reading what is the supervisor's"),
        (writes, P | W, P | U | W, "writing what is the supervisor's"),
        (writes, P | U, P | U | W, "writing what is for reading"),
        (adds, P | U, P | U | W, "adding to what is for reading"),
        (reads, ALL | 1 << 51, P | U | RESERVED, "reading past a reserved bit"),
        (writes, ALL | 1 << 51, P | U | W | RESERVED, "writing past a reserved bit"),
    ];
    for (guest, flags, error, name) in table {
        let entry = start(guest);
        unsafe { *entry = DATA | flags };
        check_fault(name, FINAL | error, PAGE);
        check_eq!(get(at::RIP), guest as *const () as u64 + 5, "{name}: at the instruction");
        // The host mends it, and the guest goes on.
        unsafe { *entry = DATA | ALL };
        set(at::RIP, guest as *const () as u64);
        set(at::ASID, 1 | 3 << 32);
        check_eq!(enter(), code::VMMCALL, "{name}: then mended");
    }
}

fn fetches() {
    let put = || {
        let entry = start(jumps);
        // VMMCALL.
        unsafe { (PAGE as *mut [u8; 3]).write_volatile([0x0f, 0x01, 0xd9]) };
        entry
    };
    put();
    check_eq!(enter(), code::VMMCALL, "a fetch");
    let efer = rdmsr(msr::EFER);
    wrmsr(msr::EFER, efer | EFER_NXE);
    let entry = put();
    unsafe { *entry = DATA | ALL | NX };
    check_fault("a fetch of what is not executable", FINAL | P | U | FETCH, PAGE);
    check_eq!(get(at::RIP), PAGE, "faults where it jumped to");
    let entry = put();
    unsafe { *entry = 0 };
    check_fault("a fetch of what is not there", FINAL | U | FETCH, PAGE);
    wrmsr(msr::EFER, efer & !EFER_NXE);
    let entry = put();
    unsafe { *entry = DATA | ALL | NX };
    check_fault("without EFER.NXE its bit is reserved", FINAL | P | U | RESERVED, PAGE);
    if feature::SMEP.offered() {
        let old = cpu::cr4();
        set_cr4(old | cr4::SMEP);
        let entry = put();
        unsafe { *entry = 0 };
        check_fault("with CR4.SMEP fetches are told", FINAL | U | FETCH, PAGE);
        set_cr4(old);
    }
    wrmsr(msr::EFER, efer);
}

fn upper_levels() {
    // The tables that lead to DATA alone: an entry of the page directory.
    let directory = unsafe { addr_of_mut!(NESTED[2].0[DATA as usize >> 21]) };
    for (value, error, name) in [
        (0, U, "a directory entry that is not there"),
        (DATA | ALL | PS | 1 << 13, P | U | RESERVED, "a large page with a reserved bit"),
        (DATA | P | U | PS, P | U | W, "a large page for reading"),
        (DATA | P | W | PS, P | U | W, "a supervisor's large page"),
    ] {
        let guest = if error & W != 0 { writes } else { reads };
        start(guest);
        unsafe { directory.write_volatile(value) };
        check_fault(name, FINAL | error, PAGE);
    }
    start(reads);
    unsafe { directory.write_volatile(DATA | ALL | PS) };
    check_eq!(enter(), code::VMMCALL, "a large page");
    // Those above lead to the guest's own tables as well, which come first.
    let root = addr_of!(PML4) as u64;
    for (level, value, error, name) in [
        (0usize, 0, U | W, "a PML4E that is not there"),
        (0, ALL | PS, P | U | W | RESERVED, "PS in a PML4E"),
        (1, 0, U | W, "a PDPTE that is not there"),
        (1, ALL | 1 << 51, P | U | W | RESERVED, "a reserved bit in a PDPTE"),
    ] {
        start(reads);
        let entry = unsafe { addr_of_mut!(NESTED[level].0[0]) };
        let good = unsafe { entry.read_volatile() };
        unsafe { entry.write_volatile(if value == 0 { 0 } else { good | value }) };
        check_eq!(enter(), code::NPF, "{name}");
        check_eq!(get(at::INFO1), WALK | error, "{name}: the error code");
        check_eq!(get(at::INFO2) & !0xfff, root, "{name}: the address");
    }
    for (level, error, name) in [(0usize, RESERVED, "PML4E"), (1, RESERVED, "PDPTE"), (2, 0, "PDE")]
    {
        start(reads);
        // That of the page directory leads to the data alone.
        let at = if level == 2 { DATA as usize >> 21 } else { 0 };
        let entry = unsafe { addr_of_mut!(NESTED[level].0[at]) };
        unsafe { entry.write_volatile(entry.read_volatile() | GLOBAL) };
        let exit = enter();
        if error == 0 || !cpu::is_amd() {
            check_eq!(exit, code::VMMCALL, "bit 8 of a {name} is ignored");
        } else {
            check_eq!(exit, code::NPF, "bit 8 of a {name} is reserved");
            check_eq!(
                get(at::INFO1),
                WALK | P | W | U | error,
                "bit 8 of a {name}: the error code"
            );
        }
    }
}

fn own_tables() {
    let root = addr_of!(PML4) as u64;
    start(reads);
    let entry = split(root);
    unsafe { *entry = 0 };
    check_fault("a guest's root that is not there", WALK | U | W, root);
    start(reads);
    let entry = split(root);
    unsafe { *entry = root | P | U };
    check_fault("one that may only be read", WALK | P | U | W, root);
    start(reads);
    set(at::CR3, 0x40_0000_0000);
    check_fault("one beyond the host's memory", WALK | U | W, 0x40_0000_0000);
}

fn devices() {
    for (guest, flags, error, name) in [
        (writes_apic as extern "C" fn(), P | U, P | U | W, "a device that may only be read"),
        (reads_apic, 0, U, "a device that is not there"),
    ] {
        start(guest);
        let entry = split(0xfee0_0000);
        unsafe { *entry = 0xfee0_0000 | flags };
        check_fault(name, FINAL | error, 0xfee0_0030);
    }
    start(reads_apic);
    let entry = split(0xfee0_0000);
    unsafe { *entry = 0xfee0_0000 | P | U };
    check_eq!(enter(), code::VMMCALL, "reading a device");
    check_eq!(get(at::RAX) as u32, crate::apic::read(crate::apic::reg::VERSION), "comes to it");
}

/// Faults while an event is being delivered.
fn events() {
    const VECTOR: u64 = 0x91;
    let idt = addr_of!(trap::IDT) as u64;
    let gate = idt + VECTOR * 16;
    for (kind, name) in [(0u64, "an interrupt"), (4, "INT n")] {
        let guest = nothing as extern "C" fn();
        start(guest);
        unsafe { *split(gate) = 0 };
        let event = 1 << 31 | kind << 8 | VECTOR;
        set(at::EVENT, event);
        set(at::NEXT_RIP, guest as *const () as u64);
        check_eq!(enter(), code::NPF, "{name} whose gate is not there");
        check_eq!(get(at::INFO1), FINAL | U, "{name}: the error code");
        check_eq!(get(at::INFO2), gate, "{name}: the address");
        check_eq!(get(at::INT_INFO), event, "{name}: what was being delivered");
        check_eq!(get(at::RIP), guest as *const () as u64, "{name}: where");
        check_eq!(get(at::EVENT) >> 31 & 1, 0, "{name}: it is not to be injected any more");
    }
    // A guest's page fault is the guest's, whatever the host's tables say.
    start(reads);
    intercept(code::EXCEPTION + PF);
    set(at::RIP, 0x70_0000_0000);
    check_eq!(enter(), code::EXCEPTION + PF, "a guest's own page fault");
    check_eq!(get(at::INFO2), 0x70_0000_0000, "with its address");
}

/// Accessed and dirty bits of the host's tables.
fn marks() {
    for (guest, wanted, name) in [
        (reads as extern "C" fn(), A, "reading"),
        (writes, A | D, "writing"),
        (adds, A | D, "adding"),
    ] {
        let entry = start(guest);
        check_eq!(enter(), code::VMMCALL, "{name}");
        check_eq!(unsafe { entry.read_volatile() } & (A | D), wanted, "{name}: the marks");
    }
    let root = addr_of!(PML4) as u64;
    start(reads);
    let entry = split(root);
    check_eq!(enter(), code::VMMCALL, "a walk");
    check_eq!(unsafe { entry.read_volatile() } & (A | D), A | D, "counts as writing the tables");
}
