//! Two guests, and the ways from one to the other.

use std::path::Path;

use anyhow::{Result, ensure};
use testbed::initrd::SHELL;
use testbed::modules;

use crate::machine;
use crate::private::{self, shell};

/// The first guest at `near` echoes what the second one at `far` sends.
fn talk(near: &str, far: &str) -> Result<()> {
    let guest = modules::network()?;
    let peer = |number: u32, netdev: &str| {
        let mac = format!("virtio-net-pci,netdev=n,mac=52:54:00:12:34:0{number}");
        let scripts = format!("network-peer rhea.peer={number}");
        machine().args(["-netdev", &format!("{netdev},id=n"), "-device", &mac]).kernel(
            &guest.kernel,
            &guest.initrd,
            &scripts,
        )
    };
    let mut first = peer(1, near).spawn()?;
    first.expect("rhea-peer: listening")?;
    let mut second = peer(2, far).spawn()?;
    second.expect("rhea-peer: 8388608 bytes came back")?;
    // Not before: who is off does not say its last words again if they were lost.
    for mut guest in [first, second] {
        guest.expect(SHELL)?;
        guest.send("poweroff -f\n")?;
        let ended = guest.finish()?;
        ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    }
    Ok(())
}

/// As the documentation of the option writes it: one listens, the other connects.
fn by_unix_socket(near: &str, far: &str) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let fill = |text: &str| text.replace("NEAR", &path("near")).replace("FAR", &path("far"));
    talk(&fill(near), &fill(far))
}

#[test]
fn stream_joins_two_guests() -> Result<()> {
    by_unix_socket(
        "stream,server=on,addr.type=unix,addr.path=NEAR",
        "stream,server=off,addr.type=unix,addr.path=NEAR",
    )
}

#[test]
fn dgram_joins_two_guests() -> Result<()> {
    by_unix_socket(
        "dgram,local.type=unix,local.path=NEAR,remote.type=unix,remote.path=FAR",
        "dgram,local.type=unix,local.path=FAR,remote.type=unix,remote.path=NEAR",
    )
}

#[test]
fn socket_joins_two_guests() -> Result<()> {
    private::run(|| {
        shell("ip link set lo up")?;
        talk("socket,listen=127.0.0.1:5555", "socket,connect=127.0.0.1:5555")
    })
}

#[test]
fn a_multicast_group_joins_two_guests() -> Result<()> {
    private::run(|| {
        shell("ip link set lo up multicast on; ip route add 224.0.0.0/4 dev lo")?;
        talk("socket,mcast=230.0.0.1:1234", "socket,mcast=230.0.0.1:1234")
    })
}

/// What tutorials write.
#[test]
fn taps_at_a_bridge_join_two_guests() -> Result<()> {
    private::run(|| {
        shell(
            "ip link add br0 type bridge forward_delay 0
             ip link set br0 up
             for tap in tap0 tap1; do
                 ip tuntap add $tap mode tap
                 ip link set $tap master br0
                 ip link set $tap up
             done",
        )?;
        let tap = |name: &str| format!("tap,ifname={name},script=no,downscript=no");
        talk(&tap("tap0"), &tap("tap1"))
    })
}

#[test]
fn the_helper_joins_two_guests_at_a_bridge() -> Result<()> {
    const HELPER: &str = "/usr/lib/qemu/qemu-bridge-helper";
    if !Path::new(HELPER).exists() {
        testbed::skip("the distribution's bridge helper is not there");
        return Ok(());
    }
    private::run(|| {
        shell(
            "ip link add br0 type bridge forward_delay 0
             ip link set br0 up
             mount -t tmpfs none /etc
             mkdir /etc/qemu
             echo allow br0 >/etc/qemu/bridge.conf",
        )?;
        talk("bridge,br=br0", "bridge,br=br0")
    })
}
