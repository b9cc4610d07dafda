//! The commands and their arguments.

use super::{Session, control, transfer, zone};

/// Whether a command goes on with the next one (`Ok`), and whether it failed (`Err`).
pub(super) type Done = Result<(), Failed>;

/// A command failed; it has said why.
pub(super) struct Failed;

/// One command.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) short: Option<&'static str>,
    /// Works without an open file.
    pub(super) no_file: bool,
    /// Opens or closes the file, or ends the program.
    pub(super) opens: bool,
    /// Returns at once, whatever is under way.
    pub(super) never_waits: bool,
    /// How many arguments at least, and at most.
    pub(super) min: usize,
    pub(super) max: Option<usize>,
    pub(super) args: &'static str,
    pub(super) about: &'static str,
    pub(super) help: &'static str,
    /// The options, as getopt has them: a colon behind those with a value.
    pub(super) options: &'static str,
    pub(super) run: fn(&mut Session<'_>, &Command, &Given) -> Done,
}

impl Command {
    pub(super) fn usage(&self, called: &str) -> String {
        // That of `map` is there, but empty.
        let gap = if self.args.is_empty() && self.name != "map" { "" } else { " " };
        format!("{called}{gap}{} -- {}\n", self.args, self.about)
    }

    /// What is wrong with the number of arguments.
    pub(super) fn count_error(&self, called: &str, given: usize) -> Option<String> {
        if given >= self.min && self.max.is_none_or(|max| given <= max) {
            return None;
        }
        let expected = match self.max {
            None => format!("at least {} arguments", self.min),
            Some(max) if max == self.min => format!("{max} arguments"),
            Some(max) => format!("between {} and {max} arguments", self.min),
        };
        Some(format!("bad argument count {given} to {called}, expected {expected}"))
    }
}

/// The arguments of a command: options, and what is none, in the order given.
pub(super) struct Given {
    pub(super) options: Vec<(char, String)>,
    pub(super) operands: Vec<String>,
}

impl Given {
    /// As getopt does it; the error is its message.
    pub(super) fn parse(spec: &str, args: &[&str]) -> Result<Self, String> {
        let mut given = Self { options: Vec::new(), operands: Vec::new() };
        let mut rest = args.iter();
        while let Some(&arg) = rest.next() {
            if arg == "--" {
                given.operands.extend(rest.by_ref().map(|&arg| arg.to_owned()));
                break;
            }
            let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                given.operands.push(arg.to_owned());
                continue;
            };
            let mut letters = letters.chars();
            while let Some(letter) = letters.next() {
                let found = spec.find(letter).filter(|_| letter != ':');
                let at = found.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
                let mut value = String::new();
                if spec[at + letter.len_utf8()..].starts_with(':') {
                    value = letters.by_ref().collect();
                    if value.is_empty() {
                        let missing = || format!("option requires an argument -- '{letter}'");
                        value = (*rest.next().ok_or_else(missing)?).to_owned();
                    }
                }
                given.options.push((letter, value));
            }
        }
        Ok(given)
    }

    pub(super) fn has(&self, letter: char) -> bool {
        self.get(letter).is_some()
    }

    /// The last value given.
    pub(super) fn get(&self, letter: char) -> Option<&str> {
        self.options.iter().rev().find(|(name, _)| *name == letter).map(|(_, value)| value.as_str())
    }
}

/// In alphabetical order, as they are listed.
pub(super) const COMMANDS: &[Command] = &[
    control::ABORT,
    transfer::AIO_FLUSH,
    transfer::AIO_READ,
    transfer::AIO_WRITE,
    control::ALLOC,
    control::BREAK,
    control::CLOSE,
    transfer::DISCARD,
    control::FLUSH,
    control::HELP,
    control::INFO,
    control::LENGTH,
    control::MAP,
    control::OPEN,
    control::QUIT,
    transfer::READ,
    transfer::READV,
    control::REMOVE_BREAK,
    control::REOPEN,
    control::RESUME,
    control::SIGRAISE,
    control::SLEEP,
    control::TRUNCATE,
    control::WAIT_BREAK,
    transfer::WRITE,
    transfer::WRITEV,
    zone::APPEND,
    zone::CLOSE,
    zone::FINISH,
    zone::OPEN,
    zone::REPORT,
    zone::RESET,
];

pub(super) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name || command.short == Some(name))
}
