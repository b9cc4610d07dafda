//! Test kernels for the processor and what is next to it: each runs on the bare machine, checks what
//! the manuals say, and tells line by line on the serial port (see `guest/main.rs`).
//!
//! The same image runs on QEMU (`RHEA_BIN`), and on KVM (`RHEA_ACCEL`). Where QEMU differs,
//! docs/cpu-system.md says why.

mod build;
mod differences;

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use testbed::vm::Launch;

/// Exit status for all is well: isa-debug-exit makes `2 * value + 1` of what is written.
const FINE: i32 = 1;

/// What a kernel said.
struct Said {
    /// The tests by name; of those with the same name, only one that failed.
    passed: BTreeMap<String, bool>,
    text: String,
    status: Option<i32>,
}

impl Said {
    fn parse(text: String, status: Option<i32>) -> Self {
        let mut passed = BTreeMap::new();
        for line in text.lines() {
            let (good, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
                (Some(rest), _) => (true, rest),
                (_, Some(rest)) => (false, rest),
                _ => continue,
            };
            let name = rest.split_once(" - ").map_or(rest, |(_, name)| name);
            let name = name.split(" # ").next().unwrap_or(name).to_owned();
            *passed.entry(name).or_insert(true) &= good;
        }
        Said { passed, text, status }
    }

    fn failed(&self) -> impl Iterator<Item = &str> {
        self.passed.iter().filter(|(_, good)| !**good).map(|(name, _)| name.as_str())
    }

    /// Whether the kernel came to its end and counted as many tests as it had announced.
    fn complete(&self) -> bool {
        let count = self.text.lines().filter(|l| l.starts_with("ok ") || l.starts_with("not ok "));
        let count = count.count();
        self.text.lines().any(|line| line == format!("1..{count}"))
    }
}

/// Kernels that lock-step, which executes everything twice and takes back what the first time has stored,
/// is too slow for: processors wait for each other in loops, timers do not wait at all; `walk` is long.
const NOT_IN_LOCK_STEP: [&str; 4] = ["apic", "smp", "svm_smp", "walk"];

/// The accelerators to run on: both engines of ours, also in lock-step, unless one is asked for.
fn accelerators(program: &Path) -> Vec<String> {
    match std::env::var("RHEA_ACCEL") {
        Ok(accel) => vec![accel],
        Err(_) if testbed::is_reference(program) => vec!["tcg".into()],
        Err(_) => ["tcg", "tcg,interp=on", "tcg,check=on"].map(String::from).into(),
    }
}

fn machine(program: PathBuf, accel: &str, image: &Path, kernel: &str) -> Launch {
    let cpu = if accel.starts_with("kvm") { "host" } else { "max" };
    Launch::new(program)
        .args(["-accel", accel])
        .args(["-cpu", cpu, "-m", "128", "-smp", "2", "-no-reboot", "-nodefaults"])
        .args(["-display", "none", "-serial", "stdio"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-device", "pc-testdev"])
        .args(["-kernel".as_ref(), image.as_os_str()])
        .args(["-append", kernel])
        .args(["-initrd", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels/module.txt")])
}

fn run_on(program: PathBuf, accel: &str, kernel: &str) -> Result<Said> {
    let image = build::image()?;
    said(machine(program, accel, &image, kernel), &format!("{kernel} on {accel}"))
}

fn said(machine: Launch, what: &str) -> Result<Said> {
    let ended = machine.run()?;
    ensure!(ended.stderr.is_empty(), "{what}: {}", ended.stderr);
    Ok(Said::parse(ended.stdout, ended.status.code()))
}

/// The kernel on processors whose instructions are counted, eight nanoseconds each.
fn run_counted(program: PathBuf, kernel: &str) -> Result<Said> {
    let image = build::image()?;
    let machine = machine(program, "tcg", &image, kernel);
    let machine = machine.args(["-rtc", "base=2026-01-01,clock=vm"]);
    said(machine.args(["-icount", "shift=3,sleep=off"]), kernel)
}

fn check(kernel: &str) -> Result<()> {
    let program = testbed::program();
    if testbed::is_reference(&program) {
        return check_reference(program, kernel);
    }
    let checked = |accel: &String| accel.contains("check=on");
    for accel in accelerators(&program) {
        if checked(&accel) && NOT_IN_LOCK_STEP.contains(&kernel) {
            continue;
        }
        let said = run_on(program.clone(), &accel, kernel)?;
        let failures: Vec<_> =
            said.text.lines().filter(|line| line.starts_with("not ok")).collect();
        ensure!(failures.is_empty(), "{kernel} on {accel}:\n{}", failures.join("\n"));
        ensure!(said.complete(), "{kernel} on {accel} did not come to its end:\n{}", said.text);
        ensure!(said.status == Some(FINE), "{kernel} on {accel}: status {:?}", said.status);
    }
    Ok(())
}

fn check_reference(qemu: PathBuf, kernel: &str) -> Result<()> {
    if differences::is_impossible(kernel)? {
        return Ok(());
    }
    let said = run_on(qemu, "tcg", kernel).with_context(|| format!("QEMU, {kernel}"))?;
    differences::check(kernel, &said)
}

macro_rules! kernels {
    ($($name:ident)*) => {
        $(#[test] fn $name() -> Result<()> { check(stringify!($name)) })*
        const KERNELS: &[&str] = &[$(stringify!($name)),*];
    };
}

kernels! {
    apic
    boot
    control
    count
    debug
    delivery
    exceptions
    hyperv
    hypercall
    ioapic
    la57
    lam
    memory
    mmio
    msr
    paging
    pcid
    pks
    pku
    protected
    random
    real
    real_code
    sleep
    smap
    smm
    smp
    svm
    svm_assists
    svm_events
    svm_intercepts
    svm_nested
    svm_smp
    svm_state
    svm_tasks
    svm_virtual
    syscall
    tasks
    tsc
    umip
    v86
    walk
    xsave
}

const MILLION_TICKS: &str = "# 8000000 ticks";

#[test]
fn a_million_counted_instructions_take_their_time() -> Result<()> {
    let said = run_counted(testbed::program(), "count")?;
    ensure!(said.text.lines().any(|line| line == MILLION_TICKS), "{}", said.text);
    Ok(())
}

#[test]
fn the_reference_counts_alike() -> Result<()> {
    match testbed::reference_qemu() {
        Ok(qemu) => {
            let said = run_counted(qemu, "count")?;
            ensure!(said.text.lines().any(|line| line == MILLION_TICKS), "{}", said.text);
        }
        Err(reason) => testbed::skip(&reason),
    }
    Ok(())
}

#[test]
fn counted_processors_do_the_same_again() -> Result<()> {
    let program = testbed::program();
    for kernel in ["apic", "exceptions", "ioapic", "smp", "tsc"] {
        let first = run_counted(program.clone(), kernel)?;
        let failures: Vec<_> = first.failed().collect();
        ensure!(failures.is_empty() && first.complete(), "{kernel}: {failures:?}\n{}", first.text);
        let second = run_counted(program.clone(), kernel)?;
        ensure!(first.text == second.text, "{kernel}:\n{}\n{}", first.text, second.text);
    }
    Ok(())
}

#[test]
fn a_seed_decides_random_numbers() -> Result<()> {
    let image = build::image()?;
    let numbers = |seed: &str| {
        let machine = machine(testbed::program(), "tcg", &image, "random");
        let said = said(machine.args(["-seed", seed]), "random")?;
        ensure!(said.text.contains("# number "), "{}", said.text);
        Ok(said.text)
    };
    let (first, again, other) = (numbers("7")?, numbers("7")?, numbers("8")?);
    ensure!(first == again && first != other, "{first}\n{again}\n{other}");
    Ok(())
}

/// No kernel of the image is forgotten here.
#[test]
fn the_list_is_complete() -> Result<()> {
    let said = run_on(testbed::program(), "tcg", "none")?;
    let mut known: Vec<_> =
        said.text.lines().filter_map(|line| line.strip_prefix("# kernel ")).collect();
    known.sort_unstable();
    let mut tested = KERNELS.to_vec();
    tested.sort_unstable();
    ensure!(known == tested, "in the image: {known:?}");
    Ok(())
}

/// What `-d int` tells of exceptions.
fn exceptions_in_log(program: PathBuf) -> Result<Vec<String>> {
    let place = tempfile::tempdir()?;
    let log = place.path().join("log");
    let image = build::image()?;
    machine(program, "tcg", &image, "umip").args(["-d", "int", "-D"]).args([&log]).run()?;
    // Without their numbers: firmware may have been interrupted.
    let lines = std::fs::read_to_string(&log)?;
    let told = lines.lines().filter_map(|line| match line.split_once(": v=") {
        Some((_, event)) => Some(event.split("env->").next().unwrap_or(event).to_owned()),
        None => line.starts_with("check_exception").then(|| line.to_owned()),
    });
    Ok(told.collect())
}

#[test]
fn exceptions_are_logged_as_by_qemu() -> Result<()> {
    let qemu = match testbed::reference_qemu() {
        Ok(qemu) => qemu,
        Err(reason) => {
            testbed::skip(&reason);
            return Ok(());
        }
    };
    let (ours, theirs) = (exceptions_in_log(testbed::program())?, exceptions_in_log(qemu)?);
    ensure!(theirs.len() > 20, "{theirs:#?}");
    ensure!(ours == theirs, "{ours:#?} {theirs:#?}");
    Ok(())
}

/// The table in the documentation explains whatever QEMU does not pass, and nothing else.
#[test]
fn what_qemu_does_differently_is_explained() -> Result<()> {
    let qemu = match testbed::reference_qemu() {
        Ok(qemu) => qemu,
        Err(reason) => {
            testbed::skip(&reason);
            return Ok(());
        }
    };
    for kernel in KERNELS {
        check_reference(qemu.clone(), kernel)?;
    }
    Ok(())
}
