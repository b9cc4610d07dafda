//! The translator against the interpreter, in lock-step.

mod astride;
mod calls;
mod flow;
mod generate;
mod loops;
mod proof;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic as M, OpKind};

use std::sync::Arc;

use base::memory::{Mapping, RamBlock, Region};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Translator;
use crate::flags::bit;
use crate::fpu::x87::X87;
use crate::interp::RunExit;
use crate::signals::request;
use crate::state::{Seg, Segment, attr, cr0, gpr};
use crate::testbed::Testbed;
use generate::{
    Rng, generate, generate_float, generate_mmx, generate_prepared, generate_strings,
    generate_vector, generate_x87, is_safe, is_safe_fpu, is_safe_vector,
};

const CODE: u64 = 0x1000;
const DATA: u64 = 0x20_0000;
const DATA_LEN: usize = 0x2000;
/// Where what the testbed maps ends, and its RAM begins again.
const END: u64 = 1 << 30;

/// The same testbed twice: one interprets, one translates.
fn pair() -> [Testbed; 2] {
    let mut beds = [Testbed::new().unwrap(), Testbed::new().unwrap()];
    beds[1].translate().unwrap();
    // Loops of a few turns are to be followed too.
    translator(&beds).cache.lock().hot = 2;
    beds
}

/// That of the one that translates.
fn translator(beds: &[Testbed; 2]) -> &Translator {
    &beds[1].cpu.jit.as_ref().unwrap().translator
}

/// What must agree.
#[derive(Debug, PartialEq)]
struct Outcome {
    exit: RunExit,
    failure: Option<String>,
    rip: u64,
    regs: [u64; 16],
    flags: u64,
    vectors: Vec<[u128; 2]>,
    mxcsr: u32,
    x87: X87,
    cr2: u64,
    data: Vec<u8>,
}

fn outcome(bed: &mut Testbed, exit: RunExit) -> Outcome {
    let mut data = vec![0; DATA_LEN];
    bed.ram.read(DATA, &mut data);
    let state = &bed.cpu.state;
    Outcome {
        exit,
        failure: bed.cpu.failure.clone(),
        rip: state.rip,
        regs: std::array::from_fn(|i| state.regs[i]),
        flags: state.flags.get(),
        vectors: state.vec.iter().take(16).map(|vector| [vector.0[0], vector.0[1]]).collect(),
        mxcsr: state.mxcsr,
        x87: state.x87,
        cr2: state.cr2,
        data,
    }
}

/// Whether an instruction behaves the same whenever it is executed.
fn repeatable(raw: &Instruction) -> bool {
    let odd_flags = matches!(raw.mnemonic(), M::Bsf | M::Bsr | M::Shld | M::Shrd | M::Bswap);
    let far_bits = matches!(raw.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
        && raw.op0_kind() == OpKind::Memory
        && raw.op1_kind() == OpKind::Register;
    let approximate = matches!(raw.mnemonic(), M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss);
    let frames = matches!(raw.mnemonic(), M::Enter | M::Leave);
    // The count may be anything by then.
    let long = raw.is_string_instruction() && (raw.has_rep_prefix() || raw.has_repne_prefix());
    !long && !odd_flags && !far_bits && !approximate && !frames
}

/// Whether OF may be undefined after `raw`.
fn rotates(raw: &Instruction) -> bool {
    matches!(raw.mnemonic(), M::Rol | M::Ror | M::Rcl | M::Rcr)
}

/// A stream of instructions that end with HLT. Where one leaves flags undefined, the next defines
/// them.
fn stream(rng: &mut Rng, bits: u32, count: usize) -> Vec<u8> {
    let mut code = Vec::new();
    for _ in 0..count {
        if bits == 64 && rng.below(8) == 0 {
            code.extend(generate_prepared(rng));
            continue;
        }
        loop {
            let kind = rng.below(16);
            let bytes = match kind {
                0 | 1 => generate_vector(rng),
                2 => generate_float(rng),
                3 => generate_strings(rng),
                4..7 => generate_x87(rng),
                7 => generate_mmx(rng),
                _ => generate(rng),
            };
            let raw = Decoder::with_ip(bits, &bytes, CODE, DecoderOptions::NONE).decode();
            let safe = match kind {
                0..4 => is_safe_vector(&raw),
                4..8 => is_safe_fpu(&raw),
                _ => is_safe(&raw),
            };
            if !safe || !repeatable(&raw) {
                continue;
            }
            code.extend(&bytes[..raw.len()]);
            if raw.rflags_undefined() != 0 || rotates(&raw) {
                code.extend([0x48, 0x39, 0xfe]); // cmp rsi, rdi; or dec eax; cmp esi, edi
            }
            break;
        }
    }
    code.push(0xf4);
    code
}

/// Runs `code` in both from the same state, which `start` makes of a reset one, and compares.
fn compare(beds: &mut [Testbed; 2], code: &[u8], start: impl Fn(&mut Testbed)) -> RunExit {
    compare_at(beds, CODE, code, start)
}

/// The same for code at `place`.
fn compare_at(
    beds: &mut [Testbed; 2],
    place: u64,
    code: &[u8],
    start: impl Fn(&mut Testbed),
) -> RunExit {
    let outcomes = beds.each_mut().map(|bed| {
        bed.ram.write(place, code);
        start(bed);
        bed.cpu.shutdown = false;
        bed.cpu.state.cr2 = 0;
        bed.cpu.update_mode();
        let exit = bed.run(place);
        outcome(bed, exit)
    });
    let [expected, got] = &outcomes;
    if expected != got {
        let mut text = String::new();
        let bits = beds[0].cpu.mode.code_bits.into();
        let mut decoder = Decoder::with_ip(bits, code, place, DecoderOptions::NONE);
        for raw in &mut decoder {
            let at = (raw.ip() - place) as usize;
            let bytes = &code[at..at + raw.len()];
            text += &format!("{:#x} {:?} {bytes:02x?}\n", raw.ip(), raw.code());
        }
        let differs = |i: &usize| expected.data[*i] != got.data[*i];
        let data: Vec<_> = (0..DATA_LEN)
            .filter(differs)
            .map(|i| (i, expected.data[i], got.data[i]))
            .take(16)
            .collect();
        let show = |o: &Outcome| {
            format!(
                "{:?} rip {:#x} flags {:#x} mxcsr {:#x} cr2 {:#x} {:x?} {:x?} {:x?}",
                o.exit, o.rip, o.flags, o.mxcsr, o.cr2, o.regs, o.x87, o.vectors
            )
        };
        panic!(
            "{text}interpreted: {}\ntranslated:  {}\ndata at {data:x?}\n{}",
            show(expected),
            show(got),
            got.failure.as_deref().unwrap_or_default()
        );
    }
    expected.exit
}

/// An x87 whose registers hold all kinds of values. Now and then exceptions are unmasked.
fn random_x87(rng: &mut Rng) -> X87 {
    let mut area = [0; 512];
    for (i, byte) in area.iter_mut().enumerate() {
        // Exponents are mostly close to that of one.
        *byte = match (i % 16, rng.below(4)) {
            (9, 1..) => 0x3f | rng.next() as u8 & 0x80,
            (8, 1..) => 0xfc | rng.next() as u8 & 3,
            (7, 1..) => 0x80 | rng.next() as u8,
            _ => rng.next() as u8,
        };
    }
    let control = if rng.below(4) == 0 { rng.next() as u16 } else { 0x7f };
    let control = control & 0xff | rng.next() as u16 & 0xf00;
    area[..2].copy_from_slice(&control.to_le_bytes());
    area[2] &= 0x40;
    // Mostly a few registers in use below the top.
    let valid = if rng.below(4) == 0 { rng.next() as u8 } else { 0x0f };
    area[4] = valid.rotate_left(u32::from(area[3] >> 3 & 7));
    let mut x87 = X87::default();
    x87.fxrstor(true, &area);
    x87
}

fn random_start(rng: &mut Rng, rdi: u64) -> impl Fn(&mut Testbed) + use<> {
    let mut regs: [u64; 16] = std::array::from_fn(|_| rng.value());
    regs[gpr::RCX] &= 0x1f;
    regs[gpr::RSI] = DATA + 0x400;
    regs[gpr::RDI] = rdi;
    regs[gpr::RSP] = DATA + 0xc00;
    let flags = rng.next() & bit::ARITH;
    let vectors: [u128; 16] =
        std::array::from_fn(|_| u128::from(rng.next()) << 64 | u128::from(rng.value()));
    let seed = rng.next() as u8;
    let x87 = random_x87(rng);
    move |bed| {
        let data: Vec<u8> = (0..DATA_LEN).map(|i| (i as u8).wrapping_mul(seed)).collect();
        bed.ram.write(DATA, &data);
        let state = &mut bed.cpu.state;
        state.regs[..16].copy_from_slice(&regs);
        state.flags.set(flags | 2);
        state.mxcsr = 0x1f80;
        state.x87 = x87;
        state.cr0 = state.cr0 & !cr0::NE | if seed & 1 != 0 { cr0::NE } else { 0 };
        for (vector, value) in state.vec.iter_mut().zip(&vectors) {
            (vector.0[0], vector.0[1]) = (*value, value.rotate_left(40));
        }
    }
}

#[test]
fn random_streams_agree() {
    let mut beds = pair();
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for _ in 0..12_000 {
        let count = 1 + rng.below(12);
        let code = stream(&mut rng, 64, count);
        let start = random_start(&mut rng, DATA + 0x800);
        compare(&mut beds, &code, start);
    }
}

/// Makes what runs 32-bit code, with flat segments but for GS, whose base is `gs` and limit `limit`.
fn enter_32_bit_code(bed: &mut Testbed, gs: u64, limit: u32) {
    let state = &mut bed.cpu.state;
    let code = &mut state.seg[Seg::Cs as usize];
    code.attr = code.attr & !attr::LONG | attr::BIG;
    code.limit = !0;
    let flat = Segment { selector: 16, base: 0, limit: !0, attr: 0xc093 };
    for seg in [Seg::Ss, Seg::Ds, Seg::Es, Seg::Fs] {
        state.seg[seg as usize] = flat;
    }
    state.seg[Seg::Gs as usize] = Segment { base: gs, limit, ..flat };
    for register in &mut state.regs[..16] {
        *register &= 0xffff_ffff;
    }
}

#[test]
fn random_streams_of_32_bit_code_agree() {
    let mut beds = pair();
    let mut rng = Rng(0x0bad_cafe_0123_4567);
    for i in 0..12_000 {
        let count = 1 + rng.below(12);
        let code = stream(&mut rng, 32, count);
        let start = random_start(&mut rng, if i % 2 == 0 { DATA + 0x800 } else { END });
        compare(&mut beds, &code, |bed| {
            start(bed);
            enter_32_bit_code(bed, 0, !0);
        });
    }
}

#[test]
fn faults_amid_random_streams_are_exact() {
    let mut beds = pair();
    let mut rng = Rng(0x1234_5678_9abc_def1);
    let mut faults = 0;
    for _ in 0..12_000 {
        let count = 1 + rng.below(12);
        let code = stream(&mut rng, 64, count);
        // Positive displacements lead out of what is mapped, negative ones to where nothing is.
        let start = random_start(&mut rng, END);
        faults += u32::from(compare(&mut beds, &code, start) == RunExit::Shutdown);
    }
    assert!(faults > 1_000, "{faults} faults");
}

/// Runs hand-made code in both from RSP in the middle of the data.
fn agree(code: &[u8]) -> [Testbed; 2] {
    let mut beds = pair();
    compare(&mut beds, code, |bed| {
        bed.cpu.state.regs[gpr::RSP] = DATA + 0xc00;
        bed.cpu.state.regs[gpr::RDI] = DATA + 0x800;
        bed.cpu.state.regs[gpr::RSI] = DATA + 0x400;
    });
    beds
}

#[test]
fn a_division_by_zero_is_exact() {
    // cmp eax, 5; lea ecx, [rax+7]; div r10d; hlt
    agree(&[0x83, 0xf8, 5, 0x8d, 0x48, 7, 0x41, 0xf7, 0xf2, 0xf4]);
}

#[test]
fn functions_of_the_x87_are_close() {
    // fld1; fld1; then FSIN, FCOS, FPTAN, F2XM1, FPATAN, FYL2X or FYL2XP1; fstp qword [rdi]; hlt
    for function in [0xfe, 0xff, 0xf2, 0xf0, 0xf3, 0xf1, 0xf9] {
        let code = [0xd9, 0xe8, 0xd9, 0xe8, 0xd9, function, 0xdd, 0x1f, 0xf4];
        let results = pair().map(|mut bed| {
            bed.ram.write(CODE, &code);
            bed.cpu.state.x87 = X87::default();
            bed.cpu.state.regs[gpr::RDI] = DATA;
            assert_eq!(bed.run(CODE), RunExit::Halted);
            f64::from_bits(bed.ram.read_uint(DATA, 8))
        });
        let [interpreted, translated] = results;
        assert!((interpreted - translated).abs() < 1e-15, "{function:#x}: {results:?}");
    }
}

#[test]
fn an_x87_that_is_not_available_stays_so() {
    // fld1; hlt, and: paddb mm0, mm1; hlt
    for code in [&[0xd9, 0xe8, 0xf4][..], &[0x0f, 0xfc, 0xc1, 0xf4]] {
        for trap in [cr0::TS, cr0::EM] {
            let exit = compare(&mut pair(), code, |bed| bed.cpu.state.cr0 |= trap);
            assert_eq!(exit, RunExit::Shutdown);
        }
    }
}

#[test]
fn an_unmasked_x87_exception_is_reported_by_the_next_instruction() {
    // fninit; fldcw [rdi]; fldz; fld1; fdiv st, st(1); fld1; hlt
    let code = [0xdb, 0xe3, 0xd9, 0x2f, 0xd9, 0xee, 0xd9, 0xe8, 0xd8, 0xf1, 0xd9, 0xe8, 0xf4];
    for (control, exit) in [(0x37f, RunExit::Halted), (0x37b, RunExit::Shutdown)] {
        let mut beds = pair();
        let got = compare(&mut beds, &code, |bed| {
            bed.cpu.state.cr0 |= cr0::NE;
            bed.ram.write(DATA, &u16::to_le_bytes(control));
            bed.cpu.state.regs[gpr::RDI] = DATA;
        });
        assert_eq!(got, exit);
        assert_eq!(beds[1].cpu.state.x87.fip, if control == 0x37f { CODE + 10 } else { CODE + 8 });
    }
}

#[test]
fn segments_with_a_base_are_followed_in_32_bit_code() {
    // fld1; mov eax, gs:[0x14]; add gs:[edi], eax; fstp qword gs:[edi+8]; hlt
    let code = [0xd9, 0xe8, 0x65, 0xa1, 0x14, 0, 0, 0, 0x65, 0x01, 0x07, 0x65, 0xdd, 0x5f, 8, 0xf4];
    // A limit beyond which nothing is, and offsets that wrap around or do not.
    for (limit, edi) in [(!0, 0x20), (!0, 0_u32.wrapping_sub(0x40)), (0xfff, 0x2000)] {
        let mut beds = pair();
        compare(&mut beds, &code, |bed| {
            bed.cpu.state.regs[..16].fill(0);
            bed.cpu.state.regs[gpr::RDI] = edi.into();
            bed.cpu.state.x87 = X87::default();
            enter_32_bit_code(bed, DATA + 0x100, limit);
            bed.ram.write(DATA, &[7; 0x400]);
        });
        assert_eq!(beds[1].ram.read_uint(DATA + 0x120, 4) != 0x0707_0707, edi == 0x20);
    }
}

#[test]
fn code_that_rewrites_what_follows_runs_the_new_code() {
    // mov byte [rip+1], 7; mov al, 1; hlt
    let [_, bed] = agree(&[0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1, 0xf4]);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 7);
    // mov ecx, 3; L: mov al, 1; add dl, al; inc byte [L+1]; dec ecx; jnz L; hlt
    let [_, bed] = agree(&[
        0xb9, 3, 0, 0, 0, 0xb0, 1, 0x00, 0xc2, 0xfe, 0x05, 0xf7, 0xff, 0xff, 0xff, 0xff, 0xc9,
        0x75, 0xf2, 0xf4,
    ]);
    assert_eq!(bed.cpu.state.regs[gpr::RDX] as u8, 6);
}

#[test]
fn a_stack_over_code_is_noticed_at_once() {
    // push rcx; push rbx; push rcx; mov al, 1; ... hlt: the pushes make it mov al, 7.
    let mut code = vec![0x51, 0x53, 0x51];
    code.resize(64, 0x90);
    (code[24], code[25]) = (0xb0, 1);
    code[63] = 0xf4;
    let mut beds = pair();
    for _ in 0..2 {
        let end = CODE + 40;
        compare(&mut beds, &code, |bed| {
            bed.cpu.state.regs[gpr::RSP] = end;
            bed.cpu.state.regs[gpr::RCX] = 0x9090_9090_9090_9090;
            bed.cpu.state.regs[gpr::RBX] = 0x9090_9090_9007_b090;
        });
    }
    assert_eq!(beds[1].cpu.state.regs[gpr::RAX] as u8, 7);
}

#[test]
fn an_instruction_across_pages_depends_on_both() {
    // mov eax, imm32; hlt
    let [_, mut bed] = pair();
    for (step, value) in [1_u32, 1, 0x0200_0001, 0x0200_0001, 5].into_iter().enumerate() {
        if step == 0 {
            bed.ram.write(0x1ffe, &[0xb8]);
            bed.ram.write(0x2003, &[0xf4]);
        }
        for (at, byte) in (0x1fff..).zip(value.to_le_bytes()) {
            let old = bed.ram.read_uint(at, 1);
            if old != u64::from(byte) {
                bed.ram.write(at, &[byte]);
            }
        }
        assert_eq!(bed.run(0x1ffe), RunExit::Halted);
        assert_eq!(bed.cpu.state.regs[gpr::RAX], u64::from(value));
    }
}

#[test]
fn code_rewritten_by_somebody_else_is_noticed() {
    // call +2; hlt; nop; mov al, 1; ret
    let [_, mut bed] = agree(&[0xe8, 2, 0, 0, 0, 0xf4, 0x90, 0xb0, 1, 0xc3]);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 1);
    bed.ram.write(CODE + 8, &[9]);
    assert_eq!(bed.run(CODE), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 9);
}

#[test]
fn data_beside_code_leaves_it_alone() {
    // mov ecx, 1000; L: inc dword [rip+0x100]; dec ecx; jnz L; hlt
    let [_, bed] =
        agree(&[0xb9, 0xe8, 3, 0, 0, 0xff, 0x05, 0, 1, 0, 0, 0xff, 0xc9, 0x75, 0xf6, 0xf4]);
    assert_eq!(bed.ram.read_uint(CODE + 0x10b, 4), 1000);
}

#[test]
fn code_that_comes_to_quiet_lines_is_watched() {
    const STORE: u64 = CODE + 0x40;
    const LATER: u64 = CODE + 0x800;
    let [_, mut bed] = pair();
    // mov ecx, 1000; L: inc dword [rip+0x400]; dec ecx; jnz L; hlt
    let noise = [0xb9, 0xe8, 3, 0, 0, 0xff, 0x05, 0, 4, 0, 0, 0xff, 0xc9, 0x75, 0xf6, 0xf4];
    bed.ram.write(CODE, &noise);
    // mov [rdi], eax; hlt
    bed.ram.write(STORE, &[0x89, 0x07, 0xf4]);
    for value in 1..4_u8 {
        assert_eq!(bed.run(CODE), RunExit::Halted);
        bed.cpu.state.regs[gpr::RDI] = LATER;
        // mov al, value; hlt
        bed.cpu.state.regs[gpr::RAX] = u32::from_le_bytes([0xb0, value, 0xf4, 0x90]).into();
        assert_eq!(bed.run(STORE), RunExit::Halted);
        assert_eq!(bed.run(LATER), RunExit::Halted);
        assert_eq!(bed.cpu.state.regs[gpr::RAX] as u8, value);
    }
}

#[test]
fn loops_across_pages_and_indirect_ones_agree() {
    // mov ecx, 5; jmp 0x2ffd; at 0x2ffd: add eax, 0x1000000 (across the page); dec ecx; jnz back
    let mut beds = pair();
    for bed in &beds {
        bed.ram.write(0x2ffd, &[0x05, 0, 0, 0, 1, 0xff, 0xc9, 0x75, 0xf7, 0xf4]);
    }
    let code = [0xb9, 5, 0, 0, 0, 0xe9, 0xf3, 0x1f, 0, 0];
    compare(&mut beds, &code, |bed| bed.cpu.state.regs[gpr::RAX] = 0);
    assert_eq!(beds[1].cpu.state.regs[gpr::RAX], 0x500_0000);
    // mov ecx, 9; lea rdx, [rip+0]; L: dec ecx; jz +2; jmp rdx; hlt
    agree(&[0xb9, 9, 0, 0, 0, 0x48, 0x8d, 0x15, 0, 0, 0, 0, 0xff, 0xc9, 0x74, 2, 0xff, 0xe2, 0xf4]);
}

#[test]
fn a_jump_to_nowhere_faults_at_the_jump() {
    // mov rax, 0x1234567890abcdef; call rax
    agree(&[0x48, 0xb8, 0xef, 0xcd, 0xab, 0x90, 0x78, 0x56, 0x34, 0x12, 0xff, 0xd0]);
    // mov rax, 0x1234567890abcdef; push rax; ret
    agree(&[0x48, 0xb8, 0xef, 0xcd, 0xab, 0x90, 0x78, 0x56, 0x34, 0x12, 0x50, 0xc3]);
}

#[test]
fn a_signal_ends_endless_loops() {
    let loops: [&[u8]; 3] = [
        &[0xeb, 0xfe],
        // lea rax, [rip]; jmp rax
        &[0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xff, 0xe0],
        // L: call +0; pop rax; jmp L
        &[0xe8, 0, 0, 0, 0, 0x58, 0xeb, 0xf8],
    ];
    for code in loops {
        let [_, mut bed] = pair();
        bed.ram.write(CODE, code);
        bed.cpu.state.regs[gpr::RSP] = DATA;
        let signals = bed.cpu.signals.clone();
        let poster = std::thread::spawn(move || {
            std::thread::yield_now();
            signals.post(request::STOP);
        });
        assert_eq!(bed.run(CODE), RunExit::Signal);
        poster.join().unwrap();
    }
}

/// A chain through 512 pages: `inc rax` and a jump to the next page, then a halt.
fn chain(bed: &Testbed) {
    for page in 0..512_u64 {
        bed.ram.write(CHAIN + page * 4096, &[0x48, 0xff, 0xc0, 0xe9, 0xf8, 0x0f, 0, 0]);
    }
    bed.ram.write(CHAIN + 512 * 4096, &[0xf4]);
}
const CHAIN: u64 = 0x10_0000;

fn follow_chain(bed: &mut Testbed) {
    bed.cpu.state.regs[gpr::RAX] = 0;
    assert_eq!(bed.run(CHAIN), RunExit::Halted);
    assert_eq!(bed.cpu.state.regs[gpr::RAX], 512);
}

#[test]
fn a_cache_that_overflows_makes_room() {
    let mut bed = Testbed::new().unwrap();
    let translator = Translator::new(64 << 10).unwrap();
    bed.cpu.translate_by(&translator);
    chain(&bed);
    for _ in 0..3 {
        follow_chain(&mut bed);
    }
    let report = translator.report();
    assert!(report.evictions > 2 && report.translated > 1_000, "{report:?}");
    assert!(report.blocks < 512, "{report:?}");
}

#[test]
fn room_is_made_without_forgetting_everything() {
    let mut bed = Testbed::new().unwrap();
    let translator = Translator::new(1 << 20).unwrap();
    bed.cpu.translate_by(&translator);
    let mut evictions = 0;
    // Ever new code: of four regions one is being filled, and one was emptied.
    for round in 0..3_000_u64 {
        // mov rax, round, 48 times over; hlt
        let mut code = [&[0x48, 0xb8][..], &round.to_le_bytes()].concat().repeat(48);
        code.push(0xf4);
        let place = 0x40_0000 + round * 512;
        bed.ram.write(place, &code);
        assert_eq!(bed.run(place), RunExit::Halted);
        assert_eq!(bed.cpu.state.regs[gpr::RAX], round);
        let report = translator.report();
        if report.evictions > evictions {
            assert!(report.blocks > 400, "{round}: {report:?}");
        }
        evictions = report.evictions;
    }
    assert!(evictions > 2, "{evictions}");
}

#[test]
fn processors_share_a_cache_that_overflows() {
    let translator = Translator::new(64 << 10).unwrap();
    let threads: Vec<_> = (0..3)
        .map(|number| {
            let translator = translator.clone();
            std::thread::spawn(move || {
                let mut bed = Testbed::new().unwrap();
                bed.cpu.translate_by(&translator);
                chain(&bed);
                // mov ecx, 20000; L: dec ecx; jnz L; hlt: stays in a region while others are made.
                let idle = [0xb9, 0x20, 0x4e, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf4];
                bed.ram.write(CODE, &idle);
                for round in 0..12 {
                    follow_chain(&mut bed);
                    if round % 3 == number {
                        assert_eq!(bed.run(CODE), RunExit::Halted);
                        assert_eq!(bed.cpu.state.regs[gpr::RCX], 0);
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(translator.report().evictions > 1);
}

#[test]
fn memory_that_vanishes_is_reported_with_its_place() {
    let file = memfd_create(c"short", MFdFlags::empty()).unwrap();
    let file = std::fs::File::from(file);
    file.set_len(8192).unwrap();
    let mapping = Mapping { share: true, ..Mapping::default() };
    let short = Arc::new(RamBlock::from_file("short", 8192, &file, 0, &mapping).unwrap());
    let mut bed = Testbed::with_region(Region::ram(short), END - 8192).unwrap();
    bed.translate().unwrap();
    // mov al, [rdi]; hlt
    bed.ram.write(CODE, &[0x8a, 0x07, 0xf4]);
    bed.cpu.state.regs[gpr::RDI] = END - 8192;
    assert_eq!(bed.run(CODE), RunExit::Halted);
    file.set_len(0).unwrap();
    bed.cpu.state.regs[gpr::RDI] = END - 4000;
    assert_eq!(bed.run(CODE), RunExit::Failed);
    let failure = bed.cpu.failure.take().unwrap();
    assert!(failure.starts_with("host trap at 0x"), "{failure}");
    assert!(failure.ends_with("in the translation of the block at 0x1000"), "{failure}");
}

#[test]
fn interrupts_wait_for_the_instruction_after_sti() {
    // sti; inc eax; cli; inc eax; hlt: an interrupt that waits comes after the first INC.
    let code = [0xfb, 0xff, 0xc0, 0xfa, 0xff, 0xc0, 0xf4];
    for waiting in [false, true] {
        let exit = compare(&mut pair(), &code, |bed| {
            bed.cpu.state.regs[gpr::RAX] = 0;
            bed.cpu.state.flags.set(2);
            bed.cpu.state.interrupt_shadow = false;
            if waiting {
                bed.cpu.signals.post(request::INTR);
            }
        });
        assert_eq!(exit, if waiting { RunExit::Signal } else { RunExit::Halted });
    }
}

#[test]
fn instructions_that_change_the_mode_are_followed() {
    // stac; pushfq; clac; pushfq; popfq; rdtsc; swapgs; mov rax, gs:[0]; cpuid; hlt
    let code = [
        0x0f, 0x01, 0xcb, 0x9c, 0x0f, 0x01, 0xca, 0x9c, 0x9d, 0x0f, 0x31, 0x0f, 0x01, 0xf8, 0x65,
        0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x0f, 0xa2, 0xf4,
    ];
    let exit = compare(&mut pair(), &code, |bed| {
        bed.cpu.state.regs[gpr::RSP] = DATA + 0x800;
        bed.cpu.state.regs[gpr::RAX] = 0;
        bed.cpu.state.msr.kernel_gs_base = DATA;
        bed.cpu.state.flags.set(2);
    });
    assert_eq!(exit, RunExit::Halted);
}

#[test]
fn repeated_strings_end_where_they_fault() {
    // rep movsb; inc ebx; hlt: into what is not mapped.
    let code = [0xf3, 0xa4, 0xff, 0xc3, 0xf4];
    for (to, exit) in [(DATA, RunExit::Halted), (END - 0x80, RunExit::Shutdown)] {
        let got = compare(&mut pair(), &code, |bed| {
            bed.cpu.state.regs[gpr::RSI] = DATA + 0x1000;
            bed.cpu.state.regs[gpr::RDI] = to;
            bed.cpu.state.regs[gpr::RCX] = 0x100;
        });
        assert_eq!(got, exit);
    }
}

#[test]
fn lock_step_finds_the_engines_in_agreement() {
    let translator = Translator::in_lock_step(4 << 20).unwrap();
    let mut beds = [Testbed::new().unwrap(), Testbed::new().unwrap()];
    beds[1].cpu.translate_by(&translator);
    let mut rng = Rng(0x0123_4567_89ab_cdef);
    for i in 0..1_500 {
        let count = 1 + rng.below(12);
        let code = stream(&mut rng, 64, count);
        let start = random_start(&mut rng, if i % 3 == 0 { END } else { DATA + 0x800 });
        compare(&mut beds, &code, start);
    }
    let [checked, _] = translator.report().checked;
    assert!(checked > 1_000, "{checked}");
}

#[test]
fn lock_step_follows_calls_loops_and_code_that_changes() {
    let translator = Translator::in_lock_step(4 << 20).unwrap();
    let mut bed = Testbed::new().unwrap();
    bed.cpu.translate_by(&translator);
    // mov ecx, 50; L: call F; dec ecx; jnz L; hlt; F: push rbx; mov bl, 1; add dl, bl;
    // inc byte [rip-5]; pop rbx; ret: F adds 1, 2, 3...
    let code = [
        0xb9, 50, 0, 0, 0, 0xe8, 5, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4, 0x53, 0xb3, 1, 0x00,
        0xda, 0xfe, 0x05, 0xf7, 0xff, 0xff, 0xff, 0x5b, 0xc3,
    ];
    bed.ram.write(CODE, &code);
    bed.cpu.state.regs[gpr::RSP] = DATA + 0x800;
    assert_eq!(bed.run(CODE), RunExit::Halted, "{:?}", bed.cpu.failure);
    assert_eq!(bed.cpu.state.regs[gpr::RDX] as u8, (50 * 51 / 2 % 256) as u8);
    let [checked, skipped] = translator.report().checked;
    assert!(checked > 100 && skipped >= 50, "{checked} {skipped}");
}
