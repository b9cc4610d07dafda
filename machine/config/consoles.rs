//! Which chardevs the machine gets when not all are given.

use super::{Located, MachineConfig, MonitorConfig, MonitorTarget, Origin};

/// Serial ports, parallel ports and monitors, defaults included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consoles {
    /// A chardev per serial port; `none` is a port left out.
    pub serials: Vec<Located<String>>,
    /// A chardev per parallel port; `none` is a port left out.
    pub parallels: Vec<Located<String>>,
    /// Monitors.
    pub monitors: Vec<Located<MonitorConfig>>,
}

impl Consoles {
    /// Completes what `config` says. Without `-nographic` defaults are virtual consoles (`vc`); with
    /// it they share the terminal.
    pub fn of(config: &MachineConfig) -> Self {
        let mut consoles = Consoles {
            serials: config.serials.clone(),
            parallels: config.parallels.clone(),
            monitors: config.monitors.clone(),
        };
        if config.no_defaults {
            return consoles.without_none();
        }
        let has_device =
            |driver: &str| config.devices.iter().any(|device| device.value.driver == driver);
        let serial = consoles.serials.is_empty() && !has_device("isa-serial");
        let parallel = consoles.parallels.is_empty() && !has_device("isa-parallel");
        let monitor = consoles.monitors.is_empty();
        let (serial_to, parallel_to, monitor_to) = match config.no_graphic {
            true if serial && monitor => ("mon:stdio", "null", None),
            true => ("stdio", "null", Some("stdio")),
            false => ("vc:80Cx24C", "vc:80Cx24C", Some("vc:80Cx24C")),
        };
        let device = |text: &str| Located::new(text.to_string(), &Origin::None);
        if serial {
            consoles.serials.push(device(serial_to));
        }
        if parallel {
            consoles.parallels.push(device(parallel_to));
        }
        if let Some(text) = monitor_to.filter(|_| monitor) {
            let target = MonitorTarget::Device(text.into());
            let monitor = MonitorConfig { target, control: false, pretty: false };
            consoles.monitors.push(Located::new(monitor, &Origin::None));
        }
        consoles.without_none()
    }

    /// `-monitor none` only suppresses the default.
    fn without_none(mut self) -> Self {
        let none = MonitorTarget::Device("none".into());
        self.monitors.retain(|monitor| monitor.value.control || monitor.value.target != none);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(consoles: &Consoles) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
        (
            consoles.serials.iter().map(|entry| entry.value.as_str()).collect(),
            consoles.parallels.iter().map(|entry| entry.value.as_str()).collect(),
            consoles
                .monitors
                .iter()
                .map(|entry| match &entry.value.target {
                    MonitorTarget::Chardev(text) | MonitorTarget::Device(text) => text.as_str(),
                })
                .collect(),
        )
    }

    fn config(no_graphic: bool, serials: &[&str], monitors: &[&str]) -> MachineConfig {
        let located = |text: &&str| Located::new((*text).to_string(), &Origin::None);
        let monitor = |text: &&str| {
            let target = MonitorTarget::Device((*text).into());
            Located::new(MonitorConfig { target, control: false, pretty: false }, &Origin::None)
        };
        MachineConfig {
            no_graphic,
            serials: serials.iter().map(located).collect(),
            monitors: monitors.iter().map(monitor).collect(),
            ..MachineConfig::default()
        }
    }

    #[test]
    fn defaults() {
        let vc = "vc:80Cx24C";
        for (config, serials, parallels, monitors) in [
            (config(false, &[], &[]), vec![vc], vec![vc], vec![vc]),
            (config(true, &[], &[]), vec!["mon:stdio"], vec!["null"], vec![]),
            (config(true, &["null"], &[]), vec!["null"], vec!["null"], vec!["stdio"]),
            (config(true, &[], &["null"]), vec!["stdio"], vec!["null"], vec!["null"]),
            (config(true, &[], &["none"]), vec!["stdio"], vec!["null"], vec![]),
        ] {
            assert_eq!(texts(&Consoles::of(&config)), (serials, parallels, monitors));
        }
        let bare = MachineConfig { no_defaults: true, ..config(true, &[], &[]) };
        assert_eq!(Consoles::of(&bare), Consoles::default());
    }
}
