//! LUKS volumes, version 1: as a format of its own, and inside qcow2.

mod cipher;
mod hash;
mod header;
mod volume;

use std::sync::Arc;

use serde_json::{Map, Value};

pub use cipher::Cipher;
pub(crate) use cipher::decrypt_padded;
pub use header::{LuksHeader, LuksOptions, MAGIC};
pub use volume::{KeyChange, Volume};

use crate::driver::{Driver, Extent, Io, Preallocation, ZeroFlags};
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

const SECTOR: u64 = 512;

/// The disk in a LUKS volume.
pub struct Luks {
    file: Arc<Node>,
    volume: Volume,
    /// Not with `no_data`.
    cipher: Option<Cipher>,
    payload: u64,
    partial: async_lock::Mutex<()>,
}

impl Luks {
    /// Opens a volume with a password; without one only what the header says is known.
    pub async fn open(file: Arc<Node>, password: Option<&[u8]>) -> Result<Self> {
        let volume = Volume::load(file.clone(), 0, file.len()?).await?;
        let cipher = match password {
            Some(password) => Some(volume.unlock(password).await?),
            None => None,
        };
        let payload = u64::from(volume.header().payload) * SECTOR;
        Ok(Self { file, volume, cipher, payload, partial: async_lock::Mutex::new(()) })
    }

    fn cipher(&self) -> Result<&Cipher> {
        self.cipher.as_ref().ok_or_else(|| Error::from_errno(libc::EACCES))
    }

    async fn read_plain(&self, at: u64, into: Vector) -> Result<()> {
        let lead = at % SECTOR;
        let len = (lead as usize + into.len()).next_multiple_of(SECTOR as usize);
        let mut bytes = self.file.read_bytes(self.payload + at - lead, len).await?;
        self.cipher()?.decrypt((at - lead) / SECTOR, &mut bytes)?;
        into.write(0, &bytes[lead as usize..]);
        Ok(())
    }

    async fn write_plain(&self, at: u64, from: Vector) -> Result<()> {
        let end = at + from.len() as u64;
        let (start, stop) = (at & !(SECTOR - 1), end.next_multiple_of(SECTOR));
        let _alone = match (start, stop) == (at, end) {
            true => None,
            false => Some(self.partial.lock().await),
        };
        let whole = Vector::zeroed((stop - start) as usize);
        if _alone.is_some() {
            self.read_plain(start, whole.clone()).await?;
        }
        whole.copy((at - start) as usize, &from);
        let mut bytes = whole.to_vec();
        self.cipher()?.encrypt(start / SECTOR, &mut bytes)?;
        self.file.write(self.payload + start, Vector::from(&bytes[..])).await
    }
}

impl Driver for Luks {
    fn name(&self) -> &'static str {
        "luks"
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.len()?.saturating_sub(self.payload))
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(self.read_plain(at, into))
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            if at.checked_add(from.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
                return Err(Error::from_errno(libc::EFBIG));
            }
            self.write_plain(at, from).await
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, _flags: ZeroFlags) -> Io<'_, ()> {
        // Zeroes on the disk would be noise to the guest.
        Box::pin(async move {
            let mut done = 0;
            while done < len {
                let now = (len - done).min(1 << 20);
                self.write_plain(at + done, Vector::zeroed(now as usize)).await?;
                done += now;
            }
            Ok(())
        })
    }

    fn discard(&self, _at: u64, _len: u64) -> Io<'_, ()> {
        // What is unused shall not be seen on the disk.
        Box::pin(std::future::ready(Ok(())))
    }

    fn flush(&self) -> Io<'_, ()> {
        self.file.flush()
    }

    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        Box::pin(async move {
            let whole = len.checked_add(self.payload).filter(|&whole| whole <= i64::MAX as u64);
            let too_big = || Error::new(libc::EFBIG, "The requested file size is too large");
            self.file.truncate(whole.ok_or_else(too_big)?, preallocation).await
        })
    }

    fn status(&self, _at: u64, len: u64) -> Io<'_, Extent> {
        let extent = Extent { len, data: true, allocated: true, ..Extent::default() };
        Box::pin(std::future::ready(Ok(extent)))
    }

    fn specific_info(&self) -> Option<Map<String, Value>> {
        Some(self.volume.info(None))
    }

    fn is_encrypted(&self) -> bool {
        true
    }

    fn keys(&self) -> Option<&Volume> {
        Some(&self.volume)
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        self.file.driver().allocated_size()
    }
}

/// Makes a volume of `size` bytes in an empty file.
pub async fn create(
    file: &Arc<Node>,
    options: &LuksOptions,
    password: &[u8],
    size: u64,
    preallocation: Preallocation,
) -> Result<()> {
    let volume = Volume::create(file.clone(), 0, options, password).await?;
    let payload = u64::from(volume.header().payload) * SECTOR;
    let whole = payload.checked_add(size).filter(|&whole| whole <= i64::MAX as u64);
    let too_big = || Error::new(libc::EFBIG, "The requested file size is too large");
    file.truncate(whole.ok_or_else(too_big)?, preallocation).await?;
    file.flush().await
}
