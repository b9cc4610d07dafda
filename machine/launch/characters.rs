//! Character devices: those of `-chardev`, and the short forms of `-serial` and its kin.

use std::sync::Arc;

use base::chardev::{Chardev, ChardevError, ChardevSpec, Chardevs, Legacy};
use base::options::Opts;

use crate::config::{
    ConfigError, Consoles, Located, MachineConfig, MonitorConfig, MonitorTarget, Origin,
};

type Device = Arc<Chardev>;

/// The character devices behind the machine's ports.
pub(super) struct Characters {
    /// For each serial port; `None` for one left out.
    pub serials: Vec<Option<Device>>,
    /// For each parallel port.
    pub parallels: Vec<Option<Device>>,
    /// For each debug console.
    pub debugcons: Vec<Option<Device>>,
    /// For each monitor.
    pub monitors: Vec<(Located<MonitorConfig>, Device)>,
    /// For the test protocol.
    pub qtest: Option<Device>,
    /// All of them by id.
    pub all: Arc<Chardevs>,
}

pub(super) fn create(
    config: &MachineConfig,
    consoles: Consoles,
    chardevs: &Arc<Chardevs>,
) -> Result<Characters, ConfigError> {
    for chardev in &config.chardevs {
        let spec = ChardevSpec::from_options(&options_of(&chardev.value))
            .and_then(|spec| chardevs.create(&spec))
            .map_err(|error| ConfigError::at(&chardev.origin, error.to_string()));
        spec?;
    }
    let mut created = Characters {
        serials: Vec::new(),
        parallels: Vec::new(),
        debugcons: Vec::new(),
        monitors: Vec::new(),
        qtest: None,
        all: chardevs.clone(),
    };
    // Monitors come first, and so do their screens among those of text consoles.
    let mut monitors = Vec::new();
    for (n, monitor) in consoles.monitors.iter().enumerate() {
        let device = match &monitor.value.target {
            MonitorTarget::Chardev(id) => Some(
                chardevs
                    .get(id)
                    .map_err(|error| ConfigError::at(&monitor.origin, error.to_string()))?,
            ),
            MonitorTarget::Device(text) => {
                let text = Located::new(text.clone(), &monitor.origin);
                created.short_form("monitor", &format!("compat_monitor{n}"), &text)?
            }
        };
        if let Some(device) = device {
            monitors.push((monitor.clone(), device));
        }
    }
    for (n, text) in consoles.serials.iter().enumerate() {
        let device = created.short_form("serial", &format!("serial{n}"), text)?;
        created.serials.push(device);
    }
    for (n, text) in consoles.parallels.iter().enumerate() {
        let device = created.short_form("parallel", &format!("parallel{n}"), text)?;
        created.parallels.push(device);
    }
    for text in &config.debugcons {
        let device = created.short_form("debugcon", "debugcon", text)?;
        created.debugcons.push(device);
    }
    created.monitors.extend(monitors);
    if let Some(text) = &config.qtest.chardev {
        let text = Located::new(text.clone(), &Origin::CommandLine(format!("-qtest {text}")));
        created.qtest = created.short_form("qtest", "qtest", &text)?;
    }
    Ok(created)
}

/// The keys and values of `-chardev`, its id among them.
fn options_of(opts: &Opts) -> Vec<(String, String)> {
    let id = opts.id.iter().map(|id| ("id".to_owned(), id.clone()));
    id.chain(opts.entries.iter().cloned()).collect()
}

impl Characters {
    fn short_form(
        &mut self,
        what: &str,
        label: &str,
        text: &Located<String>,
    ) -> Result<Option<Device>, ConfigError> {
        let refuse = |error: Option<ChardevError>| {
            let message = match error {
                Some(error) => error.to_string(),
                None => {
                    format!("could not connect {what} device to character backend '{}'", text.value)
                }
            };
            ConfigError::at(&text.origin, message)
        };
        match Legacy::parse(label, &text.value).map_err(refuse)? {
            Legacy::None => Ok(None),
            Legacy::Existing(id) => self.all.get(&id).map(Some).map_err(|e| refuse(Some(e))),
            Legacy::New(spec) => self.all.create(&spec).map(Some).map_err(|e| refuse(Some(e))),
            Legacy::WithMonitor(spec) => {
                let device = self.all.create(&spec).map_err(|e| refuse(Some(e)))?;
                let monitor = MonitorConfig {
                    target: MonitorTarget::Chardev(label.into()),
                    control: false,
                    pretty: false,
                };
                let monitor = Located::new(monitor, &Origin::None);
                self.monitors.push((monitor, device.clone()));
                Ok(Some(device))
            }
        }
    }
}
