//! UHCI and xHCI with devices and hubs: registers, schedules and rings, and whatever lies in them. No
//! panic, no walk without an end, and after a reset everything works again.
#![no_main]

use arbitrary::Arbitrary;
use base::input::{ABS_MAX, Axis, InputEvent, KeyCode};
use libfuzzer_sys::fuzz_target;
use machine::run_state::Cause;
use rhea_fuzz::{Board, Place, Step};

/// Vendor and device.
const UHCI: u32 = 0x7020_8086;
const XHCI: u32 = 0x000d_1b36;

const PORTS: u64 = 0xc100;
const BAR: u64 = 0xfe00_0000;
const OPERATIONAL: u64 = BAR + 0x40;
const INTERRUPTER: u64 = BAR + 0x1020;
const DOORBELLS: u64 = BAR + 0x2000;
/// What controllers find in memory lies here, mostly.
const AREA: u64 = 0x4000;
const COMMANDS: u64 = 0x8000;
const EVENTS: u64 = 0x8800;
const SEGMENTS: u64 = 0x8f00;
const CONTEXT_TABLE: u64 = 0x9000;
const CONTEXTS: u64 = 0x9400;
const INPUT: u64 = 0x9a00;
const CONTROL_RING: u64 = 0xa000;

const PLACES: &[Place] = &[
    Place::Ports(PORTS, 0x20),
    Place::Memory(BAR, 0x4000),
    Place::Memory(BAR + 0x440, 0x80),
    Place::Memory(DOORBELLS, 0x20),
    Place::Memory(AREA, 0x8000),
];

#[derive(Arbitrary, Debug)]
enum Action {
    /// UHCI's driver starts it, with one queue in all frames.
    StartFrames,
    /// A queue that makes sense.
    Queue {
        at: u8,
        head: u8,
        element: u8,
        flags: u8,
    },
    /// A transfer that makes sense.
    Transfer {
        at: u8,
        next: u8,
        flags: u8,
        pid: u8,
        address: u8,
        endpoint: u8,
        len: u16,
        data: u8,
    },
    /// xHCI's driver starts it and addresses the device at a port.
    StartRings {
        port: u8,
        route: u8,
    },
    /// A block of a ring.
    Block {
        ring: u8,
        place: u8,
        pointer: u16,
        len: u16,
        kind: u8,
        flags: u16,
    },
    /// A request, for either.
    Setup {
        at: u8,
        bytes: [u8; 8],
    },
    /// A doorbell.
    Ring {
        slot: u8,
        endpoint: u8,
    },
    /// Somebody types or points.
    Key {
        key: u8,
        down: bool,
    },
    Point {
        x: u16,
        dx: i16,
    },
    /// Anything else.
    Else(Step),
}

struct Device<'a> {
    board: &'a mut Board,
}

impl Device<'_> {
    fn place(&self) {
        self.board.place(UHCI, &[(0x20, PORTS)]);
        self.board.place(XHCI, &[(0x10, BAR), (0x14, 0)]);
    }

    fn store(&self, at: u64, words: &[u64]) {
        for (n, word) in (0..).zip(words) {
            self.board.wired().memory().write_uint(at + 4 * n, 4, word & 0xffff_ffff);
        }
    }

    fn port(&self, offset: u64, size: u8, value: u64) {
        self.board.wired().ports().write_uint(PORTS + offset, size, value);
    }

    fn start_rings(&self, port: u64, route: u64) {
        self.store(OPERATIONAL, &[2]);
        self.store(CONTEXT_TABLE + 8, &[CONTEXTS, 0]);
        self.store(INPUT, &[0, 3, 0, 0, 0, 0, 0, 0]);
        self.store(INPUT + 32, &[1 << 27 | route, port << 16, 0, 0]);
        self.store(INPUT + 64, &[0, 4 << 3 | 64 << 16, CONTROL_RING | 1, 0, 8]);
        self.store(COMMANDS, &[0, 0, 0, 9 << 10 | 1, INPUT, 0, 0, 11 << 10 | 1 << 24 | 1]);
        self.store(SEGMENTS, &[EVENTS, 0, 64, 0]);
        for (offset, value) in [(0x38, 8), (0x30, CONTEXT_TABLE), (0x34, 0), (0x18, COMMANDS | 1)] {
            self.store(OPERATIONAL + offset, &[value]);
        }
        for (offset, value) in [(8, 1), (0x18, EVENTS), (0x1c, 0), (0x10, SEGMENTS), (0x14, 0)] {
            self.store(INTERRUPTER + offset, &[value]);
        }
        self.store(INTERRUPTER, &[2]);
        self.store(OPERATIONAL, &[5]);
        self.store(DOORBELLS, &[0]);
    }

    fn perform(&mut self, action: &Action) {
        let near = |n: u8| AREA + 16 * u64::from(n);
        match *action {
            Action::StartFrames => {
                (0..1024).for_each(|n| self.store(0xc000 + 4 * n, &[near(0) | 2]));
                self.port(8, 4, 0xc000);
                for port in [0x10, 0x12] {
                    self.port(port, 2, 0x200);
                    self.port(port, 2, 0);
                    self.port(port, 2, 0xe);
                }
                self.port(4, 2, 0xf);
                self.port(0, 2, 1);
            }
            Action::Queue { at, head, element, flags } => {
                let link = |n, flags: u8| near(n) | u64::from(flags & 7);
                self.store(near(at), &[link(head, flags), link(element, flags >> 4)]);
            }
            Action::Transfer { at, next, flags, pid, address, endpoint, len, data } => {
                let pid = [0x69, 0xe1, 0x2d, u64::from(pid)][usize::from(pid % 4)];
                let control = u64::from(flags) << 23 | 3 << 27;
                let token = pid
                    | u64::from(address & 0x7f) << 8
                    | u64::from(endpoint & 0xf) << 15
                    | u64::from(len) << 21;
                let link = near(next) | u64::from(flags >> 5);
                self.store(near(at), &[link, control, token, near(data)]);
            }
            Action::StartRings { port, route } => {
                self.start_rings(u64::from(port % 10), u64::from(route & 0x11));
            }
            Action::Block { ring, place, pointer, len, kind, flags } => {
                let ring = [COMMANDS, CONTROL_RING, AREA][usize::from(ring % 3)];
                let at = ring + 16 * u64::from(place % 64);
                let control = u64::from(flags & 0x3ff)
                    | u64::from(kind & 0x3f) << 10
                    | u64::from(flags >> 10 & 0x1f) << 16
                    | 1 << 24;
                let pointer = AREA + u64::from(pointer) % 0x7000;
                self.store(at, &[pointer, 0, len.into(), control]);
            }
            Action::Setup { at, bytes } => self.board.wired().memory().write(near(at), &bytes),
            Action::Ring { slot, endpoint } => {
                self.store(DOORBELLS + 4 * u64::from(slot % 4), &[endpoint.into()]);
            }
            Action::Key { key, down } => {
                let key = KeyCode::ALL[usize::from(key) % KeyCode::ALL.len()];
                self.board.vm().input().send(None, &[InputEvent::Key(key, down)]);
            }
            Action::Point { x, dx } => {
                let x = InputEvent::Abs(Axis::X, i32::from(x) & ABS_MAX);
                let dx = InputEvent::Rel(Axis::Y, dx.into());
                self.board.vm().input().send(None, &[x, dx]);
            }
            Action::Else(ref step) => step.take(self.board, PLACES),
        }
    }
}

fuzz_target!(|actions: Vec<Action>| {
    Board::with(|board| {
        let mut device = Device { board };
        device.place();
        actions.iter().for_each(|action| device.perform(action));
        device.board.vm().reset(Cause::HostQmpSystemReset);
        device.place();
        let memory = device.board.wired().memory();
        assert_eq!(memory.read_uint(OPERATIONAL + 4, 4), 1, "xHCI is not as after a reset");
        let ports = device.board.wired().ports();
        assert_eq!(ports.read_uint(PORTS + 2, 2), 0x20, "UHCI is not as after a reset");
    });
});
