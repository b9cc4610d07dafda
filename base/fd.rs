//! Descriptors: those that come from outside, by number on the command line or through a socket,
//! and their flags.
#![allow(unsafe_code)] // A number becomes an owned descriptor here, and only here.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// As many descriptors as are taken from one message; the kernel allows no more than 253.
const MAX_FDS_PER_MESSAGE: usize = 16;

/// A copy of a descriptor that this process inherited under a number. The inherited one stays open,
/// as it may be named again.
pub fn duplicate_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC touches no memory, and checks the number itself. The third argument
    // keeps the copy clear of stdin, stdout and stderr.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The flags of an open file, access mode included.
pub fn file_flags(fd: impl AsFd) -> io::Result<OFlag> {
    Ok(OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?))
}

/// Makes reads and writes return instead of waiting. This concerns everybody who shares the open
/// file. Returns the flags that were set before.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<OFlag> {
    let before = file_flags(&fd)?;
    set_file_flags(fd, before | OFlag::O_NONBLOCK)?;
    Ok(before)
}

/// Sets the flags of an open file.
pub fn set_file_flags(fd: impl AsFd, flags: OFlag) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// Reads from a unix socket, together with descriptors that the peer passes (SCM_RIGHTS).
pub fn receive_with_fds(
    socket: &UnixStream,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS_PER_MESSAGE]);
    let mut slices = [IoSliceMut::new(buffer)];
    let fd = socket.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(fd, &mut slices, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    // A truncated control message makes the kernel drop the surplus; what arrived is ours.
    for control in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just installed these descriptors for us with this message.
            fds.extend(numbers.into_iter().map(|n| unsafe { OwnedFd::from_raw_fd(n) }));
        }
    }
    Ok((message.bytes, fds))
}
