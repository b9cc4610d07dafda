//! Protection keys: for user pages by PKRU, for supervisor pages by IA32_PKRS (SDM vol. 3, 4.6.2).

use crate::cpu::{self, cr0, cr4, feature, msr, rdmsr, set_cr0, set_cr4, wrmsr};
use crate::paging::{KINDS, Kind, P, Size, U, W, access, code_bits, map, prepare};
use crate::trap::{self, FINE, fault_of, vector::*};
use core::arch::asm;

const ALL: u64 = P | W | U;
const KEY: u64 = 5;

fn set_pkru(value: u32) {
    unsafe { asm!("wrpkru", in("eax") value, in("ecx") 0, in("edx") 0) };
}

pub fn pku() {
    if !feature::PKU.offered() {
        return crate::tap::skip("protection keys for user pages");
    }
    let rdpkru = || fault_of(|| unsafe { asm!("rdpkru", in("ecx") 0, out("eax") _, out("edx") _) });
    check_eq!(rdpkru(), (UD, 0), "RDPKRU without CR4.PKE");
    let ospke = || cpu::cpuid(7, 0)[2] >> 4 & 1;
    check_eq!(ospke(), 0, "CPUID shows no OSPKE");
    set_cr4(cpu::cr4() | cr4::PKE);
    check_eq!(ospke(), 1, "CPUID shows OSPKE");
    check_eq!(rdpkru(), FINE, "RDPKRU");
    let bad = fault_of(|| unsafe { asm!("rdpkru", in("ecx") 1, out("eax") _, out("edx") _) });
    check_eq!(bad, (GP, 0), "RDPKRU with ECX = 1");
    let bad = fault_of(|| unsafe { asm!("wrpkru", in("ecx") 0, in("eax") 0, in("edx") 1) });
    check_eq!(bad, (GP, 0), "WRPKRU with EDX = 1");
    set_pkru(0x5555_5550);
    let value: u32;
    unsafe { asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _) };
    check_eq!(value, 0x5555_5550, "PKRU holds what is written");
    matrix("PKRU", ALL, |rights| set_pkru(rights << (2 * KEY)));
    set_pkru(!0 & !3);
    map(Size::Small, P | W | KEY << 59, ALL);
    check_eq!(
        access(Size::Small.linear(), Kind::Write, false, false).what(),
        FINE,
        "PKRU does not concern supervisor pages"
    );
    set_pkru(0);
    set_cr4(cpu::cr4() & !cr4::PKE);
    map(Size::Small, ALL | KEY << 59, ALL);
    check_eq!(
        access(Size::Small.linear(), Kind::Write, true, false).what(),
        (DONE, 0),
        "keys without CR4.PKE"
    );
}

pub fn pks() {
    if !feature::PKS.offered() {
        return crate::tap::skip("protection keys for supervisor pages");
    }
    check_eq!(fault_of(|| wrmsr(msr::PKRS, 1 << 32)), (GP, 0), "reserved bits of IA32_PKRS");
    check_eq!(fault_of(|| wrmsr(msr::PKRS, 0xffff_fffc)), FINE, "IA32_PKRS is writable");
    check_eq!(rdmsr(msr::PKRS), 0xffff_fffc, "and holds its value");
    wrmsr(msr::PKRS, 0);
    set_cr4(cpu::cr4() | cr4::PKS);
    matrix("PKRS", P | W, |rights| wrmsr(msr::PKRS, u64::from(rights) << (2 * KEY)));
    wrmsr(msr::PKRS, 0xffff_fffc);
    map(Size::Small, ALL | KEY << 59, ALL);
    check_eq!(
        access(Size::Small.linear(), Kind::Write, true, false).what(),
        (DONE, 0),
        "PKRS does not concern user pages"
    );
    check_eq!(
        access(Size::Small.linear(), Kind::Write, false, false).what(),
        FINE,
        "not even for the supervisor"
    );
    wrmsr(msr::PKRS, 0);
    set_cr4(cpu::cr4() & !cr4::PKS);
}

/// All rights of a key against all accesses to a page of `flags`.
fn matrix(what: &str, flags: u64, set: impl Fn(u32)) {
    prepare();
    let old = cpu::cr0();
    for size in [Size::Small, Size::Large, Size::Huge] {
        if size == Size::Huge && !feature::GBPAGES.offered() {
            continue;
        }
        for wp in [true, false] {
            for rights in 0..4u32 {
                for kind in KINDS {
                    for user in [false, true] {
                        if flags & U == 0 && user {
                            continue;
                        }
                        map(size, flags | KEY << 59, ALL);
                        set(rights);
                        set_cr0(if wp { old } else { old & !cr0::WP });
                        let got = access(size.linear(), kind, user, false).what();
                        set_cr0(old);
                        set(0);
                        let denied = match kind {
                            Kind::Read => rights & 1 != 0,
                            Kind::Write => rights & 1 != 0 || rights & 2 != 0 && (user || wp),
                            Kind::Fetch => false,
                        };
                        let fine = if user || kind == Kind::Fetch { (DONE, 0) } else { FINE };
                        let want = if denied { (PF, code_bits(kind, user) | 0x21) } else { fine };
                        check_eq!(
                            got,
                            want,
                            "{what}: {size:?}, rights {rights}, WP {wp}, {kind:?}, user {user}"
                        );
                    }
                }
            }
        }
    }
    let _ = trap::USER;
}
