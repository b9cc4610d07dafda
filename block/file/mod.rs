//! The `file` protocol: a file of the host.

mod direct;
mod lock;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Whence;
use parking_lot::{Mutex, RwLock};
use serde_json::Map;

use direct::Direct;

use crate::driver::{Change, Driver, Extent, Io, Preallocation, Reopening, ZeroFlags};
use crate::engine::{HostIo, HostOp};
use crate::node::Claim;
use crate::options::Options;
use crate::vector::Vector;
use crate::{Error, Result};

/// A write beyond a limit of the size of files is an error like any other, and does not end the program.
/// To be called before there are other threads.
pub fn outlive_size_limits() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // The mask is a valid one: this cannot fail.
    let _ = signals.thread_block();
}

/// What a file of the host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// A regular file.
    File,
    /// A device.
    Device,
    /// A CD-ROM drive.
    Cdrom,
}

impl HostKind {
    /// The kind of a driver's name.
    pub fn of(driver: &str) -> Self {
        match driver {
            "host_device" => Self::Device,
            "host_cdrom" => Self::Cdrom,
            _ => Self::File,
        }
    }

    /// What there is under a name.
    pub fn at(path: &str) -> Self {
        match std::fs::metadata(path).map(|metadata| metadata.file_type()) {
            Ok(found) if !found.is_block_device() && !found.is_char_device() => Self::File,
            Ok(_) if ["/dev/cd", "/dev/sr"].iter().any(|drive| path.starts_with(drive)) => {
                Self::Cdrom
            }
            Ok(_) => Self::Device,
            Err(_) => Self::File,
        }
    }

    /// The driver's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Device => "host_device",
            Self::Cdrom => "host_cdrom",
        }
    }

    fn wrong(self, path: &str) -> Error {
        let wanted = match self {
            Self::File => "a regular file",
            Self::Device | Self::Cdrom => "either a character or block device",
        };
        Error::invalid(format!("'{}' driver requires '{path}' to be {wanted}", self.name()))
    }
}

/// A file of the host, and how to reach it.
pub struct HostFile {
    kind: HostKind,
    open: RwLock<Open>,
    path: String,
    io: Arc<dyn HostIo>,
    locking: bool,
    locked: Mutex<Claim>,
}

/// The file, as it is open at present.
#[derive(Clone)]
struct Open {
    file: Arc<File>,
    read_only: bool,
    /// Past the host's cache.
    direct: Option<Arc<Direct>>,
}

impl Open {
    fn new(file: File, access: Access) -> Self {
        let direct = access.direct.then(|| Arc::new(Direct::of(&file)));
        Self { file: Arc::new(file), read_only: access.read_only, direct }
    }
}

/// What a file of the host is opened for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access {
    /// Nobody writes.
    pub read_only: bool,
    /// It is made if it is not there; an old one is emptied only later, when it is locked.
    pub create: bool,
    /// Reads and writes go past the host's cache.
    pub direct: bool,
}

impl Access {
    fn options(self, kind: HostKind) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(!self.read_only).create(self.create).truncate(false).mode(0o644);
        // A drive may have no disc.
        let cdrom = if kind == HostKind::Cdrom { libc::O_NONBLOCK } else { 0 };
        options.custom_flags(cdrom | if self.direct { libc::O_DIRECT } else { 0 });
        options
    }
}

impl HostFile {
    /// Opens what is there.
    pub fn open(path: &str, access: Access, io: Arc<dyn HostIo>) -> Result<Self> {
        Self::open_as(HostKind::at(path), path, access, io)
    }

    /// Opens what must be of a kind.
    pub fn open_as(
        kind: HostKind,
        path: &str,
        access: Access,
        io: Arc<dyn HostIo>,
    ) -> Result<Self> {
        let Access { create, direct, .. } = access;
        let verb = if create { "create" } else { "open" };
        let fail = |error| Error::from(error).context(format_args!("Could not {verb} '{path}'"));
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            return Err(kind.wrong(path));
        }
        let file = match access.options(kind).open(path) {
            Err(error) if direct && error.raw_os_error() == Some(libc::EINVAL) => {
                let text = format!("Could not open '{path}': filesystem does not support O_DIRECT");
                return Err(Error::invalid(text));
            }
            opened => opened.map_err(fail)?,
        };
        let found = file.metadata()?.file_type();
        let is_device = found.is_block_device() || found.is_char_device();
        if is_device != (kind != HostKind::File) {
            return Err(kind.wrong(path));
        }
        Ok(Self {
            kind,
            open: RwLock::new(Open::new(file, access)),
            path: path.to_owned(),
            io,
            locking: true,
            locked: Mutex::new(Claim::HOLDER),
        })
    }

    /// Excludes other programs, as far as the claim says; the lock ends with the last user of the file.
    pub fn lock(&self, claim: Claim) -> Result<()> {
        let mut locked = self.locked.lock();
        if *locked == claim || !self.locking {
            return Ok(());
        }
        lock::change(&self.file(), *locked, claim).map_err(|error| {
            let text = format!("{error}\nIs another process using the image [{}]?", self.path);
            Error::new(error.errno(), text)
        })?;
        *locked = claim;
        Ok(())
    }

    /// Leaves locks alone (`locking=off`).
    pub fn without_locks(mut self) -> Self {
        self.locking = false;
        self
    }

    fn file(&self) -> Arc<File> {
        self.open.read().file.clone()
    }

    fn direct(&self) -> Option<Arc<Direct>> {
        self.open.read().direct.clone()
    }

    /// The same file once more, for another use.
    fn again(&self, access: Access) -> Result<Open> {
        // Whatever has its name now.
        let path = format!("/proc/self/fd/{}", self.file().as_raw_fd());
        let fail = |error: std::io::Error| Error::from(error).context("Could not reopen file");
        let file = access.options(self.kind).open(path).map_err(fail)?;
        Ok(Open::new(file, access))
    }

    /// Locks go with the open file, so the new one takes over.
    fn exchange(&self, new: Open) -> Result<()> {
        let claim = std::mem::replace(&mut *self.locked.lock(), Claim::HOLDER);
        if self.locking {
            lock::change(&self.file(), claim, Claim::HOLDER)?;
        }
        let old = std::mem::replace(&mut *self.open.write(), new);
        let locked = self.lock(claim);
        if locked.is_err() {
            *self.open.write() = old;
            self.lock(claim)?;
        }
        locked
    }

    fn submit(&self, op: HostOp) -> Io<'_, ()> {
        self.io.submit(self.file(), op)
    }

    /// A new length; what is added is written as zeroes, so that it has its place on any disk.
    async fn write_to_length(&self, len: u64) -> Result<()> {
        const PIECE: u64 = 1 << 20;
        let mut at = self.file().metadata()?.len();
        self.submit(HostOp::Truncate { len, allocate: false }).await?;
        let zeroes = Vector::aligned(PIECE as usize);
        while at < len {
            // To the next whole piece first.
            let now = (PIECE - at % PIECE).min(len - at);
            self.write(at, zeroes.slice(0, now as usize)).await?;
            at += now;
        }
        self.submit(HostOp::Sync).await
    }

    /// Where the next data or the next hole is.
    fn seek(&self, at: u64, whence: Whence) -> Result<Option<u64>> {
        let at = i64::try_from(at).map_err(|_| Error::from_errno(libc::EFBIG))?;
        match nix::unistd::lseek(self.file().as_fd(), at, whence) {
            Ok(found) => Ok(u64::try_from(found).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn find_extent(&self, at: u64, len: u64) -> Result<Extent> {
        let end = at.saturating_add(len);
        let data = self.seek(at, Whence::SeekData)?.unwrap_or(end);
        let (hole, until) = if data > at {
            (true, data)
        } else {
            (false, self.seek(at, Whence::SeekHole)?.unwrap_or(end))
        };
        Ok(Extent {
            len: until.min(end) - at,
            data: !hole,
            zero: hole,
            allocated: true,
            offset: Some(at),
            ..Extent::default()
        })
    }
}

impl Driver for HostFile {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn len(&self) -> Result<u64> {
        let metadata = self.file().metadata()?;
        if metadata.file_type().is_file() {
            // Disks have whole sectors; behind the end of the file there are zeroes.
            return Ok(metadata.len().next_multiple_of(512));
        }
        // Of a block device, only its end tells the length.
        let end = nix::unistd::lseek(self.file().as_fd(), 0, Whence::SeekEnd)?;
        u64::try_from(end).map_err(|_| Error::from_errno(libc::EINVAL))
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        match self.direct() {
            Some(direct) => Box::pin(async move { direct.read(self, at, into).await }),
            None => self.submit(HostOp::Read { at, into, cached: true }),
        }
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        match self.direct() {
            Some(direct) => Box::pin(async move { direct.write(self, at, from).await }),
            None => {
                let in_turn = self.kind == HostKind::File;
                self.submit(HostOp::Write { at, from, in_turn })
            }
        }
    }

    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        self.submit(HostOp::Zero { at, len, unmap: flags.unmap })
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        self.submit(HostOp::Zero { at, len, unmap: true })
    }

    fn keeps_changes(&self) -> bool {
        false
    }

    fn flush(&self) -> Io<'_, ()> {
        self.submit(HostOp::Sync)
    }

    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        if preallocation == Preallocation::Full {
            return Box::pin(self.write_to_length(len));
        }
        let allocate = preallocation == Preallocation::Falloc;
        self.submit(HostOp::Truncate { len, allocate })
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(std::future::ready(self.find_extent(at, len)))
    }

    fn set_claim(&self, claim: Claim) -> Result<()> {
        self.lock(claim)
    }

    fn set_writable(&self, writable: bool) -> Io<'_, ()> {
        let direct = self.direct().is_some();
        let new = self.again(Access { read_only: !writable, create: false, direct });
        Box::pin(std::future::ready(new.and_then(|new| self.exchange(new))))
    }

    fn prepare(&self, _: &mut Options, around: &Reopening<'_>) -> Result<Change<'_>> {
        let Open { read_only, direct, .. } = self.open.read().clone();
        if direct.is_some() == around.direct {
            return Ok(Box::new(|| Box::pin(std::future::ready(Ok(())))));
        }
        // So that it is known now whether that can be done.
        self.again(Access { read_only, create: false, direct: around.direct })?;
        Ok(Box::new(move || {
            // It may have become writable meanwhile.
            let read_only = self.open.read().read_only;
            let new = self.again(Access { read_only, create: false, direct: direct.is_none() });
            Box::pin(std::future::ready(new.and_then(|new| self.exchange(new))))
        }))
    }

    fn specific_info(&self) -> Option<Map<String, serde_json::Value>> {
        Some(Map::new())
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        Ok(Some(self.file().metadata()?.blocks() * 512))
    }
}
