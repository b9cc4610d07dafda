//! All translations, found by where their guest bytes lie and by the page that holds them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use base::memory::RamBlock;

use super::asm::Asm;
use super::memory::CodeMemory;
use super::record::Record;
use super::thunks::{Helpers, Thunks, assemble};
use super::translate::{Source, Variant, translate};
use crate::cpuid::Model;

/// Most bytes of a block.
const MAX_BYTES: usize = 512;
const PAGE: usize = 4096;

/// A translated block.
struct Block {
    /// Host address of the first guest byte.
    guest: usize,
    guest_len: usize,
    variant: Variant,
    /// Where it is executed; empty if the interpreter is to execute it.
    code: Range<usize>,
    records: Box<[Record]>,
    traps: Vec<(Range<usize>, usize)>,
    /// Jumps that lead here, and where they led before.
    incoming: Vec<(usize, usize)>,
}

/// A page of guest code.
struct CodePage {
    ram: Arc<RamBlock>,
    /// Number of the page in its RAM block.
    index: usize,
    blocks: Vec<usize>,
}

/// The cache proper; see [`super::Translator`] for who may use it when.
pub struct Cache {
    memory: CodeMemory,
    used: usize,
    /// How much of the memory is taken by what is never dropped.
    fixed: usize,
    /// By ascending address of their code.
    blocks: Vec<Block>,
    map: HashMap<(usize, Variant), usize>,
    pages: HashMap<usize, CodePage>,
}

/// What the cache knows about a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The translation's address.
    Code(usize),
    /// The interpreter should execute the block there.
    Interpret,
    /// There is no room for a translation.
    Full,
}

impl Cache {
    /// An empty cache with room for `len` bytes of code.
    pub fn new(len: usize, helpers: &Helpers) -> nix::Result<(Self, Thunks)> {
        let mut memory = CodeMemory::new(len)?;
        let mut asm = Asm::new(memory.start());
        let thunks = assemble(&mut asm, helpers);
        if !memory.write(0, &asm.bytes) {
            return Err(nix::Error::ENOMEM);
        }
        let fixed = asm.bytes.len().next_multiple_of(64);
        let cache = Cache {
            memory,
            used: fixed,
            fixed,
            blocks: Vec::new(),
            map: HashMap::new(),
            pages: HashMap::new(),
        };
        Ok((cache, thunks))
    }

    /// Where code may be.
    pub fn range(&self) -> Range<usize> {
        self.memory.start()..self.memory.start() + self.memory.len()
    }

    /// Finds or makes the translation of the block in `ram` whose first byte is at `offset`.
    pub fn find(
        &mut self,
        ram: &Arc<RamBlock>,
        offset: u64,
        variant: Variant,
        model: &Model,
        thunks: &Thunks,
    ) -> Found {
        match self.index_of(ram, offset, variant, model, thunks) {
            Some(index) => self.found(index),
            None => Found::Full,
        }
    }

    fn found(&self, index: usize) -> Found {
        match &self.blocks[index].code {
            code if code.is_empty() => Found::Interpret,
            code => Found::Code(code.start),
        }
    }

    /// The number of the block at `offset` of `ram`, old or new.
    fn index_of(
        &mut self,
        ram: &Arc<RamBlock>,
        offset: u64,
        variant: Variant,
        model: &Model,
        thunks: &Thunks,
    ) -> Option<usize> {
        let guest = ram.host() as usize + offset as usize;
        match self.map.get(&(guest, variant)) {
            Some(index) => Some(*index),
            None => self.add(ram, offset, variant, model, thunks),
        }
    }

    fn add(
        &mut self,
        ram: &Arc<RamBlock>,
        offset: u64,
        variant: Variant,
        model: &Model,
        thunks: &Thunks,
    ) -> Option<usize> {
        let guest = ram.host() as usize + offset as usize;
        let start = offset as usize % PAGE;
        let page = (offset >> 12) as usize;
        let address = self.memory.start() + self.used;
        // Watched first, read after: a store in between is then noticed.
        ram.tracking().protect_code(page);
        let mut bytes = vec![0; MAX_BYTES.min(PAGE - start)];
        ram.read(offset, &mut bytes);
        let block = self.blocks.len() as u32;
        let source = Source { bytes: &bytes, start: start as u16, block, variant, model };
        let mut block = Block {
            guest,
            guest_len: PAGE - start,
            variant,
            code: address..address,
            records: Box::default(),
            traps: Vec::new(),
            incoming: Vec::new(),
        };
        if let Some(mut translation) = translate(&source, address, thunks) {
            for (at, record) in translation.record_sites {
                let record = &raw const translation.records[record] as u64;
                translation.code[at..at + 8].copy_from_slice(&record.to_le_bytes());
            }
            if !self.memory.write(self.used, &translation.code) {
                return None;
            }
            block.guest_len = translation.guest_len;
            block.code.end += translation.code.len();
            block.records = translation.records;
            block.traps = translation.traps;
            self.used = (self.used + translation.code.len()).next_multiple_of(16);
        }
        let index = self.blocks.len();
        self.blocks.push(block);
        self.map.insert((guest, variant), index);
        let page_at = guest & !(PAGE - 1);
        let entry = self.pages.entry(page_at).or_insert_with(|| CodePage {
            ram: ram.clone(),
            index: page,
            blocks: Vec::new(),
        });
        entry.blocks.push(index);
        Some(index)
    }

    /// The block whose code `pc` lies in.
    fn block_at(&self, pc: usize) -> Option<usize> {
        let after = self.blocks.partition_point(|block| block.code.start <= pc);
        // Blocks without code may stand at the same address.
        (0..after).rev().take(8).find(|index| self.blocks[*index].code.contains(&pc))
    }

    /// What is known about the instruction at `pc`, which trapped.
    pub fn trap_at(&self, pc: usize) -> Option<&Record> {
        let block = &self.blocks[self.block_at(pc)?];
        let offset = pc - block.code.start;
        let (_, record) = block.traps.iter().find(|(range, _)| range.contains(&offset))?;
        block.records.get(*record)
    }

    /// Leads the jump at `site`, which belongs to block `from`, to the block at `target` of the same
    /// page. The block's address, if it can be executed.
    pub fn link(
        &mut self,
        from: u32,
        site: usize,
        (target, host_flags): (u16, bool),
        model: &Model,
        thunks: &Thunks,
    ) -> Found {
        let Some(block) = self.blocks.get(from as usize) else { return Found::Interpret };
        let (guest, variant) = (block.guest, block.variant);
        let Some(page) = self.pages.get(&(guest & !(PAGE - 1))) else { return Found::Interpret };
        let ram = page.ram.clone();
        let offset = (page.index * PAGE) as u64 + u64::from(target);
        let wanted = Variant { host_flags, ..variant };
        let Some(index) = self.index_of(&ram, offset, wanted, model, thunks) else {
            return Found::Full;
        };
        let found = self.found(index);
        // A block that was taken back meanwhile is not executed again.
        if let Found::Code(code) = found
            && self.map.get(&(guest, variant)) == Some(&(from as usize))
            && let Some(before) = self.memory.patch(site, code)
        {
            self.blocks[index].incoming.push((site, before));
        }
        found
    }

    /// Takes back what was made from bytes `range` of the page at host address `page_at`. Whether
    /// there was anything.
    pub fn invalidate(&mut self, page_at: usize, range: &Range<u32>) -> bool {
        let Some(page) = self.pages.get_mut(&page_at) else { return false };
        let (blocks, map, memory) = (&mut self.blocks, &mut self.map, &self.memory);
        let before = page.blocks.len();
        page.blocks.retain(|&index| {
            let block = &mut blocks[index];
            let start = (block.guest - page_at) as u32;
            let hit = start < range.end && range.start < start + block.guest_len as u32;
            if hit {
                map.remove(&(block.guest, block.variant));
                for (site, target) in block.incoming.drain(..) {
                    memory.patch(site, target);
                }
            }
            !hit
        });
        let any = page.blocks.len() != before;
        if page.blocks.is_empty() {
            page.ram.tracking().release_code(page.index);
            self.pages.remove(&page_at);
        }
        any
    }

    /// Takes everything back. The code stays as it is until [`Cache::reuse`].
    pub fn forget_all(&mut self) {
        self.map.clear();
        for (_, page) in self.pages.drain() {
            page.ram.tracking().release_code(page.index);
        }
    }

    /// Begins anew; nobody executes old code any more.
    pub fn reuse(&mut self) {
        self.blocks.clear();
        self.used = self.fixed;
    }
}
