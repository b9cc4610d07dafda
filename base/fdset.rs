//! Sets of descriptors that management software passes in (`-add-fd`, QMP `add-fd`), to be opened
//! by the path `/dev/fdset/N`. A set holds copies with different access modes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use parking_lot::Mutex;
use thiserror::Error;

use crate::fd::{duplicate_inherited, file_flags};

/// All descriptor sets.
#[derive(Default)]
pub struct FdSets(Mutex<BTreeMap<i64, Vec<Entry>>>);

struct Entry {
    fd: OwnedFd,
    opaque: Option<String>,
}

/// A descriptor in a set, as `query-fdsets` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdInfo {
    /// Its number in this process.
    pub fd: RawFd,
    /// Text that came with it.
    pub opaque: Option<String>,
}

/// Why a set cannot be changed.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)] // The messages are the documentation.
pub enum FdSetError {
    #[error("fd option is required and must be non-negative")]
    NoFd,
    #[error("fd cannot be a standard I/O stream")]
    StandardStream,
    #[error("set option is required and must be non-negative")]
    NoSet,
    #[error("fd is not valid or already in use")]
    BadFd,
    #[error("Parameter 'fdset-id' expects a non-negative value")]
    NegativeSet,
    #[error("File descriptor named '{0}' not found")]
    NotFound(String),
}

impl FdSets {
    /// `-add-fd`: copies a descriptor that this process inherited.
    pub fn add_inherited(
        &self,
        set: Option<i64>,
        fd: Option<RawFd>,
        opaque: Option<String>,
    ) -> Result<(), FdSetError> {
        let fd = fd.filter(|&fd| fd >= 0).ok_or(FdSetError::NoFd)?;
        if fd <= libc::STDERR_FILENO {
            return Err(FdSetError::StandardStream);
        }
        let set = set.filter(|&set| set >= 0).ok_or(FdSetError::NoSet)?;
        let fd = duplicate_inherited(fd).map_err(|_| FdSetError::BadFd)?;
        self.add(Some(set), fd, opaque)?;
        Ok(())
    }

    /// Adds a descriptor to a set, by default to a new one; returns the set and the number.
    pub fn add(
        &self,
        set: Option<i64>,
        fd: OwnedFd,
        opaque: Option<String>,
    ) -> Result<(i64, RawFd), FdSetError> {
        let mut sets = self.0.lock();
        let set = match set {
            Some(set) if set < 0 => return Err(FdSetError::NegativeSet),
            Some(set) => set,
            // The smallest that is free: `zip` ends at the first gap.
            None => (0..).zip(sets.keys()).take_while(|(n, set)| n == *set).count() as i64,
        };
        let number = fd.as_raw_fd();
        sets.entry(set).or_default().push(Entry { fd, opaque });
        Ok((set, number))
    }

    /// Removes one descriptor of a set, or all. What has been opened stays open.
    pub fn remove(&self, set: i64, fd: Option<RawFd>) -> Result<(), FdSetError> {
        let mut sets = self.0.lock();
        let name = || match fd {
            Some(fd) => format!("fdset-id:{set}, fd:{fd}"),
            None => format!("fdset-id:{set}"),
        };
        let entries = sets.get_mut(&set).ok_or_else(|| FdSetError::NotFound(name()))?;
        let before = entries.len();
        entries.retain(|entry| fd.is_some_and(|fd| fd != entry.fd.as_raw_fd()));
        if entries.len() == before {
            return Err(FdSetError::NotFound(name()));
        }
        if entries.is_empty() {
            sets.remove(&set);
        }
        Ok(())
    }

    /// All sets.
    pub fn query(&self) -> Vec<(i64, Vec<FdInfo>)> {
        let info = |e: &Entry| FdInfo { fd: e.fd.as_raw_fd(), opaque: e.opaque.clone() };
        let sets = self.0.lock();
        sets.iter().map(|(&set, entries)| (set, entries.iter().map(info).collect())).collect()
    }

    /// Opens a path, which may name a set. New files are readable and writable subject to the
    /// umask.
    pub fn open(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        match path.strip_prefix("/dev/fdset/") {
            Some(set) => {
                let set = set.parse().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
                self.open_member(set, flags & OFlag::O_ACCMODE)
            }
            None => {
                let mode = Mode::from_bits_truncate(0o666);
                Ok(open(path, flags | OFlag::O_CLOEXEC, mode)?)
            }
        }
    }

    fn open_member(&self, set: i64, access: OFlag) -> io::Result<OwnedFd> {
        let sets = self.0.lock();
        let entries = sets.get(&set).ok_or(io::Error::from_raw_os_error(libc::ENOENT))?;
        let fits = |entry: &&Entry| {
            file_flags(&entry.fd).is_ok_and(|flags| flags & OFlag::O_ACCMODE == access)
        };
        let entry = entries.iter().find(fits).ok_or(io::Error::from_raw_os_error(libc::EACCES))?;
        entry.fd.try_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null(flags: OFlag) -> OwnedFd {
        open("/dev/null", flags, Mode::empty()).unwrap()
    }

    #[test]
    fn the_member_with_the_right_access_mode_is_opened() {
        let sets = FdSets::default();
        let (set, read_only) = sets.add(None, null(OFlag::O_RDONLY), Some("ro".into())).unwrap();
        assert_eq!(set, 0);
        let path = "/dev/fdset/0";
        let denied = sets.open(path, OFlag::O_RDWR).unwrap_err();
        assert_eq!(denied.raw_os_error(), Some(libc::EACCES));
        sets.add(Some(0), null(OFlag::O_RDWR), None).unwrap();
        assert!(sets.open(path, OFlag::O_RDWR).is_ok());
        assert!(sets.open(path, OFlag::O_RDONLY).is_ok());
        sets.remove(0, Some(read_only)).unwrap();
        assert!(sets.open(path, OFlag::O_RDONLY).is_err());
        sets.remove(0, None).unwrap();
        assert!(sets.query().is_empty());
        assert_eq!(sets.open(path, OFlag::O_RDWR).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        let bad = sets.open("/dev/fdset/x", OFlag::O_RDWR).unwrap_err();
        assert_eq!(bad.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_new_set_takes_the_smallest_free_number() {
        let sets = FdSets::default();
        for set in [0, 1, 3] {
            sets.add(Some(set), null(OFlag::O_RDONLY), None).unwrap();
        }
        assert_eq!(sets.add(None, null(OFlag::O_RDONLY), None).unwrap().0, 2);
        assert_eq!(sets.add(None, null(OFlag::O_RDONLY), None).unwrap().0, 4);
    }

    #[test]
    fn mistakes_are_named() {
        let sets = FdSets::default();
        let add = |set, fd| sets.add_inherited(set, fd, None).unwrap_err();
        assert_eq!(add(Some(0), None), FdSetError::NoFd);
        assert_eq!(add(Some(0), Some(-1)), FdSetError::NoFd);
        assert_eq!(add(None, Some(1)), FdSetError::StandardStream);
        assert_eq!(add(None, Some(9999)), FdSetError::NoSet);
        assert_eq!(add(Some(1), Some(9999)), FdSetError::BadFd);
        assert_eq!(
            sets.remove(5, Some(3)).unwrap_err().to_string(),
            "File descriptor named 'fdset-id:5, fd:3' not found"
        );
    }
}
