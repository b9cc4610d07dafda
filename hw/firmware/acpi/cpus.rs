//! CPUs as ACPI devices, and the controller through which they come and go.
//!
//! The controller (twelve ports) has a selector; flags and a command and data register speak of the selected CPU.
//! Command 0 finds the next CPU with an event, 1 and 2 take the event and status of `_OST`.

use super::Cpu;
use super::aml::Access::{Byte, Dword};
use super::aml::Lock::NoLock;
use super::aml::Sync::{NotSerialized, Serialized};
use super::aml::Update::{Preserve, WriteAsZeros};
use super::aml::*;
use super::{resources, tables};

const PORTS: u8 = 12;

const LOCK: &str = "\\_SB.PCI0.PRES.CPLK";
const SELECTOR: &str = "\\_SB.PCI0.PRES.CSEL";
const COMMAND: &str = "\\_SB.PCI0.PRES.CCMD";
const DATA: &str = "\\_SB.PCI0.PRES.CDAT";
const ENABLED: &str = "\\_SB.PCI0.PRES.CPEN";
const INSERTED: &str = "\\_SB.PCI0.PRES.CINS";
const REMOVING: &str = "\\_SB.PCI0.PRES.CRMV";
const EJECT: &str = "\\_SB.PCI0.PRES.CEJ0";

const NEXT_EVENT: u64 = 0;
const OST_EVENT: u64 = 1;
const OST_STATUS: u64 = 2;

const NOTIFY_CHECK: u64 = 1;
const NOTIFY_EJECT: u64 = 3;

/// The controller and the container of all CPUs.
pub fn container(cpus: &[Cpu], base: u16, numa: bool) -> Aml {
    let mut terms = vec![
        name("_HID", string("ACPI0010")),
        name("_CID", eisa_id("PNP0A05")),
        notify_method(cpus),
        status_method(),
        eject_method(),
        scan_method(cpus.len()),
        ost_method(),
    ];
    terms.extend(cpus.iter().enumerate().map(|(index, cpu)| processor_device(index, cpu, numa)));
    scope("_SB", [controller(base), device("\\_SB.CPUS", terms)])
}

fn controller(base: u16) -> Aml {
    use FieldUnit::{Named, Skip};
    let flags = [
        Skip(32),
        Named("CPEN", 1),
        Named("CINS", 1),
        Named("CRMV", 1),
        Named("CEJ0", 1),
        Named("CEJF", 1),
        Skip(3),
        Named("CCMD", 8),
    ];
    let registers = [Named("CSEL", 32), Skip(32), Named("CDAT", 32)];
    device(
        "\\_SB.PCI0.PRES",
        [
            name("_HID", eisa_id("PNP0A06")),
            name("_UID", string("CPU Hotplug resources")),
            mutex("CPLK"),
            name("_CRS", resources::template([resources::io(base, 1, PORTS)])),
            operation_region("PRST", Space::Io, int(base.into()), PORTS.into()),
            field("PRST", Byte, NoLock, WriteAsZeros, &flags),
            field("PRST", Dword, NoLock, Preserve, &registers),
            method("_INI", 0, Serialized, [store(int(0), "CSEL")]),
        ],
    )
}

fn device_name(index: usize) -> String {
    format!("C{index:03X}")
}

fn locked(body: impl IntoIterator<Item = Aml>) -> impl Iterator<Item = Aml> {
    [acquire(LOCK)].into_iter().chain(body).chain([release(LOCK)])
}

/// `CTFY (cpu, event)`: tell the operating system.
fn notify_method(cpus: &[Cpu]) -> Aml {
    let branches = (0..cpus.len())
        .map(|index| when(equal(arg(0), int(index as u64)), [notify(&device_name(index), arg(1))]));
    method("CTFY", 2, NotSerialized, branches)
}

/// `CSTA (cpu)`: its `_STA`.
fn status_method() -> Aml {
    let body = [
        store(arg(0), SELECTOR),
        store(int(0), local(0)),
        when(equal(ENABLED, int(1)), [store(int(0x0f), local(0))]),
    ];
    method("CSTA", 1, Serialized, locked(body).chain([ret(local(0))]))
}

fn eject_method() -> Aml {
    method("CEJ0", 1, Serialized, locked([store(arg(0), SELECTOR), store(int(1), EJECT)]))
}

/// `COST (cpu, event, status)`: passes `_OST` on to the machine.
fn ost_method() -> Aml {
    let body = [
        store(arg(0), SELECTOR),
        store(int(OST_EVENT), COMMAND),
        store(arg(1), DATA),
        store(int(OST_STATUS), COMMAND),
        store(arg(2), DATA),
    ];
    method("COST", 4, Serialized, locked(body))
}

/// `CSCN`: collects the CPUs with events, then notifies. Packages hold at most 255 elements, so that with more events
/// the whole is repeated.
fn scan_method(cpu_count: usize) -> Aml {
    const BATCH: u8 = 0xff;
    let found = || local(0);
    let (new_count, eject_count) = (|| local(1), || local(5));
    let position = || local(2);
    let cpu = || local(3);
    let again = || local(4);

    // Enters the selected CPU in a list and keeps searching.
    let collect = |flag: &str, list: &str, count: &dyn Fn() -> Aml| {
        let entry =
            [store(cpu(), index(list, count())), increment(count()), store(int(1), found())];
        when(equal(flag, int(1)), entry)
    };
    let search = repeat_while(
        both(equal(found(), int(1)), less(cpu(), int(cpu_count as u64))),
        [
            store(int(0), found()),
            store(cpu(), SELECTOR),
            store(int(NEXT_EVENT), COMMAND),
            // The search has wrapped round.
            when(less(DATA, cpu()), [leave()]),
            when(
                either(
                    equal(new_count(), int(BATCH.into())),
                    equal(eject_count(), int(BATCH.into())),
                ),
                [store(int(1), again()), leave()],
            ),
            store(DATA, cpu()),
            collect(INSERTED, "CNEW", &new_count),
            collect(REMOVING, "CEJL", &eject_count),
            increment(cpu()),
        ],
    );
    // Notifies of each CPU in a list and acknowledges its event.
    let report = |list: &str, count: Aml, event: u64, flag: &str, trace: Option<Aml>| {
        let head =
            [store(deref_of(index(list, position())), cpu()), call("CTFY", [cpu(), int(event)])];
        let tail = [store(cpu(), SELECTOR), store(int(1), flag), increment(position())];
        let body = head.into_iter().chain(trace).chain(tail);
        [store(int(0), position()), repeat_while(less(position(), count), body)]
    };
    let start = [
        store(int(0), again()),
        store(int(1), found()),
        store(int(0), new_count()),
        store(int(0), eject_count()),
        search,
    ];
    let new = report("CNEW", new_count(), NOTIFY_CHECK, INSERTED, Some(store(cpu(), debug())));
    let gone = report("CEJL", eject_count(), NOTIFY_EJECT, REMOVING, None);
    let round = start.into_iter().chain(new).chain(gone);
    let body = [
        name("CNEW", empty_package(BATCH)),
        name("CEJL", empty_package(BATCH)),
        store(int(0), cpu()),
        store(int(1), again()),
        repeat_while(equal(again(), int(1)), round),
    ];
    method("CSCN", 0, Serialized, locked(body))
}

/// One CPU. Those whose identifiers do not fit a `Processor` object are processor devices.
fn processor_device(index: usize, cpu: &Cpu, numa: bool) -> Aml {
    let number = int(index as u64);
    let mut terms = vec![
        method("_STA", 0, Serialized, [ret(call("CSTA", [number.clone()]))]),
        name("_MAT", buffer(&tables::madt_cpu(index as u32, cpu.apic_id, true))),
    ];
    if cpu.removable {
        terms.push(method("_EJ0", 1, NotSerialized, [call("CEJ0", [number.clone()])]));
    }
    let status = call("COST", [number.clone(), arg(0), arg(1), arg(2)]);
    terms.push(method("_OST", 3, Serialized, [status]));
    if numa {
        terms.push(name("_PXM", int(cpu.node.unwrap_or(0).into())));
    }
    match u8::try_from(index) {
        Ok(id) if cpu.apic_id < 0xff => processor(&device_name(index), id, terms),
        _ => {
            let identity = [name("_HID", string("ACPI0007")), name("_UID", number)];
            device(&device_name(index), identity.into_iter().chain(terms))
        }
    }
}
