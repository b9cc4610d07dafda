//! Scalar floating point: SSE and the x87.
//!
//! Additions to square roots are exact by IEEE 754, so their results are
//! compared bit by bit. Elementary functions differ in the last bits from one
//! library or FPU to the next and are rounded first.
#![allow(unsafe_code)]

use crate::random::Random;
use crate::{Round, Workload};
use std::arch::asm;
use std::hint::black_box;

pub const WORKLOADS: [Workload; 6] = [
    Workload::new("double", double, 0x1c74_fca4_508c_71cb),
    Workload::new("float", float, 0x0000_2ca8_5312_62c6),
    Workload::new("convert", convert, 0xae86_f950_1122_0703),
    Workload::new("libm", libm, 0x0000_0002_3dab_96b3),
    Workload::new("x87", x87, 0x40b0_e8a1_8d83_816a),
    Workload::new("x87-functions", x87_functions, 0xffff_ffff_8d7c_f524),
];

/// Five bodies that attract each other.
fn double() -> Round {
    #[derive(Clone)]
    struct Body {
        place: [f64; 3],
        speed: [f64; 3],
        mass: f64,
    }
    let mut random = Random::new(4);
    let mut number = move || (random.next() >> 40) as f64 / f64::from(1 << 20) - 8.0;
    let bodies: Vec<Body> = (0..5)
        .map(|_| Body {
            place: [number(), number(), number()],
            speed: [number() / 64.0, number() / 64.0, number() / 64.0],
            mass: number().abs(),
        })
        .collect();
    Box::new(move || {
        const STEP: f64 = 1.0 / 128.0;
        let mut bodies = bodies.clone();
        for _ in 0..2_000 {
            for first in 0..bodies.len() {
                for second in first + 1..bodies.len() {
                    let (a, b) = (&bodies[first], &bodies[second]);
                    let away: [f64; 3] = std::array::from_fn(|axis| a.place[axis] - b.place[axis]);
                    let square = away.iter().map(|d| d * d).sum::<f64>() + 0.01;
                    let pull = STEP / (square * square.sqrt());
                    let (to_a, to_b) = (b.mass * pull, a.mass * pull);
                    for (axis, way) in away.iter().enumerate() {
                        bodies[first].speed[axis] -= way * to_a;
                        bodies[second].speed[axis] += way * to_b;
                    }
                }
            }
            for body in &mut bodies {
                for axis in 0..3 {
                    body.place[axis] += STEP * body.speed[axis];
                }
            }
        }
        bodies
            .iter()
            .flat_map(|body| body.place)
            .fold(0, |sum: u64, coordinate| sum.rotate_left(5) ^ coordinate.to_bits())
    })
}

/// The Mandelbrot set in single precision.
fn float() -> Round {
    Box::new(|| {
        const SIZE: u16 = 64;
        let mut steps = 0;
        for row in 0..SIZE {
            for column in 0..SIZE {
                let real = f32::from(black_box(column)) * (3.0 / f32::from(SIZE)) - 2.25;
                let imaginary = f32::from(row) * (2.5 / f32::from(SIZE)) - 1.25;
                let (mut x, mut y) = (0.0f32, 0.0f32);
                let mut count = 0;
                while count < 100 && x * x + y * y < 4.0 {
                    (x, y) = (x * x - y * y + real, 2.0 * x * y + imaginary);
                    count += 1;
                }
                steps = steps * 3 + count & 0xffff_ffff_ffff;
            }
        }
        steps
    })
}

/// Between integers and both precisions, with rounding and saturation.
fn convert() -> Round {
    let mut random = Random::new(5);
    let numbers: Vec<i64> = (0..20_000).map(|_| (random.next() as i64) >> 20).collect();
    Box::new(move || {
        numbers.iter().fold(0, |sum: u64, &number| {
            let double = black_box(number as f64) * 0.3;
            let single = black_box(double as f32) + 0.5;
            let short = black_box(number as i32) as f32;
            let back = black_box(f64::from(single)) as i64;
            let rounded = double.round_ties_even() as i64 as u64;
            sum.rotate_left(3)
                ^ rounded
                ^ back as u64
                ^ u64::from(short.to_bits())
                ^ short as i32 as u64
        })
    })
}

/// glibc's elementary functions.
fn libm() -> Round {
    Box::new(|| {
        let sum: f64 = (1..3_000)
            .map(|n| {
                let x = black_box(f64::from(n)) / 700.0;
                x.sin() + x.cos() * x.exp().ln() + x.powf(1.5) + (x / 3.0).atan()
            })
            .sum();
        (sum * 1e6).round() as u64
    })
}

/// A polynomial and a continued square root on the x87's stack, in its own
/// 80-bit precision.
fn x87() -> Round {
    Box::new(|| {
        let (start, step, half) = (black_box(0.25f64), 1.0f64 / 65536.0, 0.5f64);
        let mut sum = 0.0f64;
        // SAFETY: reads and writes only the operands; the stack is left as empty as it was found.
        unsafe {
            asm!(
                "fld qword ptr [{start}]",      // x
                "fldz",                         // sum, x
                "2:",
                "fld st(1)",                    // x, sum, x
                "fmul st, st(0)",
                "fadd qword ptr [{half}]",
                "fmul st, st(2)",
                "fsub qword ptr [{half}]",
                "fld st(0)",
                "fmul st, st(0)",
                "fld1",
                "faddp st(1), st",              // 1 + p*p, p, sum, x
                "fsqrt",
                "fdivp st(1), st",              // p / sqrt(1 + p*p), sum, x
                "fchs",
                "faddp st(1), st",              // sum, x
                "fxch st(1)",
                "fadd qword ptr [{step}]",
                "fxch st(1)",
                "dec {count:e}",
                "jnz 2b",
                "fstp qword ptr [{sum}]",
                "fstp st(0)",
                start = in(reg) &start,
                step = in(reg) &step,
                half = in(reg) &half,
                sum = in(reg) &mut sum,
                count = inout(reg) 20_000 => _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        sum.to_bits()
    })
}

/// The x87's sine, cosine, arc tangent, logarithm and power of two.
fn x87_functions() -> Round {
    Box::new(|| {
        let (start, step) = (black_box(0.125f64), 1.0f64 / 4096.0);
        let mut sum = 0.0f64;
        // SAFETY: reads and writes only the operands; the stack is left as empty as it was found.
        unsafe {
            asm!(
                "fld qword ptr [{start}]",      // x
                "fldz",                         // sum, x
                "2:",
                "fld st(1)",
                "fsincos",                      // cos, sin, sum, x
                "fmulp st(1), st",
                "faddp st(1), st",              // sum, x
                "fld st(1)",
                "fld1",
                "fpatan",                       // atan(x), sum, x
                "f2xm1",
                "faddp st(1), st",
                "fld1",
                "fld st(2)",
                "fyl2x",                        // log2(x), sum, x
                "faddp st(1), st",
                "fxch st(1)",
                "fadd qword ptr [{step}]",
                "fxch st(1)",
                "dec {count:e}",
                "jnz 2b",
                "fstp qword ptr [{sum}]",
                "fstp st(0)",
                start = in(reg) &start,
                step = in(reg) &step,
                sum = in(reg) &mut sum,
                count = inout(reg) 2_000 => _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        (sum * 1e6).round() as i64 as u64
    })
}
