//! Native execution, with signals caught.
#![allow(unsafe_code)]
// Unsafe: executes generated instructions. They are chosen so that they touch registers and flags, which
// the stub around them saves and restores as the host's calling convention wants, and memory only at
// addresses in the sandbox; whatever faults ends in the signal handler, which goes on in the stub.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};

use super::layout::*;
use crate::flags::bit;

const REGS: u64 = CONTEXT;
const FLAGS_IN: u64 = CONTEXT + 0x80;
const FLAGS_OUT: u64 = CONTEXT + 0x88;
const HOST_RSP: u64 = CONTEXT + 0x90;
/// Where to begin: offset and selector.
const TARGET: u64 = CONTEXT + 0x98;
/// What the signal handler leaves: vector, error code, address, instruction pointer.
const FAULT: u64 = CONTEXT + 0xb0;
/// And whether code was being stepped.
const STEPPING: u64 = FAULT + 0x20;
const IMAGE_IN: u64 = CONTEXT + 0x400;
const IMAGE_OUT: u64 = CONTEXT + 0x800;
const IMAGE_HOST: u64 = CONTEXT + 0xc00;
/// The second half of the stub.
const EXIT: u64 = STUB + 0x800;
/// The selectors of user code under Linux.
const CODE_64: u16 = 0x33;
const CODE_32: u16 = 0x23;
const DATA_32: u8 = 0x2b;
/// The selectors of 16-bit code and data in a local descriptor table of the process's own.
const CODE_16: u16 = 0x7;
const DATA_16: u8 = 0xf;

/// Memory for code that runs natively.
pub struct Sandbox {
    bits: u32,
}

/// What an instruction pointer of the code under test is relative to.
static CODE_ORIGIN: AtomicU64 = AtomicU64::new(0);

/// An alternate stack for the signal handler: the stack pointer under test may be anything.
const SIGNAL_STACK: usize = 0x1_0000;

extern "C" fn on_signal(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // Code under test may have set AC, with which the accesses below might fault.
    // SAFETY: changes that flag only, and leaves the stack as it was.
    unsafe { std::arch::asm!("pushfq", "and qword ptr [rsp], ~0x40000", "popfq") };
    // SAFETY: the kernel passes the interrupted context, which is this handler's to change, and the
    // context page is mapped while code of the sandbox runs.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let register = |number: i32| number as usize;
        let rip = registers[register(libc::REG_RIP)] as u64;
        let at = rip + CODE_ORIGIN.load(Ordering::Relaxed);
        // Code under test may have jumped into a hole.
        if !(CODE..END).contains(&at) {
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        let fault = FAULT as *mut u64;
        let found = [libc::REG_TRAPNO, libc::REG_ERR, libc::REG_CR2, libc::REG_RIP];
        for (i, number) in found.into_iter().enumerate() {
            fault.add(i).write(registers[register(number)] as u64);
        }
        registers[register(libc::REG_RIP)] = EXIT as i64;
        let selectors = &mut registers[register(libc::REG_CSGSFS)];
        *selectors = *selectors & 0xffff_ffff_0000 | i64::from(CODE_64) | i64::from(DATA_32) << 48;
        // What comes next is not to be stepped.
        let flags = &mut registers[register(libc::REG_EFL)];
        fault.add(4).write(*flags as u64 & bit::TF);
        *flags &= !(bit::TF as i64);
    }
}

impl Sandbox {
    /// Maps the sandbox and takes over the signals, for the rest of the process's life.
    pub fn new(bits: u32) -> Self {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        assert!(!TAKEN.swap(true, Ordering::SeqCst), "there is one sandbox to a process");
        let map = |at: u64, end: u64, protection: ProtFlags| {
            let len = std::num::NonZeroUsize::new((end - at) as usize).unwrap();
            let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
            let at = std::num::NonZeroUsize::new(at as usize);
            // SAFETY: a new mapping at an address where there is none.
            unsafe { mmap_anonymous(at, len, protection, flags) }.unwrap()
        };
        let read_write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        map(CONTEXT, DATA, read_write | ProtFlags::PROT_EXEC);
        map(DATA, HOLE, read_write);
        let constant = map(CONSTANT, CONSTANT + 0x1000, read_write);
        CODE_ORIGIN.store(code_origin(bits), Ordering::Relaxed);
        if bits == 16 {
            set_local_descriptor(CODE_16, CODE, CODE_LIMIT, 2);
            set_local_descriptor(DATA_16.into(), DATA, DATA_LIMIT, 0);
        }
        let mut sandbox = Sandbox { bits };
        for (i, byte) in sandbox.bytes(CONSTANT, 0x1000).iter_mut().enumerate() {
            *byte = constant_byte(i);
        }
        // SAFETY: the page just mapped, no reference to which is left.
        unsafe { mprotect(constant, 0x1000, ProtFlags::PROT_READ) }.unwrap();
        // The initial state, for afterwards: what no component of a zero image changes.
        sandbox
            .bytes(IMAGE_HOST + image::MXCSR as u64, 4)
            .copy_from_slice(&0x1f80_u32.to_le_bytes());
        sandbox.bytes(IMAGE_HOST + image::HEADER as u64, 1)[0] = 2;
        sandbox.write_stub();
        catch_signals();
        sandbox
    }

    /// Memory of the sandbox.
    pub fn bytes(&mut self, at: u64, len: usize) -> &mut [u8] {
        assert!(at >= BASE && at + len as u64 <= END);
        // SAFETY: within the mapping (of which callers know the holes), which lives as long as the
        // process; `&mut self` makes the reference the only one.
        unsafe { std::slice::from_raw_parts_mut(at as *mut u8, len) }
    }
    fn word(&mut self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }
    fn set_word(&mut self, at: u64, value: u64) {
        self.bytes(at, 8).copy_from_slice(&value.to_le_bytes());
    }

    fn write_stub(&mut self) {
        let mut code = Vec::new();
        let absolute = |code: &mut Vec<u8>, opcode: &[u8], reg: u8, at: u64| {
            code.push(0x48 | (reg >> 3) << 2);
            code.extend(opcode);
            code.extend([(reg & 7) << 3 | 4, 0x25]);
            code.extend((at as u32).to_le_bytes());
        };
        const LOAD: &[u8] = &[0x8b];
        const STORE: &[u8] = &[0x89];
        const FXSTATE: &[u8] = &[0x0f, 0xae];
        const XSAVE: u8 = 4;
        const XRSTOR: u8 = 5;
        const RSP: u8 = 4;
        // mov eax, 7; xor edx, edx
        const ALL: [u8; 7] = [0xb8, 7, 0, 0, 0, 0x31, 0xd2];
        let rsp_is = |code: &mut Vec<u8>, at: u64| {
            code.extend([0x48, 0xc7, 0xc4]);
            code.extend((at as u32).to_le_bytes());
        };
        // push rbx, rbp, r12-r15, flags
        code.extend([0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, 0x9c]);
        absolute(&mut code, STORE, RSP, HOST_RSP);
        code.extend(ALL);
        absolute(&mut code, FXSTATE, XRSTOR, IMAGE_IN);
        code.extend(match self.bits {
            64 => data_segments(0, DATA_32),
            32 => data_segments(DATA_32, DATA_32),
            _ => data_segments(DATA_16, DATA_16),
        });
        rsp_is(&mut code, FLAGS_IN);
        code.push(0x9d);
        for number in 0..16 {
            absolute(&mut code, LOAD, number, REGS + u64::from(number) * 8);
        }
        // jmp far [TARGET]
        code.extend([0xff, 0x2c, 0x25]);
        code.extend((TARGET as u32).to_le_bytes());
        self.bytes(STUB, code.len()).copy_from_slice(&code);

        let mut code = Vec::new();
        for number in 0..16 {
            absolute(&mut code, STORE, number, REGS + u64::from(number) * 8);
        }
        rsp_is(&mut code, FLAGS_OUT + 8);
        code.push(0x9c);
        code.extend(ALL);
        absolute(&mut code, FXSTATE, XSAVE, IMAGE_OUT);
        absolute(&mut code, FXSTATE, XRSTOR, IMAGE_HOST);
        code.extend(data_segments(0, DATA_32));
        absolute(&mut code, LOAD, RSP, HOST_RSP);
        code.extend([0x9d, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3]);
        self.bytes(EXIT, code.len()).copy_from_slice(&code);
    }

    /// Puts `code` into a slot, with a way out behind it.
    pub fn place(&mut self, at: u64, code: &[u8]) {
        let mut bytes = code.to_vec();
        if self.bits == 64 {
            let next = at + code.len() as u64 + 5;
            bytes.push(0xe9);
            bytes.extend((EXIT as i32 - next as i32).to_le_bytes());
        } else {
            if self.bits == 16 {
                bytes.push(0x66);
            }
            bytes.push(0xea);
            bytes.extend((EXIT as u32).to_le_bytes());
            bytes.extend(CODE_64.to_le_bytes());
        }
        self.bytes(at, bytes.len()).copy_from_slice(&bytes);
    }

    /// Executes the `len` bytes of code at `at`.
    pub fn run(&mut self, at: u64, len: usize, state: &mut State) -> Outcome {
        for (number, value) in state.regs.iter().enumerate() {
            self.set_word(REGS + number as u64 * 8, *value);
        }
        self.set_word(FLAGS_IN, state.flags | 0x202);
        self.bytes(IMAGE_IN, IMAGE).copy_from_slice(&state.image);
        let selector = match self.bits {
            64 => CODE_64,
            32 => CODE_32,
            _ => CODE_16,
        };
        let start = at - code_origin(self.bits);
        self.set_word(TARGET, start | u64::from(selector) << 32);
        self.set_word(FAULT, u64::MAX);
        self.set_word(STEPPING, 0);
        // SAFETY: the stub is a function by the host's calling convention (see the head of the file).
        unsafe {
            let stub: extern "sysv64" fn() = std::mem::transmute(STUB as *const u8);
            stub();
        }
        // In other than 64-bit code the upper halves are anybody's.
        let mask = if self.bits == 64 { u64::MAX } else { 0xffff_ffff };
        for (number, value) in state.regs.iter_mut().enumerate() {
            *value = self.word(REGS + number as u64 * 8) & mask;
        }
        state.flags = (self.word(FLAGS_OUT) | self.word(STEPPING)) & COMPARED;
        state.image.copy_from_slice(self.bytes(IMAGE_OUT, IMAGE));
        let [vector, error, address, rip] = [0, 1, 2, 3].map(|i| self.word(FAULT + 8 * i));
        if vector == u64::MAX {
            return Outcome { vector: None, error: 0, address: 0, rip: start + len as u64 };
        }
        let address = if vector == u64::from(crate::vector::PF) { address } else { 0 };
        Outcome { vector: Some(vector as u8), error, address, rip }
    }
}

/// Code that sets DS and ES, and SS.
fn data_segments(data: u8, stack: u8) -> [u8; 16] {
    // mov eax, data; mov ds, eax; mov es, eax; mov eax, stack; mov ss, eax
    let stack = [0xb8, stack, 0, 0, 0, 0x8e, 0xd0];
    let data = [0xb8, data, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xc0];
    let mut code = [0; 16];
    code[..9].copy_from_slice(&data);
    code[9..].copy_from_slice(&stack);
    code
}

/// Makes a segment of 16 bits in the process's local descriptor table. `contents` is 0 for data and 2
/// for code.
fn set_local_descriptor(selector: u16, base: u64, limit: u32, contents: u32) {
    const WRITE_NEW: libc::c_long = 0x11;
    const USEABLE: u32 = 1 << 6;
    let descriptor = [u32::from(selector >> 3), base as u32, limit, contents << 1 | USEABLE];
    // SAFETY: the call reads a descriptor; no segment register holds the selector yet.
    let done = unsafe {
        libc::syscall(libc::SYS_modify_ldt, WRITE_NEW, &descriptor, size_of_val(&descriptor))
    };
    assert_eq!(done, 0, "modify_ldt");
}

/// Whether the kernel lets a process have segments of 16 bits.
pub fn has_16_bit_code() -> bool {
    // SAFETY: reads no bytes of the table.
    unsafe { libc::syscall(libc::SYS_modify_ldt, 0, std::ptr::null_mut::<u8>(), 0) == 0 }
}

/// What the constant page holds.
pub fn constant_byte(i: usize) -> u8 {
    (i * 37 + i / 256 * 11) as u8
}

fn catch_signals() {
    let stack = Box::leak(vec![0_u8; SIGNAL_STACK].into_boxed_slice());
    // SAFETY: the stack lives for ever; the handler has the type that SA_SIGINFO asks for.
    unsafe {
        let stack =
            libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIGNAL_STACK };
        assert_eq!(libc::sigaltstack(&stack, std::ptr::null_mut()), 0);
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
        }
    }
}

/// Whether the kernel has a segment for 32-bit code where it should be.
pub fn has_32_bit_code() -> bool {
    const CODE_AND_LONG: u32 = 0x20_1800;
    let (mut rights, visible): (u32, u8);
    // SAFETY: LAR changes nothing but its destination and ZF.
    unsafe {
        core::arch::asm!(
            "lar {rights:e}, {selector:e}", "setz {visible}",
            selector = in(reg) u32::from(CODE_32), rights = out(reg) rights, visible = out(reg_byte) visible,
        );
    }
    if visible == 0 {
        rights = 0;
    }
    rights & CODE_AND_LONG == 0x1800
}
