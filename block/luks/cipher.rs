//! Sectors of 512 bytes, each encrypted by itself: ciphers, modes and initialisation vectors as LUKS
//! headers name them.

use aes::{Aes128, Aes192, Aes256};
use cast5::Cast5;
use cipher::consts::U16;
use cipher::generic_array::GenericArray;
use cipher::{BlockCipher, BlockDecrypt, BlockEncrypt, BlockSizeUser, KeyInit};
use serpent::Serpent;
use twofish::Twofish;
use xts_mode::Xts128;

use super::hash::Hash;
use crate::{Error, Result};

const SECTOR: usize = 512;

/// A cipher with its key.
pub struct Cipher {
    mode: Box<dyn Mode>,
    iv: Iv,
}

/// How sectors differ.
enum Iv {
    None,
    Plain,
    Plain64,
    Essiv(Box<dyn Mode>),
}

trait Mode: Send + Sync {
    fn run(&self, iv: &[u8; 16], bytes: &mut [u8], encrypt: bool);
}

struct Xts<C: BlockEncrypt + BlockDecrypt + BlockCipher>(Xts128<C>);

impl<C> Mode for Xts<C>
where
    C: BlockEncrypt + BlockDecrypt + BlockCipher + BlockSizeUser<BlockSize = U16> + Send + Sync,
{
    fn run(&self, iv: &[u8; 16], bytes: &mut [u8], encrypt: bool) {
        match encrypt {
            true => self.0.encrypt_sector(bytes, *iv),
            false => self.0.decrypt_sector(bytes, *iv),
        }
    }
}

/// CBC; with `chained` off ECB.
struct Blocks<C> {
    cipher: C,
    chained: bool,
}

impl<C: BlockEncrypt + BlockDecrypt + Send + Sync> Mode for Blocks<C> {
    fn run(&self, iv: &[u8; 16], bytes: &mut [u8], encrypt: bool) {
        let size = C::block_size();
        let mut last = iv[..size].to_vec();
        for block in bytes.chunks_exact_mut(size) {
            let mix = |block: &mut [u8], with: &[u8]| {
                if self.chained {
                    block.iter_mut().zip(with).for_each(|(byte, with)| *byte ^= with);
                }
            };
            if encrypt {
                mix(block, &last);
                self.cipher.encrypt_block(GenericArray::from_mut_slice(block));
                last.copy_from_slice(block);
            } else {
                let next = block.to_vec();
                self.cipher.decrypt_block(GenericArray::from_mut_slice(block));
                mix(block, &last);
                last = next;
            }
        }
    }
}

fn key<C: KeyInit>(bytes: &[u8]) -> Result<C> {
    let fail = |_| Error::invalid(format!("Cipher key length {} is not supported", bytes.len()));
    C::new_from_slice(bytes).map_err(fail)
}

fn blocks<C>(bytes: &[u8], chained: bool) -> Result<Box<dyn Mode>>
where
    C: KeyInit + BlockEncrypt + BlockDecrypt + Send + Sync + 'static,
{
    Ok(Box::new(Blocks::<C> { cipher: key(bytes)?, chained }))
}

fn xts<C>(bytes: &[u8]) -> Result<Box<dyn Mode>>
where
    C: KeyInit + BlockEncrypt + BlockDecrypt + BlockCipher,
    C: BlockSizeUser<BlockSize = U16> + Send + Sync + 'static,
{
    let (data, tweak) = bytes.split_at(bytes.len() / 2);
    Ok(Box::new(Xts::<C>(Xts128::new(key(data)?, key(tweak)?))))
}

/// A cipher in a mode (`xts`, `cbc`, `ecb`).
fn mode(cipher: &str, mode: &str, key: &[u8]) -> Result<Box<dyn Mode>> {
    let chained = mode == "cbc";
    match (cipher, mode, key.len()) {
        ("aes", "xts", 32) => xts::<Aes128>(key),
        ("aes", "xts", 64) => xts::<Aes256>(key),
        ("serpent", "xts", 32 | 48 | 64) => xts::<Serpent>(key),
        ("twofish", "xts", 32 | 48 | 64) => xts::<Twofish>(key),
        ("aes", "cbc" | "ecb", 16) => blocks::<Aes128>(key, chained),
        ("aes", "cbc" | "ecb", 24) => blocks::<Aes192>(key, chained),
        ("aes", "cbc" | "ecb", 32) => blocks::<Aes256>(key, chained),
        ("serpent", "cbc" | "ecb", 16 | 24 | 32) => blocks::<Serpent>(key, chained),
        ("twofish", "cbc" | "ecb", 16 | 24 | 32) => blocks::<Twofish>(key, chained),
        ("cast5", "cbc" | "ecb", 16) => blocks::<Cast5>(key, chained),
        ("aes" | "serpent" | "twofish" | "cast5", "xts" | "cbc" | "ecb", bits) => {
            let text = format!("Algorithm '{cipher}-{}' not supported for mode '{mode}'", bits * 8);
            Err(Error::unsupported(text))
        }
        _ => Err(Error::unsupported(format!(
            "Algorithm '{cipher}' with mode '{mode}' not supported"
        ))),
    }
}

impl Cipher {
    /// By the names in a LUKS header: a cipher (`aes`), and a mode with what makes sectors differ
    /// (`xts-plain64`, `cbc-essiv:sha256`).
    pub fn new(cipher: &str, spec: &str, key: &[u8]) -> Result<Self> {
        let (name, iv) = spec.split_once('-').unwrap_or((spec, ""));
        let iv = match iv.split_once(':') {
            None if iv.is_empty() && name == "ecb" => Iv::None,
            None if iv == "plain" => Iv::Plain,
            None if iv == "plain64" => Iv::Plain64,
            Some(("essiv", hash)) => {
                let salt = Hash::named(hash)?.of(&[key]);
                Iv::Essiv(mode(cipher, "ecb", &salt)?)
            }
            _ => {
                let text = format!("Initialization vector generator '{iv}' not supported");
                return Err(Error::unsupported(text));
            }
        };
        Ok(Self { mode: mode(cipher, name, key)?, iv })
    }

    /// Of images from before LUKS: the password is the key, cut or filled up with zeroes.
    pub(crate) fn of_old_qcow(password: &[u8]) -> Result<Self> {
        let mut key = password[..password.len().min(16)].to_vec();
        key.resize(16, 0);
        Self::new("aes", "cbc-plain64", &key)
    }

    fn each(&self, first: u64, bytes: &mut [u8], encrypt: bool) -> Result<()> {
        if !bytes.len().is_multiple_of(SECTOR) {
            return Err(Error::from_errno(libc::EINVAL));
        }
        for (number, sector) in (first..).zip(bytes.chunks_exact_mut(SECTOR)) {
            let mut iv = [0; 16];
            match &self.iv {
                Iv::None => {}
                Iv::Plain => iv[..4].copy_from_slice(&(number as u32).to_le_bytes()),
                Iv::Plain64 => iv[..8].copy_from_slice(&number.to_le_bytes()),
                Iv::Essiv(salted) => {
                    iv[..8].copy_from_slice(&number.to_le_bytes());
                    salted.run(&[0; 16], &mut iv, true);
                }
            }
            self.mode.run(&iv, sector, encrypt);
        }
        Ok(())
    }

    /// Encrypts whole sectors in place; `first` is the number of the first.
    pub fn encrypt(&self, first: u64, bytes: &mut [u8]) -> Result<()> {
        self.each(first, bytes, true)
    }

    /// Decrypts whole sectors in place.
    pub fn decrypt(&self, first: u64, bytes: &mut [u8]) -> Result<()> {
        self.each(first, bytes, false)
    }
}

/// AES in CBC mode over a whole text with padding (PKCS#7): how `-object secret` protects its data.
pub(crate) fn decrypt_padded(key: &[u8], iv: &[u8; 16], bytes: &mut Vec<u8>) -> Result<()> {
    let fail = || Error::invalid("Incorrect number of padding bytes found on decrypted data");
    if bytes.is_empty() || !bytes.len().is_multiple_of(16) {
        return Err(fail());
    }
    mode("aes", "cbc", key)?.run(iv, bytes, false);
    let padding = usize::from(bytes.last().copied().unwrap_or(0));
    if padding == 0 || padding > 16 {
        return Err(fail());
    }
    bytes.truncate(bytes.len() - padding);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_come_back_and_differ() {
        let cases = [
            ("aes", "xts-plain64", 32),
            ("aes", "xts-plain64", 64),
            ("aes", "cbc-essiv:sha256", 32),
            ("aes", "cbc-plain", 16),
            ("serpent", "xts-plain64", 64),
            ("twofish", "cbc-plain64", 32),
            ("cast5", "cbc-plain", 16),
        ];
        for (name, spec, len) in cases {
            let key: Vec<u8> = (0..len).collect();
            let cipher = Cipher::new(name, spec, &key).unwrap();
            let mut bytes = vec![7; 1024];
            cipher.encrypt(5, &mut bytes).unwrap();
            assert_ne!(bytes[..512], bytes[512..], "{name} {spec}");
            cipher.decrypt(6, &mut bytes[512..]).unwrap();
            cipher.decrypt(5, &mut bytes[..512]).unwrap();
            assert!(bytes.iter().all(|&byte| byte == 7), "{name} {spec}");
        }
        assert!(Cipher::new("aes", "xts-plain64", &[0; 16]).is_err());
        assert!(Cipher::new("rot", "xts-plain64", &[0; 32]).is_err());
    }
}
