//! Reading: a stream of values, which arrives in pieces.
//!
//! A [`Lexer`] cuts bytes into tokens; [`Stream`] collects tokens until brackets balance and then
//! parses them. After a mistake it goes on with what follows, so that a client that sends nonsense
//! gets an answer and can recover.

use serde_json::{Map, Number, Value};

/// Deepest nesting of lists and objects.
const MAX_NESTING: usize = 1024;
/// Most bytes of tokens in one value.
const MAX_SIZE: usize = 64 << 20;
/// Most tokens in one value.
const MAX_TOKENS: usize = 2 << 20;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// One of `{}[]:,`
    Mark(u8),
    /// A string, between its quotes.
    Text(Vec<u8>),
    Number(String),
    Word(String),
}

/// What a lexer is in the middle of.
#[derive(Clone, Copy, Default, PartialEq)]
enum Within {
    #[default]
    Nothing,
    Text {
        quote: u8,
        escaped: bool,
    },
    Number,
    Word,
}

#[derive(Default)]
struct Lexer {
    within: Within,
    /// The bytes of the token so far.
    bytes: Vec<u8>,
}

/// A token, or bytes that are none.
type Lexed = Result<Token, Vec<u8>>;

impl Lexer {
    /// Takes a byte. It may end a token, and be one itself.
    fn push(&mut self, byte: u8, emit: &mut impl FnMut(Lexed)) {
        match self.within {
            Within::Text { quote, escaped } => {
                if byte == quote && !escaped {
                    let bytes = std::mem::take(&mut self.bytes);
                    self.within = Within::Nothing;
                    emit(Ok(Token::Text(bytes)));
                    return;
                }
                if byte < b' ' && byte != b'\t' {
                    // Control characters end the string: most likely a quote is missing.
                    let mut bytes = vec![quote];
                    bytes.append(&mut self.bytes);
                    bytes.push(byte);
                    self.within = Within::Nothing;
                    emit(Err(bytes));
                    return;
                }
                self.within = Within::Text { quote, escaped: byte == b'\\' && !escaped };
                self.bytes.push(byte);
            }
            Within::Number if matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') => {
                self.bytes.push(byte);
            }
            Within::Word if byte.is_ascii_lowercase() => self.bytes.push(byte),
            Within::Number | Within::Word => {
                self.finish(emit);
                self.begin(byte, emit);
            }
            Within::Nothing => self.begin(byte, emit),
        }
    }

    fn begin(&mut self, byte: u8, emit: &mut impl FnMut(Lexed)) {
        self.within = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return,
            b'{' | b'}' | b'[' | b']' | b':' | b',' => return emit(Ok(Token::Mark(byte))),
            b'"' | b'\'' => {
                self.within = Within::Text { quote: byte, escaped: false };
                return;
            }
            b'-' | b'0'..=b'9' => Within::Number,
            b'a'..=b'z' => Within::Word,
            _ => return emit(Err(vec![byte])),
        };
        self.bytes.push(byte);
    }

    /// A number or word is complete.
    fn finish(&mut self, emit: &mut impl FnMut(Lexed)) {
        let bytes = std::mem::take(&mut self.bytes);
        // Only ASCII gets here.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        emit(match std::mem::take(&mut self.within) {
            Within::Word => Ok(Token::Word(text)),
            _ if number(&text).is_some() => Ok(Token::Number(text)),
            _ => Err(bytes),
        });
    }
}

/// A number as the JSON grammar has it. Integers beyond 64 bits become floating point.
fn number(text: &str) -> Option<Number> {
    serde_json::from_str(text).ok()
}

/// A stream of JSON values.
#[derive(Default)]
pub(crate) struct Stream {
    lexer: Lexer,
    tokens: Vec<Token>,
    size: usize,
    braces: isize,
    brackets: isize,
}

/// A value, or what is wrong with what was sent.
pub(crate) type Parsed = Result<Value, String>;

impl Stream {
    /// Takes bytes and returns the values that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Parsed> {
        let mut values = Vec::new();
        let mut lexer = std::mem::take(&mut self.lexer);
        for &byte in bytes {
            lexer.push(byte, &mut |lexed| self.token(lexed, &mut values));
            if lexer.bytes.len() > MAX_SIZE {
                lexer = Lexer::default();
                self.fail("token size limit exceeded", &mut values);
            }
        }
        self.lexer = lexer;
        values
    }

    fn token(&mut self, lexed: Lexed, values: &mut Vec<Parsed>) {
        let token = match lexed {
            Ok(token) => token,
            Err(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return self.fail(&format!("stray '{text}'"), values);
            }
        };
        match token {
            Token::Mark(b'{') => self.braces += 1,
            Token::Mark(b'}') => self.braces -= 1,
            Token::Mark(b'[') => self.brackets += 1,
            Token::Mark(b']') => self.brackets -= 1,
            _ => {}
        }
        self.size += match &token {
            Token::Text(bytes) => bytes.len(),
            Token::Number(text) | Token::Word(text) => text.len(),
            Token::Mark(_) => 1,
        };
        self.tokens.push(token);
        if self.size > MAX_SIZE {
            self.fail("token size limit exceeded", values);
        } else if self.tokens.len() > MAX_TOKENS {
            self.fail("token count limit exceeded", values);
        } else if self.braces + self.brackets > MAX_NESTING as isize {
            self.fail("nesting depth limit exceeded", values);
        } else if self.braces < 0 || self.brackets < 0 || (self.braces == 0 && self.brackets == 0) {
            let tokens = std::mem::take(&mut self.tokens);
            self.start_over();
            let parsed = Parser(tokens.into_iter().peekable()).value();
            values.push(parsed.map_err(|problem| format!("JSON parse error, {problem}")));
        }
    }

    fn fail(&mut self, problem: &str, values: &mut Vec<Parsed>) {
        self.start_over();
        values.push(Err(format!("JSON parse error, {problem}")));
    }

    fn start_over(&mut self) {
        self.tokens.clear();
        (self.size, self.braces, self.brackets) = (0, 0, 0);
    }
}

/// Parses the tokens of one value; nesting has been limited already.
struct Parser(std::iter::Peekable<std::vec::IntoIter<Token>>);

impl Parser {
    fn value(&mut self) -> Result<Value, String> {
        match self.0.next() {
            Some(Token::Mark(b'{')) => self.object(),
            Some(Token::Mark(b'[')) => self.array(),
            Some(Token::Text(bytes)) => text(&bytes).map(Value::String),
            Some(Token::Number(text)) => Ok(number(&text).map_or(Value::Null, Value::Number)),
            Some(Token::Word(word)) => match word.as_str() {
                "true" => Ok(true.into()),
                "false" => Ok(false.into()),
                "null" => Ok(Value::Null),
                _ => Err(format!("invalid keyword '{word}'")),
            },
            _ => Err("expecting value".into()),
        }
    }

    fn object(&mut self) -> Result<Value, String> {
        let mut map = Map::new();
        if self.0.next_if_eq(&Token::Mark(b'}')).is_some() {
            return Ok(map.into());
        }
        loop {
            let key = match self.value()? {
                Value::String(key) => key,
                _ => return Err("key is not a string in object".into()),
            };
            if self.0.next() != Some(Token::Mark(b':')) {
                return Err("missing : in object pair".into());
            }
            let value = self.value()?;
            if map.insert(key, value).is_some() {
                return Err("duplicate key".into());
            }
            match self.0.next() {
                Some(Token::Mark(b'}')) => return Ok(map.into()),
                Some(Token::Mark(b',')) => {}
                _ => return Err("expected separator in dict".into()),
            }
        }
    }

    fn array(&mut self) -> Result<Value, String> {
        let mut items = Vec::new();
        if self.0.next_if_eq(&Token::Mark(b']')).is_some() {
            return Ok(items.into());
        }
        loop {
            items.push(self.value()?);
            match self.0.next() {
                Some(Token::Mark(b']')) => return Ok(items.into()),
                Some(Token::Mark(b',')) => {}
                _ => return Err("expected separator in list".into()),
            }
        }
    }
}

/// What stands between a string's quotes, with escapes replaced.
fn text(bytes: &[u8]) -> Result<String, String> {
    let invalid = |_| "invalid UTF-8 sequence in string".to_owned();
    let source = std::str::from_utf8(bytes).map_err(invalid)?;
    let mut result = String::with_capacity(source.len());
    let mut rest = source.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            result.push(c);
            continue;
        }
        result.push(match rest.next() {
            Some(c @ ('"' | '\'' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => unicode(&mut rest)?,
            _ => return Err("invalid escape sequence in string".into()),
        });
    }
    Ok(result)
}

/// The character of a `\u` escape, or of two that form a surrogate pair.
fn unicode(rest: &mut std::str::Chars<'_>) -> Result<char, String> {
    let hex = |chars: &mut std::str::Chars<'_>| {
        let digits = chars.as_str().get(..4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        *chars = chars.as_str()[4..].chars();
        u16::from_str_radix(digits, 16).ok()
    };
    let start = rest.as_str();
    let first = hex(rest).ok_or("invalid escape sequence in string")?;
    let mut units = vec![first];
    if (0xd800..0xdc00).contains(&first) && rest.as_str().starts_with("\\u") {
        let mut ahead = rest.as_str()[2..].chars();
        if let Some(second) = hex(&mut ahead) {
            units.push(second);
            *rest = ahead;
        }
    }
    match char::decode_utf16(units).next() {
        Some(Ok(c)) if c != '\0' => Ok(c),
        _ => Err(format!("\\u{} is not a valid Unicode character", start.get(..4).unwrap_or(""))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Vec<Parsed> {
        Stream::default().push(text.as_bytes())
    }

    fn problem(text: &str) -> String {
        let problem = parse(text).remove(0).unwrap_err();
        problem.strip_prefix("JSON parse error, ").unwrap().to_owned()
    }

    #[test]
    fn values_need_no_separator() {
        assert_eq!(
            parse(r#"{"a":1}{"b":[true,null,-2.5e1]} 'it\'s' "#),
            [Ok(json!({"a": 1})), Ok(json!({"b": [true, null, -25.0]})), Ok(json!("it's"))]
        );
    }

    #[test]
    fn a_word_or_number_ends_where_something_else_begins() {
        let mut stream = Stream::default();
        assert_eq!(stream.push(b"12"), []);
        assert_eq!(stream.push(b"3 "), [Ok(json!(123))]);
        assert_eq!(stream.push(b"xx yy\n").len(), 2);
    }

    #[test]
    fn mistakes_are_named_as_qemu_names_them() {
        for (text, expected) in [
            (r#"{"execute":"query-status",}"#, "expecting value"),
            ("{foo\n}", "invalid keyword 'foo'"),
            ("&", "stray '&'"),
            ("01 ", "stray '01'"),
            ("\"b\n", "stray '\"b\n'"),
            (r#"{"a":1 "b":2}"#, "expected separator in dict"),
            ("{1:2}", "key is not a string in object"),
            (r#"{"a" 2}"#, "missing : in object pair"),
            ("[1 2]", "expected separator in list"),
            (r#"{"a":1,"a":2}"#, "duplicate key"),
            (r#""\x""#, "invalid escape sequence in string"),
            (r#""\ud800""#, r"\ud800 is not a valid Unicode character"),
            ("}", "expecting value"),
        ] {
            assert_eq!(problem(text), expected, "{text}");
        }
    }

    #[test]
    fn after_a_mistake_the_stream_goes_on() {
        let parsed = parse("{\"a\":}\n&{\"b\":2}");
        assert_eq!(parsed.len(), 3);
        assert_eq!(parsed[2], Ok(json!({"b": 2})));
    }

    #[test]
    fn nesting_is_limited() {
        assert_eq!(problem(&"[".repeat(1025)), "nesting depth limit exceeded");
        let deep = format!("{}{}", "[".repeat(1024), "]".repeat(1024));
        assert!(parse(&deep)[0].is_ok());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[^\0]*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map("[a-z]{0,4}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// serde_json is the oracle for well-formed input, in whatever pieces it comes.
        #[test]
        fn what_is_written_is_read_back(value in any_json(), cut in any::<prop::sample::Index>()) {
            for mut bytes in [crate::json::line(&value), value.to_string().into_bytes()] {
                bytes.push(b'\n');
                let (head, tail) = bytes.split_at(cut.index(bytes.len()));
                let mut stream = Stream::default();
                let mut parsed = stream.push(head);
                parsed.extend(stream.push(tail));
                prop_assert_eq!(parsed, vec![Ok(value.clone())]);
            }
        }

        #[test]
        fn no_bytes_are_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stream = Stream::default();
            stream.push(&bytes);
        }
    }
}
