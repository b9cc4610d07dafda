//! Secrets: passwords and keys that options name by their ID (`--object secret,id=...`).

use std::collections::HashMap;

use base::options::{Keyval, OptionError, check_id, json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Secrets by ID.
#[derive(Clone, Default)]
pub struct Secrets(HashMap<String, Vec<u8>>);

impl Secrets {
    /// Adds what the argument of an `--object` option describes.
    pub fn define(&mut self, text: &str) -> Result<()> {
        let mut tree = match text.starts_with('{') {
            false => Keyval::parse(text, Some("qom-type"))?.tree,
            true => match json::parse(text).map_err(|error| Error::invalid(error.to_string()))? {
                Value::Object(tree) => tree,
                _ => return Err(Error::invalid("Invalid JSON object given")),
            },
        };
        let kind = take(&mut tree, "qom-type").ok_or_else(|| missing("qom-type"))?;
        if kind != "secret" {
            let text = format!("Parameter 'qom-type' does not accept value '{kind}'");
            return Err(Error::invalid(text));
        }
        let id = take(&mut tree, "id").ok_or_else(|| missing("id"))?;
        check_id(&id).map_err(|_| OptionError::NotAnIdentifier("id".into()))?;
        let format = take(&mut tree, "format");
        let (data, file) = (take(&mut tree, "data"), take(&mut tree, "file"));
        if let Some(key) = tree.keys().next() {
            return Err(Error::invalid(format!("Parameter '{key}' is unexpected")));
        }
        let bytes = match (data, file) {
            (Some(data), None) => data.into_bytes(),
            (None, Some(file)) => std::fs::read(&file).map_err(|error| {
                let error = Error::from(error);
                let text = format!("Unable to read {file}: Failed to open file “{file}”: {error}");
                Error::new(error.errno(), text)
            })?,
            (Some(_), Some(_)) => {
                let text = "'file' and 'data' are mutually exclusive";
                return Err(Error::invalid(text));
            }
            (None, None) => return Err(Error::invalid("Either 'file' or 'data' must be provided")),
        };
        let bytes = match format.as_deref() {
            None | Some("raw") => bytes,
            Some("base64") => STANDARD
                .decode(bytes.trim_ascii_end())
                .map_err(|_| Error::invalid("Base64 data contains invalid characters"))?,
            Some(format) => {
                let text = format!("Parameter 'format' does not accept value '{format}'");
                return Err(Error::invalid(text));
            }
        };
        if self.0.insert(id.clone(), bytes).is_some() {
            let text =
                format!("attempt to add duplicate property '{id}' to object (type 'container')");
            return Err(Error::invalid(text));
        }
        Ok(())
    }

    /// The secret with an ID.
    pub fn get(&self, id: &str) -> Result<&[u8]> {
        let missing = || Error::invalid(format!("No secret with id '{id}'"));
        self.0.get(id).map(Vec::as_slice).ok_or_else(missing)
    }
}

fn take(tree: &mut Map<String, Value>, key: &str) -> Option<String> {
    tree.remove(key).and_then(|value| value.as_str().map(str::to_owned))
}

fn missing(key: &str) -> Error {
    OptionError::Missing(key.into()).into()
}
