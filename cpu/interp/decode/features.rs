//! Which instructions the processor model offers.

use iced_x86::{CpuidFeature as C, Instruction};

use crate::cpuid::{Feature, Model, feature};

/// The feature of the model that an instruction set of the decoder stands for; `None` for what every
/// processor in reach has.
fn feature_of(set: C) -> Option<Feature> {
    Some(match set {
        C::ADX => feature::ADX,
        C::BMI1 => feature::BMI1,
        C::BMI2 => feature::BMI2,
        C::CLFSH => feature::CLFLUSH,
        C::CLFLUSHOPT => feature::CLFLUSHOPT,
        C::CLWB => feature::CLWB,
        C::CMPXCHG16B => feature::CX16,
        C::FSGSBASE => feature::FSGSBASE,
        C::LZCNT => feature::ABM,
        C::FXSR => feature::FXSR,
        C::MMX => feature::MMX,
        C::SSE => feature::SSE,
        C::SSE2 => feature::SSE2,
        C::SSE3 => feature::SSE3,
        C::SSSE3 => feature::SSSE3,
        C::SSE4_1 => feature::SSE41,
        C::SSE4A => feature::SSE4A,
        C::AES => feature::AES,
        C::PCLMULQDQ => feature::PCLMULQDQ,
        C::SHA => feature::SHA,
        C::XSAVE => feature::XSAVE,
        C::XSAVEOPT => feature::XSAVEOPT,
        C::INVPCID => feature::INVPCID,
        C::MOVBE => feature::MOVBE,
        C::POPCNT => feature::POPCNT,
        C::RDPID => feature::RDPID,
        C::RDRAND => feature::RDRAND,
        C::RDSEED => feature::RDSEED,
        C::RDTSCP => feature::RDTSCP,
        C::SMAP => feature::SMAP,
        C::SSE4_2 => feature::SSE42,
        C::WBNOINVD => feature::WBNOINVD,
        _ => return None,
    })
}

/// Whether `model` offers all that `raw` needs.
pub(super) fn offered(raw: &Instruction, model: &Model) -> bool {
    raw.cpuid_features().iter().all(|set| feature_of(*set).is_none_or(|f| model.has(f)))
}
