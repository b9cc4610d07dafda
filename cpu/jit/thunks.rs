//! The few pieces of host code that lead into translated code and out of it.

use base::memory::Client;

use super::asm::{Asm, Mem, Width, cond, group, host::*, op};
use super::frame::{Astride, at, vectors};
use super::gather::gather;
use super::quiet;
use crate::state::VecReg;

/// The host register that each guest register lives in, where it has one. RSP cannot keep its place,
/// because the host's stack needs it; R13 and R14 are scratch, R15 leads to the frame. The guest's
/// R12 and R13 are seen more often than its R10 and R11.
pub const HOME: [Option<u8>; 16] = [
    Some(0),
    Some(1),
    Some(2),
    Some(3),
    Some(R12),
    Some(5),
    Some(6),
    Some(7),
    Some(8),
    Some(9),
    None,
    None,
    Some(10),
    Some(11),
    None,
    None,
];

/// What leaving by a trap returns instead of a record.
pub const TRAPPED: u64 = 1;
/// What leaving by a helper returns instead of a record.
pub const BY_HELPER: u64 = 2;
/// What arriving at [`Thunks::land`] returns instead of a record.
pub const LANDED: u64 = 3;

/// What returning to where no call came from returns instead of a record: the guest goes on at 0.
pub const AT_ZERO: u64 = 4;

/// Most calls that are remembered until they return: see `translate::call`.
const MOST_CALLS: i32 = 256;
/// Bytes of the host's stack that a call takes.
pub const CALL: i32 = 16;

/// Addresses of the helpers that [`super::helper`] has.
pub struct Helpers {
    /// Executes an instruction by the interpreter's handler.
    pub step: usize,
    /// Looks into a store to a watched page.
    pub written: usize,
    /// Makes the guest's x87 registers the host's.
    pub load_x87: usize,
    /// Enters a page in the TLB for reading.
    pub fill_read: usize,
    /// Enters a page in the TLB for writing.
    pub fill_write: usize,
    /// Reads the time stamp.
    pub time: usize,
    /// Executes an instruction that leaves general registers alone.
    pub brief: usize,
}

/// Addresses of the pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Thunks {
    /// `extern "sysv64" fn(frame + BIAS, code) -> record`, or one of the numbers above.
    pub enter: usize,
    /// The same, with the flags in the frame brought to the host's.
    pub enter_with_flags: usize,
    /// Jumped to with a record in R14: leaves for good.
    pub exit: usize,
    /// The same; the host's flags are saved to the frame.
    pub exit_with_flags: usize,
    /// Called with a record in R14: has a helper execute the instruction.
    pub step: usize,
    /// Called with a record in R14 and a host address in R13 after a store there.
    pub written: usize,
    /// Called after a store to host address R13, whose page's flags R14 points to: "below" means that
    /// nobody needs to hear of it. R14 and the host's flags are lost.
    pub beside: usize,
    /// Called where a look into the TLB found nothing, R14 pointing to the entry and R13 being the
    /// distance from its page, which becomes the linear address: enters the page. Afterwards "not
    /// equal" means that another look is due. By whether the access is a store.
    pub fill: [usize; 2],
    /// Called before `fill` where a look for a load found nothing: if the page is the right one and so is
    /// what the TLB has for the next, brings what lies around their boundary to the frame, and R13 leads
    /// to the operand there. Comes back with ZF clear, and nothing changed but flags, otherwise.
    pub astride: usize,
    /// Called with the argument of [`super::helper::time`] in R13: reads the time stamp. Afterwards
    /// "equal" means that it could not be done so simply. R14 and the host's flags are lost.
    pub time: usize,
    /// Called with a record in R13: has a helper execute an instruction that leaves general registers
    /// alone. What it says ([`super::helper::brief`]) is in R14 afterwards; the host's flags are lost.
    pub brief: usize,
    /// Called with a record in R14: makes the guest's vector registers the host's, or leaves if the
    /// mode forbids their use.
    pub load_vectors: usize,
    /// Called with a record in R14: makes the guest's x87 registers the host's, or leaves.
    pub load_x87: usize,
    /// Called by gathers: see [`super::gather`]. By whether elements and indices are of 64 bits.
    pub gather: [[usize; 2]; 2],
    /// What a jump table may lead to instead of a block: leaves, with the flags in the frame.
    pub land: usize,
    /// Where the signal handler sends translated code that trapped, with its place in R14.
    pub trap: usize,
}

const SAVED: [u8; 6] = [RBX, RBP, R12, R13, R14, R15];

/// How vector registers are moved.
#[derive(Clone, Copy)]
enum Move {
    /// `movups` of XMM registers.
    Legacy,
    /// `vmovups` of XMM registers: loads clear what is above them.
    Vex128,
    /// `vmovups` of YMM registers.
    Vex256,
}

/// Moves each of the state's vector registers, to whose first RAX points.
fn move_vectors(asm: &mut Asm, opcode: u8, kind: Move) {
    for number in 0..16_u8 {
        match (kind, number >= 8) {
            (Move::Legacy, true) => asm.bytes.extend([0x44, 0x0f]),
            (Move::Legacy, false) => asm.bytes.push(0x0f),
            (Move::Vex128, high) => asm.bytes.extend([0xc5, if high { 0x78 } else { 0xf8 }]),
            (Move::Vex256, high) => asm.bytes.extend([0xc5, if high { 0x7c } else { 0xfc }]),
        }
        asm.bytes.extend([opcode, 0x80 | (number & 7) << 3]);
        asm.bytes.extend(vector_at(number).to_le_bytes());
    }
}
const TO_REGISTERS: u8 = 0x10;
const TO_MEMORY: u8 = 0x11;

/// Where the state has a vector register, from the first one on.
fn vector_at(number: u8) -> i32 {
    i32::from(number) * size_of::<VecReg>() as i32
}

/// Clears ZF if a YMM register of the state, to whose first RAX points, has a bit set in its upper half.
fn test_uppers(asm: &mut Asm) {
    const UPPER: i32 = 16;
    const ORPS: u8 = 0x56;
    for number in 0..16 {
        // vmovups xmm0, [rax + …]; vorps xmm0, xmm0, [rax + …] …
        asm.bytes.extend([0xc5, 0xf8, if number == 0 { TO_REGISTERS } else { ORPS }, 0x80]);
        asm.bytes.extend((vector_at(number) + UPPER).to_le_bytes());
    }
    asm.bytes.extend([0xc4, 0xe2, 0x79, 0x17, 0xc0]); // vptest xmm0, xmm0
}

/// `ldmxcsr` or `stmxcsr` (by the number in the opcode's group).
fn mxcsr(asm: &mut Asm, number: u8, mem: Mem) {
    asm.escaped(0xae, number, mem);
}
const LOAD_MXCSR: u8 = 2;
const STORE_MXCSR: u8 = 3;

/// Brings the vector registers to the state, if they are in the host's. RAX and flags are lost.
fn spill_vectors(asm: &mut Asm) {
    let (wide, moved, done) = (asm.label(), asm.label(), asm.label());
    asm.compare_byte(Mem::at(R15, at::VECTORS_LIVE), vectors::NONE);
    asm.jcc(cond::E, done);
    asm.load(RAX, R15, at::VECTORS);
    asm.compare_byte(Mem::at(R15, at::VECTORS_LIVE), vectors::AVX);
    asm.jcc(cond::E, wide);
    move_vectors(asm, TO_MEMORY, Move::Legacy);
    asm.jmp(moved);
    asm.bind(wide);
    move_vectors(asm, TO_MEMORY, Move::Vex256);
    asm.bytes.extend([0xc5, 0xf8, 0x77]); // vzeroupper
    asm.bind(moved);
    asm.load(RAX, R15, at::MXCSR);
    mxcsr(asm, STORE_MXCSR, Mem::at(RAX, 0));
    mxcsr(asm, LOAD_MXCSR, Mem::at(R15, at::HOST_MXCSR));
    asm.bind(done);
}

/// Makes the vector registers of the state that `level`, a byte of the frame, names the host's. RAX and
/// flags are lost.
///
/// Upper halves that are zero are not loaded: the processor would take them for being in use, and may
/// need hundreds of cycles then whenever SSE's encodings and AVX's come after each other (Intel's
/// optimization manual, "Mixing AVX code with SSE code").
fn reload_vectors(asm: &mut Asm, level: i32) {
    let (wide, full, moved) = (asm.label(), asm.label(), asm.label());
    asm.load(RAX, R15, at::VECTORS);
    asm.compare_byte(Mem::at(R15, level), vectors::AVX);
    asm.jcc(cond::E, wide);
    move_vectors(asm, TO_REGISTERS, Move::Legacy);
    asm.jmp(moved);
    asm.bind(wide);
    test_uppers(asm);
    asm.jcc(cond::NE, full);
    move_vectors(asm, TO_REGISTERS, Move::Vex128);
    asm.jmp(moved);
    asm.bind(full);
    move_vectors(asm, TO_REGISTERS, Move::Vex256);
    asm.bind(moved);
    asm.load(RAX, R15, at::MXCSR);
    mxcsr(asm, LOAD_MXCSR, Mem::at(RAX, 0));
}

/// Loads as many vector registers as the mode allows. If it forbids all, or they were not enough for
/// who calls, leaves.
fn load_vectors(asm: &mut Asm, exit: usize) -> usize {
    let address = asm.address + asm.offset();
    let forbidden = asm.label();
    asm.compare_byte(Mem::at(R15, at::VECTORS_LIVE), vectors::NONE);
    asm.jcc(cond::NE, forbidden);
    asm.compare_byte(Mem::at(R15, at::VECTORS_ALLOWED), vectors::NONE);
    asm.jcc(cond::E, forbidden);
    asm.mov(R14, RAX);
    reload_vectors(asm, at::VECTORS_ALLOWED);
    asm.move_byte(RAX, Mem::at(R15, at::VECTORS_ALLOWED), Mem::at(R15, at::VECTORS_LIVE));
    asm.mov(RAX, R14);
    asm.ret();
    asm.bind(forbidden);
    asm.jmp_to(exit);
    address
}

fn spill(asm: &mut Asm) {
    for (guest, home) in HOME.iter().enumerate() {
        if let Some(home) = home {
            asm.store(R15, at::reg(guest as u8), *home);
        }
    }
}

fn reload(asm: &mut Asm) {
    for (guest, home) in HOME.iter().enumerate() {
        if let Some(home) = home {
            asm.load(*home, R15, at::reg(guest as u8));
        }
    }
}

/// `lahf; seto al; mov [slot], eax`: RAX is lost. As wide as it is read again, so that the processor
/// need not wait for the store.
fn flags_to_slot(asm: &mut Asm, slot: i32) {
    asm.bytes.extend([0x9f, 0x0f, 0x90, 0xc0]);
    asm.mem(Width::D, op::STORE, RAX, Mem::at(R15, slot));
}

/// Brings the host's flags to the frame, where they stay valid; R14 is lost.
pub fn save_flags(asm: &mut Asm) {
    asm.mov(R14, RAX);
    flags_to_slot(asm, at::FLAGS);
    asm.mov(RAX, R14);
}

/// Brings the frame's flags to the host's; R14 is lost.
pub fn restore_flags(asm: &mut Asm) {
    asm.mov(R14, RAX);
    asm.mem(Width::D, op::LOAD, RAX, Mem::at(R15, at::FLAGS));
    // add al, 0x7f overflows if AL was one; sahf.
    asm.bytes.extend([0x04, 0x7f, 0x9e]);
    asm.mov(RAX, R14);
}

/// Brings the frame's CF to the host's; the other flags are lost.
pub fn restore_carry(asm: &mut Asm) {
    const CF: u8 = 8;
    asm.bit_test(Mem::at(R15, at::FLAGS), CF);
}

/// Makes the host's ZF tell the opposite of the frame's flag `bit`, as `lahf; seto al` places it, by
/// `test`.
pub fn test_flag(asm: &mut Asm, bit: u8) {
    asm.mem(Width::D, 0xf6, 0, Mem::at(R15, at::FLAGS + i32::from(bit >> 3)));
    asm.bytes.push(1 << (bit & 7));
}

/// Leaves with the result in RAX, whatever is on the host's stack.
fn leave(asm: &mut Asm) {
    asm.load(RSP, R15, at::STACK);
    asm.alu_imm(Width::Q, group::ADD, RSP, CALL + 8);
    SAVED.iter().rev().for_each(|reg| asm.pop(*reg));
    asm.ret();
}

/// `no_call` is where a return goes that is compared with the call below all others.
fn enter(asm: &mut Asm, with_flags: bool, no_call: usize) -> usize {
    let address = asm.address + asm.offset();
    SAVED.iter().for_each(|reg| asm.push(*reg));
    asm.alu_imm(Width::Q, group::ADD, RSP, -8);
    asm.mov(R15, RDI);
    asm.mov(R13, RSI);
    // The guest's return address, and where the host goes then.
    asm.mov_imm(R14, 0);
    asm.push(R14);
    asm.mov_imm(R14, no_call as u64);
    asm.push(R14);
    asm.store(R15, at::STACK, RSP);
    asm.mem(Width::Q, op::LEA, R14, Mem::at(RSP, -MOST_CALLS * CALL));
    asm.store(R15, at::STACK_LIMIT, R14);
    asm.set_byte(Mem::at(R15, at::VECTORS_LIVE), 0);
    reload(asm);
    if with_flags {
        restore_flags(asm);
    }
    asm.jmp_reg(R13);
    address
}

fn exit(asm: &mut Asm, with_flags: bool) -> usize {
    let address = asm.address + asm.offset();
    spill(asm);
    if with_flags {
        flags_to_slot(asm, at::FLAGS);
    }
    spill_vectors(asm);
    asm.mov(RAX, R14);
    leave(asm);
    address
}

fn land(asm: &mut Asm, status: u64) -> usize {
    let address = asm.address + asm.offset();
    spill(asm);
    spill_vectors(asm);
    asm.mov_imm(RAX, status);
    leave(asm);
    address
}

fn helper(asm: &mut Asm, function: usize) -> usize {
    let address = asm.address + asm.offset();
    spill(asm);
    spill_vectors(asm);
    asm.mov(RDI, R15);
    asm.mov(RSI, R14);
    asm.mov(2, R13);
    asm.alu_imm(Width::Q, group::ADD, RSP, -8);
    asm.mov_imm(RAX, function as u64);
    asm.call_reg(RAX);
    asm.alu_imm(Width::Q, group::ADD, RSP, 8);
    asm.alu_imm(Width::D, group::CMP, RAX, 0);
    let out = asm.label();
    asm.jcc(cond::NE, out);
    let plain = asm.label();
    asm.compare_byte(Mem::at(R15, at::VECTORS_LIVE), vectors::NONE);
    asm.jcc(cond::E, plain);
    reload_vectors(asm, at::VECTORS_LIVE);
    asm.bind(plain);
    reload(asm);
    asm.ret();
    asm.bind(out);
    asm.mov_imm(RAX, BY_HELPER);
    leave(asm);
    address
}

/// Host registers that a called function may change, and that guest registers live in.
fn is_volatile(home: u8) -> bool {
    !matches!(home, RBX | RBP | R12..=R15)
}

fn beside(asm: &mut Asm) -> usize {
    const XOR: u8 = 0x33;
    // Longest store.
    const MOST: i32 = 64;
    // Whether the page is quiet where RCX leads to: bt r14d, ecx.
    let look = |asm: &mut Asm| {
        asm.rorx(RCX, RCX, quiet::LINE_BITS);
        asm.bytes.extend([0x41, 0x0f, 0xa3, 0xce]);
    };
    let address = asm.address + asm.offset();
    let (watched, out) = (asm.label(), asm.label());
    asm.compare_byte(Mem::at(R14, 0), Client::Code as u8);
    asm.jcc(cond::NE, watched);
    [RAX, RCX].iter().for_each(|reg| asm.push(*reg));
    asm.rorx(R14, R13, 12 - 3);
    asm.alu_imm(Width::D, group::AND, R14, (quiet::PAGES as i32 - 1) << 3);
    asm.mem(Width::Q, op::ADD, R14, Mem::at(R15, at::QUIET));
    asm.load(R14, R14, 0);
    asm.rorx(RAX, R13, quiet::TAG_SHIFT);
    asm.rorx(RCX, R14, 32);
    // No carry, whatever comes out.
    asm.reg(Width::D, XOR, RAX, RCX);
    asm.jcc(cond::NE, out);
    asm.mov(RCX, R13);
    look(asm);
    asm.jcc(cond::AE, out);
    asm.mem(Width::Q, op::LEA, RCX, Mem::at(R13, MOST - 1));
    look(asm);
    asm.bind(out);
    [RCX, RAX].iter().for_each(|reg| asm.pop(*reg));
    asm.bind(watched);
    asm.ret();
    address
}

fn fill(asm: &mut Asm, function: usize) -> usize {
    let address = asm.address + asm.offset();
    asm.mem(Width::Q, op::ADD, R13, Mem::at(R14, 0));
    light_helper(asm, function);
    address
}

/// Lets `entry` point to the entry of the read table for the address in `linear`.
pub(super) fn read_entry(asm: &mut Asm, entry: u8, linear: u8) {
    // Entries are of 16 bytes.
    asm.rorx(entry, linear, 12 - 4);
    asm.mem(Width::D, op::AND, entry, Mem::at(R15, at::READ_MASK));
    asm.mem(Width::Q, op::ADD, entry, Mem::at(R15, at::READ_TABLE));
}

/// See [`Thunks::astride`].
fn astride(asm: &mut Asm) -> usize {
    const PAGE: i32 = 4096;
    let address = asm.address + asm.offset();
    let (out, elsewhere) = (asm.label(), asm.label());
    asm.alu_imm(Width::Q, group::CMP, R13, PAGE - 1);
    asm.jcc(cond::A, elsewhere);
    [RAX, RCX, RDX].iter().for_each(|reg| asm.push(*reg));
    asm.mem(Width::Q, op::LOAD, RAX, Mem::at(R14, 0));
    asm.alu_imm(Width::Q, group::ADD, RAX, PAGE);
    read_entry(asm, RCX, RAX);
    asm.mem(Width::Q, op::CMP, RAX, Mem::at(RCX, 0));
    asm.jcc(cond::NE, out);
    for (entry, from, to) in [(R14, PAGE - Astride::HALF, 0), (RCX, 0, Astride::HALF)] {
        asm.mem(Width::Q, op::LOAD, RAX, Mem::at(entry, 8));
        for at in (0..Astride::HALF).step_by(8) {
            asm.mem(Width::Q, op::LOAD, RDX, Mem::at(RAX, from + at));
            asm.store(R15, at::ASTRIDE + to + at, RDX);
        }
    }
    let operand =
        Mem { base: Some(R15), index: Some((R13, 0)), disp: at::ASTRIDE + Astride::HALF - PAGE };
    asm.mem(Width::Q, op::LEA, R13, operand);
    asm.alu_imm(Width::D, group::AND, RAX, 0);
    asm.bind(out);
    [RDX, RCX, RAX].iter().for_each(|reg| asm.pop(*reg));
    asm.bind(elsewhere);
    asm.ret();
    address
}

/// Calls a helper that has the frame and R13 as arguments, and may replace in the frame what guest
/// registers have that called functions may change. Afterwards R14 has the lower half of what it
/// returned, and ZF tells whether that is zero.
fn light_helper(asm: &mut Asm, function: usize) -> usize {
    let address = asm.address + asm.offset();
    let homes = || {
        let homes = HOME.iter().enumerate();
        homes.filter_map(|(guest, home)| home.map(|home| (at::reg(guest as u8), home)))
    };
    let volatile = || homes().filter(|(_, home)| is_volatile(*home));
    volatile().for_each(|(place, home)| asm.store(R15, place, home));
    spill_vectors(asm);
    asm.mov(RDI, R15);
    asm.mov(RSI, R13);
    asm.alu_imm(Width::Q, group::ADD, RSP, -8);
    asm.mov_imm(RAX, function as u64);
    asm.call_reg(RAX);
    asm.alu_imm(Width::Q, group::ADD, RSP, 8);
    asm.mov(R14, RAX);
    let plain = asm.label();
    asm.compare_byte(Mem::at(R15, at::VECTORS_LIVE), vectors::NONE);
    asm.jcc(cond::E, plain);
    reload_vectors(asm, at::VECTORS_LIVE);
    asm.bind(plain);
    volatile().for_each(|(place, home)| asm.load(home, R15, place));
    asm.alu_imm(Width::D, group::CMP, R14, 0);
    asm.ret();
    address
}

fn trap(asm: &mut Asm) -> usize {
    let address = asm.address + asm.offset();
    spill(asm);
    flags_to_slot(asm, at::TRAP_FLAGS);
    asm.store(R15, at::TRAP_PC, R14);
    spill_vectors(asm);
    asm.mov_imm(RAX, TRAPPED);
    leave(asm);
    address
}

/// Assembles all of them.
pub fn assemble(asm: &mut Asm, helpers: &Helpers) -> Thunks {
    let exit_address = exit(asm, false);
    let no_call = land(asm, AT_ZERO);
    let thunks = Thunks {
        enter: enter(asm, false, no_call),
        enter_with_flags: enter(asm, true, no_call),
        exit: exit_address,
        load_vectors: load_vectors(asm, exit_address),
        exit_with_flags: exit(asm, true),
        step: helper(asm, helpers.step),
        written: helper(asm, helpers.written),
        beside: beside(asm),
        load_x87: helper(asm, helpers.load_x87),
        gather: [false, true].map(|wide| [gather(asm, wide, false), gather(asm, wide, true)]),
        astride: astride(asm),
        fill: [fill(asm, helpers.fill_read), fill(asm, helpers.fill_write)],
        time: light_helper(asm, helpers.time),
        brief: light_helper(asm, helpers.brief),
        land: land(asm, LANDED),
        trap: trap(asm),
    };
    asm.finish();
    thunks
}
