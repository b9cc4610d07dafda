//! Processor models: what CPUID says, and what the engines may therefore do.

pub mod feature;

pub use feature::{Feature, FeatureSet};

/// A processor model after all its options were applied.
#[derive(Clone, Debug)]
pub struct Model {
    /// The features offered.
    pub features: FeatureSet,
    signature: u32,
    phys_bits: u32,
}

impl Model {
    /// A model with the given features, signature (CPUID.1:EAX) and physical address width.
    pub fn new(features: FeatureSet, signature: u32, phys_bits: u32) -> Self {
        Model { features, signature, phys_bits: phys_bits.clamp(32, 52) }
    }
    /// Whether a feature is offered.
    #[inline]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }
    /// CPUID.1:EAX.
    pub fn signature(&self) -> u32 {
        self.signature
    }
    /// Width of physical addresses, at most 52.
    pub fn phys_bits(&self) -> u32 {
        self.phys_bits
    }
}
