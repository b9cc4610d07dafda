//! x87 and MMX instructions: they run on the host's FPU once the guest's registers are there.

use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

use super::emit::{Emitter, Stub};
use super::unit;
use crate::interp::decode;
use crate::jit::asm::{Mem, Width, cond, host::*, op};
use crate::jit::frame::at;
use crate::jit::record::Kind;
use crate::jit::x87::last;

/// Whether `raw` works on the x87's registers alone, or on MMX registers and what vector instructions
/// have beside.
pub fn is_native(raw: &Instruction) -> bool {
    if unit::is_x87(raw) {
        // Processors differ in what FSTPNCE makes of empty registers.
        return remembered(raw) && raw.mnemonic() != M::Fstpnce
            || matches!(raw.mnemonic(), M::Fldcw | M::Fnstcw | M::Fnstsw | M::Fnclex | M::Wait);
    }
    let mmx = raw.mnemonic() == M::Emms || (0..raw.op_count()).any(|n| raw.op_register(n).is_mm());
    // Whether the conversions turn to MMX depends on the processor; MASKMOVQ has an operand of its own.
    let special = matches!(
        raw.mnemonic(),
        M::Cvtpi2ps
            | M::Cvtpi2pd
            | M::Cvtps2pi
            | M::Cvtpd2pi
            | M::Cvttps2pi
            | M::Cvttpd2pi
            | M::Maskmovq
    );
    mmx && !special && raw.cpuid_features().iter().all(unit::is_vector_set)
}

/// Whether the x87 remembers `raw` as its last instruction.
pub fn remembered(raw: &Instruction) -> bool {
    let control = matches!(
        raw.mnemonic(),
        M::Fldcw
            | M::Fnstcw
            | M::Fnstsw
            | M::Fnclex
            | M::Wait
            | M::Fninit
            | M::Fnstenv
            | M::Fldenv
            | M::Fnsave
            | M::Frstor
            | M::Fneni
            | M::Fndisi
            | M::Fnsetpm
    );
    unit::is_x87(raw) && !control
}

/// Whether `raw` uses vector registers, too.
pub fn uses_xmm(raw: &Instruction) -> bool {
    (0..raw.op_count()).any(|n| raw.op_kind(n) == OpKind::Register && raw.op_register(n).is_xmm())
}

impl Emitter<'_> {
    /// Before an x87 or MMX instruction: makes the guest's registers the host's, if the block has not
    /// made sure of that. R14 and the host's flags are lost.
    pub fn want_x87(&mut self, index: usize) {
        let unit = &self.units[index];
        if uses_xmm(&unit.raw) {
            self.want_vectors(index);
        }
        if !unit.loads_x87 {
            return;
        }
        self.x87_segment = None;
        let flags = self.destroy_flags(index);
        let (from, back) = (self.asm.label(), self.asm.label());
        self.asm.compare_byte(Mem::at(R15, at::X87_LIVE), 0);
        self.asm.jcc(cond::E, from);
        self.asm.bind(back);
        let kind = Kind::Interpret(unit.raw.ip() as i64);
        let record = self.record(kind, flags);
        let helper = self.thunks.load_x87;
        self.stubs.push(Stub::Call { from, record, helper, back });
    }

    /// Notes the linear address in R13 as that of an operand of the x87. R14 and the host's flags are
    /// lost.
    pub fn note_operand(&mut self, raw: &Instruction) {
        let base = match raw.memory_segment() {
            Register::FS => at::FS_BASE,
            Register::GS => at::GS_BASE,
            _ => return self.asm.store(R15, at::X87_NEXT_OPERAND, R13),
        };
        self.asm.mov(R14, R13);
        self.asm.mem(self.wide(), op::SUB, R14, Mem::at(R15, base));
        self.asm.store(R15, at::X87_NEXT_OPERAND, R14);
    }

    /// After unit `index`: notes what the x87 remembers of it. R14 is lost.
    pub fn remember(&mut self, index: usize) {
        let unit = &self.units[index];
        if unit::touches_memory(&unit.raw) {
            self.asm.load(R14, R15, at::X87_NEXT_OPERAND);
            self.asm.store(R15, at::X87_OPERAND, R14);
            let segment = decode::segment_of(unit.raw.memory_segment()) as u8;
            if self.x87_segment != Some(segment) {
                self.x87_segment = Some(segment);
                self.asm.set_byte(Mem::at(R15, at::X87_SEGMENT), segment);
            }
        }
        if !self.x87_page_noted {
            self.x87_page_noted = true;
            self.asm.load(R14, R15, at::PAGE_RIP);
            self.asm.store(R15, at::X87_PAGE, R14);
        }
        let note = last(unit.raw.ip() as u16, self.source.insn(unit).x87_opcode());
        self.asm.store_imm(Width::D, Mem::at(R15, at::X87_LAST), note as i32);
    }
}
