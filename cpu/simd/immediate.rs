//! Operations with an immediate, with a third operand, and those that yield a mask or flags.

use super::crypto;
use super::lanes::Lane;
use iced_x86::Mnemonic as M;

/// `f(destination, source, immediate)`; an operation with one vector operand reads the source.
pub type BinaryImm = fn(u128, u128, u8) -> u128;

/// `f(destination, source, third)`; the third is XMM0 of the SSE forms, the mask register of the VEX
/// forms, or the accumulator.
pub type Ternary = fn(u128, u128, u128) -> u128;

fn field(imm: u8, i: usize) -> usize {
    usize::from(imm >> (2 * i) & 3)
}

fn bit(imm: u8, i: usize) -> bool {
    imm >> (i & 7) & 1 != 0
}

/// The operations on 128-bit lanes that take an immediate; those that cross lanes or move between
/// register files are functions of their own.
pub fn int_immediate(mnemonic: M) -> Option<BinaryImm> {
    Some(match mnemonic {
        M::Pshufd | M::Vpermilps => |_, b, imm| u32::build(|i| u32::split(b)[field(imm, i)]),
        M::Pshuflw => |_, b, imm| {
            let b = u16::split(b);
            u16::build(|i| if i < 4 { b[field(imm, i)] } else { b[i] })
        },
        M::Pshufhw => |_, b, imm| {
            let b = u16::split(b);
            u16::build(|i| if i < 4 { b[i] } else { b[4 + field(imm, i - 4)] })
        },
        M::Shufps => {
            |a, b, imm| u32::build(|i| u32::split(if i < 2 { a } else { b })[field(imm, i)])
        }
        M::Shufpd => |a, b, imm| {
            u64::build(|i| u64::split(if i == 0 { a } else { b })[usize::from(bit(imm, i))])
        },
        M::Vpermilpd => |_, b, imm| u64::build(|i| u64::split(b)[usize::from(bit(imm, i))]),
        M::Palignr => |a, b, imm| match u32::from(imm) {
            0 => b,
            n @ 1..16 => b >> (8 * n) | a << (128 - 8 * n),
            n @ 16..32 => a >> (8 * (n - 16)),
            _ => 0,
        },
        M::Pslldq => |a, _, imm| a.checked_shl(8 * u32::from(imm)).unwrap_or(0),
        M::Psrldq => |a, _, imm| a.checked_shr(8 * u32::from(imm)).unwrap_or(0),
        M::Pblendw => |a, b, imm| u16::build(|i| u16::split(if bit(imm, i) { b } else { a })[i]),
        M::Blendps | M::Vpblendd => {
            |a, b, imm| u32::build(|i| u32::split(if bit(imm, i) { b } else { a })[i])
        }
        M::Blendpd => |a, b, imm| u64::build(|i| u64::split(if bit(imm, i) { b } else { a })[i]),
        M::Mpsadbw => |a, b, imm| {
            let (a, b) = (u8::split(a), u8::split(b));
            let (from, block) = (4 * usize::from(bit(imm, 2)), 4 * field(imm, 0));
            u16::build(|i| (0..4).map(|j| u16::from(a[from + i + j].abs_diff(b[block + j]))).sum())
        },
        M::Insertps => |a, b, imm| {
            let mut lanes = u32::split(a);
            lanes[field(imm, 2)] = u32::split(b)[field(imm, 3)];
            u32::build(|i| if bit(imm, i) { 0 } else { lanes[i] })
        },
        M::Pclmulqdq => |a, b, imm| {
            crypto::carryless(
                u64::split(a)[usize::from(bit(imm, 0))],
                u64::split(b)[usize::from(bit(imm, 4))],
            )
        },
        M::Aeskeygenassist => |_, b, imm| crypto::aeskeygenassist(b, imm),
        M::Sha1rnds4 => crypto::sha1rnds4,
        M::Gf2p8affineqb => |a, b, imm| crypto::gf_affine(a, b, imm, |x| x),
        M::Gf2p8affineinvqb => |a, b, imm| crypto::gf_affine(a, b, imm, crypto::gf_inverse),
        _ => return None,
    })
}

/// How far the second lane of a 256-bit form looks into the immediate: where each lane has bits of its
/// own.
pub fn immediate_step(mnemonic: M) -> u32 {
    match mnemonic {
        M::Blendps | M::Vpblendd => 4,
        M::Mpsadbw => 3,
        M::Blendpd | M::Shufpd | M::Vpermilpd => 2,
        _ => 0,
    }
}

/// Blends by a mask vector, the SHA-256 rounds, and dot products added to an accumulator.
pub fn int_ternary(mnemonic: M) -> Option<Ternary> {
    Some(match mnemonic {
        M::Pblendvb => |a, b, c| select(a, b, i8::map(c, |c| c >> 7)),
        M::Blendvps => |a, b, c| select(a, b, i32::map(c, |c| c >> 31)),
        M::Blendvpd => |a, b, c| select(a, b, i64::map(c, |c| c >> 63)),
        M::Sha256rnds2 => crypto::sha256rnds2,
        M::Vpdpbusd => |a, b, sum| accumulate(sum, byte_products(a, b), |sum| sum as i32),
        M::Vpdpbusds => |a, b, sum| accumulate(sum, byte_products(a, b), saturated),
        M::Vpdpwssd => |a, b, sum| accumulate(sum, word_products(a, b), |sum| sum as i32),
        M::Vpdpwssds => |a, b, sum| accumulate(sum, word_products(a, b), saturated),
        _ => return None,
    })
}

/// Per dword the sum of four products, of unsigned bytes with signed ones.
fn byte_products(a: u128, b: u128) -> [i64; 4] {
    let (a, b) = (u8::split(a), i8::split(b));
    std::array::from_fn(|i| (4 * i..4 * i + 4).map(|j| i64::from(a[j]) * i64::from(b[j])).sum())
}

/// Per dword the sum of two products of signed words.
fn word_products(a: u128, b: u128) -> [i64; 4] {
    let (a, b) = (i16::split(a), i16::split(b));
    std::array::from_fn(|i| (2 * i..2 * i + 2).map(|j| i64::from(a[j]) * i64::from(b[j])).sum())
}

fn accumulate(sums: u128, products: [i64; 4], narrow: fn(i64) -> i32) -> u128 {
    let sums = i32::split(sums);
    i32::build(|i| narrow(i64::from(sums[i]) + products[i]))
}

fn saturated(sum: i64) -> i32 {
    sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

fn select(a: u128, b: u128, mask: u128) -> u128 {
    a & !mask | b & mask
}

/// What gathers the sign bits of a value's lanes, and how many lanes there are.
pub type SignMask = (fn(u128) -> u32, u32);

/// PMOVMSKB, MOVMSKPS and MOVMSKPD.
pub fn sign_mask(mnemonic: M) -> Option<SignMask> {
    Some(match mnemonic {
        M::Pmovmskb => (|a| gather(u8::split(a).map(|x| x >> 7 != 0)), 16),
        M::Movmskps => (|a| gather(u32::split(a).map(|x| x >> 31 != 0)), 4),
        M::Movmskpd => (|a| gather(u64::split(a).map(|x| x >> 63 != 0)), 2),
        _ => return None,
    })
}

fn gather<const N: usize>(bits: [bool; N]) -> u32 {
    bits.into_iter().rev().fold(0, |mask, bit| mask << 1 | u32::from(bit))
}

/// `f(destination, source)`: ZF and CF.
pub type Test = fn(u128, u128) -> (bool, bool);

/// PTEST, VTESTPS, VTESTPD: (ZF, CF); the other flags are cleared. A 256-bit form ANDs those of its
/// lanes.
pub fn int_test(mnemonic: M) -> Option<Test> {
    const SIGNS_32: u128 = 0x8000_0000_8000_0000_8000_0000_8000_0000;
    const SIGNS_64: u128 = 0x8000_0000_0000_0000_8000_0000_0000_0000;
    Some(match mnemonic {
        M::Ptest => |a, b| (a & b == 0, !a & b == 0),
        M::Vtestps => |a, b| (a & b & SIGNS_32 == 0, !a & b & SIGNS_32 == 0),
        M::Vtestpd => |a, b| (a & b & SIGNS_64 == 0, !a & b & SIGNS_64 == 0),
        _ => return None,
    })
}

/// PINSRB, PINSRW, PINSRD, PINSRQ: lane `index` (of `bits`) replaced.
pub fn insert_lane(vector: u128, value: u64, bits: u32, index: u8) -> u128 {
    let shift = u32::from(index) * bits % 128;
    let mask = u128::from(u64::MAX >> (64 - bits)) << shift;
    vector & !mask | u128::from(value) << shift & mask
}

/// PEXTRB, PEXTRW, PEXTRD, PEXTRQ, EXTRACTPS: lane `index` (of `bits`), zero-extended.
pub fn extract_lane(vector: u128, bits: u32, index: u8) -> u64 {
    (vector >> (u32::from(index) * bits % 128)) as u64 & u64::MAX >> (64 - bits)
}

/// The low `length` bits (0: all 64).
fn bit_field(length: u8) -> u64 {
    u64::MAX >> ((64 - u32::from(length & 63)) & 63)
}

/// EXTRQ with immediates; the upper quadword is undefined and becomes zero.
pub fn extract_bits(a: u128, length: u8, index: u8) -> u128 {
    let field = (a as u64) >> (index & 63) & bit_field(length);
    field.into()
}

/// INSERTQ with immediates; the upper quadword is undefined and becomes zero.
pub fn insert_bits(a: u128, b: u128, length: u8, index: u8) -> u128 {
    let mask = bit_field(length) << (index & 63);
    let field = (b as u64) << (index & 63) & mask;
    (a as u64 & !mask | field).into()
}
