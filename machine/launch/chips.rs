//! The board's chips as objects: their order, and so their numbers, are those of QEMU's board. Chips
//! that only QEMU's board has keep their numbers free.

use std::sync::Arc;

use base::irq::IrqLine;
use base::object::{Object, Property};
use cpu::apic::LocalApic;
use cpu::kvm::KvmVm;
use hw::usb::UsbBus;
use hw::usb::uhci::{self, UhciProps};

use super::devices::{BoardDevice, FLOPPY_BUS, USB_BUS};
use super::kernel_chips;
use super::processors::Processors;
use super::tree::{self, Tree};
use crate::inventory::CpuSlot;
use crate::pc::board::{Chips, Pc};
use crate::pc::onboard::Onboard;

/// Where PCI devices are.
pub(super) const PCI_BUS: &str = "/machine/i440fx/pci.0";

/// Interrupts of chips.
const TIMER_IRQ: u32 = 0;
const RTC_IRQ: u32 = 8;
const SCI: u32 = 9;

/// Serial EEPROMs on the SMBus of QEMU's board.
const EEPROMS: usize = 8;

/// What the chips' objects depend on.
pub(super) struct Board<'a> {
    pub pc: &'a Pc,
    pub chips: Chips,
    /// Type names: local APIC, 8259, I/O APIC, interval timer.
    pub types: [&'static str; 4],
    pub kvm: bool,
    /// Has the interrupt controllers instead of the board, perhaps.
    pub kernel: Option<Arc<KvmVm>>,
    pub vmport: bool,
    pub smbus: bool,
    /// The bus of the board's own USB controller.
    pub usb: Option<Arc<UsbBus>>,
    /// Properties that `-global` sets.
    pub onboard: &'a Onboard,
    /// Those that are not in the kernel.
    pub apics: &'a [Arc<LocalApic>],
}

/// Enters the processors; returns the places of all that there can be.
pub(super) fn enter_processors(
    tree: &mut Tree,
    processors: &Processors,
    board: &Board<'_>,
    nodes: &[u32],
) -> Vec<CpuSlot> {
    let places = tree::places(&processors.smp, &processors.topology);
    let mut slots = Vec::new();
    for (index, place) in (0..).zip(places) {
        let path = (index < processors.count).then(|| {
            let object = tree::processor(
                &processors.type_name,
                &processors.selection,
                place,
                board.types[0],
                board.apics.get(index as usize),
            );
            tree.chip(object)
        });
        if index == 0 {
            tree.skip(1);
        }
        slots.push(CpuSlot {
            path,
            place,
            has_dies: processors.smp.dies > 1,
            has_modules: processors.smp.modules > 1,
            node: nodes.get(index as usize).copied(),
        });
    }
    if board.kvm {
        tree.skip(1);
    }
    slots
}

impl Board<'_> {
    fn isa(&self, bus: &str, type_name: &str, outputs: &[u32]) -> Object {
        let lines = outputs.iter().map(|&n| self.pc.isa.irq(n));
        Object::device(type_name, None, bus).with_outputs(lines)
    }

    fn pic(&self, bus: &str, primary: bool) -> Object {
        let pins = &self.pc.pic_pins;
        let (inputs, output, port) = if primary {
            (&pins.primary, self.pc.intr.clone(), 0x20)
        } else {
            (&pins.secondary, IrqLine::unconnected(), 0xa0)
        };
        Object::device(self.types[1], None, bus)
            .with([
                Property::fixed("iobase", "uint32", port),
                Property::fixed("master", "bool", primary),
            ])
            .with_inputs(inputs.clone())
            .with_outputs([output])
            .with_report({
                let (pic, kernel) = (self.pc.pic.clone(), self.kernel.clone());
                move || match &kernel {
                    Some(kernel) => kernel_chips::report_pic(kernel, primary),
                    None => pic.lock().report(primary),
                }
            })
    }

    fn south_bridge(&self, path: &str) -> Object {
        let bus = &format!("{path}/isa.0");
        let rtc = self
            .isa(bus, "mc146818rtc", &[self.onboard.rtc.irq.into()])
            .with(Property::snapshot(&self.onboard.rtc));
        let ide = Object::device("piix3-ide", None, PCI_BUS)
            .with_child("ide.0", Object::new("IDE"))
            .with_child("ide.1", Object::new("IDE"));
        let mut bridge = Object::device("PIIX3", None, PCI_BUS)
            .with_child("isa.0", Object::new("ISA"))
            .with_child("ide", ide.with([address(1, 1)]))
            .with_child("rtc", rtc);
        for n in 0..2 {
            bridge = bridge.with_child(&format!("dma[{n}]"), self.isa(bus, "i8257", &[]));
        }
        if let Some(bus) = &self.usb {
            let uhci = Object::device(uhci::TYPE, None, PCI_BUS)
                .with_child(bus.name(), Object::new(USB_BUS))
                .with(Property::snapshot(&UhciProps::default()));
            bus.set_owner(&format!("{path}/uhci"));
            bridge = bridge.with_child("uhci", uhci.with([address(1, 2)]));
        }
        if self.chips.acpi {
            let pm = Object::device("PIIX4_PM", None, PCI_BUS)
                .with([address(1, 3)])
                .with(Property::snapshot(&self.onboard.pm))
                .with_outputs([self.pc.isa.irq(SCI)]);
            bridge = bridge.with_child("pm", pm);
        }
        bridge.with([address(1, 0)])
    }

    /// Enters the chips up to where serial ports follow, the drives on the IDE controller, and the display
    /// adapter; returns the path of the ISA bus.
    pub fn enter_first(
        &self,
        tree: &mut Tree,
        drives: &mut [BoardDevice],
        adapter: Option<&mut BoardDevice>,
    ) -> String {
        let [_, _, ioapic, timer] = self.types;
        let host = Object::device("i440FX-pcihost", None, "/machine/unattached/sysbus")
            .with_child("pci.0", Object::new("PCI"))
            .with_child(
                "ioapic",
                Object::device(ioapic, None, "/machine/unattached/sysbus")
                    .with([Property::fixed("version", "uint8", 0x20)])
                    .with_inputs(self.pc.ioapic_inputs.clone())
                    .with_report({
                        let (ioapic, kernel) = (self.pc.ioapic.clone(), self.kernel.clone());
                        move || match &kernel {
                            Some(kernel) => kernel_chips::report_ioapic(kernel),
                            None => ioapic.lock().report(),
                        }
                    }),
            );
        tree.named("i440fx", host);
        let fw_cfg = Object::device("fw_cfg_io", None, "/machine/unattached/sysbus")
            .with(Property::snapshot(&self.onboard.fw_cfg));
        tree.named("fw_cfg", fw_cfg);
        tree.chip(Object::device("i440FX", None, PCI_BUS).with([address(0, 0)]));
        let bridge = tree.next_path();
        tree.chip(self.south_bridge(&bridge));
        let bus = format!("{bridge}/isa.0");
        for drive in drives {
            let channel = drive.config.bus.as_deref().unwrap_or_default();
            drive.enter(tree, &ide_channel(&bus, channel));
        }
        if self.chips.pic {
            tree.chip(self.pic(&bus, true));
            tree.chip(self.pic(&bus, false));
        }
        if let Some(adapter) = adapter {
            adapter.enter(tree, PCI_BUS);
        }
        if self.chips.hpet {
            let outputs = [TIMER_IRQ, RTC_IRQ].map(|n| self.pc.isa.irq(n));
            let bus = "/machine/unattached/sysbus";
            let hpet = Object::device("hpet", None, bus).with_outputs(outputs);
            tree.chip(hpet.with(Property::snapshot(&self.onboard.hpet)));
        }
        if self.chips.pit {
            tree.chip(self.isa(&bus, timer, &[TIMER_IRQ]));
            tree.chip(self.isa(&bus, "isa-pcspk", &[]));
        }
        bus
    }

    /// Enters the chips after the serial ports, and the floppy drives; returns the path of their bus.
    pub fn enter_rest(&self, tree: &mut Tree, bus: &str, floppies: &mut [BoardDevice]) -> String {
        let props = &self.onboard.fdc;
        let controller = self
            .isa(bus, "isa-fdc", &[props.irq])
            .with(Property::snapshot(props))
            .with_child(FLOPPY_BUS, Object::new("floppy-bus"));
        let floppy_bus = format!("{}/{FLOPPY_BUS}", tree.chip(controller));
        for drive in floppies {
            drive.enter(tree, &floppy_bus);
        }
        if self.chips.i8042 {
            let props = &self.onboard.i8042;
            let irqs = [props.keyboard_irq, props.mouse_irq].map(u32::from);
            tree.chip(self.isa(bus, "i8042", &irqs).with(Property::snapshot(props)));
            if self.vmport {
                tree.chip(self.isa(bus, "vmport", &[]));
                tree.chip(self.isa(bus, "vmmouse", &[]));
            }
            tree.chip(self.isa(bus, "port92", &[]));
        }
        floppy_bus
    }

    /// What comes after the network cards.
    pub fn enter_last(&self, tree: &mut Tree) {
        if self.chips.acpi && self.smbus {
            tree.skip(EEPROMS);
        }
    }
}

/// Path of an IDE channel: the controller is a part of the same chip as the ISA bus.
pub(super) fn ide_channel(isa_bus: &str, channel: &str) -> String {
    format!("{}/ide/{channel}", isa_bus.trim_end_matches("/isa.0"))
}

/// Where a PCI device sits.
pub(super) fn address(slot: u8, function: u8) -> Property {
    Property::fixed("addr", "str", hw::pci::devfn(slot, function))
}
