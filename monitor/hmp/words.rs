//! The arguments of a command: words, formats and expressions.

/// `/fmt`: how many, how shown, how wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub count: u64,
    pub shown: char,
    /// Bytes; `None` if not said.
    pub size: Option<u8>,
}

/// What has not been read of a command's arguments.
pub(super) struct Arguments<'a>(pub &'a str);

impl<'a> Arguments<'a> {
    /// The next word.
    pub fn word(&mut self) -> Option<&'a str> {
        self.skip_blanks();
        let end = self.0.find(char::is_whitespace).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }

    /// The next word, or what stands between quotes, with escapes as in C.
    pub fn string(&mut self) -> Option<String> {
        self.skip_blanks();
        let Some(quoted) = self.0.strip_prefix('"') else {
            return self.word().map(str::to_owned);
        };
        let (mut text, mut rest) = (String::new(), quoted.chars());
        while let Some(c) = rest.next() {
            match c {
                '"' => {
                    self.0 = rest.as_str();
                    return Some(text);
                }
                '\\' => text.push(match rest.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    other => other,
                }),
                c => text.push(c),
            }
        }
        None
    }

    /// Whether nothing is left.
    pub fn at_end(&mut self) -> bool {
        self.skip_blanks();
        self.0.is_empty()
    }

    /// Takes an option of one letter; any other is refused by name.
    pub fn flag(&mut self, letter: char) -> Result<bool, String> {
        self.skip_blanks();
        let Some(rest) = self.0.strip_prefix('-') else { return Ok(false) };
        match rest.strip_prefix(letter) {
            Some(rest) => {
                self.0 = rest;
                Ok(true)
            }
            None => {
                let given = rest.chars().next().map(String::from).unwrap_or_default();
                Err(format!("unsupported option -{given}"))
            }
        }
    }

    /// A switch.
    pub fn switch(&mut self) -> Result<bool, String> {
        match self.word() {
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            _ => Err("Expected 'on' or 'off'".into()),
        }
    }

    /// Nothing may be left; `name` is the command's.
    pub fn end(&mut self, name: &str) -> Result<(), String> {
        self.skip_blanks();
        if self.0.is_empty() {
            return Ok(());
        }
        Err(format!("{name}: extraneous characters at the end of line"))
    }

    /// An optional format.
    pub fn format(&mut self) -> Result<Option<Format>, String> {
        self.skip_blanks();
        if !self.take('/') {
            return Ok(None);
        }
        let mut format = Format { count: 1, shown: 'x', size: None };
        let digits = self.0.len() - self.0.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 {
            let invalid = |_| "invalid count in format".to_owned();
            format.count = self.0[..digits].parse().map_err(invalid)?;
            self.0 = &self.0[digits..];
        }
        while let Some(c) = self.0.chars().next().filter(|c| !c.is_whitespace()) {
            match c {
                'o' | 'd' | 'u' | 'x' | 'i' | 'c' => format.shown = c,
                'b' => format.size = Some(1),
                'h' => format.size = Some(2),
                'w' | 'L' => format.size = Some(4),
                'g' => format.size = Some(8),
                _ => return Err(format!("invalid char in format: '{c}'")),
            }
            self.0 = &self.0[c.len_utf8()..];
        }
        Ok(Some(format))
    }

    /// An expression of 64-bit numbers.
    pub fn expression(&mut self) -> Result<u64, String> {
        self.sum(0)
    }

    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_start();
    }

    fn take(&mut self, c: char) -> bool {
        match self.0.strip_prefix(c) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn operator(&mut self, among: &[char]) -> Option<char> {
        self.skip_blanks();
        among.iter().copied().find(|&c| self.take(c))
    }

    /// `+` and `-`, then what binds tighter.
    fn sum(&mut self, depth: u32) -> Result<u64, String> {
        let mut value = self.bits(depth)?;
        while let Some(operator) = self.operator(&['+', '-']) {
            let right = self.bits(depth)?;
            value = match operator {
                '+' => value.wrapping_add(right),
                _ => value.wrapping_sub(right),
            };
        }
        Ok(value)
    }

    /// `&`, `|` and `^`.
    fn bits(&mut self, depth: u32) -> Result<u64, String> {
        let mut value = self.product(depth)?;
        while let Some(operator) = self.operator(&['&', '|', '^']) {
            let right = self.product(depth)?;
            match operator {
                '&' => value &= right,
                '|' => value |= right,
                _ => value ^= right,
            }
        }
        Ok(value)
    }

    /// `*`, `/` and `%`.
    fn product(&mut self, depth: u32) -> Result<u64, String> {
        let mut value = self.single(depth)?;
        while let Some(operator) = self.operator(&['*', '/', '%']) {
            let right = self.single(depth)?;
            value = match operator {
                '*' => Some(value.wrapping_mul(right)),
                '/' => value.checked_div(right),
                _ => value.checked_rem(right),
            }
            .ok_or("division by zero")?;
        }
        Ok(value)
    }

    /// A number, a character, a sign before one, or something in parentheses.
    fn single(&mut self, depth: u32) -> Result<u64, String> {
        const MAX_DEPTH: u32 = 100;
        if depth > MAX_DEPTH {
            return Err("expression is nested too deeply".into());
        }
        self.skip_blanks();
        match self.0.chars().next() {
            None => Err("unexpected end of expression".into()),
            Some('+') => {
                self.take('+');
                self.single(depth + 1)
            }
            Some('-') => {
                self.take('-');
                Ok(self.single(depth + 1)?.wrapping_neg())
            }
            Some('~') => {
                self.take('~');
                Ok(!self.single(depth + 1)?)
            }
            Some('(') => {
                self.take('(');
                let value = self.sum(depth + 1)?;
                self.skip_blanks();
                if self.take(')') { Ok(value) } else { Err("')' expected".into()) }
            }
            Some('\'') => {
                self.take('\'');
                let c = self.0.chars().next().ok_or("character constant expected")?;
                self.0 = &self.0[c.len_utf8()..];
                if self.take('\'') {
                    Ok(c.into())
                } else {
                    Err("missing terminating \' character".into())
                }
            }
            Some('$') => Err("unknown register".into()),
            Some(_) => self.number(),
        }
    }

    /// A number as C writes it.
    fn number(&mut self) -> Result<u64, String> {
        let (radix, digits) = match self.0.strip_prefix("0x").or_else(|| self.0.strip_prefix("0X"))
        {
            Some(digits) => (16, digits),
            None if self.0.starts_with('0') => (8, self.0),
            None => (10, self.0),
        };
        let rest = digits.trim_start_matches(|c: char| c.is_digit(radix));
        let digits = &digits[..digits.len() - rest.len()];
        let value = match u64::from_str_radix(digits, radix) {
            Ok(value) => value,
            Err(_) if digits.is_empty() => {
                let found = rest.chars().next().unwrap_or(' ');
                return Err(format!("invalid char '{found}' in expression"));
            }
            Err(_) => return Err("number too large".into()),
        };
        self.0 = rest;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_computed_as_in_qemu() {
        for (text, expected) in [
            ("3*4+1", Ok(13)),
            ("0x10|1", Ok(0x11)),
            ("~0", Ok(u64::MAX)),
            ("5%3", Ok(2)),
            ("(1+2)*3", Ok(9)),
            ("-1", Ok(u64::MAX)),
            ("010", Ok(8)),
            ("'A'", Ok(65)),
            ("1/0", Err("division by zero")),
            ("(1", Err("')' expected")),
            ("", Err("unexpected end of expression")),
            ("$foo", Err("unknown register")),
            ("zz", Err("invalid char 'z' in expression")),
            ("99999999999999999999", Err("number too large")),
        ] {
            let value = Arguments(text).expression();
            assert_eq!(value, expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn formats() {
        let parse = |text| Arguments(text).format();
        let format = |count, shown, size| Ok(Some(Format { count, shown, size }));
        assert_eq!(parse("/4xw 0"), format(4, 'x', Some(4)));
        assert_eq!(parse("/dg"), format(1, 'd', Some(8)));
        assert_eq!(parse("0"), Ok(None));
        assert_eq!(parse("/zz"), Err("invalid char in format: 'z'".into()));
    }

    #[test]
    fn what_is_left_over_is_an_error() {
        let mut arguments = Arguments(" 1 2");
        assert_eq!(arguments.expression(), Ok(1));
        assert!(arguments.end("x").is_err());
    }
}
