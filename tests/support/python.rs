//! A Python with QEMU's client library, a VNC client and an X client, in a virtual environment beside the
//! guest assets.

use crate::assets;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// Packages, and what the tests import of them.
const PACKAGES: [&str; 3] = ["qemu.qmp", "vncdotool", "python-xlib"];
const MODULES: &str = "qemu.qmp, vncdotool, PIL, Xlib";

/// The Python to use: `RHEA_PYTHON`, else the one that [`install`] made, else the system's.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("RHEA_PYTHON") {
        return path.into();
    }
    let own = directory().map(|directory| directory.join("bin/python3"));
    own.ok().filter(|path| path.exists()).unwrap_or_else(|| "python3".into())
}

/// Whether it can import something; else what is to be done about that.
pub fn has(modules: &str) -> Result<(), String> {
    let found = Command::new(program()).arg("-c").arg(format!("import {modules}")).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    Err(format!("no Python with {modules} (`cargo xtask assets` installs one)"))
}

/// Runs a script; it has to succeed. Returns what it printed.
pub fn run_script(script: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program()).args(["-c", script]).args(arguments).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn directory() -> Result<PathBuf> {
    Ok(assets::cache_directory()?.join("python"))
}

/// Makes the virtual environment, unless it is there, and returns its Python.
pub fn install() -> Result<PathBuf> {
    let directory = directory()?;
    let python = directory.join("bin/python3");
    let works = |python: &PathBuf| {
        let found = Command::new(python).arg("-c").arg(format!("import {MODULES}")).output();
        found.is_ok_and(|output| output.status.success())
    };
    if works(&python) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
