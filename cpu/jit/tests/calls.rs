//! Calls and returns in every order: what the host's stack remembers must never show.

use super::generate::Rng;
use super::{DATA, compare, pair};
use crate::interp::RunExit;
use crate::state::gpr;

/// Where the guest's stack is.
const STACK: u64 = DATA + 0x1800;
/// Bytes of a function of [`program`].
const FUNCTION: usize = 64;
/// Counts the calls that are still allowed.
const COUNTER: u32 = DATA as u32 + 0x1ff0;

fn call(code: &mut Vec<u8>, target: usize) {
    let distance = target as i32 - (code.len() as i32 + 5);
    code.push(0xe8);
    code.extend(distance.to_le_bytes());
}

/// Functions that call each other, and some that do not return where they were called from.
fn program(rng: &mut Rng) -> Vec<u8> {
    let functions = 3 + rng.below(90);
    let mut code = Vec::new();
    for number in 0..functions {
        // dec dword [COUNTER]; jns +1; hlt
        code.extend([0xff, 0x0c, 0x25]);
        code.extend(COUNTER.to_le_bytes());
        code.extend([0x79, 1, 0xf4]);
        for _ in 0..1 + rng.below(2) {
            code.extend([0x48, 0x83, 0xc0 | rng.below(2) as u8, number as u8]); // add rax/rcx, number
            let other = rng.below(functions) * FUNCTION;
            match rng.below(12) {
                0..5 => call(&mut code, other),
                5 => {
                    // lea rdx, [other]; call rdx
                    let distance = other as i32 - (code.len() as i32 + 7);
                    code.extend([0x48, 0x8d, 0x15]);
                    code.extend(distance.to_le_bytes());
                    code.extend([0xff, 0xd2]);
                }
                6 => {
                    // call +0; pop rdx
                    code.extend([0xe8, 0, 0, 0, 0, 0x5a]);
                }
                7 => {
                    // lea rdx, [other]; push rdx; ret: a jump
                    let distance = other as i32 - (code.len() as i32 + 7);
                    code.extend([0x48, 0x8d, 0x15]);
                    code.extend(distance.to_le_bytes());
                    code.extend([0x52, 0xc3]);
                }
                8 => {
                    // call +2; int3; hlt; add qword [rsp], 8 leads behind the ret
                    code.extend([0xe8, 2, 0, 0, 0, 0xcc, 0xf4, 0x48, 0x83, 0x04, 0x24, 8, 0xc3]);
                }
                9 => code.extend([0x48, 0x83, 0xc4, 8]), // add rsp, 8: to the caller's caller
                _ => code.extend([0x48, 0xff, 0xc1]),    // inc rcx
            }
        }
        if rng.below(8) == 0 {
            code.extend([0x6a, 0, 0xc2, 8, 0]); // push 0; ret 8
        }
        code.push(0xc3);
        code.resize((number + 1) * FUNCTION, 0xf4);
    }
    code
}

#[test]
fn random_calls_and_returns_agree() {
    let mut beds = pair();
    let mut rng = Rng(0x0dd0_ca11_5eed_0001);
    for _ in 0..1_500 {
        let code = program(&mut rng);
        let count = rng.below(600) as u64;
        for _ in 0..2 {
            let exit = compare(&mut beds, &code, |bed| {
                bed.cpu.state.regs[gpr::RSP] = STACK;
                // Whoever returns too often comes to a HLT.
                bed.ram.write(0, &[0xf4]);
                for at in (STACK..STACK + 0x200).step_by(8) {
                    bed.ram.write_uint(at, 8, 0);
                }
                bed.ram.write_uint(COUNTER.into(), 4, count);
            });
            assert_eq!(exit, RunExit::Halted);
        }
    }
}

/// `rax` becomes `depth`, by as many calls that have not returned at the deepest.
fn recursion(depth: u32) -> Vec<u8> {
    let mut code = vec![0xb9]; // mov ecx, depth
    code.extend(depth.to_le_bytes());
    code.extend([0x31, 0xc0]); // xor eax, eax
    call(&mut code, 13);
    code.push(0xf4);
    // 13: dec ecx; jz +5; call 13; inc eax; ret
    code.extend([0xff, 0xc9, 0x74, 5]);
    call(&mut code, 13);
    code.extend([0xff, 0xc0, 0xc3]);
    code
}

#[test]
fn calls_may_nest_deeper_than_is_remembered() {
    let mut beds = pair();
    for depth in [1, 2, 255, 256, 257, 258, 300, 512, 900] {
        compare(&mut beds, &recursion(depth), |bed| bed.cpu.state.regs[gpr::RSP] = DATA + 0x1ff0);
        assert!(beds.iter().all(|bed| bed.cpu.state.regs[gpr::RAX] == u64::from(depth)), "{depth}");
    }
}
