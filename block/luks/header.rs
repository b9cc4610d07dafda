//! The header of a LUKS volume, version 1, and its key slots (LUKS On-Disk Format Specification 1.2).

use super::cipher::Cipher;
use super::hash::Hash;
use crate::{Error, Result};

/// `LUKS\xba\xbe`
pub const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// Bytes of the header.
pub const LEN: usize = 592;
/// Slots for keys.
pub const SLOTS: usize = 8;

const ACTIVE: u32 = 0x00ac_71f3;
const INACTIVE: u32 = 0x0000_dead;
const STRIPES: u32 = 4000;
const SECTOR: u64 = 512;
/// Key material begins at multiples of this.
const ALIGN: u64 = 4096;
const DIGEST: usize = 20;
const SALT: usize = 32;
/// More would let a header keep us busy for hours.
const MAX_ROUNDS: u32 = 1 << 28;
const MAX_STRIPES: u32 = 10_000;

/// A key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// A password opens it.
    pub active: bool,
    /// Rounds of PBKDF2.
    pub rounds: u32,
    /// Salt of the password.
    pub salt: [u8; SALT],
    /// Where the key material is, in sectors.
    pub at: u32,
    /// How many pieces the key is spread over.
    pub stripes: u32,
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuksHeader {
    /// The cipher (`aes`).
    pub cipher: String,
    /// Its mode (`xts-plain64`).
    pub mode: String,
    /// The hash of passwords and keys.
    pub hash: Hash,
    /// Where the data is, in sectors.
    pub payload: u32,
    /// Bytes of the master key.
    pub key_len: usize,
    digest: [u8; DIGEST],
    digest_salt: [u8; SALT],
    /// Rounds for the digest of the master key.
    pub digest_rounds: u32,
    /// Names the volume.
    pub uuid: String,
    /// The key slots.
    pub slots: [Slot; SLOTS],
}

/// Random bytes of the system.
pub fn random(len: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = vec![0; len];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

fn text(bytes: &[u8], what: &str) -> Result<String> {
    let end = bytes.iter().position(|&byte| byte == 0);
    let end =
        end.ok_or_else(|| Error::invalid(format!("LUKS header {what} is not NUL terminated")))?;
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// How a new volume is encrypted, with QEMU's names of options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuksOptions {
    /// `cipher-alg` with the bits of its key (`aes-256`).
    pub cipher_alg: String,
    /// `cipher-mode`
    pub cipher_mode: String,
    /// `ivgen-alg`
    pub ivgen_alg: Option<String>,
    /// `ivgen-hash-alg`
    pub ivgen_hash_alg: Option<String>,
    /// `hash-alg`
    pub hash_alg: String,
    /// `iter-time`: milliseconds that opening a slot takes.
    pub iter_time: u64,
}

impl Default for LuksOptions {
    fn default() -> Self {
        Self {
            cipher_alg: "aes-256".into(),
            cipher_mode: "xts".into(),
            ivgen_alg: None,
            ivgen_hash_alg: None,
            hash_alg: "sha256".into(),
            iter_time: 2000,
        }
    }
}

impl LuksHeader {
    /// Reads a header.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < LEN || !bytes.starts_with(&MAGIC) {
            return Err(Error::invalid("Volume is not in LUKS format"));
        }
        let version = u16::from_be_bytes(array(bytes, 6));
        if version != 1 {
            let text = format!("LUKS version {version} is not supported");
            return Err(Error::unsupported(text));
        }
        let slot = |index: usize| {
            let at = 208 + index * 48;
            let active = match u32_at(bytes, at) {
                ACTIVE => true,
                INACTIVE => false,
                _ => {
                    return Err(Error::invalid(format!(
                        "Keyslot {index} state (active/disabled) is corrupted"
                    )));
                }
            };
            let slot = Slot {
                active,
                rounds: u32_at(bytes, at + 4),
                salt: array(bytes, at + 8),
                at: u32_at(bytes, at + 40),
                stripes: u32_at(bytes, at + 44),
            };
            if active && (slot.rounds == 0 || slot.rounds > MAX_ROUNDS) {
                return Err(Error::invalid(format!("Keyslot {index} iteration count is wrong")));
            }
            if slot.stripes == 0 || slot.stripes > MAX_STRIPES {
                return Err(Error::invalid(format!(
                    "Keyslot {index} is corrupted (stripes {})",
                    slot.stripes
                )));
            }
            Ok(slot)
        };
        let mut slots = Vec::with_capacity(SLOTS);
        for index in 0..SLOTS {
            slots.push(slot(index)?);
        }
        let header = Self {
            cipher: text(&bytes[8..40], "cipher name")?,
            mode: text(&bytes[40..72], "cipher mode")?,
            hash: Hash::named(&text(&bytes[72..104], "hash spec")?)?,
            payload: u32_at(bytes, 104),
            key_len: u32_at(bytes, 108) as usize,
            digest: array(bytes, 112),
            digest_salt: array(bytes, 132),
            digest_rounds: u32_at(bytes, 164),
            uuid: text(&bytes[168..208], "uuid")?,
            slots: slots.try_into().map_err(|_| Error::from_errno(libc::EINVAL))?,
        };
        if !(8..=128).contains(&header.key_len) {
            return Err(Error::invalid(format!("LUKS key length {} is wrong", header.key_len)));
        }
        if header.digest_rounds == 0 || header.digest_rounds > MAX_ROUNDS {
            return Err(Error::invalid("LUKS key iteration count is zero"));
        }
        // Also that the cipher is one that is known.
        Cipher::new(&header.cipher, &header.mode, &vec![0; header.key_len])?;
        header.check_layout()?;
        Ok(header)
    }

    /// Key material is behind the header, before the data, each for itself.
    fn check_layout(&self) -> Result<()> {
        let mut taken = vec![(0, (LEN as u64).div_ceil(SECTOR))];
        for (index, slot) in self.slots.iter().enumerate() {
            let len = (self.key_len as u64 * u64::from(slot.stripes)).div_ceil(SECTOR);
            let (from, to) = (u64::from(slot.at), u64::from(slot.at) + len);
            if to > u64::from(self.payload) {
                return Err(Error::invalid(format!(
                    "Keyslot {index} is overlapping with the encrypted payload"
                )));
            }
            if taken.iter().any(|&(start, end)| from < end && start < to) {
                return Err(Error::invalid(format!(
                    "Keyslots {index} are overlapping in the header"
                )));
            }
            taken.push((from, to));
        }
        Ok(())
    }

    /// The header as it is on the disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(6, &1_u16.to_be_bytes());
        put(8, self.cipher.as_bytes());
        put(40, self.mode.as_bytes());
        put(72, self.hash.name().as_bytes());
        put(104, &self.payload.to_be_bytes());
        put(108, &(self.key_len as u32).to_be_bytes());
        put(112, &self.digest);
        put(132, &self.digest_salt);
        put(164, &self.digest_rounds.to_be_bytes());
        put(168, self.uuid.as_bytes());
        for (index, slot) in self.slots.iter().enumerate() {
            let at = 208 + index * 48;
            put(at, &(if slot.active { ACTIVE } else { INACTIVE }).to_be_bytes());
            put(at + 4, &slot.rounds.to_be_bytes());
            put(at + 8, &slot.salt);
            put(at + 40, &slot.at.to_be_bytes());
            put(at + 44, &slot.stripes.to_be_bytes());
        }
        out
    }

    /// A header for a new volume, and its master key. `rounds` says how many rounds of PBKDF2 take a
    /// second.
    pub fn create(options: &LuksOptions, rounds: u32) -> Result<(Self, Vec<u8>)> {
        let wrong = || Error::invalid(format!("Invalid parameter '{}'", options.cipher_alg));
        let (cipher, bits) = options.cipher_alg.split_once('-').ok_or_else(wrong)?;
        let bits: usize = bits.parse().map_err(|_| wrong())?;
        let double = if options.cipher_mode == "xts" { 2 } else { 1 };
        let key_len = bits / 8 * double;
        let hash = Hash::named(&options.hash_alg)?;
        let mode = match (options.cipher_mode.as_str(), options.ivgen_alg.as_deref()) {
            ("ecb", None) => "ecb".to_owned(),
            (mode, Some("essiv")) => {
                let hash = options.ivgen_hash_alg.as_deref().unwrap_or("sha256");
                format!("{mode}-essiv:{hash}")
            }
            (mode, ivgen) => format!("{mode}-{}", ivgen.unwrap_or("plain64")),
        };
        let master = random(key_len)?;
        Cipher::new(cipher, &mode, &master)?;
        let digest_salt = array(&random(SALT)?, 0);
        // An eighth of the time goes to the digest.
        let wanted = u64::from(rounds) * options.iter_time / 1000 / 8;
        let digest_rounds = wanted.clamp(1000, u64::from(MAX_ROUNDS)) as u32;
        let digest = array(&hash.stretch(&master, &digest_salt, digest_rounds, DIGEST), 0);
        let material = (key_len as u64 * u64::from(STRIPES)).next_multiple_of(SECTOR);
        let material = material.next_multiple_of(ALIGN);
        let place = |index: u64| ((ALIGN + index * material) / SECTOR) as u32;
        let slot = |index: usize| Slot {
            active: false,
            rounds: 0,
            salt: [0; SALT],
            at: place(index as u64),
            stripes: STRIPES,
        };
        let header = Self {
            cipher: cipher.to_owned(),
            mode,
            hash,
            payload: place(SLOTS as u64),
            key_len,
            digest,
            digest_salt,
            digest_rounds,
            uuid: uuid()?,
            slots: std::array::from_fn(slot),
        };
        Ok((header, master))
    }

    fn slot_cipher(&self, slot: &Slot, password: &[u8]) -> Result<Cipher> {
        let key = self.hash.stretch(password, &slot.salt, slot.rounds, self.key_len);
        Cipher::new(&self.cipher, &self.mode, &key)
    }

    /// (place, length) in bytes of a slot's key material.
    pub fn material(&self, index: usize) -> (u64, usize) {
        let Some(slot) = self.slots.get(index) else { return (0, 0) };
        let len = (self.key_len * slot.stripes as usize).next_multiple_of(SECTOR as usize);
        (u64::from(slot.at) * SECTOR, len)
    }

    /// The master key, if the password is a slot's whose key material is given.
    pub fn open_slot(
        &self,
        index: usize,
        password: &[u8],
        mut material: Vec<u8>,
    ) -> Result<Option<Vec<u8>>> {
        let Some(slot) = self.slots.get(index).filter(|slot| slot.active) else { return Ok(None) };
        self.slot_cipher(slot, password)?.decrypt(0, &mut material)?;
        let stripes = &material[..self.key_len * slot.stripes as usize];
        let master = self.hash.merge(stripes, self.key_len);
        let digest = self.hash.stretch(&master, &self.digest_salt, self.digest_rounds, DIGEST);
        Ok((digest == self.digest).then_some(master))
    }

    /// Lets a password open a slot; returns the slot's new key material.
    pub fn fill_slot(
        &mut self,
        index: usize,
        password: &[u8],
        master: &[u8],
        rounds: u32,
    ) -> Result<Vec<u8>> {
        let salt = array(&random(SALT)?, 0);
        let slot = self.slots.get_mut(index).ok_or_else(|| Error::from_errno(libc::EINVAL))?;
        (slot.salt, slot.rounds, slot.active) = (salt, rounds.clamp(1000, MAX_ROUNDS), true);
        let slot = slot.clone();
        let random = random(self.key_len * (slot.stripes as usize - 1))?;
        let mut material = self.hash.split(master, random);
        material.resize(self.material(index).1, 0);
        self.slot_cipher(&slot, password)?.encrypt(0, &mut material)?;
        Ok(material)
    }
}

fn uuid() -> Result<String> {
    let mut bytes = random(16)?;
    // RFC 9562: version 4, variant 1.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_open_what_they_closed() {
        let options = LuksOptions { iter_time: 1, ..LuksOptions::default() };
        let (mut header, master) = LuksHeader::create(&options, 1000).unwrap();
        let material = header.fill_slot(3, b"secret", &master, 1000).unwrap();
        let again = LuksHeader::parse(&header.to_bytes()).unwrap();
        assert_eq!(again, header);
        assert_eq!(again.open_slot(3, b"secret", material.clone()).unwrap(), Some(master));
        assert_eq!(again.open_slot(3, b"wrong", material.clone()).unwrap(), None);
        assert_eq!(again.open_slot(2, b"secret", material).unwrap(), None);
    }
}
