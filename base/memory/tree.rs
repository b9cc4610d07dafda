//! Memory maps as text, in the layout that readers of `info mtree` know.

use std::fmt::Write;
use std::sync::Arc;

use super::flat::{Backing, FlatRange};
use super::region::{Child, Inner, Kind, Region};
use super::space::AddressSpace;

/// Depth beyond which a tree is taken for a loop.
const MAX_DEPTH: usize = 32;

/// The trees of address spaces, and those of regions that aliases in them lead to.
pub fn describe(spaces: &[AddressSpace]) -> String {
    let mut text = String::new();
    let mut aliased = Vec::new();
    for space in spaces {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "address-space: {}", space.name());
        let root = Child { region: space.root().clone(), offset: 0, priority: 0 };
        region(&mut text, &root, 0, 0, &mut aliased);
        text.push('\n');
    }
    let mut next = 0;
    while let Some(target) = aliased.get(next).cloned() {
        next += 1;
        let _ = writeln!(text, "memory-region: {}", target.name());
        let root = Child { region: target, offset: 0, priority: 0 };
        region(&mut text, &root, 0, 0, &mut aliased);
        text.push('\n');
    }
    text
}

/// What the addresses of the spaces show; spaces that show the same are told of together.
pub fn describe_flat(spaces: &[AddressSpace]) -> String {
    let mut text = String::new();
    for (number, space) in spaces.iter().enumerate() {
        let name = space.root().name();
        let _ = writeln!(text, "FlatView #{number}\n AS \"{}\", root: {name}", space.name());
        let view = space.view();
        if view.ranges().is_empty() {
            text.push_str(" Root memory region: (none)\n  No rendered FlatView\n\n");
            continue;
        }
        let _ = writeln!(text, " Root memory region: {name}");
        view.ranges().iter().for_each(|range| flat_range(&mut text, range));
        text.push('\n');
    }
    text
}

fn flat_range(text: &mut String, range: &FlatRange) {
    let (kind, offset) = match &range.backing {
        Backing::Ram { offset, writable: true, .. } => ("ram", *offset),
        Backing::Ram { offset, .. } => ("rom", *offset),
        Backing::RomDevice { offset, .. } => ("romd", *offset),
        Backing::Io { offset, .. } => ("i/o", *offset),
    };
    let FlatRange { start, last, name, priority, .. } = range;
    let _ = write!(text, "  {start:016x}-{last:016x} (prio {priority}, {kind}): {name}");
    if offset != 0 {
        let _ = write!(text, " @{offset:016x}");
    }
    text.push('\n');
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Container | Kind::Io(_) => "i/o",
        Kind::Ram { writable: true, .. } => "ram",
        Kind::Ram { .. } => "rom",
        Kind::RomDevice { .. } => "romd",
        Kind::Alias { target, .. } => kind_name(&target.0.kind),
    }
}

fn region(text: &mut String, child: &Child, base: u64, depth: usize, aliased: &mut Vec<Region>) {
    let Inner { name, kind, node } = &*child.region.0;
    let (size, enabled, mut children) = {
        let node = node.lock();
        (node.size, node.enabled, node.children.clone())
    };
    let start = base.wrapping_add(child.offset);
    let last = (u128::from(start) + size.max(1) - 1) as u64;
    let (indent, priority) = ((depth + 1) * 2, child.priority);
    let _ = write!(text, "{:indent$}{start:016x}-{last:016x} (prio {priority}, ", "");
    let _ = write!(text, "{}): ", kind_name(kind));
    match kind {
        Kind::Alias { target, offset } => {
            let end = (u128::from(*offset) + size.max(1) - 1) as u64;
            let to = target.name();
            let _ = write!(text, "alias {name} @{to} {offset:016x}-{end:016x}");
            if !aliased.iter().any(|known| Arc::ptr_eq(&known.0, &target.0)) {
                aliased.push(target.clone());
            }
        }
        _ => text.push_str(name),
    }
    text.push_str(if enabled { "\n" } else { " [disabled]\n" });
    if depth < MAX_DEPTH {
        children.sort_by_key(|child| (child.offset, -i64::from(child.priority)));
        for child in &children {
            region(text, child, start, depth + 1, aliased);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::RamBlock;

    #[test]
    fn maps_look_as_in_qemu() {
        let ram = Region::ram(Arc::new(RamBlock::anonymous("pc.ram", 0x20_0000).unwrap()));
        let root = Region::container("system", 1 << 64);
        let low = Region::alias("ram-below-4g", &ram, 0, 0x10_0000);
        let window = Region::container("pci", 1 << 64);
        let hidden = Region::container("hidden", 0x1000);
        root.add(&low, 0, 0);
        root.add(&window, 0, -1);
        window.add(&hidden, 0x1000, 2);
        hidden.set_enabled(false);
        let spaces = [AddressSpace::new("memory", root)];
        assert_eq!(
            describe(&spaces),
            "address-space: memory\n  \
               0000000000000000-ffffffffffffffff (prio 0, i/o): system\n    \
                 0000000000000000-00000000000fffff (prio 0, ram): alias ram-below-4g @pc.ram \
                 0000000000000000-00000000000fffff\n    \
                 0000000000000000-ffffffffffffffff (prio -1, i/o): pci\n      \
                   0000000000001000-0000000000001fff (prio 2, i/o): hidden [disabled]\n\n\
             memory-region: pc.ram\n  \
               0000000000000000-00000000001fffff (prio 0, ram): pc.ram\n\n"
        );
        assert_eq!(
            describe_flat(&spaces),
            "FlatView #0\n AS \"memory\", root: system\n Root memory region: system\n  \
             0000000000000000-00000000000fffff (prio 0, ram): pc.ram\n\n"
        );
    }
}
