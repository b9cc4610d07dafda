//! Debug exceptions (SDM vol. 3, chapter 18): single step, breakpoints, and how they mix.

use crate::boot::sel;
use crate::cpu::{self, cr4, dr6, flag, msr, set_cr4, set_dr0, set_dr1, set_dr6, set_dr7};
use crate::trap::{
    self, FINE, Frame, Handler, Outcome, catch, enter, fault_of, kernel_frame, user_frame,
    vector::*,
};
use core::arch::asm;

const BS: u64 = 1 << 14;
const BD: u64 = 1 << 13;
/// DR6 with nothing reported.
const CLEAR: u64 = 0xffff_0ff0;

/// What the handler saw, in order.
static mut SEEN: [(u64, u64, u64); 32] = [(0, 0, 0); 32];
static mut COUNT: usize = 0;

fn note(frame: &mut Frame) {
    unsafe {
        if COUNT < SEEN.len() {
            SEEN[COUNT] = (frame.rip, dr6(), frame.rflags);
            COUNT += 1;
        }
    }
    set_dr6(CLEAR);
    // Go on past an instruction breakpoint.
    frame.rflags |= flag::RF;
}

/// Runs `frame` to INT 0x80, noting debug exceptions on the way: offsets from the start and what
/// DR6 said.
fn trace(frame: &Frame) -> (Outcome, &'static [(u64, u64, u64)]) {
    unsafe { COUNT = 0 };
    set_dr6(CLEAR);
    let handler: Handler = note;
    trap::set_handler(DB, Some(handler));
    let outcome = enter(frame);
    trap::set_handler(DB, None);
    set_dr7(0);
    unsafe {
        for seen in &mut SEEN[..COUNT] {
            seen.0 = seen.0.wrapping_sub(frame.rip);
            seen.1 ^= CLEAR;
        }
        (outcome, &SEEN[..COUNT])
    }
}

fn kernel(code: &[u8]) -> Frame {
    kernel_frame(code.as_ptr() as u64)
}

fn places(seen: &[(u64, u64, u64)]) -> [(u64, u64); 6] {
    let mut places = [(0, 0); 6];
    for (place, seen) in places.iter_mut().zip(seen) {
        *place = (seen.0, seen.1);
    }
    places
}

/// A list of (offset, DR6) padded with zeros.
fn list(items: &[(u64, u64)]) -> [(u64, u64); 6] {
    let mut list = [(0, 0); 6];
    list[..items.len()].copy_from_slice(items);
    list
}

pub fn run() {
    registers();
    single_step();
    code_breakpoints();
    data_breakpoints();
    port_breakpoints();
    stack_switch();
    branch_step();
}

fn registers() {
    set_dr6(0);
    check_eq!(dr6(), CLEAR, "DR6: reserved bits are ones");
    set_dr6(0xffff_ffff);
    check_eq!(dr6() & !0x1_0800, 0xfffe_e7ff & !0x1_0800 | 0xe000, "DR6: bit 12 is zero");
    set_dr6(CLEAR);
    set_dr7(0);
    check_eq!(cpu::dr7(), 0x400, "DR7: bit 10 is one");
    set_dr7(0xffff_0000);
    check_eq!(cpu::dr7(), 0xffff_0400, "DR7: conditions");
    set_dr7(0);
    check_eq!(fault_of(|| set_dr7(1 << 32)), (GP, 0), "DR7: the upper half");
    check_eq!(fault_of(|| set_dr6(1 << 32)), (GP, 0), "DR6: the upper half");
    set_dr0(0x1234_5678_9abc);
    check_eq!(cpu::dr0(), 0x1234_5678_9abc, "DR0 holds an address");
    let dr4 = || unsafe { asm!("mov rax, dr4", out("rax") _) };
    check_eq!(fault_of(dr4), FINE, "DR4 is DR6");
    set_cr4(cpu::cr4() | cr4::DE);
    check_eq!(fault_of(dr4), (UD, 0), "with CR4.DE there is no DR4");
    set_cr4(cpu::cr4() & !cr4::DE);
    let what =
        catch(|| unsafe { asm!("mov dr7, {0}", "mov {0}, dr0", inout(reg) 1u64 << 13 => _) });
    check!(what.is(DB, 0), "DR7.GD guards the registers");
    check_eq!(dr6() ^ CLEAR, BD, "DR6 tells so");
    check_eq!(cpu::dr7(), 0x400, "and GD is off in the handler");
    check_eq!(unsafe { (what.frame.rip as *const u16).read_unaligned() }, 0x210f, "it is a fault");
    set_dr6(CLEAR);
}

fn single_step() {
    let mut frame = kernel(code!(64, "nop", "inc rax", "int 0x80"));
    frame.rflags = trap::STEP;
    let (done, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(1, BS), (4, BS)]), "single step");
    check!(done.is(DONE, 0), "INT does not trap: its gate clears TF");
    check!(done.frame.rflags & flag::TF != 0, "but pushes it set");

    frame = kernel(code!(64, "push 2", "popfq", "nop", "int 0x80"));
    frame.rflags = trap::STEP;
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(2, BS), (3, BS)]), "POPF that clears TF is stepped");
    frame = kernel(code!(64, "push 0x102", "popfq", "nop", "nop", "int 0x80"));
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(7, BS), (8, BS)]), "POPF that sets TF is not");

    frame = kernel(code!(64, "mov ecx, 3", "rep stosb", "int 0x80"));
    frame.rflags = trap::STEP;
    frame.rdi = ring0();
    let (_, seen) = trace(&frame);
    check_eq!(
        places(seen),
        list(&[(5, BS), (5, BS), (5, BS), (7, BS)]),
        "REP is stepped once an iteration"
    );
    let resume = |at: usize| seen[at].2 & flag::RF != 0;
    check!(resume(1) && resume(2) && !resume(3), "and RF tells that more are to come");
    frame = kernel(code!(64, "hlt", "nop", "int 0x80"));
    frame.rflags = trap::STEP;
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(1, BS), (2, BS)]), "HLT is stepped, which ends it");
    frame = kernel(code!(64, "xor ecx, ecx", "rep stosb", "int 0x80"));
    frame.rflags = trap::STEP;
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(2, BS), (4, BS)]), "REP of nothing is one step");

    frame = kernel(code!(64, "mov eax, 0x10", "mov ss, eax", "nop", "nop", "int 0x80"));
    frame.rflags = trap::STEP;
    let (_, seen) = trace(&frame);
    check_eq!(
        places(seen),
        list(&[(5, BS), (8, BS), (9, BS)]),
        "no trap between MOV SS and the next"
    );
    frame = kernel(code!(64, "sti", "cli", "nop", "int 0x80"));
    frame.rflags = trap::STEP;
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(1, BS), (2, BS), (3, BS)]), "STI does not hold traps");

    frame = user_frame(code!(64, "nop", "int 0x80"));
    frame.rflags = trap::STEP;
    let (done, seen) = trace(&frame);
    check!(places(seen) == list(&[(1, BS)]) && done.is(DONE, 0), "single step in ring 3");

    frame = kernel(code!(64, "ud2"));
    frame.rflags = trap::STEP;
    let (done, seen) = trace(&frame);
    check!(seen.is_empty() && done.is(UD, 0), "an instruction that faults is not stepped");
    frame = kernel(code!(64, "cpuid", "int 0x80"));
    frame.rflags = trap::STEP;
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(2, BS)]), "CPUID is stepped");
    frame = kernel(code!(64, "in al, 0x80", "out 0x80, al", "int 0x80"));
    frame.rflags = trap::STEP;
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(2, BS), (4, BS)]), "IN and OUT are stepped");
    frame = kernel(code!(64, "rdmsr", "wrmsr", "int 0x80"));
    (frame.rcx, frame.rflags) = (msr::KERNEL_GS_BASE.into(), trap::STEP);
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(2, BS), (4, BS)]), "RDMSR and WRMSR are stepped");
    frame = kernel(code!(64, "mov rcx, cr3", "mov cr3, rcx", "nop", "int 0x80"));
    frame.rflags = trap::STEP;
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(3, BS), (6, BS), (7, BS)]), "a MOV to CR3 is stepped");
    frame = kernel(code!(64, ".byte 0xf1", "int 0x80"));
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(1, 0)]), "INT1 is a trap that DR6 does not tell of");
    frame = kernel(code!(64, "pushfq", "pop rax", "int 0x80"));
    frame.rflags = trap::STEP;
    let (done, seen) = trace(&frame);
    check!(done.frame.rax & flag::TF != 0 && seen.len() == 2, "PUSHF shows TF");
    frame = kernel(code!(64, "syscall"));
    frame.rflags = trap::STEP;
    cpu::wrmsr(msr::STAR, u64::from(sel::CODE64) << 32 | 0x30 << 48);
    let target = code!(64, "nop", "int 0x80");
    cpu::wrmsr(msr::LSTAR, target.as_ptr() as u64);
    cpu::wrmsr(msr::FMASK, flag::TF);
    let (done, seen) = trace(&frame);
    check!(seen.is_empty() && done.is(DONE, 0), "SYSCALL that clears TF is not stepped");
    cpu::wrmsr(msr::FMASK, 0);
    let (_, seen) = trace(&frame);
    check_eq!(seen.len(), 2, "SYSCALL that leaves TF is stepped, and what it leads to");
}

fn ring0() -> u64 {
    trap::ring0_stack_top() - 4096
}

fn code_breakpoints() {
    let code = code!(64, "nop", "nop", "inc rax", "int 0x80");
    let frame = kernel(code);
    set_dr0(frame.rip + 1);
    set_dr7(1);
    let (done, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(1, 1)]), "an instruction breakpoint is a fault");
    check!(done.is(DONE, 0), "that RF takes one past");
    check!(seen[0].2 & flag::RF != 0, "its image of RFLAGS has RF set");
    set_dr0(frame.rip + 1);
    set_dr1(frame.rip + 1);
    set_dr7(8);
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(1, 2)]), "DR1, by its global enable");
    set_dr7(0);
    let (_, seen) = trace(&frame);
    check!(seen.is_empty(), "not enabled");
    // As long as it takes, with interrupts between.
    let mut long = kernel(code!(64, "mov ecx, 200000", "rep stosb", "int 0x80"));
    long.rdi = &raw mut ROOM as u64;
    set_dr0(long.rip + 5);
    set_dr7(1);
    let (_, seen) = trace(&long);
    check_eq!(places(seen), list(&[(5, 1)]), "a breakpoint at REP is met once");
    let mut with_rf = frame;
    set_dr0(frame.rip);
    set_dr7(1);
    with_rf.rflags |= flag::RF;
    let (_, seen) = trace(&with_rf);
    check!(seen.is_empty(), "IRET sets RF for the instruction it returns to");
    let mut stepped = frame;
    stepped.rflags |= flag::TF;
    set_dr0(frame.rip + 1);
    set_dr7(1);
    let (_, seen) = trace(&stepped);
    check!(
        places(seen) == list(&[(1, BS), (1, 1), (2, BS), (5, BS)])
            || places(seen) == list(&[(1, BS | 1), (2, BS), (5, BS)])
            || places(seen) == list(&[(1, BS), (2, BS), (5, BS)]),
        "single step onto a breakpoint"
    );
    set_dr0(frame.rip + 3);
    set_dr7(1);
    let (_, seen) = trace(&frame);
    check!(seen.is_empty(), "a breakpoint inside an instruction is none");
    let user = user_frame(code);
    set_dr0(user.rip + 1);
    set_dr7(1);
    let (_, seen) = trace(&user);
    check_eq!(places(seen), list(&[(1, 1)]), "a breakpoint in ring 3");
    let fault = kernel(code!(64, "ud2"));
    set_dr0(fault.rip);
    set_dr7(1);
    let (done, seen) = trace(&fault);
    check!(
        places(seen) == list(&[(0, 1)]) && done.is(UD, 0),
        "a breakpoint comes before the instruction's own fault"
    );
}

static mut WATCHED: [u64; 4] = [0; 4];
static mut ROOM: [u8; 200_000] = [0; 200_000];

fn data_breakpoints() {
    let at = &raw mut WATCHED as u64 + 8;
    // Condition and length fields of DR0.
    const WRITE: u64 = 1 << 16;
    const ACCESS: u64 = 3 << 16;
    const LEN2: u64 = 1 << 18;
    const LEN8: u64 = 2 << 18;
    const LEN4: u64 = 3 << 18;
    let store = code!(64, "mov [rbx], al", "nop", "int 0x80");
    let load = code!(64, "mov al, [rbx]", "nop", "int 0x80");
    let wide = code!(64, "mov [rbx], rax", "nop", "int 0x80");
    let go = |code: &[u8], address: u64, dr7: u64| {
        let mut frame = kernel(code);
        frame.rbx = address;
        set_dr0(at);
        set_dr7(dr7 | 1);
        places(trace(&frame).1)
    };
    let hit2 = list(&[(2, 1)]);
    let hit3 = list(&[(3, 1)]);
    let miss = list(&[]);
    check_eq!(go(store, at, WRITE), hit2, "a store hits after the instruction");
    check_eq!(go(load, at, WRITE), miss, "a load does not");
    check_eq!(go(load, at, ACCESS), hit2, "a load hits a breakpoint on access");
    check_eq!(go(store, at, ACCESS), hit2, "so does a store");
    check_eq!(go(store, at + 1, WRITE), miss, "the byte behind");
    check_eq!(go(store, at + 1, WRITE | LEN2), hit2, "the second byte of two");
    check_eq!(go(store, at + 2, WRITE | LEN2), miss, "the byte behind two");
    check_eq!(go(store, at + 3, WRITE | LEN4), hit2, "the fourth byte of four");
    check_eq!(go(store, at + 7, WRITE | LEN8), hit2, "the eighth byte of eight");
    check_eq!(go(wide, at - 7, WRITE), hit3, "a quadword that ends there");
    check_eq!(go(wide, at - 8, WRITE), miss, "a quadword that ends before");
    let push = code!(64, "mov rsp, rbx", "push rax", "nop", "int 0x80");
    check_eq!(go(push, at + 8, WRITE | LEN8), list(&[(4, 1)]), "a push");
    let rmw = code!(64, "lock inc dword ptr [rbx]", "nop", "int 0x80");
    check_eq!(go(rmw, at, WRITE | LEN4), list(&[(3, 1)]), "a locked increment");
    let moves =
        code!(64, "mov edi, ebx", "mov esi, ebx", "mov ecx, 2", "rep movsb", "nop", "int 0x80");
    let seen = go(moves, at, WRITE);
    check!(
        seen == list(&[(9, 1)]) || seen == list(&[(11, 1)]),
        "REP MOVSB, after the iteration or the whole"
    );
    let mut frame = kernel(code!(64, "mov [rbx], al", "nop", "int 0x80"));
    frame.rbx = at;
    frame.rflags = trap::STEP;
    set_dr0(at);
    set_dr7(1 | WRITE);
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(2, BS | 1), (3, BS)]), "a hit and a single step are one trap");
    let mut frame = user_frame(code!(64, "mov [rsp - 16], al", "nop", "int 0x80"));
    set_dr0(frame.rsp - 16);
    set_dr7(1 | WRITE);
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(4, 1)]), "a data breakpoint in ring 3");
    // A second address, not enabled, that matches as well.
    frame = kernel(store);
    frame.rbx = at;
    set_dr0(at);
    set_dr1(at);
    set_dr7(1 | WRITE | WRITE << 4);
    let (_, seen) = trace(&frame);
    check!(seen.len() == 1 && seen[0].1 & 1 != 0, "a second one that is not enabled");
    set_dr7(5 | WRITE | WRITE << 4);
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(2, 3)]), "two that hit at once");
}

fn port_breakpoints() {
    const IO: u64 = 2 << 16;
    let frame =
        kernel(code!(64, "mov al, 0", "out 0x80, al", "nop", "in al, 0x81", "nop", "int 0x80"));
    set_cr4(cpu::cr4() | cr4::DE);
    set_dr0(0x80);
    set_dr7(1 | IO);
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(4, 1)]), "OUT hits an I/O breakpoint");
    set_dr7(1 | IO | 1 << 18);
    let (_, seen) = trace(&frame);
    check_eq!(places(seen), list(&[(4, 1), (7, 1)]), "and IN one of two bytes");
    set_cr4(cpu::cr4() & !cr4::DE);
}

/// MOV SS holds traps until after the next instruction.
fn stack_switch() {
    const WRITE: u64 = 1 << 16;
    let at = &raw mut WATCHED as u64;
    unsafe { WATCHED[0] = sel::DATA.into() };
    let mut frame = kernel(code!(64, "mov ss, [rbx]", "nop", "nop", "int 0x80"));
    frame.rbx = at;
    set_dr0(at);
    set_dr7(1 | 3 << 16 | 1 << 18);
    let (_, seen) = trace(&frame);
    check_eq!(
        places(seen),
        list(&[(3, 1)]),
        "a data breakpoint hit by MOV SS comes after the next"
    );
    let mut frame = kernel(code!(64, "mov ss, [rbx]", "nop", "nop", "int 0x80"));
    frame.rbx = at;
    set_dr0(frame.rip + 2);
    set_dr7(1);
    let (_, seen) = trace(&frame);
    check!(seen.is_empty(), "an instruction breakpoint behind MOV SS is suppressed");
    set_dr7(0);
    let mut icebp = kernel(code!(64, "mov ss, [rbx]", ".byte 0xf1", "nop", "int 0x80"));
    (icebp.rbx, icebp.rflags) = (at, trap::STEP);
    let (_, seen) = trace(&icebp);
    check_eq!(places(seen), list(&[(3, 0), (4, BS)]), "INT1 behind MOV SS is not a single step");
    let guarded = code!(64, "mov dr7, rdx", "mov ss, [rbx]", "mov rax, dr0", "nop", "int 0x80");
    let mut guarded = kernel(guarded);
    (guarded.rbx, guarded.rdx) = (at, 1 << 13);
    let (_, seen) = trace(&guarded);
    check_eq!(places(seen), list(&[(5, BD)]), "debug registers are guarded behind MOV SS");
    let mut stepped = kernel(code!(64, "mov ss, [rbx]", "cpuid", "nop", "int 0x80"));
    (stepped.rbx, stepped.rflags) = (at, trap::STEP);
    let (_, seen) = trace(&stepped);
    check_eq!(places(seen), list(&[(4, BS), (5, BS)]), "CPUID behind MOV SS is stepped");
    // If the next is INT n, the trap is lost or comes in its handler, depending on the processor: it
    // must not come before the INT.
    let mut frame = kernel(code!(64, "mov ss, [rbx]", "int 0x80"));
    frame.rbx = at;
    set_dr0(at);
    set_dr7(1 | 3 << 16 | 1 << 18);
    let (done, seen) = trace(&frame);
    check!(seen.iter().all(|seen| seen.0 != 2), "not between MOV SS and INT");
    check!(done.is(DONE, 0), "which is executed");
    let _ = WRITE;
}

/// DEBUGCTL.BTF makes single step stop at branches only.
fn branch_step() {
    if fault_of(|| cpu::wrmsr(msr::DEBUGCTL, 2)) != FINE || cpu::rdmsr(msr::DEBUGCTL) != 2 {
        return crate::tap::skip("DEBUGCTL.BTF");
    }
    cpu::wrmsr(msr::DEBUGCTL, 0);
    let mut frame = kernel(code!(
        64,
        "mov ecx, 0x1d9",
        "mov eax, 2",
        "xor edx, edx",
        "wrmsr",
        "push 0x102",
        "popfq",
        "nop",
        "nop",
        "jmp 721f",
        "nop",
        "721:",
        "nop",
        "nop",
        "int 0x80"
    ));
    frame.rflags = 2;
    let (done, seen) = trace(&frame);
    check_eq!(places(seen)[0], (25, BS), "BTF: the first stop is behind the branch");
    check!(seen.len() == 3 && done.is(DONE, 0), "and clears BTF");
    check_eq!(cpu::rdmsr(msr::DEBUGCTL) & 2, 0, "as DEBUGCTL shows");
    cpu::wrmsr(msr::DEBUGCTL, 0);
}
