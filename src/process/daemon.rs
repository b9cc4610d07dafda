//! `-daemonize`: the machine is set up in a child, which nobody waits for once it is ready.
//!
//! `unsafe` because `fork` in general is: here it happens while the process has one thread.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};

/// What the child writes when the machine is ready.
const READY: u8 = 0;

/// Signals of terminals, which a daemon has none of.
const FROM_TERMINALS: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTOU, Signal::SIGTTIN];

/// The child's side.
pub struct Daemon {
    parent: OwnedFd,
    /// Opened while it could still be found and read.
    null: File,
}

impl Daemon {
    /// Goes on in a child of a child that is the leader of its session's, so that it never gets a
    /// terminal. The caller's process ends when the child is ready (successfully) or dead (not).
    pub fn detach() -> std::io::Result<Self> {
        let (parent_end, child_end) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: the process has one thread, so no lock is held that the child would wait for.
        if let ForkResult::Parent { .. } = unsafe { fork() }? {
            drop(child_end);
            std::process::exit(wait_until_ready(parent_end));
        }
        drop(parent_end);
        setsid()?;
        // SAFETY: as above.
        if let ForkResult::Parent { .. } = unsafe { fork() }? {
            std::process::exit(0);
        }
        let null = File::options().read(true).write(true).open("/dev/null");
        umask(Mode::from_bits_truncate(0o027));
        for from_terminal in FROM_TERMINALS {
            // SAFETY: to ignore a signal runs no code.
            unsafe { signal(from_terminal, SigHandler::SigIgn) }?;
        }
        Ok(Daemon { parent: child_end, null: null? })
    }

    /// Lets go of directory and terminal, and of the parent. What is logged to a file keeps
    /// standard error company.
    pub fn ready(self) -> std::io::Result<()> {
        let Daemon { parent, null } = self;
        let log = base::log::file()?;
        chdir("/")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(log.as_ref().unwrap_or(&null))?;
        File::from(parent).write_all(&[READY])
    }
}

/// The exit status of the parent.
fn wait_until_ready(child: OwnedFd) -> i32 {
    let mut word = [!READY];
    match File::from(child).read(&mut word) {
        Ok(1) if word[0] == READY => 0,
        // It has said why.
        _ => 1,
    }
}
