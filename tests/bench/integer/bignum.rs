//! Numbers of many words: multiplication with carries, and long division.

use crate::Round;
use crate::random::{Random, fold};

const LIMBS: usize = 16;
type Number = [u64; LIMBS];

/// A modular power of 1024 bits, as in RSA, and the decimal digits of 500!.
pub fn prepare() -> Round {
    let mut random = Random::new(3);
    let mut modulus: Number = std::array::from_fn(|_| random.next());
    modulus[0] |= 1;
    modulus[LIMBS - 1] |= 1 << 63;
    let mut base: Number = std::array::from_fn(|_| random.next());
    base[LIMBS - 1] >>= 1;
    Box::new(move || {
        let power = power(&base, 0xfedc_ba98_7654_3211_0123_4567_89ab_cdef, &modulus);
        let sum = power.iter().fold(0u64, |sum, limb| sum.rotate_left(7) ^ limb);
        fold(sum, decimal(factorial(500)).as_bytes())
    })
}

/// `base` to the power of `exponent` times a power of 2^1024, modulo
/// `modulus`: Montgomery's form is not left, since nobody reads the result.
fn power(base: &Number, exponent: u128, modulus: &Number) -> Number {
    // Newton's iteration doubles the right bits of an inverse; an odd number is its own to 3 bits.
    let inverse = (0..5).fold(modulus[0], |inverse, _| {
        inverse.wrapping_mul(2u64.wrapping_sub(modulus[0].wrapping_mul(inverse)))
    });
    let mut result = *base;
    for bit in (0..127).rev() {
        result = multiply(&result, &result, modulus, inverse);
        if exponent >> bit & 1 == 1 {
            result = multiply(&result, base, modulus, inverse);
        }
    }
    result
}

/// Montgomery's multiplication, with the reduction between the rows.
#[inline(never)]
fn multiply(a: &Number, b: &Number, modulus: &Number, inverse: u64) -> Number {
    let mut sum = [0u64; LIMBS + 2];
    for limb in b {
        add_product(&mut sum, a, *limb);
        let factor = sum[0].wrapping_mul(inverse).wrapping_neg();
        add_product(&mut sum, modulus, factor);
        sum.copy_within(1.., 0);
        sum[LIMBS + 1] = 0;
    }
    let mut result = [0; LIMBS];
    result.copy_from_slice(&sum[..LIMBS]);
    if sum[LIMBS] != 0 {
        let mut borrow = false;
        for (limb, other) in result.iter_mut().zip(modulus) {
            let (less, under) = limb.overflowing_sub(*other);
            let (less, under_again) = less.overflowing_sub(borrow.into());
            *limb = less;
            borrow = under || under_again;
        }
    }
    result
}

fn add_product(sum: &mut [u64; LIMBS + 2], number: &Number, factor: u64) {
    let mut carry = 0u128;
    for (place, limb) in sum.iter_mut().zip(number) {
        carry += u128::from(*place) + u128::from(*limb) * u128::from(factor);
        *place = carry as u64;
        carry >>= 64;
    }
    for place in &mut sum[LIMBS..] {
        carry += u128::from(*place);
        *place = carry as u64;
        carry >>= 64;
    }
}

fn factorial(n: u32) -> Vec<u32> {
    let mut product = vec![1u32];
    for factor in 2..=n {
        let mut carry = 0;
        for digit in &mut product {
            let step = u64::from(*digit) * u64::from(factor) + carry;
            *digit = step as u32;
            carry = step >> 32;
        }
        if carry != 0 {
            product.push(carry as u32);
        }
    }
    product
}

fn decimal(mut number: Vec<u32>) -> String {
    let mut groups = Vec::new();
    while !number.is_empty() {
        let mut rest = 0;
        for digit in number.iter_mut().rev() {
            let step = rest << 32 | u64::from(*digit);
            *digit = (step / 1_000_000_000) as u32;
            rest = step % 1_000_000_000;
        }
        groups.push(rest);
        while number.last() == Some(&0) {
            number.pop();
        }
    }
    groups.iter().rev().map(|group| format!("{group:09}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factorial_in_decimal() {
        assert_eq!(decimal(factorial(20)), "000000002432902008176640000");
    }

    #[test]
    fn montgomery_agrees_with_plain_arithmetic_on_small_numbers() {
        // Modulo 2^64 - 59 in one limb's worth: R = 2^1024 mod that is a power we can compute.
        let prime = u64::MAX - 58;
        let mut modulus = [0; LIMBS];
        modulus[0] = prime;
        let times = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(prime)) as u64;
        let mut r = 1;
        (0..1024).for_each(|_| r = times(r, 2));
        let (a, b) = ([times(7, r)], [times(9, r)]);
        let wide = |n: [u64; 1]| {
            let mut number = [0; LIMBS];
            number[0] = n[0];
            number
        };
        let inverse = (0..5).fold(modulus[0], |inverse, _| {
            inverse.wrapping_mul(2u64.wrapping_sub(modulus[0].wrapping_mul(inverse)))
        });
        let product = multiply(&wide(a), &wide(b), &modulus, inverse);
        assert_eq!(product[0] % prime, times(63, r));
    }
}
