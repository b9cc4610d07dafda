//! Makes host code for one instruction after the other.

use std::ops::Range;

use iced_x86::{Encoder, EncodingKind, Instruction, Mnemonic, OpKind, Register, RflagsBits};

use super::control::Way;
use super::group::{Groups, Member};
use super::unit::{self, Class, Unit};
use super::window::{Loop, Place, Windows};
use super::x87;
use super::{Arrival, Flags, RecipeUse, Source, Translation};
use crate::interp::decode;
use crate::jit::asm::{Asm, Label, Mem, Width, cond, group as immediate, host::*, op};
use crate::jit::flags::{FlagsAt, Recipe};
use crate::jit::frame::{at, vectors};
use crate::jit::helper::brief::GO_ON;
use crate::jit::jump;
use crate::jit::record::{Kind, Record, Step, Target, Then};
use crate::jit::thunks::{self, Thunks};
use crate::state::gpr;

/// Code off the straight line, made after it.
pub(super) enum Stub {
    /// The interpreter's handler executes the instruction instead.
    Step { from: Label, record: usize, back: Label, restore_flags: bool },
    /// A look into the TLB found nothing. If what is loaded lies in two pages, the block goes on at
    /// `astride`, where R13 leads to it.
    Fill { from: Label, write: bool, again: Label, slow: Label, astride: Option<Label> },
    /// The first entry of the jump table is for another address.
    OtherEntry { from: Label, back: Label, miss: Label },
    /// Leaves for good.
    Exit { from: Label, record: usize, save_flags: bool },
    /// A store hit a watched page.
    Written { from: Label, record: usize, back: Label },
    /// A brief instruction was left to its handler, or wants translated code to be left after it.
    Brief { from: Label, record: usize, next: usize, back: Label },
    /// Calls a helper.
    Call { from: Label, record: usize, helper: usize, back: Label },
    /// Stores of the group hit a watched page.
    GroupWritten { from: Label, record: usize, back: Label, group: usize },
    /// Stores through a window hit a watched page.
    WindowWritten { from: Label, record: usize, back: Label, place: Place },
    /// The windows of the loop are to be set.
    Windows { from: Label, back: Label, flags: Flags },
    /// A return that does not go where the last call came from.
    Return { from: Label, back: Label, slow: Label, release: i32 },
    /// There is no room for another call on the host's stack.
    ForgetCalls { from: Label, back: Label },
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
    pub windows: Windows,
    /// Where the next turn of the loop begins, if there are windows.
    pub turns: Option<Loop>,
    /// See [`Translation::loops`], with labels.
    pub loops: Vec<(usize, Label)>,
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
        (groups, windows): (Groups, Windows),
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
            windows,
            turns: None,
            loops: Vec::new(),
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
        if self.units.iter().any(Unit::leads_back) {
            self.poll();
        }
        if self.windows.any() {
            self.begin_loop();
        }
        if let Some(host) = self.source.next_page {
            self.expect_next_page(host);
        }
    }

    /// A place before the first unit at which translated code finds that somebody wants attention. A
    /// comparison is much faster then than a trap, but destroys the flags.
    pub fn poll(&mut self) {
        let kind = Kind::Goto(self.source.start.into());
        let may_compare = match self.flags {
            Flags::Host(known) => known.is_some_and(|known| self.recipe_serves(known, 0)),
            Flags::Slot | Flags::Both | Flags::Recipe(_) => true,
        };
        if may_compare {
            let flags = self.destroy_flags(0);
            self.asm.compare_byte(Mem::at(R15, at::WANTED), 0);
            let from = self.asm.label();
            self.asm.jcc(cond::NE, from);
            let record = self.record(kind, flags);
            self.stubs.push(Stub::Exit { from, record, save_flags: false });
        } else {
            self.asm.load(R14, R15, at::POLL);
            self.may_trap(kind, self.flags.at_trap());
            self.asm.load(R14, R14, 0);
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
        self.fetch_entry();
        let from = self.asm.label();
        self.asm.mem(Width::Q, op::CMP, R13, Mem::at(R14, 0));
        self.asm.jcc(cond::NE, from);
        self.asm.mov_imm(R13, host as u64);
        self.asm.mem(Width::Q, op::CMP, R13, Mem::at(R14, 8));
        self.asm.jcc(cond::NE, from);
        let kind = Kind::Crossing { at: self.source.start, host };
        let record = self.record(kind, self.flags.at_trap());
        self.stubs.push(Stub::Exit { from, record, save_flags: false });
    }

    /// The next host instruction may trap.
    fn may_trap(&mut self, kind: Kind, flags: FlagsAt) {
        let record = self.record(kind, flags);
        let at = self.asm.offset();
        self.traps.push((at..at + 1, record));
    }

    pub fn record(&mut self, kind: Kind, flags: FlagsAt) -> usize {
        let Source { block, origin, .. } = *self.source;
        self.records.push(Record { kind, flags, block, origin });
        self.records.len() - 1
    }

    /// A record for executing unit `index` by the interpreter's handler.
    pub fn record_of(&mut self, index: usize, then: Then, flags: FlagsAt) -> usize {
        let unit = &self.units[index];
        let effect = unit.effect;
        let touches_flags = effect.reads | effect.modifies != 0 || matches!(then, Then::Stop(_));
        let touches_x87 = unit::touches_x87(&unit.raw);
        let op = self.source.lower(unit);
        let kind = Kind::Execute(Step { op, then, touches_flags, touches_x87 });
        self.record(kind, flags)
    }

    /// `mov r14, record`.
    fn load_record(&mut self, record: usize) {
        let at = self.asm.mov_imm64(R14, 0);
        self.record_sites.push((at, record));
    }

    /// Where in its page the instruction lies that code is being made for.
    pub fn place(&self) -> Option<u64> {
        self.marks.last().map(|(_, ip)| *ip)
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
            Class::Time => self.time(index),
            Class::Brief => self.brief(index),
            Class::Address => self.address_of(&unit.raw),
            Class::Push => self.push(index),
            Class::Pop => self.pop(index),
            Class::Leave => self.leave_frame(index),
            Class::Step => self.step(index, Then::GoOn),
            Class::Look => self.step(index, Then::Look(decode::ends_block(&unit.raw))),
            Class::Last(end) => {
                let flags = self.destroy_flags(index);
                let record = self.record_of(index, Then::Stop(end), flags);
                self.exit(record, false);
            }
            Class::Jump => self.leave_to(unit.raw.near_branch_target() as i32, Way::Jump),
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

    pub fn step(&mut self, index: usize, then: Then) {
        let flags = self.destroy_flags(index);
        let record = self.record_of(index, then, flags);
        self.load_record(record);
        self.asm.call(self.thunks.step);
        self.held = None;
        if self.units[index].effect.modifies != 0 {
            self.flags = Flags::Slot;
            self.flags_arrived = false;
        }
    }

    /// RDTSC or RDTSCP.
    fn time(&mut self, index: usize) {
        let flags = self.destroy_flags(index);
        let raw = &self.units[index].raw;
        self.asm.mov_imm(R13, (raw.mnemonic() == Mnemonic::Rdtscp).into());
        self.asm.call(self.thunks.time);
        let (slow, back) = (self.asm.label(), self.asm.label());
        self.asm.jcc(cond::E, slow);
        self.asm.bind(back);
        let record = self.record_of(index, Then::Look(decode::ends_block(raw)), flags);
        self.stubs.push(Stub::Step { from: slow, record, back, restore_flags: false });
    }

    /// A system instruction that leaves general registers alone.
    fn brief(&mut self, index: usize) {
        let flags = self.destroy_flags(index);
        let raw = &self.units[index].raw;
        let record = self.record_of(index, Then::Look(decode::ends_block(raw)), flags);
        self.load_record(record);
        self.asm.mov(R13, R14);
        self.asm.call(self.thunks.brief);
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.asm.alu_imm(Width::D, immediate::CMP, R14, GO_ON as i32);
        self.asm.jcc(cond::NE, odd);
        self.asm.bind(back);
        let next = self.record(Kind::Goto(raw.next_ip() as i64), flags);
        self.stubs.push(Stub::Brief { from: odd, record, next, back });
        self.held = None;
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
        self.encode_trapping(index, self.flags.at_trap(), Mem::default());
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

    /// Encodes unit `index`, whose memory operand becomes `memory`. If it may trap, the interpreter
    /// executes it then.
    pub fn encode_trapping(&mut self, index: usize, flags: FlagsAt, memory: Mem) {
        let from = self.asm.offset();
        self.encode(index, memory);
        let unit = &self.units[index];
        if matches!(unit.class, Class::Vector | Class::Fpu) || unit::can_trap(unit.raw.mnemonic()) {
            let kind = Kind::Interpret(unit.raw.ip() as i64);
            let record = self.record(kind, flags);
            self.traps.push((from..self.asm.offset(), record));
        }
    }

    /// Before a vector instruction: makes the guest's vector registers the host's, if the block has
    /// not made sure of that. R14 and the host's flags are lost.
    pub fn want_vectors(&mut self, index: usize) {
        let level = vector_level(&self.units[index].raw);
        if self.vectors < level {
            let flags = self.destroy_flags(index);
            self.load_vectors(level, flags, self.units[index].raw.ip());
        }
    }

    /// The same at the beginning of a loop, for all of it.
    pub fn want_vectors_of_loop(&mut self) {
        let vectors = self.units.iter().filter(|unit| unit.class == Class::Vector);
        let level = vectors.map(|unit| vector_level(&unit.raw)).max().unwrap_or(vectors::NONE);
        if level > vectors::NONE {
            let flags = self.flags.at_trap();
            self.load_vectors(level, flags, self.source.start.into());
        }
    }

    /// Makes `level` of the guest's vector registers the host's. If the mode forbids that, the
    /// interpreter goes on at `at`. R14 and the host's flags are lost.
    fn load_vectors(&mut self, level: u8, flags: FlagsAt, at: u64) {
        self.vectors = level;
        let (again, from) = (self.asm.label(), self.asm.label());
        self.asm.bind(again);
        self.asm.compare_byte(Mem::at(R15, at::VECTORS_LIVE), level);
        self.asm.jcc(cond::B, from);
        let kind = Kind::Interpret(at as i64);
        let record = self.record(kind, flags);
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
        if let Some(place) = self.windows.place(index) {
            return self.plain_in_window(index, place);
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
        self.encode_trapping(index, at_fault, Mem::at(R13, 0));
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
        let record = self.record_of(index, Then::GoOn, at_fault);
        let restore_flags = matches!(self.flags, Flags::Host(_) | Flags::Both);
        self.stubs.push(Stub::Step { from: slow, record, back, restore_flags });
    }

    /// The same for an access that belongs to a group.
    fn plain_in_group(&mut self, index: usize, member: Member) {
        self.reach(index, member);
        self.prepare_flags(index);
        self.encode_trapping(index, self.flags.at_trap(), Mem::at(R13, member.at));
        self.made_flags(index);
        if member.writes {
            self.stored(index, member);
        }
    }

    /// Brings the flags that unit `index` wants of old to the host's. R14 may be lost.
    pub fn prepare_flags(&mut self, index: usize) {
        if self.wants_host_flags(index) {
            self.wanted_flags_to_host(index);
        }
    }

    /// Takes note of the flags that unit `index` has made, if it makes any. Whether it does.
    pub fn made_flags(&mut self, index: usize) -> bool {
        let modifies = self.units[index].effect.modifies != 0;
        if modifies {
            self.flags_made_by(index);
        }
        modifies
    }

    /// Lets R13 point to the group of unit `index`.
    pub fn reach(&mut self, index: usize, member: Member) {
        if member.first {
            self.look_up_group(index, member.group);
        } else if self.held != Some(member.group) {
            self.asm.load(R13, R15, self.group_place(member.group));
            self.held = Some(member.group);
        }
    }

    /// Where in the frame the host address of a group's first byte is.
    fn group_place(&self, number: usize) -> i32 {
        at::group(self.groups.groups[number].slot)
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
        let same = |it: &Self, next| {
            it.groups.member(next).is_some_and(|other| other.group == member.group)
        };
        let stores = |it: &Self, next| it.groups.member(next).is_some_and(|other| other.writes);
        if !self.looks_later(index, same, stores) {
            let next = self.units[index].raw.next_ip() as i64;
            self.look_for_group_watchers(index, member.group, next);
        }
    }

    /// Whether the look for watchers after the store of unit `index` may wait for that after a store
    /// that follows at once. `same`: accesses to the same place; `stores`: those that store.
    pub fn looks_later(
        &self,
        index: usize,
        same: impl Fn(&Self, usize) -> bool,
        stores: impl Fn(&Self, usize) -> bool,
    ) -> bool {
        let follows = |next: &usize| {
            let unit = &self.units[*next];
            let calm = unit.effect.modifies == 0
                && !unit.ends_block()
                && (unit.class != Class::Vector
                    || unit::is_calm_move(&unit.raw) && self.vectors >= vector_level(&unit.raw));
            calm && (same(self, *next) || !unit.visible)
        };
        (index + 1..self.units.len())
            .take_while(follows)
            .any(|next| same(self, next) && stores(self, next))
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
        let record = self.record(kind, flags);
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
        let record = self.record(kind, self.flags.at_trap());
        self.stubs.push(Stub::Written { from, record, back });
    }

    /// The guest's instruction itself, with its registers replaced by those of the host, and its
    /// memory operand by `operand`, whose base is R13.
    fn encode(&mut self, index: usize, operand: Mem) {
        let unit = &self.units[index];
        let raw = &unit.raw;
        let mut insn = *raw;
        if let Some(code) = unit::encodable(raw) {
            insn.set_code(code);
        }
        let memory = unit::touches_memory(raw);
        if memory {
            set_memory(&mut insn, Register::R13, operand.disp);
            if let Some((index, scale)) = operand.index {
                insn.set_memory_index(GPR64[usize::from(index & 15)]);
                insn.set_memory_index_scale(1 << scale);
            }
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
    pub fn finish(mut self, guest: Vec<Range<u32>>, cold: usize) -> Translation {
        self.asm.go_cold(cold);
        while !self.stubs.is_empty() {
            for stub in std::mem::take(&mut self.stubs) {
                self.stub(stub);
            }
        }
        let loops =
            self.loops.iter().filter_map(|(site, from)| Some((*site, self.asm.place_of(*from)?)));
        let loops = loops.collect();
        self.asm.finish();
        let hot_len = self.asm.hot_len();
        let (mut code, records) = (self.asm.bytes, Box::<[Record]>::from(self.records));
        for (at, record) in self.record_sites {
            let address = &raw const records[record] as u64;
            code[at..at + 8].copy_from_slice(&address.to_le_bytes());
        }
        Translation {
            hot_len,
            code,
            recipe: self.recipe,
            guest,
            records,
            traps: self.traps,
            loops,
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
            Stub::Fill { from, write, again, slow, astride } => {
                self.asm.bind(from);
                if let Some(astride) = astride {
                    self.asm.call(self.thunks.astride);
                    self.asm.jcc(cond::E, astride);
                }
                self.asm.call(self.thunks.fill[usize::from(write)]);
                self.asm.jcc(cond::NE, again);
                self.asm.jmp(slow);
            }
            Stub::OtherEntry { from, back, miss } => {
                self.asm.bind(from);
                self.asm.alu_imm(Width::Q, immediate::XOR, R14, jump::OTHER.into());
                self.asm.mem(Width::Q, op::CMP, R13, Mem::at(R14, 0));
                self.asm.jcc(cond::E, back);
                self.asm.jmp(miss);
            }
            Stub::Exit { from, record, save_flags } => {
                self.asm.bind(from);
                self.exit(record, save_flags);
            }
            Stub::Written { from, record, back } => {
                self.asm.bind(from);
                self.asm.call(self.thunks.beside);
                self.asm.jcc(cond::B, back);
                self.load_record(record);
                self.asm.call(self.thunks.written);
                self.asm.jmp(back);
            }
            Stub::Brief { from, record, next, back } => {
                let leave = self.asm.label();
                self.asm.bind(from);
                self.asm.alu_imm(Width::D, immediate::CMP, R14, 0);
                self.asm.jcc(cond::NE, leave);
                self.load_record(record);
                self.asm.call(self.thunks.step);
                self.asm.jmp(back);
                self.asm.bind(leave);
                self.exit(next, false);
            }
            Stub::Call { from, record, helper, back } => {
                self.asm.bind(from);
                self.load_record(record);
                self.asm.call(helper);
                self.asm.jmp(back);
            }
            Stub::GroupWritten { from, record, back, group } => {
                self.asm.bind(from);
                self.asm.load(R13, R15, self.group_place(group));
                self.load_record(record);
                self.asm.call(self.thunks.written);
                self.asm.load(R13, R15, self.group_place(group));
                self.asm.jmp(back);
            }
            Stub::WindowWritten { from, record, back, place } => {
                self.asm.bind(from);
                self.reach_first(place);
                self.load_record(record);
                self.asm.call(self.thunks.written);
                self.asm.jmp(back);
            }
            Stub::Windows { from, back, flags } => {
                self.asm.bind(from);
                self.set_windows(flags);
                self.asm.jmp(back);
            }
            Stub::Return { from, back, slow, release } => {
                self.asm.bind(from);
                self.return_elsewhere(back, slow, release);
            }
            Stub::ForgetCalls { from, back } => {
                self.asm.bind(from);
                self.asm.load(RSP, R15, at::STACK);
                self.asm.jmp(back);
            }
            Stub::Far { from, target, flags } => {
                self.asm.bind(from);
                self.flags = flags;
                self.leave_to(target, Way::Jump);
            }
        }
    }
}
