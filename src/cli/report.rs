//! Messages to the user, in QEMU's form.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use machine::config::{ConfigError, MachineConfig, Origin};

use super::PROGRAM;

/// Prints errors and warnings.
pub struct Reporter<'a> {
    out: &'a mut dyn Write,
    timestamp: bool,
    guest_name: Option<String>,
}

impl<'a> Reporter<'a> {
    /// Prints to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Reporter { out, timestamp: false, guest_name: None }
    }

    /// Heeds `-msg` and `-name`.
    pub fn configure(&mut self, config: &MachineConfig) {
        self.timestamp = config.messages.timestamp;
        self.guest_name = config.identity.name.clone().filter(|_| config.messages.guest_name);
    }

    /// Prints what is wrong.
    pub fn error(&mut self, error: &ConfigError) {
        self.print(&error.origin, &error.message);
    }

    /// Prints what may be wrong.
    pub fn warning(&mut self, origin: &Origin, message: &str) {
        self.print(origin, &format!("warning: {message}"));
    }

    /// There is nobody to tell if standard error is gone.
    fn print(&mut self, origin: &Origin, message: &str) {
        let timestamp = if self.timestamp { timestamp(SystemTime::now()) } else { String::new() };
        let guest = self.guest_name.iter().map(|name| format!("{name} ")).collect::<String>();
        let _ = writeln!(self.out, "{timestamp}{guest}{}{message}", origin.prefix(PROGRAM));
    }
}

/// `2026-11-21T04:33:04.978107Z `
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z ",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_micros()
    )
}

/// The date `days` after 1970-01-01, counting years from March as the leap day ends them so.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z "),
            (951_868_799_999_999, "2000-02-29T23:59:59.999999Z "),
            (1_795_235_584_978_107, "2026-11-21T04:33:04.978107Z "),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_micros(micros)), text);
        }
    }
}
