//! An interpreter of a small register machine: one unpredictable branch for
//! each of its instructions.

use crate::Round;
use std::hint::black_box;

#[derive(Clone, Copy)]
enum Op {
    Load(u8, u64),
    Copy(u8, u8),
    AddConstant(u8, u64),
    And(u8, u8, u64),
    TripleAddOne(u8),
    Halve(u8),
    Jump(u16),
    JumpIfZero(u8, u16),
    JumpIfOne(u8, u16),
    JumpIfLess(u8, u64, u16),
    Stop,
}

/// Adds up the lengths of Collatz's sequences.
const PROGRAM: [Op; 14] = [
    Op::Load(0, 0),
    Op::Load(1, 1),
    Op::Copy(2, 1),
    Op::JumpIfOne(2, 11),
    Op::And(3, 2, 1),
    Op::JumpIfZero(3, 8),
    Op::TripleAddOne(2),
    Op::Jump(9),
    Op::Halve(2),
    Op::AddConstant(0, 1),
    Op::Jump(3),
    Op::AddConstant(1, 1),
    Op::JumpIfLess(1, 2_000, 2),
    Op::Stop,
];

pub fn prepare() -> Round {
    Box::new(|| run(black_box(&PROGRAM)))
}

#[inline(never)]
fn run(program: &[Op]) -> u64 {
    let mut registers = [0u64; 256];
    let mut place = 0;
    loop {
        let op = program[place];
        place += 1;
        match op {
            Op::Load(to, value) => registers[usize::from(to)] = value,
            Op::Copy(to, from) => registers[usize::from(to)] = registers[usize::from(from)],
            Op::AddConstant(to, value) => registers[usize::from(to)] += value,
            Op::And(to, from, mask) => {
                registers[usize::from(to)] = registers[usize::from(from)] & mask;
            }
            Op::TripleAddOne(to) => registers[usize::from(to)] = registers[usize::from(to)] * 3 + 1,
            Op::Halve(to) => registers[usize::from(to)] >>= 1,
            Op::Jump(target) => place = target.into(),
            Op::JumpIfZero(of, target) => {
                if registers[usize::from(of)] == 0 {
                    place = target.into();
                }
            }
            Op::JumpIfOne(of, target) => {
                if registers[usize::from(of)] == 1 {
                    place = target.into();
                }
            }
            Op::JumpIfLess(of, than, target) => {
                if registers[usize::from(of)] < than {
                    place = target.into();
                }
            }
            Op::Stop => return registers[0],
        }
    }
}
