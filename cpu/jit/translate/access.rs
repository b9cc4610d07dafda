//! Addresses, and the look into the TLB before every access.

use iced_x86::{Instruction, Register};

use super::emit::{Emitter, Stub};
use super::group::{Base, Group};
use super::unit;
use crate::interp::decode::End;
use crate::jit::asm::{Label, Mem, Width, cond, group, host::*, op};
use crate::jit::frame::{Astride, at};
use crate::jit::record::Then;
use crate::jit::thunks::HOME;
use crate::mmu::tlb;
use crate::state::gpr;

impl Emitter<'_> {
    /// The linear address of the memory operand, into `to`. R14 is lost.
    pub fn address(&mut self, raw: &Instruction, to: u8) {
        let key = self.source.variant.key;
        self.address_into(raw, to, unit::address_bits(raw, key) == 64);
        let base = match raw.memory_segment() {
            Register::FS => at::FS_BASE,
            Register::GS => at::GS_BASE,
            _ => return,
        };
        self.asm.mem(self.wide(), op::ADD, to, Mem::at(R15, base));
    }

    /// Moves on from the address in R13 to where the bit is that the register operand of BT and its
    /// like names, and notes which it is there. R14 and the host's flags are lost.
    pub fn go_to_bit(&mut self, raw: &Instruction) {
        let (number, size) = (raw.op1_register().number() & 15, raw.op1_register().size());
        let shift = if size == 8 { 3 } else { 2 };
        let bit = self.in_register(number, R14);
        let widen = if size == 8 { op::LOAD } else { op::MOVSXD };
        self.asm.reg(Width::Q, widen, R14, bit);
        self.asm.sar(R14, shift + 3);
        let place = Mem { base: Some(R13), index: Some((R14, shift)), disp: 0 };
        self.asm.mem(self.wide(), op::LEA, R13, place);
        let bit = self.in_register(number, R14);
        self.asm.reg(Width::D, op::LOAD, R14, bit);
        self.asm.alu_imm(Width::D, group::AND, R14, size as i32 * 8 - 1);
        self.asm.store(R15, at::TARGET, R14);
    }

    /// The offset of the memory operand within its segment, into `to`. Touches no flags. R13 and R14
    /// may be lost.
    pub fn address_into(&mut self, raw: &Instruction, to: u8, wide: bool) {
        let key = self.source.variant.key;
        let wide = wide && unit::address_bits(raw, key) == 64;
        let width = if wide { Width::Q } else { Width::D };
        let displacement = raw.memory_displacement64();
        let (base, index) = (raw.memory_base(), raw.memory_index());
        if matches!(base, Register::RIP | Register::EIP) {
            self.asm.load(to, R15, at::PAGE_RIP);
            let mem = Mem::at(to, displacement as i32);
            return self.asm.mem(width, op::LEA, to, mem);
        }
        if base == Register::None && index == Register::None {
            let value = if wide { displacement } else { u64::from(displacement as u32) };
            return self.asm.mov_imm(to, value);
        }
        let base = (base != Register::None).then(|| self.in_register(base.number() & 15, R13));
        let index = (index != Register::None).then(|| {
            let scale = raw.memory_index_scale().trailing_zeros() as u8;
            (self.in_register(index.number() & 15, R14), scale)
        });
        match (base, index, displacement as i32) {
            (Some(base), None, 0) => self.asm.reg(width, op::LOAD, to, base),
            (base, index, disp) => self.asm.mem(width, op::LEA, to, Mem { base, index, disp }),
        }
    }

    /// Looks into the TLB for `size` bytes at the linear address in R13, which becomes a host address: that
    /// of a copy if they lie in two pages and are to be loaded. R14 points to the entry then. On a miss, goes
    /// to `slow`. The host's flags are lost.
    pub fn look_up(&mut self, size: usize, write: bool, slow: Label) {
        self.held = None;
        let (again, from) = (self.asm.label(), self.asm.label());
        self.asm.bind(again);
        self.compare_entry(size, write);
        self.asm.jcc(cond::A, from);
        self.asm.mem(Width::Q, op::ADD, R13, Mem::at(R14, 8));
        let astride = (!write && (2..=Astride::HALF as usize).contains(&size)).then(|| {
            let astride = self.asm.label();
            self.asm.bind(astride);
            astride
        });
        self.stubs.push(Stub::Fill { from, write, again, slow, astride });
    }

    /// Compares the linear address in R13, which becomes an offset in its page, with the TLB's entry
    /// for it, to which R14 points then: "above" means that the entry does not serve for `size` bytes.
    pub fn compare_entry(&mut self, size: usize, write: bool) {
        // Entries are 16 bytes for reading and 32 for writing.
        let (shift, mask, table) = if write {
            (5, at::WRITE_MASK, at::WRITE_TABLE)
        } else {
            (4, at::READ_MASK, at::READ_TABLE)
        };
        self.asm.rorx(R14, R13, 12 - shift);
        self.asm.mem(Width::D, op::AND, R14, Mem::at(R15, mask));
        self.asm.mem(Width::Q, op::ADD, R14, Mem::at(R15, table));
        // The offset in the page, if the entry is for this page.
        self.asm.mem(Width::Q, op::SUB, R13, Mem::at(R14, 0));
        self.asm.alu_imm(Width::Q, group::CMP, R13, 4096 - size as i32);
    }

    /// Lets R14 point to the entry of the fetch table for the linear address in R13.
    pub fn fetch_entry(&mut self) {
        const SHIFT: u8 = 4;
        self.asm.rorx(R14, R13, 12 - SHIFT);
        self.asm.alu_imm(Width::D, group::AND, R14, (tlb::SIZE as i32 - 1) << SHIFT);
        self.asm.mem(Width::Q, op::ADD, R14, Mem::at(R15, at::FETCH_TABLE));
    }

    /// The linear address of the first byte of a group, into R13.
    pub fn group_address(&mut self, group: &Group) {
        self.first_byte(group.base, group.low);
    }

    /// The linear address at distance `disp` from what `base` stands for, into R13.
    pub fn first_byte(&mut self, base: Base, disp: i32) {
        self.held = None;
        let (base, index) = match base {
            Base::Rip => {
                self.asm.load(R13, R15, at::PAGE_RIP);
                (R13, None)
            }
            Base::Plain(base) => (self.in_register(base, R13), None),
            Base::Indexed(base, index, scale) => {
                (self.in_register(base, R13), Some((self.in_register(index, R14), scale)))
            }
        };
        if index.is_some() || disp != 0 {
            self.asm.mem(Width::Q, op::LEA, R13, Mem { base: Some(base), index, disp });
        } else if base != R13 {
            self.asm.mov(R13, base);
        }
    }

    /// A label where unit `index`, which ends its block, is left to the interpreter's handler. The
    /// flags are in the frame by then.
    pub fn give_up(&mut self, index: usize) -> Label {
        let from = self.asm.label();
        let flags = self.flags.at_trap();
        let record = self.record_of(index, Then::Stop(End::Branch), flags);
        self.stubs.push(Stub::Exit { from, record, save_flags: false });
        from
    }

    fn stack_pointer(&self) -> u8 {
        HOME[gpr::RSP].unwrap_or(R12)
    }

    /// The host address of the top of the stack, into R13. On a miss, goes to `slow`.
    pub fn stack_top(&mut self, slow: Label) {
        let rsp = self.stack_pointer();
        self.asm.reg(self.wide(), op::LOAD, R13, rsp);
        self.look_up(self.word(), false, slow);
    }

    /// The host address of what a push will write, into R13, and the TLB entry into R14.
    pub fn stack_next(&mut self, slow: Label) {
        let rsp = self.stack_pointer();
        let size = self.word();
        self.asm.mem(self.wide(), op::LEA, R13, Mem::at(rsp, -(size as i32)));
        self.look_up(size, true, slow);
    }

    /// Bytes of a push.
    pub fn word(&self) -> usize {
        if self.wide() == Width::Q { 8 } else { 4 }
    }
}
