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

/// Takes the locks of a claim on a file that has none yet.
pub(super) fn claim(file: &File, claim: Claim) -> Result<()> {
    // Reading disturbs nobody, so it is not announced; writing what is there already neither.
    let quiet = Permissions::CONSISTENT_READ.with(Permissions::WRITE_UNCHANGED);
    let withheld = Permissions::ALL.without(claim.shares).without(quiet);
    let bytes = (claim.needs.each().map(|(bit, _)| USED + bit))
        .chain(withheld.each().map(|(bit, _)| NOT_SHARED + bit));
    for byte in bytes {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, byte))) {
            // A file system without locks.
            Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => return Ok(()),
            result => result.map_err(|_| taken("shared", "read"))?,
        };
    }
    for (bit, name) in claim.needs.each() {
        test(file, NOT_SHARED + bit, "", name)?;
    }
    for (bit, name) in withheld.each() {
        test(file, USED + bit, "shared ", name)?;
    }
    Ok(())
}

fn test(file: &File, byte: usize, kind: &str, name: &str) -> Result<()> {
    let mut probe = range(libc::F_WRLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe))?;
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
