//! The translator: guest code becomes host code of the same language.
//!
//! A block of guest instructions is translated once (`translate`), kept by where its bytes lie
//! (`cache`), and executed by every processor that comes there. `Cpu::run_translated` goes from
//! block to block as long as blocks do not find their successors by themselves. What is not
//! translated is executed by the interpreter's handlers, one instruction at a time (`helper`).
//! docs/translator.md tells the story of a block.
#![allow(unsafe_code)]
// Unsafe: translated code is called.

mod asm;
mod cache;
mod check;
pub mod coverage;
mod flags;
mod frame;
mod gather;
mod helper;
mod jump;
mod memory;
mod observe;
mod quiet;
mod record;
mod signal;
#[cfg(test)]
mod tests;
mod thunks;
mod translate;
mod x87;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use base::memory::{CodeWatcher, RamBlock};
use base::trace_event;
use parking_lot::Mutex;

use crate::cpuid::Model;
use crate::interp::decode::{End, Key};
use crate::interp::{Cache as Decoded, Left as Ended, RunExit};
use crate::mmu::CodePage;
use crate::mmu::tlb::Epoch;
use crate::signals::Signals;
use crate::state::Seg;
use crate::{Cpu, Trap};
pub use cache::Report;
use cache::{Cache, Context, Found, Heat, Jump, Place, Targets};
use check::Checker;
use frame::{BIAS, Frame, Left, pack, unpack};
use memory::ClosedPage;
pub use observe::open_map;
use quiet::Quiet;
use record::{Kind, Record, Then};
use thunks::{AT_ZERO, BY_HELPER, Helpers, LANDED, TRAPPED, Thunks};
use translate::{Arrival, LONGEST, Variant};

/// Bytes of code kept unless told otherwise.
pub const DEFAULT_SIZE: usize = 128 << 20;

/// Most blocks that a trace leads through.
const MAX_STEPS: usize = 16;

/// Why there is no translator.
#[derive(Debug, thiserror::Error)]
pub enum TranslatorError {
    /// The host's processor lacks what translated code needs.
    #[error("the host's processor has no BMI2 or no XSAVE")]
    Host,
    /// No memory for code.
    #[error("memory for translated code: {0}")]
    Memory(#[from] nix::Error),
    /// Too many translators.
    #[error("no handler for traps of translated code")]
    Traps,
}

/// All translations of a machine, and what its processors share beside them.
pub struct Translator {
    /// Ends before the code does, whose place may then be somebody else's.
    _traps: signal::Guarded,
    cache: Mutex<Cache>,
    thunks: Thunks,
    processors: Mutex<Vec<Weak<Processor>>>,
    /// Counts how often code was taken back to make room: who has seen the present number executes no
    /// code that was taken back before.
    generation: AtomicU64,
    closed: ClosedPage,
    quiet: Quiet,
    no_targets: jump::Table,
    /// Blocks are executed in lock-step with the interpreter.
    checks: bool,
    /// How many were, and how many could not be.
    checked: [AtomicU64; 2],
}

/// What others reach of a processor.
struct Processor {
    frame: Frame,
    tables: jump::Tables,
    /// It may execute translations.
    running: AtomicBool,
    /// The [`Translator::generation`] it knows of.
    seen: AtomicU64,
}

/// A RAM block that code was translated from, as a watcher.
struct Watcher {
    translator: Weak<Translator>,
    host: usize,
}

impl CodeWatcher for Watcher {
    fn code_written(&self, page: usize, range: Range<u32>) {
        if let Some(translator) = self.translator.upgrade() {
            translator.invalidate(self.host + page * 4096, &range);
        }
    }

    fn code_read(&self, page: usize) -> bool {
        let translator = self.translator.upgrade();
        translator.is_some_and(|translator| translator.quiet.report(self.host + page * 4096))
    }
}

/// A jump table, and until when its entries hold.
#[derive(Clone)]
struct JumpTable<E> {
    table: Arc<jump::Table>,
    epoch: E,
    key: Key,
}

impl<E: PartialEq> JumpTable<E> {
    /// Empties the table if what it knows was true for something else.
    fn renew(&mut self, epoch: E, key: Key) {
        if self.epoch != epoch || self.key != key {
            self.table.clear();
            (self.epoch, self.key) = (epoch, key);
        }
    }
}

/// What a processor keeps for translated code.
pub(crate) struct Vcpu {
    translator: Arc<Translator>,
    processor: Arc<Processor>,
    /// For user code, by set of TLB tables.
    user: Vec<Option<JumpTable<Epoch>>>,
    /// For supervisor code, mostly in global pages, which are the same in all address spaces.
    supervisor: Option<JumpTable<u64>>,
    /// If the latter knows of pages that are not global, of which address space they are.
    local: Option<Epoch>,
    checker: Checker,
}

/// A byte that may be read.
static OPEN: u64 = 0;

fn open() -> *mut u8 {
    (&raw const OPEN).cast::<u8>().cast_mut()
}

impl Translator {
    /// A translator with room for `size` bytes of code.
    pub fn new(size: usize) -> Result<Arc<Self>, TranslatorError> {
        Self::make(size, false)
    }

    /// The same; blocks are executed in lock-step with the interpreter, and the processor fails where
    /// the two disagree. Processors must run one at a time.
    pub fn in_lock_step(size: usize) -> Result<Arc<Self>, TranslatorError> {
        Self::make(size, true)
    }

    fn make(size: usize, checks: bool) -> Result<Arc<Self>, TranslatorError> {
        if !std::arch::is_x86_feature_detected!("bmi2") || !x87::host_can() {
            return Err(TranslatorError::Host);
        }
        let helpers = Helpers {
            step: helper::step as *const () as usize,
            written: helper::written as *const () as usize,
            load_x87: helper::load_x87 as *const () as usize,
            fill_read: helper::fill_read as *const () as usize,
            fill_write: helper::fill_write as *const () as usize,
            time: helper::time as *const () as usize,
            brief: helper::brief as *const () as usize,
        };
        let (cache, thunks) = Cache::new(size, &helpers)?;
        let traps =
            signal::Guarded::new(cache.range(), thunks.trap).ok_or(TranslatorError::Traps)?;
        Ok(Arc::new(Translator {
            cache: Mutex::new(cache),
            thunks,
            processors: Mutex::default(),
            generation: AtomicU64::new(0),
            closed: ClosedPage::new()?,
            quiet: Quiet::new(),
            no_targets: jump::Table::new(),
            checks,
            checked: Default::default(),
            _traps: traps,
        }))
    }

    /// The processors there are.
    fn processors(&self) -> Vec<Arc<Processor>> {
        self.processors.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Takes back what was made from bytes `range` of the page at host address `page`.
    fn invalidate(&self, page: usize, range: &Range<u32>) {
        let mut cache = self.cache.lock();
        if let Some(targets) = cache.invalidate(page, range, &self.quiet) {
            trace_event!(jit_invalidate, "page:{page:#x}, bytes:{range:#x?}");
            self.forget(&targets);
        }
    }

    /// Whether everybody has left the code of the generations before `generation`.
    fn left_before(&self, generation: u64) -> bool {
        self.processors().iter().all(|processor| {
            !processor.running.load(Ordering::SeqCst)
                || processor.seen.load(Ordering::SeqCst) >= generation
        })
    }

    /// Makes room for new code, and asks everybody to leave what will be in the way next. Whether there
    /// is room now.
    fn make_room(&self, cache: &mut Cache) -> bool {
        let advanced = cache.advance(|generation| self.left_before(generation));
        let generation = self.generation.load(Ordering::SeqCst) + 1;
        if cache.evict_next(generation) {
            trace_event!(jit_evict, "generation:{generation}");
            let processors = self.processors();
            processors.iter().for_each(|processor| processor.tables.clear());
            self.generation.fetch_add(1, Ordering::SeqCst);
            let (closed, none) = (self.closed.address(), self.no_targets.start());
            processors.iter().for_each(|processor| processor.frame.kick(closed, none));
        }
        advanced
    }

    /// Finds or makes the translation of the block at `place`, whose first instruction may go on at
    /// `next`, and enters it in `table` for `cpu`, which is there.
    fn find(
        self: &Arc<Self>,
        place: Place<'_>,
        next: Option<Place<'_>>,
        variant: Variant,
        cpu: &Cpu,
        table: Option<&jump::Table>,
    ) -> Option<usize> {
        for place in [Some(place), next].into_iter().flatten() {
            place.ram.tracking().watch_code(|| {
                let translator = Arc::downgrade(self);
                Arc::new(Watcher { translator, host: place.ram.host() as usize })
            });
        }
        let mut cache = self.cache.lock();
        let rip = cpu.state.rip;
        let context = Context { model: &cpu.model, thunks: &self.thunks, rip };
        loop {
            match cache.find(place, next, variant, &context) {
                Found::Code(code) => {
                    if let Some(table) = table {
                        cache.note_entry(place, variant, rip);
                        table.set(rip, code);
                    }
                    return Some(code);
                }
                Found::Full if self.make_room(&mut cache) => {}
                Found::Full | Found::Interpret => return None,
            }
        }
    }

    /// Makes a trace from `place` along `path`, if that is worth while: see [`Cache::trace`]. It begins at
    /// guest address `rip`.
    fn trace(&self, place: Place<'_>, variant: Variant, path: &[u16], model: &Model, rip: u64) {
        let context = Context { model, thunks: &self.thunks, rip };
        let mut cache = self.cache.lock();
        if let Some(targets) = cache.trace(place, variant, path, &context) {
            self.forget(&targets);
        }
    }

    /// Takes `targets` out of all jump tables.
    fn forget(&self, targets: &Targets) {
        for processor in self.processors() {
            match targets {
                Targets::These(targets) => processor.tables.remove(targets),
                Targets::All => processor.tables.clear(),
            }
            processor.frame.epoch.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What there is to tell.
    pub fn report(&self) -> Report {
        let checked = self.checked.each_ref().map(|count| count.load(Ordering::Relaxed));
        Report { checked, ..self.cache.lock().report() }
    }
}

impl Vcpu {
    fn new(translator: &Arc<Translator>, signals: &Signals) -> Self {
        let processor = Arc::new(Processor {
            frame: Frame::new(),
            tables: jump::Tables::default(),
            running: AtomicBool::new(false),
            seen: AtomicU64::new(0),
        });
        processor.frame.quiet.set(translator.quiet.start());
        translator.processors.lock().push(Arc::downgrade(&processor));
        let (mine, shared) = (translator.clone(), processor.clone());
        signals.set_kick(move || {
            shared.frame.kick(mine.closed.address(), mine.no_targets.start());
        });
        Vcpu {
            translator: translator.clone(),
            processor,
            user: Vec::new(),
            supervisor: None,
            local: None,
            checker: Checker::new(),
        }
    }

    /// Takes note of the present generation, outside of translated code. Whether it is a new one.
    fn note_generation(&self) -> bool {
        let generation = self.translator.generation.load(Ordering::SeqCst);
        let new = self.processor.seen.load(Ordering::Relaxed) != generation;
        if new {
            self.processor.seen.store(generation, Ordering::SeqCst);
        }
        new
    }

    /// The jump table for where `cpu` is now.
    fn table(&mut self, cpu: &Cpu, key: Key) -> Arc<jump::Table> {
        let tables = &self.processor.tables;
        let epoch = cpu.mmu.tlb.fetch_epoch();
        if cpu.mode.cpl == 3 {
            if self.user.len() <= epoch.set {
                self.user.resize(epoch.set + 1, None);
            }
            let new = || JumpTable { table: tables.add(), epoch, key };
            let known = self.user[epoch.set].get_or_insert_with(new);
            known.renew(epoch, key);
            return known.table.clone();
        }
        let global = cpu.mmu.tlb.global_epoch();
        let new = || JumpTable { table: tables.add(), epoch: global, key };
        let known = self.supervisor.get_or_insert_with(new);
        known.renew(global, key);
        if self.local.is_some_and(|local| local != epoch) {
            known.table.clear();
            self.local = None;
        }
        known.table.clone()
    }

    /// `cpu` is about to enter the page it executes in its jump table.
    fn note_page(&mut self, cpu: &Cpu) {
        let walked = cpu.mmu.tlb.walked(cpu.state.rip);
        if cpu.mode.cpl != 3 && !walked.is_some_and(|page| page.global) {
            self.local = Some(cpu.mmu.tlb.fetch_epoch());
        }
    }
}

/// Code to be entered.
#[derive(Clone, Copy)]
struct Entry {
    code: usize,
    /// It finds the flags in the host's.
    host_flags: bool,
}

/// Where to go on.
enum Next {
    /// At `state.rip`, after a block that ended so.
    Block(End),
    /// At `state.rip`, by the interpreter.
    Interpret,
    /// In this code, which stands for `state.rip`.
    Chained(Entry),
    /// Where a jump table led to [`Thunks::land`]; `state.rip` is left to who made it do so.
    Landed,
    /// At `state.rip`, from where a trace is worth while: the head of a loop.
    Trace(Variant),
}

impl Cpu {
    /// Executes guest code by translation from now on. Once per processor.
    pub fn translate_by(&mut self, translator: &Arc<Translator>) {
        self.jit = Some(Box::new(Vcpu::new(translator, &self.signals)));
    }

    /// Executes guest code until something outside of it is to be done.
    pub fn run(&mut self) -> RunExit {
        let Some(mut jit) = self.jit.take() else { return self.run_interp() };
        let mut decoded = std::mem::take(&mut self.interp.cache);
        let processor = jit.processor.clone();
        processor.running.store(true, Ordering::SeqCst);
        let exit = self.run_either(&mut jit, &mut decoded);
        processor.running.store(false, Ordering::SeqCst);
        self.interp.cache = decoded;
        self.jit = Some(jit);
        exit
    }

    fn run_either(&mut self, jit: &mut Vcpu, decoded: &mut Decoded) -> RunExit {
        loop {
            if let Some(exit) = self.reason_to_stop() {
                return exit;
            }
            let ended = if self.steps_singly() {
                self.run_single(decoded)
            } else {
                self.state.flags.set_system(crate::flags::bit::RF, false);
                match self.translatable() {
                    Some(key) if jit.translator.checks => self.run_checked(jit, decoded, key),
                    Some(key) => self.run_translated(jit, decoded, key),
                    None => self.run_chain(decoded, false),
                }
            };
            match ended {
                Ended::Shutdown => return RunExit::Shutdown,
                Ended::Failed => return RunExit::Failed,
                Ended::End | Ended::Fault => {}
            }
        }
    }

    /// The key to translate the present mode by, if that is possible.
    fn translatable(&self) -> Option<Key> {
        let mode = &self.mode;
        let flat = |seg: Seg| {
            mode.base[seg as usize] == 0 && (mode.flat_read & mode.flat_write) >> seg as u8 & 1 != 0
        };
        match (mode.code_bits, mode.stack_bits) {
            (64, 64) => Some(Key::of(mode).without_segments()),
            (32, 32) => {
                let cs = &self.state.seg[Seg::Cs as usize];
                let whole = mode.base[Seg::Cs as usize] == 0 && cs.limit == u32::MAX;
                (whole && flat(Seg::Ss)).then(|| Key::of(mode))
            }
            _ => None,
        }
    }

    /// Runs translated blocks until the mode may have changed, or somebody wants attention.
    fn run_translated(&mut self, jit: &mut Vcpu, decoded: &mut Decoded, key: Key) -> Ended {
        let traced = self.is_traced();
        let apart = traced || base::log::enabled(base::log::NOCHAIN);
        let table = jit.table(self, key);
        let known = Some(&*table).filter(|_| !apart);
        let variant = Variant { key, arrival: Arrival::Slot, alone: false, apart };
        let mut next = None;
        loop {
            self.exit_block = false;
            if jit.note_generation() {
                next = None;
            }
            let entry = match next.take() {
                Some(entry) => entry,
                None => match self.find_code(jit, known, variant) {
                    Ok(Some(code)) => Entry { code, host_flags: false },
                    Ok(None) => return self.run_chain(decoded, true),
                    Err(_) => return self.take_fault(),
                },
            };
            let targets = if apart { &jit.translator.no_targets } else { &table };
            self.arm(jit, targets.start());
            if self.attention() {
                return Ended::End;
            }
            if jit.note_generation() {
                // Who asked to leave old code may have done so before the way was opened.
                continue;
            }
            if traced {
                self.trace_block(entry.code);
            }
            jit.processor.frame.apart.set(apart);
            match self.enter(jit, entry) {
                Ok(Next::Chained(entry)) => next = Some(entry),
                Ok(Next::Interpret) | Err(Left::Interpret) => return self.run_chain(decoded, true),
                Ok(Next::Block(End::System)) => return self.deliver_traps(),
                Ok(Next::Trace(variant)) => return self.trace(jit, decoded, variant),
                Ok(Next::Block(_) | Next::Landed) | Err(Left::End) => {}
                Err(Left::Fault) => return self.take_fault(),
                Err(Left::Shutdown) => return Ended::Shutdown,
                Err(Left::Lost) => return Ended::Failed,
            }
            if self.exit_block {
                return self.deliver_traps();
            }
        }
    }

    /// Executes a turn of a loop by the interpreter, from its head on, and makes a trace of the way it
    /// took.
    fn trace(&mut self, jit: &Vcpu, decoded: &mut Decoded, variant: Variant) -> Ended {
        let (head, mut path) = (self.state.rip, Vec::new());
        loop {
            match self.run_chain(decoded, true) {
                Ended::End => {}
                ended => return ended,
            }
            let rip = self.state.rip;
            if (rip ^ head) & !0xfff != 0 || path.len() == MAX_STEPS {
                break;
            }
            path.push((rip & 0xfff) as u16);
            if rip == head {
                break;
            }
            let same = self.translatable() == Some(variant.key) && !self.steps_singly();
            if !same || self.reason_to_stop().is_some() {
                return Ended::End;
            }
        }
        if let Some((ram, offset)) = self.code_page_of(head) {
            let place = Place { ram: &ram, offset: offset + (head & 0xfff) };
            jit.translator.trace(place, variant, &path, &self.model, head);
        }
        Ended::End
    }

    /// The translation at `state.rip`; `None` if the interpreter is to go on.
    fn find_code(
        &mut self,
        jit: &mut Vcpu,
        table: Option<&jump::Table>,
        variant: Variant,
    ) -> Result<Option<usize>, Trap> {
        let rip = self.state.rip;
        if let Some(code) = table.and_then(|table| table.get(rip)) {
            return Ok(Some(code));
        }
        // The fetch TLB must know of every page that a jump table leads to.
        self.code_address(rip)?;
        let CodePage::Ram { block, offset, .. } = self.fetch_page(rip)? else { return Ok(None) };
        let place = Place { ram: &block, offset: offset + (rip & 0xfff) };
        let next = self.page_behind(rip);
        let next = next.as_ref().map(|(ram, offset)| Place { ram, offset: *offset });
        jit.note_page(self);
        Ok(jit.translator.find(place, next, variant, self, table))
    }

    /// The page that the instruction at `rip` may go on in.
    fn page_behind(&mut self, rip: u64) -> Option<(Arc<RamBlock>, u64)> {
        let crosses = (rip & 0xfff) as usize + LONGEST > 4096;
        crosses.then(|| self.next_code_page(rip)).flatten()
    }

    /// The page of code after that of `rip`: see [`Cpu::code_page_of`].
    fn next_code_page(&mut self, rip: u64) -> Option<(Arc<RamBlock>, u64)> {
        self.code_page_of((rip & !0xfff).wrapping_add(0x1000) & self.mode.linear_mask)
    }

    /// The page of code that `address` lies in, if it may be executed and is RAM. The fetch TLB knows of
    /// it then.
    fn code_page_of(&mut self, address: u64) -> Option<(Arc<RamBlock>, u64)> {
        let (cr2, fault) = (self.state.cr2, self.fault);
        let page = self.code_address(address).and_then(|_| self.fetch_page(address));
        match page {
            Ok(CodePage::Ram { block, offset, .. }) => Some((block, offset)),
            Ok(CodePage::Other { .. }) => None,
            Err(_) => {
                // Nothing was fetched from there yet.
                (self.state.cr2, self.fault) = (cr2, fault);
                None
            }
        }
    }

    /// Opens the way for translated code. Who wants attention from here on closes it again.
    fn arm(&self, jit: &Vcpu, targets: *mut jump::Entry) {
        fn ensure<T>(cell: &AtomicPtr<T>, value: *mut T) {
            if cell.load(Ordering::Relaxed) != value {
                cell.swap(value, Ordering::SeqCst);
            }
        }
        let frame = &jit.processor.frame;
        if frame.wanted.load(Ordering::Relaxed) != 0 {
            frame.wanted.swap(0, Ordering::SeqCst);
        }
        ensure(&frame.poll, open());
        ensure(&frame.jump_table, targets);
    }

    /// Executes translated code from `entry`. `Err`: a helper left it, or a handler did so in the
    /// middle of a block.
    fn enter(&mut self, jit: &Vcpu, entry: Entry) -> Result<Next, Left> {
        trace_event!(exec_tb, "tb:{:#x} pc={:#x}", entry.code, self.state.rip);
        let translator = &jit.translator;
        let frame = &jit.processor.frame;
        frame.load_registers(self);
        frame.flags.set(pack(self.state.flags.arith));
        frame.page_rip.set(self.state.rip & !0xfff);
        frame.refresh(self);
        frame.refresh_mode(self);
        frame.vectors.set(self.state.vec.as_mut_ptr());
        frame.mxcsr.set(&raw mut self.state.mxcsr);
        frame.cpu.set(self);
        let thunk = if entry.host_flags {
            translator.thunks.enter_with_flags
        } else {
            translator.thunks.enter
        };
        let place = (&raw const *frame).cast::<u8>().wrapping_offset(BIAS as isize);
        // The code is a block's beginning that was valid under the cache's lock, and is not reused
        // while this processor has not seen a newer generation.
        // SAFETY: the thunk has this signature, and keeps to the calling convention; what it jumps to
        // is code, as said above, and reaches the state through the frame only, which outlives the
        // call.
        let status = unsafe {
            let thunk: extern "sysv64" fn(*const u8, usize) -> u64 = std::mem::transmute(thunk);
            thunk(place, entry.code)
        };
        self.save_x87(frame);
        match status {
            BY_HELPER => Err(frame.left.get()),
            LANDED => {
                self.take_from(frame);
                Ok(Next::Landed)
            }
            AT_ZERO => {
                self.take_from(frame);
                self.state.rip = 0;
                Ok(Next::Block(End::Branch))
            }
            TRAPPED => {
                let pc = frame.trap_pc.get() as usize;
                let record = translator.cache.lock().trap_at(pc).map(|record| &raw const *record);
                match record {
                    // SAFETY: records live as long as the code; see above.
                    Some(record) => self.left_at(jit, unsafe { &*record }),
                    None => Err(self.lost_at(jit, pc)),
                }
            }
            // SAFETY: the record of the place where the code was left; records live as long as the
            // code.
            record => self.left_at(jit, unsafe { &*(record as *const Record) }),
        }
    }

    /// Translated code trapped where it should not: its memory may have vanished from under it. There is
    /// no exact state to go on from.
    #[cold]
    fn lost_at(&mut self, jit: &Vcpu, pc: usize) -> Left {
        let frame = &jit.processor.frame;
        frame.store_registers(self);
        self.state.flags.arith = unpack(frame.trap_flags.get());
        self.state.rip = frame.page_rip.get();
        let start = jit.translator.cache.lock().start_of(pc);
        let place = match start {
            Some(start) => {
                self.state.rip |= u64::from(start);
                format!("the block at {:#x}", self.state.rip)
            }
            None => "a thunk".to_owned(),
        };
        self.failure = Some(format!("host trap at {pc:#x} in the translation of {place}"));
        Left::Lost
    }

    /// Takes what the code kept in the frame.
    fn take_from(&mut self, frame: &Frame) {
        self.state.flags.arith = unpack(frame.flags.get());
        frame.store_registers(self);
    }

    /// Goes on from where translated code was left for good.
    fn left_at(&mut self, jit: &Vcpu, record: &Record) -> Result<Next, Left> {
        let frame = &jit.processor.frame;
        self.take_state(frame, record);
        match record.kind {
            Kind::Goto(distance) => {
                self.state.rip = self.rip_at(frame, distance);
                Ok(Next::Block(End::Branch))
            }
            Kind::Interpret(distance) => {
                self.state.rip = self.rip_at(frame, distance);
                Ok(Next::Interpret)
            }
            Kind::Crossing { at, host } => {
                self.state.rip = self.rip_at(frame, at.into());
                let page = self.next_code_page(self.state.rip);
                let there = page.map(|(ram, offset)| ram.host() as usize + offset as usize);
                Ok(if there == Some(host) { Next::Block(End::Branch) } else { Next::Interpret })
            }
            Kind::Link { target, site, back } => {
                self.state.rip = self.rip_at(frame, target.at.into());
                if !target.alone && frame.apart.get() {
                    return Ok(Next::Block(End::Branch));
                }
                let next = self.page_behind(self.state.rip);
                let next = next.as_ref().map(|(ram, offset)| Place { ram, offset: *offset });
                let translator = &jit.translator;
                let context =
                    Context { model: &self.model, thunks: &translator.thunks, rip: self.state.rip };
                let mut cache = translator.cache.lock();
                let heat = if back { cache.warm(record.block, target) } else { Heat::Known };
                if let Heat::Hot(variant) = heat {
                    return Ok(Next::Trace(variant));
                }
                let jump = Jump { from: record.block, site, cold: heat == Heat::Cold };
                loop {
                    match cache.link(jump, target, next, &context) {
                        Found::Code(code) => {
                            let host_flags = target.arrival.in_host();
                            return Ok(Next::Chained(Entry { code, host_flags }));
                        }
                        Found::Full if translator.make_room(&mut cache) => {}
                        Found::Full | Found::Interpret => break,
                    }
                }
                Ok(Next::Block(End::Branch))
            }
            Kind::Execute(ref step) => match step.then {
                Then::Stop(End::System) if frame.checked.get() => {
                    self.stop_before(step);
                    Ok(Next::Interpret)
                }
                Then::Stop(end) => match self.step_by_handler(step) {
                    None => Ok(Next::Block(end)),
                    Some(left) => Err(left),
                },
                // A helper serves these.
                Then::GoOn | Then::Look(_) => Ok(Next::Block(End::Branch)),
            },
            // So it does these.
            Kind::Written { .. } | Kind::WrittenCall => Ok(Next::Block(End::Branch)),
        }
    }
}
