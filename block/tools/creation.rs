//! `-o`: what new images can be like, format by format.

use base::options::number::{SizeError, parse_int, parse_size};
use base::options::{OptionError, ParsedOpts, is_help};

use super::Failure;
use crate::objects::Objects;
use crate::{Error, Result};

/// What an option's value is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Switch,
    Number,
    Size,
}

/// An option of a format.
pub(super) struct Desc {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) about: &'static str,
    pub(super) default: Option<&'static str>,
}

pub(super) const fn text(name: &'static str, about: &'static str) -> Desc {
    Desc { name, kind: Kind::Text, about, default: None }
}

pub(super) const fn switch(name: &'static str, about: &'static str) -> Desc {
    Desc { name, kind: Kind::Switch, about, default: None }
}

pub(super) const fn number(name: &'static str, about: &'static str) -> Desc {
    Desc { name, kind: Kind::Number, about, default: None }
}

pub(super) const fn size(name: &'static str, about: &'static str) -> Desc {
    Desc { name, kind: Kind::Size, about, default: None }
}

impl Desc {
    pub(super) const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    fn help(&self) -> String {
        let kind = match self.kind {
            Kind::Text => "str",
            Kind::Switch => "bool (on/off)",
            Kind::Number => "num",
            Kind::Size => "size",
        };
        format!("  {:<22} - {}\n", format!("{}=<{kind}>", self.name), self.about)
    }

    /// The value in its one form.
    fn normal(&self, value: &str) -> std::result::Result<String, OptionError> {
        let name = || self.name.to_owned();
        match self.kind {
            Kind::Text => Ok(value.to_owned()),
            Kind::Switch if matches!(value, "on" | "off") => Ok(value.to_owned()),
            Kind::Switch => Err(OptionError::NotABool(name())),
            Kind::Number => match parse_int(value).map(|number| (i64::try_from(number), number)) {
                Some((Ok(number), _)) => Ok(number.to_string()),
                Some((_, number)) if u64::try_from(number).is_ok() => Ok(number.to_string()),
                _ => Err(OptionError::NotANumber(name())),
            },
            Kind::Size => match parse_size(value, 1) {
                Ok(size) => Ok(size.to_string()),
                Err(SizeError::Malformed) => Err(OptionError::NotASize(name())),
                Err(SizeError::OutOfRange) => {
                    Err(OptionError::SizeOutOfRange { name: name(), value: value.to_owned() })
                }
            },
        }
    }
}

/// What the `file` protocol adds to every format that does not have it itself.
pub(super) const FILE: [Desc; 4] = [
    size("size", "Virtual disk size"),
    switch("nocow", "Turn off copy-on-write (valid only on btrfs)"),
    text("preallocation", "Preallocation mode (allowed values: off, falloc, full)"),
    size("extent_size_hint", "Extent size hint for the image file, 0 to disable"),
];

/// Options for a new image.
pub(super) struct Chosen {
    /// Those of the format, then those of the protocol.
    descs: Vec<&'static Desc>,
    values: Vec<Option<String>>,
    /// Which of them were given, not defaults.
    given: Vec<bool>,
    /// Where passwords are found.
    pub(super) objects: Objects,
}

/// All `-o` arguments as one. An empty option is an accident in quoting.
pub(super) fn join<'a>(
    given: impl Iterator<Item = &'a str>,
) -> std::result::Result<String, Failure> {
    let mut all = String::new();
    for text in given {
        let commas = text.len() - text.trim_end_matches(',').len();
        if text.starts_with(',') || commas % 2 == 1 || text.is_empty() {
            return Err(Failure::new(format!("Invalid option list: {text}")));
        }
        if !all.is_empty() {
            all.push(',');
        }
        all += text;
    }
    Ok(all)
}

/// Whether a list of options asks for help.
pub(super) fn asks_for_help(list: &str) -> bool {
    let doubled = list.replace(",,", "\0");
    doubled.split(',').any(is_help)
}

/// What a format offers; with the protocol's options, if the name of an image was given.
pub(super) fn help(format: &str, descs: &'static [Desc], with_file: bool) -> String {
    let mut all: Vec<&Desc> = descs.iter().collect();
    if with_file {
        all.extend(FILE.iter().filter(|desc| !descs.iter().any(|own| own.name == desc.name)));
    }
    let lines = help_lines(all);
    match with_file {
        true => format!("Supported options:\n{lines}"),
        false => format!(
            "Supported {format} options:\n{lines}\nThe protocol level may support further \
             options.\nSpecify the target filename to include those options.\n"
        ),
    }
}

/// A line for each option, by name.
pub(super) fn help_lines(mut descs: Vec<&Desc>) -> String {
    descs.sort_by_key(|desc| desc.name);
    descs.into_iter().map(Desc::help).collect()
}

impl Chosen {
    /// Nothing said: the defaults of a format.
    pub(super) fn defaults(descs: &'static [Desc]) -> Self {
        let more = FILE.iter().filter(|desc| !descs.iter().any(|own| own.name == desc.name));
        Self::of(descs.iter().chain(more).collect())
    }

    /// Nothing said, of these options alone.
    pub(super) fn only(descs: &'static [Desc]) -> Self {
        Self::of(descs.iter().collect())
    }

    fn of(descs: Vec<&'static Desc>) -> Self {
        let values = descs.iter().map(|desc| desc.default.map(str::to_owned)).collect();
        let given = vec![false; descs.len()];
        Self { descs, values, given, objects: Objects::default() }
    }

    /// Says what a list of options says.
    pub(super) fn apply(&mut self, list: &str) -> Result<()> {
        let parsed = ParsedOpts::parse(list, None, |key| self.index(key).is_some())?;
        let id = parsed.opts.id.map(|id| ("id".to_owned(), id));
        for (key, value) in parsed.opts.entries.into_iter().chain(id) {
            self.set(&key, &value)?;
        }
        Ok(())
    }

    fn index(&self, key: &str) -> Option<usize> {
        self.descs.iter().position(|desc| desc.name == key)
    }

    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let index = self.index(key).ok_or_else(|| OptionError::InvalidParameter(key.into()))?;
        self.values[index] = Some(self.descs[index].normal(value)?);
        self.given[index] = true;
        Ok(())
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.values[self.index(key)?].as_deref()
    }

    /// Whether it was said, and not a default.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.index(key).is_some_and(|index| self.given[index])
    }

    pub(super) fn is_on(&self, key: &str) -> bool {
        self.text(key) == Some("on")
    }

    /// A number; a negative one is a large one, as in C.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        let text = self.text(key)?;
        text.parse().ok().or_else(|| text.parse::<i64>().ok().map(|number| number as u64))
    }

    /// The secret whose id was said.
    pub(super) fn secret(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let secret = |id| self.objects.secrets.get(id).map(|bytes| bytes.to_vec());
        self.text(key).map(secret).transpose()
    }

    /// One of some names.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        names: &[(&str, T)],
        default: T,
        parameter: &str,
    ) -> Result<T> {
        let Some(value) = self.text(key) else { return Ok(default) };
        let found = names.iter().find(|(name, _)| *name == value);
        found.map(|(_, value)| *value).ok_or_else(|| {
            Error::invalid(format!("Parameter '{parameter}' does not accept value '{value}'"))
        })
    }

    /// `size=1048576 cluster_size=65536`: what is set, in the format's order.
    pub(super) fn describe(&self) -> String {
        let set = self.descs.iter().zip(&self.values);
        let pairs = set.filter_map(|(desc, value)| {
            let value = value.as_deref()?;
            Some(format!("{}={}", desc.name, value.replace(',', ",,")))
        });
        pairs.collect::<Vec<_>>().join(" ")
    }
}
