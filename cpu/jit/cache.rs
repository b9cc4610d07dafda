//! All translations, found by where their guest bytes lie and by the page that holds them.
//!
//! The code memory consists of a few *regions* that are filled one after the other. Before the next
//! one is needed, what it holds is taken back; it is used again once every processor has been seen
//! outside of translated code since. The other regions stay as they are.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use base::memory::RamBlock;

use super::asm::Asm;
use super::memory::CodeMemory;
use super::observe;
use super::quiet::{LINE_BITS, Quiet};
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
/// Most regions, and the bytes that one has unless there would be less than two.
const MOST_REGIONS: usize = 16;
const REGION: usize = 256 << 10;
/// Most translations of one place that differ by how flags can be computed.
const MOST_RECIPES: u8 = 3;
/// After how many stores beside code it is worked out where they need not be reported.
const MANY_MISSES: u32 = 256;
/// Most guest addresses of a block that are remembered.
const MOST_ENTRIES: usize = 8;
/// How often control comes to a place by jumps back until a trace is made from there.
const HOT: u8 = 32;

/// The number of a block: of its region and in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockId(u32);

impl BlockId {
    const INDEX_BITS: u32 = 24;

    fn new(region: usize, index: usize) -> Self {
        BlockId((region as u32) << Self::INDEX_BITS | index as u32)
    }
    fn region(self) -> usize {
        (self.0 >> Self::INDEX_BITS) as usize
    }
    fn index(self) -> usize {
        (self.0 & ((1 << Self::INDEX_BITS) - 1)) as usize
    }
}

/// A translated block.
struct Block {
    /// Host address of the first guest byte.
    guest: usize,
    variant: Variant,
    /// It would do better if it knew how to compute the flags it begins with.
    wants_recipe: bool,
    /// How often that was tried.
    recipes: u8,
    /// Where it is executed; what is seldom executed lies elsewhere.
    code: Range<usize>,
    /// Bytes of host code in all, and of guest code.
    host_len: u32,
    guest_len: u16,
    /// It goes on in the next page.
    crosses: bool,
    /// Jumps of it that lead to other blocks directly.
    linked: u8,
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
    /// What was made from it: blocks, and the bytes of the page they are about.
    pieces: Vec<(BlockId, Range<u32>)>,
    /// The lines of 64 bytes, a bit each, that pieces are about, and maybe others: most stores beside
    /// code are told from those that hit it by this alone.
    lines: u64,
    /// Stores that hit none of them since one was made.
    misses: u32,
    /// How often control came to these places by jumps back that were not linked yet.
    heads: Vec<(u16, u8)>,
}

/// The lines of 64 bytes that `bytes` of a page lie in.
fn lines(bytes: &Range<u32>) -> u64 {
    let (first, last) = (bytes.start >> 6, bytes.end.saturating_sub(1) >> 6);
    !0 << (first & 63) & !0 >> (63 - (last & 63))
}

impl CodePage {
    /// Control comes to `at` by a jump back. How often it has by now.
    fn warm(&mut self, at: u16) -> u8 {
        let known = self.heads.iter().position(|(head, _)| *head == at);
        let index = known.unwrap_or_else(|| {
            self.heads.push((at, 0));
            self.heads.len() - 1
        });
        let count = &mut self.heads[index].1;
        *count = count.saturating_add(1);
        *count
    }

    /// A store hit none of the pieces. If there were many of that kind, the lines that pieces are
    /// about are the only ones whose stores are reported from here on. Whether there is any piece, or
    /// may soon be one again.
    fn missed(&mut self, page: usize, quiet: &Quiet) -> bool {
        self.misses += 1;
        if self.misses < MANY_MISSES {
            return true;
        }
        self.misses = 0;
        if self.pieces.is_empty() {
            return false;
        }
        let mut used = 0_u32;
        for (_, bytes) in &self.pieces {
            let lines = bytes.start >> LINE_BITS..bytes.end.div_ceil(1 << LINE_BITS);
            lines.for_each(|line| used |= 1 << (line & 31));
        }
        if used != !0 {
            quiet.silence(page, !used);
            self.ram.tracking().renew_code(self.index);
        }
        true
    }
}

/// Free memory that code is placed in next.
#[derive(Clone, Copy, Default)]
struct Area {
    /// Offset in the code memory.
    at: usize,
    end: usize,
}

/// Part of the code memory.
struct Region {
    /// Its offset in the code memory, its end, and how far it is used.
    start: usize,
    end: usize,
    used: usize,
    /// For what is executed often, and what is not.
    areas: [Area; 2],
    /// By ascending address of their code.
    blocks: Vec<Block>,
    /// What it held was taken back when the translator began this generation: it is free when
    /// everybody has left the code of those before.
    evicted: Option<u64>,
}

impl Region {
    fn new(start: usize, end: usize) -> Self {
        Region {
            start,
            end,
            used: start,
            areas: Default::default(),
            blocks: Vec::new(),
            evicted: None,
        }
    }

    fn area_len(&self) -> usize {
        AREA.min((self.end - self.start) / 4)
    }

    fn new_area(&mut self) -> Option<Area> {
        let area = Area { at: self.used, end: self.used + self.area_len() };
        if area.end > self.end {
            return None;
        }
        self.used = area.end;
        Some(area)
    }
}

/// What a translator did, as people ask for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Bytes of code memory in use, and there are.
    pub used: usize,
    /// See `used`.
    pub room: usize,
    /// Blocks there are.
    pub blocks: usize,
    /// Their bytes of guest code, in all and at most.
    pub guest_bytes: usize,
    /// See `guest_bytes`.
    pub longest: usize,
    /// Their bytes of host code.
    pub host_bytes: usize,
    /// Those that go on in the next page.
    pub crossing: usize,
    /// Those with a jump that leads to another block directly, and with more.
    pub linked: usize,
    /// See `linked`.
    pub linked_twice: usize,
    /// Regions taken back to make room.
    pub evictions: u64,
    /// Blocks taken back because their bytes were written.
    pub invalidated: u64,
    /// Blocks made since the beginning, and those of them that follow jumps.
    pub translated: u64,
    /// See `translated`.
    pub traces: u64,
    /// How often a block was executed in lock-step, and how often one could not be.
    pub checked: [u64; 2],
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

/// What is known about how often a jump back is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heat {
    /// Not often, so far.
    Cold,
    /// From now on it is worth a trace, of this variant, from where it leads.
    Hot(Variant),
    /// It has been, for some time.
    Known,
}

/// A jump that may be linked.
#[derive(Clone, Copy)]
pub struct Jump {
    /// The block that it belongs to.
    pub from: BlockId,
    /// Address of its distance.
    pub site: usize,
    /// It is not linked yet, so that it is counted.
    pub cold: bool,
}

/// The cache proper; see [`super::Translator`] for who may use it when.
pub struct Cache {
    memory: CodeMemory,
    regions: Box<[Region]>,
    /// The region that is being filled.
    current: usize,
    map: Map<(usize, Variant), BlockId>,
    pages: Map<usize, CodePage>,
    /// See [`HOT`].
    pub hot: u8,
    /// Counts for [`Cache::report`].
    evictions: u64,
    invalidated: u64,
    translated: u64,
    traces: u64,
}

/// What making a translation takes beside the place.
pub struct Context<'a> {
    /// What the processor offers.
    pub model: &'a Model,
    /// Where translated code goes for what it cannot do.
    pub thunks: &'a Thunks,
    /// Guest address of the place, for those who watch.
    pub rip: u64,
}

/// What the cache knows about a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The translation's address.
    Code(usize),
    /// The interpreter should execute the block there.
    Interpret,
    /// There is no room for a translation: see [`Cache::advance`].
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
        observe::thunks(&asm.bytes, memory.start());
        let fixed = asm.bytes.len().next_multiple_of(64);
        let count = (len / REGION).clamp(2, MOST_REGIONS);
        let room = ((len - fixed) / count) & !63;
        let place = |number| fixed + number * room;
        let cache = Cache {
            memory,
            regions: (0..count).map(|n| Region::new(place(n), place(n + 1))).collect(),
            current: 0,
            map: Map::default(),
            pages: Map::default(),
            hot: HOT,
            evictions: 0,
            invalidated: 0,
            translated: 0,
            traces: 0,
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
        context: &Context<'_>,
    ) -> Found {
        match self.map.get(&(place.host(), variant)) {
            Some(id) => self.found(*id),
            None => self.add(place, next, variant, context),
        }
    }

    fn block(&self, id: BlockId) -> Option<&Block> {
        self.regions.get(id.region())?.blocks.get(id.index())
    }

    fn block_mut(&mut self, id: BlockId) -> Option<&mut Block> {
        self.regions.get_mut(id.region())?.blocks.get_mut(id.index())
    }

    fn found(&self, id: BlockId) -> Found {
        self.block(id).map_or(Found::Interpret, |block| Found::Code(block.code.start))
    }

    /// Translates the block at `place`.
    fn add(
        &mut self,
        place: Place<'_>,
        next: Option<Place<'_>>,
        variant: Variant,
        context: &Context<'_>,
    ) -> Found {
        let start = place.offset as usize % PAGE;
        place.watch();
        let mut bytes = vec![0; MAX_BYTES.min(PAGE - start)];
        place.ram.read(place.offset, &mut bytes);
        let source = self.source(&bytes, start as u16, variant, context);
        let mut translation = self.translate(&source, context.thunks);
        // An instruction that goes on in the next page is a block of its own.
        let crossing = bytes.len() < LONGEST;
        let next = next.filter(|_| crossing && matches!(translation, Err(Found::Interpret)));
        if let Some(next) = next {
            next.watch();
            let mut rest = vec![0; LONGEST - bytes.len()];
            next.ram.read(next.offset, &mut rest);
            bytes.extend(rest);
            let next_page = Some(next.host());
            let source =
                Source { next_page, ..self.source(&bytes, start as u16, variant, context) };
            translation = self.translate(&source, context.thunks);
        }
        let found = match translation {
            Ok(translation) => {
                let next_page = next.map(|next| next.host());
                let source =
                    Source { next_page, ..self.source(&bytes, start as u16, variant, context) };
                self.show(&source, &translation, context.rip);
                let variant = variant.made(&translation);
                match self.map.get(&(place.host(), variant)) {
                    // The same code as without a recipe.
                    Some(id) => self.found(*id),
                    None => self.enter(place, next, variant, translation),
                }
            }
            Err(found) => found,
        };
        for place in [Some(place), next].into_iter().flatten() {
            if !self.pages.contains_key(&(place.host() & !(PAGE - 1))) {
                place.ram.tracking().release_code(place.page());
            }
        }
        found
    }

    /// What the next block is translated from: `bytes` from `start` of a page on.
    fn source<'a>(
        &self,
        bytes: &'a [u8],
        start: u16,
        variant: Variant,
        context: &Context<'a>,
    ) -> Source<'a> {
        let block = BlockId::new(self.current, self.regions[self.current].blocks.len());
        let (origin, model) = (start, context.model);
        Source { bytes, origin, next_page: None, start, path: &[], block, variant, model }
    }

    /// Has `target` been jumped back to, out of block `from`, often enough? To be asked whenever that
    /// is done by way of the dispatcher.
    pub fn warm(&mut self, from: BlockId, target: Target) -> Heat {
        let Some(block) = self.block(from).filter(|block| !block.variant.apart) else {
            return Heat::Known;
        };
        let (page, variant) = (block.guest & !(PAGE - 1), block.variant);
        let Some(page) = self.pages.get_mut(&page) else { return Heat::Known };
        match page.warm(target.at).cmp(&self.hot) {
            Ordering::Less => Heat::Cold,
            Ordering::Equal => Heat::Hot(Variant { arrival: target.arrival, ..variant }),
            Ordering::Greater => Heat::Known,
        }
    }

    /// Makes a trace from `place` along `path`, which takes the place of the block there, unless it
    /// would be no more than that. What jump tables must forget.
    pub fn trace(
        &mut self,
        place: Place<'_>,
        variant: Variant,
        path: &[u16],
        context: &Context<'_>,
    ) -> Option<Targets> {
        let start = (place.offset as usize % PAGE) as u16;
        let first = path.iter().copied().fold(start, u16::min);
        let last = path.iter().copied().fold(start, u16::max);
        if !self.pages.contains_key(&(place.host() & !(PAGE - 1))) {
            return None;
        }
        let mut bytes = vec![0; PAGE.min(usize::from(last) + MAX_BYTES) - usize::from(first)];
        place.ram.read(place.offset - u64::from(start - first), &mut bytes);
        let source = Source { origin: first, path, ..self.source(&bytes, start, variant, context) };
        if !source.turns() {
            return None;
        }
        let translation = self.translate(&source, context.thunks).ok()?;
        self.show(&source, &translation, context.rip);
        let variant = variant.made(&translation);
        let old = self.map.get(&(place.host(), variant)).copied();
        let Found::Code(code) = self.enter(place, None, variant, translation) else { return None };
        self.traces += 1;
        // Nothing leads to the old block any more, but it may be executed for a while.
        let (mut incoming, mut targets) = (Vec::new(), Vec::new());
        if let Some(old) = old.and_then(|old| self.block_mut(old)) {
            incoming = std::mem::take(&mut old.incoming);
            let from = old.code.start;
            targets.extend(std::mem::take(&mut old.entered).into_iter().map(|rip| (rip, from)));
        }
        for (site, _) in &incoming {
            self.memory.patch(*site, code);
        }
        if let Some(new) = self.block_at(code).and_then(|new| self.block_mut(new)) {
            new.incoming.extend(incoming);
        }
        Some(if targets.len() > MOST_ENTRIES { Targets::All } else { Targets::These(targets) })
    }

    /// Translates into the free areas, which are renewed if they are too small.
    fn translate(&mut self, source: &Source<'_>, thunks: &Thunks) -> Result<Translation, Found> {
        let start = self.memory.start();
        let region = &mut self.regions[self.current];
        for _ in 0..3 {
            let [hot, cold] = region.areas.map(|area| start + area.at);
            let translation = translate(source, (hot, cold), thunks).ok_or(Found::Interpret)?;
            let cold_len = translation.code.len() - translation.hot_len;
            let mut fits = true;
            for (number, len) in [translation.hot_len, cold_len].into_iter().enumerate() {
                if len > region.area_len() {
                    return Err(Found::Interpret);
                }
                let area = region.areas[number];
                if area.at + len > area.end {
                    region.areas[number] = region.new_area().ok_or(Found::Full)?;
                    self.memory.settle();
                    fits = false;
                }
            }
            if fits {
                return Ok(translation);
            }
        }
        Err(Found::Full)
    }

    /// Tells those who watch of a translation that was made for the free areas.
    fn show(&self, source: &Source<'_>, translation: &Translation, rip: u64) {
        let places = self.regions[self.current].areas.map(|area| self.memory.start() + area.at);
        observe::translated(source, translation, places, rip);
    }

    /// Keeps a translation that was made for the free areas.
    fn enter(
        &mut self,
        place: Place<'_>,
        next: Option<Place<'_>>,
        variant: Variant,
        translation: Translation,
    ) -> Found {
        let guest = place.host();
        let (hot, cold) = translation.code.split_at(translation.hot_len);
        let region = &mut self.regions[self.current];
        let address = self.memory.start() + region.areas[0].at;
        for (area, code) in region.areas.iter_mut().zip([hot, cold]) {
            if !self.memory.write(area.at, code) {
                return Found::Full;
            }
            area.at = (area.at + code.len()).next_multiple_of(16).min(area.end);
        }
        let id = BlockId::new(self.current, region.blocks.len());
        region.blocks.push(Block {
            guest,
            variant,
            wants_recipe: translation.recipe == RecipeUse::Wanted,
            recipes: 0,
            code: address..address + translation.hot_len,
            host_len: translation.code.len() as u32,
            guest_len: translation.guest.iter().map(|run| run.len() as u16).sum(),
            crosses: next.is_some(),
            linked: 0,
            records: translation.records,
            traps: translation.traps,
            incoming: translation.loops,
            entered: Vec::new(),
        });
        self.translated += 1;
        self.map.insert((guest, variant), id);
        for run in translation.guest {
            self.note_piece(place, id, run.start..run.end.min(PAGE as u32));
            if let Some(next) = next {
                self.note_piece(next, id, 0..run.end.saturating_sub(PAGE as u32));
            }
        }
        Found::Code(address)
    }

    /// Notes that block `id` was made from bytes `range` of the page of `place`.
    fn note_piece(&mut self, place: Place<'_>, id: BlockId, range: Range<u32>) {
        let page = self.pages.entry(place.host() & !(PAGE - 1)).or_insert_with(|| CodePage {
            ram: place.ram.clone(),
            index: place.page(),
            pieces: Vec::new(),
            lines: 0,
            misses: 0,
            heads: Vec::new(),
        });
        page.lines |= lines(&range);
        page.pieces.push((id, range));
        page.misses = 0;
    }

    /// The number of the region that the code at `address` lies in.
    fn region_of(&self, address: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.memory.start());
        self.regions.iter().position(|region| (region.start..region.end).contains(&offset))
    }

    /// The block whose code `pc` lies in.
    fn block_at(&self, pc: usize) -> Option<BlockId> {
        let number = self.region_of(pc)?;
        let blocks = &self.regions[number].blocks;
        let index = blocks.partition_point(|block| block.code.start <= pc).checked_sub(1)?;
        blocks[index].code.contains(&pc).then(|| BlockId::new(number, index))
    }

    /// What is known about the instruction at `pc`, which trapped.
    pub fn trap_at(&self, pc: usize) -> Option<&Record> {
        let block = self.block(self.block_at(pc)?)?;
        let offset = pc - block.code.start;
        let (_, record) = block.traps.iter().find(|(range, _)| range.contains(&offset))?;
        block.records.get(*record)
    }

    /// Where in its page the block begins whose code `pc` lies in.
    pub fn start_of(&self, pc: usize) -> Option<u16> {
        let block = self.block(self.block_at(pc)?)?;
        Some((block.guest % PAGE) as u16)
    }

    /// Leads a jump to the block at `target` of the same page. The block's address, if it can be
    /// executed.
    pub fn link(
        &mut self,
        Jump { from, site, cold }: Jump,
        target: Target,
        next: Option<Place<'_>>,
        context: &Context<'_>,
    ) -> Found {
        let Some(block) = self.block(from) else { return Found::Interpret };
        let (guest, variant) = (block.guest, block.variant);
        let Some(page) = self.pages.get(&(guest & !(PAGE - 1))) else { return Found::Interpret };
        let ram = page.ram.clone();
        let offset = (page.index * PAGE) as u64 + u64::from(target.at);
        let wanted = Variant { arrival: target.arrival, alone: target.alone, ..variant };
        let place = Place { ram: &ram, offset };
        let found = self.find_arrival(place, next, wanted, context);
        // A block that was taken back meanwhile is not executed again.
        if let Found::Code(code) = found
            && !cold
            && !variant.apart
            && self.map.get(&(guest, variant)) == Some(&from)
            && let Some(to) = self.block_at(code)
            && let Some(before) = self.memory.target(site)
            // Another processor may have come here by the same jump, and been faster.
            && self.block_at(before).is_none()
        {
            self.memory.patch(site, code);
            if let Some(block) = self.block_mut(to) {
                block.incoming.push((site, before));
            }
            if let Some(block) = self.block_mut(from) {
                block.linked = block.linked.saturating_add(1);
            }
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
        context: &Context<'_>,
    ) -> Found {
        let Arrival::Host(Some(_)) = wanted.arrival else {
            return self.find(place, next, wanted, context);
        };
        let guest = place.host();
        if let Some(id) = self.map.get(&(guest, wanted)) {
            return self.found(*id);
        }
        let plain = Variant { arrival: Arrival::Host(None), ..wanted };
        if let Some(&id) = self.map.get(&(guest, plain))
            && let Some(block) = self.block_mut(id)
        {
            if !block.wants_recipe || block.recipes >= MOST_RECIPES {
                return self.found(id);
            }
            block.recipes += 1;
        }
        self.add(place, next, wanted, context)
    }

    /// Notes that jump tables lead from guest address `rip` to the block at `place`.
    pub fn note_entry(&mut self, place: Place<'_>, variant: Variant, rip: u64) {
        let Some(&id) = self.map.get(&(place.host(), variant)) else { return };
        let Some(block) = self.block_mut(id) else { return };
        let entered = &mut block.entered;
        if entered.len() <= MOST_ENTRIES && !entered.contains(&rip) {
            entered.push(rip);
        }
    }

    /// Takes back what was made from bytes `range` of the page at host address `page_at`. `None` if
    /// there was nothing: if that happens often, stores to `quiet` lines are not reported any more.
    pub fn invalidate(
        &mut self,
        page_at: usize,
        range: &Range<u32>,
        quiet: &Quiet,
    ) -> Option<Targets> {
        let page = self.pages.get_mut(&page_at)?;
        let (mut targets, mut all) = (Vec::new(), false);
        let (regions, map, memory) = (&mut self.regions, &mut self.map, &self.memory);
        let before = page.pieces.len();
        if page.lines & lines(range) != 0 {
            let mut left = 0;
            page.pieces.retain(|(id, bytes)| {
                let hit = bytes.start < range.end && range.start < bytes.end;
                let region = regions.get_mut(id.region()).filter(|_| hit);
                if let Some(block) = region.and_then(|region| region.blocks.get_mut(id.index())) {
                    let entry = (block.guest, block.variant);
                    if map.get(&entry) == Some(id) {
                        map.remove(&entry);
                    }
                    for (site, target) in block.incoming.drain(..) {
                        memory.patch(site, target);
                    }
                    let entered = std::mem::take(&mut block.entered);
                    all |= entered.len() > MOST_ENTRIES;
                    targets.extend(entered.into_iter().map(|rip| (rip, block.code.start)));
                }
                left |= if hit { 0 } else { lines(bytes) };
                !hit
            });
            page.lines = left;
            // Other code may come.
            page.heads.clear();
        }
        self.invalidated += (before - page.pieces.len()) as u64;
        let any = page.pieces.len() != before;
        if !any && !page.missed(page_at, quiet) {
            page.ram.tracking().release_code(page.index);
            self.pages.remove(&page_at);
        }
        any.then_some(if all { Targets::All } else { Targets::These(targets) })
    }

    fn next_region(&self) -> usize {
        (self.current + 1) % self.regions.len()
    }

    /// Goes on in the next region, if that is free: nothing was ever put there, or everybody `left` the
    /// code of the generations before the one in which it was taken back.
    #[must_use]
    pub fn advance(&mut self, left: impl FnOnce(u64) -> bool) -> bool {
        let next = self.next_region();
        let region = &mut self.regions[next];
        match region.evicted {
            Some(generation) if !left(generation) => return false,
            None if !region.blocks.is_empty() => return false,
            _ => {}
        }
        *region = Region::new(region.start, region.end);
        self.current = next;
        true
    }

    /// Takes back what the next region holds, so that it is free in time. The code stays as it is until
    /// [`Cache::advance`]. Whether there was something: then `generation` has to begin, and jump tables
    /// must forget everything.
    #[must_use]
    pub fn evict_next(&mut self, generation: u64) -> bool {
        let number = self.next_region();
        let region = &mut self.regions[number];
        if region.blocks.is_empty() || region.evicted.is_some() {
            return false;
        }
        region.evicted = Some(generation);
        let ours = region.start..region.end;
        for block in &mut region.blocks {
            for (site, target) in block.incoming.drain(..) {
                self.memory.patch(site, target);
            }
        }
        let start = self.memory.start();
        let others = self.regions.iter_mut().enumerate().filter(|(other, _)| *other != number);
        for block in others.flat_map(|(_, region)| &mut region.blocks) {
            block.incoming.retain(|(site, _)| !ours.contains(&(site - start)));
        }
        self.map.retain(|_, id| id.region() != number);
        self.pages.retain(|_, page| {
            page.pieces.retain(|(id, _)| id.region() != number);
            if page.pieces.is_empty() {
                page.ram.tracking().release_code(page.index);
            }
            !page.pieces.is_empty()
        });
        self.evictions += 1;
        true
    }

    /// What there is.
    pub fn report(&self) -> Report {
        let mut report = Report {
            used: self.regions.iter().map(|region| region.used - region.start).sum(),
            room: self.memory.len(),
            evictions: self.evictions,
            invalidated: self.invalidated,
            translated: self.translated,
            traces: self.traces,
            ..Report::default()
        };
        for block in self.map.values().filter_map(|id| self.block(*id)) {
            report.blocks += 1;
            report.guest_bytes += usize::from(block.guest_len);
            report.longest = report.longest.max(block.guest_len.into());
            report.host_bytes += block.host_len as usize;
            report.crossing += usize::from(block.crosses);
            report.linked += usize::from(block.linked > 0);
            report.linked_twice += usize::from(block.linked > 1);
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp::RunExit;
    use crate::jit::Translator;
    use crate::jit::record::Kind;
    use crate::testbed::Testbed;

    #[test]
    fn bytes_lie_in_lines() {
        assert_eq!(lines(&(0..1)), 1);
        assert_eq!(lines(&(63..65)), 3);
        assert_eq!(lines(&(4095..4096)), 1 << 63);
        assert_eq!(lines(&(0..4096)), !0);
        assert_eq!(lines(&(128..192)), 4);
    }

    #[test]
    fn what_was_written_stays_when_pages_are_let_go() {
        let mut memory = CodeMemory::new(16 << 12).unwrap();
        assert!(memory.write(0, &[7; 5 << 12]));
        memory.settle();
        let mut bytes = vec![0; 5 << 12];
        memory.read(0, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 7));
        assert!(memory.write(8192, &[8; 4096]));
        memory.settle();
        memory.read(8192, &mut bytes[..4096]);
        assert_eq!(bytes[..4096], [8; 4096]);
    }

    #[test]
    fn a_jump_that_two_processors_link_is_unlinked() {
        const CODE: u64 = 0x1000;
        let mut bed = Testbed::new().unwrap();
        let translator = Translator::new(64 << 10).unwrap();
        bed.cpu.translate_by(&translator);
        // jmp to the next instruction; hlt
        bed.ram.write(CODE, &[0xeb, 0, 0xf4]);
        bed.run(CODE);
        let mut cache = translator.cache.lock();
        let from = BlockId::new(0, 0);
        let links =
            cache.block(from).unwrap().records.iter().find_map(|record| match record.kind {
                Kind::Link { target, site, .. } => Some((target, site)),
                _ => None,
            });
        let (target, site) = links.unwrap();
        let linked = cache.memory.target(site).unwrap();
        assert!(cache.block_at(linked).is_some());
        // Another processor has left by the jump before it was linked.
        let context =
            Context { model: &bed.cpu.model, thunks: &translator.thunks, rip: bed.cpu.state.rip };
        let found = cache.link(Jump { from, site, cold: false }, target, None, &context);
        assert_eq!(found, Found::Code(linked));
        let page = bed.ram.host() as usize + CODE as usize;
        assert!(cache.invalidate(page, &(2..3), &translator.quiet).is_some());
        assert!(cache.block_at(cache.memory.target(site).unwrap()).is_none());
    }

    #[test]
    fn lock_step_notices_what_differs() {
        const CODE: u64 = 0x1000;
        let mut bed = Testbed::new().unwrap();
        let translator = Translator::in_lock_step(64 << 10).unwrap();
        bed.cpu.translate_by(&translator);
        // mov eax, 0x11223344; hlt
        let code = [0xb8, 0x44, 0x33, 0x22, 0x11, 0xf4];
        bed.ram.write(CODE, &code);
        assert_eq!(bed.run(CODE), RunExit::Halted);
        {
            let mut cache = translator.cache.lock();
            let block = cache.block(BlockId::new(0, 0)).unwrap();
            let from = block.code.start - cache.memory.start();
            let mut host = vec![0; block.code.len()];
            cache.memory.read(from, &mut host);
            let at = host.windows(4).position(|bytes| bytes == &code[1..5]).unwrap();
            assert!(cache.memory.write(from + at, &[0x55]));
        }
        assert_eq!(bed.run(CODE), RunExit::Failed);
        let failure = bed.cpu.failure.take().unwrap();
        assert!(
            failure.starts_with("the engines disagree about the block at 0x1000:"),
            "{failure}"
        );
        assert!(failure.contains("registers: interpreted Some([11223344"), "{failure}");
        assert!(failure.contains("translated Some([11223355"), "{failure}");
    }
}
