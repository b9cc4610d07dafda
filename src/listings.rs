//! What `help` as a value lists.

use base::memory::backend::{self, Backend};
use base::props::{PropSpec, PropValue, Props, help_text};

use machine::credentials::{self, SECRET, TLS_X509};
use machine::data_files::DataFiles;
use machine::io_threads::IoThreadProps;
use machine::objects::IO_THREAD;
use machine::throttle_groups::{self, THROTTLE_GROUP};
use net::filter::FilterKind;

use crate::cli::Catalog;

/// The lists of this build.
pub struct Listings;

impl Catalog for Listings {
    fn machines(&self) -> String {
        machine::machines::listing()
    }

    fn machine_props(&self, name: &str) -> Option<String> {
        machine::machines::find(Some(name)).ok().map(|machine| machine.props_listing())
    }

    fn cpus(&self) -> String {
        cpu::cpuid::listing()
    }

    fn accels(&self) -> String {
        let names = cpu::accel::LISTED.iter().map(|name| format!("{name}\n"));
        format!("Accelerators supported in QEMU binary:\n{}", names.collect::<String>())
    }

    fn devices(&self) -> String {
        hw::registry::listing()
    }

    fn device_props(&self, driver: &str) -> Option<String> {
        hw::registry::find(driver).map(hw::registry::DeviceType::help)
    }

    fn nic_models(&self, by_board: bool) -> String {
        let mut text = match by_board {
            true => "Available NIC models for this configuration:\n",
            false => "Available NIC models (use -nic model=help for a filtered list):\n",
        }
        .to_owned();
        for kind in hw::registry::of_category(hw::registry::Category::Network) {
            let alias = match kind.name {
                "virtio-net-pci" if by_board => " (aka virtio)",
                _ => "",
            };
            text.push_str(&format!("{}{alias}\n", kind.name));
        }
        text
    }

    fn objects(&self) -> String {
        let mut text = "List of user creatable objects:\n".to_owned();
        let names = [IO_THREAD].into_iter().chain(backend::TYPES.iter().copied());
        let names = names.chain([THROTTLE_GROUP, SECRET, TLS_X509]).chain(net::filter::TYPES);
        names.for_each(|name| text.push_str(&format!("  {name}\n")));
        text
    }

    fn object_props(&self, type_name: &str) -> Option<String> {
        if type_name == IO_THREAD {
            let specs: Vec<_> = IoThreadProps::specs().iter().map(object_prop).collect();
            return Some(help_text(type_name, &specs));
        }
        if type_name == THROTTLE_GROUP {
            return Some(help_text(type_name, throttle_groups::SPECS));
        }
        if let Some(filter) = FilterKind::new(type_name) {
            return Some(help_text(type_name, &filter.specs()));
        }
        if let Some(specs) = credentials::specs(type_name) {
            let specs: Vec<_> = specs.iter().map(object_prop).collect();
            return Some(help_text(type_name, &specs));
        }
        let specs: Vec<_> = Backend::new(type_name)?.specs().iter().map(object_prop).collect();
        Some(help_text(type_name, &specs))
    }

    fn chardevs(&self) -> String {
        let mut text = "Available chardev backend types: \n".to_owned();
        base::chardev::BACKENDS.iter().for_each(|name| text.push_str(&format!("  {name}\n")));
        text
    }

    fn log_items(&self) -> String {
        base::log::help()
    }

    fn trace_events(&self) -> String {
        base::trace::names().into_iter().map(|name| format!("{name}\n")).collect()
    }

    fn data_dirs(&self, own: &[String]) -> String {
        DataFiles::new(own).directories().iter().map(|dir| format!("{dir}\n")).collect()
    }
}

/// A property as listings of objects have it: other words for its type, and no explanation of it.
fn object_prop(spec: &PropSpec) -> PropSpec {
    PropSpec {
        type_name: match spec.type_name {
            "size" | "uint32" => "int",
            "str" => "string",
            other => other,
        },
        help: if spec.help == bool::HELP { "" } else { spec.help },
        ..spec.clone()
    }
}
