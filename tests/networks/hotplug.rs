//! Cards and networks that come and go while a guest uses them.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testbed::initrd::SHELL;
use testbed::modules;

use crate::machine;
use crate::servers::{echo, serve};

/// Long enough for bytes to be under way.
const WHILE: Duration = Duration::from_millis(300);

fn come_and_go(card: &str) -> Result<()> {
    const ROUNDS: usize = 3;
    let guest = modules::network()?;
    let port = serve("127.0.0.1:0", echo)?;
    let scripts = format!("network-busy rhea.rounds={ROUNDS} rhea.from={port}");
    let mut vm = machine()
        .args(["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,id=first"])
        .kernel(&guest.kernel, &guest.initrd, &scripts)
        .qmp()
        .spawn()?;
    vm.expect("rhea-busy: ready")?;
    for round in 1..=ROUNDS {
        let network = json!({"type": "user", "id": "m", "net": "10.0.3.0/24"});
        vm.qmp().execute_with("netdev_add", network)?;
        vm.qmp().execute_with("device_add", json!({"driver": card, "netdev": "m", "id": "d"}))?;
        vm.expect(&format!("rhea-busy: round {round}\n"))?;
        thread::sleep(WHILE);
        // Down and up, of the card and of the network.
        for name in ["d", "m", "first"] {
            for up in [false, true] {
                vm.qmp().execute_with("set_link", json!({"name": name, "up": up}))?;
            }
        }
        thread::sleep(WHILE);
        // The network may go before its card.
        if round == 2 {
            vm.qmp().execute_with("netdev_del", json!({"id": "m"}))?;
        }
        vm.qmp().execute_with("device_del", json!({"id": "d"}))?;
        // A card may have parts that go before it.
        while vm.qmp().wait_event("DEVICE_DELETED")?["data"]["device"] != "d" {}
        if round != 2 {
            vm.qmp().execute_with("netdev_del", json!({"id": "m"}))?;
        }
        vm.expect(&format!("rhea-busy: end of round {round}\n"))?;
    }
    vm.expect("rhea-busy: done")?;
    // Not before: a card goes from the guest's list some time before the guest ejects the device.
    vm.expect(SHELL)?;
    vm.send("poweroff -f\n")?;
    let ended = vm.finish()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    for complaint in ["BUG:", "Call Trace:", "WATCHDOG"] {
        ensure!(!ended.stdout.contains(complaint), "{complaint}\n{}", ended.stdout);
    }
    Ok(())
}

#[test]
fn virtio_net_comes_and_goes_in_use() -> Result<()> {
    come_and_go("virtio-net-pci")
}

#[test]
fn e1000_comes_and_goes_in_use() -> Result<()> {
    come_and_go("e1000")
}
