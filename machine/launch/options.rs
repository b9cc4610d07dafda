//! What the operator adds to firmware's view of the machine.

use base::clock::{ClockKind, Clocks, SECOND, local_offset};
use hw::firmware::fw_cfg::{FileHooks, FwCfg, FwCfgError, item};
use hw::firmware::smbios;
use hw::registry::Fact;
use hw::timer::rtc::RtcConfig;

use super::fault;
use crate::config::{ConfigError, FwCfgSource, MachineConfig, RtcBase, RtcClock, SmbiosEntry};
use crate::data_files::DataFiles;
use crate::pc::roms;

/// What the real-time clock follows, and what it shows at start.
pub(super) fn rtc(config: &MachineConfig, slew: bool, clocks: &Clocks) -> RtcConfig {
    let clock = match config.rtc.clock {
        RtcClock::Host => ClockKind::Host,
        RtcClock::Realtime => ClockKind::Realtime,
        RtcClock::Virtual => ClockKind::Virtual,
    };
    let host = clocks.now(ClockKind::Host);
    let shows = match config.rtc.base {
        RtcBase::Utc => host,
        RtcBase::At(seconds) => seconds.saturating_mul(SECOND),
        RtcBase::Localtime => host + local_offset(host.div_euclid(SECOND)) * SECOND,
    };
    RtcConfig { clock, shows, at: clocks.now(clock), slew }
}

/// Adds `-fw_cfg`'s files, and what `-boot` tells firmware.
pub(super) fn add_files(
    config: &MachineConfig,
    facts: &[Fact],
    fw_cfg: &mut FwCfg,
) -> Result<(), ConfigError> {
    let boot = &config.boot;
    if let Some(menu) = boot.menu {
        fw_cfg.set_item(item::BOOT_MENU, u16::from(menu).to_le_bytes().to_vec());
    }
    BootOrder::of(config).tell(facts, fw_cfg).map_err(fault)?;
    add_option_roms(config, fw_cfg)?;
    if let Some(time) = boot.splash_time {
        fw_cfg
            .set_file("etc/boot-menu-wait", (time as u16).to_le_bytes().to_vec())
            .map_err(fault)?;
    }
    let timeout = boot.reboot_timeout.unwrap_or(-1) as i32;
    fw_cfg.set_file("etc/boot-fail-wait", timeout.to_le_bytes().to_vec()).map_err(fault)?;
    if let Some(name) = &boot.splash {
        add_splash(config, name, fw_cfg)?;
    }
    if let Some(shim) = &config.kernel.shim {
        let data = std::fs::read(shim).map_err(|error| {
            let reason = base::report::strerror(&error);
            ConfigError::new(format!("error reading shim {shim}: {reason}"))
        })?;
        fw_cfg.set_file("etc/boot/shim", data).map_err(fault)?;
    }
    for entry in &config.fw_cfg {
        let data = match &entry.value.source {
            FwCfgSource::Text(text) => text.clone().into_bytes(),
            FwCfgSource::File(path) => std::fs::read(path)
                .map_err(|_| ConfigError::at(&entry.origin, format!("can't load {path}")))?,
            FwCfgSource::Object(_) => {
                let message = "fw_cfg from an object is not supported by this build";
                return Err(ConfigError::at(&entry.origin, message));
            }
        };
        fw_cfg
            .add_file(&entry.value.name, data, FileHooks::default())
            .map_err(|error| ConfigError::at(&entry.origin, error.to_string()))?;
    }
    Ok(())
}

/// What decides in which order firmware boots, besides the devices.
pub(super) struct BootOrder {
    /// Option ROMs that have a place.
    roms: Vec<(i32, String)>,
    /// Firmware stops at the end of the list.
    strict: bool,
}

impl BootOrder {
    /// What the operator said.
    pub fn of(config: &MachineConfig) -> Self {
        let rom_path = |file: &str| format!("/rom@{}", roms::file_name(file, false));
        let roms = config.option_roms.iter();
        let roms = roms.filter_map(|rom| Some((rom.value.boot_index?, rom_path(&rom.value.file))));
        BootOrder { roms: roms.collect(), strict: config.boot.strict }
    }

    /// The list of what firmware is to boot, one path a line, with a zero at the end.
    fn list(&self, facts: &[Fact]) -> Vec<u8> {
        let devices = facts.iter().filter_map(|fact| match fact {
            Fact::Bootable { index, path } => Some((*index, path.clone())),
            _ => None,
        });
        let all = self.roms.iter().cloned().chain(devices);
        let mut list: Vec<_> = all.filter(|(index, _)| *index >= 0).collect();
        list.sort_by_key(|(index, _)| *index);
        if list.is_empty() {
            return Vec::new();
        }
        let halt = self.strict.then(|| "HALT".to_owned());
        let lines: Vec<_> = list.into_iter().map(|(_, path)| path).chain(halt).collect();
        (lines.join("\n") + "\0").into_bytes()
    }

    /// Tells firmware, which looks when it starts.
    pub fn tell(&self, facts: &[Fact], fw_cfg: &mut FwCfg) -> Result<(), FwCfgError> {
        fw_cfg.set_file("bootorder", self.list(facts))
    }
}

fn add_option_roms(config: &MachineConfig, fw_cfg: &mut FwCfg) -> Result<(), ConfigError> {
    let files = DataFiles::new(&config.data_dirs);
    for rom in &config.option_roms {
        let refuse = |reason: String| ConfigError::at(&rom.origin, reason);
        let name = &rom.value.file;
        let path = files.find(name).unwrap_or_else(|| name.into());
        let image = std::fs::read(path).map_err(|error| {
            let reason = base::report::strerror(&error);
            refuse(format!("could not load option rom '{name}': {reason}"))
        })?;
        roms::add(fw_cfg, name, image, false).map_err(|error| refuse(error.to_string()))?;
    }
    Ok(())
}

/// Adds the picture of `-boot splash=`. Without one the machine boots as well.
fn add_splash(config: &MachineConfig, name: &str, fw_cfg: &mut FwCfg) -> Result<(), ConfigError> {
    let data =
        DataFiles::new(&config.data_dirs).find(name).and_then(|path| std::fs::read(path).ok());
    let Some(data) = data else {
        base::error_report!("failed to find file '{name}'");
        return Ok(());
    };
    match picture_format(&data) {
        Some(format) => fw_cfg.set_file(&format!("bootsplash.{format}"), data).map_err(fault),
        None => {
            base::error_report!(
                "splash file '{name}' format not recognized; must be JPEG or 24 bit BMP"
            );
            Ok(())
        }
    }
}

/// The format of a picture that SeaBIOS can show.
fn picture_format(data: &[u8]) -> Option<&'static str> {
    /// Shorter files have no whole header.
    const HEADERS: usize = 30;
    const BITS_PER_PIXEL: usize = 28;
    match data {
        _ if data.len() < HEADERS => None,
        [0xff, 0xd8, ..] => Some("jpg"),
        [b'B', b'M', ..] if data[BITS_PER_PIXEL] == 24 => Some("bmp"),
        _ => None,
    }
}

/// Reads `-smbios`.
pub(super) fn smbios(config: &MachineConfig) -> Result<smbios::Config, ConfigError> {
    let mut tables = smbios::Config::default();
    for entry in &config.smbios {
        let refuse = |error: smbios::SmbiosError| ConfigError::at(&entry.origin, error.to_string());
        match &entry.value {
            SmbiosEntry::File(path) => {
                let bytes = std::fs::read(path).map_err(|_| {
                    ConfigError::at(&entry.origin, format!("Cannot read SMBIOS file {path}"))
                })?;
                tables.add_structure(bytes).map_err(refuse)?;
            }
            SmbiosEntry::Fields { kind, fields } => {
                let structure = tables.open((*kind).into()).map_err(refuse)?;
                for (key, value) in &fields.entries {
                    structure.apply(key, value).map_err(refuse)?;
                }
            }
        }
    }
    Ok(tables)
}
