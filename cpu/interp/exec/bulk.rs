//! Runs of a repeated string instruction that stay within pages of plain RAM.
#![allow(unsafe_code)]
// Unsafe: `Cpu::ram_span` gives host addresses of guest RAM, which are valid for the length it
// gives and until the next call that may change the memory map; none is made in between here.

use crate::interp::op::Word;
use crate::{Cpu, Int};

impl Cpu {
    /// Copies up to `count` elements upwards from linear address `from` to `to`; the number copied.
    /// Zero where the elements must go one by one.
    pub(super) fn bulk_copy<T: Int>(&mut self, from: u64, to: u64, count: u64) -> u64 {
        let Some((_, from_len)) = self.ram_span(from, false) else { return 0 };
        let Some((target, to_len)) = self.ram_span(to, true) else { return 0 };
        let Some((source, _)) = self.ram_span(from, false) else { return 0 };
        let room = from_len.min(to_len) / T::SIZE;
        let count = room.min(usize::try_from(count).unwrap_or(usize::MAX));
        let len = count * T::SIZE;
        // An overlapping copy upwards repeats what it has just written.
        let distance = (target as usize).wrapping_sub(source as usize);
        if count == 0 || distance < len {
            return 0;
        }
        // SAFETY: both spans are at least `len` bytes of mapped guest RAM (see above); the source
        // may follow the target closely, which `copy` allows.
        unsafe { std::ptr::copy(source, target, len) };
        self.span_written(to, len);
        count as u64
    }

    /// Stores `value` up to `count` times upwards from linear address `to`; how often it did.
    pub(super) fn bulk_fill<T: Word>(&mut self, to: u64, value: T, count: u64) -> u64 {
        let Some((target, to_len)) = self.ram_span(to, true) else { return 0 };
        let count = (to_len / T::SIZE).min(usize::try_from(count).unwrap_or(usize::MAX));
        if count == 0 {
            return 0;
        }
        let bytes = value.zx().to_le_bytes();
        // SAFETY: the span is at least `count * T::SIZE` bytes of mapped guest RAM (see above).
        unsafe {
            if bytes[..T::SIZE].iter().all(|byte| *byte == bytes[0]) {
                target.write_bytes(bytes[0], count * T::SIZE);
            } else {
                for i in 0..count {
                    target.cast::<T>().add(i).write_unaligned(value);
                }
            }
        }
        self.span_written(to, count * T::SIZE);
        count as u64
    }
}
