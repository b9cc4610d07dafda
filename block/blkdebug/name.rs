//! The name of a `blkdebug` node, from which it could be opened again.

use serde_json::{Map, Value};

use crate::name::{described, of_options};
use crate::node::Node;
use crate::options::Options;

/// The keys in the order in which QEMU lists them, without numbers of rules; `image` is the child.
const ORDER: [&str; 20] = [
    "inject-error.state",
    "opt-write-zero",
    "inject-error.immediately",
    "set-state.event",
    "inject-error.once",
    "max-write-zero",
    "image",
    "max-transfer",
    "driver",
    "config",
    "inject-error.iotype",
    "set-state.new_state",
    "inject-error.errno",
    "inject-error.event",
    "opt-discard",
    "set-state.state",
    "inject-error.sector",
    "max-discard",
    "align",
    "x-image",
];

/// Of a filter with these options over an image: the short form if that says it all.
pub(super) fn of(options: &Options, config: Option<&str>, image: &Node) -> String {
    let is_own =
        |key: &str| !["config", "x-image", "image"].contains(&key) && !key.starts_with("image.");
    let child = image.filename();
    if !options.iter().any(|(key, _)| is_own(key)) && !child.starts_with("json:") {
        return format!("blkdebug:{}:{child}", config.unwrap_or_default());
    }
    let mut all: Vec<(String, Value)> = options
        .iter()
        .filter(|(key, _)| is_own(key) || *key == "config")
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    all.push(("image".into(), described(image)));
    all.push(("driver".into(), "blkdebug".into()));
    let rank = |key: &str| {
        let plain: Vec<&str> = key.split('.').filter(|part| part.parse::<u32>().is_err()).collect();
        ORDER.iter().position(|known| *known == plain.join("."))
    };
    // Rules of the same kind: the last one first.
    all.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| b.cmp(a)));
    of_options(&all.into_iter().collect::<Map<_, _>>())
}
