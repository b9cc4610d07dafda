//! `-numa`.

/// One `-numa` option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumaOption {
    /// A node.
    Node {
        /// Its number; the next free one if absent.
        id: Option<u64>,
        /// CPUs on it, by index.
        cpus: Vec<CpuRange>,
        /// Bytes of memory on it.
        memory: Option<u64>,
        /// The object that is its memory.
        memdev: Option<String>,
        /// The node whose CPUs are nearest.
        initiator: Option<u64>,
    },
    /// The distance between two nodes.
    Distance {
        /// From this node
        from: u64,
        /// to that one.
        to: u64,
        /// 10 is local.
        value: u64,
    },
    /// CPUs on a node, by their place in the topology.
    Cpu {
        /// The node.
        node: u64,
        /// The socket.
        socket: Option<u64>,
        /// The die.
        die: Option<u64>,
        /// The module.
        module: Option<u64>,
        /// The core.
        core: Option<u64>,
        /// The thread.
        thread: Option<u64>,
    },
}

/// CPUs by index, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuRange {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}
