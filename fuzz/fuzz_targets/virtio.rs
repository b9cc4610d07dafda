//! A block device on virtio: registers of both interfaces, rings of both layouts, and whatever lies in
//! them. No panic, no request that is never answered, and after a reset everything works again.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use machine::run_state::Cause;
use rhea_fuzz::{Board, Place, Size, Step};

const ADDRESS: u64 = 0xcf8;
const DATA: u64 = 0xcfc;
const ENABLE: u64 = 1 << 31;
/// Vendor and device.
const BLOCK_DEVICE: u64 = 0x1001_1af4;

const PORTS: u64 = 0xc000;
const MSIX: u64 = 0xfe00_0000;
const BAR: u64 = 0xfe80_0000;
/// Where rings and buffers are.
const RINGS: u64 = 0x8000;
const AREA: u64 = 0x1000;

const STATUS: u64 = BAR + 20;

const PLACES: &[Place] = &[
    Place::Memory(BAR, 0x40),
    Place::Memory(BAR, 0x4000),
    Place::Memory(MSIX, 0x1000),
    Place::Ports(PORTS, 0x80),
    Place::Memory(RINGS, 4 * AREA),
];

#[derive(Arbitrary, Debug)]
enum Action {
    /// A driver that knows what it does, up to its first buffers.
    Start { packed: bool, event_idx: bool, indirect: bool, size: u8 },
    /// A descriptor that makes sense.
    Descriptor { slot: u8, at: u16, len: u16, id: u16, flags: u16 },
    /// An available chain of a split ring.
    Offer { place: u8, head: u8 },
    /// A request's header.
    Header { at: u8, kind: u8, sector: u16 },
    /// The driver notifies.
    Kick,
    /// A register of configuration space.
    Configure { offset: u8, size: Size, value: u32 },
    /// Anything else.
    Else(Step),
}

struct Device<'a> {
    board: &'a mut Board,
    devfn: u8,
}

impl Device<'_> {
    fn config(&self, devfn: u8, offset: u8) -> u64 {
        let address = ENABLE | u64::from(devfn) << 8 | u64::from(offset & 0xfc);
        self.board.wired().ports().write_uint(ADDRESS, 4, address);
        DATA + u64::from(offset & 3)
    }

    fn config_read(&self, devfn: u8, offset: u8) -> u64 {
        let port = self.config(devfn, offset);
        self.board.wired().ports().read_uint(port, 4)
    }

    fn config_write(&self, offset: u8, size: u8, value: u64) {
        let port = self.config(self.devfn, offset);
        self.board.wired().ports().write_uint(port, size, value);
    }

    fn write(&self, at: u64, size: u8, value: u64) {
        self.board.wired().memory().write_uint(at, size, value);
    }

    fn place(&self) {
        for (offset, value) in [(0x10, PORTS), (0x14, MSIX), (0x20, BAR), (0x24, 0), (4, 7)] {
            self.config_write(offset, 4, value);
        }
    }

    fn start(&self, features: u64, size: u64) {
        for status in [0, 3] {
            self.write(STATUS, 1, status);
        }
        for half in 0..2 {
            self.write(BAR + 8, 4, half);
            self.write(BAR + 12, 4, features >> (32 * half) & 0xffff_ffff);
        }
        self.write(STATUS, 1, 0xb);
        self.write(BAR + 24, 2, size);
        for (n, at) in [32, 40, 48].into_iter().enumerate() {
            self.write(BAR + at, 4, RINGS + AREA * n as u64);
        }
        self.write(BAR + 28, 2, 1);
        self.write(STATUS, 1, 0xf);
    }

    fn perform(&mut self, action: &Action) {
        match *action {
            Action::Start { packed, event_idx, indirect, size } => {
                let features = 1 << 32
                    | u64::from(packed) << 34
                    | u64::from(event_idx) << 29
                    | u64::from(indirect) << 28;
                self.start(features, 1 << (size % 9));
            }
            Action::Descriptor { slot, at, len, id, flags } => {
                let slot = RINGS + 16 * u64::from(slot);
                self.write(slot, 8, RINGS + u64::from(at) % (4 * AREA));
                self.write(slot + 8, 4, len.into());
                self.write(slot + 12, 2, id.into());
                self.write(slot + 14, 2, flags.into());
            }
            Action::Offer { place, head } => {
                let ring = RINGS + AREA;
                self.write(ring + 4 + 2 * u64::from(place), 2, head.into());
                let index = self.board.wired().memory().read_uint(ring + 2, 2);
                self.write(ring + 2, 2, index + 1);
            }
            Action::Header { at, kind, sector } => {
                let header = RINGS + 3 * AREA + 16 * u64::from(at);
                self.write(header, 4, kind.into());
                self.write(header + 8, 8, sector.into());
            }
            Action::Kick => {
                self.write(BAR + 0x3000, 2, 0);
                self.board.serve();
            }
            Action::Configure { offset, size, value } => {
                self.config_write(offset, size.of_port(), value.into());
            }
            Action::Else(ref step) => step.take(self.board, PLACES),
        }
    }
}

fuzz_target!(|actions: Vec<Action>| {
    Board::with(|board| {
        let mut device = Device { board, devfn: 0 };
        let place = (0..=255).find(|&devfn| device.config_read(devfn, 0) == BLOCK_DEVICE);
        device.devfn = place.expect("the board has a block device");
        device.place();
        actions.iter().for_each(|action| device.perform(action));
        device.board.serve();
        device.board.vm().graph().drain();
        device.board.vm().reset(Cause::HostQmpSystemReset);
        device.place();
        device.write(STATUS, 1, 0);
        assert_eq!(device.board.wired().memory().read_uint(STATUS, 1), 0, "it is still busy");
    });
});
