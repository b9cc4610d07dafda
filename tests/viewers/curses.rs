//! `-display curses`, seen by a terminal emulator.

use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use testbed::{DEADLINE, is_reference, media, program, reference_qemu, skip};

const ROWS: NonZero<u16> = NonZero::new(30).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(90).unwrap();
/// What gives the screen back that was there before.
const LEAVE: &[u8] = b"\x1b[?1049l";

/// A program on a terminal.
struct Terminal {
    child: Child,
    keys: std::fs::File,
    /// Kept open, so that the terminal stays what the program made it.
    line: OwnedFd,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    seen: Vec<u8>,
}

impl Terminal {
    fn start(args: &[&str]) -> Result<Self> {
        Self::start_as(&program(), args)
    }

    fn start_as(program: &Path, args: &[&str]) -> Result<Self> {
        let size =
            Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None)?;
        let line = || -> Result<Stdio> { Ok(pty.slave.try_clone()?.into()) };
        let child = Command::new(program)
            .args(["-accel", "tcg", "-m", "64", "-net", "none", "-display", "curses"])
            .args(args)
            .env("TERM", "xterm-256color")
            .env("COLORTERM", "truecolor")
            // As QEMU's library wants to know.
            .env("LC_ALL", "C.UTF-8")
            .stdin(line()?)
            .stdout(line()?)
            .stderr(Stdio::null())
            .spawn()?;
        let (send, output) = channel();
        let mut screen = std::fs::File::from(pty.master.try_clone()?);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len) = screen.read(&mut bytes) {
                if send.send(bytes[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Terminal {
            child,
            keys: pty.master.into(),
            line: pty.slave,
            output,
            screen: vt100::Parser::new(ROWS, COLUMNS, 0),
            seen: Vec::new(),
        })
    }

    fn look(&mut self, patience: Duration) {
        if let Ok(bytes) = self.output.recv_timeout(patience) {
            self.screen.process(&bytes);
            self.seen.extend(bytes);
        }
    }

    /// Waits until the screen has this on it.
    fn expect(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if self.screen.screen().contents().contains(text) {
                return Ok(());
            }
            self.look(Duration::from_millis(100));
        }
        bail!("no '{text}' on the screen:\n{}", self.screen.screen().contents())
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    /// Waits until the program has ended; the terminal must be what it was.
    fn ends(mut self) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the program does not end");
            self.look(Duration::from_millis(100));
        }
        self.look(Duration::from_millis(100));
        let fresh = openpty(None, None)?;
        let (now, usual) = (tcgetattr(&self.line)?, tcgetattr(&fresh.slave)?);
        ensure!(now.local_flags == usual.local_flags, "the terminal is not as it was");
        ensure!(now.input_flags == usual.input_flags, "the terminal is not as it was");
        let left = self.seen.windows(LEAVE.len()).any(|bytes| bytes == LEAVE);
        ensure!(left, "the screen is not as it was");
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// QEMU may have been built without.
fn has_curses() -> bool {
    if is_reference(&program()) {
        skip("only for this program: QEMU's terminals depend on its build");
        return false;
    }
    true
}

#[test]
fn text_and_the_monitor_are_seen() -> Result<()> {
    if !has_curses() {
        return Ok(());
    }
    let mut terminal = Terminal::start(&[])?;
    terminal.expect("SeaBIOS (version")?;
    terminal.expect("No bootable device")?;
    terminal.press("\x1b2")?;
    terminal.expect("(qemu)")?;
    terminal.press("info status\r")?;
    terminal.expect("VM status: running")?;
    terminal.press("\x1b1")?;
    terminal.expect("No bootable device")?;
    terminal.press("\x1b2")?;
    terminal.expect("VM status: running")?;
    terminal.press("quit\r")?;
    terminal.ends()
}

#[test]
fn keys_reach_the_guest_and_a_signal_gives_the_terminal_back() -> Result<()> {
    if !has_curses() {
        return Ok(());
    }
    let mut terminal = Terminal::start(&["-boot", "menu=on,splash-time=60000"])?;
    terminal.expect("Press ESC for boot menu")?;
    terminal.press("\x1b")?;
    terminal.expect("Select boot device")?;
    let pid = Pid::from_raw(i32::try_from(terminal.child.id()).context("a strange process id")?);
    kill(pid, Signal::SIGTERM)?;
    terminal.ends()
}

/// A colour's number, whichever way it was chosen.
fn color(color: vt100::Color, bold: bool, default: u8) -> String {
    match color {
        vt100::Color::Default if bold => (default + 8).to_string(),
        vt100::Color::Default => default.to_string(),
        vt100::Color::Idx(number @ 0..8) if bold => (number + 8).to_string(),
        vt100::Color::Idx(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// Characters and their colours.
fn cells(terminal: &Terminal) -> Vec<String> {
    let screen = terminal.screen.screen();
    let cell = |row, column| {
        let cell = screen.cell(row, column)?;
        let front = color(cell.fgcolor(), cell.bold(), 7);
        let behind = color(cell.bgcolor(), false, 0);
        let (front, behind) = if cell.inverse() { (behind, front) } else { (front, behind) };
        let text = if cell.has_contents() { cell.contents() } else { " " };
        // Nobody sees the colour of a space.
        Some(if text == " " { format!(" /{behind} ") } else { format!("{text}{front}/{behind} ") })
    };
    let row = |row| (0..COLUMNS.get()).filter_map(|column| cell(row, column)).collect();
    (0..ROWS.get()).map(row).collect()
}

#[test]
fn grubs_menu_is_what_qemu_shows() -> Result<()> {
    let qemu = match reference_qemu() {
        Ok(qemu) => qemu,
        Err(reason) => {
            skip(&reason);
            return Ok(());
        }
    };
    if !has_curses() {
        return Ok(());
    }
    let cd = media::menu_cd()?.display().to_string();
    let mut ours = Terminal::start(&["-cdrom", &cd])?;
    let mut theirs = Terminal::start_as(&qemu, &["-cdrom", &cd])?;
    // As it comes, its second line, and its prompt.
    for key in ["", "\x1bOB", "c"] {
        let mut before = Vec::new();
        for terminal in [&mut ours, &mut theirs] {
            terminal.expect("GNU GRUB")?;
            before.push(cells(terminal));
            terminal.press(key)?;
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            let now = [cells(&ours), cells(&theirs)];
            if now[0] == now[1] && (key.is_empty() || now != before[..]) {
                break;
            }
            let differing = || now[0].iter().zip(&now[1]).filter(|(ours, theirs)| ours != theirs);
            ensure!(
                Instant::now() < deadline,
                "{key:?}: {:#?}\n{}",
                differing().collect::<Vec<_>>(),
                ours.screen.screen().contents()
            );
            ours.look(Duration::from_millis(50));
            theirs.look(Duration::from_millis(50));
        }
    }
    Ok(())
}
