//! Locks between programs, byte by byte as QEMU 10 takes them (seen in its system calls).
//!
//! Byte 100+n is read-locked by who uses permission n, byte 200+n by who does not share it; n: 0
//! consistent read, 1 write, 2 write unchanged, 3 resize. Having locked, a program tests for a
//! conflict: somebody at 200+n for each permission it uses, somebody at 100+n for each it does not
//! share. They are locks of the open file (OFD), so they end with it.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::node::{Claim, Permissions};
use crate::{Error, Result};

const USED: usize = 100;
const NOT_SHARED: usize = 200;

fn range(kind: i32, byte: usize) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as i64,
        l_len: 1,
        l_pid: 0,
    }
}

/// The bytes that a claim locks.
fn bytes(claim: Claim) -> (Permissions, Permissions) {
    // Reading disturbs nobody, so nobody minds it; writing what is there already neither.
    let quiet = Permissions::CONSISTENT_READ.with(Permissions::WRITE_UNCHANGED);
    (claim.needs, Permissions::ALL.without(claim.shares).without(quiet))
}

fn set(file: &File, kind: i32, byte: usize) -> nix::Result<()> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, byte))) {
        // A file system without locks.
        Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => Ok(()),
        result => result.map(drop),
    }
}

/// Exchanges the locks of a claim for those of another. On failure the old ones are held.
pub(super) fn change(file: &File, before: Claim, after: Claim) -> Result<()> {
    let ((used_before, held_before), (used, held)) = (bytes(before), bytes(after));
    let (uses, holds) = (used.without(used_before), held.without(held_before));
    let taken = take(file, uses, holds);
    let (uses, holds) = match taken {
        Ok(()) => (used_before.without(used), held_before.without(held)),
        Err(_) => (uses, holds),
    };
    for (bit, _) in uses.each() {
        let _ = set(file, libc::F_UNLCK, USED + bit);
    }
    for (bit, _) in holds.each() {
        let _ = set(file, libc::F_UNLCK, NOT_SHARED + bit);
    }
    taken
}

fn take(file: &File, uses: Permissions, holds: Permissions) -> Result<()> {
    let used = uses.each().map(|(bit, _)| USED + bit);
    for byte in used.chain(holds.each().map(|(bit, _)| NOT_SHARED + bit)) {
        set(file, libc::F_RDLCK, byte).map_err(|_| taken("shared", "read"))?;
    }
    for (bit, name) in uses.each() {
        test(file, NOT_SHARED + bit, "", name)?;
    }
    for (bit, name) in holds.each() {
        test(file, USED + bit, "shared ", name)?;
    }
    Ok(())
}

fn test(file: &File, byte: usize, kind: &str, name: &str) -> Result<()> {
    let mut probe = range(libc::F_WRLCK, byte);
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)) {
        Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => return Ok(()),
        result => result?,
    };
    if i32::from(probe.l_type) == libc::F_UNLCK { Ok(()) } else { Err(taken(kind, name)) }
}

fn taken(kind: &str, name: &str) -> Error {
    Error::new(libc::EAGAIN, format!("Failed to get {kind}\"{name}\" lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_exclude_each_other_and_readers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let claim = |file: &File, claim| change(file, Claim::HOLDER, claim);
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let writer = open();
        claim(&writer, Claim::WRITER).unwrap();
        let error = claim(&open(), Claim::WRITER).unwrap_err();
        assert_eq!(error.to_string(), "Failed to get \"write\" lock");
        let error = claim(&open(), Claim::READER).unwrap_err();
        assert_eq!(error.to_string(), "Failed to get shared \"write\" lock");
        claim(&open(), Claim::ONLOOKER).unwrap();
        drop(writer);
        let (one, two) = (open(), open());
        claim(&one, Claim::READER).unwrap();
        claim(&two, Claim::READER).unwrap();
        assert!(claim(&open(), Claim::WRITER).is_err());
    }
}
