//! Hardware task switches (SDM vol. 3, chapter 8): JMP, CALL, IRET and interrupts, through TSSs and
//! task gates, with everything that can be wrong.

use crate::boot::sel;
use crate::cpu::{cr0, flag};
use crate::legacy::{self, Context, Outcome, TSS32, Tss32, ring0, ring3, run, set_gate};
use crate::trap::{
    USER_STACK, descriptor, ring0_stack_top, segment, set_descriptor, to_user, vector::*,
};
use core::ptr::addr_of_mut;

/// The other task, a task gate to it, a 16-bit task, an LDT, and things that are wrong.
const OTHER: u16 = sel::FREE;
const GATE: u16 = sel::FREE + 8;
const SMALL: u16 = sel::FREE + 16;
const LDT: u16 = sel::FREE + 24;
const BAD: u16 = sel::FREE + 32;

/// Tasks that take #TS, #NP, #SS and #GP, by vector.
const HANDLER: u16 = sel::FREE + 40;
static mut HANDLERS: [Tss32; 4] = [const { Tss32::new() }; 4];

static mut TASK: Tss32 = Tss32::new();

#[repr(C, align(64))]
struct Tss16([u16; 22]);
static mut TASK16: Tss16 = Tss16([0; 22]);

const BUSY: u64 = 2 << 40;

fn task_at() -> u32 {
    addr_of_mut!(TASK) as u32
}

fn task_gate(selector: u16, dpl: u64) -> u64 {
    u64::from(selector) << 16 | (0x85 | dpl << 5) << 40
}

/// Everything back to its usual state; the other task will run `code`.
fn prepare(code: &[u8]) -> &'static mut Tss32 {
    legacy::reset_tables();
    set_descriptor(OTHER, segment(task_at(), 200, 0x89));
    set_descriptor(GATE, task_gate(OTHER, 0));
    unsafe {
        TASK = Tss32::new();
        TASK.eip = code.as_ptr() as u32;
        TASK.esp = ring0_stack_top() as u32 - 4096;
        TASK.esp0 = ring0_stack_top() as u32 - 8192;
        &mut *addr_of_mut!(TASK)
    }
}

fn busy(selector: u16) -> bool {
    descriptor(selector) & BUSY != 0
}

fn main_tss() -> Tss32 {
    unsafe { core::ptr::read_volatile(addr_of_mut!(TSS32)) }
}

fn other_tss() -> Tss32 {
    unsafe { core::ptr::read_volatile(addr_of_mut!(TASK)) }
}

pub fn run_all() {
    jump();
    call();
    interrupts();
    refusals();
    bad_states();
    trap_flag();
    small();
    paging();
    legacy::reset_tables();
}

fn jump() {
    let code = code!(32, "mov ebx, 0x1111", "int 0x80");
    let task = prepare(code);
    task.eax = 0xaaaa;
    task.edi = 0xdddd;
    task.eflags = 2 | 0x800 | flag::CF as u32;
    task.link = 0x5555;
    let mut context = ring0(code!(32, ".byte 0xea", ".long 0", ".word 0x60", "nop"));
    context.ecx = 0xcccc;
    context.eflags = 2 | flag::ZF as u32;
    let out = run(&context);
    check_eq!(out.what(), (DONE, 0), "JMP to a TSS");
    check_eq!(out.tr, OTHER, "TR is the new task's");
    check_eq!((out.eax, out.ebx, out.edi), (0xaaaa, 0x1111, 0xdddd), "registers come from the TSS");
    check_eq!(out.eflags & 0xfff, 0x803, "so do the flags");
    check!(out.eflags & flag::NT as u32 == 0, "NT is clear after JMP");
    check!(busy(OTHER) && !busy(sel::TSS32), "the new task is busy, the old one is not");
    check_eq!(other_tss().link, 0x5555, "JMP leaves the link alone");
    check!(out.cr0 & cr0::TS as u32 != 0, "CR0.TS is set");
    let old = main_tss();
    check_eq!(old.eip, context.eip + 7, "the old task goes on behind the JMP");
    check_eq!((old.ecx, old.cs as u16), (0xcccc, sel::CODE32), "its registers are saved");
    check_eq!(old.eflags & flag::ZF as u32, flag::ZF as u32, "its flags are saved");
    check_eq!(old.esp, context.esp, "its stack pointer is saved");

    prepare(code);
    let out = run(&ring0(code!(32, ".byte 0xea", ".long 0", ".word 0x68", "nop")));
    check_eq!((out.what(), out.tr), ((DONE, 0), OTHER), "JMP to a task gate");
    prepare(code);
    let out = run(&ring0(code!(32, "push 0x60", "push 0", "jmp fword ptr [esp]")));
    check_eq!((out.what(), out.tr), ((DONE, 0), OTHER), "JMP through memory");
}

fn call() {
    let code = code!(32, "mov ebx, 0x1111", "int 0x80");
    prepare(code);
    let main = code!(32, ".byte 0x9a", ".long 0", ".word 0x60", "mov ecx, 7", "int 0x80");
    let out = run(&ring0(main));
    check_eq!((out.what(), out.tr), ((DONE, 0), OTHER), "CALL to a TSS");
    check!(out.eflags & flag::NT as u32 != 0, "NT is set in the new task");
    check_eq!(other_tss().link as u16, sel::TSS32, "it is linked to the old one");
    check!(busy(OTHER) && busy(sel::TSS32), "both are busy");

    let back = code!(32, "mov ebx, 0x1111", "iretd", "mov ebx, 0x2222", "int 0x80");
    prepare(back);
    let out = run(&ring0(main));
    check_eq!((out.what(), out.tr), ((DONE, 0), sel::TSS32), "IRET back");
    check_eq!((out.ecx, out.ebx), (7, 0), "the caller's registers are its own");
    check!(!busy(OTHER) && busy(sel::TSS32), "the returning task is no longer busy");
    check!(out.eflags & flag::NT as u32 == 0, "the caller was not nested");
    check_eq!(other_tss().eflags & flag::NT as u32, 0, "nor is the other, when it is saved");
    check_eq!(other_tss().eip, back.as_ptr() as u32 + 6, "it would go on behind its IRET");
    prepare(code!(32, "iretd", "mov ebx, 0x2222", "iretd"));
    let twice = code!(
        32,
        ".byte 0x9a",
        ".long 0",
        ".word 0x60",
        ".byte 0x9a",
        ".long 0",
        ".word 0x68",
        "int 0x80"
    );
    let out = run(&ring0(twice));
    check_eq!(
        (out.what(), out.tr),
        ((DONE, 0), sel::TSS32),
        "called twice, it goes on where it was"
    );
}

fn interrupts() {
    prepare(code!(32, "mov ebx, 0x1111", "iretd"));
    set_gate(0x40, 0x85, OTHER, 0);
    let main = code!(32, "int 0x40", "mov ecx, 7", "int 0x80");
    let out = run(&ring0(main));
    check_eq!(
        (out.what(), out.tr, out.ecx),
        ((DONE, 0), sel::TSS32, 7),
        "INT through a task gate, and back"
    );
    prepare(code!(32, "int 0x80"));
    set_gate(0x40, 0x85, OTHER, 0);
    let out = run(&ring0(main));
    check_eq!(main_tss().eip, main.as_ptr() as u32 + 2, "INT saves the next instruction");
    check!(out.eflags & flag::NT as u32 != 0 && other_tss().link as u16 == sel::TSS32, "it nests");
    prepare(code!(32, "pop ecx", "int 0x80"));
    set_gate(GP as u32, 0x85, OTHER, 0);
    let bad = code!(32, "mov eax, 0x1f8", "mov ds, eax", "int 0x80");
    let out = run(&ring0(bad));
    check_eq!(
        (out.what(), out.tr, out.ecx),
        ((DONE, 0), OTHER, 0x1f8),
        "#GP through a task gate pushes its error code"
    );
    check_eq!(main_tss().eip, bad.as_ptr() as u32 + 5, "and saves the faulting instruction");
    check!(main_tss().eflags & flag::RF as u32 != 0, "with RF set");
    prepare(code!(32, "int 0x80"));
    set_gate(UD as u32, 0x85, OTHER, 0);
    let out = run(&ring0(code!(32, "ud2")));
    check_eq!((out.what(), out.tr), ((DONE, 0), OTHER), "#UD through a task gate");
    check_eq!(out.esp, ring0_stack_top() as u32 - 4096, "pushes nothing");
    prepare(code!(32, "int 0x80"));
    set_gate(0x40, 0x85, OTHER, 0);
    set_descriptor(OTHER, segment(task_at(), 200, 0x8b));
    check_eq!(run(&ring0(main)).what(), (GP, OTHER.into()), "INT to a busy task");
    prepare(code!(32, "int 0x80"));
    set_gate(0x40, 0x85, OTHER, 0);
    let at = to_user(main) as u32;
    let context = Context { eip: at, ..ring3(main) };
    check_eq!(
        run(&context).what(),
        (GP, 0x40 * 8 + 2),
        "INT to a task gate for ring 0 from ring 3"
    );
    set_gate(0x40, 0xe5, OTHER, 0);
    let out = run(&context);
    check_eq!(
        (out.what(), out.tr),
        ((DONE, 0), OTHER),
        "to one for ring 3, whatever the TSS's DPL"
    );
    check_eq!(main_tss().esp, USER_STACK as u32, "the outer stack is saved in the TSS");
    check_eq!(main_tss().cs as u16, sel::USER_CODE32, "so is CS");
    // A double fault as a task.
    prepare(code!(32, "pop ecx", "int 0x80"));
    set_gate(DF as u32, 0x85, OTHER, 0);
    set_gate(GP as u32, 0x0e, sel::CODE32, 0);
    let out = run(&ring0(bad));
    check_eq!((out.what(), out.tr, out.ecx), ((DONE, 0), OTHER, 0), "#DF through a task gate");
}

fn refusals() {
    let code = code!(32, "int 0x80");
    let jump = code!(32, ".byte 0xea", ".long 0", ".word 0x60", "nop");
    let gate = code!(32, ".byte 0xea", ".long 0", ".word 0x68", "nop");
    let call = code!(32, ".byte 0x9a", ".long 0", ".word 0x60", "nop");
    let other = u64::from(OTHER);
    for (name, value, what) in [
        ("busy", segment(task_at(), 200, 0x8b), (GP, other)),
        ("not present", segment(task_at(), 200, 0x09), (NP, other)),
        ("of limit 0x66", segment(task_at(), 0x66, 0x89), (TS, other)),
        ("that is an LDT", segment(task_at(), 200, 0x82), (GP, other)),
        ("that is an interrupt gate", segment(0, 0, 0x8e), (GP, other)),
    ] {
        for (how, code_of) in [("JMP", jump), ("CALL", call)] {
            prepare(code);
            set_descriptor(OTHER, value);
            let out = run(&ring0(code_of));
            check_eq!(out.what(), what, "{how} to a TSS {name}");
            check_eq!(out.tr, sel::TSS32, "{how} to a TSS {name}: nothing is switched");
        }
    }
    prepare(code);
    set_descriptor(OTHER, segment(task_at(), 0x67, 0x89));
    check_eq!(run(&ring0(jump)).what(), (DONE, 0), "a limit of 0x67 is enough");
    let user = |code: &[u8]| Context { eip: to_user(code) as u32, ..ring3(code) };
    prepare(code);
    check_eq!(run(&user(jump)).what(), (GP, other), "a TSS for ring 0 from ring 3");
    check_eq!(run(&user(gate)).what(), (GP, GATE.into()), "a task gate for ring 0 from ring 3");
    prepare(code);
    set_descriptor(GATE, task_gate(OTHER, 3));
    let out = run(&user(gate));
    check_eq!((out.what(), out.tr), ((DONE, 0), OTHER), "a task gate for ring 3");
    prepare(code);
    set_descriptor(GATE, task_gate(OTHER, 0) & !(0x80 << 40));
    check_eq!(run(&ring0(gate)).what(), (NP, GATE.into()), "a task gate not present");
    prepare(code);
    set_descriptor(GATE, task_gate(0, 0));
    check_eq!(run(&ring0(gate)).what(), (GP, 0), "a task gate to null");
    prepare(code);
    set_descriptor(GATE, task_gate(OTHER | 4, 0));
    check_eq!(run(&ring0(gate)).what(), (GP, other | 4), "a task gate to the LDT");
    prepare(code);
    set_descriptor(GATE, task_gate(0xfff8, 0));
    check_eq!(run(&ring0(gate)).what(), (GP, 0xfff8), "a task gate beyond the GDT");
    // Returns.
    prepare(code);
    let iret = Context { eflags: 2 | flag::NT as u32, ..ring0(code!(32, "iretd")) };
    let back = |link: u16| unsafe { TSS32.link = link.into() };
    back(OTHER);
    check_eq!(run(&nested(&iret)).what(), (TS, other), "IRET to a task that is not busy");
    back(0);
    check_eq!(run(&nested(&iret)).what(), (TS, 0), "IRET to null");
    back(sel::DATA);
    check_eq!(run(&nested(&iret)).what(), (TS, sel::DATA.into()), "IRET to data");
    back(OTHER);
    set_descriptor(OTHER, segment(task_at(), 200, 0x0b));
    check_eq!(run(&nested(&iret)).what(), (NP, other), "IRET to a task not present");
    set_descriptor(OTHER, segment(task_at(), 200, 0x8b));
    let out = run(&nested(&iret));
    check_eq!((out.what(), out.tr), ((DONE, 0), OTHER), "IRET to a busy task");
    check!(busy(OTHER) && !busy(sel::TSS32), "which stays busy");
}

/// The IRET that starts a context must not take NT for its own: it is set by POPF.
fn nested(context: &Context) -> Context {
    let code = code!(32, "push 0x4002", "popfd", "iretd");
    Context { eip: code.as_ptr() as u32, eflags: 2, ..*context }
}

fn bad_states() {
    let code = code!(32, "int 0x80");
    let jump = code!(32, ".byte 0xea", ".long 0", ".word 0x60", "nop");
    let bad = u32::from(BAD);
    let try_state = |name: &str, what: (u64, u64), descriptor: u64, change: &dyn Fn(&mut Tss32)| {
        let task = prepare(code);
        set_descriptor(BAD, descriptor);
        change(task);
        // With segments missing, only another task can deal with it.
        for vector in [TS, NP, SS, GP] {
            set_gate(vector as u32, 0x85, HANDLER + 8 * vector as u16, 0);
            unsafe {
                let tss = &mut *addr_of_mut!(HANDLERS[vector as usize - 10]);
                *tss = Tss32::new();
                tss.eip = code!(32, "pop edx", "int 0x80").as_ptr() as u32;
                tss.ecx = vector as u32;
                tss.esp = ring0_stack_top() as u32 - 16384;
                let descriptor = segment(tss as *mut Tss32 as u32, 200, 0x89);
                set_descriptor(HANDLER + 8 * vector as u16, descriptor);
            }
        }
        let out: Outcome = run(&ring0(jump));
        check_eq!((u64::from(out.ecx), u64::from(out.edx)), what, "a new task with {name}");
        let handler = unsafe { HANDLERS[what.0 as usize - 10].link as u16 };
        check_eq!(handler, OTHER, "a new task with {name}: the fault is in the new task");
        check!(busy(OTHER) && !busy(sel::TSS32), "a new task with {name}: is busy");
    };
    let data = segment(0, 0xfffff, 0xc093);
    let absent = segment(0, 0xfffff, 0xc013);
    let code_absent = segment(0, 0xfffff, 0xc01b);
    let execute_only = segment(0, 0xfffff, 0xc099);
    let read_only = segment(0, 0xfffff, 0xc091);
    let error = u64::from(BAD);
    try_state("data as CS", (TS, error), data, &|t| t.cs = bad);
    try_state("CS not present", (NP, error), code_absent, &|t| t.cs = bad);
    try_state("CS beyond the GDT", (TS, 0x7ff8), 0, &|t| t.cs = 0x7ff8);
    try_state("a read-only SS", (TS, error), read_only, &|t| t.ss = bad);
    try_state("SS not present", (SS, error), absent, &|t| t.ss = bad);
    try_state("SS of another ring", (TS, 0x38), 0, &|t| t.ss = sel::USER_DATA.into());
    try_state("a null SS", (TS, 0), 0, &|t| t.ss = 0);
    try_state("DS not present", (NP, error), absent, &|t| t.ds = bad);
    try_state("ES that cannot be read", (TS, error), execute_only, &|t| t.es = bad);
    try_state("FS beyond the GDT", (TS, 0x7ff8), 0, &|t| t.fs = 0x7ff8);
    try_state("a GS that is a TSS", (TS, 0x58), 0, &|t| t.gs = sel::TSS32.into());
    try_state("an LDT that is data", (TS, error), data, &|t| t.ldt = bad);
    try_state("an LDT not present", (TS, error), segment(0, 100, 2), &|t| t.ldt = bad);
    try_state("EIP beyond the limit", (GP, 0), segment(0, 0xffff, 0x409b), &|t| {
        t.cs = bad;
        t.eip = 0x10000;
    });

    let task = prepare(code!(32, "int 0x80"));
    task.ds = 0;
    task.ldt = LDT.into();
    set_descriptor(LDT, segment(task_at(), 0xff, 0x82));
    let out = run(&ring0(jump));
    check_eq!(out.ldtr, LDT, "LDTR is loaded");
    check_eq!(out.ds, 0, "a null DS is fine");
    // Ring 3.
    let user = code!(32, "mov ecx, 5", "int 0x80");
    let task = prepare(user);
    task.eip = to_user(user) as u32;
    task.esp = USER_STACK as u32;
    (task.cs, task.ss) = (sel::USER_CODE32.into(), sel::USER_DATA.into());
    (task.ds, task.es, task.fs, task.gs) = (0x3b, 0x3b, 0x3b, 0);
    let out = run(&ring0(jump));
    check_eq!((out.what(), out.cs, out.ecx), ((DONE, 0), sel::USER_CODE32, 5), "a task in ring 3");
    let below = ring0_stack_top() as u32 - 8192 - out.handler_esp;
    check!(below < 256, "its ring 0 stack is used");
    // Virtual-8086 mode.
    let small = code!(16, "mov ecx, 6", "hlt");
    let task = prepare(small);
    legacy::to_low(small);
    task.eflags = 2 | flag::VM as u32;
    (task.eip, task.esp) = (0, 0x8000);
    task.cs = legacy::LOW >> 4;
    (task.ss, task.ds) = (legacy::LOW_STACK >> 4, 0x1234);
    let out = run(&ring0(jump));
    check!(out.what() == (GP, 0) && out.ecx == 6, "a task in virtual-8086 mode");
    check!(out.eflags & flag::VM as u32 != 0, "which VM tells");
}

fn trap_flag() {
    let code = code!(32, "nop", "int 0x80");
    let task = prepare(code);
    task.trap = 1;
    let out = run(&ring0(code!(32, ".byte 0xea", ".long 0", ".word 0x60", "nop")));
    check_eq!(out.what(), (DB, 0), "the T bit of a TSS");
    check_eq!(
        (out.eip, out.tr),
        (code.as_ptr() as u32, OTHER),
        "traps before the first instruction"
    );
    check!(out.dr6 & 0x8000 != 0, "DR6.BT tells so");
    crate::cpu::set_dr6(0xffff_0ff0);
}

fn small() {
    legacy::reset_tables();
    let code = code!(16, "int 0x80");
    legacy::to_low(code);
    // 16-bit code and data where the code is.
    let base = legacy::LOW;
    set_descriptor(BAD, segment(base, 0xffff, 0x009b));
    set_descriptor(SMALL, segment(addr_of_mut!(TASK16) as u32, 0x2b, 0x81));
    let data = sel::DATA16;
    unsafe {
        // Link, three stacks, IP, FLAGS, AX CX DX BX SP BP SI DI, ES CS SS DS, LDT.
        TASK16.0 = [
            0, 0x6ff0, data, 0, 0, 0, 0, 0, 2, 0xa, 0xc, 0xd, 0xb, 0x6e00, 0xbb, 0x51, 0xd1, data,
            BAD, data, data, 0,
        ];
    }
    let out = run(&ring0(code!(32, ".byte 0xea", ".long 0", ".word 0x70", "nop")));
    check_eq!((out.what(), out.tr), ((DONE, 0), SMALL), "JMP to a 16-bit TSS");
    check_eq!(
        (out.eax & 0xffff, out.ecx & 0xffff, out.edi & 0xffff),
        (0xa, 0xc, 0xd1),
        "16-bit registers"
    );
    check_eq!((out.cs, out.ds, out.fs), (BAD, data, 0), "FS is null");
    check!(busy(SMALL), "it is busy");
    legacy::reset_tables();
    set_descriptor(SMALL, segment(addr_of_mut!(TASK16) as u32, 0x2a, 0x81));
    let out = run(&ring0(code!(32, ".byte 0xea", ".long 0", ".word 0x70", "nop")));
    check_eq!(out.what(), (TS, SMALL.into()), "a 16-bit TSS that is too short");
}

/// CR3 comes from the TSS when paging is on, and only then.
fn paging() {
    use crate::boot::Table;
    static mut DIRECTORY: [Table; 2] = [const { Table([0; 512]) }; 2];
    let directory = |which: usize| unsafe { addr_of_mut!(DIRECTORY[which]).cast::<u32>() };
    for which in 0..2 {
        for i in 0..1024 {
            unsafe { directory(which).add(i).write((i as u32) << 22 | 0x87) };
        }
    }
    let code = code!(32, "int 0x80");
    let task = prepare(code);
    task.cr3 = directory(1) as u32;
    let jump = code!(32, ".byte 0xea", ".long 0", ".word 0x60", "nop");
    let mut context = ring0(jump);
    context.cr3 = directory(0) as u32;
    let out = run(&context);
    check_eq!((out.what(), out.cr3), ((DONE, 0), directory(0) as u32), "CR3 stays without paging");
    let task = prepare(code);
    task.cr3 = directory(1) as u32;
    context.cr0 |= cr0::PG as u32;
    context.cr4 |= crate::cpu::cr4::PSE as u32;
    let out = run(&context);
    check_eq!(
        (out.what(), out.cr3),
        ((DONE, 0), directory(1) as u32),
        "CR3 is loaded with paging on"
    );
    check_eq!(main_tss().cr3, 0, "and not saved");
    // The TSS must be there.
    let page = (task_at() >> 12) as usize;
    static mut LEAVES: Table = Table([0; 512]);
    let leaves = addr_of_mut!(LEAVES).cast::<u32>();
    let _ = page;
    for i in 0..1024 {
        unsafe { leaves.add(i).write((i as u32) << 12 | 7) };
    }
    unsafe { directory(0).write(leaves as u32 | 7) };
    prepare(code);
    set_descriptor(OTHER, segment(0x3f_f000, 200, 0x89));
    unsafe { leaves.add(0x3ff).write(0) };
    let out = run(&context);
    check_eq!(
        (out.what().0, out.cr2 & !0xfff, out.tr),
        (PF, 0x3f_f000, sel::TSS32),
        "a TSS that is not mapped"
    );
}
