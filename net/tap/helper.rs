//! Helpers with privileges, which make a tap, put it into a bridge, and pass its descriptor
//! (`qemu-bridge-helper` is one).

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use base::fd::receive_with_fds;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::NetError;

/// Where distributions have it.
pub(super) const PLACES: [&str; 3] = [
    "/usr/lib/qemu/qemu-bridge-helper",
    "/usr/libexec/qemu-bridge-helper",
    "/usr/local/libexec/qemu-bridge-helper",
];

/// The helper that is there.
pub(super) fn default() -> String {
    let there = PLACES.iter().find(|place| Path::new(place).exists());
    (*there.unwrap_or(&PLACES[0])).into()
}

/// Has a helper open a tap. What has blanks is a command line for the shell.
pub(super) fn open(helper: &str, bridge: &str) -> Result<OwnedFd, NetError> {
    let failed = || NetError::failed("bridge helper failed");
    let (ours, theirs) = UnixStream::pair().map_err(|_| failed())?;
    // The helper inherits it; it is closed here right after that.
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|_| failed())?;
    let number = theirs.as_raw_fd();
    let mut command = if helper.contains([' ', '\t']) {
        let with = |text: &str| helper.contains(text);
        let fd = if with("--fd=") { String::new() } else { format!(" --fd={number}") };
        let vnet = if with("--use-vnet") { "" } else { " --use-vnet" };
        let bridge = if with("--br=") { String::new() } else { format!(" --br={bridge}") };
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(format!("{helper}{vnet}{fd}{bridge}"));
        shell
    } else {
        let mut plain = Command::new(helper);
        plain.arg("--use-vnet").arg(format!("--fd={number}")).arg(format!("--br={bridge}"));
        plain
    };
    let mut child = command.spawn().map_err(|_| failed())?;
    drop(theirs);
    let received = receive_with_fds(&ours, &mut [0; 1]);
    let status = child.wait().map_err(|_| failed())?;
    match received.ok().and_then(|(_, mut fds)| fds.pop()) {
        Some(fd) if status.success() => {
            base::fd::set_nonblocking(&fd).map_err(|_| failed())?;
            Ok(fd)
        }
        _ => Err(failed()),
    }
}
