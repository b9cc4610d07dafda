//! The machine types there are.

use base::props::{PropSpec, PropValue, Props};

use crate::config::ConfigError;
use crate::none::NoneProps;
use crate::pc::props::PcProps;

/// What a machine type is built as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The PC with i440FX and PIIX3, as it was in this version (major, minor).
    Pc(u8, u8),
    /// Nothing at all.
    None,
}

/// A machine type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineType {
    /// Its name.
    pub name: &'static str,
    /// Another name for it.
    pub alias: Option<&'static str>,
    /// One line about it.
    pub description: &'static str,
    /// Why it should no longer be used.
    pub deprecated: Option<&'static str>,
    /// Whether it is built when none is named.
    pub default: bool,
    /// What it is built as.
    pub kind: Kind,
}

const fn pc(name: &'static str, major: u8, minor: u8) -> MachineType {
    MachineType {
        name,
        alias: None,
        description: "Standard PC (i440FX + PIIX, 1996)",
        // Six releases a year and a half, three years' worth of them stay current.
        deprecated: if major < 7 || major == 7 && minor == 0 {
            Some("machines more than 3 years old are subject to deletion after 6 years")
        } else {
            None
        },
        default: false,
        kind: Kind::Pc(major, minor),
    }
}

/// Properties that have options of their own: name, type, one line of help.
const OPTIONS: &[(&str, &str, &str)] = &[
    ("append", "string", "Linux kernel command line"),
    ("boot", "BootConfiguration", "Boot configuration"),
    ("dtb", "string", "Linux kernel device tree file"),
    ("firmware", "string", "Firmware image"),
    ("initrd", "string", "Linux initial ramdisk file"),
    ("kernel", "string", "Linux kernel image file"),
    ("memory", "MemorySizeConfiguration", "Memory size configuration"),
    (
        "memory-backend",
        "link<memory-backend>",
        "Set RAM backendValid value is ID of hostmem based backend",
    ),
    ("shim", "string", "shim.efi file"),
    ("smp", "SMPConfiguration", "CPU topology"),
];

/// All machine types, in the order of the listing.
pub const MACHINES: &[MachineType] = &[
    pc("pc-i440fx-9.2", 9, 2),
    pc("pc-i440fx-9.1", 9, 1),
    pc("pc-i440fx-9.0", 9, 0),
    pc("pc-i440fx-8.2", 8, 2),
    pc("pc-i440fx-8.1", 8, 1),
    pc("pc-i440fx-8.0", 8, 0),
    pc("pc-i440fx-7.2", 7, 2),
    pc("pc-i440fx-7.1", 7, 1),
    pc("pc-i440fx-7.0", 7, 0),
    pc("pc-i440fx-6.2", 6, 2),
    pc("pc-i440fx-6.1", 6, 1),
    pc("pc-i440fx-6.0", 6, 0),
    pc("pc-i440fx-5.2", 5, 2),
    pc("pc-i440fx-5.1", 5, 1),
    pc("pc-i440fx-5.0", 5, 0),
    pc("pc-i440fx-4.2", 4, 2),
    pc("pc-i440fx-4.1", 4, 1),
    pc("pc-i440fx-4.0", 4, 0),
    pc("pc-i440fx-3.1", 3, 1),
    pc("pc-i440fx-3.0", 3, 0),
    pc("pc-i440fx-2.12", 2, 12),
    MachineType { alias: Some("pc"), default: true, ..pc("pc-i440fx-10.0", 10, 0) },
    MachineType {
        name: "none",
        alias: None,
        description: "empty machine",
        deprecated: None,
        default: false,
        kind: Kind::None,
    },
];

/// The machine type of a name or alias; the default one for no or an empty name.
pub fn find(name: Option<&str>) -> Result<&'static MachineType, ConfigError> {
    let name = name.unwrap_or_default();
    let wanted = |machine: &&MachineType| match name {
        "" => machine.default,
        name => machine.name == name || machine.alias == Some(name),
    };
    MACHINES.iter().find(wanted).ok_or_else(|| {
        ConfigError::new(format!(
            "unsupported machine type: \"{name}\"\nUse -machine help to list supported machines"
        ))
    })
}

/// `-machine help`
pub fn listing() -> String {
    let mut text = "Supported machines are:\n".to_owned();
    let mut line = |name: &str, machine: &MachineType, suffix: &str| {
        text.push_str(&format!("{name:<20} {}{suffix}\n", machine.description));
    };
    for machine in MACHINES {
        if let Some(alias) = machine.alias {
            line(alias, machine, &format!(" (alias of {})", machine.name));
        }
        let default = if machine.default { " (default)" } else { "" };
        let deprecated = if machine.deprecated.is_some() { " (deprecated)" } else { "" };
        line(machine.name, machine, &format!("{default}{deprecated}"));
    }
    text
}

/// A property as listings of machines have it, which is not as those of devices do: without its
/// default and the explanation of its type, and with another word for text.
pub(crate) fn listed(spec: &PropSpec) -> PropSpec {
    let text = spec.type_name == "str" && spec.default.is_none();
    PropSpec {
        name: spec.name,
        type_name: if text { "string" } else { spec.type_name },
        default: None,
        help: if spec.help == bool::HELP { "" } else { spec.help },
    }
}

impl MachineType {
    /// The properties of the type's own.
    pub fn specs(&self) -> Vec<PropSpec> {
        let specs = match self.kind {
            Kind::Pc(..) => PcProps::specs(),
            Kind::None => NoneProps::specs(),
        };
        let mut specs: Vec<_> = specs.iter().map(listed).collect();
        specs.extend(OPTIONS.iter().map(|&(name, type_name, help)| PropSpec {
            name,
            type_name,
            default: None,
            help,
        }));
        specs.sort_by_key(|spec| spec.name);
        specs
    }

    /// `-machine NAME,help`
    pub fn props_listing(&self) -> String {
        base::props::help_text(&self.type_name(), &self.specs())
    }

    /// The name of the type, as errors about its properties have it.
    pub fn type_name(&self) -> String {
        format!("{}-machine", self.name)
    }

    /// What is said when a deprecated type is used.
    pub fn warning(&self) -> Option<String> {
        let why = self.deprecated?;
        Some(format!("Machine type '{}' is deprecated: {why}", self.name))
    }

    /// Whether the machine is of this version or a later one; one without versions is.
    pub fn since(&self, major: u8, minor: u8) -> bool {
        match self.kind {
            Kind::Pc(own_major, own_minor) => (own_major, own_minor) >= (major, minor),
            Kind::None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases() {
        for (name, found) in [
            (None, "pc-i440fx-10.0"),
            (Some(""), "pc-i440fx-10.0"),
            (Some("pc"), "pc-i440fx-10.0"),
            (Some("pc-i440fx-2.12"), "pc-i440fx-2.12"),
            (Some("none"), "none"),
        ] {
            assert_eq!(find(name).unwrap().name, found);
        }
        assert_eq!(
            find(Some("foo")).unwrap_err().to_string(),
            "unsupported machine type: \"foo\"\nUse -machine help to list supported machines"
        );
    }

    /// Lines and texts recorded from QEMU 10.0.2.
    #[test]
    fn the_listing() {
        let text = listing();
        for line in [
            "pc-i440fx-7.1        Standard PC (i440FX + PIIX, 1996)\n",
            "pc-i440fx-7.0        Standard PC (i440FX + PIIX, 1996) (deprecated)\n",
            "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-10.0)\n",
            "pc-i440fx-10.0       Standard PC (i440FX + PIIX, 1996) (default)\n",
            "none                 empty machine\n",
        ] {
            assert!(text.contains(line), "{line}");
        }
        assert_eq!(
            find(Some("pc-i440fx-3.1")).unwrap().warning().unwrap(),
            "Machine type 'pc-i440fx-3.1' is deprecated: machines more than 3 years old are subject \
             to deletion after 6 years"
        );
    }

    #[test]
    fn properties_are_listed_without_defaults() {
        let text = find(None).unwrap().props_listing();
        assert!(text.starts_with(
            "pc-i440fx-10.0-machine options:\n  acpi=<OnOffAuto>       - Enable ACPI\n"
        ));
        assert!(text.contains("\n  fd-bootchk=<bool>\n"));
        assert!(text.contains("\n  x-oem-id=<string>      - Override"));
        assert!(text.contains("  max-ram-below-4g=<size> - Maximum ram below the 4G boundary"));
    }
}
