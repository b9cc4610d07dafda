//! Viewers at a whole program: clients that people use, and dialogues beside QEMU's.

mod beside_qemu;
mod curses;
mod tigervnc;
mod vncdo;

use anyhow::{Context, Result};
use std::path::Path;
use testbed::vm::{Launch, Vm};

/// A PC with a display and a VNC server in its scratch directory, with QMP.
fn serve(program: &Path, directory: &Path, options: &str, args: &[&str]) -> Result<Vm> {
    let server = format!("unix:{},{options}", directory.join("vnc").display());
    Launch::new(program)
        .accel()
        .args(["-M", "pc", "-m", "64", "-nodefaults", "-vga", "std", "-display", "none"])
        .args(["-vnc", server.trim_end_matches(',')])
        .args(args)
        .qmp()
        .spawn()
        .context("cannot start the program")
}
