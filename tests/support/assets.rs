//! Guest assets: kernels, firmware and tools, unpacked from Debian packages
//! into a cache outside the source tree. No root is needed; nothing is
//! installed.
//!
//! The cache is `$RHEA_CACHE`, else `$XDG_CACHE_HOME/rhea`, else
//! `~/.cache/rhea`. It is filled once; delete the directory to fill it anew.

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
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    // Several tests may come here at once: one fills the cache, the rest wait.
    let lock = File::create(cache.join("lock"))?;
    lock.lock().with_context(|| format!("cannot lock {}", cache.join("lock").display()))?;

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

pub(crate) fn cache_directory() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("RHEA_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("rhea")))
        .or_else(|| from("HOME").map(|dir| dir.join(".cache/rhea")))
        .context("no place for the guest assets: set RHEA_CACHE to a directory")
}

/// Writes a file that others may be reading, unless it is right already.
fn replace(path: &Path, contents: &[u8]) -> Result<()> {
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

    refresh_package_lists()?;
    let mut packages: BTreeSet<String> = PACKAGES.map(String::from).into();
    packages.insert(concrete_kernel(CLOUD_KERNEL)?);
    packages.insert(concrete_kernel(GENERIC_KERNEL)?);
    packages.extend(libraries_of(&["acpica-tools", "pciutils"])?);
    for package in &packages {
        eprintln!("fetching {package}");
        download(package, &debs)?;
    }
    for deb in list(&debs)? {
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root))
            .with_context(|| format!("cannot unpack {}", deb.display()))?;
        fs::remove_file(&deb)?;
    }

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
fn take(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(directory)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("cannot list {}", directory.display()))?;
    paths.sort();
    Ok(paths)
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Makes sure that apt knows the packages; old lists point at packages that
/// the archive no longer has, so a failed download may need this as well.
fn refresh_package_lists() -> Result<()> {
    let known = Command::new("apt-cache").args(["show", CLOUD_KERNEL]).output().context(
        "cannot run apt-cache: the guest assets come from Debian packages, so this needs a \
         Debian host, or a cache filled on one (set RHEA_CACHE)",
    )?;
    if known.status.success() && !known.stdout.is_empty() { Ok(()) } else { update() }
}

fn update() -> Result<()> {
    eprintln!("updating the package lists");
    let id = Command::new("id").arg("-u").output().context("cannot run id")?;
    let mut command = if id.stdout.trim_ascii() == b"0" {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("apt-get");
        sudo
    };
    run(command.args(["-q", "update"]))
        .map(drop)
        .context("run `apt-get update` as root, then try again")
}

/// The package that a kernel metapackage currently stands for.
fn concrete_kernel(metapackage: &str) -> Result<String> {
    let output = run(Command::new("apt-cache").args(["depends", "--important", metapackage]))?;
    output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .with_context(|| {
            format!("{metapackage} names no kernel package: run `apt-get update`, then try again")
        })
}

/// All library packages that these packages need, however far down.
fn libraries_of(packages: &[&str]) -> Result<BTreeSet<String>> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--recurse", "--important", "--no-pre-depends"]).args(packages);
    Ok(run(&mut command)?
        .lines()
        .filter(|line| (line.starts_with("lib") || line.starts_with("zlib")) && !line.contains(':'))
        .map(str::to_owned)
        .collect())
}

fn download(package: &str, into: &Path) -> Result<()> {
    let attempt =
        || run(Command::new("apt-get").args(["-q", "download", package]).current_dir(into));
    if attempt().is_ok() {
        return Ok(());
    }
    update()?;
    attempt().map(drop).with_context(|| {
        format!(
            "cannot download the Debian package {package}: check that apt's sources name a \
             Debian mirror (main), run `apt-get update`, then try again"
        )
    })
}

/// Runs a command to its end and returns what it printed.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
