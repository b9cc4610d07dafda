//! Trace points: places in the program that tell what happens, when asked to.
//!
//! ```
//! fn config_read(device: &str, offset: u8, value: u32) {
//!     base::trace_event!(pci_cfg_read, "{device} @{offset:#x} -> {value:#x}");
//! }
//! config_read("piix3", 4, 7);
//! ```
//!
//! While a trace point is off it costs one relaxed load. The linker gathers all of them, from
//! whatever crate, into one table, so that `-trace help` knows points that were never reached.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{error_report, log, report, warn_report};

#[doc(hidden)]
pub use linkme;

/// All trace points of the program.
#[linkme::distributed_slice]
pub static POINTS: [TracePoint];

/// One place, or several that share a name; see [`trace_event!`](crate::trace_event).
pub struct TracePoint {
    name: &'static str,
    enabled: AtomicBool,
}

impl TracePoint {
    /// For the macro.
    #[doc(hidden)]
    pub const fn new(name: &'static str) -> TracePoint {
        TracePoint { name, enabled: AtomicBool::new(false) }
    }

    /// Whether it is on.
    #[inline]
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Tells, as a line of the log.
    #[cold]
    pub fn fire(&self, message: fmt::Arguments<'_>) {
        let name = self.name;
        if report::timestamps() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let (pid, seconds, micros) = (std::process::id(), now.as_secs(), now.subsec_micros());
            log::write(format_args!("{pid}@{seconds}.{micros:06}:{name} {message}\n"));
        } else {
            log::write(format_args!("{name} {message}\n"));
        }
    }
}

/// Declares a trace point: its name, then `format!`'s arguments. They are not evaluated while it
/// is off.
///
/// Expands to a static [`TracePoint`] in the table [`POINTS`], and an `if` around
/// [`TracePoint::fire`].
#[macro_export]
macro_rules! trace_event {
    ($name:ident, $($message:tt)*) => {{
        #[$crate::trace::linkme::distributed_slice($crate::trace::POINTS)]
        #[linkme(crate = $crate::trace::linkme)]
        #[allow(unsafe_code)] // A link section, which linkme checks the element's type for.
        static POINT: $crate::trace::TracePoint =
            $crate::trace::TracePoint::new(stringify!($name));
        if POINT.enabled() {
            POINT.fire(format_args!($($message)*));
        }
    }};
}

/// The names of all trace points, sorted, each once.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = POINTS.iter().map(|point| point.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether a name matches a pattern (`*` and `?`).
pub fn matches(pattern: &str, name: &str) -> bool {
    glob_matches(pattern, name)
}

/// The names of those that are on.
pub fn enabled_names() -> Vec<&'static str> {
    let on = |name: &&str| POINTS.iter().any(|point| point.name == *name && point.enabled());
    names().into_iter().filter(on).collect()
}

/// Switches all that match a pattern (`*` and `?`) on or off; returns how many names did match.
pub fn set_enabled(pattern: &str, on: bool) -> usize {
    let matching = names().into_iter().filter(|name| glob_matches(pattern, name)).count();
    for point in POINTS.iter().filter(|point| glob_matches(pattern, point.name)) {
        point.enabled.store(on, Ordering::Relaxed);
    }
    matching
}

/// One word of `-trace` or line of an events file: a pattern, to be switched off after a `-`.
/// Warns about a name that does not exist; a pattern may match nothing.
pub fn apply(word: &str) {
    let (pattern, on) = word.strip_prefix('-').map_or((word, true), |pattern| (pattern, false));
    if set_enabled(pattern, on) == 0 && !pattern.contains(['*', '?']) {
        warn_report!("trace event '{pattern}' does not exist");
    }
}

/// `-trace events=FILE`: a word per line, with `#` comments. Reports a file that cannot be read.
pub fn apply_file(path: &str) -> bool {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            for (number, line) in (1..).zip(text.lines()) {
                let line = line.trim();
                if !line.is_empty() && !line.starts_with('#') {
                    let _place = report::at_line(path, number);
                    apply(line);
                }
            }
            true
        }
        Err(error) => {
            let _place = report::at_line(path, 0);
            error_report!("{}", report::strerror(&error));
            false
        }
    }
}

/// Whether `text` matches a pattern in which `*` stands for any text and `?` for any character.
/// After a mismatch only the last `*` need take one more: so this is quadratic at worst.
fn glob_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((star, start)) = retry else { return false };
                retry = Some((star, start + 1));
                (p, t) = (star + 1, start + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn traced(value: u32) {
        crate::trace_event!(test_point_one, "value {value}");
        crate::trace_event!(test_point_two, "value {}", {
            assert!(value > 0, "evaluated although it is off");
            value
        });
    }

    #[test]
    fn points_are_found_and_switched_by_pattern() {
        let ours = ["test_point_one", "test_point_two"];
        let enabled = || {
            let mut names = enabled_names();
            names.retain(|name| name.starts_with("test_point"));
            names
        };
        assert!(ours.iter().all(|name| names().contains(name)));
        traced(0);
        assert_eq!(set_enabled("test_point_*", true), 2);
        assert_eq!(enabled(), ours);
        traced(1);
        apply("-test_point_two");
        traced(0);
        assert_eq!(enabled(), ours[..1]);
        apply("-test*one");
        assert!(enabled().is_empty());
        assert_eq!(set_enabled("nosuch*", true), 0);
    }

    #[test]
    fn an_events_file_is_applied_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        std::fs::write(&path, "# comment\n\n file_point \nfile_nosuch\n").unwrap();
        crate::trace_event!(file_point, "");
        assert!(apply_file(path.to_str().unwrap()));
        assert!(enabled_names().contains(&"file_point"));
        set_enabled("file_point", false);
        assert!(!apply_file("/nodir/events"));
    }

    /// The definition, exponential but plain.
    fn oracle(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => (0..=text.len()).any(|n| oracle(rest, &text[n..])),
            (Some((&c, rest)), Some((&d, more))) => (c == '?' || c == d) && oracle(rest, more),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn globs_match_by_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(glob_matches(&pattern, &text), oracle(&chars(&pattern), &chars(&text)));
        }
    }
}
