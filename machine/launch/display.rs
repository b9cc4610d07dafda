//! The display adapter that a board has of its own: `-vga`, and what it is if nothing is said.

use hw::registry;

use crate::config::{ConfigError, MachineConfig};

/// What `-vga` knows: the option's word, the adapter's name for people, the device that it is.
pub const ADAPTERS: [(&str, &str, Option<&str>); 6] = [
    ("none", "no graphic card", None),
    ("std", "standard VGA", Some("VGA")),
    ("cirrus", "Cirrus VGA", Some("cirrus-vga")),
    ("vmware", "VMWare SVGA", Some("vmware-svga")),
    ("qxl", "QXL VGA", Some("qxl-vga")),
    ("virtio", "Virtio VGA", Some("virtio-vga")),
];

/// The one that boards have.
const DEFAULT: &str = "VGA";

/// Devices that take the default adapter's place.
const INSTEAD: [&str; 9] = [
    "VGA",
    "ati-vga",
    "cirrus-vga",
    "isa-cirrus-vga",
    "isa-vga",
    "qxl-vga",
    "vhost-user-vga",
    "virtio-vga",
    "vmware-svga",
];

/// Whether there is an adapter of this word.
pub fn is_available(word: &str) -> bool {
    ADAPTERS.iter().any(|(known, _, device)| {
        *known == word && device.is_none_or(|device| registry::find(device).is_some())
    })
}

/// The device that the board's adapter is, if it has one.
pub(super) fn adapter(config: &MachineConfig) -> Result<Option<&'static str>, ConfigError> {
    let Some(wanted) = &config.vga else {
        let replaced = config.devices.iter().any(|device| INSTEAD.contains(&&*device.value.driver));
        return Ok((!config.no_defaults && !replaced).then_some(DEFAULT));
    };
    let word = &wanted.value;
    let found = ADAPTERS.iter().find(|(known, _, _)| known == word);
    let (_, name, device) =
        found.ok_or_else(|| ConfigError::new(format!("unknown vga type: {word}")))?;
    if !is_available(word) {
        return Err(ConfigError::new(format!("{name} not available")));
    }
    Ok(*device)
}
