//! Branches, and what ends a block.

use iced_x86::{Code, ConditionCode, FlowControl, Instruction, Mnemonic as M, OpKind};

use super::movement::by_condition;
use super::stack::on_stack;
use super::{Insn, Kind};
use crate::interp::exec::branch::{self, Always, WhileNotZero, WhileZero};
use crate::interp::exec::cond::{A, Ae, B, Be, E, G, Ge, L, Le, Ne, No, Np, Ns, O, P, S};
use crate::interp::exec::system::{self, CallFar, JmpFar, RetFar, plain};
use crate::interp::op::{Dst, Handler, Mem, Op};

/// How a block ends after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It goes on.
    No,
    /// At a near branch: the mode stays what it was.
    Branch,
    /// At an instruction that may change anything.
    System,
}

/// Whether and how `raw` ends its block.
pub fn ends_block(raw: &Instruction) -> End {
    let mnemonic = raw.mnemonic();
    if raw.is_string_instruction() && (raw.has_rep_prefix() || raw.has_repne_prefix()) {
        return End::Branch;
    }
    match raw.flow_control() {
        FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::ConditionalBranch
        | FlowControl::Call
        | FlowControl::IndirectCall
        | FlowControl::Return => {
            let far = raw.is_jmp_far()
                || raw.is_jmp_far_indirect()
                || raw.is_call_far()
                || raw.is_call_far_indirect();
            let near = !far
                && !matches!(
                    mnemonic,
                    M::Retf
                        | M::Iret
                        | M::Iretd
                        | M::Iretq
                        | M::Sysret
                        | M::Sysexit
                        | M::Sysretq
                        | M::Sysexitq
                        | M::Syscall
                        | M::Sysenter
                        | M::Rsm
                        | M::Vmcall
                        | M::Vmmcall
                        | M::Vmrun
                );
            return if near { End::Branch } else { End::System };
        }
        FlowControl::Next => {}
        _ => return End::System,
    }
    let loads_segment = raw.op_count() > 0
        && raw.op0_kind() == OpKind::Register
        && raw.op0_register().is_segment_register()
        && mnemonic != M::Push;
    let data_only = matches!(mnemonic, M::Xsaves | M::Xsaves64 | M::Xrstors | M::Xrstors64);
    let system = loads_segment
        || raw.is_privileged() && !data_only
        || matches!(
            mnemonic,
            M::Popf
                | M::Popfd
                | M::Popfq
                | M::Lds
                | M::Les
                | M::Lss
                | M::Lfs
                | M::Lgs
                | M::In
                | M::Out
                | M::Cpuid
                | M::Rdtsc
                | M::Rdtscp
                | M::Rdpmc
                | M::Rdpid
                | M::Xgetbv
                | M::Wrpkru
                | M::Rdpkru
                | M::Cli
                | M::Sti
                | M::Stac
                | M::Clac
                | M::Lmsw
                | M::Wrfsbase
                | M::Wrgsbase
                | M::Rdfsbase
                | M::Rdgsbase
                | M::Sldt
                | M::Str
                | M::Smsw
                | M::Sgdt
                | M::Sidt
                | M::Lar
                | M::Lsl
                | M::Verr
                | M::Verw
                | M::Pause
                | M::Serialize
                | M::Into
        );
    if system { End::System } else { End::No }
}

/// Bits of the instruction pointer a near branch leaves.
fn ip_bits(insn: &Insn<'_>) -> u8 {
    match insn.raw.op0_kind() {
        OpKind::NearBranch16 => 16,
        OpKind::NearBranch32 => 32,
        _ => 64,
    }
}

fn to_target(insn: &Insn<'_>, run: Handler) -> Op {
    let mut op = insn.op(run);
    op.imm = insn.raw.near_branch_target().wrapping_sub(insn.start);
    op.wrap = 64 - ip_bits(insn);
    op
}

fn jcc(insn: &Insn<'_>) -> Option<Handler> {
    macro_rules! pick {
        ($c:ty) => {
            branch::jcc::<$c> as Handler
        };
    }
    Some(by_condition!(insn, pick))
}

macro_rules! loops {
    ($insn:expr, $c:ty) => {
        match $insn.raw.code() {
            Code::Loop_rel8_16_CX
            | Code::Loop_rel8_32_CX
            | Code::Loope_rel8_16_CX
            | Code::Loope_rel8_32_CX
            | Code::Loopne_rel8_16_CX
            | Code::Loopne_rel8_32_CX => branch::loop_::<u16, $c> as Handler,
            Code::Loop_rel8_16_ECX
            | Code::Loop_rel8_32_ECX
            | Code::Loop_rel8_64_ECX
            | Code::Loope_rel8_16_ECX
            | Code::Loope_rel8_32_ECX
            | Code::Loope_rel8_64_ECX
            | Code::Loopne_rel8_16_ECX
            | Code::Loopne_rel8_32_ECX
            | Code::Loopne_rel8_64_ECX => branch::loop_::<u32, $c>,
            _ => branch::loop_::<u64, $c>,
        }
    };
}

/// The offset's size in a far pointer in memory.
fn far_size(insn: &Insn<'_>) -> usize {
    insn.raw.memory_size().size().saturating_sub(2)
}

/// A fixed far address.
fn far_target(insn: &Insn<'_>, run: Handler) -> Op {
    let mut op = insn.op(run);
    op.disp = i32::from(insn.raw.far_branch_selector());
    (op.imm, op.src2) = match insn.raw.op0_kind() {
        OpKind::FarBranch16 => (insn.raw.far_branch16().into(), 2),
        _ => (insn.raw.far_branch32().into(), 4),
    };
    op
}

fn ret(insn: &Insn<'_>) -> Handler {
    match insn.raw.code() {
        Code::Retnw | Code::Retnw_imm16 => branch::ret::<u16>,
        Code::Retnd | Code::Retnd_imm16 => branch::ret::<u32>,
        _ => branch::ret::<u64>,
    }
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M) -> Option<Op> {
    let raw = insn.raw;
    if raw.condition_code() != ConditionCode::None && raw.is_jcc_short_or_near() {
        return Some(to_target(insn, jcc(insn)?));
    }
    let run = match mnemonic {
        M::Jmp if raw.is_jmp_short_or_near() => return Some(to_target(insn, branch::jmp)),
        M::Jmp if raw.is_jmp_far() => return Some(far_target(insn, plain::<JmpFar>)),
        M::Jmp if raw.is_jmp_far_indirect() => {
            by_wide_width!(far_size(insn), system::jmp_far_to)
        }
        M::Jmp => match insn.kind(0) {
            Kind::Reg => by_wide_width!(insn.size(0), branch::jmp_to, Dst),
            _ => by_wide_width!(insn.size(0), branch::jmp_to, Mem),
        },
        M::Call if raw.is_call_near() => {
            let run = by_wide_width!(usize::from(ip_bits(insn) / 8), branch::call);
            let mut op = on_stack(to_target(insn, run));
            op.wrap = 64 - ip_bits(insn);
            return Some(op);
        }
        M::Call if raw.is_call_far() => return Some(far_target(insn, plain::<CallFar>)),
        M::Call if raw.is_call_far_indirect() => {
            by_wide_width!(far_size(insn), system::call_far_to)
        }
        M::Call => match insn.kind(0) {
            Kind::Reg => by_wide_width!(insn.size(0), branch::call_to, Dst),
            _ => by_wide_width!(insn.size(0), branch::call_to, Mem),
        },
        M::Ret => return Some(on_stack(insn.op(ret(insn)))),
        M::Retf => {
            let mut op = on_stack(insn.op(plain::<RetFar>));
            op.src2 = match raw.code() {
                Code::Retfw | Code::Retfw_imm16 => 2,
                Code::Retfd | Code::Retfd_imm16 => 4,
                _ => 8,
            };
            return Some(op);
        }
        M::Jcxz => return Some(to_target(insn, branch::jcxz::<u16>)),
        M::Jecxz => return Some(to_target(insn, branch::jcxz::<u32>)),
        M::Jrcxz => return Some(to_target(insn, branch::jcxz::<u64>)),
        M::Loop => return Some(to_target(insn, loops!(insn, Always))),
        M::Loope => return Some(to_target(insn, loops!(insn, WhileZero))),
        M::Loopne => return Some(to_target(insn, loops!(insn, WhileNotZero))),
        _ => return None,
    };
    Some(insn.op(run))
}
