//! AES, carry-less multiplication, SHA and Galois-field operations.

use super::lanes::Lane;

/// Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
pub(super) const fn gf_mul(a: u8, b: u8) -> u8 {
    let (mut a, mut product, mut i) = (a, 0, 0);
    while i < 8 {
        if b >> i & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        i += 1;
    }
    product
}

/// The inverse in GF(2^8), a^254; that of zero is zero.
pub(super) const fn gf_inverse(a: u8) -> u8 {
    let (mut power, mut square, mut i) = (1, a, 1);
    while i < 8 {
        square = gf_mul(square, square);
        power = gf_mul(power, square);
        i += 1;
    }
    power
}

/// FIPS 197, 5.1.1.
const SBOX: [u8; 256] = {
    let (mut table, mut i) = ([0; 256], 0);
    while i < 256 {
        let b = gf_inverse(i as u8);
        table[i] =
            b ^ b.rotate_left(1) ^ b.rotate_left(2) ^ b.rotate_left(3) ^ b.rotate_left(4) ^ 0x63;
        i += 1;
    }
    table
};

const INVERSE_SBOX: [u8; 256] = {
    let (mut table, mut i) = ([0; 256], 0);
    while i < 256 {
        table[SBOX[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// Row r of the state is rotated by r columns: byte i comes from `i + step * row`.
fn shift_rows(state: u128, step: usize) -> u128 {
    let bytes = u8::split(state);
    u8::build(|i| bytes[(i + step * (i % 4)) % 16])
}

fn mix_columns(state: u128, coefficients: [u8; 4]) -> u128 {
    let bytes = u8::split(state);
    u8::build(|i| {
        (0..4)
            .fold(0, |sum, j| sum ^ gf_mul(bytes[i / 4 * 4 + j], coefficients[(4 + j - i % 4) % 4]))
    })
}

fn substitute(state: u128, table: &[u8; 256]) -> u128 {
    u8::map(state, |x| table[usize::from(x)])
}

pub(super) fn aesenc(state: u128, key: u128) -> u128 {
    mix_columns(substitute(shift_rows(state, 4), &SBOX), [2, 3, 1, 1]) ^ key
}

pub(super) fn aesenclast(state: u128, key: u128) -> u128 {
    substitute(shift_rows(state, 4), &SBOX) ^ key
}

pub(super) fn aesdec(state: u128, key: u128) -> u128 {
    aesimc(substitute(shift_rows(state, 12), &INVERSE_SBOX)) ^ key
}

pub(super) fn aesdeclast(state: u128, key: u128) -> u128 {
    substitute(shift_rows(state, 12), &INVERSE_SBOX) ^ key
}

pub(super) fn aesimc(state: u128) -> u128 {
    mix_columns(state, [14, 11, 13, 9])
}

pub(super) fn aeskeygenassist(source: u128, constant: u8) -> u128 {
    let [_, x1, _, x3] = u32::split(substitute(source, &SBOX));
    let round = u32::from(constant);
    u32::join([x1, x1.rotate_right(8) ^ round, x3, x3.rotate_right(8) ^ round])
}

/// PCLMULQDQ on two quadwords.
pub(super) fn carryless(a: u64, b: u64) -> u128 {
    (0..64).filter(|i| b >> i & 1 != 0).fold(0, |product, i| product ^ u128::from(a) << i)
}

/// GF2P8AFFINEQB: per quadword of `b` a bit matrix, applied to f of the bytes of `a`.
pub(super) fn gf_affine(a: u128, b: u128, constant: u8, f: impl Fn(u8) -> u8) -> u128 {
    let (a, matrix) = (u8::split(a), u8::split(b));
    u8::build(|i| {
        let rows = &matrix[i / 8 * 8..i / 8 * 8 + 8];
        let x = f(a[i]);
        let product = rows.iter().fold(0, |sum, row| sum << 1 | (row & x).count_ones() as u8 & 1);
        // Row 0 of the matrix makes the most significant bit.
        product ^ constant
    })
}

/// The SHA instructions number their dwords from the top.
fn dwords(x: u128) -> [u32; 4] {
    let [d, c, b, a] = u32::split(x);
    [a, b, c, d]
}

fn from_dwords([a, b, c, d]: [u32; 4]) -> u128 {
    u32::join([d, c, b, a])
}

fn choose(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ !x & z
}

fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ x & z ^ y & z
}

pub(super) fn sha1msg1(a: u128, b: u128) -> u128 {
    let ([w0, w1, w2, w3], [w4, w5, ..]) = (dwords(a), dwords(b));
    from_dwords([w2 ^ w0, w3 ^ w1, w4 ^ w2, w5 ^ w3])
}

pub(super) fn sha1msg2(a: u128, b: u128) -> u128 {
    let ([x0, x1, x2, x3], [_, w13, w14, w15]) = (dwords(a), dwords(b));
    let w16 = (x0 ^ w13).rotate_left(1);
    from_dwords([
        w16,
        (x1 ^ w14).rotate_left(1),
        (x2 ^ w15).rotate_left(1),
        (x3 ^ w16).rotate_left(1),
    ])
}

pub(super) fn sha1nexte(a: u128, b: u128) -> u128 {
    let [e, w1, w2, w3] = dwords(b);
    from_dwords([e.wrapping_add(dwords(a)[0].rotate_left(30)), w1, w2, w3])
}

pub(super) fn sha1rnds4(state: u128, words: u128, function: u8) -> u128 {
    let (f, k): (fn(u32, u32, u32) -> u32, u32) = match function & 3 {
        0 => (choose, 0x5a82_7999),
        1 => (|x, y, z| x ^ y ^ z, 0x6ed9_eba1),
        2 => (majority, 0x8f1b_bcdc),
        _ => (|x, y, z| x ^ y ^ z, 0xca62_c1d6),
    };
    // The first word already carries E.
    let ([mut a, mut b, mut c, mut d], mut e) = (dwords(state), 0);
    for word in dwords(words) {
        let next = f(b, c, d)
            .wrapping_add(a.rotate_left(5))
            .wrapping_add(word)
            .wrapping_add(e)
            .wrapping_add(k);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    from_dwords([a, b, c, d])
}

pub(super) fn sha256msg1(a: u128, b: u128) -> u128 {
    let sigma = |x: u32| x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3;
    let ([w0, w1, w2, w3], w4) = (u32::split(a), b as u32);
    u32::join([
        w0.wrapping_add(sigma(w1)),
        w1.wrapping_add(sigma(w2)),
        w2.wrapping_add(sigma(w3)),
        w3.wrapping_add(sigma(w4)),
    ])
}

pub(super) fn sha256msg2(a: u128, b: u128) -> u128 {
    let sigma = |x: u32| x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10;
    let ([x0, x1, x2, x3], [.., w14, w15]) = (u32::split(a), u32::split(b));
    let w16 = x0.wrapping_add(sigma(w14));
    let w17 = x1.wrapping_add(sigma(w15));
    u32::join([w16, w17, x2.wrapping_add(sigma(w16)), x3.wrapping_add(sigma(w17))])
}

/// Two rounds; `cdgh` is the destination, `abef` the source, `words` XMM0.
pub(super) fn sha256rnds2(cdgh: u128, abef: u128, words: u128) -> u128 {
    let ([mut a, mut b, mut e, mut f], [mut c, mut d, mut g, mut h]) = (dwords(abef), dwords(cdgh));
    for word in &u32::split(words)[..2] {
        let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let sum0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t1 = h.wrapping_add(sum1).wrapping_add(choose(e, f, g)).wrapping_add(*word);
        let t2 = sum0.wrapping_add(majority(a, b, c));
        (a, b, c, d, e, f, g, h) = (t1.wrapping_add(t2), a, b, c, d.wrapping_add(t1), e, f, g);
    }
    from_dwords([a, b, e, f])
}
