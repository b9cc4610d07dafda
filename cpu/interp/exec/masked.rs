//! Moves of selected elements: the others are not touched, whether or not their memory exists.

use super::form::{Form, Vex128, Vex256};
use crate::interp::op::{Op, Word};
use crate::simd::Vector;
use crate::{Cpu, Trap};

/// Element `i` of a vector.
fn element<T: Word>(vector: Vector, i: usize) -> T {
    let bits = i as u32 * T::BITS;
    T::truncate(vector[bits as usize / 128 & 1] >> (bits % 128))
}

/// Replaces element `i` of a vector.
fn set_element<T: Word>(vector: &mut Vector, i: usize, value: T) {
    let bits = i as u32 * T::BITS;
    let lane = &mut vector[bits as usize / 128 & 1];
    let mask = T::of(u64::MAX).widen() << (bits % 128);
    *lane = *lane & !mask | value.widen() << (bits % 128);
}

/// The elements that a mask selects by their top bits.
fn selected<F: Form, T: Word>(mask: Vector) -> impl Iterator<Item = usize> {
    let elements = F::LANES * 128 / T::BITS as usize;
    (0..elements).filter(move |i| element::<T>(mask, *i).sign())
}

/// VMASKMOVPS, VPMASKMOVD and their like from memory: elements that are not selected become zero.
pub fn load<F: Form, T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let mut result = [0; 2];
    for i in selected::<F, T>(F::get(cpu, op.src)) {
        let linear = op.linear_at(cpu, (i * T::SIZE) as u64, T::SIZE as u32, false)?;
        set_element::<T>(&mut result, i, cpu.load(linear)?);
    }
    F::set(cpu, op.dst, result);
    Ok(())
}

/// The same to memory.
pub fn store<F: Form, T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let (mask, value) = (F::get(cpu, op.src), F::get(cpu, op.src2));
    let address =
        |cpu: &mut Cpu, i: usize| op.linear_at(cpu, (i * T::SIZE) as u64, T::SIZE as u32, true);
    for i in selected::<F, T>(mask) {
        let linear = address(cpu, i)?;
        cpu.probe_write(linear, T::SIZE as u64)?;
    }
    for i in selected::<F, T>(mask) {
        let linear = address(cpu, i)?;
        cpu.store(linear, element::<T>(value, i))?;
    }
    cpu.stored()
}

/// Writes what has been done so far; what is beyond the vector's width stays.
fn suspend<F: Form>(cpu: &mut Cpu, number: u8, value: Vector) {
    let register = &mut cpu.state.vec[usize::from(number & 31)].0;
    register[..F::LANES].copy_from_slice(&value[..F::LANES]);
}

/// VGATHERDPS, VPGATHERQQ and their like: elements `T` from memory, at indices `I` in `src`, as `src2`
/// selects. The mask loses each element that is done, so that a fault loses no work.
pub fn gather<F: Form, T: Word, I: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let indices = Vex256::get(cpu, op.src);
    let mut result = F::get(cpu, op.dst);
    let mut mask = F::get(cpu, op.src2);
    // As many as there are of the wider kind.
    let elements = F::LANES * 128 / T::BITS.max(I::BITS) as usize;
    for i in 0..elements {
        if element::<T>(mask, i).sign() {
            let distance = element::<I>(indices, i).sx() << (op.scale & 3);
            let loaded = op
                .linear_at(cpu, distance, T::SIZE as u32, false)
                .and_then(|linear| cpu.load::<T>(linear));
            match loaded {
                Ok(value) => set_element(&mut result, i, value),
                Err(trap) => {
                    suspend::<F>(cpu, op.dst, result);
                    suspend::<F>(cpu, op.src2, mask);
                    return Err(trap);
                }
            }
        }
        set_element(&mut mask, i, T::of(0));
    }
    if elements * T::BITS as usize == 64 {
        result[0] &= u128::from(u64::MAX);
    }
    if elements * T::BITS as usize <= 128 {
        Vex128::set(cpu, op.dst, [result[0], 0]);
    } else {
        F::set(cpu, op.dst, result);
    }
    F::set(cpu, op.src2, [0; 2]);
    Ok(())
}
