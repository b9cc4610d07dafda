//! What devices and the machine tell each other when one is added.

use std::any::Any;
use std::sync::Arc;

use base::chardev::Chardev;
use base::clock::Clocks;
use base::device::{AnyDevice, Shared};
use base::event_loop::LoopHandle;
use base::input::Router;
use base::interrupt::MsiSink;
use base::memory::{AddressSpace, RamBlock};
use base::props::Value;
use base::request::RequestSink;
use block::backend::Backend;
use ui::Consoles;

use crate::firmware::acpi::LegacyPort;
use crate::firmware::fw_cfg::FwCfg;
use crate::isa::IsaBus;
use crate::net::card::Nics;
use crate::pci::{PciBus, PciFunction};
use crate::storage::fdc::Fdc;
use crate::storage::floppy::FloppyFact;
use crate::storage::ide::IdeDisk;
use crate::storage::piix3_ide::Piix3Ide;
use crate::usb::{Newcomer, UsbBuses, UsbError};

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

impl Fact {
    /// That firmware may boot from a PCI function, with its parts as Open Firmware names them
    /// (IEEE 1275 and its PCI binding).
    pub(super) fn bootable(index: i32, function: &PciFunction, kind: &str, part: &str) -> Self {
        let place = firmware_place(function);
        Fact::Bootable { index, path: format!("/pci@i0cf8/{kind}@{place}/{part}") }
    }

    /// That firmware may boot from a floppy drive of the controller whose first port this is.
    pub fn bootable_floppy(index: i32, port: u32, place: usize) -> Self {
        let path = format!("/pci@i0cf8/isa@1/fdc@{port:04x}/floppy@{place}");
        Fact::Bootable { index, path }
    }

    /// Whether it is about booting from a PCI function, or something behind it.
    pub fn is_about(&self, function: &PciFunction) -> bool {
        let Fact::Bootable { path, .. } = self else { return false };
        let node = path.strip_prefix("/pci@i0cf8/").and_then(|rest| rest.split('/').next());
        let place = node.and_then(|node| node.split_once('@')).map(|(_, place)| place);
        place == Some(&*firmware_place(function))
    }
}

/// Slot and function as Open Firmware writes them.
fn firmware_place(function: &PciFunction) -> String {
    let (slot, number) = (function.devfn() >> 3, function.devfn() & 7);
    if number == 0 { format!("{slot:x}") } else { format!("{slot:x},{number:x}") }
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
    /// Tells what became of a property that left the device a choice.
    fn settle(&mut self, property: &'static str, value: Value);
    /// Has a device that is on no PCI bus reset with the machine.
    fn add(&mut self, device: Arc<dyn AnyDevice>);
}
