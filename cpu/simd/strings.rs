//! The string comparisons of SSE4.2 (SDM volume 2, 4.1).

use super::lanes::Lane;

/// What a string comparison finds.
pub struct StringMatch {
    /// Per element of the second operand, whether it matches.
    matches: u32,
    /// How many elements a vector has.
    elements: u32,
    /// The immediate.
    control: u8,
    /// OF, SF, ZF and CF; AF and PF are cleared.
    pub flags: StringFlags,
}

/// The flags of a string comparison.
#[allow(missing_docs)]
pub struct StringFlags {
    pub overflow: bool,
    pub sign: bool,
    pub zero: bool,
    pub carry: bool,
}

/// Fields of the immediate.
mod control {
    pub const WORDS: u8 = 1;
    pub const SIGNED: u8 = 1 << 1;
    pub const AGGREGATION_SHIFT: u8 = 2;
    pub const NEGATED: u8 = 1 << 4;
    pub const ONLY_VALID: u8 = 1 << 5;
    /// The index of the last match, or a mask of whole elements.
    pub const WIDE_RESULT: u8 = 1 << 6;
}

/// The elements of a vector; of words there are eight.
type Elements = [i32; 16];

fn elements(vector: u128, control: u8) -> Elements {
    let mut values = [0; 16];
    let mut fill = |lanes: &mut dyn Iterator<Item = i32>| {
        for (value, lane) in values.iter_mut().zip(lanes) {
            *value = lane;
        }
    };
    match (control & control::WORDS != 0, control & control::SIGNED != 0) {
        (false, false) => fill(&mut u8::split(vector).into_iter().map(i32::from)),
        (false, true) => fill(&mut i8::split(vector).into_iter().map(i32::from)),
        (true, false) => fill(&mut u16::split(vector).into_iter().map(i32::from)),
        (true, true) => fill(&mut i16::split(vector).into_iter().map(i32::from)),
    }
    values
}

/// Compares the elements of `a` with those of `b` as the immediate says. A length that is not given
/// (PCMPISTRI, PCMPISTRM) ends before the first zero; one that is (PCMPESTRI, PCMPESTRM) counts by its
/// magnitude.
pub fn compare_strings(a: u128, b: u128, lengths: Option<(i64, i64)>, control: u8) -> StringMatch {
    let count = if control & control::WORDS != 0 { 8 } else { 16 };
    let (a, b) = (elements(a, control), elements(b, control));
    let implicit = |string: &Elements| string[..count].iter().take_while(|x| **x != 0).count();
    let explicit = |length: i64| length.unsigned_abs().min(count as u64) as usize;
    let (a_length, b_length) = match lengths {
        None => (implicit(&a), implicit(&b)),
        Some((a, b)) => (explicit(a), explicit(b)),
    };
    let (a, valid) = (&a[..a_length], &b[..b_length]);
    let element_matches = |j: usize| match control >> control::AGGREGATION_SHIFT & 3 {
        // Any of a set.
        0 => valid.get(j).is_some_and(|b| a.contains(b)),
        // In any of several ranges.
        1 => valid.get(j).is_some_and(|b| {
            a.as_chunks::<2>().0.iter().any(|[low, high]| (low..=high).contains(&b))
        }),
        // The same at the same place.
        2 => a.get(j) == valid.get(j),
        // The beginning of a substring, which may go on beyond the vector.
        _ => {
            let room = count - j;
            a.iter().take(room).enumerate().all(|(i, a)| valid.get(j + i) == Some(a))
        }
    };
    let found = (0..count).filter(|&j| element_matches(j)).fold(0, |set, j| set | 1 << j);
    let all = (1_u32 << count) - 1;
    let negated = match (control & control::NEGATED != 0, control & control::ONLY_VALID != 0) {
        (false, _) => 0,
        (true, false) => all,
        (true, true) => (1 << b_length) - 1,
    };
    let matches = found ^ negated;
    StringMatch {
        matches,
        elements: count as u32,
        control,
        flags: StringFlags {
            overflow: matches & 1 != 0,
            sign: a_length < count,
            zero: b_length < count,
            carry: matches != 0,
        },
    }
}

impl StringMatch {
    /// The index of the first or last match, or the number of elements.
    pub fn index(&self) -> u32 {
        if self.matches == 0 {
            self.elements
        } else if self.control & control::WIDE_RESULT != 0 {
            self.matches.ilog2()
        } else {
            self.matches.trailing_zeros()
        }
    }
    /// The matches as bits, or as whole elements.
    pub fn mask(&self) -> u128 {
        if self.control & control::WIDE_RESULT == 0 {
            return self.matches.into();
        }
        let bit = |i: usize| self.matches >> i & 1 != 0;
        if self.control & control::WORDS != 0 {
            u16::build(|i| if bit(i) { u16::MAX } else { 0 })
        } else {
            u8::build(|i| if bit(i) { u8::MAX } else { 0 })
        }
    }
}
