//! Address translation and guest memory access by linear address.

use std::sync::Arc;

use base::memory::RamBlock;

use crate::core::{Cpu, Fault, Trap, vector};
use crate::state::cr0;
use crate::svm::exit;

mod access;
mod format;
mod locked;
mod phys;
pub(crate) mod tlb;
#[cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), allow(dead_code))]
pub(crate) mod trial;
pub(crate) mod walk;
mod watch;

pub use format::Format;
pub(crate) use format::large4_base;
use phys::Space;
use tlb::{PAGE, Tlb, Walked};
use walk::Refused;

/// On whose behalf memory is accessed: what a TLB entry's permission was checked against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Context {
    /// CPL 0-2, or an implicit access to a descriptor table or TSS.
    #[default]
    Supervisor,
    /// CPL 3.
    User,
    /// CPL 0-2 with SMAP on and EFLAGS.AC set: user pages are accessible.
    SupervisorOverUser,
    /// CPL 3 with alignment checking on. Its part of the tables stays empty, so that every access
    /// takes the slow path, which checks.
    UserAligned,
}

impl Context {
    pub fn is_user(self) -> bool {
        matches!(self, Context::User | Context::UserAligned)
    }
}

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub write: bool,
    pub fetch: bool,
    pub context: Context,
    /// On behalf of a debugger: nothing is forbidden, and no bits are set.
    pub debug: bool,
}

impl Access {
    pub fn read(context: Context) -> Self {
        Access { write: false, fetch: false, context, debug: false }
    }
}

/// A page of code, by where it lies.
pub enum CodePage {
    /// In RAM: the block, the page's offset in it, and its guest-physical address.
    Ram {
        /// The block.
        block: Arc<RamBlock>,
        /// Page-aligned offset.
        offset: u64,
        /// Page-aligned guest-physical address.
        phys: u64,
    },
    /// Elsewhere (a device, or a page of mixed contents): fetch by [`Cpu::fetch_bytes`], do not
    /// keep.
    Other {
        /// Page-aligned guest-physical address.
        phys: u64,
    },
}

/// One processor's view of memory.
pub struct Mmu {
    pub(crate) tlb: Tlb,
    memory: Space,
    smm: Space,
    a20_mask: u64,
}

impl Mmu {
    /// Forgets all translations and takes the newest view of memory.
    pub fn flush_all(&mut self, bus: &crate::bus::Bus) {
        self.memory_map_changed(bus.a20_mask());
    }

    fn memory_map_changed(&mut self, a20_mask: u64) {
        self.a20_mask = a20_mask;
        // No entry may outlive the view that keeps its memory alive: the entries go first.
        self.tlb.flush_all();
        self.memory.refresh();
        self.smm.refresh();
    }
}

impl Cpu {
    /// Forgets all translations: for a [`request::FLUSH_TLB`](crate::signals::request::FLUSH_TLB).
    pub fn flush_tlb(&mut self) {
        self.mmu.flush_all(&self.bus);
        self.exit_block = true;
    }

    /// #PF: sets CR2 and raises the exception.
    #[cold]
    fn page_fault(&mut self, linear: u64, code: u32) -> Trap {
        self.state.svm.fault_linear = linear;
        if !self.intercepts(exit::EXCEPTION + u64::from(vector::PF)) {
            self.state.cr2 = linear;
        }
        self.raise(vector::PF, Some(code))
    }

    /// #GP(0) for an address that is not canonical.
    #[cold]
    fn not_canonical(&mut self) -> Trap {
        self.fault =
            Fault { vector: vector::GP, error: Some(0), non_canonical: true, ..Fault::default() };
        Trap::Exception
    }

    /// Translates `linear` for `access`; the guest-physical address, A20 not applied.
    fn translate(&mut self, linear: u64, access: Access) -> Result<u64, Trap> {
        let walked = self.translate_page(linear, access)?;
        Ok(walked.phys | linear & !PAGE)
    }

    fn translate_page(&mut self, linear: u64, access: Access) -> Result<Walked, Trap> {
        let linear = if access.fetch { linear } else { self.mode.lam.untag(linear) };
        if self.mode.long && !self.is_canonical(linear) {
            return Err(self.not_canonical());
        }
        if let Some(known) = self.mmu.tlb.walked(linear)
            && (known.dirty || !access.write)
            && !(access.fetch && known.fetch_needs_walk)
            && self.permits(&known, access).is_ok()
        {
            return Ok(known);
        }
        match self.walk(linear, access) {
            Ok(walked) => {
                if self.state.cr0 & cr0::PG != 0 || self.state.svm.nested.is_some() {
                    self.mmu.tlb.remember(linear, walked);
                }
                Ok(walked)
            }
            Err(Refused::Nested(fault)) => {
                self.state.svm.fetch_faulted = access.fetch;
                Err(self.nested_fault(fault))
            }
            Err(Refused::Page(code)) => {
                self.state.svm.fetch_faulted = access.fetch;
                // A fault forgets the entry it may have come from (SDM vol. 3, 4.10.4.1).
                self.mmu.tlb.flush_page(linear);
                Err(self.page_fault(linear, code))
            }
        }
    }

    /// The guest-physical address behind `linear`, for a debugger: changes nothing.
    pub fn translate_for_debug(&mut self, linear: u64) -> Option<u64> {
        let access = Access { debug: true, ..Access::read(Context::Supervisor) };
        let walked = self.walk(linear, access).ok()?;
        Some((walked.phys | linear & !PAGE) & self.mmu.a20_mask)
    }
}

#[cfg(test)]
mod tests;
