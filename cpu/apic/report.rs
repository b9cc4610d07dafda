//! A local APIC as text, in the layout that readers of `info lapic` know.

use std::fmt::Write;

use super::lapic::LocalApic;
use super::regs::{lvt, reg};

const ENTRIES: [(&str, u32); lvt::COUNT] =
    [("LVT0", 3), ("LVT1", 4), ("LVTPC", 2), ("LVTERR", 5), ("LVTTHMR", 1), ("LVTT", 0)];
const TIMER_MODES: [&str; 4] = ["one-shot", "periodic", "tsc-deadline", ""];
const DELIVERY: [&str; 8] = ["Fixed", "LowPri", "SMI", "...", "NMI", "INIT", "SIPI", "ExtINT"];
const SHORTHANDS: [&str; 4] = ["no-shorthand", "self", "all-self", "all"];
const FIRST_VECTOR: u32 = 16;

impl LocalApic {
    /// All registers, line by line.
    pub fn report(&self) -> String {
        let read = |number| self.peek(number);
        let mut text = String::new();
        for (name, entry) in ENTRIES {
            let value = read(reg::LVT + entry);
            let pick = |bit: u32, set, clear| if value & bit != 0 { set } else { clear };
            let mode = if entry == 0 { TIMER_MODES[(value >> 17 & 3) as usize] } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{name}\t 0x{value:08x} {:<9} {:<5} {:<6} {:<7} {mode:<12} {:<6} (vec {})",
                pick(lvt::ACTIVE_LOW, "active-lo", "active-hi"),
                pick(lvt::LEVEL, "level", "edge"),
                pick(lvt::MASKED, "masked", ""),
                pick(1 << 12, "pending", ""),
                DELIVERY[(value >> 8 & 7) as usize],
                value & 0xff,
            );
        }
        let divide = read(reg::DIVIDE);
        let shift = (divide & 3 | divide >> 1 & 4) + 1 & 7;
        let (initial, current) = (read(reg::INITIAL_COUNT), read(reg::CURRENT_COUNT));
        let _ = writeln!(
            text,
            "Timer\t DCR=0x{divide:x} (divide by {}) initial_count = {initial} \
             current_count = {current}",
            1 << shift
        );
        let spurious = read(reg::SVR);
        let _ = writeln!(
            text,
            "SPIV\t 0x{spurious:08x} APIC {}, focus={}, spurious vec {}",
            if spurious & 1 << 8 != 0 { "enabled" } else { "disabled" },
            if spurious & 1 << 9 != 0 { "on" } else { "off" },
            spurious & 0xff
        );
        let (command, target) = (read(reg::ICR), read(reg::ICR_HIGH));
        let pick = |bit: u32, set, clear| if command & bit != 0 { set } else { clear };
        let _ = writeln!(
            text,
            "ICR\t 0x{command:08x} {} {} {} {}",
            pick(1 << 11, "logical", "physical"),
            pick(1 << 15, "level", "edge"),
            pick(1 << 14, "assert", "de-assert"),
            SHORTHANDS[(command >> 18 & 3) as usize]
        );
        let _ = writeln!(text, "ICR2\t 0x{target:08x} cpu {} (APIC ID)", target >> 24);
        let _ = writeln!(text, "ESR\t 0x{:08x}", read(reg::ESR));
        for (name, first) in [("ISR", reg::ISR), ("IRR", reg::IRR)] {
            let present = |vector: &u32| read(first + vector / 32) >> (vector % 32) & 1 != 0;
            let vectors: Vec<_> = (FIRST_VECTOR..256).filter(present).collect();
            let _ = write!(text, "{name}\t ");
            if vectors.is_empty() {
                text.push_str("(none)");
            }
            for vector in vectors {
                let level = read(reg::TMR + vector / 32) >> (vector % 32) & 1 != 0;
                let _ = write!(text, "{vector}{} ", if level { "(level)" } else { "" });
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "\nAPR 0x{:02x} TPR 0x{:02x} DFR 0x{:02x} LDR 0x{:02x} PPR 0x{:02x}",
            read(reg::APR),
            read(reg::TPR),
            read(reg::DFR) >> 28,
            read(reg::LDR) >> 24,
            read(reg::PPR)
        );
        text
    }
}
