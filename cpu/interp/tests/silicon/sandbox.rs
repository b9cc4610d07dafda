//! Native execution, with signals caught.
#![allow(unsafe_code)]
// Unsafe: executes generated instructions. They are chosen so that they touch registers and flags, which
// the stub around them saves and restores as the host's calling convention wants, and memory only at
// addresses in the sandbox; whatever faults ends in the signal handler, which goes on in the stub.

use std::sync::atomic::{AtomicBool, Ordering};

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
const IMAGE_IN: u64 = CONTEXT + 0x400;
const IMAGE_OUT: u64 = CONTEXT + 0x800;
const IMAGE_HOST: u64 = CONTEXT + 0xc00;
/// The second half of the stub.
const EXIT: u64 = STUB + 0x800;
/// The selectors of user code under Linux.
const CODE_64: u16 = 0x33;
const CODE_32: u16 = 0x23;
const DATA_32: u8 = 0x2b;

/// Memory for code that runs natively.
pub struct Sandbox {
    bits: u32,
}

/// An alternate stack for the signal handler: the stack pointer under test may be anything.
const SIGNAL_STACK: usize = 0x1_0000;

extern "C" fn on_signal(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the interrupted context, which is this handler's to change, and the
    // context page is mapped while code of the sandbox runs.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let register = |number: i32| number as usize;
        let rip = registers[register(libc::REG_RIP)] as u64;
        if !(CODE..CODE + CODE_LEN as u64).contains(&rip) {
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
        *selectors = *selectors & !0xffff | i64::from(CODE_64);
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
        code.extend(data_segments(if self.bits == 64 { 0 } else { DATA_32 }));
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
        code.extend(data_segments(0));
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
        let selector = if self.bits == 64 { CODE_64 } else { CODE_32 };
        self.set_word(TARGET, at | u64::from(selector) << 32);
        self.set_word(FAULT, u64::MAX);
        // SAFETY: the stub is a function by the host's calling convention (see the head of the file).
        unsafe {
            let stub: extern "sysv64" fn() = std::mem::transmute(STUB as *const u8);
            stub();
        }
        for (number, value) in state.regs.iter_mut().enumerate() {
            *value = self.word(REGS + number as u64 * 8);
        }
        state.flags = self.word(FLAGS_OUT) & (bit::ARITH | bit::DF);
        state.image.copy_from_slice(self.bytes(IMAGE_OUT, IMAGE));
        let [vector, error, address, rip] = [0, 1, 2, 3].map(|i| self.word(FAULT + 8 * i));
        if vector == u64::MAX {
            return Outcome { vector: None, error: 0, address: 0, rip: at + len as u64 };
        }
        let address = if vector == u64::from(crate::vector::PF) { address } else { 0 };
        Outcome { vector: Some(vector as u8), error, address, rip }
    }
}

/// Code that sets DS and ES.
fn data_segments(selector: u8) -> [u8; 9] {
    // mov eax, selector; mov ds, eax; mov es, eax
    [0xb8, selector, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xc0]
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
