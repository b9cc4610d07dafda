//! The same in the interpreter, as user code under page tables that show what the sandbox shows.

use super::layout::*;
use super::sandbox::constant_byte;
use crate::interp::RunExit;
use crate::state::{Seg, Segment, VecReg, attr, cr0, gpr};
use crate::testbed::Testbed;

const GDT: u64 = 0x6000;
const IDT: u64 = 0x7000;
const TSS: u64 = 0x8000;
/// One HLT per vector.
const HANDLERS: u64 = 0x9000;
/// What exceptions push ends here.
const STACK: u64 = 0xb000;
const TABLES: u64 = 0xc000;

/// A processor at CPL 3.
pub struct Guest {
    bed: Testbed,
    segments: [Segment; 6],
    code_origin: u64,
}

impl Guest {
    pub fn new(bits: u32) -> Self {
        let mut bed = Testbed::new().unwrap();
        let ram = &bed.ram;
        ram.write_uint(GDT + 8, 8, 0x00af_9b00_0000_ffff);
        for vector in 0..32 {
            let handler = HANDLERS + vector;
            ram.write(handler, &[0xf4]);
            // An interrupt gate for privilege 3, on the first stack of the interrupt stack table.
            let low = handler & 0xffff | 8 << 16 | 1 << 32 | 0xee00 << 32;
            ram.write_uint(IDT + vector * 16, 8, low);
        }
        ram.write_uint(TSS + 0x24, 8, STACK);
        // No ports.
        ram.write_uint(TSS + 0x66, 2, 0x68);
        // The supervisor keeps large pages; the sandbox has pages of its own.
        const USER: u64 = 7;
        const SUPERVISOR: u64 = 3;
        const LARGE: u64 = 1 << 7;
        let (pdpt, pd, pt) = (TABLES + 0x1000, TABLES + 0x2000, TABLES + 0x3000);
        ram.write_uint(TABLES, 8, pdpt | USER);
        ram.write_uint(pdpt, 8, pd | USER);
        for i in 0..RAM_PAGES {
            ram.write_uint(pd + i * 8, 8, i << 21 | LARGE | SUPERVISOR);
        }
        ram.write_uint(pd + (BASE >> 21) * 8, 8, pt | USER);
        let page = |at: u64, flags: u64| {
            ram.write_uint(pt + (at >> 12 & 511) * 8, 8, at | flags);
        };
        for at in (CODE..HOLE).step_by(0x1000) {
            page(at, USER);
        }
        page(CONSTANT, USER & !2);
        let constant: Vec<u8> = (0..0x1000).map(constant_byte).collect();
        ram.write(CONSTANT, &constant);
        let state = &mut bed.cpu.state;
        (state.gdtr.base, state.gdtr.limit) = (GDT, 0xff);
        (state.idtr.base, state.idtr.limit) = (IDT, 0x1ff);
        state.tr = Segment { selector: 0x40, base: TSS, limit: 0x67, attr: 0x8b };
        state.cr3 = TABLES;
        state.cr0 |= cr0::AM | cr0::WP;
        let common = attr::PRESENT | attr::S | attr::GRANULAR | 3 << attr::DPL_SHIFT;
        let flat =
            |selector, bits| Segment { selector, base: 0, limit: u32::MAX, attr: common | bits };
        let code_origin = code_origin(bits);
        let small = |selector, base, limit, kind| {
            let attr = (common | kind) & !attr::GRANULAR;
            Segment { selector, base, limit, attr }
        };
        let (code, data) = match bits {
            64 => (flat(0x33, attr::LONG | 0xb), flat(0x2b, attr::BIG | 3)),
            32 => (flat(0x23, attr::BIG | 0xb), flat(0x2b, attr::BIG | 3)),
            _ => (
                small(0x7, code_origin, CODE_LIMIT, 0xb),
                small(0xf, data_origin(bits), DATA_LIMIT, 3),
            ),
        };
        let mut segments = [data; 6];
        segments[Seg::Cs as usize] = code;
        Guest { bed, segments, code_origin }
    }

    /// Puts `code` into a slot, with INT3 behind it.
    pub fn place(&mut self, at: u64, code: &[u8]) {
        self.bed.ram.write(at, code);
        self.bed.ram.write(at + code.len() as u64, &[0xcc]);
    }
    /// Reads the data pages.
    pub fn read(&self, data: &mut [u8]) {
        self.bed.ram.read(DATA, data);
    }
    /// Writes data.
    pub fn write(&self, at: u64, data: &[u8]) {
        self.bed.ram.write(at, data);
    }

    /// Executes the `len` bytes of code at `at`.
    pub fn run(&mut self, at: u64, len: usize, state: &mut State) -> Outcome {
        let cpu = &mut self.bed.cpu;
        cpu.state.seg = self.segments;
        cpu.state.regs[..16].copy_from_slice(&state.regs);
        cpu.state.flags.set(state.flags | 0x202);
        let mut legacy = [0; 512];
        legacy.copy_from_slice(&state.image[..512]);
        cpu.state.x87.fxrstor(true, &legacy);
        cpu.state.mxcsr = state.word(image::MXCSR);
        for (number, register) in cpu.state.vec[..16].iter_mut().enumerate() {
            let [low, high] = state.vector(number);
            *register = VecReg([low, high, 0, 0]);
        }
        cpu.shutdown = false;
        cpu.update_mode();
        let start = at - self.code_origin;
        let exit = self.bed.run(start);
        let cpu = &mut self.bed.cpu;
        assert_eq!(exit, RunExit::Halted, "{:?}", cpu.fault);
        let vector = (cpu.state.rip - 1 - HANDLERS) as u8;
        let has_error = matches!(vector, 8 | 10..=14 | 17);
        let stack = cpu.state.regs[gpr::RSP];
        let pushed = |i: u64| self.bed.ram.read_uint(stack + 8 * (i + u64::from(has_error)), 8);
        let (rip, flags, rsp) = (pushed(0), pushed(2), pushed(3));
        state.regs.copy_from_slice(&cpu.state.regs[..16]);
        state.regs[gpr::RSP] = rsp;
        state.flags = flags & COMPARED;
        cpu.state.x87.fxsave(true, &mut legacy);
        state.image[..512].copy_from_slice(&legacy);
        state.set(image::MXCSR, &cpu.state.mxcsr.to_le_bytes());
        for (number, register) in cpu.state.vec[..16].iter().enumerate() {
            state.set_vector(number, [register.0[0], register.0[1]]);
        }
        if vector == crate::vector::BP && rip == start + len as u64 + 1 {
            return Outcome { vector: None, error: 0, address: 0, rip: rip - 1 };
        }
        let error = if has_error { self.bed.ram.read_uint(stack, 8) } else { 0 };
        let address = if vector == crate::vector::PF { cpu.state.cr2 } else { 0 };
        Outcome { vector: Some(vector), error, address, rip }
    }
}

/// Large pages of RAM.
const RAM_PAGES: u64 = crate::testbed::RAM >> 21;
