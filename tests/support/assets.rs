//! Guest assets: kernels, firmware and tools, unpacked from Debian packages
//! into a cache outside the source tree. No root is needed; nothing is
//! installed.
//!
//! The cache is `$RHEA_CACHE`, else `$XDG_CACHE_HOME/rhea`, else
//! `~/.cache/rhea`. It is filled once; delete the directory to fill it anew.

use crate::apt::Apt;
use crate::initrd;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages whose files are taken, beside the two kernels.
const PACKAGES: [&str; 6] =
    ["acpica-tools", "busybox-static", "memtest86+", "ovmf", "pciutils", "seabios"];

/// Packages that merely depend on the current kernel of their kind.
const CLOUD_KERNEL: &str = "linux-image-cloud-amd64";
const GENERIC_KERNEL: &str = "linux-image-amd64";

/// Programs of the second initrd; their shared libraries come along.
const TOOL_PROGRAMS: [&str; 4] = ["acpidump", "iasl", "lspci", "setpci"];

/// Bump when the cache's layout or the lists above change.
const LAYOUT: &str = "rhea assets 1\n";

/// The filled cache.
pub struct Assets {
    dir: PathBuf,
}

impl Assets {
    /// Debian's kernel for virtual machines.
    pub fn cloud_kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz-cloud")
    }

    /// Debian's kernel for any machine.
    pub fn generic_kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz-generic")
    }

    /// The test guest (see [`initrd`]).
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd.cpio")
    }

    /// The test guest with lspci, setpci, acpidump and iasl.
    pub fn initrd_with_tools(&self) -> PathBuf {
        self.dir.join("initrd-tools.cpio")
    }

    /// What the guests are built around: every tool in one static program.
    pub fn busybox(&self) -> PathBuf {
        self.dir.join("busybox")
    }

    /// memtest86+ as a Linux boot image.
    pub fn memtest(&self) -> PathBuf {
        self.dir.join("memtest86+x64.bin")
    }

    /// SeaBIOS and the VGA BIOSes.
    pub fn seabios(&self) -> PathBuf {
        self.dir.join("seabios")
    }

    /// UEFI firmware.
    pub fn ovmf(&self) -> PathBuf {
        self.dir.join("ovmf")
    }

    /// The ACPI compiler and disassembler; runs on a Debian host.
    pub fn iasl(&self) -> PathBuf {
        self.dir.join("tools/bin/iasl")
    }
}

/// The assets, fetched first if they are not there yet.
pub fn get() -> Result<Assets> {
    let cache = cache_directory()?;
    let _lock = lock(&cache)?;

    let assets = Assets { dir: cache.join("assets") };
    if !fs::read_to_string(assets.dir.join("stamp")).is_ok_and(|stamp| stamp == LAYOUT) {
        fetch(&cache, &assets.dir)?;
    }
    // The scripts are part of this program and may have changed since.
    let busybox = assets.dir.join("busybox");
    replace(&assets.initrd(), &initrd::build(&busybox)?)?;
    replace(
        &assets.initrd_with_tools(),
        &initrd::build_with_tools(&busybox, &assets.dir.join("tools"))?,
    )?;
    Ok(assets)
}

/// Several tests may want to fill the cache at once: one does, the rest wait.
pub(crate) fn lock(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let path = cache.join("lock");
    let lock = File::create(&path)?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(lock)
}

pub(crate) fn cache_directory() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("RHEA_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("rhea")))
        .or_else(|| from("HOME").map(|dir| dir.join(".cache/rhea")))
        .context("no place for the guest assets: set RHEA_CACHE to a directory")
}

/// Writes a file that others may be reading, unless it is right already.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == contents) {
        return Ok(());
    }
    let new = path.with_extension("new");
    fs::write(&new, contents).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot replace {}", path.display()))
}

fn fetch(cache: &Path, dir: &Path) -> Result<()> {
    let work = cache.join("unpack");
    let (debs, root, ready) = (work.join("debs"), work.join("root"), work.join("assets"));
    remove(&work)?;
    for directory in [&debs, &root, &ready] {
        fs::create_dir_all(directory)?;
    }

    let apt = Apt::host();
    apt.ensure_known(CLOUD_KERNEL)?;
    let mut packages: BTreeSet<String> = PACKAGES.map(String::from).into();
    packages.insert(apt.concrete_kernel(CLOUD_KERNEL)?);
    packages.insert(apt.concrete_kernel(GENERIC_KERNEL)?);
    packages.extend(apt.libraries_of(&["acpica-tools", "pciutils"])?);
    apt.unpack(packages.iter().map(String::as_str), &debs, &root)?;

    arrange(&root, &ready)?;
    fs::write(ready.join("stamp"), LAYOUT)?;
    remove(dir)?;
    fs::rename(&ready, dir).with_context(|| format!("cannot create {}", dir.display()))?;
    remove(&work)
}

/// Moves what is wanted out of the unpacked packages, under names that do not
/// depend on versions.
fn arrange(root: &Path, to: &Path) -> Result<()> {
    let boot = list(&root.join("boot"))?;
    let kernel = |cloud: bool| {
        boot.iter()
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("vmlinuz-") && name.ends_with("-cloud-amd64") == cloud
            })
            .context("a kernel package holds no boot/vmlinuz")
    };
    take(kernel(true)?, &to.join("vmlinuz-cloud"))?;
    take(kernel(false)?, &to.join("vmlinuz-generic"))?;
    take(&root.join("boot/memtest86+x64.bin"), &to.join("memtest86+x64.bin"))?;
    take(&root.join("bin/busybox"), &to.join("busybox"))?;
    for (from, name) in [("usr/share/seabios", "seabios"), ("usr/share/OVMF", "ovmf")] {
        fs::create_dir_all(to.join(name))?;
        for path in list(&root.join(from))? {
            take(&path, &to.join(name).join(path.file_name().unwrap_or_default()))?;
        }
    }

    let (programs, libraries) = (to.join("tools/bin"), to.join("tools/lib"));
    fs::create_dir_all(&programs)?;
    fs::create_dir_all(&libraries)?;
    for name in TOOL_PROGRAMS {
        let found = ["usr/bin", "usr/sbin", "bin", "sbin"]
            .map(|bin| root.join(bin).join(name))
            .into_iter()
            .find(|path| path.exists())
            .with_context(|| format!("no package holds the program {name}"))?;
        take(&found, &programs.join(name))?;
    }
    for directory in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64"] {
        for path in list(&root.join(directory)).unwrap_or_default() {
            let name = path.file_name().unwrap_or_default();
            if path.is_file() && name.to_string_lossy().contains(".so") {
                take(&path, &libraries.join(name))?;
            }
        }
    }
    Ok(())
}

/// Copies one file; follows links, so that the result stands alone.
pub(crate) fn take(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(directory)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("cannot list {}", directory.display()))?;
    paths.sort();
    Ok(paths)
}

pub(crate) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
