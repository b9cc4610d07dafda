//! `cargo xtask test`: the static checks, then every test.

use crate::process;
use crate::{check, fuzz, no_more};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Sums over all test programs.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    passed: i32,
    failed: i32,
    skipped: i32,
}

/// Runs everything; `--full` includes the tests marked `#[ignore]`, the soak runs, and the fuzz
/// targets.
pub fn run(args: &[String]) -> Result<()> {
    let (full, rest) = match args.split_first() {
        Some((first, rest)) if first == "--full" => (true, rest),
        _ => (false, args),
    };
    no_more(rest)?;
    testbed::assets::get()?;
    crate::install_python();
    if let Err(error) = testbed::browser::install() {
        eprintln!("no browser: {error:#}");
    }
    check::run()?;

    let mut command = process::cargo(&["test", "--workspace", "--no-fail-fast"]);
    if full {
        command.args(["--", "--include-ignored"]);
    }
    let (passed, tally) = watch(&mut command)?;
    // The runner's own sums are one per test program; this is the whole.
    let sums =
        format!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    println!("{sums}");
    if !passed {
        bail!("{} failed", process::shown(&command));
    }
    if full {
        fuzz::soak()?;
        println!("{sums}, fuzz targets clean");
    }
    Ok(())
}

/// Runs Cargo's tests, passing their output on and adding up their results.
fn watch(command: &mut Command) -> Result<(bool, Tally)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            tally.count(&line);
        }
    }
    Ok((child.wait()?.success(), tally))
}

impl Tally {
    /// Takes in one line of a test program's output.
    fn count(&mut self, line: &str) {
        if let Some(results) = line.strip_prefix("test result: ") {
            let number = |text: &str| text.parse().unwrap_or(0);
            for part in results.split(['.', ';']) {
                match part.trim().split_once(' ') {
                    Some((count, "passed")) => self.passed += number(count),
                    Some((count, "failed")) => self.failed += number(count),
                    Some((count, "ignored")) => self.skipped += number(count),
                    _ => {}
                }
            }
        } else if line.contains("skipped: ") {
            // The runner takes a test that returned early for one that passed
            // (see `testbed::skip`); its sum follows these lines.
            self.skipped += 1;
            self.passed -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up_over_programs_and_skips_are_not_passes() {
        let mut tally = Tally::default();
        for line in [
            "test a ... ok",
            "skipped: b: no QEMU",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
            "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            tally.count(line);
        }
        assert_eq!(tally, Tally { passed: 7, failed: 2, skipped: 2 });
    }
}
