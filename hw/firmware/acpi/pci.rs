//! The PCI tree: the root bridge, hotplug slots, and the controller that plugs and ejects.
//!
//! The controller has a bus selector, and for the selected bus bit masks of slots: inserted, to be removed, and (to
//! write) eject. A fourth register gives the label index of a slot's device.

use super::aml::Access::Dword;
use super::aml::Lock::NoLock;
use super::aml::Sync::{NotSerialized, Serialized};
use super::aml::Update::WriteAsZeros;
use super::aml::*;
use super::dsdt::{label_method, label_query};
use super::{PciBus, PciFunction, PciKind, isa};

/// Number of ports of the hotplug controller.
pub const HOTPLUG_PORTS: u8 = 0x18;

const SLOTS: u8 = 32;
const NOTIFY_CHECK: u64 = 1;
const NOTIFY_EJECT: u64 = 3;
/// `_DSM` function that returns a device's label.
const LABEL_FUNCTION: u64 = 7;

/// The root bridge's identity. `EDSM` serves devices whose label index is known to the table.
pub fn root(uid: u8) -> Aml {
    let (result, label) = (local(0), local(1));
    let query = label_query([store(int(0x81), index(result.clone(), int(0)))]);
    let answer = when(
        equal(arg(2), int(LABEL_FUNCTION)),
        [
            store(package([int(0), string("")]), result.clone()),
            store(deref_of(index(arg(4), int(0))), label.clone()),
            store(label, index(result.clone(), int(0))),
            ret(result),
        ],
    );
    device(
        "PCI0",
        [
            name("_HID", eisa_id("PNP0A03")),
            name("_UID", int(uid.into())),
            label_method("EDSM", [query, answer]),
        ],
    )
}

/// Registers and methods of the hotplug controller.
pub fn hotplug_controller(base: u16) -> Aml {
    use FieldUnit::Named;
    let registers = |region: &'static str, offset: u16, fields: &[FieldUnit]| {
        let length = 4 * fields.len() as u64;
        Aml::from_iter([
            operation_region(region, Space::Io, int(u64::from(base) + u64::from(offset)), length),
            field(region, Dword, NoLock, WriteAsZeros, fields),
        ])
    };
    scope(
        "_SB.PCI0",
        [
            registers("PCST", 0x00, &[Named("PCIU", 32), Named("PCID", 32)]),
            registers("SEJ", 0x08, &[Named("B0EJ", 32)]),
            registers("BNMR", 0x10, &[Named("BNUM", 32), Named("PIDX", 32)]),
            mutex("BLCK"),
            // PCEJ (bus, slot): eject.
            method(
                "PCEJ",
                2,
                NotSerialized,
                [
                    acquire("BLCK"),
                    store(arg(0), "BNUM"),
                    store(shift_left(int(1), arg(1), nowhere()), "B0EJ"),
                    release("BLCK"),
                    ret(int(0)),
                ],
            ),
            // AIDX (bus, slot): label index.
            method(
                "AIDX",
                2,
                NotSerialized,
                [
                    acquire("BLCK"),
                    store(arg(0), "BNUM"),
                    store(shift_left(int(1), arg(1), nowhere()), "PIDX"),
                    store("PIDX", local(0)),
                    release("BLCK"),
                    ret(local(0)),
                ],
            ),
            slot_label_method(),
        ],
    )
}

/// `PDSM`: `_DSM` of a hotplug slot; its fifth argument is the package (bus, slot).
fn slot_label_method() -> Aml {
    let (result, functions, label) = (local(0), local(1), local(2));
    let argument = |n| deref_of(index(arg(4), int(n)));
    let read_label = || store(call("AIDX", [argument(0), argument(1)]), label.clone());
    let (no_device, no_label) =
        (|| equal(label.clone(), int(0xffff_ffff)), || equal(label.clone(), int(0)));
    let set = |bit: Aml| or(functions.clone(), bit, functions.clone());
    let query = label_query([
        store(int(0), functions.clone()),
        read_label(),
        when(
            not(or(no_label(), no_device(), nowhere())),
            [set(int(1)), set(shift_left(int(1), int(LABEL_FUNCTION), nowhere()))],
        ),
        store(functions.clone(), index(result.clone(), int(0))),
    ]);
    let answer = when(
        equal(arg(2), int(LABEL_FUNCTION)),
        [
            read_label(),
            store(empty_package(2), result.clone()),
            when(
                not(either(no_label(), no_device())),
                [
                    store(label.clone(), index(result.clone(), int(0))),
                    store(string(""), index(result.clone(), int(1))),
                ],
            ),
            ret(result.clone()),
        ],
    );
    label_method("PDSM", [query, answer])
}

fn function_name(devfn: u8) -> String {
    format!("S{devfn:02X}")
}

fn address(devfn: u8) -> Aml {
    name("_ADR", int(u64::from(devfn >> 3) << 16 | u64::from(devfn & 7)))
}

/// Contents of a bus: first what is plugged in, then its hotplug slots.
pub fn bus(bus: &PciBus) -> Vec<Aml> {
    let mut terms: Vec<Aml> = bus.functions.iter().map(function).collect();
    if let Some(number) = bus.hotplug_number {
        terms.push(name("BSEL", int(number.into())));
        for slot in 0..SLOTS {
            terms.extend(hotplug_slot(bus, slot));
        }
        terms.push(notify_method(bus));
    }
    terms
}

fn function(function: &PciFunction) -> Aml {
    let mut terms = vec![address(function.devfn)];
    match &function.kind {
        PciKind::Plain => {}
        PciKind::Display => {
            let full_power = ["_S1D", "_S2D", "_S3D"];
            terms.extend(full_power.map(|state| method(state, 0, NotSerialized, [ret(int(0))])));
        }
        PciKind::IsaBridge(devices) => {
            terms.extend(isa::devices(&function_name(function.devfn), devices));
        }
        PciKind::Bridge(secondary) => terms.extend(self::bus(secondary)),
    }
    device(&function_name(function.devfn), terms)
}

fn in_slot(bus: &PciBus, slot: u8) -> impl Iterator<Item = &PciFunction> {
    bus.functions.iter().filter(move |function| function.devfn >> 3 == slot)
}

/// An empty slot is a device of its own; a removable function gets its methods added.
fn hotplug_slot(bus: &PciBus, slot: u8) -> Vec<Aml> {
    if in_slot(bus, slot).next().is_none() {
        let devfn = slot << 3;
        return vec![device(
            &function_name(devfn),
            [address(devfn)].into_iter().chain(slot_methods(slot)),
        )];
    }
    let removable = in_slot(bus, slot).filter(|function| function.hotpluggable);
    removable.map(|function| scope(&function_name(function.devfn), slot_methods(slot))).collect()
}

fn slot_methods(slot: u8) -> [Aml; 4] {
    let arguments = local(0);
    [
        name("ASUN", int(slot.into())),
        method(
            "_DSM",
            4,
            Serialized,
            [
                store(package([int(0), int(0)]), arguments.clone()),
                store("BSEL", index(arguments.clone(), int(0))),
                store("ASUN", index(arguments.clone(), int(1))),
                ret(call("PDSM", [arg(0), arg(1), arg(2), arg(3), arguments])),
            ],
        ),
        name("_SUN", int(slot.into())),
        method("_EJ0", 1, NotSerialized, [call("PCEJ", ["BSEL".into(), "_SUN".into()])]),
    ]
}

/// `DVNT (slots, event)`: notifies the slots of a mask, once for each function that can go.
fn notify_method(bus: &PciBus) -> Aml {
    let mut branches = Vec::new();
    for slot in 0..SLOTS {
        let empty = in_slot(bus, slot).next().is_none();
        let removable = in_slot(bus, slot).filter(|function| function.hotpluggable).count();
        for _ in 0..removable + usize::from(empty) {
            let chosen = and(arg(0), int(1 << slot), nowhere());
            branches.push(when(chosen, [notify(&function_name(slot << 3), arg(1))]));
        }
    }
    method("DVNT", 2, NotSerialized, branches)
}

/// `PCNT` of a bus and all buses behind it: notifies of everything that the controller reports.
pub fn notification(bus: &PciBus) -> Vec<Aml> {
    let mut terms = Vec::new();
    let mut behind = Vec::new();
    for function in &bus.functions {
        if let PciKind::Bridge(secondary) = &function.kind
            && has_hotplug(secondary)
        {
            let bridge = function_name(function.devfn);
            terms.push(scope(&bridge, notification(secondary)));
            behind.push(call(&format!("^{bridge}.PCNT"), []));
        }
    }
    let mut body = Vec::new();
    if let Some(number) = bus.hotplug_number {
        body.push(store(int(number.into()), "BNUM"));
        body.push(call("DVNT", ["PCIU".into(), int(NOTIFY_CHECK)]));
        body.push(call("DVNT", ["PCID".into(), int(NOTIFY_EJECT)]));
    }
    body.extend(behind);
    terms.push(method("PCNT", 0, NotSerialized, body));
    terms
}

fn has_hotplug(bus: &PciBus) -> bool {
    bus.hotplug_number.is_some()
        || bus.functions.iter().any(|function| match &function.kind {
            PciKind::Bridge(secondary) => has_hotplug(secondary),
            _ => false,
        })
}
