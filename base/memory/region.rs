//! The tree of regions a board describes its memory map with.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::ram::RamBlock;
use super::space::SpaceInner;

/// Which access sizes a handler takes; the bus splits and widens what does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessSizes {
    /// Smallest access the handler is called with; narrower ones are widened (reads) or zero-extended
    /// (writes) to it.
    pub min: u8,
    /// Largest access the handler is called with; wider ones are split, low address first.
    pub max: u8,
}

impl AccessSizes {
    /// Byte registers.
    pub const BYTE: AccessSizes = AccessSizes { min: 1, max: 1 };
    /// Doubleword registers only.
    pub const DWORD: AccessSizes = AccessSizes { min: 4, max: 4 };
    /// Whatever the guest does, up to doublewords.
    pub const UP_TO_DWORD: AccessSizes = AccessSizes { min: 1, max: 4 };
    /// Whatever the guest does.
    pub const ANY: AccessSizes = AccessSizes { min: 1, max: 8 };
}

/// Who answers accesses to a region that is not RAM.
///
/// Handlers are called from vCPU threads, take the device's own lock, and never wait.
pub trait IoHandler: Send + Sync {
    /// The guest reads `size` bytes (1, 2, 4 or 8) at `offset` into the region.
    fn read(&self, offset: u64, size: u8) -> u64;
    /// The guest writes `size` bytes at `offset` into the region.
    fn write(&self, offset: u64, size: u8, value: u64);
    /// Access sizes the handler implements.
    fn sizes(&self) -> AccessSizes {
        AccessSizes::UP_TO_DWORD
    }
}

/// What a region is made of.
#[derive(Clone)]
pub(super) enum Kind {
    Container,
    Ram { block: Arc<RamBlock>, offset: u64, writable: bool },
    Io(Arc<dyn IoHandler>),
    RomDevice { block: Arc<RamBlock>, handler: Arc<dyn IoHandler> },
    Alias { target: Region, offset: u64 },
}

#[derive(Clone)]
pub(super) struct Child {
    pub region: Region,
    pub offset: u64,
    pub priority: i32,
}

pub(super) struct Node {
    pub size: u128,
    pub enabled: bool,
    pub read_only: bool,
    /// A ROM device answers reads from its block (true) or from its handler (false).
    pub rom_mode: bool,
    /// Highest priority first; among equals the latest first.
    pub children: Vec<Child>,
    parents: Vec<Weak<Inner>>,
    spaces: Vec<Weak<SpaceInner>>,
}

pub(super) struct Inner {
    pub name: String,
    pub kind: Kind,
    pub node: Mutex<Node>,
}

/// A node of the memory map. Cloning gives another handle to the same node.
#[derive(Clone)]
pub struct Region(pub(super) Arc<Inner>);

impl Region {
    fn new(name: &str, size: u128, kind: Kind) -> Self {
        let node = Node {
            size,
            enabled: true,
            read_only: false,
            rom_mode: true,
            children: Vec::new(),
            parents: Vec::new(),
            spaces: Vec::new(),
        };
        Region(Arc::new(Inner { name: name.into(), kind, node: Mutex::new(node) }))
    }

    /// A region that only holds others. `size` is `1 << 64` for a whole address space.
    pub fn container(name: &str, size: u128) -> Self {
        Self::new(name, size, Kind::Container)
    }

    /// A region of RAM: the whole block.
    pub fn ram(block: Arc<RamBlock>) -> Self {
        let name = block.name().to_owned();
        Self::new(&name, block.len().into(), Kind::Ram { block, offset: 0, writable: true })
    }

    /// A region of ROM: reads come from the block, writes are dropped.
    pub fn rom(block: Arc<RamBlock>) -> Self {
        let name = block.name().to_owned();
        Self::new(&name, block.len().into(), Kind::Ram { block, offset: 0, writable: false })
    }

    /// A region that a device answers.
    pub fn io(name: &str, size: u64, handler: Arc<dyn IoHandler>) -> Self {
        Self::new(name, size.into(), Kind::Io(handler))
    }

    /// Flash-like memory: reads come from the block while in ROM mode, writes go to the device.
    pub fn rom_device(block: Arc<RamBlock>, handler: Arc<dyn IoHandler>) -> Self {
        let name = block.name().to_owned();
        Self::new(&name, block.len().into(), Kind::RomDevice { block, handler })
    }

    /// A window onto `size` bytes of another region, from `offset` in it.
    pub fn alias(name: &str, target: &Region, offset: u64, size: u128) -> Self {
        let region = Self::new(name, size, Kind::Alias { target: target.clone(), offset });
        target.0.node.lock().parents.push(Arc::downgrade(&region.0));
        region
    }

    /// The region's name, as `info mtree` shows it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Size in bytes.
    pub fn size(&self) -> u128 {
        self.0.node.lock().size
    }

    /// Places `child` at `offset`. Where children overlap, the higher priority is seen, and among
    /// equals the one added last.
    pub fn add(&self, child: &Region, offset: u64, priority: i32) {
        child.0.node.lock().parents.push(Arc::downgrade(&self.0));
        self.update(|node| node.insert(Child { region: child.clone(), offset, priority }));
    }

    /// Takes `child` out. Without effect if it is not there.
    pub fn remove(&self, child: &Region) {
        child.forget_parent(&self.0);
        self.update(|node| node.children.retain(|c| !Arc::ptr_eq(&c.region.0, &child.0)));
    }

    fn forget_parent(&self, parent: &Arc<Inner>) {
        let me = Arc::downgrade(parent);
        let parents = &mut self.0.node.lock().parents;
        if let Some(at) = parents.iter().position(|parent| parent.ptr_eq(&me)) {
            parents.swap_remove(at);
        }
    }

    /// Moves `child` to another offset, keeping its priority.
    pub fn move_child(&self, child: &Region, offset: u64) {
        self.update(|node| {
            let at = node.children.iter().position(|c| Arc::ptr_eq(&c.region.0, &child.0));
            if let Some(at) = at {
                let moved = node.children.remove(at);
                node.insert(Child { offset, ..moved });
            }
        });
    }

    /// Shows or hides the region.
    pub fn set_enabled(&self, enabled: bool) {
        self.update_if(|node| std::mem::replace(&mut node.enabled, enabled) != enabled);
    }

    /// Makes RAM below this region read-only, or writable again.
    pub fn set_read_only(&self, read_only: bool) {
        self.update_if(|node| std::mem::replace(&mut node.read_only, read_only) != read_only);
    }

    /// Changes several attributes at once, so that no view shows half of the change.
    pub fn configure(&self, enabled: bool, read_only: bool) {
        self.update_if(|node| {
            let was = (node.enabled, node.read_only);
            (node.enabled, node.read_only) = (enabled, read_only);
            was != (enabled, read_only)
        });
    }

    /// Switches a ROM device between answering reads from its block and from its handler.
    pub fn set_rom_mode(&self, rom_mode: bool) {
        self.update_if(|node| std::mem::replace(&mut node.rom_mode, rom_mode) != rom_mode);
    }

    /// Changes the size.
    pub fn resize(&self, size: u128) {
        self.update_if(|node| std::mem::replace(&mut node.size, size) != size);
    }

    pub(super) fn attach(&self, space: &Arc<SpaceInner>) {
        self.0.node.lock().spaces.push(Arc::downgrade(space));
    }

    fn update(&self, change: impl FnOnce(&mut Node)) {
        self.update_if(|node| {
            change(node);
            true
        });
    }

    /// Applies a change; if it made a difference, every address space above renders a new view.
    fn update_if(&self, change: impl FnOnce(&mut Node) -> bool) {
        let changed = change(&mut self.0.node.lock());
        if changed {
            let mut spaces = Vec::new();
            self.collect_spaces(&mut spaces);
            spaces.iter().for_each(SpaceInner::rebuild);
        }
    }

    /// Finds the address spaces above this region. No lock is held while going up.
    fn collect_spaces(&self, found: &mut Vec<Arc<SpaceInner>>) {
        let (parents, spaces) = {
            let mut node = self.0.node.lock();
            node.parents.retain(|parent| parent.strong_count() > 0);
            node.spaces.retain(|space| space.strong_count() > 0);
            (node.parents.clone(), node.spaces.clone())
        };
        for space in spaces.iter().filter_map(Weak::upgrade) {
            if !found.iter().any(|known| Arc::ptr_eq(known, &space)) {
                found.push(space);
            }
        }
        for parent in parents.iter().filter_map(Weak::upgrade) {
            Region(parent).collect_spaces(found);
        }
    }
}

impl Node {
    fn insert(&mut self, child: Child) {
        let at = self.children.partition_point(|c| c.priority > child.priority);
        self.children.insert(at, child);
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region({})", self.0.name)
    }
}
