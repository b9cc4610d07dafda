//! The debugging log: `-d item,...`, `-D file`, `-dfilter ranges`.
//!
//! Ask [`enabled`] before building a message that costs something. What a guest does wrong is
//! logged with [`guest_error!`](crate::guest_error), what is missing in a device with
//! [`unimplemented_feature!`](crate::unimplemented_feature); both stop repeating themselves.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock};
use thiserror::Error;

use crate::options::number::parse_int;
use crate::report::{strerror, write_stderr};

/// A kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item(u32);

/// A kind with its name and what `-d help` says about it.
pub struct ItemInfo {
    /// As `-d` takes it.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    /// The kind.
    pub item: Item,
}

macro_rules! items {
    ($($constant:ident = $bit:literal, $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: Item = Item(1 << $bit);)*

        /// All kinds of messages, in the order in which they are listed.
        pub const ITEMS: &[ItemInfo] =
            &[$(ItemInfo { name: $name, help: $help, item: $constant }),*];
    };
}

items! {
    OUT_ASM = 10, "out_asm", "show generated host assembly code for each compiled TB";
    IN_ASM = 8, "in_asm", "show target assembly code for each compiled TB";
    OP = 11, "op", "show micro ops for each compiled TB";
    INT = 0, "int", "show interrupts/exceptions in short format";
    EXEC = 1, "exec", "show trace before each executed TB (lots of logs)";
    CPU = 2, "cpu", "show CPU registers before entering a TB (lots of logs)";
    FPU = 3, "fpu", "include FPU registers in the 'cpu' logging";
    MMU = 4, "mmu", "log MMU-related activities";
    CPU_RESET = 5, "cpu_reset", "show CPU state before CPU resets";
    UNIMP = 6, "unimp", "log unimplemented functionality";
    GUEST_ERRORS = 7, "guest_errors",
        "log when the guest OS does something invalid (eg accessing a\nnon-existent register)";
    NOCHAIN = 9, "nochain",
        "do not chain compiled TBs so that \"exec\" and \"cpu\" show\ncomplete traces";
}

static MASK: AtomicU32 = AtomicU32::new(0);
static OUTPUT: Mutex<Option<File>> = Mutex::new(None);
static FILTERED: AtomicBool = AtomicBool::new(false);
static FILTER: RwLock<Vec<RangeInclusive<u64>>> = RwLock::new(Vec::new());

/// Why logging cannot be set up.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages are the documentation.
pub enum LogError {
    /// The caller shows the help and ends, as for `-d help`.
    #[error("unknown log item '{0}'")]
    UnknownItem(String),
    #[error("Bad logfile template: {0}")]
    BadTemplate(String),
    #[error("Error opening logfile {path}: {}", strerror(source))]
    Open { path: String, source: io::Error },
    #[error("Bad range specifier")]
    BadRange,
    #[error("Invalid number to the {side} of {operator}")]
    BadNumber { side: &'static str, operator: &'static str },
    #[error("Invalid range")]
    InvalidRange,
}

/// Whether messages of this kind are wanted.
#[inline]
pub fn enabled(item: Item) -> bool {
    MASK.load(Ordering::Relaxed) & item.0 != 0
}

/// What `-d` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    mask: u32,
    /// Patterns of trace points.
    pub trace: Vec<String>,
}

/// Reads the argument of `-d`: names of kinds, `all`, and `trace:PATTERN`.
pub fn parse_items(text: &str) -> Result<Selection, LogError> {
    let mut selection = Selection::default();
    for name in text.split(',') {
        if let Some(pattern) = name.strip_prefix("trace:").filter(|pattern| !pattern.is_empty()) {
            selection.trace.push(pattern.into());
        } else if name == "all" {
            selection.mask = ITEMS.iter().fold(0, |mask, info| mask | info.item.0);
        } else {
            let known = ITEMS.iter().find(|info| info.name == name);
            selection.mask |= known.ok_or_else(|| LogError::UnknownItem(name.into()))?.item.0;
        }
    }
    Ok(selection)
}

/// Logs these kinds from now on, and no others. Trace points are the caller's to enable.
pub fn select(selection: &Selection) {
    MASK.store(selection.mask, Ordering::Relaxed);
}

/// What `-d help` prints.
pub fn help() -> String {
    let mut text = "Log items (comma separated):\n".to_string();
    for info in ITEMS {
        text += &format!("{:<15} {}\n", info.name, info.help);
    }
    text + "trace:PATTERN   enable trace events\n\nUse \"-d trace:help\" to get a list of trace events.\n\n"
}

/// Logs to a file from now on; `%d` in its name stands for the process id.
pub fn open(template: &str) -> Result<(), LogError> {
    let path = expand(template, std::process::id())?;
    let file = File::create(&path).map_err(|source| LogError::Open { path, source })?;
    *OUTPUT.lock() = Some(file);
    Ok(())
}

/// Another descriptor of the log's file, if it goes to one.
pub fn file() -> io::Result<Option<File>> {
    OUTPUT.lock().as_ref().map(File::try_clone).transpose()
}

fn expand(template: &str, pid: u32) -> Result<String, LogError> {
    match template.split_once('%') {
        None => Ok(template.into()),
        Some((start, rest)) => match rest.strip_prefix('d') {
            Some(end) if !end.contains('%') => Ok(format!("{start}{pid}{end}")),
            _ => Err(LogError::BadTemplate(template.into())),
        },
    }
}

/// `-dfilter`: restricts messages about guest code to these addresses.
pub fn set_filter(text: &str) -> Result<(), LogError> {
    let ranges = text.split(',').map(parse_range).collect::<Result<_, _>>()?;
    *FILTER.write() = ranges;
    FILTERED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether messages about code at this address are wanted.
pub fn in_filter(address: u64) -> bool {
    !FILTERED.load(Ordering::Relaxed) || FILTER.read().iter().any(|range| range.contains(&address))
}

/// `start+size`, `end-size` or `first..last`.
fn parse_range(text: &str) -> Result<RangeInclusive<u64>, LogError> {
    let split = |operator| text.split_once(operator).map(|(l, r)| (l, operator, r));
    let (left, operator, right) =
        split("..").or_else(|| split("+")).or_else(|| split("-")).ok_or(LogError::BadRange)?;
    let number = |text, side| {
        let number = parse_int(text).and_then(|n| u64::try_from(n).ok());
        number.ok_or(LogError::BadNumber { side, operator })
    };
    let (left, right) = (number(left, "left")?, number(right, "right")?);
    let range = match operator {
        ".." => Some((left, right)),
        // An empty range has no last address.
        "+" => right.checked_sub(1).and_then(|more| Some((left, left.checked_add(more)?))),
        _ => left.checked_sub(right).zip(left.checked_sub(1)),
    };
    let (first, last) =
        range.filter(|(first, last)| first <= last).ok_or(LogError::InvalidRange)?;
    Ok(first..=last)
}

/// Writes to the log, whatever is enabled: to the file of `-D`, or to stderr. Nobody can be told
/// about a failure.
pub fn write(message: fmt::Arguments<'_>) {
    let text = message.to_string();
    match &mut *OUTPUT.lock() {
        Some(file) => drop(file.write_all(text.as_bytes())),
        None => write_stderr(text.as_bytes()),
    }
}

/// How often one place in the program may log what the guest makes it log.
const REPEATS: u32 = 10;

/// Counts the messages of one place; for the macros.
pub struct RateLimit(AtomicU32);

impl RateLimit {
    /// Nothing logged yet.
    #[allow(clippy::new_without_default)] // Used in statics, where `default` cannot be called.
    pub const fn new() -> RateLimit {
        RateLimit(AtomicU32::new(0))
    }

    /// Logs a line, unless there have been enough of them.
    pub fn write(&self, message: fmt::Arguments<'_>) {
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1)) {
            Ok(count) if count + 1 < REPEATS => write(format_args!("{message}\n")),
            Ok(count) if count + 1 == REPEATS => {
                write(format_args!("{message} (no more messages of this kind)\n"));
            }
            _ => {}
        }
    }
}

/// Logs a line of the given kind if that is enabled, with `format!`'s arguments.
#[macro_export]
macro_rules! log_item {
    ($item:expr, $format:literal $($arguments:tt)*) => {
        if $crate::log::enabled($item) {
            $crate::log::write(format_args!(concat!($format, "\n") $($arguments)*));
        }
    };
}

/// Logs what a guest may cause as often as it likes; see [`guest_error!`](crate::guest_error).
#[macro_export]
#[doc(hidden)]
macro_rules! log_limited {
    ($item:expr, $($message:tt)*) => {
        if $crate::log::enabled($item) {
            static LIMIT: $crate::log::RateLimit = $crate::log::RateLimit::new();
            LIMIT.write(format_args!($($message)*));
        }
    };
}

/// Logs, with `format!`'s arguments, that the guest did something invalid (`-d guest_errors`).
#[macro_export]
macro_rules! guest_error {
    ($($message:tt)*) => {
        $crate::log_limited!($crate::log::GUEST_ERRORS, $($message)*)
    };
}

/// Logs, with `format!`'s arguments, that the guest asked for something that is missing
/// (`-d unimp`).
#[macro_export]
macro_rules! unimplemented_feature {
    ($($message:tt)*) => {
        $crate::log_limited!($crate::log::UNIMP, $($message)*)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read() {
        let selection = parse_items("int,guest_errors,trace:pci*").unwrap();
        assert_eq!(selection.mask, INT.0 | GUEST_ERRORS.0);
        assert_eq!(selection.trace, ["pci*"]);
        assert_eq!(parse_items("all").unwrap().mask, (1 << ITEMS.len()) - 1);
        for unknown in ["foo", "int,,cpu", "", "trace:"] {
            assert!(matches!(parse_items(unknown), Err(LogError::UnknownItem(_))), "{unknown}");
        }
    }

    #[test]
    fn help_lists_every_item() {
        let help = help();
        assert!(help.contains("\nint             show interrupts/exceptions in short format\n"));
        assert!(ITEMS.iter().all(|info| help.contains(&format!("\n{:<15} ", info.name))));
    }

    #[test]
    fn a_template_takes_the_process_id_once() {
        assert_eq!(expand("/x/log", 7).unwrap(), "/x/log");
        assert_eq!(expand("/x/log-%d.txt", 7).unwrap(), "/x/log-7.txt");
        for bad in ["a%x", "a%d%d", "a%", "%%d"] {
            assert_eq!(
                expand(bad, 7).unwrap_err().to_string(),
                format!("Bad logfile template: {bad}")
            );
        }
    }

    #[test]
    fn ranges_are_read() {
        let range = |text| parse_range(text).unwrap();
        assert_eq!(range("0x8000..0x8fff"), 0x8000..=0x8fff);
        assert_eq!(range("0x80000+0x200"), 0x80000..=0x801ff);
        assert_eq!(range("0x60000-0x1000"), 0x5f000..=0x5ffff);
        assert_eq!(range("0..0xffffffffffffffff"), 0..=u64::MAX);
        let error = |text| parse_range(text).unwrap_err().to_string();
        assert_eq!(error("foo"), "Bad range specifier");
        assert_eq!(error("foo+1"), "Invalid number to the left of +");
        assert_eq!(error("0x10-"), "Invalid number to the right of -");
        for empty in ["0x10..0x5", "1+0", "5-0", "1-2", "0xffffffffffffffff+2"] {
            assert_eq!(error(empty), "Invalid range", "{empty}");
        }
    }
}
