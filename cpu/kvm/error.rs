//! What can go wrong, in the words that scripts and people know.

use std::io;
use std::path::Path;

use kvm_ioctls::Error as Errno;

use crate::cpuid::hyperv::HyperVError;

/// An error of the KVM accelerator.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum KvmError {
    #[error("Could not access KVM kernel module: {}", text(.0))]
    Open(io::Error),
    #[error("kvm version not supported")]
    Version,
    #[error("kvm does not support {0}")]
    Missing(&'static str),
    #[error("ioctl({call}) failed: {}", text(.error))]
    Ioctl { call: &'static str, error: io::Error },
    #[error(
        "Number of SMP cpus requested ({requested}) exceeds the maximum cpus supported by KVM ({maximum})"
    )]
    TooManyVcpus { requested: usize, maximum: usize },
    #[error("{0}")]
    Signal(nix::Error),
    #[error(transparent)]
    HyperV(#[from] HyperVError),
    #[error("kernel doesn't allow setting HyperV VP_INDEX")]
    VpIndex,
    #[error("failed to turn on HyperV SynIC in KVM: {}", text(.0))]
    Synic(io::Error),
    #[error("failed to enable KVM_CAP_HYPERV_ENFORCE_CPUID: {}", text(.0))]
    EnforceCpuid(io::Error),
}

/// The C library's text, without the number that Rust appends.
fn text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    }
}

impl KvmError {
    /// For `map_err` on the result of a system call.
    pub(super) fn ioctl(call: &'static str) -> impl Fn(Errno) -> Self {
        move |error| KvmError::Ioctl { call, error: io::Error::from_raw_os_error(error.errno()) }
    }

    fn os_error(&self) -> io::Error {
        match self {
            KvmError::Open(error) | KvmError::Ioctl { error, .. } => {
                io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(nix::libc::EIO))
            }
            KvmError::Signal(error) => io::Error::from_raw_os_error(*error as i32),
            KvmError::TooManyVcpus { .. } => io::Error::from_raw_os_error(nix::libc::EINVAL),
            KvmError::Synic(error) | KvmError::EnforceCpuid(error) => {
                io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(nix::libc::EIO))
            }
            KvmError::Version | KvmError::Missing(_) | KvmError::HyperV(_) | KvmError::VpIndex => {
                io::Error::from_raw_os_error(nix::libc::EINVAL)
            }
        }
    }

    /// The second message when the accelerator could not be set up: "failed to initialize kvm: ...".
    pub fn summary(&self) -> String {
        format!("failed to initialize kvm: {}", text(&self.os_error()))
    }

    /// What the operator can do about it, in one line.
    pub fn remedy(&self, device: &Path) -> Option<String> {
        let KvmError::Open(error) = self else { return None };
        let device = device.display();
        let todo = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!(
                    "add yourself to the group that owns {device} (often 'kvm') and log in again"
                )
            }
            io::ErrorKind::NotFound => {
                let (module, nested) = module();
                format!(
                    "load the module ('modprobe {module}'); where it does not load, enable \
                     virtualization in the firmware, or nested virtualization ({nested}) on the \
                     host of this virtual machine"
                )
            }
            _ => return None,
        };
        Some(format!("{todo}; '-accel tcg' works without KVM"))
    }
}

/// The module for this processor, and what its host sets for nesting.
fn module() -> (&'static str, &'static str) {
    let vendor = super::cpuid::host_vendor();
    match &vendor {
        b"GenuineIntel" => ("kvm_intel", "kvm_intel nested=1"),
        b"AuthenticAMD" | b"HygonGenuine" => ("kvm_amd", "kvm_amd nested=1"),
        _ => ("kvm", "nested=1"),
    }
}
