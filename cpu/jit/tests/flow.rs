//! Random code with jumps, loops and a stack: blocks with several ways out, accesses that are looked
//! up together, instructions across pages.

use iced_x86::{Decoder, DecoderOptions};

use super::generate::{Rng, generate, generate_vector, is_safe, is_safe_vector};
use super::{CODE, DATA, compare_at, pair, random_start, repeatable, rotates, translator};
use crate::interp::RunExit;
use crate::state::gpr;

/// Where loops count down.
const COUNTER: u32 = DATA as u32 + 0x1ff0;
/// Between the two pages of data.
const EDGE: u64 = DATA + 0x1000;

/// An instruction, or a jump to another one by its number, maybe on a condition.
enum Item {
    Bytes(Vec<u8>),
    Jump(u8, usize),
    Always(usize),
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Item::Bytes(bytes) => bytes.len(),
            Item::Jump(..) => 6,
            Item::Always(_) => 5,
        }
    }
}

/// An access to the stack, or a move of the stack pointer.
fn stack(rng: &mut Rng) -> Vec<u8> {
    let register = loop {
        let register = rng.below(16) as u8;
        if !matches!(usize::from(register), gpr::RSP | gpr::RDI | gpr::RSI) {
            break register;
        }
    };
    let (high, low) = (register >> 3, register & 7);
    let at = rng.next() as u8 & 0x78;
    let by_stack = |opcode: u8| vec![0x48 | high << 2, opcode, 0x44 | low << 3, 0x24, at];
    match rng.below(12) {
        0 | 1 => vec![0x40 | high, 0x50 | low],
        2 | 3 => vec![0x40 | high, 0x58 | low],
        4 => vec![0x6a, at],
        5 => by_stack(0x8b),
        6 => by_stack(0x89),
        7 => by_stack(0x01),
        8 => by_stack(0x3b),
        9 => vec![0x48, 0x83, 0xec, at & 0x18],
        10 => vec![0x48, 0x83, 0xc4, at & 0x18],
        _ => vec![0x48, 0x8d, 0x64, 0x24, at & 0x18],
    }
}

/// An instruction that behaves the same whenever it is executed.
fn other(rng: &mut Rng) -> Vec<u8> {
    loop {
        let vector = rng.below(6) == 0;
        let bytes = if vector { generate_vector(rng) } else { generate(rng) };
        let raw = Decoder::with_ip(64, &bytes, CODE, DecoderOptions::NONE).decode();
        let safe = if vector { is_safe_vector(&raw) } else { is_safe(&raw) };
        let target = raw.op0_register().full_register().number();
        let moves = matches!(target, gpr::RSP | gpr::RDI | gpr::RSI) && raw.op0_register().is_gpr();
        if safe && repeatable(&raw) && raw.rflags_undefined() == 0 && !rotates(&raw) && !moves {
            return bytes[..raw.len()].to_vec();
        }
    }
}

/// Code that ends with HLT.
fn program(rng: &mut Rng) -> Vec<u8> {
    let count = 4 + rng.below(24);
    let mut items: Vec<Item> = (0..count)
        .map(|number| match rng.below(10) {
            0 | 1 => {
                let condition = rng.next() as u8 & 15;
                let target = number + 1 + rng.below(count - number);
                if rng.below(4) == 0 { Item::Always(target) } else { Item::Jump(condition, target) }
            }
            2..6 => Item::Bytes(stack(rng)),
            _ => Item::Bytes(other(rng)),
        })
        .collect();
    // dec dword [COUNTER]; jnz
    items.push(Item::Bytes([&[0xff, 0x0c, 0x25][..], &COUNTER.to_le_bytes()].concat()));
    items.push(Item::Jump(5, rng.below(count)));
    items.push(Item::Bytes(vec![0xf4]));
    let starts: Vec<usize> = items
        .iter()
        .scan(0, |at, item| {
            let start = *at;
            *at += item.len();
            Some(start)
        })
        .collect();
    let mut code = Vec::new();
    for item in &items {
        match item {
            Item::Bytes(bytes) => code.extend(bytes),
            Item::Jump(condition, target) => {
                let distance = starts[*target] as i32 - (code.len() as i32 + 6);
                code.extend([0x0f, 0x80 | condition]);
                code.extend(distance.to_le_bytes());
            }
            Item::Always(target) => {
                let distance = starts[*target] as i32 - (code.len() as i32 + 5);
                code.push(0xe9);
                code.extend(distance.to_le_bytes());
            }
        }
    }
    code
}

#[test]
fn random_programs_agree() {
    let mut beds = pair();
    let mut rng = Rng(0xfeed_face_cafe_beef);
    let mut halted = 0;
    for _ in 0..3_000 {
        let code = program(&mut rng);
        let place = match rng.below(3) {
            0 => CODE + 0x1000 - rng.below(code.len()) as u64,
            _ => CODE,
        };
        // The same code several times: what was translated for one stack meets another.
        for _ in 0..3 {
            let data = EDGE - 8 * rng.below(64) as u64;
            let start = random_start(&mut rng, data);
            let stack = EDGE + 0x100 - 8 * rng.below(96) as u64;
            let exit = compare_at(&mut beds, place, &code, |bed| {
                start(bed);
                bed.cpu.state.regs[gpr::RSP] = stack;
                bed.ram.write_uint(COUNTER.into(), 4, 5);
            });
            halted += u32::from(exit == RunExit::Halted);
        }
    }
    assert!(halted > 3_000, "{halted} ran to their end");
    let traces = translator(&beds).report().traces;
    assert!(traces > 1_000, "{traces} traces");
}
