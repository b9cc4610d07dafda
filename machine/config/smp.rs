//! `-smp`: how many CPUs there are and how they sit in sockets, dies, modules, cores and threads.

use super::{ConfigError, Tree};

/// `-smp` as given; what is not given follows from the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmpConfig {
    /// CPUs present at start.
    pub cpus: Option<u64>,
    /// CPUs that there can be.
    pub maxcpus: Option<u64>,
    /// Sockets on the board.
    pub sockets: Option<u64>,
    /// Dies in a socket.
    pub dies: Option<u64>,
    /// Modules in a die.
    pub modules: Option<u64>,
    /// Cores in a module.
    pub cores: Option<u64>,
    /// Threads in a core.
    pub threads: Option<u64>,
    /// Levels that no PC has: drawers, books, clusters. More than one of them is refused.
    pub foreign: Vec<(&'static str, u64)>,
}

/// What a board can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmpLimits<'a> {
    /// The board's name, with version.
    pub machine: &'a str,
    /// Most CPUs.
    pub max_cpus: u32,
    /// Whether it has dies and modules.
    pub dies_and_modules: bool,
}

/// The arrangement of CPUs. The product of the levels is `maxcpus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// CPUs present at start.
    pub cpus: u32,
    /// CPUs that there can be.
    pub maxcpus: u32,
    /// Sockets on the board.
    pub sockets: u32,
    /// Dies in a socket.
    pub dies: u32,
    /// Modules in a die.
    pub modules: u32,
    /// Cores in a module.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

impl SmpConfig {
    /// Reads the object `smp` of `-machine`.
    pub fn from_tree(mut tree: Tree) -> Result<Self, ConfigError> {
        let mut config = SmpConfig {
            cpus: tree.unsigned("cpus")?,
            maxcpus: tree.unsigned("maxcpus")?,
            sockets: tree.unsigned("sockets")?,
            dies: tree.unsigned("dies")?,
            modules: tree.unsigned("modules")?,
            cores: tree.unsigned("cores")?,
            threads: tree.unsigned("threads")?,
            foreign: Vec::new(),
        };
        for level in ["drawers", "books", "clusters"] {
            if let Some(count) = tree.unsigned(level)? {
                config.foreign.push((level, count));
            }
        }
        tree.finish()?;
        Ok(config)
    }

    /// Completes what was given to a topology, or says why there is none: first come cores, then
    /// sockets, then threads, in the order in which missing ones are made up.
    pub fn resolve(&self, limits: &SmpLimits<'_>) -> Result<Topology, ConfigError> {
        let SmpConfig { cpus, maxcpus, sockets, dies, modules, cores, threads, ref foreign } =
            *self;
        let given = [cpus, maxcpus, sockets, dies, modules, cores, threads];
        if given.contains(&Some(0)) || foreign.iter().any(|(_, count)| *count == 0) {
            return invalid("CPU topology parameters must be greater than zero".into());
        }
        let own = [("dies", dies), ("modules", modules)];
        let own = own
            .iter()
            .filter(|_| !limits.dies_and_modules)
            .filter_map(|(name, n)| Some((*name, (*n)?)));
        if let Some((level, _)) = own.chain(foreign.iter().copied()).find(|(_, count)| *count > 1) {
            return Err(ConfigError::new(format!(
                "{level} > 1 not supported by this machine's CPU topology"
            )));
        }

        let (dies, modules) = (dies.unwrap_or(1), modules.unwrap_or(1));
        let wanted = maxcpus.or(cpus);
        let share = |wanted: u64, of: [u64; 4]| {
            wanted / of.iter().fold(1, |product: u64, n| product.saturating_mul(*n))
        };
        let (sockets, cores, threads) = match (wanted, sockets, cores, threads) {
            (None, ..) => (sockets.unwrap_or(1), cores.unwrap_or(1), threads.unwrap_or(1)),
            (Some(wanted), _, None, _) => {
                let (sockets, threads) = (sockets.unwrap_or(1), threads.unwrap_or(1));
                (sockets, share(wanted, [sockets, dies, modules, threads]), threads)
            }
            (Some(wanted), None, Some(cores), _) => {
                let threads = threads.unwrap_or(1);
                (share(wanted, [dies, modules, cores, threads]), cores, threads)
            }
            (Some(wanted), Some(sockets), Some(cores), threads) => {
                let made_up = || share(wanted, [sockets, dies, modules, cores]);
                (sockets, cores, threads.unwrap_or_else(made_up))
            }
        };
        let levels = [sockets, dies, modules, cores, threads];
        let product = levels.iter().fold(1, |product: u64, n| product.saturating_mul(*n));
        let maxcpus = wanted.unwrap_or(product);
        let cpus = cpus.unwrap_or(maxcpus);
        let hierarchy = || {
            let parent = if limits.dies_and_modules {
                format!("sockets ({sockets}) * dies ({dies}) * modules ({modules})")
            } else {
                format!("sockets ({sockets})")
            };
            format!("{parent} * cores ({cores}) * threads ({threads})")
        };
        if product != maxcpus {
            return invalid(format!(
                "product of the hierarchy must match maxcpus: {} != maxcpus ({maxcpus})",
                hierarchy()
            ));
        }
        if maxcpus < cpus {
            return invalid(format!(
                "maxcpus must be equal to or greater than smp: {} == maxcpus ({maxcpus}) < smp_cpus ({cpus})",
                hierarchy()
            ));
        }
        if maxcpus > u64::from(limits.max_cpus) {
            // Shown as the `int` it is in QEMU, so that -1 is -1.
            return Err(ConfigError::new(format!(
                "Invalid SMP CPUs {}. The max CPUs supported by machine '{}' is {}",
                maxcpus as i32, limits.machine, limits.max_cpus
            )));
        }
        // All are factors of `maxcpus`, which fits.
        Ok(Topology {
            cpus: cpus as u32,
            maxcpus: maxcpus as u32,
            sockets: sockets as u32,
            dies: dies as u32,
            modules: modules as u32,
            cores: cores as u32,
            threads: threads as u32,
        })
    }
}

fn invalid<T>(why: String) -> Result<T, ConfigError> {
    Err(ConfigError::new(format!("Invalid CPU topology: {why}")))
}

#[cfg(test)]
mod tests {
    use base::options::Keyval;
    use proptest::prelude::*;

    use super::*;

    const PC: SmpLimits<'_> =
        SmpLimits { machine: "pc-i440fx-10.0", max_cpus: 255, dies_and_modules: true };

    fn resolve(text: &str) -> Result<[u32; 7], String> {
        let tree = Keyval::parse(text, Some("cpus")).unwrap().tree;
        let mut root = Tree::root([("smp".to_string(), tree.into())].into_iter().collect());
        let topology = root
            .object("smp")
            .and_then(SmpConfig::from_tree)
            .and_then(|config| config.resolve(&PC))
            .map_err(|error| error.to_string())?;
        let Topology { cpus, maxcpus, sockets, dies, modules, cores, threads } = topology;
        Ok([cpus, maxcpus, sockets, dies, modules, cores, threads])
    }

    #[test]
    fn missing_levels_are_made_up() {
        for (text, topology) in [
            ("", [1, 1, 1, 1, 1, 1, 1]),
            ("2", [2, 2, 1, 1, 1, 2, 1]),
            ("cores=2", [2, 2, 1, 1, 1, 2, 1]),
            ("cpus=2,maxcpus=4", [2, 4, 1, 1, 1, 4, 1]),
            ("cpus=4,cores=2,threads=2", [4, 4, 1, 1, 1, 2, 2]),
            ("cpus=4,sockets=2,maxcpus=8", [4, 8, 2, 1, 1, 4, 1]),
            ("4,sockets=2,cores=1", [4, 4, 2, 1, 1, 1, 2]),
            ("4,dies=2,cores=2", [4, 4, 1, 2, 1, 2, 1]),
            ("4,modules=2,cores=2", [4, 4, 1, 1, 2, 2, 1]),
            ("cpus=2,dies=1,clusters=1", [2, 2, 1, 1, 1, 2, 1]),
        ] {
            assert_eq!(resolve(text), Ok(topology), "{text}");
        }
    }

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn faults() {
        let greater = "Invalid CPU topology: CPU topology parameters must be greater than zero";
        let max = "The max CPUs supported by machine 'pc-i440fx-10.0' is 255";
        let product = "Invalid CPU topology: product of the hierarchy must match maxcpus: ";
        for (text, message) in [
            ("0", greater.to_string()),
            ("dies=0", greater.to_string()),
            ("maxcpus=0", greater.to_string()),
            ("256", format!("Invalid SMP CPUs 256. {max}")),
            ("-1", format!("Invalid SMP CPUs -1. {max}")),
            ("sockets=300", format!("Invalid SMP CPUs 300. {max}")),
            ("x", "Parameter 'smp.cpus' expects integer".into()),
            ("1.5", "Parameter 'smp.cpus' expects integer".into()),
            ("foo=1", "Parameter 'smp.foo' is unexpected".into()),
            ("cpus.x=1", "Parameters 'smp.cpus.*' are unexpected".into()),
            ("clusters=2", "clusters > 1 not supported by this machine's CPU topology".into()),
            (
                "cpus=8,cores=2,threads=2,sockets=1",
                format!(
                    "{product}sockets (1) * dies (1) * modules (1) * cores (2) * threads (2) != maxcpus (8)"
                ),
            ),
            (
                "4,sockets=2,cores=3",
                format!(
                    "{product}sockets (2) * dies (1) * modules (1) * cores (3) * threads (0) != maxcpus (4)"
                ),
            ),
            (
                "3,sockets=2",
                format!(
                    "{product}sockets (2) * dies (1) * modules (1) * cores (1) * threads (1) != maxcpus (3)"
                ),
            ),
            (
                "cpus=4,maxcpus=2",
                "Invalid CPU topology: maxcpus must be equal to or greater than smp: sockets (1) * dies (1) \
                 * modules (1) * cores (2) * threads (1) == maxcpus (2) < smp_cpus (4)"
                    .into(),
            ),
        ] {
            assert_eq!(resolve(text), Err(message), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_topology_multiplies_out(given in prop::collection::vec(prop::option::of(any::<u64>().prop_map(|n| n % 9)), 7)) {
            let config = SmpConfig {
                cpus: given[0],
                maxcpus: given[1],
                sockets: given[2],
                dies: given[3],
                modules: given[4],
                cores: given[5],
                threads: given[6],
                foreign: Vec::new(),
            };
            if let Ok(t) = config.resolve(&PC) {
                prop_assert_eq!(t.sockets * t.dies * t.modules * t.cores * t.threads, t.maxcpus);
                prop_assert!((1..=t.maxcpus).contains(&t.cpus));
            }
        }
    }
}
