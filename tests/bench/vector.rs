//! Vector loops by hand, AES, string instructions, and glibc's string
//! functions, which choose their code by what the CPU has.
#![allow(unsafe_code)]

use crate::random::{Random, fold, prose};
use crate::{Need, Round, Workload};
use std::arch::asm;
use std::arch::x86_64::*;
use std::ffi::CString;
use std::hint::black_box;

pub const WORKLOADS: [Workload; 10] = [
    Workload::new("sse2-float", sse2_float, 0xbb95_445c_b395_6a2d),
    Workload::new("sse2-integer", sse2_integer, 0x1491_8826_d055_28a6),
    Workload::new("avx2-float", avx2_float, 0xace7_44ec_33b4_06fd).needs(Need::Avx2),
    Workload::new("avx2-integer", avx2_integer, 0xb58f_32ec_9587_ee63).needs(Need::Avx2),
    Workload::new("aes", aes, 0xcd5d_c17c_b40b_19e9).needs(Need::Aes),
    Workload::new("rep-movs", rep_movs, 0x4d75_c21a_332a_8a5b),
    Workload::new("rep-stos", rep_stos, 0xeed7_af3f_6a54_fbc7),
    Workload::new("glibc-copy", glibc_copy, 0xd935_8cc2_64c2_8b85),
    Workload::new("glibc-search", glibc_search, 197_511),
    Workload::new("glibc-compare", glibc_compare, 0xcbf2_9ce4_8422_2fa5),
];

fn floats(seed: u64, count: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| (random.next() >> 44) as f32 / 1024.0 - 512.0).collect()
}

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.next() as u8).collect()
}

fn load(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: an unaligned load of exactly the array.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

fn store(bytes: &mut [u8; 16], value: __m128i) {
    // SAFETY: an unaligned store of exactly the array.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}

/// A scaled sum of two arrays, with limits, as in audio mixing.
fn sse2_float() -> Round {
    let (left, right) = (floats(6, 16 << 10), floats(7, 16 << 10));
    let mut mixed = vec![0.0f32; left.len()];

    #[target_feature(enable = "sse2")]
    fn mix(left: &[f32], right: &[f32], mixed: &mut [f32], volume: f32) {
        let volume = _mm_set1_ps(volume);
        let (low, high) = (_mm_set1_ps(-300.0), _mm_set1_ps(300.0));
        let pairs = left.as_chunks::<4>().0.iter().zip(right.as_chunks::<4>().0);
        for (to, (a, b)) in mixed.as_chunks_mut::<4>().0.iter_mut().zip(pairs) {
            // SAFETY: unaligned accesses to exactly the arrays of four.
            let (a, b, before) = unsafe {
                (_mm_loadu_ps(a.as_ptr()), _mm_loadu_ps(b.as_ptr()), _mm_loadu_ps(to.as_ptr()))
            };
            let sum = _mm_add_ps(_mm_mul_ps(a, volume), _mm_sub_ps(b, before));
            let sum = _mm_max_ps(_mm_min_ps(sum, high), low);
            // SAFETY: as above.
            unsafe { _mm_storeu_ps(to.as_mut_ptr(), sum) };
        }
    }

    Box::new(move || {
        mixed.fill(0.0);
        for volume in 1..32u8 {
            // SAFETY: SSE2 is part of x86-64.
            unsafe { mix(&left, &right, &mut mixed, f32::from(volume) / 32.0) };
        }
        mixed.iter().fold(0, |sum: u64, x| sum.rotate_left(5) ^ u64::from(x.to_bits()))
    })
}

/// Blends pixels: unpack, multiply, shift, pack with saturation.
fn sse2_integer() -> Round {
    let (over, under) = (bytes(8, 64 << 10), bytes(9, 64 << 10));
    let mut blended = vec![0; over.len()];

    #[target_feature(enable = "sse2")]
    fn blend(over: &[u8], under: &[u8], blended: &mut [u8], alpha: i16) {
        let zero = _mm_setzero_si128();
        let (alpha, rest) = (_mm_set1_epi16(alpha), _mm_set1_epi16(256 - alpha));
        let mix = |a, b| {
            let sum = _mm_add_epi16(_mm_mullo_epi16(a, alpha), _mm_mullo_epi16(b, rest));
            _mm_srli_epi16::<8>(sum)
        };
        let pairs = over.as_chunks::<16>().0.iter().zip(under.as_chunks::<16>().0);
        for (to, (a, b)) in blended.as_chunks_mut::<16>().0.iter_mut().zip(pairs) {
            let (a, b) = (load(a), load(b));
            let low = mix(_mm_unpacklo_epi8(a, zero), _mm_unpacklo_epi8(b, zero));
            let high = mix(_mm_unpackhi_epi8(a, zero), _mm_unpackhi_epi8(b, zero));
            let before = _mm_subs_epu8(load(to), _mm_set1_epi8(3));
            store(to, _mm_avg_epu8(_mm_packus_epi16(low, high), before));
        }
    }

    Box::new(move || {
        blended.fill(0);
        for alpha in (8..256).step_by(16) {
            // SAFETY: SSE2 is part of x86-64.
            unsafe { blend(&over, &under, &mut blended, alpha) };
        }
        sum(&blended)
    })
}

/// A matrix product with fused multiply-add.
fn avx2_float() -> Round {
    const SIZE: usize = 64;
    let (a, b) = (floats(10, SIZE * SIZE), floats(11, SIZE * SIZE));
    let mut product = vec![0.0f32; SIZE * SIZE];

    #[target_feature(enable = "avx2,fma")]
    fn multiply(a: &[f32], b: &[f32], product: &mut [f32]) {
        for (row, to) in a.chunks_exact(SIZE).zip(product.chunks_exact_mut(SIZE)) {
            for (column, to) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let mut sum = _mm256_setzero_ps();
                for (factor, line) in row.iter().zip(b.chunks_exact(SIZE)) {
                    let line = &line.as_chunks::<8>().0[column];
                    // SAFETY: an unaligned load of exactly the array of eight.
                    let line = unsafe { _mm256_loadu_ps(line.as_ptr()) };
                    sum = _mm256_fmadd_ps(_mm256_set1_ps(*factor), line, sum);
                }
                // SAFETY: an unaligned store to exactly the array of eight.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), sum) };
            }
        }
    }

    Box::new(move || {
        for _ in 0..8 {
            // SAFETY: `Need::Avx2` was checked before.
            unsafe { multiply(&a, black_box(&b), &mut product) };
        }
        product.iter().fold(0, |sum: u64, x| sum.rotate_left(5) ^ u64::from(x.to_bits()))
    })
}

/// Shuffles, sums of differences, variable shifts and gathers.
fn avx2_integer() -> Round {
    let data = bytes(12, 64 << 10);

    #[target_feature(enable = "avx2")]
    fn mix(data: &[u8]) -> u64 {
        let order = _mm256_set_epi8(
            15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0, 0, 2, 4, 6, 8, 10, 12, 14, 1, 3,
            5, 7, 9, 11, 13, 15,
        );
        let shifts = _mm256_set_epi32(1, 3, 5, 7, 9, 11, 13, 15);
        let (mut differences, mut mixed) = (_mm256_setzero_si256(), _mm256_set1_epi32(1));
        for chunk in data.as_chunks::<32>().0 {
            // SAFETY: an unaligned load of exactly the array of 32.
            let bytes = unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) };
            let shuffled = _mm256_shuffle_epi8(bytes, order);
            differences = _mm256_add_epi64(differences, _mm256_sad_epu8(bytes, shuffled));
            let index = _mm256_and_si256(shuffled, _mm256_set1_epi32(0x3fff));
            // SAFETY: indices below 2^14, times four, stay within the 64 KiB of `data`.
            let far = unsafe { _mm256_i32gather_epi32::<4>(data.as_ptr().cast(), index) };
            mixed = _mm256_add_epi32(
                _mm256_mullo_epi32(mixed, _mm256_set1_epi32(31)),
                _mm256_xor_si256(_mm256_sllv_epi32(far, shifts), bytes),
            );
        }
        let both = _mm256_xor_si256(differences, mixed);
        (_mm256_extract_epi64::<0>(both)
            ^ _mm256_extract_epi64::<1>(both).rotate_left(1)
            ^ _mm256_extract_epi64::<2>(both).rotate_left(2)
            ^ _mm256_extract_epi64::<3>(both).rotate_left(3)) as u64
    }

    Box::new(move || {
        assert!(data.len() == 64 << 10);
        // SAFETY: `Need::Avx2` was checked before.
        (0..16).fold(0, |sum, _| sum ^ unsafe { mix(black_box(&data)) }.wrapping_add(sum))
    })
}

/// AES-128 in counter mode, eight blocks at a time.
fn aes() -> Round {
    let mut text = bytes(13, 256 << 10);
    let keys: [[u8; 16]; 11] =
        std::array::from_fn(|round| std::array::from_fn(|at| (round * 16 + at * 29) as u8));

    #[target_feature(enable = "aes,sse2")]
    fn encrypt(text: &mut [u8], keys: &[[u8; 16]; 11]) {
        let keys = keys.map(|key| load(&key));
        let mut counter = _mm_setzero_si128();
        let one = _mm_set_epi64x(0, 1);
        for blocks in text.as_chunks_mut::<16>().0.as_chunks_mut::<8>().0 {
            let mut streams = [counter; 8];
            for stream in &mut streams {
                *stream = _mm_xor_si128(counter, keys[0]);
                counter = _mm_add_epi64(counter, one);
            }
            for key in &keys[1..10] {
                for stream in &mut streams {
                    *stream = _mm_aesenc_si128(*stream, *key);
                }
            }
            for (stream, block) in streams.iter().zip(blocks) {
                let stream = _mm_aesenclast_si128(*stream, keys[10]);
                let mixed = _mm_xor_si128(stream, load(block));
                store(block, mixed);
            }
        }
    }

    Box::new(move || {
        // Encrypting twice gives the plain text back, so each round starts from the same.
        // SAFETY: `Need::Aes` was checked before; SSE2 is part of x86-64.
        unsafe { encrypt(black_box(&mut text), &keys) };
        let sum = text
            .as_chunks::<8>()
            .0
            .iter()
            .fold(0, |sum: u64, word| sum.rotate_left(3) ^ u64::from_le_bytes(*word));
        // SAFETY: as above.
        unsafe { encrypt(black_box(&mut text), &keys) };
        sum
    })
}

/// Copies of many lengths by `rep movsb` and `rep movsq`.
fn rep_movs() -> Round {
    let from = bytes(14, 64 << 10);
    let mut to = vec![0u8; from.len()];
    Box::new(move || {
        for length in [24, 200, 1_000, 4_096, 16_384, 65_536] {
            for offset in (0..64).map(|turn| turn % 8) {
                // SAFETY: both ranges are within their vectors, which do not overlap; the
                // direction flag is clear by the ABI.
                unsafe {
                    asm!(
                        "rep movsb",
                        inout("rcx") length - offset => _,
                        inout("rsi") from.as_ptr().add(offset) => _,
                        inout("rdi") to.as_mut_ptr() => _,
                        options(nostack, preserves_flags),
                    );
                    asm!(
                        "rep movsq",
                        inout("rcx") length / 8 => _,
                        inout("rsi") from.as_ptr() => _,
                        inout("rdi") to.as_mut_ptr() => _,
                        options(nostack, preserves_flags),
                    );
                }
            }
        }
        sum(&to)
    })
}

/// Fills of many lengths by `rep stosb` and `rep stosd`.
fn rep_stos() -> Round {
    let mut to = vec![0u8; 64 << 10];
    Box::new(move || {
        for length in [65_536, 16_384, 4_096, 1_000, 200, 24] {
            for value in 1..65u32 {
                // SAFETY: the ranges are within the vector; the direction flag is clear by the ABI.
                unsafe {
                    asm!(
                        "rep stosb",
                        inout("rcx") length => _,
                        inout("rdi") to.as_mut_ptr() => _,
                        in("eax") value * 3,
                        options(nostack, preserves_flags),
                    );
                    asm!(
                        "rep stosd",
                        inout("rcx") length / 8 => _,
                        inout("rdi") to.as_mut_ptr() => _,
                        in("eax") value * length as u32,
                        options(nostack, preserves_flags),
                    );
                }
            }
        }
        sum(&to)
    })
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .fold(0, |sum, word| sum.rotate_left(3) ^ u64::from_le_bytes(*word))
}

/// memcpy, memmove and memset of many sizes.
fn glibc_copy() -> Round {
    let from = bytes(15, 32 << 10);
    let mut to = vec![0u8; from.len() + 64];
    Box::new(move || {
        for _ in 0..16 {
            for length in (1..256).chain([500, 1_500, 4_000, 10_000, 32_000]) {
                let (from, to) = (black_box(from.as_ptr()), black_box(to.as_mut_ptr()));
                // SAFETY: every length plus its offset is within both vectors, and only memmove is
                // given ranges that overlap.
                unsafe {
                    libc::memcpy(to.add(length % 32).cast(), from.cast(), length);
                    libc::memmove(to.add(length % 16).cast(), to.add(32).cast(), length);
                    libc::memset(to.add(length).cast(), length as i32, length % 61);
                }
            }
        }
        sum(&to)
    })
}

/// strlen, strchr, memchr and strstr over lines of text.
fn glibc_search() -> Round {
    let text = prose(160_000);
    let lines: Vec<CString> = text.lines().filter_map(|line| CString::new(line).ok()).collect();
    let whole = CString::new(text).unwrap_or_default();
    Box::new(move || {
        let mut sum = 0usize;
        for line in &lines {
            let start = black_box(line.as_ptr());
            // SAFETY: the strings end in zeros, and the functions read no further.
            unsafe {
                sum += libc::strlen(start);
                for letter in b"zxq\n" {
                    sum += usize::from(libc::strchr(start, i32::from(*letter)).is_null());
                }
                let found = libc::strstr(start, c"translation".as_ptr());
                sum += if found.is_null() { 1 } else { found.offset_from(start) as usize };
            }
        }
        for letter in b"!?#QZ".iter().cycle().take(20) {
            // SAFETY: the length is the string's own.
            let found = unsafe {
                let start = black_box(whole.as_ptr());
                libc::memchr(start.cast(), i32::from(*letter), whole.as_bytes().len())
            };
            sum += usize::from(found.is_null());
        }
        sum as u64
    })
}

/// memcmp, strcmp and strncmp on strings that differ late or not at all.
fn glibc_compare() -> Round {
    let one = CString::new(prose(8_000)).unwrap_or_default();
    let mut other = one.clone().into_bytes();
    if let Some(byte) = other.last_mut() {
        *byte = b'~';
    }
    let other = CString::new(other).unwrap_or_default();
    Box::new(move || {
        let mut sum = 0;
        for offset in 0..200 {
            let skip = offset * 39;
            let rest = one.as_bytes().len() - skip;
            // SAFETY: the offsets lie within the strings, which are of one length and end in zeros.
            unsafe {
                let a = black_box(one.as_ptr()).add(skip);
                let b = black_box(other.as_ptr()).add(skip);
                sum += i32::from(libc::memcmp(a.cast(), b.cast(), rest - 1) == 0);
                sum += i32::from(libc::memcmp(a.cast(), b.cast(), rest) < 0) * 3;
                sum += i32::from(libc::strcmp(a, b) < 0) * 5;
                sum += i32::from(libc::strncmp(a, b, rest - 1) == 0) * 7;
            }
        }
        fold(sum as u64, b"")
    })
}
