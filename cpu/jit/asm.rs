//! A small assembler: the host instructions that surround a guest instruction. (The guest's own
//! instructions are re-encoded by iced-x86.)

/// Host registers by number.
#[allow(missing_docs)]
pub mod host {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    pub const R12: u8 = 12;
    pub const R13: u8 = 13;
    pub const R14: u8 = 14;
    pub const R15: u8 = 15;
}

/// Operand width of the few instructions that need one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 32 bits; the upper half of a destination becomes zero.
    D,
    /// 64 bits.
    Q,
}

impl Width {
    /// Whether REX.W is set.
    fn w(self) -> bool {
        self == Width::Q
    }
}

/// A memory operand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mem {
    /// Base register.
    pub base: Option<u8>,
    /// Index register and the power of two it is multiplied with.
    pub index: Option<(u8, u8)>,
    /// Displacement.
    pub disp: i32,
}

impl Mem {
    /// `[base + disp]`.
    pub fn at(base: u8, disp: i32) -> Self {
        Mem { base: Some(base), index: None, disp }
    }
}

/// One-byte opcodes of the form `op reg, r/m`.
#[allow(missing_docs)]
pub mod op {
    pub const ADD: u8 = 0x03;
    pub const AND: u8 = 0x23;
    pub const SUB: u8 = 0x2b;
    pub const CMP: u8 = 0x3b;
    pub const MOVSXD: u8 = 0x63;
    pub const STORE: u8 = 0x89;
    pub const LOAD: u8 = 0x8b;
    pub const LEA: u8 = 0x8d;
}

/// Numbers of the operations in the immediate group (opcode 0x81).
#[allow(missing_docs)]
pub mod group {
    pub const ADD: u8 = 0;
    pub const AND: u8 = 4;
    pub const SUB: u8 = 5;
    pub const XOR: u8 = 6;
    pub const CMP: u8 = 7;
}

/// Condition codes of jumps.
#[allow(missing_docs)]
pub mod cond {
    pub const O: u8 = 0;
    pub const B: u8 = 2;
    pub const AE: u8 = 3;
    pub const E: u8 = 4;
    pub const NE: u8 = 5;
    pub const A: u8 = 7;
    pub const S: u8 = 8;
    pub const NS: u8 = 9;
    pub const P: u8 = 10;
}

/// A place in the code that jumps lead to; see [`Asm::bind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// Host code under construction, to be placed at `address`.
pub struct Asm {
    /// The bytes so far.
    pub bytes: Vec<u8>,
    /// Where the first byte will be executed.
    pub address: usize,
    /// From which offset on the bytes lie elsewhere, and where.
    cold: Option<(usize, usize)>,
    /// Offset of each label, once bound.
    labels: Vec<Option<usize>>,
    /// Offsets of 32-bit fields that are relative to a label.
    fixups: Vec<(usize, Label)>,
}

impl Asm {
    /// Nothing yet.
    pub fn new(address: usize) -> Self {
        let (labels, fixups) = (Vec::new(), Vec::new());
        Asm { bytes: Vec::with_capacity(1024), address, cold: None, labels, fixups }
    }

    /// What follows is to be placed at `address`, away from what is executed often.
    pub fn go_cold(&mut self, address: usize) {
        self.cold = Some((self.offset(), address));
    }

    /// How many bytes stand before those of [`Asm::go_cold`].
    pub fn hot_len(&self) -> usize {
        self.cold.map_or(self.offset(), |(from, _)| from)
    }

    /// Where the byte at `offset` will be executed.
    fn place(&self, offset: usize) -> usize {
        match self.cold {
            Some((from, address)) if offset >= from => address + (offset - from),
            _ => self.address + offset,
        }
    }

    /// Where the next instruction will be executed.
    pub fn here(&self) -> usize {
        self.place(self.offset())
    }

    /// Offset of the next instruction.
    pub fn offset(&self) -> usize {
        self.bytes.len()
    }

    fn rex(&mut self, w: bool, reg: u8, index: u8, base: u8) {
        let rex = 0x40 | u8::from(w) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0x40 {
            self.bytes.push(rex);
        }
    }

    fn dword(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// ModRM, SIB and displacement (SDM vol. 2, 2.1.5).
    fn operand(&mut self, reg: u8, mem: Mem) {
        let reg = (reg & 7) << 3;
        let Some(base) = mem.base else {
            let (index, scale) = mem.index.unwrap_or((host::RSP, 0));
            self.bytes.extend([reg | 4, scale << 6 | (index & 7) << 3 | 5]);
            return self.dword(mem.disp);
        };
        let (mode, short) = match mem.disp {
            0 if base & 7 != 5 => (0, None),
            -128..=127 => (0x40, Some(mem.disp as u8)),
            _ => (0x80, None),
        };
        match mem.index {
            None if base & 7 != 4 => self.bytes.push(mode | reg | base & 7),
            index => {
                let (index, scale) = index.unwrap_or((host::RSP, 0));
                self.bytes.extend([mode | reg | 4, scale << 6 | (index & 7) << 3 | base & 7]);
            }
        }
        match short {
            Some(byte) => self.bytes.push(byte),
            None if mode == 0x80 => self.dword(mem.disp),
            None => {}
        }
    }

    /// `opcode reg, mem` (or `mem, reg`, as the opcode has it).
    pub fn mem(&mut self, width: Width, opcode: u8, reg: u8, mem: Mem) {
        self.rex(width.w(), reg, mem.index.map_or(0, |i| i.0), mem.base.unwrap_or(0));
        self.bytes.push(opcode);
        self.operand(reg, mem);
    }

    /// `opcode reg, rm`.
    pub fn reg(&mut self, width: Width, opcode: u8, reg: u8, rm: u8) {
        self.rex(width.w(), reg, 0, rm);
        self.bytes.extend([opcode, 0xc0 | (reg & 7) << 3 | rm & 7]);
    }

    /// `mov to, from`.
    pub fn mov(&mut self, to: u8, from: u8) {
        self.reg(Width::Q, op::LOAD, to, from);
    }

    /// `mov to, [base + disp]`, 64 bits.
    pub fn load(&mut self, to: u8, base: u8, disp: i32) {
        self.mem(Width::Q, op::LOAD, to, Mem::at(base, disp));
    }

    /// `mov [base + disp], from`, 64 bits.
    pub fn store(&mut self, base: u8, disp: i32, from: u8) {
        self.mem(Width::Q, op::STORE, from, Mem::at(base, disp));
    }

    /// `mov to, value`, in the shortest form.
    pub fn mov_imm(&mut self, to: u8, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            self.rex(false, 0, 0, to);
            self.bytes.push(0xb8 | to & 7);
            self.dword(value as i32);
        } else if value as i32 as i64 as u64 == value {
            self.rex(true, 0, 0, to);
            self.bytes.extend([0xc7, 0xc0 | to & 7]);
            self.dword(value as i32);
        } else {
            self.mov_imm64(to, value);
        }
    }

    /// `movabs to, value`; the offset of the value.
    pub fn mov_imm64(&mut self, to: u8, value: u64) -> usize {
        self.rex(true, 0, 0, to);
        self.bytes.push(0xb8 | to & 7);
        let at = self.offset();
        self.bytes.extend_from_slice(&value.to_le_bytes());
        at
    }

    /// An operation of the immediate group.
    pub fn alu_imm(&mut self, width: Width, group: u8, rm: u8, value: i32) {
        self.rex(width.w(), 0, 0, rm);
        let modrm = 0xc0 | group << 3 | rm & 7;
        match i8::try_from(value) {
            Ok(value) => self.bytes.extend([0x83, modrm, value as u8]),
            Err(_) => {
                self.bytes.extend([0x81, modrm]);
                self.dword(value);
            }
        }
    }

    /// `mov [mem], value`, sign-extended.
    pub fn store_imm(&mut self, width: Width, mem: Mem, value: i32) {
        self.mem(width, 0xc7, 0, mem);
        self.dword(value);
    }

    /// `rorx to, from, count` (BMI2), 64 bits: touches no flags.
    pub fn rorx(&mut self, to: u8, from: u8, count: u8) {
        let r = u8::from(to < 8) << 7;
        let b = u8::from(from < 8) << 5;
        let modrm = 0xc0 | (to & 7) << 3 | from & 7;
        self.bytes.extend([0xc4, r | 0x40 | b | 3, 0xfb, 0xf0, modrm, count]);
    }

    /// `imul to, from, value`.
    pub fn imul_imm(&mut self, width: Width, to: u8, from: u8, value: i32) {
        self.reg(width, 0x69, to, from);
        self.dword(value);
    }

    /// `neg rm`, 32 bits.
    pub fn neg(&mut self, rm: u8) {
        self.reg(Width::D, 0xf7, 3, rm);
    }

    /// `shr rm, count`, 32 bits.
    pub fn shr(&mut self, rm: u8, count: u8) {
        self.rex(false, 0, 0, rm);
        self.bytes.extend([0xc1, 0xe8 | rm & 7, count]);
    }

    /// `sar rm, count`, 64 bits.
    pub fn sar(&mut self, rm: u8, count: u8) {
        self.reg(Width::Q, 0xc1, 7, rm);
        self.bytes.push(count);
    }

    /// `shl rm, cl`, 64 bits.
    pub fn shl_by_cl(&mut self, rm: u8) {
        self.reg(Width::Q, 0xd3, 4, rm);
    }

    /// `xchg` of the low two bytes of register RAX, RCX, RDX or RBX.
    pub fn swap_bytes(&mut self, reg: u8) {
        self.bytes.extend([0x86, 0xc0 | (4 + reg) << 3 | reg]);
    }

    /// `cmp byte [mem], value`.
    pub fn compare_byte(&mut self, mem: Mem, value: u8) {
        self.mem(Width::D, 0x80, group::CMP, mem);
        self.bytes.push(value);
    }

    /// `mov byte [mem], value`.
    pub fn set_byte(&mut self, mem: Mem, value: u8) {
        self.mem(Width::D, 0xc6, 0, mem);
        self.bytes.push(value);
    }

    /// Copies a byte by way of `scratch`.
    pub fn move_byte(&mut self, scratch: u8, from: Mem, to: Mem) {
        self.escaped(0xb6, scratch, from);
        self.mem(Width::D, 0x88, scratch, to);
    }

    /// `bt dword [mem], bit`.
    pub fn bit_test(&mut self, mem: Mem, bit: u8) {
        self.escaped(0xba, 4, mem);
        self.bytes.push(bit);
    }

    /// An instruction of the two-byte map with a memory operand.
    pub fn escaped(&mut self, opcode: u8, reg: u8, mem: Mem) {
        self.rex(false, reg, mem.index.map_or(0, |i| i.0), mem.base.unwrap_or(0));
        self.bytes.extend([0x0f, opcode]);
        self.operand(reg, mem);
    }

    /// `push` or `pop` of a 64-bit register.
    pub fn push(&mut self, reg: u8) {
        self.rex(false, 0, 0, reg);
        self.bytes.push(0x50 | reg & 7);
    }
    /// See [`Asm::push`].
    pub fn pop(&mut self, reg: u8) {
        self.rex(false, 0, 0, reg);
        self.bytes.push(0x58 | reg & 7);
    }

    /// `ret`.
    pub fn ret(&mut self) {
        self.bytes.push(0xc3);
    }

    /// `jmp rm`.
    pub fn jmp_reg(&mut self, rm: u8) {
        self.rex(false, 0, 0, rm);
        self.bytes.extend([0xff, 0xe0 | rm & 7]);
    }

    /// `jmp [mem]`.
    pub fn jmp_mem(&mut self, mem: Mem) {
        self.mem(Width::D, 0xff, 4, mem);
    }

    /// `call [mem]`.
    pub fn call_mem(&mut self, mem: Mem) {
        self.mem(Width::D, 0xff, 2, mem);
    }

    /// `call rm`.
    pub fn call_reg(&mut self, rm: u8) {
        self.rex(false, 0, 0, rm);
        self.bytes.extend([0xff, 0xd0 | rm & 7]);
    }

    /// `call` to a fixed address within 2 GiB.
    pub fn call(&mut self, target: usize) {
        self.bytes.push(0xe8);
        self.relative(target);
    }

    /// `jmp` to a fixed address within 2 GiB.
    pub fn jmp_to(&mut self, target: usize) {
        self.bytes.push(0xe9);
        self.relative(target);
    }

    fn relative(&mut self, target: usize) {
        let next = self.here() + 4;
        self.dword(target.wrapping_sub(next) as i32);
    }

    /// A label, not bound yet.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.offset());
    }

    /// `jmp label`.
    pub fn jmp(&mut self, label: Label) {
        self.bytes.push(0xe9);
        self.label_field(label);
    }

    /// `jcc label`.
    pub fn jcc(&mut self, cond: u8, label: Label) {
        self.bytes.extend([0x0f, 0x80 | cond]);
        self.label_field(label);
    }

    fn label_field(&mut self, label: Label) {
        self.fixups.push((self.offset(), label));
        self.dword(0);
    }

    /// `jmp label` or (with a condition) `jcc label`, whose distance may be patched while other
    /// processors execute it: it does not straddle aligned words of 8 bytes, so that it is written
    /// in one piece. The address of the distance.
    pub fn patchable(&mut self, cond: Option<u8>, label: Label) -> usize {
        self.align_field(if cond.is_some() { 2 } else { 1 });
        match cond {
            Some(cond) => self.jcc(cond, label),
            None => self.jmp(label),
        }
        self.here() - 4
    }

    /// The same for `call label`.
    pub fn patchable_call(&mut self, label: Label) -> usize {
        self.align_field(1);
        self.bytes.push(0xe8);
        self.label_field(label);
        self.here() - 4
    }

    /// Makes the field after the next `opcode` bytes lie in one aligned word.
    fn align_field(&mut self, opcode: usize) {
        let place = (self.here() + opcode) % 8;
        if place > 4 {
            self.pad(8 - place);
        }
    }

    /// One instruction of up to three bytes that does nothing.
    fn pad(&mut self, len: usize) {
        const NOPS: [&[u8]; 4] = [&[], &[0x90], &[0x66, 0x90], &[0x0f, 0x1f, 0x00]];
        self.bytes.extend_from_slice(NOPS[len & 3]);
    }

    /// Where the code at `label` will be executed, once it is bound.
    pub fn place_of(&self, label: Label) -> Option<usize> {
        self.labels[label.0].map(|offset| self.place(offset))
    }

    /// Resolves all jumps to labels. Labels that were never bound are never jumped to.
    pub fn finish(&mut self) {
        for (at, label) in std::mem::take(&mut self.fixups) {
            let target = self.labels[label.0].unwrap_or(0);
            let distance = self.place(target).wrapping_sub(self.place(at) + 4) as i32;
            self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
    }
}
