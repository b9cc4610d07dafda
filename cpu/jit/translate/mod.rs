//! From the bytes of a guest block to host code.
//!
//! `unit` decides how each instruction is translated and who needs which flags, `emit` makes code for
//! instructions, `access` for their memory operands, `control` for what ends a block.

mod access;
mod control;
mod emit;
pub mod unit;
mod vector;
mod x87;

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions};

use super::flags::{FlagsAt, Recipe};
use super::record::{Kind, Record};
use super::thunks::Thunks;
use crate::cpuid::Model;
use crate::interp::decode::{self, Insn, Key};
use crate::interp::op::Op;
use emit::Emitter;
use unit::Unit;

/// Most instructions of a block.
const MAX_UNITS: usize = 64;

/// What a translation depends on besides the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// What decoding depends on.
    pub key: Key,
    /// Whether the arithmetic flags are in the host's flags when the block begins, and not in the
    /// frame.
    pub host_flags: bool,
}

/// A translated block, not yet at its place.
pub struct Translation {
    /// Host code.
    pub code: Vec<u8>,
    /// Guest bytes it was made from.
    pub guest_len: usize,
    /// Places where it can be left.
    pub records: Box<[Record]>,
    /// Offsets in the code of the addresses of records, to be filled in.
    pub record_sites: Vec<(usize, usize)>,
    /// Where in the code host instructions lie that may trap, and the record for it.
    pub traps: Vec<(Range<usize>, usize)>,
}

/// What is to be translated.
pub struct Source<'a> {
    /// Bytes from the block's beginning to the end of its page at most.
    pub bytes: &'a [u8],
    /// Where in its page it begins.
    pub start: u16,
    /// The number that the block will have in the cache.
    pub block: u32,
    /// How it is to be understood.
    pub variant: Variant,
    /// What the processor offers.
    pub model: &'a Model,
}

impl Source<'_> {
    /// Takes the instructions apart, as far as they are whole and belong to one block.
    fn units(&self) -> (Vec<Unit>, usize) {
        let key = self.variant.key;
        let options = DecoderOptions::NONE;
        let start = u64::from(self.start);
        let mut decoder = Decoder::with_ip(key.code_bits(), self.bytes, start, options);
        let mut units = Vec::with_capacity(16);
        let mut len = 0;
        let mut x87_live = false;
        while units.len() < MAX_UNITS && decoder.can_decode() {
            let Some(raw) = decode::take_apart(&mut decoder) else { break };
            let mut unit = Unit::of(raw, key, self.model);
            x87_live = unit.follow_x87(x87_live);
            len = decoder.position();
            let last = unit.ends_block();
            units.push(unit);
            if last {
                break;
            }
        }
        (units, len)
    }

    /// What the decoder wants to know about `unit`.
    fn insn<'a>(&'a self, unit: &'a Unit) -> Insn<'a> {
        let at = unit.raw.ip() as usize - usize::from(self.start);
        let bytes = &self.bytes[at..at + unit.raw.len()];
        Insn { raw: &unit.raw, key: self.variant.key, start: self.start.into(), bytes }
    }

    /// The operation that the interpreter has for `unit`.
    fn lower(&self, unit: &Unit) -> Op {
        decode::lower(&self.insn(unit), self.model)
    }
}

/// Translates the block at `source`, to be placed at `address`. `None` if its first instruction goes
/// on in the next page.
pub fn translate(source: &Source<'_>, address: usize, thunks: &Thunks) -> Option<Translation> {
    let (mut units, guest_len) = source.units();
    if units.is_empty() {
        return None;
    }
    unit::find_needed(&mut units);
    let mut emitter = Emitter::new(source, &units, address, thunks);
    emitter.begin();
    for index in 0..units.len() {
        emitter.unit(index);
    }
    let last = units.last()?;
    if !last.ends_block() {
        emitter.leave_to(last.raw.next_ip() as i32);
    }
    Some(emitter.finish(guest_len))
}

/// Where the guest's flags are while code is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flags {
    /// In the host's flags; if known, the unit that put them there.
    Host(Option<usize>),
    /// In the frame.
    Slot,
    /// In both.
    Both,
    /// Nowhere, but they can be computed, and nobody but a fault's handler needs them.
    Recipe(Recipe),
}

impl Flags {
    /// Where they are found if translated code traps here.
    fn at_trap(self) -> FlagsAt {
        match self {
            Flags::Host(_) => FlagsAt::Trap,
            Flags::Slot | Flags::Both => FlagsAt::Slot,
            Flags::Recipe(recipe) => FlagsAt::Recipe(recipe),
        }
    }
}

/// A record for something that is not an instruction.
fn plain_record(source: &Source<'_>, kind: Kind, flags: FlagsAt) -> Record {
    let Source { block, start, .. } = *source;
    Record { kind, flags, touches_flags: false, touches_x87: false, block, start, op: None }
}
