//! The interpreter against the processor it runs on: random integer instructions, one at a time,
//! from the same registers, flags and memory.
#![allow(unsafe_code)]
// Unsafe: executes generated instructions natively. They are filtered to those that touch general
// registers, arithmetic flags, and memory only at RDI, RSI or RSP, which point into a page of the
// sandbox; the stub around them saves and restores what the host's calling convention needs.

use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic as M, OpKind, Register, RflagsBits,
};

use crate::flags::bit;
use crate::fpu::testing::Random;
use crate::interp::RunExit;
use crate::state::gpr;
use crate::testbed::Testbed;

/// Where the sandbox lies, in the host's address space and in the guest's alike.
const BASE: u64 = 0x80_0000;
/// Register file, flags before and after, the host's stack pointer.
const CONTEXT: u64 = BASE;
const FLAGS_IN: u64 = CONTEXT + 0x80;
const FLAGS_OUT: u64 = CONTEXT + 0x88;
const HOST_RSP: u64 = CONTEXT + 0x90;
const MXCSR: u64 = CONTEXT + 0x98;
/// What the host expects MXCSR to be.
const HOST_MXCSR: u64 = CONTEXT + 0xa0;
/// The XMM registers.
const VECTORS: u64 = CONTEXT + 0x100;
const CODE: u64 = BASE + 0x1000;
/// What the instructions may read and write.
const DATA: u64 = BASE + 0x2000;
const DATA_LEN: usize = 0x1000;
const LEN: usize = 0x3000;

/// Memory at [`BASE`] for code that runs natively.
struct Sandbox;

impl Sandbox {
    fn new() -> Self {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
        let at = std::num::NonZeroUsize::new(BASE as usize);
        let len = std::num::NonZeroUsize::new(LEN).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
        // SAFETY: a new mapping at an address where there is none.
        let mapped = unsafe { mmap_anonymous(at, len, protection, flags) }.unwrap();
        assert_eq!(mapped.as_ptr() as u64, BASE);
        Sandbox
    }
    fn bytes(&mut self, at: u64, len: usize) -> &mut [u8] {
        assert!(at >= BASE && at + len as u64 <= BASE + LEN as u64);
        // SAFETY: within the mapping, which lives as long as the process; `&mut self` makes the
        // reference the only one.
        unsafe { std::slice::from_raw_parts_mut(at as *mut u8, len) }
    }
    fn word(&mut self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }
    fn set_word(&mut self, at: u64, value: u64) {
        self.bytes(at, 8).copy_from_slice(&value.to_le_bytes());
    }

    /// Executes `insn` from `before`.
    fn run(&mut self, insn: &[u8], before: &State) -> State {
        let mut code = Vec::new();
        let absolute = |code: &mut Vec<u8>, opcode: u8, number: u8, at: u64| {
            code.extend([0x48 | (number >> 3) << 2, opcode, (number & 7) << 3 | 4, 0x25]);
            code.extend((at as u32).to_le_bytes());
        };
        let vector = |code: &mut Vec<u8>, opcode: u8, number: u8| {
            code.extend([
                0xf3,
                0x40 | (number >> 3) << 2,
                0x0f,
                opcode,
                (number & 7) << 3 | 4,
                0x25,
            ]);
            code.extend((VECTORS as u32 + u32::from(number) * 16).to_le_bytes());
        };
        const LDMXCSR: u8 = 0x14;
        const STMXCSR: u8 = 0x1c;
        let mxcsr = |code: &mut Vec<u8>, modrm: u8, at: u64| {
            code.extend([0x0f, 0xae, modrm, 0x25]);
            code.extend((at as u32).to_le_bytes());
        };
        let rsp_is = |code: &mut Vec<u8>, at: u64| {
            code.extend([0x48, 0xc7, 0xc4]);
            code.extend((at as u32).to_le_bytes());
        };
        // push rbx, rbp, r12-r15, flags
        code.extend([0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, 0x9c]);
        absolute(&mut code, 0x89, gpr::RSP as u8, HOST_RSP);
        rsp_is(&mut code, FLAGS_IN);
        code.push(0x9d);
        mxcsr(&mut code, LDMXCSR, MXCSR);
        for number in 0..16 {
            vector(&mut code, 0x6f, number);
            absolute(&mut code, 0x8b, number, CONTEXT + u64::from(number) * 8);
        }
        code.extend(insn);
        for number in 0..16 {
            absolute(&mut code, 0x89, number, CONTEXT + u64::from(number) * 8);
            vector(&mut code, 0x7f, number);
        }
        mxcsr(&mut code, STMXCSR, MXCSR);
        mxcsr(&mut code, LDMXCSR, HOST_MXCSR);
        rsp_is(&mut code, FLAGS_OUT + 8);
        code.push(0x9c);
        absolute(&mut code, 0x8b, gpr::RSP as u8, HOST_RSP);
        code.extend([0x9d, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3]);
        self.bytes(CODE, code.len()).copy_from_slice(&code);
        self.bytes(DATA, DATA_LEN).copy_from_slice(&before.data);
        for (number, value) in before.regs.iter().enumerate() {
            self.set_word(CONTEXT + number as u64 * 8, *value);
        }
        for (number, value) in before.vectors.iter().enumerate() {
            self.bytes(VECTORS + number as u64 * 16, 16).copy_from_slice(&value.to_le_bytes());
        }
        self.set_word(FLAGS_IN, before.flags | 0x202);
        self.set_word(MXCSR, before.mxcsr.into());
        self.set_word(HOST_MXCSR, 0x1f80);
        // SAFETY: the code just written is a function by the host's calling convention (see the
        // head of the file).
        unsafe {
            let stub: extern "sysv64" fn() = std::mem::transmute(CODE as *const u8);
            stub();
        }
        let mut after = before.clone();
        for (number, value) in after.regs.iter_mut().enumerate() {
            *value = self.word(CONTEXT + number as u64 * 8);
        }
        for (number, value) in after.vectors.iter_mut().enumerate() {
            let bytes = self.bytes(VECTORS + number as u64 * 16, 16);
            *value = u128::from_le_bytes(bytes.try_into().unwrap());
        }
        after.mxcsr = self.word(MXCSR) as u32;
        after.flags = self.word(FLAGS_OUT) & (bit::ARITH | bit::DF);
        after.data.copy_from_slice(self.bytes(DATA, DATA_LEN));
        after
    }
}

#[derive(Clone, PartialEq, Eq)]
struct State {
    regs: [u64; 16],
    vectors: [u128; 16],
    mxcsr: u32,
    flags: u64,
    data: Vec<u8>,
}

/// Executes `insn` in the interpreter; `None` if it faults.
fn interpret(bed: &mut Testbed, insn: &[u8], before: &State) -> Option<State> {
    bed.ram.write(CODE, insn);
    bed.ram.write(CODE + insn.len() as u64, &[0xf4]);
    bed.ram.write(DATA, &before.data);
    let cpu = &mut bed.cpu;
    cpu.state.regs[..16].copy_from_slice(&before.regs);
    for (vector, value) in cpu.state.vec.iter_mut().zip(&before.vectors) {
        vector.0[0] = *value;
    }
    cpu.state.mxcsr = before.mxcsr;
    cpu.state.flags.set(before.flags | 2);
    cpu.shutdown = false;
    cpu.update_mode();
    let exit = bed.run(CODE);
    if exit != RunExit::Halted {
        return None;
    }
    let mut after = before.clone();
    after.regs.copy_from_slice(&bed.cpu.state.regs[..16]);
    for (value, vector) in after.vectors.iter_mut().zip(&bed.cpu.state.vec) {
        *value = vector.0[0];
    }
    after.mxcsr = bed.cpu.state.mxcsr;
    after.flags = bed.cpu.state.flags.get() & (bit::ARITH | bit::DF);
    bed.ram.read(DATA, &mut after.data);
    Some(after)
}

/// A small generator of pseudo-random numbers (xorshift64*).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    /// A value that is often close to a limit.
    fn value(&mut self) -> u64 {
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
fn generate(rng: &mut Rng) -> Vec<u8> {
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
fn is_safe(insn: &Instruction) -> bool {
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
                || insn.memory_base() == Register::RDI && insn.memory_index() == Register::None
        }
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => false,
        _ => true,
    });
    host_has && general
}

/// Bytes that look like an SSE instruction.
fn generate_vector(rng: &mut Rng) -> Vec<u8> {
    let opcode = match rng.below(6) {
        0 => vec![0x38, rng.next() as u8],
        1 => vec![0x3a, rng.next() as u8 & 0x7f],
        _ => vec![rng.next() as u8],
    };
    vector_instruction(rng, &opcode)
}

/// Bytes that look like a floating-point SSE instruction.
fn generate_float(rng: &mut Rng) -> Vec<u8> {
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
fn generate_strings(rng: &mut Rng) -> Vec<u8> {
    let opcode = [0x3a, 0x60 | rng.next() as u8 & 3];
    vector_instruction(rng, &opcode)
}

/// An SSE instruction with operands by chance.
fn vector_instruction(rng: &mut Rng, opcode: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let random = rng.next() as u8;
    let memory = rng.below(2) == 0;
    let modrm = if memory { random & 0x38 | 0x47 } else { random | 0xc0 };
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

/// Whether the interpreter knows the vector instruction, the host can run it and it stays within the
/// sandbox.
fn is_safe_vector(insn: &Instruction) -> bool {
    let known = crate::interp::decode::is_vector(insn, CODE);
    let registers = (0..insn.op_count()).all(|n| match insn.op_kind(n) {
        OpKind::Register => {
            let register = insn.op_register(n);
            register.is_gpr() || register.is_xmm()
        }
        OpKind::Memory => {
            insn.memory_base() == Register::RDI && insn.memory_index() == Register::None
        }
        kind => kind == OpKind::Immediate8,
    });
    let uses_xmm = (0..insn.op_count())
        .any(|n| insn.op_kind(n) == OpKind::Register && insn.op_register(n).is_xmm());
    let host_has = std::arch::is_x86_feature_detected!("sse4.2")
        && insn.cpuid_features().iter().all(|feature| match feature {
            CpuidFeature::SHA => std::arch::is_x86_feature_detected!("sha"),
            CpuidFeature::AES => std::arch::is_x86_feature_detected!("aes"),
            CpuidFeature::PCLMULQDQ => std::arch::is_x86_feature_detected!("pclmulqdq"),
            CpuidFeature::GFNI => std::arch::is_x86_feature_detected!("gfni"),
            CpuidFeature::SSE4A => std::arch::is_x86_feature_detected!("sse4a"),
            _ => true,
        });
    // Silicon has approximations of its own.
    let exact = !matches!(insn.mnemonic(), M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss);
    known && registers && uses_xmm && host_has && exact && !insn.is_invalid()
}

/// Registers, flags and memory for `insn` to start from.
fn start(rng: &mut Rng, insn: &Instruction) -> State {
    let mut regs = [0; 16];
    for reg in &mut regs {
        *reg = rng.value();
    }
    if insn.is_string_instruction() {
        regs[gpr::RCX] &= 0x1f;
    }
    if insn.op_count() > 1
        && insn.op0_kind() == OpKind::Memory
        && matches!(insn.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
        && insn.op1_kind() == OpKind::Register
    {
        // A bit string within the page.
        let reg = &mut regs[insn.op1_register().full_register().number()];
        *reg = (*reg & 0x1fff).wrapping_sub(0x1000);
    }
    regs[gpr::RSI] = DATA + 0x400;
    regs[gpr::RDI] = DATA + 0x800;
    regs[gpr::RSP] = DATA + 0xc00;
    if matches!(insn.mnemonic(), M::Enter | M::Leave) {
        regs[gpr::RBP] = DATA + 0xe00;
    }
    let direction = if rng.below(4) == 0 { bit::DF } else { 0 };
    let mut data = vec![0; DATA_LEN];
    for word in data.chunks_mut(8) {
        word.copy_from_slice(&rng.value().to_le_bytes());
    }
    let mut random = Random::seeded(rng.next());
    let kind = rng.below(5);
    let mut half = || match kind {
        0 | 1 => rng.value(),
        2 => random.f64(),
        3 => u64::from(random.f32()) << 32 | u64::from(random.f32()),
        // Strings of few different characters.
        _ => rng.next() & 0x0303_0303_0303_0303,
    };
    for word in data[0x780..0x900].chunks_mut(8) {
        word.copy_from_slice(&half().to_le_bytes());
    }
    let vectors = std::array::from_fn(|_| u128::from(half()) << 64 | u128::from(half()));
    // All exceptions masked; any rounding mode, FTZ and DAZ.
    let mxcsr = 0x1f80 | rng.next() as u32 & [0, 0x3f, 0xe07f][rng.below(3)];
    State { regs, vectors, mxcsr, flags: rng.next() & bit::ARITH | direction, data }
}

/// RFLAGS bits that the manual leaves undefined after `insn`.
fn undefined(insn: &Instruction) -> u64 {
    let pairs = [
        (RflagsBits::OF, bit::OF),
        (RflagsBits::SF, bit::SF),
        (RflagsBits::ZF, bit::ZF),
        (RflagsBits::AF, bit::AF),
        (RflagsBits::CF, bit::CF),
        (RflagsBits::PF, bit::PF),
    ];
    let mask = insn.rflags_undefined();
    pairs.iter().filter(|(iced, _)| mask & iced != 0).fold(0, |set, (_, bit)| set | bit)
}

/// Whether what the manual leaves undefined is in a register.
fn undefined_result(insn: &Instruction, before: &State) -> bool {
    match insn.mnemonic() {
        M::Bswap => insn.op0_register().is_gpr16(),
        M::Shld | M::Shrd if insn.op1_register().is_gpr16() => {
            let count = if insn.op2_kind() == OpKind::Register {
                before.regs[gpr::RCX] as u8
            } else {
                insn.immediate8()
            };
            count & 31 > 16
        }
        _ => false,
    }
}

#[test]
fn instructions_do_what_the_host_does() {
    let mut sandbox = Sandbox::new();
    compare(&mut sandbox, 60_000, 90, generate, is_safe);
    compare(&mut sandbox, 60_000, 90, generate_vector, is_safe_vector);
    compare(&mut sandbox, 20_000, 3, generate_strings, is_safe_vector);
    compare(&mut sandbox, 200_000, 60, generate_float, is_safe_vector);
}

/// Compares `count` instructions that `generate` makes and `is_safe` lets pass, of more than `least`
/// mnemonics.
fn compare(
    sandbox: &mut Sandbox,
    count: usize,
    least: usize,
    generate: fn(&mut Rng) -> Vec<u8>,
    is_safe: fn(&Instruction) -> bool,
) {
    let mut bed = Testbed::new().unwrap();
    let mut rng = Rng(0x1234_5678_9abc_def1);
    let mut compared = 0;
    let mut differing = std::collections::BTreeMap::new();
    let mut mnemonics = std::collections::BTreeSet::new();
    while compared < count {
        let bytes = generate(&mut rng);
        let insn = Decoder::with_ip(64, &bytes, CODE, DecoderOptions::NONE).decode();
        if !is_safe(&insn) {
            continue;
        }
        let bytes = &bytes[..insn.len()];
        let before = start(&mut rng, &insn);
        if undefined_result(&insn, &before) {
            continue;
        }
        // Division faults, as may a misaligned CMPXCHG16B; the host must not.
        let Some(ours) = interpret(&mut bed, bytes, &before) else {
            let expected = matches!(insn.mnemonic(), M::Div | M::Idiv | M::Cmpxchg16b);
            assert!(
                expected || bed.cpu.fault.vector == crate::vector::GP,
                "{insn:?} {bytes:02x?}: {:?}",
                bed.cpu.fault
            );
            continue;
        };
        let mut theirs = sandbox.run(bytes, &before);
        let mask = undefined(&insn);
        theirs.flags = theirs.flags & !mask | ours.flags & mask;
        if insn.mnemonic() == M::Pushf || insn.mnemonic() == M::Pushfq {
            // The image holds IF and more that the host sets.
            theirs.data.clone_from(&ours.data);
        }
        compared += 1;
        mnemonics.insert(format!("{:?}", insn.mnemonic()));
        if ours == theirs {
            continue;
        }
        let regs: Vec<_> = (0..16)
            .filter(|&n| ours.regs[n] != theirs.regs[n])
            .map(|n| {
                format!(
                    "r{n}: {:#x} is {:#x}, not {:#x}",
                    before.regs[n], theirs.regs[n], ours.regs[n]
                )
            })
            .collect();
        let vectors: Vec<_> = (0..16)
            .filter(|&n| ours.vectors[n] != theirs.vectors[n])
            .map(|n| {
                let (old, theirs, ours) = (before.vectors[n], theirs.vectors[n], ours.vectors[n]);
                format!("xmm{n}: {old:#x} is {theirs:#x}, not {ours:#x}")
            })
            .collect();
        let data = (0..DATA_LEN).find(|&i| ours.data[i] != theirs.data[i]);
        let report = format!(
            "{bytes:02x?} {regs:?} {vectors:?}; MXCSR {:#x} becomes {:#x}, not {:#x}; flags {:#x} become {:#x}, not {:#x}; data at {data:x?}; from {:x?}",
            before.mxcsr,
            theirs.mxcsr,
            ours.mxcsr,
            before.flags,
            theirs.flags,
            ours.flags,
            before.regs
        );
        differing.entry(format!("{:?}", insn.code())).or_insert(report);
    }
    assert!(differing.is_empty(), "{differing:#?}");
    assert!(mnemonics.len() > least, "{mnemonics:?}");
}
