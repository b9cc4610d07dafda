//! Flat views: who answers at which address, as a sorted list.

use std::sync::Arc;

use super::ram::{RamBlock, mask};
use super::region::{AccessSizes, IoHandler, Kind, Region};
use crate::trace_event;

/// Who answers a range.
#[derive(Clone)]
pub(super) enum Backing {
    Ram { block: Arc<RamBlock>, offset: u64, writable: bool },
    Io { handler: Arc<dyn IoHandler>, offset: u64, sizes: AccessSizes, region_size: u128 },
    RomDevice { block: Arc<RamBlock>, handler: Arc<dyn IoHandler>, offset: u64 },
}

/// A range of addresses with one answer.
#[derive(Clone)]
pub struct FlatRange {
    /// First address.
    pub start: u64,
    /// Last address.
    pub last: u64,
    /// Name of the region that answers.
    pub name: Arc<str>,
    /// Its priority among its siblings.
    pub priority: i32,
    pub(super) backing: Backing,
}

impl FlatRange {
    /// The RAM behind the range: block, offset in it, and whether stores reach it directly.
    pub fn ram(&self) -> Option<(&Arc<RamBlock>, u64, bool)> {
        match &self.backing {
            Backing::Ram { block, offset, writable } => Some((block, *offset, *writable)),
            Backing::RomDevice { block, offset, .. } => Some((block, *offset, false)),
            Backing::Io { .. } => None,
        }
    }
    /// Whether an access of `size` bytes at `addr` in the range goes to its backing as a whole. To
    /// devices it does even where another region covers its end: port 0xCF9 lies inside the
    /// doubleword register at 0xCF8.
    fn takes(&self, addr: u64, size: u8) -> bool {
        let skip = addr - self.start;
        let size = u64::from(size);
        match &self.backing {
            Backing::Io { offset, region_size, .. } => {
                u128::from(offset + skip) + u128::from(size) <= *region_size
            }
            _ => self.last - addr >= size - 1,
        }
    }
    /// Whether stores must reach a device although loads come from memory.
    pub fn is_rom_device(&self) -> bool {
        matches!(self.backing, Backing::RomDevice { .. })
    }
    /// Whether both ranges mean the same bytes or the same registers.
    pub fn same_backing(&self, other: &FlatRange) -> bool {
        (self.start, self.last) == (other.start, other.last)
            && self.is_rom_device() == other.is_rom_device()
            && match (self.ram(), other.ram()) {
                (Some(a), Some(b)) => Arc::ptr_eq(a.0, b.0) && (a.1, a.2) == (b.1, b.2),
                (None, None) => self.name == other.name,
                _ => false,
            }
    }
}

/// What [`FlatView::lookup`] found.
pub struct Lookup<'a> {
    /// Bytes from the address to the end of the answer, at least one. Saturates at `u64::MAX`.
    pub remaining: u64,
    /// Who answers.
    pub kind: LookupKind<'a>,
}

/// Who answers at an address.
#[allow(missing_docs)]
pub enum LookupKind<'a> {
    /// RAM, or ROM if not writable.
    Ram { block: &'a Arc<RamBlock>, offset: u64, writable: bool },
    /// Loads come from memory, stores go to a device.
    RomDevice { block: &'a Arc<RamBlock>, offset: u64 },
    /// A device.
    Io,
    /// Nobody.
    Unassigned,
}

/// An immutable picture of an address space.
pub struct FlatView {
    ranges: Vec<FlatRange>,
    /// The longest range of RAM, which most accesses are for.
    main: Option<usize>,
    /// What a load that nobody answers returns, byte by byte.
    unassigned: u8,
}

impl FlatView {
    pub(super) fn render(root: &Region, unassigned: u8) -> Self {
        let mut renderer = Renderer { ranges: Vec::new() };
        let size = root.size();
        if size > 0 {
            let window = (0, (size - 1).min(u64::MAX.into()) as u64);
            renderer.region(root, 0, window, false, (0, 0));
        }
        let ram = renderer.ranges.iter().enumerate().filter(|(_, range)| range.ram().is_some());
        let main = ram.max_by_key(|(_, range)| range.last - range.start).map(|(at, _)| at);
        FlatView { ranges: renderer.ranges, main, unassigned }
    }

    /// All ranges, ascending.
    pub fn ranges(&self) -> &[FlatRange] {
        &self.ranges
    }

    fn find(&self, addr: u64) -> Result<&FlatRange, usize> {
        if let Some(main) = self.main.and_then(|at| self.ranges.get(at))
            && (main.start..=main.last).contains(&addr)
        {
            return Ok(main);
        }
        let at = self.ranges.partition_point(|range| range.last < addr);
        match self.ranges.get(at) {
            Some(range) if range.start <= addr => Ok(range),
            _ => Err(at),
        }
    }

    /// Who answers at `addr`.
    pub fn lookup(&self, addr: u64) -> Lookup<'_> {
        match self.find(addr) {
            Ok(range) => {
                let skip = addr - range.start;
                let kind = match &range.backing {
                    Backing::Ram { block, offset, writable } => {
                        LookupKind::Ram { block, offset: offset + skip, writable: *writable }
                    }
                    Backing::RomDevice { block, offset, .. } => {
                        LookupKind::RomDevice { block, offset: offset + skip }
                    }
                    Backing::Io { .. } => LookupKind::Io,
                };
                Lookup { remaining: (range.last - addr).saturating_add(1), kind }
            }
            Err(next) => {
                let end = self.ranges.get(next).map_or(u64::MAX, |range| range.start - 1);
                Lookup { remaining: (end - addr).saturating_add(1), kind: LookupKind::Unassigned }
            }
        }
    }

    /// Loads 1 to 8 bytes as a little-endian number.
    pub fn read_uint(&self, addr: u64, size: u8) -> u64 {
        if let Ok(range) = self.find(addr)
            && range.takes(addr, size)
        {
            let skip = addr - range.start;
            return match &range.backing {
                Backing::Ram { block, offset, .. } | Backing::RomDevice { block, offset, .. } => {
                    block.read_uint(offset + skip, size)
                }
                Backing::Io { handler, offset, sizes, .. } => {
                    let value = io_read(&**handler, *sizes, offset + skip, size);
                    let name = &range.name;
                    trace_event!(
                        memory_region_ops_read,
                        "addr {addr:#x} value {value:#x} size {size} name '{name}'"
                    );
                    value
                }
            };
        }
        // Unassigned, or across a boundary: piece by piece.
        (0..size).rev().fold(0, |value, i| {
            let at = addr.wrapping_add(i.into());
            let byte = match self.find(at) {
                Ok(_) => self.read_uint(at, 1),
                Err(_) => self.unassigned.into(),
            };
            value << 8 | byte
        })
    }

    /// Stores the low 1 to 8 bytes of `value`.
    pub fn write_uint(&self, addr: u64, size: u8, value: u64) {
        match self.find(addr) {
            Ok(range) if range.takes(addr, size) => {
                let skip = addr - range.start;
                let (handler, sizes, offset) = match &range.backing {
                    Backing::Ram { block, offset, writable } => {
                        if *writable {
                            block.write_uint(offset + skip, size, value);
                        }
                        return;
                    }
                    Backing::Io { handler, offset, sizes, .. } => (handler, *sizes, offset),
                    Backing::RomDevice { handler, offset, .. } => {
                        (handler, handler.sizes(), offset)
                    }
                };
                let name = &range.name;
                trace_event!(
                    memory_region_ops_write,
                    "addr {addr:#x} value {value:#x} size {size} name '{name}'"
                );
                io_write(&**handler, sizes, offset + skip, size, value);
            }
            _ if size > 1 => {
                for i in 0..size {
                    self.write_uint(addr.wrapping_add(i.into()), 1, value >> (8 * i) & 0xff);
                }
            }
            _ => {}
        }
    }

    /// Copies bytes out of whatever is there.
    pub fn read(&self, addr: u64, buf: &mut [u8]) {
        self.pieces(addr, buf.len(), |at, range, piece| match range.and_then(FlatRange::ram) {
            Some((block, _, _)) => block.read(at, &mut buf[piece]),
            None => {
                for (i, byte) in buf[piece.clone()].iter_mut().enumerate() {
                    *byte = self.read_uint(addr.wrapping_add((piece.start + i) as u64), 1) as u8;
                }
            }
        });
    }

    /// Copies bytes to whatever is there.
    pub fn write(&self, addr: u64, buf: &[u8]) {
        self.pieces(addr, buf.len(), |at, range, piece| match range.and_then(FlatRange::ram) {
            Some((block, _, true)) => block.write(at, &buf[piece]),
            _ => {
                for (i, byte) in buf[piece.clone()].iter().enumerate() {
                    let at = addr.wrapping_add((piece.start + i) as u64);
                    self.write_uint(at, 1, (*byte).into());
                }
            }
        });
    }

    /// Cuts `[addr, addr + len)` where ranges begin and end. The closure gets the offset in the RAM
    /// block (if the range has one), the range, and the piece's place in the buffer.
    pub(super) fn pieces(
        &self,
        addr: u64,
        len: usize,
        mut each: impl FnMut(u64, Option<&FlatRange>, std::ops::Range<usize>),
    ) {
        let mut done = 0;
        while done < len {
            let at = addr.wrapping_add(done as u64);
            let count = self.lookup(at).remaining.min((len - done) as u64) as usize;
            let range = self.find(at).ok();
            let in_block = range
                .and_then(|range| range.ram().map(|(_, offset, _)| offset + (at - range.start)))
                .unwrap_or(0);
            each(in_block, range, done..done + count);
            done += count;
        }
    }
}

/// Calls a handler with accesses of sizes it takes.
fn io_read(handler: &dyn IoHandler, sizes: AccessSizes, offset: u64, size: u8) -> u64 {
    if (sizes.min..=sizes.max).contains(&size) && size.is_power_of_two() {
        return handler.read(offset, size) & mask(size);
    }
    if size < sizes.min {
        // Read the register around the access and cut the wanted part out of it.
        let within = offset & u64::from(sizes.min - 1);
        let value = handler.read(offset - within, sizes.min) & mask(sizes.min);
        let low = value >> (8 * within);
        let inside = u64::from(sizes.min) - within;
        if u64::from(size) <= inside {
            return low & mask(size);
        }
        let rest = io_read(handler, sizes, offset + inside, size - inside as u8);
        return (low | rest << (8 * inside)) & mask(size);
    }
    let step = split_step(sizes, size);
    (0..size).step_by(step.into()).fold(0, |value, i| {
        let part = step.min(size - i);
        value | io_read(handler, sizes, offset + u64::from(i), part) << (8 * i)
    })
}

fn io_write(handler: &dyn IoHandler, sizes: AccessSizes, offset: u64, size: u8, value: u64) {
    let value = value & mask(size);
    if (sizes.min..=sizes.max).contains(&size) && size.is_power_of_two() {
        handler.write(offset, size, value);
    } else if size < sizes.min {
        // A narrow store to a wide register reaches it zero-extended, at the byte it names.
        handler.write(offset, sizes.min, value);
    } else {
        let step = split_step(sizes, size);
        for i in (0..size).step_by(step.into()) {
            let part = step.min(size - i);
            io_write(handler, sizes, offset + u64::from(i), part, value >> (8 * i));
        }
    }
}

/// The largest access that divides an access of `size` bytes and that the handler takes.
fn split_step(sizes: AccessSizes, size: u8) -> u8 {
    let largest = 1 << (7 - size.leading_zeros());
    largest.min(sizes.max)
}

/// Depth beyond which a tree of aliases is taken for a loop.
const MAX_DEPTH: u32 = 32;

struct Renderer {
    /// Sorted and disjoint; what was rendered first stays.
    ranges: Vec<FlatRange>,
}

impl Renderer {
    /// Renders `region`, whose offset 0 lies at `base`, as far as `window` (first and last address)
    /// shows it. Depth and priority are the region's in the tree.
    fn region(
        &mut self,
        region: &Region,
        base: i128,
        window: (u64, u64),
        read_only: bool,
        (depth, priority): (u32, i32),
    ) {
        let (children, kind, size, read_only, rom_mode) = {
            let node = region.0.node.lock();
            if !node.enabled || node.size == 0 || depth > MAX_DEPTH {
                return;
            }
            let read_only = read_only || node.read_only;
            (node.children.clone(), region.0.kind.clone(), node.size, read_only, node.rom_mode)
        };
        let first = base.max(window.0.into());
        let last = (base + size as i128 - 1).min(window.1.into());
        if first > last {
            return;
        }
        let window = (first as u64, last as u64);
        for child in &children {
            self.region(
                &child.region,
                base + i128::from(child.offset),
                window,
                read_only,
                (depth + 1, child.priority),
            );
        }
        let skip = (first - base) as u64;
        let name = || (Arc::from(region.name()), priority);
        match kind {
            Kind::Container => {}
            Kind::Alias { target, offset } => {
                let base = base - i128::from(offset);
                self.region(&target, base, window, read_only, (depth + 1, 0));
            }
            Kind::Ram { block, offset, writable } => {
                let writable = writable && !read_only;
                self.fill(window, name(), &|at| Backing::Ram {
                    block: block.clone(),
                    offset: offset + skip + at,
                    writable,
                });
            }
            Kind::RomDevice { block, handler } if rom_mode => {
                self.fill(window, name(), &|at| Backing::RomDevice {
                    block: block.clone(),
                    handler: handler.clone(),
                    offset: skip + at,
                });
            }
            Kind::Io(handler) | Kind::RomDevice { handler, .. } => {
                let sizes = handler.sizes();
                self.fill(window, name(), &|at| Backing::Io {
                    handler: handler.clone(),
                    offset: skip + at,
                    sizes,
                    region_size: size,
                });
            }
        }
    }

    /// Puts a backing wherever the window is still free. `backing` gets the distance from the
    /// window's start.
    fn fill(
        &mut self,
        (first, last): (u64, u64),
        (name, priority): (Arc<str>, i32),
        backing: &dyn Fn(u64) -> Backing,
    ) {
        let mut at = self.ranges.partition_point(|range| range.last < first);
        let mut start = first;
        loop {
            let taken = self.ranges.get(at).map(|range| (range.start, range.last));
            let end = match taken {
                Some((next, _)) if next <= last => next.checked_sub(1).filter(|&end| end >= start),
                _ => Some(last),
            };
            if let Some(end) = end {
                let backing = backing(start - first);
                let name = name.clone();
                self.ranges.insert(at, FlatRange { start, last: end, name, priority, backing });
                at += 1;
            }
            match taken {
                Some((next, until)) if next <= last && until < last => start = until + 1,
                _ => break,
            }
            at += 1;
        }
    }
}
