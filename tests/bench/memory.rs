//! Memory: how accesses are translated, and what page faults cost.
#![allow(unsafe_code)]

use crate::os::{self, Access, PAGE, Pages};
use crate::random::Random;
use crate::{Round, Workload};
use std::hint::black_box;

pub const WORKLOADS: [Workload; 9] = [
    Workload::new("chase", chase, 0xe931_7097_d5a5_27fe),
    Workload::new("streams", streams, 0x4fec_0000),
    Workload::new("unaligned", unaligned, 0x10f6_2102_7505_9a84),
    Workload::new("page-touch", page_touch, 1024),
    Workload::new("copy-on-write", copy_on_write, 917584),
    Workload::new("mprotect", mprotect, 121_140),
    Workload::new(
        "random-256m",
        || random(Pages::new(256 << 20, Access::ReadWrite)),
        0xb245_4455_c9a5_2d62,
    ),
    Workload::new("random-256m-huge", || random(Pages::huge(256 << 20)), 0xb245_4455_c9a5_2d62),
    Workload::new("alias-4k", alias, 0x0000_0000_101e_0000),
];

/// Follows a chain through 1 MiB, each load waiting for the one before.
fn chase() -> Round {
    let length = (1 << 20) / 8;
    // Sattolo's shuffle makes one single cycle.
    let mut chain: Vec<u64> = (0..length as u64).collect();
    let mut random = Random::new(16);
    for last in (1..length).rev() {
        chain.swap(last, random.below(last));
    }
    Box::new(move || {
        let mut place = black_box(0);
        let mut sum = 0u64;
        for _ in 0..length {
            place = chain[place as usize];
            sum = sum.wrapping_mul(3) ^ place;
        }
        sum
    })
}

/// Copy, scale, add and triad over arrays that no cache near the core holds.
fn streams() -> Round {
    let length = (4 << 20) / 8;
    let mut a: Vec<f64> = (0..length).map(|n| f64::from(n % 1024)).collect();
    let mut b = vec![0.0; length as usize];
    let mut c = vec![0.0; length as usize];
    Box::new(move || {
        c.copy_from_slice(&a);
        b.iter_mut().zip(&c).for_each(|(b, c)| *b = 0.5 * c);
        c.iter_mut().zip(&a).zip(&b).for_each(|((c, a), b)| *c = a + b);
        a.iter_mut().zip(&b).zip(&c).for_each(|((a, b), c)| *a = b + 3.0 * c);
        let sum = a.iter().sum::<f64>();
        a.iter_mut().enumerate().for_each(|(n, a)| *a = (n % 1024) as f64);
        sum as u64
    })
}

/// Eight-byte accesses at odd addresses, across cache lines and pages.
fn unaligned() -> Round {
    let mut bytes = vec![0u8; 64 << 10];
    Box::new(move || {
        bytes.fill(1);
        let mut sum = 0u64;
        for start in 1..33 {
            let mut at = start;
            while at + 8 <= bytes.len() {
                let mut word = [0; 8];
                word.copy_from_slice(&bytes[at..at + 8]);
                let value = u64::from_le_bytes(word).wrapping_add(at as u64);
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
                sum = sum.rotate_left(1) ^ value;
                at += 21;
            }
        }
        sum
    })
}

/// Fresh pages, touched once: a fault each, and the kernel's clearing.
fn page_touch() -> Round {
    Box::new(|| {
        const LENGTH: usize = 4 << 20;
        let mut pages = Pages::new(LENGTH, Access::ReadWrite);
        let bytes = pages.bytes();
        for at in (0..LENGTH).step_by(PAGE) {
            bytes[at] = 1;
        }
        bytes.iter().step_by(PAGE).map(|byte| u64::from(*byte)).sum()
    })
}

/// Pages shared with the parent after a fork, written by the child.
fn copy_on_write() -> Round {
    const LENGTH: usize = 2 << 20;
    let mut pages = Pages::new(LENGTH, Access::ReadWrite);
    pages.bytes().fill(7);
    Box::new(move || {
        let bytes = pages.bytes();
        let child = os::in_child(|| {
            bytes.iter_mut().step_by(PAGE).for_each(|byte| *byte += 1);
            let sum: u32 = bytes.iter().step_by(PAGE).map(|byte| u32::from(*byte)).sum();
            (sum % 251) as u8
        });
        let parent: u64 = pages.bytes().iter().step_by(PAGE).map(|byte| u64::from(*byte)).sum();
        parent << 8 | child
    })
}

/// A page's permission taken away and given back, with an access after each.
fn mprotect() -> Round {
    let mut pages = Pages::new(16 * PAGE, Access::ReadWrite);
    pages.bytes().fill(0);
    Box::new(move || {
        let mut sum = 0;
        for round in 0..1_000 {
            let at = round % 16 * PAGE;
            // SAFETY: between the two calls the page is only read.
            unsafe { pages.protect(at, PAGE, Access::Read) };
            sum += u64::from(pages.bytes()[at]);
            // SAFETY: gives access back.
            unsafe { pages.protect(at, PAGE, Access::ReadWrite) };
            pages.bytes()[at] = round as u8;
        }
        pages.bytes().iter_mut().step_by(PAGE).for_each(|byte| *byte = 0);
        sum
    })
}

/// Reads and writes all over 256 MiB: misses in every TLB and cache.
fn random(mut pages: Pages) -> Round {
    pages.bytes().iter_mut().step_by(PAGE).for_each(|byte| *byte = 0);
    Box::new(move || {
        let words = pages.words();
        let (mut forward, mut back) = (Random::new(17), Random::new(17));
        let mut sum = 0u64;
        for turn in 0..20_000 {
            let word = &mut words[forward.next() as usize % (32 << 20)];
            *word += turn;
            sum = sum.wrapping_mul(3) ^ *word;
        }
        for _ in 0..20_000 {
            words[back.next() as usize % (32 << 20)] = 0;
        }
        sum
    })
}

/// A copy, word by word, between places with the same low address bits: a
/// direct-mapped TLB has one entry for both, and a store buffer that compares
/// low bits alone takes each load for the store before it.
fn alias() -> Round {
    const DISTANCE: usize = 64 << 20;
    const LENGTH: usize = 32 << 10;
    let mut pages = Pages::new(DISTANCE + LENGTH, Access::ReadWrite);
    for (at, word) in pages.words()[..LENGTH / 8].iter_mut().enumerate() {
        *word = at as u64;
    }
    Box::new(move || {
        let (low, high) = pages.words().split_at_mut(DISTANCE / 8);
        let mut sum = 0u64;
        for turn in 0..32u64 {
            for (from, to) in low[..LENGTH / 8].iter().zip(high.iter_mut()) {
                // The hint keeps it a loop of single words.
                *to = black_box(*from).wrapping_add(turn);
                sum = sum.wrapping_add(*to);
            }
        }
        sum
    })
}
