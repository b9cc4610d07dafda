//! Clusters of encrypted images: each sector of 512 bytes by itself, its number as the tweak.

use std::sync::Arc;

use super::header::{Encryption, Header};
use super::{Qcow2, Settings};
use crate::luks::{Cipher, Volume};
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

pub(super) const SECTOR: u64 = 512;

/// How the clusters of an image are encrypted.
pub(super) struct Crypt {
    pub(super) cipher: Cipher,
    /// Sectors are numbered by their place in the file, not by the guest's.
    pub(super) by_host: bool,
}

impl Crypt {
    fn sector(&self, host: u64, at: u64) -> u64 {
        if self.by_host { host / SECTOR } else { at / SECTOR }
    }
}

impl Qcow2 {
    fn crypt(&self) -> Result<&Crypt> {
        self.crypt.as_ref().ok_or_else(|| Error::from_errno(libc::EINVAL))
    }

    /// Reads and decrypts what is at a place; it may begin and end inside a sector.
    pub(super) async fn read_encrypted(&self, host: u64, at: u64, into: Vector) -> Result<()> {
        let crypt = self.crypt()?;
        let lead = at % SECTOR;
        let len = (lead as usize + into.len()).next_multiple_of(SECTOR as usize);
        let mut bytes = self.data().read_bytes(host - lead, len).await?;
        crypt.cipher.decrypt(crypt.sector(host - lead, at - lead), &mut bytes)?;
        into.write(0, &bytes[lead as usize..]);
        Ok(())
    }

    /// Encrypts whole sectors and writes them to their place.
    pub(super) async fn store_encrypted(&self, host: u64, at: u64, from: Vector) -> Result<()> {
        let crypt = self.crypt()?;
        let mut bytes = from.to_vec();
        crypt.cipher.encrypt(crypt.sector(host, at), &mut bytes)?;
        self.data().write(host, Vector::from(&bytes[..])).await
    }

    /// Writes, in whole sectors where they are encrypted. The caller holds the gate.
    pub(super) async fn write_sectors(&self, at: u64, from: Vector) -> Result<()> {
        let end = at + from.len() as u64;
        if self.crypt.is_none() || at.is_multiple_of(SECTOR) && end.is_multiple_of(SECTOR) {
            return self.write_mapped(at, from).await;
        }
        let _alone = self.partial.lock().await;
        let (start, stop) = (at & !(SECTOR - 1), end.next_multiple_of(SECTOR));
        let whole = Vector::zeroed((stop - start) as usize);
        self.read_mapped(start, whole.clone()).await?;
        whole.copy((at - start) as usize, &from);
        self.write_mapped(start, whole).await
    }
}

/// The keys of an image, and what they open, as far as it is needed.
pub(super) async fn open_keys(
    file: &Arc<Node>,
    header: &Header,
    settings: &Settings,
) -> Result<(Option<Volume>, Option<Crypt>)> {
    let password = settings.password.as_deref();
    let needed = || Error::invalid("Parameter 'encrypt.key-secret' is required for cipher");
    let idle = settings.no_data && password.is_none();
    match header.encryption {
        Encryption::None if password.is_some() => Err(Error::invalid(
            "No encryption in image header, but options specified format 'luks'",
        )),
        Encryption::None => Ok((None, None)),
        Encryption::Aes if idle => Ok((None, None)),
        Encryption::Aes => {
            let cipher = Cipher::of_old_qcow(password.ok_or_else(needed)?)?;
            Ok((None, Some(Crypt { cipher, by_host: false })))
        }
        Encryption::Luks { at, len } => {
            let volume = Volume::load(file.clone(), at, len).await?;
            if idle {
                return Ok((Some(volume), None));
            }
            let cipher = volume.unlock(password.ok_or_else(needed)?).await?;
            Ok((Some(volume), Some(Crypt { cipher, by_host: true })))
        }
    }
}
