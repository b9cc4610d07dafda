//! How `-smp` arranges processors, and the APIC ids that follow from it.

/// Counts per level; the products of all is the number of processors the machine can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Packages.
    pub sockets: u32,
    /// Dies per package.
    pub dies: u32,
    /// Modules per die.
    pub modules: u32,
    /// Cores per module.
    pub cores: u32,
    /// Threads per core.
    pub threads: u32,
}

impl Default for Topology {
    fn default() -> Self {
        Topology { sockets: 1, dies: 1, modules: 1, cores: 1, threads: 1 }
    }
}

/// Bits that number `count` things.
fn width(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

impl Topology {
    /// Bits of an APIC id below the core number.
    pub fn core_shift(&self) -> u32 {
        width(self.threads)
    }
    /// Bits of an APIC id below the module number.
    pub fn module_shift(&self) -> u32 {
        self.core_shift() + width(self.cores)
    }
    /// Bits of an APIC id below the die number.
    pub fn die_shift(&self) -> u32 {
        self.module_shift() + width(self.modules)
    }
    /// Bits of an APIC id below the package number.
    pub fn package_shift(&self) -> u32 {
        self.die_shift() + width(self.dies)
    }
    /// Threads in one package.
    pub fn threads_per_package(&self) -> u32 {
        self.dies
            .saturating_mul(self.modules)
            .saturating_mul(self.cores)
            .saturating_mul(self.threads)
            .max(1)
    }
    /// The APIC id of the processor numbered `index`.
    pub fn apic_id(&self, index: u32) -> u32 {
        let threads = self.threads.max(1);
        let cores = self.cores.max(1);
        let modules = self.modules.max(1);
        let dies = self.dies.max(1);
        let core = index / threads;
        let module = core / cores;
        let die = module / modules;
        let package = die / dies;
        package << self.package_shift()
            | die % dies << self.die_shift()
            | module % modules << self.module_shift()
            | core % cores << self.core_shift()
            | index % threads
    }
}
