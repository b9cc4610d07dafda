//! A virtual machine: memory slots, interrupt controllers, and what makes processors.
#![allow(unsafe_code)]
// Unsafe: descriptors change hands between types.

use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};
use std::sync::Arc;

use base::interrupt::MsiMessage;
use base::memory::AddressSpace;
use kvm_bindings::{
    KVM_CAP_X86_DISABLE_EXITS, KVM_CLOCK_TSC_STABLE, KVM_MAX_CPUID_ENTRIES,
    KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_SPEAKER_DUMMY, KVM_X86_DISABLE_EXITS_CSTATE,
    KVM_X86_DISABLE_EXITS_HLT, KVM_X86_DISABLE_EXITS_MWAIT, KVM_X86_DISABLE_EXITS_PAUSE,
    kvm_clock_data, kvm_enable_cap, kvm_pit_config, kvm_reinject_control,
};
use kvm_ioctls::{Cap, IoEventAddress, NoDatamatch, VcpuFd, VmFd};
use parking_lot::Mutex;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_io_nr;

use super::chips::ChipState;
use super::cpuid::Supported;
use super::error::KvmError;
use super::hyperv;
use super::irq::{KernelApics, KernelPins};
use super::kick::{Gate, install_handler};
use super::memory::{Follower, KvmMemory};
use super::routes::{PINS, Routes};
use super::system::Kvm;
use crate::cpuid::Model;

ioctl_io_nr!(KVM_REINJECT_CONTROL, kvm_bindings::KVMIO, 0x71);

/// Who has the interrupt controllers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Irqchip {
    /// The kernel has the 8259 pair, the I/O APIC and the local APICs.
    #[default]
    Kernel,
    /// The kernel has the local APICs only.
    Split,
    /// The kernel has none.
    User,
}

/// How to set up a virtual machine.
#[derive(Clone, Copy, Debug)]
pub struct VmOptions {
    /// Who has the interrupt controllers.
    pub irqchip: Irqchip,
    /// Whether the kernel has the interval timer, which needs its interrupt controllers.
    pub pit: bool,
    /// Whether its interrupts come late, rather than never, if the guest was too late for them.
    pub pit_catches_up: bool,
    /// Whether the guest's HLT, MWAIT and PAUSE act on the host's processors themselves.
    pub host_sleep: bool,
    /// Most processors there will be.
    pub max_vcpus: usize,
}

/// Three pages for the task-state segment that real mode needs on older Intel processors, and one for
/// its page table: in the gap below the firmware, which memory maps keep free.
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TSS: usize = 0xfeff_d000;

/// Instructions by which a guest rests.
const SLEEP_EXITS: u64 = (KVM_X86_DISABLE_EXITS_MWAIT
    | KVM_X86_DISABLE_EXITS_HLT
    | KVM_X86_DISABLE_EXITS_PAUSE
    | KVM_X86_DISABLE_EXITS_CSTATE) as u64;

/// A virtual machine.
pub struct KvmVm {
    pub(super) fd: Arc<VmFd>,
    pub(super) irqchip: Irqchip,
    pub(super) gate: Arc<Gate>,
    pub(super) saved_msrs: Vec<u32>,
    has_smm: bool,
    memory: Arc<KvmMemory>,
    apics: Arc<KernelApics>,
    routes: Arc<Mutex<Routes>>,
    kvm: Kvm,
    /// The kernel's interrupt controllers as they were made, to reset them to.
    pub(super) fresh_chips: ChipState,
    pub(super) pit: bool,
}

impl KvmVm {
    /// Makes a virtual machine.
    pub fn new(kvm: Kvm, options: VmOptions) -> Result<Arc<Self>, KvmError> {
        let maximum = kvm.fd.get_max_vcpus();
        if options.max_vcpus > maximum {
            return Err(KvmError::TooManyVcpus { requested: options.max_vcpus, maximum });
        }
        install_handler()?;
        let fd = Arc::new(kvm.fd.create_vm().map_err(KvmError::ioctl("KVM_CREATE_VM"))?);
        if fd.check_extension(Cap::SetIdentityMapAddr) {
            fd.set_identity_map_address(IDENTITY_MAP)
                .map_err(KvmError::ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
        }
        fd.set_tss_address(TSS).map_err(KvmError::ioctl("KVM_SET_TSS_ADDR"))?;
        let routes = match options.irqchip {
            Irqchip::Kernel => {
                fd.create_irq_chip().map_err(KvmError::ioctl("KVM_CREATE_IRQCHIP"))?;
                let routes = Routes::pc();
                routes.commit(&fd)?;
                routes
            }
            Irqchip::Split => {
                let cap = kvm_enable_cap {
                    cap: Cap::SplitIrqchip as u32,
                    args: [PINS.into(), 0, 0, 0],
                    ..Default::default()
                };
                fd.enable_cap(&cap).map_err(KvmError::ioctl("KVM_CAP_SPLIT_IRQCHIP"))?;
                Routes::default()
            }
            Irqchip::User => Routes::default(),
        };
        if options.host_sleep {
            let offered = fd.check_extension_raw(KVM_CAP_X86_DISABLE_EXITS.into());
            let cap = kvm_enable_cap {
                cap: KVM_CAP_X86_DISABLE_EXITS,
                args: [offered as u64 & SLEEP_EXITS, 0, 0, 0],
                ..Default::default()
            };
            fd.enable_cap(&cap).map_err(KvmError::ioctl("KVM_CAP_X86_DISABLE_EXITS"))?;
        }
        let pit = options.pit && options.irqchip == Irqchip::Kernel;
        if pit {
            // The speaker's port answers in the kernel too.
            let config = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
            fd.create_pit2(config).map_err(KvmError::ioctl("KVM_CREATE_PIT2"))?;
            if !options.pit_catches_up {
                discard_late_interrupts(&fd)?;
            }
        }
        let fresh_chips = ChipState::read(&fd, options.irqchip == Irqchip::Kernel, pit)?;
        let gate = Arc::<Gate>::default();
        let routes = Arc::new(Mutex::new(routes));
        Ok(Arc::new(KvmVm {
            memory: KvmMemory::new(fd.clone(), gate.clone()),
            apics: KernelApics::new(fd.clone(), routes.clone()),
            irqchip: options.irqchip,
            saved_msrs: kvm.saved_msrs()?,
            has_smm: fd.check_extension(Cap::X86Smm),
            gate,
            routes,
            kvm,
            fresh_chips,
            pit,
            fd,
        }))
    }

    /// Shows the guest these address spaces: outside and inside of system management mode. Without
    /// the kernel's support for the latter, the guest sees the first in both.
    pub fn attach_memory(&self, memory: &AddressSpace, smm: &AddressSpace) {
        let follow = |space: u32| Arc::new(Follower { memory: self.memory.clone(), space });
        memory.listen(follow(0));
        if self.has_smm && self.fd.check_extension_raw(CAP_MULTI_ADDRESS_SPACE) > 1 {
            smm.listen(follow(1));
        }
    }

    /// Whether the kernel knows system management mode.
    pub fn has_smm(&self) -> bool {
        self.has_smm
    }

    /// The memory slots, for dirty logging.
    pub fn memory(&self) -> &Arc<KvmMemory> {
        &self.memory
    }

    /// The bus to local APICs in the kernel.
    pub fn apics(&self) -> &Arc<KernelApics> {
        &self.apics
    }

    /// The global system interrupts of the kernel's controllers, if it has them.
    pub fn pins(&self) -> Option<Arc<KernelPins>> {
        (self.irqchip == Irqchip::Kernel).then(|| Arc::new(KernelPins { fd: self.fd.clone() }))
    }

    /// What CPUID answers on processor `index`.
    pub(super) fn cpuid(
        &self,
        model: &Model,
        index: u32,
        vcpu: &VcpuFd,
    ) -> Result<kvm_bindings::CpuId, KvmError> {
        let hyperv = hyperv::leaves(&self.kvm.fd, vcpu, &model.hyperv)?;
        let entries = self
            .kvm
            .fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::ioctl("KVM_GET_SUPPORTED_CPUID"))?;
        Supported::new(&entries).entries_for(model, index, &hyperv)
    }

    /// Takes the kernel's interval timer its interrupt away, or gives it back: the HPET may replace
    /// it.
    pub fn cut_timer(&self, cut: bool) -> Result<(), KvmError> {
        if !self.pit {
            return Ok(());
        }
        let mut pit = self.fd.get_pit2().map_err(KvmError::ioctl("KVM_GET_PIT2"))?;
        pit.flags = if cut {
            pit.flags | KVM_PIT_FLAGS_HPET_LEGACY
        } else {
            pit.flags & !KVM_PIT_FLAGS_HPET_LEGACY
        };
        self.fd.set_pit2(&pit).map_err(KvmError::ioctl("KVM_SET_PIT2"))
    }

    /// The guest's paravirtual clock, in nanoseconds.
    pub fn clock(&self) -> Result<u64, KvmError> {
        Ok(self.fd.get_clock().map_err(KvmError::ioctl("KVM_GET_CLOCK"))?.clock)
    }

    /// Sets the guest's paravirtual clock, as after a pause or when a machine is restored.
    pub fn set_clock(&self, clock: u64) -> Result<(), KvmError> {
        let data = kvm_clock_data { clock, flags: 0, ..Default::default() };
        self.fd.set_clock(&data).map_err(KvmError::ioctl("KVM_SET_CLOCK"))
    }

    /// Whether the paravirtual clock follows the time stamp on all processors.
    pub fn clock_is_stable(&self) -> bool {
        self.fd.get_clock().is_ok_and(|data| data.flags & KVM_CLOCK_TSC_STABLE != 0)
    }

    // Event descriptors: signalled by whoever has them, without an exit.

    /// Gives a message a number that event descriptors can be connected with.
    pub fn add_message(&self, message: MsiMessage) -> Result<u32, KvmError> {
        let mut routes = self.routes.lock();
        let gsi = routes.add_message(message);
        routes.commit(&self.fd)?;
        Ok(gsi)
    }

    /// Changes the message behind a number, or takes the number back.
    pub fn set_message(&self, gsi: u32, message: Option<MsiMessage>) -> Result<(), KvmError> {
        let mut routes = self.routes.lock();
        routes.set_message(gsi, message);
        routes.commit(&self.fd)
    }

    /// From now on a signal on `event` raises interrupt `gsi`.
    pub fn connect_irq(&self, event: BorrowedFd<'_>, gsi: u32) -> Result<(), KvmError> {
        let event = duplicate(event)?;
        self.fd.register_irqfd(&event, gsi).map_err(KvmError::ioctl("KVM_IRQFD"))
    }

    /// Undoes [`Self::connect_irq`].
    pub fn disconnect_irq(&self, event: BorrowedFd<'_>, gsi: u32) -> Result<(), KvmError> {
        let event = duplicate(event)?;
        self.fd.unregister_irqfd(&event, gsi).map_err(KvmError::ioctl("KVM_IRQFD"))
    }

    /// From now on a guest's write to a place signals `event` instead of leaving guest code.
    pub fn connect_write(&self, event: BorrowedFd<'_>, place: WritePlace) -> Result<(), KvmError> {
        let event = duplicate(event)?;
        let address = place.address();
        let result = match place.value {
            None => self.fd.register_ioevent(&event, &address, NoDatamatch),
            Some(Matched::Byte(value)) => self.fd.register_ioevent(&event, &address, value),
            Some(Matched::Word(value)) => self.fd.register_ioevent(&event, &address, value),
            Some(Matched::Dword(value)) => self.fd.register_ioevent(&event, &address, value),
        };
        result.map_err(KvmError::ioctl("KVM_IOEVENTFD"))
    }

    /// Undoes [`Self::connect_write`].
    pub fn disconnect_write(
        &self,
        event: BorrowedFd<'_>,
        place: WritePlace,
    ) -> Result<(), KvmError> {
        let event = duplicate(event)?;
        let address = place.address();
        let result = match place.value {
            None => self.fd.unregister_ioevent(&event, &address, NoDatamatch),
            Some(Matched::Byte(value)) => self.fd.unregister_ioevent(&event, &address, value),
            Some(Matched::Word(value)) => self.fd.unregister_ioevent(&event, &address, value),
            Some(Matched::Dword(value)) => self.fd.unregister_ioevent(&event, &address, value),
        };
        result.map_err(KvmError::ioctl("KVM_IOEVENTFD"))
    }
}

/// A value, and the width of the write, that a place matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Matched {
    Byte(u8),
    Word(u16),
    Dword(u32),
}

/// Where a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritePlace {
    /// In the I/O ports rather than in memory.
    pub port: bool,
    /// Port number or guest-physical address.
    pub address: u64,
    /// Only this value counts; any, of any width, if absent.
    pub value: Option<Matched>,
}

impl WritePlace {
    fn address(&self) -> IoEventAddress {
        if self.port {
            IoEventAddress::Pio(self.address)
        } else {
            IoEventAddress::Mmio(self.address)
        }
    }
}

/// Not among the names of `kvm-ioctls`.
const CAP_MULTI_ADDRESS_SPACE: std::ffi::c_ulong = 118;

/// The kernel's own type around a duplicate of the descriptor.
fn duplicate(event: BorrowedFd<'_>) -> Result<EventFd, KvmError> {
    let owned = event
        .try_clone_to_owned()
        .map_err(|error| KvmError::Ioctl { call: "F_DUPFD_CLOEXEC", error })?;
    // SAFETY: the descriptor is this function's own, and is handed over.
    Ok(unsafe { EventFd::from_raw_fd(owned.into_raw_fd()) })
}

/// Has the kernel's interval timer forget interrupts that the guest was too late for.
fn discard_late_interrupts(fd: &VmFd) -> Result<(), KvmError> {
    let control = kvm_reinject_control { pit_reinject: 0, ..Default::default() };
    // SAFETY: the ioctl reads a structure of this type, which outlives the call.
    match unsafe { ioctl_with_ref(fd, KVM_REINJECT_CONTROL(), &control) } {
        0 => Ok(()),
        _ => Err(KvmError::ioctl("KVM_REINJECT_CONTROL")(kvm_ioctls::Error::last())),
    }
}
