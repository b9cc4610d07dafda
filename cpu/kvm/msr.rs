//! Model-specific registers between the architectural state and the kernel.

use kvm_bindings::kvm_msr_entry;
use kvm_ioctls::VcpuFd;

use super::error::KvmError;
use crate::state::Msrs;

type Field = fn(&mut Msrs) -> &mut u64;

/// The registers that are plain state. (EFER and IA32_APIC_BASE travel with the control registers,
/// the time stamp is the engine's affair.)
const PLAIN: &[(u32, Field)] = &[
    (0x3a, |m| &mut m.feature_control),
    (0x3b, |m| &mut m.tsc_adjust),
    (0x48, |m| &mut m.spec_ctrl),
    (0x9e, |m| &mut m.smbase),
    (0x174, |m| &mut m.sysenter_cs),
    (0x175, |m| &mut m.sysenter_esp),
    (0x176, |m| &mut m.sysenter_eip),
    (0x17a, |m| &mut m.mcg_status),
    (0x17b, |m| &mut m.mcg_ctl),
    (0x1a0, |m| &mut m.misc_enable),
    (0x1d9, |m| &mut m.debugctl),
    (0x277, |m| &mut m.pat),
    (0x2ff, |m| &mut m.mtrr_def_type),
    (0x6e1, |m| &mut m.pkrs),
    (0xda0, |m| &mut m.xss),
    (0xc000_0081, |m| &mut m.star),
    (0xc000_0082, |m| &mut m.lstar),
    (0xc000_0083, |m| &mut m.cstar),
    (0xc000_0084, |m| &mut m.fmask),
    (0xc000_0102, |m| &mut m.kernel_gs_base),
    (0xc000_0103, |m| &mut m.tsc_aux),
    (0xc000_0104, |m| &mut m.tsc_ratio),
    (0xc001_0117, |m| &mut m.vm_hsave_pa),
];

/// Fixed-range MTRRs in order of [`Msrs::mtrr_fixed`].
const MTRR_FIXED: [u32; 11] =
    [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const MTRR_VARIABLE: u32 = 0x200;
const MTRR_DEF_TYPE: u32 = 0x2ff;

/// The guest's agreements with the kernel (clocks, asynchronous page faults, stolen time, end of
/// interrupt), which RESET ends: KVM_CPUID.
const PARAVIRTUAL: &[u32] =
    &[0x11, 0x12, 0x4b56_4d00, 0x4b56_4d01, 0x4b56_4d02, 0x4b56_4d03, 0x4b56_4d04, 0x4b56_4d06];

/// Of the registers that the kernel can save, those that the architectural state has, and those
/// that RESET clears.
pub(super) fn saved(known: &[u32]) -> Vec<u32> {
    // MTRRs are not in the list of older kernels, but all kernels have them.
    let mtrrs = MTRR_FIXED.into_iter().chain((MTRR_VARIABLE..).take(16)).chain([MTRR_DEF_TYPE]);
    let plain = PLAIN.iter().map(|(index, _)| *index).filter(|index| *index != MTRR_DEF_TYPE);
    let listed = plain.chain(PARAVIRTUAL.iter().copied()).filter(|index| known.contains(index));
    listed.chain(mtrrs).collect()
}

/// The field of the state that holds a register.
fn field(msrs: &mut Msrs, index: u32) -> Option<&mut u64> {
    if let Some((_, field)) = PLAIN.iter().find(|(plain, _)| *plain == index) {
        return Some(field(msrs));
    }
    if let Some(slot) = MTRR_FIXED.iter().position(|fixed| *fixed == index) {
        return msrs.mtrr_fixed.get_mut(slot);
    }
    let slot = index.checked_sub(MTRR_VARIABLE)?;
    let pair = msrs.mtrr_var.get_mut((slot / 2) as usize)?;
    Some(if slot & 1 == 0 { &mut pair.0 } else { &mut pair.1 })
}

type Ioctl = fn(&VcpuFd, &mut kvm_bindings::Msrs) -> Result<usize, kvm_ioctls::Error>;

/// Transfers registers in one call where possible. The kernel stops at one that it refuses: that one
/// is left out, and the rest goes on.
fn transfer(
    fd: &VcpuFd,
    mut entries: &mut [kvm_msr_entry],
    call: &'static str,
    ioctl: Ioctl,
    mut done: impl FnMut(&kvm_msr_entry),
) -> Result<(), KvmError> {
    while !entries.is_empty() {
        let mut msrs = kvm_bindings::Msrs::from_entries(entries)
            .map_err(|_| KvmError::Missing("that many registers"))?;
        let count = ioctl(fd, &mut msrs).map_err(KvmError::ioctl(call))?.min(entries.len());
        msrs.as_slice()[..count].iter().for_each(&mut done);
        entries = &mut entries[(count + 1).min(msrs.as_slice().len())..];
    }
    Ok(())
}

/// Writes registers that the kernel may not know.
pub(super) fn write_known(
    fd: &VcpuFd,
    values: impl Iterator<Item = (u32, u64)>,
) -> Result<(), KvmError> {
    let mut entries: Vec<_> =
        values.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    let set: Ioctl = |fd, msrs| fd.set_msrs(msrs);
    transfer(fd, &mut entries, "KVM_SET_MSRS", set, |_| ())
}

/// Reads registers; what the kernel refuses keeps its value.
pub(super) fn fetch(fd: &VcpuFd, list: &[u32], state: &mut Msrs) -> Result<(), KvmError> {
    let mut entries: Vec<_> =
        list.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
    let get: Ioctl = |fd, msrs| fd.get_msrs(msrs);
    transfer(fd, &mut entries, "KVM_GET_MSRS", get, |entry| {
        if let Some(field) = field(state, entry.index) {
            *field = entry.data;
        }
    })
}

/// Writes registers. With `reset`, also ends the guest's agreements with the kernel.
pub(super) fn put(fd: &VcpuFd, list: &[u32], state: &Msrs, reset: bool) -> Result<(), KvmError> {
    let mut state = state.clone();
    let mut entries: Vec<_> = list
        .iter()
        .filter_map(|&index| {
            let data = match field(&mut state, index) {
                Some(field) => *field,
                None if reset => 0,
                None => return None,
            };
            Some(kvm_msr_entry { index, data, ..Default::default() })
        })
        .collect();
    let set: Ioctl = |fd, msrs| fd.set_msrs(msrs);
    transfer(fd, &mut entries, "KVM_SET_MSRS", set, |_| ())
}
