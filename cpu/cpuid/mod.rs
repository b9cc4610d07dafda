//! Processor models: what CPUID says, and what the engines may therefore do.

pub mod feature;
pub mod hyperv;
mod inert;
mod leaves;
mod models;
mod options;
mod properties;
mod topology;

pub use feature::{Feature, FeatureSet};
pub use hyperv::HyperV;
pub use models::{Definition, definitions, find, listing, names};
pub use options::{ModelError, Selection, Support, select};
pub use properties::{Entry, Place, feature_names};
pub use topology::Topology;

/// Who a model claims to be made by, as far as it changes behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// GenuineIntel.
    Intel,
    /// AuthenticAMD or HygonGenuine.
    Amd,
    /// Anybody else.
    Other,
}

/// What CPUID shows of the processor's current state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dynamic {
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// CR4.PKE.
    pub ospke: bool,
    /// The local APIC is enabled in IA32_APIC_BASE.
    pub apic_enabled: bool,
    /// Long mode is active: only then do Intel processors show SYSCALL.
    pub long: bool,
    /// XCR0.
    pub xcr0: u64,
}

/// Size and associativity of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Size in KiB.
    pub kib: u32,
    /// Ways.
    pub ways: u32,
}

impl Cache {
    /// What a model shows that says nothing else.
    pub const DEFAULT: [Cache; 4] = [
        Cache { kib: 64, ways: 2 },
        Cache { kib: 64, ways: 2 },
        Cache { kib: 512, ways: 16 },
        Cache { kib: 16384, ways: 16 },
    ];
}

/// A processor model after all its options were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The features offered.
    pub features: FeatureSet,
    /// The vendor string, twelve characters.
    pub vendor: String,
    /// Family, as displayed: base plus extended.
    pub family: u32,
    /// Model, as displayed.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// The brand string, up to 48 characters.
    pub model_id: String,
    /// Highest basic leaf.
    pub level: u32,
    /// Highest extended leaf.
    pub xlevel: u32,
    /// Highest leaf of Centaur's range, or 0.
    pub xlevel2: u32,
    /// L1 data, L1 instruction, L2, L3, as AMD's leaves show them.
    pub caches: [Cache; 4],
    /// Width of physical addresses, 32 to 52.
    pub phys_bits: u32,
    /// What the guest is told of the width of its guests' addresses, 0 for nothing.
    pub guest_phys_bits: u32,
    /// Whether a third level of caches is shown.
    pub l3_cache: bool,
    /// Whether there is leaf 0xb.
    pub topology_leaf: bool,
    /// Microcode revision, if it was set.
    pub microcode: Option<u64>,
    /// What the hypervisor leaves say, if the model shows them.
    pub hypervisor: Option<[u8; 12]>,
    /// Hyper-V's leaves before them, under hardware virtualisation.
    pub hyperv: HyperV,
    /// How the machine's processors are arranged.
    pub topology: Topology,
}

impl Default for Model {
    /// A processor without a feature.
    fn default() -> Self {
        Model {
            features: FeatureSet::default(),
            vendor: String::new(),
            family: 0,
            model: 0,
            stepping: 0,
            model_id: String::new(),
            level: 1,
            xlevel: 0,
            xlevel2: 0,
            caches: Cache::DEFAULT,
            phys_bits: 40,
            guest_phys_bits: 0,
            l3_cache: true,
            topology_leaf: true,
            microcode: None,
            hypervisor: None,
            hyperv: HyperV::default(),
            topology: Topology::default(),
        }
    }
}

impl Model {
    /// Whether a feature is offered.
    #[inline]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// CPUID.1:EAX.
    pub fn signature(&self) -> u32 {
        let (family, extended) =
            if self.family > 15 { (15, self.family - 15) } else { (self.family, 0) };
        extended << 20
            | (self.model >> 4 & 15) << 16
            | family << 8
            | (self.model & 15) << 4
            | self.stepping & 15
    }

    /// Width of physical addresses, at most 52.
    #[inline]
    pub fn phys_bits(&self) -> u32 {
        self.phys_bits.clamp(32, 52)
    }

    /// The vendor, as far as it changes behaviour.
    pub fn vendor(&self) -> Vendor {
        match self.vendor.as_str() {
            "GenuineIntel" => Vendor::Intel,
            "AuthenticAMD" | "HygonGenuine" => Vendor::Amd,
            _ => Vendor::Other,
        }
    }

    /// IA32_BIOS_SIGN_ID: a microcode revision that guests accept.
    pub fn microcode(&self) -> u64 {
        self.microcode.unwrap_or(match self.vendor() {
            Vendor::Amd => 0x0100_0065,
            _ => 0x1_0000_0000,
        })
    }

    /// IA32_ARCH_CAPABILITIES.
    pub fn arch_capabilities(&self) -> u64 {
        self.features.0[feature::Word::Msr10A as usize]
    }

    /// The state components XCR0 may enable.
    pub fn xcr0_supported(&self) -> u64 {
        leaves::STATE_COMPONENTS
            .iter()
            .filter(|component| self.has(component.feature))
            .fold(0, |bits, component| bits | 1 << component.bit)
    }
}

#[cfg(test)]
mod tests;
