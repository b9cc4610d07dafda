//! Memory of devices that the host's kernel maps into the guest: it knows of the guest's stores.

use std::sync::{Arc, Weak};

use base::memory::{RamBlock, StoreLog};
use cpu::kvm::{KvmError, KvmVm};

struct Log {
    kvm: Weak<KvmVm>,
    memory: Weak<RamBlock>,
}

impl StoreLog for Log {
    fn report(&self) {
        if let (Some(kvm), Some(memory)) = (self.kvm.upgrade(), self.memory.upgrade()) {
            complain(kvm.memory().sync_dirty(&memory));
        }
    }
}

/// Has the kernel note stores to `memory`, and has those looked up who ask for dirty pages.
pub(super) fn watch(kvm: &Arc<KvmVm>, memory: &Arc<RamBlock>) {
    complain(kvm.memory().log_dirty(memory, true));
    let log = Log { kvm: Arc::downgrade(kvm), memory: Arc::downgrade(memory) };
    memory.tracking().consult(Box::new(log));
}

fn complain(result: Result<(), KvmError>) {
    if let Err(error) = result {
        base::error_report!("{error}");
    }
}
