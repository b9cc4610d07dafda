//! Network cards between a driver and a cable that are both hostile: registers and rings of any content,
//! frames of any length and state. After a reset a card is what it was after the first.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arbitrary::Arbitrary;
use machine::run_state::Cause;
use net::{Checksum, Delivery, End, Frame, Gso, GsoKind, Offload, Offloads, Part, Plug, Side};

use crate::{Board, Place, Step};

/// Where rings and buffers are.
pub const RINGS: Place = Place::Memory(RINGS_AT, RINGS_LEN);
const RINGS_AT: u64 = 0x8000;
const RINGS_LEN: u64 = 0x4000;
/// More than any frame has.
const LONGEST: usize = 0x1_2000;

/// A card on the PCI bus.
pub struct Card {
    /// Name of its type, as the list of cards has it.
    pub model: &'static str,
    /// Vendor and device.
    pub id: u32,
    /// Registers of configuration space that place its BARs.
    pub bars: &'static [(u8, u64)],
    /// Where its registers are then, and memory that it looks at.
    pub places: &'static [Place],
    /// Registers that a reset makes what they were.
    pub reset: Place,
}

/// What its driver, its cable or time does.
#[derive(Arbitrary, Debug)]
pub enum Deed {
    /// A frame comes in.
    Frame { begin: Vec<u8>, len: u32, start: u16, offset: u16, gso: Option<(u8, u16)> },
    /// The other end has room, or has none.
    Room { full: bool },
    /// The cable.
    Link { up: bool },
    /// A word in memory, as in a ring.
    Word { at: u16, value: u64 },
    /// Anything else.
    Else(Step),
}

/// The other end of the cable.
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

thread_local! {
    static FIRST: OnceCell<Vec<u64>> = const { OnceCell::new() };
}

impl Card {
    /// Acts upon it.
    pub fn drive(&self, deeds: &[Deed]) {
        Board::with(|board| {
            let fresh = self.reset_registers(board);
            FIRST.with(|first| assert_eq!(first.get_or_init(|| fresh.clone()), &fresh));
            let nics = board.vm().networks().nics().list();
            let nic = nics.iter().find(|nic| nic.model == self.model).expect("the board has it");
            let (plug, sink) = (nic.cable.plug(Side::Host, 0), Arc::<Sink>::default());
            let end: Arc<dyn End> = sink.clone();
            plug.attach(Arc::downgrade(&end));
            for deed in deeds {
                match deed {
                    Deed::Frame { begin, len, start, offset, gso } => {
                        send(&plug, begin, *len, *start, *offset, *gso);
                    }
                    Deed::Room { full } => {
                        sink.0.store(*full, Ordering::Relaxed);
                        plug.ready();
                    }
                    Deed::Link { up } => plug.cable().set_link(Side::Guest, *up),
                    Deed::Word { at, value } => {
                        let at = RINGS_AT + u64::from(*at) % RINGS_LEN;
                        board.wired().memory().write_uint(at, 8, *value);
                    }
                    Deed::Else(step) => step.take(board, self.places),
                }
            }
            board.serve();
            plug.cable().set_link(Side::Guest, true);
            board.vm().reset(Cause::HostQmpSystemReset);
            let again = self.reset_registers(board);
            assert_eq!(again, fresh, "a reset makes it what it was");
        });
    }

    fn reset_registers(&self, board: &Board) -> Vec<u64> {
        board.place(self.id, self.bars);
        let (memory, ports) = (board.wired().memory(), board.wired().ports());
        match self.reset {
            Place::Ports(at, count) => (at..at + count).map(|at| ports.read_uint(at, 1)).collect(),
            Place::Memory(at, len) => {
                (at..at + len).step_by(4).map(|at| memory.read_uint(at, 4)).collect()
            }
        }
    }
}

fn send(plug: &Plug, begin: &[u8], len: u32, start: u16, offset: u16, gso: Option<(u8, u16)>) {
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
    // The card may have no room, or its cable no link.
    let _ = plug.send(&Frame::new(&parts, Offload { checksum, gso }));
    plug.flush();
}
