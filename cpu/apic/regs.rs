//! The registers of a local APIC and the rules among them, without time and without other APICs.

use base::interrupt::{ApicMessage, DeliveryMode, DestinationMode, Trigger};
use base::state::State;

/// Register numbers: offset in the page divided by 16, and x2APIC MSR number less 0x800.
#[allow(missing_docs)]
pub mod reg {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const APR: u32 = 0x09;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const TMR: u32 = 0x18;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR_LOW: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT: u32 = 0x32;
    pub const LVT_LAST: u32 = 0x37;
    pub const TIMER_INITIAL: u32 = 0x38;
    pub const TIMER_CURRENT: u32 = 0x39;
    pub const TIMER_DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

/// Entries of the local vector table, in order of their registers.
#[allow(missing_docs)]
pub mod lvt {
    pub const TIMER: usize = 0;
    pub const LINT0: usize = 3;
    pub const LINT1: usize = 4;
    pub const ERROR: usize = 5;
    pub const COUNT: usize = 6;

    pub const MASKED: u32 = 1 << 16;
    pub const LEVEL: u32 = 1 << 15;
    pub const REMOTE_IRR: u32 = 1 << 14;
    pub const ACTIVE_LOW: u32 = 1 << 13;
    pub const TIMER_MODE_SHIFT: u32 = 17;
    /// Bits each entry keeps.
    pub const KEPT: [u32; COUNT] = [
        0x0006_00ff | MASKED,
        0x0000_07ff | MASKED,
        0x0000_07ff | MASKED,
        0x0000_07ff | MASKED | LEVEL | ACTIVE_LOW,
        0x0000_07ff | MASKED | LEVEL | ACTIVE_LOW,
        0x0000_00ff | MASKED,
    ];
}

/// Error status bits.
pub mod esr {
    /// An IPI was sent with a vector below 16.
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    /// An interrupt arrived with a vector below 16.
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    /// A register that is not there was accessed.
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// Integrated APIC, six LVT entries, EOI broadcasts can be suppressed.
pub const VERSION: u32 = 0x14 | (lvt::COUNT as u32 - 1) << 16 | 1 << 24;

const SVR_ENABLED: u32 = 1 << 8;
const SVR_SUPPRESS_EOI: u32 = 1 << 12;
const SVR_KEPT: u32 = 0xff | SVR_ENABLED | SVR_SUPPRESS_EOI;

/// Bits of IA32_APIC_BASE.
pub mod apic_base {
    /// x2APIC mode.
    pub const X2APIC: u64 = 1 << 10;
    /// The APIC is on.
    pub const ENABLED: u64 = 1 << 11;
}

/// One bit per vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
pub struct Vectors {
    words: [u32; 8],
}

impl Vectors {
    /// Sets a bit; returns whether it was set already.
    pub fn set(&mut self, vector: u8) -> bool {
        let (word, bit) = (&mut self.words[usize::from(vector >> 5)], 1 << (vector & 31));
        let was = *word & bit != 0;
        *word |= bit;
        was
    }
    /// Clears a bit; returns whether it was set.
    pub fn clear(&mut self, vector: u8) -> bool {
        let (word, bit) = (&mut self.words[usize::from(vector >> 5)], 1 << (vector & 31));
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }
    /// Whether a bit is set.
    pub fn has(&self, vector: u8) -> bool {
        self.words[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }
    /// The highest vector that is set.
    pub fn highest(&self) -> Option<u8> {
        let word = self.words.iter().rposition(|&word| word != 0)?;
        Some((word as u8) << 5 | (31 - self.words[word].leading_zeros()) as u8)
    }
    /// 32 bits as a register shows them.
    pub fn word(&self, n: u32) -> u32 {
        self.words[n as usize & 7]
    }
}

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct ApicState {
    pub base: u64,
    pub tpr: u8,
    pub ldr: u32,
    pub dfr: u32,
    pub svr: u32,
    pub isr: Vectors,
    pub tmr: Vectors,
    pub irr: Vectors,
    pub esr: u32,
    /// Errors since ESR was last written.
    pub errors: u32,
    pub icr: u64,
    pub lvt: [u32; lvt::COUNT],
    pub timer_initial: u32,
    pub timer_divide: u32,
    /// When the count began, on the virtual clock.
    pub timer_start: i64,
    /// IA32_TSC_DEADLINE, without the guest's offset.
    pub deadline: u64,
    /// Level of the LINT pins.
    pub lint: [bool; 2],
    /// An ExtINT message waits for the 8259.
    pub external: bool,
}

impl ApicState {
    /// After power-up. The boot processor starts with the 8259 wired through LINT0, as firmware of
    /// old expects.
    pub fn at_reset(base: u64, boot: bool) -> Self {
        let mut table = [lvt::MASKED; lvt::COUNT];
        if boot {
            table[lvt::LINT0] = (DeliveryMode::ExtInt as u32) << 8;
        }
        ApicState {
            base,
            tpr: 0,
            ldr: 0,
            dfr: !0,
            svr: 0xff,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: table,
            timer_initial: 0,
            timer_divide: 0,
            timer_start: 0,
            deadline: 0,
            lint: [false; 2],
            external: false,
        }
    }

    pub fn enabled(&self) -> bool {
        self.base & apic_base::ENABLED != 0
    }

    pub fn x2apic(&self) -> bool {
        self.base & apic_base::X2APIC != 0
    }

    /// Whether the spurious-interrupt vector register lets interrupts through.
    pub fn software_enabled(&self) -> bool {
        self.svr & SVR_ENABLED != 0
    }

    pub fn suppresses_eoi(&self) -> bool {
        self.svr & SVR_SUPPRESS_EOI != 0
    }

    /// Processor priority: the higher of the task's and of what is in service.
    pub fn ppr(&self) -> u8 {
        let serving = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= serving { self.tpr } else { serving }
    }

    /// The vector that may interrupt the processor now.
    pub fn deliverable(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (self.enabled() && self.software_enabled() && vector & 0xf0 > self.ppr() & 0xf0)
            .then_some(vector)
    }

    /// Whether the 8259 may interrupt the processor now.
    pub fn external_pending(&self) -> bool {
        if !self.enabled() {
            return self.lint[0];
        }
        let entry = self.lvt[lvt::LINT0];
        let through_lint0 = self.lint[0]
            && entry & lvt::MASKED == 0
            && DeliveryMode::from_bits(entry >> 8) == DeliveryMode::ExtInt;
        through_lint0 || self.external
    }

    pub fn set_svr(&mut self, value: u32) {
        self.svr = value & SVR_KEPT;
        if !self.software_enabled() {
            self.lvt.iter_mut().for_each(|entry| *entry |= lvt::MASKED);
        }
    }

    pub fn set_lvt(&mut self, n: usize, value: u32) {
        let masked = if self.software_enabled() { 0 } else { lvt::MASKED };
        self.lvt[n] = value & lvt::KEPT[n] | masked;
    }

    /// The logical destination of x2APIC mode, which follows from the id (SDM vol. 3, 12.12.10.2).
    pub fn x2apic_ldr(id: u32) -> u32 {
        (id >> 4) << 16 | 1 << (id & 15)
    }

    /// Whether a message of this destination is meant for the APIC with this id.
    pub fn selected(&self, id: u32, message: &ApicMessage) -> bool {
        if !self.enabled() {
            return false;
        }
        let destination = message.destination;
        if destination == base::interrupt::BROADCAST {
            return true;
        }
        match message.mode {
            DestinationMode::Physical => destination == id,
            DestinationMode::Logical if self.x2apic() => {
                let own = Self::x2apic_ldr(id);
                own >> 16 == destination >> 16 && own & destination & 0xffff != 0
            }
            DestinationMode::Logical => {
                let own = self.ldr >> 24;
                match self.dfr >> 28 {
                    0xf => own & destination != 0,
                    0 => own >> 4 == destination >> 4 && own & destination & 0xf != 0,
                    _ => false,
                }
            }
        }
    }

    /// What an ICR value sends; `None` for a level de-assertion, which modern APICs ignore.
    pub fn icr_message(&self, icr: u64) -> Option<ApicMessage> {
        let low = icr as u32;
        let delivery = DeliveryMode::from_bits(low >> 8);
        let (level, triggered_by_level) = (low & 1 << 14 != 0, low & 1 << 15 != 0);
        if delivery == DeliveryMode::Init && triggered_by_level && !level {
            return None;
        }
        let destination = if self.x2apic() {
            (icr >> 32) as u32
        } else {
            ApicMessage::xapic_destination((icr >> 56) as u8)
        };
        let logical = low & 1 << 11 != 0;
        Some(ApicMessage {
            destination,
            mode: if logical { DestinationMode::Logical } else { DestinationMode::Physical },
            delivery,
            vector: low as u8,
            level: true,
            trigger: Trigger::Edge,
        })
    }

    /// The timer's divisor.
    pub fn divisor(&self) -> i64 {
        let field = self.timer_divide & 3 | self.timer_divide >> 1 & 4;
        1 << ((field + 1) & 7)
    }
}
