//! Properties of processors that QEMU has and that change nothing here.
//!
//! In software they change nothing in QEMU either: Hyper-V's enlightenments and the rest are for
//! hardware virtualisation. There they are missed, and a warning says so.

/// What a value has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Switch,
    Number,
    Text,
}

use Kind::{Number, Switch, Text};

const PROPERTIES: &[(&str, Kind)] = &[
    ("avx10-version", Number),
    ("fill-mtrr-mask", Switch),
    ("full-cpuid-auto-level", Switch),
    ("host-cache-info", Switch),
    ("hv-apicv", Switch),
    ("hv-avic", Switch),
    ("hv-crash", Switch),
    ("hv-emsr-bitmap", Switch),
    ("hv-enforce-cpuid", Switch),
    ("hv-evmcs", Switch),
    ("hv-frequencies", Switch),
    ("hv-ipi", Switch),
    ("hv-no-nonarch-coresharing", Text),
    ("hv-passthrough", Switch),
    ("hv-reenlightenment", Switch),
    ("hv-relaxed", Switch),
    ("hv-reset", Switch),
    ("hv-runtime", Switch),
    ("hv-spinlocks", Number),
    ("hv-stimer", Switch),
    ("hv-stimer-direct", Switch),
    ("hv-syndbg", Switch),
    ("hv-synic", Switch),
    ("hv-time", Switch),
    ("hv-tlbflush", Switch),
    ("hv-tlbflush-direct", Switch),
    ("hv-tlbflush-ext", Switch),
    ("hv-vapic", Switch),
    ("hv-vendor-id", Text),
    ("hv-version-id-build", Number),
    ("hv-version-id-major", Number),
    ("hv-version-id-minor", Number),
    ("hv-version-id-sbranch", Number),
    ("hv-version-id-snumber", Number),
    ("hv-version-id-spack", Number),
    ("hv-vpindex", Switch),
    ("hv-xmm-input", Switch),
    ("kvm", Switch),
    ("kvm-pv-enforce-cpuid", Switch),
    ("lbr-fmt", Number),
    ("legacy-multi-node", Switch),
    ("level-func7", Number),
    ("lmce", Switch),
    ("migratable", Switch),
    ("pmu", Switch),
    ("start-powered-off", Switch),
    ("vmware-cpuid-freq", Switch),
    ("xen-vapic", Switch),
];

/// What the value of a property has to be, if it is one of these.
pub(super) fn kind(name: &str) -> Option<Kind> {
    PROPERTIES.iter().find(|(property, _)| *property == name).map(|(_, kind)| *kind)
}

/// Whether a guest under hardware virtualisation misses the property when it is set.
pub(super) fn is_missed(name: &str) -> bool {
    name.starts_with("hv-") || matches!(name, "lmce" | "pmu")
}
