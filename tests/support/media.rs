//! Media that machines boot from: a rescue CD, a floppy disk and a Debian on a hard disk, each made once
//! with Debian's own tools.

use crate::apt::{Apt, as_root};
use crate::assets::{cache_directory, lock, remove, replace, run};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the tools come in.
const PACKAGES: [&str; 8] = [
    "e2fsprogs",
    "fdisk",
    "grub-common",
    "grub-pc-bin",
    "mtools",
    "syslinux",
    "syslinux-common",
    "xorriso",
];

/// Bump when the list above changes.
const LAYOUT: &str = "rhea tools 1\n";

/// The programs, unpacked; nothing is installed.
struct Tools {
    root: PathBuf,
}

impl Tools {
    /// The tools, fetched first if they are not there yet. To be called under the lock.
    fn get(directory: &Path) -> Result<Self> {
        let (root, stamp) = (directory.join("tools"), directory.join("stamp"));
        if !fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == LAYOUT) {
            let debs = directory.join("debs");
            for directory in [&root, &debs] {
                remove(directory)?;
                fs::create_dir_all(directory)?;
            }
            let apt = Apt::host();
            apt.ensure_known(PACKAGES[0])?;
            let mut packages: Vec<_> = PACKAGES.map(String::from).into();
            packages.extend(apt.libraries_of(&PACKAGES)?);
            apt.unpack(packages.iter().map(String::as_str), &debs, &root)?;
            replace(&stamp, LAYOUT.as_bytes())?;
        }
        Ok(Tools { root })
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside)
    }

    /// One of the programs, which finds the others and its libraries.
    fn command(&self, program: &str) -> Result<Command> {
        let places = ["usr/bin", "usr/sbin", "sbin", "bin"].map(|place| self.path(place));
        let found = places.iter().map(|place| place.join(program)).find(|path| path.exists());
        let mut command =
            Command::new(found.with_context(|| format!("no package holds {program}"))?);
        let host = std::env::var("PATH").unwrap_or_default();
        let own: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        command.env("PATH", format!("{}:{host}", own.join(":")));
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|place| self.path(place).display().to_string());
        command.env("LD_LIBRARY_PATH", libraries.join(":"));
        Ok(command)
    }

    /// Where GRUB's modules for a BIOS are.
    fn grub(&self) -> PathBuf {
        self.path("usr/lib/grub/i386-pc")
    }
}

/// The directory of the media, with a file of this name in it that `make` fills once for each recipe.
fn medium(
    name: &str,
    recipe: &str,
    make: impl FnOnce(&Tools, &Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let directory = cache_directory()?.join("media");
    let _lock = lock(&directory)?;
    let (path, written) = (directory.join(name), directory.join(format!("{name}.recipe")));
    if !fs::read_to_string(&written).is_ok_and(|written| written == recipe) {
        eprintln!("making {name}");
        let tools = Tools::get(&directory)?;
        let work = directory.join("work");
        remove(&work)?;
        fs::create_dir_all(&work)?;
        make(&tools, &work, &path)?;
        remove(&work)?;
        replace(&written, recipe.as_bytes())?;
    }
    Ok(path)
}

/// What GRUB does on the rescue CD: it talks on the serial port and waits.
const RESCUE_CONFIG: &str = "serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=-1
menuentry \"rhea rescue\" {
    echo rhea: chosen
    sleep 3600
}
";

/// What GRUB does on the CD with a menu: it waits.
const MENU_CONFIG: &str = "set timeout=-1
menuentry \"rhea first\" {
    echo rhea: chosen
    sleep 3600
}
menuentry \"rhea second\" {
    true
}
";

/// A CD with GRUB on it, as grub-mkrescue makes it.
pub fn rescue_cd() -> Result<PathBuf> {
    grub_cd("rescue.iso", RESCUE_CONFIG)
}

/// A CD with GRUB's menu in text.
pub fn menu_cd() -> Result<PathBuf> {
    grub_cd("menu.iso", MENU_CONFIG)
}

fn grub_cd(name: &str, config: &str) -> Result<PathBuf> {
    medium(name, config, |tools, work, image| {
        let tree = work.join("tree");
        fs::create_dir_all(tree.join("boot/grub"))?;
        fs::write(tree.join("boot/grub/grub.cfg"), config)?;
        let mut command = tools.command("grub-mkrescue")?;
        command.arg("--directory").arg(tools.grub());
        command.args(["--locales=", "--fonts=", "--themes="]);
        command.arg(format!("--xorriso={}", tools.path("usr/bin/xorriso").display()));
        run(command.arg("-o").arg(image).arg(&tree)).map(drop)
    })
}

/// What GRUB does on the CD with graphics: a menu of dots, and a test of memory to choose.
const GRAPHICAL_CONFIG: &str = "loadfont /boot/grub/fonts/unicode.pf2
insmod all_video
set gfxmode=1024x768x32
insmod gfxterm
terminal_output gfxterm
set timeout=-1
menuentry \"Rhea: first entry\" {
    echo chosen
    sleep 3600
}
menuentry \"Rhea: second entry\" {
    true
}
menuentry \"Test of memory\" --hotkey=t {
    terminal_output console
    linux /boot/memtest
    boot
}
";

/// A CD with GRUB's graphical menu, and memtest86+ to be started from it by `t`.
pub fn graphical_cd(memtest: &Path) -> Result<PathBuf> {
    medium("graphical.iso", GRAPHICAL_CONFIG, |tools, work, image| {
        let tree = work.join("tree");
        let fonts = tree.join("boot/grub/fonts");
        fs::create_dir_all(&fonts)?;
        fs::write(tree.join("boot/grub/grub.cfg"), GRAPHICAL_CONFIG)?;
        fs::copy(tools.path("usr/share/grub/unicode.pf2"), fonts.join("unicode.pf2"))?;
        fs::copy(memtest, tree.join("boot/memtest"))?;
        let mut command = tools.command("grub-mkrescue")?;
        command.arg("--directory").arg(tools.grub());
        command.args(["--locales=", "--fonts=", "--themes="]);
        command.arg(format!("--xorriso={}", tools.path("usr/bin/xorriso").display()));
        run(command.arg("-o").arg(image).arg(&tree)).map(drop)
    })
}

/// What SYSLINUX does on the floppy disk.
const FLOPPY_CONFIG: &str = "SERIAL 0 115200
PROMPT 1
TIMEOUT 0
DEFAULT nothing
LABEL nothing
    KERNEL nothing
";

/// A floppy disk of 1.44 MB with SYSLINUX on it.
pub fn floppy() -> Result<PathBuf> {
    medium("syslinux.img", FLOPPY_CONFIG, |tools, work, image| {
        let config = work.join("syslinux.cfg");
        fs::write(&config, FLOPPY_CONFIG)?;
        fs::write(image, vec![0; 1440 << 10])?;
        let mut format = tools.command("mformat")?;
        run(format.arg("-i").arg(image).args(["-f", "1440", "::"]))?;
        let mut copy = tools.command("mcopy")?;
        run(copy.arg("-i").arg(image).arg(&config).arg("::"))?;
        run(tools.command("syslinux")?.arg("--install").arg(image)).map(drop)
    })
}

/// What SYSLINUX shows on the floppy disk with graphics.
const VESA_CONFIG: &str = "UI vesamenu.c32
PROMPT 0
TIMEOUT 0
MENU TITLE Rhea
LABEL one
    MENU LABEL The first one
    KERNEL nothing
LABEL two
    MENU LABEL The second one
    KERNEL nothing
";

/// A floppy disk with SYSLINUX's graphical menu.
pub fn vesa_floppy() -> Result<PathBuf> {
    medium("vesamenu.img", VESA_CONFIG, |tools, work, image| {
        let config = work.join("syslinux.cfg");
        fs::write(&config, VESA_CONFIG)?;
        fs::write(image, vec![0; 1440 << 10])?;
        let mut format = tools.command("mformat")?;
        run(format.arg("-i").arg(image).args(["-f", "1440", "::"]))?;
        let modules = tools.path("usr/lib/syslinux/modules/bios");
        let mut copy = tools.command("mcopy")?;
        copy.arg("-i").arg(image).arg(&config);
        for module in ["vesamenu.c32", "libcom32.c32", "libutil.c32"] {
            copy.arg(modules.join(module));
        }
        run(copy.arg("::"))?;
        run(tools.command("syslinux")?.arg("--install").arg(image)).map(drop)
    })
}

const SUITE: &str = "bookworm";
const DEBIAN_PACKAGES: &str = "linux-image-amd64,initramfs-tools,systemd-sysv,udev,fio";
/// GRUB loads these and does what follows.
const DISK_MODULES: [&str; 8] =
    ["biosdisk", "part_msdos", "ext2", "linux", "serial", "terminal", "boot", "echo"];

/// What the first stage does without a menu.
const DISK_CONFIG: &str = "serial --unit=0 --speed=115200
terminal_output serial
echo rhea: loading
linux (hd0,msdos1)/vmlinuz root=LABEL=rhea-root console=ttyS0 panic=-1 systemd.show_status=error
initrd (hd0,msdos1)/initrd.img
boot
";

/// Runs in the finished tree: root needs no password, and all of it but what is mounted there becomes a
/// file system. The tree is the argument; the environment names the file.
const FILL: &str = r#"set -e
chroot "$1" passwd --quiet --delete root
echo 'LABEL=rhea-root / ext4 defaults 0 1' > "$1/etc/fstab"
rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*
cp -ax "$1" "$RHEA_FILESYSTEM.tree"
mke2fs -q -t ext4 -L rhea-root -O ^metadata_csum,^64bit -d "$RHEA_FILESYSTEM.tree" "$RHEA_FILESYSTEM" 1500M
rm -rf "$RHEA_FILESYSTEM.tree"
"#;

/// Sectors before the partition, where GRUB is.
const PARTITION_AT: u64 = 2048;
const SECTOR: u64 = 512;

/// A disk that boots Debian by GRUB to a login prompt on the serial port.
pub fn debian_disk() -> Result<PathBuf> {
    let recipe = format!("{SUITE}\n{DEBIAN_PACKAGES}\n{DISK_CONFIG}\n{FILL}\n");
    medium("debian.img", &recipe, |tools, work, image| {
        let filesystem = work.join("filesystem");
        let mut command = as_root("env")?;
        command.arg(format!("RHEA_FILESYSTEM={}", filesystem.display()));
        command.args(["mmdebstrap", "--quiet", "--variant=minbase", "--format=null"]);
        command.arg(format!("--include={DEBIAN_PACKAGES}"));
        for path in ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"] {
            command.arg(format!("--dpkgopt=path-exclude={path}"));
        }
        command.arg(format!("--customize-hook={FILL}"));
        run(command.arg(SUITE))?;

        let config = work.join("grub.cfg");
        fs::write(&config, DISK_CONFIG)?;
        let core = work.join("core.img");
        let mut make = tools.command("grub-mkimage")?;
        make.args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-d"]).arg(tools.grub());
        make.arg("-c").arg(&config).arg("-o").arg(&core).args(DISK_MODULES);
        run(&mut make)?;
        let boot = fs::read(tools.grub().join("boot.img"))?;
        let core = fs::read(&core)?;
        ensure!(core.len() as u64 <= (PARTITION_AT - 1) * SECTOR, "GRUB has grown");

        let new = image.with_extension("new");
        fs::rename(&filesystem, &new).or_else(|_| fs::copy(&filesystem, &new).map(drop))?;
        shift(&new, &master_boot_record(&boot, fs::metadata(&new)?.len() / SECTOR), &core)?;
        fs::rename(&new, image).context("cannot name the disk")
    })
}

/// GRUB's first sector with a table of one partition of type Linux.
fn master_boot_record(boot: &[u8], sectors: u64) -> Vec<u8> {
    const TABLE: usize = 446;
    let mut record = boot[..TABLE.min(boot.len())].to_vec();
    record.resize(512, 0);
    // Active; by linear addresses only.
    let mut entry = vec![0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff];
    entry.extend((PARTITION_AT as u32).to_le_bytes());
    entry.extend((sectors as u32).to_le_bytes());
    record[TABLE..TABLE + 16].copy_from_slice(&entry);
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    record
}

/// Puts a boot record, GRUB and room before a file system.
fn shift(filesystem: &Path, record: &[u8], core: &[u8]) -> Result<()> {
    let whole = filesystem.with_extension("whole");
    let mut disk = fs::File::create(&whole)?;
    let mut source = fs::File::open(filesystem)?;
    std::io::Write::write_all(&mut disk, &[record, core].concat())?;
    std::io::Seek::seek(&mut disk, std::io::SeekFrom::Start(PARTITION_AT * SECTOR))?;
    std::io::copy(&mut source, &mut disk)?;
    fs::rename(&whole, filesystem).context("cannot write the disk")
}
