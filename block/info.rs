//! What monitors tell of nodes.

use serde_json::{Map, Value, json};

use crate::Result;
use crate::node::{Node, Role};
use crate::open::full_backing_name;

/// `ImageInfo` of a node; with `chain` also of what backs it.
pub fn image(node: &Node, chain: bool) -> Result<Map<String, Value>> {
    let mut info = Map::new();
    if let Some(backing) = node.child(Role::Backing).filter(|_| chain) {
        info.insert("backing-image".into(), image(backing, true)?.into());
    }
    add_own(&mut info, node)?;
    Ok(info)
}

/// Adds what `ImageInfo` has of the node itself, without those below it.
pub(crate) fn add_own(info: &mut Map<String, Value>, node: &Node) -> Result<()> {
    let driver = node.driver();
    let backing = driver.backing_name();
    if let Some((_, Some(format))) = &backing {
        info.insert("backing-filename-format".into(), json!(format));
    }
    info.insert("virtual-size".into(), json!(node.len()?));
    info.insert("filename".into(), json!(node.filename()));
    if let Some(size) = driver.cluster_size() {
        info.insert("cluster-size".into(), json!(size));
    }
    info.insert("format".into(), json!(driver.name()));
    if let Some(size) = driver.allocated_size()? {
        info.insert("actual-size".into(), json!(size));
    }
    if let Some(data) = driver.specific_info() {
        info.insert("format-specific".into(), json!({"type": driver.name(), "data": data}));
    }
    if let Some((name, _)) = backing {
        let full = full_backing_name(node.filename(), &name);
        info.insert("full-backing-filename".into(), json!(full));
        info.insert("backing-filename".into(), json!(name));
    }
    info.insert("dirty-flag".into(), json!(driver.is_dirty()));
    Ok(())
}

/// How many backing files there are below a node.
pub fn backing_depth(node: &Node) -> u64 {
    node.child(Role::Backing).map_or(0, |backing| 1 + backing_depth(backing))
}
