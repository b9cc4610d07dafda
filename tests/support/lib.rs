//! What the whole-program tests and the benchmarks stand on.
//!
//! - [`assets`]: kernels, firmware and tools taken from Debian packages;
//! - [`initrd`]: the test guest, a busybox archive with our own `/init`;
//! - [`debian`]: a whole Debian, as large as the test guest is small;
//! - [`desktop`]: an X server for the test guest;
//! - [`kernels`]: more kernels;
//! - [`browser`]: a browser, for pages;
//! - [`media`]: a CD, a floppy and a hard disk to boot from;
//! - [`modules`]: a kernel and the test guest with its virtio drivers;
//! - [`host`]: programs of Debian's for the host;
//! - [`programs`]: programs of our own for guests;
//! - [`sectors`]: guests of one sector;
//! - [`vm`]: one emulator process with its console captured;
//! - [`qmp`], [`qtest`]: clients of the two control protocols;
//! - [`pc`]: ways to registers of the PC board;
//! - [`report`]: what the guest saw of its machine, and its comparable form.
//!
//! The program under test is the one Cargo just built, or the one named by
//! `RHEA_BIN`; pointing that at QEMU checks the test bed itself.

mod apt;
pub mod assets;
pub mod browser;
pub mod cpio;
pub mod debian;
pub mod desktop;
pub mod host;
pub mod initrd;
pub mod kernels;
pub mod media;
pub mod modules;
pub mod pc;
pub mod programs;
pub mod python;
pub mod qmp;
pub mod qtest;
pub mod report;
pub mod sectors;
mod transcript;
pub mod vm;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything in a test may take before it counts as hung. Guests run
/// in a debug-built interpreter on busy machines: this is a safety net, not a
/// measure of speed.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// Between looks at what is to become so.
const POLL: Duration = Duration::from_millis(50);

/// The QEMU release whose behaviour is the reference.
pub const REFERENCE_VERSION: &str = "10.0";

/// The program under test: `RHEA_BIN`, else the one beside this test.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("RHEA_BIN") {
        return path.into();
    }
    // A test runs from target/PROFILE/deps; the programs are one level up.
    let deps = std::env::current_exe().unwrap_or_default();
    let profile = deps.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    profile.join("qemu-system-x86_64")
}

/// QEMU itself, when the reference release is installed: `RHEA_QEMU`, else
/// the distribution's.
pub fn reference_qemu() -> std::result::Result<PathBuf, String> {
    let path: PathBuf = std::env::var_os("RHEA_QEMU")
        .unwrap_or_else(|| "/usr/bin/qemu-system-x86_64".into())
        .into();
    let advice = "install qemu-system-x86 from Debian 13 or from bookworm-backports";
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .map_err(|error| format!("{}: {error}; {advice}", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains(&format!("version {REFERENCE_VERSION}.")) {
        Ok(path)
    } else {
        let first = text.lines().next().unwrap_or("no version printed").to_owned();
        Err(format!("{} is not QEMU {REFERENCE_VERSION} ({first}); {advice}", path.display()))
    }
}

/// Whether `program` is QEMU itself, put in place of ours by `RHEA_BIN`.
pub fn is_reference(program: &Path) -> bool {
    reference_qemu().is_ok_and(|qemu| qemu == program)
}

/// Waits until something is so.
pub fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is()? {
        if start.elapsed() > DEADLINE {
            bail!("{what}: it never came to that");
        }
        sleep(POLL);
    }
    Ok(())
}

/// Says that a test did not run, and why. The caller returns after it.
///
/// Written past the test runner's capture, so that the reason is seen and
/// `cargo xtask test` can count it.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let line = format!("skipped: {test}: {reason}\n");
    // Nobody is left to tell when standard output is gone.
    let _ = std::io::stdout().write_all(line.as_bytes());
}
