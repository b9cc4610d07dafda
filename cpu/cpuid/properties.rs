//! A processor's properties, as monitors list them: every feature by name, what the model says, and
//! the switches that `-cpu` takes.

use serde_json::{Value, json};

use super::feature::{self, FeatureSet, Word};
use super::{Cache, Model, Selection};

/// A property: name, type, value.
pub type Entry = (&'static str, &'static str, Value);

/// Where a processor sits in its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Place {
    pub apic_id: u32,
    pub socket: u32,
    pub die: u32,
    pub module: u32,
    pub core: u32,
    pub thread: u32,
}

/// That no format of last-branch records was asked for: no bit but those that are no format's.
const NO_BRANCH_FORMAT: u64 = !0x3f;

/// Other spellings of features that are properties too.
const SPELLINGS: &[&str] = &[
    "cmp_legacy",
    "ds_cpl",
    "ffxsr",
    "fxsr_opt",
    "i64",
    "kvm_asyncpf",
    "kvm_asyncpf_int",
    "kvm_mmu",
    "kvm_nopiodelay",
    "kvm_poll_control",
    "kvm_pv_eoi",
    "kvm_pv_unhalt",
    "kvm_steal_time",
    "lahf_lm",
    "nodeid_msr",
    "nrip_save",
    "pause_filter",
    "pclmuldq",
    "perfctr_core",
    "perfctr_nb",
    "sse3",
    "sse4-1",
    "sse4-2",
    "sse4_1",
    "sse4_2",
    "svm_lock",
    "tsc_adjust",
    "tsc_scale",
    "vmcb_clean",
    "xd",
];

/// Switches that are on unless told otherwise.
const ON: &[&str] = &[
    "check",
    "cpuid-0xb",
    "fill-mtrr-mask",
    "full-cpuid-auto-level",
    "kvm",
    "l3-cache",
    "tcg-cpuid",
    "vmware-cpuid-freq",
    "x-amd-topoext-features-only",
    "x-intel-pt-auto-level",
    "x-l1-cache-per-thread",
    "x-migrate-smi-count",
    "x-vendor-cpuid-only",
];

/// Switches that are off unless told otherwise.
const OFF: &[&str] = &[
    "enforce",
    "host-phys-bits",
    "hv-apicv",
    "hv-avic",
    "hv-crash",
    "hv-emsr-bitmap",
    "hv-enforce-cpuid",
    "hv-evmcs",
    "hv-frequencies",
    "hv-ipi",
    "hv-passthrough",
    "hv-reenlightenment",
    "hv-relaxed",
    "hv-reset",
    "hv-runtime",
    "hv-stimer",
    "hv-stimer-direct",
    "hv-syndbg",
    "hv-synic",
    "hv-time",
    "hv-tlbflush",
    "hv-tlbflush-direct",
    "hv-tlbflush-ext",
    "hv-vapic",
    "hv-vpindex",
    "hv-xmm-input",
    "kvm-pv-enforce-cpuid",
    "legacy-multi-node",
    "lmce",
    "pmu",
    "start-powered-off",
    "x-force-features",
    "x-hv-synic-kvm-only",
    "xen-vapic",
];

fn features(model: &Model) -> impl Iterator<Item = Entry> {
    feature::names().iter().map(|named| (named.name, "bool", model.has(named.feature).into()))
}

/// What identifies a model without naming it.
fn identity(model: &Model) -> Vec<Entry> {
    vec![
        ("family", "int", model.family.into()),
        ("model", "int", model.model.into()),
        ("stepping", "int", model.stepping.into()),
        ("vendor", "string", model.vendor.clone().into()),
        ("model-id", "string", model.model_id.clone().into()),
        ("min-level", "uint32", model.level.into()),
        ("min-xlevel", "uint32", model.xlevel.into()),
        ("lmce", "bool", false.into()),
    ]
}

impl Model {
    /// What a static description of the model consists of: changes to one without features.
    pub fn static_properties(&self) -> Vec<Entry> {
        features(self).chain(identity(self)).collect()
    }

    /// Every property of a processor of this model, at its place in a machine if it has one.
    pub fn properties(&self, place: Option<Place>) -> Vec<Entry> {
        let mut entries = features(self).collect::<Vec<_>>();
        for name in SPELLINGS {
            if let Some(named) = feature::by_name(name) {
                entries.push((name, "bool", self.has(named.feature).into()));
            }
        }
        entries.extend(ON.iter().map(|name| (*name, "bool", true.into())));
        entries.extend(OFF.iter().map(|name| (*name, "bool", false.into())));
        entries.extend(identity(self).into_iter().filter(|(name, ..)| *name != "lmce"));
        let at = |pick: fn(&Place) -> u32| place.as_ref().map_or(json!(-1), |p| pick(p).into());
        let phys_bits = if place.is_some() { self.phys_bits } else { 0 };
        let microcode = if place.is_some() { self.microcode() } else { 0 };
        entries.extend([
            ("level", "uint32", self.level.into()),
            ("xlevel", "uint32", self.xlevel.into()),
            ("xlevel2", "uint32", self.xlevel2.into()),
            ("min-xlevel2", "uint32", self.xlevel2.into()),
            ("level-func7", "uint32", self.highest_subleaf_of_7().into()),
            ("phys-bits", "uint32", phys_bits.into()),
            ("host-phys-bits-limit", "uint8", 0.into()),
            ("ucode-rev", "uint64", microcode.into()),
            ("tsc-frequency", "int", 0.into()),
            ("apic-id", "uint32", place.map_or(u32::MAX, |place| place.apic_id).into()),
            ("socket-id", "int32", at(|place| place.socket)),
            ("die-id", "int32", at(|place| place.die)),
            ("module-id", "int32", at(|place| place.module)),
            ("core-id", "int32", at(|place| place.core)),
            ("thread-id", "int32", at(|place| place.thread)),
            ("node-id", "int32", json!(-1)),
            ("legacy-cache", "bool", (self.caches == Cache::DEFAULT).into()),
            ("guest-phys-bits", "uint32", self.guest_width().into()),
            ("avx10-version", "uint8", self.avx10_version().into()),
            ("lbr-fmt", "uint64", NO_BRANCH_FORMAT.into()),
            ("lbr_fmt", "uint64", NO_BRANCH_FORMAT.into()),
        ]);
        entries.extend(self.hyperv_properties(place.is_some()));
        entries
    }

    /// Those of Hyper-V's interface; a processor that was `made` has a name for it in any case.
    fn hyperv_properties(&self, made: bool) -> [Entry; 10] {
        let hyperv = &self.hyperv;
        let vendor = if made { hyperv.vendor() } else { &hyperv.vendor_id };
        let version = hyperv.version;
        let sharing = match hyperv.no_coresharing {
            Some(true) => "on",
            Some(false) => "off",
            None => "auto",
        };
        [
            ("hv-spinlocks", "uint32", hyperv.spinlocks.unwrap_or(u32::MAX).into()),
            ("hv-vendor-id", "str", vendor.into()),
            ("hv-no-nonarch-coresharing", "OnOffAuto", sharing.into()),
            ("hv-version-id-build", "uint32", version.build.into()),
            ("hv-version-id-major", "uint16", version.major.into()),
            ("hv-version-id-minor", "uint16", version.minor.into()),
            ("hv-version-id-spack", "uint32", version.service_pack.into()),
            ("hv-version-id-sbranch", "uint8", version.service_branch.into()),
            ("hv-version-id-snumber", "uint32", version.service_number.into()),
            ("x-hv-max-vps", "int32", json!(-1)),
        ]
    }

    fn avx10_version(&self) -> u8 {
        feature::by_name("avx10").is_some_and(|named| self.has(named.feature)).into()
    }

    /// How many leaves 7 there are after the first.
    fn highest_subleaf_of_7(&self) -> u32 {
        let shows = |word: Word| self.features.0[word as usize] != 0;
        match (shows(Word::L7s1Eax) || shows(Word::L7s1Edx), shows(Word::L7s2Edx)) {
            (_, true) => 2,
            (true, _) => 1,
            _ => 0,
        }
    }

    /// The width of guests' addresses as the property has it.
    fn guest_width(&self) -> u32 {
        if self.guest_phys_bits == 0 { u32::MAX } else { self.guest_phys_bits }
    }
}

/// Where the words of CPUID are, in the order of the reference emulator's list: what it tells of, leaf,
/// subleaf if the leaf has any, register.
const PLACES: [(Told, u32, Option<u32>, &str); 31] = [
    (Told::Word(Word::L24Ebx), 0x24, Some(0), "EBX"),
    (Told::Word(Word::L7s2Edx), 7, Some(2), "EDX"),
    (Told::Word(Word::L7s1Edx), 7, Some(1), "EDX"),
    (Told::Nothing, 0xd, Some(1), "EDX"),
    (Told::Nothing, 0xd, Some(1), "ECX"),
    (Told::Word(Word::L12s1Eax), 0x12, Some(1), "EAX"),
    (Told::Word(Word::L12Ebx), 0x12, Some(0), "EBX"),
    (Told::Word(Word::L12Eax), 0x12, Some(0), "EAX"),
    (Told::Word(Word::L14Ecx), 0x14, Some(0), "ECX"),
    (Told::Nothing, 0xd, Some(0), "EDX"),
    (Told::StateComponents, 0xd, Some(0), "EAX"),
    (Told::Word(Word::L6Eax), 6, None, "EAX"),
    (Told::Word(Word::LDs1Eax), 0xd, Some(1), "EAX"),
    (Told::Word(Word::XAEdx), 0x8000_000a, None, "EDX"),
    (Told::Word(Word::KvmEdx), 0x4000_0001, None, "EDX"),
    (Told::Word(Word::KvmEax), 0x4000_0001, None, "EAX"),
    (Told::Word(Word::C1Edx), 0xc000_0001, None, "EDX"),
    (Told::Word(Word::X22Eax), 0x8000_0022, None, "EAX"),
    (Told::Nothing, 0x8000_0021, None, "EBX"),
    (Told::Word(Word::X21Eax), 0x8000_0021, None, "EAX"),
    (Told::Word(Word::X8Ebx), 0x8000_0008, None, "EBX"),
    (Told::Word(Word::X7Edx), 0x8000_0007, None, "EDX"),
    (Told::Word(Word::X7Ebx), 0x8000_0007, None, "EBX"),
    (Told::Word(Word::X1Ecx), 0x8000_0001, None, "ECX"),
    (Told::Word(Word::X1Edx), 0x8000_0001, None, "EDX"),
    (Told::Word(Word::L7s1Eax), 7, Some(1), "EAX"),
    (Told::Word(Word::L7Edx), 7, Some(0), "EDX"),
    (Told::Word(Word::L7Ecx), 7, Some(0), "ECX"),
    (Told::Word(Word::L7Ebx), 7, Some(0), "EBX"),
    (Told::Word(Word::L1Ecx), 1, None, "ECX"),
    (Told::Word(Word::L1Edx), 1, None, "EDX"),
];

/// What a register of CPUID tells of.
enum Told {
    Word(Word),
    /// The components that XCR0 knows.
    StateComponents,
    /// Nothing that is there.
    Nothing,
}

fn words(features: &FeatureSet, state_components: u64) -> Value {
    let word = |(told, leaf, subleaf, register): &(Told, u32, Option<u32>, &str)| {
        let value = match told {
            Told::Word(word) => features.low(*word),
            Told::StateComponents => state_components as u32,
            Told::Nothing => 0,
        };
        let mut word =
            json!({"cpuid-input-eax": leaf, "cpuid-register": register, "features": value});
        if let Some(subleaf) = subleaf {
            word["cpuid-input-ecx"] = (*subleaf).into();
        }
        word
    };
    PLACES.iter().map(word).collect()
}

impl Selection {
    /// The words of CPUID: those of the processor, and what was asked for and is not there.
    pub fn feature_words(&self) -> [Entry; 2] {
        const KIND: &str = "X86CPUFeatureWordInfo";
        let model = &self.model;
        [
            ("feature-words", KIND, words(&model.features, model.xcr0_supported())),
            ("filtered-features", KIND, words(&self.unavailable, 0)),
        ]
    }
}

/// The names of features, one for each.
pub fn feature_names(features: &FeatureSet) -> Vec<&'static str> {
    let names = feature::names().iter();
    names.filter(|named| features.has(named.feature)).map(|named| named.name).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_property_is_listed_once_and_every_spelling_is_known() {
        let all = Model::default().properties(None);
        let names: HashSet<_> = all.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names.len(), all.len());
        for name in SPELLINGS {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn a_model_is_described_by_its_features() {
        let model = &super::super::find("qemu64").unwrap().model;
        let value = |name: &str| {
            let found = model.properties(None).into_iter().find(|(known, ..)| *known == name);
            found.unwrap().2
        };
        assert_eq!(value("sse2"), true);
        assert_eq!(value("lahf_lm"), value("lahf-lm"));
        assert_eq!(value("avx512f"), false);
        assert_eq!(value("vendor"), "AuthenticAMD");
        assert_eq!(value("core-id"), -1);
        assert!(model.static_properties().iter().any(|(name, ..)| *name == "min-xlevel"));
    }
}
