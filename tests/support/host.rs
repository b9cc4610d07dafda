//! Programs of Debian's for the host: those that are installed, or else unpacked into the cache.

use crate::apt::Apt;
use crate::assets::{cache_directory, lock, remove};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A program of a package, ready for its arguments; else why there is none.
pub fn program(package: &str, name: &str) -> Result<Command, String> {
    for directory in ["/usr/bin", "/usr/sbin"] {
        let path = Path::new(directory).join(name);
        if path.exists() {
            return Ok(Command::new(path));
        }
    }
    unpacked(package, name).map_err(|error| format!("no {name}: {error:#}"))
}

fn unpacked(package: &str, name: &str) -> Result<Command> {
    let cache = cache_directory()?.join("host");
    let root = cache.join(package);
    let _lock = lock(&cache)?;
    if !root.exists() {
        let (work, debs) = (cache.join("unpack"), cache.join("debs"));
        for directory in [&work, &debs] {
            remove(directory)?;
            fs::create_dir_all(directory)?;
        }
        let apt = Apt::host();
        apt.ensure_known(package)?;
        let mut packages = apt.libraries_of(&[package])?;
        // The host's own C library is the one that its loader fits.
        packages.retain(|package| !package.starts_with("libc6") && package != "libc-bin");
        packages.insert(package.to_owned());
        apt.unpack(packages.iter().map(String::as_str), &debs, &work)?;
        remove(&debs)?;
        fs::rename(&work, &root).with_context(|| format!("cannot create {}", root.display()))?;
    }
    let places = ["usr/bin", "usr/sbin", "bin", "sbin"].map(|place| root.join(place).join(name));
    let path = places.into_iter().find(|path| path.exists());
    let mut command = Command::new(path.with_context(|| format!("not in {package}"))?);
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
    let libraries = libraries.map(|directory| root.join(directory).display().to_string());
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    Ok(command)
}
