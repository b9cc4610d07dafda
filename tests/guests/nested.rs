//! Guests within a guest: Linux's KVM on the virtualization that processors of software offer, and Xen,
//! which needs none for the Linux that it starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::initrd::{self, READY, SHELL};
use testbed::{assets, is_reference, kernels, program, skip};

use crate::machine;

/// The monitor in `kvm/main.rs`, linked statically.
fn monitor(directory: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/kvm/main.rs");
    let monitor = directory.join("nested");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc)
        .args(["--edition=2024", "-Copt-level=2", "-Ctarget-feature=+crt-static", "-o"])
        .args([&monitor, &source])
        .output()
        .with_context(|| format!("cannot run {}", rustc.display()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(monitor)
}

#[test]
#[ignore = "a soak test"]
fn kvm_runs_guests_in_a_guest() -> Result<()> {
    if is_reference(&program()) {
        skip("nested virtualization of ours is what is tested");
        return Ok(());
    }
    let kernel = match kernels::with_kvm() {
        Ok(kernel) => kernel,
        Err(error) => {
            skip(&format!("{error:#}"));
            return Ok(());
        }
    };
    let scratch = tempfile::tempdir()?;
    let monitor = monitor(scratch.path())?;
    let mut files: Vec<&Path> = kernel.modules.iter().map(PathBuf::as_path).collect();
    files.push(&monitor);
    let archive = scratch.path().join("initrd.cpio");
    std::fs::write(&archive, initrd::build_with_files(&assets::get()?.busybox(), &files)?)?;
    let mut vm =
        machine().args(["-cpu", "max", "-smp", "2"]).kernel(&kernel.image, &archive, "").spawn()?;
    vm.expect(SHELL)?;
    vm.expect("# ")?;
    vm.send("for m in irqbypass kvm kvm-amd; do insmod /lib/$m.ko; done; nested; poweroff -f\n")?;
    vm.expect("rhea-nested: all guests are right")?;
    let ended = vm.finish()?;
    for complaint in ["BUG:", "WARNING:", "Call Trace:"] {
        ensure!(!ended.stdout.contains(complaint), "{complaint}\n{}", ended.stdout);
    }
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
fn xen_starts_linux() -> Result<()> {
    let xen = match kernels::xen() {
        Ok(xen) => xen,
        Err(error) => {
            skip(&format!("{error:#}"));
            return Ok(());
        }
    };
    let assets = assets::get()?;
    let linux = format!(
        "{} console=hvc0 panic=-1 rhea.run=poweroff,{}",
        assets.generic_kernel().display(),
        assets.initrd().display()
    );
    let mut vm = machine()
        .args(["-cpu", "max", "-smp", "2", "-m", "1024", "-kernel"])
        .args([&xen])
        .args(["-initrd", &linux])
        .args(["-append", "com1=115200,8n1 console=com1 dom0_mem=512M"])
        .spawn()?;
    vm.expect("(XEN) Brought up 2 CPUs")?;
    vm.expect("Hypervisor detected: Xen PV")?;
    vm.expect(READY)?;
    let ended = vm.finish()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}
