//! The guest's RAM, from `-m`, `-mem-path`, memory backend objects and NUMA nodes.

use std::collections::HashMap;
use std::sync::Arc;

use base::memory::backend::{Backend, BackendError, BackendProps, Defaults, FileProps, HostNodes};
use base::memory::{RamBlock, Region};
use base::props::{PropError, PropInput, PropName, PropValue, Size};

use super::fault;
use crate::config::{
    ConfigError, Located, MachineConfig, MemoryConfig, NumaNode, NumaPlan, ObjectConfig, PropList,
};

/// RAM of a machine that was not told how much it has.
const DEFAULT_RAM: u64 = 128 << 20;
/// Most slots for memory.
const MAX_SLOTS: u64 = 256;
/// What the machine's RAM is called.
const RAM_NAME: &str = "pc.ram";

/// Memory backend objects.
pub(super) struct Backends {
    blocks: HashMap<String, Arc<RamBlock>>,
    used: Vec<String>,
    defaults: Defaults,
}

impl Backends {
    /// Makes those of `-object`.
    pub fn create(config: &MachineConfig, defaults: Defaults) -> Result<Self, ConfigError> {
        let mut blocks = HashMap::new();
        for object in &config.objects {
            let Some(backend) = Backend::new(&object.value.type_name) else { continue };
            let id = &object.value.id;
            if blocks.contains_key(id) {
                let message = format!("Duplicate ID '{id}' for object");
                return Err(ConfigError::at(&object.origin, message));
            }
            let backend = configure(backend, &object.value)
                .map_err(|message| ConfigError::at(&object.origin, message))?;
            let block = backend.create(id, defaults).map_err(fault)?;
            blocks.insert(id.clone(), Arc::new(block));
        }
        Ok(Backends { blocks, used: Vec::new(), defaults })
    }

    /// Takes an object for use; each serves once.
    fn take(&mut self, id: &str) -> Result<Arc<RamBlock>, ConfigError> {
        if self.used.iter().any(|used| used == id) {
            return Err(fault(format!("memory backend {id} can't be used multiple times.")));
        }
        let block = self.blocks.get(id).cloned();
        self.used.push(id.into());
        block.ok_or_else(|| fault(format!("Memory backend '{id}' not found")))
    }
}

/// Sets an object's properties; the two forms word their faults differently.
fn configure(mut backend: Backend, object: &ObjectConfig) -> Result<Backend, String> {
    let owner = backend.type_name();
    match &object.props {
        PropList::Text(pairs) => {
            let mut nodes = HostNodes::default();
            for (name, value) in pairs {
                if name == "host-nodes" {
                    let more = HostNodes::from_text(value, &PropName { owner, name });
                    nodes.extend(more.map_err(|error| error.to_string())?);
                } else {
                    backend.props().set(owner, name, PropInput::Text(value)).map_err(text_fault)?;
                }
            }
            backend.common_mut().host_nodes = nodes;
        }
        PropList::Json(members) => {
            for (name, value) in members {
                backend.props().set(owner, name, PropInput::Json(value)).map_err(|error| {
                    match error {
                        PropError::NotFound { name, .. } => {
                            format!("Parameter '{name}' is unexpected")
                        }
                        other => other.to_string(),
                    }
                })?;
            }
        }
    }
    backend.check().map_err(|error: BackendError| error.to_string())?;
    Ok(backend)
}

fn text_fault(error: PropError) -> String {
    match error {
        PropError::NotFound { name, .. } => format!("Invalid parameter '{name}'"),
        PropError::Expects { name, what: "size" } => {
            format!("Parameter '{name}' expects a size value")
        }
        PropError::Expects { name, what: "integer" } => {
            format!("Parameter '{name}' expects a uint64 value")
        }
        other => other.to_string(),
    }
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
    backends: &mut Backends,
) -> Result<GuestRam, ConfigError> {
    if config.slots > MAX_SLOTS {
        return Err(fault(format!("unsupported amount of memory slots: {}", config.slots)));
    }
    if let Some(id) = &config.backend {
        return from_backend(config, id, numa, backends);
    }
    let size = config.size.unwrap_or(DEFAULT_RAM);
    check_nodes(numa, size, backends)?;
    if numa.nodes.iter().any(|node| node.memdev.is_some()) {
        return from_nodes(numa, size, backends);
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
    let block = backend.create(RAM_NAME, backends.defaults).map_err(fault)?;
    Ok(GuestRam { region: Region::ram(Arc::new(block)), size })
}

fn from_backend(
    config: &MemoryConfig,
    id: &str,
    numa: &NumaPlan,
    backends: &mut Backends,
) -> Result<GuestRam, ConfigError> {
    let block = backends.take(id)?;
    let size = block.len();
    if config.size.is_some_and(|wanted| wanted != size) {
        return Err(fault("Machine memory size does not match the size of the memory backend"));
    }
    if numa.nodes.iter().any(|node| node.memdev.is_some()) {
        return Err(fault(
            "'-machine memory-backend' and '-numa memdev' properties are mutually exclusive",
        ));
    }
    check_nodes(numa, size, backends)?;
    Ok(GuestRam { region: Region::ram(block), size })
}

/// Bytes of memory on each node.
pub(super) fn node_sizes(numa: &NumaPlan, backends: &Backends) -> Result<Vec<u64>, ConfigError> {
    let size = |node: &NumaNode| match &node.memdev {
        None => Ok(node.memory),
        Some(Located { value: id, origin }) => match backends.blocks.get(id) {
            Some(block) => Ok(block.len()),
            None => Err(ConfigError::at(origin, format!("memdev={id} is ambiguous"))),
        },
    };
    numa.nodes.iter().map(size).collect()
}

fn check_nodes(numa: &NumaPlan, size: u64, backends: &Backends) -> Result<(), ConfigError> {
    let sizes = node_sizes(numa, backends)?;
    let total = sizes.iter().fold(0u64, |total, size| total.saturating_add(*size));
    if numa.nodes.is_empty() || total == size {
        return Ok(());
    }
    Err(fault(format!(
        "total memory for NUMA nodes ({total:#x}) should equal RAM size ({size:#x})"
    )))
}

fn from_nodes(
    numa: &NumaPlan,
    size: u64,
    backends: &mut Backends,
) -> Result<GuestRam, ConfigError> {
    let region = Region::container(RAM_NAME, size.into());
    let mut at = 0;
    for memdev in numa.nodes.iter().filter_map(|node| node.memdev.as_ref()) {
        let block = backends.take(&memdev.value)?;
        let len = block.len();
        region.add(&Region::ram(block), at, 0);
        at += len;
    }
    Ok(GuestRam { region, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn backends(objects: &[(&str, &str)]) -> Result<Backends, String> {
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
        Backends::create(&config, Defaults { merge: true, dump: true })
            .map_err(|error| error.to_string())
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
        guest_ram(config, &plan(memdevs), &mut backends(objects)?).map_err(|e| e.to_string())
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
