//! The ISA bridge: legacy devices, and the routing of PCI interrupts to ISA lines.

use super::aml::Access::Byte;
use super::aml::Lock::NoLock;
use super::aml::Sync::{NotSerialized, Serialized};
use super::aml::Update::Preserve;
use super::aml::*;
use super::resources::{self, Resource};
use super::{FloppyDrive, IsaDevices, LegacyPort};

/// ISA lines that the four PCI interrupts may be routed to.
const PCI_LINES: [u32; 3] = [5, 10, 11];
const LINK_NAMES: [&str; 4] = ["LNKA", "LNKB", "LNKC", "LNKD"];
/// Routing registers of the PIIX, one a link: the line, or bit 7 for "off".
const ROUTE_REGISTERS: u64 = 0x60;
const ROUTES: [&str; 4] = ["PRQ0", "PRQ1", "PRQ2", "PRQ3"];
const ROUTE_OFF: u64 = 0x80;

const PRESENT_SHOWN: u64 = 0x0f;
const PRESENT_HIDDEN: u64 = 0x0b;
const DISABLED_HIDDEN: u64 = 0x09;

/// `_PRT` and the link devices it names.
pub fn interrupt_links(sci_irq: u8) -> Aml {
    let mut terms = vec![scope("PCI0", [routing_table()]), link_status(), link_current()];
    terms.extend(
        LINK_NAMES.iter().enumerate().map(|(link, device_name)| link_device(link, device_name)),
    );
    terms.push(sci_link(sci_irq));
    scope("_SB", terms)
}

/// Slots take the four links in turn, shifted by one from slot to slot. Pin A of slot 1 is the power management
/// function, whose interrupt is the SCI.
fn routing_table() -> Aml {
    let entries = (0..32u64).flat_map(|slot| {
        (0..4u64).map(move |pin| {
            let link = match (slot, pin) {
                (1, 0) => "LNKS",
                _ => LINK_NAMES[((slot + pin + 3) % 4) as usize],
            };
            package([int(slot << 16 | 0xffff), int(pin), link.into(), int(0)])
        })
    });
    method("_PRT", 0, NotSerialized, [ret(package(entries))])
}

/// `IQST (route)`: `_STA` of a link.
fn link_status() -> Aml {
    method(
        "IQST",
        1,
        NotSerialized,
        [
            when(and(int(ROUTE_OFF), arg(0), nowhere()), [ret(int(DISABLED_HIDDEN))]),
            ret(int(PRESENT_HIDDEN)),
        ],
    )
}

/// `IQCR (route)`: `_CRS` of a link.
fn link_current() -> Aml {
    method(
        "IQCR",
        1,
        Serialized,
        [
            name("PRR0", resources::template([resources::interrupts(&[0])])),
            create_dword_field("PRR0", resources::INTERRUPTS_NUMBER, "PRRI"),
            when(less(arg(0), int(ROUTE_OFF)), [store(arg(0), "PRRI")]),
            ret("PRR0"),
        ],
    )
}

fn link_device(link: usize, device_name: &str) -> Aml {
    let route = ROUTES[link];
    device(
        device_name,
        [
            name("_HID", eisa_id("PNP0C0F")),
            name("_UID", int(link as u64)),
            name("_PRS", resources::template([resources::interrupts(&PCI_LINES)])),
            method("_STA", 0, NotSerialized, [ret(call("IQST", [route.into()]))]),
            method("_DIS", 0, NotSerialized, [or(route, int(ROUTE_OFF), route)]),
            method("_CRS", 0, NotSerialized, [ret(call("IQCR", [route.into()]))]),
            method(
                "_SRS",
                1,
                NotSerialized,
                [
                    create_dword_field(arg(0), resources::INTERRUPTS_NUMBER, "PRRI"),
                    store("PRRI", route),
                ],
            ),
        ],
    )
}

/// The link that cannot be changed.
fn sci_link(sci_irq: u8) -> Aml {
    device(
        "LNKS",
        [
            name("_HID", eisa_id("PNP0C0F")),
            name("_UID", int(LINK_NAMES.len() as u64)),
            name("_PRS", resources::template([resources::interrupts(&[sci_irq.into()])])),
            method("_STA", 0, NotSerialized, [ret(int(PRESENT_HIDDEN))]),
            method("_DIS", 0, NotSerialized, []),
            method("_CRS", 0, NotSerialized, [ret("_PRS")]),
            method("_SRS", 1, NotSerialized, []),
        ],
    )
}

/// Contents of the ISA bridge's device.
pub fn devices(bridge: &str, isa: &IsaDevices) -> Vec<Aml> {
    let routes = ROUTES.map(|route| FieldUnit::Named(route, 8));
    let mut terms = vec![
        operation_region("P40C", Space::PciConfig, int(ROUTE_REGISTERS), ROUTES.len() as u64),
        scope("\\_SB", [field(&format!("PCI0.{bridge}.P40C"), Byte, NoLock, Preserve, &routes)]),
    ];
    terms.extend(isa.pvpanic.map(pvpanic));
    if isa.keyboard {
        let keyboard = [resources::io(0x60, 1, 1), resources::io(0x64, 1, 1), resources::irq(1)];
        terms.push(legacy_device("KBD", "PNP0303", None, true, keyboard));
        terms.push(legacy_device("MOU", "PNP0F13", None, true, [resources::irq(12)]));
    }
    terms.extend(isa.floppy.map(floppy_controller));
    let port_resources = |port: &LegacyPort, alignment| {
        [resources::io(port.io_base, alignment, 8), resources::irq(port.irq)]
    };
    for port in &isa.parallel {
        let device_name = format!("LPT{}", port.number);
        terms.push(legacy_device(
            &device_name,
            "PNP0400",
            Some(port.number),
            true,
            port_resources(port, 8),
        ));
    }
    for port in &isa.serial {
        let device_name = format!("COM{}", port.number);
        terms.push(legacy_device(
            &device_name,
            "PNP0501",
            Some(port.number),
            true,
            port_resources(port, 0),
        ));
    }
    if isa.rtc {
        let clock = [resources::io(0x70, 1, 8), resources::irq(8)];
        terms.push(legacy_device("RTC", "PNP0B00", None, false, clock));
    }
    terms
}

fn legacy_device(
    device_name: &str,
    id: &str,
    uid: Option<u8>,
    status: bool,
    current: impl IntoIterator<Item = Resource>,
) -> Aml {
    let mut terms = vec![name("_HID", eisa_id(id))];
    terms.extend(uid.map(|uid| name("_UID", int(uid.into()))));
    terms.extend(status.then(|| name("_STA", int(PRESENT_SHOWN))));
    terms.push(name("_CRS", resources::template(current)));
    device(device_name, terms)
}

/// The panic event device: one port, read for the events it knows and written to report one.
fn pvpanic(port: u16) -> Aml {
    device(
        "PEVT",
        [
            name("_HID", string("QEMU0001")),
            name("_CRS", resources::template([resources::io(port, 1, 1)])),
            operation_region("PEOR", Space::Io, int(port.into()), 1),
            field("PEOR", Byte, NoLock, Preserve, &[FieldUnit::Named("PEPT", 8)]),
            name("_STA", int(PRESENT_SHOWN)),
            method("RDPT", 0, NotSerialized, [store("PEPT", local(0)), ret(local(0))]),
            method("WRPT", 1, NotSerialized, [store(arg(0), "PEPT")]),
        ],
    )
}

fn floppy_controller(drives: [Option<FloppyDrive>; 2]) -> Aml {
    let current = [
        resources::io(0x3f2, 0, 4),
        resources::io(0x3f7, 0, 1),
        resources::irq(6),
        resources::dma(2),
    ];
    let mut terms =
        vec![name("_HID", eisa_id("PNP0700")), name("_CRS", resources::template(current))];
    let present = |drive: usize| drives.get(drive).is_some_and(Option::is_some);
    terms.extend(drives.iter().zip(["FLPA", "FLPB"]).enumerate().filter_map(
        |(number, (drive, device_name))| {
            drive.map(|drive| {
                device(
                    device_name,
                    [
                        name("_ADR", int(number as u64)),
                        name("_FDI", drive_information(number, drive)),
                    ],
                )
            })
        },
    ));
    // _FDE: presence of four drives, then of a tape drive (2: never).
    let presence = [present(0).into(), present(1).into(), 0u32, 0, 2];
    let bytes: Vec<u8> = presence.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    terms.push(name("_FDE", buffer(&bytes)));
    device("FDC0", terms)
}

/// `_FDI` (ACPI 6.4, 9.9.2): the geometry, then the parameters of the BIOS's diskette table: step rate and head load
/// time, motor wait, bytes a sector (2: 512), last sector, gap, data length, format gap and fill byte, head settle
/// time, motor start time.
fn drive_information(number: usize, drive: FloppyDrive) -> Aml {
    let (cylinders, sectors, heads) = drive.geometry;
    let geometry = [number as u8, drive.kind, cylinders, sectors, heads];
    let timing = [0xaf, 0x02, 0x25, 0x02, 0x12, 0x1b, 0xff, 0x6c, 0xf6, 0x0f, 0x08];
    package(geometry.into_iter().chain(timing).map(|byte| int(byte.into())))
}
