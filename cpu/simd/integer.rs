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
/// forms that does not cross lanes. The register-count forms of shifts read the count from the source;
/// for the immediate forms pass the immediate as source.
pub fn int_binary(mnemonic: M) -> Option<Binary> {
    Some(match mnemonic {
        M::Paddb | M::Vpaddb => |a, b| u8::zip(a, b, u8::wrapping_add),
        M::Paddw | M::Vpaddw => |a, b| u16::zip(a, b, u16::wrapping_add),
        M::Paddd | M::Vpaddd => |a, b| u32::zip(a, b, u32::wrapping_add),
        M::Paddq | M::Vpaddq => |a, b| u64::zip(a, b, u64::wrapping_add),
        M::Paddsb | M::Vpaddsb => |a, b| i8::zip(a, b, i8::saturating_add),
        M::Paddsw | M::Vpaddsw => |a, b| i16::zip(a, b, i16::saturating_add),
        M::Paddusb | M::Vpaddusb => |a, b| u8::zip(a, b, u8::saturating_add),
        M::Paddusw | M::Vpaddusw => |a, b| u16::zip(a, b, u16::saturating_add),
        M::Psubb | M::Vpsubb => |a, b| u8::zip(a, b, u8::wrapping_sub),
        M::Psubw | M::Vpsubw => |a, b| u16::zip(a, b, u16::wrapping_sub),
        M::Psubd | M::Vpsubd => |a, b| u32::zip(a, b, u32::wrapping_sub),
        M::Psubq | M::Vpsubq => |a, b| u64::zip(a, b, u64::wrapping_sub),
        M::Psubsb | M::Vpsubsb => |a, b| i8::zip(a, b, i8::saturating_sub),
        M::Psubsw | M::Vpsubsw => |a, b| i16::zip(a, b, i16::saturating_sub),
        M::Psubusb | M::Vpsubusb => |a, b| u8::zip(a, b, u8::saturating_sub),
        M::Psubusw | M::Vpsubusw => |a, b| u16::zip(a, b, u16::saturating_sub),

        M::Pmullw | M::Vpmullw => |a, b| u16::zip(a, b, u16::wrapping_mul),
        M::Pmulld | M::Vpmulld => |a, b| u32::zip(a, b, u32::wrapping_mul),
        M::Pmulhw | M::Vpmulhw => {
            |a, b| i16::zip(a, b, |a, b| high16((i32::from(a) * i32::from(b)) as u32) as i16)
        }
        M::Pmulhuw | M::Vpmulhuw => {
            |a, b| u16::zip(a, b, |a, b| high16(u32::from(a) * u32::from(b)))
        }
        M::Pmulhrsw | M::Vpmulhrsw => {
            |a, b| i16::zip(a, b, |a, b| (((i32::from(a) * i32::from(b) >> 14) + 1) >> 1) as i16)
        }
        M::Pmulhrw => {
            |a, b| i16::zip(a, b, |a, b| ((i32::from(a) * i32::from(b) + 0x8000) >> 16) as i16)
        }
        M::Pmuludq | M::Vpmuludq => {
            |a, b| u64::zip(a, b, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff))
        }
        M::Pmuldq | M::Vpmuldq => {
            |a, b| i64::zip(a, b, |a, b| i64::from(a as i32) * i64::from(b as i32))
        }
        M::Pmaddwd | M::Vpmaddwd => |a, b| {
            i32::zip(a, b, |a, b| {
                let low = i32::from(a as i16) * i32::from(b as i16);
                low.wrapping_add((a >> 16) * (b >> 16))
            })
        },
        M::Pmaddubsw | M::Vpmaddubsw => |a, b| {
            i16::zip(a, b, |a, b| {
                let low = i16::from(a as u8) * i16::from(b as i8);
                low.saturating_add(i16::from((a >> 8) as u8) * (b >> 8))
            })
        },
        M::Psadbw | M::Vpsadbw => |a, b| {
            let difference = u8::split(u8::zip(a, b, u8::abs_diff));
            u64::build(|i| difference[8 * i..8 * i + 8].iter().copied().map(u64::from).sum())
        },

        M::Pavgb | M::Vpavgb | M::Pavgusb => {
            |a, b| u8::zip(a, b, |a, b| (u16::from(a) + u16::from(b)).div_ceil(2) as u8)
        }
        M::Pavgw | M::Vpavgw => {
            |a, b| u16::zip(a, b, |a, b| (u32::from(a) + u32::from(b)).div_ceil(2) as u16)
        }
        M::Pminub | M::Vpminub => |a, b| u8::zip(a, b, u8::min),
        M::Pminsb | M::Vpminsb => |a, b| i8::zip(a, b, i8::min),
        M::Pminuw | M::Vpminuw => |a, b| u16::zip(a, b, u16::min),
        M::Pminsw | M::Vpminsw => |a, b| i16::zip(a, b, i16::min),
        M::Pminud | M::Vpminud => |a, b| u32::zip(a, b, u32::min),
        M::Pminsd | M::Vpminsd => |a, b| i32::zip(a, b, i32::min),
        M::Pmaxub | M::Vpmaxub => |a, b| u8::zip(a, b, u8::max),
        M::Pmaxsb | M::Vpmaxsb => |a, b| i8::zip(a, b, i8::max),
        M::Pmaxuw | M::Vpmaxuw => |a, b| u16::zip(a, b, u16::max),
        M::Pmaxsw | M::Vpmaxsw => |a, b| i16::zip(a, b, i16::max),
        M::Pmaxud | M::Vpmaxud => |a, b| u32::zip(a, b, u32::max),
        M::Pmaxsd | M::Vpmaxsd => |a, b| i32::zip(a, b, i32::max),
        M::Pabsb | M::Vpabsb => |_, b| i8::map(b, i8::wrapping_abs),
        M::Pabsw | M::Vpabsw => |_, b| i16::map(b, i16::wrapping_abs),
        M::Pabsd | M::Vpabsd => |_, b| i32::map(b, i32::wrapping_abs),
        M::Psignb | M::Vpsignb => |a, b| i8::zip(a, b, |a, b| a.wrapping_mul(b.signum())),
        M::Psignw | M::Vpsignw => |a, b| i16::zip(a, b, |a, b| a.wrapping_mul(b.signum())),
        M::Psignd | M::Vpsignd => |a, b| i32::zip(a, b, |a, b| a.wrapping_mul(b.signum())),
        M::Phaddw | M::Vphaddw => |a, b| u16::pairs(a, b, u16::wrapping_add),
        M::Phaddd | M::Vphaddd => |a, b| u32::pairs(a, b, u32::wrapping_add),
        M::Phaddsw | M::Vphaddsw => |a, b| i16::pairs(a, b, i16::saturating_add),
        M::Phsubw | M::Vphsubw => |a, b| u16::pairs(a, b, u16::wrapping_sub),
        M::Phsubd | M::Vphsubd => |a, b| u32::pairs(a, b, u32::wrapping_sub),
        M::Phsubsw | M::Vphsubsw => |a, b| i16::pairs(a, b, i16::saturating_sub),

        M::Pcmpeqb | M::Vpcmpeqb => |a, b| u8::zip(a, b, |a, b| mask(a == b, u8::MAX, 0)),
        M::Pcmpeqw | M::Vpcmpeqw => |a, b| u16::zip(a, b, |a, b| mask(a == b, u16::MAX, 0)),
        M::Pcmpeqd | M::Vpcmpeqd => |a, b| u32::zip(a, b, |a, b| mask(a == b, u32::MAX, 0)),
        M::Pcmpeqq | M::Vpcmpeqq => |a, b| u64::zip(a, b, |a, b| mask(a == b, u64::MAX, 0)),
        M::Pcmpgtb | M::Vpcmpgtb => |a, b| i8::zip(a, b, |a, b| mask(a > b, -1, 0)),
        M::Pcmpgtw | M::Vpcmpgtw => |a, b| i16::zip(a, b, |a, b| mask(a > b, -1, 0)),
        M::Pcmpgtd | M::Vpcmpgtd => |a, b| i32::zip(a, b, |a, b| mask(a > b, -1, 0)),
        M::Pcmpgtq | M::Vpcmpgtq => |a, b| i64::zip(a, b, |a, b| mask(a > b, -1, 0)),

        M::Pand | M::Vpand | M::Andps | M::Vandps | M::Andpd | M::Vandpd => |a, b| a & b,
        M::Pandn | M::Vpandn | M::Andnps | M::Vandnps | M::Andnpd | M::Vandnpd => |a, b| !a & b,
        M::Por | M::Vpor | M::Orps | M::Vorps | M::Orpd | M::Vorpd => |a, b| a | b,
        M::Pxor | M::Vpxor | M::Xorps | M::Vxorps | M::Xorpd | M::Vxorpd => |a, b| a ^ b,

        M::Psllw | M::Vpsllw => |a, n| u16::map(a, |a| a.checked_shl(count(n)).unwrap_or(0)),
        M::Pslld | M::Vpslld => |a, n| u32::map(a, |a| a.checked_shl(count(n)).unwrap_or(0)),
        M::Psllq | M::Vpsllq => |a, n| u64::map(a, |a| a.checked_shl(count(n)).unwrap_or(0)),
        M::Psrlw | M::Vpsrlw => |a, n| u16::map(a, |a| a.checked_shr(count(n)).unwrap_or(0)),
        M::Psrld | M::Vpsrld => |a, n| u32::map(a, |a| a.checked_shr(count(n)).unwrap_or(0)),
        M::Psrlq | M::Vpsrlq => |a, n| u64::map(a, |a| a.checked_shr(count(n)).unwrap_or(0)),
        M::Psraw | M::Vpsraw => |a, n| i16::map(a, |a| a >> count(n).min(15)),
        M::Psrad | M::Vpsrad => |a, n| i32::map(a, |a| a >> count(n).min(31)),
        M::Vpsllvd => |a, b| u32::zip(a, b, |a, n| a.checked_shl(n).unwrap_or(0)),
        M::Vpsllvq => |a, b| u64::zip(a, b, |a, n| a.checked_shl(n.min(64) as u32).unwrap_or(0)),
        M::Vpsrlvd => |a, b| u32::zip(a, b, |a, n| a.checked_shr(n).unwrap_or(0)),
        M::Vpsrlvq => |a, b| u64::zip(a, b, |a, n| a.checked_shr(n.min(64) as u32).unwrap_or(0)),
        M::Vpsravd => |a, b| i32::zip(a, b, |a, n| a >> (n as u32).min(31)),

        M::Packsswb | M::Vpacksswb => |a, b| pack(a, b, |x: i16| x.clamp(-0x80, 0x7f) as i8),
        M::Packssdw | M::Vpackssdw => |a, b| pack(a, b, |x: i32| x.clamp(-0x8000, 0x7fff) as i16),
        M::Packuswb | M::Vpackuswb => |a, b| pack(a, b, |x: i16| x.clamp(0, 0xff) as u8),
        M::Packusdw | M::Vpackusdw => |a, b| pack(a, b, |x: i32| x.clamp(0, 0xffff) as u16),
        M::Punpcklbw | M::Vpunpcklbw => |a, b| u8::interleave(a, b, false),
        M::Punpcklwd | M::Vpunpcklwd => |a, b| u16::interleave(a, b, false),
        M::Punpckldq | M::Vpunpckldq | M::Unpcklps | M::Vunpcklps => {
            |a, b| u32::interleave(a, b, false)
        }
        M::Punpcklqdq | M::Vpunpcklqdq | M::Unpcklpd | M::Vunpcklpd | M::Movlhps | M::Vmovlhps => {
            |a, b| u64::interleave(a, b, false)
        }
        M::Punpckhbw | M::Vpunpckhbw => |a, b| u8::interleave(a, b, true),
        M::Punpckhwd | M::Vpunpckhwd => |a, b| u16::interleave(a, b, true),
        M::Punpckhdq | M::Vpunpckhdq | M::Unpckhps | M::Vunpckhps => {
            |a, b| u32::interleave(a, b, true)
        }
        M::Punpckhqdq | M::Vpunpckhqdq | M::Unpckhpd | M::Vunpckhpd => {
            |a, b| u64::interleave(a, b, true)
        }
        M::Movhlps | M::Vmovhlps => |a, b| u64::interleave(b, a, true),
        M::Movddup | M::Vmovddup => |_, b| u64::interleave(b, b, false),
        M::Movsldup | M::Vmovsldup => |_, b| u32::build(|i| u32::split(b)[i & 2]),
        M::Movshdup | M::Vmovshdup => |_, b| u32::build(|i| u32::split(b)[i | 1]),

        M::Pshufb | M::Vpshufb => {
            |a, b| u8::map(b, |n| if n & 0x80 != 0 { 0 } else { u8::split(a)[usize::from(n & 15)] })
        }
        M::Vpermilps => |a, b| u32::map(b, |n| u32::split(a)[n as usize & 3]),
        M::Vpermilpd => |a, b| u64::map(b, |n| u64::split(a)[n as usize >> 1 & 1]),
        M::Pmovsxbw | M::Vpmovsxbw => |_, b| widen(b, |x: i8| i16::from(x)),
        M::Pmovsxbd | M::Vpmovsxbd => |_, b| widen(b, |x: i8| i32::from(x)),
        M::Pmovsxbq | M::Vpmovsxbq => |_, b| widen(b, |x: i8| i64::from(x)),
        M::Pmovsxwd | M::Vpmovsxwd => |_, b| widen(b, |x: i16| i32::from(x)),
        M::Pmovsxwq | M::Vpmovsxwq => |_, b| widen(b, |x: i16| i64::from(x)),
        M::Pmovsxdq | M::Vpmovsxdq => |_, b| widen(b, |x: i32| i64::from(x)),
        M::Pmovzxbw | M::Vpmovzxbw => |_, b| widen(b, |x: u8| u16::from(x)),
        M::Pmovzxbd | M::Vpmovzxbd => |_, b| widen(b, |x: u8| u32::from(x)),
        M::Pmovzxbq | M::Vpmovzxbq => |_, b| widen(b, |x: u8| u64::from(x)),
        M::Pmovzxwd | M::Vpmovzxwd => |_, b| widen(b, |x: u16| u32::from(x)),
        M::Pmovzxwq | M::Vpmovzxwq => |_, b| widen(b, |x: u16| u64::from(x)),
        M::Pmovzxdq | M::Vpmovzxdq => |_, b| widen(b, |x: u32| u64::from(x)),
        M::Phminposuw | M::Vphminposuw => |_, b| {
            let (position, least) =
                u16::split(b).into_iter().enumerate().min_by_key(|&(_, x)| x).unwrap_or_default();
            u128::from(least) | (position as u128) << 16
        },

        M::Aesenc | M::Vaesenc => crypto::aesenc,
        M::Aesenclast | M::Vaesenclast => crypto::aesenclast,
        M::Aesdec | M::Vaesdec => crypto::aesdec,
        M::Aesdeclast | M::Vaesdeclast => crypto::aesdeclast,
        M::Aesimc | M::Vaesimc => |_, b| crypto::aesimc(b),
        M::Sha1msg1 => crypto::sha1msg1,
        M::Sha1msg2 => crypto::sha1msg2,
        M::Sha1nexte => crypto::sha1nexte,
        M::Sha256msg1 => crypto::sha256msg1,
        M::Sha256msg2 => crypto::sha256msg2,
        M::Gf2p8mulb | M::Vgf2p8mulb => |a, b| u8::zip(a, b, crypto::gf_mul),
        M::Extrq => |a, b| super::immediate::extract_bits(a, b as u8, (b >> 8) as u8),
        M::Insertq => |a, b| super::immediate::insert_bits(a, b, (b >> 64) as u8, (b >> 72) as u8),
        _ => return None,
    })
}
