//! Hashes by the names that LUKS headers have for them.

use pbkdf2::pbkdf2_hmac;
use ripemd::Ripemd160;
use sha1::Sha1;
use sha2::digest::Digest;
use sha2::{Sha224, Sha256, Sha384, Sha512};

use crate::{Error, Result};

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1
    Sha1,
    /// SHA-2 of 224 bits
    Sha224,
    /// SHA-2 of 256 bits
    Sha256,
    /// SHA-2 of 384 bits
    Sha384,
    /// SHA-2 of 512 bits
    Sha512,
    /// RIPEMD-160
    Ripemd160,
}

fn digest<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = D::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().to_vec()
}

impl Hash {
    const NAMES: [(&str, Self); 6] = [
        ("sha1", Self::Sha1),
        ("sha224", Self::Sha224),
        ("sha256", Self::Sha256),
        ("sha384", Self::Sha384),
        ("sha512", Self::Sha512),
        ("ripemd160", Self::Ripemd160),
    ];

    /// By its name.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        let unknown = || Error::unsupported(format!("Hash algorithm '{name}' not supported"));
        found.map(|(_, hash)| *hash).ok_or_else(unknown)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, hash)| *hash == self).map_or("", |(name, _)| name)
    }

    /// The hash of parts, one after the other.
    pub fn of(self, parts: &[&[u8]]) -> Vec<u8> {
        match self {
            Self::Sha1 => digest::<Sha1>(parts),
            Self::Sha224 => digest::<Sha224>(parts),
            Self::Sha256 => digest::<Sha256>(parts),
            Self::Sha384 => digest::<Sha384>(parts),
            Self::Sha512 => digest::<Sha512>(parts),
            Self::Ripemd160 => digest::<Ripemd160>(parts),
        }
    }

    /// PBKDF2 with HMAC: a key from a password.
    pub fn stretch(self, password: &[u8], salt: &[u8], rounds: u32, len: usize) -> Vec<u8> {
        let mut key = vec![0; len];
        match self {
            Self::Sha1 => pbkdf2_hmac::<Sha1>(password, salt, rounds, &mut key),
            Self::Sha224 => pbkdf2_hmac::<Sha224>(password, salt, rounds, &mut key),
            Self::Sha256 => pbkdf2_hmac::<Sha256>(password, salt, rounds, &mut key),
            Self::Sha384 => pbkdf2_hmac::<Sha384>(password, salt, rounds, &mut key),
            Self::Sha512 => pbkdf2_hmac::<Sha512>(password, salt, rounds, &mut key),
            Self::Ripemd160 => pbkdf2_hmac::<Ripemd160>(password, salt, rounds, &mut key),
        }
        key
    }

    /// Mixes a block as the anti-forensic splitter does (LUKS1 specification, "AF splitter").
    fn diffuse(self, block: &mut [u8]) {
        let size = self.of(&[]).len();
        for (number, part) in (0_u32..).zip(block.chunks_mut(size)) {
            let mixed = self.of(&[&number.to_be_bytes(), part]);
            part.copy_from_slice(&mixed[..part.len()]);
        }
    }

    /// Spreads a key over stripes, all but the last of which are the random bytes given.
    pub fn split(self, key: &[u8], mut stripes: Vec<u8>) -> Vec<u8> {
        let mut mix = vec![0; key.len()];
        for stripe in stripes.chunks_exact(key.len()) {
            mix.iter_mut().zip(stripe).for_each(|(byte, with)| *byte ^= with);
            self.diffuse(&mut mix);
        }
        stripes.extend(mix.iter().zip(key).map(|(a, b)| a ^ b));
        stripes
    }

    /// The key that was spread over stripes.
    pub fn merge(self, stripes: &[u8], len: usize) -> Vec<u8> {
        let mut mix = vec![0; len];
        let count = stripes.len() / len;
        for (index, stripe) in stripes.chunks_exact(len).enumerate() {
            mix.iter_mut().zip(stripe).for_each(|(byte, with)| *byte ^= with);
            if index + 1 < count {
                self.diffuse(&mut mix);
            }
        }
        mix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_spread_comes_back() {
        let key: Vec<u8> = (0..64).collect();
        for (_, hash) in Hash::NAMES {
            let random = (0..64 * 9).map(|i| (i * 7) as u8).collect();
            assert_eq!(hash.merge(&hash.split(&key, random), 64), key, "{}", hash.name());
        }
    }
}
