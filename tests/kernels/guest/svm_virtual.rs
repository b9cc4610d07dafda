//! What guests have of their own beside registers: time, and non-maskable interrupts (APM vol. 2, 15.21.10
//! and 15.30.5).

use crate::apic::{self, reg};
use crate::cpu::{feature, msr, rdmsr, rdtsc, wrmsr};
use crate::svm::{
    at, begins, code, ends, enter, enter_closed, get, guest, intercept, prepare, set,
};
use crate::trap::{self, Frame, fault_of, vector::*};
use core::arch::{asm, naked_asm};

pub fn run() {
    if !begins() {
        return;
    }
    time();
    ratio();
    nmis();
    redirected_init();
    ends();
}

const OFFSET: u64 = 1 << 60;

guest!(
    sets_time,
    "mov ecx, 0x10",
    "mov edx, 0x100",
    "xor eax, eax",
    "wrmsr",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx"
);

/// The time stamp that a guest sets is the processor's; its own offset is for reading only.
fn time() {
    if !feature::TSC_ADJUST.offered() {
        return crate::tap::skip("TSC_ADJUST");
    }
    let old = rdtsc();
    prepare(sets_time);
    set(at::TSC_OFFSET, OFFSET);
    check_eq!(enter(), code::VMMCALL, "a guest sets the time");
    let now = rdtsc();
    check_eq!(now >> 36, 1 << 4, "which is the host's as well");
    check_eq!((get(at::RAX) - OFFSET) >> 36, 1 << 4, "and its own with its offset");
    check!(rdmsr(msr::TSC_ADJUST) as i64 <= (1i64 << 40) - old as i64, "TSC_ADJUST tells of it");
    wrmsr(msr::TSC, old);
    wrmsr(msr::TSC_ADJUST, 0);
}

guest!(reads_tsc, "rdtsc", "shl rdx, 32", "or rax, rdx");
guest!(reads_tscp, "rdtscp", "shl rdx, 32", "or rax, rdx");
guest!(reads_time, "mov ecx, 0x10", "rdmsr", "shl rdx, 32", "or rax, rdx");

fn ratio() {
    if !feature::TSC_SCALE.offered() {
        return crate::tap::skip("TSC ratio");
    }
    const ONE: u64 = 1 << 32;
    check_eq!(rdmsr(msr::TSC_RATIO), ONE, "the ratio is one at first");
    check_eq!(
        fault_of(|| wrmsr(msr::TSC_RATIO, 1 << 40)),
        (GP, 0),
        "it has eight bits before the point"
    );
    for (guest, name) in
        [(reads_tsc as extern "C" fn(), "RDTSC"), (reads_tscp, "RDTSCP"), (reads_time, "RDMSR")]
    {
        // Doubled, halved, and by one and a quarter.
        for (numerator, shift) in [(2u64, 0), (1, 1), (5, 2)] {
            let scaled = |time: u64| (u128::from(time) * u128::from(numerator) >> shift) as u64;
            wrmsr(msr::TSC_RATIO, numerator * ONE >> shift);
            for offset in [0, OFFSET] {
                prepare(guest);
                set(at::TSC_OFFSET, offset);
                let before = scaled(rdtsc()).wrapping_add(offset);
                enter();
                let after = scaled(rdtsc()).wrapping_add(offset);
                let seen = get(at::RAX);
                check!(
                    (before..=after).contains(&seen),
                    "{name}, faster by {numerator} / {}, offset {offset:x}",
                    1 << shift
                );
            }
        }
    }
    wrmsr(msr::TSC_RATIO, ONE);
}

/// Where NMIs came, and how many.
static mut SEEN: [u64; 2] = [0; 2];

fn note(frame: &mut Frame) {
    unsafe { SEEN = [frame.rip, SEEN[1] + 1] };
}

fn seen() -> [u64; 2] {
    unsafe { core::mem::take(&mut SEEN) }
}

/// VM_CR.R_INIT makes an exception of INIT (APM vol. 2, 15.30.1).
fn redirected_init() {
    const VM_CR: u32 = 0xc001_0114;
    const REDIRECT: u64 = 2;
    const SX: u64 = 30;
    if fault_of(|| wrmsr(VM_CR, REDIRECT)).0 == GP || rdmsr(VM_CR) & REDIRECT == 0 {
        return crate::tap::skip("redirection of INIT");
    }
    trap::set_handler(SX, Some(note_error));
    apic::write(reg::ICR2, apic::read(reg::ID));
    apic::write(reg::ICR, 1 << 14 | 5 << 8);
    apic::breathe();
    check_eq!(seen(), [1, 1], "INIT is an exception");
    trap::set_handler(SX, None);
    wrmsr(VM_CR, 0);
    prepare(nothing);
    set(at::EVENT, 1 << 31 | 3 << 8 | 1 << 11 | SX | 1 << 32);
    intercept(code::EXCEPTION + SX);
    trap::set_handler(SX, Some(note_error));
    check_eq!(enter(), code::VMMCALL, "which can be injected");
    check_eq!(seen(), [1, 1], "with its error code");
    trap::set_handler(SX, None);
}

fn note_error(frame: &mut Frame) {
    unsafe { SEEN = [frame.error, SEEN[1] + 1] };
}

guest!(nothing, "nop", "nop");

fn nmis() {
    const WAITS: u64 = 1 << 11;
    const BLOCKED: u64 = 1 << 12;
    const ENABLE: u64 = 1 << 26;
    const OWN_GIF: u64 = 1 << 25;
    const BITS: u64 = WAITS | BLOCKED;
    if !feature::VNMI.offered() {
        return crate::tap::skip("virtual NMIs");
    }
    let start = nothing as *const () as u64;
    let ready = |bits: u64| {
        prepare(nothing);
        intercept(code::NMI);
        set(at::VIRQ, ENABLE | bits);
    };
    prepare(nothing);
    set(at::VIRQ, ENABLE);
    check_eq!(enter(), code::INVALID, "VMRUN refuses virtual NMIs unless others are intercepted");

    trap::set_handler(NMI, Some(note));
    ready(WAITS);
    check_eq!(enter(), code::VMMCALL, "a virtual NMI");
    check_eq!(seen(), [start, 1], "comes at once");
    check_eq!(get(at::VIRQ) & BITS, 0, "and is over with IRET");
    ready(WAITS);
    set(at::SHADOW, 1);
    enter();
    check_eq!(seen(), [start + 1, 1], "after an interrupt shadow");
    ready(WAITS | BLOCKED);
    check_eq!(enter(), code::VMMCALL, "a virtual NMI that is blocked");
    check_eq!(seen(), [0, 0], "does not come");
    check_eq!(get(at::VIRQ) & BITS, BITS, "but stays");
    ready(WAITS | OWN_GIF);
    enter();
    check_eq!(seen(), [0, 0], "nor while the guest's own GIF is clear");
    check_eq!(get(at::VIRQ) & BITS, WAITS, "then it waits");
    ready(WAITS);
    set(at::EVENT, 1 << 31 | 2 << 8 | NMI);
    check_eq!(enter(), code::VMMCALL, "one that is injected while another waits");
    check_eq!(seen(), [start, 2], "comes first, and the other at its IRET");

    ready(WAITS);
    unsafe { asm!("clgi") };
    apic::write(reg::ICR2, apic::read(reg::ID));
    apic::write(reg::ICR, 1 << 14 | 4 << 8);
    check_eq!(enter_closed(), code::NMI, "an NMI of the host ends the guest");
    check_eq!(get(at::VIRQ) & BITS, WAITS, "whose own waits on");
    unsafe { asm!("stgi") };
    apic::breathe();
    check_eq!(seen()[1], 1, "it is the host's");

    ready(WAITS);
    intercept(code::IRET);
    check_eq!(enter(), code::IRET, "at the end of the handler");
    check_eq!(get(at::VIRQ) & BITS, BLOCKED, "NMIs are still blocked");
    // IRET that is no longer intercepted.
    set(0x0c, get(0x0c) & !(1 << (code::IRET - 0x60)));
    check_eq!(enter(), code::VMMCALL, "behind it");
    check_eq!(get(at::VIRQ) & BITS, 0, "they are not");
    seen();
    trap::set_handler(NMI, None);
}
