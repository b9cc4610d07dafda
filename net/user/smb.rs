//! `smb=DIR`: a directory of the host's as the share `\\10.0.2.4\qemu`.
//!
//! Samba's server is started for each connection, as inetd would, with a configuration of its own: it
//! keeps everything in a directory that goes with the network, and serves guests of any name as the
//! user who runs this program.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, User, access, geteuid};
use tempfile::TempDir;

use super::config::Net4;
use super::forwards::Server;
use crate::NetError;

const SERVER: &str = "/usr/sbin/smbd";

/// NetBIOS sessions, and SMB without NetBIOS.
const PORTS: [u16; 2] = [139, 445];

/// What the servers of a network share; it is deleted with this.
pub struct Share {
    own: TempDir,
    /// Where the guest sees the server; nowhere without IPv4.
    at: Option<Ipv4Addr>,
}

impl Share {
    /// Prepares a directory to be shared.
    pub fn new(shared: &Path, net: Option<&Net4>) -> Result<Share, NetError> {
        if !Path::new(SERVER).exists() {
            return Err(NetError::Failed(format!("Could not find '{SERVER}', please install it")));
        }
        access(shared, AccessFlags::R_OK | AccessFlags::X_OK).map_err(|error| {
            let (path, why) = (shared.display(), error.desc());
            NetError::Failed(format!("Error accessing shared directory '{path}': {why}"))
        })?;
        let own = tempfile::Builder::new().prefix("qemu-smb.").tempdir().map_err(|error| {
            NetError::Failed(format!("Could not create samba server dir: {error}"))
        })?;
        let configuration = own.path().join("smb.conf");
        let write = || fs::write(&configuration, configure(own.path(), &shared.canonicalize()?)?);
        write().map_err(|error| {
            let path = configuration.display();
            NetError::Failed(format!(
                "Could not create samba server configuration file '{path}': {error}"
            ))
        })?;
        let at = net.and_then(|net| net.smb);
        if at.zip(net).is_some_and(|(at, net)| !net.has_room_for(at)) {
            return Err(NetError::failed("Conflicting/invalid smbserver address"));
        }
        Ok(Share { own, at })
    }

    /// The servers, by address.
    pub fn servers(&self) -> impl Iterator<Item = (SocketAddrV4, Server)> {
        let own = self.own.path();
        let arguments = ["-l".into(), own.into(), "-s".into(), own.join("smb.conf").into()];
        let command: Vec<OsString> = [SERVER.into()].into_iter().chain(arguments).collect();
        let at = self.at;
        PORTS.into_iter().filter_map(move |port| {
            Some((SocketAddrV4::new(at?, port), Server::Command(command.clone())))
        })
    }
}

/// The configuration (smb.conf(5)): private places for all that the server writes, nothing of printers,
/// and one share.
fn configure(own: &Path, shared: &Path) -> std::io::Result<String> {
    let user = User::from_uid(geteuid())?.ok_or(Errno::ENOENT)?.name;
    let text = |path: &Path| match path.to_str() {
        // The rest of the line would be an option of its own.
        Some(text) if !text.contains(['\n', '\r', '%']) => Ok(text.to_owned()),
        _ => Err(Errno::EILSEQ),
    };
    let (own, shared) = (text(own)?, text(shared)?);
    let places: String =
        ["private dir", "pid directory", "lock directory", "state directory", "cache directory"]
            .map(|place| format!("{place} = {own}\n"))
            .concat();
    Ok(format!(
        "[global]\n{places}\
         ncalrpc dir = {own}/ncalrpc\n\
         log file = {own}/log.smbd\n\
         smb passwd file = {own}/smbpasswd\n\
         interfaces = 127.0.0.1\n\
         bind interfaces only = yes\n\
         security = user\n\
         map to guest = Bad User\n\
         load printers = no\n\
         printing = bsd\n\
         disable spoolss = yes\n\
         usershare max shares = 0\n\
         [qemu]\n\
         path = {shared}\n\
         read only = no\n\
         guest ok = yes\n\
         force user = {user}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of QEMU 10.0.2.
    #[test]
    fn what_is_missing_is_named() {
        let words = match Path::new(SERVER).exists() {
            true => "Error accessing shared directory '/nowhere': No such file or directory",
            false => "Could not find '/usr/sbin/smbd', please install it",
        };
        let error = Share::new(Path::new("/nowhere"), None).err().unwrap();
        assert_eq!(error.to_string(), words);
    }

    #[test]
    fn a_directory_is_one_option_whatever_its_name() {
        let configuration = configure(Path::new("/tmp/own"), Path::new("/a b/c")).unwrap();
        assert!(configuration.contains("\npath = /a b/c\n"), "{configuration}");
        assert!(configuration.contains("\nlog file = /tmp/own/log.smbd\n"), "{configuration}");
        for odd in ["/a\nroot preexec = x", "/%u"] {
            assert!(configure(Path::new("/tmp/own"), Path::new(odd)).is_err(), "{odd}");
        }
    }
}
