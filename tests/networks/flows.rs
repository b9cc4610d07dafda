//! Many connections at once.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::{modules, programs};

use crate::machine;
use crate::servers::{echo, serve};

/// The guest's memory, whose pages do not count.
const GUEST_MIB: u64 = 512;

/// What of a process is in memory, its guest's memory apart, in KiB (proc(5), `smaps`).
fn resident(pid: u32) -> Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut total, mut size) = (0, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next(), words.next().and_then(|value| value.parse().ok()));
        match (name, value) {
            (Some("Size:"), Some(value)) => size = value,
            (Some("Rss:"), Some(value)) if size != GUEST_MIB << 10 => total += value,
            _ => {}
        }
    }
    Ok(total)
}

/// Returns by how much the process grew, in KiB.
fn flows(count: usize, seconds: u64) -> Result<u64> {
    let guest = modules::network_with(&programs::talker()?)?;
    let port = serve("127.0.0.1:0", echo)?;
    let talk = format!("flows,10.0.2.2:{port},{count},{seconds}");
    let scripts = format!("network,network-talker,poweroff rhea.talk={talk}");
    let mut vm = machine()
        .args(["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"])
        .kernel(&guest.kernel, &guest.initrd, &scripts)
        .spawn()?;
    vm.expect("rhea-network: lease")?;
    let idle = resident(vm.pid())?;
    vm.expect(&format!("rhea-talker: {count} flows"))?;
    let mut most = idle;
    let result = loop {
        let output = vm.output();
        let lines = || output.lines().filter(|line| line.starts_with("rhea-"));
        if let Some(line) = lines().find(|line| line.contains("rounds, none lost")) {
            break line.to_owned();
        }
        ensure!(!lines().any(|line| line.contains("failed")), "{output}");
        most = most.max(resident(vm.pid())?);
        thread::sleep(Duration::from_millis(200));
    };
    vm.finish()?;
    println!("{count} flows: {result}; the process grew by {} KiB", most - idle);
    Ok(most - idle)
}

#[test]
fn two_hundred_flows_lose_nothing() -> Result<()> {
    flows(200, 2).map(drop)
}

#[test]
#[ignore = "a soak test"]
fn two_thousand_flows_lose_nothing_and_take_little_memory() -> Result<()> {
    let grown = flows(2000, 60)?;
    ensure!(grown < 64 << 10, "the process grew by {grown} KiB");
    Ok(())
}
