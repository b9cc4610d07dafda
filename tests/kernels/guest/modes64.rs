//! What 64-bit mode can be told: five levels of paging, masked addresses, and instructions kept from
//! user code.

use crate::boot::{PML4, Table, sel};
use crate::cpu::{self, cr4, feature, flag, msr, rdmsr, set_cr3, set_cr4, wrmsr};
use crate::paging::{self, DATA, Kind, P, Size, T, U, W, access, map};
use crate::trap::{
    self, FINE, Frame, Pointer, catch, enter, fault_of, kernel_frame, user_frame, user_frame32,
    vector::*,
};
use core::arch::asm;
use core::ptr::addr_of_mut;

const ALL: u64 = P | W | U;

static mut PML5: Table = Table([0; 512]);

/// Not canonical with four levels, canonical with five.
const WIDE: u64 = 1 << 50;
/// Canonical with neither.
const BEYOND: u64 = 1 << 60;

/// Runs `code` with CR4 and CR3 changed where only legacy mode may change them.
fn with_paging_off(cr4: u64, cr3: u64) {
    crate::legacy::switch(cr3, cr4);
}

fn load(at: u64) -> impl FnOnce() {
    move || unsafe { asm!("mov {0}, [{0}]", inout(reg) at => _) }
}

pub fn la57() {
    if !feature::LA57.offered() {
        return crate::tap::skip("five levels of paging");
    }
    check_eq!(cpu::cpuid(0x8000_0008, 0)[0] >> 8 & 0xff, 57, "CPUID tells of 57 bits");
    let (cr3, old) = (cpu::cr3(), cpu::cr4());
    check_eq!(
        fault_of(|| set_cr4(old | cr4::LA57)),
        (GP, 0),
        "CR4.LA57 cannot change in long mode"
    );
    check_eq!(fault_of(load(WIDE)), (GP, 0), "four levels: 57 bits are not canonical for a load");
    registers("four levels");
    unsafe { addr_of_mut!(PML5.0[0]).write_volatile(addr_of_mut!(PML4) as u64 | ALL) };
    with_paging_off(old | cr4::LA57, addr_of_mut!(PML5) as u64);
    check_eq!(cpu::cr4() & cr4::LA57, cr4::LA57, "CR4.LA57 is set");
    check_eq!(fault_of(|| set_cr4(old)), (GP, 0), "nor can it be cleared there");
    map(Size::Small, ALL, ALL);
    check_eq!(fault_of(load(T)), FINE, "five levels: the lower half of the PML4");
    let outcome = catch(load(WIDE));
    check!(outcome.is(PF, 0) && outcome.cr2 == WIDE, "five levels: 57 bits are canonical");
    check_eq!(fault_of(load(BEYOND)), (GP, 0), "more are not");
    registers("five levels");
    // The same tables in another slot.
    let at = WIDE >> 48 & 0x1ff;
    unsafe { addr_of_mut!(PML5.0[at as usize]).write_volatile(addr_of_mut!(PML4) as u64 | ALL) };
    set_cr3(cpu::cr3());
    unsafe { (DATA as *mut u64).write_volatile(0x1234) };
    let value = unsafe { ((at << 48 | T) as *const u64).read_volatile() };
    check_eq!(value, 0x1234, "an address of 57 bits leads to memory");
    paging::prepare();
    let done = enter(&kernel_frame(at << 48 | T));
    check!(done.is(DONE, 0) && done.frame.rip == (at << 48 | T) + 2, "code runs there");
    unsafe { addr_of_mut!(PML5.0[at as usize]).write_volatile(addr_of_mut!(PML4) as u64 | P) };
    set_cr3(cpu::cr3());
    check_eq!(
        access(at << 48 | T, Kind::Read, true, false).what(),
        (PF, 5),
        "rights of the fifth level: user"
    );
    check_eq!(access(at << 48 | T, Kind::Write, false, false).what(), (PF, 3), "and writing");
    unsafe {
        addr_of_mut!(PML5.0[at as usize]).write_volatile(addr_of_mut!(PML4) as u64 | ALL | 0x80)
    };
    set_cr3(cpu::cr3());
    check_eq!(fault_of(load(at << 48 | T)), (PF, 9), "PS is reserved in a PML5E");
    unsafe { addr_of_mut!(PML5.0[at as usize]).write_volatile(0) };
    with_paging_off(old, cr3);
    check_eq!(cpu::cr4() & cr4::LA57, 0, "back to four levels");
    check_eq!(fault_of(load(T)), FINE, "which work");
}

/// Registers that hold addresses take what the processor is capable of, whatever CR4.LA57 says.
fn registers(levels: &str) {
    for (name, number) in [
        ("LSTAR", msr::LSTAR),
        ("CSTAR", msr::CSTAR),
        ("FS_BASE", msr::FS_BASE),
        ("GS_BASE", msr::GS_BASE),
        ("KERNEL_GS_BASE", msr::KERNEL_GS_BASE),
        ("SYSENTER_ESP", msr::SYSENTER_ESP),
        ("SYSENTER_EIP", msr::SYSENTER_EIP),
    ] {
        check_eq!(fault_of(|| wrmsr(number, BEYOND)), (GP, 0), "{levels}: {name} refuses 61 bits");
        check_eq!(fault_of(|| wrmsr(number, WIDE)), FINE, "{levels}: {name} takes 57 bits");
        wrmsr(number, 0);
    }
    for (base, want) in [(WIDE, FINE), (BEYOND, (GP, 0))] {
        let pointer = Pointer { limit: 4095, base };
        let what = fault_of(|| unsafe { asm!("lidt [{}]", in(reg) &pointer) });
        trap::load_idt(4095);
        if want == FINE {
            check_eq!(what, want, "{levels}: LIDT takes 57 bits");
        }
    }
}

pub fn lam() {
    if !feature::LAM.offered() {
        return crate::tap::skip("masked addresses");
    }
    const U57: u64 = 1 << 61;
    const U48: u64 = 1 << 62;
    const TOP: u64 = 1 << 63;
    let (cr3, old) = (cpu::cr3(), cpu::cr4());
    map(Size::Small, ALL, ALL);
    // The same tables at the top of the address space, for supervisor addresses.
    unsafe {
        let lower = addr_of_mut!(PML4.0[(T >> 39) as usize]).read_volatile();
        addr_of_mut!(PML4.0[511]).write_volatile(lower);
    }
    let high = !0u64 << 39;
    let tag = |at: u64, bits: u64| at | bits;
    check_eq!(fault_of(load(tag(T, 0x2a << 57))), (GP, 0), "off: a tag in bits 57 up");
    set_cr3(cr3 | U57);
    check_eq!(cpu::cr3(), cr3 | U57, "CR3 holds LAM_U57");
    check_eq!(fault_of(load(tag(T, 0x2a << 57))), FINE, "LAM_U57: a tag in bits 57 up");
    check_eq!(fault_of(load(tag(T, 1 << 50))), (GP, 0), "LAM_U57: none in lower bits");
    check_eq!(fault_of(load(tag(T, TOP))), (GP, 0), "LAM_U57: bit 63 still counts");
    check_eq!(fault_of(load(high ^ 0x2a << 57)), (GP, 0), "LAM_U57: not for supervisor addresses");
    set_cr3(cr3 | U48);
    check_eq!(fault_of(load(tag(T, 0x2a << 57))), FINE, "LAM_U48: a tag in bits 57 up");
    check_eq!(fault_of(load(tag(T, 1 << 50))), FINE, "LAM_U48: in lower bits, too");
    check_eq!(fault_of(load(tag(T, TOP))), (GP, 0), "LAM_U48: bit 63 still counts");
    let outcome = catch(load(tag(0x70_0000_0000, 0x3 << 50)));
    check!(
        outcome.is(PF, 0) && outcome.cr2 == 0x70_0000_0000,
        "CR2 has the address without its tag"
    );
    let store = fault_of(|| unsafe { asm!("mov [{0}], {0}", in(reg) tag(T + 64, 5 << 48)) });
    check_eq!(store, FINE, "a tagged store");
    check_eq!(
        unsafe { ((DATA + 64) as *const u64).read_volatile() },
        tag(T + 64, 5 << 48),
        "arrives"
    );
    let jump = catch(|| unsafe { asm!("jmp {}", in(reg) tag(T, 1 << 50)) });
    check!(jump.is(GP, 0), "code addresses have no tags");
    let user =
        Frame { rbx: tag(T, 7 << 48), ..user_frame(code!(64, "mov rax, [rbx]", "int 0x80")) };
    check_eq!(enter(&user).what(), (DONE, 0), "ring 3 uses tags");
    let pushed = fault_of(|| unsafe {
        asm!("xchg rsp, {0}", "push rax", "pop rax", "xchg rsp, {0}", inout(reg) tag(T + 128, 7 << 48) => _)
    });
    check_eq!(pushed, FINE, "a tagged stack");
    map(Size::Small, P | W, ALL);
    check_eq!(enter(&user).what(), (PF, 5), "rights are checked behind a tag");
    map(Size::Small, ALL, ALL);
    set_cr3(cr3);
    check_eq!(fault_of(load(tag(T, 0x2a << 57))), (GP, 0), "off again");
    check_eq!(fault_of(load(high ^ 0x2a << 57)), (GP, 0), "off: a supervisor address");
    set_cr4(old | cr4::LAM_SUP);
    check_eq!(fault_of(load(high ^ 0x2a << 57)), FINE, "LAM_SUP: a supervisor address");
    check_eq!(fault_of(load(high ^ 1 << 50)), FINE, "LAM_SUP: of 48 bits with four levels");
    check_eq!(fault_of(load(high ^ TOP)), (GP, 0), "LAM_SUP: bit 63 still counts");
    check_eq!(fault_of(load(tag(T, 0x2a << 57))), (GP, 0), "LAM_SUP: not for user addresses");
    set_cr4(old);
    check_eq!(fault_of(load(high ^ 0x2a << 57)), (GP, 0), "off at last");
    check_eq!(fault_of(|| set_cr3(cr3 | 1 << 60)), (GP, 0), "CR3 bit 60 is reserved");
    unsafe { addr_of_mut!(PML4.0[511]).write_volatile(0) };
    set_cr3(cr3);
}

pub fn umip() {
    if !feature::UMIP.offered() {
        return crate::tap::skip("UMIP");
    }
    let old = cpu::cr4();
    for on in [false, true] {
        set_cr4(if on { old | cr4::UMIP } else { old });
        let want = if on { (GP, 0) } else { (DONE, 0) };
        let name = if on { "on" } else { "off" };
        for (instruction, code) in [
            ("SGDT", code!(64, "sgdt [rsp - 64]", "int 0x80")),
            ("SIDT", code!(64, "sidt [rsp - 64]", "int 0x80")),
            ("SLDT", code!(64, "sldt eax", "int 0x80")),
            ("SLDT to memory", code!(64, "sldt [rsp - 64]", "int 0x80")),
            ("STR", code!(64, "str eax", "int 0x80")),
            ("STR to memory", code!(64, "str [rsp - 64]", "int 0x80")),
            ("SMSW", code!(64, "smsw eax", "int 0x80")),
            ("SMSW to memory", code!(64, "smsw [rsp - 64]", "int 0x80")),
        ] {
            check_eq!(trap::user(code).what(), want, "UMIP {name}: {instruction} in ring 3");
        }
        let compatible = user_frame32(code!(32, "sgdt [esp - 64]", "int 0x80"));
        check_eq!(enter(&compatible).what(), want, "UMIP {name}: SGDT in compatibility mode");
        let mut pointer = Pointer { limit: 0, base: 0 };
        let ring0 = || unsafe {
            asm!("sgdt [{}]", "smsw {1:e}", "str {1:e}", "sldt {1:e}", in(reg) &mut pointer, out(reg) _)
        };
        check_eq!(fault_of(ring0), FINE, "UMIP {name}: ring 0 may");
    }
    set_cr4(old);
}

pub fn smap() {
    if !feature::SMAP.offered() {
        return crate::tap::skip("SMAP");
    }
    let old = cpu::cr4();
    map(Size::Small, ALL, ALL);
    let read = load(T);
    set_cr4(old | cr4::SMAP);
    let denied = catch(read);
    check!(denied.is(PF, 1) && denied.cr2 == T, "a load of a user page");
    check_eq!(
        fault_of(|| unsafe { asm!("stac", "mov {0}, [{0}]", "clac", inout(reg) T => _) }),
        FINE,
        "with STAC"
    );
    check_eq!(fault_of(load(T)), (PF, 1), "after CLAC");
    let outcome = catch(|| unsafe { asm!("stac", "ud2") });
    check!(outcome.frame.rflags & flag::AC != 0, "AC is pushed");
    unsafe { asm!("clac") };
    check_eq!(trap::user(code!(64, "int 0x80")).what(), (DONE, 0), "ring 3 is not concerned");
    let mut frame = user_frame(code!(64, "mov rax, [rsp - 8]", "int 0x80"));
    frame.rflags |= flag::AC;
    check_eq!(enter(&frame).what(), (DONE, 0), "AC of ring 3");
    unsafe { asm!("clac") };
    // Implicit supervisor accesses never reach user pages, whatever AC says.
    unsafe { ((DATA + 8) as *mut u64).write_volatile(trap::descriptor(sel::DATA)) };
    trap::set_descriptor(sel::FREE, trap::segment(T as u32, 0xfff, 0x82));
    trap::set_descriptor(sel::FREE + 8, T >> 32);
    let load_ldt = || unsafe {
        asm!("lldt {0:x}", "stac", "mov fs, {1:x}", "clac", in(reg) sel::FREE, in(reg) 0xcu16)
    };
    let what = catch(load_ldt);
    unsafe { asm!("clac", "lldt {:x}", in(reg) 0u16) };
    check!(
        what.is(PF, 1) && what.cr2 == T + 8,
        "an LDT on a user page is out of reach, even with AC"
    );
    set_cr4(old);
    for instruction in [code!(64, "stac"), code!(64, "clac")] {
        check_eq!(trap::user(instruction).what(), (UD, 0), "STAC and CLAC in ring 3");
    }
    // A write is denied, too; a fetch is SMEP's affair.
    set_cr4(old | cr4::SMAP);
    paging::prepare_late(T);
    check_eq!(access(T, Kind::Write, false, false).what(), (PF, 3), "a store");
    check_eq!(access(T, Kind::Fetch, false, false).what(), (DONE, 0), "a fetch");
    set_cr4(old);
}

pub fn pcid() {
    if !feature::PCID.offered() {
        return crate::tap::skip("PCID");
    }
    let (cr3, old) = (cpu::cr3(), cpu::cr4());
    set_cr3(cr3 | 0x10);
    check_eq!(fault_of(|| set_cr4(old | cr4::PCIDE)), (GP, 0), "CR4.PCIDE with a PCID in CR3");
    set_cr3(cr3);
    check_eq!(fault_of(|| set_cr4(old | cr4::PCIDE)), FINE, "CR4.PCIDE");
    check_eq!(fault_of(|| set_cr3(cr3 | 1 << 63 | 5)), FINE, "CR3 bit 63");
    check_eq!(cpu::cr3(), cr3 | 5, "which does not stay");
    let off = fault_of(|| cpu::set_cr0(cpu::cr0() & !cpu::cr0::PG));
    check_eq!(off, (GP, 0), "paging cannot be turned off with PCIDs on");
    let invpcid = |kind: u64, pcid: u64, at: u64| {
        let descriptor = [pcid, at];
        fault_of(|| unsafe { asm!("invpcid {}, [{}]", in(reg) kind, in(reg) &descriptor) })
    };
    let value = || unsafe { (T as *const u64).read_volatile() };
    let leaf = paging::entry(1, 0);
    let put = |at: u64, more: u64| unsafe { leaf.write_volatile(at | ALL | more) };
    unsafe {
        (DATA as *mut u64).write_volatile(1);
        ((DATA + 0x1000) as *mut u64).write_volatile(2);
    }
    map(Size::Small, ALL, ALL);
    if feature::INVPCID.offered() {
        check_eq!(invpcid(4, 0, 0), (GP, 0), "INVPCID: type 4");
        check_eq!(invpcid(0, 0x1000, 0), (GP, 0), "INVPCID: a PCID of 13 bits");
        check_eq!(invpcid(0, 5, BEYOND), (GP, 0), "INVPCID: an address that is not canonical");
        check_eq!(value(), 1, "a mapping");
        put(DATA + 0x1000, 0);
        check_eq!(invpcid(0, 5, T), FINE, "INVPCID: an address");
        check_eq!(value(), 2, "is forgotten");
        put(DATA, 0);
        check_eq!(invpcid(1, 5, 0), FINE, "INVPCID: a PCID");
        check_eq!(value(), 1, "is forgotten");
        put(DATA + 0x1000, 0);
        check_eq!(invpcid(3, 0, 0), FINE, "INVPCID: all but global ones");
        check_eq!(value(), 2, "are forgotten");
        put(DATA, 0x100);
        check_eq!(invpcid(2, 0, 0), FINE, "INVPCID: all");
        check_eq!(value(), 1, "are forgotten");
        // What another PCID has cached.
        set_cr3(cr3 | 6);
        value();
        set_cr3(cr3 | 1 << 63 | 5);
        put(DATA + 0x1000, 0);
        check_eq!(invpcid(2, 0, 0), FINE, "INVPCID: all again");
        set_cr3(cr3 | 1 << 63 | 6);
        check_eq!(value(), 2, "the other PCID's as well");
        set_cr4(old);
        check_eq!(fault_of(|| ()), FINE, "PCIDs off");
        check_eq!(invpcid(1, 0, 0), FINE, "INVPCID: PCID 0 without PCIDs");
        check_eq!(invpcid(1, 1, 0), (GP, 0), "INVPCID: another one without PCIDs");
    } else {
        check_eq!(invpcid(0, 0, 0), (UD, 0), "INVPCID does not exist");
    }
    set_cr4(old);
    set_cr3(cr3);
    check_eq!(fault_of(|| set_cr3(cr3 | 1 << 63)), (GP, 0), "CR3 bit 63 without PCIDs");
    paging::prepare();
    let _ = rdmsr;
}
