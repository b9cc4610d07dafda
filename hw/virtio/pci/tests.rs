use base::interrupt::MsiMessage;
use base::irq::{FnSink, IrqLine};
use base::memory::{AddressSpace, RamBlock};
use base::props::{OnOffAuto, PropInput, Props};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::pci::rom::tests::PlainFiles;
use crate::virtio::features;

const BAR4: u64 = 0xfe80_0000;
const MSIX_TABLE: u64 = 0xfe00_0000;
const PORTS: u64 = 0xc000;
const KIND: Kind = Kind { id: 2, transitional: 0x1001, class: 0x01_0000, rom: None };

#[derive(Default)]
struct Messages(Mutex<Vec<u32>>);

impl MsiSink for Messages {
    fn send(&self, message: MsiMessage) {
        self.0.lock().push(message.data);
    }
}

#[derive(Props)]
struct EchoProps {
    #[prop(flatten)]
    pci: VirtioPciProps,
    #[prop(flatten)]
    queues: QueueProps,
}

/// A device that returns each chain as it is, at once.
struct Echo {
    activated: Arc<Mutex<Vec<u64>>>,
    config: [u8; 8],
}

impl Model for Echo {
    fn features(&self, common: u64) -> u64 {
        common | 1 << 9
    }
    fn config(&self) -> Vec<u8> {
        self.config.into()
    }
    fn write_config(&mut self, at: usize, bytes: &[u8]) {
        self.config[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn activate(&mut self, features: u64) {
        self.activated.lock().push(features);
    }
    fn reset(&mut self) {}
}

pub(crate) struct Bed {
    pub memory: AddressSpace,
    pub ports: AddressSpace,
    pub function: Arc<PciFunction>,
    messages: Arc<Messages>,
    pin: Arc<Mutex<bool>>,
    activated: Arc<Mutex<Vec<u64>>>,
    _bus: Arc<PciBus>,
}

impl Bed {
    fn new(interfaces: Interfaces, props: &EchoProps) -> Result<Self, VirtioPciError> {
        let root = Region::container("memory", 1 << 64);
        root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", 0x10_0000).unwrap())), 0, 0);
        let memory = AddressSpace::new("memory", root.clone());
        let io = Region::container("io", 1 << 16);
        let ports = AddressSpace::with_unassigned("io", io.clone(), 0xff);
        let pin = Arc::new(Mutex::new(false));
        let shown = pin.clone();
        let line = IrqLine::new(Arc::new(FnSink(move |_, level| *shown.lock() = level)), 0);
        let files = Box::<PlainFiles>::default();
        let bus = PciBus::new(root, io, memory.clone(), |_, _| 0, vec![line], files);
        let (messages, activated) = (Arc::<Messages>::default(), Arc::<Mutex<_>>::default());
        let shape = Shape { queue_sizes: vec![256], config_len: 8 };
        let place = Place {
            type_name: "virtio-echo-pci",
            interfaces,
            class: 0,
            vectors: props.queues.vectors,
            props: &props.pci,
            beside: None,
        };
        let seen = activated.clone();
        let function = VirtioPci::plug(&bus, &KIND, place, &shape, messages.clone(), |wiring| {
            for queue in &wiring.queues {
                let me = Arc::downgrade(queue);
                queue.on_kick(move || {
                    let queue = me.upgrade().unwrap();
                    queue.serve(|chain| queue.push(chain, 5));
                });
            }
            Box::new(Echo { activated: seen, config: *b"abcdefgh" })
        })?;
        let bed = Bed { memory, ports, function, messages, pin, activated, _bus: bus };
        bed.place();
        Ok(bed)
    }

    fn place(&self) {
        for (at, value) in
            [(0x10, PORTS as u32), (0x14, MSIX_TABLE as u32), (0x20, BAR4 as u32), (4, 7)]
        {
            self.function.config_write(at, 4, value);
        }
    }

    fn modern() -> Self {
        Self::new(Interfaces::TRANSITIONAL, &EchoProps::default()).unwrap()
    }

    fn read(&self, offset: u64, size: u8) -> u64 {
        self.memory.read_uint(BAR4 + offset, size)
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        self.memory.write_uint(BAR4 + offset, size, value);
    }

    fn input(&self, offset: u64, size: u8) -> u64 {
        self.ports.read_uint(PORTS + offset, size)
    }

    fn output(&self, offset: u64, size: u8, value: u64) {
        self.ports.write_uint(PORTS + offset, size, value);
    }

    fn status(&self) -> u64 {
        self.read(20, 1)
    }

    /// Up to DRIVER_OK, with a queue at 0x1000, 0x2000 and 0x3000.
    fn start(&self) {
        for status in [1, 3] {
            self.write(20, 1, status);
        }
        self.write(8, 4, 1);
        self.write(12, 4, features::VERSION_1 >> 32);
        self.write(20, 1, 0xb);
        assert_eq!(self.status(), 0xb);
        for (at, value) in [(32, 0x1000), (40, 0x2000), (48, 0x3000)] {
            self.write(at, 4, value);
        }
        self.write(28, 2, 1);
        self.write(20, 1, 0xf);
    }

    /// Makes one buffer available and says so at `place`.
    fn offer(&self) {
        let index = self.memory.read_uint(0x2002, 2);
        self.memory.write_uint(0x1000, 8, 0x8000);
        self.memory.write_uint(0x1008, 4, 0x10);
        self.memory.write_uint(0x100c, 4, 2);
        self.memory.write_uint(0x2004 + 2 * (index % 256), 2, 0);
        self.memory.write_uint(0x2002, 2, index + 1);
    }

    fn used(&self) -> u64 {
        self.memory.read_uint(0x3002, 2)
    }
}

fn props(settings: &[(&str, &str)]) -> EchoProps {
    let mut props = EchoProps::default();
    for (name, value) in settings {
        props.set("t", name, PropInput::Text(value)).unwrap();
    }
    props
}

fn configuration(interfaces: Interfaces, settings: &[(&str, &str)]) -> Vec<u8> {
    let bed = Bed::new(interfaces, &props(settings)).unwrap();
    for at in [4, 0x10, 0x14, 0x18, 0x20] {
        bed.function.config_write(at, 4, 0);
    }
    (0..0xb0).map(|at| bed.function.config_read(at, 1) as u8).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// Read from QEMU 10.0.2's virtio-blk.
#[test]
fn configuration_space_is_qemus() {
    let both = configuration(Interfaces::TRANSITIONAL, &[]);
    let expected = bytes(
        "f4 1a 01 10 00 00 10 00 00 00 00 01 00 00 00 00
         01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
         0c 00 00 00 00 00 00 00 00 00 00 00 f4 1a 02 00
         00 00 00 00 98 00 00 00 00 00 00 00 00 01 00 00
         09 00 10 01 04 00 00 00 00 00 00 00 00 10 00 00
         09 40 10 03 04 00 00 00 00 10 00 00 00 10 00 00
         09 50 10 04 04 00 00 00 00 20 00 00 00 10 00 00
         09 60 14 02 04 00 00 00 00 30 00 00 00 10 00 00
         04 00 00 00 09 70 14 05 00 00 00 00 00 00 00 00
         00 00 00 00 00 00 00 00 11 84 01 00 01 00 00 00
         01 08 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
    );
    assert_eq!(both, expected);
    let modern = configuration(Interfaces::NON_TRANSITIONAL, &[]);
    let mut expected = expected;
    for (at, byte) in [(2, 0x42), (8, 1), (0x10, 0), (0x2e, 0), (0x2f, 0x11)] {
        expected[at] = byte;
    }
    assert_eq!(modern, expected);
    let legacy = configuration(Interfaces { legacy: true, modern: false }, &[]);
    assert_eq!(
        legacy[0x20..0x50],
        bytes(
            "00 00 00 00 00 00 00 00 00 00 00 00 f4 1a 02 00
         00 00 00 00 40 00 00 00 00 00 00 00 00 01 00 00
         11 00 01 00 01 00 00 00 01 08 00 00 00 00 00 00",
        )
    );
    let settings = [("modern-pio-notify", "on"), ("page-per-vq", "on"), ("vectors", "0")];
    let port = configuration(Interfaces::TRANSITIONAL, &settings);
    assert_eq!(
        port[0x70..0xa0],
        bytes(
            "09 60 14 02 04 00 00 00 00 30 00 00 00 00 40 00
         00 10 00 00 09 70 14 02 02 00 00 00 00 00 00 00
         04 00 00 00 00 00 00 00 09 84 14 05 00 00 00 00",
        )
    );
}

#[test]
fn sizes_of_bars_are_qemus() {
    let sizes = |settings: &[(&str, &str)]| {
        let bed = Bed::new(Interfaces::TRANSITIONAL, &props(settings)).unwrap();
        [0x10, 0x14, 0x18, 0x20].map(|at| {
            bed.function.config_write(at, 4, !0);
            bed.function.config_read(at, 4)
        })
    };
    assert_eq!(sizes(&[]), [0xffff_ffe1, 0xffff_f000, 0, 0xffff_c00c]);
    let settings = [("modern-pio-notify", "on"), ("page-per-vq", "on"), ("vectors", "300")];
    assert_eq!(sizes(&settings), [0xffff_ffe1, 0xffff_e000, 0xffff_fffd, 0xff80_000c]);
}

#[test]
fn what_can_not_be_is_refused() {
    let refusal = |interfaces, settings: &[(&str, &str)]| {
        Bed::new(interfaces, &props(settings)).err().map(|error| error.to_string())
    };
    assert_eq!(
        refusal(Interfaces { legacy: false, modern: false }, &[]).as_deref(),
        Some(
            "device cannot work as neither modern nor legacy mode is enabled\n\
             Set either disable-modern or disable-legacy to off"
        )
    );
    assert_eq!(
        refusal(Interfaces::TRANSITIONAL, &[("iommu_platform", "on")]).as_deref(),
        Some("VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor transitional device")
    );
    assert!(refusal(Interfaces::NON_TRANSITIONAL, &[("iommu_platform", "on")]).is_some());
    let both = InterfaceProps { disable_legacy: OnOffAuto::On, disable_modern: true };
    assert_eq!(both.interfaces(), Interfaces { legacy: false, modern: false });
    assert_eq!(InterfaceProps::default().interfaces(), Interfaces::TRANSITIONAL);
}

#[test]
fn features_are_offered_by_halves_and_by_interface() {
    let bed = Bed::new(Interfaces::TRANSITIONAL, &props(&[("packed", "on")])).unwrap();
    let halves = [0, 1, 2].map(|select| {
        bed.write(0, 4, select);
        bed.read(4, 4)
    });
    assert_eq!(halves, [0x3000_0200, 0x105, 0]);
    assert_eq!(bed.input(0, 4), 0x7900_0200);
    bed.write(8, 4, 0);
    bed.write(12, 4, 0xffff_ffff);
    assert_eq!(bed.read(12, 4), 0xffff_ffff, "as it was written");
    assert_eq!(bed.input(4, 4), 0x7900_0200, "as it was accepted");
    bed.output(4, 4, 0xffff_ffff);
    assert_eq!(bed.input(4, 4), 0, "who takes everything has not looked");
}

#[test]
fn a_driver_of_version_1_starts_the_device_and_its_buffers_come_back() {
    let bed = Bed::modern();
    bed.offer();
    bed.write(0x3000, 2, 0);
    assert_eq!(bed.used(), 0, "not before the driver is ready");
    bed.start();
    assert_eq!(*bed.activated.lock(), [features::VERSION_1]);
    assert_eq!(bed.used(), 1, "what was there before is looked at");
    assert!(*bed.pin.lock());
    assert_eq!(bed.read(0x1000, 1), 1);
    assert!(!*bed.pin.lock(), "reading is the acknowledgement");
    assert_eq!(bed.read(0x1000, 1), 0);
    bed.offer();
    bed.write(0x3000, 2, 0);
    assert_eq!((bed.used(), bed.memory.read_uint(0x300c + 4, 4)), (2, 5));
    bed.write(20, 1, 0);
    assert_eq!((bed.status(), bed.read(28, 2), *bed.pin.lock()), (0, 0, false));
}

#[test]
fn messages_replace_the_pin() {
    let bed = Bed::modern();
    for (at, value) in
        [(0x10, 0xfee0_0000), (0x18, 0x42), (0x1c, 0), (0, 0xfee0_0000), (8, 0x41), (12, 0)]
    {
        bed.memory.write_uint(MSIX_TABLE + at, 4, value);
    }
    bed.function.config_write(0x9a, 2, 0x8000);
    for (vector, seen) in [(2, 0xffff), (0, 0)] {
        bed.write(16, 2, vector);
        assert_eq!(bed.read(16, 2), seen);
    }
    bed.write(26, 2, 1);
    bed.start();
    bed.offer();
    bed.write(0x3000, 2, 0);
    assert_eq!(*bed.messages.0.lock(), [0x42]);
    // A ring that breaks the rules needs a reset, and the driver is told by the other vector.
    bed.memory.write_uint(0x2002, 2, 0x7777);
    bed.write(0x3000, 2, 0);
    assert_eq!(bed.status(), 0x4f);
    assert_eq!(*bed.messages.0.lock(), [0x42, 0x41]);
    assert!(!*bed.pin.lock());
    bed.write(20, 1, 0);
    assert_eq!((bed.status(), bed.read(26, 2)), (0, 0xffff));
}

#[test]
fn legacy_registers() {
    let bed = Bed::modern();
    assert_eq!(bed.input(12, 2), 256);
    assert_eq!([20, 24, 27, 28].map(|at| bed.input(at, 1)), [0x61, 0x65, 0x68, 0xff]);
    bed.output(21, 1, 0x21);
    assert_eq!(bed.read(0x2000, 4), u64::from(u32::from_le_bytes(*b"a!cd")));
    bed.output(18, 1, 3);
    bed.output(8, 4, 0x1);
    assert_eq!(bed.input(8, 4), 1);
    // The rings follow the descriptors: 256 of these, and then to the next page.
    bed.memory.write_uint(0x1000, 8, 0x8000);
    bed.memory.write_uint(0x1008, 4, 0x10);
    bed.memory.write_uint(0x100c, 4, 2);
    bed.memory.write_uint(0x2002, 2, 1);
    bed.output(16, 2, 0);
    assert_eq!(bed.used(), 1, "even though it has not said that it is ready");
    assert_eq!((bed.input(19, 1), bed.input(19, 1)), (1, 0));
    bed.function.config_write(0x9a, 2, 0x8000);
    assert_eq!([20, 22].map(|at| bed.input(at, 2)), [0xffff; 2]);
    assert_eq!(bed.input(24, 1), 0x61, "configuration has moved");
    bed.output(8, 4, 0);
    assert_eq!((bed.input(18, 1), bed.input(8, 4)), (0, 0));
}

#[test]
fn a_window_in_configuration_space() {
    let bed = Bed::modern();
    let set = |bar: u32, offset: u32, len: u32| {
        bed.function.config_write(0x88, 1, bar);
        bed.function.config_write(0x8c, 4, offset);
        bed.function.config_write(0x90, 4, len);
    };
    set(4, 20, 1);
    bed.function.config_write(0x94, 1, 5);
    assert_eq!((bed.status(), bed.function.config_read(0x94, 1)), (5, 5));
    set(4, 0x2000, 4);
    assert_eq!(bed.function.config_read(0x94, 4), u32::from_le_bytes(*b"abcd"));
    // Lengths and places that make no sense leave the data as it was.
    for (bar, offset, len) in [(4, 0x2004, 8), (4, 0x2001, 4), (1, 0, 4), (4, 0xffff_fff0, 4)] {
        set(bar, offset, len);
        assert_eq!(bed.function.config_read(0x94, 4), u32::from_le_bytes(*b"abcd"));
    }
}

/// As QEMU 10.0.2 does it.
#[test]
fn without_bus_mastering_the_driver_is_no_longer_ready() {
    let bed = Bed::modern();
    bed.start();
    bed.function.config_write(4, 2, 3);
    assert_eq!(bed.status(), 0xb);
    bed.function.config_write(4, 2, 7);
    assert_eq!(bed.status(), 0xb);
    bed.offer();
    bed.write(0x3000, 2, 0);
    assert_eq!(bed.used(), 0);
    bed.write(20, 1, 0xf);
    assert_eq!(bed.used(), 1);
}

#[test]
fn one_queue_is_reset() {
    let bed = Bed::modern();
    bed.write(8, 4, 1);
    bed.write(12, 4, (features::VERSION_1 | features::RING_RESET) >> 32);
    bed.write(28, 2, 1);
    bed.write(24, 2, 64);
    assert_eq!(bed.read(24, 2), 256, "a queue in use keeps its size");
    bed.write(58, 2, 1);
    assert_eq!((bed.read(58, 2), bed.read(28, 2)), (0, 0));
    for (size, seen) in [(64, 64), (0, 64), (512, 64)] {
        bed.write(24, 2, size);
        assert_eq!(bed.read(24, 2), seen);
    }
}

proptest! {
    #[test]
    fn any_access_is_survived(
        accesses in prop::collection::vec((0u8..6, any::<u16>(), 0u8..4, any::<u64>()), 1..80)
    ) {
        let bed = Bed::new(Interfaces::TRANSITIONAL, &props(&[("packed", "on")])).unwrap();
        for (what, offset, size, value) in accesses {
            let size = 1 << size;
            let near = u64::from(offset);
            match what {
                0 => bed.write(near % 0x40, size, value),
                1 => bed.output(near % 0x20, size, value),
                2 => bed.function.config_write(usize::from(offset % 256), size.min(4), value as u32),
                3 => bed.write(near % 0x4000, size, value),
                4 => {
                    bed.read(near % 0x4000, size);
                    bed.input(near % 0x20, size);
                    bed.function.config_read(usize::from(offset % 256), size.min(4));
                }
                _ => bed.memory.write_uint(near, size, value),
            }
        }
        bed.function.reset();
        bed.place();
        prop_assert_eq!(bed.status(), 0);
        prop_assert_eq!(bed.read(24, 2), 256);
    }
}
