//! A disk in memory, to put images on.

use block::driver::{Driver, Extent, Io, Preallocation, ZeroFlags};
use block::vector::Vector;
use block::{Error, Result};
use parking_lot::Mutex;

/// It does not grow beyond this: what an image wants more is refused.
const LARGEST: u64 = 8 << 20;

/// The disk.
pub struct Memory(Mutex<Vec<u8>>);

fn ready<'a, T: Send + 'a>(result: Result<T>) -> Io<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Memory {
    /// A disk that holds these bytes.
    pub fn holding(bytes: &[u8]) -> Self {
        Self(Mutex::new(bytes.to_vec()))
    }

    fn set(&self, at: u64, len: u64, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let end = at.checked_add(len).filter(|&end| end <= LARGEST);
        let end = end.ok_or_else(|| Error::new(27, "File too large"))? as usize;
        let mut bytes = self.0.lock();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        fill(&mut bytes[at as usize..end]);
        Ok(())
    }
}

impl Driver for Memory {
    fn name(&self) -> &'static str {
        "file"
    }

    fn len(&self) -> Result<u64> {
        Ok(self.0.lock().len().next_multiple_of(512) as u64)
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        into.fill(0);
        let bytes = self.0.lock();
        let from = (at as usize).min(bytes.len());
        let to = from.saturating_add(into.len()).min(bytes.len());
        into.write(0, &bytes[from..to]);
        ready(Ok(()))
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        let new = from.to_vec();
        ready(self.set(at, new.len() as u64, |bytes| bytes.copy_from_slice(&new)))
    }

    fn write_zeroes(&self, at: u64, len: u64, _: ZeroFlags) -> Io<'_, ()> {
        ready(self.set(at, len, |bytes| bytes.fill(0)))
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        ready(self.set(at, len, |bytes| bytes.fill(0)))
    }

    fn flush(&self) -> Io<'_, ()> {
        ready(Ok(()))
    }

    fn truncate(&self, len: u64, _: Preallocation) -> Io<'_, ()> {
        if len <= LARGEST {
            self.0.lock().resize(len as usize, 0);
        }
        ready(Ok(()))
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        let extent =
            Extent { len, data: true, allocated: true, offset: Some(at), ..Extent::default() };
        ready(Ok(extent))
    }
}
