//! The devices that an operator can add, by type name: from here come `-device`, its help and its
//! errors.

use std::any::Any;
use std::sync::Arc;

use base::chardev::{Chardev, ChardevError};
use base::clock::Clocks;
use base::device::{AnyDevice, Shared};
use base::event_loop::LoopHandle;
use base::input::Router;
use base::interrupt::MsiSink;
use base::memory::{AddressSpace, Dma, RamBlock};
use base::object::Property;
use base::props::{
    ChardevId, DriveId, LinkId, PropError, PropInput, PropSpec, Props, UuidOrAuto, help_text,
};
use base::request::RequestSink;
use block::backend::{Backend, Interface};
use ui::{Consoles, Place as HeadPlace};

use crate::char::debugcon::{self, Debugcon};
use crate::char::parallel::{self, Parallel};
use crate::char::pci_serial::{self, PciSerialError, PciSerialProps};
use crate::char::serial::{self, Serial};
use crate::display::ramfb::{Ramfb, RamfbError, RamfbProps};
use crate::display::std_vga::{
    self, BochsDisplayProps, IsaVgaProps, SecondaryVgaProps, Sockets, StdVgaProps, VgaError,
};
use crate::firmware::acpi::LegacyPort;
use crate::firmware::fw_cfg::{FwCfg, FwCfgError};
use crate::isa::{IRQS, IsaBus};
use crate::misc::debug_exit::{self, DebugExitProps};
use crate::misc::edu::{Edu, EduProps};
use crate::misc::pci_testdev::{PciTestdev, PciTestdevProps};
use crate::misc::pvpanic::{self, Pvpanic, PvpanicPciProps, PvpanicProps};
use crate::misc::vmcoreinfo::VmCoreInfo;
use crate::misc::vmgenid::{VmGenId, VmGenIdProps, as_guid};
use crate::net::card::{CardError, NicPlace, NicProps, Nics};
use crate::net::e1000::{E1000, E1000Props};
use crate::pci::{PciBus, PciError, PciFunction};
use crate::storage::fdc::Fdc;
use crate::storage::floppy::{self, FloppyError, FloppyFact, FloppyProps};
use crate::storage::ide::{self, CdProps, CfProps, HdProps, IdeDisk, IdeError};
use crate::storage::piix3_ide::Piix3Ide;
use crate::usb::hid::Kind;
use crate::usb::props::{HubProps, KeyboardProps, MouseProps, TabletProps, UsbDeviceError};
use crate::usb::uhci::{self, Uhci, UhciProps};
use crate::usb::xhci::{self, NecXhciProps, XhciProps};
use crate::usb::{self, Newcomer, UsbBuses, UsbError};
use crate::virtio;
use crate::virtio::blk::{Blk, BlkError, BlkProps, Placement};
use crate::virtio::gpu::{self, GpuError, GpuPciProps};
use crate::virtio::input::{InputProps, WheelProps};
use crate::virtio::net::{self as virtio_net, Net, NetError, NetProps};
use crate::virtio::pci::{InterfaceProps, Interfaces, Place, VirtioPciError, VirtioPciProps};
use crate::watchdog::i6300esb::{I6300Esb, I6300EsbProps};
use crate::watchdog::ib700::{self, Ib700};

/// What a device is plugged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusKind {
    /// Nothing.
    None,
    /// ISA.
    Isa,
    /// PCI.
    Pci,
    /// A channel of an IDE controller.
    Ide,
    /// The floppy disk controller.
    Floppy,
    /// USB.
    Usb,
}

impl BusKind {
    /// As messages name it.
    pub fn name(self) -> Option<&'static str> {
        match self {
            BusKind::None => None,
            BusKind::Isa => Some("ISA"),
            BusKind::Pci => Some("PCI"),
            BusKind::Ide => Some("IDE"),
            BusKind::Floppy => Some("floppy-bus"),
            BusKind::Usb => Some("usb-bus"),
        }
    }
}

/// Headings of the listing of all devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Category {
    Bridge,
    Usb,
    Storage,
    Network,
    Input,
    Display,
    Misc,
    Watchdog,
}

impl Category {
    fn heading(self) -> &'static str {
        match self {
            Category::Bridge => "Controller/Bridge/Hub devices:",
            Category::Usb => "USB devices:",
            Category::Storage => "Storage devices:",
            Category::Network => "Network devices:",
            Category::Input => "Input devices:",
            Category::Display => "Display devices:",
            Category::Misc => "Misc devices:",
            Category::Watchdog => "Watchdog devices:",
        }
    }
}

/// What the tables for the guest should say about a device that was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// There is a serial port.
    Serial(LegacyPort),
    /// There is a parallel port.
    Parallel(LegacyPort),
    /// There is a panic device at this port.
    Pvpanic(u16),
    /// The machine has this generation identifier, as it lies in memory.
    GenerationId([u8; 16]),
    /// There is an IDE disk.
    IdeDisk(IdeDisk),
    /// There is a floppy drive.
    Floppy(FloppyFact),
    /// Firmware may boot from a device of this path; the least index comes first.
    Bootable {
        /// Its place in the order.
        index: i32,
        /// As firmware names it.
        path: String,
    },
}

/// Who a device is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its id, if the operator gave it one.
    pub id: Option<String>,
    /// Its path in the object tree.
    pub path: String,
}

/// The thread on which a device does its work.
#[derive(Clone)]
pub struct Worker {
    /// Its event loop.
    pub event_loop: LoopHandle,
    /// What keeps the thread running.
    pub keeper: Option<Arc<dyn Any + Send + Sync>>,
}

impl Worker {
    /// Waits until whatever runs on another thread's loop has returned to it.
    pub fn settle(&self) {
        // The machine's own loop is run by who is here.
        if self.keeper.is_some() && !self.event_loop.is_current() {
            let (done, wait) = std::sync::mpsc::channel::<()>();
            self.event_loop.schedule(move || drop(done));
            // It ends when the sender has gone.
            let _ = wait.recv();
        }
    }
}

/// What the machine offers to a device that is being added.
pub trait Slots {
    /// The ISA bus.
    fn isa(&self) -> &IsaBus;
    /// The PCI bus.
    fn pci(&self) -> &PciBus;
    /// The IDE controller.
    fn ide(&self) -> &Shared<Piix3Ide>;
    /// The floppy disk controller.
    fn fdc(&self) -> &Shared<Fdc>;
    /// The channel that the device that is being added is to be on.
    fn ide_channel(&self) -> Option<usize>;
    /// The clocks.
    fn clocks(&self) -> &Clocks;
    /// The character device of this id.
    fn chardev(&self, id: &str) -> Option<Arc<Chardev>>;
    /// Who the device that is being added will be.
    fn identity(&self) -> Identity;
    /// The back end for a `drive` property: a drive, or a node.
    fn drive(&self, name: &str) -> Result<Option<Arc<Backend>>, block::Error>;
    /// A back end without a name or a medium, for a drive of removable media that names none.
    fn empty_drive(&self) -> Arc<Backend>;
    /// How many processors there are.
    fn processors(&self) -> u32;
    /// The machine's own event loop.
    fn main_loop(&self) -> &LoopHandle;
    /// The I/O thread of this id.
    fn io_thread(&self, id: &str) -> Option<Worker>;
    /// Where wishes about the whole machine go.
    fn requests(&self) -> RequestSink;
    /// Network cards, and the networks for them.
    fn nics(&self) -> &Arc<Nics>;
    /// Firmware configuration.
    fn fw_cfg(&self) -> &Shared<FwCfg>;
    /// Memory as devices see it.
    fn memory(&self) -> &AddressSpace;
    /// Has stores of the guest to this memory noticed by who asks for dirty pages, however the guest is
    /// run.
    fn watch_stores(&self, memory: &Arc<RamBlock>);
    /// Where the heads of display adapters go.
    fn consoles(&self) -> &Consoles;
    /// Where message-signalled interrupts go.
    fn msi(&self) -> Arc<dyn MsiSink>;
    /// The way from whoever types and points.
    fn input(&self) -> &Arc<Router>;
    /// The USB buses.
    fn usb(&self) -> &Arc<UsbBuses>;
    /// Attaches a device to the USB bus that the device that is being added is to be on.
    fn attach_usb(&mut self, device: Newcomer) -> Result<(), UsbError>;
    /// What was told about devices so far.
    fn facts(&self) -> &[Fact];
    /// Tells something about a device.
    fn tell(&mut self, fact: Fact);
    /// Has a device that is on no PCI bus reset with the machine.
    fn add(&mut self, device: Arc<dyn AnyDevice>);
}

/// Why a device could not be added.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A property.
    #[error(transparent)]
    Property(#[from] PropError),
    /// A property that `-global` sets.
    #[error("can't apply global {owner}.{name}={value}: {source}")]
    Global {
        /// Type name of the device.
        owner: &'static str,
        /// The property.
        name: String,
        /// What it was to be.
        value: String,
        /// Why not.
        source: Box<PropError>,
    },
    /// Its place on the bus.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Its firmware configuration file.
    #[error(transparent)]
    FwCfg(#[from] FwCfgError),
    /// Its back end cannot be had.
    #[error("Property '{owner}.chardev' can't take value '{id}': {source}")]
    Chardev {
        /// Type name of the device.
        owner: &'static str,
        /// The character device.
        id: String,
        /// Why.
        source: ChardevError,
    },
    /// Its disk cannot be had.
    #[error(transparent)]
    Drive(#[from] block::Error),
    /// Its disk is another device's.
    #[error("Drive '{id}' is already in use {}", in_use_by(*by_board))]
    DriveInUse {
        /// The drive.
        id: String,
        /// Whether the board connected it by itself.
        by_board: bool,
    },
    /// It needs a back end.
    #[error("Can't create {0} device, empty char device")]
    NoChardev(&'static str),
    /// It has no disk.
    #[error("drive property not set")]
    NoDrive,
    /// There is no I/O thread of this id.
    #[error("Device '{0}' not found")]
    NoThread(String),
    /// A block device.
    #[error(transparent)]
    Blk(#[from] BlkError),
    /// A network card.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The transport of a virtio device.
    #[error(transparent)]
    Virtio(#[from] VirtioPciError),
    /// A network card.
    #[error(transparent)]
    VirtioNet(#[from] NetError),
    /// A display adapter.
    #[error(transparent)]
    Vga(#[from] VgaError),
    /// A graphics adapter of virtio.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A frame buffer in RAM.
    #[error(transparent)]
    Ramfb(#[from] RamfbError),
    /// An IDE drive.
    #[error(transparent)]
    Ide(#[from] IdeError),
    /// A floppy drive.
    #[error(transparent)]
    Floppy(#[from] FloppyError),
    /// A USB device.
    #[error(transparent)]
    Usb(#[from] UsbDeviceError),
    /// There is one already.
    #[error("at most one {0} device is permitted")]
    OnlyOne(&'static str),
    /// There are too many.
    #[error("Max. supported number of {what} ports is {limit}.")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// There is no such interrupt.
    #[error("there is no ISA interrupt {0}")]
    NoInterrupt(u32),
    /// A random identifier could not be made.
    #[error("cannot make up an identifier: {0}")]
    Random(std::io::Error),
}

fn in_use_by(board: bool) -> &'static str {
    match board {
        true => {
            "because it has been automatically connected to another device (did you need 'if=none' \
             in the drive options?)"
        }
        false => "by another device",
    }
}

type Done = Result<(), DeviceError>;

/// A property and what it is to be.
pub type Setting<'a> = (&'a str, PropInput<'a>);

/// A type of device.
pub struct DeviceType {
    /// Its name.
    pub name: &'static str,
    /// The type of the part that is not its transport, where QEMU tells the two apart.
    pub part: Option<&'static str>,
    /// Another name for it.
    pub alias: Option<&'static str>,
    /// What it is plugged into.
    pub bus: BusKind,
    /// Under which heading it is listed.
    pub category: Category,
    desc: Option<&'static str>,
    specs: fn() -> &'static [PropSpec],
    snapshot: fn(&'static str, &[Setting<'_>]) -> Vec<Property>,
    realize: fn(&[Setting<'_>], &mut dyn Slots) -> Done,
}

impl DeviceType {
    /// Whether it stays for as long as the machine exists, although its bus is one where others come
    /// and go: adapters have legacy ports and memory.
    pub fn stays(&self) -> bool {
        const LEGACY: [&str; 3] = ["VGA", "cirrus-vga", "virtio-vga"];
        LEGACY.contains(&self.name)
    }

    /// Its properties.
    pub fn specs(&self) -> &'static [PropSpec] {
        (self.specs)()
    }

    /// The listing of its properties.
    pub fn help(&self) -> String {
        help_text(self.name, self.specs())
    }

    /// The properties of a device with these settings, for the object tree.
    pub fn snapshot(&self, settings: &[Setting<'_>]) -> Vec<Property> {
        (self.snapshot)(self.name, settings)
    }

    /// Makes a device with these properties, set in order, and plugs it.
    pub fn realize(&self, settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
        (self.realize)(settings, slots)
    }

    fn line(&self) -> String {
        let bus = self.bus.name().map(|bus| format!(", bus {bus}")).unwrap_or_default();
        let alias = self.alias.map(|alias| format!(", alias \"{alias}\"")).unwrap_or_default();
        let desc = self.desc.map(|desc| format!(", desc \"{desc}\"")).unwrap_or_default();
        format!("name \"{}\"{bus}{alias}{desc}\n", self.name)
    }
}

/// All types.
pub fn all() -> &'static [DeviceType] {
    TYPES
}

/// All types of a category, by name.
pub fn of_category(category: Category) -> impl Iterator<Item = &'static DeviceType> {
    TYPES.iter().filter(move |kind| kind.category == category)
}

/// The type of this name, or of this alias.
pub fn find(name: &str) -> Option<&'static DeviceType> {
    TYPES.iter().find(|device| device.name == name || device.alias == Some(name))
}

/// The listing of all types.
pub fn listing() -> String {
    let mut text = String::new();
    for category in [
        Category::Bridge,
        Category::Usb,
        Category::Storage,
        Category::Input,
        Category::Display,
        Category::Misc,
        Category::Watchdog,
    ] {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(category.heading());
        text.push('\n');
        let mut lines: Vec<String> =
            TYPES.iter().filter(|t| t.category == category).map(DeviceType::line).collect();
        lines.sort_unstable();
        text.extend(lines);
    }
    text
}

fn parse<P: Props + Default>(
    owner: &'static str,
    settings: &[Setting<'_>],
) -> Result<P, DeviceError> {
    let mut props = P::default();
    for &(name, input) in settings {
        props.set(owner, name, input).map_err(|source| match input {
            PropInput::Global(value) => DeviceError::Global {
                owner,
                name: name.into(),
                value: value.into(),
                source: source.into(),
            },
            _ => source.into(),
        })?;
    }
    Ok(props)
}

/// Means that the device picks for itself.
const PICK: u32 = u32::MAX;

/// Properties of the legacy ports.
#[derive(Debug, Props)]
struct SerialProps {
    /// Which of the ports.
    #[prop(default = PICK)]
    index: u32,
    #[prop(default = PICK)]
    iobase: u32,
    #[prop(default = PICK)]
    irq: u32,
    chardev: Option<ChardevId>,
}

#[derive(Debug, Props)]
struct ParallelProps {
    /// Which of the ports.
    #[prop(default = PICK)]
    index: u32,
    #[prop(default = PICK)]
    iobase: u32,
    #[prop(default = parallel::ISA_IRQ)]
    irq: u32,
    chardev: Option<ChardevId>,
}

#[derive(Debug, Props)]
struct DebugconProps {
    #[prop(default = debugcon::DEFAULT_PORT as u32)]
    iobase: u32,
    #[prop(default = debugcon::READBACK as u32)]
    readback: u32,
    chardev: Option<ChardevId>,
}

#[derive(Debug, Props)]
struct NoProps {}

fn chardev(
    slots: &dyn Slots,
    owner: &'static str,
    id: Option<&ChardevId>,
) -> Result<Option<Arc<Chardev>>, PropError> {
    let find = |id: &ChardevId| {
        slots.chardev(&id.0).ok_or_else(|| PropError::no_such_backend(owner, "chardev", &id.0))
    };
    id.map(find).transpose()
}

/// The disk of a device's `drive` property. The device takes it with [`Backend::plug`].
pub fn drive(
    slots: &dyn Slots,
    owner: &'static str,
    id: &DriveId,
) -> Result<Arc<Backend>, DeviceError> {
    let found = slots.drive(&id.0)?;
    let missing = || PropError::no_such_backend(owner, "drive", &id.0);
    let backend = found.ok_or_else(missing)?;
    if backend.is_used() {
        return Err(DeviceError::DriveInUse {
            id: id.0.clone(),
            by_board: backend.info().interface != Interface::None,
        });
    }
    Ok(backend)
}

/// Turns a refusal of the back end into one that names it.
fn refused(owner: &'static str, chardev: &Chardev, source: ChardevError) -> DeviceError {
    DeviceError::Chardev { owner, id: chardev.label().into(), source }
}

/// Where a legacy port goes: its index among those of its kind, its ports, its interrupt.
fn legacy_port(
    what: &'static str,
    (index, iobase, irq): (u32, u32, u32),
    present: usize,
    bases: &[u64],
    irqs: &[u32],
) -> Result<LegacyPort, DeviceError> {
    let index = if index == PICK { present } else { index as usize };
    let too_many = DeviceError::TooMany { what, limit: bases.len() };
    let (Some(&base), Some(&usual_irq)) = (bases.get(index), irqs.get(index)) else {
        return Err(too_many);
    };
    let irq = if irq == PICK { usual_irq } else { irq };
    if irq >= IRQS {
        return Err(DeviceError::NoInterrupt(irq));
    }
    let io_base = if iobase == PICK { base as u16 } else { iobase as u16 };
    Ok(LegacyPort { number: index as u8 + 1, io_base, irq: irq as u8 })
}

fn isa_serial(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: SerialProps = parse("isa-serial", settings)?;
    let chardev = chardev(slots, "serial", props.chardev.as_ref())?;
    let present = slots.facts().iter().filter(|fact| matches!(fact, Fact::Serial(_))).count();
    let place = legacy_port(
        "ISA serial",
        (props.index, props.iobase, props.irq),
        present,
        &serial::ISA_PORTS,
        &serial::ISA_IRQS,
    )?;
    let (device, ports) = Serial::create(slots.isa().irq(place.irq.into()), slots.clocks());
    if let Some(chardev) = chardev {
        Serial::attach(&device, &chardev).map_err(|e| refused("serial", &chardev, e))?;
    }
    slots.isa().place(&ports, place.io_base.into());
    slots.add(device);
    slots.tell(Fact::Serial(place));
    Ok(())
}

fn pci_serial(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: PciSerialProps = parse("pci-serial", settings)?;
    let chardev = chardev(slots, "serial", props.chardev.as_ref())?;
    pci_serial::plug(slots.pci(), &props, chardev.as_deref(), slots.clocks()).map_err(
        |error| match (error, &chardev) {
            (PciSerialError::Pci(error), _) => error.into(),
            (PciSerialError::Chardev(error), Some(chardev)) => refused("serial", chardev, error),
            (PciSerialError::Chardev(_), None) => DeviceError::NoChardev("serial"),
        },
    )
}

fn isa_parallel(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: ParallelProps = parse("isa-parallel", settings)?;
    let chardev = chardev(slots, "isa-parallel", props.chardev.as_ref())?
        .ok_or(DeviceError::NoChardev("parallel"))?;
    let present = slots.facts().iter().filter(|fact| matches!(fact, Fact::Parallel(_))).count();
    let place = legacy_port(
        "parallel",
        (props.index, props.iobase, props.irq),
        present,
        &parallel::ISA_PORTS,
        &[parallel::ISA_IRQ; 3],
    )?;
    let (device, ports) = Parallel::create(slots.isa().irq(place.irq.into()), &chardev)
        .map_err(|e| refused("isa-parallel", &chardev, e))?;
    slots.isa().place(&ports, place.io_base.into());
    slots.add(device);
    slots.tell(Fact::Parallel(place));
    Ok(())
}

fn isa_debugcon(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: DebugconProps = parse("isa-debugcon", settings)?;
    let chardev = chardev(slots, "isa-debugcon", props.chardev.as_ref())?
        .ok_or(DeviceError::NoChardev("debugcon"))?;
    let (device, port) = Debugcon::create(props.readback.into(), &chardev)
        .map_err(|e| refused("isa-debugcon", &chardev, e))?;
    slots.isa().place(&port, props.iobase.into());
    slots.add(device);
    Ok(())
}

fn isa_debug_exit(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: DebugExitProps = parse("isa-debug-exit", settings)?;
    let ports = debug_exit::ports(&props, slots.requests());
    slots.isa().place(&ports, props.iobase.into());
    Ok(())
}

fn pvpanic(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: PvpanicProps = parse("pvpanic", settings)?;
    let file = props.ioport.to_le_bytes().to_vec();
    slots.fw_cfg().lock().add_file(pvpanic::PORT_FILE, file, Default::default())?;
    let (device, port) = Pvpanic::create(props.events, slots.requests());
    slots.isa().place(&port, props.ioport.into());
    slots.add(device);
    slots.tell(Fact::Pvpanic(props.ioport));
    Ok(())
}

fn pvpanic_pci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: PvpanicPciProps = parse("pvpanic-pci", settings)?;
    Ok(Pvpanic::plug(slots.pci(), &props, slots.requests())?)
}

fn pci_testdev(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: PciTestdevProps = parse("pci-testdev", settings)?;
    Ok(PciTestdev::plug(slots.pci(), &props)?)
}

fn edu(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: EduProps = parse("edu", settings)?;
    Ok(Edu::plug(slots.pci(), &props, slots.msi(), slots.clocks())?)
}

/// A random (version 4) UUID.
fn random_uuid() -> std::io::Result<[u8; 16]> {
    let mut uuid = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut uuid)?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

fn vmgenid(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: VmGenIdProps = parse("vmgenid", settings)?;
    if slots.facts().iter().any(|fact| matches!(fact, Fact::GenerationId(_))) {
        return Err(DeviceError::OnlyOne("vmgenid"));
    }
    let uuid = match props.guid {
        UuidOrAuto::Given(uuid) => uuid.0,
        UuidOrAuto::Auto => random_uuid().map_err(DeviceError::Random)?,
    };
    let device = VmGenId::create(slots.fw_cfg())?;
    slots.add(device);
    slots.tell(Fact::GenerationId(as_guid(uuid)));
    Ok(())
}

fn vmcoreinfo(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let _: NoProps = parse("vmcoreinfo", settings)?;
    let device = VmCoreInfo::create(slots.fw_cfg()).map_err(|error| match error {
        FwCfgError::Duplicate(_) => DeviceError::OnlyOne("vmcoreinfo"),
        other => other.into(),
    })?;
    slots.add(device);
    Ok(())
}

fn i6300esb(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: I6300EsbProps = parse("i6300esb", settings)?;
    Ok(I6300Esb::plug(slots.pci(), &props, slots.clocks(), slots.requests())?)
}

fn pc_testdev(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let _: NoProps = parse("pc-testdev", settings)?;
    crate::misc::pc_testdev::plug(slots.isa());
    Ok(())
}

fn ib700(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let _: NoProps = parse("ib700", settings)?;
    let (device, [stop, start]) = Ib700::create(slots.clocks(), slots.requests());
    slots.isa().place(&stop, ib700::STOP_PORT);
    slots.isa().place(&start, ib700::START_PORT);
    slots.add(device);
    Ok(())
}

/// Properties of block devices of any form but the one that is told its interfaces.
#[derive(Debug, Props)]
struct VirtioBlkProps {
    #[prop(flatten)]
    blk: BlkProps,
    #[prop(flatten)]
    pci: VirtioPciProps,
}

#[derive(Debug, Props)]
struct VirtioBlkPciProps {
    #[prop(flatten)]
    rest: VirtioBlkProps,
    #[prop(flatten)]
    interfaces: InterfaceProps,
}

fn virtio_blk_pci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-blk-pci";
    let props: VirtioBlkPciProps = parse(name, settings)?;
    virtio_blk(name, props.interfaces.interfaces(), &props.rest, slots)
}

fn virtio_blk_transitional(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-blk-pci-transitional";
    virtio_blk(name, Interfaces::TRANSITIONAL, &parse(name, settings)?, slots)
}

fn virtio_blk_non_transitional(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-blk-pci-non-transitional";
    virtio_blk(name, Interfaces::NON_TRANSITIONAL, &parse(name, settings)?, slots)
}

fn virtio_blk(
    type_name: &'static str,
    interfaces: Interfaces,
    props: &VirtioBlkProps,
    slots: &mut dyn Slots,
) -> Done {
    let VirtioBlkProps { blk, pci } = props;
    let id = blk.disk.drive.as_ref().ok_or(DeviceError::NoDrive)?;
    let backend = drive(slots, "virtio-blk-device", id)?;
    let worker = match &blk.iothread {
        Some(LinkId(id)) => slots.io_thread(id).ok_or_else(|| DeviceError::NoThread(id.clone()))?,
        None => Worker { event_loop: slots.main_loop().clone(), keeper: None },
    };
    let placement = Placement {
        bus: slots.pci(),
        place: Place { type_name, interfaces, props: pci },
        identity: slots.identity(),
        worker,
        processors: slots.processors(),
        msi: slots.msi(),
    };
    let function = Blk::plug(placement, blk, backend)?;
    if let Some(index) = blk.disk.bootindex {
        let (slot, number) = (function.devfn() >> 3, function.devfn() & 7);
        let number = if number == 0 { String::new() } else { format!(",{number:x}") };
        let path = format!("/pci@i0cf8/scsi@{slot:x}{number}/disk@0,0");
        slots.tell(Fact::Bootable { index, path });
    }
    Ok(())
}

/// Properties of network cards of any form but the one that is told its interfaces.
#[derive(Debug, Props)]
struct VirtioNetProps {
    #[prop(flatten)]
    net: NetProps,
    #[prop(flatten)]
    pci: VirtioPciProps,
}

#[derive(Debug, Props)]
struct VirtioNetPciProps {
    #[prop(flatten)]
    rest: VirtioNetProps,
    #[prop(flatten)]
    interfaces: InterfaceProps,
}

fn virtio_net_pci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-net-pci";
    let props: VirtioNetPciProps = parse(name, settings)?;
    virtio_net(name, props.interfaces.interfaces(), &props.rest, slots)
}

fn virtio_net_transitional(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-net-pci-transitional";
    virtio_net(name, Interfaces::TRANSITIONAL, &parse(name, settings)?, slots)
}

fn virtio_net_non_transitional(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-net-pci-non-transitional";
    virtio_net(name, Interfaces::NON_TRANSITIONAL, &parse(name, settings)?, slots)
}

fn virtio_net(
    type_name: &'static str,
    interfaces: Interfaces,
    props: &VirtioNetProps,
    slots: &mut dyn Slots,
) -> Done {
    let VirtioNetProps { net, pci } = props;
    let placement = virtio_net::Placement {
        bus: slots.pci(),
        place: Place { type_name, interfaces, props: pci },
        identity: slots.identity(),
        main_loop: slots.main_loop().clone(),
        nics: slots.nics().clone(),
        msi: slots.msi(),
    };
    let function = Net::plug(placement, net)?;
    tell_boot_index(&net.nic, &function, slots);
    Ok(())
}

/// Tells firmware's name of a network card, if it has a place among what is booted from.
fn tell_boot_index(props: &NicProps, card: &PciFunction, slots: &mut dyn Slots) {
    if let Some(index) = props.bootindex {
        let (slot, function) = (card.devfn() >> 3, card.devfn() & 7);
        let part = if function > 0 { format!(",{function:x}") } else { String::new() };
        let path = format!("/pci@i0cf8/ethernet@{slot:x}{part}/ethernet-phy@0");
        slots.tell(Fact::Bootable { index, path });
    }
}

fn e1000(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: E1000Props = parse("e1000", settings)?;
    let function = E1000::plug(nic_place(slots), &props)?;
    tell_boot_index(&props.nic, &function, slots);
    Ok(())
}

fn nic_place(slots: &dyn Slots) -> NicPlace<'_> {
    NicPlace {
        bus: slots.pci(),
        clocks: slots.clocks(),
        main_loop: slots.main_loop().clone(),
        nics: slots.nics().clone(),
        identity: slots.identity(),
    }
}

#[derive(Debug, Props)]
struct VirtioKeyboardProps {
    #[prop(flatten)]
    input: InputProps,
    #[prop(flatten)]
    pci: VirtioPciProps,
    #[prop(flatten)]
    interfaces: InterfaceProps,
}

#[derive(Debug, Props)]
struct VirtioPointerProps {
    #[prop(flatten)]
    keyboard: VirtioKeyboardProps,
    #[prop(flatten)]
    wheel: WheelProps,
}

fn virtio_keyboard(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-keyboard-pci";
    let props: VirtioKeyboardProps = parse(name, settings)?;
    virtio_input(name, virtio::input::Kind::Keyboard, props, false, slots)
}

fn virtio_mouse(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-mouse-pci";
    let props: VirtioPointerProps = parse(name, settings)?;
    let wheel_axis = props.wheel.wheel_axis;
    virtio_input(name, virtio::input::Kind::Mouse, props.keyboard, wheel_axis, slots)
}

fn virtio_tablet(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-tablet-pci";
    let props: VirtioPointerProps = parse(name, settings)?;
    let wheel_axis = props.wheel.wheel_axis;
    virtio_input(name, virtio::input::Kind::Tablet, props.keyboard, wheel_axis, slots)
}

fn virtio_input(
    type_name: &'static str,
    kind: virtio::input::Kind,
    mut props: VirtioKeyboardProps,
    wheel_axis: bool,
    slots: &mut dyn Slots,
) -> Done {
    props.pci.prefer_vectors(virtio::input::VECTORS);
    // There never were legacy drivers.
    let modern = !props.interfaces.disable_modern;
    let interfaces = Interfaces { legacy: false, modern };
    let seat = virtio::input::Seat {
        bus: slots.pci(),
        place: Place { type_name, interfaces, props: &props.pci },
        msi: slots.msi(),
        router: slots.input(),
    };
    virtio::input::plug(seat, kind, &props.input, wheel_axis)?;
    Ok(())
}

fn ide_hd(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: HdProps = parse("ide-hd", settings)?;
    ide::add_disk(&props, slots)
}

fn ide_cf(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: CfProps = parse("ide-cf", settings)?;
    ide::add_compact_flash(&props, slots)
}

fn ide_cd(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: CdProps = parse("ide-cd", settings)?;
    ide::add_cdrom(&props, slots)
}

fn floppy(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: FloppyProps = parse("floppy", settings)?;
    floppy::add(&props, slots)
}

/// Calls `plug` with what the machine offers to a display adapter.
fn with_sockets(
    slots: &dyn Slots,
    plug: impl FnOnce(&Sockets<'_>) -> Result<(), VgaError>,
) -> Done {
    let Identity { id, path } = slots.identity();
    plug(&Sockets {
        pci: slots.pci(),
        isa: slots.isa(),
        consoles: slots.consoles(),
        place: HeadPlace { device: id, path, head: 0 },
        clocks: slots.clocks(),
        watch_stores: &|memory| slots.watch_stores(memory),
    })?;
    Ok(())
}

fn std_vga(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let mut props: StdVgaProps = parse("VGA", settings)?;
    with_sockets(slots, |sockets| std_vga::plug_vga(&mut props, sockets))
}

fn virtio_gpu_pci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: GpuPciProps = parse("virtio-gpu-pci", settings)?;
    let Identity { id, path } = slots.identity();
    let sockets = gpu::Sockets {
        bus: slots.pci(),
        msi: slots.msi(),
        event_loop: slots.main_loop().clone(),
        consoles: slots.consoles(),
        place: HeadPlace { device: id, path, head: 0 },
    };
    Ok(gpu::plug(&props, sockets)?)
}

fn ramfb(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let _: RamfbProps = parse("ramfb", settings)?;
    let (memory, roms) = (Dma::new(slots.memory().clone()), slots.pci().rom_files());
    let device = Ramfb::create(memory, slots.fw_cfg(), roms)?;
    let Identity { id, path } = slots.identity();
    slots.consoles().add("ramfb", HeadPlace { device: id, path, head: 0 }, device.clone());
    slots.add(device);
    Ok(())
}

fn secondary_vga(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: SecondaryVgaProps = parse("secondary-vga", settings)?;
    with_sockets(slots, |sockets| std_vga::plug_secondary(&props, sockets))
}

fn bochs_display(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let mut props: BochsDisplayProps = parse("bochs-display", settings)?;
    with_sockets(slots, |sockets| std_vga::plug_bochs(&mut props, sockets))
}

fn isa_vga(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: IsaVgaProps = parse("isa-vga", settings)?;
    let mut device = None;
    with_sockets(slots, |sockets| {
        device = Some(std_vga::plug_isa(&props, sockets)?);
        Ok(())
    })?;
    device.into_iter().for_each(|device| slots.add(device));
    Ok(())
}

fn piix3_usb_uhci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: UhciProps = parse(uhci::TYPE, settings)?;
    let seat = uhci::Seat::Added(slots.identity().id);
    Uhci::plug(slots.pci(), &seat, &props, slots.usb(), slots.clocks())?;
    Ok(())
}

fn xhci_seat(slots: &dyn Slots) -> xhci::Seat<'_> {
    xhci::Seat {
        pci: slots.pci(),
        id: slots.identity().id,
        msi: slots.msi(),
        buses: slots.usb(),
        clocks: slots.clocks(),
    }
}

fn qemu_xhci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: XhciProps = parse(xhci::TYPE, settings)?;
    Ok(xhci::plug(xhci_seat(slots), &props)?)
}

fn nec_usb_xhci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: NecXhciProps = parse(xhci::NEC_TYPE, settings)?;
    Ok(xhci::plug_nec(xhci_seat(slots), &props)?)
}

fn attach(slots: &mut dyn Slots, newcomer: Result<Newcomer, UsbDeviceError>) -> Done {
    Ok(slots.attach_usb(newcomer?).map_err(UsbDeviceError::from)?)
}

fn usb_mouse(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "usb-mouse";
    let props: MouseProps = parse(name, settings)?;
    let newcomer = usb::props::hid(Kind::Mouse, name, &props, None, slots);
    attach(slots, newcomer)
}

fn usb_kbd(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "usb-kbd";
    let props: KeyboardProps = parse(name, settings)?;
    let screen = props.display.as_deref().map(|display| (display, 0));
    let newcomer = usb::props::hid(Kind::Keyboard, name, &props.mouse, screen, slots);
    attach(slots, newcomer)
}

fn usb_tablet(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "usb-tablet";
    let props: TabletProps = parse(name, settings)?;
    let screen = props.display.as_deref().map(|display| (display, props.head));
    let newcomer = usb::props::hid(Kind::Tablet, name, &props.mouse, screen, slots);
    attach(slots, newcomer)
}

fn usb_hub(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: HubProps = parse(usb::hub::TYPE, settings)?;
    let newcomer = usb::props::hub(&props, slots);
    attach(slots, newcomer)
}

macro_rules! types {
    ($($name:literal $(alias $alias:literal)? $(of $part:literal)?, $bus:ident, $category:ident, $desc:expr, $props:ty, $realize:ident;)*) => {
        /// All types.
        const TYPES: &[DeviceType] = &[$(DeviceType {
            name: $name,
            part: [$(Some($part),)? None][0],
            alias: [$(Some($alias),)? None][0],
            bus: BusKind::$bus,
            category: Category::$category,
            desc: $desc,
            specs: <$props as Props>::specs,
            snapshot: |owner, settings| {
                let props: Result<$props, _> = parse(owner, settings);
                props.map(|props| Property::snapshot(&props)).unwrap_or_default()
            },
            realize: $realize,
        }),*];
    };
}

types! {
    "VGA", Pci, Display, None, StdVgaProps, std_vga;
    "bochs-display", Pci, Display, None, BochsDisplayProps, bochs_display;
    "e1000" alias "e1000-82540em", Pci, Network, Some("Intel Gigabit Ethernet"), E1000Props, e1000;
    "edu", Pci, Misc, None, EduProps, edu;
    "floppy", Floppy, Storage, Some("virtual floppy drive"), FloppyProps, floppy;
    "i6300esb", Pci, Watchdog, Some("Intel 6300ESB"), I6300EsbProps, i6300esb;
    "ib700", Isa, Watchdog, Some("iBASE 700"), NoProps, ib700;
    "ide-cd", Ide, Storage, Some("virtual IDE CD-ROM"), CdProps, ide_cd;
    "ide-cf", Ide, Storage, Some("virtual CompactFlash card"), CfProps, ide_cf;
    "ide-hd", Ide, Storage, Some("virtual IDE disk"), HdProps, ide_hd;
    "isa-debug-exit", Isa, Misc, None, DebugExitProps, isa_debug_exit;
    "isa-debugcon", Isa, Misc, None, DebugconProps, isa_debugcon;
    "isa-parallel", Isa, Input, None, ParallelProps, isa_parallel;
    "isa-serial", Isa, Input, None, SerialProps, isa_serial;
    "isa-vga", Isa, Display, None, IsaVgaProps, isa_vga;
    "nec-usb-xhci", Pci, Usb, None, NecXhciProps, nec_usb_xhci;
    "pc-testdev", Isa, Misc, None, NoProps, pc_testdev;
    "pci-serial", Pci, Input, None, PciSerialProps, pci_serial;
    "pci-testdev", Pci, Misc, Some("PCI Test Device"), PciTestdevProps, pci_testdev;
    "piix3-usb-uhci", Pci, Usb, None, UhciProps, piix3_usb_uhci;
    "pvpanic", Isa, Misc, None, PvpanicProps, pvpanic;
    "pvpanic-pci", Pci, Misc, None, PvpanicPciProps, pvpanic_pci;
    "ramfb", None, Display, Some("ram framebuffer standalone device"), RamfbProps, ramfb;
    "secondary-vga", Pci, Display, None, SecondaryVgaProps, secondary_vga;
    "qemu-xhci", Pci, Usb, None, XhciProps, qemu_xhci;
    "usb-hub", Usb, Bridge, None, HubProps, usb_hub;
    "usb-kbd", Usb, Input, None, KeyboardProps, usb_kbd;
    "usb-mouse", Usb, Input, None, MouseProps, usb_mouse;
    "usb-tablet", Usb, Input, None, TabletProps, usb_tablet;
    "virtio-blk-pci" alias "virtio-blk" of "virtio-blk-device", Pci, Storage, None, VirtioBlkPciProps, virtio_blk_pci;
    "virtio-blk-pci-non-transitional" of "virtio-blk-device", Pci, Storage, None, VirtioBlkProps, virtio_blk_non_transitional;
    "virtio-blk-pci-transitional" of "virtio-blk-device", Pci, Storage, None, VirtioBlkProps, virtio_blk_transitional;
    "virtio-gpu-pci" alias "virtio-gpu" of "virtio-gpu-device", Pci, Display, None, GpuPciProps, virtio_gpu_pci;
    "virtio-keyboard-pci" alias "virtio-keyboard" of "virtio-keyboard-device", Pci, Input, None, VirtioKeyboardProps, virtio_keyboard;
    "virtio-mouse-pci" alias "virtio-mouse" of "virtio-mouse-device", Pci, Input, None, VirtioPointerProps, virtio_mouse;
    "virtio-net-pci" alias "virtio-net" of "virtio-net-device", Pci, Network, None, VirtioNetPciProps, virtio_net_pci;
    "virtio-net-pci-non-transitional" of "virtio-net-device", Pci, Network, None, VirtioNetProps, virtio_net_non_transitional;
    "virtio-net-pci-transitional" of "virtio-net-device", Pci, Network, None, VirtioNetProps, virtio_net_transitional;
    "virtio-tablet-pci" alias "virtio-tablet" of "virtio-tablet-device", Pci, Input, None, VirtioPointerProps, virtio_tablet;
    "vmcoreinfo", None, Misc, None, NoProps, vmcoreinfo;
    "vmgenid", None, Misc, None, VmGenIdProps, vmgenid;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of QEMU 10.0's listings.
    #[test]
    fn types_are_listed() {
        let text = listing();
        assert!(text.starts_with(
            "Controller/Bridge/Hub devices:\nname \"usb-hub\", bus usb-bus\n\nUSB devices:\n"
        ));
        assert!(text.contains(
            "\n\nStorage devices:\nname \"floppy\", bus floppy-bus, desc \"virtual floppy drive\"\n"
        ));
        assert!(text.contains("\n\nInput devices:\nname \"isa-parallel\", bus ISA\n"), "{text}");
        assert!(text.contains("\n\nMisc devices:\nname \"edu\", bus PCI\n"));
        assert!(text.contains("name \"pci-testdev\", bus PCI, desc \"PCI Test Device\"\n"));
        assert!(text.contains("name \"vmcoreinfo\"\nname \"vmgenid\"\n\nWatchdog devices:\n"));
        assert!(text.ends_with("name \"ib700\", bus ISA, desc \"iBASE 700\"\n"));
        let help = find("isa-debug-exit").map(DeviceType::help).unwrap_or_default();
        assert!(help.contains("  iobase=<uint32>        -  (default: 1281)\n"));
        assert_eq!(
            find("vmcoreinfo").map(DeviceType::help).as_deref(),
            Some("There are no options for vmcoreinfo.\n")
        );
        assert!(find("nonsense").is_none());
    }

    #[test]
    fn legacy_ports_are_numbered() {
        let place = |index, present| {
            legacy_port(
                "ISA serial",
                (index, PICK, PICK),
                present,
                &serial::ISA_PORTS,
                &serial::ISA_IRQS,
            )
        };
        let second = LegacyPort { number: 2, io_base: 0x2f8, irq: 3 };
        assert_eq!(place(PICK, 1).ok(), Some(second));
        assert_eq!(place(1, 0).ok(), Some(second));
        let error = place(9, 0).map_err(|error| error.to_string());
        assert_eq!(error, Err("Max. supported number of ISA serial ports is 4.".into()));
    }
}
