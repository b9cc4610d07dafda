//! Messages to the operator on stderr: errors, warnings and notes, in the form that wrappers of
//! QEMU look for:
//!
//! ```text
//! [timestamp ][guest name ]program: [place: ][warning: |info: ]message
//! ```
//!
//! Use them through [`error_report!`](crate::error_report), [`warn_report!`](crate::warn_report)
//! and [`info_report!`](crate::info_report).

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::RwLock;

static STYLE: RwLock<Style> =
    RwLock::new(Style { program: String::new(), timestamp: false, guest_name: None });

struct Style {
    program: String,
    timestamp: bool,
    guest_name: Option<String>,
}

thread_local! {
    static PLACES: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

enum Place {
    Argument(String),
    Line(String, usize),
}

/// Sets the name that starts each message.
pub fn set_program(name: &str) {
    STYLE.write().program = name.into();
}

/// The name that starts each message.
pub fn program() -> String {
    STYLE.read().program.clone()
}

/// `-msg timestamp=on`.
pub fn set_timestamp(on: bool) {
    STYLE.write().timestamp = on;
}

/// Whether messages start with the time.
pub fn timestamps() -> bool {
    STYLE.read().timestamp
}

/// `-msg guest-name=on`, with the name that `-name` gave.
pub fn set_guest_name(name: Option<String>) {
    STYLE.write().guest_name = name;
}

/// While this lives, this thread's messages name a place.
#[must_use = "dropping a location ends it"]
pub struct Location(());

/// Messages concern a command-line argument, given as `-option value`.
pub fn at_argument(argument: impl Into<String>) -> Location {
    enter(Place::Argument(argument.into()))
}

/// Messages concern a line of a file; line zero means the file as a whole.
pub fn at_line(file: impl Into<String>, line: usize) -> Location {
    enter(Place::Line(file.into(), line))
}

fn enter(place: Place) -> Location {
    PLACES.with_borrow_mut(|places| places.push(place));
    Location(())
}

impl Drop for Location {
    fn drop(&mut self) {
        PLACES.with_borrow_mut(|places| places.pop());
    }
}

/// How serious a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// What was asked for did not happen.
    Error,
    /// It happened, but perhaps not as meant.
    Warning,
    /// Good to know.
    Info,
}

/// Prints a message; see the macros.
pub fn report(severity: Severity, message: fmt::Arguments<'_>) {
    let style = STYLE.read();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = PLACES.with_borrow(|places| format(&style, now, places.last(), severity, message));
    drop(style);
    write_stderr(text.as_bytes());
}

fn format(
    style: &Style,
    now: Duration,
    place: Option<&Place>,
    severity: Severity,
    message: fmt::Arguments<'_>,
) -> String {
    let mut text = String::new();
    if style.timestamp {
        text += &format!("{} ", utc(now));
    }
    if let Some(name) = &style.guest_name {
        text += &format!("{name} ");
    }
    text += &style.program;
    text += &match place {
        None => ": ".into(),
        Some(Place::Argument(argument)) => format!(": {argument}: "),
        Some(Place::Line(file, 0)) => format!(":{file}: "),
        Some(Place::Line(file, line)) => format!(":{file}:{line}: "),
    };
    text += match severity {
        Severity::Error => "",
        Severity::Warning => "warning: ",
        Severity::Info => "info: ",
    };
    text + &format!("{message}\n")
}

/// Writes all of `bytes` even if stderr is set to non-blocking, as it is when it shares a terminal
/// with a stdio chardev. There is nobody to tell about a failure.
pub(crate) fn write_stderr(mut bytes: &[u8]) {
    let stderr = io::stderr();
    let mut lock = stderr.lock();
    while !bytes.is_empty() {
        match lock.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PollTimeout::NONE);
            }
            Err(_) => return,
        }
    }
}

/// A time since 1970 as `2026-01-31T12:34:56.123456Z`.
pub(crate) fn utc(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let micros = since_epoch.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The Gregorian date of a day counted from 1970-01-01. Years start in March here, so that the leap
/// day is a year's last; an era is the 400 years after which the calendar repeats.
fn civil_date(days_since_epoch: u64) -> (u64, u64, u64) {
    const DAYS_FROM_YEAR_0_MARCH_TO_1970: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let days = days_since_epoch + DAYS_FROM_YEAR_0_MARCH_TO_1970;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524
        - day_of_era / (DAYS_PER_ERA - 1))
        / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The system's text for an error, without the number that [`io::Error`] adds.
pub fn strerror(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        // The C library's text, to which the standard library adds the number.
        Some(number) => text.trim_end_matches(&format!(" (os error {number})")).into(),
        None => text,
    }
}

/// Reports an error, with `format!`'s arguments.
#[macro_export]
macro_rules! error_report {
    ($($message:tt)*) => {
        $crate::report::report($crate::report::Severity::Error, format_args!($($message)*))
    };
}

/// Reports a warning, with `format!`'s arguments.
#[macro_export]
macro_rules! warn_report {
    ($($message:tt)*) => {
        $crate::report::report($crate::report::Severity::Warning, format_args!($($message)*))
    };
}

/// Reports something good to know, with `format!`'s arguments.
#[macro_export]
macro_rules! info_report {
    ($($message:tt)*) => {
        $crate::report::report($crate::report::Severity::Info, format_args!($($message)*))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_expected_form() {
        let mut style = Style { program: "prog".into(), timestamp: false, guest_name: None };
        let now = Duration::new(1_795_234_594, 21_092_000);
        let show = |style: &Style, place: Option<&Place>, severity| {
            format(style, now, place, severity, format_args!("oops"))
        };
        assert_eq!(show(&style, None, Severity::Error), "prog: oops\n");
        let argument = Place::Argument("-chardev null".into());
        assert_eq!(
            show(&style, Some(&argument), Severity::Info),
            "prog: -chardev null: info: oops\n"
        );
        let line = Place::Line("ev".into(), 3);
        assert_eq!(show(&style, Some(&line), Severity::Warning), "prog:ev:3: warning: oops\n");
        style.timestamp = true;
        style.guest_name = Some("foo".into());
        assert_eq!(
            show(&style, Some(&argument), Severity::Error),
            "2026-11-21T04:16:34.021092Z foo prog: -chardev null: oops\n"
        );
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(11_017), (2000, 3, 1));
        // Day by day through four centuries, against the rule for leap years.
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..146_097 {
            assert_eq!(civil_date(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }

    #[test]
    fn error_texts_are_the_systems() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(strerror(&error), "No such file or directory");
        assert_eq!(strerror(&io::Error::other("x")), "x");
    }
}
