//! The guest's RAM, from `-m`, `-mem-path`, memory backend objects and NUMA nodes.

use std::sync::Arc;

use base::memory::backend::{Backend, BackendProps, FileProps};
use base::memory::{RamBlock, Region};
use base::props::Size;

use super::fault;
use crate::config::{ConfigError, Located, MachineConfig, MemoryConfig, NumaNode, NumaPlan};
use crate::objects::{TakeError, UserObjectError, UserObjects, is_early, is_filter};

/// RAM of a machine that was not told how much it has.
const DEFAULT_RAM: u64 = 128 << 20;
/// Most slots for memory.
const MAX_SLOTS: u64 = 256;
/// What the machine's RAM is called.
const RAM_NAME: &str = "pc.ram";

/// Makes the objects of `-object` that the board needs: all but those that are made before it, and the
/// filters, which need networks.
pub(super) fn create_objects(
    config: &MachineConfig,
    objects: &UserObjects,
) -> Result<(), ConfigError> {
    create_those(config, objects, |name| !is_early(name) && !is_filter(name))
}

/// Makes the filters of `-object`.
pub(super) fn create_filters(
    config: &MachineConfig,
    objects: &UserObjects,
) -> Result<(), ConfigError> {
    create_those(config, objects, is_filter)
}

fn create_those(
    config: &MachineConfig,
    objects: &UserObjects,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), ConfigError> {
    for Located { value: object, origin } in &config.objects {
        if !wanted(&object.type_name) {
            continue;
        }
        if objects.exists(&object.id) {
            let message = format!("Duplicate ID '{}' for object", object.id);
            return Err(ConfigError::at(origin, message));
        }
        objects.add(object).map_err(|error| match error {
            UserObjectError::Backend(error) => fault(error),
            UserObjectError::Filter(error) => fault(error),
            error => ConfigError::at(origin, error.to_string()),
        })?;
    }
    Ok(())
}

/// Takes a backend for use; each serves once.
fn take(objects: &UserObjects, id: &str) -> Result<Arc<RamBlock>, ConfigError> {
    objects.take(id).map_err(|error| {
        fault(match error {
            TakeError::Used => format!("memory backend {id} can't be used multiple times."),
            TakeError::NotFound => format!("Memory backend '{id}' not found"),
        })
    })
}

/// The machine's RAM.
pub(super) struct GuestRam {
    /// All of it.
    pub region: Region,
    /// Its size.
    pub size: u64,
}

/// Puts the machine's RAM together.
pub(super) fn guest_ram(
    config: &MemoryConfig,
    numa: &NumaPlan,
    objects: &UserObjects,
) -> Result<GuestRam, ConfigError> {
    if config.slots > MAX_SLOTS {
        return Err(fault(format!("unsupported amount of memory slots: {}", config.slots)));
    }
    if let Some(id) = &config.backend {
        return from_backend(config, id, numa, objects);
    }
    let size = config.size.unwrap_or(DEFAULT_RAM);
    check_nodes(numa, size, objects)?;
    if numa.nodes.iter().any(|node| node.memdev.is_some()) {
        return from_nodes(numa, size, objects);
    }
    let common = BackendProps {
        size: Some(Size(size)),
        prealloc: config.prealloc,
        ..BackendProps::default()
    };
    let backend = match &config.path {
        Some(path) => Backend::File(FileProps {
            common,
            mem_path: Some(path.clone()),
            ..FileProps::default()
        }),
        None => Backend::Ram(common),
    };
    let block = objects.add_memory(RAM_NAME, backend, true).map_err(fault)?;
    Ok(GuestRam { region: Region::ram(block), size })
}

fn from_backend(
    config: &MemoryConfig,
    id: &str,
    numa: &NumaPlan,
    objects: &UserObjects,
) -> Result<GuestRam, ConfigError> {
    let block = take(objects, id)?;
    let size = block.len();
    if config.size.is_some_and(|wanted| wanted != size) {
        return Err(fault("Machine memory size does not match the size of the memory backend"));
    }
    if numa.nodes.iter().any(|node| node.memdev.is_some()) {
        return Err(fault(
            "'-machine memory-backend' and '-numa memdev' properties are mutually exclusive",
        ));
    }
    check_nodes(numa, size, objects)?;
    Ok(GuestRam { region: Region::ram(block), size })
}

/// Bytes of memory on each node.
pub(super) fn node_sizes(numa: &NumaPlan, objects: &UserObjects) -> Result<Vec<u64>, ConfigError> {
    let size = |node: &NumaNode| match &node.memdev {
        None => Ok(node.memory),
        Some(Located { value: id, origin }) => objects
            .size(id)
            .ok_or_else(|| ConfigError::at(origin, format!("memdev={id} is ambiguous"))),
    };
    numa.nodes.iter().map(size).collect()
}

fn check_nodes(numa: &NumaPlan, size: u64, objects: &UserObjects) -> Result<(), ConfigError> {
    let sizes = node_sizes(numa, objects)?;
    let total = sizes.iter().fold(0u64, |total, size| total.saturating_add(*size));
    if numa.nodes.is_empty() || total == size {
        return Ok(());
    }
    Err(fault(format!(
        "total memory for NUMA nodes ({total:#x}) should equal RAM size ({size:#x})"
    )))
}

fn from_nodes(numa: &NumaPlan, size: u64, objects: &UserObjects) -> Result<GuestRam, ConfigError> {
    let region = Region::container(RAM_NAME, size.into());
    let mut at = 0;
    for memdev in numa.nodes.iter().filter_map(|node| node.memdev.as_ref()) {
        let block = take(objects, &memdev.value)?;
        let len = block.len();
        region.add(&Region::ram(block), at, 0);
        at += len;
    }
    Ok(GuestRam { region, size })
}

#[cfg(test)]
mod tests {
    use base::object::Object;

    use super::*;
    use crate::config::{ObjectConfig, Origin, PropList};

    fn backends(objects: &[(&str, &str)]) -> Result<Arc<UserObjects>, String> {
        let object = |(id, props): &(&str, &str)| {
            let pairs = props.split(',').filter_map(|pair| pair.split_once('='));
            let props = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let object = ObjectConfig {
                type_name: "memory-backend-ram".into(),
                id: (*id).into(),
                props: PropList::Text(props),
            };
            Located::new(object, &Origin::None)
        };
        let config = MachineConfig {
            objects: objects.iter().map(object).collect(),
            ..MachineConfig::default()
        };
        let graph = block::graph::Graph::new(Arc::new(block::engine::Inline)).unwrap();
        let made = UserObjects::new(Object::container(), graph, Arc::default());
        create_objects(&config, &made).map_err(|error| error.to_string())?;
        Ok(made)
    }

    fn plan(memdevs: &[&str]) -> NumaPlan {
        let node = |id: &&str| NumaNode {
            memory: 0,
            memdev: Some(Located::new((*id).to_owned(), &Origin::None)),
        };
        NumaPlan { nodes: memdevs.iter().map(node).collect(), ..NumaPlan::default() }
    }

    fn ram(
        config: &MemoryConfig,
        memdevs: &[&str],
        objects: &[(&str, &str)],
    ) -> Result<GuestRam, String> {
        guest_ram(config, &plan(memdevs), &*backends(objects)?).map_err(|e| e.to_string())
    }

    const MIB: u64 = 1 << 20;

    fn sized(size: u64) -> MemoryConfig {
        MemoryConfig { size: Some(size), ..MemoryConfig::default() }
    }

    #[test]
    fn nodes_lie_one_after_the_other() {
        let objects = [("a", "size=1M"), ("b", "size=2M")];
        let ram = ram(&sized(3 * MIB), &["b", "a"], &objects).unwrap();
        let space = base::memory::AddressSpace::new("ram", ram.region);
        space.write_uint(2 * MIB - 4, 8, !0);
        assert_eq!(space.read_uint(2 * MIB - 4, 8), !0, "across the border");
        assert_eq!(space.view().ranges().len(), 2);
    }

    #[test]
    fn a_backend_brings_its_size() {
        let config = MemoryConfig { backend: Some("m".into()), ..MemoryConfig::default() };
        assert_eq!(ram(&config, &[], &[("m", "size=4M")]).unwrap().size, 4 * MIB);
        assert_eq!(ram(&MemoryConfig::default(), &[], &[]).unwrap().size, DEFAULT_RAM);
    }

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn faults() {
        let with = |backend: &str| MemoryConfig { backend: Some(backend.into()), ..sized(MIB) };
        let two = [("a", "size=1M"), ("b", "size=1M")];
        let total = |has, size| {
            format!("total memory for NUMA nodes ({has:#x}) should equal RAM size ({size:#x})")
        };
        for (config, memdevs, objects, message) in [
            (with("nope"), &[][..], &two[..], "Memory backend 'nope' not found".into()),
            (
                with("m"),
                &[],
                &[("m", "size=2M")],
                "Machine memory size does not match the size of the memory backend".into(),
            ),
            (
                with("a"),
                &["b"],
                &two,
                "'-machine memory-backend' and '-numa memdev' properties are mutually exclusive"
                    .into(),
            ),
            (sized(3 * MIB), &["a", "b"], &two, total(2 * MIB, 3 * MIB)),
            (
                sized(2 * MIB),
                &["a", "a"],
                &two,
                "memory backend a can't be used multiple times.".into(),
            ),
            (sized(MIB), &["zz"], &two, "memdev=zz is ambiguous".into()),
            (sized(MIB), &[], &[("a", "size=1M,foo=1")], "Invalid parameter 'foo'".into()),
            (sized(MIB), &[], &[("a", "size=x")], "Parameter 'size' expects a size value".into()),
            (
                sized(MIB),
                &[],
                &[("a", "size=1M,prealloc-threads=x")],
                "Parameter 'prealloc-threads' expects a uint64 value".into(),
            ),
            (
                sized(MIB),
                &[],
                &[("a", "size=1M"), ("a", "size=1M")],
                "Duplicate ID 'a' for object".into(),
            ),
            (
                MemoryConfig { slots: 300, ..sized(MIB) },
                &[],
                &[],
                "unsupported amount of memory slots: 300".into(),
            ),
        ] {
            assert_eq!(ram(&config, memdevs, objects).map(|_| ()), Err(message));
        }
    }
}
