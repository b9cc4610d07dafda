//! The leaves of CPUID.

use super::{Dynamic, Feature, Model, feature};

/// A part of the extended state that XSAVE manages.
pub(super) struct StateComponent {
    pub bit: u32,
    pub feature: Feature,
}

pub(super) const STATE_COMPONENTS: &[StateComponent] = &[
    StateComponent { bit: 0, feature: feature::FPU },
    StateComponent { bit: 1, feature: feature::SSE },
    StateComponent { bit: 2, feature: feature::AVX },
    StateComponent { bit: 9, feature: feature::PKU },
];

impl Model {
    /// EAX, EBX, ECX and EDX that CPUID answers on processor `index`.
    pub fn cpuid(&self, index: u32, leaf: u32, subleaf: u32, now: &Dynamic) -> [u32; 4] {
        let _ = (index, leaf, subleaf, now);
        [0; 4]
    }
}
