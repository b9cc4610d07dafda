//! Multiplication and addition with one rounding (FMA).

use super::native::Native;
use super::{Unit, low, with_low};
use crate::fpu::{F32, F64, arith};
use iced_x86::Mnemonic as M;

/// `f(source1, source2, destination, unit)`, the sources being the second and third operands. Scalar
/// forms keep the upper lanes of the destination.
pub type FloatTernary = fn(u128, u128, u128, &mut Unit) -> u128;

/// What is negated: the product, the addend in even lanes, the addend in odd lanes.
mod negate {
    pub const PRODUCT: u8 = 1;
    pub const EVEN: u8 = 2;
    pub const ODD: u8 = 4;
    pub const ADDEND: u8 = EVEN | ODD;
}

const MADD: u8 = 0;
const MSUB: u8 = negate::ADDEND;
const NMADD: u8 = negate::PRODUCT;
const NMSUB: u8 = negate::PRODUCT | negate::ADDEND;
const MADDSUB: u8 = negate::EVEN;
const MSUBADD: u8 = negate::ODD;

impl Unit {
    /// `a * b + c`.
    #[inline(always)]
    fn mul_add<F: Native>(&mut self, a: F, b: F, c: F, product: bool, addend: bool) -> F {
        let native = |negate: bool, x: F| if negate { x.negated() } else { x };
        if let Some(result) = self.native_mul_add(native(product, a), b, native(addend, c)) {
            return result;
        }
        // A NaN keeps its sign.
        let operand = |negate: bool, x: F| {
            let x = self.operand(x);
            if negate { x.negated() } else { x }
        };
        let (a, b, c) = (operand(product, a), operand(false, b), operand(addend, c));
        arith::mul_add(a, b, c, &mut self.env)
    }

    /// The operands of an instruction in the order of the three digits in its name: those of the
    /// multiplication, then the addend.
    #[inline(always)]
    fn fused<F: Native, const ORDER: u32, const NEGATE: u8>(
        &mut self,
        [first, second, third]: [F; 3],
        odd: bool,
    ) -> F {
        let (a, b, c) = match ORDER {
            132 => (first, third, second),
            213 => (second, first, third),
            _ => (second, third, first),
        };
        let addend = NEGATE & if odd { negate::ODD } else { negate::EVEN } != 0;
        self.mul_add(a, b, c, NEGATE & negate::PRODUCT != 0, addend)
    }
}

fn packed<F: Native, const ORDER: u32, const NEGATE: u8>(
    second: u128,
    third: u128,
    first: u128,
    unit: &mut Unit,
) -> u128 {
    let [first, second, third] = [first, second, third].map(F::split);
    F::build(|i| {
        let operands = [first.as_ref()[i], second.as_ref()[i], third.as_ref()[i]];
        unit.fused::<F, ORDER, NEGATE>(operands, i % 2 != 0)
    })
}

fn scalar<F: Native, const ORDER: u32, const NEGATE: u8>(
    second: u128,
    third: u128,
    first: u128,
    unit: &mut Unit,
) -> u128 {
    let operands = [low(first), low(second), low(third)];
    with_low(first, unit.fused::<F, ORDER, NEGATE>(operands, false))
}

macro_rules! forms {
    ($mnemonic:expr; $($order:literal $negate:ident: $ps:ident $pd:ident $($ss:ident $sd:ident)?;)*) => {
        match $mnemonic {
            $(
                M::$ps => packed::<F32, $order, $negate>,
                M::$pd => packed::<F64, $order, $negate>,
                $(
                    M::$ss => scalar::<F32, $order, $negate>,
                    M::$sd => scalar::<F64, $order, $negate>,
                )?
            )*
            _ => return None,
        }
    };
}

/// The fused operations.
pub fn float_ternary(mnemonic: M) -> Option<FloatTernary> {
    Some(forms! { mnemonic;
        132 MADD: Vfmadd132ps Vfmadd132pd Vfmadd132ss Vfmadd132sd;
        213 MADD: Vfmadd213ps Vfmadd213pd Vfmadd213ss Vfmadd213sd;
        231 MADD: Vfmadd231ps Vfmadd231pd Vfmadd231ss Vfmadd231sd;
        132 MSUB: Vfmsub132ps Vfmsub132pd Vfmsub132ss Vfmsub132sd;
        213 MSUB: Vfmsub213ps Vfmsub213pd Vfmsub213ss Vfmsub213sd;
        231 MSUB: Vfmsub231ps Vfmsub231pd Vfmsub231ss Vfmsub231sd;
        132 NMADD: Vfnmadd132ps Vfnmadd132pd Vfnmadd132ss Vfnmadd132sd;
        213 NMADD: Vfnmadd213ps Vfnmadd213pd Vfnmadd213ss Vfnmadd213sd;
        231 NMADD: Vfnmadd231ps Vfnmadd231pd Vfnmadd231ss Vfnmadd231sd;
        132 NMSUB: Vfnmsub132ps Vfnmsub132pd Vfnmsub132ss Vfnmsub132sd;
        213 NMSUB: Vfnmsub213ps Vfnmsub213pd Vfnmsub213ss Vfnmsub213sd;
        231 NMSUB: Vfnmsub231ps Vfnmsub231pd Vfnmsub231ss Vfnmsub231sd;
        132 MADDSUB: Vfmaddsub132ps Vfmaddsub132pd;
        213 MADDSUB: Vfmaddsub213ps Vfmaddsub213pd;
        231 MADDSUB: Vfmaddsub231ps Vfmaddsub231pd;
        132 MSUBADD: Vfmsubadd132ps Vfmsubadd132pd;
        213 MSUBADD: Vfmsubadd213ps Vfmsubadd213pd;
        231 MSUBADD: Vfmsubadd231ps Vfmsubadd231pd;
    })
}
