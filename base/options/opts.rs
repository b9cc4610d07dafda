//! Flat lists of `key=value`.

use super::{OptionError, is_help};

/// Keys and values in the order given. A key may occur more than once; the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opts {
    /// The value of `id=`, which names the object.
    pub id: Option<String>,
    /// All others.
    pub entries: Vec<(String, String)>,
}

/// A key without a value, which QEMU warns about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortForm {
    /// The key as typed.
    pub typed: String,
    /// What should have been typed.
    pub instead: String,
}

impl std::fmt::Display for ShortForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ShortForm { typed, instead } = self;
        write!(f, "short-form boolean option '{typed}' deprecated\nPlease use {instead} instead")
    }
}

/// What an argument says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedOpts {
    /// Its keys and values.
    pub opts: Opts,
    /// Whether `help` or `?` stands among the keys. As a first value without its key it is only that;
    /// options that list something look at it with [`is_help`].
    pub help: bool,
    /// What to warn about.
    pub short_forms: Vec<ShortForm>,
}

impl ParsedOpts {
    /// Reads an argument. `implied` is the key of a first value that comes without one; `is_key`
    /// knows the group's keys, so that `nodelay` is not taken for `delay=off` where it is one.
    pub fn parse(
        text: &str,
        implied: Option<&str>,
        is_key: impl Fn(&str) -> bool,
    ) -> Result<Self, OptionError> {
        let mut parsed = ParsedOpts::default();
        let mut rest = text;
        let mut implied = implied;
        while !rest.is_empty() {
            let end = rest.find(['=', ',']).unwrap_or(rest.len());
            let first = implied.take();
            let (key, value);
            if rest[end..].starts_with('=') {
                key = rest[..end].to_string();
                (value, rest) = take_value(&rest[end + 1..]);
            } else if let Some(implied) = first {
                key = implied.to_string();
                let typed;
                (value, typed) = take_value(rest);
                rest = typed;
            } else {
                let typed = &rest[..end];
                rest = rest[end..].strip_prefix(',').unwrap_or_default();
                if is_help(typed) {
                    parsed.help = true;
                    continue;
                }
                let negated = typed.strip_prefix("no").filter(|_| !is_key(typed));
                key = negated.unwrap_or(typed).to_string();
                value = if negated.is_some() { "off" } else { "on" }.to_string();
                let instead = format!("{key}={value}");
                parsed.short_forms.push(ShortForm { typed: typed.to_string(), instead });
            }
            if key == "id" {
                check_id(&value)?;
                parsed.opts.id = Some(value);
            } else {
                parsed.opts.entries.push((key, value));
            }
        }
        Ok(parsed)
    }
}

/// Splits at the first comma that is not doubled; undoubles those before it.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some(comma) = rest.find(',') {
        value.push_str(&rest[..comma]);
        rest = &rest[comma + 1..];
        match rest.strip_prefix(',') {
            Some(more) => {
                value.push(',');
                rest = more;
            }
            None => return (value, rest),
        }
    }
    value.push_str(rest);
    (value, "")
}

/// Fails unless `id` can name an object.
pub fn check_id(id: &str) -> Result<(), OptionError> {
    let well_formed = id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if well_formed { Ok(()) } else { Err(OptionError::NotAnIdentifier("id".into())) }
}

impl Opts {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All values of `key`, in the order given.
    pub fn get_all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.entries.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Gives `key` a value, over any it had.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.entries.push((key.into(), value.into()));
    }

    /// Takes `key` out and returns its value.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let value = self.get(key).map(str::to_string);
        self.entries.retain(|(name, _)| name != key);
        value
    }
}
