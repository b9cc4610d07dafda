//! A Python with QEMU's client library and a VNC client, in a virtual environment beside the guest
//! assets.

use crate::assets;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// What the tests import.
const PACKAGES: [&str; 2] = ["qemu.qmp", "vncdotool"];

/// The Python to use: `RHEA_PYTHON`, else the one that [`install`] made, else the system's.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("RHEA_PYTHON") {
        return path.into();
    }
    let own = directory().map(|directory| directory.join("bin/python3"));
    own.ok().filter(|path| path.exists()).unwrap_or_else(|| "python3".into())
}

fn directory() -> Result<PathBuf> {
    Ok(assets::cache_directory()?.join("python"))
}

/// Makes the virtual environment, unless it is there, and returns its Python.
pub fn install() -> Result<PathBuf> {
    let directory = directory()?;
    let python = directory.join("bin/python3");
    let works = |python: &PathBuf| {
        let import = format!("import {}", PACKAGES.join(", "));
        let found = Command::new(python).args(["-c", &import]).output();
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
