//! The password check of the protocol (RFC 6143, section 7.2.2).

use des::Des;
use des::cipher::generic_array::GenericArray;
use des::cipher::{BlockEncrypt, KeyInit};

/// Bytes of a challenge.
pub const CHALLENGE_SIZE: usize = 16;

/// Bytes that nobody can guess; `None` if the host has none.
pub fn challenge() -> Option<[u8; CHALLENGE_SIZE]> {
    let mut challenge = [0; CHALLENGE_SIZE];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut challenge).ok()?;
    Some(challenge)
}

/// What a client that knows the password answers. The key is the password's first eight bytes, each
/// with its bits in reverse order.
pub fn response(challenge: &[u8; CHALLENGE_SIZE], password: &[u8]) -> [u8; CHALLENGE_SIZE] {
    let mut key = [0; 8];
    for (to, byte) in key.iter_mut().zip(password) {
        *to = byte.reverse_bits();
    }
    let cipher = Des::new(&key.into());
    let mut response = *challenge;
    for block in response.chunks_exact_mut(8) {
        cipher.encrypt_block(GenericArray::from_mut_slice(block));
    }
    response
}

/// Compares without telling by its duration where the first difference is.
pub fn same(one: &[u8; CHALLENGE_SIZE], other: &[u8; CHALLENGE_SIZE]) -> bool {
    one.iter().zip(other).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_as_clients_give_them() {
        // DES with the reversed key of an empty password: that of the key of zeros.
        let zeros = response(&[0; 16], b"");
        assert_eq!(zeros[..8], [0x8c, 0xa6, 0x4d, 0xe9, 0xc1, 0xb1, 0x23, 0xa7]);
        assert_eq!(zeros[..8], zeros[8..]);
        // Bits of the password's bytes are taken in reverse: 0x80 is 0x01, a parity bit.
        assert_eq!(response(&[0; 16], &[0x80]), zeros);
        assert_ne!(response(&[0; 16], &[0x01]), zeros);
        // Only eight bytes count.
        assert_eq!(response(&[7; 16], b"password"), response(&[7; 16], b"password1"));
        assert!(same(&zeros, &zeros.clone()) && !same(&zeros, &[0; 16]));
    }
}
