use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::config::{ConfigError, ConfigSection, GlobalProp, SetOption, parse_config};
use super::number::{SizeError, parse_int, parse_size};
use super::*;

const CHARDEV: OptGroup = OptGroup {
    name: "chardev",
    implied: Some("backend"),
    keys: &[
        OptDesc::new("backend", OptType::String),
        OptDesc::new("path", OptType::String),
        OptDesc::new("nodelay", OptType::Bool),
        OptDesc::new("delay", OptType::Bool),
        OptDesc::new("mux", OptType::Bool),
        OptDesc::new("cols", OptType::Number),
        OptDesc::new("size", OptType::Size),
    ],
};

fn entries(opts: &Opts) -> Vec<(&str, &str)> {
    opts.entries.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[test]
fn a_flat_list() {
    let parsed = CHARDEV.parse("file,id=c0,path=a,,b,,,mux=on").unwrap();
    assert_eq!(parsed.opts.id.as_deref(), Some("c0"));
    assert_eq!(entries(&parsed.opts), [("backend", "file"), ("path", "a,b,"), ("mux", "on")]);
    assert!(!parsed.help && parsed.short_forms.is_empty());

    let parsed = CHARDEV.parse("nu,,ll,nodelay,nomux,mux,").unwrap();
    let expected = [("backend", "nu,ll"), ("nodelay", "on"), ("mux", "off"), ("mux", "on")];
    assert_eq!(entries(&parsed.opts), expected);
    assert_eq!(parsed.opts.get("mux"), Some("on"));
    let warnings: Vec<String> = parsed.short_forms.iter().map(ShortForm::to_string).collect();
    assert_eq!(
        warnings[1],
        "short-form boolean option 'nomux' deprecated\nPlease use mux=off instead"
    );

    let help = CHARDEV.parse("help").unwrap();
    assert!(!help.help && help.opts.get("backend").is_some_and(is_help));
    assert!(CHARDEV.parse("null,?").unwrap().help);
    assert!(!CHARDEV.parse("null,path=help").unwrap().help);
}

/// Texts recorded from QEMU 10.0.2's `-chardev`.
#[test]
fn errors_of_a_flat_list() {
    let size = "Parameter 'size' expects a non-negative number below 2^64\n\
        Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
        and exabytes, respectively.";
    let id = "Parameter 'id' expects an identifier\n\
        Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.";
    for (text, message) in [
        ("null,id=a,foo=b", "Invalid parameter 'foo'"),
        ("null,id=a,nofoo", "Invalid parameter 'foo'"),
        ("=x", "Invalid parameter ''"),
        ("null,id=1a", id),
        ("null,id=", id),
        ("null,id=a,,b", id),
        ("null,mux=maybe", "Parameter 'mux' expects 'on' or 'off'"),
        ("vc,cols=zz", "Parameter 'cols' expects a number"),
        ("vc,cols=", "Parameter 'cols' expects a number"),
        (
            "vc,cols=99999999999999999999",
            "Value '99999999999999999999' is too large for parameter 'cols'",
        ),
        ("ringbuf,size=x", size),
        ("ringbuf,size=", size),
        ("ringbuf,size=1.5", size),
        ("ringbuf,size=-1", "Value '-1' is out of range for parameter 'size'"),
        ("ringbuf,size=4096E", "Value '4096E' is out of range for parameter 'size'"),
    ] {
        assert_eq!(
            CHARDEV.parse(text).map_err(|error| error.to_string()),
            Err(message.into()),
            "{text}"
        );
    }
}

#[test]
fn group_listing() {
    assert!(CHARDEV.help_text().starts_with("chardev options:\n  backend=<str>\n  cols=<num>\n"));
}

#[test]
fn sizes() {
    use SizeError::{Malformed, OutOfRange};
    for (text, value) in [
        ("4k", Ok(4096)),
        ("4K", Ok(4096)),
        ("1.5k", Ok(1536)),
        ("0.5k", Ok(512)),
        ("0x1000", Ok(4096)),
        ("+1", Ok(1)),
        ("1b", Ok(1)),
        ("15E", Ok(15 << 60)),
        ("18446744073709551615", Ok(u64::MAX)),
        ("-0", Ok(0)),
        ("18446744073709551616", Err(OutOfRange)),
        ("16E", Err(OutOfRange)),
        ("-1", Err(OutOfRange)),
        ("1.5", Err(Malformed)),
        ("1kk", Err(Malformed)),
        ("0x1k", Err(Malformed)),
        ("1e3", Err(Malformed)),
        ("1 k", Err(Malformed)),
        ("", Err(Malformed)),
    ] {
        assert_eq!(parse_size(text, 1), value, "{text}");
    }
    assert_eq!(parse_size("512", 1 << 20), Ok(512 << 20));
    assert_eq!(parse_size("512b", 1 << 20), Ok(512));
}

fn keyval(text: &str) -> Result<Value, String> {
    Keyval::parse(text, Some("type"))
        .map(|parsed| Value::Object(parsed.tree))
        .map_err(|error| error.to_string())
}

/// Texts recorded from QEMU 10.0.2's `-machine`.
#[test]
fn trees() {
    for (text, tree) in [
        ("pc", json!({"type": "pc"})),
        ("", json!({})),
        ("pc,", json!({"type": "pc"})),
        ("pc,smp.cpus=2,smp.cores=1", json!({"type": "pc", "smp": {"cpus": "2", "cores": "1"}})),
        ("a=x,,y,b=", json!({"a": "x,y", "b": ""})),
        ("l.1=b,l.0=a", json!({"l": ["a", "b"]})),
        ("l.00=a", json!({"l": ["a"]})),
        ("l.0.x=a,l.1.x.0=b", json!({"l": [{"x": "a"}, {"x": ["b"]}]})),
        ("a=1,a=2", json!({"a": "2"})),
        ("__org.x_y=1", json!({"__org.x_y": "1"})),
    ] {
        assert_eq!(keyval(text), Ok(tree), "{text}");
    }
    for (text, message) in [
        ("pc,foo", "Expected '=' after parameter 'foo'"),
        ("pc,=x", "Invalid parameter ''"),
        ("pc,,x", "Invalid parameter ''"),
        (",x=1", "Invalid parameter ''"),
        ("pc,a..b=1", "Invalid parameter 'a..b'"),
        ("pc,.a=1", "Invalid parameter '.a'"),
        ("pc,a.=1", "Invalid parameter 'a.'"),
        ("pc,a b=1", "Invalid parameter 'a b'"),
        ("pc,5x=1", "Invalid parameter '5x'"),
        ("pc,_a=1", "Invalid parameter '_a'"),
        ("pc,a.b=1,a=2", "Parameters 'a.*' used inconsistently"),
        ("pc,a=2,a.b=1", "Parameters 'a.*' used inconsistently"),
        ("pc,a.0=1,a.b=2", "Parameters 'a.*' used inconsistently"),
        ("pc,a.0=1,a.2=2", "Parameter 'a.1' missing"),
        ("pc,a.99999999999=1", "Parameter 'a.0' missing"),
    ] {
        assert_eq!(keyval(text), Err(message.into()), "{text}");
    }
    let help = Keyval::parse("pc,help", Some("type")).unwrap();
    assert!(help.help && help.tree["type"] == "pc");
    assert!(Keyval::parse("help", Some("type")).unwrap().help);
}

#[test]
fn trees_merge() {
    let mut tree = Keyval::parse("pc,smp.cpus=2,a.0=1", Some("type")).unwrap();
    tree.merge(Keyval::parse("smp.cores=2,a.0=3", Some("type")).unwrap());
    let expected = json!({"type": "pc", "smp": {"cpus": "2", "cores": "2"}, "a": ["3"]});
    assert_eq!(Value::Object(tree.tree), expected);
}

/// Texts recorded from QEMU 10.0.2's `-device` and `-object`.
#[test]
fn json_errors() {
    for (text, message) in [
        (r#"{"a":1"#, "JSON parse error, premature EOI"),
        (r#"{"a":1 "b":2}"#, "JSON parse error, expected separator in dict"),
        (r#"{"a":[1 2]}"#, "JSON parse error, expected separator in list"),
        (r#"{"a":[1,]}"#, "JSON parse error, expecting value"),
        (r#"{"a":1,}"#, "JSON parse error, expecting value"),
        (r#"{5:1}"#, "JSON parse error, key is not a string in object"),
        (r#"{"a"}"#, "JSON parse error, missing : in object pair"),
        (r#"{"a":1,"a":2}"#, "JSON parse error, duplicate key"),
        (r#"{"a":01}"#, "JSON parse error, stray '01'"),
        (r#"{"a":-01}"#, "JSON parse error, stray '-01'"),
        (r#"{"a":1.}"#, "JSON parse error, stray '1.}'"),
        (r#"{"a":1e}"#, "JSON parse error, stray '1e}'"),
        (r#"{"a":-}"#, "JSON parse error, stray '-}'"),
        (r#"{"a":+1}"#, "JSON parse error, stray '+'"),
        (r#"{"a":"x"#, "JSON parse error, stray '\"x'"),
        (r#"{"a":"\q"}"#, "JSON parse error, invalid escape sequence in string"),
        (r#"{"a":"\u12"}"#, r#"JSON parse error, \u12"} is not a valid Unicode character"#),
        (r#"{"a":"\ud800"}"#, r"JSON parse error, \ud800 is not a valid Unicode character"),
        (r#"{"a":TRUE}"#, "JSON parse error, stray 'T'"),
        (r#"{"a":tru}"#, "JSON parse error, invalid keyword 'tru'"),
        (r#"{"a":1;}"#, "JSON parse error, stray ';'"),
        (r#"{"a":1a}"#, "JSON parse error, expected separator in dict"),
        (r#"{"a":1}}"#, "Expecting at most one JSON value"),
        (r#"{]"#, "JSON parse error, expecting value"),
    ] {
        assert_eq!(
            json::parse(text).map_err(|error| error.to_string()),
            Err(message.into()),
            "{text}"
        );
    }
    let deep = "[".repeat(100_000);
    assert_eq!(json::parse(&deep), Err(json::JsonError::TooDeep));
}

#[test]
fn json_values() {
    for (text, value) in [
        (r#" {'driver':'e1000',"a":-1} "#, json!({"driver": "e1000", "a": -1})),
        (r#"['it"s', '\'', "\ud83d\ude00é"]"#, json!(["it\"s", "'", "😀é"])),
        ("[1.5e1, 18446744073709551615, true, null]", json!([15.0, u64::MAX, true, null])),
    ] {
        assert_eq!(json::parse(text), Ok(value), "{text}");
    }
}

#[test]
fn configuration_files() {
    let section = |group: &str, id: Option<&str>, entries: &[(&str, &str)], line| ConfigSection {
        group: group.into(),
        opts: Opts {
            id: id.map(Into::into),
            entries: entries.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        },
        line,
    };
    let text = "# x\n\n[device \"a\"]\n  driver = \"isa-debug-exit\" # y\n foo\n[machine]\nusb=\"on\"\ntype = pc\n";
    let expected = [
        section("device", Some("a"), &[("driver", "isa-debug-exit"), ("foo", "")], 5),
        section("machine", None, &[("usb=\"on\"", ""), ("type", "")], 8),
    ];
    assert_eq!(parse_config(text), Ok(expected.into()));
    assert_eq!(parse_config("a = \"b\""), Err(ConfigError::NoGroup));
    assert_eq!(parse_config("[device 'a']").unwrap()[0].group, "device 'a'");
    assert!(matches!(parse_config("[device \"1a\"]"), Err(ConfigError::Option(_))));
}

#[test]
fn set_and_global() {
    let set = SetOption::parse("device.a.b.c=1=2").unwrap();
    assert_eq!((set.group.as_str(), set.id.as_str()), ("device", "a"));
    assert_eq!((set.key.as_str(), set.value.as_str()), ("b.c", "1=2"));
    for text in ["", "=", "device", "device.a", "device.a.b", "chardev..a=1"] {
        assert_eq!(SetOption::parse(text), None, "{text}");
    }

    let global = |driver: &str, property: &str, value: &str| GlobalProp {
        driver: driver.into(),
        property: property.into(),
        value: value.into(),
    };
    assert_eq!(GlobalProp::parse_short("a.b=1,c=2"), Some(global("a", "b", "1,c=2")));
    for text in ["a", "a.b", ".b=1", "a.=1", "driver=a.b,property=c"] {
        assert_eq!(GlobalProp::parse_short(text), None, "{text}");
    }
    let long = |text: &str| GlobalProp::from_opts(&config::GLOBAL.parse(text).unwrap().opts);
    assert_eq!(long("driver=a,property=b,value=1"), Some(global("a", "b", "1")));
    assert_eq!(long("driver=a,property=b"), None);
}

fn print_opts(opts: &Opts) -> String {
    let id = opts.id.iter().map(|id| format!("id={id}"));
    let double = |(key, value): &(String, String)| format!("{key}={}", value.replace(',', ",,"));
    id.chain(opts.entries.iter().map(double)).collect::<Vec<_>>().join(",")
}

fn print_tree(value: &Value, path: &str, out: &mut Vec<String>) {
    let join = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(key, value)| print_tree(value, &join(key), out))
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(at, value)| print_tree(value, &join(&at.to_string()), out));
        }
        Value::String(text) => out.push(format!("{path}={}", text.replace(',', ",,"))),
        other => panic!("no such leaf: {other}"),
    }
}

/// Trees as keyval can write them: nothing empty but text.
fn tree() -> impl Strategy<Value = Value> {
    let key = "[a-z][a-z0-9_-]{0,5}";
    let node = "[a-z,=.]{0,8}".prop_map(Value::from).prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 1..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(key, node, 0..5)
        .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>()))
}

proptest! {
    #[test]
    fn printed_opts_read_back(
        id in prop::option::of("[a-z][a-z0-9._-]{0,8}"),
        entries in prop::collection::vec(("[a-hj-z][a-z0-9._-]{0,8}", "\\PC{0,12}"), 0..8),
    ) {
        let opts = Opts { id, entries };
        let parsed = ParsedOpts::parse(&print_opts(&opts), Some("driver"), |_| false).unwrap();
        prop_assert_eq!(parsed, ParsedOpts { opts, ..ParsedOpts::default() });
    }

    #[test]
    fn printed_trees_read_back(tree in tree()) {
        let mut parts = Vec::new();
        print_tree(&tree, "", &mut parts);
        let parsed = Keyval::parse(&parts.join(","), Some("type")).unwrap();
        prop_assert_eq!(Value::Object(parsed.tree), tree);
    }

    /// Against an independent reader of JSON.
    #[test]
    fn printed_json_reads_back(tree in tree(), number: i64, text: String) {
        let value = json!({"tree": tree, "number": number, "text": text, "list": [null, true, 1.5]});
        prop_assert_eq!(json::parse(&value.to_string()), Ok(value));
    }

    #[test]
    fn any_text_is_answered(text in "[a-c0-2=,.{}\\[\\]\"'\\\\ :xkKE?+-]{0,24}", other: String) {
        for text in [&text, &other] {
            let _ = ParsedOpts::parse(text, Some("driver"), |_| false);
            let _ = CHARDEV.parse(text);
            let _ = Keyval::parse(text, Some("type"));
            let _ = json::parse(text);
            let _ = parse_config(text);
            let _ = SetOption::parse(text);
            let _ = GlobalProp::parse_short(text);
            let _ = parse_int(text);
            let _ = parse_size(text, 1 << 20);
        }
    }
}
