//! What `filter-dump` writes, read by Wireshark.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::{host, modules, programs, skip};

use crate::machine;
use crate::servers::{echo, serve};

/// Tshark, told to check what it would take as it comes.
fn tshark(dump: &Path) -> Result<Command, String> {
    let mut command = host::program("tshark", "tshark")?;
    for preference in [
        "ip.check_checksum",
        "tcp.check_checksum",
        "udp.check_checksum",
        "tcp.desegment_tcp_streams",
    ] {
        command.args(["-o", &format!("{preference}:TRUE")]);
    }
    command.arg("-r").arg(dump);
    Ok(command)
}

/// Reads a dump: its frames are whole and right, and of the protocols that are named.
pub fn check(dump: &Path, protocols: &[&str]) -> Result<()> {
    let run = |arguments: &[&str]| -> Result<String> {
        let mut command = tshark(dump).map_err(anyhow::Error::msg)?;
        let output = command.args(arguments).output().context("cannot run tshark")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tshark: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let wrong = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || \
                 udp.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0";
    let wrong = run(&["-Y", wrong])?;
    ensure!(wrong.is_empty(), "{wrong}");
    let seen = run(&["-q", "-z", "io,phs"])?;
    let missing = |protocol: &&&str| !seen.split_whitespace().any(|word| word == **protocol);
    let missing: Vec<_> = protocols.iter().filter(missing).collect();
    ensure!(missing.is_empty(), "no {missing:?}:\n{seen}");
    Ok(())
}

/// Why dumps cannot be read here, if they cannot.
pub fn unreadable() -> Option<String> {
    host::program("tshark", "tshark").err()
}

/// By a card whose frames are large and without sums, and by one whose are not.
#[test]
fn frames_are_whole_and_right() -> Result<()> {
    if let Some(reason) = unreadable() {
        skip(&reason);
        return Ok(());
    }
    let guest = modules::network_with(&programs::talker()?)?;
    let port = serve("127.0.0.1:0", echo)?;
    for card in ["virtio-net-pci", "e1000"] {
        let scratch = tempfile::tempdir()?;
        let dump = scratch.path().join("dump");
        let filter = format!("filter-dump,id=f,netdev=n,file={}", dump.display());
        let scripts = format!(
            "network,network-talker,poweroff rhea.talk=flows,10.0.2.2:{port},20,1 rhea.bench=1"
        );
        let ended = machine()
            .args(["-netdev", "user,id=n", "-device", &format!("{card},netdev=n")])
            .args(["-object", &filter])
            .kernel(&guest.kernel, &guest.initrd, &scripts)
            .run()?;
        ensure!(ended.stdout.contains("none lost"), "{}", ended.stdout);
        check(&dump, &["arp", "dhcp", "icmpv6", "tcp"]).context(card)?;
    }
    Ok(())
}
