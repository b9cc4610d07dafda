//! SHA-256 (FIPS 180-4) without help from the CPU.

use crate::Round;
use crate::random::prose;

/// Digests 256 kB.
pub fn prepare() -> Round {
    let text = prose(256 << 10).into_bytes();
    Box::new(move || digest(&text)[..2].iter().fold(0, |sum, word| sum << 32 | u64::from(*word)))
}

/// The first 32 bits of the fractions of the cube roots of the first primes.
const ROUNDS: [u32; 64] = roots(3);
/// The same of their square roots.
const START: [u32; 64] = roots(2);

/// Fractions of the square or cube roots of the first 64 primes, by bisection.
const fn roots(power: u32) -> [u32; 64] {
    let mut fractions = [0; 64];
    let (mut count, mut number) = (0, 2u128);
    while count < 64 {
        let mut divisor = 2;
        while divisor * divisor <= number && number % divisor != 0 {
            divisor += 1;
        }
        if divisor * divisor > number {
            // The largest root with 32 bits after the point whose power does not exceed the prime.
            let (mut low, mut high) = (0u128, 1u128 << 37);
            while high - low > 1 {
                let middle = (low + high) / 2;
                let raised = if power == 2 { middle * middle } else { middle * middle * middle };
                if raised <= number << (32 * power) {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            fractions[count] = low as u32;
            count += 1;
        }
        number += 1;
    }
    fractions
}

fn digest(text: &[u8]) -> [u32; 8] {
    let mut state = [0; 8];
    state.copy_from_slice(&START[..8]);
    let (blocks, rest) = text.as_chunks::<64>();
    blocks.iter().for_each(|block| mix(&mut state, block));
    let mut tail = [0; 128];
    tail[..rest.len()].copy_from_slice(rest);
    tail[rest.len()] = 0x80;
    let end = if rest.len() < 56 { 64 } else { 128 };
    tail[end - 8..end].copy_from_slice(&(text.len() as u64 * 8).to_be_bytes());
    tail[..end].as_chunks::<64>().0.iter().for_each(|block| mix(&mut state, block));
    state
}

fn mix(state: &mut [u32; 8], block: &[u8; 64]) {
    let mut words = [0u32; 64];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for at in 16..64 {
        let (near, far) = (words[at - 2], words[at - 15]);
        let near = near.rotate_right(17) ^ near.rotate_right(19) ^ near >> 10;
        let far = far.rotate_right(7) ^ far.rotate_right(18) ^ far >> 3;
        words[at] = words[at - 16].wrapping_add(far).wrapping_add(words[at - 7]).wrapping_add(near);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (word, round) in words.iter().zip(ROUNDS) {
        let choice = e & f ^ !e & g;
        let majority = a & b ^ a & c ^ b & c;
        let first = (e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
            .wrapping_add(h)
            .wrapping_add(choice)
            .wrapping_add(round)
            .wrapping_add(*word);
        let second =
            (a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22)).wrapping_add(majority);
        (h, g, f, e) = (g, f, e, d.wrapping_add(first));
        (d, c, b, a) = (c, b, a, first.wrapping_add(second));
    }
    for (word, change) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_abc_is_the_standards() {
        assert_eq!(
            digest(b"abc"),
            [
                0xba7816bf, 0x8f01cfea, 0x414140de, 0x5dae2223, 0xb00361a3, 0x96177a9c, 0xb410ff61,
                0xf20015ad
            ]
        );
    }
}
