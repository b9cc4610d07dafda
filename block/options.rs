//! What is said of a node and of those below it: keys with dots and values, as `-blockdev`, `json:` names
//! and `--image-opts` give them. Whoever understands a key takes it out; what is left in the end is
//! refused.

use base::options::number::{SizeError, parse_int, parse_size};
use base::options::{OptionError, ParsedOpts, json};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Options of one node. Those of its children have a prefix (`file.filename`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(Map<String, Value>);

/// What options say of a child.
#[derive(Clone, Debug, PartialEq)]
pub enum ChildOptions {
    /// Nothing.
    Absent,
    /// That there shall be none (`null`, or an empty name).
    Nothing,
    /// The node with this name.
    Reference(String),
    /// A node to be opened.
    Inline(Options),
}

impl From<OptionError> for Error {
    fn from(error: OptionError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl Options {
    /// A tree, with its branches joined by dots.
    pub fn from_tree(tree: Map<String, Value>) -> Self {
        let mut flat = Map::new();
        flatten(&mut flat, "", Value::Object(tree));
        Self(flat)
    }

    /// `a=1,b.c=x,,y`, and the warnings about short forms.
    pub fn from_pairs(text: &str) -> Result<(Self, Vec<String>)> {
        let parsed = ParsedOpts::parse(text, None, |_| false)?;
        let warnings = parsed.short_forms.iter().map(ToString::to_string).collect();
        let pairs = parsed.opts.entries.into_iter();
        Ok((Self(pairs.map(|(key, value)| (key, Value::String(value))).collect()), warnings))
    }

    /// The text after `json:`.
    pub fn from_json(text: &str) -> Result<Self> {
        let fail = |error| Error::invalid(format!("Could not parse the JSON options: {error}"));
        match json::parse(text).map_err(fail)? {
            Value::Object(tree) => Ok(Self::from_tree(tree)),
            _ => Err(Error::invalid("Invalid JSON object given")),
        }
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A key that nobody has taken.
    pub fn first_key(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }

    /// Every key that nobody has taken, and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Looks at a text without taking it.
    pub fn peek(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    /// Looks at a value without taking it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Whether something is said, be it that there is nothing.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Says something, over what was said.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Takes everything from others that is not said here.
    pub fn fill_from(&mut self, others: Self) {
        for (key, value) in others.0 {
            self.0.entry(key).or_insert(value);
        }
    }

    /// Takes a text.
    pub fn text(&mut self, key: &str) -> Option<String> {
        match self.0.remove(key)? {
            Value::String(text) => Some(text),
            Value::Null => None,
            scalar => Some(scalar.to_string()),
        }
    }

    /// Takes a switch.
    pub fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        match self.0.remove(key) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(on)),
            Some(Value::String(text)) if text == "on" => Ok(Some(true)),
            Some(Value::String(text)) if text == "off" => Ok(Some(false)),
            Some(_) => Err(OptionError::NotABool(key.to_owned()).into()),
        }
    }

    /// Takes a size, which may have a suffix.
    pub fn size(&mut self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match parse_size(&text, 1) {
            Ok(size) => Ok(Some(size)),
            Err(SizeError::Malformed) => Err(OptionError::NotASize(key.to_owned()).into()),
            Err(SizeError::OutOfRange) => {
                Err(OptionError::SizeOutOfRange { name: key.to_owned(), value: text }.into())
            }
        }
    }

    /// Takes a number.
    pub fn number(&mut self, key: &str) -> Result<Option<i64>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let number = parse_int(&text).and_then(|number| i64::try_from(number).ok());
        number.map(Some).ok_or_else(|| OptionError::NotANumber(key.to_owned()).into())
    }

    /// Takes what is said of a child.
    pub fn child(&mut self, name: &str) -> ChildOptions {
        match self.0.remove(name) {
            Some(Value::String(reference)) if !reference.is_empty() => {
                return ChildOptions::Reference(reference);
            }
            Some(_) => return ChildOptions::Nothing,
            None => {}
        }
        let inside = self.below(name);
        if inside.is_empty() { ChildOptions::Absent } else { ChildOptions::Inline(inside) }
    }

    /// Takes the options of a list: `name.0`, `name.1.x`, ...
    pub fn list(&mut self, name: &str) -> Vec<Options> {
        let mut all = self.below(name);
        let mut list = Vec::new();
        loop {
            let next = all.below(&list.len().to_string());
            if next.is_empty() {
                return list;
            }
            list.push(next);
        }
    }

    /// Takes what is said of something's parts: `name.a`, `name.b.c`, ...
    pub fn below(&mut self, name: &str) -> Options {
        let prefix = format!("{name}.");
        let (inside, outside) =
            std::mem::take(&mut self.0).into_iter().partition(|(key, _)| key.starts_with(&prefix));
        self.0 = outside;
        let inside: Map<String, Value> = inside;
        Self(
            inside
                .into_iter()
                .map(|(key, value)| (key[prefix.len()..].to_owned(), value))
                .collect(),
        )
    }
}

/// What a name that begins with `json:` says.
pub(crate) fn json_of(name: &str) -> Option<Value> {
    json::parse(name.strip_prefix("json:")?).ok()
}

fn flatten(flat: &mut Map<String, Value>, prefix: &str, value: Value) {
    let key = |name: &str| match prefix {
        "" => name.to_owned(),
        _ => format!("{prefix}.{name}"),
    };
    match value {
        Value::Object(map) => {
            map.into_iter().for_each(|(name, value)| flatten(flat, &key(&name), value));
        }
        Value::Array(list) => {
            let items = list.into_iter().enumerate();
            items.for_each(|(i, value)| flatten(flat, &key(&i.to_string()), value));
        }
        scalar => {
            flat.insert(prefix.to_owned(), scalar);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_and_dotted_keys_say_the_same() {
        let mut json = Options::from_json(
            r#"{"driver":"qcow2","file":{"driver":"file","filename":"x"},"list":[{"a":1},{"a":2}]}"#,
        )
        .unwrap();
        let dotted = "driver=qcow2,file.driver=file,file.filename=x,list.0.a=1,list.1.a=2";
        let (mut pairs, warnings) = Options::from_pairs(dotted).unwrap();
        assert!(warnings.is_empty());
        for options in [&mut json, &mut pairs] {
            assert_eq!(options.text("driver").as_deref(), Some("qcow2"));
            let ChildOptions::Inline(mut file) = options.child("file") else { panic!() };
            assert_eq!(file.text("filename").as_deref(), Some("x"));
            assert_eq!(file.first_key(), Some("driver"));
            let list = options.list("list");
            assert_eq!(list.len(), 2);
            assert_eq!(list[1].clone().number("a").unwrap(), Some(2));
            assert!(options.is_empty());
        }
    }

    #[test]
    fn values_of_the_wrong_kind_are_refused() {
        let (mut options, _) = Options::from_pairs("a=maybe,b=many,c=").unwrap();
        assert_eq!(
            options.flag("a").unwrap_err().to_string(),
            "Parameter 'a' expects 'on' or 'off'"
        );
        assert_eq!(options.number("b").unwrap_err().to_string(), "Parameter 'b' expects a number");
        assert_eq!(options.child("c"), ChildOptions::Nothing);
    }
}
