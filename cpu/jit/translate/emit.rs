//! Makes host code for one instruction after the other.

use std::ops::Range;

use iced_x86::{Encoder, EncodingKind, Instruction, Mnemonic, OpKind, Register, RflagsBits};

use super::unit::{self, Class, Unit};
use super::x87;
use super::{Flags, Source, Translation, plain_record};
use crate::jit::asm::{Asm, Label, Mem, Width, cond, host::*, op};
use crate::jit::flags::{FlagsAt, Recipe};
use crate::jit::frame::{at, vectors};
use crate::jit::record::{Kind, Record};
use crate::jit::thunks::{self, Thunks};
use crate::state::gpr;

/// Code off the straight line, made after it.
pub(super) enum Stub {
    /// The interpreter's handler executes the instruction instead.
    Step { from: Label, record: usize, back: Label, restore_flags: bool },
    /// Leaves for good.
    Exit { from: Label, record: usize, save_flags: bool },
    /// Calls a helper.
    Call { from: Label, record: usize, helper: usize, back: Label },
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

impl<'a> Emitter<'a> {
    pub fn new(
        source: &'a Source<'a>,
        units: &'a [Unit],
        address: usize,
        thunks: &'a Thunks,
    ) -> Self {
        Emitter {
            asm: Asm::new(address),
            source,
            units,
            thunks,
            flags: if source.variant.host_flags { Flags::Host(None) } else { Flags::Slot },
            stubs: Vec::new(),
            records: Vec::new(),
            record_sites: Vec::new(),
            traps: Vec::new(),
            encoder: Encoder::new(64),
            vectors: vectors::NONE,
            x87_segment: None,
            x87_page_noted: false,
        }
    }

    /// Width of the guest's addresses and pushes.
    pub fn wide(&self) -> Width {
        if self.source.variant.key.code_bits() == 64 { Width::Q } else { Width::D }
    }

    /// Makes the head of the block: a loop looks whether somebody wants attention.
    pub fn begin(&mut self) {
        let Some(last) = self.units.last() else { return };
        let loops = matches!(last.class, Class::Jump | Class::Branch(_) | Class::Call)
            && last.raw.near_branch_target() <= last.raw.ip();
        if loops {
            self.asm.load(R14, R15, at::POLL);
            let kind = Kind::Goto(self.source.start.into());
            let record = plain_record(self.source, kind, self.flags.at_trap());
            self.may_trap(record);
            self.asm.load(R14, R14, 0);
        }
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
        match unit.class {
            Class::Nothing => {}
            Class::Plain | Class::Vector | Class::Fpu => self.plain(index),
            Class::Gather => self.gather(index),
            Class::Address => self.address_of(&unit.raw),
            Class::Push => self.push(index),
            Class::Pop => self.pop(index),
            Class::Leave => self.leave_frame(index),
            Class::Step => self.step(index),
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
            Flags::Host(from) => match from.and_then(|from| self.recipe(from, index)) {
                Some(recipe) => Flags::Recipe(recipe),
                None => {
                    thunks::save_flags(&mut self.asm);
                    Flags::Slot
                }
            },
            Flags::Both => Flags::Slot,
            flags => flags,
        };
        self.flags.at_trap()
    }

    /// A recipe for the flags that unit `from` left, good for every unit from `index` on that may
    /// fault before the flags are replaced.
    fn recipe(&self, from: usize, index: usize) -> Option<Recipe> {
        let recipe = Recipe::after(&self.units[from].raw)?;
        let registers = recipe.registers();
        let mut changed = 0;
        for (i, unit) in self.units.iter().enumerate().skip(from + 1) {
            let effect = unit.effect;
            if i >= index {
                if unit.visible && changed & registers != 0 {
                    return None;
                }
                let stores = unit.visible && unit::writes_memory(&unit.raw)
                    || matches!(unit.class, Class::Push);
                if effect.reads != 0 || unit.ends_block() || stores && unit.changes & registers != 0
                {
                    return None;
                }
                if effect.modifies != 0 {
                    let spared = unit.needed & !effect.replaces;
                    return (spared == 0).then_some(recipe);
                }
            }
            changed |= unit.changes;
        }
        None
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

    pub fn step(&mut self, index: usize) {
        let flags = self.destroy_flags(index);
        let record = self.record_of(index, Kind::Step, flags);
        self.load_record(record);
        self.asm.call(self.thunks.step);
        if self.units[index].effect.modifies != 0 {
            self.flags = Flags::Slot;
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
        self.encode_trapping(index, self.flags.at_trap());
        if unit.class == Class::Fpu && x87::remembered(&unit.raw) {
            self.remember(index);
        }
        if unit.effect.modifies != 0 {
            self.flags = Flags::Host(Some(index));
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

    /// Encodes unit `index`. If it may trap, the interpreter executes it then.
    fn encode_trapping(&mut self, index: usize, flags: FlagsAt) {
        let from = self.asm.offset();
        self.encode(index);
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
        let level =
            if raw.encoding() == EncodingKind::Legacy { vectors::SSE } else { vectors::AVX };
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
        self.encode_trapping(index, at_fault);
        if remembered {
            self.remember(index);
        }
        if modifies {
            self.flags = Flags::Host(Some(index));
        }
        if writes {
            if modifies {
                thunks::save_flags(&mut self.asm);
                self.flags = Flags::Slot;
            }
            if keep_entry {
                self.asm.load(R14, R15, at::SPARE);
            }
            if self.flags == Flags::Both {
                self.flags = Flags::Slot;
            }
            let kind = Kind::Written { next: raw.next_ip() as i64, len: size as u8 };
            self.look_for_watchers(kind);
        }
        let back = self.asm.label();
        self.asm.bind(back);
        let record = self.record_of(index, Kind::Step, at_fault);
        let restore_flags = matches!(self.flags, Flags::Host(_) | Flags::Both);
        self.stubs.push(Stub::Step { from: slow, record, back, restore_flags });
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
    /// memory operand by the one that R13 points to.
    fn encode(&mut self, index: usize) {
        let unit = &self.units[index];
        let raw = &unit.raw;
        let mut insn = *raw;
        if let Some(code) = unit::encodable(raw) {
            insn.set_code(code);
        }
        let memory = unit::touches_memory(raw);
        if memory {
            insn.set_memory_base(Register::R13);
            insn.set_memory_index(Register::None);
            insn.set_memory_index_scale(1);
            insn.set_memory_displacement64(0);
            insn.set_memory_displ_size(0);
            insn.set_segment_prefix(Register::None);
        }
        let borrowed = self.borrowable(index);
        let mut scratch = unit::scratch(memory).iter().copied().chain(borrowed);
        let mut swapped = None;
        let mut homeless: Vec<(Register, u8)> = Vec::new();
        for n in 0..raw.op_count() {
            if raw.op_kind(n) != OpKind::Register || !raw.op_register(n).is_gpr() {
                continue;
            }
            let register = raw.op_register(n);
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
        for (guest, host) in &homeless {
            self.asm.load(*host, R15, at::reg(guest.number() as u8));
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
    pub fn finish(mut self, guest_len: usize) -> Translation {
        while !self.stubs.is_empty() {
            for stub in std::mem::take(&mut self.stubs) {
                self.stub(stub);
            }
        }
        self.asm.finish();
        Translation {
            code: self.asm.bytes,
            guest_len,
            records: self.records.into(),
            record_sites: self.record_sites,
            traps: self.traps,
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
            Stub::Far { from, target, flags } => {
                self.asm.bind(from);
                self.flags = flags;
                self.leave_to(target);
            }
        }
    }
}
