//! Random instructions that stay within general and vector registers and the memory around RDI, RSI
//! and RSP.

use iced_x86::{CpuidFeature, Instruction, Mnemonic as M, OpKind, Register};

/// A small generator of pseudo-random numbers (xorshift64*).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    /// A value that is often close to a limit.
    pub fn value(&mut self) -> u64 {
        let random = self.next();
        match self.below(6) {
            0 => random & 0xff,
            1 => 0_u64.wrapping_sub(random & 0xff),
            2 => 1 << (random & 63),
            3 => (1_u64 << (random & 63)).wrapping_sub(1),
            4 => random & 0xffff_ffff,
            _ => random,
        }
    }
}

const ONE_BYTE: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x10, 0x11, 0x12, 0x13,
    0x14, 0x15, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x28, 0x29,
    0x2a, 0x2b, 0x2c, 0x2d, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d,
    0x50, 0x51, 0x54, 0x56, 0x58, 0x5a, 0x5c, 0x5f, 0x63, 0x68, 0x69, 0x6a, 0x6b, 0x80, 0x81, 0x83,
    0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0x8f, 0x90, 0x91, 0x96, 0x98, 0x99, 0x9c,
    0x9e, 0x9f, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xb0, 0xb4,
    0xb8, 0xbf, 0xc0, 0xc1, 0xc6, 0xc7, 0xc8, 0xc9, 0xd0, 0xd1, 0xd2, 0xd3, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfc, 0xfd, 0xfe, 0xff, 0xc0, 0xc1, 0xd2, 0xd3, 0xf6, 0xf7,
];
const TWO_BYTE: &[u8] = &[
    0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f,
    0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f,
    0xa3, 0xa4, 0xa5, 0xab, 0xac, 0xad, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xb8, 0xba, 0xbb, 0xbc,
    0xbd, 0xbe, 0xbf, 0xc0, 0xc1, 0xc3, 0xc7, 0xc8, 0xcb, 0xcf, 0x1f,
];
const THREE_BYTE: &[u8] = &[0xf0, 0xf1, 0xf6];
const VEX: &[(u8, u8)] = &[(2, 0xf2), (2, 0xf3), (2, 0xf5), (2, 0xf6), (2, 0xf7), (3, 0xf0)];

/// Bytes that look like an integer instruction.
pub fn generate(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    // In half of the cases a register operand; otherwise [rdi+disp8].
    let modrm = rng.next() as u8;
    let memory = rng.below(2) == 0;
    let modrm = if memory { modrm & 0x38 | 0x47 } else { modrm | 0xc0 };
    let no_b = if memory { !1 } else { !0 };
    if rng.below(8) == 0 {
        let (map, opcode) = rng.pick(VEX);
        let b = if memory { 0x20 } else { 0 };
        bytes.extend([0xc4, rng.next() as u8 & 0xa0 | b | 0x40 | map]);
        bytes.extend([rng.next() as u8 & 0xfb, opcode]);
    } else {
        match rng.below(8) {
            0 | 1 => bytes.push(0x66),
            2 => bytes.push(rng.pick(&[0xf2, 0xf3])),
            3 if memory => bytes.push(0xf0),
            _ => {}
        }
        if rng.below(2) == 0 {
            bytes.push((0x40 | rng.next() as u8 & 0xf) & no_b);
        }
        match rng.below(20) {
            0..10 => bytes.push(rng.pick(ONE_BYTE)),
            10..18 => bytes.extend([0x0f, rng.pick(TWO_BYTE)]),
            _ => bytes.extend([0x0f, 0x38, rng.pick(THREE_BYTE)]),
        }
    }
    bytes.push(modrm);
    bytes.extend(rng.next().to_le_bytes());
    bytes
}

/// Whether the host can run the instruction and it stays within the sandbox.
pub fn is_safe(insn: &Instruction) -> bool {
    if insn.is_invalid() || insn.is_privileged() {
        return false;
    }
    let host_has = match insn.mnemonic() {
        M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr | M::Tzcnt => {
            std::arch::is_x86_feature_detected!("bmi1")
        }
        M::Bzhi | M::Mulx | M::Pdep | M::Pext | M::Rorx | M::Sarx | M::Shlx | M::Shrx => {
            std::arch::is_x86_feature_detected!("bmi2")
        }
        M::Adcx | M::Adox => std::arch::is_x86_feature_detected!("adx"),
        M::Lzcnt => std::arch::is_x86_feature_detected!("lzcnt"),
        M::Popcnt => std::arch::is_x86_feature_detected!("popcnt"),
        M::Movbe => std::arch::is_x86_feature_detected!("movbe"),
        M::Crc32 => std::arch::is_x86_feature_detected!("sse4.2"),
        M::Cmpxchg16b => std::arch::is_x86_feature_detected!("cmpxchg16b"),
        M::Xsavec
        | M::Xsaves
        | M::Xrstors
        | M::Vmptrld
        | M::Vmptrst
        | M::Rdrand
        | M::Rdseed
        | M::Rdpid
        | M::Wrussd
        | M::Wrussq
        | M::Wrssd
        | M::Wrssq
        | M::Xbegin
        | M::Xabort
        | M::Call
        | M::Jmp
        | M::Aadd
        | M::Aand
        | M::Aor
        | M::Axor
        | M::Senduipi
        | M::Vmclear
        | M::Vmxon
        | M::Xsavec64
        | M::Xsaves64
        | M::Xrstors64
        | M::Cmppd
        | M::Cmpps => false,
        // With REX.B, some processors take it for XCHG.
        M::Pause => false,
        // A bit number that is also an address leads far away.
        M::Bt | M::Bts | M::Btr | M::Btc if insn.op0_kind() == OpKind::Memory => !matches!(
            insn.op1_register().full_register(),
            Register::RSI | Register::RDI | Register::RSP
        ),
        // A frame of its own size, far below the page.
        M::Enter => insn.immediate16() < 512 && insn.immediate8_2nd() & 31 <= 1,
        _ => true,
    };
    let general = (0..insn.op_count()).all(|n| match insn.op_kind(n) {
        OpKind::Register => insn.op_register(n).is_gpr(),
        OpKind::Memory => {
            insn.mnemonic() == M::Lea
                || insn.memory_base().full_register() == Register::RDI
                    && insn.memory_index() == Register::None
        }
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => false,
        _ => true,
    });
    host_has && general
}

/// Bytes that look like an SSE instruction.
pub fn generate_vector(rng: &mut Rng) -> Vec<u8> {
    let opcode = match rng.below(6) {
        0 => vec![0x38, rng.next() as u8],
        1 => vec![0x3a, rng.next() as u8 & 0x7f],
        _ => vec![rng.next() as u8],
    };
    vector_instruction(rng, &opcode)
}

/// Bytes that look like a floating-point SSE instruction.
pub fn generate_float(rng: &mut Rng) -> Vec<u8> {
    const OPCODES: [&[u8]; 27] = [
        &[0x2a],
        &[0x2c],
        &[0x2d],
        &[0x2e],
        &[0x2f],
        &[0x51],
        &[0x58],
        &[0x59],
        &[0x5a],
        &[0x5b],
        &[0x5c],
        &[0x5d],
        &[0x5e],
        &[0x5f],
        &[0x7c],
        &[0x7d],
        &[0xc2],
        &[0xc2],
        &[0xc2],
        &[0xd0],
        &[0xe6],
        &[0x3a, 0x08],
        &[0x3a, 0x09],
        &[0x3a, 0x0a],
        &[0x3a, 0x0b],
        &[0x3a, 0x40],
        &[0x3a, 0x41],
    ];
    let opcode = OPCODES[rng.below(OPCODES.len())];
    vector_instruction(rng, opcode)
}

/// Bytes of a string comparison.
pub fn generate_strings(rng: &mut Rng) -> Vec<u8> {
    let opcode = [0x3a, 0x60 | rng.next() as u8 & 3];
    vector_instruction(rng, &opcode)
}

/// Instructions that would lead far away if nothing prepared their operands.
pub fn generate_prepared(rng: &mut Rng) -> Vec<u8> {
    let displacement = rng.next() as u8 & 0x7c;
    match rng.below(3) {
        0 => {
            // mov r, imm32; bt, bts, btr or btc [rdi+disp8], r; cmp rsi, rdi
            let (number, wide) = (rng.pick(&[0, 1, 2, 3, 5, 8, 10, 14]), rng.next() as u8 & 8);
            let (high, low) = (number >> 3, number & 7);
            let mut bytes = vec![0x48 | high, 0xc7, 0xc0 | low];
            bytes.extend((rng.below(0x1000) as i32 - 0x800).to_le_bytes());
            let operation = rng.pick(&[0xa3, 0xab, 0xb3, 0xbb]);
            if operation != 0xa3 && rng.below(2) == 0 {
                bytes.push(0xf0);
            }
            bytes.extend([0x40 | wide | high << 2, 0x0f, operation, 0x47 | low << 3]);
            bytes.extend([displacement, 0x48, 0x39, 0xfe]);
            bytes
        }
        1 if std::arch::is_x86_feature_detected!("avx2") => {
            // vpsrld or vpsrlq index, index, count; a gather of [rdi+disp8+index*scale]
            let opcode = 0x90 | rng.next() as u8 & 3;
            let long = rng.next() as u8 & 4;
            let far = opcode & 1 != 0;
            let [result, index, mask] = match rng.below(3) {
                0 => [0, 1, 2],
                1 => [9, 10, 3],
                _ => [4, 13, 15],
            };
            let not = |number: u8| (!number & 15) << 3;
            let mut bytes = vec![0xc4, 0xe1 & !((index >> 3) << 5), 0x01 | not(index) | 4];
            let (shift, count) = if far { (0x73, 55) } else { (0x72, 23) };
            bytes.extend([shift, 0xd0 | index & 7, count]);
            let extensions = (!result >> 3 & 1) << 7 | (!index >> 3 & 1) << 6 | 0x20;
            let wide = rng.next() as u8 & 0x80;
            bytes.extend([0xc4, extensions | 2, wide | not(mask) | long | 1, opcode]);
            let scale = rng.next() as u8 & 3;
            bytes.extend([0x44 | (result & 7) << 3, scale << 6 | (index & 7) << 3 | 7]);
            bytes.push(displacement);
            bytes
        }
        // ldmxcsr or stmxcsr [rdi+disp8]
        _ => vec![0x0f, 0xae, if rng.below(8) == 0 { 0x57 } else { 0x5f }, displacement],
    }
}

/// Bytes that look like an x87 instruction.
pub fn generate_x87(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0xd8 | rng.next() as u8 & 7];
    let random = rng.next() as u8;
    bytes.push(if rng.below(2) == 0 { random & 0x38 | 0x47 } else { random | 0xc0 });
    // Displacements that are now and then no multiple of 8.
    bytes.push(if rng.below(8) == 0 { rng.next() as u8 } else { rng.next() as u8 & 0x78 });
    bytes
}

/// Bytes that look like an MMX instruction.
pub fn generate_mmx(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0x0f];
    match rng.below(4) {
        0 => bytes.extend([0x38, rng.next() as u8]),
        1 => bytes.extend([0x3a, 0x0f]),
        2 => bytes.push(rng.pick(&[0x6e, 0x6f, 0x7e, 0x7f, 0x77, 0x70, 0xc4, 0xc5, 0xd7, 0xe7])),
        _ => bytes.push(0x60 | rng.next() as u8 & 0x9f),
    }
    let random = rng.next() as u8;
    bytes.push(if rng.below(2) == 0 { random & 0x38 | 0x47 } else { random | 0xc0 });
    bytes.extend([rng.next() as u8, rng.next() as u8]);
    if rng.below(4) == 0 {
        bytes.insert(0, rng.pick(&[0x48, 0x4c, 0xf2, 0xf3]));
    }
    bytes
}

/// Whether the x87 or MMX instruction stays within the data, and processors agree on it.
pub fn is_safe_fpu(insn: &Instruction) -> bool {
    let operands = (0..insn.op_count()).all(|n| match insn.op_kind(n) {
        OpKind::Register => true,
        OpKind::Memory => {
            insn.memory_base().full_register() == Register::RDI
                && insn.memory_index() == Register::None
        }
        kind => kind == OpKind::Immediate8,
    });
    let mmx = insn.mnemonic() == M::Emms
        || (0..insn.op_count())
            .any(|n| insn.op_kind(n) == OpKind::Register && insn.op_register(n).is_mm());
    let x87 = insn
        .cpuid_features()
        .iter()
        .any(|set| matches!(set, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387));
    // The transcendental functions differ in the last bits from one processor to the next.
    let approximate = matches!(
        insn.mnemonic(),
        M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fpatan | M::Fptan | M::Fsin | M::Fcos | M::Fsincos
    );
    let known = insn.cpuid_features().iter().all(|set| {
        !matches!(set, CpuidFeature::D3NOW | CpuidFeature::D3NOWEXT | CpuidFeature::CYRIX_FPU)
    });
    operands && (x87 || mmx) && !approximate && known && !insn.is_invalid()
}

/// An SSE or AVX instruction with operands by chance.
fn vector_instruction(rng: &mut Rng, opcode: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let random = rng.next() as u8;
    let memory = rng.below(2) == 0;
    let modrm = if memory { random & 0x38 | 0x47 } else { random | 0xc0 };
    if rng.below(3) == 0 && std::arch::is_x86_feature_detected!("avx2") {
        let map = match opcode[0] {
            0x38 => 2,
            0x3a => 3,
            _ => 1,
        };
        let b = if memory { 0x20 } else { 0 };
        bytes.extend([0xc4, rng.next() as u8 & 0xa0 | b | 0x40 | map]);
        bytes.extend([rng.next() as u8 & 0x7f, opcode[opcode.len() - 1], modrm]);
        bytes.push(random & 0x70);
        bytes.extend(rng.next().to_le_bytes());
        return bytes;
    }
    if rng.below(6) != 0 {
        bytes.push(rng.pick(&[0x66, 0x66, 0xf2, 0xf3]));
    }
    if rng.below(2) == 0 {
        bytes.push((0x40 | rng.next() as u8 & 0xf) & if memory { !1 } else { !0 });
    }
    bytes.push(0x0f);
    bytes.extend(opcode);
    bytes.push(modrm);
    // Displacements are multiples of 16, so that memory is mostly aligned.
    bytes.push(if rng.below(8) == 0 { random } else { random & 0x70 });
    bytes.extend(rng.next().to_le_bytes());
    bytes
}

/// Whether the host can run the vector instruction and it stays within the data.
pub fn is_safe_vector(insn: &Instruction) -> bool {
    let registers = (0..insn.op_count()).all(|n| match insn.op_kind(n) {
        OpKind::Register => {
            let register = insn.op_register(n);
            register.is_gpr() || register.is_xmm() || register.is_ymm()
        }
        OpKind::Memory => {
            insn.memory_base().full_register() == Register::RDI
                && insn.memory_index() == Register::None
        }
        kind => kind == OpKind::Immediate8,
    });
    let uses_xmm = (0..insn.op_count())
        .any(|n| insn.op_kind(n) == OpKind::Register && insn.op_register(n).is_vector_register());
    let host_has = std::arch::is_x86_feature_detected!("sse4.2")
        && insn.cpuid_features().iter().all(|feature| match feature {
            // Some processors take misaligned operands of these.
            CpuidFeature::SHA => false,
            CpuidFeature::AES => std::arch::is_x86_feature_detected!("aes"),
            CpuidFeature::PCLMULQDQ => std::arch::is_x86_feature_detected!("pclmulqdq"),
            CpuidFeature::GFNI => std::arch::is_x86_feature_detected!("gfni"),
            CpuidFeature::SSE4A => std::arch::is_x86_feature_detected!("sse4a"),
            CpuidFeature::FMA => std::arch::is_x86_feature_detected!("fma"),
            CpuidFeature::F16C => std::arch::is_x86_feature_detected!("f16c"),
            _ => true,
        });
    // Silicon has approximations of its own.
    let exact = !matches!(
        insn.mnemonic(),
        M::Rcpps
            | M::Rcpss
            | M::Rsqrtps
            | M::Rsqrtss
            | M::Vrcpps
            | M::Vrcpss
            | M::Vrsqrtps
            | M::Vrsqrtss
    );
    registers && uses_xmm && host_has && exact && !insn.is_invalid()
}
