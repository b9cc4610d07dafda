//! `-global`: whose properties it sets.

use base::options::config::GlobalProp;
use base::props::PropInput;
use hw::registry::{self, BusKind, DeviceError, DeviceType, Setting};

use super::devices::Refusal;
use crate::config::{ConfigError, MachineConfig};
use crate::machines::Kind;
use crate::pc::onboard::{self, Onboard};

/// Types whose devices are on boards only that this build has not; tools speak of them anyway.
const ON_OTHER_BOARDS: &[&str] =
    &["ICH9-LPC", "ICH9-SMB", "cfi.pflash01", "kvmvapic", "mch", "q35-pcihost"];

/// What the types of processors end in.
const PROCESSOR: &str = "-x86_64-cpu";

/// Reads what is said about the board's own chips.
pub(super) fn onboard(config: &MachineConfig) -> Result<Onboard, ConfigError> {
    let mut chips = Onboard::default();
    for global in &config.globals {
        if let Some(Err(error)) = chips.set(&global.driver, &global.property, &global.value) {
            return Err(ConfigError::new(global.failure(&error)));
        }
    }
    Ok(chips)
}

/// What is said about devices of a type, or of one that it derives from.
pub(super) fn of_device<'c>(globals: &'c [GlobalProp], kind: &DeviceType) -> Vec<Setting<'c>> {
    let is_meant = |global: &&GlobalProp| {
        let driver = global.driver.as_str();
        driver == kind.name || driver == "device" || Some(driver) == base_type(kind.bus)
    };
    let setting = |global: &'c GlobalProp| (&*global.property, PropInput::Global(&global.value));
    globals.iter().filter(is_meant).map(setting).collect()
}

/// Refuses a back end for a device that has been given one in advance: it has taken that already.
pub(super) fn check_back_ends(
    kind: &DeviceType,
    advance: &[Setting<'_>],
    given: &[Setting<'_>],
) -> Result<(), String> {
    for (name, input) in given {
        if !advance.iter().any(|(known, _)| known == name) {
            continue;
        }
        let value = match input {
            PropInput::Text(text) | PropInput::Global(text) => (*text).to_owned(),
            PropInput::Json(value) => value.as_str().unwrap_or_default().to_owned(),
        };
        match *name {
            "drive" | "netdev" => {
                let kind = kind.name;
                let text = format!("-global {kind}.{name}=... conflicts with {name}={value}");
                return Err(text);
            }
            "chardev" => {
                return Err(format!("{name}={value} conflicts, and override is not implemented"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The message about a device that could not be added, with the global property at fault as typed.
pub(super) fn explain(globals: &[GlobalProp], refusal: Refusal) -> String {
    if let Refusal::Device(DeviceError::Global { name, value, source, .. }) = &refusal
        && let Some(global) =
            globals.iter().find(|global| global.property == *name && global.value == *value)
    {
        return global.failure(source);
    }
    refusal.to_string()
}

fn base_type(bus: BusKind) -> Option<&'static str> {
    match bus {
        BusKind::Isa => Some("isa-device"),
        BusKind::Pci => Some("pci-device"),
        BusKind::Ide => Some("ide-device"),
        BusKind::Usb => Some("usb-device"),
        BusKind::Floppy | BusKind::None => None,
    }
}

/// `-cpu`, with the properties that its model is given in advance.
pub(super) fn processor(config: &MachineConfig, default: &str) -> String {
    let spec = config.cpu.as_deref().unwrap_or(default);
    let (model, features) = spec.split_once(',').unwrap_or((spec, ""));
    let is_meant = |driver: &str| match driver.strip_suffix(PROCESSOR) {
        Some(name) => name == model,
        None => is_any_processor(driver),
    };
    let advance = config.globals.iter().filter(|global| is_meant(&global.driver));
    let advance = advance.map(|global| format!("{}={}", global.property, global.value));
    let given = Some(features.to_owned()).filter(|features| !features.is_empty());
    std::iter::once(model.to_owned()).chain(advance).chain(given).collect::<Vec<_>>().join(",")
}

fn is_any_processor(driver: &str) -> bool {
    matches!(driver, "cpu" | "x86_64-cpu")
}

/// Warns of types that there are not, and of chips that this board has not.
pub(super) fn warn_of_unused(config: &MachineConfig, board: Kind) {
    for GlobalProp { driver, property, value } in &config.globals {
        if onboard::is_chip(driver) {
            if board == Kind::None {
                base::warn_report!("global {driver}.{property}={value} not used");
            }
            continue;
        }
        let exists = registry::find(driver).is_some()
            || ON_OTHER_BOARDS.contains(&driver.as_str())
            || matches!(driver.as_str(), "device" | "isa-device" | "pci-device" | "usb-device")
            || is_any_processor(driver)
            || driver.ends_with(PROCESSOR);
        if !exists {
            base::warn_report!("global {driver}.{property} has invalid class name");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(globals: &[&str]) -> MachineConfig {
        let globals = globals.iter().filter_map(|text| GlobalProp::parse_short(text)).collect();
        MachineConfig { globals, ..MachineConfig::default() }
    }

    #[test]
    fn devices_take_what_their_bases_take() {
        let config =
            config(&["pci-device.addr=3", "edu.dma_mask=5", "isa-device.x=1", "device.y=2"]);
        let names = |name| {
            let kind = registry::find(name).unwrap();
            of_device(&config.globals, kind).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names("edu"), ["addr", "dma_mask", "y"]);
        assert_eq!(names("isa-serial"), ["x", "y"]);
    }

    #[test]
    fn processors_are_given_properties_in_advance() {
        let config = MachineConfig {
            cpu: Some("max,-sse".into()),
            ..config(&["cpu.pmu=off", "max-x86_64-cpu.kvm=off", "qemu64-x86_64-cpu.x=1", "edu.y=1"])
        };
        assert_eq!(processor(&config, "qemu64"), "max,pmu=off,kvm=off,-sse");
        assert_eq!(processor(&MachineConfig::default(), "qemu64"), "qemu64");
    }
}
