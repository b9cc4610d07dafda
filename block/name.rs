//! Names that say all that is needed to open a node again.

use serde_json::{Map, Value, json};

use crate::format::PROTOCOLS;
use crate::node::{Node, Role};
use crate::open::full_backing_name;
use crate::options::{Options, json_of};
use crate::tools::text;

/// The name for these options.
pub fn of_options(options: &Map<String, Value>) -> String {
    format!("json:{}", text::line(&Value::Object(options.clone())))
}

/// What is to be said of an image besides its format, in the order of QEMU's hash tables: before the
/// format, behind it, and behind the file.
const STRONG: [&[(&str, &str)]; 3] = [
    &[("raw", "offset"), ("throttle", "throttle-group")],
    &[("raw", "size")],
    &[("luks", "key-secret")],
];

/// Whether names of images in a format tell some of its options.
pub fn tells_options(format: &str) -> bool {
    STRONG.iter().any(|place| place.iter().any(|(of, _)| *of == format))
}

/// The name of an image in a format, by its options: that of its file, where that says it all.
pub fn of_layer(format: &str, file: &Node, options: &Options) -> String {
    let [before, behind, last] = STRONG.map(|place| {
        let (_, key) = place.iter().find(|(of, _)| *of == format)?;
        Some(((*key).to_owned(), options.get(key)?.clone()))
    });
    let plain = [&before, &behind, &last].iter().all(|said| said.is_none());
    let is_filter = ["copy-on-read", "preallocate", "throttle"].contains(&format);
    let in_file = PROTOCOLS.contains(&file.driver().name()) && json_of(&file.filename()).is_none();
    if plain && in_file && !is_filter {
        return file.filename();
    }
    let driver = Some(("driver".to_owned(), Value::from(format)));
    let file = Some(("file".to_owned(), described(file)));
    of_options(&[before, driver, behind, file, last].into_iter().flatten().collect())
}

/// The name of an image that does not say itself what backs it.
pub fn with_backing(format: &str, file: &Node, backing: &Node) -> String {
    let options = [
        ("backing".to_owned(), described(backing)),
        ("driver".to_owned(), Value::from(format)),
        ("file".to_owned(), described(file)),
    ];
    of_options(&options.into_iter().collect())
}

/// The name of an image from what backs it now: the file's, unless the image says that something else
/// backs it.
pub fn with_what_backs(node: &Node) -> String {
    let Some(file) = node.child(Role::File) else { return node.filename() };
    let driver = node.driver();
    let said = driver.backing_name().map(|(name, _)| full_backing_name(&node.location(), &name));
    match (said, node.child(Role::Backing)) {
        (None, None) => of_layer(driver.name(), &file, &Options::default()),
        (Some(said), Some(backing)) if said == backing.filename() => {
            of_layer(driver.name(), &file, &Options::default())
        }
        (_, Some(backing)) => with_backing(driver.name(), &file, &backing),
        (Some(_), None) => {
            let options = [
                ("backing".to_owned(), Value::Null),
                ("driver".to_owned(), Value::from(driver.name())),
                ("file".to_owned(), described(&file)),
            ];
            of_options(&options.into_iter().collect())
        }
    }
}

/// The options by which a node could be opened again.
pub fn described(node: &Node) -> Value {
    if let Some(known) = json_of(&node.filename()) {
        return known;
    }
    let driver = node.driver().name();
    match node.child(Role::File) {
        Some(file) if !PROTOCOLS.contains(&driver) => {
            json!({"driver": driver, "file": described(&file)})
        }
        _ => json!({"driver": driver, "filename": node.filename()}),
    }
}
