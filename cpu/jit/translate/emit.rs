//! Makes host code for one instruction after the other.

use std::ops::Range;

use iced_x86::{Encoder, EncodingKind, Instruction, Mnemonic, OpKind, Register, RflagsBits};

use super::group::{Groups, Member};
use super::unit::{self, Class, Unit};
use super::x87;
use super::{Arrival, Flags, RecipeUse, Source, Translation, plain_record};
use crate::interp::decode;
use crate::jit::asm::{Asm, Label, Mem, Width, cond, host::*, op};
use crate::jit::flags::{FlagsAt, Recipe};
use crate::jit::frame::{at, vectors};
use crate::jit::record::{Kind, Record, Target};
use crate::jit::thunks::{self, Thunks};
use crate::state::gpr;

/// Code off the straight line, made after it.
pub(super) enum Stub {
    /// The interpreter's handler executes the instruction instead.
    Step { from: Label, record: usize, back: Label, restore_flags: bool },
    /// A look into the TLB found nothing.
    Fill { from: Label, write: bool, again: Label, slow: Label },
    /// Leaves for good.
    Exit { from: Label, record: usize, save_flags: bool },
    /// Calls a helper.
    Call { from: Label, record: usize, helper: usize, back: Label },
    /// Stores of the group hit a watched page.
    GroupWritten { from: Label, record: usize, back: Label, group: usize },
    /// The other way of a conditional jump out of the page.
    Far { from: Label, target: i32, flags: Flags },
}

/// The state of making a block's code.
pub(super) struct Emitter<'a> {
    pub asm: Asm,
    pub source: &'a Source<'a>,
    pub units: &'a [Unit],
    pub thunks: &'a Thunks,
    pub flags: Flags,
    pub stubs: Vec<Stub>,
    records: Vec<Record>,
    record_sites: Vec<(usize, usize)>,
    traps: Vec<(Range<usize>, usize)>,
    encoder: Encoder,
    /// Which vector registers are known to be the host's.
    vectors: u8,
    /// The segment that is known to be noted as that of the x87's last operand.
    pub x87_segment: Option<u8>,
    /// Whether the page of the x87's last instruction is known to be this one.
    pub x87_page_noted: bool,
    pub groups: Groups,
    /// The group whose first byte R13 points to.
    pub held: Option<usize>,
    /// The flags are still those that the block began with.
    flags_arrived: bool,
    recipe: RecipeUse,
    /// See [`Translation::marks`].
    marks: Vec<(usize, u64)>,
}

const GPR64: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// The part of host register `number` that is as wide as `like`.
fn part(number: u8, like: Register) -> Register {
    let base = match like.size() {
        1 if number < 4 => Register::AL,
        // SPL and what follows stand behind AH..BH.
        1 => return Register::SPL + (u32::from(number) - 4),
        2 => Register::AX,
        4 => Register::EAX,
        _ => return GPR64[usize::from(number & 15)],
    };
    base + u32::from(number)
}

/// How much of the vector registers `raw` needs.
fn vector_level(raw: &Instruction) -> u8 {
    if raw.encoding() == EncodingKind::Legacy { vectors::SSE } else { vectors::AVX }
}

/// The memory operand becomes `[base + at]`.
fn set_memory(insn: &mut Instruction, base: Register, at: i32) {
    insn.set_memory_base(base);
    insn.set_memory_index(Register::None);
    insn.set_memory_index_scale(1);
    insn.set_memory_displacement64(at as i64 as u64);
    insn.set_memory_displ_size(u32::from(at != 0));
    insn.set_segment_prefix(Register::None);
}

impl<'a> Emitter<'a> {
    pub fn new(
        source: &'a Source<'a>,
        units: &'a [Unit],
        groups: Groups,
        address: usize,
        thunks: &'a Thunks,
    ) -> Self {
        Emitter {
            asm: Asm::new(address),
            source,
            units,
            thunks,
            flags: Flags::on(source.variant.arrival),
            stubs: Vec::new(),
            records: Vec::new(),
            record_sites: Vec::new(),
            traps: Vec::new(),
            encoder: Encoder::new(64),
            vectors: vectors::NONE,
            x87_segment: None,
            x87_page_noted: false,
            groups,
            held: None,
            flags_arrived: true,
            recipe: RecipeUse::None,
            marks: Vec::with_capacity(units.len()),
        }
    }

    /// Width of the guest's addresses and pushes.
    pub fn wide(&self) -> Width {
        if self.source.variant.key.code_bits() == 64 { Width::Q } else { Width::D }
    }

    /// Makes the head of the block: a loop looks whether somebody wants attention.
    pub fn begin(&mut self) {
        let loops = self.units.iter().any(|unit| {
            matches!(unit.class, Class::Jump | Class::Branch(_) | Class::Call)
                && unit.raw.near_branch_target() <= unit.raw.ip()
        });
        if loops {
            self.asm.load(R14, R15, at::POLL);
            let kind = Kind::Goto(self.source.start.into());
            let record = plain_record(self.source, kind, self.flags.at_trap());
            self.may_trap(record);
            self.asm.load(R14, R14, 0);
        }
        if let Some(host) = self.source.next_page {
            self.expect_next_page(host);
        }
    }

    /// Leaves unless the next page lies at `host`.
    fn expect_next_page(&mut self, host: usize) {
        self.flags_to_slot();
        if self.flags == Flags::Both {
            self.flags = Flags::Slot;
        }
        self.asm.load(R13, R15, at::PAGE_RIP);
        self.asm.mem(self.wide(), op::LEA, R13, Mem::at(R13, 4096));
        self.entry_of(R13, 4, at::FETCH_TABLE);
        let from = self.asm.label();
        self.asm.mem(Width::Q, op::CMP, R13, Mem::at(R14, 0));
        self.asm.jcc(cond::NE, from);
        self.asm.mov_imm(R13, host as u64);
        self.asm.mem(Width::Q, op::CMP, R13, Mem::at(R14, 8));
        self.asm.jcc(cond::NE, from);
        let kind = Kind::Crossing { at: self.source.start, host };
        let record = self.record(plain_record(self.source, kind, self.flags.at_trap()));
        self.stubs.push(Stub::Exit { from, record, save_flags: false });
    }

    /// The next host instruction may trap.
    fn may_trap(&mut self, record: Record) {
        let record = self.record(record);
        let at = self.asm.offset();
        self.traps.push((at..at + 1, record));
    }

    pub fn record(&mut self, record: Record) -> usize {
        self.records.push(record);
        self.records.len() - 1
    }

    /// A record for executing unit `index` by the interpreter's handler.
    pub fn record_of(&mut self, index: usize, kind: Kind, flags: FlagsAt) -> usize {
        let unit = &self.units[index];
        let effect = unit.effect;
        let touches_flags = effect.reads | effect.modifies != 0 || matches!(kind, Kind::Last(_));
        let touches_x87 = unit::touches_x87(&unit.raw);
        let op = Some(Box::new(self.source.lower(unit)));
        let Source { block, start, .. } = *self.source;
        self.record(Record { kind, flags, touches_flags, touches_x87, block, start, op })
    }

    /// `mov r14, record`.
    fn load_record(&mut self, record: usize) {
        let at = self.asm.mov_imm64(R14, 0);
        self.record_sites.push((at, record));
    }

    /// Makes code for unit `index`.
    pub fn unit(&mut self, index: usize) {
        let unit = &self.units[index];
        self.marks.push((self.asm.offset(), unit.raw.ip()));
        let member = self.groups.member(index).is_some();
        let calm = matches!(unit.class, Class::Plain | Class::Vector | Class::Nothing);
        if !member && (!calm || unit::touches_memory(&unit.raw)) {
            self.held = None;
        }
        match unit.class {
            Class::Nothing => {}
            Class::Plain | Class::Vector | Class::Fpu => self.plain(index),
            Class::Gather => self.gather(index),
            Class::Address => self.address_of(&unit.raw),
            Class::Push => self.push(index),
            Class::Pop => self.pop(index),
            Class::Leave => self.leave_frame(index),
            Class::Step => self.step(index, Kind::Step),
            Class::Look => self.step(index, Kind::Look(decode::ends_block(&unit.raw))),
            Class::Last(end) => {
                let flags = self.destroy_flags(index);
                let record = self.record_of(index, Kind::Last(end), flags);
                self.exit(record, false);
            }
            Class::Jump => self.leave_to(unit.raw.near_branch_target() as i32),
            Class::Branch(cond) => self.branch(index, cond),
            Class::Call => self.call(index),
            Class::CallTo => self.call_to(index),
            Class::JumpTo => self.jump_to(index),
            Class::Return => self.ret(index),
        }
    }

    /// Where unit `index` finds the flags should it fault; from here on the host's may be lost.
    pub fn destroy_flags(&mut self, index: usize) -> FlagsAt {
        self.flags = match self.flags {
            Flags::Host(known) => match known.filter(|known| self.recipe_serves(*known, index)) {
                Some((recipe, _)) => {
                    if self.flags_arrived {
                        self.recipe = RecipeUse::Used;
                    }
                    Flags::Recipe(recipe)
                }
                None => {
                    if self.flags_arrived && self.recipe == RecipeUse::None {
                        self.recipe = RecipeUse::Wanted;
                    }
                    thunks::save_flags(&mut self.asm);
                    Flags::Slot
                }
            },
            Flags::Both => Flags::Slot,
            flags => flags,
        };
        self.flags.at_trap()
    }

    /// Where the flags are for whoever goes on before unit `index`.
    pub fn departure(&mut self, index: usize) -> Arrival {
        match self.flags {
            Flags::Host(known) => {
                let still = |(recipe, since): &(Recipe, usize)| {
                    let units = self.units.get(*since..index).unwrap_or_default();
                    units.iter().all(|unit| unit.changes & recipe.registers() == 0)
                };
                let recipe = known.filter(still).map(|(recipe, _)| recipe);
                if recipe.is_some() && self.flags_arrived {
                    self.recipe = RecipeUse::Used;
                }
                Arrival::Host(recipe)
            }
            Flags::Recipe(recipe) => Arrival::Recipe(recipe),
            Flags::Slot | Flags::Both => Arrival::Slot,
        }
    }

    /// The flags are now those that unit `index` made.
    fn flags_made_by(&mut self, index: usize) {
        let recipe = Recipe::after(&self.units[index].raw);
        self.flags = Flags::Host(recipe.map(|recipe| (recipe, index + 1)));
        self.flags_arrived = false;
    }

    /// Whether a recipe, good from unit `since` on, is good for every unit from `index` on that may
    /// fault before the flags are replaced, and nobody needs them.
    fn recipe_serves(&self, (recipe, since): (Recipe, usize), index: usize) -> bool {
        let registers = recipe.registers();
        let mut changed = 0;
        for (i, unit) in self.units.iter().enumerate().skip(since) {
            let effect = unit.effect;
            if i >= index {
                if unit.visible && changed & registers != 0 {
                    return false;
                }
                let stores = unit.visible && unit::writes_memory(&unit.raw)
                    || matches!(unit.class, Class::Push);
                if effect.reads != 0 || unit.ends_block() || stores && unit.changes & registers != 0
                {
                    return false;
                }
                if effect.modifies != 0 {
                    return unit.needed & !effect.replaces == 0;
                }
            }
            changed |= unit.changes;
        }
        false
    }

    /// Brings the flags to the host's, for a reader. R14 may be lost.
    pub fn flags_to_host(&mut self) {
        if let Flags::Slot = self.flags {
            thunks::restore_flags(&mut self.asm);
            self.flags = Flags::Both;
        }
    }

    /// Brings the flags to the frame. R14 may be lost.
    pub fn flags_to_slot(&mut self) {
        if let Flags::Host(_) = self.flags {
            thunks::save_flags(&mut self.asm);
            self.flags = Flags::Both;
        }
    }

    /// The old flags that unit `index` must find in the host's.
    fn wanted_flags(&self, index: usize) -> u8 {
        let Unit { effect, needed, .. } = self.units[index];
        let spared = if effect.modifies != 0 { needed & !effect.replaces } else { 0 };
        effect.reads | spared
    }

    /// Whether unit `index` must find old flags in the host's.
    fn wants_host_flags(&self, index: usize) -> bool {
        self.wanted_flags(index) != 0
    }

    /// Brings what unit `index` wants of the flags to the host's. R14 may be lost.
    fn wanted_flags_to_host(&mut self, index: usize) {
        if self.flags == Flags::Slot && self.wanted_flags(index) == RflagsBits::CF as u8 {
            thunks::restore_carry(&mut self.asm);
        } else {
            self.flags_to_host();
        }
    }

    pub fn step(&mut self, index: usize, kind: Kind) {
        let flags = self.destroy_flags(index);
        let record = self.record_of(index, kind, flags);
        self.load_record(record);
        self.asm.call(self.thunks.step);
        self.held = None;
        if self.units[index].effect.modifies != 0 {
            self.flags = Flags::Slot;
            self.flags_arrived = false;
        }
    }

    /// Makes code for a plain instruction.
    fn plain(&mut self, index: usize) {
        let unit = &self.units[index];
        if unit::touches_memory(&unit.raw) {
            return self.plain_with_memory(index);
        }
        self.want_registers(index);
        if self.wants_host_flags(index) {
            self.wanted_flags_to_host(index);
        }
        self.encode_trapping(index, self.flags.at_trap(), 0);
        if unit.class == Class::Fpu && x87::remembered(&unit.raw) {
            self.remember(index);
        }
        if unit.effect.modifies != 0 {
            self.flags_made_by(index);
        }
    }

    /// Makes the registers that unit `index` uses the host's.
    fn want_registers(&mut self, index: usize) {
        match self.units[index].class {
            Class::Vector => self.want_vectors(index),
            Class::Fpu => self.want_x87(index),
            _ => {}
        }
    }

    /// Encodes unit `index`, whose memory operand lies at distance `at` from where R13 points. If it
    /// may trap, the interpreter executes it then.
    fn encode_trapping(&mut self, index: usize, flags: FlagsAt, at: i32) {
        let from = self.asm.offset();
        self.encode(index, at);
        let unit = &self.units[index];
        if matches!(unit.class, Class::Vector | Class::Fpu) || unit::can_trap(unit.raw.mnemonic()) {
            let kind = Kind::Interpret(unit.raw.ip() as i64);
            let record = self.record(plain_record(self.source, kind, flags));
            self.traps.push((from..self.asm.offset(), record));
        }
    }

    /// Before a vector instruction: makes the guest's vector registers the host's, if the block has
    /// not made sure of that. R14 and the host's flags are lost.
    pub fn want_vectors(&mut self, index: usize) {
        let raw = &self.units[index].raw;
        let level = vector_level(raw);
        if self.vectors >= level {
            return;
        }
        self.vectors = level;
        let flags = self.destroy_flags(index);
        let (again, from) = (self.asm.label(), self.asm.label());
        self.asm.bind(again);
        self.asm.compare_byte(Mem::at(R15, at::VECTORS_LIVE), level);
        self.asm.jcc(cond::B, from);
        let kind = Kind::Interpret(raw.ip() as i64);
        let record = self.record(plain_record(self.source, kind, flags));
        let helper = self.thunks.load_vectors;
        self.stubs.push(Stub::Call { from, record, helper, back: again });
    }

    fn plain_with_memory(&mut self, index: usize) {
        let unit = &self.units[index];
        let raw = &unit.raw;
        let size = raw.memory_size().size();
        let writes = unit::writes_memory(raw);
        self.want_registers(index);
        if let Some(member) = self.groups.member(index) {
            return self.plain_in_group(index, member);
        }
        let at_fault = self.destroy_flags(index);
        self.address(raw, R13);
        let far_bit = unit::is_far_bit(raw);
        if far_bit {
            self.go_to_bit(raw);
        }
        let remembered = unit.class == Class::Fpu && x87::remembered(raw);
        if remembered {
            self.note_operand(raw);
        }
        let slow = self.asm.label();
        self.look_up(size, writes, slow);
        match raw.mnemonic() {
            Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => self.check_mxcsr(slow),
            _ => {}
        }
        let restores = self.wants_host_flags(index) && self.flags == Flags::Slot;
        let homeless = (0..raw.op_count()).any(|n| {
            let register = raw.op_register(n);
            raw.op_kind(n) == OpKind::Register
                && register.is_gpr()
                && unit::home(register).is_none()
        });
        let modifies = unit.effect.modifies != 0;
        let keep_entry = writes && (restores || homeless || modifies || remembered);
        if keep_entry {
            self.asm.store(R15, at::SPARE, R14);
        }
        if restores {
            self.wanted_flags_to_host(index);
        }
        if far_bit {
            self.asm.load(R14, R15, at::TARGET);
        }
        self.encode_trapping(index, at_fault, 0);
        if remembered {
            self.remember(index);
        }
        if modifies {
            self.flags_made_by(index);
        }
        if writes {
            self.flags_to_slot();
            if keep_entry {
                self.asm.load(R14, R15, at::SPARE);
            }
            if self.flags == Flags::Both {
                self.flags = Flags::Slot;
            }
            let kind = Kind::Written { next: raw.next_ip() as i64, len: size as u16 };
            self.look_for_watchers(kind);
        }
        let back = self.asm.label();
        self.asm.bind(back);
        let record = self.record_of(index, Kind::Step, at_fault);
        let restore_flags = matches!(self.flags, Flags::Host(_) | Flags::Both);
        self.stubs.push(Stub::Step { from: slow, record, back, restore_flags });
    }

    /// The same for an access that belongs to a group.
    fn plain_in_group(&mut self, index: usize, member: Member) {
        self.reach(index, member);
        if self.wants_host_flags(index) {
            self.wanted_flags_to_host(index);
        }
        self.encode_trapping(index, self.flags.at_trap(), member.at);
        if self.units[index].effect.modifies != 0 {
            self.flags_made_by(index);
        }
        if member.writes {
            self.stored(index, member);
        }
    }

    /// Lets R13 point to the group of unit `index`.
    pub fn reach(&mut self, index: usize, member: Member) {
        if member.first {
            self.look_up_group(index, member.group);
        } else if self.held != Some(member.group) {
            self.asm.load(R13, R15, at::group(member.group));
            self.held = Some(member.group);
        }
    }

    /// Looks into the TLB for a whole group. If its accesses do not lie in one page, or somebody
    /// watches a page it stores to, the block goes on in a variant of its own.
    fn look_up_group(&mut self, index: usize, number: usize) {
        let group = self.groups.groups[number];
        self.destroy_flags(index);
        let target = Target {
            at: self.units[index].raw.ip() as u16,
            arrival: self.departure(index),
            alone: true,
        };
        self.group_address(&group);
        self.compare_entry(group.span, group.writes);
        self.link(Some(cond::A), target);
        self.asm.mem(Width::Q, op::ADD, R13, Mem::at(R14, 8));
        if group.writes {
            self.asm.load(R14, R14, 16);
            self.asm.compare_byte(Mem::at(R14, 0), 0);
            self.link(Some(cond::NE), target);
            self.asm.store(R15, at::group_flags(group.slot), R14);
        }
        self.asm.store(R15, at::group(group.slot), R13);
        self.held = Some(number);
    }

    /// After the store of unit `index`: looks whether somebody watches, now or after a store that
    /// follows at once.
    pub fn stored(&mut self, index: usize, member: Member) {
        let follows = |next: &usize| {
            let unit = &self.units[*next];
            let same = self.groups.member(*next).is_some_and(|other| other.group == member.group);
            let calm = unit.effect.modifies == 0
                && !unit.ends_block()
                && (unit.class != Class::Vector
                    || unit::is_calm_move(&unit.raw) && self.vectors >= vector_level(&unit.raw));
            calm && (same || !unit.visible)
        };
        let deferred = (index + 1..self.units.len())
            .take_while(follows)
            .any(|next| self.groups.member(next).is_some_and(|other| other.writes));
        if !deferred {
            let next = self.units[index].raw.next_ip() as i64;
            self.look_for_group_watchers(index, member.group, next);
        }
    }

    /// See [`Emitter::stored`]; `next` is the instruction that is to be executed next.
    pub fn look_for_group_watchers(&mut self, index: usize, number: usize, next: i64) {
        let modified = self.units[index].effect.modifies != 0;
        let flags = self.destroy_flags(index + usize::from(modified));
        let group = self.groups.groups[number];
        self.asm.load(R14, R15, at::group_flags(group.slot));
        self.asm.compare_byte(Mem::at(R14, 0), 0);
        let (from, back) = (self.asm.label(), self.asm.label());
        self.asm.jcc(cond::NE, from);
        self.asm.bind(back);
        let kind = Kind::Written { next, len: group.span as u16 };
        let record = self.record(plain_record(self.source, kind, flags));
        self.stubs.push(Stub::GroupWritten { from, record, back, group: number });
        if self.held != Some(number) {
            self.held = None;
        }
    }

    /// After a store to the page whose TLB entry R14 points to: looks whether somebody watches it.
    /// R13 has the host address of what was stored. The host's flags are lost.
    pub fn look_for_watchers(&mut self, kind: Kind) {
        self.asm.load(R14, R14, 16);
        self.asm.compare_byte(Mem::at(R14, 0), 0);
        let from = self.asm.label();
        self.asm.jcc(cond::NE, from);
        let back = self.asm.label();
        self.asm.bind(back);
        let record = self.record(plain_record(self.source, kind, self.flags.at_trap()));
        let helper = self.thunks.written;
        self.stubs.push(Stub::Call { from, record, helper, back });
    }

    /// The guest's instruction itself, with its registers replaced by those of the host, and its
    /// memory operand by the one at distance `at` from where R13 points.
    fn encode(&mut self, index: usize, at: i32) {
        let unit = &self.units[index];
        let raw = &unit.raw;
        let mut insn = *raw;
        if let Some(code) = unit::encodable(raw) {
            insn.set_code(code);
        }
        let memory = unit::touches_memory(raw);
        if memory {
            set_memory(&mut insn, Register::R13, at);
        } else if unit.class == Class::Plain
            && let Some(number) = unit::into_frame(&mut insn, raw, unit.changes)
        {
            set_memory(&mut insn, Register::R15, at::reg(number));
        }
        let borrowed = self.borrowable(index);
        let mut scratch = unit::scratch(memory).iter().copied().chain(borrowed);
        let mut swapped = None;
        let mut homeless: Vec<(Register, u8)> = Vec::new();
        for n in 0..insn.op_count() {
            if insn.op_kind(n) != OpKind::Register || !insn.op_register(n).is_gpr() {
                continue;
            }
            let register = insn.op_register(n);
            if n == 1 && unit::is_far_bit(raw) {
                insn.set_op_register(n, part(R14, register));
                continue;
            }
            if memory && unit::is_high_byte(register) {
                // The memory operand's base leaves no way to name it.
                let number = register.full_register().number();
                insn.set_op_register(n, Register::AL + number as u32);
                swapped = Some(number as u8);
                continue;
            }
            let full = register.full_register();
            let host = match unit::home(register) {
                Some(host) => host,
                None => match homeless.iter().find(|(known, _)| *known == full) {
                    Some((_, host)) => *host,
                    None => {
                        let host = scratch.next().unwrap_or(R14);
                        if host == R13 {
                            self.held = None;
                        }
                        homeless.push((full, host));
                        host
                    }
                },
            };
            if usize::from(host) != full.number() {
                insn.set_op_register(n, part(host, register));
            }
        }
        let borrowed = borrowed.filter(|host| homeless.iter().any(|(_, used)| used == host));
        if let Some(host) = borrowed {
            self.asm.store(R15, at::SPARE, host);
        }
        let loads = !unit::only_writes(raw);
        for (guest, host) in &homeless {
            if loads || *guest != raw.op0_register().full_register() {
                self.asm.load(*host, R15, at::reg(guest.number() as u8));
            }
        }
        swapped.iter().for_each(|number| self.asm.swap_bytes(*number));
        self.encode_as_is(&insn);
        swapped.iter().for_each(|number| self.asm.swap_bytes(*number));
        for (guest, host) in &homeless {
            let number = guest.number();
            if unit.changes >> number & 1 != 0 {
                self.asm.store(R15, at::reg(number as u8), *host);
            }
        }
        if let Some(host) = borrowed {
            self.asm.load(host, R15, at::SPARE);
        }
    }

    /// A host register that unit `index` has no use for, if it may be given to a guest register
    /// without a home.
    fn borrowable(&self, index: usize) -> Option<u8> {
        let raw = &self.units[index].raw;
        let used = |host: u8| {
            (0..raw.op_count()).any(|n| {
                raw.op_kind(n) == OpKind::Register && unit::home(raw.op_register(n)) == Some(host)
            })
        };
        let mut hosts = [RBX, RBP, RSI, RDI].into_iter();
        if unit::may_borrow(raw) { hosts.find(|host| !used(*host)) } else { None }
    }

    pub fn encode_as_is(&mut self, insn: &Instruction) {
        self.encoder.set_buffer(std::mem::take(&mut self.asm.bytes));
        let encoded = self.encoder.encode(insn, 0);
        self.asm.bytes = self.encoder.take_buffer();
        debug_assert!(encoded.is_ok(), "{encoded:?}");
    }

    /// LEA.
    fn address_of(&mut self, raw: &Instruction) {
        let to = raw.op0_register();
        let host = unit::home(to);
        let into = host.unwrap_or(R13);
        self.held = None;
        self.address_into(raw, into, to.size() == 8);
        if host.is_none() {
            self.asm.store(R15, at::reg(to.full_register().number() as u8), R13);
        }
    }

    /// The host register that has guest register `number`, which is loaded to `scratch` if it has no
    /// home.
    pub fn in_register(&mut self, number: usize, scratch: u8) -> u8 {
        match thunks::HOME[number & 15] {
            Some(home) => home,
            None => {
                self.asm.load(scratch, R15, at::reg(number as u8));
                scratch
            }
        }
    }

    /// Adds to the guest's stack pointer.
    pub fn move_stack(&mut self, distance: i32) {
        let rsp = thunks::HOME[gpr::RSP].unwrap_or(R12);
        self.asm.mem(self.wide(), op::LEA, rsp, Mem::at(rsp, distance));
    }

    /// Leaves for good by `record`.
    pub fn exit(&mut self, record: usize, save_flags: bool) {
        self.load_record(record);
        let target = if save_flags { self.thunks.exit_with_flags } else { self.thunks.exit };
        self.asm.jmp_to(target);
    }

    /// Makes the code off the straight line, and resolves labels.
    pub fn finish(mut self, guest_len: usize, cold: usize) -> Translation {
        self.asm.go_cold(cold);
        while !self.stubs.is_empty() {
            for stub in std::mem::take(&mut self.stubs) {
                self.stub(stub);
            }
        }
        self.asm.finish();
        Translation {
            hot_len: self.asm.hot_len(),
            code: self.asm.bytes,
            recipe: self.recipe,
            guest_len,
            records: self.records.into(),
            record_sites: self.record_sites,
            traps: self.traps,
            marks: self.marks,
        }
    }

    fn stub(&mut self, stub: Stub) {
        match stub {
            Stub::Step { from, record, back, restore_flags } => {
                self.asm.bind(from);
                self.load_record(record);
                self.asm.call(self.thunks.step);
                if restore_flags {
                    thunks::restore_flags(&mut self.asm);
                }
                self.asm.jmp(back);
            }
            Stub::Fill { from, write, again, slow } => {
                self.asm.bind(from);
                self.asm.call(self.thunks.fill[usize::from(write)]);
                self.asm.jcc(cond::NE, again);
                self.asm.jmp(slow);
            }
            Stub::Exit { from, record, save_flags } => {
                self.asm.bind(from);
                self.exit(record, save_flags);
            }
            Stub::Call { from, record, helper, back } => {
                self.asm.bind(from);
                self.load_record(record);
                self.asm.call(helper);
                self.asm.jmp(back);
            }
            Stub::GroupWritten { from, record, back, group } => {
                self.asm.bind(from);
                self.asm.load(R13, R15, at::group(group));
                self.load_record(record);
                self.asm.call(self.thunks.written);
                self.asm.load(R13, R15, at::group(group));
                self.asm.jmp(back);
            }
            Stub::Far { from, target, flags } => {
                self.asm.bind(from);
                self.flags = flags;
                self.leave_to(target);
            }
        }
    }
}
