//! Networks and cards that come and go.

use anyhow::{Result, ensure};
use serde_json::json;

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
    let filters = qmp.execute("query-rx-filter")?;
    ensure!(filters[0]["main-mac"] == "52:54:00:12:34:56", "{filters}");
    ensure!(filters[0]["vlan-table"][0] == 4095, "{filters}");
    qmp.execute_with("set_link", json!({"name": "c", "up": false}))?;
    for (command, arguments, words) in [
        ("query-rx-filter", json!({"name": "n"}), "GenericError: net client(n) isn't a NIC"),
        ("query-rx-filter", json!({"name": "x"}), "GenericError: invalid net client name: x"),
        ("set_link", json!({"name": "x", "up": true}), "DeviceNotFound: Device 'x' not found"),
        ("netdev_del", json!({"id": "x"}), "DeviceNotFound: Device 'x' not found"),
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
