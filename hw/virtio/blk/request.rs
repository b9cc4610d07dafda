//! Requests as drivers make them (5.2.6): a header, data, a byte for the status.

use crate::virtio::queue::{Buffer, Chain, cut};

/// Kinds of requests.
mod kind {
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const IDENTIFY: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
    /// Legacy: to be done after what came before; devices may ignore it.
    pub const BARRIER: u32 = 1 << 31;
}

/// Outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    Failed = 1,
    Unsupported = 2,
}

const HEADER: usize = 16;
const SEGMENT: usize = 16;
const SECTOR_SHIFT: u32 = 9;
/// Of a segment: its storage may be given back.
const UNMAP: u32 = 1;

/// What a chain asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Read {
        at: u64,
        len: u64,
    },
    Write {
        at: u64,
        len: u64,
    },
    Flush,
    Identify,
    Discard(Segment),
    WriteZeroes(Segment),
    /// It can be refused at once.
    Nothing(Status),
}

/// What discarding and zeroing are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub at: u64,
    pub sectors: u32,
    pub unmap: bool,
}

impl Segment {
    pub fn len(&self) -> u64 {
        u64::from(self.sectors) << SECTOR_SHIFT
    }
}

/// Reads what a chain asks for; nothing if it has no header, or no place for the status.
pub(super) fn parse(chain: &Chain) -> Option<Wish> {
    let mut header = [0; HEADER];
    if chain.writable_len() == 0 || !chain.read(0, &mut header) {
        return None;
    }
    let [k0, k1, k2, k3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
    let kind = u32::from_le_bytes([k0, k1, k2, k3]) & !kind::BARRIER;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let out = chain.readable_len() - HEADER as u64;
    let Some(at) = sector.checked_mul(1 << SECTOR_SHIFT) else {
        return Some(Wish::Nothing(Status::Failed));
    };
    Some(match kind {
        kind::READ => Wish::Read { at, len: data_in_len(chain) },
        kind::WRITE => Wish::Write { at, len: out },
        kind::FLUSH => Wish::Flush,
        kind::IDENTIFY => Wish::Identify,
        kind::DISCARD | kind::WRITE_ZEROES => match segment(chain, kind == kind::DISCARD) {
            Ok(segment) if kind == kind::DISCARD => Wish::Discard(segment),
            Ok(segment) => Wish::WriteZeroes(segment),
            Err(status) => Wish::Nothing(status),
        },
        _ => Wish::Nothing(Status::Unsupported),
    })
}

/// The one segment that such requests may have.
fn segment(chain: &Chain, discard: bool) -> Result<Segment, Status> {
    let mut bytes = [0; SEGMENT];
    let len = chain.readable_len() - HEADER as u64;
    if len > SEGMENT as u64 {
        return Err(Status::Unsupported);
    }
    if !chain.read(HEADER as u64, &mut bytes) {
        return Err(Status::Failed);
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = bytes;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    if flags & !UNMAP != 0 || discard && flags != 0 {
        return Err(Status::Unsupported);
    }
    let at = sector.checked_mul(1 << SECTOR_SHIFT).ok_or(Status::Failed)?;
    Ok(Segment { at, sectors: u32::from_le_bytes([n0, n1, n2, n3]), unmap: flags & UNMAP != 0 })
}

/// Bytes that are read from the disk: all that the device writes but the status.
pub(super) fn data_in_len(chain: &Chain) -> u64 {
    chain.writable_len().saturating_sub(1)
}

/// Where they go.
pub(super) fn data_in(chain: &Chain) -> impl Iterator<Item = Buffer> + '_ {
    cut(chain.writable(), 0, data_in_len(chain))
}

/// What is written to the disk.
pub(super) fn data_out(chain: &Chain) -> impl Iterator<Item = Buffer> + '_ {
    cut(chain.readable(), HEADER as u64, u64::MAX)
}

/// Writes the outcome; returns how much of the chain has been written if `data` bytes came before.
pub(super) fn finish(chain: &Chain, status: Status, data: u64) -> u32 {
    chain.write(data_in_len(chain), &[status as u8]);
    u32::try_from(data + 1).unwrap_or(u32::MAX)
}
