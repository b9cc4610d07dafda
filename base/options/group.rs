//! Option groups: which keys an option knows, and of which type they are.

use super::number::{SizeError, parse_int, parse_size};
use super::{OptionError, Opts, ParsedOpts};

/// The type of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptType {
    /// Any text.
    String,
    /// `on` or `off`.
    Bool,
    /// An unsigned number.
    Number,
    /// A number that may carry a suffix.
    Size,
}

/// One key of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptDesc {
    /// The key.
    pub name: &'static str,
    /// Its type.
    pub ty: OptType,
    /// One line of help; may be empty.
    pub help: &'static str,
}

impl OptDesc {
    /// A key without help.
    pub const fn new(name: &'static str, ty: OptType) -> Self {
        OptDesc { name, ty, help: "" }
    }
}

/// The keys of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptGroup {
    /// Its name in `-readconfig`, `-set` and `query-command-line-options`.
    pub name: &'static str,
    /// The key of a first value that comes without one.
    pub implied: Option<&'static str>,
    /// The keys; none means that whoever uses the options knows them.
    pub keys: &'static [OptDesc],
}

impl OptGroup {
    /// Reads an argument of this option and checks keys and values.
    pub fn parse(&self, text: &str) -> Result<ParsedOpts, OptionError> {
        let parsed = ParsedOpts::parse(text, self.implied, |key| self.has_key(key))?;
        if !parsed.help {
            self.check(&parsed.opts)?;
        }
        Ok(parsed)
    }

    /// Whether there is such a key.
    pub fn has_key(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Checks keys and values.
    pub fn check(&self, opts: &Opts) -> Result<(), OptionError> {
        opts.entries.iter().try_for_each(|(key, value)| self.check_entry(key, value))
    }

    /// Checks one key and its value.
    pub fn check_entry(&self, key: &str, value: &str) -> Result<(), OptionError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let desc = self.find(key).ok_or_else(|| OptionError::InvalidParameter(key.into()))?;
        match desc.ty {
            OptType::String => Ok(()),
            OptType::Bool => parse_bool(key, value).map(drop),
            OptType::Number => parse_number(key, value).map(drop),
            OptType::Size => parse_opt_size(key, value).map(drop),
        }
    }

    /// The listing that `help` among the keys asks for.
    pub fn help_text(&self) -> String {
        let line = |desc: &OptDesc| {
            let ty = match desc.ty {
                OptType::String => "str",
                OptType::Bool => "bool (on/off)",
                OptType::Number => "num",
                OptType::Size => "size",
            };
            let head = format!("  {}=<{ty}>", desc.name);
            if desc.help.is_empty() { head } else { format!("{head:<24} - {}", desc.help) }
        };
        let mut lines: Vec<String> = self.keys.iter().map(line).collect();
        lines.sort_unstable();
        format!("{} options:\n{}\n", self.name, lines.join("\n"))
    }

    fn find(&self, key: &str) -> Option<&OptDesc> {
        self.keys.iter().find(|desc| desc.name == key)
    }
}

/// Values by type. A group has checked those of its own keys already.
impl Opts {
    /// The switch `key`, if it is given.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, OptionError> {
        self.get(key).map(|value| parse_bool(key, value)).transpose()
    }

    /// The number `key`, if it is given.
    pub fn number(&self, key: &str) -> Result<Option<u64>, OptionError> {
        self.get(key).map(|value| parse_number(key, value)).transpose()
    }

    /// The size `key`, if it is given.
    pub fn size(&self, key: &str) -> Result<Option<u64>, OptionError> {
        self.get(key).map(|value| parse_opt_size(key, value)).transpose()
    }
}

fn parse_bool(key: &str, value: &str) -> Result<bool, OptionError> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(OptionError::NotABool(key.into())),
    }
}

/// A negative number is taken modulo 2^64, as `strtoull` does.
fn parse_number(key: &str, value: &str) -> Result<u64, OptionError> {
    if let Some(number) = parse_int(value) {
        return Ok(number as u64);
    }
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(OptionError::NumberTooLarge { name: key.into(), value: value.into() });
    }
    Err(OptionError::NotANumber(key.into()))
}

fn parse_opt_size(key: &str, value: &str) -> Result<u64, OptionError> {
    parse_size(value, 1).map_err(|error| match error {
        SizeError::Malformed => OptionError::NotASize(key.into()),
        SizeError::OutOfRange => {
            OptionError::SizeOutOfRange { name: key.into(), value: value.into() }
        }
    })
}
