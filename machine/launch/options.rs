//! What the operator adds to firmware's view of the machine, and the wishes that this build cannot
//! fulfil.

use base::clock::{ClockKind, Clocks, SECOND};
use hw::firmware::fw_cfg::{FileHooks, FwCfg, item};
use hw::firmware::smbios;
use hw::timer::rtc::RtcConfig;

use super::fault;
use crate::config::{
    ConfigError, FwCfgSource, MachineConfig, MemLock, RtcBase, RtcClock, SmbiosEntry,
};

/// Refuses what is understood but not there yet, by name, rather than to ignore it.
pub(super) fn refuse_unsupported(config: &MachineConfig) -> Result<(), ConfigError> {
    let process = &config.process;
    let run_with = &process.run_with;
    let wishes = [
        (process.daemonize, "-daemonize"),
        (process.sandbox.is_some(), "-sandbox on"),
        (run_with.async_teardown, "-run-with async-teardown=on"),
        (run_with.chroot.is_some(), "-run-with chroot"),
        (run_with.user.is_some(), "-run-with user"),
        (config.overcommit.mem_lock != MemLock::Off, "-overcommit mem-lock"),
        (config.overcommit.cpu_pm, "-overcommit cpu-pm=on"),
        (config.kernel.shim.is_some(), "-shim"),
        (config.kernel.dtb.is_some(), "-dtb"),
        (config.identity.process.is_some(), "-name process"),
        (config.boot.once.is_some(), "-boot once"),
        (config.boot.splash.is_some(), "-boot splash"),
        (config.boot.strict, "-boot strict=on"),
        (config.rtc.slew, "-rtc driftfix=slew"),
    ];
    match wishes.iter().find(|(wanted, _)| *wanted) {
        Some((_, option)) => {
            Err(ConfigError::new(format!("{option}: not supported by this build")))
        }
        None => Ok(()),
    }
}

/// What the real-time clock follows, and what it shows at start.
pub(super) fn rtc(config: &MachineConfig, clocks: &Clocks) -> Result<RtcConfig, ConfigError> {
    let clock = match config.rtc.clock {
        RtcClock::Host => ClockKind::Host,
        RtcClock::Realtime => ClockKind::Realtime,
        RtcClock::Virtual => ClockKind::Virtual,
    };
    let host = clocks.now(ClockKind::Host);
    let shows = match config.rtc.base {
        RtcBase::Utc => host,
        RtcBase::At(seconds) => seconds.saturating_mul(SECOND),
        RtcBase::Localtime => {
            return Err(ConfigError::new("-rtc base=localtime: not supported by this build"));
        }
    };
    Ok(RtcConfig { clock, shows, at: clocks.now(clock) })
}

/// Adds `-fw_cfg`'s files, and what `-boot` tells firmware.
pub(super) fn add_files(config: &MachineConfig, fw_cfg: &mut FwCfg) -> Result<(), ConfigError> {
    if let Some(menu) = config.boot.menu {
        fw_cfg.set_item(item::BOOT_MENU, u16::from(menu).to_le_bytes().to_vec());
    }
    let word = |value: i64| (value as u16).to_le_bytes().to_vec();
    if let Some(time) = config.boot.splash_time {
        fw_cfg.set_file("etc/boot-menu-wait", word(time)).map_err(fault)?;
    }
    if let Some(time) = config.boot.reboot_timeout {
        let value = (time as i32).to_le_bytes().to_vec();
        fw_cfg.set_file("etc/boot-fail-wait", value).map_err(fault)?;
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
