//! Out of long mode and back: runs code in protected, virtual-8086 or real mode until an exception
//! or INT, and tells what it found. The GDT is the same in all modes, addresses are too.

use crate::boot::sel;
use crate::code;
use crate::cpu;
use crate::trap::{self, segment, set_descriptor};
use core::arch::global_asm;
use core::ptr::addr_of_mut;

/// Registers to start with.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    pub eax: u32,
    pub ecx: u32,
    pub edx: u32,
    pub ebx: u32,
    pub ebp: u32,
    pub esi: u32,
    pub edi: u32,
    pub esp: u32,
    pub eip: u32,
    pub cs: u16,
    pub ss: u16,
    pub ds: u16,
    pub es: u16,
    pub fs: u16,
    pub gs: u16,
    pub eflags: u32,
    pub cr0: u32,
    pub cr3: u32,
    pub cr4: u32,
}

/// What was found at the exception.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub vector: u32,
    /// 0 for vectors without one.
    pub error: u32,
    pub eip: u32,
    pub cs: u16,
    pub eflags: u32,
    /// The stack pointer the processor pushed, or had before it pushed anything.
    pub esp: u32,
    pub ss: u16,
    pub eax: u32,
    pub ecx: u32,
    pub edx: u32,
    pub ebx: u32,
    pub ebp: u32,
    pub esi: u32,
    pub edi: u32,
    pub ds: u16,
    pub es: u16,
    pub fs: u16,
    pub gs: u16,
    /// What lies on the handler's stack: error code if any, EIP, CS, EFLAGS...
    pub raw: [u32; 16],
    pub handler_ss: u16,
    pub handler_esp: u32,
    pub cr0: u32,
    pub cr2: u32,
    pub cr3: u32,
    pub dr6: u32,
    pub tr: u16,
    pub ldtr: u16,
}

impl Outcome {
    pub fn what(&self) -> (u64, u64) {
        (self.vector.into(), self.error.into())
    }
}

/// The gates of legacy protected mode.
#[repr(C, align(16))]
pub struct Idt32(pub [u64; 256]);
#[unsafe(no_mangle)]
pub static mut IDT32: Idt32 = Idt32([0; 256]);

/// A 32-bit TSS with interrupt redirection map and I/O map.
#[repr(C, align(256))]
#[derive(Clone, Copy)]
pub struct Tss32 {
    pub link: u32,
    pub esp0: u32,
    pub ss0: u32,
    pub esp1: u32,
    pub ss1: u32,
    pub esp2: u32,
    pub ss2: u32,
    pub cr3: u32,
    pub eip: u32,
    pub eflags: u32,
    pub eax: u32,
    pub ecx: u32,
    pub edx: u32,
    pub ebx: u32,
    pub esp: u32,
    pub ebp: u32,
    pub esi: u32,
    pub edi: u32,
    pub es: u32,
    pub cs: u32,
    pub ss: u32,
    pub ds: u32,
    pub fs: u32,
    pub gs: u32,
    pub ldt: u32,
    pub trap: u16,
    pub iomap: u16,
    pub redirection: [u8; 32],
    pub ports: [u8; 33],
}

impl Tss32 {
    pub const fn new() -> Self {
        Tss32 {
            link: 0,
            esp0: 0,
            ss0: sel::DATA as u32,
            esp1: 0,
            ss1: 0,
            esp2: 0,
            ss2: 0,
            cr3: 0,
            eip: 0,
            eflags: 2,
            eax: 0,
            ecx: 0,
            edx: 0,
            ebx: 0,
            esp: 0,
            ebp: 0,
            esi: 0,
            edi: 0,
            es: sel::DATA as u32,
            cs: sel::CODE32 as u32,
            ss: sel::DATA as u32,
            ds: sel::DATA as u32,
            fs: sel::DATA as u32,
            gs: sel::DATA as u32,
            ldt: 0,
            trap: 0,
            iomap: 104 + 32,
            redirection: [0; 32],
            ports: [0xff; 33],
        }
    }
}

pub static mut TSS32: Tss32 = Tss32::new();

#[repr(C)]
struct Entry {
    gprs: [u32; 8],
    segments: [u32; 4],
    esp: u32,
    ss: u32,
    cr0: u32,
    cr3: u32,
    cr4: u32,
    real: u32,
    iret: [u32; 9],
}

/// Where real-mode code finds what to start with, and where all exits leave what they found.
const ENTRY: usize = 0x7200;
const FOUND: usize = 0x7000;
/// The code of this module that real mode needs is copied here.
const BLOB: usize = 0x8000;
/// Free low memory for code and stacks of tests.
pub const LOW: u32 = 0x1_0000;
pub const LOW_STACK: u32 = 0x2_0000;

global_asm!(
    r#"
    .text
    .code64
    .globl legacy_run
legacy_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    pushfq
    mov [rip + LEGACY_SAVED], rsp
    mov rax, cr0
    mov [rip + LEGACY_SAVED + 8], rax
    mov rax, cr3
    mov [rip + LEGACY_SAVED + 16], rax
    mov rax, cr4
    mov [rip + LEGACY_SAVED + 24], rax
    push 0x18
    lea rax, [rip + 2f]
    push rax
    retfq
    .code32
2:  mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, offset LEGACY_STACK + 16384
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0xfffffeff
    wrmsr
    mov eax, [0x7240]
    mov cr4, eax
    mov eax, [0x723c]
    mov cr3, eax
    mov eax, [0x7238]
    mov cr0, eax
    jmp 3f
3:  lidt [legacy_idt_pointer]
    cmp dword ptr [0x7244], 0
    jne legacy_to_real
    xor eax, eax
    lldt ax
    and byte ptr [GDT + 0x5d], 0xfd
    mov eax, 0x58
    ltr ax
    lss esp, [0x7230]
    mov gs, word ptr cs:[0x722c]
    mov fs, word ptr cs:[0x7228]
    mov es, word ptr cs:[0x7224]
    mov ds, word ptr cs:[0x7220]
    mov eax, cs:[0x7200]
    mov ecx, cs:[0x7204]
    mov edx, cs:[0x7208]
    mov ebx, cs:[0x720c]
    mov ebp, cs:[0x7210]
    mov esi, cs:[0x7214]
    mov edi, cs:[0x7218]
    .globl legacy_iret
legacy_iret:
    iretd

legacy_to_real:
    lidt [real_idt_pointer]
    push 0x20
    push 0x8000
    retf

    .balign 16
    .globl legacy_stubs
legacy_stubs:
    .set number, 0
    .rept 256
    .balign 16
    push number
    jmp legacy_exit
    .set number, number + 1
    .endr

legacy_exit:
    // PUSH DS, ES, FS, GS: the assembler would make 16-bit pushes of them.
    .byte 0x1e, 0x06, 0x0f, 0xa0, 0x0f, 0xa8
    pushad
    cld
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov esi, esp
    mov ecx, ss
    lar edx, ecx
    test edx, 0x400000
    jnz 2f
    and esi, 0xffff
2:  mov edi, 0x7000
    mov ecx, 29
3:  mov eax, ss:[esi]
    stosd
    add esi, 4
    loop 3b
    mov eax, ss
    stosd
    mov eax, esp
    stosd
    mov eax, cr0
    stosd
    mov eax, cr2
    stosd
    mov eax, cr3
    stosd
    mov eax, dr6
    stosd
    xor eax, eax
    str ax
    stosd
    sldt ax
    stosd
legacy_back:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, offset LEGACY_STACK + 16384
    xor eax, eax
    mov dr7, eax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov eax, [LEGACY_SAVED + 16]
    mov edx, [LEGACY_SAVED + 24]
    cmp dword ptr [LEGACY_SWITCH], 0
    je 2f
    mov eax, [LEGACY_NEXT]
    mov edx, [LEGACY_NEXT + 8]
2:
    mov ebp, offset legacy_done
    jmp enter_long
    .code64
legacy_done:
    mov rsp, [rip + LEGACY_SAVED]
    mov rax, [rip + LEGACY_SAVED + 8]
    mov cr0, rax
    popfq
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    .balign 8
legacy_idt_pointer:
    .word 2047
    .long IDT32
real_idt_pointer:
    .word 1023
    .long 0
    .balign 8
LEGACY_SAVED:
    .quad 0, 0, 0, 0

    // Copied to 0x8000.
    .globl real_blob
    .code16
real_blob:
    mov eax, 0x28
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov sp, 0x6ff0
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    push 0
    .byte 0x68
    .word (real_begin - real_blob) + 0x8000
    .byte 0xcb
real_begin:
    lss esp, cs:[0x7230]
    mov gs, word ptr cs:[0x722c]
    mov fs, word ptr cs:[0x7228]
    mov es, word ptr cs:[0x7224]
    mov ds, word ptr cs:[0x7220]
    mov eax, cs:[0x7200]
    mov ecx, cs:[0x7204]
    mov edx, cs:[0x7208]
    mov ebx, cs:[0x720c]
    mov ebp, cs:[0x7210]
    mov esi, cs:[0x7214]
    mov edi, cs:[0x7218]
    iret

    .globl real_stubs
real_stubs:
    .set number, 0
    .rept 256
    .byte 0x68
    .word number
    .byte 0xe9
    .word real_exit - . - 2
    .set number, number + 1
    .endr
real_exit:
    .byte 0x1e, 0x06, 0x0f, 0xa0, 0x0f, 0xa8
    pushad
    cld
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov si, sp
    mov di, 0x7000
    mov cx, 40
2:  mov ax, ss:[si]
    stosw
    add si, 2
    loop 2b
    mov ax, ss
    stosw
    mov ax, sp
    stosw
    // LGDT of a 32-bit base.
    .byte 0x66, 0x0f, 0x01, 0x16
    .word (real_gdt_pointer - real_blob) + 0x8000
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long legacy_back
    .word 0x18
real_gdt_pointer:
    .word 64 * 8 - 1
    .long GDT
    .globl real_blob_end
real_blob_end:
    .code64
"#
);

unsafe extern "C" {
    fn legacy_run();
    static legacy_stubs: u8;
    static real_blob: u8;
    static real_stubs: u8;
    static real_blob_end: u8;
    pub static legacy_iret: u8;
}

/// The stub of a vector.
pub fn stub(vector: u32) -> u32 {
    &raw const legacy_stubs as u32 + 16 * vector
}

/// A gate of legacy protected mode: attribute byte, selector, target.
pub fn set_gate(vector: u32, attr: u8, selector: u16, target: u32) {
    let gate = u64::from(target & 0xffff)
        | u64::from(selector) << 16
        | u64::from(attr) << 40
        | u64::from(target >> 16) << 48;
    unsafe { IDT32.0[vector as usize] = gate };
}

/// The gate as every test finds it: a 32-bit interrupt gate; 3, 4 and 0x80 are for ring 3.
pub fn usual_gate(vector: u32) {
    let dpl = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
    set_gate(vector, 0x8e | dpl << 5, sel::CODE32, stub(vector));
}

pub fn ring0_stack_top() -> u32 {
    trap::ring0_stack_top() as u32
}

/// Everything back to how tests find it.
pub fn reset_tables() {
    for vector in 0..256 {
        usual_gate(vector);
    }
    unsafe {
        TSS32 = Tss32 { esp0: ring0_stack_top(), ..Tss32::new() };
        set_descriptor(sel::TSS32, segment(addr_of_mut!(TSS32) as u32, 200, 0x89));
    }
}

pub fn init() {
    reset_tables();
    unsafe {
        let start = &raw const real_blob;
        let len = &raw const real_blob_end as usize - start as usize;
        core::ptr::copy_nonoverlapping(start, BLOB as *mut u8, len);
        let stubs = BLOB + (&raw const real_stubs as usize - start as usize);
        for vector in 0..256 {
            // At address zero, which Rust takes for a null pointer.
            core::arch::asm!("mov dword ptr [{0} * 4], {1:e}", in(reg) vector, in(reg) stubs + 6 * vector);
        }
    }
}

/// The usual start: flat 32-bit ring 0, no paging.
pub fn ring0(code: &[u8]) -> Context {
    Context {
        eax: 0,
        ecx: 0,
        edx: 0,
        ebx: 0,
        ebp: 0,
        esi: 0,
        edi: 0,
        esp: ring0_stack_top() - 256,
        eip: code.as_ptr() as u32,
        cs: sel::CODE32,
        ss: sel::DATA,
        ds: sel::DATA,
        es: sel::DATA,
        fs: sel::DATA,
        gs: sel::DATA,
        eflags: 2,
        cr0: 0x31,
        cr3: 0,
        cr4: 0x600,
    }
}

/// The same in ring 3.
pub fn ring3(code: &[u8]) -> Context {
    Context {
        esp: trap::USER_STACK as u32,
        cs: sel::USER_CODE32,
        ss: sel::USER_DATA,
        ds: sel::USER_DATA,
        es: sel::USER_DATA,
        fs: sel::USER_DATA,
        gs: sel::USER_DATA,
        ..ring0(code)
    }
}

/// Virtual-8086 mode: code copied to `LOW`, all other segments at `LOW_STACK`.
pub fn v86(code: &[u8]) -> Context {
    to_low(code);
    let data = (LOW_STACK >> 4) as u16;
    Context {
        eip: 0,
        cs: (LOW >> 4) as u16,
        esp: 0xff00,
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        eflags: cpu::flag::VM as u32 | 2,
        ..ring0(code)
    }
}

/// Real mode, with the same segments.
pub fn real(code: &[u8]) -> Context {
    Context { eflags: 2, cr0: 0x30, ..v86(code) }
}

pub fn to_low(code: &[u8]) {
    unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), LOW as *mut u8, code.len()) };
}

fn run_entry(context: &Context, is_real: bool) {
    let is_v86 = context.eflags & cpu::flag::VM as u32 != 0;
    let frame = [context.eip, context.cs.into(), context.eflags];
    let mut entry = Entry {
        gprs: [
            context.eax,
            context.ecx,
            context.edx,
            context.ebx,
            context.ebp,
            context.esi,
            context.edi,
            0,
        ],
        segments: [context.ds, context.es, context.fs, context.gs].map(u32::from),
        esp: context.esp,
        ss: context.ss.into(),
        cr0: if is_real { 0x31 } else { context.cr0 },
        cr3: context.cr3,
        cr4: context.cr4,
        real: is_real.into(),
        iret: [0; 9],
    };
    unsafe {
        if is_real {
            entry.esp -= 6;
            let at = (u32::from(context.ss) * 16 + entry.esp) as *mut u16;
            for (i, word) in frame.iter().enumerate() {
                at.add(i).write_unaligned(*word as u16);
            }
        } else if is_v86 || context.cs & 3 != 0 {
            entry.iret[..3].copy_from_slice(&frame);
            let outer = [context.ss, context.es, context.ds, context.fs, context.gs];
            entry.iret[3] = context.esp;
            for (slot, selector) in entry.iret[4..].iter_mut().zip(outer) {
                *slot = selector.into();
            }
            entry.esp = ENTRY as u32 + core::mem::offset_of!(Entry, iret) as u32;
            entry.ss = sel::DATA.into();
            if is_v86 {
                entry.segments = [sel::DATA.into(); 4];
            }
        } else {
            entry.esp -= 12;
            (entry.esp as *mut [u32; 3]).write_unaligned(frame);
        }
        (ENTRY as *mut Entry).write_volatile(entry);
        legacy_run();
    }
    trap::load_tables();
}

/// Runs in protected or virtual-8086 mode. Whether an error code was pushed is told by the vector:
/// INT n with such an n must be looked at in `raw`.
pub fn run(context: &Context) -> Outcome {
    run_entry(context, false);
    let found = |i: usize| unsafe { (FOUND as *const u32).add(i).read_volatile() };
    let raw = core::array::from_fn(|i| found(13 + i));
    let vector = found(12) & 0xff;
    let has_error = matches!(vector, 8 | 10..=14 | 17);
    let frame = |i: usize| raw[i + usize::from(has_error)];
    let cs = frame(1) as u16;
    let from_outside = cs & 3 != 0 || frame(2) & cpu::flag::VM as u32 != 0;
    let handler_esp = found(30);
    Outcome {
        vector,
        error: if has_error { raw[0] } else { 0 },
        eip: frame(0),
        cs,
        eflags: frame(2),
        esp: if from_outside {
            frame(3)
        } else {
            handler_esp + 4 * (13 + 3 + u32::from(has_error))
        },
        ss: if from_outside { frame(4) as u16 } else { found(29) as u16 },
        edi: found(0),
        esi: found(1),
        ebp: found(2),
        ebx: found(4),
        edx: found(5),
        ecx: found(6),
        eax: found(7),
        gs: found(8) as u16,
        fs: found(9) as u16,
        es: found(10) as u16,
        ds: found(11) as u16,
        raw,
        handler_ss: found(29) as u16,
        handler_esp,
        cr0: found(31),
        cr2: found(32),
        cr3: found(33),
        dr6: found(34),
        tr: found(35) as u16,
        ldtr: found(36) as u16,
    }
}

/// Leaves long mode and comes back with other values of CR3 and CR4.
pub fn switch(cr3: u64, cr4: u64) {
    unsafe {
        LEGACY_SWITCH = 1;
        LEGACY_NEXT = [cr3, cr4];
    }
    run(&ring0(code!(32, "int 0x80")));
    unsafe { LEGACY_SWITCH = 0 };
}

#[unsafe(no_mangle)]
static mut LEGACY_SWITCH: u32 = 0;
#[unsafe(no_mangle)]
static mut LEGACY_NEXT: [u64; 2] = [0; 2];

/// Runs in real mode.
pub fn run_real(context: &Context) -> Outcome {
    run_entry(context, true);
    let long = |i: usize| unsafe { (FOUND as *const u32).add(i).read_volatile() };
    let word = |i: usize| unsafe { (FOUND as *const u16).add(i).read_volatile() };
    let raw = core::array::from_fn(|i| u32::from(word(21 + i)));
    Outcome {
        vector: word(20).into(),
        error: 0,
        eip: raw[0],
        cs: raw[1] as u16,
        eflags: raw[2],
        esp: u32::from(word(41)) + 2 * (21 + 3),
        ss: word(40),
        edi: long(0),
        esi: long(1),
        ebp: long(2),
        ebx: long(4),
        edx: long(5),
        ecx: long(6),
        eax: long(7),
        gs: word(16),
        fs: word(17),
        es: word(18),
        ds: word(19),
        raw,
        handler_ss: word(40),
        handler_esp: word(41).into(),
        cr0: 0,
        cr2: 0,
        cr3: 0,
        dr6: 0,
        tr: 0,
        ldtr: 0,
    }
}
