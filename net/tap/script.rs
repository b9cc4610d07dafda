//! Scripts that configure an interface of the host when a network comes and goes.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::fault;
use crate::NetError;

/// Runs a script with the interface's name as its argument, and waits for it.
pub(super) fn run(script: &str, interface: &str) -> Result<(), NetError> {
    let status = Command::new(script).arg(interface).status();
    match status
        .map_err(|error| fault(&format!("could not launch network script {script}"), &error))?
    {
        status if status.success() => Ok(()),
        status => Err(NetError::Failed(format!(
            "network script {script} failed with status {}",
            status.into_raw()
        ))),
    }
}
