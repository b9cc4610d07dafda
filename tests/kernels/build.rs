//! Makes the image: the toolchain that builds everything else builds this, too. Its target is the
//! host's; what makes a kernel of it are options and the linker script.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const OPTIONS: &[&str] = &[
    "--edition=2024",
    "--crate-name=kernels",
    "-Copt-level=1",
    "-Cpanic=abort",
    "-Cforce-unwind-tables=no",
    // Interrupts come on the stack of what they interrupt.
    "-Cno-redzone=yes",
    // Addresses are fixed, and below 2 GiB: all modes use the same.
    "-Crelocation-model=static",
    "-Clink-args=-nostartfiles -nostdlib -static -no-pie",
    "-Clink-args=-Wl,--oformat=binary -Wl,--build-id=none",
];

/// The image, made once for a test program.
pub fn image() -> Result<PathBuf> {
    static IMAGE: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    IMAGE
        .get_or_init(|| make().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

fn make() -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/guest");
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels.bin");
    let script = format!("-Clink-arg=-Wl,-T,{}", source.join("link.ld").display());
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc)
        .args(OPTIONS)
        .args([&script, "-o"])
        .args([&image, &source.join("main.rs")])
        .output()
        .with_context(|| format!("cannot run {}", rustc.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot build the test kernels:\n{said}");
    Ok(image)
}
