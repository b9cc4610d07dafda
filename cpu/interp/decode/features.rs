//! Which instructions the processor model offers.

use iced_x86::{CpuidFeature as C, Instruction, Mnemonic};

use crate::cpuid::{Feature, Model, feature};

/// The feature of the model that an instruction set of the decoder stands for; `None` for what every
/// processor in reach has.
pub(super) fn feature_of(set: C) -> Option<Feature> {
    Some(match set {
        C::ADX => feature::ADX,
        C::AVX => feature::AVX,
        C::AVX2 => feature::AVX2,
        C::AVX_VNNI => feature::AVX_VNNI,
        C::BMI1 => feature::BMI1,
        C::BMI2 => feature::BMI2,
        C::CLFSH => feature::CLFLUSH,
        C::CLFLUSHOPT => feature::CLFLUSHOPT,
        C::CLWB => feature::CLWB,
        C::MOVDIRI => feature::MOVDIRI,
        C::MOVDIR64B => feature::MOVDIR64B,
        C::SERIALIZE => feature::SERIALIZE,
        C::WAITPKG => feature::WAITPKG,
        C::CMPCCXADD => feature::CMPCCXADD,
        C::CMPXCHG16B => feature::CX16,
        C::D3NOW => feature::NOW3D,
        C::D3NOWEXT => feature::NOW3DEXT,
        C::F16C => feature::F16C,
        C::FMA => feature::FMA,
        C::FSGSBASE => feature::FSGSBASE,
        C::LZCNT => feature::ABM,
        C::FXSR => feature::FXSR,
        C::GFNI => feature::GFNI,
        C::MONITOR => feature::MONITOR,
        C::PKU => feature::PKU,
        C::SVM => feature::SVM,
        C::VAES => feature::VAES,
        C::VPCLMULQDQ => feature::VPCLMULQDQ,
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
        C::XSAVEC => feature::XSAVEC,
        C::XSAVES => feature::XSAVES,
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
pub fn offered(raw: &Instruction, model: &Model) -> bool {
    // A call of the hypervisor below, which knows for itself.
    raw.mnemonic() == Mnemonic::Vmmcall
        || raw.cpuid_features().iter().all(|set| feature_of(*set).is_none_or(|f| model.has(f)))
}
