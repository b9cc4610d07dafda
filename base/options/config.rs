//! `-readconfig` files, `-set` and `-global`.

use super::{OptGroup, OptType, OptionError, Opts, check_id};

/// One section of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSection {
    /// `device` in `[device "nic0"]`.
    pub group: String,
    /// Its `id` and values.
    pub opts: Opts,
    /// Where its last value stands, counted from 1; faults are reported there.
    pub line: usize,
}

/// Why a configuration file was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value before the first `[group]`.
    #[error("no group defined")]
    NoGroup,
    /// A line that says nothing.
    #[error("parse error")]
    Malformed,
    /// A section's name cannot be one.
    #[error(transparent)]
    Option(#[from] OptionError),
}

/// Reads a configuration file.
///
/// ```text
/// # comment
/// [device "exit"]
///   driver = "isa-debug-exit"
///   iobase = "0x502"
/// ```
///
/// A value goes from its opening quote to the next one; there are no escapes, and one without quotes
/// counts as empty.
pub fn parse_config(text: &str) -> Result<Vec<ConfigSection>, ConfigError> {
    let mut sections: Vec<ConfigSection> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix('[') {
            let (group, id) = parse_head(head)?;
            let opts = Opts { id: id.map(Into::into), entries: Vec::new() };
            sections.push(ConfigSection { group: group.into(), opts, line: index + 1 });
        } else {
            let section = sections.last_mut().ok_or(ConfigError::NoGroup)?;
            let key = line.split(char::is_whitespace).next().unwrap_or_default();
            let value = line[key.len()..].trim_start().strip_prefix('=').map_or("", quoted);
            section.opts.set(key, value);
            section.line = index + 1;
        }
    }
    Ok(sections)
}

/// `device "nic0"]` or `machine]`
fn parse_head(head: &str) -> Result<(&str, Option<&str>), ConfigError> {
    if let Some((group, rest)) = head.split_once('"') {
        let id = rest.split('"').next().unwrap_or_default();
        check_id(id)?;
        return Ok((group.trim(), Some(id)));
    }
    let group = head.split(']').next().unwrap_or_default().trim();
    if group.is_empty() { Err(ConfigError::Malformed) } else { Ok((group, None)) }
}

fn quoted(text: &str) -> &str {
    text.trim_start()
        .strip_prefix('"')
        .map_or("", |rest| rest.split('"').next().unwrap_or_default())
}

/// `group.id.key=value`, the argument of `-set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOption {
    /// Which option.
    pub group: String,
    /// Which of them.
    pub id: String,
    /// What of it.
    pub key: String,
    /// Its new value.
    pub value: String,
}

impl SetOption {
    /// Reads the argument.
    pub fn parse(text: &str) -> Option<Self> {
        let (group, rest) = text.split_once('.')?;
        let (id, rest) = rest.split_once('.')?;
        let (key, value) = rest.split_once('=')?;
        if [group, id, key].iter().any(|part| part.is_empty()) {
            return None;
        }
        Some(SetOption { group: group.into(), id: id.into(), key: key.into(), value: value.into() })
    }
}

/// The keys of `-global`.
pub const GLOBAL: OptGroup = OptGroup {
    name: "global",
    implied: None,
    keys: &[
        super::OptDesc::new("driver", OptType::String),
        super::OptDesc::new("property", OptType::String),
        super::OptDesc::new("value", OptType::String),
    ],
};

/// The argument of `-global`: a default for all devices of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalProp {
    /// The type, or one that it derives from.
    pub driver: String,
    /// The property.
    pub property: String,
    /// Its value.
    pub value: String,
}

impl GlobalProp {
    /// Reads the short form `driver.property=value`, where the value is all that follows, commas too.
    pub fn parse_short(text: &str) -> Option<Self> {
        let (driver, rest) = text.split_once('.')?;
        let (property, value) = rest.split_once('=')?;
        // An `=` before the dot makes it the long form.
        if driver.is_empty() || property.is_empty() || driver.contains(['=', ',']) {
            return None;
        }
        Some(GlobalProp { driver: driver.into(), property: property.into(), value: value.into() })
    }

    /// Takes the long form's keys, all of which are needed.
    pub fn from_opts(opts: &Opts) -> Option<Self> {
        let get = |key| opts.get(key).map(str::to_string);
        Some(GlobalProp {
            driver: get("driver")?,
            property: get("property")?,
            value: get("value")?,
        })
    }

    /// What to say when `error` came of applying it.
    pub fn failure(&self, error: &dyn std::fmt::Display) -> String {
        format!("can't apply global {}.{}={}: {error}", self.driver, self.property, self.value)
    }
}
