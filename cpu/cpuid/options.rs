//! `-cpu`: a model, changed by options, filtered by what the accelerator can do.

use super::feature::{self, FeatureSet, Software, Word};
use super::models::{self, parse_number};
use super::{Model, Topology, Vendor, hyperv, inert};

/// Why `-cpu` is refused. The texts are what scripts match on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ModelError {
    #[error("unable to find CPU model '{0}'")]
    NoSuchModel(String),
    #[error("CPU model 'host' requires KVM or HVF")]
    HostNeedsHardware,
    #[error("Property '{model}-x86_64-cpu.{property}' not found")]
    NoSuchProperty { model: String, property: String },
    #[error("can't apply global {model}-x86_64-cpu.{property}={value}: {reason}")]
    BadProperty { model: String, property: String, value: String, reason: String },
    #[error("phys-bits should be between 32 and 52  (but is {0})")]
    PhysBits(u64),
    #[error("{0} doesn't support requested features")]
    Enforced(String),
}

/// What an accelerator can do.
#[derive(Clone, Debug)]
pub struct Support {
    /// Its name in warnings: `TCG` or `host`.
    pub name: &'static str,
    /// The features it supports.
    pub features: FeatureSet,
    /// Features that named models lose without a word.
    pub silent: FeatureSet,
    /// Features it turns on or off in named models before options apply.
    pub defaults: Vec<(&'static str, bool)>,
    /// What `-cpu host` is, and the base of `max`.
    pub host: Option<Model>,
    /// The signature of the hypervisor leaves.
    pub hypervisor: [u8; 12],
}

impl Support {
    /// Software execution.
    pub fn software() -> Self {
        let mut silent = FeatureSet::default();
        for named in feature::names() {
            silent.set(named.feature, named.software == Software::Later);
        }
        Support {
            name: "TCG",
            features: feature::software(),
            silent,
            defaults: vec![("vme", false)],
            host: None,
            hypervisor: *b"TCGTCGTCGTCG",
        }
    }

    /// KVM, which supports `features` and runs on `host`.
    pub fn kvm(features: FeatureSet, host: Model) -> Self {
        let on = [
            "kvmclock",
            "kvm-nopiodelay",
            "kvm-asyncpf",
            "kvm-steal-time",
            "kvm-pv-eoi",
            "kvmclock-stable-bit",
            "x2apic",
        ];
        let off = ["acpi", "monitor", "svm"];
        let defaults = on.map(|name| (name, true)).into_iter();
        Support {
            name: "host",
            features,
            silent: FeatureSet::default(),
            defaults: defaults.chain(off.map(|name| (name, false))).collect(),
            host: Some(host),
            hypervisor: *b"KVMKVMKVM\0\0\0",
        }
    }

    /// Whether a missing feature in `word` is worth a warning: not what MSRs tell, which only
    /// matters to hardware virtualisation.
    fn checks(&self, register: &str, word: Word) -> bool {
        let kvm_leaf = matches!(word, Word::KvmEax | Word::KvmEdx);
        register.starts_with("CPUID") && (self.host.is_some() || !kvm_leaf)
    }

    fn max(&self) -> Model {
        if let Some(host) = &self.host {
            return host.clone();
        }
        Model {
            features: self.features,
            vendor: "AuthenticAMD".to_owned(),
            family: 6,
            model: 6,
            stepping: 3,
            model_id: "QEMU TCG CPU version 2.5+".to_owned(),
            level: 0xd,
            xlevel: 0x8000_000a,
            ..Model::default()
        }
    }
}

/// What `-cpu` selected.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The model to use.
    pub model: Model,
    /// Warnings to print, without a prefix.
    pub warnings: Vec<String>,
    /// TSC frequency in Hz, if one was asked for.
    pub tsc_frequency: Option<u64>,
    /// What was asked for and the accelerator does not support.
    pub unavailable: FeatureSet,
    /// What was asked for, supported or not, by the model's name or by that of the feature.
    pub requested: FeatureSet,
}

struct Builder<'a> {
    /// The model's name as it was given, for messages.
    name: &'a str,
    model: Model,
    /// Features asked for by name.
    explicit: FeatureSet,
    /// Features that the named model lost without a word.
    silenced: FeatureSet,
    check: bool,
    enforce: bool,
    phys_bits: Option<u64>,
    /// Physical addresses are as wide as the host's, but at most the limit unless that is 0.
    host_phys_bits: bool,
    host_phys_bits_limit: u64,
    tsc_frequency: Option<u64>,
    /// Whether the processor is the host's, virtualised.
    hardware: bool,
    /// What to warn of besides features.
    remarks: Vec<String>,
}

/// Applies `spec` (`MODEL[,option...]`) for an accelerator and a topology.
pub fn select(spec: &str, support: &Support, topology: Topology) -> Result<Selection, ModelError> {
    let mut parts = spec.split(',');
    let name = parts.next().unwrap_or_default();
    let named = !matches!(name, "host" | "max" | "base");
    let mut model = match name {
        "host" => support.host.clone().ok_or(ModelError::HostNeedsHardware)?,
        "max" => support.max(),
        "base" => Model { level: 0, ..Model::default() },
        _ => {
            let found = models::find(name).ok_or(ModelError::NoSuchModel(name.to_owned()))?;
            found.model.clone()
        }
    };
    let mut silenced = FeatureSet::default();
    if named {
        for (name, on) in &support.defaults {
            if let Some(named) = feature::by_name(name) {
                model.features.set(named.feature, *on);
            }
        }
        silenced = model.features.intersection(&support.silent);
        model.features = model.features.without(&silenced);
    }
    model.topology = topology;
    model.hypervisor = Some(support.hypervisor);
    let mut builder = Builder {
        name,
        model,
        explicit: FeatureSet::default(),
        silenced,
        check: true,
        enforce: false,
        phys_bits: None,
        host_phys_bits: false,
        host_phys_bits_limit: 0,
        tsc_frequency: None,
        hardware: support.host.is_some(),
        remarks: Vec::new(),
    };
    let (signed, plain): (Vec<_>, Vec<_>) =
        parts.filter(|part| !part.is_empty()).partition(|part| part.starts_with(['+', '-']));
    let mut warnings = ambiguity(&signed, &plain);
    for part in plain {
        let (key, value) = part.split_once('=').unwrap_or((part, "on"));
        builder.set(&key.replace('_', "-"), value)?;
    }
    // +feature and -feature win over feature=on|off, wherever they stand.
    for on in [true, false] {
        for part in signed.iter().filter(|part| part.starts_with('+') == on) {
            builder.set_feature(&part[1..], on)?;
        }
    }
    warnings.append(&mut builder.remarks);
    builder.finish(support, warnings)
}

fn ambiguity(signed: &[&str], plain: &[&str]) -> Vec<String> {
    for sign in signed {
        for part in plain {
            if part.split('=').next() == Some(&sign[1..]) {
                return vec![
                    format!("Ambiguous CPU model string. Don't mix both \"{sign}\" and \"{part}\""),
                    "Compatibility of ambiguous CPU model strings won't be kept on future QEMU \
                     versions"
                        .to_owned(),
                ];
            }
        }
    }
    Vec::new()
}

impl Builder<'_> {
    fn bad(&self, property: &str, value: &str, reason: String) -> ModelError {
        ModelError::BadProperty {
            model: self.name.to_owned(),
            property: property.to_owned(),
            value: value.to_owned(),
            reason,
        }
    }

    fn boolean(&self, key: &str, value: &str) -> Result<bool, ModelError> {
        match value {
            "on" | "yes" | "true" | "y" => Ok(true),
            "off" | "no" | "false" | "n" => Ok(false),
            _ => Err(self.bad(key, value, format!("Parameter '{key}' expects 'on' or 'off'"))),
        }
    }

    fn number(&self, key: &str, value: &str, kind: &str) -> Result<u64, ModelError> {
        parse_number(value)
            .ok_or_else(|| self.bad(key, value, format!("Parameter '{key}' expects {kind}")))
    }

    fn word(&self, key: &str, value: &str) -> Result<u32, ModelError> {
        let number = self.number(key, value, "uint64")?;
        u32::try_from(number)
            .map_err(|_| self.bad(key, value, format!("Parameter '{key}' expects uint32_t")))
    }

    fn set_feature(&mut self, name: &str, on: bool) -> Result<(), ModelError> {
        let named = feature::by_name(name).ok_or_else(|| ModelError::NoSuchProperty {
            model: self.name.to_owned(),
            property: name.to_owned(),
        })?;
        self.model.features.set(named.feature, on);
        self.explicit.set(named.feature, on);
        self.silenced.set(named.feature, false);
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), ModelError> {
        match key {
            "check" => self.check = self.boolean(key, value)?,
            "enforce" => self.enforce = self.boolean(key, value)?,
            "family" => self.model.family = self.ranged(key, value, 0xff + 0xf)?,
            "model" => self.model.model = self.ranged(key, value, 0xff)?,
            "stepping" => self.model.stepping = self.ranged(key, value, 0xf)?,
            "level" | "min-level" => self.model.level = self.word(key, value)?,
            "xlevel" | "min-xlevel" => self.model.xlevel = self.word(key, value)?,
            "xlevel2" | "min-xlevel2" => self.model.xlevel2 = self.word(key, value)?,
            "phys-bits" => self.phys_bits = Some(self.number(key, value, "uint64")?),
            "host-phys-bits" => self.host_phys_bits = self.boolean(key, value)?,
            "host-phys-bits-limit" => {
                self.host_phys_bits_limit = self.number(key, value, "uint8")?
            }
            "guest-phys-bits" => self.model.guest_phys_bits = self.ranged(key, value, 0xff)?,
            "l3-cache" => self.model.l3_cache = self.boolean(key, value)?,
            "cpuid-0xb" => self.model.topology_leaf = self.boolean(key, value)?,
            "ucode-rev" => self.model.microcode = Some(self.number(key, value, "uint64")?),
            "tsc-frequency" => self.tsc_frequency = Some(self.number(key, value, "int64")?),
            "model-id" => self.model.model_id = value.to_owned(),
            "vendor" => {
                if value.len() != 12 {
                    let reason = "value of property 'vendor' must consist of exactly 12 characters";
                    return Err(self.bad(key, value, reason.to_owned()));
                }
                self.model.vendor = value.to_owned();
            }
            "tcg-cpuid" => {
                if !self.boolean(key, value)? {
                    self.model.hypervisor = None;
                }
            }
            _ if key.starts_with("hv-") => self.set_hyperv(key, value)?,
            // The unstable x- properties exist for hardware virtualisation only.
            _ if key.starts_with("x-") => {}
            _ => {
                if let Some(kind) = inert::kind(key) {
                    return self.set_inert(key, value, kind);
                }
                if feature::by_name(key).is_none() {
                    let model = self.name;
                    let reason = format!("Property '{model}-x86_64-cpu.{key}' not found");
                    return Err(self.bad(key, value, reason));
                }
                let on = self.boolean(key, value)?;
                self.set_feature(key, on)?;
            }
        }
        Ok(())
    }

    fn set_hyperv(&mut self, key: &str, value: &str) -> Result<(), ModelError> {
        /// A number no wider than its property.
        macro_rules! narrow {
            ($kind:ty) => {
                <$kind>::try_from(self.number(key, value, "uint64")?).map_err(|_| {
                    let kind = concat!(stringify!($kind), "_t").replace('u', "uint");
                    self.bad(key, value, format!("Parameter '{key}' expects {kind}"))
                })?
            };
        }
        if let Some(which) = hyperv::by_property(key) {
            let on = self.boolean(key, value)?;
            self.model.hyperv.set(which, on);
            return Ok(());
        }
        match key {
            "hv-passthrough" => self.model.hyperv.passthrough = self.boolean(key, value)?,
            "hv-enforce-cpuid" => self.model.hyperv.enforce_cpuid = self.boolean(key, value)?,
            "hv-spinlocks" => {
                let retries = narrow!(u32);
                self.model.hyperv.spinlocks = Some(retries).filter(|retries| *retries != u32::MAX);
            }
            "hv-no-nonarch-coresharing" => {
                self.model.hyperv.no_coresharing = match value {
                    "on" => Some(true),
                    "off" => Some(false),
                    "auto" => None,
                    _ => {
                        let reason = format!("Parameter '{key}' does not accept value '{value}'");
                        return Err(self.bad(key, value, reason));
                    }
                }
            }
            "hv-vendor-id" => {
                if value.len() > 12 {
                    self.remarks.push("hv-vendor-id truncated to 12 characters".to_owned());
                }
                self.model.hyperv.vendor_id = value.to_owned();
            }
            "hv-version-id-build" => self.model.hyperv.version.build = narrow!(u32),
            "hv-version-id-major" => self.model.hyperv.version.major = narrow!(u16),
            "hv-version-id-minor" => self.model.hyperv.version.minor = narrow!(u16),
            "hv-version-id-spack" => self.model.hyperv.version.service_pack = narrow!(u32),
            "hv-version-id-sbranch" => self.model.hyperv.version.service_branch = narrow!(u8),
            "hv-version-id-snumber" => self.model.hyperv.version.service_number = narrow!(u32),
            _ => {
                let reason = format!("Property '{}-x86_64-cpu.{key}' not found", self.name);
                return Err(self.bad(key, value, reason));
            }
        }
        Ok(())
    }

    fn set_inert(&mut self, key: &str, value: &str, kind: inert::Kind) -> Result<(), ModelError> {
        let wanted = match kind {
            inert::Kind::Switch => self.boolean(key, value)?,
            inert::Kind::Number => self.number(key, value, "uint64").map(|_| true)?,
        };
        if wanted && self.hardware && inert::is_missed(key) {
            self.remarks.push(format!("CPU property '{key}' is not available in this build"));
        }
        Ok(())
    }

    fn ranged(&self, key: &str, value: &str, max: u32) -> Result<u32, ModelError> {
        let number = self.number(key, value, "uint64")?;
        u32::try_from(number).ok().filter(|number| *number <= max).ok_or_else(|| {
            let reason = format!("Parameter '{key}' expects a value between 0 and {max}");
            self.bad(key, value, reason)
        })
    }

    fn finish(
        mut self,
        support: &Support,
        mut warnings: Vec<String>,
    ) -> Result<Selection, ModelError> {
        let model = &mut self.model;
        let requested = model.features.union(&self.silenced);
        let missing = model.features.without(&support.features);
        let mut lacking = false;
        for named in feature::names().iter().filter(|named| missing.has(named.feature)) {
            if support.checks(named.register, named.feature.word) {
                lacking = true;
                if self.check || self.enforce {
                    warnings.push(format!(
                        "{} doesn't support requested feature: {}.{} [bit {}]",
                        support.name, named.register, named.name, named.feature.bit
                    ));
                }
            }
        }
        if lacking && self.enforce {
            // The message begins a sentence: "Host", "TCG".
            let mut name = support.name.to_owned();
            name[..1].make_ascii_uppercase();
            return Err(ModelError::Enforced(name));
        }
        model.features = model.features.intersection(&support.features);
        let long = model.has(feature::LM);
        let default_bits = if long {
            40
        } else if model.has(feature::PAE) || model.has(feature::PSE36) {
            36
        } else {
            32
        };
        if let Some(host) = support.host.as_ref().filter(|_| self.host_phys_bits) {
            let limit = Some(self.host_phys_bits_limit).filter(|limit| *limit != 0);
            self.phys_bits = Some(u64::from(host.phys_bits).min(limit.unwrap_or(u64::MAX)));
        }
        let bits = self.phys_bits.filter(|bits| *bits != 0).unwrap_or(default_bits);
        if !(32..=52).contains(&bits) {
            return Err(ModelError::PhysBits(bits));
        }
        model.phys_bits = if long { bits as u32 } else { default_bits as u32 };
        model.raise_levels();
        Ok(Selection {
            model: self.model,
            warnings,
            tsc_frequency: self.tsc_frequency,
            unavailable: missing,
            requested,
        })
    }
}

impl Model {
    /// Raises the highest leaves to those the features need.
    fn raise_levels(&mut self) {
        let leaves = [
            (Word::L6Eax, 6),
            (Word::L7Ebx, 7),
            (Word::L7Ecx, 7),
            (Word::L7Edx, 7),
            (Word::L7s1Eax, 7),
            (Word::LDs1Eax, 0xd),
            (Word::L12Eax, 0x12),
            (Word::L14Ecx, 0x14),
            (Word::L24Ebx, 0x24),
            (Word::X1Edx, 0x8000_0001),
            (Word::X1Ecx, 0x8000_0001),
            (Word::X7Edx, 0x8000_0007),
            (Word::X8Ebx, 0x8000_0008),
            (Word::XAEdx, 0x8000_000a),
            (Word::X21Eax, 0x8000_0021),
            (Word::X22Eax, 0x8000_0022),
        ];
        for (word, leaf) in leaves {
            if self.features.0[word as usize] != 0 {
                let level = if leaf < 0x8000_0000 { &mut self.level } else { &mut self.xlevel };
                *level = (*level).max(leaf);
            }
        }
        if self.features.low(Word::L1Edx) != 0 {
            self.level = self.level.max(1);
        }
        if self.topology.dies > 1 && self.vendor() == Vendor::Intel {
            self.level = self.level.max(0x1f);
        }
        if self.vendor == "CentaurHauls" {
            self.xlevel2 = self.xlevel2.max(0xc000_0001);
        }
    }
}
