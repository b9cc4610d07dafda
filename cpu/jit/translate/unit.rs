//! What is to be known about one guest instruction before code is made for it.

use iced_x86::{
    Code, CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic as M, OpKind, Register,
};

use super::group::{self, Base};
use super::{vector, x87};
use crate::cpuid::Model;
use crate::interp::decode::{self, End, Key};
use crate::jit::asm::host::{R13, R14};
use crate::jit::flags::Effect;
use crate::jit::thunks::HOME;
use crate::state::gpr;

/// How an instruction is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// As it is, with other registers and another memory operand.
    Plain,
    /// The same, and it uses vector registers.
    Vector,
    /// The same, and it uses the registers of the x87 and of MMX.
    Fpu,
    /// A gather.
    Gather,
    /// RDTSC or RDTSCP.
    Time,
    /// Not at all.
    Nothing,
    /// LEA.
    Address,
    /// PUSH of a register, an immediate or memory.
    Push,
    /// POP of a register.
    Pop,
    /// LEAVE.
    Leave,
    /// A jump to a fixed target.
    Jump,
    /// A conditional jump with this condition code.
    Branch(u8),
    /// A call of a fixed target.
    Call,
    /// A jump to an operand.
    JumpTo,
    /// A call of an operand.
    CallTo,
    /// A return.
    Return,
    /// By the interpreter's handler.
    Step,
    /// By the interpreter's handler, which has nothing to do with registers and memory, only with
    /// what accesses depend on and whether interrupts are taken.
    Brief,
    /// By the interpreter's handler, which may change more than registers and memory: the block goes
    /// on if what it relies on holds still.
    Look,
    /// By the interpreter's handler, and the block ends.
    Last(End),
}

/// A guest instruction. Addresses in it are distances from the beginning of its page.
pub struct Unit {
    /// The instruction.
    pub raw: Instruction,
    /// How it is translated.
    pub class: Class,
    /// What it does to the arithmetic flags.
    pub effect: Effect,
    /// Whether translated code can be left there, so that exact flags must be at hand.
    pub visible: bool,
    /// The general registers that it may change, a bit each.
    pub changes: u16,
    /// Flags that somebody needs after it.
    pub needed: u8,
    /// Whether it must make sure that the guest's x87 registers are the host's.
    pub loads_x87: bool,
    /// A jump that a trace goes along: what comes next in the trace is where it leads.
    pub turned: bool,
}

impl Unit {
    /// The unit for `raw`.
    pub fn of(raw: Instruction, key: Key, model: &Model) -> Self {
        let class = classify(&raw, key, model);
        let effect = Effect::of(&raw);
        let visible = match class {
            Class::Plain => touches_memory(&raw) || can_trap(raw.mnemonic()),
            Class::Vector | Class::Fpu => true,
            Class::Nothing | Class::Address | Class::Jump | Class::Branch(_) => false,
            _ => true,
        };
        let changes = match class {
            Class::Step | Class::Look | Class::Last(_) => !0,
            _ => changed_registers(&raw),
        };
        let loads_x87 = class == Class::Fpu;
        Unit { raw, class, effect, visible, changes, needed: 0, loads_x87, turned: false }
    }

    /// Makes it one that a trace goes along, if it jumps to `next`. Whether it does.
    pub fn turn_to(&mut self, next: u64) -> bool {
        let class = match self.class {
            Class::Branch(condition) => Class::Branch(condition ^ 1),
            Class::Jump => Class::Nothing,
            _ => return false,
        };
        self.turned = self.raw.near_branch_target() == next;
        if self.turned {
            self.class = class;
        }
        self.turned
    }

    /// Where what comes next lies, if it is not left.
    pub fn way_on(&self) -> u64 {
        if self.turned { self.raw.near_branch_target() } else { self.raw.next_ip() }
    }

    /// Where a jump leads to if it leaves the straight line.
    pub fn way_out(&self) -> u64 {
        if self.turned { self.raw.next_ip() } else { self.raw.near_branch_target() }
    }

    /// Whether it is a jump or a call that leads back, or to itself.
    pub fn leads_back(&self) -> bool {
        let jumps = matches!(self.class, Class::Jump | Class::Branch(_) | Class::Call);
        (jumps || self.turned) && self.raw.near_branch_target() <= self.raw.ip()
    }

    /// Takes into account whether an instruction before made the guest's x87 registers the host's;
    /// whether they are afterwards.
    pub fn follow_x87(&mut self, live: bool) -> bool {
        match self.class {
            Class::Fpu => {
                self.loads_x87 = !live;
                true
            }
            Class::Step | Class::Look => live && !touches_x87(&self.raw),
            _ => live,
        }
    }

    /// The general register that it does nothing but add a constant to, with that.
    pub fn addition(&self) -> Option<(usize, i64)> {
        let raw = &self.raw;
        if raw.op0_kind() != OpKind::Register || !raw.op0_register().is_gpr64() {
            return None;
        }
        let number = raw.op0_register().number();
        let constant = || raw.try_immediate(1).ok().map(|value| value as i64);
        let distance = match (self.class, raw.mnemonic()) {
            (Class::Address, _) => match group::operand(raw)? {
                (Base::Plain(from), distance) if from == number => distance,
                _ => return None,
            },
            (Class::Plain, M::Add) => constant()?,
            (Class::Plain, M::Sub) => constant()?.checked_neg()?,
            (Class::Plain, M::Inc) => 1,
            (Class::Plain, M::Dec) => -1,
            _ => return None,
        };
        Some((number, distance))
    }

    /// Whether the block may go on after it though it can be left there.
    pub fn goes_on(&self) -> bool {
        matches!(self.class, Class::Branch(_))
    }

    /// Whether control may go elsewhere after it.
    pub fn ends_block(&self) -> bool {
        !matches!(
            self.class,
            Class::Plain
                | Class::Vector
                | Class::Fpu
                | Class::Gather
                | Class::Time
                | Class::Brief
                | Class::Nothing
                | Class::Address
                | Class::Push
                | Class::Pop
                | Class::Leave
                | Class::Step
                | Class::Look
        )
    }
}

/// Whether `raw` has a memory operand that is accessed.
pub fn touches_memory(raw: &Instruction) -> bool {
    raw.mnemonic() != M::Lea && (0..raw.op_count()).any(|n| raw.op_kind(n) == OpKind::Memory)
}

/// Whether the host's instruction may trap though its memory operand is mapped.
pub fn can_trap(mnemonic: M) -> bool {
    matches!(mnemonic, M::Div | M::Idiv | M::Cmpxchg16b)
}

/// Whether `raw` is an x87 instruction.
pub fn is_x87(raw: &Instruction) -> bool {
    use CpuidFeature as C;
    raw.mnemonic() == M::Wait
        || raw.cpuid_features().iter().any(|set| matches!(set, C::FPU | C::FPU287 | C::FPU387))
}

/// Whether `raw` reads or changes the state of the x87, or may do so.
pub fn touches_x87(raw: &Instruction) -> bool {
    use CpuidFeature as C;
    let areas = |set: &CpuidFeature| {
        matches!(set, C::MMX | C::FXSR | C::XSAVE | C::XSAVEC | C::XSAVEOPT | C::XSAVES)
    };
    let mmx = |n| raw.op_kind(n) == OpKind::Register && raw.op_register(n).is_mm();
    is_x87(raw) || raw.cpuid_features().iter().any(areas) || (0..raw.op_count()).any(mmx)
}

/// Whether the memory operand is written.
pub fn writes_memory(raw: &Instruction) -> bool {
    if is_x87(raw) {
        return matches!(
            raw.mnemonic(),
            M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp | M::Fnstcw | M::Fnstsw
        );
    }
    let only_reads = matches!(
        raw.mnemonic(),
        M::Cmp
            | M::Test
            | M::Bt
            | M::Mul
            | M::Imul
            | M::Div
            | M::Idiv
            | M::Push
            | M::Jmp
            | M::Call
            | M::Ldmxcsr
            | M::Vldmxcsr
    );
    raw.op0_kind() == OpKind::Memory && !only_reads
}

/// A bit for the general register that `register` is part of.
fn register_bit(register: Register) -> u16 {
    if register.is_gpr() { 1 << register.full_register().number() } else { 0 }
}

fn changed_registers(raw: &Instruction) -> u16 {
    const RAX: u16 = 1 << gpr::RAX;
    const RDX: u16 = 1 << gpr::RDX;
    const RSP: u16 = 1 << gpr::RSP;
    let operand = |n| match raw.op_kind(n) {
        OpKind::Register => register_bit(raw.op_register(n)),
        _ => 0,
    };
    let first = if raw.op_count() > 0 { operand(0) } else { 0 };
    match raw.mnemonic() {
        M::Cmp | M::Test | M::Bt => 0,
        M::Mul | M::Imul if raw.op_count() == 1 => RAX | RDX,
        M::Div | M::Idiv | M::Cmpxchg8b | M::Cmpxchg16b => RAX | RDX,
        M::Cwd | M::Cdq | M::Cqo | M::Cbw | M::Cwde | M::Cdqe | M::Lahf | M::Rdtsc => RAX | RDX,
        M::Rdtscp => RAX | RDX | 1 << gpr::RCX,
        M::Xchg | M::Xadd | M::Mulx => first | operand(1),
        M::Cmpxchg => first | RAX,
        // The string comparisons leave an index.
        M::Pcmpestri | M::Pcmpistri | M::Vpcmpestri | M::Vpcmpistri => 1 << gpr::RCX,
        M::Pcmpestri64 | M::Vpcmpestri64 => 1 << gpr::RCX,
        M::Push | M::Call | M::Ret => RSP,
        M::Pop => first | RSP,
        M::Leave => RSP | 1 << gpr::RBP,
        _ => first,
    }
}

fn classify(raw: &Instruction, key: Key, model: &Model) -> Class {
    let end = decode::ends_block(raw);
    if matches!(raw.mnemonic(), M::Rdtsc | M::Rdtscp) && key.code_bits() == 64 {
        return Class::Time;
    }
    if end != End::No {
        return match raw.mnemonic() {
            _ if key.code_bits() != 64 => branch(raw, key, end),
            M::Cli | M::Sti | M::Clac | M::Stac | M::Swapgs => Class::Brief,
            _ if may_stay(raw) => Class::Look,
            _ => branch(raw, key, end),
        };
    }
    let class = match raw.mnemonic() {
        M::Lea => Class::Address,
        M::Nop | M::Endbr64 | M::Endbr32 => Class::Nothing,
        M::Prefetchw | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 | M::Prefetchnta => {
            Class::Nothing
        }
        M::Push | M::Pop | M::Leave => stack(raw, key),
        mnemonic if is_plain(mnemonic) || is_conditional(raw) => Class::Plain,
        _ if x87::is_native(raw) => Class::Fpu,
        _ if raw.is_vsib() => Class::Gather,
        _ if is_vector(raw) => Class::Vector,
        _ => Class::Step,
    };
    let possible = match class {
        Class::Plain | Class::Vector | Class::Fpu => {
            decode::offered(raw, model) && host_has(raw) && placeable(raw, key)
        }
        Class::Gather => {
            decode::offered(raw, model) && key.code_bits() == 64 && vector::can_gather(raw)
        }
        Class::Address => addressable(raw, key) && raw.op0_register().size() >= 4,
        Class::Push => raw.op0_kind() != OpKind::Memory || addressable(raw, key),
        Class::Nothing => decode::offered(raw, model),
        _ => true,
    };
    if possible { class } else { Class::Step }
}

/// Whether `raw`, which ends blocks of the interpreter, mostly leaves alone what a block relies on: the
/// mode, the privilege level and where code lies.
fn may_stay(raw: &Instruction) -> bool {
    let repeated = raw.has_rep_prefix() || raw.has_repne_prefix();
    if raw.is_string_instruction() {
        return repeated
            && !matches!(raw.mnemonic(), M::Insb | M::Insw | M::Insd)
            && !matches!(raw.mnemonic(), M::Outsb | M::Outsw | M::Outsd);
    }
    matches!(
        raw.mnemonic(),
        M::Popfq
            | M::Rdfsbase
            | M::Rdgsbase
            | M::Wrfsbase
            | M::Wrgsbase
            | M::Rdmsr
            | M::Wrmsr
            | M::Rdpid
            | M::Rdpkru
            | M::Wrpkru
            | M::Xgetbv
            | M::Cpuid
            | M::Pause
            | M::Verw
            | M::Lsl
            | M::In
            | M::Out
            | M::Invlpg
            | M::Clts
    )
}

fn branch(raw: &Instruction, key: Key, end: End) -> Class {
    let wide = key.code_bits() / 8;
    let class = match raw.flow_control() {
        _ if end == End::System => None,
        FlowControl::ConditionalBranch if raw.is_jcc_short_or_near() => {
            Some(Class::Branch(condition(raw)))
        }
        FlowControl::UnconditionalBranch => Some(Class::Jump),
        FlowControl::Call => Some(Class::Call),
        FlowControl::Return => Some(Class::Return),
        FlowControl::IndirectBranch => Some(Class::JumpTo),
        FlowControl::IndirectCall => Some(Class::CallTo),
        _ => None,
    };
    let possible = match class {
        Some(Class::Jump | Class::Branch(_) | Class::Call) => {
            let bits = match raw.op0_kind() {
                OpKind::NearBranch16 => 16,
                OpKind::NearBranch32 => 32,
                _ => 64,
            };
            bits == key.code_bits() && page_distance(raw.near_branch_target(), key).is_some()
        }
        Some(Class::Return) => match raw.code() {
            Code::Retnw | Code::Retnw_imm16 => false,
            Code::Retnd | Code::Retnd_imm16 => wide == 4,
            _ => wide == 8,
        },
        Some(Class::JumpTo | Class::CallTo) => match raw.op0_kind() {
            OpKind::Register => raw.op0_register().size() == wide as usize,
            _ => raw.memory_size().size() == wide as usize && addressable(raw, key),
        },
        _ => false,
    };
    class.filter(|_| possible).unwrap_or(Class::Last(end))
}

/// The hardware's number of a jump's condition.
fn condition(raw: &Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match raw.condition_code() {
        C::None | C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        C::g => 15,
    }
}

/// The distance from the beginning of the page that `address` stands for.
pub fn page_distance(address: u64, key: Key) -> Option<i32> {
    if key.code_bits() == 64 { i32::try_from(address as i64).ok() } else { Some(address as i32) }
}

fn stack(raw: &Instruction, key: Key) -> Class {
    let wide = key.code_bits() / 8;
    match raw.mnemonic() {
        M::Leave if raw.stack_pointer_increment().unsigned_abs() == 0 => {
            let code = if wide == 8 { Code::Leaveq } else { Code::Leaved };
            if raw.code() == code { Class::Leave } else { Class::Step }
        }
        M::Push | M::Pop if raw.stack_pointer_increment().unsigned_abs() == wide => {
            let general = match raw.op0_kind() {
                OpKind::Register => raw.op0_register().is_gpr(),
                OpKind::Memory => raw.mnemonic() == M::Push,
                _ => true,
            };
            match raw.mnemonic() {
                _ if !general => Class::Step,
                M::Push => Class::Push,
                _ => Class::Pop,
            }
        }
        _ => Class::Step,
    }
}

/// Instructions that do on the host what they do in the guest, but for operands.
fn is_plain(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Movbe
            | M::Movnti
            | M::Add
            | M::Or
            | M::Adc
            | M::Sbb
            | M::And
            | M::Sub
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Mul
            | M::Imul
            | M::Div
            | M::Idiv
            | M::Shl
            | M::Sal
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shld
            | M::Shrd
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Bsf
            | M::Bsr
            | M::Bswap
            | M::Popcnt
            | M::Tzcnt
            | M::Lzcnt
            | M::Crc32
            | M::Xchg
            | M::Xadd
            | M::Cmpxchg
            | M::Cmpxchg8b
            | M::Cmpxchg16b
            | M::Cbw
            | M::Cwde
            | M::Cdqe
            | M::Cwd
            | M::Cdq
            | M::Cqo
            | M::Clc
            | M::Stc
            | M::Cmc
            | M::Lahf
            | M::Sahf
            | M::Lfence
            | M::Mfence
            | M::Sfence
            | M::Adcx
            | M::Adox
            | M::Andn
            | M::Bextr
            | M::Blsi
            | M::Blsmsk
            | M::Blsr
            | M::Bzhi
            | M::Mulx
            | M::Pdep
            | M::Pext
            | M::Rorx
            | M::Sarx
            | M::Shlx
            | M::Shrx
    )
}

/// Instructions of SSE and AVX that work on vector registers, and general ones at most beside.
fn is_vector(raw: &Instruction) -> bool {
    let encoding = matches!(raw.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
    let registers = (0..raw.op_count()).all(|n| {
        let register = raw.op_register(n);
        raw.op_kind(n) != OpKind::Register
            || register.is_xmm()
            || register.is_ymm()
            || register.is_gpr()
    });
    let special = matches!(raw.mnemonic(), M::Maskmovdqu | M::Vmaskmovdqu);
    encoding && registers && !special && raw.cpuid_features().iter().all(is_vector_set)
}

/// Whether `set` is one of vector instructions that this processor executes.
pub fn is_vector_set(set: &CpuidFeature) -> bool {
    use CpuidFeature as C;
    use std::arch::is_x86_feature_detected as has;
    match set {
        // A processor with BMI2, which the translator itself needs, has all of these.
        C::MMX | C::SSE | C::SSE2 | C::SSE3 | C::SSSE3 | C::SSE4_1 | C::SSE4_2 => true,
        C::AES => has!("aes"),
        C::PCLMULQDQ => has!("pclmulqdq"),
        C::SHA => has!("sha"),
        C::SSE4A => has!("sse4a"),
        C::GFNI => has!("gfni"),
        C::AVX => has!("avx"),
        C::AVX2 => has!("avx2"),
        C::FMA => has!("fma"),
        C::F16C => has!("f16c"),
        C::VAES => has!("vaes"),
        C::VPCLMULQDQ => has!("vpclmulqdq"),
        C::AVX_VNNI => has!("avxvnni"),
        _ => false,
    }
}

/// CMOVcc and SETcc, among instructions that do not end a block.
fn is_conditional(raw: &Instruction) -> bool {
    raw.encoding() == EncodingKind::Legacy && raw.condition_code() != iced_x86::ConditionCode::None
}

/// Whether this processor executes `raw`.
fn host_has(raw: &Instruction) -> bool {
    use std::arch::is_x86_feature_detected as has;
    match raw.mnemonic() {
        M::Adcx | M::Adox => has!("adx"),
        M::Movbe => has!("movbe"),
        M::Crc32 => has!("sse4.2"),
        M::Popcnt => has!("popcnt"),
        M::Tzcnt | M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr => has!("bmi1"),
        M::Lzcnt => has!("lzcnt"),
        M::Cmpxchg16b => has!("cmpxchg16b"),
        // The translator itself needs BMI2.
        _ => true,
    }
}

/// Whether the address of the memory operand, if there is one, is one the translator computes.
pub fn addressable(raw: &Instruction, key: Key) -> bool {
    if !(0..raw.op_count()).any(|n| raw.op_kind(n) == OpKind::Memory) {
        return true;
    }
    let segment = decode::segment_of(raw.memory_segment());
    if key.code_bits() != 64 && !key.is_flat(segment) && !key.is_limitless(segment) {
        return false;
    }
    let (base, index) = (raw.memory_base(), raw.memory_index());
    if base == Register::RIP {
        return page_distance(raw.memory_displacement64(), key).is_some();
    }
    let wide_enough = |register: Register| {
        register == Register::None || register.is_gpr() && register.size() >= 4
    };
    let absolute_ok =
        base != Register::None || index != Register::None || raw.memory_displ_size() != 2;
    let displacement = raw.memory_displacement64() as i64;
    let short = base == Register::None && index == Register::None
        || i32::try_from(displacement).is_ok()
        || u32::try_from(displacement).is_ok() && address_bits(raw, key) == 32;
    wide_enough(base) && wide_enough(index) && absolute_ok && short
}

/// Width of the memory operand's address.
pub fn address_bits(raw: &Instruction, key: Key) -> u32 {
    let by = |register: Register| register.size() as u32 * 8;
    if raw.memory_base() != Register::None {
        by(raw.memory_base())
    } else if raw.memory_index() != Register::None {
        by(raw.memory_index())
    } else if key.code_bits() == 64 && raw.memory_displ_size() == 8 {
        64
    } else {
        32
    }
}

/// The host's number for a guest register that has a home.
pub fn home(register: Register) -> Option<u8> {
    HOME[register.full_register().number() & 15]
}

pub fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::BH | Register::CH | Register::DH)
}

/// Whether `raw` tests a bit in memory whose number is in a register, and may be far away.
pub fn is_far_bit(raw: &Instruction) -> bool {
    matches!(raw.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
        && raw.op0_kind() == OpKind::Memory
        && raw.op1_kind() == OpKind::Register
}

/// Whether `raw` may use a host register that belongs to another guest register: it has three
/// operands, and touches no other general registers but RDX.
pub fn may_borrow(raw: &Instruction) -> bool {
    raw.encoding() == EncodingKind::VEX
        && (0..raw.op_count())
            .all(|n| raw.op_kind(n) != OpKind::Register || raw.op_register(n).is_gpr())
}

/// Whether all operands of a plain instruction find a place: no more guest registers without a home
/// than there is scratch, and no AH..BH beside a register that needs a REX prefix.
fn placeable(raw: &Instruction, key: Key) -> bool {
    if !addressable(raw, key) {
        return false;
    }
    let memory = touches_memory(raw);
    if memory && raw.memory_base() == Register::EIP {
        return false;
    }
    let (mut high, mut rex) = (false, memory);
    let mut homeless = Vec::new();
    for n in 0..raw.op_count() {
        if raw.op_kind(n) != OpKind::Register {
            continue;
        }
        let register = raw.op_register(n);
        if register.is_xmm() || register.is_ymm() {
            rex |= register.number() >= 8;
            continue;
        }
        if register.is_mm() || register.is_st() {
            continue;
        }
        if !register.is_gpr() {
            return false;
        }
        high |= is_high_byte(register);
        match home(register) {
            None if homeless.contains(&register.full_register()) => {}
            None => homeless.push(register.full_register()),
            Some(home) => {
                rex |= home >= 4 && register.size() == 1 && !is_high_byte(register) || home >= 8
            }
        }
    }
    rex |= !homeless.is_empty();
    let far_bit_ok = !is_far_bit(raw)
        || raw.op1_register().size() >= 4 && address_bits(raw, key) == key.code_bits();
    let room = scratch(memory).len() + usize::from(may_borrow(raw));
    let high_ok = match memory {
        // It changes places with the low byte, which CMPXCHG must find in AL.
        true => !high || raw.mnemonic() != M::Cmpxchg || raw.op1_register() != Register::AH,
        false => !(high && rex),
    };
    high_ok && homeless.len() <= room && far_bit_ok && encodable(raw).is_some()
}

/// The form of `raw` that exists in 64-bit code.
pub fn encodable(raw: &Instruction) -> Option<Code> {
    let code = match raw.code() {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_RAX_moffs64 => Code::Mov_r64_rm64,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_moffs64_RAX => Code::Mov_rm64_r64,
        Code::Bswap_r16 => return None,
        code => code,
    };
    code.op_code().mode64().then_some(code)
}

/// Whether a plain instruction replaces the whole of its first operand, a register, without looking at
/// it.
pub fn only_writes(raw: &Instruction) -> bool {
    let only_moves = matches!(
        raw.mnemonic(),
        M::Mov | M::Movzx | M::Movsx | M::Movsxd | M::Movbe | M::Rorx | M::Shlx | M::Shrx | M::Sarx
    );
    let target = raw.op0_register().full_register();
    raw.op0_kind() == OpKind::Register
        && raw.op0_register().size() >= 4
        && only_moves
        && (1..raw.op_count()).all(|n| {
            raw.op_kind(n) != OpKind::Register || raw.op_register(n).full_register() != target
        })
}

/// Whether a vector instruction moves data only, wherever it may lie.
pub fn is_calm_move(raw: &Instruction) -> bool {
    matches!(
        raw.mnemonic(),
        M::Movups
            | M::Movupd
            | M::Movdqu
            | M::Movq
            | M::Movd
            | M::Vmovups
            | M::Vmovupd
            | M::Vmovdqu
            | M::Vmovq
            | M::Vmovd
    )
}

/// Lets a plain instruction without a memory operand use a register that has no home where it lies in
/// the frame, if it has such a form; `changes` are the registers it changes. That register's number:
/// the caller makes the memory operand lead to it.
pub fn into_frame(insn: &mut Instruction, raw: &Instruction, changes: u16) -> Option<u8> {
    // XCHG with memory is locked, and bit numbers would lead elsewhere in memory.
    let odd = matches!(raw.mnemonic(), M::Xchg | M::Bt | M::Bts | M::Btr | M::Btc)
        || (0..raw.op_count()).any(|n| is_high_byte(raw.op_register(n)));
    let mut operands = (0..raw.op_count())
        .filter(|&n| raw.op_kind(n) == OpKind::Register && home(raw.op_register(n)).is_none());
    let (n, more) = (operands.next()?, operands.next());
    let register = raw.op_register(n);
    let number = register.full_register().number();
    // Writing the lower half of a register makes the upper half zero; after a store of less, the whole
    // is long in coming.
    let partly = changes >> number & 1 != 0 && register.size() < 8;
    if odd || more.is_some() || partly {
        return None;
    }
    let may_be_memory = |code: Code| {
        use iced_x86::OpCodeOperandKind as K;
        matches!(
            code.op_code().op_kind(n),
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem
        )
    };
    if !may_be_memory(insn.code()) {
        if raw.mnemonic() == M::Test && n == 1 {
            insn.set_op1_register(raw.op0_register());
            insn.set_op0_kind(OpKind::Memory);
            return Some(number as u8);
        }
        insn.set_code(turned(insn.code()).filter(|code| may_be_memory(*code))?);
    }
    insn.set_op_kind(n, OpKind::Memory);
    Some(number as u8)
}

/// `op reg, rm` for `op rm, reg` and the other way round.
fn turned(code: Code) -> Option<Code> {
    let opcode = code.op_code();
    let both = opcode.table() == iced_x86::OpCodeTableKind::Normal
        && (opcode.op_code() <= 0x3b && opcode.op_code() & 7 < 4
            || matches!(opcode.op_code(), 0x88..=0x8b));
    // The forms follow one another by operand size, `op rm, reg` first.
    let other = if opcode.op_code() & 2 == 0 { code as usize + 4 } else { code as usize - 4 };
    Code::try_from(other).ok().filter(|other| both && other.mnemonic() == code.mnemonic())
}

/// Scratch registers for guest registers without a home, beside a memory operand or not.
pub fn scratch(memory: bool) -> &'static [u8] {
    if memory { &[R14] } else { &[R14, R13] }
}

/// Finds out which flags are needed after each unit. Whatever comes after the block may need all.
pub fn find_needed(units: &mut [Unit]) {
    let mut needed = super::super::flags::ALL;
    for unit in units.iter_mut().rev() {
        unit.needed = needed;
        if unit.visible || unit.ends_block() {
            needed = super::super::flags::ALL;
        } else {
            needed = needed & !unit.effect.replaces | unit.effect.reads;
        }
    }
}
