//! The encodings of a vector instruction, and how its operands are reached.
//!
//! Every instruction has its first source in `src` and its second one, if that is a register, in
//! `src2`; with two operands, the first source of an SSE instruction is its destination.

use std::marker::PhantomData;

use super::sse::aligned;
use crate::interp::op::Op;
use crate::simd::Vector;
use crate::{Cpu, Int, Trap};

/// An encoding, which gives the width of vectors.
pub trait Form {
    /// Lanes of 128 bits.
    const LANES: usize;
    /// #UD or #NM if such instructions may not run.
    fn check(cpu: &mut Cpu) -> Result<(), Trap>;
    /// Replaces a register.
    fn set(cpu: &mut Cpu, number: u8, value: Vector);
    /// The linear address of a memory operand of the vector's width.
    fn address(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Trap>;

    /// The register `number`; what is beyond the vector's width is zero.
    #[inline(always)]
    fn get(cpu: &Cpu, number: u8) -> Vector {
        let register = &cpu.state.vec[usize::from(number & 31)].0;
        [register[0], if Self::LANES == 2 { register[1] } else { 0 }]
    }
    /// A vector made lane by lane.
    #[inline(always)]
    fn build(mut f: impl FnMut(usize) -> u128) -> Vector {
        [f(0), if Self::LANES == 2 { f(1) } else { 0 }]
    }
    /// Whether `f` holds for every lane.
    #[inline(always)]
    fn all(f: impl Fn(usize) -> bool) -> bool {
        (0..Self::LANES).all(f)
    }
    /// Loads a vector from a linear address.
    #[inline(always)]
    fn load(cpu: &mut Cpu, linear: u64) -> Result<Vector, Trap> {
        let low = cpu.load(linear)?;
        if Self::LANES == 1 {
            return Ok([low, 0]);
        }
        Ok([low, cpu.load(linear.wrapping_add(16) & cpu.mode.linear_mask)?])
    }
    /// Stores a vector to a linear address.
    #[inline(always)]
    fn store(cpu: &mut Cpu, linear: u64, value: Vector) -> Result<(), Trap> {
        if Self::LANES == 2 {
            if linear & 0xfff > 0x1000 - 32 {
                cpu.probe_write(linear, 32)?;
            }
            cpu.store(linear, value[0])?;
            return cpu.store(linear.wrapping_add(16) & cpu.mode.linear_mask, value[1]);
        }
        cpu.store(linear, value[0])
    }
}

/// The legacy encoding: the upper parts of registers stay as they are.
pub struct Sse;
/// The VEX encoding with 128-bit vectors: the upper parts of registers are cleared.
pub struct Vex128;
/// The VEX encoding with 256-bit vectors.
pub struct Vex256;

impl Form for Sse {
    const LANES: usize = 1;
    #[inline(always)]
    fn check(cpu: &mut Cpu) -> Result<(), Trap> {
        super::sse::check(cpu)
    }
    #[inline(always)]
    fn set(cpu: &mut Cpu, number: u8, value: Vector) {
        cpu.set_xmm(number, value[0]);
    }
    #[inline(always)]
    fn address(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Trap> {
        aligned(cpu, op, 16, write)
    }
}

macro_rules! vex_forms {
    ($($name:ident: $lanes:literal;)*) => { $(
        impl Form for $name {
            const LANES: usize = $lanes;
            #[inline(always)]
            fn check(cpu: &mut Cpu) -> Result<(), Trap> {
                check_vex(cpu)
            }
            #[inline(always)]
            fn set(cpu: &mut Cpu, number: u8, [low, high]: Vector) {
                cpu.state.vec[usize::from(number & 31)].0 = [low, high, 0, 0];
            }
            #[inline(always)]
            fn address(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Trap> {
                op.linear(cpu, 16 * $lanes, write)
            }
        }
    )* };
}
vex_forms! { Vex128: 1; Vex256: 2; }

/// #UD or #NM if AVX instructions may not run.
#[inline(always)]
fn check_vex(cpu: &mut Cpu) -> Result<(), Trap> {
    if !cpu.mode.avx_enabled || cpu.mode.task_switched {
        return Err(vex_refused(cpu));
    }
    Ok(())
}

#[cold]
fn vex_refused(cpu: &mut Cpu) -> Trap {
    if !cpu.mode.avx_enabled { cpu.undefined() } else { cpu.device_not_available() }
}

/// The second source of a vector instruction.
pub trait Operand {
    /// Its value, zero-extended.
    fn read<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<Vector, Trap>;
}
/// A vector register.
pub struct Register;
/// Memory of the vector's width. In the legacy encoding it must be aligned.
pub struct Whole;
/// A smaller piece of memory, at any address.
pub struct Part<T>(PhantomData<T>);
/// The immediate.
pub struct Immediate;
/// The low 128 bits of another operand in every lane: shift counts.
pub struct Uniform<S>(PhantomData<S>);
/// The low 128 bits of another operand, the second lane beginning at this bit: what is widened.
pub struct Narrow<S, const BITS: u32>(PhantomData<S>);

impl Operand for Register {
    #[inline(always)]
    fn read<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<Vector, Trap> {
        Ok(F::get(cpu, op.src2))
    }
}
impl Operand for Whole {
    #[inline(always)]
    fn read<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<Vector, Trap> {
        let linear = F::address(cpu, op, false)?;
        F::load(cpu, linear)
    }
}
impl<T: Int> Operand for Part<T> {
    #[inline(always)]
    fn read<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<Vector, Trap> {
        Ok([op.load::<T>(cpu)?.widen(), 0])
    }
}
impl Operand for Immediate {
    #[inline(always)]
    fn read<F: Form>(_: &mut Cpu, op: &Op) -> Result<Vector, Trap> {
        Ok([(op.imm & 0xff).into(); 2])
    }
}
impl<S: Operand> Operand for Uniform<S> {
    #[inline(always)]
    fn read<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<Vector, Trap> {
        let [value, _] = S::read::<Vex128>(cpu, op)?;
        Ok([value; 2])
    }
}
impl<S: Operand, const BITS: u32> Operand for Narrow<S, BITS> {
    #[inline(always)]
    fn read<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<Vector, Trap> {
        let [value, _] = S::read::<Vex128>(cpu, op)?;
        Ok([value, value >> BITS])
    }
}
