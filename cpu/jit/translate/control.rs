//! The stack, and what ends a block.

use iced_x86::OpKind;

use super::emit::{Emitter, Stub};
use super::group::Member;
use super::{Arrival, Flags};
use crate::jit::asm::{Label, Mem, Width, cond, group, host::*, op};
use crate::jit::flags::FlagsAt;
use crate::jit::frame::at;
use crate::jit::jump;
use crate::jit::record::{Kind, Target, Then};
use crate::jit::thunks::{self, HOME};
use crate::state::gpr;

/// How the next block is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// For good.
    Jump,
    /// Until the guest returns: see [`super::call`].
    Call,
}

impl Emitter<'_> {
    /// PUSH.
    pub fn push(&mut self, index: usize) {
        let raw = &self.units[index].raw;
        if let Some(member) = self.groups.member(index) {
            return self.push_in_group(index, member);
        }
        let at_fault = self.destroy_flags(index);
        let slow = self.asm.label();
        let word = self.word();
        let memory = raw.op0_kind() == OpKind::Memory;
        if memory {
            self.address(raw, R13);
            self.look_up(word, false, slow);
            self.asm.mem(self.wide(), op::LOAD, R13, Mem::at(R13, 0));
            self.asm.store(R15, at::TARGET, R13);
        }
        self.stack_next(slow);
        let here = Mem::at(R13, 0);
        match raw.op0_kind() {
            OpKind::Register => {
                let number = raw.op0_register().full_register().number();
                if let Some(home) = HOME[number] {
                    self.asm.mem(self.wide(), op::STORE, home, here);
                } else {
                    self.store_by_scratch(at::reg(number as u8));
                }
            }
            OpKind::Memory => self.store_by_scratch(at::TARGET),
            _ => self.asm.store_imm(self.wide(), here, raw.immediate(0) as i32),
        }
        self.move_stack(-(word as i32));
        let kind = Kind::Written { next: raw.next_ip() as i64, len: word as u16 };
        self.look_for_watchers(kind);
        self.resume(index, slow, at_fault);
    }

    /// PUSH of a register or an immediate, by an access that belongs to a group.
    fn push_in_group(&mut self, index: usize, member: Member) {
        self.reach(index, member);
        let raw = &self.units[index].raw;
        let here = Mem::at(R13, member.at);
        if raw.op0_kind() == OpKind::Register {
            let value = self.in_register(raw.op0_register().full_register().number(), R14);
            self.asm.mem(Width::Q, op::STORE, value, here);
        } else {
            self.asm.store_imm(Width::Q, here, raw.immediate(0) as i32);
        }
        self.move_stack(-8);
        self.stored(index, member);
    }

    /// Stores the frame's word at `from` to where R13 points; R14 survives.
    fn store_by_scratch(&mut self, from: i32) {
        self.asm.store(R15, at::SPARE, R14);
        self.asm.load(R14, R15, from);
        self.asm.mem(self.wide(), op::STORE, R14, Mem::at(R13, 0));
        self.asm.load(R14, R15, at::SPARE);
    }

    /// The label after unit `index`, whose slow path begins at `slow`.
    fn resume(&mut self, index: usize, slow: Label, at_fault: FlagsAt) {
        let back = self.asm.label();
        self.asm.bind(back);
        let record = self.record_of(index, Then::GoOn, at_fault);
        self.stubs.push(Stub::Step { from: slow, record, back, restore_flags: false });
    }

    /// POP of a register.
    pub fn pop(&mut self, index: usize) {
        let raw = &self.units[index].raw;
        if let Some(member) = self.groups.member(index) {
            self.reach(index, member);
            let number = raw.op0_register().full_register().number();
            let to = HOME[number].unwrap_or(R14);
            self.asm.load(to, R13, member.at);
            if to == R14 {
                self.asm.store(R15, at::reg(number as u8), R14);
            }
            return self.move_stack(8);
        }
        let at_fault = self.destroy_flags(index);
        let slow = self.asm.label();
        self.stack_top(slow);
        let number = raw.op0_register().full_register().number();
        match HOME[number] {
            Some(home) if number == gpr::RSP => {
                self.asm.mem(self.wide(), op::LOAD, home, Mem::at(R13, 0));
                return self.resume(index, slow, at_fault);
            }
            Some(home) => self.asm.mem(self.wide(), op::LOAD, home, Mem::at(R13, 0)),
            None => {
                self.asm.mem(self.wide(), op::LOAD, R13, Mem::at(R13, 0));
                self.asm.store(R15, at::reg(number as u8), R13);
            }
        }
        self.move_stack(self.word() as i32);
        self.resume(index, slow, at_fault);
    }

    /// LEAVE.
    pub fn leave_frame(&mut self, index: usize) {
        let at_fault = self.destroy_flags(index);
        let slow = self.asm.label();
        self.asm.reg(self.wide(), op::LOAD, R13, RBP);
        self.look_up(self.word(), false, slow);
        self.asm.mem(self.wide(), op::LOAD, R13, Mem::at(R13, 0));
        let rsp = HOME[gpr::RSP].unwrap_or(R12);
        self.asm.mem(self.wide(), op::LEA, rsp, Mem::at(RBP, self.word() as i32));
        self.asm.mov(RBP, R13);
        self.resume(index, slow, at_fault);
    }

    /// Goes on at the distance `target` from the beginning of the page, after the last unit.
    pub fn leave_to(&mut self, target: i32, way: Way) {
        match u16::try_from(target) {
            Ok(at) if at < 4096 => {
                let arrival = self.departure(self.units.len());
                let target = Target { at, arrival, alone: false };
                match way {
                    Way::Jump => self.link(None, target),
                    Way::Call => {
                        let from = self.asm.label();
                        let site = self.asm.patchable_call(from);
                        self.link_later(from, site, target, false);
                    }
                }
            }
            _ => {
                self.flags_to_slot();
                self.asm.load(R13, R15, at::PAGE_RIP);
                self.asm.mem(self.wide(), op::LEA, R13, Mem::at(R13, target));
                let miss = self.asm.label();
                let kind = Kind::Goto(target.into());
                let record = self.record(kind, FlagsAt::Slot);
                self.stubs.push(Stub::Exit { from: miss, record, save_flags: false });
                self.find_target(miss);
                self.go_to_target(way);
            }
        }
    }

    /// A jump to `target` in the same page, by way of a stub until it is linked.
    pub fn link(&mut self, condition: Option<u8>, target: Target) {
        let from = self.asm.label();
        let again = self.next_turn(target);
        let site = self.asm.patchable(condition, again.unwrap_or(from));
        if again.is_some() {
            self.loops.push((site, from));
        }
        let back = self.place().is_some_and(|place| u64::from(target.at) <= place);
        self.link_later(from, site, target, back && !target.alone);
    }

    /// The stub at `from` through which the jump at `site` is linked.
    fn link_later(&mut self, from: Label, site: usize, target: Target, back: bool) {
        let save_flags = target.arrival.in_host();
        let flags = if save_flags { FlagsAt::Slot } else { self.flags.at_trap() };
        let kind = Kind::Link { target, site, back };
        let record = self.record(kind, flags);
        self.stubs.push(Stub::Exit { from, record, save_flags });
    }

    /// Where the next turn of this loop begins, if that is what `target` is.
    fn next_turn(&self, target: Target) -> Option<Label> {
        let arrival = self.source.variant.arrival;
        let fits =
            target.arrival == arrival || arrival == Arrival::Host(None) && target.arrival.in_host();
        let here = target.at == self.source.start && !target.alone;
        self.turns.as_ref().filter(|_| here && fits).map(|turns| turns.again)
    }

    /// Makes the host's flags tell `condition`; the condition to ask for then.
    fn decide(&mut self, condition: u8) -> u8 {
        // Where `lahf; seto al` leaves the one flag that pairs of conditions are about.
        let bit = match condition & !1 {
            cond::O => 0,
            cond::B => 8,
            cond::E => 14,
            cond::S => 15,
            cond::P => 10,
            _ => {
                self.flags_to_host();
                return condition;
            }
        };
        if self.flags != Flags::Slot {
            return condition;
        }
        thunks::test_flag(&mut self.asm, bit);
        cond::NE ^ condition & 1
    }

    /// A conditional jump. Where it is not taken, the block goes on.
    pub fn branch(&mut self, index: usize, condition: u8) {
        let condition = self.decide(condition);
        let target = self.units[index].way_out() as i32;
        match u16::try_from(target) {
            Ok(at) if at < 4096 => {
                let target = Target { at, arrival: self.departure(index), alone: false };
                self.link(Some(condition), target);
            }
            _ => {
                let from = self.asm.label();
                self.asm.jcc(condition, from);
                self.stubs.push(Stub::Far { from, target, flags: self.flags });
            }
        }
    }

    /// Finds the entry for the target in R13 in the jump table; R14 points to it then. The host's
    /// flags are lost.
    pub fn find_target(&mut self, miss: Label) {
        self.asm.imul_imm(Width::D, R14, R13, jump::HASH);
        self.asm.shr(R14, jump::SHIFT);
        self.asm.alu_imm(Width::D, group::AND, R14, jump::INDEX);
        self.asm.mem(Width::Q, op::ADD, R14, Mem::at(R15, at::JUMP_TABLE));
        self.asm.mem(Width::Q, op::CMP, R13, Mem::at(R14, 0));
        let (from, back) = (self.asm.label(), self.asm.label());
        self.asm.jcc(cond::NE, from);
        self.asm.bind(back);
        self.stubs.push(Stub::OtherEntry { from, back, miss });
    }

    /// Goes to the target in R13 by the entry that R14 points to.
    pub fn go_to_target(&mut self, way: Way) {
        self.asm.alu_imm(Width::Q, group::AND, R13, -4096);
        self.asm.store(R15, at::PAGE_RIP, R13);
        match way {
            Way::Jump => self.asm.jmp_mem(Mem::at(R14, 8)),
            Way::Call => self.asm.call_mem(Mem::at(R14, 8)),
        }
    }

    /// The value of the operand of unit `index`, into R13.
    pub fn target_operand(&mut self, index: usize, slow: Label) {
        let raw = &self.units[index].raw;
        if raw.op0_kind() == OpKind::Memory {
            self.address(raw, R13);
            self.look_up(self.word(), false, slow);
            self.asm.mem(self.wide(), op::LOAD, R13, Mem::at(R13, 0));
        } else {
            let number = raw.op0_register().full_register().number();
            let host = self.in_register(number, R13);
            self.asm.reg(self.wide(), op::LOAD, R13, host);
        }
    }

    /// JMP to an operand.
    pub fn jump_to(&mut self, index: usize) {
        self.destroy_flags(index);
        let slow = self.give_up(index);
        self.target_operand(index, slow);
        self.find_target(slow);
        self.go_to_target(Way::Jump);
    }
}
