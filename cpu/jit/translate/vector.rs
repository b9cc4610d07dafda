//! Vector instructions that are more than themselves with other operands.

use iced_x86::{Code, Instruction, MemoryOperand, Mnemonic as M, OpKind, Register};

use super::emit::{Emitter, Stub};
use crate::jit::asm::{Label, Mem, Width, cond, host::*, op};
use crate::jit::frame::at;
use crate::jit::gather::request;
use crate::jit::record::Then;

/// A gather of the AVX2 kind, taken apart.
struct Gather {
    result: Register,
    mask: Register,
    indices: Register,
    /// Whether elements are of 64 bits.
    wide: bool,
    /// Whether indices are.
    far: bool,
    lanes: usize,
}

fn ymm(register: Register) -> Register {
    Register::YMM0 + register.number() as u32
}

impl Gather {
    fn of(raw: &Instruction) -> Option<Self> {
        let (wide, far) = match raw.mnemonic() {
            M::Vgatherdps | M::Vpgatherdd => (false, false),
            M::Vgatherqps | M::Vpgatherqd => (false, true),
            M::Vgatherdpd | M::Vpgatherdq => (true, false),
            M::Vgatherqpd | M::Vpgatherqq => (true, true),
            _ => return None,
        };
        if raw.op2_kind() != OpKind::Register || !raw.op2_register().is_vector_register() {
            return None;
        }
        let (result, indices) = (raw.op0_register(), raw.memory_index());
        // As many as there are of the wider kind.
        let lanes = result.size().max(indices.size()) / if wide || far { 8 } else { 4 };
        let mask = ymm(raw.op2_register());
        Some(Gather { result: ymm(result), mask, indices: ymm(indices), wide, far, lanes })
    }
}

/// Whether `raw` is a gather that the translator knows.
pub fn can_gather(raw: &Instruction) -> bool {
    let base = raw.memory_base();
    Gather::of(raw)
        .is_some_and(|it| it.result != it.mask && it.result != it.indices && it.mask != it.indices)
        && base.is_gpr()
        && base.size() == 8
        && std::arch::is_x86_feature_detected!("avx2")
}

impl Emitter<'_> {
    /// A gather.
    pub fn gather(&mut self, index: usize) {
        let raw = &self.units[index].raw;
        let Some(Gather { result, mask, indices, wide, far, lanes }) = Gather::of(raw) else {
            return self.step(index, Then::GoOn);
        };
        self.want_vectors(index);
        let at_fault = self.destroy_flags(index);
        let mut base = *raw;
        base.set_memory_index(Register::None);
        self.address(&base, R13);
        let places = [at::GATHER_INDICES, at::GATHER_MASK, at::GATHER_RESULT];
        for (register, place) in [indices, mask, result].into_iter().zip(places) {
            self.vector_move(Code::VEX_Vmovups_ymmm256_ymm, register, place);
        }
        self.asm.mov_imm(R14, request(lanes as u8, raw.memory_index_scale() as u8));
        self.asm.call(self.thunks.gather[usize::from(wide)][usize::from(far)]);
        let slow = self.asm.label();
        self.asm.jcc(cond::NE, slow);
        let xmm = Register::XMM0 + result.number() as u32;
        match lanes * if wide { 8 } else { 4 } {
            8 => self.vector_move(Code::VEX_Vmovq_xmm_xmmm64, xmm, at::GATHER_RESULT),
            16 => self.vector_move(Code::VEX_Vmovups_xmm_xmmm128, xmm, at::GATHER_RESULT),
            _ => self.vector_move(Code::VEX_Vmovups_ymm_ymmm256, result, at::GATHER_RESULT),
        }
        let xmm = Register::XMM0 + mask.number() as u32;
        if let Ok(clear) = Instruction::with3(Code::VEX_Vpxor_xmm_xmm_xmmm128, xmm, xmm, xmm) {
            self.encode_as_is(&clear);
        }
        let back = self.asm.label();
        self.asm.bind(back);
        let record = self.record_of(index, Then::GoOn, at_fault);
        self.stubs.push(Stub::Step { from: slow, record, back, restore_flags: false });
    }

    /// A move between `register` and the frame.
    fn vector_move(&mut self, code: Code, register: Register, place: i32) {
        let memory = MemoryOperand::with_base_displ(Register::R15, place.into());
        let insn = if code == Code::VEX_Vmovups_ymmm256_ymm {
            Instruction::with2(code, memory, register)
        } else {
            Instruction::with2(code, register, memory)
        };
        if let Ok(insn) = insn {
            self.encode_as_is(&insn);
        }
    }

    /// Goes to `slow` if the doubleword that R13 points to sets reserved bits of MXCSR. R14 is lost.
    pub fn check_mxcsr(&mut self, slow: Label) {
        self.asm.mem(Width::D, op::LOAD, R14, Mem::at(R13, 0));
        self.asm.shr(R14, 16);
        self.asm.jcc(cond::NE, slow);
    }
}
