//! Real mode and virtual-8086 mode, with the extensions of the latter.

use crate::boot::sel;
use crate::cpu::{cr4, feature, flag};
use crate::legacy::{self, Context, LOW, LOW_STACK, TSS32, real, run, run_real, v86};
use crate::trap::vector::*;

fn low(address: u32) -> *mut u16 {
    address as *mut u16
}

pub fn real_mode() {
    let out = run_real(&real(code!(16, "mov ax, 0x1234", "push ax", "pop bx", "int 0x80")));
    check_eq!((out.what(), out.ebx as u16), ((DONE, 0), 0x1234), "PUSH and POP");
    check_eq!((out.cs, out.eip), ((LOW >> 4) as u16, 7), "INT pushes CS and IP");
    let out =
        run_real(&Context { eflags: 2 | 0x200 | flag::CF as u32, ..real(code!(16, "int 0x80")) });
    check_eq!(out.eflags & 0xfff, 0x203, "and FLAGS, IF as it was");
    let out = run_real(&real(code!(16, "mov ax, [0xffff]", "int 0x80")));
    check_eq!(out.vector, GP as u32, "a word over the end of a segment");
    let out = run_real(&real(code!(16, "mov ax, ss:[0xffff]", "int 0x80")));
    check_eq!(out.vector, SS as u32, "a word over the end of the stack segment");
    let out = run_real(&real(code!(16, "mov ebx, 0x10000", "mov al, [ebx]", "int 0x80")));
    check_eq!(out.vector, GP as u32, "an offset beyond 64 KiB");
    let out = run_real(&real(code!(16, "xor sp, sp", "push ax", "mov bx, sp", "int 0x80")));
    check_eq!(out.ebx as u16, 0xfffe, "the stack wraps around");
    let out = run_real(&real(code!(16, "xor cx, cx", "div cl", "int 0x80")));
    check_eq!((out.vector, out.eip), (0, 2), "division by zero pushes the instruction itself");
    let out = run_real(&real(code!(16, "int3")));
    check_eq!((out.vector, out.eip), (3, 1), "INT3 pushes the next one");
    let out = run_real(&real(code!(16, "mov al, 0x7f", "inc al", "into", "int 0x80")));
    check_eq!(out.vector, 4, "INTO");
    let out = run_real(&real(code!(
        16,
        "mov word ptr [0], 2",
        "mov word ptr [2], 5",
        "mov ax, 6",
        "bound ax, [0]",
        "int 0x80"
    )));
    check_eq!(out.vector, 5, "BOUND");
    let out = run_real(&real(code!(16, "ud2")));
    check_eq!(out.vector, 6, "UD2");
    for (name, code) in [
        ("SLDT", code!(16, "sldt ax", "int 0x80")),
        ("STR", code!(16, "str ax", "int 0x80")),
        ("LLDT", code!(16, "lldt ax", "int 0x80")),
        ("LTR", code!(16, "ltr ax", "int 0x80")),
        ("LAR", code!(16, "lar ax, bx", "int 0x80")),
        ("LSL", code!(16, "lsl ax, bx", "int 0x80")),
        ("VERR", code!(16, "verr ax", "int 0x80")),
        ("VERW", code!(16, "verw ax", "int 0x80")),
        ("ARPL", code!(16, ".byte 0x63, 0xc3", "int 0x80")),
    ] {
        check_eq!(run_real(&real(code)).vector, 6, "{name} does not exist");
    }
    for (name, code) in [
        ("SMSW", code!(16, "smsw ax", "int 0x80")),
        ("SGDT", code!(16, "sgdt [0]", "int 0x80")),
        ("CLTS", code!(16, "clts", "int 0x80")),
        ("MOV from CR0", code!(16, "mov eax, cr0", "int 0x80")),
        ("HLT-less CLI and STI", code!(16, "sti", "cli", "int 0x80")),
        ("RDTSC", code!(16, "rdtsc", "int 0x80")),
        ("CPUID", code!(16, "xor eax, eax", "cpuid", "int 0x80")),
        ("WBINVD", code!(16, "wbinvd", "int 0x80")),
    ] {
        check_eq!(run_real(&real(code)).what(), (DONE, 0), "{name} does");
    }
    let out = run_real(&real(code!(
        16,
        ".byte 0x9a",
        ".word 0x10",
        ".word 0x1000",
        "nop",
        "nop",
        "nop",
        "nop",
        "nop",
        "nop",
        "nop",
        "nop",
        "nop",
        "nop",
        "nop",
        "pop bx",
        "pop cx",
        "int 0x80"
    )));
    check_eq!((out.ebx as u16, out.ecx as u16), (5, (LOW >> 4) as u16), "CALL far");
    let out = run_real(&real(code!(
        16,
        "push 0x202",
        "push 0x1000",
        "push 0x10",
        "iret",
        ".fill 16, 1, 0x90",
        "int 0x80"
    )));
    check_eq!((out.what(), out.eflags & 0x202), ((DONE, 0), 0x202), "IRET");
    let out = run_real(&real(code!(
        16,
        "pushf",
        "pop ax",
        "or ax, 0x7000",
        "push ax",
        "popf",
        "pushf",
        "pop bx",
        "int 0x80"
    )));
    check_eq!(out.ebx & 0xf000, 0x7000, "FLAGS hold IOPL and NT");
    let out = run_real(&real(code!(
        16,
        "jmp 721f",
        ".fill 0x20, 1, 0x90",
        "721:",
        "mov bx, 3",
        "loop 722f",
        "722:",
        "int 0x80"
    )));
    check_eq!(out.ebx, 3, "JMP near");
    let out = run_real(&real(code!(
        16,
        "mov ecx, 0x10001",
        "mov bx, 0",
        "721:",
        "inc bx",
        "loop 721b",
        "int 0x80"
    )));
    check_eq!((out.ebx as u16, out.ecx), (1, 0x10000), "LOOP counts CX");
    let out = run_real(&real(code!(
        16,
        "mov si, 0xffff",
        "mov di, 0x100",
        "mov cx, 2",
        "rep movsb",
        "int 0x80"
    )));
    check_eq!((out.what(), out.esi as u16), ((DONE, 0), 1), "string instructions wrap around");
    // The last byte of the segment may be executed; nothing comes behind it.
    legacy::to_low(code!(16, "nop"));
    unsafe { ((LOW + 0xffff) as *mut u8).write(0x90) };
    let out = run_real(&Context { eip: 0xffff, ..real(code!(16, "nop")) });
    check_eq!(out.vector, GP as u32, "IP does not wrap around");
    // A limit that is too small for the vector table.
    let out = run_real(&Context {
        eflags: 2 | flag::TF as u32,
        ..real(code!(16, "nop", "nop", "int 0x80"))
    });
    check_eq!((out.vector, out.eip), (1, 1), "single step");
}

pub fn v86_mode() {
    let plain = |code: &[u8]| run(&v86(code));
    let open = |code: &[u8]| run(&Context { eflags: flag::VM as u32 | 0x3002, ..v86(code) });
    legacy::reset_tables();
    let out = plain(code!(16, "mov ax, 0x1234", "push ax", "pop bx", "hlt"));
    check_eq!((out.what(), out.ebx as u16), ((GP, 0), 0x1234), "PUSH and POP");
    check_eq!((out.cs, out.eip), ((LOW >> 4) as u16, 5), "CS and IP are pushed");
    check!(out.eflags & flag::VM as u32 != 0, "VM is pushed");
    check_eq!(
        (out.raw[5] as u16, out.raw[6] as u16),
        ((LOW_STACK >> 4) as u16, (LOW_STACK >> 4) as u16),
        "SS and ES are pushed"
    );
    check_eq!((out.ds, out.fs), (0, 0), "the handler's data segments are null");
    for (name, code) in [
        ("CLI", code!(16, "cli")),
        ("STI", code!(16, "sti")),
        ("PUSHF", code!(16, "pushf")),
        ("POPF", code!(16, "popf")),
        ("IRET", code!(16, "iret")),
        ("INT n", code!(16, "int 0x20")),
        ("HLT", code!(16, "hlt")),
        ("MOV from CR0", code!(16, "mov eax, cr0")),
        ("LGDT", code!(16, "lgdt [0]")),
        ("CLTS", code!(16, "clts")),
        ("IN", code!(16, "in al, 0x80")),
    ] {
        let out = plain(code);
        check_eq!((out.what(), out.eip), ((GP, 0), 0), "IOPL 0: {name}");
    }
    for (name, code) in [
        ("SLDT", code!(16, "sldt ax")),
        ("LAR", code!(16, "lar ax, bx")),
        ("VERR", code!(16, "verr ax")),
        ("ARPL", code!(16, ".byte 0x63, 0xc3")),
        ("LLDT", code!(16, "lldt ax")),
    ] {
        check_eq!(plain(code).what(), (UD, 0), "{name} does not exist");
    }
    check_eq!(plain(code!(16, "int3")).what(), (BP, 0), "INT3 is not sensitive to IOPL");
    for (name, code) in [
        ("CLI and STI", code!(16, "sti", "cli", "hlt")),
        ("PUSHF and POPF", code!(16, "pushf", "popf", "hlt")),
        ("IN, by its map,", code!(16, "hlt")),
    ] {
        let out = open(code);
        check_eq!(
            (out.what(), out.eip + 1),
            ((GP, 0), code.len() as u32),
            "IOPL 3: {name} are executed"
        );
    }
    let out = open(code!(16, "in al, 0x80", "hlt"));
    check_eq!((out.what(), out.eip), ((GP, 0), 0), "IOPL 3: ports still need the map");
    legacy::set_gate(0x20, 0xee, sel::CODE32, legacy::stub(0x20));
    let out = open(code!(16, "int 0x20"));
    check_eq!((out.what(), out.eip), ((0x20, 0), 2), "IOPL 3: INT n goes through the IDT");
    legacy::usual_gate(0x20);
    let out = open(code!(16, "int 0x20"));
    check_eq!(out.what(), (GP, 0x20 * 8 + 2), "IOPL 3: whose gate must be for ring 3");
    unsafe { TSS32.ports[16] = 0xfe };
    let out = plain(code!(16, "in al, 0x80", "hlt"));
    check_eq!((out.what(), out.eip), ((GP, 0), 2), "a port that the map permits");
    let out = plain(code!(16, "mov ax, [0xffff]", "hlt"));
    check_eq!((out.what(), out.eip), ((GP, 0), 0), "a word over the end of a segment");
    let out = plain(code!(16, "mov ax, ss:[0xffff]", "hlt"));
    check_eq!(out.what(), (SS, 0), "a word over the end of the stack segment");
    let out = plain(code!(16, "mov ax, 0x1100", "mov fs, ax", "mov bx, fs", "hlt"));
    check_eq!(
        (out.ebx as u16, out.raw[8] as u16),
        (0x1100, 0x1100),
        "segments are loaded as in real mode"
    );
    let out = open(code!(
        16,
        "push 0x7202",
        "push 0x1000",
        "push 0x10",
        "iret",
        ".fill 16, 1, 0x90",
        "pushf",
        "pop bx",
        "hlt"
    ));
    check_eq!(
        (out.what(), out.ebx & 0x7200),
        ((GP, 0), 0x7200),
        "IOPL 3: IRET takes IF and leaves IOPL"
    );
    legacy::reset_tables();
    if feature::VME.offered() {
        extensions();
    } else {
        crate::tap::skip("VME");
    }
}

/// CR4.VME: a virtual interrupt flag, and interrupts that stay in the 8086 program.
fn extensions() {
    let go = |code: &[u8], flags: u64| {
        run(&Context {
            eflags: (flag::VM | 2 | flags) as u32,
            cr4: 0x600 | cr4::VME as u32,
            ..v86(code)
        })
    };
    let vif = flag::VIF;
    let out = go(code!(16, "sti", "hlt"), 0);
    check_eq!((out.eip, u64::from(out.eflags) & vif), (1, vif), "VME: STI sets VIF");
    let out = go(code!(16, "cli", "hlt"), vif);
    check_eq!((out.eip, u64::from(out.eflags) & vif), (1, 0), "VME: CLI clears VIF");
    let out = go(code!(16, "sti", "hlt"), flag::VIP);
    check_eq!((out.what(), out.eip), ((GP, 0), 0), "VME: STI with VIP pending");
    let out = go(code!(16, "pushf", "pop bx", "hlt"), vif);
    check_eq!(out.ebx & 0x3200, 0x3200, "VME: PUSHF shows VIF as IF, and IOPL 3");
    let out = go(code!(16, "pushf", "pop bx", "hlt"), 0);
    check_eq!(out.ebx & 0x3200, 0x3000, "VME: or not");
    let out = go(code!(16, "push 0x202", "popf", "hlt"), 0);
    check_eq!(u64::from(out.eflags) & (vif | 0x200), vif, "VME: POPF sets VIF, not IF");
    let out = go(code!(16, "push 0x202", "popf", "hlt"), flag::VIP);
    check_eq!((out.what(), out.eip), ((GP, 0), 3), "VME: POPF of IF with VIP pending");
    let out = go(code!(16, "push 0x102", "popf", "hlt"), 0);
    check_eq!((out.what(), out.eip), ((GP, 0), 3), "VME: POPF of TF");
    let out = go(code!(16, ".byte 0x66", "pushf", "hlt"), 0);
    check_eq!((out.what(), out.eip), ((GP, 0), 0), "VME: PUSHFD");
    let out = go(
        code!(16, "push 0x202", "push 0x1000", "push 0x10", "iret", ".fill 16, 1, 0x90", "hlt"),
        0,
    );
    check_eq!(u64::from(out.eflags) & (vif | 0x200), vif, "VME: IRET sets VIF");
    // INT through the program's own vector table.
    let old = unsafe { [low(0x80).read(), low(0x82).read()] };
    legacy::to_low(code!(16, "nop"));
    unsafe {
        low(0x80).write(0x40);
        low(0x82).write((LOW >> 4) as u16);
    }
    let with_handler = |flags: u64, redirect: bool| {
        legacy::reset_tables();
        unsafe { TSS32.redirection[4] = if redirect { 0 } else { 1 } };
        let code =
            code!(16, "int 0x20", ".fill 0x3e, 1, 0x90", "pop ax", "pop bx", "pop cx", "hlt");
        go(code, flags)
    };
    let out = with_handler(vif, true);
    check_eq!((out.what(), out.eip), ((GP, 0), 0x43), "VME: INT n stays in the program");
    check_eq!(
        (out.eax as u16, out.ebx as u16),
        (2, (LOW >> 4) as u16),
        "VME: with CS and IP on its stack"
    );
    check_eq!(out.ecx & 0x3200, 0x3200, "VME: and FLAGS with VIF as IF, IOPL 3");
    check_eq!(u64::from(out.eflags) & vif, 0, "VME: VIF is clear in its handler");
    let out = with_handler(0x3000, true);
    check_eq!((out.what(), out.eip), ((GP, 0), 0x43), "VME: with IOPL 3 as well");
    let out = with_handler(0, false);
    check_eq!(
        (out.what(), out.eip),
        ((GP, 0), 0),
        "VME: an interrupt that is not redirected needs IOPL 3"
    );
    let out = with_handler(0x3000, false);
    check_eq!(out.what(), (GP, 0x20 * 8 + 2), "VME: and goes through the IDT then");
    unsafe {
        low(0x80).write(old[0]);
        low(0x82).write(old[1]);
    }
    legacy::reset_tables();
    // CR4.PVI: the same flag for ring 3.
    let go = |code: &[u8], flags: u64| {
        let eip = crate::trap::to_user(code) as u32;
        run(&Context { eip, eflags: (2 | flags) as u32, cr4: 0x602, ..legacy::ring3(code) })
    };
    let out = go(code!(32, "sti", "int 0x80"), 0);
    check_eq!((out.what(), u64::from(out.eflags) & vif), ((DONE, 0), vif), "PVI: STI sets VIF");
    let out = go(code!(32, "cli", "int 0x80"), vif);
    check_eq!((out.what(), u64::from(out.eflags) & vif), ((DONE, 0), 0), "PVI: CLI clears VIF");
    let out = go(code!(32, "sti", "int 0x80"), flag::VIP);
    check_eq!(out.what(), (GP, 0), "PVI: STI with VIP pending");
}
