//! Taking over the terminal on stdin, and giving it back on every way out: when the chardev goes,
//! at exit, on fatal signals (a panic that aborts is one), and while the process is stopped.
#![allow(unsafe_code)] // Handlers for exit and for fatal signals can only be installed that way.

use std::io::{stdin, stdout};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::OFlag;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet};
use nix::sys::termios::{LocalFlags, OutputFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd;

use super::ChardevError;
use crate::event_loop::{LoopHandle, Signal, Watch};
use crate::fd;

/// Signals that end the process without asking the event loop.
const FATAL: [Signal; 6] = [
    Signal::SIGABRT,
    Signal::SIGQUIT,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
];

/// There is one terminal per process, hence these statics.
static IN_USE: AtomicBool = AtomicBool::new(false);
static CHANGED: AtomicBool = AtomicBool::new(false);
static ON_SCREEN: AtomicBool = AtomicBool::new(false);
static ORIGINAL: OnceLock<Original> = OnceLock::new();
static PREVIOUS_ACTIONS: OnceLock<Vec<(Signal, SigAction)>> = OnceLock::new();

/// What stdin and stdout were like before.
struct Original {
    /// `None` if stdin is not a terminal.
    termios: Option<libc::termios>,
    input_flags: Option<OFlag>,
    output_flags: Option<OFlag>,
}

/// Who fills the whole screen begins on an empty one, and leaves what was there before
/// (xterm's control sequences).
const ENTER_SCREEN: &[u8] = b"\x1b[?1049h\x1b[2J";
const LEAVE_SCREEN: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";

/// The terminal in raw mode, stdin and stdout non-blocking, while this lives.
pub struct Terminal {
    _signals: Watch,
}

/// How the terminal is used.
#[derive(Clone, Copy)]
struct Use {
    /// Keys like Ctrl-C stay special.
    signals: bool,
    /// The whole screen is filled.
    screen: bool,
}

impl Terminal {
    /// Takes the terminal; only one may be taken. With `signals`, keys like Ctrl-C stay special.
    pub(super) fn take(handle: &LoopHandle, signals: bool) -> Result<Terminal, ChardevError> {
        Terminal::take_for(handle, Use { signals, screen: false }, || {})
    }

    /// Takes the terminal for somebody who fills its whole screen, and does so again whenever `resumed`
    /// is called.
    pub fn take_screen(
        handle: &LoopHandle,
        resumed: impl Fn() + Send + Sync + 'static,
    ) -> Result<Terminal, ChardevError> {
        Terminal::take_for(handle, Use { signals: false, screen: true }, resumed)
    }

    fn take_for(
        handle: &LoopHandle,
        way: Use,
        resumed: impl Fn() + Send + Sync + 'static,
    ) -> Result<Terminal, ChardevError> {
        if IN_USE.swap(true, Ordering::AcqRel) {
            return Err(ChardevError::StdioInUse);
        }
        ORIGINAL.get_or_init(|| Original {
            termios: tcgetattr(stdin()).ok().map(Into::into),
            input_flags: fd::file_flags(stdin()).ok(),
            output_flags: fd::file_flags(stdout()).ok(),
        });
        install_handlers();
        let watch = handle.on_signals(&[Signal::SIGTSTP, Signal::SIGCONT], move |info| {
            if info.signal == Signal::SIGTSTP {
                give_back();
                stop();
            }
            if in_foreground() {
                make_raw(way);
                resumed();
            }
        });
        match watch {
            Ok(watch) => {
                make_raw(way);
                Ok(Terminal { _signals: watch })
            }
            Err(error) => {
                IN_USE.store(false, Ordering::Release);
                Err(ChardevError::io("cannot watch signals")(error))
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
        IN_USE.store(false, Ordering::Release);
    }
}

/// Failures are not errors: whatever stdin is, it works as far as it can.
fn make_raw(Use { signals, screen }: Use) {
    CHANGED.store(true, Ordering::Release);
    if screen {
        ON_SCREEN.store(true, Ordering::Release);
        let _ = unistd::write(stdout(), ENTER_SCREEN);
    }
    if let Ok(mut termios) = tcgetattr(stdin()) {
        cfmakeraw(&mut termios);
        // Other programs may write to this terminal too, so a newline stays a newline.
        termios.output_flags |= OutputFlags::OPOST;
        termios.local_flags.set(LocalFlags::ISIG, signals);
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &termios);
    }
    let _ = fd::set_nonblocking(stdin());
    let _ = fd::set_nonblocking(stdout());
}

/// Stops the process as Ctrl-Z would have done had the signal not been blocked; returns when it is
/// continued.
fn stop() {
    let set: SigSet = [Signal::SIGTSTP].into_iter().collect();
    let _ = signal::raise(Signal::SIGTSTP);
    let _ = set.thread_unblock();
    let _ = set.thread_block();
}

/// A job in the background must leave the terminal alone; one that is not ours has no jobs.
fn in_foreground() -> bool {
    unistd::tcgetpgrp(stdin().as_fd()).map_or(true, |group| group == unistd::getpgrp())
}

nix::ioctl_read_bad!(get_window_size, libc::TIOCGWINSZ, libc::winsize);

/// Columns and rows of the terminal behind stdout, if it is one that has any.
pub fn terminal_size() -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills the structure, which is the one it expects.
    unsafe { get_window_size(libc::STDOUT_FILENO, &raw mut size) }.ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// Restores terminal and flags, once per change. Called from signal handlers, so it does nothing
/// but atomics and system calls.
fn give_back() {
    if !CHANGED.swap(false, Ordering::AcqRel) {
        return;
    }
    let Some(original) = ORIGINAL.get() else { return };
    // SAFETY: system calls on descriptors 0 and 1; the termios structure and the bytes are valid and
    // not written.
    unsafe {
        if ON_SCREEN.swap(false, Ordering::AcqRel) {
            // What is not taken in now is lost with whatever was to be drawn.
            libc::write(libc::STDOUT_FILENO, LEAVE_SCREEN.as_ptr().cast(), LEAVE_SCREEN.len());
        }
        if let Some(termios) = &original.termios {
            let foreground = libc::tcgetpgrp(libc::STDIN_FILENO);
            if foreground < 0 || foreground == libc::getpgrp() {
                libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, termios);
            }
        }
        if let Some(flags) = original.input_flags {
            libc::fcntl(libc::STDIN_FILENO, libc::F_SETFL, flags.bits());
        }
        if let Some(flags) = original.output_flags {
            libc::fcntl(libc::STDOUT_FILENO, libc::F_SETFL, flags.bits());
        }
    }
}

fn install_handlers() {
    PREVIOUS_ACTIONS.get_or_init(|| {
        // SAFETY: the handler is a function that lives forever. It can fail only for lack of
        // memory; then the terminal is not restored at exit.
        unsafe { libc::atexit(at_exit) };
        let action = SigAction::new(
            SigHandler::SigAction(on_fatal_signal),
            SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK,
            SigSet::empty(),
        );
        // SAFETY: the handler makes only system calls and reads statics that are set once.
        let install = |signal| Some((signal, unsafe { signal::sigaction(signal, &action) }.ok()?));
        FATAL.into_iter().filter_map(install).collect()
    });
}

extern "C" fn at_exit() {
    give_back();
}

/// Gives the terminal back, then lets happen what would have happened without this handler.
extern "C" fn on_fatal_signal(
    number: libc::c_int,
    info: *mut libc::siginfo_t,
    _: *mut libc::c_void,
) {
    give_back();
    let previous = PREVIOUS_ACTIONS
        .get()
        .and_then(|actions| actions.iter().find(|(signal, _)| *signal as libc::c_int == number));
    // SAFETY: reinstates an action that was in force before, or the default. The kernel passes
    // valid information to a SA_SIGINFO handler.
    unsafe {
        match previous {
            Some((signal, action)) => {
                let _ = signal::sigaction(*signal, action);
            }
            None => {
                libc::signal(number, libc::SIG_DFL);
            }
        }
        // A fault happens again when this returns; a signal that was sent must be sent again.
        if (*info).si_code <= 0 {
            libc::raise(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus, Stdio};

    use super::*;
    use crate::event_loop::EventLoop;

    const ROLE: &str = "RHEA_TERMINAL_TEST";

    /// The child's part of the tests below.
    #[test]
    fn in_a_child_process() {
        let Ok(role) = std::env::var(ROLE) else { return };
        // A shell's jobs in the background ignore it.
        // SAFETY: the default action needs no handler.
        unsafe { signal::signal(Signal::SIGQUIT, SigHandler::SigDfl) }.unwrap();
        let event_loop = EventLoop::new().unwrap();
        let terminal = Terminal::take(&event_loop.handle(), false).unwrap();
        let raw = tcgetattr(stdin()).unwrap();
        assert!(!raw.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ISIG));
        assert!(fd::file_flags(stdin()).unwrap().contains(OFlag::O_NONBLOCK));
        assert!(Terminal::take(&event_loop.handle(), false).is_err(), "it is taken");
        match role.as_str() {
            "drop" => drop(terminal),
            "exit" => std::process::exit(3),
            "abort" => std::process::abort(),
            "quit" => signal::raise(Signal::SIGQUIT).unwrap(),
            _ => panic!("unknown role {role}"),
        }
    }

    /// Runs a child on a pseudo-terminal, which afterwards must be as it was.
    fn run_child(role: &str) -> ExitStatus {
        let pty = nix::pty::openpty(None, None).unwrap();
        let state = || -> (libc::termios, OFlag) {
            (tcgetattr(&pty.slave).unwrap().into(), fd::file_flags(&pty.slave).unwrap())
        };
        let before = state();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "chardev::terminal::tests::in_a_child_process"])
            .env(ROLE, role)
            .stdin(pty.slave.try_clone().unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(state() == before, "the terminal is not restored after {role}");
        status
    }

    #[test]
    fn the_terminal_is_given_back_on_every_way_out() {
        // A signal's number, or a program's exit code above it (wait(2)).
        assert_eq!(run_child("drop"), ExitStatus::from_raw(0));
        assert_eq!(run_child("exit"), ExitStatus::from_raw(3 << 8));
        let by_signal = |role| run_child(role).signal();
        assert_eq!(by_signal("abort"), Some(libc::SIGABRT));
        assert_eq!(by_signal("quit"), Some(libc::SIGQUIT));
    }
}
