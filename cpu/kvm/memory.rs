//! Memory slots: what of an address space the kernel maps into the guest by itself.
#![allow(unsafe_code)]
// Unsafe: the kernel is told host addresses of guest RAM.

use std::sync::{Arc, OnceLock};

use base::memory::{FlatView, PAGE_SIZE, RamBlock, ViewListener};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;

use super::error::KvmError;
use super::kick::Gate;

/// A range of guest-physical addresses backed by host memory.
#[derive(Clone)]
struct Range {
    start: u64,
    len: u64,
    block: Arc<RamBlock>,
    offset: u64,
    read_only: bool,
}

impl Range {
    fn same(&self, other: &Range) -> bool {
        (self.start, self.len, self.offset, self.read_only)
            == (other.start, other.len, other.offset, other.read_only)
            && Arc::ptr_eq(&self.block, &other.block)
    }
}

/// Ranges of a view that can be slots: host memory of whole pages. The rest is reached by exits.
fn ranges(view: &FlatView) -> Vec<Range> {
    let mut found = Vec::new();
    for range in view.ranges() {
        let Some((block, offset, writable)) = range.ram() else { continue };
        let start = range.start.next_multiple_of(PAGE_SIZE);
        let skip = start - range.start;
        let Some(len) =
            (range.last - range.start).checked_add(1).and_then(|len| len.checked_sub(skip))
        else {
            continue;
        };
        let (offset, len) = (offset + skip, len & !(PAGE_SIZE - 1));
        if len == 0 || offset % PAGE_SIZE != 0 {
            continue;
        }
        found.push(Range { start, len, block: block.clone(), offset, read_only: !writable });
    }
    found
}

struct Slot {
    id: u32,
    space: u32,
    range: Range,
}

#[derive(Default)]
struct Slots {
    used: Vec<Slot>,
    free: Vec<u32>,
    next: u32,
    /// Blocks whose dirty pages somebody wants to know.
    logged: Vec<Arc<RamBlock>>,
}

impl Slots {
    fn logs(&self, range: &Range) -> bool {
        !range.read_only && self.logged.iter().any(|block| Arc::ptr_eq(block, &range.block))
    }
}

/// The memory slots of a virtual machine.
pub struct KvmMemory {
    fd: Arc<VmFd>,
    gate: Arc<Gate>,
    slots: Mutex<Slots>,
    failure: OnceLock<String>,
}

impl KvmMemory {
    pub(super) fn new(fd: Arc<VmFd>, gate: Arc<Gate>) -> Arc<Self> {
        Arc::new(KvmMemory { fd, gate, slots: Mutex::default(), failure: OnceLock::new() })
    }

    /// Why the slots do not show the memory map, if they do not.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    fn set(&self, slot: &Slot, len: u64, logged: bool) -> Result<(), KvmError> {
        let range = &slot.range;
        let mut flags = 0;
        if range.read_only {
            flags |= KVM_MEM_READONLY;
        }
        if logged && !range.read_only {
            flags |= KVM_MEM_LOG_DIRTY_PAGES;
        }
        let region = kvm_userspace_memory_region {
            slot: slot.id | slot.space << 16,
            flags,
            guest_phys_addr: range.start,
            memory_size: len,
            userspace_addr: range.block.host() as u64 + range.offset,
        };
        // SAFETY: the range lies in the block, as views guarantee, and the block is kept alive by the
        // slot until the kernel was told to forget it.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(KvmError::ioctl("KVM_SET_USER_MEMORY_REGION"))
    }

    /// Makes the slots of a space show `view`.
    fn show(&self, space: u32, view: &FlatView) {
        let mut wanted = ranges(view);
        let slots = &mut *self.slots.lock();
        let mut gone = Vec::new();
        let mut kept = Vec::new();
        for slot in slots.used.drain(..) {
            let same = wanted.iter().position(|range| range.same(&slot.range));
            match same {
                _ if slot.space != space => kept.push(slot),
                Some(at) => {
                    wanted.swap_remove(at);
                    kept.push(slot);
                }
                None => gone.push(slot),
            }
        }
        slots.used = kept;
        let result = if gone.is_empty() {
            self.rearrange(slots, space, gone, wanted)
        } else {
            self.gate.closed(|| self.rearrange(slots, space, gone, wanted))
        };
        if let Err(error) = result {
            self.failure.get_or_init(|| error.to_string());
        }
    }

    fn rearrange(
        &self,
        slots: &mut Slots,
        space: u32,
        gone: Vec<Slot>,
        new: Vec<Range>,
    ) -> Result<(), KvmError> {
        for slot in gone {
            if slots.logs(&slot.range) {
                // What was written through the old slot is not forgotten with it.
                self.harvest(&slot)?;
            }
            self.set(&slot, 0, false)?;
            slots.free.push(slot.id);
        }
        for range in new {
            let id = slots.free.pop().unwrap_or_else(|| {
                slots.next += 1;
                slots.next - 1
            });
            let slot = Slot { id, space, range };
            self.set(&slot, slot.range.len, slots.logs(&slot.range))?;
            slots.used.push(slot);
        }
        Ok(())
    }

    /// Tells the block of the pages that the guest wrote through a slot since the last time.
    fn harvest(&self, slot: &Slot) -> Result<(), KvmError> {
        let range = &slot.range;
        let bitmap = self
            .fd
            .get_dirty_log(slot.id | slot.space << 16, range.len as usize)
            .map_err(KvmError::ioctl("KVM_GET_DIRTY_LOG"))?;
        let tracking = range.block.tracking();
        for (word, mut bits) in (0u64..).zip(bitmap) {
            while bits != 0 {
                let page = word * 64 + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                tracking.written(range.offset + page * PAGE_SIZE, PAGE_SIZE);
            }
        }
        Ok(())
    }

    /// Starts or stops logging which pages of a block the guest writes.
    pub fn log_dirty(&self, block: &Arc<RamBlock>, on: bool) -> Result<(), KvmError> {
        let slots = &mut *self.slots.lock();
        slots.logged.retain(|logged| !Arc::ptr_eq(logged, block));
        if on {
            slots.logged.push(block.clone());
        }
        for slot in slots.used.iter().filter(|slot| Arc::ptr_eq(&slot.range.block, block)) {
            self.set(slot, slot.range.len, on)?;
        }
        Ok(())
    }

    /// Brings a logged block's page tracking up to date with what the guest wrote.
    pub fn sync_dirty(&self, block: &Arc<RamBlock>) -> Result<(), KvmError> {
        let slots = self.slots.lock();
        let of_block = slots.used.iter().filter(|slot| Arc::ptr_eq(&slot.range.block, block));
        of_block.filter(|slot| !slot.range.read_only).try_for_each(|slot| self.harvest(slot))
    }
}

/// Follows one address space.
pub(super) struct Follower {
    pub memory: Arc<KvmMemory>,
    /// 0 outside of system management mode, 1 inside.
    pub space: u32,
}

impl ViewListener for Follower {
    fn view_changed(&self, _: &FlatView, new: &FlatView) {
        self.memory.show(self.space, new);
    }
}
