//! Feature words: where each named feature is. The names are in `features.txt`.

use std::sync::OnceLock;

/// A register that holds feature bits: `L` basic and `X` extended leaves of CPUID, `Kvm` the
/// hypervisor leaf, `C` Centaur's, `Msr` model-specific registers. `s` is a subleaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Word {
    L1Edx,
    L1Ecx,
    L6Eax,
    L7Ebx,
    L7Ecx,
    L7Edx,
    L7s1Eax,
    L7s1Edx,
    L7s2Edx,
    LDs1Eax,
    L12Eax,
    L12Ebx,
    L12s1Eax,
    L14Ecx,
    L24Ebx,
    KvmEax,
    KvmEdx,
    X1Edx,
    X1Ecx,
    X7Ebx,
    X7Edx,
    X8Ebx,
    XAEdx,
    X21Eax,
    X22Eax,
    C1Edx,
    MsrCF,
    Msr10A,
    Msr345,
    Msr480,
    Msr485,
    Msr48B,
    Msr48C,
    Msr48D,
    Msr48E,
    Msr48F,
    Msr490,
    Msr491,
}

impl Word {
    /// All words.
    pub const ALL: [Word; WORDS] = [
        Word::L1Edx,
        Word::L1Ecx,
        Word::L6Eax,
        Word::L7Ebx,
        Word::L7Ecx,
        Word::L7Edx,
        Word::L7s1Eax,
        Word::L7s1Edx,
        Word::L7s2Edx,
        Word::LDs1Eax,
        Word::L12Eax,
        Word::L12Ebx,
        Word::L12s1Eax,
        Word::L14Ecx,
        Word::L24Ebx,
        Word::KvmEax,
        Word::KvmEdx,
        Word::X1Edx,
        Word::X1Ecx,
        Word::X7Ebx,
        Word::X7Edx,
        Word::X8Ebx,
        Word::XAEdx,
        Word::X21Eax,
        Word::X22Eax,
        Word::C1Edx,
        Word::MsrCF,
        Word::Msr10A,
        Word::Msr345,
        Word::Msr480,
        Word::Msr485,
        Word::Msr48B,
        Word::Msr48C,
        Word::Msr48D,
        Word::Msr48E,
        Word::Msr48F,
        Word::Msr490,
        Word::Msr491,
    ];
}

/// Number of feature words.
pub const WORDS: usize = 38;

/// One feature bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The word it is in.
    pub word: Word,
    /// Its bit.
    pub bit: u8,
}

/// The value of every feature word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureSet(pub [u64; WORDS]);

impl Default for FeatureSet {
    fn default() -> Self {
        FeatureSet([0; WORDS])
    }
}

impl FeatureSet {
    /// Whether a feature is in the set.
    #[inline]
    pub const fn has(&self, feature: Feature) -> bool {
        self.0[feature.word as usize] >> feature.bit & 1 != 0
    }
    /// The low half of a word.
    pub fn low(&self, word: Word) -> u32 {
        self.0[word as usize] as u32
    }
    /// The features of both sets.
    pub fn intersection(&self, other: &FeatureSet) -> FeatureSet {
        FeatureSet(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }
    /// The features of this set that `other` lacks.
    pub fn without(&self, other: &FeatureSet) -> FeatureSet {
        FeatureSet(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }
    /// The features of both.
    pub fn union(&self, other: &FeatureSet) -> FeatureSet {
        FeatureSet(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }
    /// Adds or removes a feature.
    pub fn set(&mut self, feature: Feature, on: bool) {
        let word = &mut self.0[feature.word as usize];
        *word = *word & !(1 << feature.bit) | u64::from(on) << feature.bit;
    }
}

macro_rules! features {
    ($($name:ident = $word:ident $bit:literal;)*) => {$(
        #[allow(missing_docs)]
        pub const $name: Feature = Feature { word: Word::$word, bit: $bit };
    )*};
}

// The features that change what the engines do.
features! {
    FPU = L1Edx 0; VME = L1Edx 1; DE = L1Edx 2; PSE = L1Edx 3; TSC = L1Edx 4; MSR = L1Edx 5;
    PAE = L1Edx 6; MCE = L1Edx 7; CX8 = L1Edx 8; APIC = L1Edx 9; SEP = L1Edx 11; MTRR = L1Edx 12;
    PGE = L1Edx 13; MCA = L1Edx 14; CMOV = L1Edx 15; PAT = L1Edx 16; PSE36 = L1Edx 17;
    CLFLUSH = L1Edx 19; MMX = L1Edx 23; FXSR = L1Edx 24; SSE = L1Edx 25; SSE2 = L1Edx 26;
    HT = L1Edx 28;
    SSE3 = L1Ecx 0; PCLMULQDQ = L1Ecx 1; MONITOR = L1Ecx 3; SSSE3 = L1Ecx 9; FMA = L1Ecx 12;
    CX16 = L1Ecx 13; PCID = L1Ecx 17; SSE41 = L1Ecx 19; SSE42 = L1Ecx 20; X2APIC = L1Ecx 21;
    MOVBE = L1Ecx 22; POPCNT = L1Ecx 23; TSC_DEADLINE = L1Ecx 24; AES = L1Ecx 25; XSAVE = L1Ecx 26;
    OSXSAVE = L1Ecx 27; AVX = L1Ecx 28; F16C = L1Ecx 29; RDRAND = L1Ecx 30; HYPERVISOR = L1Ecx 31;
    FSGSBASE = L7Ebx 0; TSC_ADJUST = L7Ebx 1; BMI1 = L7Ebx 3; AVX2 = L7Ebx 5; SMEP = L7Ebx 7;
    BMI2 = L7Ebx 8; ERMS = L7Ebx 9; INVPCID = L7Ebx 10; AVX512F = L7Ebx 16; RDSEED = L7Ebx 18; ADX = L7Ebx 19;
    SMAP = L7Ebx 20; CLFLUSHOPT = L7Ebx 23; CLWB = L7Ebx 24; SHA = L7Ebx 29;
    UMIP = L7Ecx 2; PKU = L7Ecx 3; OSPKE = L7Ecx 4; WAITPKG = L7Ecx 5; GFNI = L7Ecx 8;
    VAES = L7Ecx 9; VPCLMULQDQ = L7Ecx 10; LA57 = L7Ecx 16; RDPID = L7Ecx 22; CLDEMOTE = L7Ecx 25;
    MOVDIRI = L7Ecx 27; MOVDIR64B = L7Ecx 28; PKS = L7Ecx 31;
    SERIALIZE = L7Edx 14; SPEC_CTRL = L7Edx 26; ARCH_CAPABILITIES = L7Edx 29;
    CORE_CAPABILITY = L7Edx 30; LAM = L7s1Eax 26;
    AVX_VNNI = L7s1Eax 4; CMPCCXADD = L7s1Eax 7;
    XSAVEOPT = LDs1Eax 0; XSAVEC = LDs1Eax 1; XGETBV1 = LDs1Eax 2; XSAVES = LDs1Eax 3;
    ARAT = L6Eax 2;
    SYSCALL = X1Edx 11; NX = X1Edx 20; MMXEXT = X1Edx 22; FXSR_OPT = X1Edx 25; PDPE1GB = X1Edx 26;
    RDTSCP = X1Edx 27; LM = X1Edx 29; NOW3DEXT = X1Edx 30; NOW3D = X1Edx 31;
    LAHF_LM = X1Ecx 0; CMP_LEGACY = X1Ecx 1; SVM = X1Ecx 2; CR8LEGACY = X1Ecx 4; ABM = X1Ecx 5;
    SSE4A = X1Ecx 6; MISALIGNSSE = X1Ecx 7; PREFETCHW = X1Ecx 8; TOPOEXT = X1Ecx 22;
    LBRV = XAEdx 1; NRIP_SAVE = XAEdx 3; TSC_SCALE = XAEdx 4; DECODE_ASSISTS = XAEdx 7;
    PAUSE_THRESHOLD = XAEdx 12; VIRTUAL_BLOCKS = XAEdx 15;
    VNMI = XAEdx 25; INVTSC = X7Edx 8; ACPI = L1Edx 22; XSAVEERPTR = X8Ebx 2; WBNOINVD = X8Ebx 9; IBPB = X8Ebx 12;
}

/// How far software execution supports a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// Not yet: the reference emulator does, so named models lose the feature without a word.
    Later,
}

/// A feature's entry in the table of names.
#[derive(Clone, Debug)]
pub struct Named {
    /// The name, as `-cpu` and QMP spell it.
    pub name: &'static str,
    /// Where it is.
    pub feature: Feature,
    /// The register's name in messages, such as `CPUID.01H:EDX`.
    pub register: &'static str,
    /// Whether software execution offers it.
    pub software: Software,
}

/// Every named feature, by word and bit.
pub fn names() -> &'static [Named] {
    static NAMES: OnceLock<Vec<Named>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut names = Vec::new();
        let mut words = Word::ALL.into_iter();
        let mut current = None;
        for line in include_str!("features.txt").lines().filter(|line| !line.starts_with('#')) {
            let mut items = line.split_whitespace();
            if !line.starts_with(' ') {
                items.next();
                current = words.next().zip(items.next());
            }
            let Some((word, register)) = current else { continue };
            for item in items {
                let Some((name, bit)) = item.split_once(':') else { continue };
                let (name, software) = match name.as_bytes()[0] {
                    b'+' => (&name[1..], Software::Yes),
                    b'~' => (&name[1..], Software::Later),
                    _ => (name, Software::No),
                };
                let feature = Feature { word, bit: bit.parse().unwrap_or(0) };
                names.push(Named { name, feature, register, software });
            }
        }
        names
    })
}

/// Older spellings of names.
const ALIASES: &[(&str, &str)] = &[
    ("sse3", "pni"),
    ("pclmuldq", "pclmulqdq"),
    ("sse4-1", "sse4.1"),
    ("sse4-2", "sse4.2"),
    ("xd", "nx"),
    ("ffxsr", "fxsr-opt"),
    ("i64", "lm"),
];

/// Looks a feature up by any of its spellings.
pub fn by_name(name: &str) -> Option<&'static Named> {
    let name = name.replace('_', "-");
    let canonical = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(&*name, |(_, to)| to);
    names().iter().find(|named| named.name == canonical)
}

/// What software execution offers. Words that are none of CPUID's are not its concern.
pub fn software() -> FeatureSet {
    let mut set = FeatureSet::default();
    for named in names() {
        set.set(named.feature, named.software == Software::Yes);
    }
    set
}
