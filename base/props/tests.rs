use super::*;
use crate::prop_enum;
use proptest::prelude::*;
use serde_json::json;

prop_enum! {
    /// As the disk controllers' error policies.
    enum OnError: "BlockdevOnError", "Error handling policy (report/ignore/enospc/stop/auto)" {
        Auto = "auto",
        Report = "report",
    }
}

#[derive(Props)]
struct PciProps {
    addr: PciAddr,
    #[prop(default = -1)]
    rombar: i32,
    romfile: String,
    #[prop(
        name = "x-max-bounce-buffer-size",
        default = Size(4096),
        help = "Maximum buffer size allocated for bounce buffers used for mapped access to indirect DMA memory"
    )]
    bounce: Size,
}

#[derive(Props)]
struct NicProps {
    #[prop(flatten)]
    pci: PciProps,
    mac: MacAddr,
    netdev: Option<NetdevId>,
    bootindex: Option<i32>,
    #[prop(default = true)]
    extra_mac_registers: bool,
    rerror: OnError,
    #[prop(default = 256)]
    queue_size: u16,
    vram: u64,
    events: u8,
    legacy: OnOffAuto,
    guid: UuidOrAuto,
    nodes: Vec<u16>,
}

fn set_text(name: &str, text: &str) -> Result<Value, String> {
    let mut props = NicProps::default();
    props.set("nic", name, PropInput::Text(text)).map_err(|error| error.to_string())?;
    Ok(props.get(name).unwrap())
}

fn set_json(name: &str, value: Value) -> Result<Value, String> {
    let mut props = NicProps::default();
    props.set("nic", name, PropInput::Json(&value)).map_err(|error| error.to_string())?;
    Ok(props.get(name).unwrap())
}

/// Texts recorded from QEMU 10.0.2 (`-device e1000`, `qxl`, `pvpanic`, `virtio-blk-pci`, `vmgenid`).
#[test]
fn text_values_and_errors() {
    let good = [
        ("rombar", "1", json!(1)),
        ("rombar", "-0x10", json!(-16)),
        ("rombar", " +010", json!(8)),
        ("vram", "-1", json!(u64::MAX)),
        ("x-max-bounce-buffer-size", "1.5k", json!(1536)),
        ("x-max-bounce-buffer-size", "0x1000", json!(4096)),
        ("x-max-bounce-buffer-size", "1B", json!(1)),
        ("extra_mac_registers", "no", json!(false)),
        ("extra_mac_registers", "y", json!(true)),
        ("addr", "1f.7", json!("1f.7")),
        ("addr", "0x3", json!("03.0")),
        ("mac", "52-54-00-12-34-56", json!("52:54:00:12:34:56")),
        ("legacy", "on", json!("on")),
        (
            "guid",
            "324E6EAF-D1D1-4BF6-BF41-B9BB6C91FB87",
            json!("324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"),
        ),
        ("netdev", "n0", json!("n0")),
    ];
    for (name, text, value) in good {
        assert_eq!(set_text(name, text), Ok(value), "{name}={text}");
    }

    let bad = [
        ("bar", "1", "Property 'nic.bar' not found"),
        ("rombar", "x", "Parameter 'rombar' expects integer"),
        ("rombar", "", "Parameter 'rombar' expects integer"),
        ("rombar", "0x", "Parameter 'rombar' expects integer"),
        ("rombar", "1k", "Parameter 'rombar' expects integer"),
        ("rombar", "- 1", "Parameter 'rombar' expects integer"),
        ("rombar", "2147483648", "Parameter 'rombar' expects int32_t"),
        ("rombar", "9223372036854775808", "Parameter 'rombar' expects integer"),
        ("queue_size", "70000", "Parameter 'queue_size' expects uint16_t"),
        ("queue_size", "-1", "Parameter 'queue_size' expects uint16_t"),
        ("events", "256", "Parameter 'events' expects uint8_t"),
        ("vram", "18446744073709551616", "Parameter 'vram' expects integer"),
        ("x-max-bounce-buffer-size", "1kk", "Parameter 'x-max-bounce-buffer-size' expects size"),
        ("x-max-bounce-buffer-size", "1.5", "Parameter 'x-max-bounce-buffer-size' expects size"),
        ("x-max-bounce-buffer-size", "0x1k", "Parameter 'x-max-bounce-buffer-size' expects size"),
        ("x-max-bounce-buffer-size", "-1", "Parameter 'x-max-bounce-buffer-size' expects size"),
        ("x-max-bounce-buffer-size", "16E", "Parameter 'x-max-bounce-buffer-size' expects size"),
        ("extra_mac_registers", "ON", "Parameter 'extra_mac_registers' expects 'on' or 'off'"),
        ("rerror", "foo", "Parameter 'rerror' does not accept value 'foo'"),
        ("addr", "20", "Property 'nic.addr' doesn't take value '20'"),
        ("addr", "3.", "Property 'nic.addr' doesn't take value '3.'"),
        ("addr", "-1", "Property 'nic.addr' doesn't take value '-1'"),
        ("mac", "52:54:00:12:34:567", "Property 'nic.mac' doesn't take value '52:54:00:12:34:567'"),
        ("mac", "52:54:00:12:34:5é", "Property 'nic.mac' doesn't take value '52:54:00:12:34:5é'"),
        ("guid", "x", "Property 'nic.guid' doesn't take value 'x'"),
    ];
    for (name, text, message) in bad {
        assert_eq!(set_text(name, text), Err(message.into()), "{name}={text}");
    }
}

#[test]
fn json_values_and_errors() {
    let good = [
        ("addr", json!("3.1"), json!("03.1")),
        ("addr", json!(25), json!("03.1")),
        ("addr", json!(-1), json!(-1)),
        ("vram", json!(-1), json!(u64::MAX)),
        ("nodes", json!([1, 2]), json!([1, 2])),
    ];
    for (name, value, shown) in good {
        assert_eq!(set_json(name, value), Ok(shown), "{name}");
    }

    let bad = [
        (
            "extra_mac_registers",
            json!("on"),
            "Invalid parameter type for 'extra_mac_registers', expected: boolean",
        ),
        ("rombar", json!("on"), "Invalid parameter type for 'rombar', expected: integer"),
        ("rombar", json!(99_999_999_999_u64), "Parameter 'rombar' expects int32_t"),
        ("addr", json!(true), "Invalid parameter type for 'addr', expected int or str"),
        ("addr", json!(1.5), "Invalid parameter type for 'addr', expected: integer"),
        ("addr", json!(256), "Parameter 'addr' expects a value between -1 and 255"),
        ("mac", json!(5), "Invalid parameter type for 'mac', expected: string"),
        ("queue_size", json!("1"), "Parameter 'queue_size' expects uint64"),
        ("queue_size", json!(-1), "Parameter 'queue_size' expects uint16_t"),
        (
            "x-max-bounce-buffer-size",
            json!("4k"),
            "Parameter 'x-max-bounce-buffer-size' expects uint64",
        ),
        ("nodes", json!(3), "Invalid parameter type for 'nodes', expected: array"),
        ("nodes", json!(["a"]), "Parameter 'nodes[0]' expects uint64"),
    ];
    for (name, value, message) in bad {
        assert_eq!(set_json(name, value), Err(message.into()), "{name}");
    }
}

/// Texts recorded from QEMU 10.0.2's `-global`.
#[test]
fn global_values_and_errors() {
    let set = |name: &str, text: &str| {
        let mut props = NicProps::default();
        props.set("nic", name, PropInput::Global(text)).map_err(|error| error.to_string())
    };
    assert_eq!(set("rombar", "0x10"), Ok(()));
    for (name, text, message) in [
        ("rombar", "x", "Parameter 'rombar' expects int64"),
        ("bootindex", "x", "Parameter 'bootindex' expects int64"),
        ("queue_size", "1k", "Parameter 'queue_size' expects uint64"),
        ("queue_size", "-1", "Parameter 'queue_size' expects uint16_t"),
        ("rombar", "99999999999", "Parameter 'rombar' expects int32_t"),
        (
            "x-max-bounce-buffer-size",
            "x",
            "Parameter 'x-max-bounce-buffer-size' expects a non-negative number below 2^64\n\
             Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
             and exabytes, respectively.",
        ),
    ] {
        assert_eq!(set(name, text), Err(message.into()), "{name}={text}");
    }
}

#[test]
fn a_failed_set_changes_nothing() {
    let mut props = NicProps::default();
    props.set("nic", "rombar", PropInput::Text("7")).unwrap();
    props.set("nic", "rombar", PropInput::Text("x")).unwrap_err();
    assert_eq!(props.pci.rombar, 7);
}

#[test]
fn every_listed_property_can_be_read_and_set_back() {
    let defaults = NicProps::default();
    for spec in NicProps::specs() {
        let value = defaults.get(spec.name).unwrap();
        let unset = value.is_null() || value == json!("");
        let mut props = NicProps::default();
        if !unset {
            props.set("nic", spec.name, PropInput::Json(&value)).unwrap();
        }
        assert_eq!(props.get(spec.name).unwrap(), value, "{}", spec.name);
    }
}

/// The lines as `-device e1000,help` and its kin print them.
#[test]
fn listing() {
    let text = help_text("nic", NicProps::specs());
    let expected = "\
nic options:
  addr=<str>             - Slot and optional function number, example: 06.0 or 06 (default: -1)
  bootindex=<int32>
  events=<uint8>         -  (default: 0)
  extra_mac_registers=<bool> - on/off (default: on)
  guid=<str>             - UUID (aka GUID) or \"auto\" for random value (default) (default: auto)
  legacy=<OnOffAuto>     - on/off/auto (default: auto)
  mac=<str>              - Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56
  netdev=<str>           - ID of a netdev to use as a backend
  nodes=<list>           -  (default: [])
  queue_size=<uint16>    -  (default: 256)
  rerror=<BlockdevOnError> - Error handling policy (report/ignore/enospc/stop/auto) (default: auto)
  rombar=<int32>         -  (default: -1)
  romfile=<str>
  vram=<uint64>          -  (default: 0)
  x-max-bounce-buffer-size=<size> - Maximum buffer size allocated for bounce buffers used for mapped access to indirect DMA memory (default: 4096)
";
    assert_eq!(text, expected);
}

proptest! {
    /// Whatever is typed, the answer is a value or an error.
    #[test]
    fn no_input_panics(index in 0..15_usize, text in ".*") {
        let specs = NicProps::specs();
        let spec = &specs[index % specs.len()];
        let _ = set_text(spec.name, &text);
        let _ = set_json(spec.name, Value::from(text));
    }

    #[test]
    fn mac_and_uuid_read_back(mac: [u8; 6], uuid: [u8; 16]) {
        let mac = MacAddr(mac).to_string();
        prop_assert_eq!(set_text("mac", &mac), Ok(json!(mac)));
        prop_assert_eq!(Uuid::parse(&Uuid(uuid).to_string()), Some(Uuid(uuid)));
    }
}
