//! The test guest with drivers that Debian's kernels have as modules, and the kernel they belong to.

use crate::apt::Apt;
use crate::assets::{self, list, remove, replace, take};
use crate::initrd;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A kernel's package and some of its modules.
struct Set {
    kernel: &'static str,
    /// Of which `guest/modules` and `guest/network` load what they need.
    modules: &'static [&'static str],
    /// Where in the cache it is.
    place: &'static str,
}

/// Drivers of virtio devices, for the kernel of virtual machines.
const VIRTIO: Set = Set {
    kernel: "linux-image-cloud-amd64",
    modules: &[
        "virtio_ring",
        "virtio",
        "virtio_pci_modern_dev",
        "virtio_pci_legacy_dev",
        "virtio_pci",
        "virtio_blk",
        "virtio-rng",
    ],
    place: "modules",
};

/// Drivers of disks, for the kernel of any machine; `guest/disk-bench` loads them.
const DISKS: Set = Set {
    kernel: "linux-image-amd64",
    modules: &[
        "virtio_ring",
        "virtio",
        "virtio_pci_modern_dev",
        "virtio_pci_legacy_dev",
        "virtio_pci",
        "virtio_blk",
        "crct10dif_common",
        "crct10dif_generic",
        "crc-t10dif",
        "crc64",
        "crc64-rocksoft",
        "t10-pi",
        "scsi_common",
        "scsi_mod",
        "libata",
        "ata_piix",
        "sd_mod",
    ],
    place: "disk-modules",
};

/// Drivers of network cards, for the kernel of any machine.
const NETWORK: Set = Set {
    kernel: "linux-image-amd64",
    modules: &[
        "virtio_ring",
        "virtio",
        "virtio_pci_modern_dev",
        "virtio_pci_legacy_dev",
        "virtio_pci",
        "failover",
        "net_failover",
        "virtio_net",
        "e1000",
        "mii",
        "8139cp",
        "8390",
        "ne2k-pci",
        "pcnet32",
    ],
    place: "network-modules",
};

/// Drivers of USB and of what people type and point with; `guest/input` loads them.
const INPUT: Set = Set {
    kernel: "linux-image-amd64",
    modules: &[
        "usb-common",
        "usbcore",
        "uhci-hcd",
        "xhci-hcd",
        "xhci-pci",
        "hid",
        "hid-generic",
        "usbhid",
        "evdev",
        "virtio_ring",
        "virtio",
        "virtio_pci_modern_dev",
        "virtio_pci_legacy_dev",
        "virtio_pci",
        "virtio_input",
    ],
    place: "input-modules",
};

/// Drivers of display adapters; `guest/adapter` loads them.
const DISPLAY: Set = Set {
    kernel: "linux-image-amd64",
    modules: &[
        "virtio_ring",
        "virtio",
        "virtio_pci_modern_dev",
        "virtio_pci_legacy_dev",
        "virtio_pci",
        "drm",
        "drm_kms_helper",
        "drm_shmem_helper",
        "ttm",
        "drm_ttm_helper",
        "drm_vram_helper",
        "virtio_dma_buf",
        "virtio-gpu",
        "cirrus",
        "bochs",
    ],
    place: "display-modules",
};

/// Bump when the lists above change.
const LAYOUT: &str = "rhea modules 1\n";

/// A kernel and a guest with its modules.
pub struct Modular {
    /// The kernel.
    pub kernel: PathBuf,
    /// The guest.
    pub initrd: PathBuf,
    /// The directory of the modules alone.
    pub modules: PathBuf,
}

/// The kernel and the guest with drivers of virtio devices, fetched first if they are not there yet.
pub fn get() -> Result<Modular> {
    prepare(&VIRTIO)
}

/// The kernel and the guest with drivers of network cards.
pub fn network() -> Result<Modular> {
    prepare(&NETWORK)
}

/// The same with a program of our own.
pub fn network_with(program: &Path) -> Result<Modular> {
    with(network()?, program)
}

/// The kernel and the guest with drivers of disks, and with a program of our own.
pub fn disks_with(program: &Path) -> Result<Modular> {
    with(prepare(&DISKS)?, program)
}

fn with(modular: Modular, program: &Path) -> Result<Modular> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let initrd = modular.initrd.with_file_name(format!("initrd-{name}.cpio"));
    let busybox = assets::get()?.busybox();
    let _lock = assets::lock(&assets::cache_directory()?)?;
    replace(&initrd, &initrd::build_with_modules(&busybox, &modular.modules, &[program])?)?;
    Ok(Modular { initrd, ..modular })
}

/// The kernel and the guest with drivers of display adapters.
pub fn display() -> Result<Modular> {
    prepare(&DISPLAY)
}

/// The kernel and the guest with drivers of what people type and point with.
pub fn input() -> Result<Modular> {
    prepare(&INPUT)
}

fn prepare(set: &Set) -> Result<Modular> {
    let busybox = assets::get()?.busybox();
    let cache = assets::cache_directory()?;
    let _lock = assets::lock(&cache)?;
    let dir = cache.join(set.place);
    if !fs::read_to_string(dir.join("stamp")).is_ok_and(|stamp| stamp == LAYOUT) {
        fetch(set, &cache.join("unpack-modules"), &dir)?;
    }
    let modular = Modular {
        kernel: dir.join("vmlinuz"),
        initrd: dir.join("initrd.cpio"),
        modules: dir.join("lib"),
    };
    // The scripts are part of this program and may have changed since.
    replace(&modular.initrd, &initrd::build_with_modules(&busybox, &modular.modules, &[])?)?;
    Ok(modular)
}

fn fetch(set: &Set, work: &Path, dir: &Path) -> Result<()> {
    let (debs, root, ready) = (work.join("debs"), work.join("root"), work.join("ready"));
    remove(work)?;
    for directory in [&debs, &root, &ready.join("lib")] {
        fs::create_dir_all(directory)?;
    }
    let apt = Apt::host();
    apt.ensure_known(set.kernel)?;
    apt.unpack([apt.concrete_kernel(set.kernel)?.as_str()].into_iter(), &debs, &root)?;
    let kernel = list(&root.join("boot"))?
        .into_iter()
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
        .context("the kernel package holds no boot/vmlinuz")?;
    take(&kernel, &ready.join("vmlinuz"))?;
    for name in set.modules {
        let file = format!("{name}.ko");
        let from = find(&root.join("lib/modules"), &file)?
            .with_context(|| format!("the kernel package holds no module {file}"))?;
        take(&from, &ready.join("lib").join(file))?;
    }
    fs::write(ready.join("stamp"), LAYOUT)?;
    remove(dir)?;
    fs::rename(&ready, dir).with_context(|| format!("cannot create {}", dir.display()))?;
    remove(work)
}

/// Looks for a file below a directory.
fn find(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    for path in list(directory)? {
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|found| found == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
