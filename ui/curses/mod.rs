//! The screen in the terminal that the program was started in: characters as they are, pictures in
//! cells of two pixels where the terminal has all colours. Alt and a digit switch between the heads,
//! the monitor and the serial ports.
//!
//! A thread reads keys and writes what has changed. The terminal is given back on every way out
//! (`base::chardev::Terminal`).

mod grid;
mod keys;

use std::io::{self, IsTerminal, stdin, stdout};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::chardev::Terminal;
use base::event_loop::LoopHandle;
use base::input::{KeyCode, Router};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::keymap::Keymap;
use crate::text::EditKey;
use crate::{Attachment, Console, Consoles, Rect, Viewer};
use grid::Grid;
use keys::{Key, Press};

/// Between looks at the size of the terminal.
const LOOK: Duration = Duration::from_millis(500);
/// How long the rest of a key's sequence may take.
const REST_OF_KEY: Duration = Duration::from_millis(25);

/// Why the screen is not in the terminal.
#[derive(Debug, thiserror::Error)]
pub enum CursesError {
    /// Output goes elsewhere.
    #[error("We need a terminal output")]
    NoTerminal,
    /// Something else uses the terminal.
    #[error(transparent)]
    Taken(#[from] base::chardev::ChardevError),
    /// The system refuses.
    #[error("cannot use the terminal: {}", base::report::strerror(.0))]
    Io(#[from] io::Error),
}

/// What the terminal shows and where its keys go.
pub struct Surroundings {
    /// All screens.
    pub consoles: Arc<Consoles>,
    /// The way of keys.
    pub input: Arc<Router>,
    /// The layout of the guest's keyboard.
    pub keymap: Keymap,
}

/// The screen in the terminal, while this lives.
pub struct Curses {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// What wakes the thread.
struct Bell {
    wake: EventFd,
    changed: AtomicBool,
    anew: AtomicBool,
    closing: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        // Fails only when it has been woken too often to count, and wakes all the same.
        let _ = self.wake.write(1);
    }
}

impl Viewer for Bell {
    fn damaged(&self, _: &[Rect]) {
        self.changed.store(true, Ordering::Release);
        self.ring();
    }

    fn resized(&self, _: u32, _: u32) {
        self.damaged(&[]);
    }
}

impl Curses {
    /// Takes the terminal.
    pub fn start(around: Surroundings, main_loop: &LoopHandle) -> Result<Self, CursesError> {
        if !stdout().is_terminal() {
            return Err(CursesError::NoTerminal);
        }
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let bell = Arc::new(Bell {
            wake: EventFd::from_value_and_flags(0, flags).map_err(io::Error::from)?,
            changed: AtomicBool::new(true),
            anew: AtomicBool::new(true),
            closing: AtomicBool::new(false),
        });
        let resumed = bell.clone();
        let terminal = Terminal::take_screen(main_loop, move || {
            resumed.anew.store(true, Ordering::Release);
            resumed.ring();
        })?;
        let mut front = Front {
            around,
            bell: bell.clone(),
            shown: None,
            keys: Vec::new(),
            typed: Instant::now(),
            current: None,
            true_color: has_true_color(),
        };
        let thread = base::thread::builder("curses").spawn(move || {
            front.serve();
            drop(terminal);
        })?;
        Ok(Curses { bell, thread: Some(thread) })
    }
}

impl Drop for Curses {
    fn drop(&mut self) {
        self.bell.closing.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which it has said itself.
            let _ = thread.join();
        }
    }
}

/// By the word that terminals with all colours set.
fn has_true_color() -> bool {
    let word = std::env::var("COLORTERM").unwrap_or_default();
    word == "truecolor" || word == "24bit"
}

/// The thread.
struct Front {
    around: Surroundings,
    bell: Arc<Bell>,
    shown: Option<Grid>,
    /// Bytes of keys that have not been understood yet.
    keys: Vec<u8>,
    /// When the last of them came.
    typed: Instant,
    current: Option<(Arc<Console>, Attachment)>,
    true_color: bool,
}

impl Front {
    fn serve(&mut self) {
        self.switch_to(0);
        while !self.bell.closing.load(Ordering::Acquire) {
            if self.bell.anew.swap(false, Ordering::AcqRel) {
                self.shown = None;
                self.bell.changed.store(true, Ordering::Release);
            }
            self.look_at_size();
            if self.bell.changed.swap(false, Ordering::AcqRel) {
                self.draw();
            }
            let limit = if self.keys.is_empty() { LOOK } else { REST_OF_KEY };
            if self.wait(PollFlags::POLLIN, limit) {
                self.read_keys();
            } else if !self.keys.is_empty() && self.typed.elapsed() >= REST_OF_KEY {
                self.take_keys(false);
            }
        }
        self.current = None;
    }

    /// Waits for the terminal, or for somebody who rings; says whether it was the terminal.
    fn wait(&self, wanted: PollFlags, limit: Duration) -> bool {
        let (input, output) = (stdin(), stdout());
        let terminal = match wanted == PollFlags::POLLIN {
            true => input.as_fd(),
            false => output.as_fd(),
        };
        let mut fds =
            [PollFd::new(terminal, wanted), PollFd::new(self.bell.wake.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO)).is_err() {
            return false;
        }
        if fds[1].any().unwrap_or(false) {
            // Fails only if somebody else has read it.
            let _ = self.bell.wake.read();
        }
        fds[0].any().unwrap_or(false)
    }

    fn read_keys(&mut self) {
        let mut bytes = [0; 256];
        match nix::unistd::read(stdin(), &mut bytes) {
            // The terminal has gone; the machine stays.
            Ok(0) => std::thread::sleep(LOOK),
            Ok(len) => {
                self.keys.extend(&bytes[..len]);
                self.typed = Instant::now();
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => std::thread::sleep(LOOK),
        }
        self.take_keys(true);
    }

    fn take_keys(&mut self, more: bool) {
        while let Some(press) = keys::next(&mut self.keys, more) {
            match press {
                Press { key: Key::Char(digit @ '1'..='9'), alt: true, .. } => {
                    self.switch_to(digit as usize - '1' as usize);
                }
                press => self.press(press),
            }
        }
        self.around.consoles.typed();
    }

    fn switch_to(&mut self, number: usize) {
        if let Some(console) = self.around.consoles.screens().get(number) {
            let attachment = console.attach(self.bell.clone());
            self.current = Some((console.clone(), attachment));
            self.bell.changed.store(true, Ordering::Release);
        }
    }

    fn press(&self, press: Press) {
        let Some((console, _)) = &self.current else { return };
        let Some(terminal) = console.terminal() else {
            let strokes = strokes(press, &self.around.keymap);
            if !strokes.is_empty() {
                self.around.input.press(&strokes, None);
            }
            return;
        };
        let mut text = [0; 4];
        match press.key {
            Key::Edit(key) => terminal.press(key, press.ctrl),
            Key::Char(character) => terminal.send(character.encode_utf8(&mut text).as_bytes()),
            Key::Ctrl(character) => terminal.send(&[character as u8 & 0x1f]),
            Key::Enter => terminal.send(b"\r"),
            Key::Backspace => terminal.send(b"\x7f"),
            Key::Tab | Key::BackTab => terminal.send(b"\t"),
            Key::Escape => terminal.send(b"\x1b"),
            Key::Function(_) => {}
        }
    }

    fn look_at_size(&mut self) {
        let size = terminal_size();
        if self.shown.as_ref().is_some_and(|shown| (shown.columns, shown.rows) != size) {
            self.bell.changed.store(true, Ordering::Release);
        }
    }

    fn draw(&mut self) {
        let (columns, rows) = terminal_size();
        let grid = match &self.current {
            None => Grid::of_message("no display", columns, rows),
            Some((console, _)) => match console.text() {
                Some(text) => Grid::of_text(&text, columns, rows),
                None if self.true_color => Grid::of_picture(&console.surface(), columns, rows),
                None => {
                    let surface = console.surface();
                    let size = format!("{} x {} Graphic mode", surface.width(), surface.height());
                    Grid::of_message(&size, columns, rows)
                }
            },
        };
        let bytes = grid.update(self.shown.as_ref());
        self.shown = Some(grid);
        self.write(bytes.as_bytes());
    }

    fn write(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.bell.closing.load(Ordering::Acquire) {
            match nix::unistd::write(stdout(), bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(Errno::EAGAIN) => {
                    self.wait(PollFlags::POLLOUT, LOOK);
                }
                Err(Errno::EINTR) => {}
                // The terminal has gone; the machine stays.
                Err(_) => return,
            }
        }
    }
}

/// The keys that a guest's keyboard has to press for what was typed.
fn strokes(press: Press, keymap: &Keymap) -> Vec<KeyCode> {
    let mut shift = press.shift;
    let mut ctrl = press.ctrl;
    let mut alt_gr = false;
    let mut character = |character: char| {
        let (key, level) = keymap.typed(character)?;
        (shift, alt_gr) = (level.shift, level.alt_gr);
        Some(key)
    };
    let key = match press.key {
        Key::Char(typed) => character(typed),
        Key::Ctrl(typed) => {
            ctrl = true;
            character(typed)
        }
        Key::Enter => Some(KeyCode::Ret),
        Key::Backspace => Some(KeyCode::Backspace),
        Key::Tab | Key::BackTab => Some(KeyCode::Tab),
        Key::Escape => Some(KeyCode::Esc),
        Key::Function(number) => KeyCode::from_name(&format!("f{number}")),
        Key::Edit(key) => Some(match key {
            EditKey::Up => KeyCode::Up,
            EditKey::Down => KeyCode::Down,
            EditKey::Right => KeyCode::Right,
            EditKey::Left => KeyCode::Left,
            EditKey::Home => KeyCode::Home,
            EditKey::End => KeyCode::End,
            EditKey::Insert => KeyCode::Insert,
            EditKey::Delete => KeyCode::Delete,
            EditKey::PageUp => KeyCode::Pgup,
            EditKey::PageDown => KeyCode::Pgdn,
        }),
    };
    let Some(key) = key else { return Vec::new() };
    let modifiers = [
        (shift, KeyCode::Shift),
        (ctrl, KeyCode::Ctrl),
        (press.alt, KeyCode::Alt),
        (alt_gr, KeyCode::AltR),
    ];
    let held = modifiers.into_iter().filter(|(is_held, _)| *is_held).map(|(_, key)| key);
    held.chain([key]).collect()
}

/// Columns and rows of the terminal.
fn terminal_size() -> (usize, usize) {
    base::chardev::terminal_size().unwrap_or((80, 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_pressed() {
        let keymap = Keymap::load("de").unwrap();
        let typed = |bytes: &[u8]| {
            let press = keys::next(&mut bytes.to_vec(), false).unwrap();
            strokes(press, &keymap).iter().map(|key| key.name()).collect::<Vec<_>>().join("-")
        };
        assert_eq!(typed(b"z"), "y");
        assert_eq!(typed(b"A"), "shift-a");
        assert_eq!(typed(b"@"), "alt_r-q");
        assert_eq!(typed(b"\x03"), "ctrl-c");
        assert_eq!(typed(b"\x1bx"), "alt-x");
        assert_eq!(typed(b"\x1b[1;5D"), "ctrl-left");
        assert_eq!(typed(b"\x1b[15~"), "f5");
        assert_eq!(typed("漢".as_bytes()), "");
    }
}
