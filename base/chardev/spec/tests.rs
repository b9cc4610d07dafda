use proptest::prelude::*;

use super::*;

fn parse(options: &[(&str, &str)]) -> Result<ChardevSpec, ChardevError> {
    let owned: Vec<_> = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    ChardevSpec::from_options(&owned)
}

/// The message for `backend,id=a,...`.
fn error(backend: &str, more: &[(&str, &str)]) -> String {
    let mut options = vec![("backend", backend), ("id", "a")];
    options.extend(more);
    parse(&options).unwrap_err().to_string()
}

#[test]
fn mistakes_are_named_as_tools_expect() {
    assert_eq!(error("foo", &[]), "'foo' is not a valid char driver name");
    assert_eq!(error("null", &[("foo", "bar")]), "Invalid parameter 'foo'");
    assert_eq!(error("null", &[("mux", "maybe")]), "Parameter 'mux' expects 'on' or 'off'");
    assert_eq!(error("file", &[]), "chardev: file: no filename given");
    assert_eq!(error("pipe", &[]), "chardev: pipe: no device path given");
    assert_eq!(error("serial", &[]), "chardev: serial/tty: no device path given");
    assert_eq!(error("mux", &[]), "chardev: mux: no chardev given");
    assert_eq!(error("udp", &[]), "chardev: udp: remote port not specified");
    assert_eq!(error("socket", &[]), "Unable to parse FD number ");
    assert_eq!(error("socket", &[("host", "h")]), "chardev: socket: no port given");
    assert_eq!(
        error("socket", &[("host", "h"), ("path", "p")]),
        "None or one of 'path', 'fd' or 'host' option required."
    );
    let path = ("path", "p");
    assert_eq!(
        error("socket", &[path, ("wait", "on")]),
        "'wait' option is incompatible with socket in client connect mode"
    );
    assert_eq!(
        error("socket", &[path, ("server", "on"), ("reconnect", "0")]),
        "'reconnect' option is incompatible with socket in server listen mode"
    );
    assert_eq!(
        error("socket", &[path, ("reconnect", "1"), ("reconnect-ms", "1")]),
        "'reconnect' and 'reconnect-ms' are mutually exclusive"
    );
    assert_eq!(error("socket", &[path, ("to", "x")]), "Parameter 'to' expects a number");
    assert_eq!(error("socket", &[path, ("tls-creds", "x")]), "No TLS credentials with id 'x'");
    assert!(error("ringbuf", &[("size", "x")]).starts_with("Parameter 'size' expects a non-neg"));
    assert_eq!(parse(&[("backend", "null")]).unwrap_err().to_string(), "chardev: no id specified");
    assert_eq!(parse(&[("id", "a")]).unwrap_err().to_string(), "chardev: \"a\" missing backend");
    assert!(
        parse(&[("backend", "null"), ("id", "3a")])
            .unwrap_err()
            .to_string()
            .starts_with("Parameter 'id' expects an identifier\nIdentifiers consist")
    );
}

#[test]
fn options_become_types() {
    let spec = parse(&[
        ("backend", "socket"),
        ("id", "s"),
        ("host", "h"),
        ("port", "1"),
        ("server", "on"),
        ("ipv4", "on"),
        ("to", "9"),
        ("mux", "on"),
        ("logfile", "l"),
    ])
    .unwrap();
    assert!(spec.mux && !spec.logappend);
    assert_eq!(spec.logfile.as_deref(), Some("l"));
    let BackendSpec::Socket(socket) = spec.backend else { panic!("not a socket") };
    assert!(socket.server && socket.wait && !socket.telnet);
    let address =
        SocketAddress::Inet { host: "h".into(), port: "1".into(), to: Some(9), family: Family::V4 };
    assert_eq!(socket.address, address);
    let ring = parse(&[("backend", "memory"), ("id", "r"), ("size", "64k")]).unwrap();
    assert_eq!(ring.backend, BackendSpec::Ringbuf { size: Some(65_536) });
}

#[test]
fn the_table_is_sorted() {
    assert!(OPTIONS.is_sorted_by_key(|(name, _)| name));
    assert!(BACKENDS.is_sorted());
}

#[test]
fn every_back_end_that_is_listed_is_known() {
    for backend in BACKENDS {
        let result = parse(&[("backend", backend), ("id", "a")]);
        assert!(!matches!(result, Err(ChardevError::UnknownBackend(_))), "{backend}");
    }
}

proptest! {
    /// Any keys and values are taken or refused; none panics, and the order does not matter.
    #[test]
    fn any_options_are_taken_or_refused(
        backend in prop::sample::select(BACKENDS),
        options in prop::collection::btree_map(
            prop::sample::select(OPTIONS).prop_map(|(name, _)| name.to_string())
                .prop_filter("set below", |name| name != "id" && name != "backend"),
            prop_oneof!["on|off", "[0-9]{1,25}k?", "/?[a-z,=.]{0,9}", any::<String>()],
            0..6,
        )
    ) {
        let mut pairs = vec![
            ("backend".to_string(), backend.to_string()),
            ("id".to_string(), "a".to_string()),
        ];
        pairs.extend(options);
        let forward = ChardevSpec::from_options(&pairs);
        pairs.reverse();
        let backward = ChardevSpec::from_options(&pairs);
        prop_assert_eq!(forward.is_ok(), backward.is_ok());
        if let (Ok(forward), Ok(backward)) = (forward, backward) {
            prop_assert_eq!(forward, backward);
        }
    }
}
