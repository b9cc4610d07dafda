//! The packed operations against the processor that runs the tests, with exceptions unmasked too: then
//! SIGFPE arrives, and its handler goes on behind the instruction.
#![allow(unsafe_code, clippy::unwrap_used)] // The oracle is inline assembly.

use super::*;
use crate::fpu::testing::Random;
use iced_x86::Mnemonic as M;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::OnceLock;

const CASES: usize = 20_000;

/// The handler that was there before: translated code of other tests may trap at the same time.
static BEFORE: OnceLock<SigHandler> = OnceLock::new();

extern "C" fn resume_at_r11(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the interrupted context, which is this handler's to change.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let behind = registers[libc::REG_R11 as usize];
    // The code below traps right before the place whose address is in R11.
    if matches!(behind.wrapping_sub(registers[libc::REG_RIP as usize]), 1..=15) {
        registers[libc::REG_RIP as usize] = behind;
    } else if let Some(SigHandler::SigAction(handler)) = BEFORE.get() {
        handler(signal, info, context);
    } else {
        std::process::abort();
    }
}

fn catch_exceptions() {
    let handler = SigHandler::SigAction(resume_at_r11);
    let action = SigAction::new(handler, SaFlags::SA_ONSTACK, SigSet::empty());
    // SAFETY: the handler does nothing but load and store words.
    let before = unsafe { sigaction(Signal::SIGFPE, &action) }.unwrap();
    BEFORE.get_or_init(|| before.handler());
}

/// Destination and MXCSR after `instruction` on xmm0 and xmm1.
macro_rules! on_silicon {
    ($instruction:literal, $a:expr, $b:expr, $mxcsr:expr) => {{
        let mut vectors: [u128; 2] = [$a, $b];
        let mut control: [u32; 2] = [$mxcsr, 0x1f80];
        // SAFETY: rdi points to two vectors and rsi to two words, ours; MXCSR ends as the calling
        // convention wants it.
        unsafe {
            core::arch::asm!(
                "movdqu xmm0, [rdi]", "movdqu xmm1, [rdi + 16]", "ldmxcsr [rsi]",
                "lea r11, [rip + 2f]", $instruction, "2:", "stmxcsr [rsi]", "ldmxcsr [rsi + 4]",
                "movdqu [rdi], xmm0",
                in("rdi") vectors.as_mut_ptr(), in("rsi") control.as_mut_ptr(),
                out("r11") _, out("xmm0") _, out("xmm1") _,
            );
        }
        (vectors[0], control[0])
    }};
}

macro_rules! matches_silicon {
    ($($instruction:literal => $mnemonic:ident $imm:literal,)*) => {
        #[test]
        fn exceptions_are_those_of_silicon() {
            catch_exceptions();
            let mut differing = Vec::new();
            $({
                let mut random = Random::new($instruction);
                let f = float(M::$mnemonic).unwrap();
                for case in 0..CASES {
                    let mut half = || match case % 2 {
                        0 => random.f64(),
                        _ => u64::from(random.f32()) << 32 | u64::from(random.f32()),
                    };
                    let a = u128::from(half()) << 64 | u128::from(half());
                    let b = u128::from(half()) << 64 | u128::from(half());
                    let mxcsr = random.next() as u32 & 0xffff | [0, 0x1f80][random.below(2) as usize];
                    let mxcsr = mxcsr & [!0, !0x3f][random.below(2) as usize];
                    let theirs = on_silicon!($instruction, a, b, mxcsr);
                    let mut unit = Unit::new(mxcsr);
                    let result = f(a, b, $imm, &mut unit);
                    let (flags, unmasked) = unit.outcome();
                    let ours = (if unmasked { a } else { result }, mxcsr | flags);
                    if ours != theirs {
                        differing.push(format!(
                            "{} on {a:#x} {b:#x} {mxcsr:#x}\n   ours: {ours:x?}\nsilicon: {theirs:x?}",
                            $instruction
                        ));
                        break;
                    }
                }
            })*
            assert!(differing.is_empty(), "{}", differing.join("\n\n"));
        }
    };
}

matches_silicon! {
    "addps xmm0, xmm1" => Addps 0,
    "addsd xmm0, xmm1" => Addsd 0,
    "subpd xmm0, xmm1" => Subpd 0,
    "mulps xmm0, xmm1" => Mulps 0,
    "mulpd xmm0, xmm1" => Mulpd 0,
    "divps xmm0, xmm1" => Divps 0,
    "divss xmm0, xmm1" => Divss 0,
    "sqrtpd xmm0, xmm1" => Sqrtpd 0,
    "minps xmm0, xmm1" => Minps 0,
    "maxsd xmm0, xmm1" => Maxsd 0,
    "cmpps xmm0, xmm1, 2" => Cmpps 2,
    "cmppd xmm0, xmm1, 4" => Cmppd 4,
    "haddps xmm0, xmm1" => Haddps 0,
    "hsubpd xmm0, xmm1" => Hsubpd 0,
    "addsubps xmm0, xmm1" => Addsubps 0,
    "dpps xmm0, xmm1, 0xf1" => Dpps 0xf1,
    "dpps xmm0, xmm1, 0xff" => Dpps 0xff,
    "dpps xmm0, xmm1, 0x5e" => Dpps 0x5e,
    "dppd xmm0, xmm1, 0x33" => Dppd 0x33,
    "roundps xmm0, xmm1, 4" => Roundps 4,
    "roundpd xmm0, xmm1, 9" => Roundpd 9,
    "cvtdq2ps xmm0, xmm1" => Cvtdq2ps 0,
    "cvtps2dq xmm0, xmm1" => Cvtps2dq 0,
    "cvttpd2dq xmm0, xmm1" => Cvttpd2dq 0,
    "cvtps2pd xmm0, xmm1" => Cvtps2pd 0,
    "cvtpd2ps xmm0, xmm1" => Cvtpd2ps 0,
    "cvtsd2ss xmm0, xmm1" => Cvtsd2ss 0,
}
