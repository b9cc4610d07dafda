//! Properties of processors that QEMU has and that change nothing here.
//!
//! In software they change nothing in QEMU either. Under hardware virtualisation some are missed, and a
//! warning says so.

/// What a value has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Switch,
    Number,
}

use Kind::{Number, Switch};

const PROPERTIES: &[(&str, Kind)] = &[
    ("avx10-version", Number),
    ("fill-mtrr-mask", Switch),
    ("full-cpuid-auto-level", Switch),
    ("host-cache-info", Switch),
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
    matches!(name, "lmce" | "pmu")
}
