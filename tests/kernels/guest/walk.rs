//! Every combination of what two levels of page tables, control registers and protection keys say,
//! for every kind of access, with the accessed and dirty bits that are left (SDM vol. 3, 4.6 to 4.8).
//! `paging` looks at what is special; this is the walk around all of it.

use crate::cpu::{self, cr0, cr4, feature, msr, rdmsr, set_cr0, set_cr4, wrmsr};
use crate::paging::{A, D, KINDS, Kind, NX, P, Size, U, W, access, code_bits, map, prepare};
use crate::trap::{FINE, Outcome, vector::*};
use core::arch::asm;

const EFER_NXE: u64 = 1 << 11;
const KEY: u64 = 3;
/// Reserved in entries of every level, where physical addresses are narrower.
const RESERVED: u64 = 1 << 51;

/// What control registers say.
#[derive(Clone, Copy)]
struct Rules {
    wp: bool,
    nxe: bool,
    smep: bool,
    smap: bool,
    /// The rights of [`KEY`], if keys are on.
    rights: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    leaf: u64,
    parent: u64,
    kind: Kind,
    user: bool,
    ac: bool,
}

impl Rules {
    /// What the walk ends with: an exception with its error code, or nothing.
    fn verdict(&self, p: &Point) -> (u64, u64) {
        let mut code = code_bits(p.kind, p.user);
        if !self.nxe && !self.smep {
            code &= !0x10;
        }
        for entry in [p.parent, p.leaf] {
            if entry & P == 0 {
                return (PF, code);
            }
            if self.is_reserved(entry) {
                return (PF, code | 9);
            }
        }
        let both = p.leaf & p.parent;
        let (user_page, writable) = (both & U != 0, both & W != 0);
        let (write, fetch) = (p.kind == Kind::Write, p.kind == Kind::Fetch);
        let denied = match (p.user, user_page) {
            (true, false) => true,
            (true, true) => write && !writable,
            (false, true) if fetch => self.smep,
            (false, true) if self.smap && !p.ac => true,
            (false, _) => write && !writable && self.wp,
        };
        let rights = self.rights.filter(|_| user_page && !fetch).unwrap_or(0);
        let locked = rights & 1 != 0 || write && rights & 2 != 0 && (p.user || self.wp);
        if locked {
            // Whatever else stands in the way.
            return (PF, code | 0x21);
        }
        if denied || fetch && (p.leaf | p.parent) & NX != 0 {
            return (PF, code | 1);
        }
        FINE
    }

    fn is_reserved(&self, entry: u64) -> bool {
        entry & RESERVED != 0 || entry & NX != 0 && !self.nxe
    }

    /// Has the rules hold while `run` runs.
    fn hold(&self, run: impl FnOnce()) {
        let (old0, old4, efer) = (cpu::cr0(), cpu::cr4(), rdmsr(msr::EFER));
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        wrmsr(msr::EFER, efer & !EFER_NXE | bit(self.nxe, EFER_NXE));
        let keys = bit(self.rights.is_some(), cr4::PKE);
        set_cr4(old4 | bit(self.smep, cr4::SMEP) | bit(self.smap, cr4::SMAP) | keys);
        set_cr0(old0 & !cr0::WP | bit(self.wp, cr0::WP));
        if let Some(rights) = self.rights {
            set_pkru(rights << (2 * KEY));
        }
        run();
        if self.rights.is_some() {
            set_pkru(0);
        }
        unsafe { asm!("clac") };
        set_cr0(old0);
        set_cr4(old4);
        wrmsr(msr::EFER, efer);
    }
}

fn set_pkru(value: u32) {
    unsafe { asm!("wrpkru", in("eax") value, in("ecx") 0, in("edx") 0) };
}

/// How many points went wrong, and the first of them.
#[derive(Default)]
struct Count {
    points: u32,
    wrong: u32,
    first: Option<(Point, (u64, u64), (u64, u64))>,
}

impl Count {
    fn note(&mut self, point: Point, got: (u64, u64), wanted: (u64, u64), good: bool) {
        self.points += 1;
        if !good {
            self.wrong += 1;
            self.first = self.first.or(Some((point, got, wanted)));
        }
    }
    fn report(&self, name: core::fmt::Arguments<'_>) {
        let why = format_args!("{} of {} differ, first {:x?}", self.wrong, self.points, self.first);
        crate::tap::report(name, self.wrong == 0 && self.points != 0, why);
    }
}

pub fn run() {
    prepare();
    let phys_bits = cpu::cpuid(0x8000_0008, 0)[0] & 0xff;
    let may_reserve = phys_bits < 52;
    let switches = [false, true];
    for size in [Size::Small, Size::Large] {
        for wp in switches {
            for nxe in switches {
                for smep in switches {
                    for smap in switches {
                        let known = (feature::SMEP.offered() || !smep)
                            && (feature::SMAP.offered() || !smap);
                        let rules = Rules { wp, nxe, smep, smap, rights: None };
                        if known {
                            walk(size, rules, may_reserve);
                        }
                    }
                }
            }
            for rights in 0..4 {
                let rules = Rules { wp, nxe: true, smep: true, smap: true, rights: Some(rights) };
                if feature::PKU.offered() && feature::SMEP.offered() && feature::SMAP.offered() {
                    walk(size, rules, may_reserve);
                }
            }
        }
    }
}

/// All entries and accesses under some rules.
fn walk(size: Size, rules: Rules, may_reserve: bool) {
    let Rules { wp, nxe, smep, smap, rights } = rules;
    let (mut plain, mut reserved) = (Count::default(), Count::default());
    rules.hold(|| {
        for leaf in entries(&[P, W, U, A, D, NX, RESERVED], may_reserve) {
            for parent in entries(&[P, W, U, NX, RESERVED], may_reserve) {
                for kind in KINDS {
                    for (user, ac) in [(true, false), (false, false), (false, true)] {
                        if ac && !smap {
                            continue;
                        }
                        let point = Point { leaf, parent, kind, user, ac };
                        let wanted = rules.verdict(&point);
                        let (got, good) = try_point(size, &point, wanted);
                        let is_reserved = wanted.0 == PF && wanted.1 & 8 != 0;
                        let count = if is_reserved { &mut reserved } else { &mut plain };
                        count.note(point, got, wanted, good);
                    }
                }
            }
        }
    });
    let keys = match rights {
        Some(rights) => {
            ["allowed", "denied", "read only", "denied, and read only"][rights as usize]
        }
        None => "off",
    };
    plain.report(format_args!("{size:?} WP={wp} NXE={nxe} SMEP={smep} SMAP={smap}, key {keys}"));
    if reserved.points != 0 {
        reserved.report(format_args!(
            "reserved: {size:?} WP={wp} NXE={nxe} SMEP={smep} SMAP={smap}, key {keys}"
        ));
    }
}

/// All entries of these bits, but that what is not present has no other meaning: of these only a few.
fn entries(bits: &[u64], may_reserve: bool) -> impl Iterator<Item = u64> + '_ {
    let value = |set: u32| {
        let chosen = bits.iter().enumerate().filter(move |(i, _)| set >> i & 1 != 0);
        chosen.fold(0, |entry, (_, bit)| entry | bit)
    };
    (0..1u32 << bits.len()).map(value).filter(move |entry| {
        let few = entry & P != 0 || matches!(entry & !P, 0 | RESERVED) || *entry == NX | W | U;
        few && (may_reserve || entry & RESERVED == 0)
    })
}

/// One access; what came of it, and whether that and what became of the entries is as it should be.
fn try_point(size: Size, point: &Point, wanted: (u64, u64)) -> ((u64, u64), bool) {
    map(size, point.leaf | KEY << 59, point.parent);
    let outcome = access(size.linear(), point.kind, point.user, point.ac);
    let got = if outcome.is(DONE, 0) { FINE } else { outcome.what() };
    let now = |level: usize| unsafe { size.entry(level).read_volatile() };
    let (leaf, parent) = (now(size.leaf()), now(size.leaf() + 1));
    let bits = P | W | U | A | D | NX | RESERVED;
    let entries_fine = if wanted == FINE {
        let dirty = if point.kind == Kind::Write { D } else { 0 };
        leaf & bits == point.leaf | A | dirty && parent & bits & !D == point.parent | A
    } else {
        // What a walk that fails has passed may be marked.
        leaf & bits & !A == point.leaf & !A && parent & bits & !A == point.parent & !A
    };
    (got, got == wanted && entries_fine && address_fine(size, point, wanted, &outcome))
}

fn address_fine(size: Size, point: &Point, wanted: (u64, u64), outcome: &Outcome) -> bool {
    let at = size.linear() + if point.kind == Kind::Write { 8 } else { 0 };
    wanted == FINE || outcome.cr2 == at
}
