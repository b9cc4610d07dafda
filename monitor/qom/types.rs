//! The types of objects there are: what `qom-list-types` and its kin tell.
//!
//! Everything that can be made comes from the registry that makes it, so that no type is promised
//! that is missing.

use base::chardev::BACKENDS;
use base::memory::backend::{self, Backend};
use base::props::{PropSpec, Props, Value};
use cpu::accel::{KvmProps, TcgProps};
use cpu::cpuid::{self, Model};
use hw::registry;
use machine::credentials;
use machine::io_threads::IoThreadProps;
use machine::machines::{Kind, MACHINES};
use machine::objects;
use machine::pc::onboard;
use machine::throttle_groups;
use net::filter::{self, FilterKind};

/// A type.
pub(crate) struct TypeInfo {
    pub name: String,
    pub parent: &'static str,
    pub is_abstract: bool,
    properties: Properties,
}

enum Properties {
    None,
    Specs(Vec<PropSpec>),
    Cpu(&'static str),
}

/// A property of a type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TypeProperty {
    pub name: String,
    pub type_name: String,
    pub description: Option<String>,
    pub default: Option<Value>,
}

/// Types that exist to be the parents of others.
const ABSTRACT: &[(&str, &str)] = &[
    ("accel", "object"),
    ("apic-common", "device"),
    ("bus", "object"),
    ("chardev", "object"),
    ("chardev-fd", "chardev"),
    ("cpu", "device"),
    ("device", "object"),
    ("event-loop-base", "object"),
    ("secret_common", "object"),
    ("tls-creds", "object"),
    ("fw_cfg", "sys-bus-device"),
    ("generic-pc-machine", "x86-machine"),
    ("ide-device", "device"),
    ("ioapic-common", "sys-bus-device"),
    ("isa-device", "device"),
    ("machine", "object"),
    ("memory-backend", "object"),
    ("object", ""),
    ("pci-device", "device"),
    ("pci-host-bridge", "sys-bus-device"),
    ("pci-ide", "pci-device"),
    ("pci-piix", "pci-device"),
    ("pic-common", "isa-device"),
    ("pit-common", "isa-device"),
    ("sys-bus-device", "device"),
    ("x86-machine", "machine"),
    ("x86_64-cpu", "cpu"),
    ("usb-device", "device"),
    ("usb-hid", "usb-device"),
    ("virtio-blk-pci-base", "virtio-pci"),
    ("dynamic-sysbus-device", "sys-bus-device"),
    ("e1000-base", "pci-device"),
    ("netfilter", "object"),
    ("pci-uhci-usb", "pci-device"),
    ("pci-vga", "pci-device"),
    ("virtio-gpu-pci-base", "virtio-pci"),
    ("virtio-gpu-pci-base-type", "virtio-gpu-pci-base"),
    ("pci-xhci", "pci-device"),
    ("virtio-input-hid-pci", "virtio-input-pci"),
    ("virtio-input-pci", "virtio-pci"),
    ("virtio-keyboard-pci-base-type", "virtio-input-hid-pci"),
    ("virtio-mouse-pci-base-type", "virtio-input-hid-pci"),
    ("virtio-net-pci-base", "virtio-pci"),
    ("virtio-tablet-pci-base-type", "virtio-input-hid-pci"),
    ("virtio-pci", "pci-device"),
    ("virtio-vga-base", "virtio-pci"),
    ("virtio-vga-base-type", "virtio-vga-base"),
];

/// Parts of machines, which nobody adds by name.
const PARTS: &[(&str, &str)] = &[
    ("IDE", "bus"),
    ("ISA", "bus"),
    ("PCI", "bus"),
    ("PIIX3", "pci-piix"),
    ("PIIX4_PM", "pci-device"),
    ("System", "bus"),
    ("apic", "apic-common"),
    ("container", "object"),
    ("floppy-bus", "bus"),
    ("fw_cfg_io", "fw_cfg"),
    ("hpet", "sys-bus-device"),
    ("i440FX", "pci-device"),
    ("i440FX-pcihost", "pci-host-bridge"),
    ("i8042", "isa-device"),
    ("i8257", "isa-device"),
    ("ioapic", "ioapic-common"),
    ("isa-fdc", "isa-device"),
    ("isa-i8259", "pic-common"),
    ("isa-pcspk", "isa-device"),
    ("isa-pit", "pit-common"),
    ("kvm-apic", "apic-common"),
    ("kvm-i8259", "pic-common"),
    ("kvm-ioapic", "ioapic-common"),
    ("kvm-pit", "pit-common"),
    ("mc146818rtc", "isa-device"),
    ("piix3-ide", "pci-ide"),
    ("port92", "isa-device"),
    ("usb-bus", "bus"),
    ("vmmouse", "isa-device"),
    ("vmport", "isa-device"),
];

/// Character devices that stand on a descriptor.
const ON_DESCRIPTORS: &[&str] = &["file", "pipe", "serial", "stdio"];

/// The parent of processor models, and that of the host's.
const CPU: &str = "x86_64-cpu";
const MAX_CPU: &str = "max-x86_64-cpu";

/// What every device has.
const DEVICE_PROPERTIES: &[(&str, &str)] = &[
    ("parent_bus", "link<bus>"),
    ("realized", "bool"),
    ("hotplugged", "bool"),
    ("hotpluggable", "bool"),
];

/// All types.
pub(crate) fn all() -> Vec<TypeInfo> {
    let ancestor = |&(name, parent): &(&str, &'static str)| TypeInfo {
        name: name.into(),
        parent,
        is_abstract: true,
        properties: Properties::None,
    };
    let mut types: Vec<_> = ABSTRACT.iter().map(ancestor).collect();
    let concrete = |name: String, parent: &'static str, specs: Vec<PropSpec>| TypeInfo {
        name,
        parent,
        is_abstract: false,
        properties: Properties::Specs(specs),
    };
    for &(name, parent) in PARTS {
        types.push(concrete(name.into(), parent, onboard::specs(name).to_vec()));
    }
    for device in registry::all() {
        types.push(concrete(device.name.into(), device.parent, device.specs().to_vec()));
    }
    for machine in MACHINES {
        let parent = match machine.kind {
            Kind::Pc(..) => "generic-pc-machine",
            Kind::None => "machine",
        };
        types.push(concrete(machine.type_name(), parent, machine.specs()));
    }
    types.push(concrete("tcg-accel".into(), "accel", TcgProps::specs().to_vec()));
    types.push(concrete("kvm-accel".into(), "accel", KvmProps::specs().to_vec()));
    types.push(concrete("qtest-accel".into(), "accel", Vec::new()));
    for name in backend::TYPES {
        let specs = Backend::new(name).map(|backend| backend.specs()).unwrap_or_default();
        let specs = specs.iter().map(objects::listed).collect();
        types.push(concrete(name.into(), "memory-backend", specs));
    }
    let specs = IoThreadProps::specs().iter().map(objects::listed).collect();
    types.push(concrete(objects::IO_THREAD.into(), "event-loop-base", specs));
    let specs = throttle_groups::SPECS.to_vec();
    types.push(concrete(throttle_groups::THROTTLE_GROUP.into(), "object", specs));
    for name in [credentials::SECRET, credentials::TLS_X509] {
        let specs = credentials::specs(name).unwrap_or_default();
        let parent = if name == credentials::SECRET { "secret_common" } else { "tls-creds" };
        types.push(concrete(name.into(), parent, specs.iter().map(objects::listed).collect()));
    }
    for kind in filter::TYPES.into_iter().filter_map(FilterKind::new) {
        types.push(concrete(kind.type_name().into(), "netfilter", kind.specs()));
    }
    for name in BACKENDS {
        let parent = if ON_DESCRIPTORS.contains(name) { "chardev-fd" } else { "chardev" };
        types.push(concrete(format!("chardev-{name}"), parent, Vec::new()));
    }
    for model in cpu_models() {
        types.push(TypeInfo {
            name: format!("{model}-x86_64-cpu"),
            parent: if model == "host" { MAX_CPU } else { CPU },
            is_abstract: false,
            properties: Properties::Cpu(model),
        });
    }
    types
}

/// The names of all processor models.
fn cpu_models() -> impl Iterator<Item = &'static str> {
    let named = cpuid::names().into_iter().map(|(name, _)| name);
    ["base", "host", "max"].into_iter().chain(named)
}

/// The type of this name.
pub(crate) fn find(name: &str) -> Option<TypeInfo> {
    all().into_iter().find(|info| info.name == name)
}

/// Whether a type is another one, or descends from it.
pub(crate) fn is_a(name: &str, parent: &str, ancestor: &str) -> bool {
    if name == ancestor || parent == ancestor {
        return true;
    }
    let known = ABSTRACT.iter().chain(&[(MAX_CPU, CPU)]).find(|(known, _)| *known == parent);
    known.is_some_and(|(known, next)| is_a(known, next, ancestor))
}

fn property(name: &str, type_name: &str) -> TypeProperty {
    TypeProperty {
        name: name.into(),
        type_name: type_name.into(),
        description: None,
        default: None,
    }
}

impl TypeInfo {
    /// Whether it is this type, or descends from it.
    pub fn is_a(&self, ancestor: &str) -> bool {
        is_a(&self.name, self.parent, ancestor)
    }

    /// The type's own properties, as `device-list-properties` has them.
    pub fn own_properties(&self) -> Vec<TypeProperty> {
        match &self.properties {
            Properties::None => Vec::new(),
            Properties::Specs(specs) => specs
                .iter()
                .map(|spec| TypeProperty {
                    description: Some(spec.help).filter(|help| !help.is_empty()).map(Into::into),
                    default: spec.default.clone(),
                    ..property(spec.name, spec.type_name)
                })
                .collect(),
            Properties::Cpu(model) => {
                let definition = cpuid::find(model);
                let model = definition.map_or_else(Model::default, |found| found.model.clone());
                let entries = model.properties(None);
                let own = entries.iter().map(|(name, type_name, _)| property(name, type_name));
                let rest = [
                    property("unavailable-features", "strList"),
                    property("feature-words", "X86CPUFeatureWordInfo"),
                    property("filtered-features", "X86CPUFeatureWordInfo"),
                ];
                own.chain(rest).collect()
            }
        }
    }

    /// All properties, also those of its ancestors.
    pub fn properties(&self) -> Vec<TypeProperty> {
        let mut all = vec![property("type", "string")];
        if self.is_a("device") {
            all.extend(DEVICE_PROPERTIES.iter().map(|(name, kind)| property(name, kind)));
        }
        let own = match self.name.as_str() {
            // What all PCs have is what the newest has.
            "generic-pc-machine" => find("pc-i440fx-10.0-machine").map(|pc| pc.own_properties()),
            // And what all machines have is what the empty one has.
            "machine" => find("none-machine").map(|none| none.own_properties()),
            _ => Some(self.own_properties()),
        };
        for property in own.unwrap_or_default() {
            // The type's own word counts.
            all.retain(|known| known.name != property.name);
            all.push(property);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn types_are_unique_and_descend_from_known_ones() {
        let types = all();
        let names: HashSet<&str> = types.iter().map(|info| info.name.as_str()).collect();
        assert_eq!(names.len(), types.len());
        for info in &types {
            assert!(info.name == "object" || names.contains(info.parent), "{}", info.name);
            assert!(info.is_a("object"), "{}", info.name);
        }
    }

    #[test]
    fn ancestors_are_found() {
        let is = |name: &str, ancestor| find(name).unwrap().is_a(ancestor);
        assert!(is("edu", "device") && is("edu", "pci-device") && !is("edu", "isa-device"));
        assert!(is("qemu64-x86_64-cpu", "cpu") && is("qemu64-x86_64-cpu", "device"));
        assert!(is("pc-i440fx-10.0-machine", "generic-pc-machine"));
        assert!(!is("memory-backend-ram", "device"));
    }

    #[test]
    fn properties_include_those_of_ancestors() {
        let names = |name: &str| -> Vec<String> {
            find(name).unwrap().properties().into_iter().map(|property| property.name).collect()
        };
        assert!(names("edu").starts_with(&["type".into(), "parent_bus".into()]));
        for (name, property) in [
            ("memory-backend-file", "reserve"),
            ("max-x86_64-cpu", "unavailable-features"),
            ("generic-pc-machine", "i8042"),
            ("pc-i440fx-10.0-machine", "smp"),
            ("none-machine", "kernel"),
        ] {
            assert!(names(name).iter().any(|known| known == property), "{name}.{property}");
        }
    }
}
