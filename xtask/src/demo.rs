//! `cargo xtask demo`: a Linux shell in Rhea.

use crate::process;
use anyhow::Result;
use std::process::Command;

/// Boots the cloud kernel on this terminal; `args` are added to the command line.
pub fn run(args: &[String]) -> Result<()> {
    let assets = testbed::assets::get()?;
    let program = process::release_build()?;
    println!("Booting Debian's cloud kernel. `poweroff -f` ends it; Ctrl-A x kills it.");
    process::run(
        Command::new(program)
            .args(["-m", "512", "-nographic", "-no-reboot"])
            .arg("-kernel")
            .arg(assets.cloud_kernel())
            .arg("-initrd")
            .arg(assets.initrd())
            .args(["-append", "console=ttyS0 panic=-1 quiet"])
            .args(args),
    )
}
