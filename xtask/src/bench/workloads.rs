//! The work of `tests/bench`, done by the host and by a guest.

use super::machine::Contender;
use super::options::GROUPS;
use crate::process;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use testbed::assets::Assets;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PREFIX: &str = "workload: ";

/// Builds a program of the package, static, so that it runs in a guest without libraries.
pub fn build(program: &str) -> Result<PathBuf> {
    let mut command = process::cargo(&["build", "--release", "--target", TARGET]);
    command.args(["--package", "rhea-workloads"]);
    command.env(
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
        "-C target-feature=+crt-static -C strip=symbols",
    );
    process::run(&mut command)?;
    Ok(process::target().join(TARGET).join("release").join(program))
}

/// The group of a workload, or the group itself.
pub fn group(name: &str) -> Option<&'static str> {
    let first = name.split('/').next()?;
    GROUPS.iter().map(|(group, _)| *group).find(|group| *group == first)
}

/// What became of one workload.
#[derive(Debug, PartialEq)]
pub struct Line {
    pub name: String,
    pub outcome: Outcome,
}

#[derive(Debug, PartialEq)]
pub enum Outcome {
    Nanoseconds(f64),
    Skipped(String),
    Wrong(String),
}

pub fn on_the_host(program: &Path, names: &[String], limit: u32) -> Result<Vec<Line>> {
    let mut command = Command::new(program);
    command.args(["--limit", &limit.to_string()]).args(names);
    let output = command.output().context("cannot run the workloads")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| line.strip_prefix(PREFIX)).filter_map(parse).collect()
}

pub fn in_a_guest(
    who: &Contender,
    assets: &Assets,
    initrd: &Path,
    names: &[String],
    limit: u32,
) -> Result<Vec<Line>> {
    let scripts = format!("workloads,poweroff rhea.workloads=--limit,{limit},{}", names.join(","));
    let mut vm = who
        .headless()
        .args(["-m", "1024", "-smp", "2"])
        .kernel(&assets.cloud_kernel(), initrd, &scripts)
        .spawn()?;
    vm.expect("workload: clock 0\n")?;
    let begun = Instant::now();
    let mut lines = Vec::new();
    loop {
        vm.expect(PREFIX)?;
        let line = vm.expect("\n")?;
        if let Some(clock) = line.trim().strip_prefix("clock ") {
            compare_clocks(clock.parse()?, begun.elapsed().as_secs_f64() * 1e9);
            return Ok(lines);
        }
        lines.extend(parse(line.trim()).transpose()?);
    }
}

/// A guest whose clock is wrong measures wrong.
fn compare_clocks(guest: f64, host: f64) {
    let ratio = guest / host;
    if !(0.97..1.03).contains(&ratio) {
        eprintln!("the guest's clock ran {ratio:.3} times as fast as the host's");
    }
}

/// One line without its prefix; nothing for the clock's lines.
fn parse(line: &str) -> Option<Result<Line>> {
    if line.starts_with("clock ") {
        return None;
    }
    Some(read(line).with_context(|| format!("odd line of the workloads: {line:?}")))
}

fn read(line: &str) -> Result<Line> {
    let (name, rest) = line.split_once(' ').context("no result")?;
    let outcome = if let Some(why) = rest.strip_prefix("skipped: ") {
        Outcome::Skipped(why.to_owned())
    } else if let Some(what) = rest.strip_prefix("wrong: ") {
        Outcome::Wrong(what.to_owned())
    } else {
        Outcome::Nanoseconds(rest.parse()?)
    };
    if group(name).is_none() {
        bail!("of no group");
    }
    Ok(Line { name: name.to_owned(), outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_each_kind_are_read() {
        let outcome = |line: &str| read(line).unwrap().outcome;
        assert_eq!(outcome("integer/sieve 12"), Outcome::Nanoseconds(12.0));
        assert_eq!(outcome("vector/aes skipped: none"), Outcome::Skipped("none".into()));
        assert_eq!(outcome("code/patched wrong: got 1"), Outcome::Wrong("got 1".into()));
        assert!(read("integer/sieve").is_err());
        assert!(read("other/sieve 1").is_err());
        assert!(parse("clock 5").is_none());
    }
}
