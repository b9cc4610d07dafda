//! Numbers as text: integers in C's notations, sizes with a suffix.

/// An integer as C's `strtoll` with base 0 reads it: decimal, `0x` hexadecimal, `0` octal, with
/// leading white space and a sign. The whole text must be used.
pub fn parse_int(text: &str) -> Option<i128> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) =
        if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            (16, hex)
        } else if digits.len() > 1 && digits.starts_with('0') {
            (8, &digits[1..])
        } else {
            (10, digits)
        };
    // `from_str_radix` would take a second sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -value } else { value })
}

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// It does not read as one.
    Malformed,
    /// It reads as one, but is negative or does not fit 64 bits.
    OutOfRange,
}

/// A size: a decimal number, possibly with a fraction, and a suffix B, K, M, G, T, P or E in either
/// case, or a hexadecimal number without suffix. `unit` is what a number without suffix counts.
pub fn parse_size(text: &str, unit: u64) -> Result<u64, SizeError> {
    use SizeError::{Malformed, OutOfRange};

    let text = text.trim_start();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Malformed);
        }
        u64::from_str_radix(hex, 16).map_err(|_| OutOfRange)?.checked_mul(unit).ok_or(OutOfRange)?
    } else {
        parse_decimal_size(text, unit)?
    };
    if negative && value != 0 { Err(OutOfRange) } else { Ok(value) }
}

fn parse_decimal_size(text: &str, unit: u64) -> Result<u64, SizeError> {
    use SizeError::{Malformed, OutOfRange};

    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits_end);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(Malformed);
    }
    let unit = match suffix {
        "" => unit,
        "b" | "B" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        "p" | "P" => 1 << 50,
        "e" | "E" => 1 << 60,
        _ => return Err(Malformed),
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| OutOfRange)? };
    // Eighteen digits are more than a suffix can make use of.
    let fraction = fraction.trim_end_matches('0');
    let fraction = &fraction[..fraction.len().min(18)];
    if fraction.is_empty() {
        return whole.checked_mul(unit).ok_or(OutOfRange);
    }
    if unit == 1 {
        return Err(Malformed);
    }
    let scale = 10u128.pow(fraction.len() as u32);
    let numerator = fraction.parse::<u128>().map_err(|_| Malformed)? * u128::from(unit);
    let part = u64::try_from((numerator + scale / 2) / scale).map_err(|_| OutOfRange)?;
    whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(part)).ok_or(OutOfRange)
}

/// A size as people read it: three digits and a unit.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    // Below 1 the leading zero is none of the three digits.
    let digits = if value < 1.0 && value > 0.0 { 3 } else { digits };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1000, "0.977 KiB"),
            (1536, "1.5 KiB"),
            (200704, "196 KiB"),
            (10 << 20, "10 MiB"),
            (u64::from(u32::MAX), "4 GiB"),
            (i64::MAX as u64, "8 EiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }
}
