//! Address spaces: a region tree and its current view.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::flat::FlatView;
use super::region::Region;

/// Who wants to know when a view changes: accelerators that map guest memory themselves, and
/// processors that cache translations.
pub trait ViewListener: Send + Sync {
    /// The space shows `new` from now on; `old` may still be in use by accesses under way.
    fn view_changed(&self, old: &FlatView, new: &FlatView);
}

pub(super) struct SpaceInner {
    name: String,
    root: Region,
    unassigned: u8,
    view: ArcSwap<FlatView>,
    generation: AtomicU64,
    listeners: Mutex<Vec<Arc<dyn ViewListener>>>,
}

impl SpaceInner {
    /// Renders a new view. Changes are serialised by the listeners' lock, so that listeners see
    /// every change once and in order.
    pub(super) fn rebuild(self: &Arc<Self>) {
        let listeners = self.listeners.lock();
        let new = Arc::new(FlatView::render(&self.root, self.unassigned));
        let old = self.view.swap(new.clone());
        self.generation.fetch_add(1, Ordering::Release);
        for listener in listeners.iter() {
            listener.view_changed(&old, &new);
        }
    }
}

/// An address space. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct AddressSpace(Arc<SpaceInner>);

impl AddressSpace {
    /// The address space below `root`, where loads that nobody answers return zeros.
    pub fn new(name: &str, root: Region) -> Self {
        Self::with_unassigned(name, root, 0)
    }

    /// The address space below `root`, where a byte that nobody answers reads as `unassigned`.
    pub fn with_unassigned(name: &str, root: Region, unassigned: u8) -> Self {
        let view = FlatView::render(&root, unassigned);
        let inner = Arc::new(SpaceInner {
            name: name.into(),
            root: root.clone(),
            unassigned,
            view: ArcSwap::from_pointee(view),
            generation: AtomicU64::new(0),
            listeners: Mutex::new(Vec::new()),
        });
        root.attach(&inner);
        inner.rebuild();
        AddressSpace(inner)
    }

    /// The space's name, as `info mtree` shows it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The root of the tree.
    pub fn root(&self) -> &Region {
        &self.0.root
    }

    /// The current view. Hold it for the length of one access or DMA, not longer.
    pub fn view(&self) -> Guard<Arc<FlatView>> {
        self.0.view.load()
    }

    /// Changes whenever the view does.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Adds a listener; it is first told of the whole current view as a change from an empty one.
    pub fn listen(&self, listener: Arc<dyn ViewListener>) {
        let mut listeners = self.0.listeners.lock();
        let empty = FlatView::render(&Region::container("empty", 0), self.0.unassigned);
        listener.view_changed(&empty, &self.0.view.load());
        listeners.push(listener);
    }

    /// Copies bytes out.
    pub fn read(&self, addr: u64, buf: &mut [u8]) {
        self.view().read(addr, buf);
    }

    /// Copies bytes in.
    pub fn write(&self, addr: u64, buf: &[u8]) {
        self.view().write(addr, buf);
    }

    /// Loads 1 to 8 bytes as a little-endian number.
    pub fn read_uint(&self, addr: u64, size: u8) -> u64 {
        self.view().read_uint(addr, size)
    }

    /// Stores 1 to 8 bytes.
    pub fn write_uint(&self, addr: u64, size: u8, value: u64) {
        self.view().write_uint(addr, size, value);
    }
}
