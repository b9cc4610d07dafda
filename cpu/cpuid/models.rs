//! The table of named models, read from `models.txt`.

use std::sync::OnceLock;

use super::feature::{self, FeatureSet};
use super::{Cache, Model};

/// A named model.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The name, with its version: `Haswell-v2`.
    pub name: &'static str,
    /// What `-cpu help` says beside the brand string: the version's changes.
    pub note: String,
    /// The model, unfiltered.
    pub model: Model,
}

struct Table {
    definitions: Vec<Definition>,
    /// Other names of versions.
    aliases: Vec<(&'static str, &'static str)>,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| parse(include_str!("models.txt")))
}

/// All named models, every version.
pub fn definitions() -> &'static [Definition] {
    &table().definitions
}

/// Finds a model by name. A name without a version means version 1, as on all `pc` machines.
pub fn find(name: &str) -> Option<&'static Definition> {
    let table = table();
    let name = table.aliases.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, to)| to);
    let exact = table.definitions.iter().find(|definition| definition.name == name);
    exact.or_else(|| table.definitions.iter().find(|d| d.name.strip_suffix("-v1") == Some(name)))
}

/// The lines of `-cpu help` before the list of flags: name and description.
fn help() -> Vec<(String, String)> {
    let table = table();
    let mut lines = Vec::new();
    for definition in &table.definitions {
        if let Some(base) = definition.name.strip_suffix("-v1") {
            lines.push((base.to_owned(), "(alias configured by machine type)".to_owned()));
        }
        let brand = &definition.model.model_id;
        let description = match (brand.as_str(), definition.note.as_str()) {
            (brand, "") => brand.to_owned(),
            (brand, note) => format!("{brand} [{note}]"),
        };
        lines.push((definition.name.to_owned(), description));
    }
    for (alias, to) in &table.aliases {
        lines.push(((*alias).to_owned(), format!("(alias of {to})")));
    }
    lines.sort();
    for (name, description) in [
        ("base", "base CPU model type with no features enabled"),
        ("host", "processor with all supported host features "),
        ("max", "Enables all features supported by the accelerator in the current host"),
    ] {
        lines.push((name.to_owned(), description.to_owned()));
    }
    lines
}

/// Longest line in the list of flags.
const LINE_WIDTH: usize = 75;

/// Names that QEMU's list has twice, because two bits have them.
const TWO_BITS: [&str; 2] = ["kvmclock", "vmx-invept-single-context"];

/// What `-cpu help` prints.
pub fn listing() -> String {
    let mut text = "Available CPUs:\n".to_owned();
    for (name, description) in help() {
        text += &format!("  {name:<20}  {description}\n");
    }
    let names = feature::names().iter().map(|named| named.name);
    let mut flags: Vec<_> = names.chain(TWO_BITS).collect();
    flags.sort_unstable();
    text += "\nRecognized CPUID flags:\n";
    let mut line = String::new();
    for flag in flags {
        // Two blanks before a line, one between words.
        if !line.is_empty() && 1 + line.len() + 1 + flag.len() > LINE_WIDTH {
            text += &format!(" {line}\n");
            line.clear();
        }
        line += &format!(" {flag}");
    }
    text + &format!(" {line}\n\n")
}

/// Every name that `-cpu` takes for a named model, with the version it stands for if it is another
/// name of one.
pub fn names() -> Vec<(&'static str, Option<&'static str>)> {
    let table = table();
    let mut names = Vec::new();
    for definition in &table.definitions {
        names.push((definition.name, None));
        if let Some(base) = definition.name.strip_suffix("-v1") {
            names.push((base, Some(definition.name)));
        }
    }
    names.extend(table.aliases.iter().map(|&(alias, to)| (alias, Some(to))));
    names
}

/// Reads the table. It is part of the program and checked by a test; what does not parse is left
/// out.
fn parse(text: &'static str) -> Table {
    let mut table = Table { definitions: Vec::new(), aliases: Vec::new() };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((alias, to)) = line.split_once(" := ") {
            table.aliases.push((alias, to));
        } else if !line.starts_with(' ') {
            if let Some(definition) = parse_head(line, &table.definitions) {
                table.definitions.push(definition);
            }
        } else if let Some(definition) = table.definitions.last_mut() {
            let line = line.trim_start();
            match line.strip_prefix('|') {
                Some(brand) => definition.model.model_id = brand.trim_start().to_owned(),
                None => apply(&mut definition.model.features, line),
            }
        }
    }
    table
}

fn apply(features: &mut FeatureSet, line: &str) {
    for item in line.split_whitespace() {
        let (name, on) = match item.strip_prefix('-') {
            Some(name) => (name, false),
            None => (item.strip_prefix('+').unwrap_or(item), true),
        };
        if let Some(named) = feature::by_name(name) {
            features.set(named.feature, on);
        }
    }
}

pub(super) fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn parse_head(line: &'static str, before: &[Definition]) -> Option<Definition> {
    let (line, note) = line.split_once(" note=").unwrap_or((line, ""));
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let first = words.next()?;
    let mut definition = if first == "=" {
        let older = words.next()?;
        let older = before.iter().find(|definition| definition.name == older)?;
        Definition { name, note: note.to_owned(), ..older.clone() }
    } else {
        let mut numbers = [0; 5];
        for number in &mut numbers {
            *number = parse_number(words.next()?)? as u32;
        }
        let [family, model, stepping, level, xlevel] = numbers;
        let vendor = first.to_owned();
        let model = Model { vendor, family, model, stepping, level, xlevel, ..Model::default() };
        Definition { name, note: note.to_owned(), model }
    };
    let model = &mut definition.model;
    for word in words {
        let (key, value) = word.split_once('=')?;
        let number = || parse_number(value).unwrap_or(0) as u32;
        match key {
            "family" => model.family = number(),
            "model" => model.model = number(),
            "stepping" => model.stepping = number(),
            "level" => model.level = number(),
            "xlevel" => model.xlevel = number(),
            "caches" => {
                for (cache, text) in model.caches.iter_mut().zip(value.split(',')) {
                    let (kib, ways) = text.split_once('/')?;
                    *cache = Cache { kib: kib.parse().ok()?, ways: ways.parse().ok()? };
                }
            }
            _ => return None,
        }
    }
    Some(definition)
}
