//! `cargo xtask bench`: Rhea and QEMU side by side.
//!
//! Runs alternate between the two, so that whatever else the host does falls
//! on both; the table shows medians.

use crate::process;
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use testbed::assets::Assets;
use testbed::initrd::{READY, SHELL};
use testbed::vm::{Launch, Vm};

/// The two programs and what they need.
struct Bench {
    rhea: PathBuf,
    qemu: PathBuf,
    assets: Assets,
}

/// One thing that is measured: a name, how often, and how.
struct Row {
    name: &'static str,
    what: &'static [&'static str],
    runs: u32,
    /// Returns one number for each entry of `what`.
    measure: fn(&Assets, &Contender<'_>) -> Result<Vec<f64>>,
}

/// A program and its way to run guests without KVM.
struct Contender<'a> {
    program: &'a Path,
    accel: &'static str,
}

const ROWS: [Row; 4] = [
    Row {
        name: "start-none",
        what: &["start, `-M none`: QMP handshake to exit (ms)", "the same: resident (MB)"],
        runs: 15,
        measure: |_, contender| start(contender, &["-M", "none"]),
    },
    Row {
        name: "start-pc",
        what: &["start, `-M pc -S`: QMP handshake to exit (ms)", "the same: resident (MB)"],
        runs: 15,
        measure: |_, contender| {
            start(contender, &["-M", "pc", "-S", "-vga", "none", "-nic", "none"])
        },
    },
    Row {
        name: "boot",
        what: &["boot of Debian's cloud kernel to user space (s)"],
        runs: 3,
        measure: boot,
    },
    Row { name: "idle", what: &["host CPU used by an idle guest (%)"], runs: 1, measure: idle },
];

/// Runs the named rows, or all.
pub fn run(names: &[String]) -> Result<()> {
    let known = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    if let Some(name) = names.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        bail!("no benchmark {name:?}; there are: {}", known());
    }
    let bench = Bench {
        qemu: testbed::reference_qemu().map_err(|reason| anyhow!(reason))?,
        rhea: match std::env::var_os("RHEA_BIN") {
            Some(path) => path.into(),
            None => process::release_build()?,
        },
        assets: testbed::assets::get()?,
    };

    println!("| | QEMU | Rhea | Rhea / QEMU |\n| --- | ---: | ---: | ---: |");
    for row in ROWS.iter().filter(|row| names.is_empty() || names.iter().any(|n| n == row.name)) {
        bench.row(row).with_context(|| format!("benchmark {}", row.name))?;
    }
    Ok(())
}

impl Bench {
    /// QEMU against itself shows how far the numbers of one machine scatter.
    fn our_accel(&self) -> &'static str {
        if testbed::is_reference(&self.rhea) { "tcg" } else { "tcg,interp=on" }
    }

    fn row(&self, row: &Row) -> Result<()> {
        let qemu = Contender { program: &self.qemu, accel: "tcg" };
        let rhea = Contender { program: &self.rhea, accel: self.our_accel() };
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..row.runs {
            theirs.push((row.measure)(&self.assets, &qemu).context("QEMU")?);
            ours.push((row.measure)(&self.assets, &rhea).context("Rhea")?);
        }
        for (index, what) in row.what.iter().enumerate() {
            let theirs = median(theirs.iter().filter_map(|run| run.get(index).copied()));
            let ours = median(ours.iter().filter_map(|run| run.get(index).copied()));
            println!("| {what} | {theirs:.1} | {ours:.1} | {:.2} |", ours / theirs);
        }
        Ok(())
    }
}

impl Contender<'_> {
    fn launch(&self) -> Launch {
        Launch::new(self.program).args(["-accel", self.accel])
    }
}

/// Time from the start of the process to its end, through a QMP handshake,
/// and its resident set just before the end.
fn start(contender: &Contender<'_>, machine: &[&str]) -> Result<Vec<f64>> {
    let begun = Instant::now();
    let mut vm = contender.launch().args(machine).args(["-display", "none"]).qmp().spawn()?;
    let resident = peak_resident(&vm)?;
    vm.qmp().execute("quit")?;
    vm.finish()?;
    Ok(vec![begun.elapsed().as_secs_f64() * 1e3, resident])
}

fn boot(assets: &Assets, contender: &Contender<'_>) -> Result<Vec<f64>> {
    let begun = Instant::now();
    guest(assets, contender, READY)?;
    Ok(vec![begun.elapsed().as_secs_f64()])
}

fn idle(assets: &Assets, contender: &Contender<'_>) -> Result<Vec<f64>> {
    const SETTLE: Duration = Duration::from_secs(5);
    const WATCH: Duration = Duration::from_secs(10);
    let vm = guest(assets, contender, SHELL)?;
    thread::sleep(SETTLE);
    let before = cpu_seconds(&vm)?;
    thread::sleep(WATCH);
    Ok(vec![(cpu_seconds(&vm)? - before) / WATCH.as_secs_f64() * 100.0])
}

fn guest(assets: &Assets, contender: &Contender<'_>, until: &str) -> Result<Vm> {
    let mut vm = contender
        .launch()
        .args(["-m", "512", "-nographic", "-no-reboot", "-vga", "none", "-nic", "none"])
        .guest(&assets.cloud_kernel(), assets, "")
        .spawn()?;
    vm.expect(until)?;
    Ok(vm)
}

/// The largest resident set so far, in MB.
fn peak_resident(vm: &Vm) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid()))?;
    let kilobytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("no VmHWM in the process's status")?;
    Ok(kilobytes / 1e3)
}

/// CPU time used so far, by all threads, in user and kernel mode.
fn cpu_seconds(vm: &Vm) -> Result<f64> {
    // proc(5): fields 14 and 15, in clock ticks, of which Linux shows user
    // space 100 a second; the name in field 2 may hold spaces.
    let stat = fs::read_to_string(format!("/proc/{}/stat", vm.pid()))?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks =
        |field: usize| -> Option<f64> { fields.split_whitespace().nth(field - 3)?.parse().ok() };
    Ok(ticks(14).zip(ticks(15)).map(|(user, kernel)| user + kernel).context("odd /proc stat")?
        / 100.0)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median([3.0, 1.0, 200.0].into_iter()), 3.0);
    }
}
