//! System management mode, entered through the chipset's APM port. Firmware, or whoever stands in for
//! it, has moved SMBASE to the memory behind the screen's; as long as that is not locked, the chipset
//! can show it.

use crate::cpu::{self, inb, inl, msr, outb, outl, rdmsr};
use crate::trap::{fault_of, vector::UD};
use core::arch::asm;

const SMBASE: u64 = 0xa_0000;

fn config(function: u32, register: u32) {
    outl(0xcf8, 1 << 31 | function | register);
}

/// Makes a write to the APM port raise an SMI: the power management function's APMC_EN.
fn enable() -> bool {
    const PM: u32 = 1 << 11 | 3 << 8;
    config(PM, 0);
    if inl(0xcfc) != 0x7113_8086 {
        return false;
    }
    config(PM, 0x58);
    let old = inl(0xcfc);
    outl(0xcfc, old | 1 << 25);
    true
}

/// Shows the memory behind the screen's, or hides it (82441FX, SMRAM register).
fn show(open: bool) {
    config(0, 0x70);
    let old = inl(0xcfc) & !(1 << 22);
    outl(0xcfc, if open { old | 1 << 22 } else { old });
}

pub fn run() {
    check_eq!(
        fault_of(|| unsafe { asm!("rsm") }),
        (UD, 0),
        "RSM outside of system management mode"
    );
    if !enable() {
        return crate::tap::skip("no power management function");
    }
    // The handler counts, notes what it finds, changes a saved register, and goes back.
    let handler = code!(
        16,
        "mov ax, cs",
        "mov [0x7100], ax",
        "mov eax, cr0",
        "mov [0x7104], eax",
        "inc dword ptr [0x7108]",
        "pushf",
        "pop ax",
        "mov [0x710c], ax",
        "rsm"
    );
    show(true);
    unsafe {
        let at = (SMBASE + 0x8000) as *mut u8;
        core::ptr::copy_nonoverlapping(handler.as_ptr(), at, handler.len());
        let first = at.read_volatile();
        (0x7108 as *mut u32).write_volatile(0);
        show(false);
        check!(first == handler[0], "SMRAM can be opened");
    }
    let before = (cpu::cr0(), cpu::cr3(), cpu::cr4(), rdmsr(msr::EFER));
    let (mut rbx, mut r15) = (0x1111_2222_3333_4444u64, 0x5555_6666_7777_8888u64);
    unsafe {
        asm!("xchg rbx, {b}", "out 0xb2, al", "nop", "nop", "xchg rbx, {b}", b = inout(reg) rbx, inout("r15") r15, in("al") 1u8);
    }
    let word = |at: u64| unsafe { (at as *const u32).read_volatile() };
    if word(0x7108) == 0 {
        return crate::tap::skip("the APM port raises no SMI");
    }
    check_eq!(word(0x7108), 1, "the handler ran once");
    check_eq!(word(0x7100) & 0xffff, 0xa000, "CS of the handler is SMBASE");
    check_eq!(word(0x7104) & 0x8000_0001, 0, "no protection, no paging");
    check_eq!(word(0x710c) & 0xffff, 2, "flags are clear");
    check_eq!((rbx, r15), (0x1111_2222_3333_4444, 0x5555_6666_7777_8888), "registers come back");
    check_eq!(
        (cpu::cr0(), cpu::cr3(), cpu::cr4(), rdmsr(msr::EFER)),
        before,
        "so do control registers"
    );
    outb(0xb2, 2);
    check_eq!(word(0x7108), 2, "it can be entered again");
    check_eq!(inb(0xb2), 2, "the APM port holds its value");
}
