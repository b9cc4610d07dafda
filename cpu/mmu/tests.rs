//! Page walks and accesses against hand-built tables.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use crate::core::vector;
use crate::flags::bit;
use crate::state::{cr0, cr4, efer};
use crate::testing::{DEVICE, Machine};

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT: u64 = 0x4000;

/// 64-bit mode with one page table at linear 0, all levels fully permissive.
fn long(cpl: u8) -> Machine {
    let machine = Machine::new().long(cpl, PML4);
    machine.poke(PML4, PDPT | P | W | U);
    machine.poke(PDPT, PD | P | W | U);
    machine.poke(PD, PT | P | W | U);
    machine
}

fn map(machine: &mut Machine, page: u64, entry: u64) {
    machine.poke(PT + page * 8, entry);
    machine.cpu.mmu.tlb.flush_all();
}

#[test]
fn test_four_levels_set_accessed_and_dirty() {
    let mut m = long(0);
    map(&mut m, 5, 0x10_0000 | P | W);
    m.poke(0x10_0008, 0x1234);
    assert_eq!(m.load::<u64>(0x5008), Ok(0x1234));
    assert_eq!(m.peek(PT + 40) & (A | D), A);
    for table in [PML4, PDPT, PD] {
        assert_eq!(m.peek(table) & (A | D), A, "table {table:#x}");
    }
    m.store(0x5008, 0x55u8).unwrap();
    assert_eq!(m.peek(PT + 40) & (A | D), A | D);
    assert_eq!(m.peek(0x10_0008), 0x1255);
}

#[test]
fn test_error_codes_and_cr2() {
    let mut m = long(3);
    map(&mut m, 6, 0);
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x6123)), (vector::PF, Some(4)));
    assert_eq!(m.state.cr2, 0x6123);
    assert_eq!(m.fault_of(|c| c.store(0x6123, 0u8)), (vector::PF, Some(6)));
    assert_eq!(m.fault_of(|c| c.fetch_page(0x6123)), (vector::PF, Some(0x14)));
    map(&mut m, 6, 0x10_0000 | P | W);
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x6000)), (vector::PF, Some(5)));
    map(&mut m, 6, 0x10_0000 | P | U);
    assert_eq!(m.load::<u8>(0x6000), Ok(0));
    assert_eq!(m.fault_of(|c| c.store(0x6000, 0u8)), (vector::PF, Some(7)));
    map(&mut m, 6, 0x10_0000 | P | U | NX);
    assert_eq!(m.load::<u8>(0x6000), Ok(0));
    assert_eq!(m.fault_of(|c| c.code_address(0x6000)), (vector::PF, Some(0x15)));
    // Bits above the physical address width are reserved, as is PS in a PML4 entry.
    map(&mut m, 6, 0x10_0000 | P | U | 1 << 45);
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x6000)), (vector::PF, Some(0xd)));
    m.poke(PML4, PDPT | P | W | U | PS);
    m.cpu.mmu.tlb.flush_all();
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x6000)), (vector::PF, Some(0xd)));
    // A fault leaves the accessed bits of the entry alone.
    assert_eq!(m.peek(PT + 48) & A, 0);
}

#[test]
fn test_reserved_nx_without_nxe() {
    let mut m = long(0);
    m.state.msr.efer &= !efer::NXE;
    map(&mut m, 1, 0x10_0000 | P | NX);
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x1000)), (vector::PF, Some(9)));
}

#[test]
fn test_write_protect_only_with_wp() {
    let mut m = long(0);
    map(&mut m, 1, 0x10_0000 | P);
    assert_eq!(m.fault_of(|c| c.store(0x1000, 1u8)), (vector::PF, Some(3)));
    m.change_cr(0, |v| v & !cr0::WP).unwrap();
    m.store(0x1000, 1u8).unwrap();
    m.change_cr(0, |v| v | cr0::WP).unwrap();
    assert_eq!(m.fault_of(|c| c.store(0x1000, 1u8)), (vector::PF, Some(3)));
}

#[test]
fn test_smep_and_smap() {
    let mut m = long(0);
    map(&mut m, 1, 0x10_0000 | P | W | U);
    assert!(m.fetch_page(0x1000).is_ok() && m.load::<u8>(0x1000).is_ok());
    m.change_cr(4, |v| v | cr4::SMEP | cr4::SMAP).unwrap();
    assert_eq!(m.fault_of(|c| c.fetch_page(0x1000)), (vector::PF, Some(0x11)));
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x1000)), (vector::PF, Some(1)));
    m.set_ac(true).unwrap();
    assert!(m.load::<u8>(0x1000).is_ok() && m.store(0x1000, 1u8).is_ok());
    // AC does not help implicit accesses.
    assert_eq!(m.fault_of(|c| c.load_implicit::<u8>(0x1000)), (vector::PF, Some(1)));
    m.set_ac(false).unwrap();
    assert_eq!(m.fault_of(|c| c.store(0x1000, 1u8)), (vector::PF, Some(3)));
}

#[test]
fn test_protection_keys() {
    let mut m = long(3);
    m.state.cr4 |= cr4::PKE;
    map(&mut m, 1, 0x10_0000 | P | W | U | 3 << 59);
    m.store(0x1000, 1u8).unwrap();
    m.wrpkru(0, 0, 2 << 6).unwrap();
    assert!(m.load::<u8>(0x1000).is_ok());
    assert_eq!(m.fault_of(|c| c.store(0x1000, 1u8)), (vector::PF, Some(0x27)));
    m.wrpkru(0, 0, 1 << 6).unwrap();
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x1000)), (vector::PF, Some(0x25)));
    assert!(m.fetch_page(0x1000).is_ok());
}

#[test]
fn test_large_pages_and_their_reserved_bits() {
    let mut m = long(0);
    m.poke(PD + 8, 0x20_0000 | P | W | PS);
    m.poke(PDPT + 8, P | W | PS);
    m.poke(0x20_1238, 77);
    assert_eq!(m.load::<u64>(0x20_1238), Ok(77));
    assert_eq!(m.load::<u64>(0x4020_1238), Ok(77));
    assert_eq!(m.peek(PD + 8) & (A | D), A);
    // INVLPG of any address in a large page forgets all of it.
    m.load::<u8>(0x20_5000).unwrap();
    m.load::<u8>(0x20_1238).unwrap();
    m.poke(PD + 8, 0);
    assert_eq!(m.load::<u64>(0x20_1238), Ok(77));
    m.invlpg(0x20_5000).unwrap();
    assert_eq!(m.fault_of(|c| c.load::<u64>(0x20_1238)), (vector::PF, Some(0)));
    m.poke(PD + 8, 0x20_2000 | P | W | PS);
    assert_eq!(m.fault_of(|c| c.load::<u64>(0x20_1238)), (vector::PF, Some(9)));
}

#[test]
fn test_five_levels() {
    let mut m = long(0);
    m.poke(0x5000, PML4 | P | W);
    m.poke(0x5000 + 8 * 3, PML4 | P | W);
    m.state.cr3 = 0x5000;
    m.state.cr4 |= cr4::LA57;
    m.cpu.mmu.tlb.flush_all();
    map(&mut m, 7, 0x10_0000 | P | W);
    m.poke(0x10_0000, 99);
    assert_eq!(m.load::<u64>(3 << 48 | 0x7000), Ok(99));
    assert!(!m.is_canonical(1 << 56) && m.is_canonical(1 << 55));
    assert_eq!(m.fault_of(|c| c.load::<u64>(1 << 56)), (vector::GP, Some(0)));
}

#[test]
fn test_non_canonical_becomes_stack_fault_on_request() {
    let mut m = long(0);
    assert_eq!(m.fault_of(|c| c.load::<u64>(1 << 47)), (vector::GP, Some(0)));
    m.stack_reference_faulted();
    assert_eq!(m.fault.vector, vector::SS);
}

#[test]
fn test_pae_pointers_are_loaded_with_cr3() {
    let mut m = Machine::new().protected(0);
    m.state.cr4 |= cr4::PAE;
    m.poke(PDPT, PD | P);
    m.poke(PD, PT | P | W | U);
    m.poke(PT + 8, 0x10_0000 | P | W);
    m.state.cr3 = PDPT;
    m.change_cr(0, |v| v | cr0::PG).unwrap();
    m.poke(0x10_0000, 5);
    assert_eq!(m.load::<u32>(0x1000), Ok(5));
    // The pointers are cached until the next CR3 write.
    m.poke(PDPT, 0);
    m.cpu.mmu.tlb.flush_all();
    assert_eq!(m.load::<u32>(0x1000), Ok(5));
    m.write_cr(3, PDPT).unwrap();
    assert_eq!(m.fault_of(|c| c.load::<u32>(0x1000)), (vector::PF, Some(0)));
    m.poke(PDPT, PD | P | W);
    assert_eq!(m.fault_of(|c| c.write_cr(3, PDPT)), (vector::GP, Some(0)));
}

#[test]
fn test_32_bit_paging_with_4_mib_pages() {
    let mut m = Machine::new().protected(0);
    m.poke32(PD, (PT | P | W | U) as u32);
    m.poke32(PT + 4, (0x10_0000 | P | W) as u32);
    m.poke32(PD + 4, (0x40_0000 | P | W | PS) as u32);
    m.state.cr3 = PD;
    m.write_cr(4, cr4::PSE).unwrap();
    m.change_cr(0, |v| v | cr0::PG).unwrap();
    m.poke(0x10_0010, 1);
    m.poke(0x60_0010, 2);
    assert_eq!(m.load::<u32>(0x1010), Ok(1));
    assert_eq!(m.load::<u32>(0x60_0010), Ok(2));
    assert_eq!(m.peek32(PT + 4) as u64 & (A | D), A);
    assert_eq!(m.peek32(PD + 4) as u64 & (A | D), A);
    // PSE-36: bits 13-20 of the entry are address bits 32-39; here nothing answers.
    m.poke32(PD + 8, (0x40_0000 | 1 << 13 | P | W | PS) as u32);
    assert_eq!(m.load::<u32>(0x80_0000), Ok(0));
    // Bit 21 is reserved.
    m.poke32(PD + 12, (1 << 21 | P | PS) as u32);
    assert_eq!(m.fault_of(|c| c.load::<u32>(0xc0_0000)), (vector::PF, Some(9)));
}

#[test]
fn test_accesses_across_pages() {
    let mut m = long(0);
    map(&mut m, 1, 0x10_0000 | P | W);
    map(&mut m, 2, 0x20_0000 | P | W);
    m.store(0x1ffd, 0x1122_3344_5566_7788u64).unwrap();
    assert_eq!(m.load::<u64>(0x1ffd), Ok(0x1122_3344_5566_7788));
    assert_eq!(m.peek(0x20_0000) & 0xff_ffff_ffff, 0x11_2233_4455);
    // Nothing is written if the second page faults.
    map(&mut m, 3, 0);
    m.poke(0x20_0ff8, 0);
    assert_eq!(m.fault_of(|c| c.store(0x2ffe, !0u32)), (vector::PF, Some(2)));
    assert_eq!(m.state.cr2, 0x3000);
    assert_eq!(m.peek(0x20_0ff8), 0);
}

#[test]
fn test_global_pages_survive_cr3_writes() {
    let mut m = long(0);
    m.change_cr(4, |v| v | cr4::PGE).unwrap();
    map(&mut m, 1, 0x10_0000 | P | W | G);
    map(&mut m, 2, 0x10_0000 | P | W);
    m.load::<u8>(0x1000).unwrap();
    m.load::<u8>(0x2000).unwrap();
    m.poke(PT + 8, 0);
    m.poke(PT + 16, 0);
    assert!(m.load::<u8>(0x2000).is_ok());
    m.write_cr(3, PML4).unwrap();
    assert!(m.load::<u8>(0x1000).is_ok());
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x2000)), (vector::PF, Some(0)));
    m.invlpg(0x1000).unwrap();
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x1000)), (vector::PF, Some(0)));
}

#[test]
fn test_pcids_keep_their_translations() {
    let mut m = long(0);
    m.change_cr(4, |v| v | cr4::PCIDE).unwrap();
    m.write_cr(3, PML4 | 1).unwrap();
    map(&mut m, 1, 0x10_0000 | P | W);
    m.load::<u8>(0x1000).unwrap();
    m.poke(PT + 8, 0);
    m.write_cr(3, PML4 | 2 | 1 << 63).unwrap();
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x1000)), (vector::PF, Some(0)));
    // PCID 1 still has it; INVPCID for it takes it away.
    m.write_cr(3, PML4 | 1 | 1 << 63).unwrap();
    // The fault above was at the same address and dropped it; fill again.
    m.poke(PT + 8, 0x10_0000 | P | W);
    m.load::<u8>(0x1000).unwrap();
    m.poke(PT + 8, 0);
    m.write_cr(3, PML4 | 2 | 1 << 63).unwrap();
    m.write_cr(3, PML4 | 1 | 1 << 63).unwrap();
    assert!(m.load::<u8>(0x1000).is_ok());
    map(&mut m, 8, 0x30_0000 | P | W);
    m.poke(0x30_0000, 1);
    m.poke(PT + 8, 0x10_0000 | P | W);
    m.load::<u8>(0x1000).unwrap();
    m.poke(PT + 8, 0);
    m.invpcid(1, 0x8000).unwrap();
    assert_eq!(m.fault_of(|c| c.load::<u8>(0x1000)), (vector::PF, Some(0)));
    m.poke(0x30_0000, 0x1000);
    assert_eq!(m.fault_of(|c| c.invpcid(1, 0x8000)), (vector::GP, Some(0)));
    assert_eq!(m.fault_of(|c| c.invpcid(4, 0x8000)), (vector::GP, Some(0)));
}

#[test]
fn test_many_cr3_writes_wrap_the_numbers() {
    let mut m = long(0);
    for round in 0..10_000u64 {
        map(&mut m, 1, (0x10_0000 + (round % 16 << 12)) | P | W);
        m.store(0x1000, round).unwrap();
        m.write_cr(3, PML4).unwrap();
        assert_eq!(m.load::<u64>(0x1000), Ok(round));
    }
}

#[test]
fn test_device_memory_and_apic_page() {
    let mut m = long(0);
    map(&mut m, 1, DEVICE | P | W);
    map(&mut m, 2, 0xfee0_0000 | P | W);
    assert_eq!(m.load::<u32>(0x1010), Ok(0x5566_7798));
    m.store(0x1010, 0xabcd_u16).unwrap();
    assert_eq!(*m.device.writes.lock(), [(0x10, 2, 0xabcd)]);
    assert_eq!(m.load::<u32>(0x2030), Ok(0xa51c_0030));
    assert_eq!(m.ram_span(0x1000, false), None);
    // With the APIC off, nobody answers where there is no memory.
    m.wrmsr(0x1b, 0xfee0_0000).unwrap();
    assert_eq!(m.load::<u32>(0x2030), Ok(!0));
}

#[test]
fn test_a20_masks_bit_20() {
    let mut m = Machine::new();
    m.poke(0x10_0000, 1);
    m.poke(0, 2);
    assert_eq!(m.load::<u8>(0x10_0000), Ok(1));
    m.a20.store(false, Ordering::Relaxed);
    m.flush_tlb();
    assert_eq!(m.load::<u8>(0x10_0000), Ok(2));
}

#[test]
fn test_alignment_checks_at_cpl_3() {
    let mut m = long(3);
    map(&mut m, 1, 0x10_0000 | P | W | U);
    m.load::<u32>(0x1001).unwrap();
    m.state.cr0 |= cr0::AM;
    m.set_flag(bit::AC, true);
    assert_eq!(m.fault_of(|c| c.load::<u32>(0x1001)), (vector::AC, Some(0)));
    assert_eq!(m.fault_of(|c| c.store(0x1002, 0u64)), (vector::AC, Some(0)));
    assert!(m.load::<u32>(0x1004).is_ok());
}

#[test]
fn test_data_breakpoints() {
    let mut m = long(0);
    map(&mut m, 1, 0x10_0000 | P | W);
    m.store(0x1008, 0u8).unwrap();
    m.write_dr(0, 0x1008).unwrap();
    // Enabled, on writes, four bytes.
    m.write_dr(7, 1 | 1 << 16 | 3 << 18).unwrap();
    m.load::<u64>(0x1008).unwrap();
    m.store(0x100c, 0u32).unwrap();
    assert_eq!(m.pending_debug, 0);
    m.store(0x1004, 0u64).unwrap();
    assert_eq!(m.pending_debug, 1);
}

#[test]
fn test_locked_updates_at_any_alignment() {
    let mut m = long(0);
    map(&mut m, 1, 0x10_0000 | P | W);
    map(&mut m, 2, 0x20_0000 | P | W);
    for at in [0x1000, 0x1001, 0x1006, 0x1ffe, 0x1fff] {
        m.store(at, 41u32).unwrap();
        assert_eq!(m.rmw(at, true, |v: u32| v + 1), Ok((41, 42)), "{at:#x}");
        assert_eq!(m.load::<u32>(at), Ok(42));
    }
    m.store(0x1010, 7u128).unwrap();
    assert_eq!(m.cmpxchg16(0x1010, 7, 1 << 100, true), Ok(7));
    assert_eq!(m.cmpxchg16(0x1010, 7, 0, true), Ok(1 << 100));
    assert_eq!(m.load::<u128>(0x1010), Ok(1 << 100));
    map(&mut m, 3, 0x10_0000 | P);
    assert_eq!(m.fault_of(|c| c.rmw(0x3000, true, |v: u8| v)), (vector::PF, Some(3)));
}

#[test]
fn test_stores_to_code_pages_leave_the_block() {
    let mut m = long(0);
    map(&mut m, 1, 0x10_0000 | P | W);
    m.store(0x1000, 1u8).unwrap();
    let page = 0x10_0000 >> 12;
    let generation = m.ram.tracking().protect_code(page);
    m.exit_block = false;
    m.store(0x1000, 2u8).unwrap();
    assert!(m.exit_block);
    assert_ne!(m.ram.tracking().generation(page).load(Ordering::Relaxed), generation);
    m.exit_block = false;
    m.store(0x1000, 2u8).unwrap();
    assert!(!m.exit_block);
}

#[test]
fn test_spans_and_code_addresses() {
    let mut m = long(0);
    map(&mut m, 1, 0x10_0000 | P);
    let (at, len) = m.ram_span(0x1234, false).unwrap();
    assert_eq!(at as usize, m.ram.host() as usize + 0x10_0234);
    assert_eq!(len, 4096 - 0x234);
    let before = m.state.cr2;
    assert_eq!(m.ram_span(0x1234, true), None);
    assert_eq!(m.state.cr2, before);
    assert_eq!(m.code_address(0x1234), Ok(at as usize));
    assert_eq!(m.code_address(0x1234), Ok(at as usize));
}

/// What a walk must answer, by the letter of SDM vol. 3, 4.6, for a page whose four entries are
/// given: `Err` is the error code.
fn expected(entries: [u64; 4], write: bool, fetch: bool, user: bool, wp: bool) -> Result<(), u32> {
    let code = u32::from(write) << 1 | u32::from(user) << 2 | u32::from(fetch) << 4;
    for entry in entries {
        if entry & P == 0 {
            return Err(code);
        }
    }
    let all = |bit| entries.iter().all(|entry| entry & bit != 0);
    let nx = entries.iter().any(|entry| entry & NX != 0);
    let denied = if user { !all(U) || write && !all(W) } else { write && wp && !all(W) };
    if denied || fetch && nx { Err(code | 1) } else { Ok(()) }
}

proptest! {
    #[test]
    fn test_permissions_against_the_rules(
        bits in proptest::array::uniform4(0u64..16),
        kind in 0..3,
        user: bool,
        wp: bool,
    ) {
        let mut m = long(if user { 3 } else { 0 });
        m.state.cr0 = m.state.cr0 & !cr0::WP | if wp { cr0::WP } else { 0 };
        let targets = [PDPT, PD, PT, 0x10_0000];
        let entries: [u64; 4] = std::array::from_fn(|i| {
            targets[i] | bits[i] & 7 | if bits[i] & 8 != 0 { NX } else { 0 }
        });
        for (table, entry) in [PML4, PDPT, PD, PT].into_iter().zip(entries) {
            m.poke(table, entry);
        }
        let (write, fetch) = (kind == 1, kind == 2);
        // Twice: through the walk, and through whatever the TLB remembered.
        for _ in 0..2 {
            let result = match kind {
                0 => m.load::<u8>(0x123).map(|_| ()),
                1 => m.store(0x123, 1u8),
                _ => m.code_address(0x123).map(|_| ()),
            };
            let expected = expected(entries, write, fetch, user, wp);
            match result {
                Ok(()) => prop_assert_eq!(expected, Ok(())),
                Err(_) => prop_assert_eq!(expected, Err(m.fault.error.unwrap())),
            }
        }
    }
}
