//! Commands about the guest's memory.

use std::fs::File;
use std::io::Write;

use base::memory::backend::HostMemPolicy;
use base::props::PropValue;
use machine::objects::MemoryInfo;
use serde_json::Value;

use crate::qapi::QmpError;
use crate::qmp::Call;
use crate::target::Target;
use crate::{qapi_struct, qapi_words};

/// How much is copied at a time.
const CHUNK: u64 = 1 << 20;

qapi_struct! {
    /// Sizes of memory.
    pub(in crate::qmp) struct MemorySize {
        "base-memory" base: u64,
        "plugged-memory" plugged: Option<u64>,
    }
}

pub(in crate::qmp) fn query_size(call: &Call<'_>, (): ()) -> Result<MemorySize, QmpError> {
    let base = call.target.vm.inventory().map_or(0, |inventory| inventory.ram);
    Ok(MemorySize { base, plugged: Some(0) })
}

qapi_words!(HostMemPolicy, HostMemPolicy::ALL, HostMemPolicy::as_str);

qapi_struct! {
    /// A memory backend.
    pub(in crate::qmp) struct Memdev {
        "id" id: Option<String>,
        "size" size: u64,
        "merge" merge: bool,
        "dump" dump: bool,
        "prealloc" prealloc: bool,
        "share" share: bool,
        "reserve" reserve: Option<bool>,
        "host-nodes" host_nodes: Vec<u64>,
        "policy" policy: HostMemPolicy,
    }
}

pub(in crate::qmp) fn query_memdev(call: &Call<'_>, (): ()) -> Result<Vec<Memdev>, QmpError> {
    let info = |memory: MemoryInfo| Memdev {
        id: Some(memory.id),
        size: memory.size,
        merge: memory.merge,
        dump: memory.dump,
        prealloc: memory.props.prealloc,
        share: memory.props.share.unwrap_or(false),
        reserve: Some(memory.props.reserve),
        host_nodes: match memory.props.host_nodes.to_json() {
            Value::Array(nodes) => nodes.iter().filter_map(Value::as_u64).collect(),
            _ => Vec::new(),
        },
        policy: memory.props.policy,
    };
    Ok(call.target.vm.user_objects().memory().into_iter().map(info).collect())
}

/// There are no devices that add memory.
pub(in crate::qmp) fn query_devices(_: &Call<'_>, (): ()) -> Result<Vec<Value>, QmpError> {
    Ok(Vec::new())
}

qapi_struct! {
    /// A piece of memory as a processor sees it, and the file to save it to.
    pub(in crate::qmp) struct SaveVirtual {
        "val" address: u64,
        "size" size: u64,
        "filename" filename: String,
        "cpu-index" cpu_index: Option<i64>,
    }
}

qapi_struct! {
    /// A piece of physical memory, and the file to save it to.
    pub(in crate::qmp) struct SavePhysical {
        "val" address: u64,
        "size" size: u64,
        "filename" filename: String,
    }
}

pub(in crate::qmp) fn memsave(call: &Call<'_>, wanted: SaveVirtual) -> Result<(), QmpError> {
    let SaveVirtual { address, size, filename, cpu_index } = wanted;
    let no_cpu = || QmpError::new("Parameter 'cpu-index' expects a CPU number");
    let index = usize::try_from(cpu_index.unwrap_or(0)).map_err(|_| no_cpu())?;
    let memory = call.target.virtual_memory(index).ok_or_else(no_cpu)?;
    save(&filename, size, |offset, buffer| {
        let start = address.wrapping_add(offset);
        memory.read(start, buffer).map_err(|_| {
            let rest = size - offset;
            QmpError::new(format!("Invalid addr {start:#018x}/size {rest} specified"))
        })
    })
}

pub(in crate::qmp) fn pmemsave(call: &Call<'_>, wanted: SavePhysical) -> Result<(), QmpError> {
    let Some(board) = call.target.vm.board() else { return Ok(()) };
    save(&wanted.filename, wanted.size, |offset, buffer| {
        board.memory().read(wanted.address.wrapping_add(offset), buffer);
        Ok(())
    })
}

/// Writes a file, piece by piece.
fn save(
    filename: &str,
    size: u64,
    read: impl Fn(u64, &mut [u8]) -> Result<(), QmpError>,
) -> Result<(), QmpError> {
    let mut file = File::create(filename).map_err(|error| {
        let reason = base::report::strerror(&error);
        QmpError::new(format!("Could not open '{filename}': {reason}"))
    })?;
    let mut buffer = vec![0; size.min(CHUNK) as usize];
    let mut offset = 0;
    while offset < size {
        let length = (size - offset).min(CHUNK) as usize;
        read(offset, &mut buffer[..length])?;
        file.write_all(&buffer[..length]).map_err(|_| QmpError::new("An IO error has occurred"))?;
        offset += length as u64;
    }
    Ok(())
}

impl Target {
    /// Memory as a processor sees it; `None` if there is no such processor.
    pub(crate) fn virtual_memory(&self, index: usize) -> Option<crate::paging::VirtualMemory> {
        let state = self.cpu_state(index)?;
        let memory = self.vm.board()?.memory().clone();
        Some(crate::paging::VirtualMemory::new(&state, memory))
    }
}
