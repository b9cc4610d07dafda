//! Commands about descriptors that clients pass.

use std::os::fd::{OwnedFd, RawFd};

use base::fdset::FdSetError;

use crate::port::Port;
use crate::qapi::QmpError;
use crate::qapi_struct;
use crate::qmp::Call;

impl From<FdSetError> for QmpError {
    fn from(error: FdSetError) -> Self {
        QmpError::new(error.to_string())
    }
}

fn passed(port: &Port) -> Result<OwnedFd, QmpError> {
    let fd = port.get().and_then(|port| port.take_fd());
    fd.ok_or_else(|| QmpError::new("No file descriptor supplied via SCM_RIGHTS"))
}

qapi_struct! {
    /// A descriptor's name.
    pub(in crate::qmp) struct FdName { "fdname" fdname: String }
}

pub(in crate::qmp) fn getfd(call: &Call<'_>, name: FdName) -> Result<(), QmpError> {
    call.session.fds.insert(name.fdname, passed(&call.session.port)?)
}

pub(in crate::qmp) fn closefd(call: &Call<'_>, name: FdName) -> Result<(), QmpError> {
    call.session.fds.close(&name.fdname)
}

qapi_struct! {
    /// The set to add to.
    pub(in crate::qmp) struct AddFd {
        "fdset-id" fdset_id: Option<i64>,
        "opaque" opaque: Option<String>,
    }
}

qapi_struct! {
    /// A descriptor in a set.
    pub(in crate::qmp) struct AddedFd { "fdset-id" fdset_id: i64, "fd" fd: i64 }
}

pub(in crate::qmp) fn add_fd(call: &Call<'_>, wanted: AddFd) -> Result<AddedFd, QmpError> {
    let fd = passed(&call.session.port)?;
    let (fdset_id, fd) = call.target.fd_sets.add(wanted.fdset_id, fd, wanted.opaque)?;
    Ok(AddedFd { fdset_id, fd: fd.into() })
}

qapi_struct! {
    /// A descriptor of a set, or all.
    pub(in crate::qmp) struct RemoveFd { "fdset-id" fdset_id: i64, "fd" fd: Option<i64> }
}

pub(in crate::qmp) fn remove_fd(call: &Call<'_>, which: RemoveFd) -> Result<(), QmpError> {
    // No descriptor has a number that does not fit.
    let fd = which.fd.map(|fd| RawFd::try_from(fd).unwrap_or(-1));
    Ok(call.target.fd_sets.remove(which.fdset_id, fd)?)
}

qapi_struct! {
    /// A descriptor.
    pub(in crate::qmp) struct FdInfo { "fd" fd: i64, "opaque" opaque: Option<String> }
}

qapi_struct! {
    /// A set of descriptors.
    pub(in crate::qmp) struct FdSetInfo { "fdset-id" fdset_id: i64, "fds" fds: Vec<FdInfo> }
}

pub(in crate::qmp) fn query_fdsets(call: &Call<'_>, (): ()) -> Result<Vec<FdSetInfo>, QmpError> {
    let info = |fd: base::fdset::FdInfo| FdInfo { fd: fd.fd.into(), opaque: fd.opaque };
    let sets = call.target.fd_sets.query().into_iter();
    Ok(sets
        .map(|(fdset_id, fds)| FdSetInfo { fdset_id, fds: fds.into_iter().map(info).collect() })
        .collect())
}
