//! `-numa`: the nodes of a machine, their memory, their processors, their distances.

use super::{ConfigError, Located, Topology};

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

/// Distance of a node from itself, and least distance of all.
const LOCAL_DISTANCE: u8 = 10;

/// A node of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaNode {
    /// Bytes of the machine's memory that are its own, unless an object is its memory.
    pub memory: u64,
    /// The object that is its memory.
    pub memdev: Option<Located<String>>,
}

/// What `-numa` comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaPlan {
    /// The nodes; none if the machine has no such thing.
    pub nodes: Vec<NumaNode>,
    /// The node of each possible processor.
    pub cpus: Vec<u32>,
    /// Distance from each node to each node, row by row, if any was given.
    pub distances: Option<Vec<u8>>,
    /// What the operator should know.
    pub warnings: Vec<Located<String>>,
}

/// A plan in the making.
struct Planner<'a> {
    topology: &'a Topology,
    /// Whether the machine is old enough for `mem=`.
    memory_sizes: bool,
    nodes: Vec<Option<NumaNode>>,
    cpus: Vec<Option<u32>>,
    distances: Vec<(usize, usize, u8)>,
    warnings: Vec<Located<String>>,
}

impl NumaPlan {
    /// Works the options through. `memory_sizes` tells whether the machine takes `mem=`.
    pub fn resolve(
        options: &[Located<NumaOption>],
        topology: &Topology,
        memory_sizes: bool,
    ) -> Result<Self, ConfigError> {
        let mut planner = Planner {
            topology,
            memory_sizes,
            nodes: Vec::new(),
            cpus: vec![None; topology.maxcpus as usize],
            distances: Vec::new(),
            warnings: Vec::new(),
        };
        for option in options {
            planner.add(option).map_err(|message| ConfigError::at(&option.origin, message))?;
        }
        planner.finish().map_err(ConfigError::new)
    }
}

impl Planner<'_> {
    fn add(&mut self, option: &Located<NumaOption>) -> Result<(), String> {
        match &option.value {
            NumaOption::Node { initiator: Some(_), .. } => {
                Err("ACPI Heterogeneous Memory Attribute Table (HMAT) is disabled, enable it with \
                 -machine hmat=on before using any of hmat specific options"
                    .into())
            }
            NumaOption::Node { id, cpus, memory, memdev, .. } => {
                let memdev = memdev.clone().map(|name| Located::new(name, &option.origin));
                if memory.is_some() && self.memory_sizes {
                    let warning =
                        "Parameter -numa node,mem is deprecated, use -numa node,memdev instead";
                    self.warnings.push(Located::new(warning.into(), &option.origin));
                }
                self.add_node(*id, cpus, *memory, memdev)
            }
            NumaOption::Distance { from, to, value } => self.add_distance(*from, *to, *value),
            NumaOption::Cpu { node, socket, die, module, core, thread } => {
                self.add_cpu(*node, [*socket, *die, *module, *core, *thread])
            }
        }
    }

    fn add_node(
        &mut self,
        id: Option<u64>,
        cpus: &[CpuRange],
        memory: Option<u64>,
        memdev: Option<Located<String>>,
    ) -> Result<(), String> {
        let count = self.nodes.iter().flatten().count();
        let id = id.map_or(count, |id| id as usize);
        if self.nodes.len() <= id {
            self.nodes.resize(id + 1, None);
        }
        if self.nodes[id].is_some() {
            return Err(format!("Duplicate NUMA nodeid: {id}"));
        }
        for cpu in cpus.iter().flat_map(|range| range.first..=range.last) {
            let maxcpus = self.topology.maxcpus;
            let place = usize::try_from(cpu).ok().and_then(|cpu| self.cpus.get_mut(cpu));
            let place = place.ok_or_else(|| {
                format!("CPU index ({cpu}) should be smaller than maxcpus ({maxcpus})")
            })?;
            assign(place, id)?;
        }
        let has = |wanted: fn(&NumaNode) -> bool| self.nodes.iter().flatten().any(wanted);
        if memory.is_some() && has(|node| node.memdev.is_some())
            || memdev.is_some() && has(|node| node.memory > 0)
            || memory.is_some() && memdev.is_some()
        {
            return Err(
                "numa configuration should use either mem= or memdev=,mixing both is not allowed"
                    .into(),
            );
        }
        if memory.is_some() && !self.memory_sizes {
            return Err("Parameter -numa node,mem is not supported by this machine type\n\
                        Use -numa node,memdev instead"
                .into());
        }
        self.nodes[id] = Some(NumaNode { memory: memory.unwrap_or(0), memdev });
        Ok(())
    }

    fn node(&self, id: u64) -> Option<usize> {
        let id = usize::try_from(id).ok()?;
        self.nodes.get(id)?.as_ref().map(|_| id)
    }

    fn add_distance(&mut self, from: u64, to: u64, value: u64) -> Result<(), String> {
        let value = u8::try_from(value).map_err(|_| "Parameter 'val' expects uint8_t")?;
        let (Some(from), Some(to)) = (self.node(from), self.node(to)) else {
            return Err("Source/Destination NUMA node is missing. Please use '-numa node' option \
                        to declare it first."
                .into());
        };
        if value < LOCAL_DISTANCE {
            return Err(format!(
                "NUMA distance ({value}) is invalid, it shouldn't be less than {LOCAL_DISTANCE}."
            ));
        }
        if from == to && value != LOCAL_DISTANCE {
            return Err(format!("Local distance of node {from} should be {LOCAL_DISTANCE}."));
        }
        self.distances.push((from, to, value));
        Ok(())
    }

    /// Socket, die, module, core and thread of a processor.
    fn place(&self, cpu: usize) -> [u64; 5] {
        let Topology { dies, modules, cores, threads, .. } = *self.topology;
        let mut rest = cpu as u64;
        let mut take = |count: u32| {
            let count = u64::from(count.max(1));
            let part = rest % count;
            rest /= count;
            part
        };
        let [thread, core, module, die] = [take(threads), take(cores), take(modules), take(dies)];
        [rest, die, module, core, thread]
    }

    fn add_cpu(&mut self, node: u64, wanted: [Option<u64>; 5]) -> Result<(), String> {
        let id = self.node(node).ok_or_else(|| {
            format!(
                "Invalid node-id={node}, NUMA node must be defined with -numa node,nodeid=ID \
                 before it's used with -numa cpu,node-id=ID"
            )
        })?;
        let levels = [(1, "die-id", self.topology.dies), (2, "module-id", self.topology.modules)];
        for (level, name, count) in levels {
            if wanted[level].is_some() && count <= 1 {
                return Err(format!("{name} is not supported"));
            }
        }
        let fits = |cpu: &usize| {
            let place = self.place(*cpu);
            wanted.iter().zip(place).all(|(wanted, is)| wanted.is_none_or(|wanted| wanted == is))
        };
        let found: Vec<usize> = (0..self.cpus.len()).filter(fits).collect();
        if found.is_empty() {
            return Err("no match found".into());
        }
        found.into_iter().try_for_each(|cpu| assign(&mut self.cpus[cpu], id))
    }

    fn finish(mut self) -> Result<NumaPlan, String> {
        if let Some(missing) = self.nodes.iter().rposition(Option::is_none) {
            return Err(format!("numa: Node ID missing: {missing}"));
        }
        let distances = self.all_distances()?;
        let cpus = self.all_cpus();
        let nodes = self.nodes.into_iter().flatten().collect();
        Ok(NumaPlan { nodes, cpus, distances, warnings: self.warnings })
    }

    /// A distance that was given one way only holds both ways.
    fn all_distances(&self) -> Result<Option<Vec<u8>>, String> {
        if self.distances.is_empty() {
            return Ok(None);
        }
        let count = self.nodes.len();
        let given = |from: usize, to: usize| {
            let last = self.distances.iter().rfind(|entry| (entry.0, entry.1) == (from, to));
            last.map(|entry| entry.2)
        };
        let mut all = Vec::new();
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
            let value = if from == to { Some(LOCAL_DISTANCE) } else { given(from, to) };
            all.push(value.or_else(|| given(to, from)).ok_or_else(|| {
                format!(
                    "The distance between node {from} and {to} is missing, at least one distance \
                     value between each nodes should be provided."
                )
            })?);
        }
        Ok(Some(all))
    }

    /// Without any word on processors, sockets go to the nodes in turn.
    fn all_cpus(&mut self) -> Vec<u32> {
        let nodes = self.nodes.len().max(1) as u64;
        if self.cpus.iter().all(Option::is_none) {
            return (0..self.cpus.len()).map(|cpu| (self.place(cpu)[0] % nodes) as u32).collect();
        }
        let lost: Vec<String> = (0..self.cpus.len())
            .filter(|&cpu| self.cpus[cpu].is_none())
            .map(|cpu| format!("CPU {cpu} [{}]", self.describe(cpu)))
            .collect();
        if !lost.is_empty() {
            for warning in [
                format!("CPU(s) not present in any NUMA nodes: {}", lost.join(", ")),
                "All CPU(s) up to maxcpus should be described in NUMA config, ability to start up \
                 with partial NUMA mappings is obsoleted and will be removed in future"
                    .into(),
            ] {
                self.warnings.push(Located { value: warning, ..Located::default() });
            }
        }
        self.cpus.iter().map(|node| node.unwrap_or(0)).collect()
    }

    fn describe(&self, cpu: usize) -> String {
        let [socket, die, module, core, thread] = self.place(cpu);
        let levels = [
            ("socket-id", socket, true),
            ("die-id", die, self.topology.dies > 1),
            ("module-id", module, self.topology.modules > 1),
            ("core-id", core, true),
            ("thread-id", thread, true),
        ];
        let shown = levels.iter().filter(|(_, _, shown)| *shown);
        shown.map(|(name, id, _)| format!("{name}: {id}")).collect::<Vec<_>>().join(", ")
    }
}

fn assign(place: &mut Option<u32>, node: usize) -> Result<(), String> {
    match place {
        Some(old) => Err(format!("CPU is already assigned to node-id: {old}")),
        None => {
            *place = Some(node as u32);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn topology(sockets: u32, cores: u32) -> Topology {
        let cpus = sockets * cores;
        Topology { cpus, maxcpus: cpus, sockets, dies: 1, modules: 1, cores, threads: 1 }
    }

    fn node(id: Option<u64>, cpus: &[(u64, u64)]) -> NumaOption {
        let cpus = cpus.iter().map(|&(first, last)| CpuRange { first, last }).collect();
        NumaOption::Node { id, cpus, memory: None, memdev: Some("m".into()), initiator: None }
    }

    fn dist(from: u64, to: u64, value: u64) -> NumaOption {
        NumaOption::Distance { from, to, value }
    }

    fn cpu(node: u64, socket: Option<u64>, die: Option<u64>) -> NumaOption {
        NumaOption::Cpu { node, socket, die, module: None, core: None, thread: None }
    }

    fn resolve(options: &[NumaOption], topology: &Topology) -> Result<NumaPlan, String> {
        let located = |option: &NumaOption| Located::new(option.clone(), &Origin::None);
        let options: Vec<_> = options.iter().map(located).collect();
        NumaPlan::resolve(&options, topology, false).map_err(|error| error.to_string())
    }

    #[test]
    fn processors_go_where_they_are_told_or_by_socket() {
        let nodes = [node(None, &[]), node(None, &[])];
        assert_eq!(resolve(&nodes, &topology(2, 2)).unwrap().cpus, [0, 0, 1, 1]);
        assert_eq!(resolve(&nodes, &topology(1, 4)).unwrap().cpus, [0; 4]);
        let told = [node(None, &[(1, 2)]), node(None, &[(0, 0)])];
        let plan = resolve(&told, &topology(1, 4)).unwrap();
        assert_eq!(plan.cpus, [1, 0, 0, 0]);
        assert_eq!(
            plan.warnings[0].value,
            "CPU(s) not present in any NUMA nodes: CPU 3 [socket-id: 0, core-id: 3, thread-id: 0]"
        );
        let by_place =
            [nodes[0].clone(), nodes[1].clone(), cpu(1, Some(0), None), cpu(0, Some(1), None)];
        assert_eq!(resolve(&by_place, &topology(2, 1)).unwrap().cpus, [1, 0]);
    }

    #[test]
    fn distances_hold_both_ways() {
        let options = [node(None, &[]), node(None, &[]), dist(0, 1, 30), dist(0, 1, 20)];
        let plan = resolve(&options, &topology(1, 1)).unwrap();
        assert_eq!(plan.distances.unwrap(), [10, 20, 20, 10]);
    }

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn faults() {
        let with_memory = NumaOption::Node {
            id: None,
            cpus: Vec::new(),
            memory: Some(1),
            memdev: None,
            initiator: None,
        };
        let (a, b) = (|| node(None, &[]), || node(None, &[(0, 1)]));
        for (options, message) in [
            (vec![node(Some(2), &[])], "numa: Node ID missing: 1"),
            (vec![node(Some(0), &[]), node(Some(0), &[])], "Duplicate NUMA nodeid: 0"),
            (vec![b(), b()], "CPU is already assigned to node-id: 0"),
            (vec![node(None, &[(5, 5)])], "CPU index (5) should be smaller than maxcpus (2)"),
            (
                vec![a(), with_memory.clone()],
                "numa configuration should use either mem= or memdev=,mixing both is not allowed",
            ),
            (
                vec![with_memory],
                "Parameter -numa node,mem is not supported by this machine type\nUse -numa node,memdev instead",
            ),
            (
                vec![a(), dist(0, 1, 20)],
                "Source/Destination NUMA node is missing. Please use '-numa node' option to declare it first.",
            ),
            (
                vec![a(), a(), dist(0, 1, 5)],
                "NUMA distance (5) is invalid, it shouldn't be less than 10.",
            ),
            (vec![a(), dist(0, 0, 20)], "Local distance of node 0 should be 10."),
            (vec![a(), a(), dist(0, 1, 300)], "Parameter 'val' expects uint8_t"),
            (
                vec![a(), a(), a(), dist(0, 1, 20)],
                "The distance between node 0 and 2 is missing, at least one distance value between each nodes should be provided.",
            ),
            (vec![a(), cpu(0, Some(7), None)], "no match found"),
            (vec![a(), cpu(0, None, Some(0))], "die-id is not supported"),
            (
                vec![cpu(0, Some(0), None)],
                "Invalid node-id=0, NUMA node must be defined with -numa node,nodeid=ID before it's used with -numa cpu,node-id=ID",
            ),
        ] {
            assert_eq!(resolve(&options, &topology(1, 2)), Err(message.into()));
        }
    }
}
