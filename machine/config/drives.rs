//! `-drive` and the options that are short for it, and `-blockdev`.

use base::options::Opts;
use block::backend::{DriveInfo, ErrorPolicy, Interface, Media, OnError};
use block::options::Options;
use block::schema::Form;
use block::throttle::{Kind, Limits};
use serde_json::{Map, Value};

use super::ConfigError;

/// `-blockdev`
#[derive(Clone, Debug, PartialEq)]
pub struct BlockdevConfig {
    /// What it says.
    pub tree: Map<String, Value>,
    /// How values are written.
    pub form: Form,
}

/// `-drive`, as it was typed, with what a short form adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriveConfig {
    /// Its keys.
    pub opts: Opts,
    /// What it is connected to unless it says so; the board's own choice if absent.
    pub interface: Option<Interface>,
}

impl DriveConfig {
    /// A short form: `-hda FILE` and its kin.
    pub fn short(interface: Option<Interface>, index: u32, file: &str, media: &str) -> Self {
        let mut entries = vec![("index".to_owned(), index.to_string())];
        if !media.is_empty() {
            entries.push(("media".into(), media.into()));
        }
        entries.push(("file".into(), file.into()));
        DriveConfig { opts: Opts { id: None, entries }, interface }
    }
}

/// What `-drive` comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Drive {
    /// Its id, if it has one.
    pub id: Option<String>,
    /// All but the image.
    pub info: DriveInfo,
    /// The place was not chosen.
    pub anywhere: bool,
    /// The name of the image.
    pub file: Option<String>,
    /// What else is said of the image's nodes.
    pub options: Options,
    /// Whether changes go to a temporary file, if that is said.
    pub snapshot: Option<bool>,
    /// Whether what is read is kept in the image.
    pub copy_on_read: bool,
    /// Limits.
    pub limits: Limits,
    /// The group that shares the limits.
    pub group: Option<String>,
    /// What to warn about.
    pub warning: Option<&'static str>,
}

/// Older names of keys.
const RENAMED: [(&str, &str); 21] = [
    ("iops", "throttling.iops-total"),
    ("iops_rd", "throttling.iops-read"),
    ("iops_wr", "throttling.iops-write"),
    ("bps", "throttling.bps-total"),
    ("bps_rd", "throttling.bps-read"),
    ("bps_wr", "throttling.bps-write"),
    ("iops_max", "throttling.iops-total-max"),
    ("iops_rd_max", "throttling.iops-read-max"),
    ("iops_wr_max", "throttling.iops-write-max"),
    ("bps_max", "throttling.bps-total-max"),
    ("bps_rd_max", "throttling.bps-read-max"),
    ("bps_wr_max", "throttling.bps-write-max"),
    ("iops_size", "throttling.iops-size"),
    ("group", "throttling.group"),
    ("readonly", "read-only"),
    ("throttling.bps", "throttling.bps-total"),
    ("throttling.iops", "throttling.iops-total"),
    ("copy_on_read", "copy-on-read"),
    ("node_name", "node-name"),
    ("detect_zeroes", "detect-zeroes"),
    ("auto_read_only", "auto-read-only"),
];

/// The keys, taken one by one; later ones count.
struct Keys(Vec<(String, String)>);

impl Keys {
    fn new(opts: &Opts) -> Result<Self, ConfigError> {
        let mut keys = Keys(opts.entries.clone());
        for (old, new) in RENAMED {
            if keys.has(old) && keys.has(new) {
                return Err(ConfigError::new(format!(
                    "'{new}' and its alias '{old}' can't be used at the same time"
                )));
            }
            for (key, _) in &mut keys.0 {
                if key == old {
                    *key = new.into();
                }
            }
        }
        Ok(keys)
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(known, _)| known == key)
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let (taken, rest) = std::mem::take(&mut self.0).into_iter().partition(|(k, _)| k == key);
        self.0 = rest;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().next_back().map(|(_, value)| value)
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        let one = |value| Opts { id: None, entries: vec![(key.to_owned(), value)] };
        let value = self.take(key).map(one);
        value.map_or(Ok(None), |opts| opts.bool(key)).map_err(fault)
    }

    fn number(&mut self, key: &str) -> Result<Option<u64>, ConfigError> {
        let one = |value| Opts { id: None, entries: vec![(key.to_owned(), value)] };
        let value = self.take(key).map(one);
        value.map_or(Ok(None), |opts| opts.number(key)).map_err(fault)
    }
}

fn fault(error: impl std::fmt::Display) -> ConfigError {
    ConfigError::new(error.to_string())
}

impl Drive {
    /// Reads the keys of `-drive`; `usual` is what the board connects drives to.
    pub fn from_config(config: &DriveConfig, usual: Interface) -> Result<Self, ConfigError> {
        let mut keys = Keys::new(&config.opts)?;
        let mut options = Options::default();
        let mut info = DriveInfo { legacy: true, ..DriveInfo::default() };
        cache_mode(&mut keys)?;
        let read_only = keys.flag("read-only")?.unwrap_or(false);
        let media = keys.take("media");
        info.media = match media.as_deref() {
            None | Some("disk") => Media::Disk,
            Some("cdrom") => Media::Cdrom,
            Some(other) => return Err(ConfigError::new(format!("'{other}' invalid media"))),
        };
        info.read_only = read_only || info.media == Media::Cdrom;
        info.interface = match keys.take("if") {
            Some(name) => Interface::parse(&name)
                .ok_or_else(|| ConfigError::new(format!("unsupported bus type '{name}'")))?,
            None => config.interface.unwrap_or(usual),
        };
        let anywhere = place(&mut keys, &mut info)?;
        let copy_on_read = keys.flag("copy-on-read")?.unwrap_or(false);
        let file = keys.take("file");
        info.policy = error_policy(&mut keys, info.interface)?;
        let snapshot = keys.flag("snapshot")?;
        let (limits, group) = limits(&mut keys)?;
        for key in ["stats-account-invalid", "stats-account-failed"] {
            keys.flag(key)?;
        }
        keys.0.retain(|(key, _)| !key.starts_with("stats-intervals."));
        info.write_cache = keys.flag("cache.writeback")?.unwrap_or(true);
        for key in ["cache.direct", "cache.no-flush", "auto-read-only", "force-share"] {
            if let Some(value) = keys.flag(key)? {
                options.set(key, value);
            }
        }
        if let Some(aio) = keys.take("aio") {
            if !["threads", "native", "io_uring"].contains(&&*aio) {
                return Err(ConfigError::new("invalid aio option"));
            }
            options.set("file.aio", aio);
        }
        if let Some(format) = keys.take("format") {
            if keys.has("driver") {
                return Err(ConfigError::new("Cannot specify both 'driver' and 'format'"));
            }
            options.set("driver", format);
        }
        if info.read_only {
            options.set("read-only", true);
        }
        if !options.has("auto-read-only") {
            options.set("auto-read-only", true);
        }
        for (key, value) in keys.0 {
            options.set(&key, value);
        }
        let warning =
            (copy_on_read && info.read_only).then_some("disabling copy-on-read on read-only drive");
        Ok(Drive {
            id: config.opts.id.clone(),
            info,
            anywhere,
            file: file.filter(|file| !file.is_empty()),
            options,
            snapshot,
            copy_on_read: copy_on_read && warning.is_none(),
            limits,
            group,
            warning,
        })
    }

    /// The index that its place has on its interface.
    pub fn index(&self) -> u32 {
        let units = self.info.interface.units().unwrap_or(0);
        self.info.bus.saturating_mul(units).saturating_add(self.info.unit)
    }

    /// Puts it at an index.
    pub fn set_index(&mut self, index: u32) {
        (self.info.bus, self.info.unit) = self.info.interface.at_index(index);
    }

    /// Whether there is nothing but an empty drive.
    pub fn is_empty(&self) -> bool {
        let mut rest = self.options.clone();
        for key in [
            "read-only",
            "auto-read-only",
            "cache.direct",
            "cache.no-flush",
            "force-share",
            "discard",
            "detect-zeroes",
            "file.aio",
        ] {
            rest.text(key);
        }
        self.file.is_none() && rest.is_empty()
    }

    /// The id, or the name that QEMU gives such a drive.
    pub fn name(&self) -> String {
        self.id.clone().unwrap_or_else(|| self.info.name())
    }
}

/// `cache=` stands for three keys; those that are given count more.
fn cache_mode(keys: &mut Keys) -> Result<(), ConfigError> {
    let Some(mode) = keys.take("cache") else { return Ok(()) };
    let (writeback, direct, no_flush) = match mode.as_str() {
        "off" | "none" => ("on", "on", "off"),
        "directsync" => ("off", "on", "off"),
        "writeback" => ("on", "off", "off"),
        "unsafe" => ("on", "off", "on"),
        "writethrough" => ("off", "off", "off"),
        _ => return Err(ConfigError::new("invalid cache option")),
    };
    for (key, value) in
        [("cache.writeback", writeback), ("cache.direct", direct), ("cache.no-flush", no_flush)]
    {
        if !keys.has(key) {
            keys.0.push((key.into(), value.into()));
        }
    }
    Ok(())
}

/// Bus and unit; whether the first free place is meant.
fn place(keys: &mut Keys, info: &mut DriveInfo) -> Result<bool, ConfigError> {
    let given = [keys.number("bus")?, keys.number("unit")?, keys.number("index")?];
    let [bus, unit, index] = given.map(|number| number.map(|number| number as u32));
    if let Some(index) = index {
        if bus.is_some() || unit.is_some() {
            return Err(ConfigError::new("index cannot be used with bus and unit"));
        }
        (info.bus, info.unit) = info.interface.at_index(index);
    } else {
        (info.bus, info.unit) = (bus.unwrap_or(0), unit.unwrap_or(0));
    }
    if let Some(units) = info.interface.units()
        && info.unit >= units
    {
        return Err(ConfigError::new(format!("unit {} too big (max is {})", info.unit, units - 1)));
    }
    Ok(index.is_none() && unit.is_none())
}

fn error_policy(keys: &mut Keys, interface: Interface) -> Result<ErrorPolicy, ConfigError> {
    let mut policy = ErrorPolicy::default();
    let stoppable =
        matches!(interface, Interface::Ide | Interface::Scsi | Interface::Virtio | Interface::None);
    for (key, what, target) in
        [("werror", "write", &mut policy.write), ("rerror", "read", &mut policy.read)]
    {
        let Some(name) = keys.take(key) else { continue };
        if !stoppable {
            return Err(ConfigError::new(format!("{key} is not supported by this bus type")));
        }
        *target = match name.as_str() {
            "ignore" => OnError::Ignore,
            "stop" => OnError::Stop,
            "report" => OnError::Report,
            "enospc" if key == "werror" => OnError::NoSpace,
            _ => return Err(ConfigError::new(format!("'{name}' invalid {what} error action"))),
        };
    }
    Ok(policy)
}

fn limits(keys: &mut Keys) -> Result<(Limits, Option<String>), ConfigError> {
    let mut limits = Limits::default();
    for kind in Kind::ALL {
        let name = format!("throttling.{}", kind.name());
        let limit = limits.of_mut(kind);
        limit.rate = keys.number(&name)?.unwrap_or(0);
        limit.burst = keys.number(&format!("{name}-max"))?.unwrap_or(0);
        limit.burst_length = keys.number(&format!("{name}-max-length"))?.unwrap_or(1);
    }
    limits.iops_size = keys.number("throttling.iops-size")?.unwrap_or(0);
    let group = keys.take("throttling.group");
    limits.check().map_err(fault)?;
    Ok((limits, group))
}

#[cfg(test)]
mod tests {
    use base::options::ParsedOpts;

    use super::*;

    fn drive(text: &str) -> Result<Drive, String> {
        let opts = ParsedOpts::parse(text, None, |_| false).unwrap().opts;
        let config = DriveConfig { opts, interface: None };
        Drive::from_config(&config, Interface::Ide).map_err(|error| error.to_string())
    }

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn faults_are_qemus() {
        for (text, refusal) in [
            ("index=0,bus=1", "index cannot be used with bus and unit"),
            ("if=foo", "unsupported bus type 'foo'"),
            ("media=foo", "'foo' invalid media"),
            ("cache=foo", "invalid cache option"),
            ("aio=foo", "invalid aio option"),
            ("werror=foo", "'foo' invalid write error action"),
            ("rerror=enospc", "'enospc' invalid read error action"),
            ("werror=stop,if=floppy", "werror is not supported by this bus type"),
            ("readonly=foo", "Parameter 'read-only' expects 'on' or 'off'"),
            (
                "read-only=on,readonly=off",
                "'read-only' and its alias 'readonly' can't be used at the same time",
            ),
            ("bus=0,unit=2", "unit 2 too big (max is 1)"),
            ("bps=foo", "Parameter 'throttling.bps-total' expects a number"),
            ("index=foo", "Parameter 'index' expects a number"),
            ("format=raw,driver=raw", "Cannot specify both 'driver' and 'format'"),
        ] {
            assert_eq!(drive(text), Err(refusal.into()), "{text}");
        }
    }

    #[test]
    fn places_and_names() {
        for (text, name, place) in [
            ("index=3", "ide1-hd1", (1, 1)),
            ("media=cdrom,index=2", "ide1-cd0", (1, 0)),
            ("if=virtio,index=5", "virtio5", (0, 5)),
            ("if=floppy,unit=1", "floppy1", (0, 1)),
            ("if=none", "none0", (0, 0)),
            ("id=x", "x", (0, 0)),
        ] {
            let drive = drive(text).unwrap();
            assert_eq!((drive.name().as_str(), (drive.info.bus, drive.info.unit)), (name, place));
        }
    }

    #[test]
    fn cache_modes_give_way_to_their_parts() {
        let mut drive = drive("file=x,cache=none,cache.direct=off,if=none").unwrap();
        assert!(drive.info.write_cache);
        assert_eq!(drive.options.flag("cache.direct").unwrap(), Some(false));
        assert!(!self::drive("file=x,cache=writethrough").unwrap().info.write_cache);
        assert!(self::drive("if=none,cache=none").unwrap().is_empty());
        assert!(!self::drive("if=none,format=raw").unwrap().is_empty());
    }
}
