//! Rows about a viewer by VNC: how many frames of a film it gets and what each costs, how soon it sees
//! what it types, and what it costs when nothing happens.

use super::machine::{Contender, cpu_seconds};
use super::results::{Measured, Metric, Unit};
use crate::process;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use testbed::modules;
use testbed::sectors::{self, ECHO};
use testbed::vm::{Launch, Vm};

const RAW: i32 = 0;
const COPY: i32 = 1;
pub const TIGHT: i32 = 7;
pub const ZRLE: i32 = 16;
const DESKTOP_SIZE: i32 = -223;

/// Pixels of a frame.
const FRAME: u64 = 1280 * 800;
/// Updates before what counts.
const WARM_UP: u32 = 5;
const WATCH: Duration = Duration::from_secs(10);
/// Until nothing happens any more.
const SETTLE: Duration = Duration::from_secs(3);
/// How long firmware and the guest may take to show the film.
const DEADLINE: Duration = Duration::from_secs(60);

/// Watches a film in an encoding; `name` is the row's.
pub fn watch(who: &Contender, name: &str, encoding: i32) -> Result<Measured> {
    let scratch = tempfile::tempdir()?;
    let film = film(scratch.path())?;
    let launch = who
        .launch()
        .args(["-m", "96", "-vga", "none", "-device", "VGA,addr=02.0"])
        .args([Path::new("-kernel"), &film]);
    let (vm, mut viewer) = seat(launch, scratch.path(), encoding)?;
    let begun = Instant::now();
    while viewer.size != (1280, 800) {
        viewer.update()?;
        ensure!(begun.elapsed() < DEADLINE, "the film never began");
    }
    for _ in 0..WARM_UP {
        viewer.update()?;
    }
    let (begun, before, pixels) = (Instant::now(), display_seconds(&vm)?, viewer.pixels);
    while begun.elapsed() < WATCH {
        viewer.update()?;
    }
    let frames = (viewer.pixels - pixels) as f64 / FRAME as f64;
    let each = |seconds: f64| seconds * 1e3 / frames;
    let cpu = each(display_seconds(&vm)? - before);
    let wall = each(begun.elapsed().as_secs_f64());
    let what = format!("a frame of a film, 1280x800, at a {name} viewer");
    let cpu_what = "CPU time for that, the guest's processor apart";
    Ok(vec![
        (Metric::new(&format!("{name}/wall"), &what, Unit::Milliseconds), wall),
        (Metric::new(&format!("{name}/cpu"), cpu_what, Unit::Milliseconds), cpu),
    ])
}

/// Presses keys at a guest that shows them.
pub fn type_in(who: &Contender) -> Result<Measured> {
    let scratch = tempfile::tempdir()?;
    let disk = sectors::disk(scratch.path(), ECHO)?;
    let args = ["-m", "64", "-vga", "std", "-drive", &disk];
    let (mut vm, mut viewer) = seat(who.launch().args(args), scratch.path(), TIGHT)?;
    sectors::until_shown(&mut vm, ">")?;
    viewer.stream.set_read_timeout(Some(SETTLE))?;
    while viewer.update().is_ok() {}
    viewer.stream.set_read_timeout(Some(DEADLINE))?;
    let mut times = Vec::new();
    for pause in pauses() {
        thread::sleep(pause);
        let begun = Instant::now();
        viewer.press(b'a')?;
        viewer.update()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(vec![(
        Metric::new(
            "vnc-key",
            "a key press until a vnc-tight viewer has the pixels",
            Unit::Milliseconds,
        ),
        median(times),
    )])
}

/// Looks at a console of Linux on which nothing happens.
pub fn look(who: &Contender) -> Result<Measured> {
    let scratch = tempfile::tempdir()?;
    let guest = modules::display()?;
    let append = "console=ttyS0 panic=-1 vt.global_cursor_default=0 rhea.run=adapter,display";
    let launch = who
        .launch()
        .args(["-m", "256", "-vga", "std", "-usb", "-device", "usb-tablet", "-serial", "stdio"])
        .args([Path::new("-kernel"), &guest.kernel, Path::new("-initrd"), &guest.initrd])
        .args(["-append", append]);
    let (mut vm, mut viewer) = seat(launch, scratch.path(), TIGHT)?;
    let watch = thread::spawn(move || while viewer.update().is_ok() {});
    vm.expect("rhea-display: ")?;
    thread::sleep(SETTLE);
    let (begun, before, display) = (Instant::now(), cpu_seconds(vm.pid())?, display_seconds(&vm)?);
    thread::sleep(2 * WATCH);
    let share = |seconds: f64| seconds / begun.elapsed().as_secs_f64() * 100.0;
    let (all, display) =
        (share(cpu_seconds(vm.pid())? - before), share(display_seconds(&vm)? - display));
    drop(vm);
    // It has hung up.
    let _ = watch.join();
    let what = "host CPU of an idle screen of Linux at a vnc-tight viewer";
    Ok(vec![
        (Metric::new("vnc-idle/all", what, Unit::Percent), all),
        (Metric::new("vnc-idle/display", "the guest's processor apart", Unit::Percent), display),
    ])
}

/// How long people wait between keys: no two the same, so that nothing runs in step with them.
pub fn pauses() -> impl Iterator<Item = Duration> {
    (0..40).map(|n| Duration::from_millis(120 + n * 97 % 300))
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A machine, and a viewer of it.
fn seat(launch: Launch, scratch: &Path, encoding: i32) -> Result<(Vm, Viewer)> {
    let socket = scratch.join("vnc");
    let server = format!("unix:{}", socket.display());
    let vm = launch
        .args(["-nodefaults", "-display", "none", "-vnc", &server])
        .args(["-name", "seen,debug-threads=on"])
        .qmp()
        .spawn()?;
    Ok((vm, Viewer::connect(&socket, encoding)?))
}

/// The guest, assembled.
fn film(directory: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/film.s");
    let image = directory.join("film");
    let (from, to) = (source.display().to_string(), image.display().to_string());
    let link = "-Wl,-n,-Ttext=0x100000,--build-id=none";
    process::output("cc", &["-m32", "-nostdlib", "-static", link, &from, "-o", &to])?;
    ensure!(image.exists(), "cannot assemble {from}");
    Ok(image)
}

/// CPU time of all threads but those that run the guest.
fn display_seconds(vm: &Vm) -> Result<f64> {
    let mut ticks = 0;
    for task in fs::read_dir(format!("/proc/{}/task", vm.pid()))? {
        // A thread may end while it is looked at.
        let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
        let (head, rest) = stat.rsplit_once(") ").context("odd /proc stat")?;
        if head.contains("(CPU ") {
            continue;
        }
        // proc(5): fields 14 and 15; the name in field 2 may hold spaces.
        let used = rest.split_whitespace().skip(11).take(2);
        ticks += used.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(ticks as f64 / 100.0)
}

/// A client that takes pictures and does not look at them.
struct Viewer {
    stream: UnixStream,
    size: (u16, u16),
    /// All that came.
    pixels: u64,
}

impl Viewer {
    fn connect(path: &Path, encoding: i32) -> Result<Self> {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if begun.elapsed() < DEADLINE => thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(error).context("cannot connect to the server"),
            }
        };
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut viewer = Viewer { stream, size: (0, 0), pixels: 0 };
        viewer.stream.write_all(b"RFB 003.008\n\x01\x01")?;
        viewer.skip(12 + 2 + 4)?;
        viewer.size = (viewer.u16()?, viewer.u16()?);
        viewer.skip(16)?;
        let name = viewer.u32()?;
        viewer.skip(name as usize)?;
        let encodings = [encoding, DESKTOP_SIZE];
        let mut message = vec![2, 0, 0, encodings.len() as u8];
        message.extend(encodings.iter().flat_map(|number| number.to_be_bytes()));
        viewer.stream.write_all(&message)?;
        viewer.request(false)?;
        Ok(viewer)
    }

    fn request(&mut self, incremental: bool) -> Result<()> {
        let [w1, w0] = self.size.0.to_be_bytes();
        let [h1, h0] = self.size.1.to_be_bytes();
        Ok(self.stream.write_all(&[3, incremental.into(), 0, 0, 0, 0, w1, w0, h1, h0])?)
    }

    /// Presses a key and releases it.
    fn press(&mut self, keysym: u8) -> Result<()> {
        for down in [1, 0] {
            self.stream.write_all(&[4, down, 0, 0, 0, 0, 0, keysym])?;
        }
        Ok(())
    }

    /// Takes an update and asks for the next.
    fn update(&mut self) -> Result<()> {
        let kind = self.u16()?;
        ensure!(kind >> 8 == 0, "not an update: {kind:#x}");
        for _ in 0..self.u16()? {
            let (_, _) = (self.u16()?, self.u16()?);
            let (width, height) = (self.u16()?, self.u16()?);
            let area = usize::from(width) * usize::from(height);
            match self.u32()? as i32 {
                DESKTOP_SIZE => {
                    self.size = (width, height);
                    continue;
                }
                RAW => self.skip(area * 4)?,
                COPY => self.skip(4)?,
                ZRLE => {
                    let length = self.u32()?;
                    self.skip(length as usize)?;
                }
                TIGHT => self.tight(width.into(), height.into())?,
                other => bail!("encoding {other}"),
            }
            self.pixels += area as u64;
        }
        self.request(true)
    }

    fn tight(&mut self, width: usize, height: usize) -> Result<()> {
        let kind = self.u8()? >> 4;
        let mut size = width * height * 3;
        match kind {
            8 => return self.skip(3),
            9 => size = usize::MAX,
            kind if kind & 4 != 0 && self.u8()? == 1 => {
                let colours = usize::from(self.u8()?) + 1;
                self.skip(colours * 3)?;
                size = if colours == 2 { width.div_ceil(8) * height } else { width * height };
            }
            _ => {}
        }
        if size >= 12 {
            let mut bytes = [0, 7, 14].into_iter();
            size = 0;
            for shift in &mut bytes {
                let byte = usize::from(self.u8()?);
                size |= (if shift < 14 { byte & 0x7f } else { byte }) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        self.skip(size)
    }

    fn skip(&mut self, count: usize) -> Result<()> {
        let mut rest = (&mut self.stream).take(count as u64);
        let skipped = std::io::copy(&mut rest, &mut std::io::sink())?;
        ensure!(skipped == count as u64, "the server hung up");
        Ok(())
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_be_bytes(self.read()?))
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.read()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.read()?))
    }
}
