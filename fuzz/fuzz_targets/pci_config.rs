//! PCI configuration space of all functions of the board, by mechanism 1: registers of any width,
//! BARs that move, and accesses to where they went.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use machine::run_state::Cause;
use rhea_fuzz::{Board, Place, Size, Step};

const ADDRESS: u64 = 0xcf8;
const DATA: u64 = 0xcfc;
const ENABLE: u64 = 1 << 31;

/// Registers of every function.
const IDENTITY: u8 = 0x00;
const COMMAND: u8 = 0x04;
const FIRST_BAR: u8 = 0x10;
const IO_BAR: u64 = 1;
const WIDE_BAR: u64 = 4;

/// Where guests and firmware reach the board beside the configuration ports.
const PLACES: &[Place] = &[
    Place::Ports(0xcf8, 8),
    Place::Ports(0xc000, 0x1000),
    Place::Memory(0xa_0000, 0x1_0000),
    Place::Memory(0xf_0000, 0x1_0000),
    Place::Memory(0xfeb0_0000, 0x1_0000),
];

#[derive(Arbitrary, Debug)]
enum Action {
    /// Reads a register.
    Read { function: u8, register: u8, size: Size },
    /// Writes a register.
    Write { function: u8, register: u8, size: Size, value: u32 },
    /// Puts a BAR somewhere, enables decoding, and uses it.
    Move { function: u8, bar: u8, address: u64, command: u8, offset: u16, size: Size, value: u64 },
    /// Anything else.
    Else(Step),
}

/// A board, and the functions that are on it.
struct Bus<'a> {
    board: &'a mut Board,
    functions: Vec<(u8, u64)>,
}

impl<'a> Bus<'a> {
    fn new(board: &'a mut Board) -> Self {
        let mut bus = Bus { board, functions: Vec::new() };
        for devfn in 0..=255 {
            let identity = bus.read(devfn, IDENTITY, 4);
            if identity != 0xffff_ffff {
                bus.functions.push((devfn, identity));
            }
        }
        bus
    }

    fn select(&self, devfn: u8, register: u8) {
        let address = ENABLE | u64::from(devfn) << 8 | u64::from(register & 0xfc);
        self.board.wired().ports().write_uint(ADDRESS, 4, address);
    }

    fn read(&self, devfn: u8, register: u8, size: u8) -> u64 {
        self.select(devfn, register);
        self.board.wired().ports().read_uint(DATA + u64::from(register & 3), size)
    }

    fn write(&self, devfn: u8, register: u8, size: u8, value: u64) {
        self.select(devfn, register);
        self.board.wired().ports().write_uint(DATA + u64::from(register & 3), size, value);
    }

    fn devfn(&self, function: u8) -> u8 {
        self.functions[usize::from(function) % self.functions.len()].0
    }

    fn perform(&mut self, action: &Action) {
        match *action {
            Action::Read { function, register, size } => {
                self.read(self.devfn(function), register, size.of_port());
            }
            Action::Write { function, register, size, value } => {
                self.write(self.devfn(function), register, size.of_port(), value.into());
            }
            Action::Move { function, bar, address, command, offset, size, value } => {
                let devfn = self.devfn(function);
                let register = FIRST_BAR + 4 * (bar % 6);
                self.write(devfn, register, 4, address & 0xffff_ffff);
                let low = self.read(devfn, register, 4);
                if low & WIDE_BAR != 0 {
                    self.write(devfn, register + 4, 4, address >> 32);
                }
                self.write(devfn, COMMAND, 1, command.into());
                let wired = self.board.wired();
                let space = if low & IO_BAR != 0 { wired.ports() } else { wired.memory() };
                let (at, size) = match low & IO_BAR != 0 {
                    true => ((low & !3) + u64::from(offset) & 0xffff, size.of_port()),
                    false => ((low & !0xf) + u64::from(offset), size.bytes()),
                };
                space.write_uint(at, size, value);
                space.read_uint(at, size);
            }
            Action::Else(ref step) => step.take(self.board, PLACES),
        }
    }
}

fuzz_target!(|actions: Vec<Action>| {
    Board::with(|board| {
        let mut bus = Bus::new(board);
        actions.iter().for_each(|action| bus.perform(action));
        bus.board.serve();
        // A BAR may lie on the configuration ports.
        bus.board.vm().reset(Cause::HostQmpSystemReset);
        for &(devfn, identity) in &bus.functions {
            assert_eq!(bus.read(devfn, IDENTITY, 4), identity, "function {devfn:#x}");
        }
    });
});
