//! Ordinary programs: integers, branches, calls, small heaps.

mod bignum;
mod bytecode;
mod compress;
mod sha256;

use crate::random::{Random, fold, prose};
use crate::{Round, Workload};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;

pub const WORKLOADS: [Workload; 9] = [
    Workload::new("sieve", sieve, 78_498),
    Workload::new("quicksort", quicksort, 0x4783_f0c8_29c8_f243),
    Workload::new("hash", hash, 0xec96_be46_2a07_d3dc),
    Workload::new("compress", compress::prepare, 0xaabc_4d6e_82e5_efce),
    Workload::new("sha256", sha256::prepare, 0x5585_0064_7346_a1d9),
    Workload::new("bytecode", bytecode::prepare, 133_988),
    Workload::new("recursion", recursion, 46_467),
    Workload::new("strings", strings, 0x9808_dbbe_664f_8cb5),
    Workload::new("bignum", bignum::prepare, 0x876c_c2dd_ae11_f548),
];

/// How many primes there are below a million.
pub fn sieve() -> Round {
    let mut composite = vec![false; 1_000_000];
    Box::new(move || {
        composite.fill(false);
        let mut primes = 0;
        for number in 2..composite.len() {
            if !composite[number] {
                primes += 1;
                for multiple in (number * number..composite.len()).step_by(number) {
                    composite[multiple] = true;
                }
            }
        }
        primes
    })
}

/// Sorts numbers without a pattern.
pub fn quicksort() -> Round {
    let mut random = Random::new(1);
    let numbers: Vec<u32> = (0..60_000).map(|_| random.next() as u32).collect();
    let mut sorted = numbers.clone();
    Box::new(move || {
        sorted.copy_from_slice(&numbers);
        sort(&mut sorted);
        sorted.iter().enumerate().fold(0, |sum: u64, (place, number)| {
            sum.wrapping_add((place as u64 + 1).wrapping_mul(u64::from(*number)))
        })
    })
}

/// Hoare's quicksort around the middle element; small runs by insertion.
fn sort(numbers: &mut [u32]) {
    if numbers.len() <= 12 {
        for end in 1..numbers.len() {
            let mut place = end;
            while place > 0 && numbers[place - 1] > numbers[place] {
                numbers.swap(place - 1, place);
                place -= 1;
            }
        }
        return;
    }
    let pivot = numbers[numbers.len() / 2];
    let (mut low, mut high) = (0, numbers.len() - 1);
    loop {
        while numbers[low] < pivot {
            low += 1;
        }
        while numbers[high] > pivot {
            high -= 1;
        }
        if low >= high {
            break;
        }
        numbers.swap(low, high);
        low += 1;
        high -= 1;
    }
    let (left, right) = numbers.split_at_mut(high + 1);
    sort(left);
    sort(right);
}

/// Counts words in a hash table with open addressing.
fn hash() -> Round {
    const SLOTS: usize = 1 << 14;
    let mut random = Random::new(2);
    let keys: Vec<[u8; 16]> = (0..4_000)
        .map(|_| {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&random.next().to_le_bytes());
            key[8..].copy_from_slice(&random.next().to_le_bytes());
            key
        })
        .collect();
    let order: Vec<usize> = (0..30_000).map(|_| random.below(keys.len())).collect();
    let mut table: Vec<(u32, u32)> = vec![(0, 0); SLOTS];
    Box::new(move || {
        table.fill((0, 0));
        for &index in &order {
            let mut slot = fold(0, &keys[index]) as usize % SLOTS;
            // A slot holds the key's number plus one, and how often it was seen.
            while table[slot].0 != 0 && keys[table[slot].0 as usize - 1] != keys[index] {
                slot = (slot + 1) % SLOTS;
            }
            table[slot] = (index as u32 + 1, table[slot].1 + 1);
        }
        table.iter().fold(0, |sum: u64, (key, count)| {
            sum.wrapping_mul(31).wrapping_add(u64::from(key * 7 + count))
        })
    })
}

/// Calls and returns: Fibonacci, Takeuchi, and queens on a board.
fn recursion() -> Round {
    #[inline(never)]
    fn fibonacci(n: u64) -> u64 {
        if n < 2 { n } else { fibonacci(n - 1) + black_box(fibonacci(n - 2)) }
    }
    #[inline(never)]
    fn takeuchi(x: i64, y: i64, z: i64) -> i64 {
        if y >= x {
            return z;
        }
        takeuchi(takeuchi(x - 1, y, z), takeuchi(y - 1, z, x), takeuchi(z - 1, x, y))
    }
    #[inline(never)]
    fn queens(row: u32, columns: u32, left: u32, right: u32) -> u64 {
        if row == 8 {
            return 1;
        }
        let mut free = !(columns | left | right) & 0xff;
        let mut found = 0;
        while free != 0 {
            let place = free & free.wrapping_neg();
            free ^= place;
            found += queens(row + 1, columns | place, (left | place) << 1, (right | place) >> 1);
        }
        found
    }
    Box::new(|| {
        let fibonacci = fibonacci(black_box(24));
        let takeuchi = takeuchi(black_box(18), black_box(12), black_box(6)) as u64;
        fibonacci + takeuchi + queens(0, 0, black_box(0), 0)
    })
}

/// What scripts do all day: split, parse, count, format, replace.
fn strings() -> Round {
    let text = prose(30_000);
    Box::new(move || {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for word in text.split_whitespace() {
            let mut name = word.to_uppercase();
            name.push_str(&word.chars().rev().collect::<String>());
            *counts.entry(name).or_default() += 1;
        }
        let mut table = String::new();
        for (place, (word, count)) in counts.iter().enumerate() {
            let _ = writeln!(table, "{place},{word},{count:>6},{:x}", count * 12345);
        }
        let replaced = text.replace("the ", "a longer article ");
        let found = replaced.match_indices("memory").count() as u64;
        let numbers: u64 = table
            .split([',', '\n'])
            .filter_map(|field| field.trim().parse::<u64>().ok())
            .fold(0, u64::wrapping_add);
        fold(found ^ numbers, table.as_bytes())
    })
}
