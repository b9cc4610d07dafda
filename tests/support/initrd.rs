//! The test guest: busybox, an `/init` of our own and a few scripts.
//!
//! The archive is not compressed: unpacking costs an interpreter more than
//! reading does. The kernel command line picks the scripts to run
//! (`rhea.run=report,poweroff`); with none, the guest ends in a shell.

use crate::cpio::Archive;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// The line that `/init` prints when user space runs.
pub const READY: &str = "rhea-guest: ready";

/// The line that `/init` prints before it hands the console to a shell.
pub const SHELL: &str = "rhea-guest: shell";

const SCRIPTS: [(&str, &str); 24] = [
    ("adapter", include_str!("guest/adapter")),
    ("desktop", include_str!("guest/desktop")),
    ("login", include_str!("guest/login")),
    ("nap", include_str!("guest/nap")),
    ("report", include_str!("guest/report")),
    ("stress", include_str!("guest/stress")),
    ("suspend", include_str!("guest/suspend")),
    ("poweroff", include_str!("guest/poweroff")),
    ("reboot", include_str!("guest/reboot")),
    ("modules", include_str!("guest/modules")),
    ("disk", include_str!("guest/disk")),
    ("disk-bench", include_str!("guest/disk-bench")),
    ("hotplug", include_str!("guest/hotplug")),
    ("journal", include_str!("guest/journal")),
    ("display", include_str!("guest/display")),
    ("input", include_str!("guest/input")),
    ("network", include_str!("guest/network")),
    ("network-bench", include_str!("guest/network-bench")),
    ("network-busy", include_str!("guest/network-busy")),
    ("network-drivers", NETWORK_DRIVERS),
    ("network-lease", include_str!("guest/network-lease")),
    ("network-peer", include_str!("guest/network-peer")),
    ("network-talker", include_str!("guest/network-talker")),
    ("workloads", include_str!("guest/workloads")),
];

/// Loads drivers of network cards, in this guest and in others.
pub(crate) const NETWORK_DRIVERS: &str = include_str!("guest/network-drivers");

/// Builds the guest around a static busybox.
pub fn build(busybox: &Path) -> Result<Vec<u8>> {
    Ok(base(busybox)?.finish())
}

/// Builds the guest with every program and library of `tools`, a directory
/// holding `bin` and `lib`, added to it.
pub fn build_with_tools(busybox: &Path, tools: &Path) -> Result<Vec<u8>> {
    let mut archive = base(busybox)?;
    for directory in ["bin", "lib"] {
        let mut files: Vec<_> = fs::read_dir(tools.join(directory))
            .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
            .with_context(|| format!("cannot list {}", tools.join(directory).display()))?;
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files {
            let name = format!("{directory}/{}", file.file_name().to_string_lossy());
            archive.file(&name, 0o755, &read(&file.path())?);
        }
    }
    archive.symlink("lib64", "lib");
    Ok(archive.finish())
}

/// Builds the guest with the kernel modules in a directory, and with more programs.
pub fn build_with_modules(busybox: &Path, modules: &Path, programs: &[&Path]) -> Result<Vec<u8>> {
    let mut archive = base(busybox)?;
    archive.directory("lib/modules");
    for path in crate::assets::list(modules)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("lib/modules/{name}"), 0o644, &read(&path)?);
    }
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("bin/{name}"), 0o755, &read(program)?);
    }
    Ok(archive.finish())
}

/// Builds the guest with one more program, as `/bin/NAME` after its file name.
pub fn build_with_program(busybox: &Path, program: &Path) -> Result<Vec<u8>> {
    build_with_files(busybox, &[program])
}

/// Builds the guest with more files: kernel modules as `/lib/NAME.ko`, programs as `/bin/NAME`.
pub fn build_with_files(busybox: &Path, files: &[&Path]) -> Result<Vec<u8>> {
    let mut archive = base(busybox)?;
    for file in files {
        let is_module = file.extension().is_some_and(|extension| extension == "ko");
        let directory = if is_module { "lib" } else { "bin" };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("{directory}/{name}"), 0o755, &read(file)?);
    }
    Ok(archive.finish())
}

fn base(busybox: &Path) -> Result<Archive> {
    let mut archive = Archive::default();
    for path in ["bin", "dev", "lib", "proc", "rhea", "sys", "tmp"] {
        archive.directory(path);
    }
    // The kernel opens this for /init's standard streams before /dev is mounted.
    archive.character_device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &read(busybox)?);
    archive.file("init", 0o755, include_bytes!("guest/init"));
    for (name, text) in SCRIPTS {
        archive.file(&format!("rhea/{name}"), 0o755, text.as_bytes());
    }
    Ok(archive)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
