//! Rows about disks: the tools on images, and a guest's requests through virtio and IDE.

use super::machine::Contender;
use super::results::{Measured, Metric, Unit};
use super::workloads;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;
use testbed::modules;

/// Bytes that are converted.
const LEN: u64 = 1 << 30;
/// Requests of `qemu-img bench`, and how far each is from the one before: no neighbours, all of the disk.
const REQUESTS: u32 = 40_000;
const STEP: u32 = 65_536 * 33 + 4096;
/// Places in the fragmented image that are written, and its length.
const PLACES: u64 = 8192;
const FRAGMENTED: u64 = 1 << 40;
/// A guest's disk.
const GUEST_LEN: u64 = 256 << 20;
/// Images on top of each other.
const CHAIN: usize = 5;

/// Images that all contenders read, made once.
struct Images {
    directory: tempfile::TempDir,
}

impl Images {
    fn get(who: &Contender) -> Result<&'static Self> {
        static IMAGES: OnceLock<Images> = OnceLock::new();
        if let Some(images) = IMAGES.get() {
            return Ok(images);
        }
        let images = Images { directory: tempfile::tempdir()? };
        write_mixed(&images.path("mixed.raw"))?;
        let (raw, qcow2) = (images.name("mixed.raw"), images.name("mixed.qcow2"));
        image(who, &["convert", "-f", "raw", "-O", "qcow2", &raw, &qcow2])?;
        images.make_fragmented(who)?;
        images.make_chain(who)?;
        Ok(IMAGES.get_or_init(|| images))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A large disk with little data everywhere.
    fn make_fragmented(&self, who: &Contender) -> Result<()> {
        let name = self.name("fragmented.qcow2");
        image(who, &["create", "-q", "-f", "qcow2", &name, &FRAGMENTED.to_string()])?;
        let mut io = Command::new(who.program.with_file_name("qemu-io"))
            .args(["-t", "unsafe", "-f", "qcow2", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run qemu-io")?;
        let mut input = io.stdin.take().context("no input")?;
        for place in 0..PLACES {
            // An odd factor visits each place once, in no order.
            let at = place * 2_654_435_761 % PLACES * (FRAGMENTED / PLACES);
            writeln!(input, "write -q -P {} {at} 4k", place % 255 + 1)?;
        }
        drop(input);
        ensure!(io.wait()?.success(), "qemu-io failed");
        Ok(())
    }

    /// Each image has every fifth part of the disk.
    fn make_chain(&self, who: &Contender) -> Result<()> {
        for index in 0..CHAIN {
            let (name, below) =
                (self.name(&format!("{index}")), self.name(&format!("{}", index.max(1) - 1)));
            let mut args = vec!["create", "-q", "-f", "qcow2"];
            if index > 0 {
                args.extend(["-b", &below, "-F", "qcow2"]);
            }
            let len = LEN.to_string();
            args.extend([name.as_str(), &len]);
            image(who, &args)?;
            let parts = (index as u64..LEN >> 20).step_by(CHAIN);
            let writes: Vec<String> =
                parts.map(|part| format!("write -q -P {} {part}M 1M", index + 1)).collect();
            for writes in writes.chunks(100) {
                let mut io = Command::new(who.program.with_file_name("qemu-io"));
                io.args(["-t", "unsafe", "-f", "qcow2"]);
                for write in writes {
                    io.args(["-c", write]);
                }
                ensure!(io.arg(&name).status()?.success(), "qemu-io failed");
            }
        }
        Ok(())
    }
}

/// Holes, text, and noise.
fn write_mixed(path: &Path) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut file = File::create(path)?;
    let text = b"the quick brown fox jumps over the lazy dog, and the disk turns 0123456789\n";
    let text: Vec<u8> = text.iter().cycle().take(PIECE as usize).copied().collect();
    let mut state = 1_u64;
    for piece in 0..LEN / PIECE {
        match piece % 4 {
            0 => {
                use std::io::Seek;
                file.seek_relative(PIECE as i64)?;
            }
            1 | 2 => file.write_all(&text)?,
            _ => {
                let noise: Vec<u8> = (0..PIECE / 8)
                    .flat_map(|_| {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        state.to_le_bytes()
                    })
                    .collect();
                file.write_all(&noise)?;
            }
        }
    }
    file.set_len(LEN)?;
    Ok(())
}

/// Runs `qemu-img` of a contender; returns its seconds. What others wrote has reached the disk before: else
/// the first one waits for it.
fn image(who: &Contender, args: &[&str]) -> Result<f64> {
    ensure!(Command::new("sync").status()?.success(), "sync failed");
    let begun = Instant::now();
    let output = Command::new(who.program.with_file_name("qemu-img"))
        .args(args)
        .output()
        .context("cannot run qemu-img")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "qemu-img {args:?}: {text}");
    Ok(begun.elapsed().as_secs_f64())
}

fn seconds(row: &str, name: &str, what: &str) -> Metric {
    Metric::new(&format!("{row}/{name}"), what, Unit::Seconds)
}

/// `qemu-img convert`.
pub fn convert(who: &Contender) -> Result<Measured> {
    let images = Images::get(who)?;
    let scratch = tempfile::tempdir()?;
    let target = scratch.path().join("target").display().to_string();
    let (raw, qcow2) = (images.name("mixed.raw"), images.name("mixed.qcow2"));
    let ways: [(&str, &str, &[&str]); 4] = [
        ("to-qcow2", "convert: raw to qcow2, 1 GiB", &["-f", "raw", "-O", "qcow2", &raw]),
        ("to-raw", "convert: qcow2 to raw", &["-f", "qcow2", "-O", "raw", &qcow2]),
        ("zlib", "convert: raw to compressed qcow2", &["-c", "-f", "raw", "-O", "qcow2", &raw]),
        (
            "zstd",
            "the same with zstd",
            &["-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", &raw],
        ),
    ];
    let mut measured = Vec::new();
    for (name, what, args) in ways {
        let args: Vec<&str> =
            ["convert"].iter().chain(args).chain([&target.as_str()]).copied().collect();
        measured.push((seconds("image-convert", name, what), image(who, &args)?));
    }
    Ok(measured)
}

/// Subcommands that look at an image's tables.
pub fn tables(who: &Contender) -> Result<Measured> {
    let images = Images::get(who)?;
    let (fragmented, raw, qcow2) =
        (images.name("fragmented.qcow2"), images.name("mixed.raw"), images.name("mixed.qcow2"));
    let ways: [(&str, &str, &[&str]); 5] = [
        ("check", "check of a fragmented image of 1 TiB", &["check", &fragmented]),
        ("map", "map of the same", &["map", "--output=json", &fragmented]),
        ("measure", "measure of the same", &["measure", "-O", "qcow2", &fragmented]),
        (
            "compare",
            "compare of the same with itself",
            &["compare", "-U", &fragmented, &fragmented],
        ),
        ("compare-full", "compare of 1 GiB of qcow2 with raw", &["compare", &qcow2, &raw]),
    ];
    let mut measured = Vec::new();
    for (name, what, args) in ways {
        measured.push((seconds("image-tables", name, what), image(who, args)?));
    }
    Ok(measured)
}

/// `qemu-img bench`: requests of 4 KiB that are far from each other, 32 at a time; past the host's cache,
/// where its disk sets the pace, and through it.
pub fn random(who: &Contender) -> Result<Measured> {
    let images = Images::get(who)?;
    let top = format!("{}", CHAIN - 1);
    let scratch = tempfile::tempdir()?;
    let mut measured = Vec::new();
    for (name, file, format) in
        [("raw", "mixed.raw", "raw"), ("qcow2", "mixed.qcow2", "qcow2"), ("chain", &*top, "qcow2")]
    {
        for (cache, said, write) in [
            ("none", "direct", false),
            ("none", "direct", true),
            ("writeback", "cached", false),
            ("writeback", "cached", true),
        ] {
            // Writes go to a copy; in a chain, to a new image on top.
            let source = images.name(file);
            let copy = scratch.path().join("copy").display().to_string();
            if write && name == "chain" {
                image(who, &["create", "-q", "-f", "qcow2", "-b", &source, "-F", "qcow2", &copy])?;
            } else if write {
                std::fs::copy(&source, &copy)?;
            }
            let target = if write { &copy } else { &source };
            let (count, step) = (REQUESTS.to_string(), STEP.to_string());
            let mut args = vec!["bench", "-f", format, "-c", &count, "-d", "32", "-s", "4096"];
            args.extend(["-S", &step, "-t", cache]);
            args.extend(write.then_some("-w"));
            args.push(target);
            let time = image(who, &args)? / f64::from(REQUESTS) * 1e9;
            let way = if write { "written" } else { "read" };
            let metric = Metric::new(
                &format!("image-random/{name}-{said}-{way}"),
                &format!("4 KiB {way}, {name}, {said}, 32 at a time"),
                Unit::Nanoseconds,
            );
            measured.push((metric, time));
        }
    }
    Ok(measured)
}

/// What `tests/bench/disk.rs` does: (name, what that is).
const LOADS: [(&str, &str); 4] = [
    ("read", "a MiB read in turn, 4 at a time"),
    ("write", "a MiB written in turn, 4 at a time"),
    ("random-read", "4 KiB read anywhere, 32 at a time"),
    ("random-write", "4 KiB written anywhere, 32 at a time"),
];

/// Requests of a guest to a disk behind an interface (`virtio`, `ide`). The host has all of the disk in its
/// cache, so that it is the emulator that is measured.
pub fn guest(who: &Contender, interface: &str) -> Result<Measured> {
    let guest = modules::disks_with(&workloads::build("disk-load")?)?;
    let mut disk = tempfile::NamedTempFile::new()?;
    io::copy(&mut io::repeat(0xa5).take(GUEST_LEN), disk.as_file_mut())?;
    disk.as_file().sync_all()?;
    let drive = format!("file={},format=raw,if={interface}", disk.path().display());
    let mut vm = who
        .headless()
        .args(["-m", "512", "-smp", "2", "-drive", &drive])
        .kernel(&guest.kernel, &guest.initrd, "disk-bench,poweroff")
        .spawn()?;
    let mut measured = Vec::new();
    for (name, what) in LOADS {
        vm.expect(&format!("disk: {name} "))?;
        let time = vm.expect("\n")?.trim().parse()?;
        let what = format!("{interface}: {what}");
        measured.push((
            Metric::new(&format!("disk-{interface}/{name}"), &what, Unit::Nanoseconds),
            time,
        ));
    }
    vm.finish()?;
    Ok(measured)
}
