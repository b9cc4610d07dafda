//! Trees of `a.b=value`.

use serde_json::{Map, Value};

use super::{OptionError, is_help};

/// Longest part of a key between dots.
const MAX_FRAGMENT: usize = 127;

/// What an argument says: a tree with text at its leaves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keyval {
    /// The tree.
    pub tree: Map<String, Value>,
    /// Whether it asks for help.
    pub help: bool,
}

impl Keyval {
    /// Reads an argument. `implied` is the key of a first value that comes without one; such a value
    /// cannot contain a comma. Objects whose keys are 0, 1, 2, ... become lists.
    pub fn parse(text: &str, implied: Option<&str>) -> Result<Self, OptionError> {
        let mut parsed = Keyval::default();
        let mut rest = text;
        let mut implied = implied;
        while !rest.is_empty() {
            let end = rest.find(['=', ',']).unwrap_or(rest.len());
            let typed = &rest[..end];
            let has_value = rest[end..].starts_with('=');
            let first = implied.take();
            if !has_value && is_help(typed) {
                parsed.help = true;
                rest = rest[end..].strip_prefix(',').unwrap_or_default();
                continue;
            }
            if let Some(key) = first.filter(|_| !has_value && !typed.is_empty()) {
                parsed.tree.insert(key.into(), typed.into());
                rest = rest[end..].strip_prefix(',').unwrap_or_default();
                continue;
            }
            let path = split_key(typed)?;
            if !has_value {
                return Err(OptionError::ExpectedEquals(typed.into()));
            }
            let (value, tail) = take_value(&rest[end + 1..]);
            insert(&mut parsed.tree, &path, value)?;
            rest = tail;
        }
        let mut path = String::new();
        for (key, value) in &mut parsed.tree {
            path.replace_range(.., key);
            make_lists(value, &mut path)?;
        }
        Ok(parsed)
    }

    /// Lays `other` over this tree: objects are merged, other values replaced.
    pub fn merge(&mut self, other: Keyval) {
        merge_objects(&mut self.tree, other.tree);
        self.help |= other.help;
    }
}

fn merge_objects(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => merge_objects(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Splits a key at its dots and checks the parts. Numbers are brought to one form.
fn split_key(key: &str) -> Result<Vec<String>, OptionError> {
    let invalid = || OptionError::InvalidParameter(key.into());
    // A vendor's prefix, `__org.example_`, keeps its dots.
    let prefix = if let Some(rest) = key.strip_prefix("__") {
        let (vendor, _) = rest.split_once('_').ok_or_else(invalid)?;
        if vendor.is_empty()
            || !vendor.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        {
            return Err(invalid());
        }
        &key[..vendor.len() + 3]
    } else {
        ""
    };
    let mut path = Vec::new();
    for fragment in key[prefix.len()..].split('.') {
        let first = path.is_empty();
        let index = !first && !fragment.is_empty() && fragment.bytes().all(|b| b.is_ascii_digit());
        let name = fragment.starts_with(|c: char| c.is_ascii_alphabetic())
            && fragment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !index && !name {
            return Err(invalid());
        }
        let fragment = if first { format!("{prefix}{fragment}") } else { fragment.to_string() };
        if fragment.len() > MAX_FRAGMENT {
            return Err(OptionError::TooLong(key.into()));
        }
        path.push(match index {
            true => fragment.parse::<u32>().unwrap_or(u32::MAX).to_string(),
            false => fragment,
        });
    }
    Ok(path)
}

fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == ',' && chars.next_if(|(_, next)| *next == ',').is_none() {
            return (value, &text[at + 1..]);
        }
        value.push(c);
    }
    (value, "")
}

fn insert(
    tree: &mut Map<String, Value>,
    path: &[String],
    value: String,
) -> Result<(), OptionError> {
    let Some((last, parents)) = path.split_last() else { return Ok(()) };
    let inconsistent = |depth: usize| OptionError::Inconsistent(path[..=depth].join("."));
    let mut node = tree;
    for (depth, fragment) in parents.iter().enumerate() {
        let child = node.entry(fragment.clone()).or_insert_with(|| Value::Object(Map::new()));
        node = child.as_object_mut().ok_or_else(|| inconsistent(depth))?;
    }
    match node.get_mut(last) {
        Some(Value::Object(_)) => Err(inconsistent(parents.len())),
        Some(leaf) => {
            *leaf = value.into();
            Ok(())
        }
        None => {
            node.insert(last.clone(), value.into());
            Ok(())
        }
    }
}

/// Turns objects with numbers for keys into lists, innermost first. Recursion is bounded by the
/// length of a key.
fn make_lists(value: &mut Value, path: &mut String) -> Result<(), OptionError> {
    let Value::Object(members) = value else { return Ok(()) };
    let length = path.len();
    for (key, member) in members.iter_mut() {
        path.push('.');
        path.push_str(key);
        make_lists(member, path)?;
        path.truncate(length);
    }
    let is_index = |key: &String| key.starts_with(|c: char| c.is_ascii_digit());
    let indices = members.keys().filter(|key| is_index(key)).count();
    if indices == 0 {
        return Ok(());
    }
    if indices < members.len() {
        return Err(OptionError::Inconsistent(path.clone()));
    }
    let take = |index: usize| {
        members
            .remove(&index.to_string())
            .ok_or_else(|| OptionError::MissingElement(format!("{path}.{index}")))
    };
    *value = (0..indices).map(take).collect::<Result<Vec<_>, _>>()?.into();
    Ok(())
}
