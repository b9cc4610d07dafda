//! JSON as QEMU reads it: RFC 8259, and also strings in single quotes. Error texts are QEMU's.

use serde_json::{Map, Number, Value};

/// Deepest nesting accepted.
const MAX_DEPTH: usize = 1024;

/// Why a text is not one JSON value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not JSON.
    #[error("JSON parse error, {0}")]
    Syntax(String),
    /// It goes on after the value.
    #[error("Expecting at most one JSON value")]
    MoreThanOne,
    /// It is nested beyond reason.
    #[error("JSON nesting depth limit exceeded")]
    TooDeep,
}

/// Reads one value, which must be all there is.
pub fn parse(text: &str) -> Result<Value, JsonError> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(MAX_DEPTH)?;
    parser.skip_space();
    if parser.at < text.len() { Err(JsonError::MoreThanOne) } else { Ok(value) }
}

fn syntax<T>(what: impl Into<String>) -> Result<T, JsonError> {
    Err(JsonError::Syntax(what.into()))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    /// The next character after white space; the end of the text is an error everywhere.
    fn peek(&mut self) -> Result<char, JsonError> {
        self.skip_space();
        self.rest().chars().next().ok_or_else(|| JsonError::Syntax("premature EOI".into()))
    }

    fn eat(&mut self, wanted: char) -> Result<bool, JsonError> {
        let found = self.peek()? == wanted;
        if found {
            self.at += wanted.len_utf8();
        }
        Ok(found)
    }

    /// "stray '01'": what was read of a token from `start`, with the character that does not fit.
    fn stray<T>(&self, start: usize) -> Result<T, JsonError> {
        let end = self.at + self.rest().chars().next().map_or(0, char::len_utf8);
        syntax(format!("stray '{}'", &self.text[start..end]))
    }

    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        let depth = depth.checked_sub(1).ok_or(JsonError::TooDeep)?;
        match self.peek()? {
            '{' => self.object(depth),
            '[' => self.list(depth),
            '"' | '\'' => self.string().map(Value::String),
            '-' | '0'..='9' => self.number(),
            'a'..='z' => self.keyword(),
            '}' | ']' | ',' | ':' => syntax("expecting value"),
            _ => self.stray(self.at),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut members = Map::new();
        if self.eat('}')? {
            return Ok(Value::Object(members));
        }
        loop {
            // Whatever stands in the place of a key is read as a value first, as its own faults
            // come before that of not being a string.
            let Value::String(key) = self.value(depth)? else {
                return syntax("key is not a string in object");
            };
            if !self.eat(':')? {
                return syntax("missing : in object pair");
            }
            let value = self.value(depth)?;
            if members.insert(key, value).is_some() {
                return syntax("duplicate key");
            }
            if self.eat('}')? {
                return Ok(Value::Object(members));
            }
            self.separator("expected separator in dict")?;
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        if self.eat(']')? {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth)?);
            if self.eat(']')? {
                return Ok(Value::Array(items));
            }
            self.separator("expected separator in list")?;
        }
    }

    fn separator(&mut self, otherwise: &str) -> Result<(), JsonError> {
        match self.peek()? {
            ',' => {
                self.at += 1;
                Ok(())
            }
            '{' | '}' | '[' | ']' | ':' | '"' | '\'' | '-' | '0'..='9' | 'a'..='z' => {
                syntax(otherwise)
            }
            _ => self.stray(self.at),
        }
    }

    fn keyword(&mut self) -> Result<Value, JsonError> {
        let word = self.rest();
        let word = &word[..word.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(word.len())];
        self.at += word.len();
        match word {
            "true" => Ok(true.into()),
            "false" => Ok(false.into()),
            "null" => Ok(Value::Null),
            _ => syntax(format!("invalid keyword '{word}'")),
        }
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        self.at += usize::from(self.rest().starts_with('-'));
        if self.rest().starts_with('0') {
            self.at += 1;
            if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
                return self.stray(start);
            }
        } else {
            self.digits(start)?;
        }
        let mut whole = true;
        if self.rest().starts_with('.') {
            whole = false;
            self.at += 1;
            self.digits(start)?;
        }
        if self.rest().starts_with(['e', 'E']) {
            whole = false;
            self.at += 1;
            self.at += usize::from(self.rest().starts_with(['+', '-']));
            self.digits(start)?;
        }
        let text = &self.text[start..self.at];
        if whole {
            if let Ok(number) = text.parse::<u64>() {
                return Ok(number.into());
            }
            if let Ok(number) = text.parse::<i64>() {
                return Ok(number.into());
            }
        }
        match text.parse().ok().and_then(Number::from_f64) {
            Some(number) => Ok(Value::Number(number)),
            None => syntax(format!("stray '{text}'")),
        }
    }

    /// One digit or more.
    fn digits(&mut self, start: usize) -> Result<(), JsonError> {
        let rest = self.rest();
        let count = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if count == 0 {
            return self.stray(start);
        }
        self.at += count;
        Ok(())
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let start = self.at;
        let quote = self.peek()?;
        self.at += 1;
        let mut string = String::new();
        loop {
            let Some(c) = self.rest().chars().next() else { return self.stray(start) };
            match c {
                _ if c == quote => {
                    self.at += 1;
                    return Ok(string);
                }
                '\\' => string.push(self.escape()?),
                _ if c < ' ' => return self.stray(start),
                _ => {
                    self.at += c.len_utf8();
                    string.push(c);
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let escape = self.rest().chars().nth(1);
        let plain = match escape {
            Some(c @ ('"' | '\'' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.unicode(),
            _ => return syntax("invalid escape sequence in string"),
        };
        self.at += 2;
        Ok(plain)
    }

    /// `\uXXXX`, or two of them that make a surrogate pair.
    fn unicode(&mut self) -> Result<char, JsonError> {
        let text = self.rest();
        let unit = |text: &str| {
            let digits = text.strip_prefix("\\u")?.get(..4)?;
            digits
                .bytes()
                .all(|b| b.is_ascii_hexdigit())
                .then(|| u16::from_str_radix(digits, 16).ok())?
        };
        let first = unit(text);
        let second = text.get(6..).and_then(unit);
        let units = [first, second].into_iter().map_while(|unit| unit);
        match char::decode_utf16(units).next() {
            Some(Ok(c)) => {
                self.at += 6 * c.len_utf16();
                Ok(c)
            }
            _ => {
                let shown: String = text.chars().take(6).collect();
                syntax(format!("{shown} is not a valid Unicode character"))
            }
        }
    }
}
