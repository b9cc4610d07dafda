//! Feature words: where each named feature is in CPUID.

/// A register of a leaf that holds feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Word {
    L1Edx,
    L1Ecx,
    L7Ebx,
    L7Ecx,
    L7Edx,
    L7s1Eax,
    L7s1Ecx,
    L7s1Edx,
    L7s2Edx,
    LDs1Eax,
    L6Eax,
    X1Edx,
    X1Ecx,
    X7Edx,
    X8Ebx,
    XAEdx,
    X21Eax,
    C1Edx,
    ArchCapabilities,
}

/// Number of feature words.
pub const WORDS: usize = Word::ArchCapabilities as usize + 1;

/// One feature bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The word it is in.
    pub word: Word,
    /// Its bit.
    pub bit: u8,
}

/// The value of every feature word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureSet(pub [u32; WORDS]);

impl FeatureSet {
    /// Whether a feature is in the set.
    #[inline]
    pub const fn has(&self, feature: Feature) -> bool {
        self.0[feature.word as usize] >> feature.bit & 1 != 0
    }
    /// Adds or removes a feature.
    pub fn set(&mut self, feature: Feature, on: bool) {
        let word = &mut self.0[feature.word as usize];
        *word = *word & !(1 << feature.bit) | u32::from(on) << feature.bit;
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
    BMI2 = L7Ebx 8; ERMS = L7Ebx 9; INVPCID = L7Ebx 10; RDSEED = L7Ebx 18; ADX = L7Ebx 19;
    SMAP = L7Ebx 20; CLFLUSHOPT = L7Ebx 23; CLWB = L7Ebx 24; SHA = L7Ebx 29;
    UMIP = L7Ecx 2; PKU = L7Ecx 3; OSPKE = L7Ecx 4; GFNI = L7Ecx 8; VAES = L7Ecx 9;
    VPCLMULQDQ = L7Ecx 10; LA57 = L7Ecx 16; RDPID = L7Ecx 22; PKS = L7Ecx 31;
    SPEC_CTRL = L7Edx 26; ARCH_CAPABILITIES = L7Edx 29; CORE_CAPABILITY = L7Edx 30;
    XSAVEOPT = LDs1Eax 0; XSAVEC = LDs1Eax 1; XGETBV1 = LDs1Eax 2; XSAVES = LDs1Eax 3;
    ARAT = L6Eax 2;
    SYSCALL = X1Edx 11; NX = X1Edx 20; MMXEXT = X1Edx 22; FXSR_OPT = X1Edx 25; PDPE1GB = X1Edx 26;
    RDTSCP = X1Edx 27; LM = X1Edx 29; NOW3DEXT = X1Edx 30; NOW3D = X1Edx 31;
    LAHF_LM = X1Ecx 0; CMP_LEGACY = X1Ecx 1; SVM = X1Ecx 2; CR8LEGACY = X1Ecx 4; ABM = X1Ecx 5;
    SSE4A = X1Ecx 6; MISALIGNSSE = X1Ecx 7; PREFETCHW = X1Ecx 8; TOPOEXT = X1Ecx 22;
    INVTSC = X7Edx 8; XSAVEERPTR = X8Ebx 2; WBNOINVD = X8Ebx 9; IBPB = X8Ebx 12;
}
