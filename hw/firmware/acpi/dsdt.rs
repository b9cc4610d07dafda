//! The differentiated system description table: what operating systems cannot find out by probing.

use super::aml::Access::{Byte, Dword};
use super::aml::Lock::NoLock;
use super::aml::Sync::{NotSerialized, Serialized};
use super::aml::Update::Preserve;
use super::aml::{self, *};
use super::resources::{self, Window};
use super::{Board, PowerManagement, cpus, isa, pci};

/// Body of the table, without header.
pub fn build(board: &Board) -> Vec<u8> {
    let mut terms = vec![debug_port()];
    terms.push(scope("_SB", [pci::root(board.pci_root_uid)]));
    if let Some(base) = board.pci_hotplug {
        terms.push(pci::hotplug_controller(base));
    }
    terms.push(isa::interrupt_links(board.power.sci_irq));
    if board.hpet {
        terms.push(hpet());
    }
    terms.push(scope("_GPE", [name("_HID", string("ACPI0006"))]));
    if let Some(base) = board.cpu_hotplug {
        terms.push(cpus::container(&board.cpus, base, board.numa.is_some()));
        terms.push(method("\\_GPE._E02", 0, NotSerialized, [call("\\_SB.CPUS.CSCN", [])]));
    }
    terms.push(root_resources(board));
    terms.push(sleep_states(&board.power));
    if let Some(base) = board.fw_cfg {
        terms.push(scope("\\_SB.PCI0", [fw_cfg(base)]));
    }
    terms.push(scope("\\_SB", [scope("PCI0", pci::bus(&board.pci))]));
    if board.pci_hotplug.is_some() {
        terms.push(scope("\\_SB.PCI0", pci::notification(&board.pci)));
        terms.push(scope(
            "_GPE",
            [method(
                "_E01",
                0,
                NotSerialized,
                [
                    acquire("\\_SB.PCI0.BLCK"),
                    call("\\_SB.PCI0.PCNT", []),
                    release("\\_SB.PCI0.BLCK"),
                ],
            )],
        ));
    }
    Aml::from_iter(terms).into_bytes()
}

/// Text from AML goes to firmware's debug port, where nothing listens by default.
fn debug_port() -> Aml {
    let (text, length, position) = (local(0), local(1), local(2));
    scope(
        "\\",
        [
            operation_region("DBG", Space::Io, int(0x402), 1),
            field("DBG", Byte, NoLock, Preserve, &[FieldUnit::Named("DBGB", 8)]),
            method(
                "DBUG",
                1,
                NotSerialized,
                [
                    to_hex_string(arg(0), text.clone()),
                    to_buffer(text.clone(), text.clone()),
                    subtract(size_of(text.clone()), int(1), length.clone()),
                    store(int(0), position.clone()),
                    repeat_while(
                        less(position.clone(), length),
                        [
                            store(deref_of(index(text, position.clone())), "DBGB"),
                            increment(position),
                        ],
                    ),
                    store(int(0x0a), "DBGB"),
                ],
            ),
        ],
    )
}

/// The timer is there if its vendor and period registers say so.
fn hpet() -> Aml {
    const BASE: u32 = 0xfed0_0000;
    const LENGTH: u32 = 0x400;
    const SLOWEST_PERIOD_FS: u64 = 100_000_000;
    let (vendor, period) = (local(0), local(1));
    let absent_if = |condition| when(condition, [ret(int(0))]);
    let status = [
        store("VEND", vendor.clone()),
        store("PRD", period.clone()),
        shift_right(vendor.clone(), int(16), vendor.clone()),
        absent_if(either(equal(vendor.clone(), int(0)), equal(vendor, int(0xffff)))),
        absent_if(either(equal(period.clone(), int(0)), greater(period, int(SLOWEST_PERIOD_FS)))),
        ret(int(0x0f)),
    ];
    let fields = [FieldUnit::Named("VEND", 32), FieldUnit::Named("PRD", 32)];
    scope(
        "_SB",
        [device(
            "HPET",
            [
                name("_HID", eisa_id("PNP0103")),
                name("_UID", int(0)),
                operation_region("HPTM", Space::Memory, int(BASE.into()), LENGTH.into()),
                field("HPTM", Dword, aml::Lock::Lock, Preserve, &fields),
                method("_STA", 0, NotSerialized, status),
                name("_CRS", resources::template([resources::memory32_fixed(BASE, LENGTH)])),
            ],
        )],
    )
}

/// What the host bridge passes on to PCI, and the ports of the controllers that sit beside it.
fn root_resources(board: &Board) -> Aml {
    const CONFIG_PORTS: u16 = 0xcf8;
    let mut windows = vec![
        resources::bus_numbers(0, 0xff),
        resources::io(CONFIG_PORTS, 1, 8),
        resources::io_window(0, CONFIG_PORTS - 1),
        resources::io_window(CONFIG_PORTS + 8, 0xffff),
        resources::memory32_window(Window::CacheableMemory, 0xa_0000, 0xb_ffff),
        resources::memory32_window(Window::Memory, board.pci_window.0, board.pci_window.1),
    ];
    if let Some((first, last)) = board.pci_window64 {
        windows.push(resources::memory64_window(Window::CacheableMemory, first, last));
    }
    let (gpe_base, gpe_length) = board.power.gpe;
    let mut terms = vec![
        name("_CRS", resources::template(windows)),
        reserved_ports("GPE0", "GPE0 resources", gpe_base, gpe_length),
    ];
    if let Some(base) = board.pci_hotplug {
        terms.push(reserved_ports("PHPR", "PCI Hotplug resources", base, pci::HOTPLUG_PORTS));
    }
    scope("\\_SB.PCI0", terms)
}

/// A device that only keeps others off its ports. It is present but not shown to people.
fn reserved_ports(device_name: &str, title: &str, base: u16, length: u8) -> Aml {
    device(
        device_name,
        [
            name("_HID", string("PNP0A06")),
            name("_UID", string(title)),
            name("_STA", int(0x0b)),
            name("_CRS", resources::template([resources::io(base, 1, length)])),
        ],
    )
}

/// The values for the sleep type field of the PM1 control register.
fn sleep_states(power: &PowerManagement) -> Aml {
    let state = |state: &str, sleep_type: u8| {
        let sleep_type = int(sleep_type.into());
        name(state, package([sleep_type.clone(), sleep_type, int(0), int(0)]))
    };
    let s3 = power.s3.then(|| state("_S3", 1));
    let s4 = power.s4.map(|sleep_type| state("_S4", sleep_type));
    scope("\\", s3.into_iter().chain(s4).chain([state("_S5", 0)]))
}

fn fw_cfg(base: u16) -> Aml {
    device(
        "FWCF",
        [
            name("_HID", string("QEMU0002")),
            name("_STA", int(0x0b)),
            name("_CRS", resources::template([resources::io(base, 1, 12)])),
        ],
    )
}

/// Body of the table that announces the generation identifier, and the offset in it of the number that has to become
/// the address of the identifier's page. (Microsoft, "Virtual Machine Generation ID".)
pub fn generation_id() -> (Vec<u8>, u32) {
    let result = local(0);
    let status = [
        store(int(0x0f), result.clone()),
        when(equal("VGIA", int(0)), [store(int(0), result.clone())]),
        ret(result.clone()),
    ];
    // Low and high half of the address.
    let address = [
        store(empty_package(2), result.clone()),
        store(
            add("VGIA", int(super::GENERATION_ID_OFFSET.into()), nowhere()),
            index(result.clone(), int(0)),
        ),
        store(int(0), index(result.clone(), int(1))),
        ret(result),
    ];
    let generation = device(
        "VGEN",
        [
            name("_HID", string("QEMUVGID")),
            name("_CID", string("VM_Gen_Counter")),
            name("_DDN", string("VM_Gen_Counter")),
            method("_STA", 0, NotSerialized, status),
            method("ADDR", 0, NotSerialized, address),
        ],
    );
    let page = name("VGIA", dword(0));
    let address_at = page.clone().into_bytes().len() as u32 - 4;
    let terms = [
        page,
        scope("\\_SB", [generation]),
        method("\\_GPE._E05", 0, NotSerialized, [notify("\\_SB.VGEN", int(0x80))]),
    ];
    (Aml::from_iter(terms).into_bytes(), address_at)
}

/// `_DSM` function 0 ("which functions are there?") answers for the device labelling interface only, from its second
/// revision on. The answer is a buffer in `Local0`, none by default, that `found` fills.
pub(super) fn label_query(found: impl IntoIterator<Item = Aml>) -> Aml {
    const DEVICE_LABELING: (u32, u16, u16, [u8; 8]) =
        (0xe5c9_37d0, 0x3553, 0x4d7a, [0x91, 0x17, 0xea, 0x4d, 0x19, 0xc3, 0x43, 0x4d]);
    let answer = local(0);
    let head = [
        store(buffer(&[0]), answer.clone()),
        when(not(equal(arg(0), uuid(DEVICE_LABELING))), [ret(answer.clone())]),
        when(less(arg(1), int(2)), [ret(answer.clone())]),
    ];
    when(equal(arg(2), int(0)), head.into_iter().chain(found).chain([ret(answer)]))
}

/// A serialised helper method of five arguments: those of `_DSM`, and a package that says which device is meant.
pub(super) fn label_method(method_name: &str, body: impl IntoIterator<Item = Aml>) -> Aml {
    method(method_name, 5, Serialized, body)
}
