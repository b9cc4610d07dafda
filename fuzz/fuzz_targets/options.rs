//! Arguments of options: keys and values, trees, JSON, sizes, `-readconfig` files, character
//! devices.
#![no_main]

use base::chardev::{ChardevSpec, Legacy};
use base::options::config::{GlobalProp, SetOption, parse_config};
use base::options::number::{parse_int, parse_size};
use base::options::{Keyval, OptDesc, OptGroup, OptType, ParsedOpts, json};
use libfuzzer_sys::fuzz_target;

const GROUP: OptGroup = OptGroup {
    name: "group",
    implied: Some("text"),
    keys: &[
        OptDesc::new("text", OptType::String),
        OptDesc::new("bool", OptType::Bool),
        OptDesc::new("number", OptType::Number),
        OptDesc::new("size", OptType::Size),
    ],
};

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let text = text.as_ref();
    if let Ok(parsed) = ParsedOpts::parse(text, Some("first"), |key| key == "nodelay") {
        let options: Vec<_> = parsed.opts.entries;
        // Only read, never made: it may name files.
        let _ = ChardevSpec::from_options(&options);
    }
    let _ = GROUP.parse(text);
    if let Ok(mut tree) = Keyval::parse(text, Some("type")) {
        // Laid over itself a tree stays what it is.
        let before = tree.clone();
        tree.merge(before.clone());
        assert_eq!(tree, before);
    }
    if let Ok(value) = json::parse(text) {
        let written = value.to_string();
        assert_eq!(json::parse(&written), Ok(value), "{written}");
    }
    let _ = parse_int(text);
    for unit in [1, 1 << 20] {
        let _ = parse_size(text, unit);
    }
    let _ = parse_config(text);
    let _ = SetOption::parse(text);
    let _ = GlobalProp::parse_short(text);
    let _ = Legacy::parse("serial0", text);
});
