//! Accesses by the same base and index at near displacements, as to a stack frame or a structure: one
//! look into the TLB serves them all.
//!
//! The first access of a group looks whether all of them lie in one page; if not, the block goes on
//! in a variant of itself that takes each access alone. The host address of the group's first byte
//! then waits in the frame. Nothing between the accesses can change what the TLB says: instructions
//! executed by handlers end groups, and a slow path that changes a mapping leaves the block.
//!
//! Where a group stores, nobody watched its page when it was looked up, so the code of this very block
//! does not lie there, and whoever begins to watch the page meanwhile is told after a few more
//! stores of the group as well as after each.

use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

use super::Variant;
use super::unit::{self, Class, Unit};
use super::window::Windows;
use crate::jit::frame::GROUPS;
use crate::state::gpr;

/// Most bytes that a group spans: of a stack frame, or of something else. Wide ones leave their page
/// more often.
const STACK_SPAN: i64 = 1024;
const SPAN: i64 = 256;

/// What an address consists of beside a displacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// RIP.
    Rip,
    /// A register by number.
    Plain(usize),
    /// A register, and another one multiplied with a power of two.
    Indexed(usize, usize, u8),
}

impl Base {
    /// The registers, a bit each.
    pub fn registers(self) -> u16 {
        match self {
            Base::Rip => 0,
            Base::Plain(base) => 1 << base,
            Base::Indexed(base, index, _) => 1 << base | 1 << index,
        }
    }
}

const STACK: Base = Base::Plain(gpr::RSP);

/// Accesses that are looked up together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The place in the frame.
    pub slot: usize,
    /// What addresses consist of beside a displacement.
    pub base: Base,
    /// Distance of the first byte from what the base register has at the first access.
    pub low: i32,
    /// Bytes from the first to the last.
    pub span: usize,
    /// One of the accesses is a store.
    pub writes: bool,
}

/// An access that belongs to a group.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The group.
    pub group: usize,
    /// Distance from the group's first byte.
    pub at: i32,
    /// The first one of the group.
    pub first: bool,
    /// It stores.
    pub writes: bool,
}

/// All groups of a block.
#[derive(Default)]
pub struct Groups {
    pub groups: Vec<Group>,
    /// By unit.
    pub members: Vec<Option<Member>>,
    /// The place in the frame of the first one.
    first_slot: usize,
}

/// A group to which accesses may still be added.
struct Open {
    base: Base,
    /// What was added to the base register since the first access.
    moved: i64,
    low: i64,
    high: i64,
    /// Unit, distance and whether it stores.
    accesses: Vec<(usize, i64, bool)>,
}

/// Distance from the base register, size and kind of an access.
pub struct Access {
    pub base: Base,
    pub at: i64,
    pub size: i64,
    pub writes: bool,
}

/// Finds the groups of a block, and marks accesses that cannot leave it any more.
/// Accesses through `windows` are left to those.
pub fn find(units: &mut [Unit], variant: Variant, windows: &Windows) -> Groups {
    let mut found = Groups { first_slot: windows.count(), ..Groups::default() };
    if variant.alone || variant.key.code_bits() != 64 {
        return found;
    }
    found.members = vec![None; units.len()];
    let mut open: Vec<Open> = Vec::new();
    for (index, unit) in units.iter().enumerate() {
        if windows.place(index).is_none()
            && let Some(access) = access(unit)
        {
            add(&mut open, &mut found, index, &access);
        }
        let mut kept = Vec::with_capacity(open.len());
        for mut group in open.drain(..) {
            match moved(unit, group.base) {
                Some(distance) => {
                    group.moved += distance;
                    kept.push(group);
                }
                None => found.close(group),
            }
        }
        open = kept;
    }
    open.into_iter().for_each(|group| found.close(group));
    for (unit, member) in units.iter_mut().zip(&found.members) {
        if let Some(Member { first: false, writes: false, .. }) = member
            && matches!(unit.class, Class::Plain | Class::Pop)
        {
            unit.visible = unit::can_trap(unit.raw.mnemonic());
        }
    }
    found
}

fn add(open: &mut Vec<Open>, found: &mut Groups, index: usize, access: &Access) {
    let limit = if access.base == STACK { STACK_SPAN } else { SPAN };
    if let Some(at) = open.iter().position(|group| group.base == access.base) {
        let group = &mut open[at];
        let from = group.moved + access.at;
        let (low, high) = (group.low.min(from), group.high.max(from + access.size));
        // What RIP leads to is known to be in the same page, or not to be.
        let reachable = access.base != Base::Rip || low >> 12 == (high - 1) >> 12;
        if high - low <= limit && reachable {
            (group.low, group.high) = (low, high);
            group.accesses.push((index, from, access.writes));
            return;
        }
        found.close(open.remove(at));
    }
    open.push(Open {
        base: access.base,
        moved: 0,
        low: access.at,
        high: access.at + access.size,
        accesses: vec![(index, access.at, access.writes)],
    });
}

impl Groups {
    /// The place of unit `index`.
    pub fn member(&self, index: usize) -> Option<Member> {
        *self.members.get(index)?
    }

    fn close(&mut self, group: Open) {
        let number = self.groups.len();
        let slot = self.first_slot + number;
        let (Ok(low), Ok(span)) =
            (i32::try_from(group.low), usize::try_from(group.high - group.low))
        else {
            return;
        };
        if group.accesses.len() < 2 || slot >= GROUPS {
            return;
        }
        let writes = group.accesses.iter().any(|(.., writes)| *writes);
        self.groups.push(Group { slot, base: group.base, low, span, writes });
        for (nth, (index, from, writes)) in group.accesses.into_iter().enumerate() {
            let at = (from - group.low) as i32;
            self.members[index] = Some(Member { group: number, at, first: nth == 0, writes });
        }
    }
}

/// The access of `unit`, if it can belong to a group.
pub fn access(unit: &Unit) -> Option<Access> {
    let raw = &unit.raw;
    let stack = |at, writes| Some(Access { base: STACK, at, size: 8, writes });
    match unit.class {
        Class::Plain | Class::Vector if unit::touches_memory(raw) && !is_odd(raw) => {
            let (base, at) = operand(raw)?;
            let size = raw.memory_size().size() as i64;
            (size > 0).then_some(Access { base, at, size, writes: unit::writes_memory(raw) })
        }
        Class::Push if raw.op0_kind() != OpKind::Memory => stack(-8, true),
        Class::Call => stack(-8, true),
        Class::Pop if raw.op0_register() == Register::RSP => None,
        Class::Pop | Class::Return => stack(0, false),
        _ => None,
    }
}

/// Whether the access needs more than its address: a bit number is part of that, or the value must be
/// looked at first.
fn is_odd(raw: &Instruction) -> bool {
    unit::is_far_bit(raw) || matches!(raw.mnemonic(), M::Ldmxcsr | M::Vldmxcsr)
}

/// The parts of the memory operand's address.
pub fn operand(raw: &Instruction) -> Option<(Base, i64)> {
    let displacement = raw.memory_displacement64() as i64;
    i32::try_from(displacement).ok()?;
    let scale = raw.memory_index_scale().trailing_zeros() as u8;
    let (base, index) = (raw.memory_base(), raw.memory_index());
    let base = match (base, index) {
        _ if matches!(raw.memory_segment(), Register::FS | Register::GS) => return None,
        (Register::RIP, Register::None) => Base::Rip,
        (base, Register::None) if base.is_gpr64() => Base::Plain(base.number()),
        (base, index) if base.is_gpr64() && index.is_gpr64() => {
            Base::Indexed(base.number(), index.number(), scale)
        }
        _ => return None,
    };
    Some((base, displacement))
}

/// What `unit` adds to `base`; `None` if it does something else to it, or ends groups.
fn moved(unit: &Unit, base: Base) -> Option<i64> {
    let raw = &unit.raw;
    if matches!(unit.class, Class::Step | Class::Brief | Class::Look | Class::Last(_)) {
        return None;
    }
    if unit.changes & base.registers() == 0 {
        return Some(0);
    }
    match unit.class {
        Class::Push | Class::Call => Some(-8),
        Class::Pop if base == STACK && raw.op0_register() != Register::RSP => Some(8),
        _ => unit
            .addition()
            .filter(|(number, _)| base == Base::Plain(*number))
            .map(|(_, distance)| distance),
    }
}
