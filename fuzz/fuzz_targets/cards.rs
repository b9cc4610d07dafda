//! Network cards between a driver and a cable that are both hostile: registers and rings of any content,
//! frames of any length and state. No panic, and after a reset everything works again.
#![no_main]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use machine::run_state::Cause;
use net::{Checksum, Delivery, End, Frame, Gso, GsoKind, Offload, Offloads, Part, Plug, Side};
use rhea_fuzz::{Board, Place, Step};

const ADDRESS: u64 = 0xcf8;
const DATA: u64 = 0xcfc;
const ENABLE: u64 = 1 << 31;

/// A card: its vendor and device, and where its BARs go.
struct Seat {
    id: u64,
    bars: &'static [(u64, u64)],
}

const E1000: Seat = Seat { id: 0x100e_8086, bars: &[(0x10, 0xfd00_0000), (0x14, 0xd000)] };
const VIRTIO: Seat =
    Seat { id: 0x1000_1af4, bars: &[(0x10, 0xd100), (0x14, 0xfd10_0000), (0x20, 0xfd20_0000)] };
const RTL8139: Seat = Seat { id: 0x8139_10ec, bars: &[(0x10, 0xd200), (0x14, 0xfd30_0000)] };
const NE2K: Seat = Seat { id: 0x8029_10ec, bars: &[(0x10, 0xd300)] };
const PCNET: Seat = Seat { id: 0x2000_1022, bars: &[(0x10, 0xd400), (0x14, 0xfd40_0000)] };
const SEATS: [Seat; 5] = [E1000, VIRTIO, RTL8139, NE2K, PCNET];

/// Where rings and buffers are.
const RINGS: u64 = 0x8000;
const LONGEST: usize = 0x1_2000;

const PLACES: &[Place] = &[
    Place::Memory(0xfd00_0000, 0x400),
    Place::Memory(0xfd00_2800, 0x40),
    Place::Memory(0xfd00_3800, 0x40),
    Place::Memory(0xfd00_0000, 0x6000),
    Place::Ports(0xd000, 8),
    Place::Memory(0xfd20_0000, 0x40),
    Place::Memory(0xfd20_3000, 0x10),
    Place::Memory(0xfd20_0000, 0x4000),
    Place::Ports(0xd100, 0x20),
    Place::Memory(0xfd30_0000, 0x100),
    Place::Memory(0xfd30_0010, 0x30),
    Place::Ports(0xd300, 0x20),
    Place::Memory(0xfd40_0010, 0x10),
    Place::Memory(RINGS, 0x4000),
];

#[derive(Arbitrary, Debug)]
enum Action {
    /// A frame comes in.
    Frame { card: u8, begin: Vec<u8>, len: u32, start: u16, offset: u16, gso: Option<(u8, u16)> },
    /// The other end has room, or has none.
    Room { card: u8, full: bool },
    /// The cable.
    Link { card: u8, up: bool },
    /// A word in memory, as in a ring.
    Word { at: u16, value: u64 },
    /// Anything else.
    Else(Step),
}

/// The other end of a cable.
#[derive(Default)]
struct Sink(AtomicBool);

impl End for Sink {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        if self.0.load(Ordering::Relaxed) {
            return Delivery::Full;
        }
        frame.copy(0, &mut [0; 64]);
        Delivery::Taken
    }
    fn wake(&self) {}
    fn accepts(&self) -> Offloads {
        Offloads::default()
    }
}

fn config(board: &Board, devfn: u64, offset: u64) -> u64 {
    board.wired().ports().write_uint(ADDRESS, 4, ENABLE | devfn << 8 | offset & 0xfc);
    DATA + (offset & 3)
}

fn place(board: &Board, seat: &Seat) {
    let found = (0..=255).find(|&devfn| {
        let port = config(board, devfn, 0);
        board.wired().ports().read_uint(port, 4) == seat.id
    });
    let devfn = found.expect("the board has this card");
    for &(offset, value) in seat.bars.iter().chain(&[(0x24, 0), (4, 7)]) {
        let port = config(board, devfn, offset);
        board.wired().ports().write_uint(port, 4, value);
    }
}

fn frame(begin: &[u8], len: u32, start: u16, offset: u16, gso: Option<(u8, u16)>, plug: &Plug) {
    let mut bytes = begin.to_vec();
    bytes.resize(14.max(len as usize % LONGEST), 0x5a);
    let checksum = if gso.is_some() || start > 0 {
        Checksum::Partial { start, offset }
    } else {
        Checksum::Complete
    };
    let kinds = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp, GsoKind::UdpFragments];
    let gso = gso.map(|(kind, size)| Gso {
        kind: kinds[usize::from(kind % 4)],
        size: size.max(1),
        ecn: kind & 4 != 0,
        header_len: start,
    });
    let parts = [Part::from(&bytes[..])];
    let _ = plug.send(&Frame::new(&parts, Offload { checksum, gso }));
    plug.flush();
}

fuzz_target!(|actions: Vec<Action>| {
    Board::with(|board| {
        SEATS.iter().for_each(|seat| place(board, seat));
        let nics = board.vm().networks().nics().list();
        let sinks: Vec<(Plug, Arc<Sink>)> = nics
            .iter()
            .map(|nic| {
                let (plug, sink) = (nic.cable.plug(Side::Host, 0), Arc::<Sink>::default());
                let weak: Weak<Sink> = Arc::downgrade(&sink);
                plug.attach(weak);
                (plug, sink)
            })
            .collect();
        let side = |card: u8| &sinks[usize::from(card) % sinks.len()];
        for action in &actions {
            match action {
                Action::Frame { card, begin, len, start, offset, gso } => {
                    frame(begin, *len, *start, *offset, *gso, &side(*card).0);
                }
                Action::Room { card, full } => {
                    let (plug, sink) = side(*card);
                    sink.0.store(*full, Ordering::Relaxed);
                    plug.ready();
                }
                Action::Link { card, up } => {
                    side(*card).0.cable().set_link(Side::Guest, *up);
                }
                Action::Word { at, value } => {
                    let at = RINGS + u64::from(*at) % 0x4000;
                    board.wired().memory().write_uint(at, 8, *value);
                }
                Action::Else(step) => step.take(board, PLACES),
            }
        }
        board.serve();
        sinks.iter().for_each(|(plug, _)| plug.cable().set_link(Side::Guest, true));
        board.vm().reset(Cause::HostQmpSystemReset);
        place(board, &E1000);
        assert_eq!(board.wired().memory().read_uint(0xfd00_0000, 4), 0x0014_0240);
    });
});
