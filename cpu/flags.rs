//! RFLAGS, with the six arithmetic flags computed only when somebody looks.

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

/// RFLAGS. `rest` holds every bit but the arithmetic six; those come from the last operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LazyFlags {
    rest: u64,
    arith: u64,
}

impl LazyFlags {
    /// Flags with the given RFLAGS value.
    pub fn new(value: u64) -> Self {
        LazyFlags { rest: value & !bit::ARITH | 2, arith: value & bit::ARITH }
    }
    /// The whole RFLAGS value.
    pub fn get(&self) -> u64 {
        self.rest | self.arith
    }
    /// Replaces the whole value; bit 1 stays set.
    pub fn set(&mut self, value: u64) {
        *self = Self::new(value);
    }
    /// The bits that are never lazy (IF, DF, IOPL, VM ...).
    pub fn system(&self) -> u64 {
        self.rest
    }
}
