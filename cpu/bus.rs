//! What a processor is wired to: memory, ports, its local APIC, and a time base.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::backdoor::Backdoor;
use base::irq::IrqLine;
use base::memory::AddressSpace;

/// The register page of a local APIC, as its own processor reaches it.
///
/// The page lies at the address in IA32_APIC_BASE, which is the processor's own affair: the access
/// never reaches the address space.
pub trait ApicPage: Send + Sync {
    /// Reads `size` bytes at `offset` (below 4096) of the page.
    fn read(&self, offset: u32, size: u8) -> u32;
    /// Writes `size` bytes at `offset` (below 4096) of the page.
    fn write(&self, offset: u32, size: u8, value: u32);
    /// RDMSR of an x2APIC register (0x800..=0x8ff) or IA32_TSC_DEADLINE (0x6e0); `None` raises #GP.
    fn read_msr(&self, index: u32) -> Option<u64>;
    /// WRMSR of the same registers; `false` raises #GP.
    #[must_use]
    fn write_msr(&self, index: u32, value: u64) -> bool;
    /// Sends an interprocessor interrupt to the APIC with this ID, as `command` in the lower half of the
    /// ICR would; `false` if there is none.
    fn send_ipi(&self, id: u32, command: u32) -> bool;
    /// IA32_APIC_BASE was written with an allowed value.
    fn set_base(&self, value: u64);
    /// The guest's time-stamp counter is this much ahead of [`TimeStamp::ticks`] from now on, which
    /// the deadline timer must know.
    fn set_tsc_offset(&self, offset: u64);
    /// Task priority class, as CR8 shows it (0..=15).
    fn tpr(&self) -> u8;
    /// Sets the task priority class.
    fn set_tpr(&self, class: u8);
}

/// The counter behind RDTSC, before the guest's offset.
pub trait TimeStamp: Send + Sync {
    /// The counter now.
    fn ticks(&self) -> u64;
    /// Ticks per second.
    fn frequency(&self) -> u64;
}

/// The wiring of one processor.
#[derive(Clone)]
pub struct Bus {
    /// Memory as it is outside system management mode.
    pub memory: AddressSpace,
    /// Memory as it is inside system management mode.
    pub smm: AddressSpace,
    /// The I/O ports.
    pub ports: AddressSpace,
    /// Whether the A20 gate lets address bit 20 through. The board posts
    /// [`request::FLUSH_TLB`](crate::signals::request::FLUSH_TLB) when it changes it.
    pub a20: Arc<AtomicBool>,
    /// The local APIC, if there is one.
    pub apic: Option<Arc<dyn ApicPage>>,
    /// A port whose accesses see and change the processor's registers.
    pub backdoor: Option<Arc<dyn Backdoor>>,
    /// FERR#: how x87 exceptions leave a processor whose CR0.NE is clear. The board takes it back.
    pub fpu_error: IrqLine,
    /// The time base of RDTSC.
    pub tsc: Arc<dyn TimeStamp>,
}

impl Bus {
    /// The back door, if a port access of this size is for it.
    pub fn backdoor(&self, port: u16, size: u8) -> Option<&Arc<dyn Backdoor>> {
        self.backdoor.as_ref().filter(|backdoor| size == 4 && backdoor.port() == port)
    }

    /// The mask the A20 gate applies to physical addresses.
    pub fn a20_mask(&self) -> u64 {
        if self.a20.load(Ordering::Relaxed) { !0 } else { !(1 << 20) }
    }
}
