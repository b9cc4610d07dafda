//! What `-blockdev` and `blockdev-add` take: the keys of each driver and the types of their values.
//!
//! From here come the checks of both forms, JSON and `key=value`, in QEMU's words, and what
//! `query-qmp-schema` tells of them.

use base::options::number::parse_int;
use serde_json::{Map, Value};

use crate::blkdebug;
use crate::format::driver_names;
use crate::{Error, Result};

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Text.
    Text,
    /// A switch.
    Bool,
    /// A number.
    Int,
    /// A number of bytes.
    Size,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A node: its name, or its options.
    Node,
    /// A node, or none.
    NodeOrNull,
    /// Several values.
    Object(&'static [Key]),
    /// A list of groups of values.
    Objects(&'static [Key]),
    /// A list of nodes.
    Nodes,
    /// A list of these words.
    Words(&'static [&'static str]),
    /// Several values, or one of these words.
    WordOrObject(&'static [&'static str], &'static [Key]),
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// Whether it may be left out.
    pub optional: bool,
}

const fn opt(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, optional: true }
}

const fn must(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, optional: false }
}

/// The keys of all nodes, besides `driver`.
pub const COMMON: &[Key] = &[
    opt("node-name", Kind::Text),
    opt("discard", Kind::Word(&["ignore", "unmap"])),
    opt("cache", Kind::Object(&[opt("direct", Kind::Bool), opt("no-flush", Kind::Bool)])),
    opt("read-only", Kind::Bool),
    opt("auto-read-only", Kind::Bool),
    opt("force-share", Kind::Bool),
    opt("detect-zeroes", Kind::Word(&["off", "on", "unmap"])),
];

const FILE: &[Key] = &[
    must("filename", Kind::Text),
    opt("pr-manager", Kind::Text),
    opt("locking", Kind::Word(&["auto", "on", "off"])),
    opt("aio", Kind::Word(&["threads", "native", "io_uring"])),
    opt("aio-max-batch", Kind::Int),
    opt("drop-cache", Kind::Bool),
    opt("x-check-cache-dropped", Kind::Bool),
];
const NULL: &[Key] =
    &[opt("size", Kind::Int), opt("latency-ns", Kind::Int), opt("read-zeroes", Kind::Bool)];
const OVER_FILE: &[Key] = &[must("file", Kind::Node)];
const OVER_BACKING: &[Key] = &[must("file", Kind::Node), opt("backing", Kind::NodeOrNull)];
const OVERLAP_FLAGS: &[Key] = &[
    opt("template", Kind::Word(OVERLAP_MODES)),
    opt("main-header", Kind::Bool),
    opt("active-l1", Kind::Bool),
    opt("active-l2", Kind::Bool),
    opt("refcount-table", Kind::Bool),
    opt("refcount-block", Kind::Bool),
    opt("snapshot-table", Kind::Bool),
    opt("inactive-l1", Kind::Bool),
    opt("inactive-l2", Kind::Bool),
    opt("bitmap-directory", Kind::Bool),
];
const OVERLAP_MODES: &[&str] = &["none", "constant", "cached", "all"];
const QCOW2: &[Key] = &[
    must("file", Kind::Node),
    opt("backing", Kind::NodeOrNull),
    opt("lazy-refcounts", Kind::Bool),
    opt("pass-discard-request", Kind::Bool),
    opt("pass-discard-snapshot", Kind::Bool),
    opt("pass-discard-other", Kind::Bool),
    opt("discard-no-unref", Kind::Bool),
    opt("overlap-check", Kind::WordOrObject(OVERLAP_MODES, OVERLAP_FLAGS)),
    opt("cache-size", Kind::Int),
    opt("l2-cache-size", Kind::Int),
    opt("l2-cache-entry-size", Kind::Int),
    opt("refcount-cache-size", Kind::Int),
    opt("cache-clean-interval", Kind::Int),
    opt(
        "encrypt",
        Kind::Object(&[
            must("format", Kind::Word(&["aes", "luks"])),
            opt("key-secret", Kind::Text),
        ]),
    ),
    opt("data-file", Kind::Node),
];

const BLKDEBUG: &[Key] = &[
    must("image", Kind::Node),
    opt("config", Kind::Text),
    opt("align", Kind::Int),
    opt("max-transfer", Kind::Int),
    opt("opt-write-zero", Kind::Int),
    opt("max-write-zero", Kind::Int),
    opt("opt-discard", Kind::Int),
    opt("max-discard", Kind::Int),
    opt(
        "inject-error",
        Kind::Objects(&[
            must("event", BLKDEBUG_EVENT),
            opt("state", Kind::Int),
            opt("iotype", Kind::Word(&blkdebug::KINDS)),
            opt("errno", Kind::Int),
            opt("sector", Kind::Int),
            opt("once", Kind::Bool),
            opt("immediately", Kind::Bool),
        ]),
    ),
    opt(
        "set-state",
        Kind::Objects(&[
            must("event", BLKDEBUG_EVENT),
            opt("state", Kind::Int),
            must("new_state", Kind::Int),
        ]),
    ),
    opt("take-child-perms", Kind::Words(PERMISSIONS)),
    opt("unshare-child-perms", Kind::Words(PERMISSIONS)),
];
const BLKDEBUG_EVENT: Kind = Kind::Word(&blkdebug::EVENTS);
const PERMISSIONS: &[&str] = &["consistent-read", "write", "write-unchanged", "resize"];

/// The keys of every driver that may be there.
const DRIVERS: &[(&str, &[Key])] = &[
    ("blkdebug", BLKDEBUG),
    ("blkverify", &[must("test", Kind::Node), must("raw", Kind::Node)]),
    ("copy-on-read", &[must("file", Kind::Node), opt("bottom", Kind::Text)]),
    ("file", FILE),
    ("host_cdrom", FILE),
    ("host_device", FILE),
    ("luks", &[must("file", Kind::Node), opt("key-secret", Kind::Text), opt("header", Kind::Node)]),
    ("null-aio", NULL),
    ("null-co", NULL),
    ("parallels", OVER_FILE),
    (
        "preallocate",
        &[
            must("file", Kind::Node),
            opt("prealloc-align", Kind::Int),
            opt("prealloc-size", Kind::Int),
        ],
    ),
    (
        "qcow",
        &[
            must("file", Kind::Node),
            opt("backing", Kind::NodeOrNull),
            opt(
                "encrypt",
                Kind::Object(&[
                    must("format", Kind::Word(&["aes"])),
                    opt("key-secret", Kind::Text),
                ]),
            ),
        ],
    ),
    ("qcow2", QCOW2),
    ("qed", OVER_BACKING),
    ("raw", &[must("file", Kind::Node), opt("offset", Kind::Int), opt("size", Kind::Int)]),
    ("throttle", &[must("throttle-group", Kind::Text), must("file", Kind::Node)]),
    ("vdi", OVER_FILE),
    ("vhdx", OVER_FILE),
    ("vmdk", OVER_BACKING),
    ("vpc", OVER_FILE),
];

/// The drivers there are, and their keys.
pub fn drivers() -> Vec<(&'static str, &'static [Key])> {
    let names = driver_names();
    DRIVERS.iter().filter(|(name, _)| names.contains(name)).copied().collect()
}

const PREALLOCATION: Key = opt("preallocation", Kind::Word(&["off", "metadata", "falloc", "full"]));
const INTO: Key = must("file", Kind::Node);
const SIZE: Key = must("size", Kind::Size);
const CIPHERS: &[&str] = &[
    "aes-128",
    "aes-192",
    "aes-256",
    "des",
    "3des",
    "cast5-128",
    "serpent-128",
    "serpent-192",
    "serpent-256",
    "twofish-128",
    "twofish-192",
    "twofish-256",
    "sm4",
];
const HASHES: Kind =
    Kind::Word(&["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"]);
const CIPHER_ALG: Key = opt("cipher-alg", Kind::Word(CIPHERS));
const CIPHER_MODE: Key = opt("cipher-mode", Kind::Word(&["ecb", "cbc", "xts", "ctr"]));
const IVGEN_ALG: Key = opt("ivgen-alg", Kind::Word(&["plain", "plain64", "essiv"]));
const IVGEN_HASH_ALG: Key = opt("ivgen-hash-alg", HASHES);
const HASH_ALG: Key = opt("hash-alg", HASHES);
const ITER_TIME: Key = opt("iter-time", Kind::Int);
const KEY_SECRET: Key = opt("key-secret", Kind::Text);

/// The keys of what can be made.
pub const CREATED: &[(&str, &[Key])] = &[
    (
        "file",
        &[
            must("filename", Kind::Text),
            SIZE,
            PREALLOCATION,
            opt("nocow", Kind::Bool),
            opt("extent-size-hint", Kind::Size),
        ],
    ),
    (
        "luks",
        &[
            KEY_SECRET,
            CIPHER_ALG,
            CIPHER_MODE,
            IVGEN_ALG,
            IVGEN_HASH_ALG,
            HASH_ALG,
            ITER_TIME,
            INTO,
            SIZE,
            PREALLOCATION,
        ],
    ),
    ("parallels", &[INTO, SIZE, opt("cluster-size", Kind::Size)]),
    (
        "qcow",
        &[
            INTO,
            SIZE,
            opt("backing-file", Kind::Text),
            opt("encrypt", Kind::Object(&[must("format", Kind::Word(&["aes"])), KEY_SECRET])),
        ],
    ),
    (
        "qcow2",
        &[
            INTO,
            opt("data-file", Kind::Node),
            opt("data-file-raw", Kind::Bool),
            opt("extended-l2", Kind::Bool),
            SIZE,
            opt("version", Kind::Word(&["v2", "v3"])),
            opt("backing-file", Kind::Text),
            opt("backing-fmt", Kind::Word(FORMATS)),
            opt(
                "encrypt",
                Kind::Object(&[
                    must("format", Kind::Word(&["aes", "luks"])),
                    KEY_SECRET,
                    CIPHER_ALG,
                    CIPHER_MODE,
                    IVGEN_ALG,
                    IVGEN_HASH_ALG,
                    HASH_ALG,
                    ITER_TIME,
                ]),
            ),
            opt("cluster-size", Kind::Size),
            PREALLOCATION,
            opt("lazy-refcounts", Kind::Bool),
            opt("refcount-bits", Kind::Int),
            opt("compression-type", Kind::Word(&["zlib", "zstd"])),
        ],
    ),
    ("vdi", &[INTO, SIZE, PREALLOCATION]),
    (
        "vhdx",
        &[
            INTO,
            SIZE,
            opt("log-size", Kind::Size),
            opt("block-size", Kind::Size),
            opt("subformat", Kind::Word(&["dynamic", "fixed"])),
            opt("block-state-zero", Kind::Bool),
        ],
    ),
    (
        "vmdk",
        &[
            INTO,
            SIZE,
            opt("extents", Kind::Nodes),
            opt(
                "subformat",
                Kind::Word(&[
                    "monolithicSparse",
                    "monolithicFlat",
                    "twoGbMaxExtentSparse",
                    "twoGbMaxExtentFlat",
                    "streamOptimized",
                ]),
            ),
            opt("backing-file", Kind::Text),
            opt("adapter-type", Kind::Word(&["ide", "buslogic", "lsilogic", "legacyESX"])),
            opt("hwversion", Kind::Text),
            opt("toolsversion", Kind::Text),
            opt("zeroed-grain", Kind::Bool),
        ],
    ),
    (
        "vpc",
        &[
            INTO,
            SIZE,
            opt("subformat", Kind::Word(&["dynamic", "fixed"])),
            opt("force-size", Kind::Bool),
        ],
    ),
];

/// What a backing file may be.
const FORMATS: &[&str] = &[
    "file",
    "host_device",
    "luks",
    "null-co",
    "parallels",
    "qcow",
    "qcow2",
    "qed",
    "raw",
    "vdi",
    "vhdx",
    "vmdk",
    "vpc",
];

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With the types of JSON.
    Json,
    /// As text.
    Keyval,
}

/// Checks a node's options. Text becomes what it stands for.
pub fn check(options: &mut Map<String, Value>, form: Form) -> Result<()> {
    check_below(options, form, "")
}

/// The same for options that are a part of something else; `prefix` is how messages begin to name them.
pub fn check_below(options: &mut Map<String, Value>, form: Form, prefix: &str) -> Result<()> {
    Checker(form).node(options, prefix)
}

/// Checks what is said of an image that is to be made. `name` is what messages call that.
pub fn check_creation(options: &mut Map<String, Value>, name: &str) -> Result<()> {
    let (path, prefix) = (format!("{name}.driver"), format!("{name}."));
    let checker = Checker(Form::Json);
    let driver = match options.get("driver").ok_or_else(|| missing(&path))? {
        Value::String(driver) => driver.clone(),
        other => return Err(checker.expected(&path, "string", "string", other)),
    };
    match CREATED.iter().find(|(name, _)| *name == driver) {
        Some((_, keys)) => checker.members(options, &prefix, &[keys], &["driver"]),
        None if driver_names().contains(&driver.as_str()) => {
            checker.members(options, &prefix, &[], &["driver"])?;
            Err(Error::unsupported("Driver does not support blockdev-create"))
        }
        None => Err(not_accepted("driver", &driver)),
    }
}

struct Checker(Form);

fn missing(path: &str) -> Error {
    Error::invalid(format!("Parameter '{path}' is missing"))
}

fn not_accepted(name: &str, value: &str) -> Error {
    Error::invalid(format!("Parameter '{name}' does not accept value '{value}'"))
}

impl Checker {
    fn node(&self, options: &mut Map<String, Value>, prefix: &str) -> Result<()> {
        let path = format!("{prefix}driver");
        let driver = match options.get("driver").ok_or_else(|| missing(&path))? {
            Value::String(driver) => driver.clone(),
            other => return Err(self.expected(&path, "string", "string", other)),
        };
        let drivers = drivers();
        let own = drivers.iter().find(|(name, _)| *name == driver);
        let (_, own) = own.ok_or_else(|| not_accepted("driver", &driver))?;
        self.members(options, prefix, &[COMMON, own], &["driver"])
    }

    fn members(
        &self,
        options: &mut Map<String, Value>,
        prefix: &str,
        tables: &[&[Key]],
        besides: &[&str],
    ) -> Result<()> {
        for key in tables.iter().copied().flatten() {
            let path = format!("{prefix}{}", key.name);
            match options.get_mut(key.name) {
                Some(value) => self.value(value, &path, key)?,
                None if key.optional => {}
                None => return Err(missing(&path)),
            }
        }
        let known = |name: &str| {
            besides.contains(&name) || tables.iter().copied().flatten().any(|key| key.name == name)
        };
        match options.keys().find(|name| !known(name)) {
            Some(name) => Err(Error::invalid(format!("Parameter '{prefix}{name}' is unexpected"))),
            None => Ok(()),
        }
    }

    fn expected(&self, path: &str, json: &str, text: &str, value: &Value) -> Error {
        Error::invalid(match (self.0, value) {
            (Form::Keyval, Value::String(_)) => format!("Parameter '{path}' expects {text}"),
            (Form::Keyval, _) => format!("Parameters '{path}.*' are unexpected"),
            (Form::Json, _) => format!("Invalid parameter type for '{path}', expected: {json}"),
        })
    }

    fn value(&self, value: &mut Value, path: &str, key: &Key) -> Result<()> {
        let text = self.0 == Form::Keyval;
        if text && let Some(meant) = meaning(key.kind, value) {
            *value = meant;
            return Ok(());
        }
        match (key.kind, value) {
            (Kind::Text, Value::String(_)) => Ok(()),
            (Kind::Text, other) => Err(self.expected(path, "string", "string", other)),
            (Kind::Bool, Value::Bool(_)) if !text => Ok(()),
            (Kind::Bool, other) => Err(self.expected(path, "boolean", "'on' or 'off'", other)),
            (Kind::Int, Value::Number(number)) if !text && (number.is_i64() || number.is_u64()) => {
                Ok(())
            }
            (Kind::Size, Value::Number(number)) if number.is_i64() || number.is_u64() => Ok(()),
            (Kind::Size, _) => Err(Error::invalid(format!("Parameter '{path}' expects uint64"))),
            (Kind::Int, other) => Err(self.expected(path, "integer", "integer", other)),
            (Kind::Word(words) | Kind::WordOrObject(words, _), Value::String(word)) => {
                match words.contains(&word.as_str()) {
                    true => Ok(()),
                    false => Err(not_accepted(key.name, word)),
                }
            }
            (Kind::Word(_), other) => Err(self.expected(path, "string", "string", other)),
            (Kind::Node | Kind::NodeOrNull, Value::String(_)) => Ok(()),
            (Kind::NodeOrNull, Value::Null) => Ok(()),
            (Kind::Node | Kind::NodeOrNull, Value::Object(options)) => {
                self.node(options, &format!("{path}."))
            }
            (Kind::Object(keys) | Kind::WordOrObject(_, keys), Value::Object(members)) => {
                self.members(members, &format!("{path}."), &[keys], &[])
            }
            (Kind::Objects(keys), Value::Array(groups)) => {
                for (index, group) in groups.iter_mut().enumerate() {
                    let path = format!("{path}[{index}]");
                    match group {
                        Value::Object(members) => {
                            self.members(members, &format!("{path}."), &[keys], &[])?;
                        }
                        other => return Err(self.expected(&path, "object", "object", other)),
                    }
                }
                Ok(())
            }
            (Kind::Words(words), Value::Array(list)) => {
                for (index, word) in list.iter_mut().enumerate() {
                    let key = Key { kind: Kind::Word(words), ..*key };
                    self.value(word, &format!("{path}[{index}]"), &key)?;
                }
                Ok(())
            }
            (Kind::Nodes, Value::Array(list)) => {
                for (index, node) in list.iter_mut().enumerate() {
                    let key = Key { kind: Kind::Node, ..*key };
                    self.value(node, &format!("{path}[{index}]"), &key)?;
                }
                Ok(())
            }
            (Kind::Objects(_) | Kind::Words(_) | Kind::Nodes, other) => {
                Err(self.expected(path, "array", "array", other))
            }
            (Kind::Object(_), other) => Err(self.expected(path, "object", "object", other)),
            (kind, _) => {
                let name = match kind {
                    Kind::WordOrObject(..) => "Qcow2OverlapChecks",
                    Kind::NodeOrNull => "BlockdevRefOrNull",
                    _ => "BlockdevRef",
                };
                let text = format!("Invalid parameter type for '{path}', expected: {name}");
                Err(Error::invalid(text))
            }
        }
    }
}

/// What a text stands for that is a number, or says whether.
fn meaning(kind: Kind, value: &Value) -> Option<Value> {
    match (kind, value.as_str()?) {
        (Kind::Bool, "on" | "yes" | "true" | "y") => Some(Value::Bool(true)),
        (Kind::Bool, "off" | "no" | "false" | "n") => Some(Value::Bool(false)),
        (Kind::Int, number) => {
            let number = parse_int(number)?;
            i64::try_from(number).map(Value::from).or(u64::try_from(number).map(Value::from)).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use base::options::Keyval;
    use serde_json::json;

    use super::*;

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn faults_are_qemus() {
        let fault = |value: Value| {
            let Value::Object(mut options) = value else { unreachable!() };
            check(&mut options, Form::Json).map_err(|error| error.to_string())
        };
        assert_eq!(fault(json!({"driver": "raw", "file": "f"})), Ok(()));
        for (options, refusal) in [
            (json!({"node-name": "n"}), "Parameter 'driver' is missing"),
            (json!({"driver": "raw"}), "Parameter 'file' is missing"),
            (json!({"driver": "foo"}), "Parameter 'driver' does not accept value 'foo'"),
            (
                json!({"driver": "raw", "file": {"driver": "file", "filename": "x", "foo": 1}}),
                "Parameter 'file.foo' is unexpected",
            ),
            (
                json!({"driver": "raw", "file": {"driver": "file", "filename": 3}}),
                "Invalid parameter type for 'file.filename', expected: string",
            ),
            (
                json!({"driver": "raw", "file": "f", "offset": "x"}),
                "Invalid parameter type for 'offset', expected: integer",
            ),
        ] {
            assert_eq!(fault(options), Err(refusal.into()));
        }
    }

    #[test]
    fn text_stands_for_all_types() {
        for (text, refusal) in [
            ("driver=null-co,size=3,read-zeroes=on,cache.direct=off", ""),
            ("driver=null-co,size=3G", "Parameter 'size' expects integer"),
            ("driver=null-co,cache.direct=maybe", "Parameter 'cache.direct' expects 'on' or 'off'"),
            ("driver=null-co,discard=x", "Parameter 'discard' does not accept value 'x'"),
            ("driver=throttle,file=f", "Parameter 'throttle-group' is missing"),
        ] {
            let mut tree = Keyval::parse(text, Some("driver")).unwrap().tree;
            let found = check(&mut tree, Form::Keyval).err().map(|error| error.to_string());
            assert_eq!(found.unwrap_or_default(), refusal, "{text}");
            if refusal.is_empty() {
                assert_eq!((&tree["size"], &tree["read-zeroes"]), (&json!(3), &json!(true)));
            }
        }
    }
}
