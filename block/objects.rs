//! What `--object` makes for the tools: secrets, and limits for the filter `throttle`.

use std::sync::Arc;

use base::options::{Keyval, OptionError, check_id, json};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::secret::{SecretOptions, Secrets};
use crate::throttle::{Group, options};
use crate::{Error, Result};

/// Limits by their names. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct ThrottleGroups(Arc<Mutex<Vec<Arc<Group>>>>);

impl ThrottleGroups {
    /// The limits of a name.
    pub fn get(&self, name: &str) -> Option<Arc<Group>> {
        self.0.lock().iter().find(|group| group.name() == name).cloned()
    }
}

/// All objects. Clones are the same.
#[derive(Clone, Default)]
pub struct Objects {
    /// Passwords and keys.
    pub secrets: Secrets,
    /// Limits.
    pub throttle_groups: ThrottleGroups,
}

fn duplicate(id: &str) -> Error {
    Error::invalid(format!("attempt to add duplicate property '{id}' to object (type 'container')"))
}

impl Objects {
    /// Adds what the argument of an `--object` option describes.
    pub fn define(&self, text: &str) -> Result<()> {
        let (mut tree, form) = match text.starts_with('{') {
            false => (Keyval::parse(text, Some("qom-type"))?.tree, options::Form::Keyval),
            true => match json::parse(text).map_err(|error| Error::invalid(error.to_string()))? {
                Value::Object(tree) => (tree, options::Form::Json),
                _ => return Err(Error::invalid("Invalid JSON object given")),
            },
        };
        let missing = |key: &str| Error::from(OptionError::Missing(key.into()));
        let kind = take(&mut tree, "qom-type").ok_or_else(|| missing("qom-type"))?;
        if !["secret", "throttle-group"].contains(&kind.as_str()) {
            let text = format!("Parameter 'qom-type' does not accept value '{kind}'");
            return Err(Error::invalid(text));
        }
        let id = take(&mut tree, "id").ok_or_else(|| missing("id"))?;
        check_id(&id).map_err(|_| OptionError::NotAnIdentifier("id".into()))?;
        match kind.as_str() {
            "secret" => self.define_secret(&id, tree),
            _ => {
                let limits = options::limits(&tree, form).map_err(Error::invalid)?;
                if self.throttle_groups.get(&id).is_some() || self.secrets.get(&id).is_ok() {
                    return Err(duplicate(&id));
                }
                self.throttle_groups.0.lock().push(Group::new(&id, limits));
                Ok(())
            }
        }
    }

    fn define_secret(&self, id: &str, mut tree: Map<String, Value>) -> Result<()> {
        let mut take = |key: &str| take(&mut tree, key);
        let options = SecretOptions {
            data: take("data"),
            file: take("file"),
            format: take("format"),
            keyid: take("keyid"),
            iv: take("iv"),
        };
        if let Some(key) = tree.keys().next() {
            return Err(Error::invalid(format!("Parameter '{key}' is unexpected")));
        }
        match self.throttle_groups.get(id) {
            Some(_) => Err(duplicate(id)),
            None => self.secrets.add(id, &options),
        }
    }
}

fn take(tree: &mut Map<String, Value>, key: &str) -> Option<String> {
    tree.remove(key).and_then(|value| value.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::Kind;

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn limits_are_defined_in_each_form() {
        let objects = Objects::default();
        let define = |text: &str| objects.define(text).map_err(|error| error.to_string());
        define("throttle-group,id=a,x-iops-total=1000").unwrap();
        define("throttle-group,id=b,limits.bps-read=5").unwrap();
        define(r#"{"qom-type":"throttle-group","id":"c","limits":{"iops-total":7}}"#).unwrap();
        let rate = |id: &str, kind| objects.throttle_groups.get(id).unwrap().limits().of(kind).rate;
        assert_eq!((rate("a", Kind::IopsTotal), rate("b", Kind::BpsRead)), (1000, 5));
        assert_eq!(rate("c", Kind::IopsTotal), 7);
        for (text, refusal) in [
            ("throttle-group", "Parameter 'id' is missing"),
            (
                "throttle-group,id=a",
                "attempt to add duplicate property 'a' to object (type 'container')",
            ),
            (
                "throttle-group,id=d,limits.bps-read=x",
                "Parameter 'limits.bps-read' expects integer",
            ),
            ("throttle-group,id=d,x-bps-read=-1", "Property values cannot be negative"),
            ("throttle-group,id=d,limits.foo=1", "Parameter 'limits.foo' is unexpected"),
            (
                "throttle-group,id=d,limits=3",
                "Invalid parameter type for 'limits', expected: object",
            ),
            ("throttle-group,id=d,x-iops-size=3", "iops size requires an iops value to be set"),
            (
                r#"{"qom-type":"throttle-group","id":"d","limits":{"iops-total":"7"}}"#,
                "Invalid parameter type for 'limits.iops-total', expected: integer",
            ),
            ("foo,id=d", "Parameter 'qom-type' does not accept value 'foo'"),
        ] {
            assert_eq!(define(text), Err(refusal.to_owned()), "{text}");
        }
    }
}
