//! Register numbers (offset in the page / 16, MSR number - 0x800) and bit layouts.

/// Register numbers.
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
    pub const ISR_LAST: u32 = 0x17;
    pub const TMR: u32 = 0x18;
    pub const TMR_LAST: u32 = 0x1f;
    pub const IRR: u32 = 0x20;
    pub const IRR_LAST: u32 = 0x27;
    pub const ESR: u32 = 0x28;
    pub const ICR: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT: u32 = 0x32;
    pub const LVT_LAST: u32 = 0x37;
    pub const INITIAL_COUNT: u32 = 0x38;
    pub const CURRENT_COUNT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

/// Entries of the local vector table, in order of their registers.
pub mod lvt {
    pub const TIMER: usize = 0;
    pub const LINT0: usize = 3;
    pub const ERROR: usize = 5;
    pub const COUNT: usize = 6;

    pub const MASKED: u32 = 1 << 16;
    pub const REMOTE_IRR: u32 = 1 << 14;
    pub const LEVEL: u32 = 1 << 15;
    pub const ACTIVE_LOW: u32 = 1 << 13;

    const VECTOR: u32 = 0xff;
    const DELIVERY: u32 = 7 << 8;
    const TIMER_MODE: u32 = 3 << 17;
    const PIN: u32 = VECTOR | DELIVERY | ACTIVE_LOW | LEVEL | MASKED;
    const EVENT: u32 = VECTOR | DELIVERY | MASKED;
    /// Bits that software may write.
    pub const WRITABLE: [u32; COUNT] =
        [VECTOR | MASKED | TIMER_MODE, EVENT, EVENT, PIN, PIN, VECTOR | MASKED];
}

/// Spurious-interrupt vector register.
pub mod svr {
    pub const ENABLED: u32 = 1 << 8;
    pub const FOCUS_DISABLED: u32 = 1 << 9;
    pub const NO_EOI_BROADCAST: u32 = 1 << 12;
    pub const WRITABLE: u32 = 0xff | ENABLED | FOCUS_DISABLED | NO_EOI_BROADCAST;
}

/// Error status register.
pub mod esr {
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub const RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// IA32_APIC_BASE.
pub mod apic_base {
    pub const BSP: u64 = 1 << 8;
    pub const X2APIC: u64 = 1 << 10;
    pub const ENABLED: u64 = 1 << 11;
}

/// Interrupt command register.
pub mod icr {
    pub const LOGICAL: u32 = 1 << 11;
    pub const ASSERT: u32 = 1 << 14;
    pub const LEVEL: u32 = 1 << 15;
    pub const SHORTHAND_SHIFT: u32 = 18;
    /// Bits that software may write; delivery status (12) reads as idle.
    pub const WRITABLE: u32 = 0xff | 7 << 8 | LOGICAL | ASSERT | LEVEL | 3 << SHORTHAND_SHIFT;
}

/// Version 14h, six LVT entries, EOI broadcasts can be suppressed.
pub const VERSION: u32 = 0x14 | 5 << 16 | 1 << 24;
