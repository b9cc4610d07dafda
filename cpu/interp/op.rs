//! The pre-decoded instruction: a handler and its operands, and how handlers reach them.

use crate::flags::Arith;
use crate::state::{CODE, Seg, ZERO, gpr};
use crate::{Cpu, Int, Trap};

/// What executes an [`Op`].
///
/// A handler that fails has changed nothing. Handlers of instructions that end a block set
/// `state.rip`; for all others the run loop knows where the next instruction is.
pub type Handler = fn(&mut Cpu, &Op) -> Result<(), Trap>;

/// Number of a general register or of a pseudo register, as an index into `CpuState::regs`. An enum,
/// so that the compiler knows the index to be in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Reg {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    /// Reads as zero: no base, no index.
    Zero,
    /// Instruction pointer of the first instruction of the running block.
    Code,
}

impl Reg {
    const GENERAL: [Reg; 16] = [
        Reg::Rax,
        Reg::Rcx,
        Reg::Rdx,
        Reg::Rbx,
        Reg::Rsp,
        Reg::Rbp,
        Reg::Rsi,
        Reg::Rdi,
        Reg::R8,
        Reg::R9,
        Reg::R10,
        Reg::R11,
        Reg::R12,
        Reg::R13,
        Reg::R14,
        Reg::R15,
    ];
    /// The general register `number` (0..=15).
    pub fn general(number: usize) -> Self {
        Self::GENERAL[number & 15]
    }
}

const _: () = assert!(Reg::Zero as usize == ZERO && Reg::Code as usize == CODE);

/// How a memory operand becomes a linear address: a segment in bits 0-2, and why `offset` alone is
/// not it.
pub mod segment {
    /// The segment's base must be added (FS and GS in 64-bit code).
    pub const BASED: u8 = 1 << 3;
    /// The segment's limit and type must be checked.
    pub const CHECKED: u8 = 1 << 4;
    /// The displacement lost 2^32 when it was shortened to 32 bits.
    pub const FAR_UP: u8 = 1 << 5;
    /// The displacement gained 2^32 when it was shortened to 32 bits.
    pub const FAR_DOWN: u8 = 1 << 6;
    /// Any of the above.
    pub const SPECIAL: u8 = BASED | CHECKED | FAR_UP | FAR_DOWN;
    /// The segment's number.
    pub const NUMBER: u8 = 7;
}

/// Bits of [`Op::prefix`].
pub mod prefix {
    /// LOCK, or an XCHG with memory.
    pub const LOCK: u8 = 1;
    /// REP or REPE.
    pub const REP: u8 = 1 << 1;
    /// REPNE.
    pub const REPNE: u8 = 1 << 2;
}

/// One instruction, ready to be executed. Its place is relative to the block, so that a block is
/// valid at every address its page is mapped at.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Op {
    /// What executes it.
    pub run: Handler,
    /// Immediate operand, sign-extended; or the distance from the start of the block to the target
    /// of a branch.
    pub imm: u64,
    /// Displacement of the memory operand.
    pub disp: i32,
    /// Base register of the memory operand.
    pub base: Reg,
    /// Index register of the memory operand.
    pub index: Reg,
    /// Power of two the index is multiplied with.
    pub scale: u8,
    /// 64 minus the address size in bits.
    pub wrap: u8,
    /// Bits of [`segment`].
    pub segment: u8,
    /// Register number of the first operand. Byte registers AH..BH have bit 4 set.
    pub dst: u8,
    /// Register number of the second operand, or of the first if that is in memory.
    pub src: u8,
    /// Register number of the third operand.
    pub src2: u8,
    /// Bits of [`prefix`].
    pub prefix: u8,
    /// Length in bytes.
    pub len: u8,
    /// Distance from the start of the block to the next instruction.
    pub next: u16,
}

const _: () = assert!(size_of::<Op>() == 32);

impl Op {
    /// The segment the memory operand goes through.
    pub fn seg(&self) -> Seg {
        const SEGS: [Seg; 8] =
            [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs, Seg::Ds, Seg::Ds];
        SEGS[(self.segment & segment::NUMBER) as usize]
    }
    /// Whether it has a LOCK prefix.
    #[inline(always)]
    pub fn locked(&self) -> bool {
        self.prefix & prefix::LOCK != 0
    }
    /// Offset of the memory operand within its segment, `distance` further on.
    #[inline(always)]
    fn offset_at(&self, cpu: &Cpu, distance: u64) -> u64 {
        let regs = &cpu.state.regs;
        let sum = regs[self.base as usize]
            .wrapping_add(regs[self.index as usize] << (self.scale & 3))
            .wrapping_add(self.disp as i64 as u64)
            .wrapping_add(distance);
        sum & u64::MAX >> (self.wrap & 63)
    }
    /// Offset of the memory operand within its segment: what LEA computes.
    #[inline(always)]
    pub fn offset(&self, cpu: &Cpu) -> u64 {
        let offset = self.offset_at(cpu, 0);
        if self.segment & (segment::FAR_UP | segment::FAR_DOWN) == 0 {
            return offset;
        }
        self.corrected(offset)
    }
    /// Undoes what shortening the displacement did.
    fn corrected(&self, offset: u64) -> u64 {
        if self.segment & segment::FAR_UP != 0 {
            offset.wrapping_add(1 << 32)
        } else if self.segment & segment::FAR_DOWN != 0 {
            offset.wrapping_sub(1 << 32)
        } else {
            offset
        }
    }
    /// Linear address of the memory operand, checked for an access of `size` bytes.
    #[inline(always)]
    pub fn linear(&self, cpu: &mut Cpu, size: u32, write: bool) -> Result<u64, Trap> {
        self.linear_at(cpu, 0, size, write)
    }
    /// The same, `distance` bytes further on.
    #[inline(always)]
    pub fn linear_at(
        &self,
        cpu: &mut Cpu,
        distance: u64,
        size: u32,
        write: bool,
    ) -> Result<u64, Trap> {
        let offset = self.offset_at(cpu, distance);
        if self.segment & segment::SPECIAL == 0 {
            return Ok(offset);
        }
        self.linear_special(cpu, offset, size, write)
    }
    #[inline(never)]
    fn linear_special(
        &self,
        cpu: &mut Cpu,
        offset: u64,
        size: u32,
        write: bool,
    ) -> Result<u64, Trap> {
        let offset = self.corrected(offset);
        if self.segment & segment::CHECKED != 0 {
            return cpu.lin(self.seg(), offset, size, write);
        }
        let base = cpu.mode.base[(self.segment & segment::NUMBER) as usize];
        Ok(offset.wrapping_add(base))
    }
    /// Loads the memory operand.
    #[inline(always)]
    pub fn load<T: Int>(&self, cpu: &mut Cpu) -> Result<T, Trap> {
        let linear = self.linear(cpu, size_of::<T>() as u32, false)?;
        cpu.load(linear)
    }
    /// Stores to the memory operand.
    #[inline(always)]
    pub fn store<T: Int>(&self, cpu: &mut Cpu, value: T) -> Result<(), Trap> {
        let linear = self.linear(cpu, size_of::<T>() as u32, true)?;
        cpu.store(linear, value)
    }
}

/// An operand width: `u8`, `u16`, `u32` or `u64`.
pub trait Word: Int + Copy + Eq + Ord + 'static {
    /// Width in bits.
    const BITS: u32;
    /// Truncates.
    fn of(value: u64) -> Self;
    /// Zero-extends.
    fn zx(self) -> u64;
    /// Sign-extends.
    fn sx(self) -> u64;
    /// The general register `number`.
    fn get(cpu: &Cpu, number: u8) -> Self;
    /// Writes the general register `number`. A 32-bit write clears the upper half.
    fn set(self, cpu: &mut Cpu, number: u8);
    /// The top bit.
    #[inline(always)]
    fn sign(self) -> bool {
        self.sx() >> 63 != 0
    }
}

/// Where in its register byte register `number` begins.
#[inline(always)]
fn byte_shift(number: u8) -> u32 {
    u32::from(number >> 4 & 1) * 8
}

impl Word for u8 {
    const BITS: u32 = 8;
    #[inline(always)]
    fn of(value: u64) -> Self {
        value as u8
    }
    #[inline(always)]
    fn zx(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn sx(self) -> u64 {
        self as i8 as i64 as u64
    }
    #[inline(always)]
    fn get(cpu: &Cpu, number: u8) -> Self {
        (cpu.state.regs[(number & 15) as usize] >> byte_shift(number)) as u8
    }
    #[inline(always)]
    fn set(self, cpu: &mut Cpu, number: u8) {
        let reg = &mut cpu.state.regs[(number & 15) as usize];
        let shift = byte_shift(number);
        *reg = *reg & !(0xff << shift) | u64::from(self) << shift;
    }
}

impl Word for u16 {
    const BITS: u32 = 16;
    #[inline(always)]
    fn of(value: u64) -> Self {
        value as u16
    }
    #[inline(always)]
    fn zx(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn sx(self) -> u64 {
        self as i16 as i64 as u64
    }
    #[inline(always)]
    fn get(cpu: &Cpu, number: u8) -> Self {
        cpu.state.regs[(number & 15) as usize] as u16
    }
    #[inline(always)]
    fn set(self, cpu: &mut Cpu, number: u8) {
        let reg = &mut cpu.state.regs[(number & 15) as usize];
        *reg = *reg & !0xffff | u64::from(self);
    }
}

impl Word for u32 {
    const BITS: u32 = 32;
    #[inline(always)]
    fn of(value: u64) -> Self {
        value as u32
    }
    #[inline(always)]
    fn zx(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn sx(self) -> u64 {
        self as i32 as i64 as u64
    }
    #[inline(always)]
    fn get(cpu: &Cpu, number: u8) -> Self {
        cpu.state.regs[(number & 15) as usize] as u32
    }
    #[inline(always)]
    fn set(self, cpu: &mut Cpu, number: u8) {
        cpu.state.regs[(number & 15) as usize] = u64::from(self);
    }
}

impl Word for u64 {
    const BITS: u32 = 64;
    #[inline(always)]
    fn of(value: u64) -> Self {
        value
    }
    #[inline(always)]
    fn zx(self) -> u64 {
        self
    }
    #[inline(always)]
    fn sx(self) -> u64 {
        self
    }
    #[inline(always)]
    fn get(cpu: &Cpu, number: u8) -> Self {
        cpu.state.regs[(number & 15) as usize]
    }
    #[inline(always)]
    fn set(self, cpu: &mut Cpu, number: u8) {
        cpu.state.regs[(number & 15) as usize] = self;
    }
}

/// A readable operand.
pub trait Source {
    /// Its value.
    fn read<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<T, Trap>;
}

/// A writable operand.
pub trait Place: Source {
    /// Whether it is a register.
    const IS_REGISTER: bool;
    /// What a handler that wrote here, and does not end its block, returns.
    fn done(cpu: &mut Cpu) -> Result<(), Trap>;
    /// Replaces the value.
    fn write<T: Word>(cpu: &mut Cpu, op: &Op, value: T) -> Result<(), Trap>;
    /// Replaces the value by what `f` makes of it; returns old and new value. Atomic under LOCK.
    fn update<T: Word>(cpu: &mut Cpu, op: &Op, f: impl FnMut(T) -> T) -> Result<(T, T), Trap>;
}

/// The register in [`Op::dst`].
pub struct Dst;
/// The register in [`Op::src`].
pub struct Src;
/// The register in [`Op::src2`].
pub struct Src2;
/// The memory operand.
pub struct Mem;
/// The immediate operand.
pub struct Imm;
/// CL.
pub struct Cl;

impl Source for Dst {
    #[inline(always)]
    fn read<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<T, Trap> {
        Ok(T::get(cpu, op.dst))
    }
}
impl Source for Src {
    #[inline(always)]
    fn read<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<T, Trap> {
        Ok(T::get(cpu, op.src))
    }
}
impl Source for Src2 {
    #[inline(always)]
    fn read<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<T, Trap> {
        Ok(T::get(cpu, op.src2))
    }
}
impl Source for Mem {
    #[inline(always)]
    fn read<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<T, Trap> {
        op.load(cpu)
    }
}
impl Source for Imm {
    #[inline(always)]
    fn read<T: Word>(_: &mut Cpu, op: &Op) -> Result<T, Trap> {
        Ok(T::of(op.imm))
    }
}
impl Source for Cl {
    #[inline(always)]
    fn read<T: Word>(cpu: &mut Cpu, _: &Op) -> Result<T, Trap> {
        Ok(T::get(cpu, gpr::RCX as u8))
    }
}

impl Place for Dst {
    const IS_REGISTER: bool = true;
    #[inline(always)]
    fn done(_: &mut Cpu) -> Result<(), Trap> {
        Ok(())
    }
    #[inline(always)]
    fn write<T: Word>(cpu: &mut Cpu, op: &Op, value: T) -> Result<(), Trap> {
        value.set(cpu, op.dst);
        Ok(())
    }
    #[inline(always)]
    fn update<T: Word>(cpu: &mut Cpu, op: &Op, mut f: impl FnMut(T) -> T) -> Result<(T, T), Trap> {
        let old = T::get(cpu, op.dst);
        let new = f(old);
        new.set(cpu, op.dst);
        Ok((old, new))
    }
}
impl Place for Mem {
    const IS_REGISTER: bool = false;
    #[inline(always)]
    fn done(cpu: &mut Cpu) -> Result<(), Trap> {
        cpu.stored()
    }
    #[inline(always)]
    fn write<T: Word>(cpu: &mut Cpu, op: &Op, value: T) -> Result<(), Trap> {
        op.store(cpu, value)
    }
    #[inline(always)]
    fn update<T: Word>(cpu: &mut Cpu, op: &Op, f: impl FnMut(T) -> T) -> Result<(T, T), Trap> {
        let linear = op.linear(cpu, T::BITS / 8, true)?;
        cpu.rmw(linear, op.locked(), f)
    }
}

impl Cpu {
    /// The arithmetic flags.
    #[inline(always)]
    pub(super) fn arith(&self) -> Arith {
        self.state.flags.arith
    }
    /// Replaces the arithmetic flags.
    #[inline(always)]
    pub(super) fn set_arith(&mut self, arith: Arith) {
        self.state.flags.arith = arith;
    }
    /// To be returned by a handler that wrote memory, or raised a line, and does not end its block: the
    /// store may have hit the block itself, or changed the memory map.
    #[inline(always)]
    pub(super) fn stored(&mut self) -> Result<(), Trap> {
        if self.exit_block { Err(Trap::Leave) } else { Ok(()) }
    }
}
