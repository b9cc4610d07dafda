//! Scripts that configure an interface of the host when a network comes and goes.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::fault;
use crate::NetError;

/// The status of a process that has ended by `exit(1)`.
const NO_PROGRAM: i32 = 1 << 8;

/// Runs a script with the interface's name as its argument, and waits for it.
pub(super) fn run(script: &str, interface: &str) -> Result<(), NetError> {
    let status = match Command::new(script).arg(interface).status() {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.into_raw(),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
            return Err(fault(&format!("could not launch network script {script}"), &error));
        }
        // What a child ends with that does not become a program.
        Err(_) => NO_PROGRAM,
    };
    Err(NetError::Failed(format!("network script {script} failed with status {status}")))
}
