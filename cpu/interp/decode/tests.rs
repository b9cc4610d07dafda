//! What a processor offers is there.

use std::collections::BTreeSet;

use super::*;
use crate::cpuid::{Support, Topology, select};

/// Instructions of every opcode, prefix and kind of operands in 64-bit code.
fn instructions() -> impl Iterator<Item = Vec<u8>> {
    let legacy = [None, Some(0x66), Some(0xf2), Some(0xf3)].into_iter().flat_map(|prefix| {
        [&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]].into_iter().flat_map(move |map| {
            [0x40, 0x48].into_iter().map(move |rex| {
                let mut head: Vec<u8> = prefix.into_iter().collect();
                head.push(rex);
                head.extend(map);
                head
            })
        })
    });
    let vex = (1..4_u8).flat_map(|map| {
        (0..16_u8).map(move |rest| vec![0xc4, 0xe0 | map, 0x78 | (rest & 8) << 4 | rest & 7])
    });
    legacy.chain(vex).flat_map(|head| {
        (0..=255_u8).flat_map(move |opcode| {
            let head = head.clone();
            // Memory at RDI, then registers.
            (0..8_u8).map(|reg| reg << 3 | 7).chain(0xc0..=255).map(move |modrm| {
                let mut bytes = head.clone();
                bytes.extend([opcode, modrm, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                bytes
            })
        })
    })
}

#[test]
fn every_offered_instruction_is_known() {
    let model = select("max", &Support::software(), Topology::default()).unwrap().model;
    let key = Key(2 << 8 | 0x3f);
    let mut missing = BTreeSet::new();
    for bytes in instructions() {
        let raw = decoder(&bytes, key, 0x1000).decode();
        let insn = Insn { raw: &raw, key, start: 0x1000, bytes: &bytes[..raw.len()] };
        let undefined = matches!(
            raw.mnemonic(),
            Mnemonic::INVALID | Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2
        );
        let named = raw.cpuid_features().iter().all(|set| features::feature_of(*set).is_some());
        if !undefined && named && features::offered(&raw, &model) && known(&insn).is_none() {
            missing.insert(format!("{:?} {:?}", raw.cpuid_features(), raw.mnemonic()));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
