//! Glue to `crate::system`: operands in, results out.
//!
//! These end their block, because most of them change what decoding relied on, or when interrupts
//! may come. `state.rip` is the next instruction while they run.

use crate::flags::{Arith, bit};
use crate::interp::op::{Op, Place, Source, Word};
use crate::state::Seg;
use crate::state::gpr::{RAX, RCX, RDX};
use crate::svm::exit;
use crate::{Cpu, Trap};

/// A system instruction without operands of its own.
pub trait Plain {
    /// Executes it.
    fn run(cpu: &mut Cpu, op: &Op) -> Result<(), Trap>;
}

/// Executes `P` by the rules of system instructions.
pub fn plain<P: Plain>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    P::run(cpu, op)
}

/// Makes the instruction's place known.
#[inline(always)]
fn begin(cpu: &mut Cpu, op: &Op) {
    cpu.insn_rip = cpu.this_rip(op);
    cpu.state.rip = cpu.next_rip(op);
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident = $run:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Plain for $name {
            fn run(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
                let run: fn(&mut Cpu, &Op) -> Result<(), Trap> = $run;
                run(cpu, op)
            }
        }
    )*};
}

fn ecx(cpu: &Cpu) -> u32 {
    u32::get(cpu, RCX as u8)
}

fn edx_eax(cpu: &Cpu) -> u64 {
    u32::get(cpu, RDX as u8).zx() << 32 | u32::get(cpu, RAX as u8).zx()
}

plain! {
    /// PAUSE: lets others have their turn.
    Pause = |cpu, _| {
        cpu.intercept_pause()?;
        std::hint::spin_loop();
        Ok(())
    };
    /// SERIALIZE.
    Synchronize = |_, _| {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        Ok(())
    };
    /// CPUID.
    Cpuid = |cpu, _| {
        cpu.intercept(exit::CPUID)?;
        let [eax, ebx, ecx, edx] = cpu.cpuid(u32::get(cpu, 0), ecx(cpu));
        for (number, value) in [(0, eax), (3, ebx), (1, ecx), (2, edx)] {
            value.set(cpu, number);
        }
        Ok(())
    };
    /// RDTSC.
    Rdtsc = |cpu, _| {
        let value = cpu.rdtsc()?;
        cpu.set_eax_edx(value);
        Ok(())
    };
    /// RDTSCP.
    Rdtscp = |cpu, _| {
        let (value, aux) = cpu.rdtscp()?;
        cpu.set_eax_edx(value);
        aux.set(cpu, RCX as u8);
        Ok(())
    };
    /// RDPMC.
    Rdpmc = |cpu, _| {
        let value = cpu.rdpmc()?;
        cpu.set_eax_edx(value);
        Ok(())
    };
    /// RDPID.
    Rdpid = |cpu, op| {
        let value = cpu.rdpid()?;
        cpu.state.regs[usize::from(op.dst & 15)] = value;
        Ok(())
    };
    /// RDMSR.
    Rdmsr = |cpu, _| {
        let value = cpu.rdmsr(ecx(cpu))?;
        cpu.set_eax_edx(value);
        Ok(())
    };
    /// WRMSR.
    Wrmsr = |cpu, _| cpu.wrmsr(ecx(cpu), edx_eax(cpu));
    /// XGETBV.
    Xgetbv = |cpu, _| {
        let value = cpu.xgetbv(ecx(cpu))?;
        cpu.set_eax_edx(value);
        Ok(())
    };
    /// XSETBV.
    Xsetbv = |cpu, _| cpu.xsetbv(ecx(cpu), edx_eax(cpu));
    /// RDPKRU.
    Rdpkru = |cpu, _| {
        let value = cpu.rdpkru(ecx(cpu))?;
        cpu.set_eax_edx(u64::from(value));
        Ok(())
    };
    /// WRPKRU.
    Wrpkru = |cpu, _| cpu.wrpkru(ecx(cpu), u32::get(cpu, RDX as u8), u32::get(cpu, 0));
    /// SYSCALL.
    Syscall = |cpu, _| cpu.syscall();
    /// SYSRET; the operand size is in the immediate, here and in the following.
    Sysret = |cpu, op| cpu.sysret(op.imm as u32);
    /// SYSENTER.
    Sysenter = |cpu, _| cpu.sysenter();
    /// SYSEXIT.
    Sysexit = |cpu, op| cpu.sysexit(op.imm as u32);
    /// IRET.
    Iret = |cpu, op| cpu.iret(op.imm as u32);
    /// INT n.
    Int = |cpu, op| cpu.soft_int(op.imm as u8);
    /// INT3.
    Int3 = |cpu, _| cpu.int3();
    /// INT1.
    Int1 = |cpu, _| cpu.int1();
    /// INTO.
    Into = |cpu, _| if cpu.arith().of() { cpu.into() } else { Ok(()) };
    /// HLT.
    Hlt = |cpu, _| cpu.hlt();
    /// CLI.
    Cli = |cpu, _| cpu.cli();
    /// STI.
    Sti = |cpu, _| cpu.sti();
    /// CLTS.
    Clts = |cpu, _| cpu.clts();
    /// SWAPGS.
    Swapgs = |cpu, _| cpu.swapgs();
    /// RSM.
    Rsm = |cpu, _| cpu.rsm();
    /// WBINVD and WBNOINVD.
    Wbinvd = |cpu, _| cpu.wbinvd();
    /// INVD.
    Invd = |cpu, _| cpu.invd();
    /// VMRUN; the address size is in the immediate, here and in the following.
    Vmrun = |cpu, op| cpu.vmrun(op.imm as u8);
    /// VMLOAD.
    Vmload = |cpu, op| cpu.vmload(op.imm as u8);
    /// VMSAVE.
    Vmsave = |cpu, op| cpu.vmsave(op.imm as u8);
    /// VMMCALL.
    Vmmcall = |cpu, _| cpu.vmmcall();
    /// VMCALL.
    Vmcall = |cpu, _| cpu.vmcall();
    /// STGI.
    Stgi = |cpu, _| cpu.set_gif(true);
    /// CLGI.
    Clgi = |cpu, _| cpu.set_gif(false);
    /// SKINIT.
    Skinit = |cpu, _| cpu.skinit();
    /// INVLPGA.
    Invlpga = |cpu, _| cpu.invlpga();
    /// STAC.
    Stac = |cpu, _| cpu.set_ac(true);
    /// CLAC.
    Clac = |cpu, _| cpu.set_ac(false);
    /// MONITOR.
    Monitor = |cpu, op| {
        let linear = op.linear(cpu, 1, false)?;
        cpu.monitor(linear, ecx(cpu))
    };
    /// MWAIT.
    Mwait = |cpu, _| cpu.mwait(ecx(cpu));
    /// INVLPG.
    Invlpg = |cpu, op| {
        // No segment limit applies (SDM vol. 2, "INVLPG").
        let base = cpu.mode.base[usize::from(op.seg() as u8)];
        let linear = op.offset(cpu).wrapping_add(base) & cpu.mode.linear_mask;
        cpu.invlpg(linear)
    };
    /// INVPCID.
    Invpcid = |cpu, op| {
        let at = op.linear(cpu, 16, false)?;
        let kind = u64::get(cpu, op.dst) & cpu.mode.linear_mask;
        cpu.invpcid(kind, at)
    };
    /// LGDT.
    Lgdt = |cpu, op| {
        let at = op.linear(cpu, 6, false)?;
        cpu.lgdt(at, op.imm as u32)
    };
    /// LIDT.
    Lidt = |cpu, op| {
        let at = op.linear(cpu, 6, false)?;
        cpu.lidt(at, op.imm as u32)
    };
    /// SGDT.
    Sgdt = |cpu, op| {
        let at = op.linear(cpu, 6, true)?;
        cpu.sgdt(at)
    };
    /// SIDT.
    Sidt = |cpu, op| {
        let at = op.linear(cpu, 6, true)?;
        cpu.sidt(at)
    };
    /// MOV from a control register.
    ReadCr = |cpu, op| {
        let value = cpu.mov_from_cr(op.src, op.dst)?;
        value.set(cpu, op.dst);
        Ok(())
    };
    /// MOV to a control register.
    WriteCr = |cpu, op| cpu.mov_to_cr(op.dst, op.src);
    /// MOV from a debug register.
    ReadDr = |cpu, op| {
        let value = cpu.mov_from_dr(op.src, op.dst)?;
        value.set(cpu, op.dst);
        Ok(())
    };
    /// MOV to a debug register.
    WriteDr = |cpu, op| cpu.mov_to_dr(op.dst, op.src);
    /// UD0, UD1, UD2, and bytes that are no instruction.
    Undefined = |cpu, _| Err(cpu.undefined());
    /// More than fifteen bytes.
    TooLong = |cpu, _| Err(cpu.gp(0));
    /// An instruction that is not known, or not offered by the processor model.
    Unknown = |cpu, op| {
        let base = cpu.mode.base[Seg::Cs as usize];
        let linear = cpu.insn_rip.wrapping_add(base) & cpu.mode.linear_mask;
        let mut bytes = [0; 15];
        let bytes = &mut bytes[..usize::from(op.len).min(15)];
        if cpu.fetch_bytes(linear, bytes).is_ok() {
            base::unimplemented_feature!("undefined instruction {bytes:02x?} at {linear:#x}");
        }
        Err(cpu.undefined())
    };
    /// JMP to a fixed far address: the selector in the displacement, the operand size in `src2`.
    JmpFar = |cpu, op| cpu.far_jmp(op.disp as u16, op.imm, op.src2.into());
    /// CALL to a fixed far address.
    CallFar = |cpu, op| cpu.far_call(op.disp as u16, op.imm, op.src2.into());
    /// RETF.
    RetFar = |cpu, op| cpu.far_ret(op.src2.into(), op.imm as u16);
}

/// The far pointer in memory: offset of type `T`, then the selector.
fn far_pointer<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(u64, u16), Trap> {
    let linear = op.linear(cpu, T::SIZE as u32 + 2, false)?;
    let offset: T = cpu.load(linear)?;
    let selector = cpu.load(linear.wrapping_add(T::SIZE as u64) & cpu.mode.linear_mask)?;
    Ok((offset.zx(), selector))
}

/// JMP to a far pointer in memory.
pub fn jmp_far_to<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let (offset, selector) = far_pointer::<T>(cpu, op)?;
    cpu.far_jmp(selector, offset, T::SIZE as u32)
}

/// CALL to a far pointer in memory.
pub fn call_far_to<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let (offset, selector) = far_pointer::<T>(cpu, op)?;
    cpu.far_call(selector, offset, T::SIZE as u32)
}

/// The segment register `number`.
fn segment(number: u8) -> Seg {
    const SEGS: [Seg; 8] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs, Seg::Ds, Seg::Ds];
    SEGS[usize::from(number & 7)]
}

/// LDS, LES, LSS, LFS and LGS: the segment register's number in the immediate.
pub fn load_far_pointer<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let (offset, selector) = far_pointer::<T>(cpu, op)?;
    cpu.load_seg(segment(op.imm as u8), selector)?;
    // LSS loads the stack pointer as well: nothing need wait for the next instruction.
    cpu.state.interrupt_shadow = false;
    cpu.state.stack_switched = false;
    T::of(offset).set(cpu, op.dst);
    Ok(())
}

/// MOV to a segment register.
pub fn load_segment<S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let selector: u16 = S::read(cpu, op)?;
    cpu.load_seg(segment(op.dst), selector)
}

/// POP to a segment register.
pub fn pop_segment<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let selector: T = cpu.stack_top(0)?;
    // The pop counts with the old stack segment's width, even if that is what is being loaded.
    let mask = cpu.mode.stack_mask;
    cpu.load_seg(segment(op.dst), selector.zx() as u16)?;
    cpu.drop_stack_within(mask, T::SIZE as u64);
    Ok(())
}

/// MOV from a segment register to a general one: zero-extended.
pub fn read_segment<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let selector = cpu.state.seg[segment(op.src) as usize].selector;
    T::of(selector.into()).set(cpu, op.dst);
    Ok(())
}

/// MOV from a segment register to memory.
pub fn store_segment(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let selector = cpu.state.seg[segment(op.src) as usize].selector;
    op.store(cpu, selector)?;
    cpu.stored()
}

/// PUSHF.
pub fn pushf<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if cpu.intercepts(exit::PUSHF) {
        begin(cpu, op);
        return cpu.intercept(exit::PUSHF);
    }
    let image = cpu.flags_to_push(T::SIZE as u32)?;
    cpu.push(T::of(image))?;
    cpu.stored()
}

/// POPF.
pub fn popf<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    cpu.check_popf(T::SIZE as u32)?;
    cpu.intercept(exit::POPF)?;
    let image: T = cpu.stack_top(0)?;
    cpu.write_flags(image.zx(), T::SIZE as u32)?;
    cpu.drop_stack(T::SIZE as u64);
    Ok(())
}

/// IN from the port in `S`.
pub fn input<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let port: u16 = S::read(cpu, op)?;
    let value = cpu.io_in(port, T::SIZE as u8)?;
    T::of(value.into()).set(cpu, RAX as u8);
    Ok(())
}

/// OUT to the port in `S`.
pub fn output<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let port: u16 = S::read(cpu, op)?;
    cpu.io_out(port, T::SIZE as u8, T::get(cpu, RAX as u8).zx() as u32)
}

/// SLDT, STR and SMSW: a value that goes whole to a register and as 16 bits to memory.
pub trait StoresWord {
    /// The value.
    fn value(cpu: &mut Cpu) -> Result<u64, Trap>;
}
/// SLDT.
pub struct Sldt;
/// STR.
pub struct Str;
/// SMSW.
pub struct Smsw;
impl StoresWord for Sldt {
    fn value(cpu: &mut Cpu) -> Result<u64, Trap> {
        cpu.sldt().map(u64::from)
    }
}
impl StoresWord for Str {
    fn value(cpu: &mut Cpu) -> Result<u64, Trap> {
        cpu.str().map(u64::from)
    }
}
impl StoresWord for Smsw {
    fn value(cpu: &mut Cpu) -> Result<u64, Trap> {
        cpu.smsw()
    }
}

/// SLDT, STR and SMSW.
pub fn store_word<T: Word, V: StoresWord, D: Place>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let value = V::value(cpu)?;
    D::write(cpu, op, T::of(value))
}

/// LLDT, LTR and LMSW: take a word.
pub trait TakesWord {
    /// Whether it is refused to the user before the word is looked at.
    const PRIVILEGED: bool;
    /// Executes it.
    fn take(cpu: &mut Cpu, value: u16) -> Result<(), Trap>;
}
/// LLDT.
pub struct Lldt;
/// LTR.
pub struct Ltr;
/// LMSW.
pub struct Lmsw;
/// VERR.
pub struct Verr;
/// VERW.
pub struct Verw;
impl TakesWord for Lldt {
    const PRIVILEGED: bool = true;
    fn take(cpu: &mut Cpu, value: u16) -> Result<(), Trap> {
        cpu.lldt(value)
    }
}
impl TakesWord for Ltr {
    const PRIVILEGED: bool = true;
    fn take(cpu: &mut Cpu, value: u16) -> Result<(), Trap> {
        cpu.ltr(value)
    }
}
impl TakesWord for Lmsw {
    const PRIVILEGED: bool = true;
    fn take(cpu: &mut Cpu, value: u16) -> Result<(), Trap> {
        cpu.lmsw(value)
    }
}
impl TakesWord for Verr {
    const PRIVILEGED: bool = false;
    fn take(cpu: &mut Cpu, value: u16) -> Result<(), Trap> {
        let readable = cpu.verr(value)?;
        cpu.set_zf(readable);
        Ok(())
    }
}
impl TakesWord for Verw {
    const PRIVILEGED: bool = false;
    fn take(cpu: &mut Cpu, value: u16) -> Result<(), Trap> {
        let writable = cpu.verw(value)?;
        cpu.set_zf(writable);
        Ok(())
    }
}

/// LLDT, LTR, LMSW, VERR and VERW.
pub fn take_word<V: TakesWord, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    if V::PRIVILEGED && cpu.mode.cpl != 0 && !cpu.mode.v86 {
        return Err(cpu.gp(0));
    }
    let value: u16 = S::read(cpu, op)?;
    V::take(cpu, value)
}

/// LAR and LSL (`LIMIT`): ZF tells whether the selector may be looked at.
pub fn inspect<T: Word, S: Source, const LIMIT: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let selector: u16 = S::read(cpu, op)?;
    let answer = if LIMIT { cpu.lsl(selector)? } else { cpu.lar(selector)? };
    if let Some(value) = answer {
        T::of(value.into()).set(cpu, op.dst);
    }
    cpu.set_zf(answer.is_some());
    Ok(())
}

/// ARPL.
pub fn arpl<D: Place>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if !cpu.mode.protected {
        return Err(cpu.undefined());
    }
    let rpl = u16::get(cpu, op.src) & 3;
    let (old, new) = D::update(cpu, op, |a: u16| a & !3 | rpl.max(a & 3))?;
    cpu.set_zf(old != new);
    D::done(cpu)
}

/// RDFSBASE and RDGSBASE.
pub fn read_base<T: Word, const GS: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let base = cpu.read_segment_base(if GS { Seg::Gs } else { Seg::Fs })?;
    T::of(base).set(cpu, op.dst);
    Ok(())
}

/// WRFSBASE and WRGSBASE.
pub fn write_base<T: Word, const GS: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    begin(cpu, op);
    let base = T::get(cpu, op.dst).zx();
    cpu.write_segment_base(if GS { Seg::Gs } else { Seg::Fs }, base)
}

/// UMONITOR: nothing is monitored, but the address must be readable.
pub fn umonitor(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    op.load::<u8>(cpu)?;
    Ok(())
}

/// UMWAIT and TPAUSE: returning at once is always allowed. CF would tell of the operating system's
/// time limit.
pub fn user_wait(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if u32::get(cpu, op.dst) & !1 != 0 || !cpu.tsc_allowed() {
        return Err(cpu.gp(0));
    }
    cpu.set_arith(Arith::from_bits(0));
    std::hint::spin_loop();
    Ok(())
}

/// RDRAND and RDSEED: CF tells of success, all other flags are clear.
pub fn random<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value = cpu.interp.random.next();
    T::of(value.unwrap_or(0)).set(cpu, op.dst);
    let flags = if value.is_some() { bit::CF } else { 0 };
    cpu.set_arith(Arith::from_bits(flags));
    Ok(())
}
