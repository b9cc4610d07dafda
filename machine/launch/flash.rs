//! The board's flash memory: firmware, and what it keeps (`if=pflash`, `-machine pflash0=`).

use std::sync::Arc;

use base::device::Shared;
use base::memory::{RamBlock, Region};
use base::object::{Object, Property};
use base::props::PropError;
use block::backend::{Backend, Interface};
use block::graph::Graph;
use hw::storage::pflash::{Pflash, SECTOR};
use serde_json::{Map, Value};

use super::fault;
use super::tree::Tree;
use crate::config::ConfigError;
use crate::pc::memory::PcMemory;

/// Type of the chips.
const TYPE: &str = "cfi.pflash01";
/// Machine properties that name their contents, in the order in which the chips lie below 4 GiB.
pub(super) const PROPERTIES: [&str; 2] = ["pflash0", "pflash1"];

/// What the chips hold.
pub(super) struct Flash {
    backends: [Option<Arc<Backend>>; 2],
}

/// A chip in its place.
struct Chip {
    chip: Shared<Pflash>,
    region: Region,
    block: Arc<RamBlock>,
    object: Object,
}

/// The chips, placed.
pub(super) struct Placed(Vec<Chip>);

impl Flash {
    /// What the machine properties about flash memory name, or else drives.
    pub fn choose(props: &Map<String, Value>, graph: &Graph) -> Result<Self, ConfigError> {
        let mut backends = [None, None];
        for (index, name) in PROPERTIES.into_iter().enumerate() {
            let drive = graph.drive_at(Interface::Pflash, 0, index as u32);
            backends[index] = match props.get(name) {
                None => drive,
                Some(Value::String(id)) => {
                    let found = graph.backend_for_device(id).map_err(fault)?;
                    let missing = || PropError::no_such_backend(TYPE, "drive", id);
                    Some(found.ok_or_else(missing).map_err(fault)?)
                }
                Some(_) => {
                    let text = format!("Invalid parameter type for '{name}', expected: string");
                    return Err(ConfigError::new(text));
                }
            };
        }
        match &backends {
            [None, Some(_)] => Err(ConfigError::new("pflash1 requires pflash0")),
            _ => Ok(Flash { backends }),
        }
    }

    /// Whether firmware is in flash memory.
    pub fn is_used(&self) -> bool {
        self.backends[0].is_some()
    }

    /// Makes the chips and puts them below 4 GiB, the first one on top.
    pub fn place(self, map: &PcMemory, most: u64) -> Result<Placed, ConfigError> {
        let mut chips: Vec<Chip> = Vec::new();
        let mut total = 0;
        for (index, backend) in self.backends.into_iter().flatten().enumerate() {
            let name = match backend.name() {
                "" => backend.node().map(|node| node.name().to_owned()).unwrap_or_default(),
                name => name.to_owned(),
            };
            let len = backend.len().map_err(|error| {
                ConfigError::new(format!("can't get size of block device {name}: {error}"))
            })?;
            if len == 0 || !len.is_multiple_of(SECTOR) {
                return Err(ConfigError::new(format!(
                    "system firmware block device {name} has invalid size {len}\n\
                     info: its size must be a non-zero multiple of {SECTOR:#x}"
                )));
            }
            total += len;
            if total > most {
                let text = format!("combined size of system firmware exceeds {most} bytes");
                return Err(ConfigError::new(text));
            }
            let part = format!("system.flash{index}");
            let path = format!("/machine/{part}");
            let (chip, region, block) = Pflash::create(&part, backend, &path).map_err(fault)?;
            let object = Object::device(TYPE, None, "/machine/unattached/sysbus").with([
                Property::fixed("drive", "str", name),
                Property::fixed("num-blocks", "uint32", len / SECTOR),
                Property::fixed("sector-length", "uint64", SECTOR),
                Property::fixed("width", "uint8", 1),
                Property::fixed("name", "str", part),
            ]);
            chips.push(Chip { chip, region, block, object });
        }
        let parts: Vec<_> = chips.iter().map(|chip| (chip.region.clone(), &chip.block)).collect();
        map.place_flash(&parts).map_err(fault)?;
        Ok(Placed(chips))
    }
}

impl Placed {
    /// Enters the chips into the object tree; returns them, to be reset with the board.
    pub fn enter(self, tree: &mut Tree) -> Vec<Shared<Pflash>> {
        let named = |(index, chip): (usize, Chip)| {
            tree.named(&format!("system.flash{index}"), chip.object);
            chip.chip
        };
        self.0.into_iter().enumerate().map(named).collect()
    }
}
