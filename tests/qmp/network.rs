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
