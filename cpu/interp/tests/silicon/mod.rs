//! The interpreter against the processor it runs on: random instructions from the same registers and
//! memory, both ways, exceptions included.
//!
//! Each group runs in a process of its own, which executes generated code. The normal run takes a
//! slice; the long one, ten million instructions of each group (`cargo xtask test --full`).

mod generate;
mod guest;
mod layout;
mod sandbox;

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Instruction, Mnemonic as M, OpKind, Register, RflagsBits};

use crate::flags::bit;
use crate::fpu::env::flag;
use crate::state::gpr;
use generate::{Case, Generator, Group};
use guest::Guest;
use layout::*;
use sandbox::Sandbox;

/// RFLAGS bits that the manual leaves undefined after `insn`.
fn undefined_flags(insn: &Instruction) -> u64 {
    let pairs = [
        (RflagsBits::OF, bit::OF),
        (RflagsBits::SF, bit::SF),
        (RflagsBits::ZF, bit::ZF),
        (RflagsBits::AF, bit::AF),
        (RflagsBits::CF, bit::CF),
        (RflagsBits::PF, bit::PF),
    ];
    let mut mask = insn.rflags_undefined();
    let size = insn.op0_register().size().max(insn.memory_size().size()) as u32;
    let count = u32::from(insn.immediate8()) & 31;
    if matches!(insn.mnemonic(), M::Rcl | M::Rcr)
        && insn.op1_kind() == OpKind::Immediate8
        && size < 4
        && count > 1
    {
        // Also where the count is that of a whole turn.
        mask |= RflagsBits::OF;
    }
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

/// CMPS, which reads two operands and whose flags a repetition changes again and again; and SCAS.
fn is_comparison(insn: &Instruction) -> bool {
    use M::{Cmpsb, Cmpsq, Cmpsw, Scasb, Scasd, Scasq, Scasw};
    let two = insn.op0_kind() != OpKind::Register && insn.op1_kind() != OpKind::Register;
    match insn.mnemonic() {
        Cmpsb | Cmpsw | Cmpsq | Scasb | Scasw | Scasd | Scasq => true,
        M::Cmpsd => two,
        _ => false,
    }
}

/// Whether elements of the operand are stored each by itself, so that any may be the one that faults.
fn by_element(insn: &Instruction) -> bool {
    use M::{Vmaskmovdqu, Vmaskmovpd, Vmaskmovps, Vpmaskmovd, Vpmaskmovq};
    matches!(
        insn.mnemonic(),
        M::Maskmovq
            | M::Maskmovdqu
            | Vmaskmovdqu
            | Vmaskmovps
            | Vmaskmovpd
            | Vpmaskmovd
            | Vpmaskmovq
    )
}

/// Whether a fault in the second part of the operand may leave the first one stored.
fn in_pieces(insn: &Instruction) -> bool {
    let ten_bytes = matches!(insn.mnemonic(), M::Fstp | M::Fbstp);
    ten_bytes && insn.memory_size().size() == 10
        || matches!(insn.mnemonic(), M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64)
        || matches!(insn.mnemonic(), M::Xsavec | M::Xsavec64)
}

/// Whether a component of the state has the values that it is initialized to.
fn looks_initial(state: &State) -> bool {
    let vectors = |half: usize| (0..16).all(|n| state.vector(n)[half] == 0);
    state.word(image::CONTROL) as u16 == 0x37f || vectors(0) || vectors(1)
}

/// Both sides, with the memory they share the contents of.
struct Pair {
    sandbox: Sandbox,
    guest: Guest,
    generator: Generator,
    group: Group,
    bits: u32,
    compared: usize,
    faults: BTreeMap<u8, usize>,
    mnemonics: BTreeSet<String>,
    differing: BTreeMap<String, String>,
}

impl Pair {
    fn new(group: Group, bits: u32) -> Self {
        let mut pair = Pair {
            sandbox: Sandbox::new(bits),
            guest: Guest::new(bits),
            generator: Generator::new(group, bits),
            group,
            bits,
            compared: 0,
            faults: BTreeMap::new(),
            mnemonics: BTreeSet::new(),
            differing: BTreeMap::new(),
        };
        for at in (DATA..HOLE).step_by(64) {
            let bytes: Vec<u8> =
                (0..8).flat_map(|_| pair.generator.value().to_le_bytes()).collect();
            pair.write(at, &bytes);
        }
        pair
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.sandbox.bytes(at, bytes.len()).copy_from_slice(bytes);
        self.guest.write(at, bytes);
    }

    /// Compares about `count` instructions.
    fn compare(&mut self, count: usize) {
        while self.compared < count && self.differing.len() < 24 {
            // A batch per page of code, the last case of which goes on in the next page.
            let mut batch = Vec::new();
            for slot in 0..0x1000 / SLOT as u64 {
                let mut at = CODE + slot * SLOT as u64;
                if slot == 0x1000 / SLOT as u64 - 1 {
                    at = CODE + 0x1000 - self.generator.random.below(12) - 1;
                }
                let case = self.generator.case(at);
                self.sandbox.place(at, &case.code);
                self.guest.place(at, &case.code);
                batch.push((at, case));
            }
            let mut state = self.generator.state();
            for (at, case) in batch {
                if self.generator.random.below(8) == 0 {
                    state = self.generator.state();
                }
                self.compare_case(at, &case, &mut state);
            }
        }
    }

    /// Puts something into memory where the first instruction's operand is; `false` if it should not run.
    fn prepare_memory(&mut self, case: &Case, place: u64, state: &mut State) -> bool {
        let insn = &case.insns[0];
        let within = place.clamp(DATA, HOLE - 64);
        if within != place && matches!(insn.mnemonic(), M::Ldmxcsr | M::Vldmxcsr) {
            // Of what lies there, the processor may know more bits.
            return false;
        }
        let end = place + insn.memory_size().size() as u64;
        if self.group == Group::X87 && state.word(image::CONTROL) & 0x3f != 0x3f {
            // Of an exception that keeps a number from being stored, and a page fault, which comes first
            // is open.
            let readable = self.bits == 64 || insn.memory_segment() != Register::CS;
            if place < DATA || end > HOLE || !readable {
                return false;
            }
        }
        // The same of the first bound and a second one that is not there; and which part of an operand
        // in two pages is met first.
        let ends_elsewhere = end > HOLE && insn.mnemonic() == M::Bound;
        let in_two = place >= HOLE && (place & 0xfff) + 32 > 0x1000 && by_element(insn);
        if ends_elsewhere || in_two {
            return false;
        }
        let operand = self.generator.operand(insn, case.landing);
        if self.group == Group::Flow {
            // Nothing but that may tell where to go.
            let end = (HOLE - place.min(HOLE)).min(8) as usize;
            self.write(place.min(HOLE), &operand[..end]);
            return (DATA..CONSTANT - 8).contains(&place);
        }
        self.write(within, &operand);
        if self.group == Group::Areas && place > HOLE - IMAGE as u64 {
            // Of what is not mapped and what may not be restored, which comes first is open.
            let mut good = State { image: [0; IMAGE], ..state.clone() };
            good.set(image::MXCSR, &0x1f80_u32.to_le_bytes());
            good.image[image::HEADER] = 7;
            state.regs[gpr::RAX] = 7;
            self.write(place, &good.image[..(HOLE - place.min(HOLE)) as usize]);
        } else if self.group == Group::Areas {
            let (mxcsr, header) = self.generator.area();
            self.write(place + image::MXCSR as u64, &mxcsr.to_le_bytes());
            for (i, word) in header.into_iter().enumerate() {
                self.write(place + image::HEADER as u64 + 8 * i as u64, &word.to_le_bytes());
            }
        }
        true
    }

    fn compare_case(&mut self, at: u64, case: &Case, state: &mut State) {
        while self.group == Group::Areas && looks_initial(state) {
            // Whether such registers count as in use is the processor's own.
            *state = self.generator.state();
        }
        let Some(place) = self.generator.aim(case, state) else { return };
        if case.insns.iter().any(|insn| undefined_result(insn, state)) {
            return;
        }
        state.image[image::HEADER] = 7;
        state.flags &= !bit::TF;
        if self.bits != 64 {
            state.regs.iter_mut().for_each(|reg| *reg &= 0xffff_ffff);
        }
        if is_comparison(&case.insns[0]) {
            // Which of two operands faults first is open.
            state.flags &= !bit::AC;
        }
        if !self.prepare_memory(case, place, state) {
            return;
        }
        let before = state.clone();
        let mut ours = before.clone();
        let expected = self.sandbox.run(at, case.code.len(), state);
        let got = self.guest.run(at, case.code.len(), &mut ours);
        let (expected, got) = match case.insns[0].mnemonic() {
            // Reached in pieces: the address is that of any.
            M::Fldenv | M::Fnstenv | M::Fnsave | M::Frstor => (expected.page(), got.page()),
            _ if self.group == Group::Areas || by_element(&case.insns[0]) => {
                (expected.page(), got.page())
            }
            _ if is_comparison(&case.insns[0]) => {
                (Outcome { address: 0, ..expected }, Outcome { address: 0, ..got })
            }
            _ => (expected, got),
        };
        self.compared += case.insns.len();
        for insn in &case.insns {
            self.mnemonics.insert(format!("{:?}", insn.mnemonic()));
        }
        if let Some(vector) = expected.vector {
            *self.faults.entry(vector).or_default() += 1;
        }
        forgive(case, state, &mut ours);
        if expected.vector.is_some() && expected == got {
            let page_fault = expected.vector == Some(crate::vector::PF);
            forgive_after_fault(&case.insns[0], page_fault, state, &mut ours);
            if page_fault && in_pieces(&case.insns[0]) {
                let theirs = self.sandbox.bytes(DATA, DATA_LEN).to_vec();
                self.guest.write(DATA, &theirs);
            }
        }
        if self.group == Group::Areas && (DATA..HOLE - 32).contains(&place) {
            // Which bits of MXCSR exist is the processor's own.
            let mask = self.sandbox.bytes(place + image::MXCSR_MASK as u64, 4).to_vec();
            self.guest.write(place + image::MXCSR_MASK as u64, &mask);
        }
        let mut ours_in_memory = [0; DATA_LEN];
        self.guest.read(&mut ours_in_memory);
        let theirs_in_memory = &*self.sandbox.bytes(DATA, DATA_LEN);
        let memory = (0..DATA_LEN).find(|&i| ours_in_memory[i] != theirs_in_memory[i]);
        if expected == got && ours == *state && memory.is_none() {
            return;
        }
        let report = report(case, &before, (&expected, state), (&got, &ours), memory);
        let theirs_in_memory = theirs_in_memory.to_vec();
        self.guest.write(DATA, &theirs_in_memory);
        let codes: Vec<_> = case.insns.iter().map(|insn| format!("{:?}", insn.code())).collect();
        self.differing.entry(codes.join(" ")).or_insert(report);
    }
}

/// Makes equal what no two kinds of processors need have in common.
fn forgive(case: &Case, theirs: &State, ours: &mut State) {
    let undefined = case.insns.iter().fold(0, |set, insn| set | undefined_flags(insn));
    ours.flags = ours.flags & !undefined | theirs.flags & undefined;
    let exceptions = theirs.word(image::MXCSR);
    let unmasked = exceptions & !(exceptions >> 7);
    if case.insns.iter().any(|insn| insn.mnemonic() == M::Vcvtps2ph)
        && unmasked & u32::from(flag::UE) != 0
    {
        // Some note of such an underflow too that it is inexact.
        let inexact = u32::from(flag::PE);
        let noted = ours.word(image::MXCSR) & !inexact | exceptions & inexact;
        ours.set(image::MXCSR, &noted.to_le_bytes());
    }
    let mut copy = |range: std::ops::Range<usize>| {
        ours.image[range.clone()].copy_from_slice(&theirs.image[range]);
    };
    copy(image::MXCSR_MASK..image::MXCSR_MASK + 4);
    copy(image::UNUSED..image::YMM);
    if case.insns.len() > 1 {
        // Some keep the address of the last operand, others that of an exception's.
        copy(image::OPERAND..image::MXCSR);
    }
    if theirs.word(image::STATUS) & 0x80 == 0 {
        // Some note where an exception came from, others where any operation was.
        copy(image::OPCODE..image::MXCSR);
    } else if matches!(case.insns[0].mnemonic(), M::Fldenv | M::Frstor | M::Xrstor | M::Xrstor64) {
        // How wide the pointers are, and what becomes of one from memory when an operation on registers
        // fails, is open.
        copy(image::OPCODE..image::MXCSR);
    }
}

/// The same of an instruction that a fault has kept from being completed.
fn forgive_after_fault(insn: &Instruction, page_fault: bool, theirs: &State, ours: &mut State) {
    if is_comparison(insn) {
        // The flags are those of the last element, or those from before (SDM vol. 2, REP).
        ours.flags = ours.flags & !bit::ARITH | theirs.flags & bit::ARITH;
    }
    if (0..insn.op_count()).any(|n| insn.op_register(n).is_mm()) {
        // The x87 registers are MMX registers already, or not yet.
        ours.image[..image::XMM].copy_from_slice(&theirs.image[..image::XMM]);
    }
    if !page_fault {
        return;
    }
    if insn.mnemonic() == M::Vcvtps2ph {
        // Exceptions of the conversion are noted before it is stored, or not.
        ours.set(image::MXCSR, &theirs.image[image::MXCSR..image::MXCSR + 4]);
    }
    if insn.is_vsib() && insn.op2_kind() == OpKind::Register {
        // Elements of the mask count by their signs, which some spread before they begin.
        let size = if insn.memory_size().element_size() == 8 { 8 } else { 4 };
        let mask = insn.op2_register().number();
        let signs = |[low, high]: [u128; 2]| {
            let mut bytes = [low.to_le_bytes(), high.to_le_bytes()].concat();
            for element in bytes.chunks_mut(size) {
                let sign = element[size - 1] >> 7;
                element.fill(0_u8.wrapping_sub(sign));
            }
            bytes
        };
        if signs(ours.vector(mask)) == signs(theirs.vector(mask)) {
            ours.set_vector(mask, theirs.vector(mask));
        }
    }
}

/// What differs.
fn report(
    case: &Case,
    before: &State,
    (expected, theirs): (&Outcome, &State),
    (got, ours): (&Outcome, &State),
    memory: Option<usize>,
) -> String {
    use std::fmt::Write;
    let mut text = format!("{:02x?}", case.code);
    for insn in &case.insns {
        let _ = write!(text, " {:?};", insn.code());
    }
    if expected != got {
        let _ = write!(text, "\n  ends {expected:x?}, not {got:x?}");
    }
    for n in (0..16).filter(|&n| theirs.regs[n] != ours.regs[n]) {
        let (before, theirs, ours) = (before.regs[n], theirs.regs[n], ours.regs[n]);
        let _ = write!(text, "\n  r{n}: {before:#x} is {theirs:#x}, not {ours:#x}");
    }
    if theirs.flags != ours.flags {
        let (before, theirs, ours) = (before.flags, theirs.flags, ours.flags);
        let _ = write!(text, "\n  flags: {before:#x} are {theirs:#x}, not {ours:#x}");
    }
    for n in 0..16 {
        let (before, theirs, ours) = (before.vector(n), theirs.vector(n), ours.vector(n));
        if theirs != ours {
            let _ = write!(text, "\n  ymm{n}: {before:x?} is {theirs:x?}, not {ours:x?}");
        }
    }
    for at in (0..image::XMM).step_by(4) {
        let (before, theirs, ours) = (before.word(at), theirs.word(at), ours.word(at));
        if theirs != ours {
            let _ = write!(text, "\n  image+{at}: {before:#x} is {theirs:#x}, not {ours:#x}");
        }
    }
    if let Some(at) = memory {
        let _ = write!(text, "\n  memory differs at {:#x}", DATA + at as u64);
    }
    let _ = write!(text, "\n  from {:x?}", before.regs);
    let _ = write!(text, " MXCSR {:#x} x87 {:#x}", before.word(image::MXCSR), before.word(0));
    for insn in &case.insns {
        for n in 0..insn.op_count() {
            let register = insn.op_register(n);
            if insn.op_kind(n) == OpKind::Register && register.is_vector_register() {
                let _ = write!(text, "\n  {register:?} {:x?}", before.vector(register.number()));
            }
        }
    }
    text
}

/// Tells the process that a test made of itself how much to do.
const COUNT: &str = "RHEA_SILICON_COUNT";

/// Runs the test `name` again in a process of its own, and there compares `count` instructions.
fn in_own_process(name: &str, group: Group, bits: u32, count: usize, least: usize) {
    let known = match bits {
        64 => true,
        32 => sandbox::has_32_bit_code(),
        _ => sandbox::has_16_bit_code(),
    };
    if !known {
        println!("skipped: {name}: the kernel has no {bits}-bit code segment");
        return;
    }
    if let Some(count) = std::env::var_os(COUNT) {
        let count = count.to_str().and_then(|count| count.parse().ok()).unwrap();
        let mut pair = Pair::new(group, bits);
        pair.compare(count);
        let reports: Vec<_> = pair.differing.values().map(String::as_str).collect();
        assert!(reports.is_empty(), "{}", reports.join("\n\n"));
        println!(
            "{} instructions of {:?}, {bits}-bit; {} mnemonics; exceptions {:?}",
            pair.compared,
            group,
            pair.mnemonics.len(),
            pair.faults
        );
        assert!(pair.mnemonics.len() > least, "{:?}", pair.mnemonics);
        return;
    }
    let name = format!("{}::{name}", module_path!().trim_start_matches("cpu::"));
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--include-ignored", "--nocapture"])
        .env(COUNT, count.to_string())
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    println!("{}", text[0]);
    assert!(output.status.success(), "{} {}", output.status, text.join("\n"));
}

/// With alignment checks on, ENTER faults where its final stack pointer is not aligned.
#[test]
fn enter_wants_an_aligned_top() {
    const TOP: u64 = DATA + 0x1000;
    let mut guest = Guest::new(64);
    let mut generator = Generator::new(Group::Integer, 64);
    for (size, vector) in [(0x10, None), (0x11, Some(crate::vector::AC))] {
        // enter size, 1
        guest.place(CODE, &[0xc8, size, 0, 1]);
        let mut state = generator.state();
        state.flags = bit::AC;
        state.regs[gpr::RSP] = TOP;
        assert_eq!(guest.run(CODE, 4, &mut state).vector, vector);
        let below = if vector.is_none() { 16 + u64::from(size) } else { 0 };
        assert_eq!(state.regs[gpr::RSP], TOP - below);
    }
}

const SLICE: usize = 100_000;
const LONG: usize = 10_000_000;

macro_rules! groups {
    ($($name:ident $long:ident: $group:ident $bits:literal, $least:literal mnemonics;)*) => { $(
        #[test]
        fn $name() {
            in_own_process(stringify!($name), Group::$group, $bits, SLICE, $least);
        }

        #[test]
        #[ignore = "a soak run"]
        fn $long() {
            in_own_process(stringify!($long), Group::$group, $bits, LONG, $least);
        }
    )* };
}

groups! {
    integer integer_long: Integer 64, 80 mnemonics;
    x87 x87_long: X87 64, 60 mnemonics;
    sse sse_long: Sse 64, 200 mnemonics;
    avx avx_long: Avx 64, 300 mnemonics;
    bmi bmi_long: Bmi 64, 15 mnemonics;
    crypto crypto_long: Crypto 64, 20 mnemonics;
    areas areas_long: Areas 64, 5 mnemonics;
    integer_32 integer_32_long: Integer 32, 80 mnemonics;
    x87_32 x87_32_long: X87 32, 60 mnemonics;
    sse_32 sse_32_long: Sse 32, 200 mnemonics;
    avx_32 avx_32_long: Avx 32, 300 mnemonics;
    flow flow_long: Flow 64, 24 mnemonics;
    flow_32 flow_32_long: Flow 32, 24 mnemonics;
    flow_16 flow_16_long: Flow 16, 24 mnemonics;
    integer_16 integer_16_long: Integer 16, 80 mnemonics;
    x87_16 x87_16_long: X87 16, 60 mnemonics;
    sse_16 sse_16_long: Sse 16, 200 mnemonics;
    privileged privileged_long: Privileged 64, 20 mnemonics;
    privileged_32 privileged_32_long: Privileged 32, 18 mnemonics;
    privileged_16 privileged_16_long: Privileged 16, 18 mnemonics;
}
