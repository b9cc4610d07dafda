//! `-run-with chroot=` and `user=`.

use std::ffi::CString;

use machine::config::{ConfigError, RunAs};
use nix::unistd::{Gid, Uid, User, chdir, chroot, initgroups, setgid, setgroups, setuid};

/// Reads a user's name, or `uid:gid`.
pub fn find_user(text: &str) -> Option<RunAs> {
    if let Ok(Some(user)) = User::from_name(text) {
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        return Some(RunAs { uid, gid, name: Some(user.name) });
    }
    let (uid, gid) = text.split_once(':')?;
    Some(RunAs { uid: uid.parse().ok()?, gid: gid.parse().ok()?, name: None })
}

/// Makes `directory` the root.
pub fn change_root(directory: &str) -> Result<(), ConfigError> {
    chroot(directory).map_err(|_| ConfigError::new("chroot failed"))?;
    chdir("/").map_err(|_| ConfigError::new("not able to chdir to /"))
}

/// Gives up the rights of the present user, for good.
pub fn become_user(user: &RunAs) -> Result<(), ConfigError> {
    let fault = |message: String| ConfigError::new(message);
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    match &user.name {
        Some(name) => {
            setgid(gid).map_err(|_| fault(format!("Failed to setgid({gid})")))?;
            let failed = || fault(format!("Failed to initgroups(\"{name}\", {gid})"));
            let text = CString::new(name.as_str()).map_err(|_| failed())?;
            initgroups(&text, gid).map_err(|_| failed())?;
        }
        None => {
            setgid(gid).map_err(|_| fault(format!("Failed to setgid({gid})")))?;
            setgroups(&[gid]).map_err(|_| fault(format!("Failed to setgroups(1, [{gid}])")))?;
        }
    }
    setuid(uid).map_err(|_| fault(format!("Failed to setuid({uid})")))?;
    if !uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(fault("Dropping privileges failed".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        assert_eq!(find_user("root"), Some(RunAs { uid: 0, gid: 0, name: Some("root".into()) }));
        assert_eq!(find_user("7:8"), Some(RunAs { uid: 7, gid: 8, name: None }));
        for text in ["", "7", "7:", ":8", "7:x", "nobody-has-this-name"] {
            assert_eq!(find_user(text), None, "{text}");
        }
    }
}
