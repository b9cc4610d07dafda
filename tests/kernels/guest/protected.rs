//! Protected mode of 16 and 32 bits: segments, their limits and types, call gates and returns, with
//! the rules of privilege (SDM vol. 3, chapter 5).

use crate::boot::sel;
use crate::cpu::flag;
use crate::legacy::{self, Context, TSS32, Tss32, ring0, ring3, run};
use crate::trap::{
    self, USER, USER_STACK, descriptor, enter, kernel_frame, ring0_stack_top, segment,
    set_descriptor, to_user, user_frame, vector::*,
};
use core::ptr::addr_of_mut;

/// Slots of the GDT.
const A: u16 = sel::FREE;
const B: u16 = sel::FREE + 8;
const GATE: u16 = sel::FREE + 16;

fn user(code: &[u8]) -> Context {
    Context { eip: to_user(code) as u32, ..ring3(code) }
}

fn gate(selector: u16, target: u32, attr: u64, params: u64) -> u64 {
    u64::from(target & 0xffff)
        | u64::from(selector) << 16
        | params << 32
        | attr << 40
        | u64::from(target >> 16) << 48
}

pub fn run_all() {
    limits();
    types();
    loads();
    looks();
    transfers();
    call_gates();
    returns();
    sixteen_bits();
    ports();
    long_gates();
    legacy::reset_tables();
}

fn limits() {
    let base = USER as u32 + 0x10000;
    let load = code!(32, "mov al, fs:[ebx]", "int 0x80");
    let wide = code!(32, "mov eax, fs:[ebx]", "int 0x80");
    let store = code!(32, "mov fs:[ebx], al", "int 0x80");
    let go = |code: &[u8], value: u64, offset: u32| {
        legacy::reset_tables();
        set_descriptor(A, value);
        let code = Context { fs: A, ebx: offset, ..ring0(code) };
        run(&code).what()
    };
    let up = segment(base, 0xfff, 0x4093);
    check_eq!(go(load, up, 0xfff), (DONE, 0), "the last byte of a segment");
    check_eq!(go(load, up, 0x1000), (GP, 0), "the byte behind");
    check_eq!(go(wide, up, 0xffc), (DONE, 0), "the last doubleword");
    check_eq!(go(wide, up, 0xffd), (GP, 0), "a doubleword over the limit");
    check_eq!(go(wide, up, 0xffff_ffff), (GP, 0), "one that wraps around");
    let pages = segment(base, 1, 0xc093);
    check_eq!(go(load, pages, 0x1fff), (DONE, 0), "a limit in pages");
    check_eq!(go(load, pages, 0x2000), (GP, 0), "the byte behind it");
    let down = segment(base, 0xfff, 0x4097);
    check_eq!(go(load, down, 0xfff), (GP, 0), "expand-down: the limit itself");
    check_eq!(go(load, down, 0x1000), (DONE, 0), "expand-down: the byte above");
    check_eq!(go(store, down, 0x1000), (DONE, 0), "expand-down: a store");
    let small_down = segment(base, 0xfff, 0x0097);
    check_eq!(go(load, small_down, 0xffff), (DONE, 0), "expand-down of 16 bits: its top");
    check_eq!(go(load, small_down, 0x10000), (GP, 0), "expand-down of 16 bits: above");
    // Through SS it is #SS.
    legacy::reset_tables();
    set_descriptor(A, segment(0, ring0_stack_top() as u32 >> 12, 0xc093));
    let stack = code!(32, "mov eax, ss:[ebx]", "int 0x80");
    let limit = (ring0_stack_top() as u32 | 0xfff) + 1;
    let out = run(&Context { ss: A, ebx: limit, ..ring0(stack) });
    check_eq!(out.what(), (SS, 0), "beyond the stack segment");
    let out = run(&Context { ss: A, ebp: limit, ..ring0(code!(32, "mov eax, [ebp]", "int 0x80")) });
    check_eq!(out.what(), (SS, 0), "by way of EBP");
    // Code runs into its limit.
    let code = code!(32, "nop", "nop", "nop", "int 0x80");
    let at = code.as_ptr() as u32;
    legacy::reset_tables();
    set_descriptor(A, segment(at, 1, 0x409b));
    let out = run(&Context { cs: A, eip: 0, ..ring0(code) });
    check_eq!((out.what(), out.eip), ((GP, 0), 2), "falling over the limit of CS");
    let code = code!(32, "nop", "mov eax, 0x11223344", "int 0x80");
    set_descriptor(A, segment(code.as_ptr() as u32, 4, 0x409b));
    let out = run(&Context { cs: A, eip: 0, ..ring0(code) });
    check_eq!((out.what(), out.eip), ((GP, 0), 1), "an instruction over the limit of CS");
    let code = code!(32, "jmp 721f", "nop", "721:", "nop");
    set_descriptor(A, segment(code.as_ptr() as u32, 2, 0x409b));
    let out = run(&Context { cs: A, eip: 0, ..ring0(code) });
    check_eq!((out.what(), out.eip), ((GP, 0), 0), "a jump beyond the limit faults at the jump");
}

fn types() {
    let go = |code: &[u8], attr: u16| {
        legacy::reset_tables();
        set_descriptor(A, segment(USER as u32 + 0x10000, 0xfff, attr));
        run(&Context { fs: A, ebx: 0, ..ring0(code) }).what()
    };
    let load = code!(32, "mov al, fs:[ebx]", "int 0x80");
    let store = code!(32, "mov fs:[ebx], al", "int 0x80");
    check_eq!(go(load, 0x4091), (DONE, 0), "a load from read-only data");
    check_eq!(go(store, 0x4091), (GP, 0), "a store to read-only data");
    check_eq!(go(load, 0x409b), (DONE, 0), "a load from readable code");
    check_eq!(go(store, 0x409b), (GP, 0), "a store to code");
    legacy::reset_tables();
    let null = Context { fs: 0, ..ring0(load) };
    check_eq!(run(&null).what(), (GP, 0), "a load through a null selector");
    set_descriptor(A, segment(0, 0xfffff, 0xc099));
    let code = code!(32, "mov al, cs:[ebx]", "int 0x80");
    let out = run(&Context { cs: A, ..ring0(code) });
    check_eq!(out.what(), (GP, 0), "a load from execute-only code");
}

fn loads() {
    let code = code!(32, "mov fs, eax", "int 0x80");
    let stack = code!(32, "mov ss, eax", "int 0x80");
    let go = |context: Context, selector: u16, value: u64| {
        legacy::reset_tables();
        set_descriptor(A, value);
        run(&Context { eax: selector.into(), ..context }).what()
    };
    let bad = u64::from(A);
    let data = |dpl: u16| segment(0, 0xfffff, 0xc093 | dpl << 5);
    check_eq!(go(ring0(code), A, data(0)), (DONE, 0), "DPL 0 from ring 0");
    check_eq!(go(ring0(code), A | 3, data(0)), (GP, bad), "DPL 0 with RPL 3");
    check_eq!(go(ring0(code), A | 3, data(3)), (DONE, 0), "DPL 3 with RPL 3");
    check_eq!(go(ring0(code), A, data(3)), (DONE, 0), "DPL 3 from ring 0");
    check_eq!(go(user(code), A, data(0)), (GP, bad), "DPL 0 from ring 3");
    check_eq!(go(user(code), A, data(2)), (GP, bad), "DPL 2 from ring 3");
    check_eq!(go(user(code), A, data(3)), (DONE, 0), "DPL 3 from ring 3");
    check_eq!(
        go(user(code), A | 3, segment(0, 0xfffff, 0xc09f)),
        (DONE, 0),
        "conforming code from ring 3"
    );
    check_eq!(
        go(user(code), A, segment(0, 0xfffff, 0xc09b)),
        (GP, bad),
        "code of ring 0 from ring 3"
    );
    check_eq!(go(ring0(code), A, segment(0, 0xfffff, 0xc099)), (GP, bad), "execute-only code");
    check_eq!(go(ring0(code), A, segment(0, 0xfffff, 0xc013)), (NP, bad), "data not present");
    check_eq!(go(ring0(code), A, segment(0, 0xfffff, 0x82)), (GP, bad), "an LDT");
    check_eq!(go(ring0(stack), A, data(0)), (DONE, 0), "SS of ring 0");
    check_eq!(go(ring0(stack), A | 3, data(0)), (GP, bad), "SS with RPL 3");
    check_eq!(go(ring0(stack), A, data(3)), (GP, bad), "SS of DPL 3");
    check_eq!(go(ring0(stack), 0, data(0)), (GP, 0), "a null SS");
    check_eq!(go(ring0(stack), A, segment(0, 0xfffff, 0xc091)), (GP, bad), "a read-only SS");
    check_eq!(go(ring0(stack), A, segment(0, 0xfffff, 0xc013)), (SS, bad), "SS not present");
    check_eq!(go(ring0(code!(32, "mov cs, eax")), A, data(0)), (UD, 0), "MOV CS");
    // Descriptor tables.
    legacy::reset_tables();
    let lldt = code!(32, "lldt ax", "int 0x80");
    check_eq!(
        run(&Context { eax: sel::DATA.into(), ..ring0(lldt) }).what(),
        (GP, sel::DATA.into()),
        "LLDT of data"
    );
    check_eq!(run(&Context { eax: 4, ..ring0(lldt) }).what(), (GP, 4), "LLDT from the LDT");
    check_eq!(go(ring0(lldt), A, segment(0, 0xff, 2)), (NP, bad), "LLDT, not present");
    let ltr = code!(32, "ltr ax", "int 0x80");
    legacy::reset_tables();
    check_eq!(
        run(&Context { eax: sel::TSS32.into(), ..ring0(ltr) }).what(),
        (GP, sel::TSS32.into()),
        "LTR of a busy TSS"
    );
    check_eq!(run(&Context { eax: 0, ..ring0(ltr) }).what(), (GP, 0), "LTR of null");
    check_eq!(go(ring0(ltr), A, segment(0, 0x67, 9)), (NP, bad), "LTR, not present");
    check_eq!(go(ring0(ltr), A, segment(0, 0x67, 0x89)), (DONE, 0), "LTR");
    check_eq!(descriptor(A) >> 40 & 0xff, 0x8b, "makes it busy");
    // An LDT with one descriptor.
    static mut LDT: [u64; 2] = [0; 2];
    legacy::reset_tables();
    unsafe { LDT[1] = data(0) };
    set_descriptor(A, segment(addr_of_mut!(LDT) as u32, 15, 0x82));
    let both = code!(32, "lldt ax", "mov fs, ecx", "int 0x80");
    let out = run(&Context { eax: A.into(), ecx: 0xc, ..ring0(both) });
    check_eq!((out.what(), out.fs), ((DONE, 0), 0xc), "a segment of the LDT");
    let out = run(&Context { eax: A.into(), ecx: 0x14, ..ring0(both) });
    check_eq!(out.what(), (GP, 0x14), "one beyond the LDT");
    let far = code!(32, "lfs ebx, [esi]", "int 0x80");
    static mut POINTER: [u16; 3] = [0x5678, 0x1234, sel::USER_DATA];
    let out = run(&Context { esi: addr_of_mut!(POINTER) as u32, ..ring0(far) });
    check_eq!((out.what(), out.ebx, out.fs), ((DONE, 0), 0x1234_5678, sel::USER_DATA), "LFS");
}

fn looks() {
    let lar = code!(32, "mov ebx, 0x5555", "lar ebx, eax", "setz cl", "int 0x80");
    let lsl = code!(32, "mov ebx, 0x5555", "lsl ebx, eax", "setz cl", "int 0x80");
    let verr = code!(32, "verr ax", "setz cl", "int 0x80");
    let verw = code!(32, "verw ax", "setz cl", "int 0x80");
    let go = |context: Context, selector: u16, value: u64| {
        legacy::reset_tables();
        set_descriptor(A, value);
        let out = run(&Context { eax: selector.into(), ..context });
        (out.ecx, out.ebx)
    };
    let data = segment(0x1234_5678, 0xfffff, 0xc093);
    check_eq!(go(ring0(lar), A, data), (1, 0x00cf_9300 & 0x00f0_ff00), "LAR of data");
    check_eq!(go(ring0(lsl), A, data), (1, !0), "LSL in pages");
    check_eq!(go(ring0(lsl), A, segment(0, 0x1234, 0x4093)), (1, 0x1234), "LSL in bytes");
    check_eq!(go(ring0(lar), 0, data), (0, 0x5555), "LAR of null");
    check_eq!(go(ring0(lar), 0x7ff8, data), (0, 0x5555), "LAR beyond the GDT");
    check_eq!(go(user(lar), A, data), (0, 0x5555), "LAR of ring 0 from ring 3");
    check_eq!(go(ring0(lar), A | 3, data), (0, 0x5555), "LAR with RPL 3");
    check_eq!(
        go(user(lar), A, segment(0, 0xfffff, 0xc09f)).0,
        1,
        "LAR of conforming code from ring 3"
    );
    check_eq!(go(ring0(lar), A, segment(0, 0xfffff, 0xc013)).0, 1, "LAR of data not present");
    for (name, attr, look, limit) in [
        ("a 16-bit TSS", 0x81u16, 1, 1),
        ("an LDT", 0x82, 1, 1),
        ("a busy 16-bit TSS", 0x83, 1, 1),
        ("a 16-bit call gate", 0x84, 1, 0),
        ("a task gate", 0x85, 1, 0),
        ("a 16-bit interrupt gate", 0x86, 0, 0),
        ("type 8", 0x88, 0, 0),
        ("a TSS", 0x89, 1, 1),
        ("a busy TSS", 0x8b, 1, 1),
        ("a call gate", 0x8c, 1, 0),
        ("an interrupt gate", 0x8e, 0, 0),
        ("a trap gate", 0x8f, 0, 0),
    ] {
        check_eq!(go(ring0(lar), A, segment(0, 0x67, attr)).0, look, "LAR of {name}");
        check_eq!(go(ring0(lsl), A, segment(0, 0x67, attr)).0, limit, "LSL of {name}");
    }
    for (name, attr, read, write) in [
        ("data", 0xc093, 1, 1),
        ("read-only data", 0xc091, 1, 0),
        ("execute-only code", 0xc099, 0, 0),
        ("readable code", 0xc09b, 1, 0),
        ("a TSS", 0x89, 0, 0),
    ] {
        check_eq!(go(ring0(verr), A, segment(0, 0xfffff, attr)).0, read, "VERR of {name}");
        check_eq!(go(ring0(verw), A, segment(0, 0xfffff, attr)).0, write, "VERW of {name}");
    }
    check_eq!(go(user(verr), A, data).0, 0, "VERR of ring 0 from ring 3");
    let arpl = code!(32, "arpl ax, bx", "setz cl", "int 0x80");
    let out = run(&Context { eax: 0x10, ebx: 3, ..ring0(arpl) });
    check_eq!((out.eax, out.ecx), (0x13, 1), "ARPL raises");
    let out = run(&Context { eax: 0x13, ebx: 1, ..ring0(arpl) });
    check_eq!((out.eax, out.ecx), (0x13, 0), "ARPL leaves");
}

fn transfers() {
    // JMP and CALL far to segment A; the target is the same code, further on.
    let jump = code!(
        32,
        "push 0x60",
        "push eax",
        "jmp fword ptr [esp]",
        "nop",
        "721:",
        "mov ebx, 7",
        "int 0x80"
    );
    let offset = 2 + 1 + 3 + 1;
    let go = |context: Context, value: u64| {
        legacy::reset_tables();
        set_descriptor(A, value);
        let eax = context.eip + offset;
        run(&Context { eax, ..context })
    };
    let bad = u64::from(A);
    let code = |attr: u16| segment(0, 0xfffff, attr);
    let out = go(ring0(jump), code(0xc09b));
    check_eq!((out.what(), out.cs, out.ebx), ((DONE, 0), A, 7), "JMP to code of the same ring");
    check_eq!(go(ring0(jump), code(0xc09a)).what(), (DONE, 0), "JMP to code not accessed so far");
    check_eq!(descriptor(A), code(0xc09b), "sets the accessed bit");
    check_eq!(go(ring0(jump), code(0xc0fb)).what(), (GP, bad), "JMP to an outer ring");
    check_eq!(go(user(jump), code(0xc09b)).what(), (GP, bad), "JMP to an inner ring");
    let out = go(user(jump), code(0xc09f));
    check_eq!(
        (out.what(), out.cs),
        ((DONE, 0), A | 3),
        "JMP to conforming code of an inner ring stays in ring 3"
    );
    check_eq!(
        go(ring0(jump), code(0xc0ff)).what(),
        (GP, bad),
        "JMP to conforming code of an outer ring"
    );
    check_eq!(go(ring0(jump), code(0xc093)).what(), (GP, bad), "JMP to data");
    check_eq!(go(ring0(jump), code(0xc01b)).what(), (NP, bad), "JMP to code not present");
    check_eq!(go(ring0(jump), segment(0, 0xfff, 0x409b)).what(), (GP, 0), "JMP beyond the limit");
    let null = code!(32, "push 0", "push 0", "jmp fword ptr [esp]");
    check_eq!(run(&ring0(null)).what(), (GP, 0), "JMP to null");
    let call = code!(
        32,
        "push 0x60",
        "push eax",
        "call fword ptr [esp]",
        "nop",
        "721:",
        "mov ebx, 7",
        "pop ecx",
        "pop edx",
        "int 0x80"
    );
    let out = go(ring0(call), code(0xc09b));
    check_eq!((out.what(), out.ebx), ((DONE, 0), 7), "CALL far");
    check_eq!(
        (out.ecx, out.edx as u16),
        (call.as_ptr() as u32 + 6, sel::CODE32),
        "pushes CS and EIP"
    );
}

fn call_gates() {
    let target = code!(
        32,
        "mov ebx, 7",
        "pop eax",
        "pop ecx",
        "pop edx",
        "pop esi",
        "pop edi",
        "pop ebp",
        "int 0x80"
    );
    let at = target.as_ptr() as u32;
    let call =
        code!(32, "push 0x1111", "push 0x2222", ".byte 0x9a", ".long 0", ".word 0x70", "int 0x80");
    let go = |context: Context, value: u64| {
        legacy::reset_tables();
        set_descriptor(A, segment(0, 0xfffff, 0xc09b));
        set_descriptor(GATE, value);
        run(&context)
    };
    let bad = u64::from(GATE);
    let out = go(user(call), gate(A, at, 0xec, 2));
    check_eq!((out.what(), out.ebx, out.cs), ((DONE, 0), 7, A), "CALL through a gate to ring 0");
    check_eq!(
        (out.eax, out.ecx as u16),
        (USER as u32 + 5 + 5 + 7, sel::USER_CODE32),
        "pushes CS and EIP"
    );
    check_eq!((out.edx, out.esi), (0x2222, 0x1111), "copies parameters");
    check_eq!(
        (out.edi, out.ebp as u16),
        (USER_STACK as u32 - 8, sel::USER_DATA),
        "pushes the outer stack"
    );
    check_eq!(out.esp, ring0_stack_top() as u32, "on the stack of the TSS");
    let out = go(user(call), gate(A, at, 0xec, 0));
    check_eq!(
        (out.edx, out.esi as u16),
        (USER_STACK as u32 - 8, sel::USER_DATA),
        "without parameters"
    );
    let out = go(ring0(call), gate(A, at, 0xec, 2));
    check_eq!(
        (out.what(), out.ecx as u16, out.edx),
        ((DONE, 0), sel::CODE32, 0x2222),
        "in the same ring nothing is copied"
    );
    check_eq!(
        go(user(call), gate(A, at, 0x8c, 0)).what(),
        (GP, bad),
        "a gate for ring 0 from ring 3"
    );
    check_eq!(go(user(call), gate(A, at, 0x6c, 0)).what(), (NP, bad), "a gate not present");
    check_eq!(go(user(call), gate(0, at, 0xec, 0)).what(), (GP, 0), "a gate to null");
    check_eq!(
        go(user(call), gate(sel::DATA, at, 0xec, 0)).what(),
        (GP, sel::DATA.into()),
        "a gate to data"
    );
    check_eq!(
        go(user(call), gate(0x7ff8, at, 0xec, 0)).what(),
        (GP, 0x7ff8),
        "a gate beyond the GDT"
    );
    check_eq!(
        go(ring0(call), gate(sel::USER_CODE32, at, 0xec, 0)).what(),
        (GP, 0x30),
        "a gate to an outer ring"
    );
    let jump = code!(32, ".byte 0xea", ".long 0", ".word 0x70", "int 0x80");
    check_eq!(
        go(user(jump), gate(A, at, 0xec, 0)).what(),
        (GP, A.into()),
        "JMP through a gate to ring 0"
    );
    check_eq!(
        go(ring0(jump), gate(A, at, 0xec, 0)).what(),
        (DONE, 0),
        "JMP through a gate in ring 0"
    );
    // Stacks that are no good.
    let with_stack = |name: &str, what: (u64, u64), change: fn(&mut Tss32)| {
        legacy::reset_tables();
        set_descriptor(A, segment(0, 0xfffff, 0xc09b));
        set_descriptor(B, segment(0, 0xfffff, 0xc013));
        set_descriptor(GATE, gate(A, at, 0xec, 0));
        // The exception itself must not need that stack.
        for vector in [TS, SS, GP] {
            legacy::set_gate(vector as u32, 0x85, sel::FREE + 40, 0);
        }
        static mut HANDLER: Tss32 = Tss32::new();
        unsafe {
            HANDLER = Tss32::new();
            HANDLER.eip = code!(32, "pop edx", "int 0x80").as_ptr() as u32;
            HANDLER.esp = ring0_stack_top() as u32 - 4096;
            set_descriptor(sel::FREE + 40, segment(addr_of_mut!(HANDLER) as u32, 200, 0x89));
            change(&mut *addr_of_mut!(TSS32));
        }
        let out = run(&user(call));
        check_eq!(
            (out.tr, u64::from(out.edx)),
            (sel::FREE + 40, what.1),
            "a call gate with {name}"
        );
        let _ = what.0;
    };
    with_stack("a null stack", (TS, 0), |tss| tss.ss0 = 0);
    with_stack("a stack of ring 3", (TS, 0x38), |tss| tss.ss0 = sel::USER_DATA.into());
    with_stack("a stack that is code", (TS, 0x18), |tss| tss.ss0 = sel::CODE32.into());
    with_stack("a stack beyond the GDT", (TS, 0x7ff8), |tss| tss.ss0 = 0x7ff8);
    with_stack("a stack not present", (SS, B.into()), |tss| tss.ss0 = B.into());
    // There and back.
    let there = code!(32, "mov ebx, 7", "retf 8");
    let back = code!(
        32,
        "push 0x1111",
        "push 0x2222",
        ".byte 0x9a",
        ".long 0",
        ".word 0x70",
        "mov edx, esp",
        "int 0x80"
    );
    let out = go(user(back), gate(A, there.as_ptr() as u32, 0xec, 2));
    check_eq!(
        (out.what(), out.ebx, out.edx),
        ((DONE, 0), 7, USER_STACK as u32),
        "RETF drops the parameters from both stacks"
    );
    check_eq!(out.cs, sel::USER_CODE32, "and returns to ring 3");
    // 16-bit gates.
    legacy::to_low(code!(16, "mov ebx, 9", "int 0x80"));
    let small = gate(B, 0, 0xe4, 0);
    legacy::reset_tables();
    set_descriptor(B, segment(legacy::LOW, 0xffff, 0x009b));
    set_descriptor(GATE, small);
    let out = run(&user(call));
    check_eq!((out.what(), out.ebx), ((DONE, 0), 9), "a 16-bit call gate");
    check_eq!(out.esp, ring0_stack_top() as u32 - 8, "pushes words");
}

fn returns() {
    let retf = code!(32, "push eax", "push ebx", "retf");
    let go = |context: Context, selector: u16, target: u32, value: u64| {
        legacy::reset_tables();
        set_descriptor(A, value);
        run(&Context { eax: selector.into(), ebx: target, ..context }).what()
    };
    let done = code!(32, "int 0x80").as_ptr() as u32;
    let bad = u64::from(A);
    let code = |attr: u16| segment(0, 0xfffff, attr);
    check_eq!(go(ring0(retf), A, done, code(0xc09b)), (DONE, 0), "RETF to the same ring");
    check_eq!(go(ring0(retf), 0, done, 0), (GP, 0), "RETF to null");
    check_eq!(go(ring0(retf), A, done, code(0xc093)), (GP, bad), "RETF to data");
    check_eq!(
        go(ring0(retf), A, done, code(0xc0fb)),
        (GP, bad),
        "RETF to code whose DPL is not the RPL"
    );
    check_eq!(go(ring0(retf), A, done, code(0xc01b)), (NP, bad), "RETF to code not present");
    check_eq!(
        go(ring0(retf), A, 0x2000, segment(0, 0xfff, 0x409b)),
        (GP, 0),
        "RETF beyond the limit"
    );
    check_eq!(go(user(retf), A, done, code(0xc09b)), (GP, bad), "RETF to an inner ring");
    // To ring 3, with a stack that is wrong.
    let outer = code!(32, "push ecx", "push edx", "push eax", "push ebx", "retf");
    let out = |ss: u16, value: u64| {
        legacy::reset_tables();
        set_descriptor(A, value);
        let at = to_user(code!(32, "mov esi, ds", "mov edi, fs", "int 0x80")) as u32;
        let context = Context {
            ecx: ss.into(),
            edx: USER_STACK as u32,
            eax: sel::USER_CODE32.into(),
            ebx: at,
            ..ring0(outer)
        };
        run(&Context { fs: sel::USER_DATA, ..context })
    };
    let good = out(sel::USER_DATA, 0);
    check_eq!((good.what(), good.esp), ((DONE, 0), USER_STACK as u32), "RETF to ring 3");
    check_eq!(
        (good.esi, good.edi as u16),
        (0, sel::USER_DATA),
        "data segments of ring 0 become null, others stay"
    );
    check_eq!(out(0, 0).what(), (GP, 0), "with a null stack");
    check_eq!(out(sel::DATA, 0).what(), (GP, 0x10), "with a stack of ring 0");
    check_eq!(
        out(A | 3, segment(0, 0xfffff, 0xc073)).what(),
        (SS, bad),
        "with a stack not present"
    );
    let iret = code!(32, "push ecx", "push edx", "push 0x3202", "push eax", "push ebx", "iretd");
    legacy::reset_tables();
    let at = to_user(code!(32, "pushfd", "pop ecx", "int 0x80")) as u32;
    let context = Context {
        ecx: sel::USER_DATA.into(),
        edx: USER_STACK as u32,
        eax: sel::USER_CODE32.into(),
        ebx: at,
        ..ring0(iret)
    };
    let out = run(&context);
    check_eq!(
        (out.what(), out.ecx & 0x3200),
        ((DONE, 0), 0x3200),
        "IRET to ring 3 with IF and IOPL"
    );
    let same = code!(32, "push 0x3202", "push 0x3b", "push 0", "iretd");
    check_eq!(run(&ring0(same)).what(), (GP, 0x38), "IRET to data");
    // Ring 3 cannot change IOPL and IF.
    let at = code!(
        32,
        "pushfd",
        "pop eax",
        "or eax, 0x3200",
        "push eax",
        "popfd",
        "pushfd",
        "pop ecx",
        "int 0x80"
    );
    let out = run(&user(at));
    check_eq!(out.ecx & 0x3200, 0, "POPF in ring 3 leaves IF and IOPL");
    let out = run(&Context { eflags: 0x3002, ..user(at) });
    check_eq!(out.ecx & 0x3200, 0x3200, "IF with IOPL 3 can be changed");
    let _ = flag::IF;
}

fn sixteen_bits() {
    legacy::reset_tables();
    let code = code!(
        16,
        "mov ax, 0x1234",
        "push ax",
        "pop bx",
        ".byte 0xe8",
        ".word 0",
        "pop cx",
        "int 0x80"
    );
    legacy::to_low(code);
    set_descriptor(A, segment(legacy::LOW, 0xffff, 0x009b));
    let out = run(&Context { cs: A, eip: 0, ..ring0(code) });
    check_eq!(
        (out.what(), out.ebx as u16, out.ecx as u16),
        ((DONE, 0), 0x1234, 8),
        "16-bit code in protected mode"
    );
    // A 16-bit stack wraps at 64 KiB and keeps the upper half of ESP.
    set_descriptor(B, segment(0, 0xffff, 0x0093));
    let push = code!(32, "push eax", "mov ecx, esp", "int 0x80");
    let out = run(&Context { ss: B, esp: 0x6ff0 + 4, eax: 5, ..ring0(push) });
    check_eq!((out.what(), out.ecx & 0xffff), ((DONE, 0), 0x6ff0), "a 16-bit stack");
    let wide = code!(16, "mov eax, fs:[ebx]", "int 0x80");
    legacy::to_low(wide);
    let out = run(&Context { cs: A, eip: 0, ebx: 0x10000, fs: B, ..ring0(wide) });
    check_eq!(out.what(), (GP, 0), "a 32-bit offset beyond 64 KiB");
}

fn ports() {
    legacy::reset_tables();
    let input = code!(32, "in al, 0x80", "int 0x80");
    let wide = code!(32, "in eax, 0x80", "int 0x80");
    check_eq!(run(&user(input)).what(), (GP, 0), "IN in ring 3");
    check_eq!(run(&Context { eflags: 0x3002, ..user(input) }).what(), (DONE, 0), "IN with IOPL 3");
    let with = |change: fn(&mut Tss32), code: &[u8]| {
        legacy::reset_tables();
        unsafe { change(&mut *addr_of_mut!(TSS32)) };
        run(&user(code)).what()
    };
    // Ports 0x80 to 0x83 are bits 0 to 3 of byte 16.
    check_eq!(
        with(|tss| tss.ports[16] = 0xfe, input),
        (DONE, 0),
        "IN of a port that the map permits"
    );
    check_eq!(
        with(|tss| tss.ports[16] = 0xfe, wide),
        (GP, 0),
        "IN of four ports of which it permits one"
    );
    check_eq!(with(|tss| tss.ports[16] = 0xf0, wide), (DONE, 0), "IN of four that it permits");
    check_eq!(
        with(
            |tss| {
                tss.ports[16] = 0;
                tss.iomap = 0xffff
            },
            input
        ),
        (GP, 0),
        "IN with the map beyond the TSS"
    );
    check_eq!(
        with(
            |tss| {
                tss.ports[16] = 0;
                tss.iomap = 200 - 16
            },
            input
        ),
        (GP, 0),
        "IN with the map cut off"
    );
}

/// Call gates of 64-bit mode.
fn long_gates() {
    let target = code!(64, "mov ebx, 7", "pop rax", "pop rcx", "pop rdx", "pop rsi", "int 0x80");
    let at = target.as_ptr() as u64;
    let call = user_frame(code!(64, "push 0x70", "push 0", "call fword ptr [rsp + 4]", "int 0x80"));
    let put = |selector: u16, attr: u64, upper: u64| {
        set_descriptor(GATE, gate(selector, at as u32, attr, 0));
        set_descriptor(GATE + 8, at >> 32 | upper);
    };
    // The far pointer is 32 bits of offset and the selector: written by the code below.
    let call = trap::Frame {
        rip: to_user(code!(
            64,
            "mov dword ptr [rsp - 16], 0",
            "mov word ptr [rsp - 12], 0x70",
            "call fword ptr [rsp - 16]",
            "int 0x80"
        )),
        ..call
    };
    put(sel::CODE64, 0xec, 0);
    let out = enter(&call);
    check!(out.is(DONE, 0) && out.frame.rbx == 7, "a 64-bit call gate");
    check_eq!(
        (out.frame.rcx, out.frame.rdx, out.frame.rsi),
        (sel::USER_CODE64.into(), call.rsp, sel::USER_DATA.into()),
        "pushes quadwords"
    );
    check_eq!(out.frame.ss, 0, "SS becomes null");
    put(sel::CODE64, 0x8c, 0);
    check_eq!(enter(&call).what(), (GP, GATE.into()), "one for ring 0 from ring 3");
    put(sel::CODE32, 0xec, 0);
    check_eq!(enter(&call).what(), (GP, sel::CODE32.into()), "one to 32-bit code");
    put(sel::CODE64, 0xec, 0x1f00 << 32);
    check_eq!(enter(&call).what(), (GP, GATE.into()), "one whose second half has a type");
    put(sel::CODE64, 0xe4, 0);
    check_eq!(enter(&call).what(), (GP, GATE.into()), "a 16-bit gate");
    set_descriptor(GATE, 0);
    set_descriptor(GATE + 8, 0);
    let tss =
        kernel_frame(code!(64, "push 0x48", "push 0", "jmp fword ptr [rsp + 4]").as_ptr() as u64);
    let tss = trap::Frame {
        rip: code!(
            64,
            "mov dword ptr [rsp - 16], 0",
            "mov word ptr [rsp - 12], 0x48",
            "jmp fword ptr [rsp - 16]"
        )
        .as_ptr() as u64,
        ..tss
    };
    check_eq!(enter(&tss).what(), (GP, 0x48), "JMP to a TSS in long mode");
    let direct = code!(64, ".byte 0x9a", ".long 0", ".word 0x8");
    check_eq!(trap::user(direct).what(), (UD, 0), "CALL with an immediate far pointer");
}
