use proptest::prelude::*;

use super::super::BackendSpec;
use super::super::{SocketAddress, SocketSpec, VcSize};
use super::*;

fn new(text: &str) -> ChardevSpec {
    match Legacy::parse("serial0", text) {
        Ok(Legacy::New(spec)) => spec,
        other => panic!("{text}: {other:?}"),
    }
}

fn socket(text: &str) -> SocketSpec {
    match new(text).backend {
        BackendSpec::Socket(socket) => socket,
        other => panic!("{text}: {other:?}"),
    }
}

fn error(text: &str) -> Option<String> {
    Legacy::parse("serial0", text).unwrap_err().map(|error| error.to_string())
}

#[test]
fn forms_without_a_back_end_of_their_own() {
    assert_eq!(Legacy::parse("x", "none").unwrap(), Legacy::None);
    assert_eq!(Legacy::parse("x", "chardev:c0").unwrap(), Legacy::Existing("c0".into()));
    let Ok(Legacy::WithMonitor(spec)) = Legacy::parse("serial0", "mon:stdio") else {
        panic!("mon:stdio has a monitor");
    };
    assert!(spec.mux);
    assert_eq!(spec.id, "serial0");
    assert_eq!(spec.backend, BackendSpec::Stdio { signal: false });
}

#[test]
fn simple_forms() {
    assert_eq!(new("stdio").backend, BackendSpec::Stdio { signal: true });
    assert_eq!(new("null").backend, BackendSpec::Null);
    assert_eq!(new("pty").backend, BackendSpec::Pty { path: None });
    let size = VcSize { columns: Some(80), rows: Some(24) };
    assert_eq!(new("vc:80Cx24C").backend, BackendSpec::Vc(size));
    assert_eq!(new("vc:640x384").backend, BackendSpec::Vc(size));
    assert_eq!(new("vc").backend, BackendSpec::Vc(VcSize::default()));
    assert_eq!(new("/dev/ttyS9").backend, BackendSpec::Serial { path: "/dev/ttyS9".into() });
    let file = BackendSpec::File { path: "/a,b=c".into(), append: false, input_path: None };
    assert_eq!(new("file:/a,b=c").backend, file, "a comma belongs to the path");
}

#[test]
fn sockets() {
    let unix = socket("unix:/a,,b,server,nowait");
    assert!(unix.server && !unix.wait);
    assert_eq!(
        unix.address,
        SocketAddress::Unix { path: "/a,b".into(), abstract_name: false, tight: true }
    );
    let tcp = socket("tcp::4444,server=on,wait=off,nodelay");
    assert!(tcp.server && !tcp.wait && tcp.nodelay && !tcp.telnet);
    let telnet = socket("telnet:[::1]:23,server");
    assert!(telnet.telnet && telnet.wait);
    assert!(
        matches!(telnet.address, SocketAddress::Inet { host, port, .. } if host == "::1" && port == "23")
    );
    let BackendSpec::Udp(udp) = new("udp::4555@:4556").backend else { panic!("not udp") };
    assert_eq!((&*udp.host, &*udp.port), ("localhost", "4555"));
    assert_eq!((udp.local_host, udp.local_port.as_deref()), (None, Some("4556")));
}

#[test]
fn mistakes_are_named_or_left_to_the_caller() {
    for (text, name) in
        [("foo", "foo"), ("mon:", ""), ("null:", "null:"), ("stdio,id=x", "stdio,id=x")]
    {
        assert_eq!(error(text), Some(format!("'{name}' is not a valid char driver")));
    }
    assert_eq!(error("unix:"), Some("Unable to parse FD number ".into()));
    assert_eq!(error("tcp:a:b,serverx"), Some("Invalid parameter 'serverx'".into()));
    for text in
        ["tcp:foo", "tcp:h:", "telnet:", "udp:999", "udp:1.2.3.4:", "udp:h:1@h", "vc:", "vc:foo"]
    {
        assert_eq!(error(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Legacy::parse("x", &text);
    }

    #[test]
    fn no_address_panics(
        kind in prop::sample::select(&["tcp", "udp", "unix", "telnet", "vc", "mon:unix"]),
        rest in "[a-z0-9:@,=\\[\\]x]{0,24}",
    ) {
        let _ = Legacy::parse("x", &format!("{kind}:{rest}"));
    }

    /// Whatever the path, doubling its commas gets it through.
    #[test]
    fn any_unix_path_can_be_given(path in "[a-z/,=]{1,20}") {
        let text = format!("unix:{},server,nowait", path.replace(',', ",,"));
        let expected = SocketAddress::Unix { path, abstract_name: false, tight: true };
        prop_assert_eq!(socket(&text).address, expected);
    }

    #[test]
    fn host_and_port_are_told_apart(host in "[a-z.0-9]{0,12}", port in "[0-9]{1,5}", wait in any::<bool>()) {
        let text = format!("tcp:{host}:{port},server=on,wait={}", if wait { "on" } else { "off" });
        let tcp = socket(&text);
        prop_assert_eq!(tcp.wait, wait);
        let is_expected = matches!(
            &tcp.address,
            SocketAddress::Inet { host: h, port: p, .. } if *h == host && *p == port
        );
        prop_assert!(is_expected);
    }
}
