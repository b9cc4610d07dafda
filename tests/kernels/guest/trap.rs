//! Exceptions in 64-bit mode: catching them, and running code in another context until one comes.

use crate::boot::{GDT, PDS, sel};
use crate::cpu::{self, flag};
use core::arch::global_asm;
use core::mem::MaybeUninit;
use core::ptr::addr_of_mut;

/// Registers as the stubs save them, then what the processor pushed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Vectors.
pub mod vector {
    pub const DE: u64 = 0;
    pub const DB: u64 = 1;
    pub const NMI: u64 = 2;
    pub const BP: u64 = 3;
    pub const OF: u64 = 4;
    pub const BR: u64 = 5;
    pub const UD: u64 = 6;
    pub const NM: u64 = 7;
    pub const DF: u64 = 8;
    pub const TS: u64 = 10;
    pub const NP: u64 = 11;
    pub const SS: u64 = 12;
    pub const GP: u64 = 13;
    pub const PF: u64 = 14;
    pub const MF: u64 = 16;
    pub const AC: u64 = 17;
    /// What code of the tests ends with: INT 0x80.
    pub const DONE: u64 = 0x80;
}

/// How a stretch of code ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Registers at the exception; nothing if there was none.
    pub frame: Frame,
    pub cr2: u64,
    /// Whether there was an exception.
    pub faulted: bool,
    /// CR0 at the exception: the stubs clear EM and TS.
    pub cr0: u64,
}

impl Outcome {
    /// Vector and error code; vector `!0` if nothing happened.
    pub fn what(&self) -> (u64, u64) {
        if self.faulted { (self.frame.vector, self.frame.error) } else { (!0, 0) }
    }
    pub fn is(&self, vector: u64, error: u64) -> bool {
        self.what() == (vector, error)
    }
}

/// What [`Outcome::what`] says if there was no exception.
pub const FINE: (u64, u64) = (!0, 0);

#[repr(C, align(16))]
pub struct Idt(pub [u128; 256]);
pub static mut IDT: Idt = Idt([0; 256]);

#[repr(C, packed(4))]
pub struct Tss {
    reserved: u32,
    pub rsp: [u64; 3],
    reserved1: u64,
    pub ist: [u64; 7],
    reserved2: [u16; 5],
    pub iomap: u16,
    pub bitmap: [u8; 33],
}
impl Tss {
    pub const fn new() -> Self {
        Tss {
            reserved: 0,
            rsp: [0; 3],
            reserved1: 0,
            ist: [0; 7],
            reserved2: [0; 5],
            iomap: 104,
            bitmap: [0xff; 33],
        }
    }
}

pub static mut TSS: Tss = Tss::new();

static mut TRAP_STACK: crate::boot::Stack<32768> = crate::boot::Stack([0; 32768]);
static mut DEBUG_STACK: crate::boot::Stack<16384> = crate::boot::Stack([0; 16384]);
static mut RING0_STACK: crate::boot::Stack<32768> = crate::boot::Stack([0; 32768]);

/// Top of the stack that a gate without IST leads to from ring 3.
pub fn ring0_stack_top() -> u64 {
    addr_of_mut!(RING0_STACK) as u64 + 32768
}
pub fn trap_stack_top() -> u64 {
    addr_of_mut!(TRAP_STACK) as u64 + 32768
}

/// A handler for interrupts that are to be returned from.
pub type Handler = fn(&mut Frame);
static mut HANDLERS: [Option<Handler>; 256] = [None; 256];

pub fn set_handler(vector: u64, handler: Option<Handler>) {
    unsafe { HANDLERS[vector as usize] = handler };
}

/// Where to go on after an exception, and what it was.
struct Recovery {
    rsp: u64,
    outcome: Outcome,
}
static mut RECOVERY: *mut Recovery = core::ptr::null_mut();

#[unsafe(no_mangle)]
static mut TRAP_CR0: u64 = 0;

global_asm!(
    r#"
    .text
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set number, 0
    .rept 256
    .balign 32
    // The stack was aligned before the frame was pushed: an odd number of quadwords means that
    // there is no error code.
    test spl, 8
    jz 2f
    push 0
2:  push number
    jmp trap_common
    .set number, number + 1
    .endr

trap_common:
    cld
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rax, cr0
    mov [rip + TRAP_CR0], rax
    mov rbp, rax
    and rax, ~0xc
    mov cr0, rax
    mov rdi, rsp
    sub rsp, 512 + 16
    and rsp, -16
    fxsave [rsp]
    mov rbx, rdi
    call handle_trap
    fxrstor [rsp]
    mov cr0, rbp
    mov rsp, rbx
    .globl resume_frame
resume_frame:
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    .globl frame_iretq
frame_iretq:
    iretq

    // guarded(function, argument, &mut rsp): calls function(argument); an exception returns too.
    .globl guarded
guarded:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    pushfq
    mov [rdx], rsp
    mov rax, rdi
    mov rdi, rsi
    call rax
    .globl guarded_return
guarded_return:
    popfq
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    // load_frame(&Frame)
    .globl load_frame
load_frame:
    mov rsp, rdi
    jmp resume_frame
"#
);

unsafe extern "C" {
    fn guarded(function: unsafe extern "C" fn(*mut ()), argument: *mut (), rsp: *mut u64);
    fn guarded_return();
    fn load_frame(frame: *mut ());
    pub fn frame_iretq();
    static trap_stubs: u8;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn handle_trap(frame: &mut Frame) {
    if let Some(handler) = HANDLERS[frame.vector as usize & 0xff] {
        return handler(frame);
    }
    if RECOVERY.is_null() {
        panic!("unexpected exception, CR2 {:#x}: {:x?}", cpu::cr2(), frame);
    }
    let recovery = &mut *RECOVERY;
    recovery.outcome = Outcome { frame: *frame, cr2: cpu::cr2(), faulted: true, cr0: TRAP_CR0 };
    frame.rip = guarded_return as *const () as u64;
    frame.cs = sel::CODE64.into();
    frame.ss = sel::DATA.into();
    frame.rsp = recovery.rsp;
    frame.rflags = 2;
}

unsafe fn run_guarded(function: unsafe extern "C" fn(*mut ()), argument: *mut ()) -> Outcome {
    let mut recovery = Recovery { rsp: 0, outcome: Outcome::default() };
    let outer = RECOVERY;
    RECOVERY = &mut recovery;
    guarded(function, argument, &mut recovery.rsp);
    RECOVERY = outer;
    // The exception handler writes to it behind the compiler's back.
    core::ptr::read_volatile(&recovery.outcome)
}

/// Runs `code` and tells which exception it raised.
pub fn catch<F: FnOnce()>(code: F) -> Outcome {
    unsafe extern "C" fn call<F: FnOnce()>(code: *mut ()) {
        let code = &mut *code.cast::<MaybeUninit<F>>();
        code.assume_init_read()();
    }
    let mut code = MaybeUninit::new(code);
    unsafe { run_guarded(call::<F>, code.as_mut_ptr().cast()) }
}

/// Starts executing with the registers of `frame` and goes on until an exception.
pub fn enter(frame: &Frame) -> Outcome {
    let mut frame = *frame;
    let (ds, es): (u16, u16);
    unsafe {
        core::arch::asm!("mov {0:x}, ds", "mov {1:x}, es", out(reg) ds, out(reg) es);
        let outcome = run_guarded(load_frame, (&raw mut frame).cast());
        core::arch::asm!("mov ds, {0:x}", "mov es, {1:x}", in(reg) ds, in(reg) es);
        outcome
    }
}

/// Vector and error code of a closure's exception.
pub fn fault_of<F: FnOnce()>(code: F) -> (u64, u64) {
    catch(code).what()
}

/// The gate `vector` of the IDT: its type and DPL (as in an attribute byte), selector, IST, target.
pub fn set_gate(vector: u64, attr: u8, selector: u16, ist: u8, target: u64) {
    let low = target & 0xffff
        | u64::from(selector) << 16
        | u64::from(ist) << 32
        | u64::from(attr) << 40
        | (target >> 16 & 0xffff) << 48;
    unsafe { IDT.0[vector as usize] = u128::from(low) | u128::from(target >> 32) << 64 };
}

/// The stub of a vector.
pub fn stub(vector: u64) -> u64 {
    &raw const trap_stubs as u64 + 32 * vector
}

/// The gate as every test finds it: an interrupt gate on the trap stack; DONE, BP and OF for ring 3.
pub fn usual_gate(vector: u64) {
    let dpl = if matches!(vector, vector::DONE | vector::BP | vector::OF) { 3 } else { 0 };
    // #DB and NMI may come while another exception begins.
    let ist = if matches!(vector, vector::DB | vector::NMI) { 2 } else { 1 };
    set_gate(vector, 0x8e | dpl << 5, sel::CODE64, ist, stub(vector));
}

/// A pseudo descriptor, as LGDT and LIDT take it.
#[repr(C, packed)]
pub struct Pointer {
    pub limit: u16,
    pub base: u64,
}

pub fn load_idt(limit: u16) {
    let pointer = Pointer { limit, base: addr_of_mut!(IDT) as u64 };
    unsafe { core::arch::asm!("lidt [{}]", in(reg) &pointer) };
}

/// Sets a descriptor.
pub fn set_descriptor(selector: u16, value: u64) {
    unsafe { core::ptr::write_volatile(addr_of_mut!(GDT.0[usize::from(selector >> 3)]), value) };
}

/// Reads a descriptor.
pub fn descriptor(selector: u16) -> u64 {
    unsafe { core::ptr::read_volatile(addr_of_mut!(GDT.0[usize::from(selector >> 3)])) }
}

/// Code or data descriptor from base, limit (20 bits) and the attribute bits 8-15 and 20-23.
pub const fn segment(base: u32, limit: u32, attr: u16) -> u64 {
    let (base, limit, attr) = (base as u64, limit as u64, attr as u64);
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (attr & 0xff) << 40
        | (limit >> 16 & 0xf) << 48
        | (attr >> 12 & 0xf) << 52
        | (base >> 24) << 56
}

/// (Re)loads the descriptor tables and the task register of 64-bit mode.
pub fn load_tables() {
    unsafe {
        let base = addr_of_mut!(TSS) as u32;
        set_descriptor(sel::TSS64, segment(base, size_of::<Tss>() as u32 - 1, 0x89));
        set_descriptor(sel::TSS64 + 8, 0);
        load_idt(4095);
        core::arch::asm!("ltr {:x}", in(reg) sel::TSS64);
    }
}

/// Where user code and data may be: 2 MiB pages that ring 3 may use.
pub const USER: u64 = 0x400_0000;
pub const USER_STACK: u64 = USER + 0x40_0000;

pub fn init() {
    // The two 8259 may have been left with something to say.
    cpu::outb(0x21, 0xff);
    cpu::outb(0xa1, 0xff);
    unsafe {
        for vector in 0..256 {
            usual_gate(vector);
        }
        TSS.ist[0] = trap_stack_top();
        TSS.ist[1] = addr_of_mut!(DEBUG_STACK) as u64 + 16384;
        TSS.rsp[0] = ring0_stack_top();
        for page in 0..4 {
            let entry = addr_of_mut!(PDS[0].0[(USER >> 21) as usize + page]);
            entry.write_volatile(entry.read_volatile() | 4);
        }
        cpu::set_cr3(cpu::cr3());
    }
    load_tables();
}

/// Copies code to where ring 3 may execute it.
pub fn to_user(code: &[u8]) -> u64 {
    to_user_at(code, 0)
}

/// The same, `offset` bytes from the beginning of the region.
pub fn to_user_at(code: &[u8], offset: u64) -> u64 {
    let smap = cpu::cr4() & cpu::cr4::SMAP != 0;
    unsafe {
        if smap {
            core::arch::asm!("stac");
        }
        core::ptr::copy_nonoverlapping(code.as_ptr(), (USER + offset) as *mut u8, code.len());
        if smap {
            core::arch::asm!("clac");
        }
    }
    USER + offset
}

/// A frame that starts `code` in ring 3, 64-bit.
pub fn user_frame(code: &[u8]) -> Frame {
    Frame {
        rip: to_user(code),
        cs: sel::USER_CODE64.into(),
        rflags: 2,
        rsp: USER_STACK,
        ss: sel::USER_DATA.into(),
        ..Frame::default()
    }
}

/// The same for 32-bit code.
pub fn user_frame32(code: &[u8]) -> Frame {
    Frame { cs: sel::USER_CODE32.into(), ..user_frame(code) }
}

/// A frame that starts at `rip` in ring 0.
pub fn kernel_frame(rip: u64) -> Frame {
    Frame {
        rip,
        cs: sel::CODE64.into(),
        rflags: 2,
        rsp: ring0_stack_top() - 64,
        ss: sel::DATA.into(),
        ..Frame::default()
    }
}

/// Runs code in ring 3 until its exception.
pub fn user(code: &[u8]) -> Outcome {
    enter(&user_frame(code))
}

/// Flags a single step needs.
pub const STEP: u64 = flag::TF | 2;

/// The bytes of a piece of code: `code!(64, "mov eax, 1", "int 0x80")`. It must not depend on where
/// it lies.
#[macro_export]
macro_rules! code {
    ($bits:literal, $($line:expr),+ $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        #[allow(unused_unsafe)]
        unsafe {
            core::arch::asm!(
                "lea {0}, [rip + 720f]",
                "lea {1}, [rip + 730f]",
                "jmp 730f",
                concat!(".code", $bits),
                "720:",
                $($line,)+
                ".code64",
                "730:",
                out(reg) start, out(reg) end, options(nomem, nostack, preserves_flags)
            );
            core::slice::from_raw_parts(start, end.offset_from(start) as usize)
        }
    }};
}
