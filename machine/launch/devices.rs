//! The devices that the operator adds to a PC: `-device`, and `-serial` and its kin.

use std::sync::Arc;

use base::chardev::{Chardev, Chardevs};
use base::clock::Clocks;
use base::device::{AnyDevice, Shared};
use base::event_loop::LoopHandle;
use base::input::Router;
use base::interrupt::MsiSink;
use base::memory::{AddressSpace, RamBlock};
use base::object::{Object, Property};
use base::options::config::GlobalProp;
use base::props::{PropInput, Value};
use base::request::RequestSink;
use block::backend::{Backend, Interface, Media};
use block::graph::Graph;
use cpu::kvm::KvmVm;
use hw::char::debugcon::{self, Debugcon};
use hw::char::parallel::{self, Parallel};
use hw::char::serial::{self, Serial};
use hw::firmware::acpi::LegacyPort;
use hw::firmware::fw_cfg::FwCfg;
use hw::isa::IsaBus;
use hw::net::card::Nics;
use hw::pci::PciBus;
use hw::registry::{
    self, BusKind, DeviceError, DeviceType, Fact, Identity, Setting, Slots, Worker,
};
use hw::storage::ata::channel::PLACES;
use hw::storage::fdc::{self, Fdc};
use hw::storage::piix3_ide::Piix3Ide;
use hw::usb::props::UsbDeviceError;
use hw::usb::{Newcomer, UsbBus, UsbBuses, UsbDevice, UsbError};
use ui::Consoles;

use super::characters::Characters;
use super::chips::{self, PCI_BUS};
use super::tree::Tree;
use super::{fault, globals, kernel_memory};
use crate::config::{ConfigError, DeviceConfig, Located, MachineConfig, PropList};
use crate::objects::UserObjects;
use crate::pc::board::Pc;

/// The buses of a PC, by name.
const BUSES: [(&str, BusKind); 5] = [
    (FLOPPY_BUS, BusKind::Floppy),
    ("pci.0", BusKind::Pci),
    ("isa.0", BusKind::Isa),
    (IDE_CHANNELS[0], BusKind::Ide),
    (IDE_CHANNELS[1], BusKind::Ide),
];

/// Type of USB buses.
pub(super) const USB_BUS: &str = "usb-bus";

/// Where floppy drives are: on a bus that has but one name.
pub(super) const FLOPPY_BUS: &str = "floppy-bus.0";

/// Channels of the IDE controller.
const IDE_CHANNELS: [&str; 2] = ["ide.0", "ide.1"];

/// Where the board's display adapter is: behind the board's own chips.
const ADAPTER_SLOT: u8 = 2;

/// What QEMU calls the part of a virtio device that is not its transport.
pub(super) const PART: &str = "virtio-backend";

/// What devices are made with, for as long as the machine exists.
pub(super) struct Means {
    /// Path of the ISA bus.
    pub isa_bus: String,
    pub clocks: Clocks,
    pub chardevs: Arc<Chardevs>,
    pub graph: Arc<Graph>,
    pub objects: Arc<UserObjects>,
    pub main_loop: LoopHandle,
    pub processors: u32,
    pub requests: RequestSink,
    pub msi: Arc<dyn MsiSink>,
    pub nics: Arc<Nics>,
    pub consoles: Arc<Consoles>,
    pub input: Arc<Router>,
    pub usb: Arc<UsbBuses>,
    /// Runs the guest instead of a translator, perhaps.
    pub kvm: Option<Arc<KvmVm>>,
    pub globals: Vec<GlobalProp>,
}

/// A device that was added.
pub(super) struct Added {
    pub kind: &'static DeviceType,
    pub identity: Identity,
    /// The function that it is, on the PCI bus.
    pub devfn: Option<u8>,
    /// The device that it is, on a USB bus.
    pub usb: Option<(Arc<UsbBus>, Arc<UsbDevice>)>,
}

/// A PC that is being equipped.
pub(super) struct Equipment<'a> {
    pub pc: &'a Pc,
    pub tree: &'a mut Tree,
    pub means: &'a Means,
    /// Whether the machine exists already.
    pub hot: bool,
    /// Who the device that is being added will be.
    pub identity: Identity,
    /// The bus that it names.
    pub bus: Option<String>,
    /// Path of the floppy drives' bus, as long as drives can come.
    pub floppy_bus: String,
    /// What its properties are now that left it a choice.
    pub settled: Vec<(&'static str, Value)>,
    pub facts: Vec<Fact>,
    /// What is to be reset with the board.
    pub chips: Vec<Arc<dyn AnyDevice>>,
    /// The device that was attached to a USB bus last.
    pub usb: Option<(Arc<UsbBus>, Arc<UsbDevice>)>,
}

impl Slots for Equipment<'_> {
    fn isa(&self) -> &IsaBus {
        &self.pc.isa
    }
    fn pci(&self) -> &PciBus {
        &self.pc.pci
    }
    fn ide(&self) -> &Shared<Piix3Ide> {
        &self.pc.ide
    }
    fn fdc(&self) -> &Shared<Fdc> {
        &self.pc.fdc
    }
    fn ide_channel(&self) -> Option<usize> {
        IDE_CHANNELS.iter().position(|&channel| Some(channel) == self.bus.as_deref())
    }
    fn clocks(&self) -> &Clocks {
        &self.means.clocks
    }
    fn chardev(&self, id: &str) -> Option<Arc<Chardev>> {
        self.means.chardevs.get(id).ok()
    }
    fn identity(&self) -> Identity {
        self.identity.clone()
    }
    fn drive(&self, name: &str) -> Result<Option<Arc<Backend>>, block::Error> {
        self.means.graph.backend_for_device(name)
    }
    fn empty_drive(&self) -> Arc<Backend> {
        self.means.graph.empty_backend()
    }
    fn processors(&self) -> u32 {
        self.means.processors
    }
    fn main_loop(&self) -> &LoopHandle {
        &self.means.main_loop
    }
    fn io_thread(&self, id: &str) -> Option<Worker> {
        let thread = self.means.objects.io_thread(id)?;
        Some(Worker { event_loop: thread.handle().clone(), keeper: Some(thread) })
    }
    fn requests(&self) -> RequestSink {
        self.means.requests.clone()
    }
    fn nics(&self) -> &Arc<Nics> {
        &self.means.nics
    }
    fn fw_cfg(&self) -> &Shared<FwCfg> {
        &self.pc.fw_cfg
    }
    fn memory(&self) -> &AddressSpace {
        &self.pc.map.memory
    }
    fn watch_stores(&self, memory: &Arc<RamBlock>) {
        if let Some(kvm) = &self.means.kvm {
            kernel_memory::watch(kvm, memory);
        }
    }
    fn consoles(&self) -> &Consoles {
        &self.means.consoles
    }
    fn msi(&self) -> Arc<dyn MsiSink> {
        self.means.msi.clone()
    }
    fn input(&self) -> &Arc<Router> {
        &self.means.input
    }
    fn usb(&self) -> &Arc<UsbBuses> {
        &self.means.usb
    }
    fn attach_usb(&mut self, device: Newcomer) -> Result<(), UsbError> {
        let Some(bus) = self.usb_bus() else { return Err(UsbError::NoBus(device.type_name)) };
        let mut attached = bus.attach(device)?;
        self.usb = attached.pop().map(|device| (bus.clone(), device));
        for hub in attached {
            self.tree.chip(usb_object(hw::usb::hub::TYPE, &bus, &hub));
        }
        Ok(())
    }
    fn facts(&self) -> &[Fact] {
        &self.facts
    }
    fn tell(&mut self, fact: Fact) {
        self.facts.push(fact);
    }
    fn settle(&mut self, property: &'static str, value: Value) {
        self.settled.push((property, value));
    }
    fn add(&mut self, device: Arc<dyn AnyDevice>) {
        self.chips.push(device);
    }
}

/// Why a device could not be added.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// There is no such type.
    #[error("'{0}' is not a valid device model name")]
    NoType(String),
    /// Its bus will not have it.
    #[error("{0}")]
    Place(String),
    /// The device says so.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Equipment<'_> {
    /// Adds serial and parallel ports and debug consoles.
    pub fn add_consoles(&mut self, characters: &Characters) -> Result<(), ConfigError> {
        let serials = serial::ISA_PORTS.into_iter().zip(serial::ISA_IRQS);
        for (n, (place, chardev)) in (1..).zip(serials.zip(&characters.serials)) {
            let (Some(chardev), (base, irq)) = (chardev, place) else { continue };
            let (serial, ports) = Serial::create(self.pc.isa.irq(irq), &self.means.clocks);
            Serial::attach(&serial, chardev).map_err(fault)?;
            self.pc.isa.place(&ports, base);
            self.chips.push(serial);
            let port = legacy_port(n, base, irq);
            let object = Object::device("isa-serial", None, &self.means.isa_bus)
                .with([Property::fixed("chardev", "str", chardev.label())])
                .with(legacy_properties(&port));
            self.tree.chip(object);
            self.tell(Fact::Serial(port));
        }
        let parallels = parallel::ISA_PORTS.into_iter().zip(&characters.parallels);
        for (n, (base, chardev)) in (1..).zip(parallels) {
            let Some(chardev) = chardev else { continue };
            let irq = parallel::ISA_IRQ;
            let (parallel, ports) =
                Parallel::create(self.pc.isa.irq(irq), chardev).map_err(fault)?;
            self.pc.isa.place(&ports, base);
            self.chips.push(parallel);
            let port = legacy_port(n, base, irq);
            let object = Object::device("isa-parallel", None, &self.means.isa_bus)
                .with([Property::fixed("chardev", "str", chardev.label())])
                .with(legacy_properties(&port));
            self.tree.chip(object);
            self.tell(Fact::Parallel(port));
        }
        for chardev in characters.debugcons.iter().flatten() {
            let (console, port) = Debugcon::create(debugcon::READBACK, chardev).map_err(fault)?;
            self.pc.isa.place(&port, debugcon::DEFAULT_PORT);
            self.chips.push(console);
            let object = Object::device("isa-debugcon", None, &self.means.isa_bus)
                .with([Property::fixed("chardev", "str", chardev.label())]);
            self.tree.device(object);
        }
        Ok(())
    }

    /// Adds a device that the board has by itself.
    pub fn add_board_device(&mut self, device: &BoardDevice) -> Result<(), ConfigError> {
        let Some(kind) = registry::find(&device.config.driver) else { return Ok(()) };
        let mut settings = globals::of_device(&self.means.globals, kind);
        settings.extend(device.settings());
        self.identity = Identity { id: None, path: device.path.clone() };
        self.bus.clone_from(&device.config.bus);
        self.settled.clear();
        kind.realize(&settings, self).map_err(|error| {
            ConfigError::new(globals::explain(&self.means.globals, error.into()))
        })?;
        if let Some(object) = self.tree.chip_at(&device.path) {
            self.tell_settled(&object);
        }
        Ok(())
    }

    /// Has a device's object tell what the device has decided.
    fn tell_settled(&mut self, object: &Object) {
        for (property, value) in self.settled.drain(..) {
            object.settle(property, value);
        }
    }

    /// Adds the devices of `-usbdevice`, which count as the board's own.
    pub fn add_usb_devices(&mut self, config: &MachineConfig) -> Result<(), ConfigError> {
        for Located { value: name, origin } in &config.usb_devices {
            let fault = || ConfigError::at(origin, format!("could not add USB device '{name}'"));
            let driver = match name.as_str() {
                "keyboard" => "usb-kbd",
                "mouse" => "usb-mouse",
                "tablet" => "usb-tablet",
                _ => return Err(fault()),
            };
            let kind = registry::find(driver).ok_or_else(fault)?;
            let settings = globals::of_device(&self.means.globals, kind);
            self.identity = Identity { id: None, path: self.tree.next_path() };
            self.bus = None;
            let explain = |error: DeviceError| {
                ConfigError::at(origin, globals::explain(&self.means.globals, error.into()))
            };
            let realized = kind.realize(&settings, self);
            realized.map_err(explain)?;
            if let Some((bus, device)) = self.usb.take() {
                self.tree.chip(usb_object(kind.name, &bus, &device));
            }
        }
        Ok(())
    }

    /// Adds a network card that the board has by itself.
    pub fn add_board_card(
        &mut self,
        Located { value: device, origin }: &Located<DeviceConfig>,
    ) -> Result<(), ConfigError> {
        let (Some(kind), PropList::Text(props)) = (registry::find(&device.driver), &device.props)
        else {
            return Ok(());
        };
        let mut settings = globals::of_device(&self.means.globals, kind);
        settings.extend(props.iter().map(|(name, value)| (&**name, PropInput::Text(value))));
        self.identity = Identity { id: None, path: self.tree.next_path() };
        self.bus = None;
        let functions = self.functions();
        kind.realize(&settings, self).map_err(|error| {
            ConfigError::at(origin, globals::explain(&self.means.globals, error.into()))
        })?;
        let devfn = self.functions().into_iter().find(|devfn| !functions.contains(devfn));
        let place = devfn.map(|devfn| chips::address(devfn >> 3, devfn & 7));
        let object = self.object(kind, None, &settings).with(place);
        self.tree.chip(object);
        Ok(())
    }

    /// Adds the devices of `-device`, and more.
    pub fn add_devices(
        &mut self,
        config: &MachineConfig,
        more: &[Located<DeviceConfig>],
    ) -> Result<Vec<Added>, ConfigError> {
        let mut added = Vec::new();
        for Located { value: device, origin } in config.devices.iter().chain(more) {
            let explain = |error| globals::explain(&self.means.globals, error);
            let device =
                self.add_device(device).map_err(|error| ConfigError::at(origin, explain(error)))?;
            added.push(device);
        }
        Ok(added)
    }

    /// Adds a device.
    pub fn add_device(&mut self, device: &DeviceConfig) -> Result<Added, Refusal> {
        let kind =
            registry::find(&device.driver).ok_or_else(|| Refusal::NoType(device.driver.clone()))?;
        let mut settings = globals::of_device(&self.means.globals, kind);
        if let Some(name) = &device.bus {
            self.check_bus(kind, name).map_err(Refusal::Place)?;
        } else if kind.bus == BusKind::Usb && self.means.usb.newest().is_none() {
            return Err(DeviceError::from(UsbDeviceError::from(UsbError::NoBus(kind.name))).into());
        }
        if self.hot {
            check_hotplug(kind, self.pc).map_err(Refusal::Place)?;
        }
        let given: Vec<Setting<'_>> = match &device.props {
            PropList::Text(props) => {
                props.iter().map(|(name, value)| (&**name, PropInput::Text(value))).collect()
            }
            PropList::Json(props) => {
                props.iter().map(|(name, value)| (&**name, PropInput::Json(value))).collect()
            }
        };
        globals::check_back_ends(kind, &settings, &given).map_err(Refusal::Place)?;
        settings.extend(given);
        if let Some(id) = &device.id {
            self.tree.check_id(id).map_err(Refusal::Place)?;
        }
        let path = self.tree.device_path(device.id.as_deref());
        let identity = Identity { id: device.id.clone(), path };
        self.identity = identity.clone();
        self.bus.clone_from(&device.bus);
        self.usb = None;
        let (functions, facts) = (self.functions(), self.facts.len());
        let buses = self.means.usb.all().len();
        self.check_boot_index(&settings).map_err(Refusal::Place)?;
        self.settled.clear();
        kind.realize(&settings, self)?;
        let devfn = self.functions().into_iter().find(|devfn| !functions.contains(devfn));
        if let (Some(id), Some(function)) =
            (&device.id, devfn.and_then(|devfn| self.pc.pci.function(devfn)))
        {
            function.set_id(id);
        }
        let mut object = self.object(kind, device.id.as_deref(), &settings);
        self.tell_settled(&object);
        if let Some(bus) = self.means.usb.all().get(buses) {
            bus.set_owner(&identity.path);
            object = object.with_child(bus.name(), Object::new(USB_BUS));
        }
        let place = devfn.map(|devfn| chips::address(devfn >> 3, devfn & 7));
        let port = self.facts.get(facts).and_then(|fact| match fact {
            Fact::Serial(port) | Fact::Parallel(port) => Some(legacy_properties(port)),
            _ => None,
        });
        self.tree.device(object.with(place).with(port.into_iter().flatten()));
        Ok(Added { kind, identity, devfn, usb: self.usb.take() })
    }

    /// Refuses a place in the boot order that is taken.
    fn check_boot_index(&self, settings: &[Setting<'_>]) -> Result<(), String> {
        let wanted = settings.iter().filter(|(name, _)| *name == "bootindex");
        let mut wanted = wanted.filter_map(|(_, input)| match input {
            PropInput::Text(text) | PropInput::Global(text) => text.parse::<i32>().ok(),
            PropInput::Json(value) => value.as_i64().and_then(|index| index.try_into().ok()),
        });
        let is_taken = |wanted: &i32| {
            let taken =
                |fact: &Fact| matches!(fact, Fact::Bootable { index, .. } if index == wanted);
            *wanted >= 0 && self.facts.iter().any(taken)
        };
        // The last setting counts.
        match wanted.next_back().filter(is_taken) {
            Some(index) => Err(format!("The bootindex {index} has already been used")),
            None => Ok(()),
        }
    }

    fn functions(&self) -> Vec<u8> {
        self.pc.pci.functions().iter().map(|function| function.devfn()).collect()
    }

    /// The USB bus that the device that is being added names, or the one that it gets.
    fn usb_bus(&self) -> Option<Arc<UsbBus>> {
        match &self.bus {
            Some(name) => self.means.usb.find(name),
            None => self.means.usb.newest(),
        }
    }

    /// Whether a device of this type can go on the bus of this name.
    fn check_bus(&self, kind: &DeviceType, name: &str) -> Result<(), String> {
        let fixed = BUSES.iter().find(|(bus, _)| *bus == name).map(|(_, bus)| *bus);
        let bus = fixed.or_else(|| self.means.usb.find(name).map(|_| BusKind::Usb));
        match bus {
            None => Err(format!("Bus '{name}' not found")),
            Some(bus) if bus == kind.bus => Ok(()),
            Some(bus) => {
                let bus = bus.name().unwrap_or_default();
                Err(format!("Device '{}' can't go on {bus} bus", kind.name))
            }
        }
    }

    /// Path of the channel that the device that is being added is on.
    fn ide_bus(&self) -> String {
        chips::ide_channel(&self.means.isa_bus, self.bus.as_deref().unwrap_or(IDE_CHANNELS[1]))
    }

    /// A device as it was asked for.
    fn object(&self, kind: &DeviceType, id: Option<&str>, settings: &[Setting<'_>]) -> Object {
        let bus = match kind.bus {
            BusKind::Pci => PCI_BUS,
            BusKind::Isa => &self.means.isa_bus,
            BusKind::Ide => &self.ide_bus(),
            BusKind::Floppy => &self.floppy_bus,
            BusKind::Usb => self.usb.as_ref().map_or("", |(bus, _)| bus.path()),
            BusKind::None => "",
        };
        let hotpluggable = matches!(kind.bus, BusKind::Pci | BusKind::Usb) && !kind.stays;
        let object = Object::device(kind.name, id, bus).with(kind.snapshot(settings)).with([
            Property::fixed("hotpluggable", "bool", hotpluggable),
            Property::fixed("hotplugged", "bool", self.hot),
        ]);
        match kind.part {
            Some(part) => object.with_child(PART, Object::device(part, None, "")),
            None => object,
        }
    }
}

/// A device that the board has by itself: a drive, because `-drive` says where it is, or the display
/// adapter.
pub(super) struct BoardDevice {
    /// The device that it becomes.
    pub config: DeviceConfig,
    /// Its path in the object tree.
    path: String,
}

impl BoardDevice {
    /// The drives on the IDE controller, by place.
    pub fn on_ide(graph: &Graph) -> Vec<Self> {
        let places = (0..)
            .zip(IDE_CHANNELS)
            .flat_map(|(bus, channel)| (0..PLACES as u32).map(move |unit| (bus, unit, channel)));
        let drives = places.filter_map(|(bus, unit, channel)| {
            let backend = graph.drive_at(Interface::Ide, bus, unit)?;
            let driver = match backend.info().media {
                Media::Cdrom => "ide-cd",
                Media::Disk => "ide-hd",
            };
            Some(Self::drive(driver, Some(channel), unit, &backend))
        });
        drives.collect()
    }

    /// The drives on the floppy disk controller, by place.
    pub fn on_floppy(graph: &Graph) -> Vec<Self> {
        let drives = (0..fdc::DRIVES as u32).filter_map(|unit| {
            let backend = graph.drive_at(Interface::Floppy, 0, unit)?;
            Some(Self::drive("floppy", None, unit, &backend))
        });
        drives.collect()
    }

    /// The display adapter.
    pub fn adapter(driver: &str) -> Self {
        Self::new(driver, None, &[("addr", ADAPTER_SLOT.to_string())])
    }

    fn drive(driver: &str, bus: Option<&str>, unit: u32, backend: &Backend) -> Self {
        let props = [("drive", backend.name().to_owned()), ("unit", unit.to_string())];
        Self::new(driver, bus, &props)
    }

    fn new(driver: &str, bus: Option<&str>, props: &[(&str, String)]) -> Self {
        let props = props.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let config = DeviceConfig {
            driver: driver.into(),
            id: None,
            bus: bus.map(str::to_owned),
            props: PropList::Text(props),
        };
        BoardDevice { config, path: String::new() }
    }

    fn settings(&self) -> Vec<Setting<'_>> {
        match &self.config.props {
            PropList::Text(props) => {
                props.iter().map(|(name, value)| (&**name, PropInput::Text(value))).collect()
            }
            PropList::Json(_) => Vec::new(),
        }
    }

    /// Enters it in the object tree, as a chip on the bus of this path.
    pub fn enter(&mut self, tree: &mut Tree, bus: &str) {
        let Some(kind) = registry::find(&self.config.driver) else { return };
        let object = Object::device(kind.name, None, bus).with(kind.snapshot(&self.settings()));
        self.path = tree.chip(object);
    }
}

/// A device on a USB bus that the operator has not given an object of its own.
fn usb_object(type_name: &str, bus: &UsbBus, device: &UsbDevice) -> Object {
    Object::device(type_name, None, bus.path()).with([
        Property::fixed("attached", "bool", true),
        Property::fixed("port", "str", device.port.clone()),
    ])
}

/// Whether a device of this type can come while the machine exists.
fn check_hotplug(kind: &DeviceType, pc: &Pc) -> Result<(), String> {
    match kind.bus {
        _ if kind.stays => Err(does_not_come(kind)),
        BusKind::None => Err(does_not_come(kind)),
        BusKind::Usb => Ok(()),
        BusKind::Pci if pc.hotplug.is_some() => Ok(()),
        bus => Err(no_hotplug(bus)),
    }
}

/// Says that devices of a type neither come nor go.
pub(super) fn does_not_come(kind: &DeviceType) -> String {
    format!("Device '{}' does not support hotplugging", kind.name)
}

/// Says that a bus of this kind keeps what it has.
pub(super) fn no_hotplug(kind: BusKind) -> String {
    let name =
        BUSES.iter().find(|(_, bus)| *bus == kind).map_or("main-system-bus", |(name, _)| name);
    format!("Bus '{name}' does not support hotplugging")
}

/// What a legacy port's index, address and interrupt came to be.
fn legacy_properties(port: &LegacyPort) -> [Property; 3] {
    [
        Property::fixed("index", "uint32", port.number - 1),
        Property::fixed("iobase", "uint32", port.io_base),
        Property::fixed("irq", "uint32", port.irq),
    ]
}

fn legacy_port(number: u8, base: u64, irq: u32) -> LegacyPort {
    LegacyPort { number, io_base: base as u16, irq: irq as u8 }
}
