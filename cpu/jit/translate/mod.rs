//! From the bytes of a guest block to host code.
//!
//! `unit` decides how each instruction is translated and who needs which flags, `emit` makes code for
//! instructions, `access` for their memory operands, `control` and `call` for what ends a block. `group` finds
//! accesses that one look into the TLB is enough for, and `window` does so for the turns of a loop.

mod access;
mod call;
mod control;
mod emit;
mod group;
pub mod unit;
mod vector;
mod window;
mod x87;

use std::fmt::Write as _;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::cache::BlockId;
use super::flags::{FlagsAt, Recipe};
use super::record::{Record, Target};
use super::thunks::Thunks;
use crate::cpuid::Model;
use crate::interp::decode::{self, Insn, Key};
use crate::interp::op::Op;
use control::Way;
use emit::Emitter;
use unit::{Class, Unit};

/// Most instructions of a block.
const MAX_UNITS: usize = 64;
/// Most conditional jumps in a block: it goes on where they are not taken. Traces may have more.
const MAX_BRANCHES: usize = 3;
/// Most bytes of an instruction.
pub const LONGEST: usize = 15;

/// What a translation depends on besides the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// What decoding depends on.
    pub key: Key,
    /// Where the arithmetic flags are when the block begins.
    pub arrival: Arrival,
    /// Each access looks into the TLB by itself. Such a block serves where accesses that another
    /// takes together do not lie in one page.
    pub alone: bool,
    /// It is never led to another block directly: somebody looks at what lies between blocks.
    pub apart: bool,
}

impl Variant {
    /// That of what was made to be this one: flags that no recipe was used for arrive in the same way
    /// as without.
    pub fn made(self, translation: &Translation) -> Self {
        let plain = self.arrival.in_host() && translation.recipe != RecipeUse::Used;
        Variant { arrival: if plain { Arrival::Host(None) } else { self.arrival }, ..self }
    }
}

/// Where the arithmetic flags are when a block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// In the frame.
    Slot,
    /// In the host's flags; perhaps there is another way to know them.
    Host(Option<Recipe>),
    /// Nowhere, but they can be computed; the block replaces them before it needs them.
    Recipe(Recipe),
}

impl Arrival {
    /// Whether the host's flags are the guest's.
    pub fn in_host(self) -> bool {
        matches!(self, Arrival::Host(_))
    }
}

/// A translated block, not yet at its place.
pub struct Translation {
    /// Host code.
    pub code: Vec<u8>,
    /// How much of it is placed where code is often executed.
    pub hot_len: usize,
    /// What use it makes of the recipe that flags came with.
    pub recipe: RecipeUse,
    /// Guest bytes it was made from, in its page.
    pub guest: Vec<Range<u32>>,
    /// Places where it can be left, whose addresses stand in the code.
    pub records: Box<[Record]>,
    /// Where in the code host instructions lie that may trap, and the record for it.
    pub traps: Vec<(Range<usize>, usize)>,
    /// Jumps that lead to the block itself from the beginning, and where they lead once it is taken
    /// back.
    pub loops: Vec<(usize, usize)>,
    /// Where the code of each instruction begins, and where the instruction lies in its page.
    pub marks: Vec<(usize, u64)>,
}

/// What use a block makes of the recipe that flags in the host's came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecipeUse {
    /// None: it replaces the flags first, or needs them.
    None,
    /// It would make use of one if there was one.
    Wanted,
    /// It relies on it.
    Used,
}

/// What is to be translated.
pub struct Source<'a> {
    /// Bytes from `origin`: to the end of its page at most, or of one instruction that goes on in the
    /// next page.
    pub bytes: &'a [u8],
    /// Where in its page the bytes begin: with the block, unless a trace goes back to what lies before.
    pub origin: u16,
    /// Host address of the next page, if the instruction goes on there.
    pub next_page: Option<usize>,
    /// Where in its page it begins.
    pub start: u16,
    /// If it is to be a trace: the places in the page that control came to from there, in order.
    pub path: &'a [u16],
    /// The number that the block will have in the cache.
    pub block: BlockId,
    /// How it is to be understood.
    pub variant: Variant,
    /// What the processor offers.
    pub model: &'a Model,
}

impl Source<'_> {
    /// Takes the instructions apart, as far as they are whole and belong to one block.
    fn units(&self) -> Vec<Unit> {
        let key = self.variant.key;
        let options = DecoderOptions::NONE;
        let start = u64::from(self.start);
        let mut decoder =
            Decoder::with_ip(key.code_bits(), self.bytes, self.origin.into(), options);
        let mut path = self.path.iter().map(|place| u64::from(*place)).peekable();
        let mut units = Vec::with_capacity(16);
        let (mut branches, mut x87_live) = (0, false);
        let most = if self.next_page.is_some() { 1 } else { MAX_UNITS };
        let mut next = Some(start);
        while let Some(place) = next.take().filter(|_| units.len() < most) {
            path.next_if_eq(&place);
            if !self.go_to(&mut decoder, place) {
                break;
            }
            let Some(raw) = decode::take_apart(&mut decoder) else { break };
            let mut unit = Unit::of(raw, key, self.model);
            x87_live = unit.follow_x87(x87_live);
            branches += usize::from(unit.goes_on());
            // A trace goes the way that control went, until it has come back to its beginning.
            next = match path.peek() {
                Some(&next) if next != start && unit.turn_to(next) => Some(next),
                Some(&next) if unit.goes_on() && raw.next_ip() == next => Some(next),
                _ if !unit.ends_block() => Some(raw.next_ip()),
                _ => Some(raw.next_ip()).filter(|_| unit.goes_on() && branches < MAX_BRANCHES),
            };
            next = next.filter(|next| self.path.is_empty() || *next != start);
            units.push(unit);
        }
        // What comes after an STI or its like is to be at hand.
        if let Some(last) = units.last_mut()
            && last.class == Class::Look
        {
            last.class = Class::Last(decode::ends_block(&last.raw));
        }
        units
    }

    /// Has `decoder` go on at `place` of the page. Whether there is anything.
    fn go_to(&self, decoder: &mut Decoder<'_>, place: u64) -> bool {
        let at = place.wrapping_sub(self.origin.into());
        decoder.set_ip(place);
        usize::try_from(at).is_ok_and(|at| decoder.set_position(at).is_ok()) && decoder.can_decode()
    }

    /// Whether a trace along its path is more than a block.
    pub fn turns(&self) -> bool {
        self.units().iter().any(|unit| unit.turned)
    }

    /// What the decoder wants to know about `unit`.
    fn insn<'a>(&'a self, unit: &'a Unit) -> Insn<'a> {
        let at = unit.raw.ip() as usize - usize::from(self.origin);
        let bytes = &self.bytes[at..at + unit.raw.len()];
        Insn { raw: &unit.raw, key: self.variant.key, start: self.origin.into(), bytes }
    }

    /// The operation that the interpreter has for `unit`.
    fn lower(&self, unit: &Unit) -> Op {
        decode::lower(&self.insn(unit), self.model)
    }
}

/// The instructions of the block at `source`, with the operations that the interpreter has for them.
pub fn operations(source: &Source<'_>) -> Vec<(Instruction, Op)> {
    source.units().iter().map(|unit| (unit.raw, source.lower(unit))).collect()
}

/// How each instruction of the block at `source` is translated, a line each.
pub fn describe(source: &Source<'_>) -> String {
    let mut units = source.units();
    let windows = window::find(&mut units, source);
    let groups = group::find(&mut units, source.variant, &windows);
    unit::find_needed(&mut units);
    let mut text = String::new();
    for (index, unit) in units.iter().enumerate() {
        let Unit { raw, class, effect, needed, .. } = unit;
        // Writing to a string cannot fail.
        let _ = write!(text, " ---- {:016x}\n {:?} as {class:?}", raw.ip(), raw.code());
        let _ =
            write!(text, ", flags {:#04x} of {:#04x}", needed & effect.modifies, effect.modifies);
        if let Some(member) = groups.member(index) {
            let _ = write!(text, ", group {} at {}", member.group, member.at);
        }
        if let Some(place) = windows.place(index) {
            let _ = write!(text, ", window {}", place.window);
        }
        if unit.turned {
            text.push_str(", taken");
        }
        text.push('\n');
    }
    text
}

/// Translates the block at `source`, to be placed at `address` and, what is seldom executed, at
/// `cold`. `None` if its first instruction goes on in the next page.
pub fn translate(
    source: &Source<'_>,
    (address, cold): (usize, usize),
    thunks: &Thunks,
) -> Option<Translation> {
    let mut units = source.units();
    if units.is_empty() {
        return None;
    }
    let windows = window::find(&mut units, source);
    let groups = group::find(&mut units, source.variant, &windows);
    unit::find_needed(&mut units);
    let mut emitter = Emitter::new(source, &units, (groups, windows), address, thunks);
    emitter.begin();
    for index in 0..units.len() {
        emitter.unit(index);
    }
    let last = units.last()?;
    if !last.ends_block() || last.goes_on() {
        emitter.leave_to(last.way_on() as i32, Way::Jump);
    }
    Some(emitter.finish(runs(&units), cold))
}

/// The bytes of the page that `units` lie in, each run in the order of its first one.
fn runs(units: &[Unit]) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for Unit { raw, .. } in units {
        let (start, end) = (raw.ip() as u32, raw.next_ip() as u32);
        match runs.last_mut() {
            Some(run) if run.end == start => run.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

/// Where the guest's flags are while code is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flags {
    /// In the host's flags. If known, how they could be computed as long as its registers keep what
    /// they had before a unit.
    Host(Option<(Recipe, usize)>),
    /// In the frame.
    Slot,
    /// In both.
    Both,
    /// Nowhere, but they can be computed, and nobody but a fault's handler needs them.
    Recipe(Recipe),
}

impl Flags {
    /// Where they are at the beginning of a block.
    fn on(arrival: Arrival) -> Self {
        match arrival {
            Arrival::Slot => Flags::Slot,
            Arrival::Host(recipe) => Flags::Host(recipe.map(|recipe| (recipe, 0))),
            Arrival::Recipe(recipe) => Flags::Recipe(recipe),
        }
    }

    /// Where they are found if translated code traps here.
    fn at_trap(self) -> FlagsAt {
        match self {
            Flags::Host(_) => FlagsAt::Trap,
            Flags::Slot | Flags::Both => FlagsAt::Slot,
            Flags::Recipe(recipe) => FlagsAt::Recipe(recipe),
        }
    }
}
