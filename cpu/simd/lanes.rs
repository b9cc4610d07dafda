//! A 128-bit vector as lanes of integers.

/// An integer that vectors are made of.
pub(super) trait Lane: Copy {
    /// All lanes of a vector, lowest first.
    type Lanes: Copy + AsRef<[Self]> + AsMut<[Self]>;

    fn split(vector: u128) -> Self::Lanes;
    fn join(lanes: Self::Lanes) -> u128;

    /// f on every lane.
    #[inline]
    fn map(a: u128, mut f: impl FnMut(Self) -> Self) -> u128 {
        let mut lanes = Self::split(a);
        for lane in lanes.as_mut() {
            *lane = f(*lane);
        }
        Self::join(lanes)
    }

    /// f on every pair of lanes.
    #[inline]
    fn zip(a: u128, b: u128, mut f: impl FnMut(Self, Self) -> Self) -> u128 {
        let (mut lanes, other) = (Self::split(a), Self::split(b));
        for (lane, other) in lanes.as_mut().iter_mut().zip(other.as_ref()) {
            *lane = f(*lane, *other);
        }
        Self::join(lanes)
    }

    /// All lanes from their number.
    #[inline]
    fn build(mut f: impl FnMut(usize) -> Self) -> u128 {
        let mut lanes = Self::split(0);
        for (i, lane) in lanes.as_mut().iter_mut().enumerate() {
            *lane = f(i);
        }
        Self::join(lanes)
    }

    /// Adjacent lanes of `a`, then of `b`, combined.
    #[inline]
    fn pairs(a: u128, b: u128, mut f: impl FnMut(Self, Self) -> Self) -> u128 {
        let (a, b) = (Self::split(a), Self::split(b));
        let (a, b) = (a.as_ref(), b.as_ref());
        let half = a.len() / 2;
        Self::build(|i| {
            if i < half {
                f(a[2 * i], a[2 * i + 1])
            } else {
                f(b[2 * (i - half)], b[2 * (i - half) + 1])
            }
        })
    }

    /// The lower (`high` false) or upper halves, interleaved.
    #[inline]
    fn interleave(a: u128, b: u128, high: bool) -> u128 {
        let (a, b) = (Self::split(a), Self::split(b));
        let (a, b) = (a.as_ref(), b.as_ref());
        let from = if high { a.len() / 2 } else { 0 };
        Self::build(|i| if i % 2 == 0 { a[from + i / 2] } else { b[from + i / 2] })
    }
}

macro_rules! lanes {
    ($($int:ty: $count:literal x $size:literal,)*) => { $(
        impl Lane for $int {
            type Lanes = [$int; $count];

            #[inline]
            fn split(vector: u128) -> Self::Lanes {
                let bytes = vector.to_le_bytes();
                let (chunks, _) = bytes.as_chunks::<$size>();
                std::array::from_fn(|i| <$int>::from_le_bytes(chunks[i]))
            }

            #[inline]
            fn join(lanes: Self::Lanes) -> u128 {
                let mut bytes = [0; 16];
                let (chunks, _) = bytes.as_chunks_mut::<$size>();
                for (chunk, lane) in chunks.iter_mut().zip(lanes) {
                    *chunk = lane.to_le_bytes();
                }
                u128::from_le_bytes(bytes)
            }
        }
    )* };
}

lanes! {
    u8: 16 x 1, i8: 16 x 1, u16: 8 x 2, i16: 8 x 2, u32: 4 x 4, i32: 4 x 4, u64: 2 x 8, i64: 2 x 8,
}

/// Narrows the lanes of `a`, then of `b`.
#[inline]
pub(super) fn pack<From: Lane, To: Lane>(a: u128, b: u128, mut f: impl FnMut(From) -> To) -> u128 {
    let (a, b) = (From::split(a), From::split(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    To::build(|i| f(if i < a.len() { a[i] } else { b[i - a.len()] }))
}

/// Widens the lower lanes of `a`.
#[inline]
pub(super) fn widen<From: Lane, To: Lane>(a: u128, mut f: impl FnMut(From) -> To) -> u128 {
    let a = From::split(a);
    To::build(|i| f(a.as_ref()[i]))
}
