//! The compressed streams that an encoding keeps from its first rectangle to the last.

use flate2::{Compress, Compression, FlushCompress};

/// Where the compressor's output is gathered first.
const CHUNK: usize = 16 << 10;

/// A zlib stream (RFC 1950) that goes on from rectangle to rectangle.
pub struct Deflater {
    stream: Compress,
    level: u8,
}

impl Deflater {
    pub fn new(level: u8) -> Self {
        Deflater { stream: Compress::new(Compression::new(level.into()), true), level }
    }

    /// Appends what `data` is compressed to, so that it can be decompressed without what follows.
    pub fn append(&mut self, data: &[u8], level: u8, out: &mut Vec<u8>) {
        if self.level != level && self.stream.set_level(Compression::new(level.into())).is_ok() {
            self.level = level;
        }
        let mut rest = data;
        loop {
            out.reserve(CHUNK);
            let room = out.capacity() - out.len();
            let before = self.stream.total_in();
            // A stream that is never finished refuses nothing.
            let _ = self.stream.compress_vec(rest, out, FlushCompress::Sync);
            let taken = (self.stream.total_in() - before) as usize;
            rest = rest.get(taken..).unwrap_or_default();
            // Room that is left means that all has been flushed.
            let left = out.capacity() - out.len();
            if rest.is_empty() && left > 0 || left == room {
                return;
            }
        }
    }
}
