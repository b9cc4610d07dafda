//! `-boot`.

use super::{ConfigError, Tree};

/// `-boot`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootConfig {
    /// Drive letters in the order in which they are tried.
    pub order: Option<String>,
    /// The order for the first boot only.
    pub once: Option<String>,
    /// Whether the firmware shows its menu.
    pub menu: Option<bool>,
    /// A picture for the menu.
    pub splash: Option<String>,
    /// How long it shows, in milliseconds.
    pub splash_time: Option<i64>,
    /// How long to wait before rebooting when nothing boots, in milliseconds; -1 is for ever.
    pub reboot_timeout: Option<i64>,
    /// Whether only devices with a boot index are tried.
    pub strict: bool,
}

impl BootConfig {
    /// Reads the object `boot` of `-machine`.
    pub fn from_tree(mut tree: Tree) -> Result<Self, ConfigError> {
        let config = BootConfig {
            order: tree.text("order")?,
            once: tree.text("once")?,
            menu: tree.bool("menu")?,
            splash: tree.text("splash")?,
            splash_time: tree.integer("splash-time")?,
            reboot_timeout: tree.integer("reboot-timeout")?,
            strict: tree.bool("strict")?.unwrap_or(false),
        };
        tree.finish()?;
        for order in config.order.iter().chain(&config.once) {
            check_order(order)?;
        }
        if config.splash_time.is_some_and(|time| !(0..=65535).contains(&time)) {
            return Err(ConfigError::new(
                "splash-time is invalid,it should be a value between 0 and 65535",
            ));
        }
        if config.reboot_timeout.is_some_and(|time| !(-1..=65535).contains(&time)) {
            return Err(ConfigError::new(
                "reboot timeout is invalid,it should be a value between -1 and 65535",
            ));
        }
        Ok(config)
    }
}

fn check_order(order: &str) -> Result<(), ConfigError> {
    for (at, letter) in order.char_indices() {
        if !('a'..='p').contains(&letter) {
            return Err(ConfigError::new(format!("Invalid boot device '{letter}'")));
        }
        if order[..at].contains(letter) {
            return Err(ConfigError::new(format!("Boot device '{letter}' was given twice")));
        }
    }
    Ok(())
}
