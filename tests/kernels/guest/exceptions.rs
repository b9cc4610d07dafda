//! Every exception that instructions can raise in 64-bit mode, with its error code, from ring 0 and
//! ring 3.

use crate::boot::sel;
use crate::cpu::{cr0, cr4, flag, set_cr0, set_cr4};
use crate::legacy;
use crate::trap::{self, FINE, Outcome, vector::*};
use core::arch::asm;

const FAR: u64 = 0x8000_0000_0000;

fn user_faults(name: &str, code: &[u8], vector: u64, error: u64) {
    check_eq!(trap::user(code).what(), (vector, error), "ring 3: {name}");
}

pub fn run() {
    check_eq!(trap::fault_of(|| ()), FINE, "nothing happens");
    faults();
    traps();
    user_mode();
    gates();
    legacy_smoke();
}

fn faults() {
    let ud = trap::catch(|| unsafe { asm!("ud2") });
    check!(ud.is(UD, 0), "UD2");
    check!(ud.frame.rflags & flag::RF != 0, "the image of RFLAGS a fault pushes has RF set");
    check_eq!(ud.frame.cs, u64::from(sel::CODE64), "CS is pushed");

    let divide = |by: u64| unsafe {
        asm!("div {}", in(reg) by, inout("rax") 1u64 => _, inout("rdx") 1u64 => _)
    };
    check_eq!(trap::fault_of(|| divide(0)), (DE, 0), "division by zero");
    check_eq!(trap::fault_of(|| divide(1)), (DE, 0), "a quotient that does not fit");
    check_eq!(trap::fault_of(|| divide(2)), FINE, "a quotient that fits");

    let load = |at: u64| unsafe { asm!("mov {0}, [{0}]", inout(reg) at => _) };
    check_eq!(trap::fault_of(|| load(FAR)), (GP, 0), "a load that is not canonical");
    let stack =
        |at: u64| unsafe { asm!("xchg rsp, {0}", "push rax", "xchg rsp, {0}", inout(reg) at => _) };
    check_eq!(trap::fault_of(|| stack(FAR + 8)), (SS, 0), "a push that is not canonical");
    let by_rbp = |at: u64| unsafe {
        asm!("xchg rbp, {0}", "mov {1}, [rbp]", "xchg rbp, {0}", inout(reg) at => _, out(reg) _)
    };
    check_eq!(trap::fault_of(|| by_rbp(FAR)), (SS, 0), "a load through RBP that is not canonical");
    let jump = |to: u64| unsafe { asm!("jmp {}", in(reg) to) };
    check_eq!(trap::fault_of(|| jump(FAR)), (GP, 0), "a jump that is not canonical");

    let page = trap::catch(|| load(0x12_3456_7890));
    check!(page.is(PF, 0), "a load from nowhere");
    check_eq!(page.cr2, 0x12_3456_7890, "CR2 has the address");
    let page = trap::catch(|| unsafe { asm!("mov [{0}], {0}", in(reg) 0x12_3456_7ffe_u64) });
    check!(page.is(PF, 2), "a store to nowhere");
    check_eq!(page.cr2, 0x12_3456_7ffe, "CR2 has the first byte's address");
    let page = trap::catch(|| jump(0x12_3456_7890));
    check!(page.is(PF, 0x10), "a jump to nowhere");
    check_eq!(page.frame.rip, 0x12_3456_7890, "which faults after the jump");

    let segment = |selector: u16| move || unsafe { asm!("mov fs, {0:x}", in(reg) selector) };
    check_eq!(trap::fault_of(segment(0)), FINE, "a null selector");
    check_eq!(trap::fault_of(segment(3)), FINE, "a null selector with an RPL");
    check_eq!(trap::fault_of(segment(0xfff8)), (GP, 0xfff8), "a selector beyond the GDT");
    check_eq!(
        trap::fault_of(segment(0x14)),
        (GP, 0x14),
        "a selector of the LDT when there is none"
    );
    check_eq!(trap::fault_of(segment(sel::TSS64)), (GP, sel::TSS64.into()), "a TSS as data");
    trap::set_descriptor(sel::FREE, trap::segment(0, 0xfffff, 0xc013));
    check_eq!(trap::fault_of(segment(sel::FREE)), (NP, sel::FREE.into()), "data not present");
    trap::set_descriptor(sel::FREE, trap::segment(0, 0xfffff, 0xc099));
    check_eq!(
        trap::fault_of(segment(sel::FREE)),
        (GP, sel::FREE.into()),
        "code that is not readable"
    );
    let ss = |selector: u16| move || unsafe { asm!("mov ss, {0:x}", in(reg) selector) };
    check_eq!(trap::fault_of(ss(0)), FINE, "a null SS in ring 0");
    check_eq!(trap::fault_of(ss(3)), (GP, 0), "a null SS with another RPL");
    check_eq!(trap::fault_of(ss(sel::USER_DATA)), (GP, 0x38), "SS of another ring");
    trap::set_descriptor(sel::FREE, trap::segment(0, 0xfffff, 0xc013));
    check_eq!(trap::fault_of(ss(sel::FREE)), (SS, sel::FREE.into()), "SS not present");
    trap::set_descriptor(sel::FREE, trap::segment(0, 0xfffff, 0xc092));
    check_eq!(trap::fault_of(segment(sel::FREE)), FINE, "data not accessed so far");
    check_eq!(
        trap::descriptor(sel::FREE),
        trap::segment(0, 0xfffff, 0xc093),
        "loading sets the accessed bit"
    );

    // Set and used in one piece: the compiler may use SSE anywhere else.
    macro_rules! with_cr0 {
        ($bit:expr, $instruction:literal) => {{
            let old = crate::cpu::cr0();
            let new = old | $bit;
            let what = trap::fault_of(|| unsafe {
                asm!("mov cr0, {0}", $instruction, "mov cr0, {1}", in(reg) new, in(reg) old)
            });
            set_cr0(old);
            what
        }};
    }
    check_eq!(with_cr0!(cr0::TS, "fnop"), (NM, 0), "x87 with CR0.TS");
    check_eq!(with_cr0!(cr0::TS, "movaps xmm0, xmm0"), (NM, 0), "SSE with CR0.TS");
    check_eq!(with_cr0!(cr0::TS, "wait"), (NM, 0), "WAIT with CR0.TS and MP");
    check_eq!(with_cr0!(cr0::EM, "fnop"), (NM, 0), "x87 with CR0.EM");
    check_eq!(with_cr0!(cr0::EM, "movaps xmm0, xmm0"), (UD, 0), "SSE with CR0.EM");
    check_eq!(with_cr0!(cr0::EM, "wait"), FINE, "WAIT with CR0.EM");
    let divide = |clear: bool| {
        let control = 0x037bu16;
        unsafe {
            asm!("fninit", "fldcw [{}]", "fld1", "fldz", "fdivp st(1), st", in(reg) &control);
            if clear {
                asm!("fnclex");
            }
            asm!("wait");
        }
    };
    check_eq!(trap::fault_of(|| divide(false)), (MF, 0), "x87 division by zero, unmasked");
    unsafe { asm!("fninit") };
    check_eq!(trap::fault_of(|| divide(true)), FINE, "the same, cleared in time");
    unsafe { asm!("fninit") };
    fpu_interrupt();
    let simd = || unsafe {
        let mxcsr = 0x1d80u32;
        asm!("ldmxcsr [{}]", "mov eax, 1", "cvtsi2ss xmm0, eax", "xorps xmm1, xmm1",
            "divss xmm0, xmm1", in(reg) &mxcsr, out("eax") _, out("xmm0") _, out("xmm1") _);
    };
    check_eq!(trap::fault_of(simd), (19, 0), "SSE division by zero, unmasked");
    let old = crate::cpu::cr4();
    set_cr4(old & !(1 << 10));
    let what = trap::fault_of(simd);
    set_cr4(old);
    check_eq!(what, (UD, 0), "the same without CR4.OSXMMEXCPT");
    unsafe { asm!("ldmxcsr [{}]", in(reg) &0x1f80u32) };
    let reserved = || unsafe { asm!("ldmxcsr [{}]", in(reg) &0x10000u32) };
    check_eq!(trap::fault_of(reserved), (GP, 0), "reserved bits of MXCSR");
    let aligned = || unsafe { asm!("movaps xmm0, [{}]", in(reg) 0x100008u64, out("xmm0") _) };
    check_eq!(trap::fault_of(aligned), (GP, 0), "MOVAPS of what is not aligned");
    check_eq!(
        trap::fault_of(|| unsafe { asm!(".byte 0xf0, 0x01, 0xc0", out("eax") _) }),
        (UD, 0),
        "LOCK of a register"
    );
    check_eq!(trap::fault_of(|| unsafe { asm!(".byte 0x06") }), (UD, 0), "PUSH ES");
    check_eq!(trap::fault_of(|| unsafe { asm!(".byte 0xce") }), (UD, 0), "INTO");
    check_eq!(
        trap::fault_of(|| unsafe {
            asm!(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90")
        }),
        FINE,
        "an instruction of fifteen bytes"
    );
    check_eq!(
        trap::fault_of(|| unsafe {
            asm!(
                ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66",
                "nop"
            )
        }),
        (GP, 0),
        "an instruction of sixteen bytes"
    );
}

/// Without CR0.NE an x87 exception is interrupt 13 of the 8259 pair.
fn fpu_interrupt() {
    use crate::cpu::{inb, outb};
    // The pair at vectors 0x30 and 0x38, with IRQ 13 and the cascade open.
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 4),
        (0x21, 1),
        (0xa0, 0x11),
        (0xa1, 0x38),
        (0xa1, 2),
        (0xa1, 1),
        (0x21, 0xfb),
        (0xa1, 0xdf),
    ] {
        outb(port, value);
    }
    let old = crate::cpu::cr0();
    set_cr0(old & !cr0::NE);
    let divide = || {
        let control = 0x037bu16;
        unsafe {
            asm!("fninit", "fldcw [{}]", "fld1", "fldz", "fdivp st(1), st", "fwait",
                "sti", "nop", "nop", "cli", in(reg) &control);
        }
    };
    let what = trap::fault_of(divide);
    outb(0xa0, 0x0b);
    let service = inb(0xa0);
    outb(0xf0, 0);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    unsafe { asm!("fninit") };
    set_cr0(old);
    check_eq!(what, (0x38 + 5, 0), "x87 division by zero without CR0.NE is IRQ 13");
    check_eq!(service, 1 << 5, "which is in service then");
    let quiet = trap::fault_of(|| unsafe { asm!("sti", "nop", "nop", "cli") });
    check_eq!(quiet, FINE, "port F0h takes it back");
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

fn traps() {
    let bp = trap::catch(|| unsafe { asm!("int3") });
    check!(bp.is(BP, 0), "INT3");
    check!(bp.frame.rflags & flag::RF == 0, "a trap pushes RF clear");
    let at = code_of(&bp);
    check_eq!(at, 0xcc, "INT3 points behind itself");
    check_eq!(trap::fault_of(|| unsafe { asm!("int 0x2a") }), (0x2a, 0), "INT n");
    check_eq!(trap::fault_of(|| unsafe { asm!("int 13") }), (GP, 0), "INT 13 pushes no error code");
    check_eq!(trap::fault_of(|| unsafe { asm!(".byte 0xf1") }), (DB, 0), "INT1");
}

/// The byte before the pushed RIP.
fn code_of(outcome: &Outcome) -> u8 {
    unsafe { ((outcome.frame.rip - 1) as *const u8).read() }
}

fn user_mode() {
    let done = trap::user(code!(64, "mov eax, 42", "int 0x80"));
    check!(done.is(DONE, 0), "ring 3 runs");
    check_eq!(done.frame.rax, 42, "and leaves its result");
    check_eq!(done.frame.cs, u64::from(sel::USER_CODE64), "CS of ring 3");
    check_eq!(done.frame.ss, u64::from(sel::USER_DATA), "SS of ring 3");
    user_faults("HLT", code!(64, "hlt"), GP, 0);
    user_faults("CLI", code!(64, "cli"), GP, 0);
    user_faults("STI", code!(64, "sti"), GP, 0);
    user_faults("IN", code!(64, "in al, 0x80"), GP, 0);
    user_faults("OUT", code!(64, "out 0x80, al"), GP, 0);
    user_faults("INVLPG", code!(64, "invlpg [rax]"), GP, 0);
    user_faults("WBINVD", code!(64, "wbinvd"), GP, 0);
    user_faults("LGDT", code!(64, "lgdt [rsp]"), GP, 0);
    user_faults("LIDT", code!(64, "lidt [rsp]"), GP, 0);
    user_faults("LLDT", code!(64, "lldt ax"), GP, 0);
    user_faults("LTR", code!(64, "ltr ax"), GP, 0);
    user_faults("LMSW", code!(64, "lmsw ax"), GP, 0);
    user_faults("CLTS", code!(64, "clts"), GP, 0);
    user_faults("RDMSR", code!(64, "rdmsr"), GP, 0);
    user_faults("WRMSR", code!(64, "wrmsr"), GP, 0);
    user_faults("MOV from CR0", code!(64, "mov rax, cr0"), GP, 0);
    user_faults("MOV to CR3", code!(64, "mov cr3, rax"), GP, 0);
    user_faults("MOV from CR8", code!(64, "mov rax, cr8"), GP, 0);
    user_faults("MOV from DR7", code!(64, "mov rax, dr7"), GP, 0);
    user_faults("SWAPGS", code!(64, "swapgs"), GP, 0);
    user_faults("SYSRET", code!(64, "sysret"), GP, 0);
    user_faults("INT of a gate for ring 0", code!(64, "int 0x81"), GP, 0x81 * 8 + 2);
    user_faults("INT3", code!(64, "int3"), BP, 0);
    user_faults("INT1 in spite of the gate's DPL", code!(64, ".byte 0xf1"), DB, 0);
    user_faults("a load of a supervisor page", code!(64, "mov rax, [0x100000]"), PF, 5);
    user_faults("a store to a supervisor page", code!(64, "mov [0x100000], rax"), PF, 7);
    user_faults("a jump to a supervisor page", code!(64, "mov eax, 0x100000", "jmp rax"), PF, 0x15);
    user_faults("SS = null", code!(64, "xor eax, eax", "mov ss, eax"), GP, 0);

    let old = crate::cpu::cr0();
    set_cr0(old | cr0::AM);
    let checked = |code: &[u8]| {
        let mut frame = trap::user_frame(code);
        frame.rflags |= flag::AC;
        trap::enter(&frame).what()
    };
    let off = checked(code!(64, "mov rax, [rsp - 12]", "int 0x80"));
    let on = checked(code!(64, "mov rax, [rsp - 8]", "int 0x80"));
    let sse = checked(code!(64, "movups xmm0, [rsp - 12]", "int 0x80"));
    let byte = checked(code!(64, "mov al, [rsp - 11]", "int 0x80"));
    let double = checked(code!(64, "fld qword ptr [rsp - 12]", "int 0x80"));
    set_cr0(old);
    check_eq!(off, (AC, 0), "alignment check of a quadword");
    check_eq!(on, (DONE, 0), "an aligned quadword");
    check!(sse == (AC, 0) || sse == (DONE, 0), "MOVUPS, which may or may not be checked");
    check_eq!(byte, (DONE, 0), "a byte is always aligned");
    check_eq!(double, (AC, 0), "alignment check of a double");
    unsafe { asm!("fninit") };
    let frame = trap::Frame {
        rflags: flag::AC | 2,
        ..trap::user_frame(code!(64, "mov rax, [rsp - 12]", "int 0x80"))
    };
    check_eq!(trap::enter(&frame).what(), (DONE, 0), "AC without CR0.AM");

    let mut frame = trap::user_frame32(code!(32, "mov eax, [esp - 8]", "int 0x80"));
    check_eq!(trap::enter(&frame).what(), (DONE, 0), "compatibility mode runs");
    frame = trap::user_frame32(code!(32, "int 4"));
    check_eq!(trap::enter(&frame).what(), (OF, 0), "INT 4 in compatibility mode");
    frame = trap::user_frame32(code!(32, "mov al, 0x7f", "inc al", "into"));
    check_eq!(trap::enter(&frame).what(), (OF, 0), "INTO in compatibility mode");
    frame = trap::user_frame32(code!(32, "push 5", "push 2", "mov eax, 1", "bound eax, [esp]"));
    check_eq!(trap::enter(&frame).what(), (BR, 0), "BOUND below");
    frame = trap::user_frame32(code!(
        32,
        "push 5",
        "push 2",
        "mov eax, 5",
        "bound eax, [esp]",
        "int 0x80"
    ));
    check_eq!(trap::enter(&frame).what(), (DONE, 0), "BOUND at the upper bound");
    frame = trap::user_frame32(code!(32, "syscall"));
    frame.rcx = 7;
    let what = trap::enter(&frame).what();
    check!(what == (UD, 0) || crate::cpu::is_amd(), "SYSCALL in compatibility mode on Intel");
    frame = trap::user_frame32(code!(32, ".byte 0x0f, 0x01, 0xf8"));
    check_eq!(trap::enter(&frame).what(), (UD, 0), "SWAPGS in compatibility mode");
}

fn gates() {
    let hit = || unsafe { asm!("int 0x90") };
    let error = 0x90 * 8 + 2;
    trap::set_gate(0x90, 0x0e, sel::CODE64, 1, trap::stub(0x90));
    check_eq!(trap::fault_of(hit), (NP, error), "a gate that is not present");
    trap::set_gate(0x90, 0x85, sel::CODE64, 1, trap::stub(0x90));
    check_eq!(trap::fault_of(hit), (GP, error), "a task gate in long mode");
    trap::set_gate(0x90, 0x86, sel::CODE64, 1, trap::stub(0x90));
    check_eq!(trap::fault_of(hit), (GP, error), "a 16-bit gate in long mode");
    trap::set_gate(0x90, 0x8e, 0, 1, trap::stub(0x90));
    check_eq!(trap::fault_of(hit), (GP, 0), "a gate to the null selector");
    trap::set_gate(0x90, 0x8e, sel::DATA, 1, trap::stub(0x90));
    check_eq!(trap::fault_of(hit), (GP, sel::DATA.into()), "a gate to data");
    trap::set_gate(0x90, 0x8e, sel::CODE32, 1, trap::stub(0x90));
    check_eq!(trap::fault_of(hit), (GP, sel::CODE32.into()), "a gate to 32-bit code");
    trap::set_gate(0x90, 0x8e, sel::USER_CODE64, 1, trap::stub(0x90));
    check_eq!(trap::fault_of(hit), (GP, 0x40), "a gate to an outer ring");
    trap::set_gate(0x90, 0x8e, 0x1f8, 1, trap::stub(0x90));
    check_eq!(trap::fault_of(hit), (GP, 0x1f8), "a gate to an empty descriptor");
    trap::set_gate(0x90, 0x8e, sel::CODE64, 1, FAR);
    check_eq!(trap::fault_of(hit), (GP, 0), "a gate to an address that is not canonical");
    trap::set_gate(0x90, 0x8f, sel::CODE64, 1, trap::stub(0x90));
    let flags = || unsafe { asm!("int 0x90") };
    check_eq!(trap::fault_of(flags), (0x90, 0), "a trap gate");
    trap::usual_gate(0x90);

    // Beyond the limit.
    trap::load_idt(0x90 * 16 - 1);
    let what = trap::fault_of(hit);
    trap::load_idt(0x90 * 16 + 14);
    let partly = trap::fault_of(hit);
    trap::load_idt(0x90 * 16 + 15);
    let within = trap::fault_of(hit);
    trap::load_idt(4095);
    check_eq!(what, (GP, error), "INT beyond the IDT");
    check_eq!(partly, (GP, error), "INT at the edge of the IDT");
    check_eq!(within, (0x90, 0), "INT just within the IDT");

    // Double faults.
    trap::set_gate(GP, 0x0e, sel::CODE64, 1, trap::stub(GP));
    let gp = || unsafe { asm!("mov rax, [{}]", in(reg) FAR, out("rax") _) };
    check_eq!(trap::fault_of(gp), (DF, 0), "#NP while delivering #GP");
    let ud = trap::fault_of(|| unsafe { asm!("ud2") });
    check_eq!(ud, (UD, 0), "#UD is not concerned");
    trap::set_gate(UD, 0x0e, sel::CODE64, 1, trap::stub(UD));
    check_eq!(
        trap::fault_of(|| unsafe { asm!("ud2") }),
        (NP, UD * 8 + 3),
        "#NP while delivering #UD"
    );
    trap::usual_gate(GP);
    trap::usual_gate(UD);
    trap::set_gate(PF, 0x0e, sel::CODE64, 1, trap::stub(PF));
    let pf = || unsafe { asm!("mov rax, [{}]", in(reg) FAR >> 1, out("rax") _) };
    check_eq!(trap::fault_of(pf), (DF, 0), "#NP while delivering #PF");
    trap::usual_gate(PF);
    trap::set_gate(BP, 0x6e, sel::CODE64, 1, trap::stub(BP));
    check_eq!(
        trap::fault_of(|| unsafe { asm!("int3") }),
        (NP, BP * 8 + 2),
        "#NP while delivering INT3"
    );
    trap::usual_gate(BP);

    // Interrupt stacks.
    trap::set_gate(0x90, 0x8e, sel::CODE64, 0, trap::stub(0x90));
    let same = trap::catch(hit);
    check!(same.is(0x90, 0), "a gate without IST stays on the stack");
    unsafe {
        trap::TSS.ist[2] = FAR + 0x1000;
    }
    trap::set_gate(0x90, 0x8e, sel::CODE64, 3, trap::stub(0x90));
    check_eq!(trap::fault_of(hit), (SS, 0), "an IST that is not canonical");
    unsafe {
        trap::TSS.ist[2] = 0x12_3456_7000;
    }
    let what = trap::catch(hit);
    check!(what.is(PF, 2), "an IST that is not mapped");
    check_eq!(what.cr2, 0x12_3456_6ff8, "CR2 tells where");
    trap::usual_gate(0x90);
}

fn legacy_smoke() {
    let out = legacy::run(&legacy::ring0(code!(32, "mov eax, 0x1234", "int 0x80")));
    check_eq!((out.what(), out.eax), ((DONE, 0), 0x1234), "32-bit ring 0 runs");
    let out = legacy::run(&legacy::ring3(code!(32, "mov ecx, 0x4321", "int 0x80")));
    check_eq!((out.what(), out.ecx), ((DONE, 0), 0x4321), "32-bit ring 3 runs");
    let out = legacy::run(&legacy::v86(code!(16, "mov ecx, 0x4321", "hlt")));
    check_eq!((out.what(), out.ecx), ((GP, 0), 0x4321), "virtual-8086 mode runs");
    let out = legacy::run_real(&legacy::real(code!(16, "mov ecx, 0x654321", "int 0x80")));
    check_eq!((out.what(), out.ecx), ((DONE, 0), 0x654321), "real mode runs");
    check_eq!(out.esp, 0xff00, "its stack is as it was");
    let _ = (cr4::DE, out);
}
