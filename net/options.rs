//! The options of back ends: each kind has a table of its keys, against which text and JSON are
//! checked, in QEMU's words.

use base::options::{Keyval, OptionError, ParsedOpts, number};
use serde_json::{Map, Value};

use crate::NetError;

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Text.
    Text,
    /// A switch.
    Bool,
    /// A signed number of 64 bits.
    Int,
    /// An unsigned number of 16, 32 or 64 bits.
    Uint(u32),
    /// A number of bytes.
    Size,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any number of texts: a key that may be repeated, in JSON a list of `{"str": text}`.
    Texts,
    /// Several values: `key.name=value`, in JSON an object of this type.
    Object(&'static str, &'static [Key]),
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// Whether it has to be there.
    pub required: bool,
}

/// A key that may be left out.
pub const fn opt(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, required: false }
}

/// A key that has to be there.
pub const fn must(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, required: true }
}

/// Values that were checked against the keys of their kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(Map<String, Value>);

impl Values {
    /// From the argument's tree as [`read_text`] gives it: every leaf is text.
    pub fn from_text(keys: &[Key], tree: &Map<String, Value>) -> Result<Values, NetError> {
        check(keys, tree, "", text_value, |key| OptionError::InvalidParameter(key).into())
    }

    /// The same for keys that may have dots.
    pub fn from_dotted(keys: &[Key], tree: &Map<String, Value>) -> Result<Values, NetError> {
        check(keys, tree, "", text_value, NetError::Unexpected)
    }

    /// From JSON.
    pub fn from_json(keys: &[Key], object: &Map<String, Value>) -> Result<Values, NetError> {
        check(keys, object, "", json_value, NetError::Unexpected)
    }

    /// A text or a word.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }

    /// A switch.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.0.get(key)?.as_bool()
    }

    /// A signed number.
    pub fn int(&self, key: &str) -> Option<i64> {
        self.0.get(key)?.as_i64()
    }

    /// An unsigned number or a size.
    pub fn uint(&self, key: &str) -> Option<u64> {
        self.0.get(key)?.as_u64()
    }

    /// All texts of a repeatable key.
    pub fn texts<'a>(&'a self, key: &str) -> impl DoubleEndedIterator<Item = &'a str> {
        let list = self.0.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str)
    }

    /// The values of an object.
    pub fn object(&self, key: &str) -> Option<Values> {
        Some(Values(self.0.get(key)?.as_object()?.clone()))
    }

    /// Whether the key was given.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

/// Splits `user,id=a,k=v` into a tree of text. With `dotted` keys with dots make objects and every
/// key has its `=`; without, a key may be repeated and switches may come short, with a warning.
pub fn read_text(text: &str, dotted: bool) -> Result<Map<String, Value>, NetError> {
    if dotted {
        return Ok(Keyval::parse(text, Some("type"))?.tree);
    }
    let parsed = ParsedOpts::parse(text, Some("type"), |_| false)?;
    for short in &parsed.short_forms {
        base::warn_report!("{short}");
    }
    let mut tree = Map::new();
    if let Some(id) = parsed.opts.id {
        tree.insert("id".into(), id.into());
    }
    for (key, value) in parsed.opts.entries {
        match tree.get_mut(&key) {
            None => {
                tree.insert(key, value.into());
            }
            Some(Value::Array(list)) => list.push(value.into()),
            Some(one) => *one = Value::Array(vec![one.take(), value.into()]),
        }
    }
    Ok(tree)
}

fn check(
    keys: &[Key],
    given: &Map<String, Value>,
    prefix: &str,
    convert: fn(&Key, &str, &Value) -> Result<Value, NetError>,
    unknown: fn(String) -> NetError,
) -> Result<Values, NetError> {
    let mut values = Map::new();
    for key in keys {
        let path = format!("{prefix}{}", key.name);
        match given.get(key.name) {
            Some(value) => {
                values.insert(key.name.into(), convert(key, &path, value)?);
            }
            None if key.required => return Err(OptionError::Missing(path).into()),
            None => {}
        }
    }
    match given.keys().find(|name| !keys.iter().any(|key| key.name == *name)) {
        Some(name) => Err(unknown(format!("{prefix}{name}"))),
        None => Ok(Values(values)),
    }
}

fn text_value(key: &Key, path: &str, value: &Value) -> Result<Value, NetError> {
    let all: &[Value] = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    match (key.kind, value) {
        (Kind::Texts, _) => return Ok(all.to_vec().into()),
        (Kind::Object(_, keys), Value::Object(object)) => {
            let prefix = format!("{path}.");
            return Ok(check(keys, object, &prefix, text_value, NetError::Unexpected)?.0.into());
        }
        (_, Value::Object(_)) => {
            return Err(OptionError::InvalidParameter(path.into()).into());
        }
        _ => {}
    }
    let text = all.last().and_then(Value::as_str).unwrap_or_default();
    let expects = |what: &str| NetError::Failed(format!("Parameter '{path}' expects {what}"));
    match key.kind {
        Kind::Text | Kind::Texts => Ok(text.into()),
        Kind::Object(..) => Err(OptionError::Missing(path.into()).into()),
        Kind::Bool => match text {
            "on" | "yes" | "true" | "y" => Ok(true.into()),
            "off" | "no" | "false" | "n" => Ok(false.into()),
            _ => Err(OptionError::NotABool(path.into()).into()),
        },
        Kind::Word(words) => word(words, path, text),
        Kind::Int => number::parse_int(text)
            .and_then(|number| i64::try_from(number).ok())
            .map(Value::from)
            .ok_or_else(|| expects("an int64 value")),
        Kind::Uint(bits) => {
            let number = number::parse_int(text).and_then(|number| u64::try_from(number).ok());
            uint(number.ok_or_else(|| expects("a uint64 value"))?, bits, path)
        }
        Kind::Size => {
            number::parse_size(text, 1).map(Value::from).map_err(|_| expects("a size value"))
        }
    }
}

fn json_value(key: &Key, path: &str, value: &Value) -> Result<Value, NetError> {
    let wrong = |expected| NetError::WrongType { name: path.into(), expected };
    match (key.kind, value) {
        (Kind::Text, Value::String(_)) | (Kind::Bool, Value::Bool(_)) => Ok(value.clone()),
        (Kind::Text, _) => Err(wrong("string")),
        (Kind::Bool, _) => Err(wrong("boolean")),
        (Kind::Word(words), Value::String(text)) => word(words, path, text),
        (Kind::Word(_), _) => Err(wrong("string")),
        (Kind::Int, _) => value.as_i64().map(Value::from).ok_or_else(|| wrong("integer")),
        (Kind::Uint(bits), Value::Number(number)) => {
            uint(number.as_u64().unwrap_or(u64::MAX), bits, path)
        }
        (Kind::Uint(_), _) => Err(wrong("integer")),
        (Kind::Size, _) => value.as_u64().map(Value::from).ok_or_else(|| wrong("integer")),
        (Kind::Object(_, keys), Value::Object(object)) => {
            let prefix = format!("{path}.");
            Ok(check(keys, object, &prefix, json_value, NetError::Unexpected)?.0.into())
        }
        (Kind::Object(..), _) => Err(wrong("object")),
        (Kind::Texts, Value::Array(list)) => {
            let texts: Result<Vec<Value>, NetError> = list
                .iter()
                .enumerate()
                .map(|(at, item)| {
                    let path = format!("{path}[{at}]");
                    let wrong = NetError::WrongType { name: path.clone(), expected: "object" };
                    let object = item.as_object().ok_or(wrong)?;
                    let one = [must("str", Kind::Text)];
                    let prefix = format!("{path}.");
                    let mut values =
                        check(&one, object, &prefix, json_value, NetError::Unexpected)?;
                    Ok(values.0.remove("str").unwrap_or_default())
                })
                .collect();
            Ok(texts?.into())
        }
        (Kind::Texts, _) => Err(wrong("array")),
    }
}

fn uint(number: u64, bits: u32, path: &str) -> Result<Value, NetError> {
    if bits >= 64 || number >> bits == 0 {
        return Ok(number.into());
    }
    Err(NetError::Failed(format!("Parameter '{path}' expects uint{bits}_t")))
}

fn word(words: &[&str], path: &str, text: &str) -> Result<Value, NetError> {
    if words.contains(&text) {
        return Ok(text.into());
    }
    // Without what it belongs to, as QEMU has it.
    let name = path.rsplit('.').next().unwrap_or(path);
    Err(NetError::NotAccepted { name: name.into(), value: text.into() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEYS: &[Key] = &[
        opt("net", Kind::Text),
        opt("restrict", Kind::Bool),
        opt("prefix", Kind::Int),
        opt("queues", Kind::Uint(32)),
        opt("hostfwd", Kind::Texts),
        opt("vhost", Kind::Word(&["on", "off"])),
        opt(
            "addr",
            Kind::Object("Address", &[must("host", Kind::Text), opt("port", Kind::Uint(16))]),
        ),
    ];

    fn text(text: &str, dotted: bool) -> Result<Values, String> {
        let tree = read_text(text, dotted).map_err(|error| error.to_string())?;
        let values = if dotted { Values::from_dotted } else { Values::from_text };
        values(KEYS, &tree).map_err(|error| error.to_string())
    }

    fn json(value: Value) -> Result<Values, String> {
        let Value::Object(object) = value else { panic!("an object is wanted") };
        Values::from_json(KEYS, &object).map_err(|error| error.to_string())
    }

    #[test]
    fn text_and_json_say_the_same() {
        let from_text =
            text("net=10.0.0.0/8,restrict=on,prefix=-3,hostfwd=a,hostfwd=b,vhost=off", false);
        let from_json = json(json!({
            "net": "10.0.0.0/8", "restrict": true, "prefix": -3, "vhost": "off",
            "hostfwd": [{"str": "a"}, {"str": "b"}],
        }));
        assert_eq!(from_text, from_json);
        let values = from_text.unwrap();
        assert_eq!(values.texts("hostfwd").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((values.bool("restrict"), values.int("prefix")), (Some(true), Some(-3)));
        assert_eq!(text("hostfwd=a", false).unwrap().texts("hostfwd").count(), 1);
        let dotted = text("addr.host=h,addr.port=80", true);
        assert_eq!(dotted, json(json!({"addr": {"host": "h", "port": 80}})));
        assert_eq!(dotted.unwrap().object("addr").unwrap().uint("port"), Some(80));
    }

    #[test]
    fn faults_are_told_in_the_usual_words() {
        for (argument, words) in [
            ("foo=1", "Invalid parameter 'foo'"),
            ("restrict=maybe", "Parameter 'restrict' expects 'on' or 'off'"),
            ("prefix=x", "Parameter 'prefix' expects an int64 value"),
            ("queues=x", "Parameter 'queues' expects a uint64 value"),
            ("queues=4294967296", "Parameter 'queues' expects uint32_t"),
            ("vhost=3", "Parameter 'vhost' does not accept value '3'"),
        ] {
            assert_eq!(text(argument, false).unwrap_err(), words);
        }
        for (argument, words) in [
            ("addr.port=1", "Parameter 'addr.host' is missing"),
            ("addr.host=h,addr.foo=1", "Parameter 'addr.foo' is unexpected"),
            ("foo=1", "Parameter 'foo' is unexpected"),
        ] {
            assert_eq!(text(argument, true).unwrap_err(), words);
        }
        for (value, words) in [
            (json!({"foo": 1}), "Parameter 'foo' is unexpected"),
            (json!({"restrict": "on"}), "Invalid parameter type for 'restrict', expected: boolean"),
            (json!({"hostfwd": "a"}), "Invalid parameter type for 'hostfwd', expected: array"),
            (json!({"hostfwd": [{}]}), "Parameter 'hostfwd[0].str' is missing"),
        ] {
            assert_eq!(json(value).unwrap_err(), words);
        }
    }
}
