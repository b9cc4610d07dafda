//! A Debian 12 with systemd as an initial RAM file system, for guests that run
//! ordinary programs.
//!
//! mmdebstrap makes it once for each set of packages, as root; what is our own comes as
//! a second archive behind the first, which Linux unpacks over it (kernel
//! documentation: driver-api/early-userspace/buffer-format). The kernel command
//! line names the checks to run before the login prompt (`rhea.run=openssl,...`);
//! their results are lines of TAP.

use crate::apt::as_root;
use crate::assets::{cache_directory, list, lock, replace, run};
use crate::cpio::Archive;
use crate::initrd::NETWORK_DRIVERS;
use crate::modules;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const SUITE: &str = "bookworm";

/// What a Debian is made of, and what is put over it.
struct Flavour {
    /// Where in the cache it is.
    place: &'static str,
    packages: &'static str,
    /// Checks, and how they are run.
    scripts: &'static [(&'static str, &'static str)],
}

/// For checks of the processor.
const PROCESSOR: Flavour = Flavour {
    place: "debian",
    packages: "systemd-sysv,udev,stress-ng,openssl,python3,libpython3.11-testsuite",
    scripts: &[
        ("ld-so", include_str!("guest/debian/ld-so")),
        ("openssl", OPENSSL_ANSWERS),
        ("openssl-keys", include_str!("guest/debian/openssl-keys")),
        ("openssl-speed", include_str!("guest/debian/openssl-speed")),
        ("poweroff", POWEROFF),
        ("python", include_str!("guest/debian/python")),
        ("run", RUN),
        ("stress-ng", include_str!("guest/debian/stress-ng")),
    ],
};

/// For programs that use a network.
const NETWORK: Flavour = Flavour {
    place: "debian-network",
    packages: "systemd-sysv,udev,kmod,iproute2,iputils-ping,isc-dhcp-client,ethtool,pciutils,\
               openssh-server,openssl,curl,iperf3,bind9-dnsutils,smbclient,python3-minimal",
    scripts: &[
        ("network", include_str!("guest/debian/network")),
        ("network-drivers", NETWORK_DRIVERS),
        ("network-talk", include_str!("guest/debian/network-talk")),
        ("network-view", include_str!("guest/debian/network-view")),
        ("poweroff", POWEROFF),
        ("run", RUN),
    ],
};

const POWEROFF: &str = include_str!("guest/debian/poweroff");
const RUN: &str = include_str!("guest/debian/run");

/// What no check looks at.
const LEFT_OUT: [&str; 7] = [
    "/usr/lib/udev/hwdb.d/*",
    "/usr/share/doc/*",
    "/usr/share/i18n/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/X11/*",
];

/// Runs in the finished tree: root needs no password, and all but what the
/// kernel mounts and apt keeps goes into the archive named by the environment.
const PACK: &str = r#"set -e
chroot "$1" passwd --quiet --delete root
cd "$1"
find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./var/cache/apt \
    -o -path ./var/lib/apt/lists \) -prune -o -print |
    LC_ALL=C sort | cpio --quiet --create --format=newc --reproducible > "$RHEA_ARCHIVE""#;

/// The check `openssl`: a script that prints the same lines, each starting with
/// `rhea-openssl: `, on every correct processor.
pub const OPENSSL_ANSWERS: &str = include_str!("guest/debian/openssl");

/// The file system for checks of the processor, made first if it is not there yet.
pub fn initrd() -> Result<PathBuf> {
    prepare(&PROCESSOR, &[])
}

/// The one with programs that use a network, and the drivers of network cards; and their kernel.
pub fn network() -> Result<(PathBuf, PathBuf)> {
    let guest = modules::network()?;
    Ok((guest.kernel, prepare(&NETWORK, &list(&guest.modules)?)?))
}

fn prepare(flavour: &Flavour, modules: &[PathBuf]) -> Result<PathBuf> {
    let directory = cache_directory()?.join(flavour.place);
    let _lock = lock(&directory)?;
    let (base, own) = (directory.join("base.cpio"), directory.join("own.cpio"));
    let (whole, recipe) = (directory.join("initrd.cpio"), directory.join("recipe"));

    let wanted = format!("{SUITE}\n{}\n{}\n{PACK}\n", flavour.packages, LEFT_OUT.join("\n"));
    if !fs::read_to_string(&recipe).is_ok_and(|recipe| recipe == wanted) {
        make(flavour, &base)?;
        let _ = fs::remove_file(&own);
        replace(&recipe, wanted.as_bytes())?;
    }
    // The scripts are part of this program and may have changed since.
    let scripts = own_files(flavour, modules)?;
    if !fs::read(&own).is_ok_and(|own| own == scripts) {
        let new = whole.with_extension("new");
        fs::copy(&base, &new).with_context(|| format!("cannot copy {}", base.display()))?;
        let mut end = File::options().append(true).open(&new)?;
        io::copy(&mut scripts.as_slice(), &mut end)?;
        fs::rename(&new, &whole)?;
        replace(&own, &scripts)?;
    }
    Ok(whole)
}

fn make(flavour: &Flavour, archive: &Path) -> Result<()> {
    for program in ["mmdebstrap", "cpio"] {
        if Command::new(program).arg("--version").output().is_err() {
            eprintln!("installing {program}");
            let arguments = ["-q", "install", "-y", "--no-install-recommends", program];
            run(as_root("apt-get")?.args(arguments))?;
        }
    }
    let packages = flavour.packages;
    eprintln!("making a Debian {SUITE}: {packages}");
    let mut command = as_root("env")?;
    command.arg(format!("RHEA_ARCHIVE={}", archive.display()));
    command.args(["mmdebstrap", "--quiet", "--variant=minbase", "--format=null"]);
    command.arg(format!("--include={packages}"));
    for path in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command.arg(format!("--customize-hook={PACK}"));
    run(command.arg(SUITE)).map(drop)
}

/// The archive of what is our own.
fn own_files(flavour: &Flavour, modules: &[PathBuf]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.symlink("init", "sbin/init");
    archive.directory("dev");
    // The kernel opens this for /init's standard streams before /dev is mounted.
    archive.character_device("dev/console", 5, 1);
    archive.directory("rhea");
    for (name, text) in flavour.scripts {
        archive.file(&format!("rhea/{name}"), 0o755, text.as_bytes());
    }
    if !modules.is_empty() {
        archive.directory("usr/lib/modules");
    }
    for path in modules {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        archive.file(&format!("usr/lib/modules/{name}"), 0o644, &bytes);
    }
    let units = "etc/systemd/system";
    let service = include_bytes!("guest/debian/rhea.service");
    archive.file(&format!("{units}/rhea.service"), 0o644, service);
    archive.directory(&format!("{units}/multi-user.target.wants"));
    archive.symlink(&format!("{units}/multi-user.target.wants/rhea.service"), "../rhea.service");
    Ok(archive.finish())
}
