//! CPUID between processor models and the kernel.

use std::arch::x86_64::{__cpuid, __cpuid_count};

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::error::KvmError;
use super::vm::Irqchip;
use crate::cpuid::feature::{self, Word};
use crate::cpuid::{Dynamic, FeatureSet, Model, hyperv};
use crate::state::xcr0;

/// The vendor string of the host's processor.
pub(super) fn host_vendor() -> [u8; 12] {
    let leaf = __cpuid(0);
    text(&[leaf.ebx, leaf.edx, leaf.ecx])
}

/// Where the host's XSAVE area holds a component: offset and size.
pub(super) fn xsave_component(bit: u32) -> Option<(usize, usize)> {
    let leaf = __cpuid_count(0xd, bit);
    (leaf.eax != 0).then_some((leaf.ebx as usize, leaf.eax as usize))
}

fn text<const N: usize>(words: &[u32]) -> [u8; N] {
    let mut bytes = words.iter().flat_map(|word| word.to_le_bytes());
    std::array::from_fn(|_| bytes.next().unwrap_or(0))
}

/// A register of a CPUID leaf.
#[derive(Clone, Copy)]
enum Reg {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Where the words of CPUID features are.
const WORDS: &[(Word, u32, u32, Reg)] = &[
    (Word::L1Edx, 1, 0, Reg::Edx),
    (Word::L1Ecx, 1, 0, Reg::Ecx),
    (Word::L6Eax, 6, 0, Reg::Eax),
    (Word::L7Ebx, 7, 0, Reg::Ebx),
    (Word::L7Ecx, 7, 0, Reg::Ecx),
    (Word::L7Edx, 7, 0, Reg::Edx),
    (Word::L7s1Eax, 7, 1, Reg::Eax),
    (Word::L7s1Edx, 7, 1, Reg::Edx),
    (Word::L7s2Edx, 7, 2, Reg::Edx),
    (Word::LDs1Eax, 0xd, 1, Reg::Eax),
    (Word::KvmEax, KVM_FEATURES, 0, Reg::Eax),
    (Word::KvmEdx, KVM_FEATURES, 0, Reg::Edx),
    (Word::X1Edx, 0x8000_0001, 0, Reg::Edx),
    (Word::X1Ecx, 0x8000_0001, 0, Reg::Ecx),
    (Word::X7Ebx, 0x8000_0007, 0, Reg::Ebx),
    (Word::X7Edx, 0x8000_0007, 0, Reg::Edx),
    (Word::X8Ebx, 0x8000_0008, 0, Reg::Ebx),
    (Word::XAEdx, 0x8000_000a, 0, Reg::Edx),
    (Word::X21Eax, 0x8000_0021, 0, Reg::Eax),
    (Word::X22Eax, 0x8000_0022, 0, Reg::Eax),
    (Word::C1Edx, 0xc000_0001, 0, Reg::Edx),
];

/// Words that are model-specific registers.
const MSR_WORDS: &[(Word, u32)] = &[
    (Word::MsrCF, 0xcf),
    (Word::Msr10A, 0x10a),
    (Word::Msr345, 0x345),
    (Word::Msr480, 0x480),
    (Word::Msr485, 0x485),
    (Word::Msr48B, 0x48b),
    (Word::Msr48C, 0x48c),
    (Word::Msr48D, 0x48d),
    (Word::Msr48E, 0x48e),
    (Word::Msr48F, 0x48f),
    (Word::Msr490, 0x490),
    (Word::Msr491, 0x491),
];

/// The leaf with the paravirtual features.
const KVM_FEATURES: u32 = 0x4000_0001;
/// Where the kernel's own leaves begin if Hyper-V's come first.
const BEHIND_HYPERV: u32 = 0x4000_0100;

/// What KVM_GET_SUPPORTED_CPUID said.
pub(super) struct Supported<'a> {
    entries: &'a [kvm_cpuid_entry2],
}

impl<'a> Supported<'a> {
    pub fn new(entries: &'a CpuId) -> Self {
        Supported { entries: entries.as_slice() }
    }

    fn leaf(&self, function: u32, index: u32) -> [u32; 4] {
        let found = self.entries.iter().find(|entry| {
            entry.function == function
                && (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0 || entry.index == index)
        });
        found.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    }

    /// The features that can be offered: the kernel's list, and what the API document says is not
    /// in it.
    pub fn features(
        &self,
        irqchip: Irqchip,
        tsc_deadline: bool,
        msr: impl Fn(u32) -> Option<u64>,
    ) -> FeatureSet {
        let mut set = FeatureSet::default();
        for (word, function, index, reg) in WORDS {
            set.0[*word as usize] = self.leaf(*function, *index)[*reg as usize].into();
        }
        for (word, index) in MSR_WORDS {
            set.0[*word as usize] = msr(*index).unwrap_or(0);
        }
        let kernel_apic = irqchip != Irqchip::User;
        set.set(feature::HYPERVISOR, true);
        set.set(feature::ARAT, true);
        set.set(feature::HT, true);
        // Both are the local APIC's, and are missing from the list or depend on where that is.
        set.set(feature::TSC_DEADLINE, kernel_apic && tsc_deadline);
        set.set(feature::X2APIC, kernel_apic);
        // Guests that wait with MONITOR would keep the host's processor.
        set.set(feature::MONITOR, false);
        set
    }

    /// The model that `-cpu host` is.
    pub fn host_model(&self, features: &FeatureSet) -> Model {
        let [level, b, c, d] = self.leaf(0, 0);
        let signature = self.leaf(1, 0)[0];
        let base_family = signature >> 8 & 15;
        let family = if base_family == 15 { 15 + (signature >> 20 & 0xff) } else { base_family };
        let extended_model = if matches!(base_family, 6 | 15) { signature >> 12 & 0xf0 } else { 0 };
        let brand: [u8; 48] = {
            let words: Vec<u32> =
                (0x8000_0002..=0x8000_0004).flat_map(|function| self.leaf(function, 0)).collect();
            text(&words)
        };
        let vendor: [u8; 12] = text(&[b, d, c]);
        let string =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').trim().to_owned();
        Model {
            features: *features,
            vendor: string(&vendor),
            family,
            model: extended_model | signature >> 4 & 15,
            stepping: signature & 15,
            model_id: string(&brand),
            level: level.min(0x24),
            xlevel: self.leaf(0x8000_0000, 0)[0],
            phys_bits: (self.leaf(0x8000_0008, 0)[0] & 0xff).max(32),
            ..Model::default()
        }
    }

    /// XCR0 bits that both the model and the kernel have.
    fn state_components(&self, model: &Model) -> u32 {
        let mut mask = xcr0::X87 | xcr0::SSE;
        if model.has(feature::AVX) {
            mask |= xcr0::AVX;
        }
        if model.has(feature::AVX512F) {
            mask |= xcr0::OPMASK | xcr0::ZMM_HIGH | xcr0::ZMM_16_31;
        }
        if model.has(feature::PKU) {
            mask |= xcr0::PKRU;
        }
        mask as u32 & self.leaf(0xd, 0)[0]
    }

    /// Leaf 0xd. Sizes and offsets are the host's, since that is where the processor saves to.
    fn xsave_leaves(&self, model: &Model) -> Vec<(u32, [u32; 4])> {
        if !model.has(feature::XSAVE) {
            return vec![(0, [0; 4])];
        }
        let components = self.state_components(model);
        let parts: Vec<_> = (2..32)
            .filter(|bit| components >> bit & 1 != 0)
            .map(|bit| (bit, self.leaf(0xd, bit)))
            .collect();
        const HEADER_END: u32 = 0x240;
        let size = parts.iter().map(|(_, [size, offset, ..])| size + offset).max();
        let size = size.unwrap_or(0).max(HEADER_END);
        let compact: u32 = HEADER_END + parts.iter().map(|(_, [size, ..])| size).sum::<u32>();
        let mut leaves = vec![
            (0, [components, size, size, 0]),
            (1, [model.features.low(Word::LDs1Eax), compact, 0, 0]),
        ];
        leaves.extend(
            parts.iter().map(|(bit, [size, offset, flags, _])| (*bit, [*size, *offset, *flags, 0])),
        );
        leaves
    }

    /// What KVM_SET_CPUID2 gets for processor `index` of a model.
    ///
    /// With Hyper-V's leaves, the kernel's own are found behind them.
    pub fn entries_for(
        &self,
        model: &Model,
        index: u32,
        hyperv: &[hyperv::Leaf],
    ) -> Result<CpuId, KvmError> {
        // The kernel keeps the bits that follow the guest's state up to date itself.
        let now = Dynamic { apic_enabled: true, long: true, xcr0: 1, ..Dynamic::default() };
        let mut entries = Vec::new();
        let mut push = |function, subleaf: Option<u32>, values: [u32; 4]| {
            let [eax, ebx, ecx, edx] = values;
            entries.push(kvm_cpuid_entry2 {
                function,
                index: subleaf.unwrap_or(0),
                flags: if subleaf.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
                eax,
                ebx,
                ecx,
                edx,
                ..Default::default()
            });
        };
        for (function, values) in hyperv {
            push(*function, None, *values);
        }
        if model.hypervisor.is_some() {
            let first = if hyperv.is_empty() { hyperv::leaf::FIRST } else { BEHIND_HYPERV };
            let [_, b, c, d] = model.cpuid(index, hyperv::leaf::FIRST, 0, &now);
            push(first, None, [first + 1, b, c, d]);
            let low = |word| model.features.low(word);
            push(first + 1, None, [low(Word::KvmEax), 0, 0, low(Word::KvmEdx)]);
        }
        let ranges = [
            Some((0, model.level)),
            (model.xlevel >= 0x8000_0000).then_some((0x8000_0000, model.xlevel)),
            (model.xlevel2 >= 0xc000_0000).then_some((0xc000_0000, model.xlevel2)),
        ];
        // No leaf beyond what any model has; a level that was set by hand ends there too.
        const LAST: u32 = 0x40;
        for (first, last) in ranges.into_iter().flatten() {
            for function in first..=last.min(first + LAST) {
                match function {
                    0xd => {
                        for (subleaf, values) in self.xsave_leaves(model) {
                            push(function, Some(subleaf), values);
                        }
                    }
                    4 | 7 | 0xb | 0x12 | 0x14 | 0x1f | 0x8000_001d => {
                        for subleaf in 0..SUBLEAVES {
                            push(
                                function,
                                Some(subleaf),
                                model.cpuid(index, function, subleaf, &now),
                            );
                        }
                    }
                    _ => push(function, None, model.cpuid(index, function, 0, &now)),
                }
            }
        }
        CpuId::from_entries(&entries).map_err(|_| KvmError::Missing("that many CPUID leaves"))
    }
}

/// Enough for every leaf with subleaves that models have; the rest reads as zero.
const SUBLEAVES: u32 = 5;
