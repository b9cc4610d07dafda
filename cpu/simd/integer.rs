//! Operations on two vectors without floating-point exceptions, by mnemonic.

use super::crypto;
use super::lanes::{Lane, pack, widen};
use iced_x86::Mnemonic as M;

/// `f(destination, source)`, or `f(source1, source2)` of a VEX form. An operation with one operand
/// reads the source.
pub type Binary = fn(u128, u128) -> u128;

fn mask<T>(condition: bool, all: T, none: T) -> T {
    if condition { all } else { none }
}

/// Shift counts are the whole low quadword.
fn count(b: u128) -> u32 {
    (b as u64).min(255) as u32
}

fn high16(a: u32) -> u16 {
    (a >> 16) as u16
}

/// The operation on 128-bit lanes: every lane of the MMX (see [`super::mmx::mmx_binary`]), SSE and VEX
/// forms that does not cross lanes. Operations that SSE has go by its names. The register-count forms of shifts read the count from the source;
/// for the immediate forms pass the immediate as source.
pub fn int_binary(mnemonic: M) -> Option<Binary> {
    Some(match mnemonic {
        M::Paddb => |a, b| u8::zip(a, b, u8::wrapping_add),
        M::Paddw => |a, b| u16::zip(a, b, u16::wrapping_add),
        M::Paddd => |a, b| u32::zip(a, b, u32::wrapping_add),
        M::Paddq => |a, b| u64::zip(a, b, u64::wrapping_add),
        M::Paddsb => |a, b| i8::zip(a, b, i8::saturating_add),
        M::Paddsw => |a, b| i16::zip(a, b, i16::saturating_add),
        M::Paddusb => |a, b| u8::zip(a, b, u8::saturating_add),
        M::Paddusw => |a, b| u16::zip(a, b, u16::saturating_add),
        M::Psubb => |a, b| u8::zip(a, b, u8::wrapping_sub),
        M::Psubw => |a, b| u16::zip(a, b, u16::wrapping_sub),
        M::Psubd => |a, b| u32::zip(a, b, u32::wrapping_sub),
        M::Psubq => |a, b| u64::zip(a, b, u64::wrapping_sub),
        M::Psubsb => |a, b| i8::zip(a, b, i8::saturating_sub),
        M::Psubsw => |a, b| i16::zip(a, b, i16::saturating_sub),
        M::Psubusb => |a, b| u8::zip(a, b, u8::saturating_sub),
        M::Psubusw => |a, b| u16::zip(a, b, u16::saturating_sub),

        M::Pmullw => |a, b| u16::zip(a, b, u16::wrapping_mul),
        M::Pmulld => |a, b| u32::zip(a, b, u32::wrapping_mul),
        M::Pmulhw => {
            |a, b| i16::zip(a, b, |a, b| high16((i32::from(a) * i32::from(b)) as u32) as i16)
        }
        M::Pmulhuw => |a, b| u16::zip(a, b, |a, b| high16(u32::from(a) * u32::from(b))),
        M::Pmulhrsw => {
            |a, b| i16::zip(a, b, |a, b| (((i32::from(a) * i32::from(b) >> 14) + 1) >> 1) as i16)
        }
        M::Pmulhrw => {
            |a, b| i16::zip(a, b, |a, b| ((i32::from(a) * i32::from(b) + 0x8000) >> 16) as i16)
        }
        M::Pmuludq => |a, b| u64::zip(a, b, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff)),
        M::Pmuldq => |a, b| i64::zip(a, b, |a, b| i64::from(a as i32) * i64::from(b as i32)),
        M::Pmaddwd => |a, b| {
            i32::zip(a, b, |a, b| {
                let low = i32::from(a as i16) * i32::from(b as i16);
                low.wrapping_add((a >> 16) * (b >> 16))
            })
        },
        M::Pmaddubsw => |a, b| {
            i16::zip(a, b, |a, b| {
                let low = i16::from(a as u8) * i16::from(b as i8);
                low.saturating_add(i16::from((a >> 8) as u8) * (b >> 8))
            })
        },
        M::Psadbw => |a, b| {
            let difference = u8::split(u8::zip(a, b, u8::abs_diff));
            u64::build(|i| difference[8 * i..8 * i + 8].iter().copied().map(u64::from).sum())
        },

        M::Pavgb | M::Pavgusb => {
            |a, b| u8::zip(a, b, |a, b| (u16::from(a) + u16::from(b)).div_ceil(2) as u8)
        }
        M::Pavgw => |a, b| u16::zip(a, b, |a, b| (u32::from(a) + u32::from(b)).div_ceil(2) as u16),
        M::Pminub => |a, b| u8::zip(a, b, u8::min),
        M::Pminsb => |a, b| i8::zip(a, b, i8::min),
        M::Pminuw => |a, b| u16::zip(a, b, u16::min),
        M::Pminsw => |a, b| i16::zip(a, b, i16::min),
        M::Pminud => |a, b| u32::zip(a, b, u32::min),
        M::Pminsd => |a, b| i32::zip(a, b, i32::min),
        M::Pmaxub => |a, b| u8::zip(a, b, u8::max),
        M::Pmaxsb => |a, b| i8::zip(a, b, i8::max),
        M::Pmaxuw => |a, b| u16::zip(a, b, u16::max),
        M::Pmaxsw => |a, b| i16::zip(a, b, i16::max),
        M::Pmaxud => |a, b| u32::zip(a, b, u32::max),
        M::Pmaxsd => |a, b| i32::zip(a, b, i32::max),
        M::Pabsb => |_, b| i8::map(b, i8::wrapping_abs),
        M::Pabsw => |_, b| i16::map(b, i16::wrapping_abs),
        M::Pabsd => |_, b| i32::map(b, i32::wrapping_abs),
        M::Psignb => |a, b| i8::zip(a, b, |a, b| a.wrapping_mul(b.signum())),
        M::Psignw => |a, b| i16::zip(a, b, |a, b| a.wrapping_mul(b.signum())),
        M::Psignd => |a, b| i32::zip(a, b, |a, b| a.wrapping_mul(b.signum())),
        M::Phaddw => |a, b| u16::pairs(a, b, u16::wrapping_add),
        M::Phaddd => |a, b| u32::pairs(a, b, u32::wrapping_add),
        M::Phaddsw => |a, b| i16::pairs(a, b, i16::saturating_add),
        M::Phsubw => |a, b| u16::pairs(a, b, u16::wrapping_sub),
        M::Phsubd => |a, b| u32::pairs(a, b, u32::wrapping_sub),
        M::Phsubsw => |a, b| i16::pairs(a, b, i16::saturating_sub),

        M::Pcmpeqb => |a, b| u8::zip(a, b, |a, b| mask(a == b, u8::MAX, 0)),
        M::Pcmpeqw => |a, b| u16::zip(a, b, |a, b| mask(a == b, u16::MAX, 0)),
        M::Pcmpeqd => |a, b| u32::zip(a, b, |a, b| mask(a == b, u32::MAX, 0)),
        M::Pcmpeqq => |a, b| u64::zip(a, b, |a, b| mask(a == b, u64::MAX, 0)),
        M::Pcmpgtb => |a, b| i8::zip(a, b, |a, b| mask(a > b, -1, 0)),
        M::Pcmpgtw => |a, b| i16::zip(a, b, |a, b| mask(a > b, -1, 0)),
        M::Pcmpgtd => |a, b| i32::zip(a, b, |a, b| mask(a > b, -1, 0)),
        M::Pcmpgtq => |a, b| i64::zip(a, b, |a, b| mask(a > b, -1, 0)),

        M::Pand | M::Andps | M::Andpd => |a, b| a & b,
        M::Pandn | M::Andnps | M::Andnpd => |a, b| !a & b,
        M::Por | M::Orps | M::Orpd => |a, b| a | b,
        M::Pxor | M::Xorps | M::Xorpd => |a, b| a ^ b,

        M::Psllw => |a, n| u16::map(a, |a| a.checked_shl(count(n)).unwrap_or(0)),
        M::Pslld => |a, n| u32::map(a, |a| a.checked_shl(count(n)).unwrap_or(0)),
        M::Psllq => |a, n| u64::map(a, |a| a.checked_shl(count(n)).unwrap_or(0)),
        M::Psrlw => |a, n| u16::map(a, |a| a.checked_shr(count(n)).unwrap_or(0)),
        M::Psrld => |a, n| u32::map(a, |a| a.checked_shr(count(n)).unwrap_or(0)),
        M::Psrlq => |a, n| u64::map(a, |a| a.checked_shr(count(n)).unwrap_or(0)),
        M::Psraw => |a, n| i16::map(a, |a| a >> count(n).min(15)),
        M::Psrad => |a, n| i32::map(a, |a| a >> count(n).min(31)),
        M::Vpsllvd => |a, b| u32::zip(a, b, |a, n| a.checked_shl(n).unwrap_or(0)),
        M::Vpsllvq => |a, b| u64::zip(a, b, |a, n| a.checked_shl(n.min(64) as u32).unwrap_or(0)),
        M::Vpsrlvd => |a, b| u32::zip(a, b, |a, n| a.checked_shr(n).unwrap_or(0)),
        M::Vpsrlvq => |a, b| u64::zip(a, b, |a, n| a.checked_shr(n.min(64) as u32).unwrap_or(0)),
        M::Vpsravd => |a, b| i32::zip(a, b, |a, n| a >> (n as u32).min(31)),

        M::Packsswb => |a, b| pack(a, b, |x: i16| x.clamp(-0x80, 0x7f) as i8),
        M::Packssdw => |a, b| pack(a, b, |x: i32| x.clamp(-0x8000, 0x7fff) as i16),
        M::Packuswb => |a, b| pack(a, b, |x: i16| x.clamp(0, 0xff) as u8),
        M::Packusdw => |a, b| pack(a, b, |x: i32| x.clamp(0, 0xffff) as u16),
        M::Punpcklbw => |a, b| u8::interleave(a, b, false),
        M::Punpcklwd => |a, b| u16::interleave(a, b, false),
        M::Punpckldq | M::Unpcklps => |a, b| u32::interleave(a, b, false),
        M::Punpcklqdq | M::Unpcklpd | M::Movlhps => |a, b| u64::interleave(a, b, false),
        M::Punpckhbw => |a, b| u8::interleave(a, b, true),
        M::Punpckhwd => |a, b| u16::interleave(a, b, true),
        M::Punpckhdq | M::Unpckhps => |a, b| u32::interleave(a, b, true),
        M::Punpckhqdq | M::Unpckhpd => |a, b| u64::interleave(a, b, true),
        M::Movhlps => |a, b| u64::interleave(b, a, true),
        M::Movddup => |_, b| u64::interleave(b, b, false),
        M::Movsldup => |_, b| u32::build(|i| u32::split(b)[i & 2]),
        M::Movshdup => |_, b| u32::build(|i| u32::split(b)[i | 1]),

        M::Pshufb => {
            |a, b| u8::map(b, |n| if n & 0x80 != 0 { 0 } else { u8::split(a)[usize::from(n & 15)] })
        }
        M::Vpermilps => |a, b| u32::map(b, |n| u32::split(a)[n as usize & 3]),
        M::Vpermilpd => |a, b| u64::map(b, |n| u64::split(a)[n as usize >> 1 & 1]),
        M::Pmovsxbw => |_, b| widen(b, |x: i8| i16::from(x)),
        M::Pmovsxbd => |_, b| widen(b, |x: i8| i32::from(x)),
        M::Pmovsxbq => |_, b| widen(b, |x: i8| i64::from(x)),
        M::Pmovsxwd => |_, b| widen(b, |x: i16| i32::from(x)),
        M::Pmovsxwq => |_, b| widen(b, |x: i16| i64::from(x)),
        M::Pmovsxdq => |_, b| widen(b, |x: i32| i64::from(x)),
        M::Pmovzxbw => |_, b| widen(b, |x: u8| u16::from(x)),
        M::Pmovzxbd => |_, b| widen(b, |x: u8| u32::from(x)),
        M::Pmovzxbq => |_, b| widen(b, |x: u8| u64::from(x)),
        M::Pmovzxwd => |_, b| widen(b, |x: u16| u32::from(x)),
        M::Pmovzxwq => |_, b| widen(b, |x: u16| u64::from(x)),
        M::Pmovzxdq => |_, b| widen(b, |x: u32| u64::from(x)),
        M::Phminposuw => |_, b| {
            let (position, least) =
                u16::split(b).into_iter().enumerate().min_by_key(|&(_, x)| x).unwrap_or_default();
            u128::from(least) | (position as u128) << 16
        },

        M::Aesenc => crypto::aesenc,
        M::Aesenclast => crypto::aesenclast,
        M::Aesdec => crypto::aesdec,
        M::Aesdeclast => crypto::aesdeclast,
        M::Aesimc => |_, b| crypto::aesimc(b),
        M::Sha1msg1 => crypto::sha1msg1,
        M::Sha1msg2 => crypto::sha1msg2,
        M::Sha1nexte => crypto::sha1nexte,
        M::Sha256msg1 => crypto::sha256msg1,
        M::Sha256msg2 => crypto::sha256msg2,
        M::Gf2p8mulb => |a, b| u8::zip(a, b, crypto::gf_mul),
        M::Extrq => |a, b| super::immediate::extract_bits(a, b as u8, (b >> 8) as u8),
        M::Insertq => |a, b| super::immediate::insert_bits(a, b, (b >> 64) as u8, (b >> 72) as u8),
        _ => return None,
    })
}
