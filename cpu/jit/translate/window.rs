//! Loops whose accesses move on by the same distance in every turn: one look into the TLB serves many
//! turns.
//!
//! A block that jumps back to its beginning is such a loop if the registers that addresses are made of
//! are changed by additions of constants only. Accesses by the same registers at near displacements
//! share a *window*: the distance from linear to host addresses of the page they are in, kept in the
//! frame. Windows are set when the loop is entered, and in how many turns the first of them leaves its
//! page is worked out then: a register that moves on in every turn is compared with what it will be by
//! that time. Where accesses of one turn lie in two pages, that turn is left to a variant of the block
//! that takes each access alone.
//!
//! Nothing in such a loop can change what the TLB says, as between the accesses of a [`super::group`];
//! and as there, nobody watched a page that is stored to when its window was set.

use super::emit::{Emitter, Stub};
use super::group::{self, Base};
use super::unit::{self, Class, Unit};
use super::{Flags, Source, Target};
use crate::jit::asm::{Label, Mem, Width, cond, group as immediate, host::*, op};
use crate::jit::frame::at;
use crate::jit::record::Kind;
use crate::jit::thunks::HOME;

/// Most windows of a loop.
const MOST: usize = 6;
/// Most bytes that a window's accesses span in one turn, and most that they move on by.
const SPAN: i64 = 1024;

/// Accesses by the same registers.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// What addresses consist of beside a displacement.
    base: Base,
    /// Distance of the first byte from what the registers give at the beginning of a turn.
    low: i64,
    /// The end of the last byte, likewise.
    high: i64,
    writes: bool,
    /// What addresses move on by in a turn.
    stride: i64,
    /// The registers stay what they are even within a turn: the frame has the first byte's host
    /// address.
    fixed: bool,
}

impl Window {
    fn span(&self) -> usize {
        (self.high - self.low) as usize
    }
}

/// An access through a window.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The window's number, and place in the frame.
    pub window: usize,
    /// What addresses have moved on by since the beginning of the turn.
    moved: i64,
    /// Distance of the access from what the registers give at the beginning of the turn.
    from: i64,
    /// It stores.
    pub writes: bool,
}

/// A loop, as far as it has windows.
#[derive(Default)]
pub struct Windows {
    windows: Vec<Window>,
    /// By unit.
    places: Vec<Option<Place>>,
    /// A register that moves on, and by what: it tells when the windows have to be set anew.
    counter: Option<(usize, i64)>,
}

/// What a loop does to general registers.
#[derive(Clone, Copy, Default)]
struct Motion {
    /// What was added to each since the beginning of a turn.
    moved: [i64; 16],
    /// Those that are ever moved, and those that are changed otherwise, a bit each.
    moving: u16,
    wild: u16,
}

impl Motion {
    fn follow(&mut self, unit: &Unit) {
        match unit.addition() {
            Some((number, distance)) => {
                self.moved[number] = self.moved[number].wrapping_add(distance);
                self.moving |= 1 << number;
                self.wild |= unit.changes & !(1 << number);
            }
            None => self.wild |= unit.changes,
        }
    }

    fn of(&self, base: Base) -> i64 {
        match base {
            Base::Rip => 0,
            Base::Plain(base) => self.moved[base],
            Base::Indexed(base, index, scale) => {
                self.moved[base].wrapping_add(self.moved[index] << scale)
            }
        }
    }
}

impl Windows {
    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.windows.is_empty()
    }

    /// How many places in the frame they take.
    pub fn count(&self) -> usize {
        self.windows.len()
    }

    /// The access of unit `index`, if it goes through a window.
    pub fn place(&self, index: usize) -> Option<Place> {
        *self.places.get(index)?
    }

    /// Enters an access.
    fn add(&mut self, index: usize, place: Place, base: Base, size: i64, motion: &Motion) {
        let (low, high) = (place.from, place.from + size);
        let serves = |window: &Window| {
            let (from, to) = (low.min(window.low), high.max(window.high));
            // What RIP leads to is known to be in the same page, or not to be.
            let reachable = base != Base::Rip || from >> 12 == (to - 1) >> 12;
            window.base == base && to - from <= SPAN && reachable
        };
        let number = match self.windows.iter().position(serves) {
            Some(number) => {
                let window = &mut self.windows[number];
                (window.low, window.high) = (window.low.min(low), window.high.max(high));
                window.writes |= place.writes;
                number
            }
            None if self.windows.len() < MOST => {
                let fixed = base.registers() & motion.moving == 0;
                let stride = motion.of(base);
                let writes = place.writes;
                self.windows.push(Window { base, low, high, writes, stride, fixed });
                self.windows.len() - 1
            }
            None => return,
        };
        self.places[index] = Some(Place { window: number, ..place });
    }
}

/// The unit that jumps back to the beginning of the block, if it is the only one.
fn end_of_loop(units: &[Unit], start: u16) -> Option<usize> {
    let back = |(index, unit): (usize, &Unit)| {
        let jumps = matches!(unit.class, Class::Jump | Class::Branch(_));
        (jumps && unit.way_out() == u64::from(start)).then_some(index)
    };
    let mut all = units.iter().enumerate().filter_map(back);
    let first = all.next()?;
    let calm = |unit: &Unit| {
        matches!(
            unit.class,
            Class::Plain
                | Class::Vector
                | Class::Fpu
                | Class::Gather
                | Class::Nothing
                | Class::Address
                | Class::Branch(_)
                | Class::Jump
        )
    };
    (all.next().is_none() && units[..=first].iter().all(calm)).then_some(first)
}

/// Finds the windows of a block, and marks accesses that cannot leave it any more.
pub fn find(units: &mut [Unit], source: &Source<'_>) -> Windows {
    let mut found = Windows::default();
    let variant = source.variant;
    // From the second turn on, flags arrive in the host's.
    let serves = variant.arrival.in_host() && !variant.alone && !variant.apart;
    let Some(end) = end_of_loop(units, source.start).filter(|_| serves) else { return found };
    if variant.key.code_bits() != 64 {
        return found;
    }
    let body = &units[..=end];
    let mut whole = Motion::default();
    body.iter().for_each(|unit| whole.follow(unit));
    found.places = vec![None; units.len()];
    let mut motion = Motion::default();
    for (index, unit) in body.iter().enumerate() {
        if let Some(access) = group::access(unit)
            && access.base.registers() & whole.wild == 0
            && !(access.writes && unit.changes & access.base.registers() != 0)
            && whole.of(access.base).unsigned_abs() <= SPAN as u64
        {
            let moved = motion.of(access.base);
            let from = moved.wrapping_add(access.at);
            let reachable =
                access.base != Base::Rip || from >> 12 == (from + access.size - 1) >> 12;
            if i32::try_from(from).is_ok() && reachable {
                let place = Place { window: 0, moved, from, writes: access.writes };
                found.add(index, place, access.base, access.size, &whole);
            }
        }
        motion.follow(unit);
    }
    let moves = |window: &Window| {
        let (Base::Plain(base) | Base::Indexed(base, ..)) = window.base else { return None };
        let index = match window.base {
            Base::Indexed(_, index, _) => index,
            _ => base,
        };
        let moving = |number: &usize| {
            let distance = whole.moved[*number];
            distance != 0 && i32::try_from(distance).is_ok()
        };
        [base, index].into_iter().find(moving).map(|number| (number, whole.moved[number]))
    };
    let mut limited = found.windows.iter().filter(|window| window.stride != 0).peekable();
    if limited.peek().is_some() {
        found.counter = limited.find_map(moves);
        if found.counter.is_none() {
            return Windows::default();
        }
    }
    for (unit, place) in units.iter_mut().zip(&found.places) {
        if let Some(Place { writes: false, .. }) = place
            && unit.class == Class::Plain
        {
            unit.visible = unit::can_trap(unit.raw.mnemonic());
        }
    }
    found
}

/// A loop that code is being made for.
pub struct Loop {
    /// Where the next turn begins.
    pub again: Label,
}

impl Emitter<'_> {
    /// Makes the beginning of a loop with windows: it is entered by way of setting them.
    pub fn begin_loop(&mut self) {
        let arrived = self.flags;
        self.destroy_flags(0);
        self.want_vectors_of_loop();
        let (setup, again, body) = (self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.jmp(setup);
        self.asm.bind(again);
        self.flags = arrived;
        self.poll();
        self.destroy_flags(0);
        if let Some((number, _)) = self.windows.counter {
            let counter = self.in_register(number, R14);
            self.asm.mem(Width::Q, op::CMP, counter, Mem::at(R15, at::LIMIT));
            self.asm.jcc(cond::E, setup);
        }
        self.asm.bind(body);
        self.stubs.push(Stub::Windows { from: setup, back: body, flags: self.flags });
        self.turns = Some(Loop { again });
    }

    /// Sets all windows, and how long they serve. The host's flags are lost.
    pub fn set_windows(&mut self, flags: Flags) {
        const PAGE: i64 = 4096;
        // Turns are computed by multiplying with a fraction of this.
        const ONE: i64 = 1 << 16;
        self.flags = flags;
        let (at, arrival) = (self.source.start, self.departure(0));
        let target = Target { at, arrival, alone: true };
        let windows = self.windows.windows.clone();
        let mut limited = false;
        for (slot, window) in windows.iter().enumerate() {
            let last = PAGE - window.span() as i64;
            self.first_byte(window.base, window.low as i32);
            self.compare_entry(window.span(), window.writes);
            self.link(Some(cond::A), target);
            if window.fixed {
                self.asm.mem(Width::Q, op::ADD, R13, Mem::at(R14, 8));
            } else {
                if window.stride != 0 {
                    if window.stride > 0 {
                        self.asm.alu_imm(Width::D, immediate::SUB, R13, last as i32);
                        self.asm.neg(R13);
                    }
                    let fraction = ONE / window.stride.abs();
                    self.asm.imul_imm(Width::D, R13, R13, fraction as i32);
                    self.asm.shr(R13, ONE.trailing_zeros() as u8);
                    let less = self.asm.label();
                    if limited {
                        self.asm.mem(Width::Q, op::CMP, R13, Mem::at(R15, at::SPARE));
                        self.asm.jcc(cond::A, less);
                    }
                    self.asm.store(R15, at::SPARE, R13);
                    self.asm.bind(less);
                    limited = true;
                }
                self.asm.load(R13, R14, 8);
                self.asm.mem(Width::Q, op::SUB, R13, Mem::at(R14, 0));
            }
            self.asm.store(R15, at::group(slot), R13);
            if window.writes {
                self.asm.load(R14, R14, 16);
                self.asm.compare_byte(Mem::at(R14, 0), 0);
                self.link(Some(cond::NE), target);
                self.asm.store(R15, at::group_flags(slot), R14);
            }
        }
        if let Some((number, stride)) = self.windows.counter {
            // So many turns after this one.
            self.asm.load(R13, R15, at::SPARE);
            self.asm.mem(Width::Q, op::LEA, R13, Mem::at(R13, 1));
            self.asm.imul_imm(Width::Q, R13, R13, stride as i32);
            let counter = self.in_register(number, R14);
            self.asm.reg(Width::Q, op::ADD, R13, counter);
            self.asm.store(R15, at::LIMIT, R13);
        }
    }

    /// The operand of an access through a window, by R13; `plain`: by nothing else. Touches no flags;
    /// R14 may be lost.
    fn through(&mut self, window: usize, distance: i64, plain: bool) -> Mem {
        let Window { base, low, fixed, .. } = self.windows.windows[window];
        self.held = None;
        self.asm.load(R13, R15, at::group(window));
        if fixed {
            return Mem::at(R13, (distance - low) as i32);
        }
        let disp = distance as i32;
        let (last, scale) = match base {
            Base::Rip => return Mem::at(R13, disp),
            Base::Plain(base) => (base, 0),
            Base::Indexed(base, index, scale) => {
                self.add_to_r13(base, 0);
                (index, scale)
            }
        };
        match HOME[last & 15].filter(|_| !plain) {
            Some(home) => Mem { base: Some(R13), index: Some((home, scale)), disp },
            None => {
                self.add_to_r13(last, scale);
                Mem::at(R13, disp)
            }
        }
    }

    /// `lea r13, [r13 + number << scale]`. R14 may be lost.
    fn add_to_r13(&mut self, number: usize, scale: u8) {
        let index = Some((self.in_register(number, R14), scale));
        self.asm.mem(Width::Q, op::LEA, R13, Mem { base: Some(R13), index, disp: 0 });
    }

    /// A plain instruction whose access goes through a window.
    pub fn plain_in_window(&mut self, index: usize, place: Place) {
        self.prepare_flags(index);
        let raw = &self.units[index].raw;
        let high = (0..raw.op_count()).any(|n| unit::is_high_byte(raw.op_register(n)));
        let plain = high || unit::may_borrow(raw);
        let memory = self.through(place.window, place.from - place.moved, plain);
        self.encode_trapping(index, self.flags.at_trap(), memory);
        let modified = self.made_flags(index);
        if place.writes {
            let same = |it: &Self, next| {
                it.windows.place(next).is_some_and(|other| other.window == place.window)
            };
            let stores = |it: &Self, next| it.windows.place(next).is_some_and(|other| other.writes);
            if !self.looks_later(index, same, stores) {
                self.look_for_window_watchers(index + usize::from(modified), index, place);
            }
        }
    }

    /// After the store of unit `index`: looks whether somebody watches the page; `next` is the first
    /// unit that finds the present flags.
    fn look_for_window_watchers(&mut self, next: usize, index: usize, place: Place) {
        let flags = self.destroy_flags(next);
        self.asm.load(R14, R15, at::group_flags(place.window));
        self.asm.compare_byte(Mem::at(R14, 0), 0);
        let (from, back) = (self.asm.label(), self.asm.label());
        self.asm.jcc(cond::NE, from);
        self.asm.bind(back);
        let next = self.units[index].raw.next_ip() as i64;
        let len = self.windows.windows[place.window].span() as u16;
        let kind = Kind::Written { next, len };
        let record = self.record(kind, flags);
        self.stubs.push(Stub::WindowWritten { from, record, back, place });
        self.held = None;
    }

    /// The host address of the first byte that a window's accesses store to in this turn, into R13.
    pub fn reach_first(&mut self, place: Place) {
        let window = self.windows.windows[place.window];
        let memory = self.through(place.window, window.low - place.moved, true);
        self.asm.mem(Width::Q, op::LEA, R13, memory);
    }
}
