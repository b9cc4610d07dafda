//! Accesses and time, as a hostile guest would mix them.

use arbitrary::Arbitrary;
use base::memory::AddressSpace;

use crate::Board;

/// Longest step of the clock, in nanoseconds: timers may expire a hundred thousand times a second.
const LONGEST_STEP: i64 = 20_000_000;

/// Bytes of an access.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Size {
    Byte,
    Word,
    Long,
    Quad,
}

impl Size {
    /// The number of bytes.
    pub fn bytes(self) -> u8 {
        1 << self as u8
    }

    /// The number of bytes of a port access, which has no more than four.
    pub fn of_port(self) -> u8 {
        self.bytes().min(4)
    }
}

/// Where registers are.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// Ports from here, so many.
    Ports(u64, u64),
    /// Memory from here, so many bytes.
    Memory(u64, u64),
}

/// What a guest, or time, does.
#[derive(Arbitrary, Clone, Debug)]
pub enum Step {
    /// Reads a register at an offset into a place.
    Load { place: u8, offset: u16, size: Size },
    /// Writes a register at an offset into a place.
    Store { place: u8, offset: u16, size: Size, value: u64 },
    /// Writes a byte, as most drivers of old chips do.
    Poke { place: u8, offset: u8, value: u8 },
    /// Time passes.
    Advance { nanoseconds: u32 },
    /// Time passes until something is due.
    NextEvent,
    /// The main loop takes care of what was asked of it.
    Serve,
    /// Somebody presses the reset button.
    Reset,
    /// Somebody presses the power button.
    PowerButton,
}

/// Takes the steps in the given places.
pub fn knock(places: &[Place], steps: &[Step]) {
    Board::with(|board| steps.iter().for_each(|step| step.take(board, places)));
}

impl Step {
    /// Takes the step.
    pub fn take(&self, board: &mut Board, places: &[Place]) {
        match *self {
            Step::Load { place, offset, size } => {
                let (space, at, size) = find(board, places, place, offset.into(), size);
                space.read_uint(at, size);
            }
            Step::Store { place, offset, size, value } => {
                let (space, at, size) = find(board, places, place, offset.into(), size);
                space.write_uint(at, size, value);
            }
            Step::Poke { place, offset, value } => {
                let (space, at, size) = find(board, places, place, offset.into(), Size::Byte);
                space.write_uint(at, size, value.into());
            }
            Step::Advance { nanoseconds } => {
                let clocks = board.clocks();
                clocks.step_to(clocks.now_virtual() + i64::from(nanoseconds) % LONGEST_STEP);
            }
            Step::NextEvent => {
                let clocks = board.clocks();
                if let Some(deadline) = clocks.next_virtual_deadline() {
                    clocks.step_to(deadline);
                }
            }
            Step::Serve => board.serve(),
            Step::Reset => board.vm().reset(machine::run_state::Cause::HostQmpSystemReset),
            Step::PowerButton => board.vm().power_down(),
        }
    }
}

fn find<'a>(
    board: &'a Board,
    places: &[Place],
    place: u8,
    offset: u64,
    size: Size,
) -> (&'a AddressSpace, u64, u8) {
    match places[usize::from(place) % places.len()] {
        Place::Ports(at, count) => (board.wired().ports(), at + offset % count, size.of_port()),
        Place::Memory(at, len) => (board.wired().memory(), at + offset % len, size.bytes()),
    }
}
