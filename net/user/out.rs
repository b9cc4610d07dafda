//! Frames on their way to the guest, and the memory of their payload.

use std::sync::Arc;

use crate::{Frame, Offload, Part};

/// As much as is read from a host socket at once.
pub const CHUNK: usize = 64 * 1024;

/// As many unused chunks are kept for the next reads.
const SPARE_CHUNKS: usize = 32;

/// Less than this is worth copying, to have the large buffer back at once.
const SMALL: usize = 8 * 1024;

/// Payload that was read from a host socket. It is kept until the guest has acknowledged it.
pub type Chunk = Arc<Box<[u8]>>;

/// Large buffers in turn.
#[derive(Default)]
pub struct Chunks(Vec<Chunk>);

impl Chunks {
    /// Has `read` fill up to `limit` bytes; `None` if it gets none.
    pub fn fill<E>(
        &mut self,
        limit: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Option<(Chunk, usize)>, E> {
        let mut chunk = self.0.pop().unwrap_or_else(|| Arc::new(vec![0; CHUNK].into()));
        let Some(buffer) = Arc::get_mut(&mut chunk) else {
            // Spare chunks have no other owner.
            return Ok(None);
        };
        let result = read(&mut buffer[..limit.min(CHUNK)]);
        let got = *result.as_ref().unwrap_or(&0);
        if got > SMALL {
            return Ok(Some((chunk, got)));
        }
        let small = (got > 0).then(|| (Arc::new(buffer[..got].into()), got));
        self.give_back(chunk);
        result.map(|_| small)
    }

    /// Takes back a chunk that its user no longer needs.
    pub fn give_back(&mut self, mut chunk: Chunk) {
        let reusable = chunk.len() == CHUNK && Arc::get_mut(&mut chunk).is_some();
        if reusable && self.0.len() < SPARE_CHUNKS {
            self.0.push(chunk);
        }
    }
}

/// A frame to the guest: headers, and payload that may be shared.
pub struct OutFrame {
    /// All of it, or the headers.
    pub head: Vec<u8>,
    /// The payload: a part of a chunk.
    pub body: Option<(Chunk, std::ops::Range<usize>)>,
    /// What is left to be done.
    pub offload: Offload,
}

impl From<Vec<u8>> for OutFrame {
    fn from(head: Vec<u8>) -> Self {
        OutFrame { head, body: None, offload: Offload::default() }
    }
}

impl OutFrame {
    /// Calls `send` with the frame.
    pub fn with<R>(&self, send: impl FnOnce(&Frame<'_>) -> R) -> R {
        let body = self.body.as_ref().and_then(|(chunk, range)| chunk.get(range.clone()));
        let parts = [Part::from(&self.head[..]), Part::from(body.unwrap_or_default())];
        let used = if body.is_some() { 2 } else { 1 };
        send(&Frame::new(&parts[..used], self.offload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_reads_do_not_hold_large_buffers() {
        let mut chunks = Chunks::default();
        let fill = |chunks: &mut Chunks, len: usize| {
            chunks.fill(CHUNK, |buffer| {
                buffer[..len].fill(7);
                Ok::<_, ()>(len)
            })
        };
        assert_eq!(fill(&mut chunks, 0), Ok(None));
        let (small, len) = fill(&mut chunks, 100).unwrap().unwrap();
        assert_eq!((small.len(), len, chunks.0.len()), (100, 100, 1));
        let (large, len) = fill(&mut chunks, CHUNK).unwrap().unwrap();
        assert_eq!((large.len(), len, chunks.0.len()), (CHUNK, CHUNK, 0));
        let frame = OutFrame { body: Some((large.clone(), 0..3)), ..OutFrame::from(vec![1]) };
        assert_eq!(frame.with(|frame| frame.to_vec()), [1, 7, 7, 7]);
        chunks.give_back(large);
        assert_eq!(chunks.0.len(), 0, "the frame still has it");
    }
}
