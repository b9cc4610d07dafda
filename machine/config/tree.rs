//! Reading a tree of `a.b=value` into typed fields.

use base::options::number::{parse_int, parse_size};
use serde_json::{Map, Value};

use super::ConfigError;

/// One object of such a tree. Fields are taken out; what is left at the end is an error.
#[derive(Debug, Default)]
pub struct Tree {
    /// Path of the object, with a dot at its end unless it is the root.
    path: String,
    members: Map<String, Value>,
}

impl Tree {
    /// The whole tree.
    pub fn root(members: Map<String, Value>) -> Self {
        Tree { path: String::new(), members }
    }

    /// Takes the object `key`; an empty one if it is absent.
    pub fn object(&mut self, key: &str) -> Result<Tree, ConfigError> {
        let path = format!("{}{key}.", self.path);
        match self.members.shift_remove(key) {
            None => Ok(Tree { path, members: Map::new() }),
            Some(Value::Object(members)) => Ok(Tree { path, members }),
            Some(_) => Err(ConfigError::new(format!(
                "Invalid parameter type for '{}{key}', expected: object",
                self.path
            ))),
        }
    }

    /// Takes the text `key`.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.members.shift_remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => {
                Err(ConfigError::new(format!("Parameters '{}{key}.*' are unexpected", self.path)))
            }
        }
    }

    /// Takes the switch `key`.
    pub fn bool(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.parsed(key, "'on' or 'off'", |text| match text {
            "on" | "yes" | "true" | "y" => Some(true),
            "off" | "no" | "false" | "n" => Some(false),
            _ => None,
        })
    }

    /// Takes the signed number `key`.
    pub fn integer(&mut self, key: &str) -> Result<Option<i64>, ConfigError> {
        self.parsed(key, "integer", |text| parse_int(text)?.try_into().ok())
    }

    /// Takes the unsigned number `key`; a negative one is taken modulo 2^64.
    pub fn unsigned(&mut self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.parsed(key, "integer", |text| parse_int(text).map(|number| number as u64))
    }

    /// Takes the size `key`.
    pub fn size(&mut self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.parsed(key, "size", |text| parse_size(text, 1).ok())
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        what: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let fault = || ConfigError::new(format!("Parameter '{}{key}' expects {what}", self.path));
        parse(&text).map(Some).ok_or_else(fault)
    }

    /// Fails if anything is left.
    pub fn finish(self) -> Result<(), ConfigError> {
        match self.members.iter().next() {
            None => Ok(()),
            Some((key, Value::String(_))) => {
                Err(ConfigError::new(format!("Parameter '{}{key}' is unexpected", self.path)))
            }
            Some((key, _)) => {
                Err(ConfigError::new(format!("Parameters '{}{key}.*' are unexpected", self.path)))
            }
        }
    }

    /// What is left.
    pub fn into_rest(self) -> Map<String, Value> {
        self.members
    }
}
