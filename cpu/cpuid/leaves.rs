//! The leaves of CPUID (SDM vol. 2, CPUID; APM vol. 3, appendix E).

use super::feature::{self, Feature, Word};
use super::{Cache, Dynamic, Model, Vendor};

/// A part of the extended state that XSAVE manages.
pub(super) struct StateComponent {
    pub bit: u32,
    pub feature: Feature,
    pub size: u32,
    /// Offset in the standard format; the first two live in the legacy area.
    pub offset: u32,
}

/// The components that exist (SDM vol. 1, 13.5).
pub(super) const STATE_COMPONENTS: &[StateComponent] = &[
    StateComponent { bit: 0, feature: feature::FPU, size: 0, offset: 0 },
    StateComponent { bit: 1, feature: feature::SSE, size: 0, offset: 0 },
    StateComponent { bit: 2, feature: feature::AVX, size: 0x100, offset: 0x240 },
    StateComponent { bit: 5, feature: feature::AVX512F, size: 0x40, offset: 0x440 },
    StateComponent { bit: 6, feature: feature::AVX512F, size: 0x200, offset: 0x480 },
    StateComponent { bit: 7, feature: feature::AVX512F, size: 0x400, offset: 0x680 },
    StateComponent { bit: 9, feature: feature::PKU, size: 8, offset: 0xa80 },
];
/// Legacy area and header.
const XSAVE_HEADER_END: u32 = 0x240;

/// The bits of 1:EDX that AMD repeats in 8000_0001:EDX.
const AMD_ALIASES: u32 = 0x0183_f3ff;

/// `value` of a size or count, less one, in the field at `shift`.
fn field(value: u32, shift: u32) -> u32 {
    value.saturating_sub(1) << shift
}

impl Model {
    /// EAX, EBX, ECX and EDX that CPUID answers on processor `index`.
    pub fn cpuid(&self, index: u32, leaf: u32, subleaf: u32, now: &Dynamic) -> [u32; 4] {
        let leaf = self.effective_leaf(leaf);
        let low = |word| self.features.low(word);
        let apic_id = self.topology.apic_id(index);
        let shared = self.topology.threads_per_package();
        match leaf {
            0 => self.vendor_leaf(self.level),
            1 => {
                let mut ecx = low(Word::L1Ecx);
                ecx |= u32::from(now.osxsave && self.has(feature::XSAVE)) << 27;
                let mut edx = low(Word::L1Edx);
                if !now.apic_enabled {
                    edx &= !(1 << feature::APIC.bit);
                }
                let mut ebx = apic_id << 24 | 8 << 8;
                if shared > 1 {
                    ebx |= shared.min(255) << 16;
                    edx |= 1 << feature::HT.bit;
                }
                [self.signature(), ebx, ecx, edx]
            }
            2 if self.vendor() != Vendor::Amd => [1, 0, 0x4d, 0x002c_307d],
            4 if self.vendor() != Vendor::Amd => self.intel_cache(subleaf),
            // MONITOR's extensions: enumeration, and interrupts as break events.
            5 => [0, 0, 3, 0],
            6 => [low(Word::L6Eax), 0, 0, 0],
            7 => self.features_leaf(subleaf, now),
            0xb if self.topology_leaf => self.topology_leaf(subleaf, apic_id),
            0x1f if self.topology.dies > 1 => self.extended_topology_leaf(subleaf, apic_id),
            0xd => self.xsave_leaf(subleaf, now),
            0x4000_0000 => self.hypervisor.map_or([0; 4], |name| {
                let text = |at: usize| {
                    u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]])
                };
                [0x4000_0001, text(0), text(4), text(8)]
            }),
            0x4000_0001 => [low(Word::KvmEax), 0, 0, low(Word::KvmEdx)],
            0x8000_0000 => self.vendor_leaf(self.xlevel),
            0x8000_0001 => {
                let mut ecx = low(Word::X1Ecx);
                let mut edx = low(Word::X1Edx);
                if self.vendor() == Vendor::Intel && !now.long {
                    edx &= !(1 << feature::SYSCALL.bit);
                }
                if self.vendor() == Vendor::Amd {
                    edx |= low(Word::L1Edx) & AMD_ALIASES;
                    if !now.apic_enabled {
                        edx &= !(1 << feature::APIC.bit);
                    }
                    if shared > 1 {
                        ecx |= 1 << feature::CMP_LEGACY.bit;
                    }
                }
                [self.signature(), 0, ecx, edx]
            }
            0x8000_0002..=0x8000_0004 => self.brand_leaf(leaf - 0x8000_0002),
            0x8000_0005 => {
                // 255 TLB entries, fully associative, as nothing depends on them.
                let tlb = 0x01ff_01ff;
                let l1 = |cache: &Cache| cache.kib << 24 | cache.ways << 16 | 0x140;
                [tlb, tlb, l1(&self.caches[0]), l1(&self.caches[1])]
            }
            0x8000_0006 => {
                let l2 = &self.caches[2];
                let l3 = &self.caches[3];
                let l2 = l2.kib << 16 | amd_ways(l2.ways) << 12 | 0x140;
                let l3 = match self.l3_cache {
                    true => l3.kib / 512 << 18 | amd_ways(l3.ways) << 12 | 0x140,
                    false => 0,
                };
                [0, 0x4200_4200, l2, l3]
            }
            0x8000_0007 => [0, low(Word::X7Ebx), 0, low(Word::X7Edx)],
            0x8000_0008 => {
                let linear = match (self.has(feature::LM), self.has(feature::LA57)) {
                    (true, true) => 57 << 8,
                    (true, false) => 48 << 8,
                    (false, _) => 0,
                };
                let mut ecx = 0;
                if shared > 1 {
                    ecx = self.topology.package_shift() << 12 | (shared - 1) & 0xff;
                }
                [self.guest_phys_bits << 16 | linear | self.phys_bits(), low(Word::X8Ebx), ecx, 0]
            }
            // Revision 1, sixteen address-space identifiers.
            0x8000_000a if self.has(feature::SVM) => [1, 0x10, 0, low(Word::XAEdx)],
            0x8000_001d => self.amd_cache(subleaf),
            0x8000_001e => {
                let topology = &self.topology;
                let core = apic_id >> topology.core_shift()
                    & ((1 << (topology.die_shift() - topology.core_shift())) - 1);
                [
                    apic_id,
                    field(topology.threads, 8) | core,
                    apic_id >> topology.package_shift() & 0xff,
                    0,
                ]
            }
            0x8000_0021 => [low(Word::X21Eax), 0, 0, 0],
            0x8000_0022 => [low(Word::X22Eax), 0, 0, 0],
            0xc000_0000 => [self.xlevel2, 0, 0, 0],
            0xc000_0001 => [self.signature(), 0, 0, low(Word::C1Edx)],
            _ => [0; 4],
        }
    }

    /// Every leaf and subleaf, as the kernel wants them listed for a virtual processor: leaf,
    /// subleaf if the leaf has any, and the four registers.
    pub fn table(&self, index: u32, now: &Dynamic) -> Vec<(u32, Option<u32>, [u32; 4])> {
        let mut ranges = vec![0..=self.level];
        if self.hypervisor.is_some() {
            ranges.push(0x4000_0000..=0x4000_0001);
        }
        if self.xlevel >= 0x8000_0000 {
            ranges.push(0x8000_0000..=self.xlevel);
        }
        if self.xlevel2 >= 0xc000_0000 {
            ranges.push(0xc000_0000..=self.xlevel2);
        }
        let mut table = Vec::new();
        for leaf in ranges.into_iter().flat_map(|range| range.take(0x100)) {
            let subleaves = match leaf {
                4 | 0x8000_001d => 5,
                7 => self.level_7() + 1,
                0xb => 3,
                0x1f => 5,
                0xd => 64,
                _ => {
                    table.push((leaf, None, self.cpuid(index, leaf, 0, now)));
                    continue;
                }
            };
            for subleaf in 0..subleaves {
                let answer = self.cpuid(index, leaf, subleaf, now);
                if subleaf < 2 || answer != [0; 4] {
                    table.push((leaf, Some(subleaf), answer));
                }
            }
        }
        table
    }

    /// A leaf beyond the highest of its range answers as the highest basic one does.
    fn effective_leaf(&self, leaf: u32) -> u32 {
        let highest = match leaf {
            0xc000_0000.. => self.xlevel2,
            0x8000_0000.. => self.xlevel,
            0x4000_0000.. => 0x4000_0001,
            _ => self.level,
        };
        if leaf > highest { self.level } else { leaf }
    }

    fn vendor_leaf(&self, highest: u32) -> [u32; 4] {
        let mut name = [0; 12];
        let len = self.vendor.len().min(12);
        name[..len].copy_from_slice(&self.vendor.as_bytes()[..len]);
        let text =
            |at: usize| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
        // The name goes EBX, EDX, ECX.
        [highest, text(0), text(8), text(4)]
    }

    fn brand_leaf(&self, part: u32) -> [u32; 4] {
        let mut brand = [0; 48];
        let len = self.model_id.len().min(48);
        brand[..len].copy_from_slice(&self.model_id.as_bytes()[..len]);
        std::array::from_fn(|i| {
            let at = part as usize * 16 + i * 4;
            u32::from_le_bytes([brand[at], brand[at + 1], brand[at + 2], brand[at + 3]])
        })
    }

    fn features_leaf(&self, subleaf: u32, now: &Dynamic) -> [u32; 4] {
        let low = |word| self.features.low(word);
        match subleaf {
            0 => {
                let ospke = u32::from(now.ospke && self.has(feature::PKU)) << 4;
                [self.level_7(), low(Word::L7Ebx), low(Word::L7Ecx) | ospke, low(Word::L7Edx)]
            }
            1 => [low(Word::L7s1Eax), 0, 0, low(Word::L7s1Edx)],
            2 => [0, 0, 0, low(Word::L7s2Edx)],
            _ => [0; 4],
        }
    }

    /// Highest subleaf of leaf 7.
    fn level_7(&self) -> u32 {
        if self.features.low(Word::L7s2Edx) != 0 {
            2
        } else {
            u32::from(self.features.low(Word::L7s1Eax) | self.features.low(Word::L7s1Edx) != 0)
        }
    }

    /// Leaf 0xb: threads, then all of the package.
    fn topology_leaf(&self, subleaf: u32, apic_id: u32) -> [u32; 4] {
        let topology = &self.topology;
        let (shift, count, kind) = match subleaf {
            0 => (topology.core_shift(), topology.threads, 1),
            1 => (topology.package_shift(), topology.threads_per_package(), 2),
            _ => (0, 0, 0),
        };
        [shift, count & 0xffff, subleaf & 0xff | kind << 8, apic_id]
    }

    /// Leaf 0x1f: every level that exists.
    fn extended_topology_leaf(&self, subleaf: u32, apic_id: u32) -> [u32; 4] {
        let t = &self.topology;
        let module = t.cores.saturating_mul(t.threads);
        let mut levels = vec![(t.core_shift(), t.threads, 1), (t.module_shift(), module, 2)];
        if t.modules > 1 {
            levels.push((t.die_shift(), module.saturating_mul(t.modules), 3));
        }
        levels.push((t.package_shift(), t.threads_per_package(), 5));
        let (shift, count, kind) = levels.get(subleaf as usize).copied().unwrap_or((0, 0, 0));
        [shift, count & 0xffff, subleaf & 0xff | kind << 8, apic_id]
    }

    fn xsave_leaf(&self, subleaf: u32, now: &Dynamic) -> [u32; 4] {
        if !self.has(feature::XSAVE) {
            return [0; 4];
        }
        let offered = || STATE_COMPONENTS.iter().filter(|part| self.has(part.feature));
        let end = |part: &StateComponent| part.offset + part.size;
        match subleaf {
            0 => {
                let all = offered().map(end).fold(XSAVE_HEADER_END, u32::max);
                let enabled = offered().filter(|part| now.xcr0 >> part.bit & 1 != 0);
                let current = enabled.map(end).fold(XSAVE_HEADER_END, u32::max);
                [self.xcr0_supported() as u32, current, all, 0]
            }
            1 => {
                // Of what is enabled, where the format exists; of all, as the reference emulator
                // says, where it does not.
                let exists = self.has(feature::XSAVEC) || self.has(feature::XSAVES);
                let counts = |part: &&StateComponent| !exists || now.xcr0 >> part.bit & 1 != 0;
                let compact =
                    offered().filter(counts).fold(XSAVE_HEADER_END, |sum, part| sum + part.size);
                [self.features.low(Word::LDs1Eax), compact, 0, 0]
            }
            _ => offered()
                .find(|part| part.bit == subleaf && part.size > 0)
                .map_or([0; 4], |part| [part.size, part.offset, 0, 0]),
        }
    }

    /// Leaf 4. The shapes are those of a generic Intel processor whatever `caches` says: L1 32 KiB
    /// each, L2 4 MiB, L3 16 MiB.
    fn intel_cache(&self, subleaf: u32) -> [u32; 4] {
        const L1: Cache = Cache { kib: 32, ways: 8 };
        let t = &self.topology;
        let (kind, cache, sharing, edx) = match subleaf {
            0 => (0x21, L1, t.core_shift(), 1),
            1 => (0x22, L1, t.core_shift(), 1),
            2 => (0x43, Cache { kib: 4096, ways: 16 }, t.core_shift(), 1),
            3 if self.l3_cache => (0x63, Cache { kib: 16384, ways: 16 }, t.die_shift(), 6),
            _ => return [0; 4],
        };
        let cores = t.package_shift() - t.core_shift();
        let sharing = field(1 << sharing.min(12), 14) | field(1 << cores.min(6), 26);
        // Bit 8: self-initialising.
        [kind | 1 << 8 | sharing, cache.ways_and_line(), cache.sets() - 1, edx]
    }

    /// Leaf 0x8000_001d.
    fn amd_cache(&self, subleaf: u32) -> [u32; 4] {
        let t = &self.topology;
        let (kind, sharing, edx) = match subleaf {
            0 => (0x121, t.core_shift(), 1),
            1 => (0x122, t.core_shift(), 1),
            2 => (0x43, t.core_shift(), 0),
            3 if self.l3_cache => (0x163, t.die_shift(), 2),
            _ => return [0; 4],
        };
        let cache = &self.caches[subleaf as usize];
        let sharing = field(1 << sharing.min(12), 14);
        [kind | sharing, cache.ways_and_line(), cache.sets() - 1, edx]
    }
}

/// AMD's code of an associativity (APM vol. 3, 8000_0006).
fn amd_ways(ways: u32) -> u32 {
    match ways {
        0..=4 => ways,
        5..=8 => 6,
        9..=16 => 8,
        17..=32 => 0xa,
        33..=48 => 0xb,
        49..=64 => 0xc,
        65..=96 => 0xd,
        97..=128 => 0xe,
        _ => 0xf,
    }
}

impl Cache {
    /// Ways, one partition, lines of 64 bytes.
    fn ways_and_line(&self) -> u32 {
        field(self.ways, 22) | field(64, 0)
    }
    fn sets(&self) -> u32 {
        (self.kib * 1024 / 64 / self.ways.max(1)).max(1)
    }
}
