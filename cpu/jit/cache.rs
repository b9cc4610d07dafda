//! All translations, found by where their guest bytes lie and by the page that holds them.

use std::ops::Range;
use std::sync::Arc;

use base::memory::RamBlock;

use super::asm::Asm;
use super::memory::CodeMemory;
use super::record::{Record, Target};
use super::thunks::{Helpers, Thunks, assemble};
use super::translate::{Arrival, LONGEST, RecipeUse, Source, Translation, Variant, translate};
use crate::cpuid::Model;
use crate::hash::Map;

/// Most bytes of a block.
const MAX_BYTES: usize = 512;
const PAGE: usize = 4096;
/// Most bytes of an area at a time.
const AREA: usize = 64 << 10;
/// Most translations of one place that differ by how flags can be computed.
const MOST_RECIPES: u8 = 3;
/// Most guest addresses of a block that are remembered.
const MOST_ENTRIES: usize = 8;

/// A translated block.
struct Block {
    /// Host address of the first guest byte.
    guest: usize,
    variant: Variant,
    /// It would do better if it knew how to compute the flags it begins with.
    wants_recipe: bool,
    /// How often that was tried.
    recipes: u8,
    /// Where it is executed; empty if the interpreter is to execute it.
    code: Range<usize>,
    records: Box<[Record]>,
    traps: Vec<(Range<usize>, usize)>,
    /// Jumps that lead here, and where they led before.
    incoming: Vec<(usize, usize)>,
    /// Guest addresses by which jump tables lead here; more than [`MOST_ENTRIES`] are not kept.
    entered: Vec<u64>,
}

/// A page of guest code.
struct CodePage {
    ram: Arc<RamBlock>,
    /// Number of the page in its RAM block.
    index: usize,
    /// What was made from it: blocks by number, and the bytes of the page they are about.
    pieces: Vec<(usize, Range<u32>)>,
}

/// Free memory that code is placed in next.
#[derive(Clone, Copy, Default)]
struct Area {
    /// Offset in the code memory.
    at: usize,
    end: usize,
}

/// A place in RAM.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The RAM block.
    pub ram: &'a Arc<RamBlock>,
    /// Offset in it.
    pub offset: u64,
}

impl Place<'_> {
    fn host(&self) -> usize {
        self.ram.host() as usize + self.offset as usize
    }

    /// Has its page watched, before its bytes are read: a store in between is then noticed.
    fn watch(&self) {
        self.ram.tracking().protect_code(self.page());
    }

    fn page(&self) -> usize {
        (self.offset >> 12) as usize
    }
}

/// The cache proper; see [`super::Translator`] for who may use it when.
pub struct Cache {
    memory: CodeMemory,
    used: usize,
    /// How much of the memory is taken by what is never dropped.
    fixed: usize,
    /// For what is executed often, and what is not.
    areas: [Area; 2],
    /// By ascending address of their code.
    blocks: Vec<Block>,
    map: Map<(usize, Variant), usize>,
    pages: Map<usize, CodePage>,
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

/// What jump tables must forget.
pub enum Targets {
    /// Guest addresses and the code they lead to.
    These(Vec<(u64, usize)>),
    /// Everything.
    All,
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
            areas: Default::default(),
            blocks: Vec::new(),
            map: Map::default(),
            pages: Map::default(),
        };
        Ok((cache, thunks))
    }

    /// Where code may be.
    pub fn range(&self) -> Range<usize> {
        self.memory.start()..self.memory.start() + self.memory.len()
    }

    /// Finds or makes the translation of the block at `place`. If its first instruction goes on in
    /// the next page, that is `next`.
    pub fn find(
        &mut self,
        place: Place<'_>,
        next: Option<Place<'_>>,
        variant: Variant,
        model: &Model,
        thunks: &Thunks,
    ) -> Found {
        match self.map.get(&(place.host(), variant)) {
            Some(index) => self.found(*index),
            None => self.add(place, next, variant, model, thunks),
        }
    }

    fn found(&self, index: usize) -> Found {
        Found::Code(self.blocks[index].code.start)
    }

    /// Translates the block at `place`.
    fn add(
        &mut self,
        place: Place<'_>,
        next: Option<Place<'_>>,
        variant: Variant,
        model: &Model,
        thunks: &Thunks,
    ) -> Found {
        let start = place.offset as usize % PAGE;
        place.watch();
        let mut bytes = vec![0; MAX_BYTES.min(PAGE - start)];
        place.ram.read(place.offset, &mut bytes);
        let block = self.blocks.len() as u32;
        let start = start as u16;
        let source = Source { bytes: &bytes, next_page: None, start, block, variant, model };
        let mut translation = self.translate(&source, thunks);
        // An instruction that goes on in the next page is a block of its own.
        let crossing = bytes.len() < LONGEST;
        let next = next.filter(|_| crossing && translation.is_none());
        if let Some(next) = next {
            next.watch();
            let mut rest = vec![0; LONGEST - bytes.len()];
            next.ram.read(next.offset, &mut rest);
            bytes.extend(rest);
            let next_page = Some(next.host());
            let source = Source { bytes: &bytes, next_page, start, block, variant, model };
            translation = self.translate(&source, thunks);
        }
        let found = match translation {
            Some(translation) => self.enter(place, next, variant, translation),
            None if crossing => Found::Interpret,
            None => Found::Full,
        };
        for place in [Some(place), next].into_iter().flatten() {
            if !self.pages.contains_key(&(place.host() & !(PAGE - 1))) {
                place.ram.tracking().release_code(place.page());
            }
        }
        found
    }

    /// Translates into the free areas, which are renewed if they are too small. `None` if there is
    /// nothing to translate, or no room.
    fn translate(&mut self, source: &Source<'_>, thunks: &Thunks) -> Option<Translation> {
        for _ in 0..3 {
            let address = self.areas.map(|area| self.memory.start() + area.at);
            let translation = translate(source, (address[0], address[1]), thunks)?;
            let cold_len = translation.code.len() - translation.hot_len;
            let mut fits = true;
            for (number, len) in [translation.hot_len, cold_len].into_iter().enumerate() {
                let area = self.areas[number];
                if area.at + len > area.end {
                    self.areas[number] = self.new_area()?;
                    fits = false;
                }
            }
            if fits {
                return Some(translation);
            }
        }
        None
    }

    fn new_area(&mut self) -> Option<Area> {
        let len = AREA.min(self.memory.len() / 8);
        let area = Area { at: self.used, end: self.used + len };
        if area.end > self.memory.len() {
            return None;
        }
        self.used = area.end;
        Some(area)
    }

    /// Keeps a translation that was made for the free areas.
    fn enter(
        &mut self,
        place: Place<'_>,
        next: Option<Place<'_>>,
        mut variant: Variant,
        mut translation: Translation,
    ) -> Found {
        let guest = place.host();
        if variant.arrival.in_host() && translation.recipe != RecipeUse::Used {
            // The same code as without a recipe.
            variant.arrival = Arrival::Host(None);
            if let Some(index) = self.map.get(&(guest, variant)) {
                return self.found(*index);
            }
        }
        for (at, record) in translation.record_sites {
            let record = &raw const translation.records[record] as u64;
            translation.code[at..at + 8].copy_from_slice(&record.to_le_bytes());
        }
        let (hot, cold) = translation.code.split_at(translation.hot_len);
        let address = self.memory.start() + self.areas[0].at;
        for (area, code) in self.areas.iter_mut().zip([hot, cold]) {
            if !self.memory.write(area.at, code) {
                return Found::Full;
            }
            area.at = (area.at + code.len()).next_multiple_of(16).min(area.end);
        }
        let index = self.blocks.len();
        self.blocks.push(Block {
            guest,
            variant,
            wants_recipe: translation.recipe == RecipeUse::Wanted,
            recipes: 0,
            code: address..address + translation.hot_len,
            records: translation.records,
            traps: translation.traps,
            incoming: Vec::new(),
            entered: Vec::new(),
        });
        self.map.insert((guest, variant), index);
        let start = (place.offset as usize % PAGE) as u32;
        let end = start + translation.guest_len as u32;
        self.note_piece(place, index, start..end.min(PAGE as u32));
        if let Some(next) = next {
            self.note_piece(next, index, 0..end.saturating_sub(PAGE as u32));
        }
        Found::Code(address)
    }

    /// Notes that block `index` was made from bytes `range` of the page of `place`.
    fn note_piece(&mut self, place: Place<'_>, index: usize, range: Range<u32>) {
        let page = self.pages.entry(place.host() & !(PAGE - 1)).or_insert_with(|| CodePage {
            ram: place.ram.clone(),
            index: place.page(),
            pieces: Vec::new(),
        });
        page.pieces.push((index, range));
    }

    /// The block whose code `pc` lies in.
    fn block_at(&self, pc: usize) -> Option<&Block> {
        let after = self.blocks.partition_point(|block| block.code.start <= pc);
        self.blocks.get(after.checked_sub(1)?).filter(|block| block.code.contains(&pc))
    }

    /// What is known about the instruction at `pc`, which trapped.
    pub fn trap_at(&self, pc: usize) -> Option<&Record> {
        let block = self.block_at(pc)?;
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
        target: Target,
        next: Option<Place<'_>>,
        model: &Model,
        thunks: &Thunks,
    ) -> Found {
        let Some(block) = self.blocks.get(from as usize) else { return Found::Interpret };
        let (guest, variant) = (block.guest, block.variant);
        let Some(page) = self.pages.get(&(guest & !(PAGE - 1))) else { return Found::Interpret };
        let ram = page.ram.clone();
        let offset = (page.index * PAGE) as u64 + u64::from(target.at);
        let wanted = Variant { arrival: target.arrival, alone: target.alone, ..variant };
        let place = Place { ram: &ram, offset };
        let found = self.find_arrival(place, next, wanted, model, thunks);
        // A block that was taken back meanwhile is not executed again.
        if let Found::Code(code) = found
            && self.map.get(&(guest, variant)) == Some(&(from as usize))
            && let Some(before) = self.memory.patch(site, code)
            && let Ok(index) = self.blocks.binary_search_by_key(&code, |block| block.code.start)
        {
            self.blocks[index].incoming.push((site, before));
        }
        found
    }

    /// Finds or makes a translation for flags that arrive as `wanted` says. One that knows how to
    /// compute them is only made where that is of use.
    fn find_arrival(
        &mut self,
        place: Place<'_>,
        next: Option<Place<'_>>,
        wanted: Variant,
        model: &Model,
        thunks: &Thunks,
    ) -> Found {
        let Arrival::Host(Some(_)) = wanted.arrival else {
            return self.find(place, next, wanted, model, thunks);
        };
        let guest = place.host();
        if let Some(index) = self.map.get(&(guest, wanted)) {
            return self.found(*index);
        }
        let plain = Variant { arrival: Arrival::Host(None), ..wanted };
        if let Some(&index) = self.map.get(&(guest, plain)) {
            let block = &mut self.blocks[index];
            if !block.wants_recipe || block.recipes >= MOST_RECIPES {
                return self.found(index);
            }
            block.recipes += 1;
        }
        self.add(place, next, wanted, model, thunks)
    }

    /// Notes that jump tables lead from guest address `rip` to the block at `place`.
    pub fn note_entry(&mut self, place: Place<'_>, variant: Variant, rip: u64) {
        let Some(index) = self.map.get(&(place.host(), variant)) else { return };
        let entered = &mut self.blocks[*index].entered;
        if entered.len() <= MOST_ENTRIES && !entered.contains(&rip) {
            entered.push(rip);
        }
    }

    /// Takes back what was made from bytes `range` of the page at host address `page_at`. `None` if
    /// there was nothing.
    pub fn invalidate(&mut self, page_at: usize, range: &Range<u32>) -> Option<Targets> {
        let page = self.pages.get_mut(&page_at)?;
        let (mut targets, mut all) = (Vec::new(), false);
        let (blocks, map, memory) = (&mut self.blocks, &mut self.map, &self.memory);
        let before = page.pieces.len();
        page.pieces.retain(|(index, bytes)| {
            let hit = bytes.start < range.end && range.start < bytes.end;
            if hit {
                let block = &mut blocks[*index];
                let entry = (block.guest, block.variant);
                if map.get(&entry) == Some(index) {
                    map.remove(&entry);
                }
                for (site, target) in block.incoming.drain(..) {
                    memory.patch(site, target);
                }
                let entered = std::mem::take(&mut block.entered);
                all |= entered.len() > MOST_ENTRIES;
                targets.extend(entered.into_iter().map(|rip| (rip, block.code.start)));
            }
            !hit
        });
        let any = page.pieces.len() != before;
        if page.pieces.is_empty() {
            page.ram.tracking().release_code(page.index);
            self.pages.remove(&page_at);
        }
        any.then_some(if all { Targets::All } else { Targets::These(targets) })
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
        self.areas = Default::default();
    }
}
