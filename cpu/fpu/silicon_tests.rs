//! The fused multiply-add against the processor that runs the tests, which has it in FMA3.
#![allow(unsafe_code)] // The oracle is inline assembly.

use super::arith::{mul_add, operand};
use super::testing::Random;
use super::{Env, F32, F64, Float, NanRule, Rounding, flag};

const CASES: usize = 40_000;

const DAZ: u32 = 1 << 6;
const MASKS: u32 = 0x1f80;
const RC_SHIFT: u32 = 13;
const FTZ: u32 = 1 << 15;

fn env(mxcsr: u32) -> Env {
    Env {
        rounding: Rounding::from_bits(mxcsr >> RC_SHIFT),
        precision: F64::PRECISION,
        masks: flag::ALL,
        flush_to_zero: mxcsr & FTZ != 0,
        denormals_are_zero: mxcsr & DAZ != 0,
        nan_rule: NanRule::FirstSource,
        flags: 0,
        rounded_up: false,
    }
}

/// `x * y + z` under MXCSR: the result and the flags.
macro_rules! on_silicon {
    ($instruction:literal, $mxcsr:expr, $x:expr, $y:expr, $z:expr) => {{
        let (mut mxcsr, mut z): (u32, u64) = ($mxcsr, $z);
        let (x, y): (u64, u64) = ($x, $y);
        let mut host: u32 = 0;
        // SAFETY: rdi and rsi point to dwords of ours; MXCSR, with every exception masked meanwhile,
        // is as before at the end. The caller has seen that FMA is there.
        unsafe {
            core::arch::asm!(
                "stmxcsr [rsi]", "ldmxcsr [rdi]",
                "movq xmm1, {x}", "movq xmm2, {y}", "movq xmm0, {z}",
                $instruction,
                "movq {z}, xmm0", "stmxcsr [rdi]", "ldmxcsr [rsi]",
                x = in(reg) x, y = in(reg) y, z = inout(reg) z,
                in("rdi") &mut mxcsr, in("rsi") &mut host,
                out("xmm0") _, out("xmm1") _, out("xmm2") _,
            );
        }
        (z, mxcsr as u8 & flag::ALL)
    }};
}

#[test]
fn fused_multiply_add() {
    if !is_x86_feature_detected!("fma") {
        return;
    }
    macro_rules! check {
        ($instruction:literal, $format:ident, $bits:ty, $random:ident) => {
            let mut random = Random::new($instruction);
            for _ in 0..CASES {
                let controls = random.next() as u32 & (DAZ | 3 << RC_SHIFT | FTZ);
                let mxcsr = MASKS | if random.below(2) == 0 { 0 } else { controls };
                let [x, mut y, mut z] = [(); 3].map(|()| random.$random());
                if random.below(4) == 0 {
                    // Products near the addend, so that they cancel.
                    y = $format::pack(y >> 1 & 1 != 0, $format::EMAX as u32, 1 << 63).0;
                    z = x ^ (random.next() as $bits & 7);
                }
                let mut env = env(mxcsr);
                let [a, b, c] = [x, y, z].map(|bits| operand($format(bits), &env));
                let ours = mul_add::<$format>(a, b, c, &mut env);
                let silicon = on_silicon!($instruction, mxcsr, x.into(), y.into(), z.into());
                assert_eq!(
                    (ours.0, env.flags),
                    (silicon.0 as $bits, silicon.1),
                    "{x:#x} * {y:#x} + {z:#x} under {mxcsr:#x}"
                );
            }
        };
    }
    check!("vfmadd231ss xmm0, xmm1, xmm2", F32, u32, f32);
    check!("vfmadd231sd xmm0, xmm1, xmm2", F64, u64, f64);
}
