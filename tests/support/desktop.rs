//! An X server and programs for it, beside the test guest with the drivers of display adapters: `guest/desktop`
//! starts them. They come from Debian's packages, with the libraries that they need and no others.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::Apt;
use crate::assets::{cache_directory, list, lock, remove, replace, run};
use crate::cpio::Archive;
use crate::modules::{self, Modular};

const PACKAGES: [&str; 5] =
    ["x11-apps", "x11-xkb-utils", "x11-xserver-utils", "xkb-data", "xserver-xorg-core"];
/// What is large, and only there for 3D.
const LEFT_OUT: [&str; 2] = ["libgl1-mesa-dri", "libllvm"];

const PROGRAMS: [&str; 5] =
    ["usr/bin/xcalc", "usr/bin/xeyes", "usr/bin/xkbcomp", "usr/bin/xlogo", "usr/bin/xsetroot"];
const SERVER: &str = "usr/lib/xorg/Xorg";
const SERVER_MODULES: [&str; 2] =
    ["usr/lib/xorg/modules/drivers/modesetting_drv.so", "usr/lib/xorg/modules/libshadow.so"];
const DATA: [&str; 2] = ["usr/share/X11/xkb", "etc/X11/app-defaults"];
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

const CONFIG: &str = include_str!("guest/xorg.conf");

/// Bump when the lists above change.
const LAYOUT: &str = "rhea desktop 1\n";

/// The kernel and the guest, fetched first if they are not there yet.
pub fn get() -> Result<Modular> {
    let Modular { kernel, initrd, modules } = modules::display()?;
    let directory = cache_directory()?.join("desktop");
    let _lock = lock(&directory)?;
    let (own, stamp) = (directory.join("own.cpio"), directory.join("stamp"));
    let wanted = format!("{LAYOUT}{CONFIG}");
    if !fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == wanted) {
        make(&directory.join("work"), &own)?;
        replace(&stamp, wanted.as_bytes())?;
    }
    // One archive after the other: Linux unpacks both.
    let whole = directory.join("initrd.cpio");
    let new = whole.with_extension("new");
    fs::copy(&initrd, &new).with_context(|| format!("cannot copy {}", initrd.display()))?;
    io::copy(&mut File::open(&own)?, &mut File::options().append(true).open(&new)?)?;
    fs::rename(&new, &whole)?;
    Ok(Modular { kernel, initrd: whole, modules })
}

fn make(work: &Path, archive: &Path) -> Result<()> {
    let (debs, root) = (work.join("debs"), work.join("root"));
    remove(work)?;
    for directory in [&debs, &root] {
        fs::create_dir_all(directory)?;
    }
    let apt = Apt::host();
    apt.ensure_known(PACKAGES[0])?;
    let mut packages: BTreeSet<String> = PACKAGES.map(String::from).into();
    packages.extend(apt.libraries_of(&PACKAGES)?);
    packages.retain(|package| !LEFT_OUT.iter().any(|left_out| package.starts_with(left_out)));
    apt.unpack(packages.iter().map(String::as_str), &debs, &root)?;

    let mut tree = Tree { root: &root, archive: Archive::default(), made: BTreeSet::new() };
    let executables = PROGRAMS.iter().chain(&SERVER_MODULES).chain([&SERVER]);
    for path in executables.clone().chain([&LOADER]) {
        tree.add(path)?;
    }
    for library in libraries(&root, executables.copied())? {
        let name = library.file_name().unwrap_or_default().to_string_lossy();
        tree.file(&format!("{}/{name}", LIBRARIES[0]), &library)?;
    }
    for path in DATA {
        tree.add_all(path)?;
    }
    tree.link("bin/Xorg", SERVER);
    for program in PROGRAMS {
        tree.link(program.trim_start_matches("usr/"), program);
    }
    tree.directory("etc/X11");
    tree.archive.file("etc/X11/xorg.conf", 0o644, CONFIG.as_bytes());
    replace(archive, &tree.archive.finish())?;
    remove(work)
}

/// Files of a tree on their way into an archive.
struct Tree<'a> {
    root: &'a Path,
    archive: Archive,
    made: BTreeSet<String>,
}

impl Tree<'_> {
    fn directory(&mut self, path: &str) {
        if path.is_empty() || self.made.contains(path) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
        self.archive.directory(path);
        self.made.insert(path.to_owned());
    }

    fn file(&mut self, to: &str, from: &Path) -> Result<()> {
        let contents = fs::read(from).with_context(|| format!("no {}", from.display()))?;
        self.directory(to.rsplit_once('/').map_or("", |(above, _)| above));
        self.archive.file(to, 0o755, &contents);
        Ok(())
    }

    fn add(&mut self, path: &str) -> Result<()> {
        self.file(path, &self.root.join(path))
    }

    fn add_all(&mut self, path: &str) -> Result<()> {
        for entry in list(&self.root.join(path))? {
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            let path = format!("{path}/{name}");
            if entry.is_symlink() {
                // Names of the same from other times.
            } else if entry.is_dir() {
                self.add_all(&path)?;
            } else {
                self.add(&path)?;
            }
        }
        Ok(())
    }

    fn link(&mut self, at: &str, to: &str) {
        self.archive.symlink(at, &format!("/{to}"));
    }
}

/// The libraries that these files of a tree need, as the loader finds them there.
fn libraries<'a>(root: &Path, files: impl Iterator<Item = &'a str>) -> Result<BTreeSet<PathBuf>> {
    let places = LIBRARIES.map(|place| root.join(place).display().to_string());
    let mut command = Command::new("ldd");
    command.env("LD_LIBRARY_PATH", places.join(":"));
    let said = run(command.args(files.map(|file| root.join(file))))?;
    ensure!(!said.contains("not found"), "libraries are missing:\n{said}");
    let found = said.lines().filter_map(|line| line.split_once("=> ")?.1.split(' ').next());
    Ok(found.map(PathBuf::from).collect())
}
