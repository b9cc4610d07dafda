//! The KVM device: what this host offers.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::Cap;

use super::error::KvmError;
use super::vm::Irqchip;
use super::{cpuid, msr};
use crate::cpuid::Support;

/// The device, opened.
pub struct Kvm {
    pub(super) fd: kvm_ioctls::Kvm,
}

/// What nothing works without.
const REQUIRED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SyncMmu, "KVM_CAP_SYNC_MMU"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

impl Kvm {
    /// The usual device.
    pub const DEVICE: &str = "/dev/kvm";

    /// Opens the device at `path`.
    pub fn open(path: &Path) -> Result<Self, KvmError> {
        let path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| KvmError::Open(std::io::Error::from_raw_os_error(nix::libc::ENOENT)))?;
        let fd = kvm_ioctls::Kvm::new_with_path(&path)
            .map_err(|error| KvmError::Open(std::io::Error::from_raw_os_error(error.errno())))?;
        if fd.get_api_version() != KVM_API_VERSION as i32 {
            return Err(KvmError::Version);
        }
        if let Some((_, name)) = REQUIRED.iter().find(|(cap, _)| !fd.check_extension(*cap)) {
            return Err(KvmError::Missing(name));
        }
        Ok(Kvm { fd })
    }

    /// The processor features that guests can be given, and the model that `-cpu host` is.
    pub fn support(&self, irqchip: Irqchip) -> Result<Support, KvmError> {
        let entries = self
            .fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::ioctl("KVM_GET_SUPPORTED_CPUID"))?;
        let deadline = self.fd.check_extension(Cap::TscDeadlineTimer);
        let supported = cpuid::Supported::new(&entries);
        let features = supported.features(irqchip, deadline, |index| self.feature_msr(index));
        let mut support = Support::kvm(features, supported.host_model(&features));
        if irqchip == Irqchip::User {
            // Nobody misses it who chose this.
            support.defaults.retain(|(name, _)| *name != "x2apic");
        }
        Ok(support)
    }

    /// The value of a register that describes features, if the kernel knows it.
    fn feature_msr(&self, index: u32) -> Option<u64> {
        let entry = kvm_msr_entry { index, ..Default::default() };
        let mut msrs = Msrs::from_entries(&[entry]).ok()?;
        let found = self.fd.get_msrs(&mut msrs).ok()?;
        (found == 1).then(|| msrs.as_slice()[0].data)
    }

    /// Which of the registers of the architectural state this kernel can save.
    pub(super) fn saved_msrs(&self) -> Result<Vec<u32>, KvmError> {
        let list =
            self.fd.get_msr_index_list().map_err(KvmError::ioctl("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(msr::saved(list.as_slice()))
    }
}
