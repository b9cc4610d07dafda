//! Tests in a network of their own.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::skip;

/// Set for a test that is inside.
const INSIDE: &str = "RHEA_PRIVATE_NETWORK";

/// An address of the world, IPv4 and IPv6 (RFC 5737 and RFC 3849 keep them for examples).
pub const WORLD: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Runs the calling test a second time, in a network where nobody else is, and `test` there. Skips it
/// where none can be made.
pub fn run(test: impl FnOnce() -> Result<()>) -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let probe = unshare()?.args(["ip", "tuntap", "add", "probe", "mode", "tap"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skip("no private network with taps can be made here");
        return Ok(());
    }
    let name = std::thread::current().name().context("a test without a name")?.to_owned();
    let mut command = unshare()?;
    command.arg(std::env::current_exe()?).args([&name, "--exact", "--include-ignored"]);
    let output = command.arg("--nocapture").env(INSIDE, "1").output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    said.lines().filter(|line| line.starts_with("skipped: ")).for_each(|line| println!("{line}"));
    ensure!(output.status.success() && said.contains("1 passed"), "{said}\n{complaints}");
    Ok(())
}

/// Who is not root becomes root of the private network.
fn unshare() -> Result<Command> {
    let mut command = Command::new("unshare");
    command.arg(if is_root()? { "-nm" } else { "-rnm" });
    Ok(command)
}

fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().context("cannot run id")?;
    Ok(output.stdout.trim_ascii() == b"0")
}

/// Runs a shell script, each line of which has to succeed.
pub fn shell(script: &str) -> Result<()> {
    let output = Command::new("sh").args(["-e", "-c", script]).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A little world: loopback, two addresses beyond it, and a name server on this host.
pub fn make_world() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let resolv = scratch.path().join("resolv.conf");
    fs::write(&resolv, "nameserver 127.0.0.1\n")?;
    let [v4, v6] = WORLD;
    shell(&format!(
        "ip link set lo up
         ip addr add {v4}/32 dev lo
         ip -6 addr add {v6}/128 dev lo
         echo 0 0 >/proc/sys/net/ipv4/ping_group_range
         mount --bind {} /etc/resolv.conf",
        resolv.display()
    ))
}
