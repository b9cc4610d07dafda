//! What people see: pictures of the screen, pixel for pixel as QEMU's of the same guest.

mod boot_sector;
mod cirrus;
mod guests;
mod linux;
mod modes;
mod picture;

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use testbed::vm::{Launch, Vm};
use testbed::{DEADLINE, program, reference_qemu, skip};

use picture::{Picture, Rect};

/// Between looks at a screen.
const POLL: Duration = Duration::from_millis(200);
/// Looks that show the same before a screen counts as finished.
const STEADY: usize = 12;
/// Size of what firmware says in.
const FIRMWARE_TEXT: (usize, usize) = (720, 400);

/// A guest, as a command line, and what is typed when its first screen is there.
#[derive(Default)]
pub struct Guest<'a> {
    /// The command line.
    pub args: Vec<String>,
    /// Keys, as `sendkey` names them.
    pub keys: &'a [&'a str],
    /// What differs from run to run.
    pub masked: &'a [Rect],
    /// What it says on its serial port when it has drawn its first screen; otherwise that is there when it
    /// does not change any more.
    pub says: Option<&'a str>,
    /// Its first screen is not in the firmware's text mode, which may stay for long while a loader loads.
    pub graphical: bool,
}

impl Guest<'_> {
    fn start(&self, program: &Path) -> Result<Vm> {
        let serial = self.says.map(|_| ["-serial", "stdio"]);
        Launch::new(program)
            .accel()
            .args(["-nodefaults", "-display", "none", "-m", "128"])
            .args(serial.iter().flatten())
            .args(&self.args)
            .qmp()
            .spawn()
    }

    fn look(&self, vm: &mut Vm) -> Result<Picture> {
        let path = vm.scratch().join("screen.ppm");
        vm.qmp().execute_with("screendump", json!({"filename": path}))?;
        let mut picture = Picture::read(&path)?;
        self.masked.iter().for_each(|rect| picture.blacken(rect));
        Ok(picture)
    }

    /// The screen once something is on it and does not change any more.
    fn wait_until_steady(&self, vm: &mut Vm, before: Option<&Picture>) -> Result<Picture> {
        let deadline = Instant::now() + DEADLINE;
        let (mut last, mut seen) = (self.look(vm)?, 0);
        while Instant::now() < deadline {
            sleep(POLL);
            let now = self.look(vm)?;
            let awaited = match before {
                Some(before) => *before != now,
                None => !(self.graphical && (now.width, now.height) == FIRMWARE_TEXT),
            };
            let is_new = awaited && !now.is_black();
            // A cursor blinks on some screens: that is no change.
            seen = if is_new && now.differences(&last) < 512 { seen + 1 } else { 0 };
            last = now;
            if seen == STEADY {
                return Ok(last);
            }
        }
        bail!("the screen did not settle")
    }

    /// Waits until the screen is `wanted`, whatever blinks in it.
    fn wait_for(&self, vm: &mut Vm, wanted: &Picture, name: &str) -> Result<()> {
        let deadline = Instant::now() + DEADLINE / 5;
        loop {
            let now = self.look(vm)?;
            if now == *wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                let directory = std::env::temp_dir();
                now.write(&directory.join(format!("{name}-seen.ppm")))?;
                wanted.write(&directory.join(format!("{name}-wanted.ppm")))?;
                bail!("{}; both are in {}", now.compare(wanted), directory.display());
            }
            sleep(POLL);
        }
    }

    /// Ours shows what QEMU shows.
    pub fn looks_the_same(&self, name: &str) -> Result<()> {
        let reference = match reference_qemu() {
            Ok(reference) => reference,
            Err(reason) => {
                skip(&reason);
                return Ok(());
            }
        };
        let mut theirs = self.start(&reference)?;
        let mut ours = self.start(&program())?;
        if let Some(word) = self.says {
            theirs.expect(word).context("QEMU")?;
            ours.expect(word)?;
        }
        let mut wanted = self.wait_until_steady(&mut theirs, None).context("QEMU")?;
        if !self.keys.is_empty() {
            // Both are at the place where they wait for keys.
            self.wait_for(&mut ours, &wanted, &format!("{name}-before"))?;
            for vm in [&mut theirs, &mut ours] {
                for key in self.keys {
                    vm.qmp().hmp(&format!("sendkey {key}"))?;
                }
            }
            wanted = self.wait_until_steady(&mut theirs, Some(&wanted)).context("QEMU")?;
        }
        self.wait_for(&mut ours, &wanted, name)
    }
}
