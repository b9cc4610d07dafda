use base::clock::Clocks;
use base::memory::{AddressSpace, Dma, RamBlock, Region};

use super::*;
use crate::virtio::{Interrupts, ToDriver};

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x4000;
/// The status queue's parts follow at this distance.
const SECOND: u64 = 0x8000;

struct Silent;

impl Interrupts for Silent {
    fn queue(&self, _: u16) {}
    fn config(&self) {}
}

struct Bed {
    dma: Dma,
    router: Arc<Router>,
    input: Input,
    queues: Vec<Arc<VirtQueue>>,
}

fn bed(kind: Kind) -> Bed {
    let root = Region::container("root", 1 << 32);
    root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", 1 << 20).unwrap())), 0, 0);
    let dma = Dma::new(AddressSpace::new("t", root));
    let driver = Arc::new(ToDriver::new(Box::new(Silent)));
    driver.set_ready(true);
    let queue = |n: u16| {
        let queue = VirtQueue::new(n, QUEUE_SIZE, &dma, &driver);
        let at = SECOND * u64::from(n);
        queue.configure(|st| {
            st.descriptors = DESCRIPTORS + at;
            (st.driver_area, st.device_area) = (AVAILABLE + at, USED + at);
        });
        queue.enable(1 << 32);
        queue
    };
    let queues = vec![queue(0), queue(1)];
    let router = Router::new(&Clocks::new());
    router.set_running(true);
    let wiring = Wiring { queues: queues.clone(), driver, dma: dma.clone() };
    let input = Input::new(kind, "nr".into(), true, None, &router, &wiring);
    Bed { dma, router, input, queues }
}

impl Bed {
    /// Makes `count` buffers of a queue available, the first of which holds `bytes`.
    fn offer(&self, queue: u64, count: u64, flags: u64, bytes: &[u8]) {
        let at = SECOND * queue;
        let first = self.dma.read_uint(AVAILABLE + at + 2, 2);
        self.dma.write(BUFFERS + at, bytes);
        for n in first..first + count {
            let (slot, buffer) = (n % 64, BUFFERS + at + 8 * (n % 64));
            self.dma.write_uint(DESCRIPTORS + at + 16 * slot, 8, buffer);
            self.dma.write_uint(DESCRIPTORS + at + 16 * slot + 8, 8, 8 | flags << 32);
            self.dma.write_uint(AVAILABLE + at + 4 + 2 * slot, 2, slot);
        }
        self.dma.write_uint(AVAILABLE + at + 2, 2, first + count);
    }

    /// What was reported since event `from`.
    fn events(&self, from: u64) -> Vec<(u64, u64, u64)> {
        let used = self.dma.read_uint(USED + 2, 2);
        let event = |n: u64| {
            let at = BUFFERS + 8 * (n % 64);
            let number = |offset, size| self.dma.read_uint(at + offset, size);
            (number(0, 2), number(2, 2), number(4, 4))
        };
        (from..used).map(event).collect()
    }

    fn ask(&mut self, select: u8, subselect: u8) -> Vec<u8> {
        self.input.write_config(0, &[select, subselect]);
        let config = self.input.config();
        assert_eq!(config.len(), config::LEN);
        config[8..8 + usize::from(config[2])].to_vec()
    }
}

/// Recorded from QEMU 10.0.2.
#[test]
fn devices_say_what_they_are() {
    let mut keyboard = bed(Kind::Keyboard);
    assert_eq!(keyboard.ask(1, 0), b"QEMU Virtio Keyboard");
    assert_eq!(keyboard.ask(2, 0), b"nr");
    assert_eq!(keyboard.ask(3, 0), [6, 0, 0x27, 6, 1, 0, 1, 0]);
    let keys: Vec<u8> = [0xffff_ffff_ffff_fffe, 0xfebe_ffff_7bcf_ffff, 0xff80_3078_f800_dfff]
        .into_iter()
        .flat_map(u64::to_le_bytes)
        .chain([7, 0, 0, 0, 4])
        .collect();
    assert_eq!(keyboard.ask(0x11, 1), keys);
    assert_eq!((keyboard.ask(0x11, 0x11), keyboard.ask(0x11, 2)), (vec![7], vec![]));
    let mut tablet = bed(Kind::Tablet);
    assert_eq!(tablet.ask(3, 0), [6, 0, 0x27, 6, 3, 0, 2, 0]);
    assert_eq!((tablet.ask(0x11, 3), tablet.ask(0x11, 2)), (vec![3], vec![0, 1]));
    assert_eq!(tablet.ask(0x12, 0)[..8], [0, 0, 0, 0, 0xff, 0x7f, 0, 0]);
    let mut mouse = bed(Kind::Mouse);
    assert_eq!(mouse.ask(0x11, 2), [3, 1]);
    let buttons = mouse.ask(0x11, 1);
    assert_eq!((&buttons[34..36], &buttons[40..]), (&[0x1f, 0][..], &[0, 4, 3][..]));
    assert_eq!((mouse.ask(0x12, 0), mouse.ask(0xff, 0)), (vec![], vec![]));
}

#[test]
fn a_report_is_whole_or_not_there() {
    let mut bed = bed(Kind::Mouse);
    bed.input.activate(0);
    bed.offer(0, 3, 2, &[]);
    let report = [
        InputEvent::Rel(Axis::X, -2),
        InputEvent::Button(Button::WheelDown, true),
        InputEvent::Button(Button::WheelDown, false),
        InputEvent::Button(Button::Left, true),
    ];
    bed.router.send(None, &report);
    assert!(bed.events(0).is_empty(), "no room for four events");
    bed.offer(0, 5, 2, &[]);
    bed.router.send(None, &report);
    let minus = |n: u32| u64::from(n.wrapping_neg());
    assert_eq!(bed.events(0), [(2, 0, minus(2)), (2, 8, minus(1)), (1, 0x110, 1), (0, 0, 0)]);
    bed.router.send(None, &[InputEvent::Button(Button::Left, false)]);
    assert_eq!(bed.events(4), [(1, 0x110, 0), (0, 0, 0)]);
    bed.router.send(None, &[InputEvent::Button(Button::WheelUp, false)]);
    assert!(bed.events(6).is_empty());
}

#[test]
fn a_driver_that_is_ready_gets_the_events() {
    let mut bed = bed(Kind::Tablet);
    let other = bed.router.register("other", Kinds::REL, None, Arc::new(Sink(Weak::new())));
    other.activate();
    assert!(!bed.router.is_absolute(None));
    bed.input.activate(0);
    assert!(bed.router.is_absolute(None));
    bed.input.reset();
    assert!(!bed.router.is_absolute(None));
    bed.input.unplug();
    assert_eq!(bed.router.mice().len(), 1);
}

#[test]
fn lights_are_told() {
    let bed = bed(Kind::Keyboard);
    bed.offer(1, 1, 0, &[0x11, 0, 1, 0, 1, 0, 0, 0]);
    bed.queues[STATUS].kick();
    assert_eq!(bed.router.leds(), Leds { caps: true, ..Leds::default() });
    assert_eq!(bed.dma.read_uint(USED + SECOND + 2, 2), 1);
}
