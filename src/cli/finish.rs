//! The third pass: what needs all options.

use base::options::number::parse_int;
use base::options::{Opts, is_help};
use cpu::icount::{self, Shift};
use machine::config::{
    AccelConfig, BootConfig, ConfigError, Display, KernelConfig, Located, MachineConfig,
    MemoryConfig, MonitorTarget, Origin, RtcBase, RtcClock, RtcConfig, SmpConfig, Tree,
};
use machine::launch::display::ADAPTERS;
use serde_json::{Map, Value};

use super::{Builder, Exit, Stop};

/// Memory of a PC if nothing is said.
const DEFAULT_MEMORY: u64 = 128 << 20;

/// Properties of `-machine` that belong to the accelerator.
const ACCEL_PROPS: [&str; 2] = ["kernel-irqchip", "kvm-shadow-mem"];

impl Builder<'_, '_> {
    pub(super) fn finish(mut self) -> Result<MachineConfig, Stop> {
        let mut tree = Tree::root(normalized(std::mem::take(&mut self.machine.tree)));
        self.config.machine = tree.text("type")?;
        self.list_machines();
        if let Some(exit) = self.listing.take() {
            return Err(Stop::Exit(exit));
        }

        if self.config.process.daemonize && takes_terminal(&self.config) {
            return Err(ConfigError::new("-nographic cannot be used with -daemonize").into());
        }
        if self.config.process.daemonize && self.config.display == Display::Curses {
            let message = "curses display cannot be used with -daemonize";
            return Err(ConfigError::new(message).into());
        }
        self.config.rtc = rtc(&self.rtc)?;
        self.config.icount = self.icount.take().map(|opts| counting(&opts)).transpose()?.flatten();
        let config = &mut self.config;
        config.firmware = tree.text("firmware")?;
        config.kernel = kernel(&mut tree)?;
        accels(config, &mut tree)?;
        config.smp = SmpConfig::from_tree(tree.object("smp")?)?;
        memory(config, &mut tree)?;
        config.boot = BootConfig::from_tree(tree.object("boot")?)?;
        if config.cpu.as_deref() == Some("") {
            return Err(ConfigError::new("-cpu option cannot be empty").into());
        }
        if let Some(vga) = &config.vga
            && !ADAPTERS.iter().any(|(word, _, _)| *word == vga.value)
        {
            return Err(ConfigError::new(format!("unknown vga type: {}", vga.value)).into());
        }
        monitors(config)?;
        config.machine_props = tree.into_rest();
        Ok(self.config)
    }

    /// `-machine help` and `-machine NAME,help`; machines too if there is none of that name.
    fn list_machines(&mut self) {
        let machine = self.config.machine.as_deref();
        let props = match machine {
            Some(name) if is_help(name) => None,
            Some(name) if self.machine.help => self.catalog.machine_props(name),
            None if self.machine.help => None,
            _ => return,
        };
        self.listing = Some(Exit::listing(props.unwrap_or_else(|| self.catalog.machines())));
    }
}

/// Names of properties with dashes, however typed.
fn normalized(tree: Map<String, Value>) -> Map<String, Value> {
    tree.into_iter().map(|(key, value)| (key.replace('_', "-"), value)).collect()
}

/// Whether `-nographic` gives the terminal, or what stands in for it, to a port or a monitor.
fn takes_terminal(config: &MachineConfig) -> bool {
    let by_default =
        config.serials.is_empty() || config.parallels.is_empty() || config.monitors.is_empty();
    config.no_graphic && !config.no_defaults && by_default
}

fn rtc(opts: &Opts) -> Result<RtcConfig, ConfigError> {
    let invalid = |value: &str| ConfigError::new(format!("invalid option value '{value}'"));
    let base = match opts.get("base") {
        None | Some("utc") => RtcBase::Utc,
        Some("localtime") => RtcBase::Localtime,
        Some(text) => RtcBase::At(parse_datetime(text).ok_or_else(|| {
            ConfigError::new(
                "invalid datetime format\nvalid formats: '2006-06-17T16:01:21' or '2006-06-17'",
            )
        })?),
    };
    let clock = match opts.get("clock") {
        None | Some("host") => RtcClock::Host,
        Some("rt") => RtcClock::Realtime,
        Some("vm") => RtcClock::Virtual,
        Some(other) => return Err(invalid(other)),
    };
    let slew = match opts.get("driftfix") {
        None | Some("none") => false,
        Some("slew") => true,
        Some(other) => return Err(invalid(other)),
    };
    Ok(RtcConfig { base, clock, slew })
}

/// Without a shift nothing is counted.
fn counting(opts: &Located<Opts>) -> Result<Option<Located<icount::Options>>, ConfigError> {
    let fault = |message: &str| ConfigError::at(&opts.origin, message);
    let switch = |key: &str| opts.value.bool(key).map_err(|error| fault(&error.to_string()));
    let (align, sleep) = (switch("align")?, switch("sleep")?.unwrap_or(true));
    match opts.value.get("rr") {
        None => {}
        Some("record" | "replay") => {
            return Err(fault("record/replay is not available in this build"));
        }
        Some(other) => return Err(fault(&format!("Invalid icount rr option: {other}"))),
    }
    let Some(shift) = opts.value.get("shift") else {
        return match align {
            None => Ok(None),
            Some(_) => Err(fault("Please specify shift option when using align")),
        };
    };
    let align = align.unwrap_or(false);
    if align && !sleep {
        return Err(fault("align=on and sleep=off are incompatible"));
    }
    let shift = match shift {
        "auto" => Shift::Auto,
        number => parse_int(number)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|&number| number <= icount::MAX_SHIFT)
            .map(Shift::Fixed)
            .ok_or_else(|| fault("icount: Invalid shift value"))?,
    };
    Ok(Some(Located::new(icount::Options { shift, align, sleep }, &opts.origin)))
}

/// Seconds since 1970 of `2006-06-17T16:01:21` or `2006-06-17`. Months, days, hours and so on beyond
/// their range run over into the next, as with `mktime`.
fn parse_datetime(text: &str) -> Option<i64> {
    let numbers = |text: &str, separator: char| -> Option<[i64; 3]> {
        let parts: Vec<i64> =
            text.split(separator).map(|part| part.parse().ok()).collect::<Option<_>>()?;
        let all: [i64; 3] = parts.try_into().ok()?;
        all.iter().all(|number| (0..100_000).contains(number)).then_some(all)
    };
    let (date, time) = text.split_once('T').unwrap_or((text, "0:0:0"));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let months = year * 12 + month - 1;
    let days = days_before_month(months) + day - 1;
    Some(days * 86400 + hour * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01 to the first of a month, the month counted from January of year 0. Years are
/// counted from March, as the leap day ends them so.
fn days_before_month(months: i64) -> i64 {
    let (year, month) = ((months - 2).div_euclid(12), (months - 2).rem_euclid(12));
    365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        - 719_468
}

fn kernel(tree: &mut Tree) -> Result<KernelConfig, ConfigError> {
    let kernel = KernelConfig {
        kernel: tree.text("kernel")?,
        initrd: tree.text("initrd")?,
        append: tree.text("append")?,
        shim: tree.text("shim")?,
        dtb: tree.text("dtb")?,
    };
    let alone = [("append", &kernel.append), ("initrd", &kernel.initrd), ("shim", &kernel.shim)];
    match alone.iter().find(|(_, value)| kernel.kernel.is_none() && value.is_some()) {
        Some((name, _)) => {
            Err(ConfigError::new(format!("-{name} only allowed with -kernel option")))
        }
        None => Ok(kernel),
    }
}

fn accels(config: &mut MachineConfig, tree: &mut Tree) -> Result<(), ConfigError> {
    if let Some(names) = tree.text("accel")? {
        if !config.accels.is_empty() {
            return Err(ConfigError::new(
                "The -accel and \"-machine accel=\" options are incompatible",
            ));
        }
        let accel = |name: &str| AccelConfig { name: name.into(), props: Vec::new() };
        let accels = names.split(':').map(|name| Located::new(accel(name), &Origin::None));
        config.accels = accels.collect();
    }
    for key in ACCEL_PROPS {
        if let Some(value) = tree.text(key)? {
            for accel in config.accels.iter_mut().filter(|accel| accel.value.name == "kvm") {
                accel.value.props.push((key.into(), value.clone()));
            }
        }
    }
    Ok(())
}

fn memory(config: &mut MachineConfig, tree: &mut Tree) -> Result<(), ConfigError> {
    let sizes = MemoryConfig::from_tree(tree.object("memory")?, DEFAULT_MEMORY)?;
    let memory = &mut config.memory;
    memory.backend = tree.text("memory-backend")?;
    if memory.backend.is_some() && memory.path.is_some() {
        return Err(ConfigError::new(
            "'-mem-path' can't be used together with'-machine memory-backend'",
        ));
    }
    (memory.size, memory.slots, memory.max) = (sizes.size, sizes.slots, sizes.max);
    Ok(())
}

fn monitors(config: &MachineConfig) -> Result<(), ConfigError> {
    for monitor in &config.monitors {
        if let MonitorTarget::Chardev(id) = &monitor.value.target
            && !config.chardevs.iter().any(|chardev| chardev.value.id.as_ref() == Some(id))
        {
            return Err(ConfigError::at(&monitor.origin, format!("chardev \"{id}\" not found")));
        }
        if monitor.value.pretty && !monitor.value.control {
            let message = "'pretty' is not compatible with HMP monitors";
            return Err(ConfigError::at(&monitor.origin, message));
        }
    }
    Ok(())
}
