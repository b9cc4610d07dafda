//! Kernels beyond the two of [`crate::assets`], each fetched when a test first
//! asks for it: for processors without long mode, without PAE, and a newer one.

use crate::apt::Apt;
use crate::assets::{self, cache_directory, list, lock, remove, take};
use crate::initrd;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel and the test guest that it can run.
pub struct Kernel {
    /// What `-kernel` takes.
    pub image: PathBuf,
    /// The test guest (see [`initrd`]).
    pub initrd: PathBuf,
}

/// Linux for 32-bit processors with PAE.
pub fn i386_pae() -> Result<Kernel> {
    for_i386("linux-image-686-pae")
}

/// Linux for 32-bit processors, without use of PAE.
pub fn i386() -> Result<Kernel> {
    for_i386("linux-image-686")
}

/// The kernel that Debian offers where the release's own is too old.
pub fn backported() -> Result<Kernel> {
    let directory = cached("linux-image-backports", |work, ready| {
        let apt = Apt::host();
        let package = apt.concrete_kernel("linux-image-amd64/bookworm-backports")?;
        unpack_kernel(&apt, &[&package], work, ready).map(drop)
    })?;
    Ok(Kernel { image: directory.join("vmlinuz"), initrd: assets::get()?.initrd() })
}

/// A kernel with its modules of KVM for AMD's processors, in the order they are to be loaded.
pub struct KvmKernel {
    /// What `-kernel` takes.
    pub image: PathBuf,
    /// The modules.
    pub modules: Vec<PathBuf>,
}

/// Debian's kernel for cloud machines, with KVM.
pub fn with_kvm() -> Result<KvmKernel> {
    const MODULES: [&str; 3] =
        ["virt/lib/irqbypass.ko", "arch/x86/kvm/kvm.ko", "arch/x86/kvm/kvm-amd.ko"];
    let name = |module: &str| module.rsplit('/').next().unwrap_or_default().to_owned();
    let directory = cached("linux-image-cloud-kvm", |work, ready| {
        let apt = Apt::host();
        let package = apt.concrete_kernel("linux-image-cloud-amd64")?;
        let root = unpack_kernel(&apt, &[&package], work, ready)?;
        let versions = list(&root.join("lib/modules"))?;
        let version = versions.first().context("a kernel package holds no modules")?;
        for module in MODULES {
            take(&version.join("kernel").join(module), &ready.join(name(module)))?;
        }
        Ok(())
    })?;
    let modules = MODULES.iter().map(|module| directory.join(name(module))).collect();
    Ok(KvmKernel { image: directory.join("vmlinuz"), modules })
}

/// The hypervisor Xen, as a Multiboot kernel.
pub fn xen() -> Result<PathBuf> {
    const PACKAGE: &str = "xen-hypervisor-4.17-amd64";
    let directory = cached(PACKAGE, |work, ready| {
        let root = unpack(&Apt::host(), &[PACKAGE], work)?;
        let packed = root.join("boot/xen-4.17-amd64.gz");
        let output = Command::new("gzip").arg("-dc").arg(&packed).output()?;
        ensure!(output.status.success(), "cannot unpack {}", packed.display());
        Ok(fs::write(ready.join("xen"), output.stdout)?)
    })?;
    Ok(directory.join("xen"))
}

fn for_i386(metapackage: &str) -> Result<Kernel> {
    let directory = cached(metapackage, |work, ready| {
        let apt = Apt::foreign("i386", &work.join("apt"))?;
        let package = apt.concrete_kernel(metapackage)?;
        let root = unpack_kernel(&apt, &[&package, "busybox-static"], work, ready)?;
        take(&root.join("bin/busybox"), &ready.join("busybox"))
    })?;
    let initrd = directory.join("initrd.cpio");
    // The scripts in it may have changed since.
    assets::replace(&initrd, &initrd::build(&directory.join("busybox"))?)?;
    Ok(Kernel { image: directory.join("vmlinuz"), initrd })
}

/// A directory of the cache, filled first by `fill(work, ready)` if it is not
/// there: `ready` becomes the directory, `work` goes away.
fn cached(name: &str, fill: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache_directory()?;
    let _lock = lock(&cache)?;
    let directory = cache.join("kernels").join(name);
    if !directory.exists() {
        let work = cache.join("unpack");
        remove(&work)?;
        let ready = work.join("ready");
        fs::create_dir_all(&ready)?;
        fs::create_dir_all(cache.join("kernels"))?;
        fill(&work, &ready)?;
        fs::rename(&ready, &directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        remove(&work)?;
    }
    Ok(directory)
}

/// Unpacks packages; returns the root of what they hold.
fn unpack(apt: &Apt, packages: &[&str], work: &Path) -> Result<PathBuf> {
    let (debs, root) = (work.join("debs"), work.join("root"));
    for directory in [&debs, &root] {
        fs::create_dir_all(directory)?;
    }
    apt.unpack(packages.iter().copied(), &debs, &root)?;
    Ok(root)
}

/// Unpacks packages, one of them a kernel, which is taken; returns the root of what they hold.
fn unpack_kernel(apt: &Apt, packages: &[&str], work: &Path, ready: &Path) -> Result<PathBuf> {
    let root = unpack(apt, packages, work)?;
    let boot = list(&root.join("boot"))?;
    let kernel = boot
        .iter()
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
        .context("a kernel package holds no boot/vmlinuz")?;
    take(kernel, &ready.join("vmlinuz"))?;
    Ok(root)
}
