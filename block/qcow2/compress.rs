//! Compressed clusters.

use std::cell::RefCell;
use std::io::Read;

use flate2::{Compress, Compression as Level, Decompress, FlushCompress, FlushDecompress, Status};

use zstd::bulk::Compressor;

use super::header::Compression;
use crate::{Error, Result};

/// log2 of the bytes that a zstd frame may look back.
const MAX_WINDOW: u32 = 23;

fn damaged() -> Error {
    Error::from_errno(libc::EIO)
}

/// Fills `out` from a compressed cluster. `bytes` may go on behind the end of it.
pub fn decompress(kind: Compression, bytes: &[u8], out: &mut [u8]) -> Result<()> {
    match kind {
        Compression::Zlib => {
            let mut inflate = Decompress::new(false);
            let status = inflate.decompress(bytes, out, FlushDecompress::Finish);
            let full = inflate.total_out() == out.len() as u64;
            match status {
                Ok(Status::StreamEnd | Status::Ok | Status::BufError) if full => Ok(()),
                _ => Err(damaged()),
            }
        }
        Compression::Zstd => {
            let mut frame = zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame();
            // A frame holds a cluster: it has no reason to ask for more memory.
            frame.window_log_max(MAX_WINDOW)?;
            frame.read_exact(out).map_err(|_| damaged())
        }
    }
}

thread_local! {
    // To make these costs as much as to compress a cluster. Readers have a window of 2^12 bytes only.
    static DEFLATE: RefCell<Compress> =
        RefCell::new(Compress::new_with_window_bits(Level::default(), false, 12));
    static ZSTD: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// The compressed form, if it is smaller than the cluster.
pub fn compress(kind: Compression, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
    let out = match kind {
        Compression::Zlib => DEFLATE.with_borrow_mut(|deflate| {
            let mut out = Vec::with_capacity(cluster.len());
            deflate.reset();
            match deflate.compress_vec(cluster, &mut out, FlushCompress::Finish) {
                Ok(Status::StreamEnd) => Ok(Some(out)),
                Ok(_) => Ok(None),
                Err(_) => Err(damaged()),
            }
        })?,
        Compression::Zstd => ZSTD.with_borrow_mut(|compressor| -> Result<_> {
            let compressor = match compressor {
                Some(compressor) => compressor,
                none => none.insert(Compressor::new(0)?),
            };
            Ok(Some(compressor.compress(cluster)?))
        })?,
    };
    Ok(out.filter(|out| out.len() < cluster.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_come_back() {
        let cluster: Vec<u8> = (0..65536_u32).map(|i| (i / 50) as u8).collect();
        for kind in [Compression::Zlib, Compression::Zstd] {
            let mut packed = compress(kind, &cluster).unwrap().unwrap();
            packed.extend([0xaa; 300]);
            let mut back = vec![0; cluster.len()];
            decompress(kind, &packed, &mut back).unwrap();
            assert!(back == cluster);
            assert!(decompress(kind, &packed[..50], &mut back).is_err());
        }
    }
}
