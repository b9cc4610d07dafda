//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the bases of FS and GS.

use crate::boot::sel;
use crate::cpu::{self, cr4, feature, flag, is_amd, msr, rdmsr, set_cr4, wrmsr};
use crate::trap::{
    self, FINE, Frame, STEP, catch, enter, fault_of, kernel_frame, to_user, user_frame,
    user_frame32, vector::*,
};
use core::arch::asm;

const SCE: u64 = 1;
const FAR: u64 = 0x8000_0000_0000;

pub fn run() {
    syscall();
    sysret();
    sysenter();
    bases();
}

fn syscall() {
    let efer = rdmsr(msr::EFER);
    let user = user_frame(code!(64, "syscall", "int 0x80"));
    wrmsr(msr::EFER, efer & !SCE);
    check_eq!(enter(&user).what(), (UD, 0), "SYSCALL without EFER.SCE");
    wrmsr(msr::EFER, efer | SCE);
    let target = code!(64, "int 0x80");
    wrmsr(msr::STAR, u64::from(sel::CODE64) << 32 | u64::from(sel::USER_CODE32) << 48);
    wrmsr(msr::LSTAR, target.as_ptr() as u64);
    wrmsr(msr::FMASK, flag::TF | flag::ZF | 0x400);
    let start = Frame { rflags: 2 | flag::CF | flag::ZF | flag::AC | 0x400, rsp: 0x1234, ..user };
    let outcome = enter(&start);
    check!(outcome.is(DONE, 0), "SYSCALL");
    let at = outcome.frame;
    check_eq!((at.cs, at.ss), (sel::CODE64.into(), sel::DATA.into()), "CS and SS come from STAR");
    check_eq!(at.rip, target.as_ptr() as u64 + 2, "RIP comes from LSTAR");
    check_eq!(at.rcx, user.rip + 2, "RCX is the next instruction");
    check_eq!(at.r11, start.rflags, "R11 is RFLAGS");
    check_eq!(at.rflags, 2 | flag::CF | flag::AC, "FMASK clears flags");
    check_eq!(at.rsp, 0x1234, "RSP stays");
    let stepped = Frame { rflags: STEP, ..user };
    check_eq!(enter(&stepped).what(), (DONE, 0), "TF that FMASK clears does not trap");
    wrmsr(msr::FMASK, 0);
    let outcome = enter(&stepped);
    check!(
        outcome.is(DB, 0) && outcome.frame.rip == target.as_ptr() as u64,
        "TF that stays traps at the target"
    );
    check_eq!(outcome.frame.r11 & flag::TF, flag::TF, "R11 has it");
    let from_kernel = kernel_frame(code!(64, "syscall", "int 0x80").as_ptr() as u64);
    check_eq!(enter(&from_kernel).what(), (DONE, 0), "SYSCALL from ring 0");
    let compatible = user_frame32(code!(32, "syscall", "int 0x80"));
    if is_amd() {
        wrmsr(msr::CSTAR, code!(64, "mov ebx, 9", "int 0x80").as_ptr() as u64);
        let outcome = enter(&compatible);
        check!(
            outcome.is(DONE, 0) && outcome.frame.rbx == 9,
            "SYSCALL in compatibility mode leads to CSTAR"
        );
        check_eq!(outcome.frame.cs, u64::from(sel::CODE64), "in 64-bit code");
        check_eq!(outcome.frame.rcx, compatible.rip + 2, "with RCX");
    } else {
        check_eq!(enter(&compatible).what(), (UD, 0), "SYSCALL in compatibility mode");
    }
    let locked = user_frame(code!(64, ".byte 0xf0, 0x0f, 0x05"));
    check_eq!(enter(&locked).what(), (UD, 0), "LOCK SYSCALL");
}

fn sysret() {
    let efer = rdmsr(msr::EFER);
    let user = to_user(code!(64, "mov ebx, 7", "int 0x80"));
    let code = code!(64, ".byte 0x48, 0x0f, 0x07").as_ptr() as u64;
    let start = Frame { rcx: user, r11: 2 | flag::CF, rsp: 0x5678, ..kernel_frame(code) };
    let outcome = enter(&start);
    let at = outcome.frame;
    check!(outcome.is(DONE, 0) && at.rbx == 7, "SYSRET to 64-bit code");
    check_eq!(
        (at.cs, at.ss),
        (sel::USER_CODE64.into(), sel::USER_DATA.into()),
        "CS and SS come from STAR"
    );
    check_eq!(at.rflags, 2 | flag::CF, "flags come from R11");
    check_eq!(at.rsp, 0x5678, "RSP stays");
    let flags = Frame { r11: !0 & !flag::TF, ..start };
    let pushed = enter(&flags).frame.rflags;
    check_eq!(pushed & (flag::RF | flag::VM), 0, "RF and VM are not taken");
    check_eq!(
        pushed & (flag::IOPL | flag::NT | flag::AC | flag::ID),
        flag::IOPL | flag::NT | flag::AC | flag::ID,
        "IOPL, NT, AC and ID are"
    );
    check_eq!(pushed & 0x8028 & !0x8, 0, "reserved ones are not");
    let outcome = enter(&Frame { rcx: FAR, ..start });
    if is_amd() {
        check!(
            outcome.is(GP, 0) && outcome.frame.cs & 3 == 3,
            "a target that is not canonical faults in ring 3"
        );
    } else {
        check!(
            outcome.is(GP, 0) && outcome.frame.cs & 3 == 0,
            "a target that is not canonical faults in ring 0"
        );
    }
    let small = to_user(code!(32, "inc eax", "dec ebx", "int 0x80"));
    let code32 = code!(64, "sysret").as_ptr() as u64;
    let outcome = enter(&Frame { rip: code32, rcx: small | 5 << 32, rbx: 0, ..start });
    check_eq!(
        (outcome.what(), outcome.frame.rbx),
        ((DONE, 0), 0xffff_ffff),
        "SYSRET to 32-bit code"
    );
    check_eq!(outcome.frame.cs, u64::from(sel::USER_CODE32), "CS of 32-bit code");
    let stepped = Frame { r11: STEP, ..start };
    let outcome = enter(&Frame { rcx: to_user(code!(64, "nop", "int 0x80")), ..stepped });
    check!(outcome.is(DB, 0), "SYSRET that sets TF");
    check_eq!(outcome.frame.rip, trap::USER, "traps before the first instruction");
    check_eq!(trap::user(code!(64, ".byte 0x48, 0x0f, 0x07")).what(), (GP, 0), "SYSRET in ring 3");
    wrmsr(msr::EFER, efer & !SCE);
    check_eq!(enter(&start).what(), (UD, 0), "SYSRET without EFER.SCE");
    wrmsr(msr::EFER, efer);
}

fn sysenter() {
    let code = user_frame(code!(64, "sysenter", "int 0x80"));
    if is_amd() {
        check_eq!(enter(&code).what(), (UD, 0), "SYSENTER in long mode on AMD");
        let back = kernel_frame(code!(64, "sysexit").as_ptr() as u64);
        check_eq!(enter(&back).what(), (UD, 0), "SYSEXIT in long mode on AMD");
        let compatible = user_frame32(code!(32, "sysenter", "int 0x80"));
        check_eq!(enter(&compatible).what(), (UD, 0), "SYSENTER in compatibility mode on AMD");
    } else {
        wrmsr(msr::SYSENTER_CS, 0);
        check_eq!(enter(&code).what(), (GP, 0), "SYSENTER without a CS");
        wrmsr(msr::SYSENTER_CS, sel::CODE64.into());
        wrmsr(msr::SYSENTER_ESP, 0x1234_5678_9abc);
        let target = code!(64, "int 0x80");
        wrmsr(msr::SYSENTER_EIP, target.as_ptr() as u64);
        let outcome = enter(&Frame { rflags: 2 | flag::CF, ..code });
        check!(outcome.is(DONE, 0), "SYSENTER");
        check_eq!(outcome.frame.rsp, 0x1234_5678_9abc, "RSP comes from its register");
        check_eq!((outcome.frame.cs, outcome.frame.ss), (8, 0x10), "CS and SS, too");
        check_eq!(outcome.frame.rflags, 2 | flag::CF, "flags stay but IF");
        let user = to_user(code!(64, "mov ebx, 7", "int 0x80"));
        let back = kernel_frame(code!(64, ".byte 0x48, 0x0f, 0x35").as_ptr() as u64);
        let outcome = enter(&Frame { rdx: user, rcx: 0x4321, ..back });
        check!(outcome.is(DONE, 0) && outcome.frame.rbx == 7, "SYSEXIT to 64-bit code");
        check_eq!((outcome.frame.cs, outcome.frame.ss), (0x2b, 0x33), "its CS and SS");
        check_eq!(outcome.frame.rsp, 0x4321, "its stack");
        check_eq!(enter(&Frame { rdx: FAR, ..back }).what(), (GP, 0), "to what is not canonical");
        check_eq!(
            enter(&Frame { rdx: user, rcx: FAR, ..back }).what(),
            (GP, 0),
            "with a stack that is not"
        );
        check_eq!(trap::user(code!(64, "sysexit")).what(), (GP, 0), "SYSEXIT in ring 3");
        wrmsr(msr::SYSENTER_CS, 0);
    }
}

fn bases() {
    wrmsr(msr::GS_BASE, 0x1111);
    wrmsr(msr::KERNEL_GS_BASE, 0x2222);
    unsafe { asm!("swapgs") };
    check_eq!((rdmsr(msr::GS_BASE), rdmsr(msr::KERNEL_GS_BASE)), (0x2222, 0x1111), "SWAPGS");
    wrmsr(msr::GS_BASE, 0);
    wrmsr(msr::KERNEL_GS_BASE, 0);
    let word = 0x1234_5678u64;
    wrmsr(msr::FS_BASE, &raw const word as u64 - 16);
    let value: u64;
    unsafe { asm!("mov {}, fs:[16]", out(reg) value) };
    check_eq!(value, word, "FS has a base");
    unsafe { asm!("mov fs, {:x}", in(reg) sel::DATA) };
    check_eq!(rdmsr(msr::FS_BASE), 0, "loading FS loads its base");
    if !feature::FSGSBASE.offered() {
        return crate::tap::skip("FSGSBASE");
    }
    let old = cpu::cr4();
    let read = || unsafe { asm!("rdfsbase {}", out(reg) _) };
    set_cr4(old & !cr4::FSGSBASE);
    check_eq!(fault_of(read), (UD, 0), "RDFSBASE without CR4.FSGSBASE");
    set_cr4(old | cr4::FSGSBASE);
    check_eq!(fault_of(read), FINE, "RDFSBASE");
    let (fs, gs): (u64, u64);
    unsafe {
        asm!("wrfsbase {0}", "wrgsbase {1}", in(reg) 0x1234_5678_9abcu64, in(reg) !0u64);
        asm!("rdfsbase {0}", "rdgsbase {1}", out(reg) fs, out(reg) gs);
    }
    check_eq!((fs, gs), (0x1234_5678_9abc, !0), "WRFSBASE and WRGSBASE");
    check_eq!(rdmsr(msr::FS_BASE), 0x1234_5678_9abc, "the register shows it");
    let short: u64;
    unsafe { asm!("rdfsbase {0:e}", out(reg) short) };
    check_eq!(short, 0x5678_9abc, "RDFSBASE of 32 bits");
    let bad = fault_of(|| unsafe { asm!("wrfsbase {}", in(reg) 1u64 << 60) });
    check_eq!(bad, (GP, 0), "WRFSBASE of what is not canonical");
    let user = trap::user(code!(64, "mov eax, 5", "wrfsbase rax", "rdgsbase rbx", "int 0x80"));
    check!(user.is(DONE, 0), "in ring 3");
    let compatible = user_frame32(code!(32, ".byte 0xf3, 0x0f, 0xae, 0xc0"));
    check_eq!(enter(&compatible).what(), (UD, 0), "RDFSBASE in compatibility mode");
    wrmsr(msr::FS_BASE, 0);
    wrmsr(msr::GS_BASE, 0);
    set_cr4(old);
    let _ = catch(|| ());
}
