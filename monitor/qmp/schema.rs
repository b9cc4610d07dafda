//! `query-qmp-schema`: what the tables of commands and events say, in the form that clients know.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::commands::{COMMANDS, FEATURES};
use super::events::EVENTS;
use crate::qapi::{Member, Type};

/// The schema of everything that is registered. Names of types are not an interface: clients
/// follow references.
pub(super) fn schema() -> Vec<Value> {
    let mut types = Types::default();
    let mut entities = Vec::new();
    for command in COMMANDS {
        let (argument, result) = (command.types)();
        let mut entity = json!({
            "name": command.name,
            "meta-type": "command",
            "arg-type": types.reference(&argument),
            "ret-type": types.reference(&result),
        });
        if let Some((_, features)) = FEATURES.iter().find(|(name, _)| *name == command.name) {
            entity["features"] = json!(features);
        }
        entities.push(entity);
    }
    for (name, data) in EVENTS {
        let data = types.reference(&data());
        entities.push(json!({"name": name, "meta-type": "event", "arg-type": data}));
    }
    entities.extend(types.entities);
    entities
}

/// The types referred to so far.
#[derive(Default)]
struct Types {
    entities: Vec<Value>,
    /// The reference by which a type that has a name of its own is known.
    known: HashMap<&'static str, String>,
    lists: Vec<String>,
}

impl Types {
    fn reference(&mut self, ty: &Type) -> String {
        match ty {
            Type::Array(element) => {
                let element = self.reference(element);
                let name = format!("[{element}]");
                if !self.lists.contains(&name) {
                    self.lists.push(name.clone());
                    self.entities
                        .push(json!({"name": name, "meta-type": "array", "element-type": element}));
                }
                name
            }
            Type::Builtin(name, json_type) => {
                if !self.known.contains_key(name) {
                    self.known.insert(name, (*name).to_owned());
                    self.entities.push(
                        json!({"name": name, "meta-type": "builtin", "json-type": json_type}),
                    );
                }
                (*name).to_owned()
            }
            Type::Enum { name, values } => self.named(name, |_| {
                let members: Vec<_> = values.iter().map(|value| json!({"name": value})).collect();
                json!({"meta-type": "enum", "members": members, "values": values})
            }),
            Type::Object { name, members } => self.named(
                name,
                |types| json!({"meta-type": "object", "members": types.members(members)}),
            ),
            Type::Alternate { name, members } => self.named(name, |types| {
                let member = |ty: &Type| json!({"type": types.reference(ty)});
                let members: Vec<_> = members.iter().map(member).collect();
                json!({"meta-type": "alternate", "members": members})
            }),
            Type::Known(name) => self.known.get(name).cloned().unwrap_or_default(),
            Type::Union { name, members, tag, variants } => self.named(name, |types| {
                let members = types.members(members);
                let case =
                    |(word, ty): &(&str, Type)| json!({"case": word, "type": types.reference(ty)});
                let variants: Vec<_> = variants.iter().map(case).collect();
                json!({"meta-type": "object", "members": members, "tag": tag, "variants": variants})
            }),
        }
    }

    fn members(&mut self, members: &[Member]) -> Vec<Value> {
        let member = |member: &Member| {
            let ty = self.reference(&member.ty);
            match member.optional {
                true => json!({"name": member.name, "type": ty, "default": null}),
                false => json!({"name": member.name, "type": ty}),
            }
        };
        members.iter().map(member).collect()
    }

    /// The reference to a type that QEMU shows by a number only.
    fn named(&mut self, name: &'static str, describe: impl FnOnce(&mut Self) -> Value) -> String {
        let number = self.known.len().to_string();
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        self.known.insert(name, number.clone());
        let mut entity = describe(self);
        entity["name"] = number.clone().into();
        self.entities.push(entity);
        number
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_names_are_unique() {
        let schema = schema();
        let names: HashSet<&str> =
            schema.iter().map(|entity| entity["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), schema.len());
        for entity in &schema {
            let direct = ["arg-type", "ret-type", "element-type"].map(|key| entity.get(key));
            let members = entity["members"].as_array().into_iter().flatten();
            let variants = entity["variants"].as_array().into_iter().flatten();
            let members = members.chain(variants).filter_map(|member| member.get("type"));
            let all = direct.into_iter().flatten().chain(members);
            for reference in all {
                assert!(names.contains(reference.as_str().unwrap()), "{reference} in {entity}");
            }
        }
    }

    #[test]
    fn a_command_is_described_as_qemu_does() {
        let schema = schema();
        let find = |name: &str| schema.iter().find(|entity| entity["name"] == name).unwrap();
        let read = find("ringbuf-read");
        assert_eq!(read["ret-type"], "str");
        let argument = find(read["arg-type"].as_str().unwrap());
        assert_eq!(argument["members"][0], json!({"name": "device", "type": "str"}));
        assert_eq!(argument["members"][1], json!({"name": "size", "type": "int"}));
        assert_eq!(argument["members"][2]["default"], Value::Null);
        let format = find(argument["members"][2]["type"].as_str().unwrap());
        assert_eq!(format["values"], json!(["utf8", "base64"]));
    }
}
