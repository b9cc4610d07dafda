//! Data movement, conditions, and instructions that do nothing.

use iced_x86::{ConditionCode, Mnemonic as M, Register};

use super::{Insn, Kind};
use crate::interp::exec::cond::{self, A, Ae, B, Be, E, G, Ge, L, Le, Ne, No, Np, Ns, O, P, S};
use crate::interp::exec::{alu, decimal, movement};
use crate::interp::op::{Dst, Handler, Imm, Mem, Op, Src};

/// Picks the instance of a handler for a condition code, which takes the place of `?`.
macro_rules! by_condition {
    ($insn:expr, $pick:ident) => {
        match $insn.raw.condition_code() {
            ConditionCode::o => $pick!(O),
            ConditionCode::no => $pick!(No),
            ConditionCode::b => $pick!(B),
            ConditionCode::ae => $pick!(Ae),
            ConditionCode::e => $pick!(E),
            ConditionCode::ne => $pick!(Ne),
            ConditionCode::be => $pick!(Be),
            ConditionCode::a => $pick!(A),
            ConditionCode::s => $pick!(S),
            ConditionCode::ns => $pick!(Ns),
            ConditionCode::p => $pick!(P),
            ConditionCode::np => $pick!(Np),
            ConditionCode::l => $pick!(L),
            ConditionCode::ge => $pick!(Ge),
            ConditionCode::le => $pick!(Le),
            ConditionCode::g => $pick!(G),
            ConditionCode::None => return None,
        }
    };
}
pub(super) use by_condition;

fn mov(insn: &Insn<'_>) -> Option<Handler> {
    let size = insn.size(0);
    Some(match (insn.kind(0), insn.kind(1)) {
        (Kind::Reg, Kind::Reg) => by_width!(size, movement::mov, Dst, Src),
        (Kind::Reg, Kind::Mem) => by_width!(size, movement::mov, Dst, Mem),
        (Kind::Reg, Kind::Imm) => by_width!(size, movement::mov, Dst, Imm),
        (Kind::Mem, Kind::Reg) => by_width!(size, movement::mov, Mem, Src),
        (Kind::Mem, Kind::Imm) => by_width!(size, movement::mov, Mem, Imm),
        _ => return None,
    })
}

fn extend<const SIGNED: bool>(insn: &Insn<'_>) -> Option<Handler> {
    macro_rules! pick {
        ($t:ty, $u:ty) => {
            match insn.kind(1) {
                Kind::Reg => movement::extend::<$t, $u, Src, SIGNED> as Handler,
                _ => movement::extend::<$t, $u, Mem, SIGNED>,
            }
        };
    }
    Some(match (insn.size(0), insn.size(1)) {
        (2, 1) => pick!(u16, u8),
        (4, 1) => pick!(u32, u8),
        (8, 1) => pick!(u64, u8),
        (2, 2) => pick!(u16, u16),
        (4, 2) => pick!(u32, u16),
        (8, 2) => pick!(u64, u16),
        (4, 4) => pick!(u32, u32),
        (8, 4) => pick!(u64, u32),
        (2, 4) => pick!(u16, u32),
        _ => return None,
    })
}

fn cmov(insn: &Insn<'_>) -> Option<Handler> {
    macro_rules! pick {
        ($c:ty) => {
            match insn.kind(1) {
                Kind::Reg => by_wide_width!(insn.size(0), cond::cmov, $c, Src),
                _ => by_wide_width!(insn.size(0), cond::cmov, $c, Mem),
            }
        };
    }
    Some(by_condition!(insn, pick))
}

fn compare_and_add(insn: &Insn<'_>) -> Option<Handler> {
    macro_rules! pick {
        ($c:ty) => {
            match insn.size(0) {
                4 => alu::compare_and_add::<u32, $c> as Handler,
                _ => alu::compare_and_add::<u64, $c>,
            }
        };
    }
    Some(by_condition!(insn, pick))
}

fn setcc(insn: &Insn<'_>) -> Option<Handler> {
    macro_rules! pick {
        ($c:ty) => {
            match insn.kind(0) {
                Kind::Reg => cond::setcc::<$c, Dst> as Handler,
                _ => cond::setcc::<$c, Mem>,
            }
        };
    }
    Some(by_condition!(insn, pick))
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M) -> Option<Op> {
    let run = match mnemonic {
        M::Mov if insn.is_general() => {
            let mut op = insn.op(mov(insn)?);
            if insn.raw.memory_displ_size() == 8
                && insn.raw.memory_base() == Register::None
                && insn.raw.memory_index() == Register::None
                && i32::try_from(insn.raw.memory_displacement64() as i64).is_err()
            {
                // A 64-bit absolute address: the one displacement that does not fit its field.
                op.run = match (insn.kind(0), insn.size(0)) {
                    (Kind::Reg, size) => by_width!(size, movement::load_absolute),
                    (_, size) => by_width!(size, movement::store_absolute),
                };
                op.imm = insn.raw.memory_displacement64();
            }
            return Some(op);
        }
        M::Movzx => extend::<false>(insn)?,
        M::Movsx | M::Movsxd => extend::<true>(insn)?,
        M::Cmova
        | M::Cmovae
        | M::Cmovb
        | M::Cmovbe
        | M::Cmove
        | M::Cmovg
        | M::Cmovge
        | M::Cmovl
        | M::Cmovle
        | M::Cmovne
        | M::Cmovno
        | M::Cmovnp
        | M::Cmovns
        | M::Cmovo
        | M::Cmovp
        | M::Cmovs => cmov(insn)?,
        M::Seta
        | M::Setae
        | M::Setb
        | M::Setbe
        | M::Sete
        | M::Setg
        | M::Setge
        | M::Setl
        | M::Setle
        | M::Setne
        | M::Setno
        | M::Setnp
        | M::Setns
        | M::Seto
        | M::Setp
        | M::Sets => setcc(insn)?,
        M::Cmpbexadd
        | M::Cmpbxadd
        | M::Cmplexadd
        | M::Cmplxadd
        | M::Cmpnbexadd
        | M::Cmpnbxadd
        | M::Cmpnlexadd
        | M::Cmpnlxadd
        | M::Cmpnoxadd
        | M::Cmpnpxadd
        | M::Cmpnsxadd
        | M::Cmpnzxadd
        | M::Cmpoxadd
        | M::Cmppxadd
        | M::Cmpsxadd
        | M::Cmpzxadd => compare_and_add(insn)?,
        M::Lea => {
            let mut op = insn.op(by_wide_width!(insn.size(0), movement::lea));
            op.segment &= !(super::segment::BASED | super::segment::CHECKED);
            return Some(op);
        }
        M::Bswap => by_wide_width!(insn.size(0), alu::bswap),
        M::Movbe => match insn.kind(0) {
            Kind::Reg => by_wide_width!(insn.size(0), alu::movbe_load),
            _ => by_wide_width!(insn.size(0), alu::movbe_store),
        },
        M::Movnti | M::Movdiri => by_wide_width!(insn.size(0), movement::mov, Mem, Src),
        M::Movdir64b => {
            let mut op = insn.op(movement::movdir64b);
            op.wrap = 64 - insn.raw.op_register(0).size() as u8 * 8;
            return Some(op);
        }
        M::Xlatb => {
            let mut op = insn.op(movement::xlat);
            insn.segment(&mut op, insn.raw.memory_segment());
            op.base = crate::interp::op::Reg::Rbx;
            op.index = crate::interp::op::Reg::Zero;
            op.disp = 0;
            op.wrap = 64 - insn.raw.memory_base().size() as u8 * 8;
            return Some(op);
        }
        M::Cbw => movement::extend_accumulator::<u16, u8>,
        M::Cwde => movement::extend_accumulator::<u32, u16>,
        M::Cdqe => movement::extend_accumulator::<u64, u32>,
        M::Cwd => movement::spread_sign::<u16>,
        M::Cdq => movement::spread_sign::<u32>,
        M::Cqo => movement::spread_sign::<u64>,
        M::Lahf => decimal::lahf,
        M::Sahf => decimal::sahf,
        M::Clc => decimal::clc,
        M::Stc => decimal::stc,
        M::Cmc => decimal::cmc,
        M::Cld => decimal::direction::<true>,
        M::Std => decimal::direction::<false>,
        M::Salc => decimal::salc,
        M::Nop
        | M::Endbr32
        | M::Endbr64
        | M::Prefetch
        | M::Prefetchw
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchwt1
        | M::Prefetchit0
        | M::Prefetchit1
        | M::Cldemote
        | M::Reservednop
        | M::Rdsspd
        | M::Rdsspq => movement::nothing,
        M::Lfence => movement::nothing,
        M::Mfence | M::Sfence => movement::fence,
        M::Clflush | M::Clflushopt | M::Clwb => movement::flush_line,
        _ => return None,
    };
    Some(insn.op(run))
}
