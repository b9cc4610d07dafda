//! Conditions, and what is done on them but branching.

use crate::flags::Arith;
use crate::interp::op::{Op, Place, Source, Word};
use crate::{Cpu, Trap};

/// A condition code (SDM vol. 1, appendix B). `NEGATE` in the users inverts it.
pub trait Condition {
    /// Whether it holds.
    fn holds(flags: Arith) -> bool;
}

macro_rules! conditions {
    ($($(#[$doc:meta])* $name:ident = $test:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Condition for $name {
            #[inline(always)]
            fn holds(flags: Arith) -> bool {
                let test: fn(Arith) -> bool = $test;
                test(flags)
            }
        }
    )*};
}
conditions! {
    /// OF.
    O = |f| f.of();
    /// CF.
    B = |f| f.cf();
    /// ZF.
    E = |f| f.zf();
    /// CF or ZF.
    Be = |f| f.cf() | f.zf();
    /// SF.
    S = |f| f.sf();
    /// PF.
    P = |f| f.pf();
    /// SF differs from OF.
    L = |f| f.less();
    /// ZF, or SF differs from OF.
    Le = |f| f.less() | f.zf();
    /// Not OF.
    No = |f| !f.of();
    /// Not CF.
    Ae = |f| !f.cf();
    /// Not ZF.
    Ne = |f| !f.zf();
    /// Neither CF nor ZF.
    A = |f| !(f.cf() | f.zf());
    /// Not SF.
    Ns = |f| !f.sf();
    /// Not PF.
    Np = |f| !f.pf();
    /// SF equals OF.
    Ge = |f| !f.less();
    /// Not ZF, and SF equals OF.
    G = |f| !(f.less() | f.zf());
}

/// SETcc.
pub fn setcc<C: Condition, D: Place>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value = u8::from(C::holds(cpu.arith()));
    D::write(cpu, op, value)?;
    D::done(cpu)
}

/// CMOVcc. A memory operand is read, and a 32-bit destination zero-extended, in any case.
pub fn cmov<T: Word, C: Condition, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    let old = T::get(cpu, op.dst);
    (if C::holds(cpu.arith()) { value } else { old }).set(cpu, op.dst);
    Ok(())
}
