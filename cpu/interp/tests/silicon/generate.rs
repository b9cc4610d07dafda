//! Random instructions of a group, and the state they begin with.

use iced_x86::{
    Code, CpuidFeature as C, Decoder, DecoderOptions, Instruction, InstructionInfoFactory,
    Mnemonic as M, OpKind, Register,
};

use super::layout::*;
use crate::flags::bit;
use crate::fpu::testing::Random;
use crate::state::gpr;

/// What is tested together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Integer,
    X87,
    Sse,
    Avx,
    Bmi,
    Crypto,
    Areas,
    Flow,
    /// What is the supervisor's: refused, and in which order.
    Privileged,
}

/// The group of an instruction that may run; `None` of others.
fn group(insn: &Instruction) -> Option<Group> {
    let mut found = Group::Integer;
    for feature in insn.cpuid_features() {
        let of_feature = match feature {
            C::INTEL8086
            | C::INTEL8086_ONLY
            | C::INTEL186
            | C::INTEL286
            | C::INTEL386
            | C::INTEL486
            | C::X64
            | C::CMOV
            | C::CX8
            | C::CMPXCHG16B
            | C::CLFSH
            | C::CLFLUSHOPT
            | C::CLWB
            | C::MULTIBYTENOP
            | C::PAUSE
            | C::PREFETCHW
            | C::SSE
                if is_general(insn) =>
            {
                Group::Integer
            }
            C::FPU | C::FPU287 | C::FPU387 | C::FPU287XL_ONLY => Group::X87,
            C::MMX | C::SSE | C::SSE2 | C::SSE3 | C::SSSE3 | C::SSE4_1 | C::SSE4_2 | C::FXSR => {
                if insn.mnemonic() == M::Crc32 {
                    Group::Bmi
                } else {
                    Group::Sse
                }
            }
            C::SSE4A if std::arch::is_x86_feature_detected!("sse4a") => Group::Sse,
            C::AVX | C::AVX2 | C::FMA | C::F16C => Group::Avx,
            C::AVX_VNNI if std::arch::is_x86_feature_detected!("avxvnni") => Group::Avx,
            C::XSAVE | C::XSAVEOPT => Group::Areas,
            C::XSAVEC if std::arch::is_x86_feature_detected!("xsavec") => Group::Areas,
            C::BMI1 | C::BMI2 | C::ADX | C::LZCNT | C::POPCNT | C::MOVBE => Group::Bmi,
            C::AES | C::PCLMULQDQ | C::SHA => Group::Crypto,
            C::VAES if std::arch::is_x86_feature_detected!("vaes") => Group::Crypto,
            C::VPCLMULQDQ if std::arch::is_x86_feature_detected!("vpclmulqdq") => Group::Crypto,
            C::GFNI if std::arch::is_x86_feature_detected!("gfni") => Group::Crypto,
            _ => return None,
        };
        if found == Group::Integer || of_feature == Group::Crypto {
            found = of_feature;
        }
    }
    Some(found)
}

/// Whether no operand is a vector register.
fn is_general(insn: &Instruction) -> bool {
    (0..insn.op_count())
        .all(|n| insn.op_kind(n) != OpKind::Register || insn.op_register(n).is_gpr())
}

/// Whether the processor may execute it here, and what it does is defined and its own: not that of the
/// operating system, of time or of chance.
fn is_fit(insn: &Instruction) -> bool {
    let segment =
        |n: u32| insn.op_kind(n) == OpKind::Register && insn.op_register(n).is_segment_register();
    let fit = !matches!(
        insn.mnemonic(),
        // Control flow, and what enters the kernel.
        M::Call | M::Jmp | M::Ret | M::Retf | M::Iret | M::Iretd | M::Iretq | M::Int | M::Int1
            | M::Int3 | M::Into | M::Syscall | M::Sysenter | M::Loop | M::Loope | M::Loopne
            | M::Jcxz | M::Jecxz | M::Jrcxz | M::Xbegin | M::Xabort
            // The kernel's tables and flags.
            | M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw | M::Lar | M::Lsl | M::Verr | M::Verw
            | M::Pushf | M::Pushfd | M::Pushfq | M::Popf | M::Popfd | M::Popfq | M::Arpl
            // The bits of MXCSR that exist are the processor's own.
            | M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64
            // Segments.
            | M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs
            // Time, chance and identity.
            | M::Rdtsc | M::Rdtscp | M::Cpuid | M::Rdpmc | M::Xgetbv
            // Approximations of the processor's own.
            | M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss
            | M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss
            | M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fptan | M::Fpatan | M::Fsin | M::Fcos | M::Fsincos
            // Not in the manual, and with an empty register it has a result by chance.
            | M::Fstpnce
            // With REX.B, some processors take it for XCHG.
            | M::Pause
    );
    // INS and OUTS fault on the port or on memory, which of both first is open.
    let ports =
        matches!(insn.mnemonic(), M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd);
    let other_segments = matches!(insn.segment_prefix(), Register::FS);
    fit && !ports
        && !other_segments
        && !insn.is_jcc_short_or_near()
        // With a register a prefetch to some, undefined to others; reads a word or a doubleword.
        && !matches!(insn.code(), Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D | Code::Movsxd_r16_rm16)
        && !(0..insn.op_count()).any(segment)
        // A frame of its own size, far below the page.
        && (insn.mnemonic() != M::Enter || insn.immediate16() < 512 && insn.immediate8_2nd() & 31 <= 1)
}

/// The prefixes that an instruction begins with.
fn prefixes(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().copied().take_while(|byte| {
        matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
    })
}

/// Whether 32-bit code cannot be asked: null selectors in FS and GS, and addresses of 16 bits, lead
/// nowhere; of VPEXTRD and VPINSRD with W, processors think differently.
fn is_unfit_in_32_bit_code(insn: &Instruction, bytes: &[u8]) -> bool {
    let reaches_memory = insn.op_kinds().any(|kind| kind == OpKind::Memory)
        || insn.is_string_instruction()
        || matches!(insn.mnemonic(), M::Xlatb);
    let elsewhere =
        prefixes(bytes).any(|byte| matches!(byte, 0x64 | 0x65) || byte == 0x67 && reaches_memory);
    let w = bytes[0] == 0xc4 && bytes[2] & 0x80 != 0;
    elsewhere || w && matches!(insn.mnemonic(), M::Vpextrd | M::Vpinsrd)
}

/// Whether 16-bit code cannot be asked: of what lies in the code segment, the way out differs.
fn is_unfit_in_16_bit_code(bytes: &[u8]) -> bool {
    prefixes(bytes).any(|byte| matches!(byte, 0x2e | 0x64 | 0x65))
}

/// Jumps and calls within the segment, returns, and what reads and writes the flags. In other than 16-bit
/// code, jumps do without an operand size: they would lead far away, or processors differ.
fn is_flow(insn: &Instruction, bytes: &[u8], bits: u32) -> bool {
    let near = insn.is_jcc_short_or_near()
        || insn.is_jmp_short_or_near()
        || insn.is_jmp_near_indirect()
        || insn.is_call_near()
        || insn.is_call_near_indirect()
        || matches!(
            insn.mnemonic(),
            M::Ret | M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz
        );
    let flags =
        matches!(insn.mnemonic(), M::Pushf | M::Pushfd | M::Pushfq | M::Popf | M::Popfd | M::Popfq);
    // Some processors take a REP prefix for another condition.
    let conditional = matches!(insn.mnemonic(), M::Loope | M::Loopne)
        && prefixes(bytes).any(|byte| matches!(byte, 0xf2 | 0xf3));
    let far_away = bits != 16 && prefixes(bytes).any(|byte| byte == 0x66);
    flags || near && !far_away && !conditional
}

/// What processors of all makers refuse to the user in the same way.
fn is_privileged(insn: &Instruction, bits: u32) -> bool {
    use std::arch::is_x86_feature_detected as has;
    match insn.mnemonic() {
        M::Hlt | M::Cli | M::Sti | M::In | M::Out | M::Lldt | M::Ltr | M::Lgdt | M::Lidt => true,
        M::Lmsw | M::Invlpg | M::Clts | M::Invd | M::Wbinvd | M::Rdmsr | M::Wrmsr | M::Rsm => true,
        M::Swapgs | M::Clac | M::Stac | M::Xsetbv => true,
        M::Mov => (0..2).any(|n| insn.op_register(n).is_cr() || insn.op_register(n).is_dr()),
        // Of other code, only some know it.
        M::Sysret | M::Sysretq => bits == 64,
        M::Xsaves | M::Xsaves64 | M::Xrstors | M::Xrstors64 => has!("xsaves"),
        _ => false,
    }
}

/// A piece of code: instructions, the first of which may reach memory.
pub struct Case {
    pub code: Vec<u8>,
    pub insns: Vec<Instruction>,
    /// Where memory is reached, if the code itself says so.
    place: Option<u64>,
    /// Where a jump leads, if it is taken: somewhere in what [`LANDING`] is, or into a hole.
    pub landing: u64,
}

/// What follows a jump: which of these registers have been exchanged with RAX, and in which order, shows
/// where it went on.
const LANDING: [u8; 12] = [0x91, 0x92, 0x93, 0x95, 0x96, 0x97, 0x91, 0x93, 0x92, 0x96, 0x95, 0x97];

/// Generates cases for code of so many bits.
pub struct Generator {
    pub random: Random,
    pub bits: u32,
    group: Group,
    info: InstructionInfoFactory,
}

impl Generator {
    pub fn new(group: Group, bits: u32) -> Self {
        let random = Random::new(&format!("{group:?} {bits}"));
        Generator { random, bits, group, info: InstructionInfoFactory::new() }
    }
    fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit as u64) as usize
    }
    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
    fn byte(&mut self) -> u8 {
        self.random.next() as u8
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    /// A value that is often close to a limit.
    pub fn value(&mut self) -> u64 {
        let random = self.random.next();
        match self.below(6) {
            0 => random & 0xff,
            1 => 0_u64.wrapping_sub(random & 0xff),
            2 => 1 << (random & 63),
            3 => (1_u64 << (random & 63)).wrapping_sub(1),
            4 => random & 0xffff_ffff,
            _ => random,
        }
    }

    /// Prefixes of the legacy kind and the escape of an opcode map.
    fn legacy(&mut self, bytes: &mut Vec<u8>, memory: bool, mandatory: bool) {
        if self.chance(8) {
            // GS has base 0 here as it has in the host's 64-bit processes.
            let segment = self.pick(&[0x26, 0x2e, 0x36, 0x3e, 0x65]);
            if segment != 0x65 || self.bits == 64 {
                bytes.push(segment);
            }
        }
        if self.chance(16) && self.bits != 32 {
            bytes.push(0x67);
        }
        match self.below(if mandatory { 6 } else { 16 }) {
            0..=2 => bytes.push(0x66),
            3 => bytes.push(0xf2),
            4 => bytes.push(0xf3),
            _ => {}
        }
        if memory && !mandatory && self.chance(8) {
            bytes.push(0xf0);
        }
        if self.bits == 64 && self.chance(2) {
            let rex = 0x40 | self.byte() & 15;
            bytes.push(rex);
        }
    }

    fn vex(&mut self, bytes: &mut Vec<u8>, map: u8) {
        let mut vvvv = self.byte() & 15;
        if self.chance(2) {
            vvvv = 15;
        }
        let tail = vvvv << 3 | self.byte() & 7;
        // In 32-bit code only the low eight registers have names, and other prefixes mean LES and LDS.
        let registers = if self.bits == 64 { self.byte() & 0xe0 } else { 0xe0 };
        let tail = if self.bits == 64 { tail } else { tail | 0x40 };
        if map == 1 && self.chance(2) {
            bytes.extend([0xc5, registers & 0x80 | if self.bits == 64 { 0 } else { 0x40 } | tail]);
        } else {
            let w = if self.chance(3) { 0x80 } else { 0 };
            bytes.extend([0xc4, registers | map, tail | w]);
        }
    }

    /// Everything up to the ModRM byte.
    fn opcode(&mut self, bytes: &mut Vec<u8>, memory: bool) {
        let opcode = self.byte();
        match self.group {
            Group::Integer => {
                self.legacy(bytes, memory, false);
                match self.below(20) {
                    0..13 => {}
                    13..19 => bytes.push(0x0f),
                    _ => bytes.extend([0x0f, 0x38]),
                }
                bytes.push(opcode);
            }
            Group::X87 => {
                if self.chance(4) {
                    self.legacy(bytes, false, false);
                }
                bytes.push(if self.chance(64) { 0x9b } else { 0xd8 | opcode & 7 });
            }
            Group::Sse => {
                self.legacy(bytes, false, true);
                match self.below(8) {
                    0 => bytes.extend([0x0f, 0x38, opcode & 0x7f]),
                    1 => bytes.extend([0x0f, 0x3a, opcode & 0x7f]),
                    _ => bytes.extend([0x0f, opcode]),
                }
            }
            Group::Avx => {
                let map = 1 + self.below(3) as u8;
                self.vex(bytes, map);
                bytes.push(if map == 3 && self.chance(2) { opcode & 0x7f } else { opcode });
            }
            Group::Bmi => {
                if self.chance(2) {
                    let (map, opcode) = self.pick(&[
                        (2, 0xf2),
                        (2, 0xf3),
                        (2, 0xf5),
                        (2, 0xf6),
                        (2, 0xf7),
                        (3, 0xf0),
                    ]);
                    self.vex(bytes, map);
                    bytes.push(opcode);
                } else {
                    self.legacy(bytes, false, true);
                    let opcodes: [&[u8]; 6] =
                        [&[0xb8], &[0xbc], &[0xbd], &[0x38, 0xf0], &[0x38, 0xf1], &[0x38, 0xf6]];
                    bytes.push(0x0f);
                    let opcode = self.pick(&opcodes);
                    bytes.extend(opcode);
                }
            }
            Group::Flow => self.flow(bytes),
            Group::Privileged => self.privileged(bytes),
            Group::Areas => {
                if self.bits == 64 && self.chance(2) {
                    bytes.push(0x48);
                }
                bytes.extend([0x0f, if self.chance(3) { 0xc7 } else { 0xae }]);
            }
            Group::Crypto => {
                const OPCODES: &[(u8, u8)] = &[
                    (2, 0xc8),
                    (2, 0xc9),
                    (2, 0xca),
                    (2, 0xcb),
                    (2, 0xcc),
                    (2, 0xcd),
                    (2, 0xcf),
                    (2, 0xdb),
                    (2, 0xdc),
                    (2, 0xdd),
                    (2, 0xde),
                    (2, 0xdf),
                    (3, 0xcc),
                    (3, 0xce),
                    (3, 0xcf),
                    (3, 0xdf),
                    (3, 0x44),
                ];
                let (map, opcode) = self.pick(OPCODES);
                if self.chance(2) {
                    self.vex(bytes, map);
                } else {
                    self.legacy(bytes, false, true);
                    bytes.extend([0x0f, if map == 2 { 0x38 } else { 0x3a }]);
                }
                bytes.push(opcode);
            }
        }
    }

    /// Everything up to the ModRM byte of what changes the order, or the flags.
    fn flow(&mut self, bytes: &mut Vec<u8>) {
        if self.chance(8) {
            let segment = self.pick(&[0x26, 0x36, 0x3e]);
            bytes.push(segment);
        }
        let opcode = match self.below(16) {
            0..4 => 0x70 | self.byte() & 15,
            4 => 0xeb,
            5 => self.pick(&[0xe8, 0xe9]),
            6..9 => 0xe0 | self.byte() & 3,
            9 | 10 => self.pick(&[0xc2, 0xc3]),
            11 => 0x9c,
            12 | 13 => 0x9d,
            _ => 0xff,
        };
        if self.chance(8) {
            let repeat = self.pick(&[0xf2, 0xf3]);
            bytes.push(repeat);
        }
        if self.chance(4) {
            bytes.push(0x66);
        }
        if matches!(opcode, 0xe0..=0xe3) && self.chance(3) {
            bytes.push(0x67);
        }
        if self.bits == 64 && self.chance(3) {
            let rex = 0x40 | self.byte() & 15;
            bytes.push(rex);
        }
        if opcode & 0xf0 == 0x70 && self.chance(2) {
            bytes.extend([0x0f, opcode + 0x10]);
        } else {
            bytes.push(opcode);
        }
    }

    /// Everything up to the ModRM byte of what only the supervisor may do.
    fn privileged(&mut self, bytes: &mut Vec<u8>) {
        const OPCODES: &[&[u8]] = &[
            &[0xf4],
            &[0xfa],
            &[0xfb],
            &[0xe4],
            &[0xe5],
            &[0xe6],
            &[0xe7],
            &[0xec],
            &[0xed],
            &[0xee],
            &[0xef],
            &[0x0f, 0x00],
            &[0x0f, 0x01],
            &[0x0f, 0x01, 0xca],
            &[0x0f, 0x01, 0xcb],
            &[0x0f, 0x01, 0xd1],
            &[0x0f, 0x01, 0xf8],
            &[0x0f, 0x06],
            &[0x0f, 0x07],
            &[0x0f, 0x08],
            &[0x0f, 0x09],
            &[0x0f, 0x20],
            &[0x0f, 0x21],
            &[0x0f, 0x22],
            &[0x0f, 0x23],
            &[0x0f, 0x30],
            &[0x0f, 0x32],
            &[0x0f, 0xaa],
            &[0x0f, 0xc7],
            &[0x0f, 0x38, 0x82],
        ];
        self.legacy(bytes, true, false);
        let opcode = self.pick(OPCODES);
        bytes.extend(opcode);
    }

    /// Bytes that look like an instruction of the group.
    fn bytes(&mut self, may_reach_memory: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let memory = may_reach_memory && self.chance(2);
        self.opcode(&mut bytes, memory);
        let modrm = self.byte();
        bytes.push(if memory && modrm >= 0xc0 {
            modrm & 0x3f | (modrm & 0x40) << 1
        } else if memory {
            modrm
        } else {
            modrm | 0xc0
        });
        let rest = self.random.next().to_le_bytes();
        bytes.extend(rest);
        bytes.extend(rest);
        bytes
    }

    /// One instruction.
    fn instruction(&mut self, at: u64, first: bool) -> (Vec<u8>, Instruction) {
        loop {
            let mut bytes = self.bytes(first);
            let insn = Decoder::with_ip(self.bits, &bytes, at, DecoderOptions::NONE).decode();
            if insn.is_invalid() {
                // Undefined on the host as well, if anything is sure: a wrong field of a VEX prefix.
                let is_vex = matches!(bytes[0], 0xc4 | 0xc5) && !first;
                let opcode_at = if bytes[0] == 0xc5 { 2 } else { 3 };
                let map = if bytes[0] == 0xc5 { 1 } else { bytes[1] & 0x1f };
                if is_vex && self.chance(64) && !is_beyond(map, bytes[opcode_at]) {
                    bytes.truncate(opcode_at + 3);
                    return (bytes, insn);
                }
                continue;
            }
            let fits = match self.group {
                Group::Flow => is_flow(&insn, &bytes, self.bits),
                Group::Privileged => is_privileged(&insn, self.bits),
                _ => group(&insn) == Some(self.group) && is_fit(&insn),
            };
            let elsewhere = match self.bits {
                64 => false,
                32 => is_unfit_in_32_bit_code(&insn, &bytes),
                _ => is_unfit_in_16_bit_code(&bytes),
            };
            if !fits || elsewhere {
                continue;
            }
            let by_state = matches!(insn.mnemonic(), M::Shld | M::Shrd | M::Bswap);
            if !first && (by_state || self.reaches_memory(&insn)) {
                continue;
            }
            bytes.truncate(insn.len());
            return (bytes, insn);
        }
    }

    fn reaches_memory(&mut self, insn: &Instruction) -> bool {
        !self.info.info(insn).used_memory().is_empty()
    }

    /// Code to be placed at `at`.
    pub fn case(&mut self, at: u64) -> Case {
        let at = at - code_origin(self.bits);
        let mut case = Case { code: Vec::new(), insns: Vec::new(), place: None, landing: 0 };
        let alone = matches!(self.group, Group::Areas | Group::Flow | Group::Privileged);
        let further = if !alone && self.chance(4) { self.below(3) } else { 0 };
        let count = 1 + further;
        for i in 0..count {
            let next = at + case.code.len() as u64;
            let (mut bytes, insn) = self.instruction(next, i == 0);
            let invalid = insn.is_invalid();
            if insn.memory_base() == Register::RIP || insn.memory_base() == Register::EIP {
                case.place = self.aim_displacement(&mut bytes, &insn, next + insn.len() as u64);
            } else if insn.memory_base() == Register::None
                && insn.memory_index() == Register::None
                && insn.memory_displ_size() >= self.bits.min(32) / 8
            {
                case.place = self.aim_displacement(&mut bytes, &insn, data_origin(self.bits));
            }
            if self.group == Group::Flow {
                case.landing = self.land(&mut bytes, &insn);
            }
            case.insns
                .push(Decoder::with_ip(self.bits, &bytes, next, DecoderOptions::NONE).decode());
            case.code.extend(bytes);
            // What follows must not depend on what is undefined.
            if invalid || super::undefined_flags(&insn) != 0 {
                break;
            }
        }
        if self.group == Group::Flow {
            case.code.extend(LANDING);
        }
        case
    }

    /// Makes a jump lead to where something can be seen of it, and tells where.
    fn land(&mut self, bytes: &mut [u8], insn: &Instruction) -> u64 {
        let landing = insn.next_ip() + self.below(LANDING.len() + 1) as u64;
        let mut decoder = Decoder::with_ip(self.bits, bytes, insn.ip(), DecoderOptions::NONE);
        let same = decoder.decode();
        let offsets = decoder.get_constant_offsets(&same);
        let is_relative = matches!(
            insn.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        );
        if is_relative {
            let counts = matches!(insn.mnemonic(), M::Loop | M::Loope | M::Loopne);
            let to_itself = counts && self.chance(4);
            let target = if to_itself { insn.ip() } else { landing };
            let (at, len) = (offsets.immediate_offset(), offsets.immediate_size());
            let distance = target.wrapping_sub(insn.next_ip()).to_le_bytes();
            bytes[at..at + len].copy_from_slice(&distance[..len]);
        } else if self.chance(32) && !(self.bits == 16 && insn.is_call_near_indirect()) {
            // Beyond the limit of 16-bit code; whether a call looks at that or at its stack first is open.
            return HOLE - code_origin(self.bits);
        }
        landing
    }

    /// Makes the displacement, relative to `from`, lead to the data.
    fn aim_displacement(&mut self, bytes: &mut [u8], insn: &Instruction, from: u64) -> Option<u64> {
        let mut decoder = Decoder::with_ip(self.bits, bytes, insn.ip(), DecoderOptions::NONE);
        let same = decoder.decode();
        let offsets = decoder.get_constant_offsets(&same);
        if !offsets.has_displacement() {
            return None;
        }
        let size = insn.memory_size().size().max(1);
        let align = if insn.cpuid_features().contains(&C::SHA) { 15 } else { 0 };
        let place = self.target(size) & !align;
        let target = place.wrapping_sub(from).to_le_bytes();
        let at = offsets.displacement_offset();
        let len = offsets.displacement_size().min(8);
        bytes[at..at + len].copy_from_slice(&target[..len]);
        Some(place)
    }

    /// An address for an operand of `size` bytes.
    fn target(&mut self, size: usize) -> u64 {
        if self.group == Group::Areas {
            // Mostly aligned, and sometimes not wholly mapped.
            let count = if self.chance(16) { 112 } else { 96 };
            let at = DATA + 0x400 + 64 * self.below(count) as u64;
            return if self.chance(16) { at + 8 } else { at };
        }
        let size = size as u64;
        let within = |random: u64, from: u64, len: u64| from + random % len;
        let random = self.random.next() >> 8;
        // Far enough from the pages' ends for strings and bit strings.
        let inside = within(random, DATA + 0x800, 0x1000 - 0x80);
        let address = match self.below(64) {
            // Across the two pages, and out of the second.
            0..4 => within(random, DATA + 0x1000 - size.min(0x800), size.min(0x800) + 1),
            4 => within(random, HOLE - size.min(0x800), size.min(0x800) + 1),
            5 => within(random, CONSTANT + 0x400, 0x800),
            6 => within(random, CONSTANT - size.min(0x800), size.min(0x800) + 1),
            7..24 => inside,
            _ => inside & !63 | (random >> 20) & 48,
        };
        if self.chance(2) { address } else { address & !(size.next_power_of_two().min(64) - 1) }
    }

    /// Sets the registers that the first instruction addresses memory by, and tells what they lead to;
    /// `None` if that cannot be.
    pub fn aim(&mut self, case: &Case, state: &mut State) -> Option<u64> {
        let insn = &case.insns[0];
        let place = case.place.unwrap_or(DATA + 0x1000);
        if insn.is_invalid() {
            return Some(place);
        }
        let number = |register: Register| register.full_register().number();
        let size = insn.memory_size().size().max(1);
        let origin = data_origin(self.bits);
        let repeated = insn.has_rep_prefix() || insn.has_repne_prefix();
        if insn.is_string_instruction() && repeated {
            state.regs[gpr::RCX] = self.below(24) as u64;
        }
        for n in 0..insn.op_count() {
            match insn.op_kind(n) {
                OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI => {
                    state.regs[gpr::RSI] = self.target(size) - origin;
                }
                OpKind::MemoryESDI
                | OpKind::MemoryESEDI
                | OpKind::MemoryESRDI
                | OpKind::MemorySegDI
                | OpKind::MemorySegEDI
                | OpKind::MemorySegRDI => {
                    let place = self.target(size);
                    state.regs[gpr::RDI] = place - origin;
                    if !insn.is_string_instruction() {
                        return Some(place);
                    }
                }
                _ => {}
            }
        }
        if insn.is_stack_instruction() || insn.mnemonic() == M::Enter {
            state.regs[gpr::RSP] = self.target(8) - origin;
            if matches!(insn.mnemonic(), M::Enter | M::Leave) {
                state.regs[gpr::RBP] = self.target(8) - origin;
            }
        }
        if matches!(insn.mnemonic(), M::Popa | M::Popad) {
            // Where it faults midway, some processors have loaded some registers.
            state.regs[gpr::RSP] = DATA - origin + 0x800 + self.below(0x1000) as u64;
        }
        if insn.mnemonic() == M::Xlatb {
            state.regs[gpr::RBX] = self.target(256) - origin;
            return Some(place);
        }
        if self.group == Group::Flow && !insn.op_kinds().any(|kind| kind == OpKind::Memory) {
            return self.aim_flow(case, state);
        }
        let Some(n) = (0..insn.op_count()).find(|&n| insn.op_kind(n) == OpKind::Memory) else {
            return Some(place);
        };
        let (base, index) = (insn.memory_base(), insn.memory_index());
        if insn.is_vsib() {
            self.aim_indices(insn, state);
            if base == Register::None {
                return None;
            }
            state.regs[number(base)] = (DATA + 0x1000).wrapping_sub(insn.memory_displacement64());
            return Some(place);
        }
        let mut target = self.target(size);
        if insn.cpuid_features().contains(&C::SHA) {
            // Where the manual wants alignment, some processors do not.
            target &= !15;
        }
        if matches!(insn.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
            && n == 0
            && insn.op1_kind() == OpKind::Register
        {
            // A bit number that is also an address leads far away.
            let by = number(insn.op1_register());
            if base != Register::None && number(base) == by
                || index != Register::None && number(index) == by
            {
                return None;
            }
            state.regs[by] = (self.random.next() & 0x1fff).wrapping_sub(0x1000);
            target = DATA + 0x1000 + target % 0x100;
        }
        if insn.is_stack_instruction() && base.full_register() == Register::RSP {
            // Either the operand or the stack would be anywhere.
            return None;
        }
        if self.group == Group::Areas {
            let taken = [base, index].map(|register| register.full_register());
            if taken.contains(&Register::RAX) || taken.contains(&Register::RDX) {
                return None;
            }
            (state.regs[gpr::RAX], state.regs[gpr::RDX]) = (self.random.next() & 7, 0);
        }
        if base == Register::RIP || base == Register::EIP {
            return Some(place);
        }
        let displacement = insn.memory_displacement64().wrapping_add(origin);
        let scale = u64::from(insn.memory_index_scale());
        if insn.mnemonic() == M::Lea {
            return Some(place);
        }
        let narrow = [base, index].iter().any(|register| register.is_gpr16());
        let mask = match self.bits {
            64 => u64::MAX,
            _ if narrow => 0xffff,
            _ => 0xffff_ffff,
        };
        // With a stack pointer as the base, of which the target is known, the index aims.
        let offset = match (base, index) {
            (Register::None, _) | (_, Register::None) => 0,
            _ => state.regs[number(index)].wrapping_mul(scale),
        };
        let mut point = |register: Register, to: u64| {
            let register = &mut state.regs[number(register)];
            *register = *register & !mask | to & mask;
        };
        match (base, index) {
            (Register::None, Register::None) => Some(place),
            (Register::None, _) => {
                if scale != 1 {
                    return None;
                }
                point(index, target.wrapping_sub(displacement));
                Some(target)
            }
            (_, Register::None) => {
                point(base, target.wrapping_sub(displacement));
                Some(target)
            }
            _ => {
                if number(base) == number(index) {
                    return None;
                }
                point(base, target.wrapping_sub(displacement).wrapping_sub(offset));
                Some(target)
            }
        }
    }

    /// Sets the registers that count and that tell where to go.
    fn aim_flow(&mut self, case: &Case, state: &mut State) -> Option<u64> {
        let insn = &case.insns[0];
        if insn.op0_kind() == OpKind::Register && insn.op0_register() != Register::None {
            let register = insn.op0_register().full_register();
            if register == Register::RSP {
                return None;
            }
            state.regs[register.number()] = case.landing;
        }
        let counts = matches!(
            insn.mnemonic(),
            M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz
        );
        if counts {
            let goes_on = insn.near_branch_target() != insn.ip();
            state.regs[gpr::RCX] = self.below(24) as u64 + u64::from(!goes_on);
            if goes_on && self.chance(2) {
                // Which a smaller counter leaves aside.
                state.regs[gpr::RCX] |= self.value() << self.pick(&[16, 32]);
            }
        }
        if insn.is_stack_instruction() {
            return Some(state.regs[gpr::RSP].wrapping_add(data_origin(self.bits)));
        }
        Some(DATA)
    }

    /// Small indices for a gather, and once in a while one that leads out.
    fn aim_indices(&mut self, insn: &Instruction, state: &mut State) {
        let wide = matches!(
            insn.mnemonic(),
            M::Vgatherqps | M::Vgatherqpd | M::Vpgatherqd | M::Vpgatherqq
        );
        let mut lane = || {
            let index = |generator: &mut Self| match generator.below(32) {
                0 => 0x800_i64,
                _ => generator.below(400) as i64 - 200,
            };
            if wide {
                u128::from(index(self) as u64) | u128::from(index(self) as u64) << 64
            } else {
                (0..4).fold(0, |lanes, _| lanes << 32 | u128::from(index(self) as u32))
            }
        };
        let vector = [lane(), lane()];
        state.set_vector(insn.memory_index().number(), vector);
    }

    /// Fresh registers.
    pub fn state(&mut self) -> State {
        let mut state = State { regs: [0; 16], flags: 0, image: [0; IMAGE] };
        for number in 0..16 {
            state.regs[number] = self.value();
        }
        state.flags = self.random.next() & bit::ARITH | if self.chance(4) { bit::DF } else { 0 };
        if self.group == Group::Integer && self.chance(2) {
            state.flags |= bit::AC;
        }
        self.fill_x87(&mut state);
        let masks = if self.chance(4) { self.random.next() as u32 & 0x1f80 } else { 0x1f80 };
        let rest = [0, 0x3f, 0xe07f, 0x6000][self.below(4)];
        let mxcsr = masks | self.random.next() as u32 & rest;
        state.set(image::MXCSR, &mxcsr.to_le_bytes());
        let kind = self.below(6);
        for number in 0..16 {
            let mut half = || match kind {
                0 | 1 => self.value(),
                2 => self.random.f64(),
                3 => u64::from(self.random.f32()) << 32 | u64::from(self.random.f32()),
                4 => (0..4).fold(0, |word, _| word << 16 | self.f16()),
                // Strings of few different characters.
                _ => self.random.next() & 0x0303_0303_0303_0303,
            };
            let mut lane = || u128::from(half()) << 64 | u128::from(half());
            state.set_vector(number, [lane(), lane()]);
        }
        state.image[image::HEADER] = 7;
        state
    }

    fn f16(&mut self) -> u64 {
        // The upper half of a single-precision number, its exponent in range.
        let wide = self.random.f32();
        u64::from(wide >> 16 & 0x83ff | (wide >> 23 & 31) << 10)
    }

    fn fill_x87(&mut self, state: &mut State) {
        let masks = if self.chance(4) { self.byte() & 0x3f } else { 0x3f };
        let control = 0x40 | u16::from(masks) | (self.random.next() as u16 & 0x1f00);
        let control = if control & 0x300 == 0x100 { control | 0x200 } else { control };
        let raised = if self.chance(3) { self.byte() & 0x7f } else { 0 };
        let mut status = self.random.next() as u16 & 0x7f00 & !0x80 | u16::from(raised);
        if raised & !masks & 0x3f != 0 {
            status |= 0x8080;
        }
        state.set(image::CONTROL, &control.to_le_bytes());
        state.set(image::STATUS, &status.to_le_bytes());
        let tags = match self.below(3) {
            0 => self.byte(),
            1 => 0xff,
            _ => self.byte() | self.byte(),
        };
        state.image[image::TAGS] = tags;
        for number in 0..8 {
            let (sign_exp, sig) = self.f80();
            let at = image::X87 + 16 * number;
            state.set(at, &sig.to_le_bytes());
            state.set(at + 8, &sign_exp.to_le_bytes());
        }
    }

    /// Sign and exponent, and significand.
    pub fn f80(&mut self) -> (u16, u64) {
        let sign = (self.random.next() as u16) << 15;
        let exp = match self.below(8) {
            0 => self.below(3) as u16,
            1 => 0x7fff - self.below(3) as u16,
            2 => (0x3fff - 0x3ff - 60 + self.below(64)) as u16,
            3 => (0x3fff - 0x7f - 30 + self.below(34)) as u16,
            4 => 0x3fff + [0x3fe, 0x7e][self.below(2)] + self.below(4) as u16,
            5 => self.random.next() as u16,
            _ => (0x3fff - 70 + self.below(140)) as u16,
        };
        let sig = self.random.pattern(64);
        match self.below(16) {
            0 => (sign | exp & 0x7fff, sig & !(1 << 63)),
            1 => (sign, 0),
            _ => (sign | exp & 0x7fff, sig | 1 << 63),
        }
    }

    /// MXCSR and the header of an area to be restored, well-formed more often than not.
    pub fn area(&mut self) -> (u32, [u64; 3]) {
        let components = |generator: &mut Self| {
            generator.random.next() & 7 | if generator.chance(16) { 8 } else { 0 }
        };
        let present = components(self);
        let format = match self.below(4) {
            0 => 1 << 63 | present,
            1 => 1 << 63 | components(self),
            2 if self.chance(8) => components(self),
            _ => 0,
        };
        let rest = u64::from(self.chance(16));
        (self.random.next() as u32 & 0xffff, [present, format, rest])
    }

    /// What to put into memory where the operand is.
    pub fn operand(&mut self, insn: &Instruction, landing: u64) -> [u8; 64] {
        let mut bytes = [0; 64];
        if self.group == Group::Flow {
            let flags = matches!(insn.mnemonic(), M::Popf | M::Popfd | M::Popfq);
            let trap = if self.chance(4) { bit::TF } else { 0 };
            let value = if flags { self.random.next() & !bit::TF | trap } else { landing };
            bytes[..8].copy_from_slice(&value.to_le_bytes());
            return bytes;
        }
        let kind = self.below(5);
        for word in bytes.chunks_mut(8) {
            let value = match kind {
                0 | 1 => self.value(),
                2 => self.random.f64(),
                3 => u64::from(self.random.f32()) << 32 | u64::from(self.random.f32()),
                _ => self.random.next() & 0x0303_0303_0303_0303,
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        match insn.mnemonic() {
            M::Fld | M::Fbld if kind < 4 && insn.memory_size().size() == 10 => {
                let (sign_exp, sig) = self.f80();
                bytes[..8].copy_from_slice(&sig.to_le_bytes());
                bytes[8..10].copy_from_slice(&sign_exp.to_le_bytes());
            }
            M::Ldmxcsr | M::Vldmxcsr => {
                let reserved = if self.chance(8) { 1 << 16 } else { 0 };
                let value = self.random.next() as u32 & 0xffff | reserved;
                bytes[..4].copy_from_slice(&value.to_le_bytes());
            }
            _ => {}
        }
        bytes
    }
}

/// Whether some processor takes an opcode of a VEX map that the decoder does not: newer instructions,
/// and VPERMQ and VPERMPD without W.
fn is_beyond(map: u8, opcode: u8) -> bool {
    let newer = matches!(opcode, 0x49 | 0x4b | 0x50..0x54 | 0xb0..);
    newer || map == 3 && opcode < 2
}
