//! `cargo xtask fuzz`: the targets of fuzz/, under libFuzzer.
//!
//! The crate has cargo-fuzz's layout, but is built here with plain Cargo:
//! LLVM's coverage pass is reached by stable flags, and address sanitising,
//! which is not, matters little to code without `unsafe`.

use crate::process;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The instrumentation that libFuzzer reads.
const FLAGS: &str = "--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The host that the programs are built on and for; naming it keeps the flags
/// off build scripts and procedural macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Seconds that each target runs in the long test run.
const SOAK: u32 = 60;

/// What `cargo xtask test --full` runs: every target for a while.
pub fn soak() -> Result<()> {
    run(&["--time".to_owned(), SOAK.to_string()])
}

/// Runs the named targets, or all of them, one after another.
pub fn run(args: &[String]) -> Result<()> {
    let mut seconds = 60u32;
    let mut wanted = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--time" {
            let value = args.next().context("--time wants a number of seconds")?;
            seconds = value.parse().with_context(|| format!("--time {value}: not a number"))?;
        } else {
            wanted.push(arg.clone());
        }
    }

    let fuzz = process::root().join("fuzz");
    let present = targets(&fuzz)?;
    ensure!(!present.is_empty(), "fuzz/fuzz_targets holds no fuzz target");
    if wanted.is_empty() {
        wanted.clone_from(&present);
    }
    if let Some(name) = wanted.iter().find(|name| !present.contains(name)) {
        bail!("no fuzz target {name:?}; there are: {}", present.join(", "));
    }

    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let found = Command::new(&compiler).arg("--version").stdout(Stdio::null()).status();
    ensure!(
        found.is_ok_and(|status| status.success()),
        "{compiler}: not found; libFuzzer needs a C++ compiler (on Debian: the package g++)"
    );
    process::run(
        process::cargo(&["build", "--release", "--target", TARGET])
            .args(wanted.iter().flat_map(|name| ["--bin", name]))
            .current_dir(&fuzz)
            .env("RUSTFLAGS", FLAGS)
            .env("CARGO_TARGET_DIR", fuzz.join("target")),
    )?;
    for name in &wanted {
        let (corpus, artifacts) =
            (fuzz.join("corpus").join(name), fuzz.join("artifacts").join(name));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        println!("fuzzing {name} for {seconds} s");
        process::run(
            Command::new(fuzz.join("target").join(TARGET).join("release").join(name))
                .arg(&corpus)
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-artifact_prefix={}/", artifacts.display()))
                .args(["-print_final_stats=1", "-timeout=10"]),
        )
        .with_context(|| format!("fuzz target {name}: the input is in {}", artifacts.display()))?;
    }
    Ok(())
}

/// The names of all targets: one file each.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(fuzz.join("fuzz_targets")) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
