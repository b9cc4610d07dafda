//! RFLAGS, with the six arithmetic flags computed only when somebody looks.
//!
//! An operation leaves two words behind: its sign-extended result, and a word of carries. Every flag
//! follows from them without a branch and without knowing which operation or width it was:
//!
//! | flag | from |
//! |------|------|
//! | ZF | `res == 0` |
//! | SF | bit 63 of `res`, toggled by bit 0 of `aux` |
//! | PF | parity of the low byte of `res`, toggled by bit 1 of `aux` |
//! | CF | bit 63 of `aux`: the carry out of the top bit |
//! | OF | bit 63 xor bit 62 of `aux`: bit 62 is the carry into the top bit |
//! | AF | bit 3 of `aux`: the carry out of bit 3 |
//!
//! The toggles exist for POPF and SAHF, which may ask for combinations no result has.

/// RFLAGS bits.
#[allow(missing_docs)]
pub mod bit {
    pub const CF: u64 = 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// CF, PF, AF, ZF, SF and OF.
    pub const ARITH: u64 = CF | PF | AF | ZF | SF | OF;
}

/// Bits of [`Arith::aux`].
mod aux {
    pub const TOGGLE_SF: u64 = 1;
    pub const TOGGLE_PF: u64 = 1 << 1;
    pub const CARRY_3: u64 = 1 << 3;
    pub const CARRY_INTO_TOP: u64 = 1 << 62;
    pub const CARRY_OUT: u64 = 1 << 63;
}

/// The six arithmetic flags in their lazy form (see the module's text).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Arith {
    res: u64,
    aux: u64,
}

impl Arith {
    /// Flags after an addition or subtraction of width `bits`. `carries` has the carry (or borrow)
    /// out of every bit position; `res` is the sign-extended result.
    #[inline(always)]
    pub fn carried(res: u64, carries: u64, bits: u32) -> Self {
        let top = carries << (64 - bits) & (aux::CARRY_OUT | aux::CARRY_INTO_TOP);
        Arith { res, aux: top | carries & aux::CARRY_3 }
    }
    /// Flags after a logical operation: CF, OF and AF clear.
    #[inline(always)]
    pub fn logic(res: u64) -> Self {
        Arith { res, aux: 0 }
    }
    /// Flags with ZF, SF and PF of a sign-extended result and the given CF and OF; AF is clear.
    #[inline(always)]
    pub fn result(res: u64, cf: bool, of: bool) -> Self {
        Arith { res, aux: u64::from(cf) << 63 | u64::from(cf ^ of) << 62 }
    }
    /// The same flags, but CF as given.
    #[inline(always)]
    pub fn with_cf(self, cf: bool) -> Self {
        // OF is the difference of both carry bits: flip both or none.
        let flip = (self.aux >> 63 ^ u64::from(cf)) & 1;
        Arith { res: self.res, aux: self.aux ^ (flip << 63 | flip << 62) }
    }
    /// The same flags, but OF as given.
    #[inline(always)]
    pub fn with_of(self, of: bool) -> Self {
        let into_top = (self.aux >> 63 ^ u64::from(of)) << 62;
        Arith { res: self.res, aux: self.aux & !aux::CARRY_INTO_TOP | into_top }
    }
    /// The same flags, but AF as given.
    #[inline(always)]
    pub fn with_af(self, af: bool) -> Self {
        Arith { res: self.res, aux: self.aux & !aux::CARRY_3 | u64::from(af) << 3 }
    }
    /// Carry.
    #[inline(always)]
    pub fn cf(self) -> bool {
        self.aux >> 63 != 0
    }
    /// Zero.
    #[inline(always)]
    pub fn zf(self) -> bool {
        self.res == 0
    }
    /// Sign.
    #[inline(always)]
    pub fn sf(self) -> bool {
        (self.res >> 63 ^ self.aux) & 1 != 0
    }
    /// Overflow.
    #[inline(always)]
    pub fn of(self) -> bool {
        (self.aux ^ self.aux << 1) >> 63 != 0
    }
    /// Parity: the low byte of the result has an even number of ones.
    #[inline(always)]
    pub fn pf(self) -> bool {
        (!(self.res as u8).count_ones() ^ (self.aux >> 1) as u32) & 1 != 0
    }
    /// Auxiliary carry.
    #[inline(always)]
    pub fn af(self) -> bool {
        self.aux & aux::CARRY_3 != 0
    }
    /// Less, as signed numbers: SF differs from OF.
    #[inline(always)]
    pub fn less(self) -> bool {
        (self.res ^ self.aux << 63 ^ self.aux ^ self.aux << 1) >> 63 != 0
    }
    /// The flags at their places in RFLAGS.
    pub fn bits(self) -> u64 {
        u64::from(self.cf())
            | u64::from(self.pf()) << 2
            | u64::from(self.af()) << 4
            | u64::from(self.zf()) << 6
            | u64::from(self.sf()) << 7
            | u64::from(self.of()) << 11
    }
    /// The lazy form of given flags; other bits of `value` are ignored.
    pub fn from_bits(value: u64) -> Self {
        let res = u64::from(value & bit::ZF == 0);
        let mut arith = Self::result(res, value & bit::CF != 0, value & bit::OF != 0)
            .with_af(value & bit::AF != 0);
        if arith.sf() != (value & bit::SF != 0) {
            arith.aux |= aux::TOGGLE_SF;
        }
        if arith.pf() != (value & bit::PF != 0) {
            arith.aux |= aux::TOGGLE_PF;
        }
        arith
    }
}

/// RFLAGS. `rest` holds every bit but the arithmetic six; those come from the last operation.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct LazyFlags {
    rest: u64,
    /// The arithmetic flags.
    pub arith: Arith,
}

impl LazyFlags {
    /// Flags with the given RFLAGS value.
    pub fn new(value: u64) -> Self {
        LazyFlags { rest: value & !bit::ARITH | 2, arith: Arith::from_bits(value) }
    }
    /// The whole RFLAGS value.
    pub fn get(&self) -> u64 {
        self.rest | self.arith.bits()
    }
    /// Replaces the whole value; bit 1 stays set.
    pub fn set(&mut self, value: u64) {
        *self = Self::new(value);
    }
    /// The bits that are never lazy (IF, DF, IOPL, VM ...).
    #[inline(always)]
    pub fn system(&self) -> u64 {
        self.rest
    }
    /// Sets or clears bits that are never lazy.
    pub fn set_system(&mut self, mask: u64, on: bool) {
        let mask = mask & !bit::ARITH;
        self.rest = if on { self.rest | mask } else { self.rest & !mask } | 2;
    }
}

impl PartialEq for LazyFlags {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for LazyFlags {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_survives_the_lazy_form() {
        let bits = [bit::CF, bit::PF, bit::AF, bit::ZF, bit::SF, bit::OF];
        for choice in 0..64u32 {
            let value: u64 =
                bits.iter().enumerate().map(|(i, b)| b * u64::from(choice >> i & 1)).sum();
            let arith = Arith::from_bits(value);
            assert_eq!(arith.bits(), value);
            assert_eq!(arith.less(), (value & bit::SF != 0) != (value & bit::OF != 0));
            for cf in [false, true] {
                assert_eq!(arith.with_cf(cf).bits(), value & !bit::CF | u64::from(cf));
            }
        }
    }

    #[test]
    fn the_system_bits_are_kept_apart() {
        let mut flags = LazyFlags::new(bit::IF | bit::CF | bit::ZF);
        assert_eq!(flags.get(), bit::IF | bit::CF | bit::ZF | 2);
        assert_eq!(flags.system(), bit::IF | 2);
        flags.set_system(bit::IF | bit::ZF, false);
        assert_eq!(flags.get(), bit::CF | bit::ZF | 2);
    }
}
