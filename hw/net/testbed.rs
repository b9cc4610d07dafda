//! A card on a bus, and a wire at the other end of its cable, for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use base::clock::Clocks;
use base::event_loop::EventLoop;
use base::irq::{FnSink, IrqLine};
use base::memory::{AddressSpace, RamBlock, Region};
use base::props::NetdevId;
use net::{
    Backend, Cable, Delivery, End, Frame, Netdev, Networks, Offload, Offloads, Part, Plug, Side,
};
use parking_lot::Mutex;

use super::card::{NicPlace, NicProps, Nics};
use crate::pci::rom::tests::PlainFiles;
use crate::pci::{PciBus, PciFunction};
use crate::registry::Identity;

pub(crate) const RAM: u64 = 0x40_0000;
pub(crate) const BAR: u64 = 0xfe00_0000;
pub(crate) const PORTS: u64 = 0xc000;

/// The other end: it keeps what it gets.
#[derive(Default)]
pub(crate) struct Wire {
    pub frames: Mutex<Vec<(Vec<u8>, Offload)>>,
    pub full: AtomicBool,
    pub accepts: Mutex<Offloads>,
    pub woken: AtomicU32,
    pub flushed: AtomicU32,
}

impl End for Wire {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        if self.full.load(Ordering::Relaxed) {
            return Delivery::Full;
        }
        self.frames.lock().push((frame.to_vec(), frame.offload));
        Delivery::Taken
    }
    fn flush(&self) {
        self.flushed.fetch_add(1, Ordering::Relaxed);
    }
    fn wake(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }
    fn accepts(&self) -> Offloads {
        *self.accepts.lock()
    }
}

impl Backend for Wire {
    fn info(&self, _lane: usize) -> String {
        String::new()
    }
}

/// A network of id `n` whose other end is a wire.
pub(crate) fn wire() -> (Arc<Nics>, Arc<Wire>, Plug) {
    let networks = Arc::<Networks>::default();
    let (wire, cable) = (Arc::<Wire>::default(), Cable::new("n"));
    let plug = cable.plug(Side::Host, 0);
    let weak: std::sync::Weak<Wire> = Arc::downgrade(&wire);
    plug.attach(weak);
    networks.add(Netdev { kind: "test", cable, backend: wire.clone() }).unwrap();
    (Nics::new(networks), wire, plug)
}

/// Sends a frame to the card, and says that the burst is over.
pub(crate) fn send(plug: &Plug, bytes: &[u8], offload: Offload) -> Delivery {
    let parts = [Part::from(bytes)];
    let delivery = plug.send(&Frame::new(&parts, offload));
    plug.flush();
    delivery
}

/// A machine with one card.
pub(crate) struct Bed {
    pub memory: AddressSpace,
    pub ports: AddressSpace,
    pub function: Arc<PciFunction>,
    pub clocks: Clocks,
    pub wire: Arc<Wire>,
    /// The wire's side of the cable.
    pub plug: Plug,
    pub nics: Arc<Nics>,
    pin: Arc<AtomicBool>,
    event_loop: EventLoop,
    _bus: Arc<PciBus>,
}

impl Bed {
    /// `plug` plugs the card.
    pub fn new(plug: impl FnOnce(NicPlace<'_>, NicProps) -> Arc<PciFunction>) -> Self {
        let root = Region::container("memory", 1 << 64);
        root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", RAM).unwrap())), 0, 0);
        let memory = AddressSpace::new("memory", root.clone());
        let io = Region::container("io", 1 << 16);
        let ports = AddressSpace::with_unassigned("io", io.clone(), 0xff);
        let pin = Arc::<AtomicBool>::default();
        let shown = pin.clone();
        let sink = FnSink(move |_, level| shown.store(level, Ordering::Relaxed));
        let line = IrqLine::new(Arc::new(sink), 0);
        let files = Box::<PlainFiles>::default();
        let bus = PciBus::new(root, io, memory.clone(), |_, _| 0, vec![line], files);
        let clocks = Clocks::new();
        clocks.step_by_hand();
        let event_loop = EventLoop::new().unwrap();
        let (nics, wire, other) = wire();
        let place = NicPlace {
            bus: &bus,
            clocks: &clocks,
            main_loop: event_loop.handle(),
            nics: nics.clone(),
            identity: Identity::default(),
        };
        let props = NicProps { netdev: Some(NetdevId("n".into())), ..NicProps::default() };
        let function = plug(place, props);
        let plug = other;
        let bed =
            Bed { memory, ports, function, clocks, wire, plug, nics, pin, event_loop, _bus: bus };
        bed.place();
        bed
    }

    /// Does what firmware does after a reset.
    pub fn place(&self) {
        for at in [0x10, 0x14] {
            let is_io = self.function.config_read(at, 4) & 1 != 0;
            self.function.config_write(at, 4, if is_io { PORTS } else { BAR } as u32);
        }
        self.function.config_write(4, 4, 7);
    }

    /// Lets workers do what they have been asked to.
    pub fn run(&mut self) {
        let clocks = self.clocks.clone();
        (0..4).for_each(|_| self.event_loop.run_once(&clocks, false).unwrap());
    }

    /// Lets time pass.
    pub fn wait(&mut self, nanoseconds: i64) {
        self.clocks.step_to(self.clocks.now_virtual() + nanoseconds);
        self.run();
    }

    pub fn interrupts(&self) -> bool {
        self.pin.load(Ordering::Relaxed)
    }

    pub fn sent(&self) -> Vec<(Vec<u8>, Offload)> {
        std::mem::take(&mut self.wire.frames.lock())
    }
}
