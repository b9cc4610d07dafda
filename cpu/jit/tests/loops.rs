//! Random loops over memory: addresses that move on by constants, in both directions, over page
//! boundaries and out of what is mapped.

use super::generate::Rng;
use super::{CODE, DATA, END, compare_at, pair, random_start, translator};
use crate::interp::RunExit;
use crate::state::gpr;

/// What addresses are made of: registers with a home in the host and without.
const BASES: [u8; 8] = [7, 6, 3, 8, 10, 14, 12, 5];
const INDICES: [u8; 4] = [1, 9, 11, 13];
/// What is computed with; now and then it is part of an address too.
const VALUES: [u8; 4] = [0, 15, 4, 8];
/// Counts turns.
const COUNTER: u8 = 2;

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len())]
}

/// `opcode reg, [base + index * scale + disp]`, with or without REX.W.
fn access(rng: &mut Rng, opcode: &[u8], wide: bool, reg: u8) -> Vec<u8> {
    let base = pick(rng, &BASES);
    let index = if rng.below(2) == 0 { 4 } else { pick(rng, &INDICES) };
    let scale = if index == 4 { 0 } else { rng.next() as u8 & 0xc0 };
    let rex = 0x40 | u8::from(wide) << 3 | reg >> 3 << 2 | index >> 3 << 1 | base >> 3;
    let (prefix, opcode) = match opcode {
        [0x66, rest @ ..] => (Some(0x66), rest),
        _ => (None, opcode),
    };
    let mut bytes: Vec<u8> = prefix.into_iter().chain([rex]).collect();
    bytes.extend(opcode);
    bytes.extend([0x84 | (reg & 7) << 3, scale | (index & 7) << 3 | base & 7]);
    bytes.extend((rng.below(0x180) as i32 - 0xc0).to_le_bytes());
    bytes
}

/// `add`, `sub`, `inc`, `dec` or `lea` of what addresses are made of.
fn step(rng: &mut Rng) -> Vec<u8> {
    let all = [&BASES[..], &INDICES].concat();
    let number = pick(rng, &all);
    let (high, low) = (number >> 3, number & 7);
    let distance = pick(rng, &[1, 4, 8, 8, 16, 16, 24, 32, 64, 0xf8, 0xf0, 0xe0, 3, 0xfd]);
    match rng.below(8) {
        0 => vec![0x48 | high, 0xff, 0xc0 | low],
        1 => vec![0x48 | high, 0xff, 0xc8 | low],
        2 => vec![0x48 | high, 0x83, 0xe8 | low, distance],
        3 if low != 4 => vec![0x48 | high << 2 | high, 0x8d, 0x40 | low << 3 | low, distance],
        // Half of a register: no distance to count on.
        4 if rng.below(4) == 0 => vec![0x40 | high, 0x83, 0xc0 | low, distance],
        _ => vec![0x48 | high, 0x83, 0xc0 | low, distance],
    }
}

fn item(rng: &mut Rng) -> Vec<u8> {
    let few = if rng.below(2) == 0 { 2 } else { VALUES.len() };
    let reg = pick(rng, &VALUES[..few]);
    let (vector, wide) = (rng.next() as u8 & 15, rng.below(2) == 0);
    match rng.below(16) {
        0..3 => step(rng),
        3 | 4 => access(rng, &[0x8b], true, reg),
        5 | 6 => access(rng, &[0x89], true, reg),
        7 => access(rng, &[0x03], wide, reg),
        8 => access(rng, &[0x01], wide, reg),
        9 => access(rng, &[0x0f, 0xb6], false, reg),
        // AH, which needs another way in.
        10 if rng.below(4) == 0 => vec![0x88, 0xa7, 0x10, 0, 0, 0],
        10 => access(rng, &[0x88], false, reg),
        11 => access(rng, &[0x0f, 0x10], false, vector),
        12 => access(rng, &[0x0f, 0x11], false, vector),
        13 => access(rng, &[0x66, 0x0f, 0xfe], false, vector),
        14 => access(rng, &[0x13], true, reg),
        // xchg
        _ => access(rng, &[0x87], true, reg),
    }
}

fn items(rng: &mut Rng, most: usize) -> Vec<u8> {
    let count = 1 + rng.below(most);
    (0..count).flat_map(|_| item(rng)).collect()
}

/// Either of two ways, or one that may be left out, as a bit of RAX has it.
fn fork(rng: &mut Rng) -> Vec<u8> {
    let (mut one, other) = (items(rng, 3), items(rng, 3));
    if rng.below(2) == 0 {
        one.push(0xe9);
        one.extend((other.len() as u32).to_le_bytes());
        one.extend(other);
    }
    let condition = 0x84 | rng.next() as u8 & 1;
    let mut code = vec![0xa8, 1 << rng.below(8), 0x0f, condition];
    code.extend((one.len() as u32).to_le_bytes());
    code.extend(one);
    code
}

/// A loop of about so many instructions, and a halt.
fn program(rng: &mut Rng, count: usize) -> Vec<u8> {
    let mut code: Vec<u8> = (0..count).flat_map(|_| item(rng)).collect();
    for _ in 0..rng.below(3) {
        code.extend(fork(rng));
        code.extend(items(rng, 2));
    }
    if rng.below(3) == 0 {
        // cmp byte [rdi], 7; je to the halt
        let rest: Vec<u8> = (0..3).flat_map(|_| item(rng)).collect();
        code.extend([0x80, 0x3f, 7, 0x0f, 0x84]);
        code.extend((rest.len() as i32 + 10).to_le_bytes());
        code.extend(rest);
    }
    // add, sub or dec, then jnz
    match rng.below(3) {
        0 => code.extend([0x48, 0x83, 0xc0 | COUNTER, 0xff]),
        1 => code.extend([0x48, 0x83, 0xe8 | COUNTER, 1]),
        _ => code.extend([0x48, 0xff, 0xc8 | COUNTER, 0x90]),
    }
    code.extend([0x0f, 0x85]);
    code.extend((-(code.len() as i32 + 4)).to_le_bytes());
    code.push(0xf4);
    code
}

/// However much there is before a jump and behind it: where a trace has to end, be it at a jump that it
/// goes along, control is where it would be.
#[test]
fn a_loop_may_be_longer_than_a_trace() {
    let mut beds = pair();
    // jmp to behind a halt; and the same on a condition that holds, which a halt follows, too.
    for jump in [vec![0xeb, 1, 0xf4], vec![0x84, 0xc0, 0x79, 1, 0xf4]] {
        for before in 50..70 {
            // and eax, 15; then inc rcx, and inc rbx behind the jump; dec edx; jnz
            let mut code = vec![0x83, 0xe0, 15];
            (0..before).for_each(|_| code.extend([0x48, 0xff, 0xc1]));
            code.extend(&jump);
            (0..20).for_each(|_| code.extend([0x48, 0xff, 0xc3]));
            code.extend([0xff, 0xca, 0x0f, 0x85]);
            code.extend((-(code.len() as i32 + 4)).to_le_bytes());
            code.push(0xf4);
            let exit = compare_at(&mut beds, CODE, &code, |bed| {
                (bed.cpu.state.regs[gpr::RDX], bed.cpu.state.regs[gpr::RBX]) = (40, 0);
            });
            assert_eq!(exit, RunExit::Halted);
            assert_eq!(beds[1].cpu.state.regs[gpr::RBX], 800, "{before}");
        }
    }
}

#[test]
fn random_loops_agree() {
    let mut beds = pair();
    let mut rng = Rng(0x5eed_0f10_0b5a_11ed);
    let mut halted = 0;
    for round in 0..6_000 {
        // Now and then it is longer than a trace may be.
        let count = 1 + rng.below(if round % 32 == 0 { 80 } else { 7 });
        let code = program(&mut rng, count);
        for _ in 0..2 {
            // Now and then what is mapped ends on the way.
            let end = if round % 8 == 0 { END } else { DATA + 0x1000 };
            let start = random_start(&mut rng, DATA);
            let places: Vec<u64> =
                BASES.iter().map(|_| end - 0x800 + (rng.next() & 0xfff & !7)).collect();
            let indices: Vec<u64> = INDICES.iter().map(|_| rng.next() & 0x38).collect();
            let turns = 1 + rng.below(200) as u64;
            let exit = compare_at(&mut beds, CODE, &code, |bed| {
                start(bed);
                let regs = &mut bed.cpu.state.regs;
                let of = |numbers: &'static [u8]| numbers.iter().map(|number| usize::from(*number));
                of(&BASES).zip(&places).for_each(|(number, place)| regs[number] = *place);
                of(&INDICES).zip(&indices).for_each(|(number, value)| regs[number] = *value);
                regs[gpr::RDX] = turns;
            });
            halted += u32::from(exit == RunExit::Halted);
        }
    }
    assert!(halted > 5_000, "{halted} ran to their end");
    let traces = translator(&beds).report().traces;
    assert!(traces > 2_000, "{traces} traces");
}

#[test]
fn a_loop_notices_that_its_code_changes() {
    const PLACE: u64 = CODE + 0x800;
    // L: mov [rdi], rax; add rdi, 8; nop; inc ebx; dec ecx; jnz L; hlt: the stores come to the loop
    // itself, and turn its first half into instructions that do nothing.
    let code =
        [0x48, 0x89, 0x07, 0x48, 0x83, 0xc7, 8, 0x90, 0xff, 0xc3, 0xff, 0xc9, 0x75, 0xf2, 0xf4];
    let mut beds = pair();
    for distance in [0x40, 0x48, 0x100, 0x7f0] {
        let exit = compare_at(&mut beds, PLACE, &code, |bed| {
            bed.cpu.state.regs[gpr::RDI] = PLACE - distance;
            bed.cpu.state.regs[gpr::RAX] = 0x9090_9090_9090_9090;
            bed.cpu.state.regs[gpr::RCX] = 0x400;
            bed.cpu.state.regs[gpr::RBX] = 0;
        });
        assert_eq!(exit, RunExit::Halted);
        assert_eq!(beds[1].cpu.state.regs[gpr::RDI], PLACE);
    }
}
