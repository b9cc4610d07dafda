//! Arguments as getopt_long reads them: options and operands in any order.

use super::{Outcome, Output};
use crate::objects::Objects;

/// One option: its short and long name (either may be missing), what its value is called, if it takes one.
pub(super) struct Opt {
    pub(super) short: Option<char>,
    pub(super) long: &'static str,
    pub(super) value: Option<&'static str>,
    pub(super) about: &'static str,
}

/// An option without a value.
pub(super) const fn flag(short: Option<char>, long: &'static str, about: &'static str) -> Opt {
    Opt { short, long, value: None, about }
}

/// An option with a value.
pub(super) const fn value(
    short: Option<char>,
    long: &'static str,
    value: &'static str,
    about: &'static str,
) -> Opt {
    Opt { short, long, value: Some(value), about }
}

/// A subcommand.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) operands: &'static str,
    pub(super) options: &'static [Opt],
    pub(super) run: fn(&Args, &mut Output<'_>) -> Outcome,
}

const HELP: Opt = flag(Some('h'), "help", "display this help and exit");

/// Options that many subcommands have.
pub(super) mod common {
    use super::{Opt, flag, value};

    pub(in super::super) const FORMAT: Opt =
        value(Some('f'), "format", "FMT", "the format of the image; without it, it is looked for");
    pub(in super::super) const IMAGE_OPTS: Opt =
        flag(None, "image-opts", "FILE is a list of options, not a name");
    pub(in super::super) const OBJECT: Opt =
        value(None, "object", "OBJDEF", "define an object, such as a secret");
    pub(in super::super) const SHARE: Opt =
        flag(Some('U'), "force-share", "open although somebody else may be writing");
    pub(in super::super) const QUIET: Opt = flag(Some('q'), "quiet", "print nothing but errors");
    pub(in super::super) const PROGRESS: Opt =
        flag(Some('p'), "progress", "show how far it has come");
    pub(in super::super) const OUTPUT: Opt =
        value(None, "output", "human|json", "how the result is printed (human)");
    pub(in super::super) const CACHE: Opt =
        value(Some('t'), "cache", "CACHE", "cache mode of the image (writeback)");
    pub(in super::super) const SOURCE_CACHE: Opt =
        value(Some('T'), "source-cache", "CACHE", "cache mode of the source (writeback)");
}

impl Command {
    pub(super) fn help(&self) -> String {
        let mut text = format!("{}.  Usage:\n\n  qemu-img {}", self.about, self.name);
        text += &format!(" [options] {}\n\nOptions:\n", self.operands);
        for option in [&HELP].into_iter().chain(self.options) {
            let short = option.short.map(|short| format!("-{short}, ")).unwrap_or_default();
            let value = option.value.map(|value| format!(" {value}")).unwrap_or_default();
            text += &format!("  {short}--{}{value}\n     {}\n", option.long, option.about);
        }
        text
    }
}

/// What was given.
pub(super) struct Args {
    options: Vec<(&'static str, String)>,
    /// What is not an option.
    pub(super) operands: Vec<String>,
    /// What `--object` has defined.
    pub(super) objects: Objects,
}

impl Args {
    /// The error is getopt's message, without a program's name.
    pub(super) fn parse(options: &'static [Opt], args: &[String]) -> Result<Self, String> {
        let mut parsed =
            Self { options: Vec::new(), operands: Vec::new(), objects: Objects::default() };
        let table = || [&HELP].into_iter().chain(options);
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            if arg == "--" {
                parsed.operands.extend(rest.by_ref().cloned());
            } else if let Some(long) = arg.strip_prefix("--") {
                let (name, given) = match long.split_once('=') {
                    Some((name, given)) => (name, Some(given.to_owned())),
                    None => (long, None),
                };
                let begins = || table().filter(|option| option.long.starts_with(name));
                let option = match table().find(|option| option.long == name) {
                    Some(option) => option,
                    // The beginning of a name will do, if it is that of one name.
                    None if begins().count() > 1 => {
                        let all: Vec<_> = begins().map(|o| format!(" '--{}'", o.long)).collect();
                        return Err(format!(
                            "option '{arg}' is ambiguous; possibilities:{}",
                            all.concat()
                        ));
                    }
                    None => {
                        begins().next().ok_or_else(|| format!("unrecognized option '{arg}'"))?
                    }
                };
                let needs = option.value.is_some();
                let text = match (needs, given) {
                    (true, Some(given)) => given,
                    (true, None) => rest
                        .next()
                        .cloned()
                        .ok_or_else(|| format!("option '{arg}' requires an argument"))?,
                    (false, None) => String::new(),
                    (false, Some(_)) => {
                        return Err(format!("option '--{name}' doesn't allow an argument"));
                    }
                };
                parsed.options.push((option.long, text));
            } else if let Some(mut letters) = arg.strip_prefix('-').filter(|rest| !rest.is_empty())
            {
                while let Some(letter) = letters.chars().next() {
                    letters = &letters[letter.len_utf8()..];
                    let option = table().find(|option| option.short == Some(letter));
                    let option = option.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
                    let mut text = String::new();
                    if option.value.is_some() {
                        text = std::mem::take(&mut letters).to_owned();
                        if text.is_empty() {
                            let missing = || format!("option requires an argument -- '{letter}'");
                            text = rest.next().cloned().ok_or_else(missing)?;
                        }
                    }
                    parsed.options.push((option.long, text));
                }
            } else {
                parsed.operands.push(arg.clone());
            }
        }
        Ok(parsed)
    }

    pub(super) fn has(&self, long: &str) -> bool {
        self.get(long).is_some()
    }

    /// The last value given.
    pub(super) fn get(&self, long: &str) -> Option<&str> {
        self.all(long).last()
    }

    /// All options with their values, as given.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.options.iter().map(|(name, text)| (*name, text.as_str()))
    }

    pub(super) fn all(&self, long: &str) -> impl Iterator<Item = &str> {
        self.options.iter().filter(move |(name, _)| *name == long).map(|(_, text)| text.as_str())
    }

    /// Whether `--output=json` was given.
    pub(super) fn json(&self) -> Result<bool, super::Failure> {
        match self.get("output") {
            None | Some("human") => Ok(false),
            Some("json") => Ok(true),
            Some(other) => {
                let text = format!("--output expects 'human' or 'json' not '{other}'");
                Err(super::Failure::usage(text))
            }
        }
    }
}
