//! Code that changes: what just-in-time compilers in the guest do.
//!
//! On x86 a store to code is seen by the same CPU at the next jump (Intel SDM
//! volume 3, 9.1.3), so nothing but the store is needed.
#![allow(unsafe_code)]

use crate::os::{Access, PAGE, Pages};
use crate::random::Random;
use crate::{Round, Workload};

pub const WORKLOADS: [Workload; 3] = [
    Workload::new("patched", patched, 0x92e4_f128_bc78_c9d7),
    Workload::new("data-beside-code", data_beside_code, 0x0000_0000_009a_1d20),
    Workload::new("fresh-functions", fresh_functions, 0xe358_a771_12a6_9b35),
];

/// One instruction's constant changes before each call.
fn patched() -> Round {
    let mut pages = Pages::new(PAGE, Access::Everything);
    // lea rax, [rdi + constant]; ret
    pages.bytes()[..8].copy_from_slice(&[0x48, 0x8d, 0x87, 0, 0, 0, 0, 0xc3]);
    Box::new(move || {
        let mut sum = 0u64;
        for turn in 0..2_000u32 {
            pages.bytes()[3..7].copy_from_slice(&turn.to_le_bytes());
            // SAFETY: the function above, which touches RAX only.
            sum = sum.wrapping_mul(3) + unsafe { pages.call(0, sum & 0xff) };
        }
        sum
    })
}

/// A function counts in a variable on its own page.
fn data_beside_code() -> Round {
    const VARIABLE: usize = 2048;
    let mut pages = Pages::new(PAGE, Access::Everything);
    let mut code = Vec::new();
    // 0: add [rip + variable], rdi; dec rdi; jnz 0; mov rax, [rip + variable]; ret
    code.extend([0x48, 0x01, 0x3d]);
    code.extend((VARIABLE as u32 - 7).to_le_bytes());
    code.extend([0x48, 0xff, 0xcf, 0x75, 0xf4]);
    code.extend([0x48, 0x8b, 0x05]);
    code.extend((VARIABLE as u32 - 19).to_le_bytes());
    code.push(0xc3);
    pages.bytes()[..code.len()].copy_from_slice(&code);
    Box::new(move || {
        pages.words()[VARIABLE / 8] = 0;
        // SAFETY: the function above changes RAX, RDI and its variable.
        (0..2_000).fold(0, |_, _| unsafe { pages.call(0, 100) })
    })
}

/// Functions written one after the other, each called twice: far more code
/// than runs.
fn fresh_functions() -> Round {
    const FUNCTIONS: usize = 300;
    const SIZE: usize = 128;
    let mut pages = Pages::new(FUNCTIONS * SIZE, Access::Everything);
    Box::new(move || {
        let mut random = Random::new(18);
        let mut sum = 0u64;
        let mut wrong = 0;
        for at in (0..FUNCTIONS).map(|function| function * SIZE) {
            let argument = sum & 0xffff;
            let mut expected = argument;
            let mut code = vec![0x48, 0x89, 0xf8]; // mov rax, rdi
            for _ in 0..16 {
                let constant = random.next() as i32;
                let wide = i64::from(constant) as u64;
                match constant & 3 {
                    0 => {
                        code.extend([0x48, 0x05]); // add rax, constant
                        expected = expected.wrapping_add(wide);
                    }
                    1 => {
                        code.extend([0x48, 0x35]); // xor rax, constant
                        expected ^= wide;
                    }
                    2 => {
                        code.extend([0x48, 0x2d]); // sub rax, constant
                        expected = expected.wrapping_sub(wide);
                    }
                    _ => {
                        code.extend([0x48, 0x69, 0xc0]); // imul rax, rax, constant
                        expected = expected.wrapping_mul(wide);
                    }
                }
                code.extend(constant.to_le_bytes());
            }
            code.push(0xc3); // ret
            pages.bytes()[at..at + code.len()].copy_from_slice(&code);
            // SAFETY: the function just written, which touches RAX only.
            let (first, second) = unsafe { (pages.call(at, argument), pages.call(at, argument)) };
            wrong += u64::from(first != expected) + u64::from(second != expected);
            sum = sum.rotate_left(9) ^ first;
        }
        sum.wrapping_add(wrong)
    })
}
