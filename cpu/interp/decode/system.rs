//! System instructions, ports and random numbers.

use iced_x86::{Code, Mnemonic as M, Register};

use super::stack::on_stack;
use super::{Insn, Kind};
use crate::interp::exec::system::{self as exec, *};
use crate::interp::op::{Dst, Handler, Imm, Mem, Op, Src};
use crate::state::gpr::RDX;

fn is_class(register: Register, test: fn(Register) -> bool) -> bool {
    register != Register::None && test(register)
}

/// MOV to and from control and debug registers.
fn mov(insn: &Insn<'_>) -> Option<Handler> {
    let (to, from) = (insn.raw.op0_register(), insn.raw.op1_register());
    Some(if is_class(to, Register::is_cr) {
        plain::<WriteCr>
    } else if is_class(from, Register::is_cr) {
        plain::<ReadCr>
    } else if is_class(to, Register::is_dr) {
        plain::<WriteDr>
    } else if is_class(from, Register::is_dr) {
        plain::<ReadDr>
    } else {
        return None;
    })
}

fn store_word<V: StoresWord>(insn: &Insn<'_>) -> Option<Handler> {
    Some(match insn.kind(0) {
        Kind::Reg => by_wide_width!(insn.size(0), exec::store_word, V, Dst),
        _ => exec::store_word::<u16, V, Mem>,
    })
}

fn take_word<V: TakesWord>(insn: &Insn<'_>) -> Handler {
    match insn.kind(0) {
        Kind::Reg => exec::take_word::<V, Dst>,
        _ => exec::take_word::<V, Mem>,
    }
}

fn inspect<const LIMIT: bool>(insn: &Insn<'_>) -> Handler {
    match (insn.size(0), insn.kind(1)) {
        (2, Kind::Reg) => exec::inspect::<u16, Src, LIMIT>,
        (2, _) => exec::inspect::<u16, Mem, LIMIT>,
        (4, Kind::Reg) => exec::inspect::<u32, Src, LIMIT>,
        (4, _) => exec::inspect::<u32, Mem, LIMIT>,
        (_, Kind::Reg) => exec::inspect::<u64, Src, LIMIT>,
        _ => exec::inspect::<u64, Mem, LIMIT>,
    }
}

/// An instruction with its operand size as the immediate.
fn sized(insn: &Insn<'_>, run: Handler) -> Op {
    let mut op = insn.op(run);
    op.imm = match insn.raw.code() {
        Code::Iretw | Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 2,
        Code::Iretq | Code::Sysretq | Code::Sysexitq | Code::Lgdt_m1664 | Code::Lidt_m1664 => 8,
        _ => 4,
    };
    op
}

/// An instruction that finds a block by rAX, with its address size as the immediate.
fn addressed(insn: &Insn<'_>, run: Handler) -> Op {
    let mut op = insn.op(run);
    op.imm = match insn.raw.code() {
        Code::Vmrunw | Code::Vmloadw | Code::Vmsavew => 16,
        Code::Vmrunq | Code::Vmloadq | Code::Vmsaveq => 64,
        _ => 32,
    };
    op
}

fn port_in(insn: &Insn<'_>) -> Option<Op> {
    let size = insn.size(0);
    let mut op = insn.op(match insn.kind(1) {
        Kind::Imm => by_width!(size, exec::input, Imm),
        _ => by_width!(size, exec::input, Src),
    });
    op.src = RDX as u8;
    op.imm &= 0xff;
    Some(op)
}

fn port_out(insn: &Insn<'_>) -> Option<Op> {
    let size = insn.size(1);
    let mut op = insn.op(match insn.kind(0) {
        Kind::Imm => by_width!(size, exec::output, Imm),
        _ => by_width!(size, exec::output, Dst),
    });
    op.dst = RDX as u8;
    op.imm &= 0xff;
    Some(op)
}

fn base_register(insn: &Insn<'_>, narrow: Handler, wide: Handler) -> Handler {
    if insn.size(0) == 4 { narrow } else { wide }
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M) -> Option<Op> {
    let run = match mnemonic {
        M::Mov => mov(insn)?,
        M::Pause => plain::<Pause>,
        M::Serialize => plain::<Synchronize>,
        M::Cpuid => plain::<Cpuid>,
        M::Rdtsc => plain::<Rdtsc>,
        M::Rdtscp => plain::<Rdtscp>,
        M::Rdpmc => plain::<Rdpmc>,
        M::Rdpid => plain::<Rdpid>,
        M::Rdmsr => plain::<Rdmsr>,
        M::Wrmsr => plain::<Wrmsr>,
        M::Xgetbv => plain::<Xgetbv>,
        M::Xsetbv => plain::<Xsetbv>,
        M::Rdpkru => plain::<Rdpkru>,
        M::Wrpkru => plain::<Wrpkru>,
        M::Syscall => plain::<Syscall>,
        M::Sysret | M::Sysretq => return Some(sized(insn, plain::<Sysret>)),
        M::Sysenter => plain::<Sysenter>,
        M::Sysexit | M::Sysexitq => return Some(sized(insn, plain::<Sysexit>)),
        M::Iret | M::Iretd | M::Iretq => return Some(on_stack(sized(insn, plain::<Iret>))),
        M::Int => plain::<Int>,
        M::Int3 => plain::<Int3>,
        M::Int1 => plain::<Int1>,
        M::Into => plain::<Into>,
        M::Hlt => plain::<Hlt>,
        M::Cli => plain::<Cli>,
        M::Sti => plain::<Sti>,
        M::Clts => plain::<Clts>,
        M::Swapgs => plain::<Swapgs>,
        M::Rsm => plain::<Rsm>,
        M::Wbinvd | M::Wbnoinvd => plain::<Wbinvd>,
        M::Invd => plain::<Invd>,
        M::Vmrun => return Some(addressed(insn, plain::<Vmrun>)),
        M::Vmload => return Some(addressed(insn, plain::<Vmload>)),
        M::Vmsave => return Some(addressed(insn, plain::<Vmsave>)),
        M::Vmmcall => plain::<Vmmcall>,
        M::Vmcall => plain::<Vmcall>,
        M::Stgi => plain::<Stgi>,
        M::Clgi => plain::<Clgi>,
        M::Skinit => plain::<Skinit>,
        M::Invlpga => plain::<Invlpga>,
        M::Stac => plain::<Stac>,
        M::Clac => plain::<Clac>,
        M::Monitor => {
            let mut op = insn.op(plain::<Monitor>);
            let address = insn.raw.op0_register();
            let prefix = insn.raw.segment_prefix();
            insn.segment(&mut op, if prefix == Register::None { Register::DS } else { prefix });
            op.base = crate::interp::op::Reg::Rax;
            op.wrap = 64 - address.size() as u8 * 8;
            return Some(op);
        }
        M::Mwait => plain::<Mwait>,
        M::Umonitor => {
            let mut op = insn.op(exec::umonitor);
            let prefix = insn.raw.segment_prefix();
            insn.segment(&mut op, if prefix == Register::None { Register::DS } else { prefix });
            op.base = crate::interp::op::Reg::general(op.dst.into());
            op.wrap = 64 - insn.raw.op0_register().size() as u8 * 8;
            return Some(op);
        }
        M::Umwait | M::Tpause => exec::user_wait,
        M::Invlpg => plain::<Invlpg>,
        M::Invpcid => plain::<Invpcid>,
        M::Lgdt => return Some(sized(insn, plain::<Lgdt>)),
        M::Lidt => return Some(sized(insn, plain::<Lidt>)),
        M::Sgdt => plain::<Sgdt>,
        M::Sidt => plain::<Sidt>,
        M::Sldt => store_word::<Sldt>(insn)?,
        M::Str => store_word::<Str>(insn)?,
        M::Smsw => store_word::<Smsw>(insn)?,
        M::Lldt => take_word::<Lldt>(insn),
        M::Ltr => take_word::<Ltr>(insn),
        M::Lmsw => take_word::<Lmsw>(insn),
        M::Verr => take_word::<Verr>(insn),
        M::Verw => take_word::<Verw>(insn),
        M::Lar => inspect::<false>(insn),
        M::Lsl => inspect::<true>(insn),
        M::Arpl => match insn.kind(0) {
            Kind::Reg => exec::arpl::<Dst>,
            _ => exec::arpl::<Mem>,
        },
        M::Rdfsbase => {
            base_register(insn, exec::read_base::<u32, false>, exec::read_base::<u64, false>)
        }
        M::Rdgsbase => {
            base_register(insn, exec::read_base::<u32, true>, exec::read_base::<u64, true>)
        }
        M::Wrfsbase => {
            base_register(insn, exec::write_base::<u32, false>, exec::write_base::<u64, false>)
        }
        M::Wrgsbase => {
            base_register(insn, exec::write_base::<u32, true>, exec::write_base::<u64, true>)
        }
        M::Rdrand | M::Rdseed => by_wide_width!(insn.size(0), exec::random),
        M::In => return port_in(insn),
        M::Out => return port_out(insn),
        _ => return None,
    };
    Some(insn.op(run))
}
