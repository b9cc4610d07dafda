//! `-pidfile`

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use machine::config::ConfigError;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// A file with the process's number, locked while the process lives and removed at its end.
pub struct PidFile {
    path: PathBuf,
    _locked: File,
}

impl PidFile {
    pub fn create(path: &str) -> Result<Self, ConfigError> {
        let fault = |what: &str, error: std::io::Error| {
            let reason = base::report::strerror(&error);
            ConfigError::new(format!("cannot create PID file: {what}: {reason}"))
        };
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options
            .open(path)
            .map_err(|error| fault(&format!("Could not create '{path}'"), error))?;
        let whole = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_SETLK(&whole))
            .map_err(|error| fault("Cannot lock pid file", error.into()))?;
        file.set_len(0).map_err(|error| fault("Failed to truncate pid file", error))?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
            .map_err(|error| fault("Failed to write pid file", error))?;
        // The program may change directory later.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
        Ok(PidFile { path, _locked: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // If somebody else has removed it, there is nothing left to do.
        let _ = std::fs::remove_file(&self.path);
    }
}
