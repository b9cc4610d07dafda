//! Hyper-V's enlightenments, as far as the kernel needs to be told of them.
#![allow(unsafe_code)]
// Unsafe: a system call that `kvm-ioctls` lacks, and a union in the shared page.

use std::os::fd::AsRawFd;

use kvm_bindings::{
    CpuId, KVM_CAP_HYPERV_CPUID, KVM_CAP_HYPERV_DIRECT_TLBFLUSH, KVM_CAP_HYPERV_ENFORCE_CPUID,
    KVM_CAP_HYPERV_ENLIGHTENED_VMCS, KVM_CAP_HYPERV_SYNIC, KVM_CAP_HYPERV_VP_INDEX,
    KVM_CAP_SYS_HYPERV_CPUID, KVM_EXIT_HYPERV_HCALL, KVM_MAX_CPUID_ENTRIES, KVMIO, kvm_cpuid2,
    kvm_enable_cap, kvm_run,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl_with_mut_ptr;
use vmm_sys_util::ioctl_iowr_nr;

use super::error::KvmError;
use super::msr;
use crate::cpuid::HyperV;
use crate::cpuid::hyperv::{Enlightenment, Leaf};

ioctl_iowr_nr!(KVM_GET_SUPPORTED_HV_CPUID, KVMIO, 0xc1, kvm_cpuid2);

/// Registers that RESET clears. The vectors of synthetic interrupts are masked.
const CLEARED: &[std::ops::RangeInclusive<u32>] = &[
    // The guest's name, the page of hypercalls, the page of the reference time, and that of the APIC.
    0x4000_0000..=0x4000_0001,
    0x4000_0021..=0x4000_0021,
    0x4000_0073..=0x4000_0073,
    // Control of synthetic interrupts and their two pages; configurations and counts of timers.
    0x4000_0080..=0x4000_0080,
    0x4000_0082..=0x4000_0083,
    0x4000_00b0..=0x4000_00b7,
    // What a crash tells, and reenlightenment.
    0x4000_0100..=0x4000_0104,
    0x4000_0106..=0x4000_0108,
];
const VECTORS: std::ops::RangeInclusive<u32> = 0x4000_0090..=0x4000_009f;
const MASKED: u64 = 1 << 16;

/// What hypercalls that the kernel leaves to us answer.
mod status {
    pub const INVALID_CODE: u64 = 2;
    pub const INVALID_CONNECTION: u64 = 0x12;
}
const POST_MESSAGE: u64 = 0x5c;
const SIGNAL_EVENT: u64 = 0x5d;

fn has(vm: &VmFd, capability: u32) -> bool {
    vm.check_extension_raw(capability.into()) > 0
}

/// Whether a guest of this kernel can see Hyper-V, and this one is to.
fn is_shown(known: bool, hyperv: &HyperV) -> bool {
    known && hyperv.is_wanted()
}

/// Has the kernel do what the processor's guest is going to be told of.
pub(super) fn enable(vm: &VmFd, vcpu: &VcpuFd, hyperv: &HyperV) -> Result<(), KvmError> {
    if hyperv.asks_for(Enlightenment::VpIndex) && !has(vm, KVM_CAP_HYPERV_VP_INDEX) {
        return Err(KvmError::VpIndex);
    }
    if !is_shown(vm.check_extension(Cap::Hyperv), hyperv) {
        return Ok(());
    }
    let turn_on = |cap: u32, argument: u64| {
        vcpu.enable_cap(&kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..Default::default() })
    };
    let wants = |which, cap: u32| hyperv.asks_for(which) || hyperv.passthrough && has(vm, cap);
    let os_error = |error: kvm_ioctls::Error| std::io::Error::from_raw_os_error(error.errno());
    if wants(Enlightenment::Synic, KVM_CAP_HYPERV_SYNIC) {
        let newer = vm.check_extension(Cap::HypervSynic2);
        let cap = if newer { Cap::HypervSynic2 } else { Cap::HypervSynic };
        turn_on(cap as u32, 0).map_err(|error| KvmError::Synic(os_error(error)))?;
    }
    if wants(Enlightenment::EnlightenedVmcs, KVM_CAP_HYPERV_ENLIGHTENED_VMCS) {
        // The kernel may tell the version here; it also does among the leaves.
        turn_on(KVM_CAP_HYPERV_ENLIGHTENED_VMCS, 0)
            .map_err(KvmError::ioctl("KVM_CAP_HYPERV_ENLIGHTENED_VMCS"))?;
    }
    if wants(Enlightenment::TlbFlushDirect, KVM_CAP_HYPERV_DIRECT_TLBFLUSH) {
        turn_on(KVM_CAP_HYPERV_DIRECT_TLBFLUSH, 0)
            .map_err(KvmError::ioctl("KVM_CAP_HYPERV_DIRECT_TLBFLUSH"))?;
    }
    if hyperv.enforce_cpuid {
        turn_on(KVM_CAP_HYPERV_ENFORCE_CPUID, 1)
            .map_err(|error| KvmError::EnforceCpuid(os_error(error)))?;
    }
    Ok(())
}

/// What the kernel supports: of any processor, or on older kernels of this one.
fn supported(kvm: &Kvm, vcpu: &VcpuFd) -> Result<CpuId, KvmError> {
    let fd = if kvm.check_extension_raw(KVM_CAP_SYS_HYPERV_CPUID.into()) > 0 {
        kvm.as_raw_fd()
    } else if kvm.check_extension_raw(KVM_CAP_HYPERV_CPUID.into()) > 0 {
        vcpu.as_raw_fd()
    } else {
        return Err(KvmError::Missing("KVM_CAP_HYPERV_CPUID"));
    };
    let mut list =
        CpuId::new(KVM_MAX_CPUID_ENTRIES).map_err(|_| KvmError::Missing("that many leaves"))?;
    // SAFETY: the list has room for as many entries as it says, and the kernel writes no more.
    let result = unsafe {
        ioctl_with_mut_ptr(&fd, KVM_GET_SUPPORTED_HV_CPUID(), list.as_mut_fam_struct_ptr())
    };
    match result {
        0 => Ok(list),
        _ => Err(KvmError::ioctl("KVM_GET_SUPPORTED_HV_CPUID")(kvm_ioctls::Error::last())),
    }
}

/// The leaves that a processor's guest is shown. A kernel that knows nothing of Hyper-V shows none,
/// whatever was asked for.
pub(super) fn leaves(kvm: &Kvm, vcpu: &VcpuFd, hyperv: &HyperV) -> Result<Vec<Leaf>, KvmError> {
    if !is_shown(kvm.check_extension(Cap::Hyperv), hyperv) {
        return Ok(Vec::new());
    }
    let list = supported(kvm, vcpu)?;
    let leaf = |number: u32| {
        let found = list.as_slice().iter().find(|entry| entry.function == number);
        found.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    };
    Ok(hyperv.leaves(leaf)?)
}

/// RESET of the processor.
pub(super) fn reset(vm: &VmFd, vcpu: &VcpuFd, hyperv: &HyperV) -> Result<(), KvmError> {
    if !is_shown(vm.check_extension(Cap::Hyperv), hyperv) {
        return Ok(());
    }
    let cleared = CLEARED.iter().cloned().flatten().map(|index| (index, 0));
    let masked = VECTORS.map(|index| (index, MASKED));
    msr::write_known(vcpu, cleared.chain(masked))
}

/// Answers an exit: a hypercall for devices that are not there, or news of registers that concern
/// only them.
pub(super) fn answer(run: &mut kvm_run) {
    // SAFETY: the last exit was KVM_EXIT_HYPERV, whose part of the union this is; each type of it is
    // plain numbers.
    unsafe {
        let exit = &mut run.__bindgen_anon_1.hyperv;
        if exit.type_ == KVM_EXIT_HYPERV_HCALL {
            let call = &mut exit.u.hcall;
            call.result = match call.input & 0xffff {
                POST_MESSAGE | SIGNAL_EVENT => status::INVALID_CONNECTION,
                _ => status::INVALID_CODE,
            };
        }
    }
}
