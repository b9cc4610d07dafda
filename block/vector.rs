//! The memory of a request: a list of pieces that stay where they are while anybody holds the list.
//!
//! Unsafe: the kernel and worker threads fill memory that other threads may hold too, as a disk fills
//! guest RAM. So pieces are raw pointers, never slices, and all access is by copies in here.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use base::memory::RamPiece;
use parking_lot::Mutex;

/// What the kernel takes in one call.
const MAX_PIECES: usize = libc::UIO_MAXIOV as usize;

/// What the kernel moves past its cache begins at a multiple of this, on any disk.
const PAGE: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Piece {
    start: NonNull<u8>,
    len: usize,
}

/// Scattered memory. A clone is another view of the same bytes. When two requests move data through
/// the same bytes at once, the bytes are unspecified, as with a guest that does so.
#[derive(Clone)]
pub struct Vector {
    pieces: Vec<Piece>,
    len: usize,
    owner: Owner,
}

/// Who keeps the memory.
#[derive(Clone)]
enum Owner {
    Vector { _memory: Arc<[AtomicU8]> },
    Guest(Arc<[RamPiece]>),
    Parts(Arc<[Owner]>),
}

impl Owner {
    fn mark_written(&self) {
        match self {
            Self::Vector { .. } => {}
            Self::Guest(memory) => memory.iter().for_each(RamPiece::written),
            Self::Parts(parts) => parts.iter().for_each(Self::mark_written),
        }
    }
}

// SAFETY: the pieces point into memory that `owner` keeps, which is itself Send and Sync; they are
// only read and written as bytes that may change at any time.
unsafe impl Send for Vector {}
// SAFETY: as above.
unsafe impl Sync for Vector {}

fn zeroes(len: usize) -> Arc<[AtomicU8]> {
    (0..len).map(|_| AtomicU8::new(0)).collect()
}

impl Vector {
    /// Fresh memory full of zeroes.
    pub fn zeroed(len: usize) -> Self {
        Self::over(zeroes(len))
    }

    /// The same, beginning at a page: what the kernel moves past its cache.
    pub fn aligned(len: usize) -> Self {
        Self::zeroed(len + PAGE).at_page(len)
    }

    /// The part that begins at the first page.
    fn at_page(&self, len: usize) -> Self {
        let skip = self.pieces.first().map_or(0, |piece| piece.start.addr().get() % PAGE);
        self.slice((PAGE - skip) % PAGE, len)
    }

    /// Whether each piece begins and ends at a multiple of this.
    pub fn is_aligned(&self, to: usize) -> bool {
        let aligned = |piece: &Piece| (piece.start.addr().get() | piece.len).is_multiple_of(to);
        self.pieces.iter().all(aligned)
    }

    fn over(memory: Arc<[AtomicU8]>) -> Self {
        let len = memory.len();
        // AtomicU8 may be written through a shared reference, and has the layout of u8.
        let start = NonNull::from(&*memory).cast::<u8>();
        Self { pieces: vec![Piece { start, len }], len, owner: Owner::Vector { _memory: memory } }
    }

    /// Guest memory as it is. Who fills it calls [`Self::mark_written`] in the end.
    pub fn guest(memory: Vec<RamPiece>) -> Self {
        let whole = |piece: &RamPiece| {
            NonNull::new(piece.host()).map(|start| Piece { start, len: piece.len() })
        };
        let pieces: Vec<Piece> = memory.iter().filter_map(whole).collect();
        let len = pieces.iter().map(|piece| piece.len).sum();
        Self { pieces, len, owner: Owner::Guest(memory.into()) }
    }

    /// Tells who watches guest memory that it was written: all of it, also if this is a part.
    pub fn mark_written(&self) {
        self.owner.mark_written();
    }

    /// The memory of several, one after the other.
    pub fn concat(parts: &[Self]) -> Self {
        let pieces = parts.iter().flat_map(|part| part.pieces.iter().copied()).collect();
        let len = parts.iter().map(|part| part.len).sum();
        let owners = parts.iter().map(|part| part.owner.clone()).collect();
        Self { pieces, len, owner: Owner::Parts(owners) }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of the same memory; what lies beyond the end is left out.
    pub fn slice(&self, at: usize, len: usize) -> Self {
        let mut skip = at.min(self.len);
        let mut left = len.min(self.len - skip);
        let total = left;
        let mut pieces = Vec::new();
        for piece in &self.pieces {
            let inside = piece.len.saturating_sub(skip).min(left);
            if inside > 0 {
                // SAFETY: skip < piece.len, so the result is inside the piece.
                let start = unsafe { piece.start.add(skip) };
                pieces.push(Piece { start, len: inside });
                left -= inside;
            }
            skip = skip.saturating_sub(piece.len);
        }
        Self { pieces, len: total, owner: self.owner.clone() }
    }

    /// Copies bytes in, from offset `at`; what does not fit is left out.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let mut done = 0;
        for piece in self.slice(at, bytes.len()).pieces {
            // SAFETY: the piece is alive (`owner`) and `done + piece.len <= bytes.len()` by `slice`.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr().add(done),
                    piece.start.as_ptr(),
                    piece.len,
                )
            };
            done += piece.len;
        }
    }

    /// Copies bytes out, from offset `at`; returns how many there were.
    pub fn read(&self, at: usize, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in self.slice(at, bytes.len()).pieces {
            // SAFETY: as in `write`, the other way round.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    piece.start.as_ptr(),
                    bytes.as_mut_ptr().add(done),
                    piece.len,
                )
            };
            done += piece.len;
        }
        done
    }

    /// Copies the bytes of another in, from offset `at`; what does not fit is left out.
    pub fn copy(&self, at: usize, from: &Self) {
        let mut at = at;
        for source in &from.pieces {
            let mut done = 0;
            for piece in self.slice(at, source.len).pieces {
                // SAFETY: both are alive (`owner`), and `done + piece.len <= source.len` by `slice`. They may be
                // the same memory.
                unsafe {
                    let source = source.start.as_ptr().add(done);
                    std::ptr::copy(source, piece.start.as_ptr(), piece.len)
                };
                done += piece.len;
            }
            at += source.len;
        }
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        bytes
    }

    /// Sets every byte.
    pub fn fill(&self, byte: u8) {
        for piece in &self.pieces {
            // SAFETY: the piece is alive and its own length long.
            unsafe { std::ptr::write_bytes(piece.start.as_ptr(), byte, piece.len) };
        }
    }

    /// Whether all bytes are zero.
    pub fn is_zero(&self) -> bool {
        self.is_zero_at(0, self.len)
    }

    /// Whether all bytes of a part are zero.
    pub fn is_zero_at(&self, at: usize, len: usize) -> bool {
        let end = at.saturating_add(len).min(self.len);
        // Where there is data, most of it shows in its first bytes.
        let mut first = [0; 16];
        let looked = self.read(at, &mut first).min(end.saturating_sub(at));
        if first[..looked].iter().any(|byte| *byte != 0) {
            return false;
        }
        let mut buffer = [0; 4096];
        (at..end).step_by(buffer.len()).all(|at| {
            let got = self.read(at, &mut buffer).min(end - at);
            buffer[..got] == [0; 4096][..got]
        })
    }

    /// Where two differ first; the shorter one goes on with zeroes.
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        let (mut left, mut right) = ([0; 4096], [0; 4096]);
        for at in (0..self.len.max(other.len)).step_by(left.len()) {
            for (vector, buffer) in [(self, &mut left), (other, &mut right)] {
                let got = vector.read(at, buffer);
                buffer[got..].fill(0);
            }
            if left != right {
                return left.iter().zip(&right).position(|(a, b)| a != b).map(|inside| at + inside);
            }
        }
        None
    }

    /// The pieces for the kernel, as many as it takes at a time.
    pub(crate) fn iovecs(&self) -> Vec<libc::iovec> {
        let to_iovec = |piece: &Piece| libc::iovec {
            iov_base: piece.start.as_ptr().cast(),
            iov_len: piece.len,
        };
        self.pieces.iter().take(MAX_PIECES).map(to_iovec).collect()
    }

    /// One `preadv`: may stop early, and at the end of the file.
    pub(crate) fn read_once(&self, fd: BorrowedFd<'_>, at: i64) -> std::io::Result<usize> {
        let iov = self.iovecs();
        // SAFETY: the pieces live through the call; the kernel writes no more than their lengths.
        let got = unsafe { libc::preadv(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32, at) };
        usize::try_from(got).map_err(|_| std::io::Error::last_os_error())
    }

    /// One `preadv2` that does not wait: whatever is not in memory is not read.
    pub(crate) fn read_ready(&self, fd: BorrowedFd<'_>, at: i64) -> std::io::Result<usize> {
        let iov = self.iovecs();
        let (count, flags) = (iov.len() as i32, libc::RWF_NOWAIT);
        // SAFETY: as in `read_once`.
        let got = unsafe { libc::preadv2(fd.as_raw_fd(), iov.as_ptr(), count, at, flags) };
        usize::try_from(got).map_err(|_| std::io::Error::last_os_error())
    }

    /// One `pwritev`: may stop early.
    pub(crate) fn write_once(&self, fd: BorrowedFd<'_>, at: i64) -> std::io::Result<usize> {
        let iov = self.iovecs();
        // SAFETY: the pieces live through the call.
        let put = unsafe { libc::pwritev(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32, at) };
        usize::try_from(put).map_err(|_| std::io::Error::last_os_error())
    }
}

/// Memory for what is copied on its way, used again and again.
#[derive(Default)]
pub struct Scratch {
    kept: Mutex<Vec<Arc<[AtomicU8]>>>,
}

impl Scratch {
    /// As many bytes are kept, at most.
    const MOST: usize = 4 << 20;

    /// Memory that begins at a page, and holds anything.
    pub fn take(&self, len: usize) -> Vector {
        let whole = len + PAGE;
        let mut kept = self.kept.lock();
        let found = kept.iter_mut().position(|memory| {
            (whole..=2 * whole).contains(&memory.len()) && Arc::get_mut(memory).is_some()
        });
        if let Some(at) = found {
            return Vector::over(kept[at].clone()).at_page(len);
        }
        let memory = zeroes(whole);
        let total: usize = kept.iter().map(|memory| memory.len()).sum();
        if total + whole <= Self::MOST {
            kept.push(memory.clone());
        } else if whole <= Self::MOST {
            // What nobody uses has the wrong size.
            kept.retain_mut(|memory| Arc::get_mut(memory).is_none());
        }
        Vector::over(memory).at_page(len)
    }
}

impl From<&[u8]> for Vector {
    fn from(bytes: &[u8]) -> Self {
        Self::over(bytes.iter().map(|&byte| AtomicU8::new(byte)).collect())
    }
}

impl std::fmt::Debug for Vector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vector({} bytes in {} pieces)", self.len, self.pieces.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_found_in_parts() {
        let parts: Vec<Vector> = (0..3).map(|_| Vector::zeroed(5000)).collect();
        let whole = Vector::concat(&parts);
        assert!(whole.is_zero() && whole.is_zero_at(14_999, 100) && whole.is_zero_at(20_000, 1));
        whole.write(9000, &[1]);
        assert!(!whole.is_zero() && !whole.is_zero_at(9000, 1) && !whole.is_zero_at(100, 8901));
        assert!(whole.is_zero_at(0, 9000) && whole.is_zero_at(9001, 5999));
    }

    #[test]
    fn scratch_is_used_again_when_nobody_holds_it() {
        let scratch = Scratch::default();
        let place = |vector: &Vector| vector.pieces[0].start;
        let first = scratch.take(60_000);
        first.fill(7);
        let second = scratch.take(60_000);
        assert_eq!(place(&first).addr().get() % PAGE, 0);
        assert_ne!(place(&first), place(&second));
        let part = first.slice(100, 1);
        let before = place(&first);
        drop(first);
        assert_ne!(before, place(&scratch.take(60_000)), "a part is still held");
        drop(part);
        assert_eq!(before, place(&scratch.take(50_000)));
        let all: Vec<Vector> = (0..100).map(|_| scratch.take(1 << 20)).collect();
        assert!(all.iter().all(|vector| vector.len() == 1 << 20));
        let kept: usize = scratch.kept.lock().iter().map(|memory| memory.len()).sum();
        assert!(kept <= Scratch::MOST);
    }

    #[test]
    fn slices_share_memory_and_stop_at_the_end() {
        let whole = Vector::zeroed(10);
        let part = whole.slice(4, 100);
        assert_eq!(part.len(), 6);
        part.slice(1, 2).write(0, &[7, 8, 9]);
        assert_eq!(whole.to_vec(), [0, 0, 0, 0, 0, 7, 8, 0, 0, 0]);
        let scattered = Vector::concat(&[whole.slice(6, 1), Vector::zeroed(1), whole.slice(5, 1)]);
        let halves = Vector::concat(&[Vector::zeroed(2), Vector::zeroed(2)]);
        halves.copy(1, &scattered);
        assert_eq!(halves.to_vec(), [0, 8, 0, 7]);
        halves.copy(3, &scattered);
        assert_eq!(halves.to_vec(), [0, 8, 0, 8]);
        assert!(whole.slice(11, 1).is_empty());
        let page = Vector::aligned(10_000);
        assert!(page.slice(4096, 512).is_aligned(512) && !page.slice(4096, 513).is_aligned(512));
        assert!(!page.slice(4095, 512).is_aligned(512));
        assert_eq!(whole.first_difference(&Vector::zeroed(6)), Some(5));
        assert_eq!(whole.slice(0, 5).first_difference(&Vector::zeroed(0)), None);
    }
}
