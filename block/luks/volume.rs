//! A LUKS header in a file, and its keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::cipher::Cipher;
use super::hash::Hash;
use super::header::{LEN, LuksHeader, LuksOptions, SLOTS};
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// A volume's header at an offset of a file.
pub struct Volume {
    file: Arc<Node>,
    base: u64,
    header: Mutex<LuksHeader>,
    /// The key of the data, once a password has opened a slot.
    master: Mutex<Option<Vec<u8>>>,
}

/// A change of key slots, as `amend` has them. With `force` it is done although the data may be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// A further password, in a slot or in the first free one.
    Add {
        /// It.
        password: Vec<u8>,
        /// Where.
        slot: Option<usize>,
        /// Milliseconds that opening the slot takes.
        iter_time: u64,
        /// Also where another password is.
        force: bool,
    },
    /// Whatever opens with this password does no more.
    RemovePassword {
        /// It.
        password: Vec<u8>,
        /// Also when it is the last one.
        force: bool,
    },
    /// A slot opens no more.
    RemoveSlot {
        /// Which.
        slot: usize,
        /// The password that must be in it.
        password: Option<Vec<u8>>,
        /// Also when it is the last one, or open to nobody.
        force: bool,
    },
}

/// Rounds of PBKDF2 that this machine does in a second.
fn rounds_per_second(hash: Hash, len: usize) -> u32 {
    let mut rounds = 1 << 12;
    loop {
        let begin = Instant::now();
        std::hint::black_box(hash.stretch(b"password", &[0; 32], rounds, len));
        let time = begin.elapsed();
        if time >= Duration::from_millis(50) || rounds >= 1 << 26 {
            let nanos = time.as_nanos().max(1);
            let rate = u128::from(rounds) * 1_000_000_000 / nanos;
            return u32::try_from(rate).unwrap_or(u32::MAX);
        }
        rounds *= 2;
    }
}

fn check_slot(slot: usize) -> Result<()> {
    if slot >= SLOTS {
        let last = SLOTS - 1;
        let text = format!("Invalid keyslot {slot} specified, must be between 0 and {last}");
        return Err(Error::invalid(text));
    }
    Ok(())
}

impl Volume {
    /// Reads a header at `base`; all of the volume's keys are below `base + room`.
    pub async fn load(file: Arc<Node>, base: u64, room: u64) -> Result<Self> {
        let bytes = file.read_bytes(base, LEN).await?;
        let header = LuksHeader::parse(&bytes)?;
        if u64::from(header.payload) * 512 > room {
            return Err(Error::invalid("LUKS payload is beyond the end of the volume"));
        }
        Ok(Self { file, base, header: Mutex::new(header), master: Mutex::default() })
    }

    /// Makes a header at `base` that a password opens.
    pub async fn create(
        file: Arc<Node>,
        base: u64,
        options: &LuksOptions,
        password: &[u8],
    ) -> Result<Self> {
        let hash = Hash::named(&options.hash_alg)?;
        let rounds = rounds_per_second(hash, 64);
        let (mut header, master) = LuksHeader::create(options, rounds)?;
        let wanted = (u64::from(rounds) * options.iter_time / 1000).min(u64::from(u32::MAX)) as u32;
        let material = header.fill_slot(0, password, &master, wanted)?;
        let mut bytes = header.to_bytes();
        bytes.resize(4096, 0);
        file.write(base, Vector::from(&bytes[..])).await?;
        file.write(base + header.material(0).0, Vector::from(&material[..])).await?;
        file.flush().await?;
        let (header, master) = (Mutex::new(header), Mutex::new(Some(master)));
        Ok(Self { file, base, header, master })
    }

    /// What the header says now.
    pub fn header(&self) -> LuksHeader {
        self.header.lock().clone()
    }

    /// Bytes of header and key material.
    pub fn len_of_keys(header: &LuksHeader) -> u64 {
        u64::from(header.payload) * 512
    }

    async fn material(&self, header: &LuksHeader, index: usize) -> Result<Vec<u8>> {
        let (at, len) = header.material(index);
        self.file.read_bytes(self.base + at, len).await
    }

    async fn try_slot(&self, index: usize, password: &[u8]) -> Result<Option<Vec<u8>>> {
        let header = self.header();
        if !header.slots[index].active {
            return Ok(None);
        }
        header.open_slot(index, password, self.material(&header, index).await?)
    }

    /// The cipher of the data. From now on further passwords can be added.
    pub async fn unlock(&self, password: &[u8]) -> Result<Cipher> {
        for index in 0..SLOTS {
            if let Some(master) = self.try_slot(index, password).await? {
                let header = self.header();
                let cipher = Cipher::new(&header.cipher, &header.mode, &master)?;
                *self.master.lock() = Some(master);
                return Ok(cipher);
            }
        }
        Err(Error::invalid("Invalid password, cannot unlock any keyslot"))
    }

    /// Changes key slots.
    pub async fn change_keys(&self, change: &KeyChange) -> Result<()> {
        match change {
            KeyChange::Add { password, slot, iter_time, force } => {
                self.add_key(password, *slot, *iter_time, *force).await
            }
            KeyChange::RemovePassword { password, force } => {
                let mut matching = Vec::new();
                for index in 0..SLOTS {
                    if self.try_slot(index, password).await?.is_some() {
                        matching.push(index);
                    }
                }
                if matching.is_empty() {
                    return Err(Error::invalid(
                        "No keyslots match given (old) password for erase operation",
                    ));
                }
                if matching.len() == self.active() && !force {
                    return Err(Error::invalid(
                        "All the active keyslots match the (old) password that was given and \
                         erasing them will erase all the data in the image irreversibly - \
                         refusing operation",
                    ));
                }
                self.erase(&matching).await
            }
            KeyChange::RemoveSlot { slot, password, force } => {
                self.remove_slot(*slot, password.as_deref(), *force).await
            }
        }
    }

    async fn add_key(
        &self,
        password: &[u8],
        slot: Option<usize>,
        iter_time: u64,
        force: bool,
    ) -> Result<()> {
        let mut header = self.header();
        let free = || header.slots.iter().position(|slot| !slot.active);
        let slot = slot
            .or_else(free)
            .ok_or_else(|| Error::invalid("Can't add a keyslot - all keyslots are in use"))?;
        check_slot(slot)?;
        if header.slots[slot].active && !force {
            let text =
                format!("Refusing to overwrite active keyslot {slot} - please erase it first");
            return Err(Error::invalid(text));
        }
        let locked = || Error::new(libc::EACCES, "The volume has not been opened by a password");
        let master = self.master.lock().clone().ok_or_else(locked)?;
        let rounds = u64::from(rounds_per_second(header.hash, header.key_len));
        let wanted = (rounds * iter_time / 1000).min(u64::from(u32::MAX)) as u32;
        let material = header.fill_slot(slot, password, &master, wanted)?;
        let at = self.base + header.material(slot).0;
        self.file.write(at, Vector::from(&material[..])).await?;
        self.file.flush().await?;
        self.store(header).await
    }

    async fn remove_slot(&self, slot: usize, password: Option<&[u8]>, force: bool) -> Result<()> {
        check_slot(slot)?;
        if let Some(password) = password
            && self.try_slot(slot, password).await?.is_none()
        {
            return Err(Error::invalid(format!(
                "Given keyslot {slot} doesn't contain the given old password for erase operation"
            )));
        }
        let active = self.header().slots[slot].active;
        if !active && !force {
            // QEMU's text ends with a space.
            let text = format!("Given keyslot {slot} is already erased (inactive) ");
            return Err(Error::invalid(text));
        }
        if active && self.active() == 1 && !force {
            return Err(Error::invalid(format!(
                "Attempt to erase the only active keyslot {slot} which will erase all the data in \
                 the image irreversibly - refusing operation"
            )));
        }
        self.erase(&[slot]).await
    }

    fn active(&self) -> usize {
        self.header().slots.iter().filter(|slot| slot.active).count()
    }

    async fn store(&self, header: LuksHeader) -> Result<()> {
        self.file.write(self.base, Vector::from(&header.to_bytes()[..])).await?;
        self.file.flush().await?;
        *self.header.lock() = header;
        Ok(())
    }

    /// First the slots are closed, then what was in them is overwritten.
    async fn erase(&self, slots: &[usize]) -> Result<()> {
        let mut header = self.header();
        for &index in slots {
            let slot = &mut header.slots[index];
            (slot.active, slot.rounds, slot.salt) = (false, 0, [0; 32]);
        }
        self.store(header.clone()).await?;
        for &index in slots {
            let (at, len) = header.material(index);
            let noise = super::header::random(len)?;
            self.file.write(self.base + at, Vector::from(&noise[..])).await?;
        }
        self.file.flush().await
    }

    /// What `ImageInfoSpecificLUKS` has; with the name of the format, where it is inside another.
    pub fn info(&self, format: Option<&str>) -> Map<String, Value> {
        let header = self.header();
        let (mode, iv) = header.mode.split_once('-').unwrap_or((&header.mode, "plain64"));
        let (ivgen, iv_hash) = match iv.split_once(':') {
            Some((ivgen, hash)) => (ivgen, Some(hash)),
            None => (iv, None),
        };
        let bits = header.key_len * 8 / if mode == "xts" { 2 } else { 1 };
        let mut info = Map::new();
        let mut put = |key: &str, value: Value| drop(info.insert(key.into(), value));
        put("ivgen-alg", json!(ivgen));
        if let Some(hash) = iv_hash {
            put("ivgen-hash-alg", json!(hash));
        }
        put("detached-header", json!(false));
        put("hash-alg", json!(header.hash.name()));
        put("cipher-alg", json!(format!("{}-{bits}", header.cipher)));
        put("uuid", json!(header.uuid));
        if let Some(format) = format {
            put("format", json!(format));
        }
        put("cipher-mode", json!(mode));
        let slots = header.slots.iter().enumerate().map(|(index, slot)| {
            let mut map = Map::new();
            map.insert("active".into(), json!(slot.active));
            if slot.active {
                map.insert("iters".into(), json!(slot.rounds));
            }
            map.insert("key-offset".into(), json!(header.material(index).0));
            if slot.active {
                map.insert("stripes".into(), json!(slot.stripes));
            }
            Value::from(map)
        });
        put("slots", slots.collect::<Vec<_>>().into());
        put("payload-offset", json!(u64::from(header.payload) * 512));
        put("master-key-iters", json!(header.digest_rounds));
        info
    }
}
