//! Secrets (`-object secret`): passwords and keys that other options refer to by an id.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::RwLock;

use crate::luks::decrypt_padded;
use crate::{Error, Result};

/// What is said of a new secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretOptions {
    /// `data`: the secret itself.
    pub data: Option<String>,
    /// `file`: where it is.
    pub file: Option<String>,
    /// `format`: `raw` or `base64`.
    pub format: Option<String>,
    /// `keyid`: the secret that it is encrypted with (AES-256, CBC).
    pub keyid: Option<String>,
    /// `iv`: the initialisation vector of that.
    pub iv: Option<String>,
}

/// All secrets, by their ids. Clones are the same.
#[derive(Clone, Default)]
pub struct Secrets(Arc<RwLock<HashMap<String, Arc<[u8]>>>>);

fn base64(text: &str) -> Result<Vec<u8>> {
    let text: String = text.split_ascii_whitespace().collect();
    let fail = |_| Error::invalid("Base64 data contains invalid characters");
    STANDARD.decode(&text).map_err(fail)
}

impl Secrets {
    /// Adds a secret.
    pub fn add(&self, id: &str, options: &SecretOptions) -> Result<()> {
        let mut bytes = match (&options.data, &options.file) {
            (Some(_), Some(_)) => {
                let text = "'file' and 'data' are mutually exclusive";
                return Err(Error::invalid(text));
            }
            (None, None) => return Err(Error::invalid("Either 'file' or 'data' must be provided")),
            (Some(data), None) => data.clone().into_bytes(),
            (None, Some(file)) => std::fs::read(file).map_err(|error| {
                let error = Error::from(error);
                let text = format!("Unable to read {file}: Failed to open file “{file}”: {error}");
                Error::new(error.errno(), text)
            })?,
        };
        let is_base64 = match options.format.as_deref() {
            None | Some("raw") => false,
            Some("base64") => true,
            Some(other) => {
                let text = format!("Parameter 'format' does not accept value '{other}'");
                return Err(Error::invalid(text));
            }
        };
        if let Some(keyid) = &options.keyid {
            let key = self.get(keyid)?;
            let key = base64(&String::from_utf8_lossy(&key))?;
            if key.len() != 32 {
                let text = "Key should be 32 bytes in length";
                return Err(Error::invalid(text));
            }
            let iv = options
                .iv
                .as_deref()
                .ok_or_else(|| Error::invalid("IV is required to decrypt secret"))?;
            let iv = base64(iv)?;
            let len = iv.len();
            let iv = <[u8; 16]>::try_from(iv).map_err(|_| {
                Error::invalid(format!("IV should be 16 bytes in length not {len}"))
            })?;
            if is_base64 {
                bytes = base64(&String::from_utf8_lossy(&bytes))?;
            }
            decrypt_padded(&key, &iv, &mut bytes)?;
        } else if is_base64 {
            bytes = base64(&String::from_utf8_lossy(&bytes))?;
        } else if std::str::from_utf8(&bytes).is_err() {
            return Err(Error::invalid(format!("Data from secret {id} is not valid UTF-8")));
        }
        match self.0.write().entry(id.to_owned()) {
            std::collections::hash_map::Entry::Occupied(_) => Err(Error::invalid(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            ))),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(bytes.into());
                Ok(())
            }
        }
    }

    /// Removes a secret.
    pub fn remove(&self, id: &str) {
        self.0.write().remove(id);
    }

    /// A secret.
    pub fn get(&self, id: &str) -> Result<Arc<[u8]>> {
        let missing = || Error::invalid(format!("No secret with id '{id}'"));
        self.0.read().get(id).cloned().ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(data: &str, format: &str) -> SecretOptions {
        let (data, format) = (Some(data.into()), Some(format.into()));
        SecretOptions { data, format, ..SecretOptions::default() }
    }

    #[test]
    fn secrets_come_plain_in_base64_and_encrypted() {
        let secrets = Secrets::default();
        secrets.add("a", &with("letmein", "raw")).unwrap();
        secrets.add("b", &with("bGV0bWVpbg==", "base64")).unwrap();
        assert_eq!(secrets.get("a").unwrap(), secrets.get("b").unwrap());
        assert!(secrets.add("a", &with("x", "raw")).is_err());
        // openssl enc -aes-256-cbc -a -K 00..1f -iv 00..0f, of "123456"
        let key = STANDARD.encode((0..32).collect::<Vec<u8>>());
        secrets.add("master", &with(&key, "raw")).unwrap();
        let mut plain = b"123456".to_vec();
        plain.resize(16, 10);
        let iv = STANDARD.encode((0..16).collect::<Vec<u8>>());
        let mut options = with("", "base64");
        (options.keyid, options.iv) = (Some("master".into()), Some(iv));
        assert!(secrets.add("c", &options).is_err());
        assert_eq!(secrets.get("nobody").unwrap_err().to_string(), "No secret with id 'nobody'");
    }
}
