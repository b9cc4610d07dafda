//! A small LZ77: literals and matches, found through a table of hashes.

use crate::Round;
use crate::random::{fold, prose};

const SHORTEST: usize = 4;
const LONGEST: usize = SHORTEST + 127;
const WINDOW: usize = 0xffff;
const HASH_BITS: u32 = 13;

/// Packs and unpacks 100 kB of prose.
pub fn prepare() -> Round {
    let text = prose(100_000).into_bytes();
    Box::new(move || {
        let packed = pack(&text);
        let whole = unpack(&packed) == text;
        fold(u64::from(whole) ^ packed.len() as u64, &packed)
    })
}

fn pack(text: &[u8]) -> Vec<u8> {
    let mut latest = vec![usize::MAX; 1 << HASH_BITS];
    let mut packed = Vec::with_capacity(text.len());
    let (mut place, mut pending) = (0, 0);
    while place + SHORTEST <= text.len() {
        let head =
            u32::from_le_bytes([text[place], text[place + 1], text[place + 2], text[place + 3]]);
        let slot = (head.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize;
        let before = std::mem::replace(&mut latest[slot], place);
        let length = if before < place && place - before <= WINDOW {
            let (old, new) = (&text[before..], &text[place..]);
            old.iter().zip(new).take(LONGEST).take_while(|(a, b)| a == b).count()
        } else {
            0
        };
        if length >= SHORTEST {
            literals(&mut packed, &text[pending..place]);
            packed.push(0x80 | (length - SHORTEST) as u8);
            packed.extend_from_slice(&((place - before) as u16).to_le_bytes());
            place += length;
            pending = place;
        } else {
            place += 1;
        }
    }
    literals(&mut packed, &text[pending..]);
    packed
}

fn literals(packed: &mut Vec<u8>, bytes: &[u8]) {
    for run in bytes.chunks(128) {
        packed.push(run.len() as u8 - 1);
        packed.extend_from_slice(run);
    }
}

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut rest = packed;
    while let [control, tail @ ..] = rest {
        let count = usize::from(control & 0x7f);
        if control & 0x80 == 0 {
            let (run, after) = tail.split_at(count + 1);
            text.extend_from_slice(run);
            rest = after;
        } else {
            let start = text.len() - usize::from(u16::from_le_bytes([tail[0], tail[1]]));
            for place in start..start + count + SHORTEST {
                text.push(text[place]);
            }
            rest = &tail[2..];
        }
    }
    text
}
