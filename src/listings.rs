//! What `help` as a value lists.

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
        "Available CPUs:\n".into()
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

    fn objects(&self) -> String {
        "List of user creatable objects:\n".into()
    }

    fn object_props(&self, _: &str) -> Option<String> {
        None
    }

    fn chardevs(&self) -> String {
        "Available chardev backend types: \n".into()
    }

    fn log_items(&self) -> String {
        "Log items (comma separated):\n".into()
    }

    fn trace_events(&self) -> String {
        String::new()
    }

    fn data_dirs(&self) -> String {
        String::new()
    }
}
