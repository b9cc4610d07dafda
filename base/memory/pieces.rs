//! Guest memory for I/O without copies: the parts of RAM blocks behind a range of addresses.

use std::sync::Arc;

use super::flat::FlatView;
use super::{AddressSpace, Dma, RamBlock};

/// A part of a RAM block, inside it. The block lives as long as the piece.
#[derive(Clone, Debug)]
pub struct RamPiece {
    block: Arc<RamBlock>,
    offset: u64,
    len: usize,
}

impl RamPiece {
    /// A part of a block, unless it reaches beyond the block's end.
    pub fn new(block: &Arc<RamBlock>, offset: u64, len: usize) -> Option<Self> {
        let end = offset.checked_add(len as u64)?;
        (end <= block.len()).then(|| RamPiece { block: block.clone(), offset, len })
    }

    /// Where the content is, valid for [`Self::len`] bytes while the piece lives.
    pub fn host(&self) -> *mut u8 {
        self.block.host().wrapping_add(self.offset as usize)
    }

    /// How many bytes.
    #[allow(clippy::len_without_is_empty)] // Who asks for memory asks for some.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells who watches the memory that it was filled. To be called when whoever got
    /// [`Self::host`] has written.
    pub fn written(&self) {
        self.block.tracking().written(self.offset, self.len as u64);
    }
}

fn pieces_of(view: &FlatView, addr: u64, len: usize, write: bool) -> Option<Vec<RamPiece>> {
    addr.checked_add(len as u64)?;
    let mut pieces = Some(Vec::new());
    view.pieces(addr, len, |at, range, part| {
        let piece = range
            .and_then(|range| range.ram())
            .filter(|(_, _, writable)| *writable || !write)
            .and_then(|(block, _, _)| RamPiece::new(block, at, part.len()));
        match piece {
            Some(piece) => pieces.iter_mut().for_each(|pieces| pieces.push(piece.clone())),
            None => pieces = None,
        }
    });
    pieces
}

impl AddressSpace {
    /// The memory behind a range, if all of it is RAM (or ROM, unless `write`).
    pub fn ram_pieces(&self, addr: u64, len: usize, write: bool) -> Option<Vec<RamPiece>> {
        pieces_of(&self.view(), addr, len, write)
    }
}

impl Dma {
    /// The memory behind a range, if DMA is allowed and all of it is RAM (or ROM, unless `write`). For
    /// anything else, go through [`Dma::read`] and [`Dma::write`].
    pub fn ram_pieces(&self, addr: u64, len: usize, write: bool) -> Option<Vec<RamPiece>> {
        self.space().filter(|_| len > 0)?.ram_pieces(addr, len, write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Client, PAGE_SIZE, Region};

    #[test]
    fn only_ram_comes_in_pieces() {
        let root = Region::container("root", 0x10000);
        let block = |name| Arc::new(RamBlock::anonymous(name, 0x2000).unwrap());
        let (low, high, rom) = (block("low"), block("high"), block("rom"));
        root.add(&Region::ram(low.clone()), 0, 0);
        root.add(&Region::ram(high.clone()), 0x2000, 0);
        let dma = Dma::new(AddressSpace::new("t", root.clone()));
        let pieces = dma.ram_pieces(0x1800, 0x1000, true).unwrap();
        assert_eq!(pieces.iter().map(RamPiece::len).collect::<Vec<_>>(), [0x800, 0x800]);
        assert_eq!(pieces[0].host(), low.host().wrapping_add(0x1800));
        high.tracking().take_dirty(Client::Migration, 0, 2 * PAGE_SIZE, |_| ());
        pieces[1].written();
        let mut dirty = Vec::new();
        high.tracking().take_dirty(Client::Migration, 0, 2 * PAGE_SIZE, |page| dirty.push(page));
        assert_eq!(dirty, [0]);
        assert!(dma.ram_pieces(0x3fff, 2, false).is_none(), "the second byte is nobody's");
        assert!(dma.ram_pieces(u64::MAX, 2, false).is_none());
        root.add(&Region::rom(rom), 0x4000, 0);
        assert!(dma.ram_pieces(0x3fff, 2, false).is_some());
        assert!(dma.ram_pieces(0x3fff, 2, true).is_none());
        dma.set_enabled(false);
        assert!(dma.ram_pieces(0, 1, false).is_none());
    }
}
