//! The x87 instructions against the processor that runs the tests: random register stacks, control
//! words and operands go through FRSTOR, the instruction and FNSAVE, and through [`X87`].
#![allow(unsafe_code)] // The oracle is inline assembly.

use super::images::FSAVE_SIZE;
use super::*;
use crate::fpu::format::{F32, F64, Unpacked};
use crate::fpu::testing::Random;

const LAYOUT: EnvLayout = EnvLayout::Protected32;
const CASES: usize = 4000;

/// A memory operand.
type Operand = [u8; 16];

fn f32_operand(operand: &Operand) -> F32 {
    F32(u32::from_le_bytes(operand[..4].try_into().unwrap()))
}

fn f64_operand(operand: &Operand) -> F64 {
    F64(u64::from_le_bytes(operand[..8].try_into().unwrap()))
}

fn f80_operand(operand: &Operand) -> [u8; 10] {
    operand[..10].try_into().unwrap()
}

fn int_operand(operand: &Operand, bits: u32) -> i64 {
    i64::from_le_bytes(operand[..8].try_into().unwrap()) << (64 - bits) >> (64 - bits)
}

fn put<const N: usize>(operand: &mut Operand, value: Option<[u8; N]>) {
    if let Some(bytes) = value {
        operand[..N].copy_from_slice(&bytes);
    }
}

fn random_f80(random: &mut Random) -> F80 {
    let exp = match random.below(8) {
        0 => random.below(3) as u16,
        1 => 0x7fff - random.below(3) as u16,
        2 => (0x3fff - 0x3ff - 60 + random.below(64)) as u16,
        3 => (0x3fff - 0x7f - 30 + random.below(34)) as u16,
        4 => [0x3fff + 0x3fe, 0x3fff + 0x7e][random.below(2) as usize] + random.below(4) as u16,
        5 => random.next() as u16,
        _ => (0x3fff - 70 + random.below(140)) as u16,
    };
    let sign = (random.next() as u16) << 15;
    let sig = random.pattern(64);
    let sig = match random.below(16) {
        0 => sig & !(1 << 63),
        1 => 0,
        _ => sig | 1 << 63,
    };
    if random.below(12) == 0 {
        return F80::new(sign, 0);
    }
    F80::new(exp & 0x7fff | sign, sig)
}

fn random_state(random: &mut Random) -> X87 {
    let regs = [(); 8].map(|()| random_f80(random));
    let mut x87 = X87 { regs, ..X87::default() };
    if random.below(4) == 0 {
        // Operands of like magnitude.
        x87.regs[1] = F80 { sig: x87.regs[1].sig, sign_exp: x87.regs[0].sign_exp };
    }
    x87.top = random.below(8) as u8;
    // Mostly ST(0) and ST(1) valid, ST(7) empty.
    let stack = match random.below(8) {
        0 => random.next() as u8,
        _ => 0b0001_1111,
    };
    x87.valid = stack.rotate_left(x87.top.into());
    let masks = if random.below(4) == 0 { random.next() as u16 & 0x3f } else { 0x3f };
    x87.set_control(random.next() as u16 & 0xf00 | masks);
    x87.status = random.next() as u16 & (status::C1 | status::CONDITION);
    x87
}

fn random_operand(random: &mut Random) -> Operand {
    let mut operand = [0; 16];
    match random.below(3) {
        0 => operand[..4].copy_from_slice(&random.f32().to_le_bytes()),
        1 => operand[..8].copy_from_slice(&random.f64().to_le_bytes()),
        _ => operand[..10].copy_from_slice(&random_f80(random).to_bytes()),
    }
    operand
}

/// Everything an instruction can change.
#[derive(PartialEq, Debug)]
struct Outcome {
    control: u16,
    status: u16,
    tags: u16,
    registers: [F80; 8],
    operand: Operand,
    /// ZF, PF, CF.
    flags: u64,
}

impl Outcome {
    fn new(image: [u8; 108], operand: Operand, flags: u64) -> Self {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let registers = std::array::from_fn(|i| {
            F80::from_bytes(image[28 + 10 * i..][..10].try_into().unwrap())
        });
        Self {
            control: word(0),
            status: word(4),
            tags: word(8),
            registers,
            operand,
            flags: flags & 0x45,
        }
    }
}

/// Runs `instruction` (its memory operand at rsi) on `state`.
macro_rules! on_silicon {
    ($instruction:literal, $state:expr, $operand:expr) => {{
        let mut image: [u8; 108] = $state;
        let mut operand: Operand = $operand;
        let flags: u64;
        // SAFETY: rdi points to an FSAVE image and rsi to 16 bytes, both exclusively ours; no
        // instruction under test touches more. Pending exceptions are not waited for: FNSAVE stores
        // them and leaves the FPU initialised and empty, as the calling convention wants it.
        unsafe {
            core::arch::asm!(
                "frstor [rdi]", "xor eax, eax", $instruction, "pushfq", "pop rdx", "fnsave [rdi]",
                inout("rdi") image.as_mut_ptr() => _, inout("rsi") operand.as_mut_ptr() => _,
                out("rdx") flags, out("rax") _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        Outcome::new(image, operand, flags)
    }};
}

macro_rules! matches_silicon {
    ($($name:ident: { $($instruction:literal => $model:expr,)* })*) => { $(
        #[test]
        fn $name() {
            let mut differing = Vec::new();
            $({
                let mut random = Random::new($instruction);
                let model: fn(&mut X87, &mut Operand) -> Option<std::cmp::Ordering> = $model;
                for _ in 0..CASES {
                    let (state, operand) = (random_state(&mut random), random_operand(&mut random));
                    let silicon = on_silicon!($instruction, state.clone().fnsave(LAYOUT), operand);
                    let (mut x87, mut written) = (state, operand);
                    let order = model(&mut x87, &mut written);
                    let flags = match order {
                        None => 0x44,
                        Some(Ordering::Less) => 1,
                        Some(Ordering::Equal) => 0x40,
                        Some(Ordering::Greater) => 0,
                    };
                    let ours = Outcome::new(x87.fnsave(LAYOUT), written, flags);
                    if ours != silicon {
                        differing.push(format!(
                            "{} on {state:x?} {operand:x?}\n   ours: {ours:x?}\nsilicon: {silicon:x?}", $instruction
                        ));
                        break;
                    }
                }
            })*
            assert!(differing.is_empty(), "{}", differing.join("\n\n"));
        }
    )* };
}

use std::cmp::Ordering;

/// For instructions that do not touch EFLAGS: what `xor eax, eax` leaves.
const UNTOUCHED: Option<Ordering> = None;

macro_rules! effect {
    ($x87:ident, $operand:ident: $effect:expr) => {
        |$x87, $operand| {
            let _ = &$operand;
            $effect;
            UNTOUCHED
        }
    };
}

matches_silicon! {
    basic_arithmetic_on_the_stack: {
        "fadd st(0), st(1)" => effect!(x, m: x.arith(Arith::Add, 0, 1, false)),
        "fadd st(0), st(0)" => effect!(x, m: x.arith(Arith::Add, 0, 0, false)),
        "faddp st(2), st(0)" => effect!(x, m: x.arith(Arith::Add, 2, 0, true)),
        "fmul st(0), st(1)" => effect!(x, m: x.arith(Arith::Mul, 0, 1, false)),
        "fmulp st(1), st(0)" => effect!(x, m: x.arith(Arith::Mul, 1, 0, true)),
        "fsub st(0), st(1)" => effect!(x, m: x.arith(Arith::Sub, 0, 1, false)),
        "fsubr st(0), st(1)" => effect!(x, m: x.arith(Arith::SubReversed, 0, 1, false)),
        ".byte 0xde, 0xe9" => effect!(x, m: x.arith(Arith::Sub, 1, 0, true)),
        ".byte 0xde, 0xe1" => effect!(x, m: x.arith(Arith::SubReversed, 1, 0, true)),
        "fdiv st(0), st(1)" => effect!(x, m: x.arith(Arith::Div, 0, 1, false)),
        "fdivr st(0), st(1)" => effect!(x, m: x.arith(Arith::DivReversed, 0, 1, false)),
        ".byte 0xde, 0xf9" => effect!(x, m: x.arith(Arith::Div, 1, 0, true)),
        ".byte 0xde, 0xf1" => effect!(x, m: x.arith(Arith::DivReversed, 1, 0, true)),
        "fsqrt" => effect!(x, m: x.fsqrt()),
    }
    arithmetic_with_memory: {
        "fadd dword ptr [rsi]" => effect!(x, m: x.arith_value(Arith::Add, f32_operand(m).unpack())),
        "fmul qword ptr [rsi]" => effect!(x, m: x.arith_value(Arith::Mul, f64_operand(m).unpack())),
        "fsubr qword ptr [rsi]" => effect!(x, m: x.arith_value(Arith::SubReversed, f64_operand(m).unpack())),
        "fdiv dword ptr [rsi]" => effect!(x, m: x.arith_value(Arith::Div, f32_operand(m).unpack())),
        "fidiv word ptr [rsi]" => effect!(x, m: x.arith_value(Arith::Div, Unpacked::from_i64(int_operand(m, 16)))),
        "fisub dword ptr [rsi]" => effect!(x, m: x.arith_value(Arith::Sub, Unpacked::from_i64(int_operand(m, 32)))),
    }
    other_arithmetic: {
        "fabs" => effect!(x, m: x.fabs()),
        "fchs" => effect!(x, m: x.fchs()),
        "frndint" => effect!(x, m: x.frndint()),
        "fscale" => effect!(x, m: x.fscale()),
        "fxtract" => effect!(x, m: x.fxtract()),
    }
    partial_remainders: {
        "fprem" => effect!(x, m: x.fprem(false)),
        "fprem1" => effect!(x, m: x.fprem(true)),
    }
    loads: {
        "fld dword ptr [rsi]" => effect!(x, m: x.fld(f32_operand(m))),
        "fld qword ptr [rsi]" => effect!(x, m: x.fld(f64_operand(m))),
        "fld tbyte ptr [rsi]" => effect!(x, m: x.fld_f80(F80::from_bytes(f80_operand(m)))),
        "fild word ptr [rsi]" => effect!(x, m: x.fild(int_operand(m, 16))),
        "fild dword ptr [rsi]" => effect!(x, m: x.fild(int_operand(m, 32))),
        "fild qword ptr [rsi]" => effect!(x, m: x.fild(int_operand(m, 64))),
        "fld st(3)" => effect!(x, m: x.fld_st(3)),
        "fld1" => effect!(x, m: x.fld_constant(Constant::One)),
        "fldl2t" => effect!(x, m: x.fld_constant(Constant::Log2Of10)),
        "fldl2e" => effect!(x, m: x.fld_constant(Constant::Log2OfE)),
        "fldpi" => effect!(x, m: x.fld_constant(Constant::Pi)),
        "fldlg2" => effect!(x, m: x.fld_constant(Constant::Log10Of2)),
        "fldln2" => effect!(x, m: x.fld_constant(Constant::LnOf2)),
        "fldz" => effect!(x, m: x.fld_constant(Constant::Zero)),
    }
    stores: {
        "fst dword ptr [rsi]" => effect!(x, m: put(m, x.fst::<F32>(false).map(|v| v.0.to_le_bytes()))),
        "fstp qword ptr [rsi]" => effect!(x, m: put(m, x.fst::<F64>(true).map(|v| v.0.to_le_bytes()))),
        "fstp tbyte ptr [rsi]" => effect!(x, m: put(m, x.fstp_f80().map(F80::to_bytes))),
        "fist word ptr [rsi]" => effect!(x, m: put(m, x.fist(16, false).map(|v| (v as i16).to_le_bytes()))),
        "fist dword ptr [rsi]" => effect!(x, m: put(m, x.fist(32, false).map(|v| (v as i32).to_le_bytes()))),
        "fistp qword ptr [rsi]" => effect!(x, m: put(m, x.fist(64, true).map(i64::to_le_bytes))),
        "fisttp word ptr [rsi]" => effect!(x, m: put(m, x.fisttp(16).map(|v| (v as i16).to_le_bytes()))),
        "fisttp dword ptr [rsi]" => effect!(x, m: put(m, x.fisttp(32).map(|v| (v as i32).to_le_bytes()))),
        "fisttp qword ptr [rsi]" => effect!(x, m: put(m, x.fisttp(64).map(i64::to_le_bytes))),
        "fbstp tbyte ptr [rsi]" => effect!(x, m: put(m, x.fbstp())),
        "fst st(2)" => effect!(x, m: x.fst_st(2, false)),
        "fstp st(0)" => effect!(x, m: x.fst_st(0, true)),
        "fstp st(6)" => effect!(x, m: x.fst_st(6, true)),
        "fxch st(1)" => effect!(x, m: x.fxch(1)),
        "fxch st(5)" => effect!(x, m: x.fxch(5)),
    }
    comparisons: {
        "fcom st(1)" => effect!(x, m: x.fcom(1, false, 0)),
        "fcompp" => effect!(x, m: x.fcom(1, false, 2)),
        "fucom st(1)" => effect!(x, m: x.fcom(1, true, 0)),
        "fucomp st(2)" => effect!(x, m: x.fcom(2, true, 1)),
        "fucompp" => effect!(x, m: x.fcom(1, true, 2)),
        "fcom dword ptr [rsi]" => effect!(x, m: x.fcom_value(f32_operand(m).unpack(), false)),
        "fcomp qword ptr [rsi]" => effect!(x, m: x.fcom_value(f64_operand(m).unpack(), true)),
        "ficom word ptr [rsi]" => effect!(x, m: x.fcom_value(Unpacked::from_i64(int_operand(m, 16)), false)),
        "ftst" => effect!(x, m: x.ftst()),
        "fxam" => effect!(x, m: x.fxam()),
    }
    control: {
        "fninit" => effect!(x, m: x.fninit()),
        "fnclex" => effect!(x, m: x.fnclex()),
        "ffree st(3)" => effect!(x, m: x.ffree(3)),
        "fincstp" => effect!(x, m: x.fincstp()),
        "fdecstp" => effect!(x, m: x.fdecstp()),
        "emms" => effect!(x, m: x.emms()),
        "movq mm3, [rsi]" => effect!(x, m: {
            x.enter_mmx();
            x.set_mmx(3, int_operand(m, 64) as u64);
        }),
        // ZF is set, CF and PF too.
        "fcmove st(0), st(2)" => effect!(x, m: x.fcmov(2, true)),
        "fcmovne st(0), st(2)" => effect!(x, m: x.fcmov(2, false)),
    }
}

/// The elementary functions: as on silicon but for the last bit of the result, where the series here is
/// right more often, and C1, which follows from that bit.
#[test]
fn elementary_functions() {
    let within_an_ulp = |a: F80, b: F80| {
        let line = |x: F80| u128::from(x.sign_exp) << 63 | u128::from(x.sig & u64::MAX >> 1);
        line(a).abs_diff(line(b)) <= 1
    };
    let smallest_normal = |a: &F80| a.sign_exp & 0x7fff == 1 && a.sig == 1 << 63;
    macro_rules! check {
        ($($instruction:literal => $model:ident,)*) => { $({
            let mut random = Random::new($instruction);
            for _ in 0..CASES {
                let state = random_state(&mut random);
                let mut silicon = on_silicon!($instruction, state.clone().fnsave(LAYOUT), [0; 16]);
                let mut x87 = state;
                x87.$model();
                let ours = Outcome::new(x87.fnsave(LAYOUT), [0; 16], 0x44);
                let underflows = |outcome: &Outcome| outcome.status & u16::from(flag::UE) != 0;
                if underflows(&ours)
                    && !underflows(&silicon)
                    && silicon.registers.iter().any(smallest_normal)
                {
                    // The last bit decides.
                    continue;
                }
                for (silicon, ours) in silicon.registers.iter_mut().zip(ours.registers) {
                    if within_an_ulp(*silicon, ours) {
                        *silicon = ours;
                    }
                }
                // The last denormal may be a zero there.
                silicon.tags = ours.tags;
                silicon.status = silicon.status & !status::C1 | ours.status & status::C1;
                assert_eq!(ours, silicon, "{} {state:x?}", $instruction);
            }
        })* };
    }
    check! {
        "fsin" => fsin,
        "fcos" => fcos,
        "fsincos" => fsincos,
        "fptan" => fptan,
        "fpatan" => fpatan,
        "f2xm1" => f2xm1,
        "fyl2x" => fyl2x,
        "fyl2xp1" => fyl2xp1,
    }
}

#[test]
fn flag_setting_comparisons() {
    macro_rules! check {
        ($instruction:literal, $i:literal, $quiet:literal, $pop:literal) => {
            let mut random = Random::new($instruction);
            for _ in 0..CASES {
                let state = random_state(&mut random);
                let silicon = on_silicon!($instruction, state.clone().fnsave(LAYOUT), [0; 16]);
                let mut x87 = state;
                let flags = match x87.fcomi($i, $quiet, $pop) {
                    None => 0x45,
                    Some(Ordering::Less) => 1,
                    Some(Ordering::Equal) => 0x40,
                    Some(Ordering::Greater) => 0,
                };
                assert_eq!(
                    Outcome::new(x87.fnsave(LAYOUT), [0; 16], flags),
                    silicon,
                    "{} {state:x?}",
                    $instruction
                );
            }
        };
    }
    check!("fcomi st(0), st(1)", 1, false, false);
    check!("fcomip st(0), st(2)", 2, false, true);
    check!("fucomi st(0), st(1)", 1, true, false);
    check!("fucomip st(0), st(1)", 1, true, true);
}

#[test]
fn packed_decimal_loads() {
    let mut random = Random::new("fbld");
    for _ in 0..CASES {
        let state = random_state(&mut random);
        let mut operand = [0; 16];
        for byte in &mut operand[..9] {
            *byte = (random.below(10) << 4 | random.below(10)) as u8;
        }
        operand[9] = random.next() as u8;
        let silicon = on_silicon!("fbld tbyte ptr [rsi]", state.clone().fnsave(LAYOUT), operand);
        let mut x87 = state;
        x87.fbld(f80_operand(&operand));
        assert_eq!(
            Outcome::new(x87.fnsave(LAYOUT), operand, 0x44),
            silicon,
            "{state:x?} {operand:x?}"
        );
    }
}

/// FNSAVE with a 16-bit operand, and FXSAVE, of the same random states. Pointers are zero: processors
/// differ in when they keep them.
#[test]
fn other_images() {
    #[repr(align(16))]
    struct Area([u8; 512]);

    let mut random = Random::new("images");
    for _ in 0..CASES {
        let state = random_state(&mut random);
        let image = state.clone().fnsave(LAYOUT);
        let mut short = [0u8; FSAVE_SIZE];
        let mut area = Area([0; 512]);
        // SAFETY: rdi points to an FSAVE image, rsi to room for one, rdx to an aligned FXSAVE area, all
        // ours. FNSAVE leaves the FPU initialised and empty, as the calling convention wants it.
        unsafe {
            core::arch::asm!(
                "frstor [rdi]", "fxsave [rdx]", ".byte 0x66", "fnsave [rsi]",
                in("rdi") image.as_ptr(), in("rsi") short.as_mut_ptr(), in("rdx") area.0.as_mut_ptr(),
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        let size = EnvLayout::Protected16.size() + 80;
        assert_eq!(
            state.clone().fnsave(EnvLayout::Protected16)[..size],
            short[..size],
            "{state:x?}"
        );
        let mut ours = [0; 512];
        state.fxsave(false, &mut ours);
        assert_eq!(ours[..24], area.0[..24], "{state:x?}");
        assert_eq!(ours[32..160], area.0[32..160], "{state:x?}");
        let mut restored = X87::default();
        restored.fxrstor(false, &area.0);
        assert_eq!(restored, state);
    }
}
