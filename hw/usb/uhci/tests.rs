use base::input::{Axis, Button, InputEvent, InputSink, KeyCode, Kinds, Router};
use base::memory::{AddressSpace, RamBlock, Region};
use proptest::prelude::*;

use super::*;
use crate::pci::rom::tests::PlainFiles;
use crate::pci::{devfn, reg as pci_reg};
use crate::usb::bus::Newcomer;
use crate::usb::device::Bell;
use crate::usb::hid::{self, Kind};
use crate::usb::hub::{self, Hub};

const PORT: u64 = 0xc000;
const RAM: usize = 0x10000;
/// Where the frame list, a queue, its transfers and their data are.
const FRAMES: u64 = 0x1000;
const QUEUE: u64 = 0x2000;
const TRANSFERS: u64 = 0x3000;
const DATA: u64 = 0x4000;

const TERMINATE: u32 = 1;
const ACTIVE: u32 = 1 << 23;
const COMPLETE: u32 = 1 << 24;
const IN: u8 = 0x69;
const OUT: u8 = 0xe1;
const SETUP: u8 = 0x2d;

struct Bed {
    memory: AddressSpace,
    io: AddressSpace,
    pci: Arc<PciBus>,
    bus: Arc<UsbBus>,
    clocks: Clocks,
    router: Arc<Router>,
}

fn bed() -> Bed {
    let root = Region::container("system", 1 << 64);
    root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", RAM as u64).unwrap())), 0, 0);
    let memory = AddressSpace::new("memory", root.clone());
    let ports = Region::container("io", 1 << 16);
    let io = AddressSpace::new("I/O", ports.clone());
    let files = Box::<PlainFiles>::default();
    let pci = PciBus::new(root, ports, memory.clone(), |_, _| 0, Vec::new(), files);
    let clocks = Clocks::new();
    clocks.step_by_hand();
    let router = Router::new(&clocks);
    router.set_running(true);
    let buses = Arc::<UsbBuses>::default();
    let seat = Seat::Board(devfn(1, 2));
    let bus = Uhci::plug(&pci, &seat, &UhciProps::default(), &buses, &clocks).unwrap();
    let bed = Bed { memory, io, pci, bus, clocks, router };
    bed.place();
    bed
}

struct Nobody;

impl InputSink for Nobody {
    fn input(&self, _: &[InputEvent]) {}
}

/// A transfer that a test asks for.
struct Ask {
    pid: u8,
    address: u8,
    endpoint: u8,
    bytes: Vec<u8>,
    len: usize,
}

impl Bed {
    fn read(&self, register: u64) -> u16 {
        self.io.read_uint(PORT + register, 2) as u16
    }

    fn write(&self, register: u64, value: u16) {
        self.io.write_uint(PORT + register, 2, value.into());
    }

    /// Gives the registers their place.
    fn place(&self) {
        let function = self.pci.function(devfn(1, 2)).unwrap();
        function.config_write(pci_reg::BAR0 + 16, 4, PORT as u32);
        function.config_write(pci_reg::COMMAND, 2, 5);
    }

    fn interrupt(&self) -> bool {
        let function = self.pci.function(devfn(1, 2)).unwrap();
        function.config_read(pci_reg::STATUS, 2) as u16 & pci_reg::STATUS_INTERRUPT != 0
    }

    fn store(&self, at: u64, words: &[u32]) {
        for (n, word) in (0..).zip(words) {
            self.memory.write_uint(at + 4 * n, 4, (*word).into());
        }
    }

    fn load(&self, at: u64) -> u32 {
        self.memory.read_uint(at, 4) as u32
    }

    fn step(&self, frames: i64) {
        self.clocks.step_to(self.clocks.now_virtual() + frames * FRAME);
    }

    fn attach(&self, kind: Kind, port: Option<&str>) -> Arc<UsbDevice> {
        let bell = Bell::default();
        let newcomer = Newcomer {
            function: hid::create(kind, None, &self.router, &self.clocks, &bell),
            type_name: "test",
            id: None,
            port: port.map(str::to_owned),
            serial: None,
            serial_start: kind.serial(),
            fastest: Speed::High,
            bell,
        };
        self.bus.attach(newcomer).unwrap().pop().unwrap()
    }

    fn attach_hub(&self) -> Arc<UsbDevice> {
        let (hub, bell) = Hub::create(4);
        let newcomer = Newcomer {
            function: Box::new(hub),
            type_name: hub::TYPE,
            id: None,
            port: None,
            serial: Some("7".into()),
            serial_start: "",
            fastest: Speed::High,
            bell,
        };
        self.bus.attach(newcomer).unwrap().pop().unwrap()
    }

    /// Starts the controller, with one queue in all frames, and enables the ports.
    fn start(&self) {
        (0..1024).for_each(|n| self.store(FRAMES + 4 * n, &[QUEUE as u32 | 2]));
        self.store(QUEUE, &[TERMINATE, TERMINATE]);
        self.io.write_uint(PORT + reg::FRAME_LIST_LOW, 4, FRAMES);
        self.write(reg::INTERRUPTS, 0xf);
        for register in [reg::PORT_1, reg::PORT_2] {
            self.write(register, port::RESET);
            self.write(register, 0);
            self.write(register, port::ENABLED | port::CLEARED);
        }
        self.write(reg::COMMAND, command::RUN);
    }

    /// Hangs transfers into the queue and lets it run until it is empty, an error ends it or nothing
    /// comes. Returns their states and what was read.
    fn transfer(&self, asks: &[Ask]) -> (Vec<u32>, Vec<u8>) {
        for (n, ask) in (0..).zip(asks) {
            let (at, data) = (TRANSFERS + 32 * n, DATA + 0x400 * n);
            let next = if n as usize + 1 < asks.len() { at as u32 + 32 | 4 } else { TERMINATE };
            let len = if ask.pid == IN { ask.len } else { ask.bytes.len() };
            let token = u32::from(ask.pid)
                | u32::from(ask.address) << 8
                | u32::from(ask.endpoint) << 15
                | (len as u32).wrapping_sub(1) << 21;
            let control = ACTIVE | 3 << 27 | if next == TERMINATE { COMPLETE } else { 0 };
            self.memory.write(data, &ask.bytes);
            self.store(at, &[next, control, token, data as u32]);
        }
        self.store(QUEUE + 4, &[TRANSFERS as u32]);
        self.step(4);
        let states: Vec<u32> =
            (0..asks.len() as u64).map(|n| self.load(TRANSFERS + 32 * n + 4)).collect();
        let mut read = Vec::new();
        for ((n, ask), state) in (0..).zip(asks).zip(&states) {
            if ask.pid == IN && state & ACTIVE == 0 {
                let mut bytes = vec![0; (*state as usize + 1) & 0x7ff];
                self.memory.read(DATA + 0x400 * n, &mut bytes);
                read.extend(bytes);
            }
        }
        (states, read)
    }

    /// A request at endpoint 0. `None` if it was refused.
    fn control(&self, address: u8, setup: [u8; 8], data: &[u8]) -> Option<Vec<u8>> {
        let ask =
            |pid, bytes: &[u8], len| Ask { pid, address, endpoint: 0, bytes: bytes.into(), len };
        let len = usize::from(u16::from_le_bytes([setup[6], setup[7]]));
        let mut asks = vec![ask(SETUP, &setup, 0)];
        if setup[0] & 0x80 != 0 {
            asks.push(ask(IN, &[], len));
            asks.push(ask(OUT, &[], 0));
        } else {
            if !data.is_empty() {
                asks.push(ask(OUT, data, 0));
            }
            asks.push(ask(IN, &[], 0));
        }
        let (states, read) = self.transfer(&asks);
        states.iter().all(|state| state & 0x00fe_0000 == 0).then_some(read)
    }

    fn get(&self, address: u8, kind: u8, index: u8, len: u16) -> Option<Vec<u8>> {
        let [low, high] = len.to_le_bytes();
        self.control(address, [0x80, 6, index, kind, 0, 0, low, high], &[])
    }

    /// Gives the device at address 0 one and configures it.
    fn configure(&self, address: u8) {
        assert_eq!(self.control(0, [0, 5, address, 0, 0, 0, 0, 0], &[]), Some(vec![]));
        assert_eq!(self.control(address, [0, 9, 1, 0, 0, 0, 0, 0], &[]), Some(vec![]));
    }

    /// What an interrupt endpoint reports, if anything.
    fn poll(&self, address: u8) -> Option<Vec<u8>> {
        let (states, read) =
            self.transfer(&[Ask { pid: IN, address, endpoint: 1, bytes: vec![], len: 8 }]);
        (states[0] & ACTIVE == 0).then_some(read)
    }
}

fn words(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn string(bytes: &[u8]) -> String {
    let units = bytes[2..].chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    char::decode_utf16(units).map(|c| c.unwrap()).collect()
}

/// Observed on QEMU 10.0.
#[test]
fn registers_after_reset() {
    let bed = bed();
    assert_eq!((bed.read(reg::COMMAND), bed.read(reg::STATUS)), (0, 0x20));
    assert_eq!(bed.io.read_uint(PORT + reg::START_OF_FRAME, 1), 64);
    assert_eq!((bed.read(reg::PORT_1), bed.read(reg::PORT_2)), (0x80, 0x80));
    assert_eq!(bed.read(0x14), 0xff7f);
    bed.attach(Kind::Tablet, None);
    assert_eq!(bed.read(reg::PORT_1), 0x83);
    bed.write(reg::PORT_1, port::CONNECT_CHANGE);
    assert_eq!(bed.read(reg::PORT_1), 0x81);
    bed.write(reg::PORT_2, port::ENABLED);
    assert_eq!(bed.read(reg::PORT_2), 0x80, "nobody is there");
    assert_eq!(bed.clocks.next_virtual_deadline(), None, "nothing to do");
}

/// Descriptors recorded from QEMU 10.0.2.
#[test]
fn a_tablet_says_what_it_is() {
    let bed = bed();
    bed.attach(Kind::Tablet, None);
    bed.start();
    bed.configure(5);
    let device = words("12 01 00 02 00 00 00 08 27 06 01 00 00 00 01 03 0a 01");
    assert_eq!(bed.get(5, 1, 0, 64), Some(device.clone()));
    assert_eq!(bed.get(5, 1, 0, 8), Some(device[..8].to_vec()), "no more than asked for");
    let configuration = words(
        "09 02 22 00 01 01 07 a0 32 09 04 00 00 01 03 00 00 00 09 21 01 00 00 01 22 4a 00 07 05 81 \
         03 08 00 0a",
    );
    assert_eq!(bed.get(5, 2, 0, 255), Some(configuration));
    assert_eq!(bed.get(5, 3, 0, 255), Some(vec![4, 3, 9, 4]));
    let text = |index| string(&bed.get(5, 3, index, 255).unwrap());
    assert_eq!([1, 3, 7].map(text), ["QEMU", "QEMU USB Tablet", "HID Tablet"]);
    assert_eq!(text(10), "28754-0000:00:01.2-1");
    assert_eq!(bed.get(5, 3, 200, 255), None);
    let reports = bed.control(5, [0x81, 6, 0, 0x22, 0, 0, 255, 0], &[]).unwrap();
    assert_eq!((reports.len(), &reports[..4]), (0x4a, &[5, 1, 9, 2][..]));
    assert_eq!(bed.control(5, [0x80, 8, 0, 0, 0, 0, 1, 0], &[]), Some(vec![1]));
    assert_eq!(bed.bus.report(), "  Device 0.5, Port 1, Speed 12 Mb/s, Product QEMU USB Tablet\n");
}

#[test]
fn reports_come_when_something_happens() {
    let bed = bed();
    bed.attach(Kind::Tablet, None);
    bed.attach(Kind::Keyboard, Some("2"));
    bed.start();
    bed.write(reg::PORT_2, 0);
    bed.configure(1);
    bed.write(reg::PORT_2, port::ENABLED);
    bed.configure(2);
    let _mouse = bed.router.register("mouse", Kinds::REL, None, Arc::new(Nobody));
    bed.router.choose_mouse(3).unwrap();
    assert!(!bed.router.is_absolute(None));
    assert_eq!(bed.poll(1), None);
    assert!(bed.router.is_absolute(None), "the host has asked");
    bed.write(reg::STATUS, status::CLEARED);
    assert!(!bed.interrupt());
    bed.router.send(
        None,
        &[
            InputEvent::Abs(Axis::X, 0x1234),
            InputEvent::Abs(Axis::Y, 0x7fff),
            InputEvent::Button(Button::Right, true),
        ],
    );
    bed.step(2);
    assert!(bed.interrupt());
    assert_eq!(bed.load(TRANSFERS + 4) & (ACTIVE | 0x7ff), 5, "six bytes");
    let mut report = [0; 6];
    bed.memory.read(DATA, &mut report);
    assert_eq!(report, [2, 0x34, 0x12, 0xff, 0x7f, 0]);
    assert_eq!(bed.poll(1), None);
    bed.router.send(None, &[InputEvent::Key(KeyCode::B, true)]);
    assert_eq!(bed.poll(2), Some(vec![0, 0, 5, 0, 0, 0, 0, 0]));
    let lights = bed.control(2, [0x21, 9, 0, 2, 0, 0, 1, 0], &[3]);
    assert_eq!(lights, Some(vec![]));
    assert!(bed.router.leds().num && bed.router.leds().caps);
}

#[test]
fn a_report_is_repeated_when_it_is_time() {
    let bed = bed();
    bed.attach(Kind::Keyboard, None);
    bed.start();
    bed.configure(1);
    assert_eq!(bed.poll(1), None);
    // Every 12 ms.
    assert_eq!(bed.control(1, [0x21, 10, 0, 3, 0, 0, 0, 0], &[]), Some(vec![]));
    assert_eq!(bed.poll(1), None);
    bed.step(20);
    assert_eq!(bed.poll(1), Some(vec![0; 8]));
    assert_eq!(bed.poll(1), None);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let bed = bed();
    bed.attach(Kind::Tablet, None);
    bed.start();
    bed.configure(1);
    for setup in [
        [0x80, 0x33, 0, 0, 0, 0, 4, 0],
        [0, 9, 2, 0, 0, 0, 0, 0],
        [0xa1, 3, 0, 0, 0, 0, 1, 0],
        [0x01, 11, 1, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(bed.control(1, setup, &[]), None, "{setup:02x?}");
        assert!(bed.read(reg::STATUS) & status::ERROR != 0);
    }
    assert_eq!(bed.control(1, [0x80, 0, 0, 0, 0, 0, 2, 0], &[]), Some(vec![0, 0]), "goes on");
    assert_eq!(bed.control(9, [0x80, 0, 0, 0, 0, 0, 2, 0], &[]), None, "nobody");
    assert_eq!(bed.load(TRANSFERS + 4) & (1 << 18 | 1 << 22 | 3 << 27), 1 << 18 | 1 << 22);
}

#[test]
fn devices_behind_a_hub_are_reached_once_their_port_is_enabled() {
    let bed = bed();
    bed.attach_hub();
    let mouse = bed.attach(Kind::Mouse, Some("1.3"));
    bed.start();
    bed.configure(1);
    assert_eq!(bed.get(1, 1, 0, 18).unwrap()[4], 9);
    let descriptor = bed.control(1, [0xa0, 6, 0, 0x29, 0, 0, 16, 0], &[]);
    assert_eq!(descriptor, Some(words("09 29 04 0a 00 01 00 00 ff")));
    let status = |port| bed.control(1, [0xa3, 0, 0, 0, port, 0, 4, 0], &[]).unwrap();
    let set = |feature, port| bed.control(1, [0x23, 3, feature, 0, port, 0, 0, 0], &[]);
    let clear = |feature, port| bed.control(1, [0x23, 1, feature, 0, port, 0, 0, 0], &[]);
    assert_eq!((status(1), status(3)), (vec![0, 1, 0, 0], vec![1, 1, 1, 0]));
    assert_eq!(bed.poll(1), Some(vec![1 << 3]));
    assert_eq!(bed.get(0, 1, 0, 8), None, "not enabled");
    assert_eq!(set(4, 3), Some(vec![]));
    assert_eq!(status(3), [3, 1, 0x11, 0]);
    assert_eq!((clear(16, 3), clear(20, 3)), (Some(vec![]), Some(vec![])));
    assert_eq!((status(3), bed.poll(1)), (vec![3, 1, 0, 0], None));
    bed.configure(2);
    assert_eq!(mouse.address(), 2);
    assert_eq!(bed.get(2, 1, 0, 18).unwrap()[15], 2);
    assert_eq!((set(4, 9), clear(99, 3)), (None, None));
    assert_eq!(bed.bus.detach(&mouse).len(), 1);
    assert_eq!(status(3), [0, 1, 3, 0]);
    assert_eq!(bed.get(2, 1, 0, 18), None);
}

#[test]
fn the_last_port_gets_a_hub() {
    let bed = bed();
    let ports: Vec<String> = (0..10).map(|_| bed.attach(Kind::Mouse, None).port.clone()).collect();
    let wanted = ["1", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7", "2.8.1", "2.8.2"];
    assert_eq!(ports, wanted);
    let hub = bed.bus.at_port("2").unwrap();
    assert_eq!(bed.bus.detach(&hub).len(), 11);
    assert_eq!(bed.attach(Kind::Mouse, Some("2")).port, "2");
    assert_eq!(bed.read(reg::PORT_2) & port::CONNECTED, port::CONNECTED);
}

#[test]
fn time_runs_and_the_controller_rests_when_nothing_comes() {
    let bed = bed();
    bed.attach(Kind::Tablet, None);
    bed.start();
    bed.step(10);
    assert_eq!(bed.read(reg::FRAME_NUMBER), 10);
    bed.step(100);
    assert_eq!(bed.read(reg::FRAME_NUMBER), 110);
    let now = bed.clocks.now_virtual();
    bed.step(1);
    let next = bed.clocks.next_virtual_deadline().unwrap();
    assert!(next - now > 2 * FRAME, "{next} {now}");
    bed.write(reg::COMMAND, 0);
    assert_eq!(bed.read(reg::STATUS) & status::HALTED, status::HALTED);
    assert_eq!(bed.clocks.next_virtual_deadline(), None);
    bed.step(5);
    assert_eq!(bed.read(reg::FRAME_NUMBER), 111);
}

#[test]
fn lists_without_an_end_end() {
    let bed = bed();
    bed.attach(Kind::Tablet, None);
    bed.start();
    // A queue that is its own successor, and a transfer that is.
    bed.store(QUEUE, &[QUEUE as u32 | 2, TERMINATE]);
    bed.step(3);
    bed.store(QUEUE, &[TRANSFERS as u32, TERMINATE]);
    bed.store(TRANSFERS, &[TRANSFERS as u32, 0, 0, 0]);
    bed.step(3);
    assert_eq!(bed.read(reg::STATUS) & (status::HALTED | status::PROCESS_ERROR), 0);
    // What is no packet stops everything.
    bed.store(TRANSFERS, &[TRANSFERS as u32, ACTIVE, 0x55, 0]);
    bed.step(2);
    assert_eq!(bed.read(reg::STATUS), status::HALTED | status::PROCESS_ERROR);
    assert!(bed.interrupt());
}

proptest! {
    /// Whatever drivers leave in memory and in registers, walking it ends, and a reset helps.
    #[test]
    fn any_schedule_is_survived(
        memory in prop::collection::vec((0u64..0x1800, any::<u32>()), 0..200),
        accesses in prop::collection::vec((0u64..0x20, any::<u16>(), 0u8..3), 0..40),
    ) {
        let bed = bed();
        bed.attach(Kind::Tablet, None);
        bed.attach_hub();
        bed.start();
        for (at, word) in memory {
            // Mostly links to places nearby, mostly transfers that are due.
            let word = if at % 3 == 0 { word & 0x7ff6 } else { word | ACTIVE };
            bed.store(at * 4 + 0x1000, &[word]);
        }
        for (register, value, size) in accesses {
            bed.io.write_uint(PORT + register, 1 << size, value.into());
            bed.write(reg::COMMAND, command::RUN);
            bed.step(2);
            bed.io.read_uint(PORT + register, 1 << size);
        }
        bed.pci.reset();
        bed.place();
        prop_assert_eq!(bed.read(reg::STATUS), status::HALTED);
        prop_assert_eq!(bed.clocks.next_virtual_deadline(), None);
    }
}
