//! The filter `preallocate`: a file that grows gets more room than it needs at once, so that a file
//! system on slow storage is not asked for each piece. What was not used is given back in the end.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::driver::{Driver, Extent, Io, Preallocation, ZeroFlags};
use crate::engine::block_on;
use crate::format::Opening;
use crate::node::{Claim, Node, Permissions, Role};
use crate::open::Builder;
use crate::vector::Vector;
use crate::{Error, Result};

/// The filter.
struct Preallocate {
    file: Arc<Node>,
    align: u64,
    size: u64,
    /// Held by who makes room.
    growing: async_lock::Mutex<()>,
    /// Unknown until somebody has written: the file's length counts.
    ends: Mutex<Option<Ends>>,
}

#[derive(Clone, Copy)]
struct Ends {
    /// What users see as the file's length.
    data: u64,
    /// The file's length.
    room: u64,
}

/// Opens the filter.
pub fn open<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        let align = builder.options.size("prealloc-align")?.unwrap_or(1 << 20);
        if align == 0 || !align.is_multiple_of(512) {
            let text = "prealloc-align parameter of preallocate filter is not aligned to 512";
            return Err(Error::invalid(text));
        }
        let size = builder.options.size("prealloc-size")?.unwrap_or(128 << 20);
        let (growing, ends) = Default::default();
        Ok(Box::new(Preallocate { file, align, size, growing, ends }) as Box<dyn Driver>)
    })
}

impl Preallocate {
    fn ends(&self) -> Result<Ends> {
        let mut ends = self.ends.lock();
        match *ends {
            Some(known) => Ok(known),
            None => {
                let len = self.file.len()?;
                Ok(*ends.insert(Ends { data: len, room: len }))
            }
        }
    }

    fn set(&self, change: impl FnOnce(&mut Ends)) {
        if let Some(ends) = &mut *self.ends.lock() {
            change(ends);
        }
    }

    /// Something goes up to here: there is room, and more.
    async fn make_room(&self, end: u64) -> Result<()> {
        if self.ends()?.data >= end {
            return Ok(());
        }
        let _alone = self.growing.lock().await;
        let room = self.ends()?.room;
        if end > room {
            let wanted = end.saturating_add(self.size).checked_next_multiple_of(self.align);
            let wanted = wanted.filter(|&wanted| wanted <= i64::MAX as u64);
            let wanted = wanted.ok_or_else(|| Error::from_errno(libc::EFBIG))?;
            // Where that does not work the file grows as it is written.
            let flags = ZeroFlags::default();
            if self.file.write_zeroes(room, wanted - room, flags).await.is_ok() {
                self.set(|ends| ends.room = wanted);
            }
        }
        self.set(|ends| {
            ends.data = ends.data.max(end);
            ends.room = ends.room.max(end);
        });
        Ok(())
    }

    /// Gives back what was not used.
    async fn trim(&self) -> Result<()> {
        let Some(ends) = *self.ends.lock() else { return Ok(()) };
        if ends.room > ends.data {
            self.file.truncate(ends.data, Preallocation::Off).await?;
            self.set(|ends| ends.room = ends.data);
        }
        Ok(())
    }
}

impl Drop for Preallocate {
    fn drop(&mut self) {
        // Nobody is left who could be told of an error.
        let _ = block_on(self.trim());
    }
}

impl Driver for Preallocate {
    fn name(&self) -> &'static str {
        "preallocate"
    }

    fn len(&self) -> Result<u64> {
        match *self.ends.lock() {
            Some(ends) => Ok(ends.data),
            None => self.file.len(),
        }
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        self.file.driver().read(at, into)
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            self.make_room(at.saturating_add(from.len() as u64)).await?;
            self.file.write(at, from).await
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(async move {
            self.make_room(at.saturating_add(len)).await?;
            self.file.write_zeroes(at, len, flags).await
        })
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        self.file.discard(at, len)
    }

    fn flush(&self) -> Io<'_, ()> {
        self.file.flush()
    }

    fn close(&self) -> Io<'_, ()> {
        Box::pin(async move {
            self.trim().await?;
            self.file.close().await
        })
    }

    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        Box::pin(async move {
            self.trim().await?;
            self.file.truncate(len, preallocation).await?;
            *self.ends.lock() = None;
            Ok(())
        })
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        self.file.driver().status(at, len)
    }

    fn cluster_size(&self) -> Option<u64> {
        self.file.driver().cluster_size()
    }

    /// Who writes makes the file longer.
    fn child_claim(&self, _: Role, above: Claim, _: bool) -> Claim {
        let writes = above.needs.contains(Permissions::WRITE);
        let more = if writes { Permissions::RESIZE } else { Permissions::NONE };
        Claim { needs: above.needs.with(more), ..above }
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        self.file.driver().allocated_size()
    }
}
