//! Programs of our own for guests: static, so that they need no libraries there.

use crate::assets::{cache_directory, lock, replace, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const TALKER: &str = include_str!("guest/talker.rs");

/// The program `talker`, compiled first if its source has changed.
pub fn talker() -> Result<PathBuf> {
    let directory = cache_directory()?.join("programs");
    let _lock = lock(&directory)?;
    let (source, program) = (directory.join("talker.rs"), directory.join("talker"));
    if !(program.exists() && fs::read_to_string(&source).is_ok_and(|source| source == TALKER)) {
        replace(&source, TALKER.as_bytes())?;
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let options = ["--edition=2024", "-O", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"];
        let compiled = run(Command::new(rustc).args(options).arg("-o").args([&program, &source]));
        if compiled.is_err() {
            // The next one is to try again.
            fs::remove_file(&source)?;
        }
        compiled.context("cannot compile a program for guests")?;
    }
    Ok(program)
}
