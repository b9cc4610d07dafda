//! Networks and cards that come and go.

use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Result, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::json;
use testbed::qmp::Qmp;

use super::machine;

#[test]
fn networks_and_cards_come_and_go() -> Result<()> {
    let mut vm = machine(&["-M", "pc", "-S", "-vga", "none", "-nic", "none"])?;
    let qmp = vm.qmp();
    let network = json!({"type": "user", "id": "n"});
    qmp.execute_with("netdev_add", network.clone())?;
    let error = qmp.execute_with("netdev_add", network).unwrap_err().to_string();
    ensure!(error == "GenericError: Duplicate ID 'n'", "{error}");
    let card = json!({"driver": "virtio-net-pci", "netdev": "n", "id": "c"});
    qmp.execute_with("device_add", card)?;
    let shown = qmp.hmp("info network")?.replace('\r', "");
    ensure!(
        shown
            == "c: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\n \
                \\ n: index=0,type=user,net=10.0.2.0,restrict=off\n",
        "{shown}"
    );
    // Those without a peer stand between cards in the order in which they came.
    qmp.execute_with("netdev_add", json!({"type": "user", "id": "later"}))?;
    qmp.execute_with("device_add", json!({"driver": "rtl8139", "id": "last"}))?;
    let shown = qmp.hmp("info network")?;
    let names: Vec<_> = shown.lines().filter_map(|row| row.split(':').next()).collect();
    ensure!(names == ["c", r" \ n", "later", "last"], "{shown}");
    qmp.execute_with("netdev_del", json!({"id": "later"}))?;
    let filters = qmp.execute("query-rx-filter")?;
    ensure!(filters[0]["main-mac"] == "52:54:00:12:34:56", "{filters}");
    ensure!(filters[0]["vlan-table"][0] == 4095, "{filters}");
    qmp.execute_with("set_link", json!({"name": "c", "up": false}))?;
    for (command, arguments, words) in [
        ("query-rx-filter", json!({"name": "n"}), "GenericError: net client(n) isn't a NIC"),
        ("query-rx-filter", json!({"name": "x"}), "GenericError: invalid net client name: x"),
        ("set_link", json!({"name": "x", "up": true}), "DeviceNotFound: Device 'x' not found"),
        ("netdev_del", json!({"id": "x"}), "DeviceNotFound: Device 'x' not found"),
        (
            "netdev_add",
            json!({"type": "netmap", "id": "x", "ifname": "y"}),
            "GenericError: network backend 'netmap' is not compiled into this binary",
        ),
        (
            "netdev_add",
            json!({"type": "tap", "id": "x", "fd": "y"}),
            "GenericError: File descriptor named 'y' has not been found",
        ),
        (
            "netdev_add",
            json!({"type": "user", "id": "x", "guestfwd": [{"str": "tcp:10.0.2.100:80-foo"}]}),
            "GenericError: Could not open guest forwarding device 'guestfwd.tcp.80'",
        ),
    ] {
        let error = qmp.execute_with(command, arguments).unwrap_err().to_string();
        ensure!(error == words, "{error}");
    }
    qmp.execute_with("netdev_del", json!({"id": "n"}))?;
    Ok(())
}

/// What QEMU 10.0.2 answers.
#[test]
fn filters_come_and_go() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("dump").display().to_string();
    let args = ["-M", "none", "-netdev", "user,id=n", "-chardev", "null,id=c"];
    let mut vm = machine(&[&args[..], &["-chardev", "null,id=d"]].concat())?;
    let qmp = vm.qmp();
    for filter in [
        json!({"qom-type": "filter-dump", "id": "f1", "netdev": "n", "file": file}),
        json!({"qom-type": "filter-buffer", "id": "f2", "netdev": "n", "interval": 1000, "position": "head"}),
        json!({"qom-type": "filter-mirror", "id": "f3", "netdev": "n", "outdev": "c", "position": "id=f1", "insert": "before", "queue": "rx"}),
    ] {
        qmp.execute_with("object-add", filter)?;
    }
    let get = |name: &str| json!({"path": "/objects/f3", "property": name});
    let list = qmp.execute_with("qom-list", json!({"path": "/objects/f3"}))?;
    let names: Vec<_> = list.as_array().into_iter().flatten().map(|p| p["name"].clone()).collect();
    let expected =
        ["type", "queue", "netdev", "insert", "status", "position", "outdev", "vnet_hdr_support"];
    ensure!(names == expected, "{names:?}");
    ensure!(qmp.execute_with("qom-get", get("insert"))? == "before");
    ensure!(qmp.execute_with("qom-get", get("vnet_hdr_support"))? == false);
    for (path, property, value) in [
        ("/objects/f1", "status", json!("off")),
        ("/objects/f1", "queue", json!("tx")),
        ("/objects/f2", "interval", json!(5)),
    ] {
        let change = json!({"path": path, "property": property, "value": value});
        qmp.execute_with("qom-set", change)?;
    }
    let shown = qmp.hmp("info network")?.replace('\r', "");
    let expected = format!(
        "n: index=0,type=user,net=10.0.2.0,restrict=off\nfilters:\n  \
         - f2: type=filter-buffer,interval=5,position=head,status=on,insert=behind,netdev=n,queue=all\n  \
         - f3: type=filter-mirror,vnet_hdr_support=false,outdev=c,position=id=f1,status=on,insert=before,netdev=n,queue=rx\n  \
         - f1: type=filter-dump,file={file},maxlen=65536,position=tail,status=off,insert=behind,netdev=n,queue=tx\n"
    );
    ensure!(shown == expected, "{shown}");
    let buffer = |props: serde_json::Value| {
        let mut arguments = json!({"qom-type": "filter-buffer", "id": "f", "netdev": "n"});
        let members = props.as_object().cloned().unwrap_or_default();
        members.into_iter().for_each(|(name, value)| arguments[name] = value);
        arguments
    };
    for (arguments, words) in [
        (buffer(json!({})), "Parameter 'interval' is missing"),
        (
            buffer(json!({"interval": 0})),
            "Property 'filter-buffer.interval' requires a positive value",
        ),
        (buffer(json!({"interval": "x"})), "Parameter 'interval' expects uint64"),
        (buffer(json!({"interval": 1, "x": 1})), "Parameter 'x' is unexpected"),
        (
            buffer(json!({"interval": 1, "queue": "x"})),
            "Parameter 'queue' does not accept value 'x'",
        ),
        (
            json!({"qom-type": "filter-redirector", "id": "f", "netdev": "n", "outdev": "d", "indev": "c"}),
            "chardev 'c' is already in use",
        ),
    ] {
        let error = qmp.execute_with("object-add", arguments).unwrap_err().to_string();
        ensure!(error == format!("GenericError: {words}"), "{error}");
    }
    qmp.execute_with("object-del", json!({"id": "f1"}))?;
    qmp.execute_with("netdev_del", json!({"id": "n"}))?;
    let left = qmp.execute_with("qom-list", json!({"path": "/objects"}))?;
    ensure!(left.as_array().is_some_and(|list| list.len() == 1), "{left}");
    let error = qmp.execute_with("object-del", json!({"id": "f2"})).unwrap_err().to_string();
    ensure!(error == "GenericError: object 'f2' not found", "{error}");
    Ok(())
}

/// Gives the next descriptor a name.
fn pass(qmp: &mut Qmp, name: &str, fd: OwnedFd) -> Result<()> {
    let fds = [fd.as_raw_fd()];
    let passed = [ControlMessage::ScmRights(&fds)];
    let space = [IoSlice::new(b" ")];
    sendmsg::<()>(qmp.stream().as_raw_fd(), &space, &passed, MsgFlags::empty(), None)?;
    qmp.execute_with("getfd", json!({"fdname": name})).map(drop)
}

#[test]
fn networks_find_descriptors_by_the_names_that_clients_gave_them() -> Result<()> {
    let mut vm = machine(&["-M", "none"])?;
    let qmp = vm.qmp();
    let (mut ours, theirs) = UnixStream::pair()?;
    pass(qmp, "wire", theirs.into())?;
    let stream = json!({"type": "stream", "id": "s", "addr": {"type": "fd", "str": "wire"}});
    qmp.execute_with("netdev_add", stream.clone())?;
    let event = qmp.wait_event("NETDEV_STREAM_CONNECTED")?;
    ensure!(event["data"]["netdev-id"] == "s", "{event}");
    qmp.execute_with("netdev_del", json!({"id": "s"}))?;
    ensure!(ours.read(&mut [0])? == 0, "nobody else has it");
    Ok(())
}

/// As QEMU 10.0.2 shows them.
#[test]
fn forwards_are_shown_with_their_hubs() -> Result<()> {
    let network = "user,id=u,hostfwd=tcp:127.0.0.1:0-:1,hostfwd=udp:127.0.0.1:0-:2,\
                   hostfwd=tcp:127.0.0.1:0-:3,hostfwd=udp:127.0.0.1:0-:4";
    let hub = ["-netdev", "hubport,id=h,hubid=4,netdev=u", "-netdev", "user,id=v"];
    let mut vm = machine(&[&["-M", "none", "-netdev", network][..], &hub].concat())?;
    let shown = vm.qmp().hmp("info usernet")?;
    let mut rows = Vec::new();
    for row in shown.lines().filter(|row| !row.contains("RecvQ")) {
        let words: Vec<_> = row.split_whitespace().collect();
        let [state, _, "127.0.0.1", port, "10.0.2.15", to, ..] = words[..] else {
            rows.push(row.to_owned());
            continue;
        };
        ensure!(port.parse::<u16>()? > 0, "a port was chosen: {row}");
        rows.push(format!("{state} {to}"));
    }
    let expected = [
        "Hub 4 (u):",
        "TCP[HOST_FORWARD] 1",
        "TCP[HOST_FORWARD] 3",
        "UDP[HOST_FORWARD] 2",
        "UDP[HOST_FORWARD] 4",
        "Hub -1 (v):",
    ];
    ensure!(rows == expected, "{shown}");
    Ok(())
}

/// As QEMU 10.0.2 shows it.
#[test]
fn hubs_are_shown_with_their_ports() -> Result<()> {
    let networks = [
        "user,id=u",
        "hubport,id=p0,hubid=4",
        "hubport,id=p1,hubid=4,netdev=u",
        "hubport,id=q,hubid=2",
    ];
    let networks = networks.into_iter().flat_map(|network| ["-netdev", network]);
    let args: Vec<_> = ["-M", "pc", "-S", "-vga", "none"].into_iter().chain(networks).collect();
    let mut vm = machine(&[&args[..], &["-device", "pcnet,netdev=p0,romfile="]].concat())?;
    let shown = vm.qmp().hmp("info network")?.replace('\r', "");
    let expected = "hub 2\n \\ q\nhub 4\n \
                    \\ p1: u: index=0,type=user,net=10.0.2.0,restrict=off\n \
                    \\ p0: pcnet.0: index=0,type=nic,model=pcnet,macaddr=52:54:00:12:34:56\n";
    ensure!(shown == expected, "{shown}");
    Ok(())
}

/// QEMU 10.0.2 looks at no place that `-net nic` names.
#[test]
fn a_place_of_the_boards_card_counts_for_nothing() -> Result<()> {
    let args = ["-M", "pc", "-S", "-vga", "none", "-net", "nic,model=rtl8139,addr=zz"];
    let mut vm = machine(&[&args[..], &["-net", "user,id=u"]].concat())?;
    let shown = vm.qmp().hmp("info network")?;
    let card = "hub0port0: rtl8139.0: index=0,type=nic,model=rtl8139,macaddr=52:54:00:12:34:56";
    ensure!(shown.contains(card), "{shown}");
    Ok(())
}
