//! What the VEX encoding adds: names, and operations across the lanes of 256-bit vectors.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::lanes::Lane;
use iced_x86::Mnemonic as M;

/// The name an instruction with a VEX encoding has among the operations of this module: that of the
/// SSE instruction it extends, if there is one.
pub fn sse_name(mnemonic: M) -> M {
    static NAMES: LazyLock<HashMap<M, M>> = LazyLock::new(|| {
        let by_name: HashMap<String, M> = M::values()
            .map(|mnemonic| (format!("{mnemonic:?}").to_lowercase(), mnemonic))
            .collect();
        let extended = by_name.iter().filter_map(|(name, mnemonic)| {
            Some((*mnemonic, *by_name.get(name.strip_prefix('v')?)?))
        });
        extended.collect()
    });
    *NAMES.get(&mnemonic).unwrap_or(&mnemonic)
}

/// The low and the high half of a YMM register.
pub type Vector = [u128; 2];

/// `f(source1, source2, immediate)` on whole registers.
pub type AcrossLanes = fn(Vector, Vector, u8) -> Vector;

/// All lanes of `b`, selected by `index`.
fn permute<const N: usize, L: Lane<Lanes = [L; N]> + Default>(
    b: Vector,
    index: impl Fn(usize) -> usize,
) -> Vector {
    let halves = b.map(L::split);
    let pick = |i: usize| {
        let from = index(i) % (2 * N);
        halves[from / N][from % N]
    };
    [L::build(pick), L::build(|i| pick(N + i))]
}

/// The lowest lane of `b` everywhere.
fn broadcast<const N: usize, L: Lane<Lanes = [L; N]> + Default>(b: Vector) -> Vector {
    permute::<N, L>(b, |_| 0)
}

/// Half `selector & 3` of the registers `a` and `b`, or zero.
fn half(a: Vector, b: Vector, selector: u8) -> u128 {
    if selector & 8 != 0 {
        return 0;
    }
    (if selector & 2 != 0 { b } else { a })[usize::from(selector & 1)]
}

/// The operations that move data between the halves of a register.
pub fn across_lanes(mnemonic: M) -> Option<AcrossLanes> {
    Some(match mnemonic {
        M::Vperm2f128 | M::Vperm2i128 => |a, b, imm| [half(a, b, imm), half(a, b, imm >> 4)],
        M::Vpermd | M::Vpermps => |a, b, _| {
            let index = a.map(u32::split);
            permute::<4, u32>(b, |i| index[i / 4][i % 4] as usize & 7)
        },
        M::Vpermq | M::Vpermpd => {
            |_, b, imm| permute::<2, u64>(b, |i| usize::from(imm >> (2 * i) & 3))
        }
        M::Vinsertf128 | M::Vinserti128 => |a, b, imm| match imm & 1 {
            0 => [b[0], a[1]],
            _ => [a[0], b[0]],
        },
        M::Vpbroadcastb => |_, b, _| broadcast::<16, u8>(b),
        M::Vpbroadcastw => |_, b, _| broadcast::<8, u16>(b),
        M::Vpbroadcastd | M::Vbroadcastss => |_, b, _| broadcast::<4, u32>(b),
        M::Vpbroadcastq | M::Vbroadcastsd => |_, b, _| broadcast::<2, u64>(b),
        M::Vbroadcastf128 | M::Vbroadcasti128 => |_, b, _| [b[0]; 2],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_names_lead_to_those_of_sse() {
        assert_eq!(sse_name(M::Vaddps), M::Addps);
        assert_eq!(sse_name(M::Vpcmpestri64), M::Pcmpestri64);
        assert_eq!(sse_name(M::Vpermd), M::Vpermd);
        assert_eq!(sse_name(M::Paddb), M::Paddb);
    }

    #[test]
    fn test_halves_are_chosen_or_cleared() {
        let f = across_lanes(M::Vperm2i128).unwrap();
        assert_eq!(f([1, 2], [3, 4], 0x31), [2, 4]);
        assert_eq!(f([1, 2], [3, 4], 0x28), [0, 3]);
    }
}
