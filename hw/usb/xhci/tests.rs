use base::input::{Axis, InputEvent, KeyCode, Router};
use base::interrupt::MsiMessage;
use base::memory::{AddressSpace, RamBlock};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::events::code;
use super::ring::{TRB, flag, kind};
use super::*;
use crate::pci::rom::tests::PlainFiles;
use crate::pci::{devfn, reg as pci_reg};
use crate::usb::bus::Newcomer;
use crate::usb::device::Bell;
use crate::usb::hid::{self, Kind};
use crate::usb::hub::{self, Hub};

const BAR: u64 = 0xfe00_0000;
const OP: u64 = BAR + part::OPERATIONAL;
const RAM: u64 = 0x4_0000;

/// Where the driver keeps things.
const COMMANDS: u64 = 0x1000;
const EVENTS: u64 = 0x2000;
const EVENT_BLOCKS: u64 = 64;
const SEGMENTS: u64 = 0x2800;
const CONTEXT_TABLE: u64 = 0x3000;
const CONTEXTS: u64 = 0x4000;
const INPUT: u64 = 0x5000;
const CONTROL_RING: u64 = 0x6000;
const INTERRUPT_RING: u64 = 0x7000;
const DATA: u64 = 0x8000;

#[derive(Default)]
struct Messages(Mutex<Vec<MsiMessage>>);

impl MsiSink for Messages {
    fn send(&self, message: MsiMessage) {
        self.0.lock().push(message);
    }
}

struct Bed {
    memory: AddressSpace,
    pci: Arc<PciBus>,
    bus: Arc<UsbBus>,
    clocks: Clocks,
    router: Arc<Router>,
    messages: Arc<Messages>,
    /// How far the driver has come: commands, events, transfers of the two rings.
    at: std::cell::RefCell<[u64; 4]>,
}

fn bed() -> Bed {
    let root = Region::container("system", 1 << 64);
    root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", RAM).unwrap())), 0, 0);
    let memory = AddressSpace::new("memory", root.clone());
    let ports = Region::container("io", 1 << 16);
    let files = Box::<PlainFiles>::default();
    let pci = PciBus::new(root, ports, memory.clone(), |_, _| 0, Vec::new(), files);
    let clocks = Clocks::new();
    clocks.step_by_hand();
    let router = Router::new(&clocks);
    router.set_running(true);
    let buses = Arc::<UsbBuses>::default();
    let messages = Arc::<Messages>::default();
    let msi = messages.clone();
    let seat = Seat { pci: &pci, id: Some("x".into()), msi, buses: &buses, clocks: &clocks };
    plug(seat, &XhciProps::default()).unwrap();
    let bus = buses.find("x.0").unwrap();
    let bed = Bed { memory, pci, bus, clocks, router, messages, at: Default::default() };
    bed.place();
    bed
}

impl Bed {
    fn place(&self) {
        let function = self.pci.function(devfn(0, 0)).unwrap();
        function.config_write(pci_reg::BAR0, 4, BAR as u32);
        function.config_write(pci_reg::COMMAND, 2, 6);
    }

    fn read(&self, at: u64) -> u32 {
        self.memory.read_uint(at, 4) as u32
    }

    fn write(&self, at: u64, value: u64) {
        self.memory.write_uint(at, 4, value & 0xffff_ffff);
    }

    fn store(&self, at: u64, words: &[u32]) {
        (0..)
            .zip(words)
            .for_each(|(n, word)| self.memory.write_uint(at + 4 * n, 4, (*word).into()));
    }

    fn interrupt(&self) -> bool {
        let function = self.pci.function(devfn(0, 0)).unwrap();
        function.config_read(pci_reg::STATUS, 2) as u16 & pci_reg::STATUS_INTERRUPT != 0
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

    fn attach_hub(&self) {
        let (hub, bell) = Hub::create(4);
        let newcomer = Newcomer {
            function: Box::new(hub),
            type_name: hub::TYPE,
            id: None,
            port: None,
            serial: None,
            serial_start: "",
            fastest: Speed::High,
            bell,
        };
        self.bus.attach(newcomer).unwrap();
    }

    /// Sets the rings up and starts the controller.
    fn start(&self) {
        self.write(OP + operational::CONFIGURE, 8);
        self.write(OP + operational::CONTEXTS_LOW, CONTEXT_TABLE);
        self.write(OP + operational::COMMAND_RING_LOW, COMMANDS | 1);
        self.store(SEGMENTS, &[EVENTS as u32, 0, EVENT_BLOCKS as u32, 0]);
        let interrupter = BAR + part::INTERRUPTERS;
        self.write(interrupter + 8, 1);
        self.write(interrupter + 0x18, EVENTS);
        self.write(interrupter + 0x10, SEGMENTS);
        self.write(interrupter + 0x14, 0);
        self.write(interrupter, 2);
        self.write(OP, (command::RUN | command::INTERRUPTS).into());
    }

    /// Has interrupts come as messages.
    fn use_messages(&self) {
        let function = self.pci.function(devfn(0, 0)).unwrap();
        function.config_write(0x92, 2, 0x8000);
        self.store(BAR + part::MSIX, &[0xfee0_0000, 0, 0x41, 0]);
    }

    /// The next event: its type, its code, its parameter and what follows.
    fn event(&self) -> Option<(u8, u8, u64, u32)> {
        let mut at = self.at.borrow_mut();
        let (place, round) = (at[1] % EVENT_BLOCKS, at[1] / EVENT_BLOCKS);
        let block = EVENTS + TRB * place;
        let control = self.read(block + 12);
        if u64::from(control & 1) == round % 2 {
            return None;
        }
        at[1] += 1;
        self.write(BAR + part::INTERRUPTERS + 0x18, EVENTS + TRB * (at[1] % EVENT_BLOCKS) | 8);
        let status = self.read(block + 8);
        let parameter = self.memory.read_uint(block, 8);
        Some(((control >> 10) as u8 & 0x3f, (status >> 24) as u8, parameter, status & 0xff_ffff))
    }

    fn events(&self) -> Vec<(u8, u8)> {
        std::iter::from_fn(|| self.event().map(|(kind, code, ..)| (kind, code))).collect()
    }

    /// Gives a command; returns its completion code.
    fn command(&self, command: u8, parameter: u64, slot: u32, rest: u32) -> u8 {
        let place = COMMANDS + TRB * self.at.borrow()[0];
        self.at.borrow_mut()[0] += 1;
        let control = u32::from(command) << 10 | slot << 24 | rest | flag::CYCLE;
        self.store(place, &[parameter as u32, (parameter >> 32) as u32, 0, control]);
        self.write(BAR + part::DOORBELLS, 0);
        while let Some((event, code, parameter, _)) = self.event() {
            if event == kind::COMMAND_COMPLETION {
                assert_eq!(parameter, place);
                return code;
            }
        }
        0
    }

    /// Addresses the device at a root port's register, by a route.
    fn address(&self, port: u32, route: u32) -> u8 {
        assert_eq!(self.command(kind::ENABLE_SLOT, 0, 0, 0), code::SUCCESS);
        self.memory.write_uint(CONTEXT_TABLE + 8, 8, CONTEXTS);
        self.store(INPUT, &[0, 3, 0, 0, 0, 0, 0, 0]);
        self.store(INPUT + 32, &[1 << 27 | route, port << 16, 0, 0, 0, 0, 0, 0]);
        self.store(INPUT + 64, &[0, 4 << 3 | 64 << 16, CONTROL_RING as u32 | 1, 0, 8, 0, 0, 0]);
        self.command(kind::ADDRESS_DEVICE, INPUT, 1, 0)
    }

    /// Puts blocks on a ring: parameter, length, type and flags.
    fn put(&self, ring: u64, blocks: &[(u64, u32, u32)]) {
        let n = if ring == CONTROL_RING { 2 } else { 3 };
        for &(parameter, len, control) in blocks {
            let place = ring + TRB * self.at.borrow()[n];
            self.at.borrow_mut()[n] += 1;
            let words = [parameter as u32, (parameter >> 32) as u32, len, control | flag::CYCLE];
            self.store(place, &words);
        }
    }

    /// A request at endpoint 0: the completion code of its last stage, and what was read.
    fn control(&self, setup: [u8; 8]) -> (u8, Vec<u8>) {
        let len = u32::from(u16::from_le_bytes([setup[6], setup[7]]));
        let (direction, opposite) =
            if setup[0] & 0x80 != 0 { (flag::IN, 0) } else { (0, flag::IN) };
        let block = |kind: u8| u32::from(kind) << 10;
        let mut blocks = vec![(u64::from_le_bytes(setup), 8, block(kind::SETUP) | flag::IMMEDIATE)];
        if len > 0 {
            let data = block(kind::DATA) | direction | flag::INTERRUPT_ON_SHORT;
            blocks.push((DATA, len, data));
        }
        let back = if len > 0 { opposite } else { flag::IN };
        blocks.push((0, 0, block(kind::STATUS) | back | flag::INTERRUPT_ON_COMPLETION));
        self.put(CONTROL_RING, &blocks);
        self.write(BAR + part::DOORBELLS + 4, 1);
        let (mut last, mut missing) = (0, 0);
        while let Some((kind, code, _, rest)) = self.event() {
            assert_eq!(kind, kind::TRANSFER_EVENT);
            last = code;
            if code == code::SHORT_PACKET {
                missing = rest;
            }
        }
        let mut bytes = vec![0; (len - missing) as usize];
        self.memory.read(DATA, &mut bytes);
        (last, bytes)
    }

    /// Makes endpoint 1 towards the host ready.
    fn configure(&self) {
        assert_eq!(self.control([0, 9, 1, 0, 0, 0, 0, 0]).0, code::SUCCESS);
        self.store(INPUT, &[0, 1 | 1 << 3, 0, 0, 0, 0, 0, 0]);
        self.store(INPUT + 32, &[3 << 27, 0, 0, 0, 0, 0, 0, 0]);
        self.store(INPUT + 128, &[0, 7 << 3 | 8 << 16, INTERRUPT_RING as u32 | 1, 0, 8, 0, 0, 0]);
        assert_eq!(self.command(kind::CONFIGURE_ENDPOINT, INPUT, 1, 0), code::SUCCESS);
    }

    /// Asks endpoint 1 for a report.
    fn ask(&self) {
        let control = u32::from(kind::NORMAL) << 10 | flag::INTERRUPT_ON_COMPLETION;
        self.put(INTERRUPT_RING, &[(DATA, 8, control | flag::INTERRUPT_ON_SHORT)]);
        self.write(BAR + part::DOORBELLS + 4, 3);
    }
}

/// Recorded from QEMU 10.0.2, with `streams=off`.
#[test]
fn registers_after_reset() {
    let bed = bed();
    bed.attach(Kind::Tablet, None);
    bed.attach_hub();
    let at = |offset| bed.read(BAR + offset);
    let head: Vec<u32> = (0..0x40).step_by(4).map(at).collect();
    assert_eq!(
        head,
        [
            0x0100_0040,
            0x0800_1040,
            0xf,
            0,
            0x0008_0001,
            0x2000,
            0x1000,
            0,
            0x0200_0402,
            0x2042_5355,
            0x405,
            0,
            0x0300_0002,
            0x2042_5355,
            0x401,
            0,
        ]
    );
    assert_eq!([0, 4, 8, 0x38].map(|offset| bed.read(OP + offset)), [0, 1, 1, 0]);
    let port = |n: u64| bed.read(BAR + part::PORTS + 16 * n);
    assert_eq!([0, 3, 4, 5, 6].map(port), [0x202a0, 0x202a0, 0x20ee1, 0x206e1, 0x202a0]);
    let function = bed.pci.function(devfn(0, 0)).unwrap();
    let config = |at| function.config_read(at, 4);
    assert_eq!([0, 8, 0x34, 0x60].map(config), [0x000d_1b36, 0x0c03_3001, 0x90, 0x30]);
    assert_eq!([0x90, 0x94, 0x98].map(config), [0x000f_0011, 0x3000, 0x3800]);
    assert_eq!(bed.read(BAR + part::MSIX + 12), 1, "masked");
}

/// As QEMU 10.0.2 does it.
#[test]
fn ports_are_reset_and_suspended() {
    let bed = bed();
    bed.attach(Kind::Tablet, None);
    let port = BAR + part::PORTS + 16 * 4;
    for (written, read) in [
        (0x2_0200, 0x0000_0ee1),
        (0x0_0210, 0x0020_0e03),
        (0x20_0200, 0x0000_0e03),
        (0x1_0260, 0x0000_0e63),
        (0x1_0200, 0x0040_0e03),
        (0x40_0200, 0x0000_0e03),
        (0x1_03e0, 0x0000_0e03),
        (0, 0x0000_0c03),
        (0x8000_0210, 0x0020_0e03_u32 & !0x200),
    ] {
        bed.write(port, written);
        let now = bed.read(port);
        assert_eq!(now | 0x200, read | 0x200, "{written:x}: {now:x}");
    }
}

#[test]
fn a_tablet_is_addressed_and_reports() {
    let bed = bed();
    bed.start();
    bed.attach(Kind::Tablet, None);
    assert_eq!(bed.events(), [(kind::PORT_CHANGE, code::SUCCESS)]);
    assert!(bed.interrupt());
    bed.write(BAR + part::PORTS + 16 * 4, 0x210);
    assert_eq!(bed.address(5, 0), code::SUCCESS);
    assert_eq!(bed.read(CONTEXTS + 12), 2 << 27 | 1, "addressed, as 1");
    let (code, descriptor) = bed.control([0x80, 6, 0, 1, 0, 0, 64, 0]);
    assert_eq!((code, descriptor.len(), descriptor[7]), (code::SUCCESS, 18, 64));
    bed.configure();
    assert_eq!(bed.read(CONTEXTS + 12) >> 27, 3, "configured");
    bed.ask();
    assert!(bed.events().is_empty(), "nothing to say");
    bed.router.send(None, &[InputEvent::Abs(Axis::Y, 0x0102)]);
    assert!(bed.events().is_empty(), "not at once");
    bed.clocks.step_to(1);
    assert_eq!(bed.events(), [(kind::TRANSFER_EVENT, code::SHORT_PACKET)]);
    let mut report = [0; 6];
    bed.memory.read(DATA, &mut report);
    assert_eq!(report, [0, 0, 0, 2, 1, 0]);
    assert_eq!(bed.clocks.next_virtual_deadline(), None, "nothing to do");
}

#[test]
fn a_device_behind_a_hub_is_reached_by_its_route() {
    let bed = bed();
    bed.start();
    bed.attach_hub();
    bed.attach(Kind::Keyboard, Some("1.2"));
    bed.events();
    assert_eq!(bed.address(5, 7), code::TRANSACTION, "nobody at port 7");
    assert_eq!(bed.command(kind::DISABLE_SLOT, 0, 1, 0), code::SUCCESS);
    assert_eq!(bed.address(5, 2), code::SUCCESS);
    assert_eq!(bed.control([0x80, 6, 0, 1, 0, 0, 18, 0]).1[15], 4, "a keyboard");
    bed.configure();
    bed.ask();
    bed.router.send(None, &[InputEvent::Key(KeyCode::C, true)]);
    bed.clocks.step_to(1);
    assert_eq!(bed.events(), [(kind::TRANSFER_EVENT, code::SUCCESS)]);
    assert_eq!(bed.memory.read_uint(DATA, 8), 6 << 16);
    bed.ask();
    let keyboard = bed.bus.at_port("1.2").unwrap();
    bed.bus.detach(&keyboard);
    let key = [InputEvent::Key(KeyCode::C, true)];
    assert!(bed.router.check(None, &key).is_err(), "it takes no keys any more");
    bed.clocks.step_to(2);
    assert_eq!(bed.events(), [(kind::TRANSFER_EVENT, code::TRANSACTION)]);
}

#[test]
fn an_endpoint_that_halted_is_set_going_again() {
    let bed = bed();
    bed.start();
    bed.attach(Kind::Mouse, None);
    bed.events();
    assert_eq!(bed.address(5, 0), code::SUCCESS);
    assert_eq!(bed.control([0x80, 6, 0, 0x77, 0, 0, 8, 0]).0, code::STALL);
    assert_eq!(bed.read(CONTEXTS + 32) & 7, 2, "halted");
    let go_on = CONTROL_RING + TRB * bed.at.borrow()[2] | 1;
    let set = |pointer| bed.command(kind::SET_DEQUEUE, pointer, 1, 1 << 16);
    assert_eq!(set(go_on), code::CONTEXT_STATE);
    assert_eq!(bed.command(kind::RESET_ENDPOINT, 0, 1, 1 << 16), code::SUCCESS);
    assert_eq!(set(go_on), code::SUCCESS);
    assert_eq!(bed.read(CONTEXTS + 40), go_on as u32);
    // The doorbell alone starts a stopped endpoint again.
    assert_eq!(bed.control([0x80, 6, 0, 1, 0, 0, 18, 0]).0, code::SUCCESS);
    bed.configure();
    bed.ask();
    assert_eq!(bed.events(), []);
    assert_eq!(bed.command(kind::STOP_ENDPOINT, 0, 1, 3 << 16), code::SUCCESS);
    assert_eq!(bed.read(CONTEXTS + 96) & 7, 3, "stopped");
    assert_eq!(bed.command(kind::STOP_ENDPOINT, 0, 1, 3 << 16), code::CONTEXT_STATE);
    assert_eq!(bed.command(kind::RESET_DEVICE, 0, 1, 0), code::SUCCESS);
    assert_eq!(bed.command(kind::STOP_ENDPOINT, 0, 1, 3 << 16), code::ENDPOINT_NOT_ENABLED);
}

#[test]
fn commands_that_make_no_sense_are_refused() {
    let bed = bed();
    bed.start();
    for (command, slot, wanted) in [
        (kind::NO_OP_COMMAND, 0, code::SUCCESS),
        (kind::DISABLE_SLOT, 1, code::SLOT_NOT_ENABLED),
        (kind::ADDRESS_DEVICE, 200, code::SLOT_NOT_ENABLED),
        (kind::ENABLE_SLOT, 0, code::SUCCESS),
        (kind::CONFIGURE_ENDPOINT, 1, code::CONTEXT_STATE),
        (kind::ADDRESS_DEVICE, 1, code::TRB),
        (kind::NEC_FIRMWARE, 0, code::TRB),
        (63, 0, code::TRB),
    ] {
        assert_eq!(bed.command(command, 0x1_0000, slot, 0), wanted, "{command}");
    }
    (1..64).for_each(|_| assert_eq!(bed.command(kind::ENABLE_SLOT, 0, 0, 0), code::SUCCESS));
    assert_eq!(bed.command(kind::ENABLE_SLOT, 0, 0, 0), code::NO_SLOTS);
}

#[test]
fn messages_go_by_the_table() {
    let bed = bed();
    bed.start();
    bed.use_messages();
    assert_eq!(bed.command(kind::NO_OP_COMMAND, 0, 0, 0), code::SUCCESS);
    assert_eq!(*bed.messages.0.lock(), [MsiMessage { address: 0xfee0_0000, data: 0x41 }]);
    assert!(!bed.interrupt());
}

/// The driver has looked at the ring for the last time, something comes, and only then does it say that
/// it is done: nobody else would tell it.
#[test]
fn what_comes_as_the_driver_leaves_is_told_of() {
    let bed = bed();
    bed.start();
    bed.use_messages();
    let count = || bed.messages.0.lock().len();
    for n in 0..2 {
        let control = u32::from(kind::NO_OP_COMMAND) << 10 | flag::CYCLE;
        bed.store(COMMANDS + TRB * n, &[0, 0, 0, control]);
        bed.write(BAR + part::DOORBELLS, 0);
    }
    assert_eq!(count(), 1, "the driver is at it");
    assert!(bed.event().is_some());
    assert_eq!(count(), 2, "there is more");
    assert!(bed.event().is_some());
    assert_eq!(count(), 2);
    assert!(bed.event().is_none());
}

#[test]
fn a_full_event_ring_says_so() {
    let bed = bed();
    bed.start();
    // The driver reads nothing.
    for n in 0..EVENT_BLOCKS + 8 {
        let control = u32::from(kind::NO_OP_COMMAND) << 10 | flag::CYCLE;
        bed.store(COMMANDS + TRB * n, &[0, 0, 0, control]);
    }
    bed.write(BAR + part::DOORBELLS, 0);
    let last = EVENTS + TRB * (EVENT_BLOCKS - 2);
    assert_eq!(bed.read(last + 8) >> 24, u32::from(code::EVENT_RING_FULL));
    assert_eq!(bed.read(last + TRB + 12), 0, "one stays free");
    assert_eq!(bed.read(OP + 4) & status::HOST_ERROR, 0);
}

#[test]
fn rings_without_an_end_stop_the_controller() {
    let bed = bed();
    bed.start();
    let link = u32::from(kind::LINK) << 10 | flag::CYCLE;
    bed.store(COMMANDS, &[COMMANDS as u32, 0, 0, link]);
    bed.write(BAR + part::DOORBELLS, 0);
    assert_eq!(bed.read(OP + 4) & (status::HOST_ERROR | status::HALTED), 0x1001);
    bed.write(OP, command::RESET.into());
    assert_eq!(bed.read(OP + 4), status::HALTED);
}

proptest! {
    /// Whatever drivers leave in memory and in registers, nothing is hung, and a reset helps.
    #[test]
    fn any_driver_is_survived(
        memory in prop::collection::vec((0u64..0x7000, any::<u32>(), 0u8..40), 0..200),
        accesses in prop::collection::vec((0u64..0x1000, any::<u32>(), any::<bool>()), 0..60),
    ) {
        let bed = bed();
        bed.attach(Kind::Tablet, None);
        bed.attach_hub();
        bed.attach(Kind::Keyboard, Some("2.1"));
        bed.start();
        let _ = bed.address(5, 0);
        for (at, word, kind) in memory {
            let at = 0x1000 + at & !3;
            // Control words of blocks mostly make sense, pointers mostly point to memory.
            let word = match at & 0xc {
                0 => word & 0x3_fff0,
                12 => word & 0xff00_03ff | u32::from(kind) << 10 | flag::CYCLE | 1 << 24,
                _ => word,
            };
            bed.store(at, &[word]);
        }
        for (place, value, bell) in accesses {
            match bell {
                true => bed.write(BAR + part::DOORBELLS + 4 * (place % 4), u64::from(value % 32)),
                false => bed.write(BAR + 4 * place % 0x3000, value.into()),
            }
            bed.router.send(None, &[InputEvent::Key(KeyCode::A, value & 1 == 0)]);
            bed.clocks.step_to(bed.clocks.now_virtual() + 1000);
            bed.read(BAR + 4 * place % 0x3000);
        }
        bed.pci.reset();
        bed.place();
        prop_assert_eq!(bed.read(OP + 4), status::HALTED);
        prop_assert_eq!(bed.clocks.next_virtual_deadline(), None);
    }
}
