//! Rows about the emulator as a program: how fast it starts, how fast a guest
//! boots, what an idle guest costs.

use super::disks;
use super::network;
use super::results::{Measured, Metric, Unit};
use super::viewer;
use super::web;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};
use testbed::assets::Assets;
use testbed::initrd::{READY, SHELL};
use testbed::vm::{Launch, Vm};

/// A program and its way to run guests.
pub struct Contender {
    pub program: PathBuf,
    pub accel: String,
}

impl Contender {
    pub fn new(program: PathBuf, accel: &str) -> Self {
        Self { program, accel: accel.to_owned() }
    }

    pub fn launch(&self) -> Launch {
        Launch::new(&self.program).args(["-accel", &self.accel, "-cpu", "max"])
    }

    /// A headless machine for a Linux guest.
    pub fn headless(&self) -> Launch {
        self.launch().args(["-nographic", "-no-reboot", "-vga", "none", "-nic", "none"])
    }
}

/// One row, or two that are measured together.
pub struct Row {
    pub name: &'static str,
    /// Runs that it takes at least for a steady median.
    pub runs: u32,
    pub measure: fn(&Assets, &Contender) -> Result<Measured>,
}

pub const ROWS: [Row; 17] = [
    Row {
        name: "start-none",
        runs: 15,
        measure: |_, who| start(who, "start-none", &["-M", "none"]),
    },
    Row {
        name: "start-pc",
        runs: 15,
        measure: |_, who| {
            start(who, "start-pc", &["-M", "pc", "-S", "-vga", "none", "-nic", "none"])
        },
    },
    Row { name: "boot", runs: 3, measure: boot },
    Row { name: "idle", runs: 1, measure: idle },
    Row {
        name: "vnc-tight",
        runs: 3,
        measure: |_, who| viewer::watch(who, "vnc-tight", viewer::TIGHT),
    },
    Row {
        name: "vnc-zrle",
        runs: 3,
        measure: |_, who| viewer::watch(who, "vnc-zrle", viewer::ZRLE),
    },
    Row { name: "vnc-key", runs: 1, measure: |_, who| viewer::type_in(who) },
    Row { name: "vnc-idle", runs: 1, measure: |_, who| viewer::look(who) },
    Row { name: "web", runs: 1, measure: |_, who| web::measure(who) },
    Row {
        name: "network-virtio",
        runs: 3,
        measure: |_, who| network::by_user(who, "virtio-net-pci"),
    },
    Row { name: "network-e1000", runs: 3, measure: |_, who| network::by_user(who, "e1000") },
    Row { name: "network-passt", runs: 3, measure: |_, who| network::by_passt(who) },
    Row { name: "image-convert", runs: 3, measure: |_, who| disks::convert(who) },
    Row { name: "image-tables", runs: 3, measure: |_, who| disks::tables(who) },
    Row { name: "image-random", runs: 3, measure: |_, who| disks::random(who) },
    Row { name: "disk-virtio", runs: 1, measure: |_, who| disks::guest(who, "virtio") },
    Row { name: "disk-ide", runs: 1, measure: |_, who| disks::guest(who, "ide") },
];

/// From the start of the process to its end, through a QMP handshake.
fn start(who: &Contender, name: &str, machine: &[&str]) -> Result<Measured> {
    let launch = Launch::new(&who.program).args(["-accel", &who.accel]);
    let begun = Instant::now();
    let mut vm = launch.args(machine).args(["-display", "none"]).qmp().spawn()?;
    let resident = status_field(&vm, "VmHWM:")?;
    vm.qmp().execute("quit")?;
    vm.finish()?;
    let wall = begun.elapsed().as_secs_f64() * 1e3;
    let what = format!("`{}`: QMP handshake to exit", machine[..machine.len().min(3)].join(" "));
    Ok(vec![
        (Metric::new(&format!("{name}/wall"), &what, Unit::Milliseconds), wall),
        (Metric::new(&format!("{name}/resident"), "resident then", Unit::Megabytes), resident),
    ])
}

fn boot(assets: &Assets, who: &Contender) -> Result<Measured> {
    let begun = Instant::now();
    let vm = guest(assets, who, READY)?;
    let wall = begun.elapsed().as_secs_f64();
    let what = "Debian's cloud kernel, from exec to user space";
    Ok(vec![
        (Metric::new("boot/wall", what, Unit::Seconds), wall),
        (Metric::new("boot/cpu", "CPU time for that", Unit::Seconds), cpu_seconds(vm.pid())?),
    ])
}

fn idle(assets: &Assets, who: &Contender) -> Result<Measured> {
    const SETTLE: Duration = Duration::from_secs(5);
    const WATCH: Duration = Duration::from_secs(20);
    let vm = guest(assets, who, SHELL)?;
    thread::sleep(SETTLE);
    let before = cpu_seconds(vm.pid())?;
    let begun = Instant::now();
    thread::sleep(WATCH);
    let share = (cpu_seconds(vm.pid())? - before) / begun.elapsed().as_secs_f64() * 100.0;
    let resident = status_field(&vm, "VmRSS:")?;
    Ok(vec![
        (Metric::new("idle/cpu", "host CPU of a guest idle at its prompt", Unit::Percent), share),
        (
            Metric::new("idle/resident", "resident then, guest of 512 MiB", Unit::Megabytes),
            resident,
        ),
    ])
}

fn guest(assets: &Assets, who: &Contender, until: &str) -> Result<Vm> {
    let launch = who.headless().args(["-m", "512"]);
    let mut vm = launch.guest(&assets.cloud_kernel(), assets, "").spawn()?;
    vm.expect(until)?;
    Ok(vm)
}

/// A size from the process's status, in megabytes.
fn status_field(vm: &Vm, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid()))?;
    let kilobytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("no {field} in the process's status"))?;
    Ok(kilobytes * 1024.0 / 1e6)
}

/// CPU time that a process has used so far, by all threads, in user and kernel mode.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    // proc(5): fields 14 and 15, in clock ticks, of which Linux shows user
    // space 100 a second; the name in field 2 may hold spaces.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks =
        |field: usize| -> Option<f64> { fields.split_whitespace().nth(field - 3)?.parse().ok() };
    Ok(ticks(14).zip(ticks(15)).map(|(user, kernel)| user + kernel).context("odd /proc stat")?
        / 100.0)
}
