//! The x87 instructions: memory operands, and what the processor checks before the FPU sees one.
//!
//! `imm` holds the opcode the FPU remembers (11 bits), the number of an [`Arith`] from bit 16 and
//! whether to pop in bit 20.

use std::cmp::Ordering;
use std::marker::PhantomData;

use super::cond::Condition;
use crate::flags::{Arith as Flags, bit};
use crate::fpu::format::Unpacked;
use crate::fpu::x87::{Arith, Constant, EnvLayout, X87};
use crate::fpu::{F32, F64, F80, Float};
use crate::interp::op::{Op, Word, segment};
use crate::state::{Seg, cr0};
use crate::{Cpu, Int, Trap, vector};

/// The number of an operation in `imm`.
pub const ARITH: [Arith; 6] =
    [Arith::Add, Arith::Mul, Arith::Sub, Arith::SubReversed, Arith::Div, Arith::DivReversed];
/// Where that number begins.
pub const ARITH_SHIFT: u32 = 16;
/// Whether the register stack is popped.
pub const POP: u64 = 1 << 20;

fn arith_of(op: &Op) -> Arith {
    ARITH[(op.imm >> ARITH_SHIFT & 7) as usize % ARITH.len()]
}

fn pops(op: &Op) -> bool {
    op.imm & POP != 0
}

/// #NM if the FPU is not available, #MF if an exception is pending.
fn wait(cpu: &mut Cpu) -> Result<(), Trap> {
    available(cpu)?;
    report_pending(cpu)
}

/// Reports a pending exception: as #MF or, without CR0.NE, by FERR#. What comes of that is an
/// interrupt like any other; the instruction goes on, as if IGNNE# were asserted, and so do all that
/// follow until the exception is cleared.
fn report_pending(cpu: &mut Cpu) -> Result<(), Trap> {
    let pending = cpu.state.x87.pending();
    if pending && cpu.state.cr0 & cr0::NE != 0 {
        return Err(cpu.raise(vector::MF, None));
    }
    if pending && !cpu.fpu_error_told {
        cpu.bus.fpu_error.raise();
        cpu.exit_block = true;
    }
    cpu.fpu_error_told = pending;
    Ok(())
}

fn available(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.mode.fpu_trap {
        return Err(cpu.device_not_available());
    }
    Ok(())
}

/// What the FPU remembers of the last instruction that was not a control instruction.
fn remember(cpu: &Cpu, op: &Op, x87: &mut X87) {
    x87.fop = (op.imm & 0x7ff) as u16;
    x87.fip = cpu.this_rip(op);
    x87.fcs = cpu.state.seg[Seg::Cs as usize].selector;
}

fn remember_operand(cpu: &Cpu, op: &Op, x87: &mut X87) {
    remember(cpu, op, x87);
    x87.fdp = op.offset(cpu);
    x87.fds = cpu.state.seg[usize::from(op.segment & segment::NUMBER).min(5)].selector;
}

/// An instruction without memory operand.
pub trait Internal {
    /// Executes it.
    fn run(x87: &mut X87, op: &Op);
}

/// Executes `I`.
pub fn internal<I: Internal>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    wait(cpu)?;
    let mut x87 = cpu.state.x87;
    remember(cpu, op, &mut x87);
    I::run(&mut x87, op);
    cpu.state.x87 = x87;
    Ok(())
}

macro_rules! internal {
    ($($(#[$doc:meta])* $name:ident = $run:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Internal for $name {
            fn run(x87: &mut X87, op: &Op) {
                let run: fn(&mut X87, &Op) = $run;
                run(x87, op)
            }
        }
    )*};
}

internal! {
    /// FADD and its like between registers.
    ArithRegisters = |x, op| x.arith(arith_of(op), op.dst, op.src, pops(op));
    /// FLD ST(i).
    Fld = |x, op| x.fld_st(op.src);
    /// FST and FSTP ST(i).
    Fst = |x, op| x.fst_st(op.dst, pops(op));
    /// FXCH.
    Fxch = |x, op| x.fxch(op.src);
    /// FCOM and FCOMP.
    Fcom = |x, op| x.fcom(op.src, false, u8::from(pops(op)));
    /// FUCOM and FUCOMP.
    Fucom = |x, op| x.fcom(op.src, true, u8::from(pops(op)));
    /// FCOMPP.
    Fcompp = |x, _| x.fcom(1, false, 2);
    /// FUCOMPP.
    Fucompp = |x, _| x.fcom(1, true, 2);
    /// FTST.
    Ftst = |x, _| x.ftst();
    /// FXAM.
    Fxam = |x, _| x.fxam();
    /// FLD1.
    Fld1 = |x, _| x.fld_constant(Constant::One);
    /// FLDL2T.
    Fldl2t = |x, _| x.fld_constant(Constant::Log2Of10);
    /// FLDL2E.
    Fldl2e = |x, _| x.fld_constant(Constant::Log2OfE);
    /// FLDPI.
    Fldpi = |x, _| x.fld_constant(Constant::Pi);
    /// FLDLG2.
    Fldlg2 = |x, _| x.fld_constant(Constant::Log10Of2);
    /// FLDLN2.
    Fldln2 = |x, _| x.fld_constant(Constant::LnOf2);
    /// FLDZ.
    Fldz = |x, _| x.fld_constant(Constant::Zero);
    /// FCHS.
    Fchs = |x, _| x.fchs();
    /// FABS.
    Fabs = |x, _| x.fabs();
    /// FSQRT.
    Fsqrt = |x, _| x.fsqrt();
    /// FRNDINT.
    Frndint = |x, _| x.frndint();
    /// FSCALE.
    Fscale = |x, _| x.fscale();
    /// FPREM.
    Fprem = |x, _| x.fprem(false);
    /// FPREM1.
    Fprem1 = |x, _| x.fprem(true);
    /// FXTRACT.
    Fxtract = |x, _| x.fxtract();
    /// F2XM1.
    F2xm1 = |x, _| x.f2xm1();
    /// FYL2X.
    Fyl2x = |x, _| x.fyl2x();
    /// FYL2XP1.
    Fyl2xp1 = |x, _| x.fyl2xp1();
    /// FPATAN.
    Fpatan = |x, _| x.fpatan();
    /// FSIN.
    Fsin = |x, _| x.fsin();
    /// FCOS.
    Fcos = |x, _| x.fcos();
    /// FSINCOS.
    Fsincos = |x, _| x.fsincos();
    /// FPTAN.
    Fptan = |x, _| x.fptan();
    /// FFREE.
    Ffree = |x, op| x.ffree(op.dst);
    /// FFREEP.
    Ffreep = |x, op| {
        x.ffree(op.dst);
        x.ffree(0);
        x.fincstp();
    };
    /// FSTPNCE.
    Fstpnce = |x, op| x.fstpnce(op.dst);
    /// FINCSTP.
    Fincstp = |x, _| x.fincstp();
    /// FDECSTP.
    Fdecstp = |x, _| x.fdecstp();
    /// FNOP.
    Fnop = |_, _| {};
}

/// A value that is loaded from memory.
pub trait Operand {
    /// Loads it.
    fn load(cpu: &mut Cpu, op: &Op) -> Result<Unpacked, Trap>;
}

/// A floating-point operand, by the integer it is loaded as.
pub struct Real<T>(PhantomData<T>);
/// An integer operand.
pub struct Integer<T>(PhantomData<T>);

impl Operand for Real<u32> {
    fn load(cpu: &mut Cpu, op: &Op) -> Result<Unpacked, Trap> {
        Ok(F32(op.load(cpu)?).unpack())
    }
}
impl Operand for Real<u64> {
    fn load(cpu: &mut Cpu, op: &Op) -> Result<Unpacked, Trap> {
        Ok(F64(op.load(cpu)?).unpack())
    }
}
impl<T: Word> Operand for Integer<T> {
    fn load(cpu: &mut Cpu, op: &Op) -> Result<Unpacked, Trap> {
        Ok(Unpacked::from_i64(op.load::<T>(cpu)?.sx() as i64))
    }
}

/// Runs `f` with the operand on the FPU.
fn with_operand<S>(
    cpu: &mut Cpu,
    op: &Op,
    load: impl FnOnce(&mut Cpu, &Op) -> Result<S, Trap>,
    f: impl FnOnce(&mut X87, S),
) -> Result<(), Trap> {
    wait(cpu)?;
    let operand = load(cpu, op)?;
    let mut x87 = cpu.state.x87;
    remember_operand(cpu, op, &mut x87);
    f(&mut x87, operand);
    cpu.state.x87 = x87;
    Ok(())
}

/// FADD and its like with memory.
pub fn arith_memory<S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    with_operand(cpu, op, S::load, |x87, value| x87.arith_value(arith_of(op), value))
}

/// FCOM, FCOMP, FICOM and FICOMP with memory.
pub fn compare_memory<S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    with_operand(cpu, op, S::load, |x87, value| x87.fcom_value(value, pops(op)))
}

/// FLD m32.
pub fn fld_32(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    with_operand(cpu, op, |cpu, op| op.load(cpu).map(F32), X87::fld)
}

/// FLD m64.
pub fn fld_64(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    with_operand(cpu, op, |cpu, op| op.load(cpu).map(F64), X87::fld)
}

/// FILD.
pub fn fild<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let load = |cpu: &mut Cpu, op: &Op| op.load::<T>(cpu).map(|value| value.sx() as i64);
    with_operand(cpu, op, load, X87::fild)
}

fn load_ten(cpu: &mut Cpu, op: &Op) -> Result<[u8; 10], Trap> {
    let linear = op.linear(cpu, 10, false)?;
    let mut bytes = [0; 10];
    cpu.load_bytes(linear, &mut bytes)?;
    Ok(bytes)
}

/// FLD m80.
pub fn fld_80(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    with_operand(cpu, op, |cpu, op| load_ten(cpu, op).map(F80::from_bytes), X87::fld_f80)
}

/// FBLD.
pub fn fbld(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    with_operand(cpu, op, load_ten, X87::fbld)
}

/// Runs `f` on the FPU and stores its bytes, if it gives any; nothing happens if that faults.
fn store<const N: usize>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl FnOnce(&mut X87) -> Option<[u8; N]>,
) -> Result<(), Trap> {
    wait(cpu)?;
    let linear = op.linear(cpu, N as u32, true)?;
    let mut x87 = cpu.state.x87;
    remember_operand(cpu, op, &mut x87);
    match f(&mut x87) {
        Some(bytes) => cpu.store_bytes(linear, &bytes)?,
        None => cpu.probe_write(linear, N as u64)?,
    }
    cpu.state.x87 = x87;
    cpu.stored()
}

/// FST and FSTP m32.
pub fn fst_32(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    store(cpu, op, |x87| x87.fst::<F32>(pops(op)).map(|value| value.0.to_le_bytes()))
}

/// FST and FSTP m64.
pub fn fst_64(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    store(cpu, op, |x87| x87.fst::<F64>(pops(op)).map(|value| value.0.to_le_bytes()))
}

/// FSTP m80.
pub fn fstp_80(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    store(cpu, op, |x87| x87.fstp_f80().map(F80::to_bytes))
}

/// FBSTP.
pub fn fbstp(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    store(cpu, op, X87::fbstp)
}

/// FIST and FISTP m16.
pub fn fist_16(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    store(cpu, op, |x87| x87.fist(16, pops(op)).map(|value| (value as i16).to_le_bytes()))
}

/// FIST and FISTP m32.
pub fn fist_32(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    store(cpu, op, |x87| x87.fist(32, pops(op)).map(|value| (value as i32).to_le_bytes()))
}

/// FISTP m64.
pub fn fist_64(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    store(cpu, op, |x87| x87.fist(64, pops(op)).map(i64::to_le_bytes))
}

/// FISTTP m16.
pub fn fisttp_16(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    store(cpu, op, |x87| x87.fisttp(16).map(|value| (value as i16).to_le_bytes()))
}

/// FISTTP m32.
pub fn fisttp_32(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    store(cpu, op, |x87| x87.fisttp(32).map(|value| (value as i32).to_le_bytes()))
}

/// FISTTP m64.
pub fn fisttp_64(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    store(cpu, op, |x87| x87.fisttp(64).map(i64::to_le_bytes))
}

/// ZF, PF and CF of a comparison; OF, SF and AF are clear.
pub(super) fn order_flags(order: Option<Ordering>) -> Flags {
    Flags::from_bits(match order {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => bit::CF,
        Some(Ordering::Equal) => bit::ZF,
        None => bit::ZF | bit::PF | bit::CF,
    })
}

/// FCOMI, FCOMIP, FUCOMI and FUCOMIP (`QUIET`).
pub fn fcomi<const QUIET: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    wait(cpu)?;
    let mut x87 = cpu.state.x87;
    remember(cpu, op, &mut x87);
    let order = x87.fcomi(op.src, QUIET, pops(op));
    cpu.state.x87 = x87;
    cpu.set_arith(order_flags(order));
    Ok(())
}

/// FCMOVcc.
pub fn fcmov<C: Condition>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    wait(cpu)?;
    let mut x87 = cpu.state.x87;
    remember(cpu, op, &mut x87);
    x87.fcmov(op.src, C::holds(cpu.arith()));
    cpu.state.x87 = x87;
    Ok(())
}

/// WAIT.
pub fn fwait(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    if cpu.mode.wait_trap {
        return Err(cpu.device_not_available());
    }
    report_pending(cpu)?;
    // The interrupt comes before the next instruction, if interrupts are let in.
    cpu.stored()
}

/// FNINIT.
pub fn fninit(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    available(cpu)?;
    cpu.state.x87.fninit();
    Ok(())
}

/// FNENI, FNDISI and FNSETPM: what the 8087 and the 287 needed; nothing since.
pub fn fneni(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    available(cpu)
}

/// FNCLEX.
pub fn fnclex(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    available(cpu)?;
    cpu.state.x87.fnclex();
    Ok(())
}

/// FNSTCW.
pub fn fnstcw(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    available(cpu)?;
    let control = cpu.state.x87.control();
    op.store(cpu, control)?;
    cpu.stored()
}

/// FLDCW.
pub fn fldcw(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    wait(cpu)?;
    let control = op.load(cpu)?;
    cpu.state.x87.set_control(control);
    Ok(())
}

/// FNSTSW to memory.
pub fn fnstsw(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    available(cpu)?;
    let status = cpu.state.x87.status();
    op.store(cpu, status)?;
    cpu.stored()
}

/// FNSTSW AX.
pub fn fnstsw_ax(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    available(cpu)?;
    cpu.state.x87.status().set(cpu, 0);
    Ok(())
}

/// The layout of environments in memory: by operand size and mode.
fn layout<T: Int>(cpu: &Cpu) -> EnvLayout {
    match (T::SIZE, cpu.mode.protected) {
        (2, true) => EnvLayout::Protected16,
        (2, false) => EnvLayout::Real16,
        (_, true) => EnvLayout::Protected32,
        (_, false) => EnvLayout::Real32,
    }
}

/// Bytes of the registers in an FNSAVE image.
const REGISTERS: usize = 80;

/// FNSTENV.
pub fn fnstenv<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    available(cpu)?;
    let layout = layout::<T>(cpu);
    let linear = op.linear(cpu, layout.size() as u32, true)?;
    let mut x87 = cpu.state.x87;
    let image = x87.fnstenv(layout);
    cpu.store_bytes(linear, &image[..layout.size()])?;
    cpu.state.x87 = x87;
    cpu.stored()
}

/// FLDENV.
pub fn fldenv<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    wait(cpu)?;
    let layout = layout::<T>(cpu);
    let linear = op.linear(cpu, layout.size() as u32, false)?;
    let mut image = [0; 28];
    cpu.load_bytes(linear, &mut image[..layout.size()])?;
    cpu.state.x87.fldenv(layout, &image);
    Ok(())
}

/// FNSAVE.
pub fn fnsave<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    available(cpu)?;
    let layout = layout::<T>(cpu);
    let len = layout.size() + REGISTERS;
    let linear = op.linear(cpu, len as u32, true)?;
    let mut x87 = cpu.state.x87;
    let image = x87.fnsave(layout);
    cpu.store_bytes(linear, &image[..len])?;
    cpu.state.x87 = x87;
    cpu.stored()
}

/// FRSTOR.
pub fn frstor<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    wait(cpu)?;
    let layout = layout::<T>(cpu);
    let len = layout.size() + REGISTERS;
    let linear = op.linear(cpu, len as u32, false)?;
    let mut image = [0; 28 + REGISTERS];
    cpu.load_bytes(linear, &mut image[..len])?;
    cpu.state.x87.frstor(layout, &image);
    Ok(())
}
