//! Calls and returns.
//!
//! A call of the guest is one of the host's as well: the host's stack remembers where the guest will
//! return to, and where the code goes on then. RET compares, and returns if the two agree; the host
//! predicts that. What is remembered is forgotten when translated code is left, so that it holds as
//! long as what blocks rely on does.

use super::control::Way;
use super::emit::{Emitter, Stub};
use super::group::Member;
use super::{Arrival, Flags};
use crate::jit::asm::{Label, Mem, Width, cond, group, host::*, op};
use crate::jit::frame::at;
use crate::jit::record::{Kind, Target};
use crate::jit::thunks::CALL;

/// The guest's return address of the last call, above the host's.
const RETURN_ADDRESS: Mem = Mem { base: Some(RSP), index: None, disp: 8 };

impl Emitter<'_> {
    /// Pushes the return address of unit `index` by an access that belongs to a group.
    fn push_return_in_group(&mut self, index: usize, member: Member) {
        self.reach(index, member);
        self.asm.load(R14, R15, at::PAGE_RIP);
        let next = self.units[index].raw.next_ip() as i32;
        self.asm.mem(Width::Q, op::LEA, R14, Mem::at(R14, next));
        self.asm.store(R13, member.at, R14);
        self.move_stack(-8);
    }

    /// Pushes the return address of unit `index`.
    fn push_return(&mut self, index: usize, slow: Label) {
        self.stack_next(slow);
        self.asm.store(R15, at::SPARE, R14);
        self.asm.load(R14, R15, at::PAGE_RIP);
        let next = self.units[index].raw.next_ip() as i32;
        self.asm.mem(self.wide(), op::LEA, R14, Mem::at(R14, next));
        self.asm.mem(self.wide(), op::STORE, R14, Mem::at(R13, 0));
        self.asm.load(R14, R15, at::SPARE);
        self.move_stack(-(self.word() as i32));
    }

    /// CALL of a fixed target.
    pub fn call(&mut self, index: usize) {
        self.destroy_flags(index);
        let target = self.units[index].raw.near_branch_target() as i32;
        if let Some(member) = self.groups.member(index) {
            self.push_return_in_group(index, member);
            self.look_for_group_watchers(index, member.group, target.into());
            return self.leave_by_call(index, target);
        }
        let slow = self.give_up(index);
        self.push_return(index, slow);
        let kind = Kind::Written { next: target.into(), len: self.word() as u16 };
        self.look_for_watchers(kind);
        self.leave_by_call(index, target);
    }

    /// CALL of an operand.
    pub fn call_to(&mut self, index: usize) {
        self.destroy_flags(index);
        let slow = self.give_up(index);
        self.target_operand(index, slow);
        self.find_target(slow);
        self.asm.store(R15, at::TARGET, R13);
        self.asm.load(R14, R14, 8);
        self.asm.store(R15, at::TARGET_CODE, R14);
        self.push_return(index, slow);
        self.look_for_watchers(Kind::WrittenCall);
        let way = self.expect_return(index);
        self.asm.load(R13, R15, at::TARGET);
        self.asm.alu_imm(Width::Q, group::AND, R13, -4096);
        self.asm.store(R15, at::PAGE_RIP, R13);
        match way {
            Way::Jump => self.asm.jmp_mem(Mem::at(R15, at::TARGET_CODE)),
            Way::Call => {
                self.asm.call_mem(Mem::at(R15, at::TARGET_CODE));
                self.come_back(index);
            }
        }
    }

    /// RET.
    pub fn ret(&mut self, index: usize) {
        self.destroy_flags(index);
        let slow = self.give_up(index);
        match self.groups.member(index) {
            Some(member) => {
                self.reach(index, member);
                self.asm.load(R13, R13, member.at);
            }
            None => {
                self.stack_top(slow);
                self.asm.mem(self.wide(), op::LOAD, R13, Mem::at(R13, 0));
            }
        }
        let raw = &self.units[index].raw;
        let released = if raw.op_count() > 0 { raw.immediate(0) as i32 } else { 0 };
        let release = self.word() as i32 + released;
        if self.source.variant.apart {
            return self.return_by_table(slow, release);
        }
        let (from, back) = (self.asm.label(), self.asm.label());
        self.asm.mem(Width::Q, op::CMP, R13, RETURN_ADDRESS);
        self.asm.jcc(cond::NE, from);
        self.asm.bind(back);
        self.move_stack(release);
        self.asm.ret();
        self.stubs.push(Stub::Return { from, back, slow, release });
    }

    /// A return that does not go where the last call came from. That call may have been left
    /// otherwise, as one that only asks for the instruction pointer, or whose return address was
    /// replaced: then the one before it is looked at.
    pub fn return_elsewhere(&mut self, back: Label, slow: Label, release: i32) {
        let none = self.asm.label();
        self.asm.mem(Width::Q, op::CMP, RSP, Mem::at(R15, at::STACK));
        self.asm.jcc(cond::E, none);
        self.asm.alu_imm(Width::Q, group::ADD, RSP, CALL);
        self.asm.mem(Width::Q, op::CMP, R13, RETURN_ADDRESS);
        self.asm.jcc(cond::E, back);
        self.asm.bind(none);
        self.return_by_table(slow, release);
    }

    fn return_by_table(&mut self, slow: Label, release: i32) {
        self.find_target(slow);
        self.move_stack(release);
        self.go_to_target(Way::Jump);
    }

    /// Goes to the distance `target` from the beginning of the page by the call of unit `index`.
    fn leave_by_call(&mut self, index: usize, target: i32) {
        let way = self.expect_return(index);
        self.leave_to(target, way);
        if way == Way::Call {
            self.come_back(index);
        }
    }

    /// Puts the return address of the call of unit `index` on the host's stack, if the return is to go
    /// by it. The flags are in the frame.
    fn expect_return(&mut self, index: usize) -> Way {
        let next = self.units[index].raw.next_ip() as i32;
        if self.source.variant.apart || next >= 4096 {
            return Way::Jump;
        }
        let (from, back) = (self.asm.label(), self.asm.label());
        self.asm.mem(Width::Q, op::CMP, RSP, Mem::at(R15, at::STACK_LIMIT));
        self.asm.jcc(cond::B, from);
        self.asm.bind(back);
        self.stubs.push(Stub::ForgetCalls { from, back });
        self.asm.load(R14, R15, at::PAGE_RIP);
        self.asm.mem(self.wide(), op::LEA, R14, Mem::at(R14, next));
        self.asm.push(R14);
        Way::Call
    }

    /// What comes after the host's call.
    fn come_back(&mut self, index: usize) {
        self.asm.pop(R14);
        self.asm.alu_imm(Width::Q, group::AND, R14, -4096);
        self.asm.store(R15, at::PAGE_RIP, R14);
        self.flags = Flags::Slot;
        let at = self.units[index].raw.next_ip() as u16;
        self.link(None, Target { at, arrival: Arrival::Slot, alone: false });
    }
}
