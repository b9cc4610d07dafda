//! Decoded blocks, found again by where their bytes lie.
//!
//! A block belongs to the *host address* of its first byte: that names a byte of guest RAM whatever
//! linear addresses lead there, and is what the fetch TLB yields anyway. A block is valid while the
//! generation of its page is the one it was decoded under; when that moved, its bytes are compared,
//! and either it is valid again or it is decoded anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::memory::RamBlock;

use super::decode::{self, End, Insn, Key, MAX_LEN};
use super::exec::branch::fall_through;
use super::op::Op;
use crate::cpuid::Model;
use crate::disassembly::log_code;
use crate::mmu::CodePage;
use crate::state::Seg;
use crate::{Cpu, Trap};

/// Most operations of a block.
const MAX_OPS: usize = 64;
/// Most bytes of a block.
const MAX_BYTES: usize = 512;
/// Blocks kept before all are dropped.
const MAX_BLOCKS: usize = 1 << 16;
/// Entries of the direct-mapped table in front of the map.
const QUICK: usize = 1 << 12;

/// A page that code was decoded from.
#[derive(Clone)]
struct Page {
    ram: Arc<RamBlock>,
    index: usize,
    generation: u32,
}

impl Page {
    /// Takes note that the page is going to be read for its code.
    fn protect(ram: Arc<RamBlock>, offset: u64) -> Self {
        let index = (offset >> 12) as usize;
        let generation = ram.tracking().protect_code(index);
        Page { ram, index, generation }
    }
    #[inline(always)]
    fn unchanged(&self) -> bool {
        self.ram.tracking().generation(self.index).load(Ordering::Acquire) == self.generation
    }
    fn rearm(&mut self) {
        self.generation = self.ram.tracking().protect_code(self.index);
    }
}

/// Where a block that is one instruction across a page boundary goes on.
struct Tail {
    page: Page,
    host: usize,
}

/// A straight run of operations.
pub struct Block {
    host: usize,
    key: Key,
    /// How it ends.
    pub end: End,
    /// The operations; only the last sets `state.rip`.
    pub ops: Box<[Op]>,
    /// `None` if the code is not in plain RAM; such a block is run once.
    page: Option<Page>,
    bytes: Box<[u8]>,
    tail: Option<Tail>,
    links: [u32; 2],
}

/// Index of a block in its cache.
pub type Index = u32;
/// No block.
pub const NONE: Index = Index::MAX;

#[derive(Clone, Copy)]
struct Quick {
    host: usize,
    key: Key,
    index: Index,
}

/// All blocks of one processor.
#[derive(Default)]
pub struct Cache {
    blocks: Vec<Block>,
    map: HashMap<(usize, Key), Index>,
    quick: Vec<Quick>,
}

impl Cache {
    /// The block `index`.
    #[inline(always)]
    pub fn block(&self, index: Index) -> Option<&Block> {
        self.blocks.get(index as usize)
    }

    /// The valid block at `host`, if the block `last` led there before.
    #[inline(always)]
    pub fn linked(&self, last: Index, host: usize, key: Key) -> Option<Index> {
        let links = self.blocks.get(last as usize)?.links;
        links
            .into_iter()
            .find(|&index| self.blocks.get(index as usize).is_some_and(|block| block.is(host, key)))
    }

    /// Remembers that `last` led to `next`.
    pub fn link(&mut self, last: Index, next: Index) {
        if let Some(block) = self.blocks.get_mut(last as usize) {
            block.links = [next, block.links[0]];
        }
    }

    /// The block at `host`, if it was decoded and is valid.
    #[inline]
    pub fn find(&mut self, host: usize, key: Key) -> Option<Index> {
        if host == 0 {
            return None;
        }
        let slot = host % QUICK;
        if let Some(quick) = self.quick.get(slot)
            && (quick.host, quick.key) == (host, key)
            && self.blocks.get(quick.index as usize).is_some_and(|block| block.is(host, key))
        {
            return Some(quick.index);
        }
        let index = *self.map.get(&(host, key))?;
        if self.quick.is_empty() {
            self.quick.resize(QUICK, Quick { host: 0, key, index: NONE });
        }
        self.quick[slot] = Quick { host, key, index };
        self.blocks.get_mut(index as usize)?.revalidate().then_some(index)
    }

    /// Adds or replaces a block.
    pub fn insert(&mut self, block: Block) -> Index {
        if let Some(&index) = self.map.get(&(block.host, block.key))
            && let Some(slot) = self.blocks.get_mut(index as usize)
        {
            *slot = block;
            return index;
        }
        if self.blocks.len() >= MAX_BLOCKS {
            self.clear();
        }
        let index = self.blocks.len() as Index;
        self.map.insert((block.host, block.key), index);
        self.blocks.push(block);
        index
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Block {
    /// The operations that are instructions, and what leads to the next block where none of them
    /// does.
    pub fn instructions(&self) -> (&[Op], &[Op]) {
        let count = self.ops.len();
        self.ops.split_at(if self.end == End::No { count.saturating_sub(1) } else { count })
    }

    /// Bytes of code.
    fn code_len(&self) -> u64 {
        let last = self.ops.last();
        last.map_or(0, |op| op.next.into())
    }

    /// Whether it is the block at `host` and its code is as it was.
    #[inline(always)]
    fn is(&self, host: usize, key: Key) -> bool {
        self.host == host
            && self.key == key
            && self.tail.is_none()
            && self.page.as_ref().is_some_and(Page::unchanged)
    }

    /// Whether the code is as it was, though the page may have been written to.
    fn revalidate(&mut self) -> bool {
        let Some(page) = &mut self.page else { return false };
        if page.unchanged() {
            return true;
        }
        page.rearm();
        let mut now = vec![0; self.bytes.len()];
        page.ram.read((page.index as u64) << 12 | self.host as u64 & 0xfff, &mut now);
        now == *self.bytes
    }
}

/// Operations decoded in a row.
struct Run {
    ops: Vec<Op>,
    end: End,
    len: usize,
}

/// Decodes up to `max_ops` instructions of `bytes`, as far as they are whole.
fn decode_run(bytes: &[u8], key: Key, start: u64, model: &Model, max_ops: usize) -> Run {
    let mut decoder = decode::decoder(bytes, key, start);
    let mut run = Run { ops: Vec::new(), end: End::No, len: 0 };
    while run.ops.len() < max_ops && run.end == End::No && decoder.can_decode() {
        let Some(raw) = decode::take_apart(&mut decoder) else { break };
        let bytes = &bytes[run.len..decoder.position()];
        run.ops.push(decode::lower(&Insn { raw: &raw, key, start, bytes }, model));
        run.end = decode::ends_block(&raw);
        run.len = decoder.position();
    }
    if run.end == End::No
        && let Some(last) = run.ops.last()
    {
        run.ops.push(Op { run: fall_through, ..*last });
    }
    run
}

impl Cpu {
    /// Up to `limit` bytes of code from `linear` to the end of its page, and the page if it is plain
    /// RAM.
    fn code_bytes(&mut self, linear: u64, limit: usize) -> Result<(Option<Page>, Vec<u8>), Trap> {
        let in_page = 4096 - (linear as usize & 0xfff);
        let mut bytes = vec![0; limit.min(in_page)];
        match self.fetch_page(linear)? {
            CodePage::Ram { block, offset, .. } => {
                // Protected first, read after: a write in between is then noticed.
                let page = Page::protect(block, offset);
                page.ram.read(offset + (linear & 0xfff), &mut bytes);
                Ok((Some(page), bytes))
            }
            CodePage::Other { .. } => {
                let count = self.fetch_bytes(linear, &mut bytes)?;
                bytes.truncate(count);
                Ok((None, bytes))
            }
        }
    }

    /// Decodes the block at `linear`, whose first byte is at `host`.
    fn decode_block(&mut self, linear: u64, host: usize, key: Key) -> Result<Block, Trap> {
        let max_ops = if key.is_single() { 1 } else { MAX_OPS };
        let rip = self.state.rip;
        let model = self.model.clone();
        let (mut page, mut bytes) = self.code_bytes(linear, (max_ops * MAX_LEN).min(MAX_BYTES))?;
        let mut run = decode_run(&bytes, key, rip, &model, max_ops);
        let mut tail = None;
        if run.ops.is_empty() {
            // The first instruction goes on in the next page.
            let here = bytes.len();
            let next = linear.wrapping_add(here as u64) & self.mode.linear_mask;
            let (next_page, more) = self.code_bytes(next, MAX_LEN - here.min(MAX_LEN - 1))?;
            bytes.extend_from_slice(&more);
            run = decode_run(&bytes, key, rip, &model, 1);
            if run.ops.is_empty() {
                return Err(self.gp(0));
            }
            log_code(&bytes, linear, key.code_bits() as u8, run.ops.len());
            bytes.truncate(here);
            match next_page {
                Some(next_page) => {
                    tail = Some(Tail { page: next_page, host: self.code_address(next)? });
                }
                None => page = None,
            }
        } else {
            log_code(&bytes, linear, key.code_bits() as u8, run.ops.len());
            bytes.truncate(run.len);
        }
        Ok(Block {
            host,
            key,
            end: run.end,
            ops: run.ops.into(),
            page,
            bytes: bytes.into(),
            tail,
            links: [NONE; 2],
        })
    }

    /// Whether a block at `linear` that goes on in the next page still does so at the same place and
    /// with the same bytes.
    fn tail_holds(&mut self, block: &Block, linear: u64) -> Result<bool, Trap> {
        let Some(tail) = &block.tail else { return Ok(true) };
        let next = (linear | 0xfff).wrapping_add(1) & self.mode.linear_mask;
        Ok(self.code_address(next)? == tail.host && tail.page.unchanged())
    }

    /// The block to be run now: found, or decoded. `last` is the block that led here.
    #[inline(always)]
    pub(super) fn next_block(
        &mut self,
        cache: &mut Cache,
        key: Key,
        last: Index,
    ) -> Result<Index, Trap> {
        let base = self.mode.base[Seg::Cs as usize];
        let linear = self.state.rip.wrapping_add(base) & self.mode.linear_mask;
        let host = self.code_address(linear)?;
        let index = match cache.linked(last, host, key) {
            Some(index) => index,
            None => self.search_block(cache, linear, host, key, last)?,
        };
        if self.mode.code_limited {
            return self.within_code_limit(cache, linear, host, key, index);
        }
        Ok(index)
    }

    /// A block that does not run over the limit of CS: `index`, or its first instruction. #GP(0) if
    /// even that does.
    fn within_code_limit(
        &mut self,
        cache: &mut Cache,
        linear: u64,
        host: usize,
        key: Key,
        index: Index,
    ) -> Result<Index, Trap> {
        let limit = u64::from(self.state.seg[Seg::Cs as usize].limit);
        let fits = |cpu: &Self, block: &Block| {
            cpu.state.rip.saturating_add(block.code_len()).saturating_sub(1) <= limit
        };
        if cache.block(index).is_some_and(|block| fits(self, block)) {
            return Ok(index);
        }
        let index = self.search_block(cache, linear, host, key.single(), NONE)?;
        if cache.block(index).is_some_and(|block| fits(self, block)) {
            return Ok(index);
        }
        Err(self.gp(0))
    }

    fn search_block(
        &mut self,
        cache: &mut Cache,
        linear: u64,
        host: usize,
        key: Key,
        last: Index,
    ) -> Result<Index, Trap> {
        if let Some(index) = cache.find(host, key) {
            let holds = match cache.block(index) {
                Some(block) => self.tail_holds(block, linear)?,
                None => false,
            };
            if holds {
                cache.link(last, index);
                return Ok(index);
            }
        }
        let block = self.decode_block(linear, host, key)?;
        Ok(cache.insert(block))
    }
}
