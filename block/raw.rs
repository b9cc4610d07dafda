//! The `raw` format: the file as it is, or a window of it (`offset`, `size`).

use std::sync::Arc;

use parking_lot::RwLock;

use crate::driver::{Change, Driver, Extent, Io, Preallocation, Reopening, ZeroFlags};
use crate::node::{Claim, Node, Permissions, Role};
use crate::options::Options;
use crate::vector::Vector;
use crate::{Error, Result};

/// A window of a file.
pub struct Raw {
    name: &'static str,
    file: Arc<Node>,
    window: RwLock<Window>,
    guessed: bool,
}

/// What of the file it is.
#[derive(Clone, Copy)]
struct Window {
    offset: u64,
    /// To the end of the file, if there is none.
    size: Option<u64>,
}

impl Window {
    fn new(file: &Node, offset: u64, size: Option<u64>) -> Result<Self> {
        let room = file.len()?;
        if offset > room {
            return Err(Error::invalid(format!(
                "Offset ({offset}) cannot be greater than size of the containing file ({room})"
            )));
        }
        if let Some(size) = size
            && size > room - offset
        {
            return Err(Error::invalid(format!(
                "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  \
                 actual size of the containing file ({room})"
            )));
        }
        if size.is_some_and(|size| size % 512 != 0) {
            return Err(Error::invalid("Specified size is not multiple of 512"));
        }
        Ok(Self { offset, size })
    }
}

/// What a format is recognised by.
const PROBED: u64 = 512;

impl Raw {
    /// The whole file, or what begins at `offset` and is `size` long.
    pub fn new(file: Arc<Node>, offset: u64, size: Option<u64>) -> Result<Self> {
        Self::named("raw", file, offset, size)
    }

    /// The same for another format that keeps its disk in one piece.
    pub fn named(
        name: &'static str,
        file: Arc<Node>,
        offset: u64,
        size: Option<u64>,
    ) -> Result<Self> {
        let window = RwLock::new(Window::new(&file, offset, size)?);
        Ok(Self { name, file, window, guessed: false })
    }

    fn window(&self) -> Window {
        *self.window.read()
    }

    /// Nobody said that it is raw: it shall not become an image of another format, whose backing file
    /// could be any file of the host.
    pub fn guessed(self) -> Self {
        Self { guessed: true, ..self }
    }

    async fn check_front(&self, at: u64, from: &Vector) -> Result<()> {
        if !self.guessed || at >= PROBED || from.is_empty() {
            return Ok(());
        }
        let len = self.len()?.min(PROBED) as usize;
        let front = Vector::zeroed(len);
        self.file.driver().read(self.window().offset, front.clone()).await?;
        let part = from.slice(0, len.saturating_sub(at as usize));
        front.copy(at as usize, &part);
        match crate::format::probe_bytes(&front.to_vec()) {
            "raw" => Ok(()),
            _ => Err(Error::from_errno(libc::EPERM)),
        }
    }

    fn place(&self, at: u64, len: u64) -> Result<u64> {
        let Window { offset, size } = self.window();
        let end = at.checked_add(len).ok_or_else(|| Error::from_errno(libc::EINVAL))?;
        if size.is_some_and(|size| end > size) {
            return Err(Error::from_errno(libc::ENOSPC));
        }
        at.checked_add(offset).ok_or_else(|| Error::from_errno(libc::EINVAL))
    }
}

impl Driver for Raw {
    fn name(&self) -> &'static str {
        self.name
    }

    fn len(&self) -> Result<u64> {
        let Window { offset, size } = self.window();
        Ok(match size {
            Some(size) => size,
            None => self.file.len()?.saturating_sub(offset),
        })
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            let at = self.place(at, into.len() as u64)?;
            self.file.event("read_aio").await;
            self.file.driver().read(at, into).await
        })
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(async move {
            let place = self.place(at, from.len() as u64)?;
            self.check_front(at, &from).await?;
            self.file.event("write_aio").await;
            self.file.write(place, from).await
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(async move { self.file.write_zeroes(self.place(at, len)?, len, flags).await })
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        Box::pin(async move { self.file.discard(self.place(at, len)?, len).await })
    }

    fn flush(&self) -> Io<'_, ()> {
        Box::pin(async move {
            self.file.event("flush_to_os").await;
            self.file.event("flush_to_disk").await;
            self.file.flush().await
        })
    }

    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        Box::pin(async move {
            if self.window().size.is_some() {
                return Err(Error::unsupported("Cannot resize fixed-size raw disks"));
            }
            if preallocation == Preallocation::Metadata {
                return Err(Error::unsupported("Unsupported preallocation mode: metadata"));
            }
            self.file.truncate(self.place(len, 0)?, preallocation).await
        })
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(async move { self.file.driver().status(self.place(at, len)?, len).await })
    }

    fn changeable(&self) -> &'static [&'static str] {
        &["offset", "size"]
    }

    fn prepare(&self, options: &mut Options, _: &Reopening<'_>) -> Result<Change<'_>> {
        let (offset, size) = (options.size("offset")?.unwrap_or(0), options.size("size")?);
        let window = Window::new(&self.file, offset, size)?;
        Ok(Box::new(move || {
            *self.window.write() = window;
            Box::pin(std::future::ready(Ok(())))
        }))
    }

    /// It has nothing of its own in the file.
    fn child_claim(&self, _: Role, above: Claim, _: bool) -> Claim {
        match self.window().size {
            // A window does not move the end.
            Some(_) => Claim { needs: above.needs.without(Permissions::RESIZE), ..above },
            None => above,
        }
    }

    fn cluster_size(&self) -> Option<u64> {
        self.file.driver().cluster_size()
    }

    fn tells_state(&self) -> bool {
        self.file.driver().tells_state()
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        self.file.driver().allocated_size()
    }
}
