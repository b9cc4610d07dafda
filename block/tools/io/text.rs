//! Numbers as `qemu-io` reads and prints them, and its dumps.

use std::time::Duration;

use base::options::number::{SizeError, parse_int, parse_size};

/// A number of bytes, or the line that says why it is none.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    match parse_size(text, 1) {
        Ok(value) if value <= i64::MAX as u64 => Ok(value),
        Ok(_) | Err(SizeError::OutOfRange) => {
            Err(format!("Parsing error: argument too large -- {text}"))
        }
        Err(SizeError::Malformed) => Err(format!(
            "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}"
        )),
    }
}

/// A byte to fill or to compare with.
pub(super) fn pattern(text: &str) -> Result<u8, String> {
    let value = parse_int(text).and_then(|value| u8::try_from(value).ok());
    value.ok_or_else(|| format!("{text} is not a valid pattern byte"))
}

/// A number of bytes with a unit and three digits after the point, unless they are zeroes.
pub(super) fn scaled(value: f64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (1..=6).rev().find(|&power| value >= 1024_f64.powi(power));
    let (text, name) = match unit {
        Some(power) => (format!("{:.3}", value / 1024_f64.powi(power)), UNITS[power as usize - 1]),
        None => (format!("{value:.6}"), "bytes"),
    };
    let text = text.strip_suffix(".000").or(text.strip_suffix(".000000")).unwrap_or(&text);
    format!("{text} {name}")
}

/// What a transfer is reported as.
pub(super) struct Transfer {
    /// `read`, `wrote`, `discard`.
    pub(super) verb: &'static str,
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) operations: u32,
    /// For programs (`-C`).
    pub(super) terse: bool,
}

impl Transfer {
    pub(super) fn report(&self, took: Duration) -> String {
        let seconds = took.as_secs_f64().max(1e-9);
        let (rate, per_second) =
            (self.bytes as f64 / seconds, f64::from(self.operations) / seconds);
        let (total, operations) = (self.bytes, self.operations);
        if self.terse {
            return format!("{total},{operations},{},{rate:.3},{per_second:.3}\n", clock(took));
        }
        let time = match took.as_secs() {
            0..60 => format!("{:02}.{:02} sec", took.as_secs(), took.subsec_millis() / 10),
            _ => clock(took),
        };
        format!(
            "{} {total}/{total} bytes at offset {}\n{}, {operations} ops; {time} ({}/sec and \
             {per_second:.4} ops/sec)\n",
            self.verb,
            self.at,
            scaled(total as f64),
            scaled(rate)
        )
    }
}

fn clock(took: Duration) -> String {
    let seconds = took.as_secs();
    let hundredths = took.subsec_millis() / 10;
    format!("{}:{:02}:{:02}.{hundredths:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Bytes in hexadecimal, and letters and digits as such.
pub(super) fn dump(bytes: &[u8], at: u64) -> String {
    let mut out = String::new();
    for (line, at) in bytes.chunks(16).zip((at..).step_by(16)) {
        out += &format!("{at:08x}:  ");
        line.iter().for_each(|byte| out += &format!("{byte:02x} "));
        let shown = |&byte: &u8| if byte.is_ascii_alphanumeric() { char::from(byte) } else { '.' };
        out.push(' ');
        out.extend(line.iter().map(shown));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_unit() {
        for (value, text) in [
            (0.0, "0 bytes"),
            (100.0, "100 bytes"),
            (0.022461, "0.022461 bytes"),
            (1536.0, "1.500 KiB"),
            (65536.0, "64 KiB"),
            (10420224.0, "9.938 MiB"),
        ] {
            assert_eq!(scaled(value), text);
        }
        assert!(bytes("1kilobyte").unwrap_err().contains("non-numeric"));
        assert!(bytes("8E").unwrap_err().contains("too large"));
        assert_eq!(pattern("0x1f"), Ok(31));
        assert_eq!(pattern("256").unwrap_err(), "256 is not a valid pattern byte");
    }

    #[test]
    fn reports_and_dumps() {
        let transfer = Transfer { verb: "read", at: 512, bytes: 1024, operations: 1, terse: false };
        assert_eq!(
            transfer.report(Duration::from_millis(500)),
            "read 1024/1024 bytes at offset 512\n1 KiB, 1 ops; 00.50 sec (2 KiB/sec and 2.0000 ops/sec)\n"
        );
        let terse = Transfer { terse: true, ..transfer };
        assert_eq!(terse.report(Duration::from_secs(100)), "1024,1,0:01:40.00,10.240,0.010\n");
        assert_eq!(
            dump(b"Hi, there is more", 16),
            "00000010:  48 69 2c 20 74 68 65 72 65 20 69 73 20 6d 6f 72  Hi..there.is.mor\n\
             00000020:  65  e\n"
        );
    }
}
