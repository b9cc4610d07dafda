//! Ethernet frames on their way.
//!
//! Unsafe: a frame's bytes may be guest memory, which the guest may change at any time. So parts are
//! pointers, never slices, and are read by copies in here or by the kernel.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};

use base::memory::RamPiece;
use nix::sys::socket::SockaddrLike;

use crate::Offload;

/// A part of a frame: bytes that stay where they are during the life `'a`, but may change.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Part<'a>(libc::iovec, PhantomData<&'a [u8]>);

// SAFETY: a part gives read access only, by copies, to memory that lives for 'a.
unsafe impl Send for Part<'_> {}
// SAFETY: as above.
unsafe impl Sync for Part<'_> {}

impl<'a> From<&'a [u8]> for Part<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        let start = bytes.as_ptr().cast_mut().cast();
        Part(libc::iovec { iov_base: start, iov_len: bytes.len() }, PhantomData)
    }
}

impl<'a> Part<'a> {
    /// Guest memory.
    pub fn guest(piece: &'a RamPiece) -> Self {
        Part(libc::iovec { iov_base: piece.host().cast(), iov_len: piece.len() }, PhantomData)
    }

    /// How many bytes.
    #[allow(clippy::len_without_is_empty)] // An empty part is as good as any.
    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    /// A part of it; what lies beyond the end is left out.
    pub fn slice(&self, at: usize, len: usize) -> Part<'a> {
        let at = at.min(self.0.iov_len);
        let len = len.min(self.0.iov_len - at);
        let start = self.0.iov_base.cast::<u8>().wrapping_add(at);
        Part(libc::iovec { iov_base: start.cast(), iov_len: len }, PhantomData)
    }

    /// Copies the begin of the part; returns how many bytes.
    fn copy(&self, to: &mut [u8]) -> usize {
        let len = self.0.iov_len.min(to.len());
        // SAFETY: both are valid for `len` bytes: the part for 'a, by its constructors. They do not
        // overlap, as `to` is nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(self.0.iov_base.cast(), to.as_mut_ptr(), len) };
        len
    }
}

/// An Ethernet frame in parts, without its checksum (FCS), and what is left to be done to it.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    parts: &'a [Part<'a>],
    /// What is left to be done.
    pub offload: Offload,
}

impl<'a> Frame<'a> {
    /// A frame of these parts.
    pub fn new(parts: &'a [Part<'a>], offload: Offload) -> Self {
        Frame { parts, offload }
    }

    /// Its parts.
    pub fn parts(&self) -> &'a [Part<'a>] {
        self.parts
    }

    /// How many bytes.
    #[allow(clippy::len_without_is_empty)] // There is no empty frame.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Copies bytes from offset `at`; returns how many there were. What is to be relied on is copied
    /// once and then looked at, as the guest may change the original.
    pub fn copy(&self, at: usize, to: &mut [u8]) -> usize {
        let mut skip = at;
        let mut done = 0;
        for part in self.parts {
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            done += part.slice(skip, usize::MAX).copy(&mut to[done..]);
            skip = 0;
            if done == to.len() {
                break;
            }
        }
        done
    }

    /// Appends a copy of the range `at..at + len`, or of what there is of it; returns how many bytes.
    pub fn append(&self, at: usize, len: usize, into: &mut Vec<u8>) -> usize {
        let before = into.len();
        let (mut skip, mut left) = (at, len);
        into.reserve(len.min(self.len()));
        for part in self.parts {
            let piece = part.slice(skip, left);
            skip = skip.saturating_sub(part.len());
            left -= piece.len();
            // SAFETY: the piece is valid for its length during 'a, by the constructors of parts. There is room for
            // as many bytes behind what `into` holds: all pieces together are at most `len` bytes and no more
            // than the frame has, which was reserved. They become part of it only when they are written.
            unsafe {
                let end = into.as_mut_ptr().add(into.len());
                std::ptr::copy_nonoverlapping(piece.0.iov_base.cast(), end, piece.len());
                into.set_len(into.len() + piece.len());
            }
        }
        into.len() - before
    }

    /// All bytes, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append(0, usize::MAX, &mut bytes);
        bytes
    }

    /// Lists the parts of the range `at..at + len`, as many as `into` has room for; returns how many.
    pub fn gather(&self, at: usize, len: usize, into: &mut [Part<'a>]) -> usize {
        let (mut skip, mut left, mut count) = (at, len, 0);
        for part in self.parts {
            if left == 0 || count == into.len() {
                break;
            }
            let piece = part.slice(skip, left);
            skip = skip.saturating_sub(part.len());
            if piece.len() > 0 {
                left -= piece.len();
                into[count] = piece;
                count += 1;
            }
        }
        count
    }
}

/// Sends parts by one `sendmsg`, with these flags; returns how many bytes went.
pub fn send_parts(fd: impl AsFd, parts: &[Part<'_>], flags: i32) -> io::Result<usize> {
    // SAFETY: all-zero is a valid msghdr: no address, no data, no control message.
    send_message(fd, parts, flags, unsafe { std::mem::zeroed() })
}

/// The same to an address.
pub fn send_parts_to(
    fd: impl AsFd,
    parts: &[Part<'_>],
    flags: i32,
    to: &impl SockaddrLike,
) -> io::Result<usize> {
    // SAFETY: as above.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // The kernel only reads it, during the call, through which `to` lives.
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
    send_message(fd, parts, flags, message)
}

/// Sends a message whose address, if any, lives through the call.
fn send_message(
    fd: impl AsFd,
    parts: &[Part<'_>],
    flags: i32,
    mut message: libc::msghdr,
) -> io::Result<usize> {
    message.msg_iov = parts.as_ptr().cast::<libc::iovec>().cast_mut();
    message.msg_iovlen = parts.len().min(libc::UIO_MAXIOV as usize);
    // SAFETY: `Part` is a transparent iovec; the kernel reads the list, the memory of the parts and
    // the address, all of which live through the call, and writes nothing.
    let sent = unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Writes parts by one `writev`; returns how many bytes went.
pub fn write_parts(fd: impl AsFd, parts: &[Part<'_>]) -> io::Result<usize> {
    let count = parts.len().min(libc::UIO_MAXIOV as usize);
    // SAFETY: as above.
    let written = unsafe {
        libc::writev(fd.as_fd().as_raw_fd(), parts.as_ptr().cast::<libc::iovec>(), count as i32)
    };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn ranges_cross_parts() {
        let parts = [&b"abc"[..], b"", b"defg", b"h"].map(Part::from);
        let frame = Frame::new(&parts, Offload::default());
        assert_eq!(frame.len(), 8);
        for at in 0..10 {
            for len in 0..10 {
                let expected: Vec<u8> = b"abcdefgh".iter().copied().skip(at).take(len).collect();
                let mut bytes = vec![0; len];
                let copied = frame.copy(at, &mut bytes);
                assert_eq!(bytes[..copied], expected);
                let mut appended = b"before".to_vec();
                assert_eq!(frame.append(at, len, &mut appended), copied);
                assert_eq!(appended, [b"before", &expected[..]].concat());
                let mut gathered = [Part::from(&[][..]); 4];
                let count = frame.gather(at, len, &mut gathered);
                assert_eq!(Frame::new(&gathered[..count], Offload::default()).to_vec(), expected);
            }
        }
    }

    #[test]
    fn parts_go_out_by_one_call() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let parts = [&b"ab"[..], b"cde"].map(Part::from);
        assert_eq!(send_parts(&ours, &parts, 0).unwrap(), 5);
        assert_eq!(write_parts(&ours, &parts[1..]).unwrap(), 3);
        let mut bytes = [0; 8];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"abcdecde");
    }
}
