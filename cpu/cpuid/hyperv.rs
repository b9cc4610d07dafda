//! Hyper-V's enlightenments: what `-cpu hv-...` asks for, what depends on what, and the leaves that tell
//! a guest of them (Microsoft's Hypervisor Top Level Functional Specification, 2.4). They are for
//! hardware virtualisation, and composed of what the host's kernel supports.

/// The leaves.
#[allow(missing_docs)]
pub mod leaf {
    pub const FIRST: u32 = 0x4000_0000;
    pub const INTERFACE: u32 = 0x4000_0001;
    pub const VERSION: u32 = 0x4000_0002;
    pub const FEATURES: u32 = 0x4000_0003;
    pub const HINTS: u32 = 0x4000_0004;
    pub const LIMITS: u32 = 0x4000_0005;
    pub const NESTED: u32 = 0x4000_000a;
}

/// A bit that an enlightenment is told by: leaf, register (0: EAX ...), number.
type Bit = (u32, usize, u32);

/// What there is, in the order in which it is checked.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Enlightenment {
    Relaxed,
    Vapic,
    Time,
    Crash,
    Reset,
    VpIndex,
    Runtime,
    Synic,
    Stimer,
    Frequencies,
    Reenlightenment,
    TlbFlush,
    EnlightenedVmcs,
    Ipi,
    StimerDirect,
    Avic,
    DebugChannel,
    MsrBitmap,
    XmmInput,
    TlbFlushExtended,
    TlbFlushDirect,
}

use Enlightenment as E;

struct Entry {
    which: E,
    property: &'static str,
    /// For messages.
    text: &'static str,
    bits: &'static [Bit],
    needs: &'static [E],
}

const fn entry(
    which: E,
    property: &'static str,
    text: &'static str,
    bits: &'static [Bit],
    needs: &'static [E],
) -> Entry {
    Entry { which, property, text, bits, needs }
}

use leaf::{FEATURES, HINTS, NESTED};

const TABLE: &[Entry] = &[
    entry(E::Relaxed, "hv-relaxed", "relaxed timing (hv-relaxed)", &[(HINTS, 0, 5)], &[]),
    entry(E::Vapic, "hv-vapic", "virtual APIC (hv-vapic)", &[(FEATURES, 0, 4), (HINTS, 0, 3)], &[]),
    entry(E::Time, "hv-time", "clocksources (hv-time)", &[(FEATURES, 0, 1), (FEATURES, 0, 9)], &[]),
    entry(E::Crash, "hv-crash", "crash MSRs (hv-crash)", &[(FEATURES, 3, 10)], &[]),
    entry(E::Reset, "hv-reset", "reset MSR (hv-reset)", &[(FEATURES, 0, 7)], &[]),
    entry(E::VpIndex, "hv-vpindex", "VP_INDEX MSR (hv-vpindex)", &[(FEATURES, 0, 6)], &[]),
    entry(E::Runtime, "hv-runtime", "VP_RUNTIME MSR (hv-runtime)", &[(FEATURES, 0, 0)], &[]),
    entry(
        E::Synic,
        "hv-synic",
        "synthetic interrupt controller (hv-synic)",
        &[(FEATURES, 0, 2)],
        &[E::VpIndex],
    ),
    entry(
        E::Stimer,
        "hv-stimer",
        "synthetic timers (hv-stimer)",
        &[(FEATURES, 0, 3)],
        &[E::Synic, E::Time],
    ),
    entry(
        E::Frequencies,
        "hv-frequencies",
        "frequency MSRs (hv-frequencies)",
        &[(FEATURES, 0, 11), (FEATURES, 3, 8)],
        &[],
    ),
    entry(
        E::Reenlightenment,
        "hv-reenlightenment",
        "reenlightenment MSRs (hv-reenlightenment)",
        &[(FEATURES, 0, 13)],
        &[],
    ),
    entry(
        E::TlbFlush,
        "hv-tlbflush",
        "paravirtualized TLB flush (hv-tlbflush)",
        &[(HINTS, 0, 2), (HINTS, 0, 11)],
        &[E::VpIndex],
    ),
    entry(
        E::EnlightenedVmcs,
        "hv-evmcs",
        "enlightened VMCS (hv-evmcs)",
        &[(HINTS, 0, 14)],
        &[E::Vapic],
    ),
    entry(
        E::Ipi,
        "hv-ipi",
        "paravirtualized IPI (hv-ipi)",
        &[(HINTS, 0, 10), (HINTS, 0, 11)],
        &[E::VpIndex],
    ),
    entry(
        E::StimerDirect,
        "hv-stimer-direct",
        "direct mode synthetic timers (hv-stimer-direct)",
        &[(FEATURES, 3, 19)],
        &[E::Stimer],
    ),
    entry(E::Avic, "hv-avic", "AVIC/APICv support (hv-avic/hv-apicv)", &[(HINTS, 0, 9)], &[]),
    entry(
        E::DebugChannel,
        "hv-syndbg",
        "Enable synthetic kernel debugger channel (hv-syndbg)",
        &[(FEATURES, 3, 11)],
        &[E::Synic, E::Relaxed],
    ),
    entry(
        E::MsrBitmap,
        "hv-emsr-bitmap",
        "enlightened MSR-Bitmap (hv-emsr-bitmap)",
        &[(NESTED, 0, 19)],
        &[],
    ),
    entry(
        E::XmmInput,
        "hv-xmm-input",
        "XMM fast hypercall input (hv-xmm-input)",
        &[(FEATURES, 3, 4)],
        &[],
    ),
    entry(
        E::TlbFlushExtended,
        "hv-tlbflush-ext",
        "Extended gva ranges for TLB flush hypercalls (hv-tlbflush-ext)",
        &[(FEATURES, 3, 14)],
        &[E::TlbFlush],
    ),
    entry(
        E::TlbFlushDirect,
        "hv-tlbflush-direct",
        "direct TLB flush (hv-tlbflush-direct)",
        &[(NESTED, 0, 17)],
        &[E::Vapic],
    ),
];

/// Why a guest cannot have what was asked for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HyperVError {
    #[error("Hyper-V {0} requires Hyper-V {1}")]
    Requires(&'static str, &'static str),
    #[error("Hyper-V {0} is not supported by kernel")]
    NotSupported(&'static str),
}

/// What the version leaf says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Version {
    pub build: u32,
    pub major: u16,
    pub minor: u16,
    pub service_pack: u32,
    pub service_branch: u8,
    pub service_number: u32,
}

/// What `-cpu` says of Hyper-V.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HyperV {
    asked: u32,
    /// Everything that the kernel supports.
    pub passthrough: bool,
    /// A guest that uses what it was not told of is refused it.
    pub enforce_cpuid: bool,
    /// How often a guest spins before it tells of a long wait; it never does if absent.
    pub spinlocks: Option<u32>,
    /// The vendor in the first leaf, if not Microsoft's.
    pub vendor_id: String,
    /// The version.
    pub version: Version,
    /// Whether the guest is told that no two processors share a core but as the topology says; `None`:
    /// as the kernel knows.
    pub no_coresharing: Option<bool>,
}

impl Default for HyperV {
    /// Nothing.
    fn default() -> Self {
        HyperV {
            asked: 0,
            passthrough: false,
            enforce_cpuid: false,
            spinlocks: None,
            vendor_id: String::new(),
            // Windows Server 2016.
            version: Version {
                build: 14393,
                major: 10,
                minor: 0,
                service_pack: 0,
                service_branch: 0,
                service_number: 0,
            },
            no_coresharing: Some(false),
        }
    }
}

/// The enlightenment that a property asks for.
pub(super) fn by_property(name: &str) -> Option<Enlightenment> {
    let name = if name == "hv-apicv" { "hv-avic" } else { name };
    TABLE.iter().find(|entry| entry.property == name).map(|entry| entry.which)
}

/// Leaf and registers.
pub type Leaf = (u32, [u32; 4]);

impl HyperV {
    /// Who says to have made the hypervisor.
    pub(super) fn vendor(&self) -> &str {
        if self.vendor_id.is_empty() { "Microsoft Hv" } else { &self.vendor_id }
    }

    /// Asks for an enlightenment, or no longer.
    pub fn set(&mut self, which: Enlightenment, on: bool) {
        self.asked = self.asked & !(1 << which as u8) | u32::from(on) << which as u8;
    }

    /// Whether an enlightenment was asked for by name.
    pub fn asks_for(&self, which: Enlightenment) -> bool {
        self.asked >> which as u8 & 1 != 0
    }

    /// Whether the guest is to see Hyper-V at all.
    pub fn is_wanted(&self) -> bool {
        self.asked != 0 || self.passthrough || self.spinlocks.is_some()
    }

    /// What the guest is given of what `kernel` supports: a leaf's registers, zero for those it does not
    /// know.
    fn granted(
        &self,
        kernel: &impl Fn(u32) -> [u32; 4],
    ) -> Result<Vec<&'static Entry>, HyperVError> {
        let mut granted = Vec::new();
        for entry in TABLE {
            let asked = self.asks_for(entry.which);
            if !asked && !self.passthrough {
                continue;
            }
            let supported =
                entry.bits.iter().all(|(leaf, reg, bit)| kernel(*leaf)[*reg] >> bit & 1 != 0);
            if asked && !self.passthrough {
                let missing = entry.needs.iter().find(|need| !self.asks_for(**need));
                let missing = missing.and_then(|need| TABLE.iter().find(|e| e.which == *need));
                if let Some(missing) = missing {
                    return Err(HyperVError::Requires(entry.text, missing.text));
                }
            }
            // Nobody here listens to a debugger's channel.
            if supported && entry.which != E::DebugChannel {
                granted.push(entry);
            } else if asked {
                return Err(HyperVError::NotSupported(entry.text));
            }
        }
        Ok(granted)
    }

    /// The leaves, made of what `kernel` supports.
    pub fn leaves(&self, kernel: impl Fn(u32) -> [u32; 4]) -> Result<Vec<Leaf>, HyperVError> {
        /// In FEATURES: the page of hypercalls; in its EBX: messages and signals, which devices behind
        /// the interrupt controller need; in its EDX: processors may come and go.
        const HYPERCALL: u32 = 1 << 5;
        const POST_MESSAGES: u32 = 1 << 4;
        const SIGNAL_EVENTS: u32 = 1 << 5;
        const DYNAMIC_PARTITIONING: u32 = 1 << 3;
        const NO_CORESHARING: u32 = 1 << 18;
        const NEVER: u32 = u32::MAX;
        let granted = self.granted(&kernel)?;
        let bits = |leaf: u32, reg: usize| {
            let bits = granted.iter().flat_map(|entry| entry.bits);
            bits.filter(|bit| (bit.0, bit.1) == (leaf, reg)).fold(0, |word, bit| word | 1 << bit.2)
        };
        let has = |which| granted.iter().any(|entry| entry.which == which);
        let synic = if has(E::Synic) { POST_MESSAGES | SIGNAL_EVENTS } else { 0 };
        let versions = if has(E::EnlightenedVmcs) { kernel(NESTED)[0] & 0xffff } else { 0 };
        let nested = bits(NESTED, 0) | versions;
        let told = kernel(HINTS)[0] & NO_CORESHARING;
        let coresharing = match self.no_coresharing {
            Some(true) => NO_CORESHARING,
            Some(false) if self.passthrough => told,
            Some(false) => 0,
            None => told,
        };
        let spinlocks = match self.spinlocks {
            Some(retries) => retries,
            None if self.passthrough => kernel(HINTS)[1],
            None => NEVER,
        };
        let last = if nested != 0 { leaf::NESTED } else { leaf::LIMITS };
        let vendor = self.vendor();
        let text = |word: usize| {
            let mut bytes = [0; 4];
            for (to, from) in bytes.iter_mut().zip(vendor.bytes().skip(4 * word)) {
                *to = from;
            }
            u32::from_le_bytes(bytes)
        };
        let v = &self.version;
        let version = [
            v.build,
            u32::from(v.major) << 16 | u32::from(v.minor),
            v.service_pack,
            u32::from(v.service_branch) << 24 | v.service_number & 0xff_ffff,
        ];
        let mut leaves = vec![
            (leaf::FIRST, [last, text(0), text(1), text(2)]),
            (leaf::INTERFACE, [u32::from_le_bytes(*b"Hv#1"), 0, 0, 0]),
            (leaf::VERSION, version),
            (
                leaf::FEATURES,
                [
                    bits(FEATURES, 0) | HYPERCALL,
                    bits(FEATURES, 1) | synic,
                    0,
                    bits(FEATURES, 3) | DYNAMIC_PARTITIONING,
                ],
            ),
            (leaf::HINTS, [bits(HINTS, 0) | coresharing, spinlocks, 0, 0]),
            // No limit for processors of the guest; 64 of the host.
            (leaf::LIMITS, [u32::MAX, 64, 0, 0]),
        ];
        if nested != 0 {
            leaves.extend((leaf::LIMITS + 1..leaf::NESTED).map(|leaf| (leaf, [0; 4])));
            leaves.push((leaf::NESTED, [nested, 0, 0, 0]));
        }
        Ok(leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything(_: u32) -> [u32; 4] {
        [!0; 4]
    }

    fn asking(names: &[&str]) -> HyperV {
        let mut hyperv = HyperV::default();
        for name in names {
            hyperv.set(by_property(name).unwrap(), true);
        }
        hyperv
    }

    fn word(leaves: &[Leaf], wanted: u32, reg: usize) -> u32 {
        leaves.iter().find(|(leaf, _)| *leaf == wanted).unwrap().1[reg]
    }

    #[test]
    fn the_table_is_in_order() {
        for (n, entry) in TABLE.iter().enumerate() {
            assert_eq!(entry.which as usize, n, "{}", entry.property);
        }
    }

    #[test]
    fn only_what_was_asked_for_is_told() {
        let leaves = asking(&["hv-relaxed", "hv-time"]).leaves(everything).unwrap();
        assert_eq!(leaves[0].1, [leaf::LIMITS, 0x7263_694d, 0x666f_736f, 0x7648_2074]);
        assert_eq!(word(&leaves, leaf::INTERFACE, 0), 0x3123_7648);
        assert_eq!(word(&leaves, leaf::VERSION, 0), 14393);
        assert_eq!(word(&leaves, leaf::VERSION, 1), 10 << 16);
        assert_eq!(word(&leaves, FEATURES, 0), 1 << 1 | 1 << 5 | 1 << 9);
        assert_eq!(word(&leaves, FEATURES, 1), 0);
        assert_eq!(word(&leaves, HINTS, 0), 1 << 5);
        assert_eq!(word(&leaves, HINTS, 1), u32::MAX);
    }

    #[test]
    fn nested_features_have_a_leaf_of_their_own() {
        let leaves = asking(&["hv-vapic", "hv-evmcs", "hv-emsr-bitmap"]).leaves(everything);
        let leaves = leaves.unwrap();
        assert_eq!(leaves[0].1[0], leaf::NESTED);
        assert_eq!(word(&leaves, leaf::NESTED, 0), 0xffff | 1 << 19);
        let numbers: Vec<_> = leaves.iter().map(|(leaf, _)| *leaf).collect();
        assert_eq!(numbers, (leaf::FIRST..=leaf::NESTED).collect::<Vec<_>>());
    }

    #[test]
    fn what_depends_on_something_needs_it() {
        let error = asking(&["hv-vpindex", "hv-synic", "hv-stimer"]).leaves(everything);
        assert_eq!(
            error.unwrap_err().to_string(),
            "Hyper-V synthetic timers (hv-stimer) requires Hyper-V clocksources (hv-time)"
        );
        let error = asking(&["hv-ipi"]).leaves(everything).unwrap_err().to_string();
        assert!(error.ends_with("requires Hyper-V VP_INDEX MSR (hv-vpindex)"), "{error}");
        for entry in TABLE {
            let mut all: HyperV = HyperV::default();
            let mut queue = vec![entry.which];
            while let Some(which) = queue.pop() {
                all.set(which, true);
                queue.extend(TABLE[which as usize].needs);
            }
            let refused = entry.which == E::DebugChannel;
            assert_eq!(all.leaves(everything).is_err(), refused, "{}", entry.property);
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_refused_or_left_out() {
        let kernel =
            |leaf: u32| if leaf == FEATURES { [1 << 4, 0, 0, 0] } else { [1 << 3 | 1 << 5; 4] };
        let error = asking(&["hv-reset"]).leaves(kernel).unwrap_err().to_string();
        assert_eq!(error, "Hyper-V reset MSR (hv-reset) is not supported by kernel");
        let passthrough = HyperV { passthrough: true, ..HyperV::default() };
        let leaves = passthrough.leaves(kernel).unwrap();
        assert_eq!(word(&leaves, FEATURES, 0), 1 << 4 | 1 << 5);
        assert_eq!(word(&leaves, HINTS, 0), 1 << 3 | 1 << 5);
        assert_eq!(word(&leaves, HINTS, 1), 1 << 3 | 1 << 5);
    }

    #[test]
    fn a_vendor_of_ones_own() {
        let hyperv =
            HyperV { vendor_id: "abcde".into(), spinlocks: Some(0x1fff), ..HyperV::default() };
        assert!(hyperv.is_wanted() && !HyperV::default().is_wanted());
        let leaves = hyperv.leaves(everything).unwrap();
        assert_eq!(leaves[0].1[1..], [u32::from_le_bytes(*b"abcd"), 0x65, 0]);
        assert_eq!(word(&leaves, HINTS, 1), 0x1fff);
    }
}
