//! The log ([MS-VHDX] 2.3): sectors of metadata go there before they go to their places, so that a power
//! cut leaves the old ones or the new ones.

use std::collections::BTreeMap;

use super::super::bytes::{field, le32, le64, put, uuid};
use super::crc::crc32c;
use super::header::{Guid, Header, Region, refused};
use crate::Result;
use crate::driver::{Preallocation, ZeroFlags};
use crate::node::Node;
use crate::vector::Vector;

pub(super) const SECTOR: usize = 4096;
/// Of an entry, in front of its descriptors.
const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;
/// What one sector with the entry's header describes.
pub(super) const MOST_SECTORS: usize = (SECTOR - ENTRY_HEADER) / DESCRIPTOR;

/// Writes sectors of metadata: to the log, and from there to their places.
pub(super) async fn write(
    file: &Node,
    header: &mut Header,
    sectors: &[(u64, Vec<u8>)],
) -> Result<()> {
    for part in sectors.chunks(MOST_SECTORS) {
        let log = uuid()?;
        let bytes = entry(log, file.len()?, part);
        file.write(header.log_at, Vector::from(&bytes[..])).await?;
        file.flush().await?;
        // From here on it will happen, whoever opens the image next.
        header.log = log;
        header.write(file).await?;
        for (at, sector) in part {
            file.write(*at, Vector::from(&sector[..])).await?;
        }
        file.flush().await?;
        header.log = [0; 16];
        header.write(file).await?;
    }
    Ok(())
}

/// An entry, at the beginning of the log, which it has for itself.
fn entry(log: Guid, file_len: u64, sectors: &[(u64, Vec<u8>)]) -> Vec<u8> {
    const SEQUENCE: u64 = 1;
    let mut bytes = vec![0; SECTOR * (1 + sectors.len())];
    put(&mut bytes, 0, b"loge");
    let len = bytes.len() as u32;
    put(&mut bytes, 8, &len.to_le_bytes());
    put(&mut bytes, 16, &SEQUENCE.to_le_bytes());
    put(&mut bytes, 24, &(sectors.len() as u32).to_le_bytes());
    put(&mut bytes, 32, &log);
    put(&mut bytes, 48, &file_len.to_le_bytes());
    put(&mut bytes, 56, &file_len.to_le_bytes());
    for (index, (at, sector)) in sectors.iter().enumerate() {
        let descriptor = ENTRY_HEADER + index * DESCRIPTOR;
        put(&mut bytes, descriptor, b"desc");
        put(&mut bytes, descriptor + 4, &sector[SECTOR - 4..]);
        put(&mut bytes, descriptor + 8, &sector[..8]);
        put(&mut bytes, descriptor + 16, &at.to_le_bytes());
        put(&mut bytes, descriptor + 24, &SEQUENCE.to_le_bytes());
        let data = SECTOR * (1 + index);
        put(&mut bytes, data, b"data");
        put(&mut bytes, data + 4, &((SEQUENCE >> 32) as u32).to_le_bytes());
        put(&mut bytes, data + 8, &sector[8..SECTOR - 4]);
        put(&mut bytes, data + SECTOR - 4, &(SEQUENCE as u32).to_le_bytes());
    }
    let crc = crc32c(&bytes, 4);
    put(&mut bytes, 4, &crc.to_le_bytes());
    bytes
}

/// A whole entry in a log.
struct Found {
    at: u64,
    len: u64,
    tail: u64,
}

struct Log<'a> {
    file: &'a Node,
    region: Region,
    guid: Guid,
    /// Bytes that may still be read to look for entries: a log that makes us read more is no log.
    budget: u64,
}

impl Log<'_> {
    /// Reads a part of the log, which is a ring.
    async fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let first = (self.region.len - at).min(len as u64) as usize;
        let mut bytes = self.file.read_bytes(self.region.at + at, first).await?;
        bytes.extend(self.file.read_bytes(self.region.at, len - first).await?);
        Ok(bytes)
    }

    /// The entry at a place, if a whole one of this log is there: its sequence number, and its bytes.
    async fn entry(&mut self, at: u64) -> Result<Option<(u64, Vec<u8>)>> {
        let head = self.read(at, ENTRY_HEADER).await?;
        let len = u64::from(le32(&head, 8));
        let plausible = head.starts_with(b"loge")
            && field::<16>(&head, 32) == self.guid
            && len.is_multiple_of(SECTOR as u64)
            && (SECTOR as u64..=self.region.len).contains(&len)
            && u64::from(le32(&head, 12)) < self.region.len
            && le32(&head, 12).is_multiple_of(SECTOR as u32)
            && le64(&head, 16) > 0;
        if !plausible {
            return Ok(None);
        }
        let Some(left) = self.budget.checked_sub(len) else {
            return Err(refused(self.file, libc::EINVAL));
        };
        self.budget = left;
        let bytes = self.read(at, len as usize).await?;
        let sound = le32(&bytes, 4) == crc32c(&bytes, 4) && changes(&bytes).is_some();
        Ok(sound.then(|| (le64(&bytes, 16), bytes)))
    }

    /// The entries that are to be done again, oldest first: those from the tail that the newest one
    /// names.
    async fn active(&mut self) -> Result<Vec<Found>> {
        let mut all: BTreeMap<u64, Found> = BTreeMap::new();
        let mut at = 0;
        while at < self.region.len {
            let mut step = SECTOR as u64;
            if let Some((sequence, bytes)) = self.entry(at).await? {
                step = bytes.len() as u64;
                all.insert(sequence, Found { at, len: step, tail: le32(&bytes, 12).into() });
            }
            at += step;
        }
        let sequences: Vec<u64> = all.keys().copied().collect();
        for &newest in sequences.iter().rev() {
            let tail = all[&newest].tail;
            let mut first = newest;
            while all[&first].at != tail {
                let before =
                    first.checked_sub(1).and_then(|before| Some((before, all.get(&before)?)));
                match before {
                    Some((before, entry))
                        if (entry.at + entry.len) % self.region.len == all[&first].at =>
                    {
                        first = before;
                    }
                    _ => break,
                }
            }
            if all[&first].at == tail {
                let wanted = |sequence: &u64| (first..=newest).contains(sequence);
                return Ok(all.into_iter().filter(|(s, _)| wanted(s)).map(|(_, f)| f).collect());
            }
        }
        Ok(Vec::new())
    }
}

enum Change {
    Data { at: u64, sector: Vec<u8> },
    Zero { at: u64, len: u64 },
}

/// What an entry changes; nothing if it contradicts itself.
fn changes(bytes: &[u8]) -> Option<Vec<Change>> {
    let sequence = le64(bytes, 16);
    let count = le32(bytes, 24) as usize;
    let described = ENTRY_HEADER.checked_add(count.checked_mul(DESCRIPTOR)?)?;
    let mut data = described.next_multiple_of(SECTOR);
    if data > bytes.len() {
        return None;
    }
    let mut changes = Vec::new();
    for descriptor in bytes[ENTRY_HEADER..described].chunks_exact(DESCRIPTOR) {
        let at = le64(descriptor, 16);
        if le64(descriptor, 24) != sequence || !at.is_multiple_of(SECTOR as u64) {
            return None;
        }
        match &descriptor[..4] {
            b"zero" => changes.push(Change::Zero { at, len: le64(descriptor, 8) }),
            b"desc" => {
                let stored = bytes.get(data..data + SECTOR)?;
                let high = u64::from(le32(stored, 4)) << 32;
                if !stored.starts_with(b"data")
                    || high | u64::from(le32(stored, SECTOR - 4)) != sequence
                {
                    return None;
                }
                let mut sector = stored.to_vec();
                put(&mut sector, 0, &descriptor[8..16]);
                put(&mut sector, SECTOR - 4, &descriptor[4..8]);
                changes.push(Change::Data { at, sector });
                data += SECTOR;
            }
            _ => return None,
        }
    }
    Some(changes)
}

/// Does again what the log holds, if it holds anything; returns whether it did. `writable`: else this
/// is refused.
pub(super) async fn replay(file: &Node, header: &mut Header, writable: bool) -> Result<bool> {
    if header.log == [0; 16] {
        return Ok(false);
    }
    let region = Region { at: header.log_at, len: header.log_len };
    let mut log = Log { file, region, guid: header.log, budget: region.len.saturating_mul(4) };
    let active = log.active().await?;
    if active.is_empty() {
        return Ok(false);
    }
    if !writable {
        let name = file.filename();
        return Err(crate::Error::new(
            libc::EPERM,
            format!(
                "VHDX image file '{name}' opened read-only, but contains a log that needs to be \
                 replayed\nTo replay the log, run:\nqemu-img check -r all '{name}'"
            ),
        ));
    }
    let mut end = 0;
    for found in active {
        let bytes = log.read(found.at, found.len as usize).await?;
        if le64(&bytes, 48) > file.len()? {
            // Something that was there has been cut off.
            return Err(refused(file, libc::EINVAL));
        }
        end = end.max(le64(&bytes, 56));
        for change in changes(&bytes).unwrap_or_default() {
            apply(file, change, end).await?;
        }
    }
    if end > file.len()? && end <= i64::MAX as u64 {
        file.truncate(end, Preallocation::Off).await?;
    }
    file.flush().await?;
    header.log = [0; 16];
    header.write(file).await?;
    Ok(true)
}

/// Changes what is inside the file as the entry knew it.
async fn apply(file: &Node, change: Change, end: u64) -> Result<()> {
    let (at, len) = match &change {
        Change::Data { at, sector } => (*at, sector.len() as u64),
        Change::Zero { at, len } => (*at, *len),
    };
    if at.checked_add(len).is_none_or(|to| to > end) {
        return Err(refused(file, libc::EINVAL));
    }
    match change {
        Change::Data { at, sector } => file.write(at, Vector::from(&sector[..])).await,
        Change::Zero { at, len } => file.write_zeroes(at, len, ZeroFlags::default()).await,
    }
}
