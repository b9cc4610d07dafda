//! What the host wants to see, and how an exit begins.

use super::Exit;
use crate::core::{Fault, Trap};
use crate::cpuid::feature;
use crate::{Cpu, core::vector};

/// Exit codes (APM vol. 2, appendix C); those below C0h are also the numbers of intercept bits.
#[allow(missing_docs)]
pub(crate) mod exit {
    pub const READ_CR0: u64 = 0;
    pub const WRITE_CR0: u64 = 0x10;
    pub const READ_DR0: u64 = 0x20;
    pub const WRITE_DR0: u64 = 0x30;
    pub const EXCEPTION: u64 = 0x40;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const CR0_SELECTIVE: u64 = 0x65;
    pub const READ_IDTR: u64 = 0x66;
    pub const READ_GDTR: u64 = 0x67;
    pub const READ_LDTR: u64 = 0x68;
    pub const READ_TR: u64 = 0x69;
    pub const WRITE_IDTR: u64 = 0x6a;
    pub const WRITE_GDTR: u64 = 0x6b;
    pub const WRITE_LDTR: u64 = 0x6c;
    pub const WRITE_TR: u64 = 0x6d;
    pub const RDTSC: u64 = 0x6e;
    pub const RDPMC: u64 = 0x6f;
    pub const PUSHF: u64 = 0x70;
    pub const POPF: u64 = 0x71;
    pub const CPUID: u64 = 0x72;
    pub const RSM: u64 = 0x73;
    pub const IRET: u64 = 0x74;
    pub const SOFT_INT: u64 = 0x75;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPG: u64 = 0x79;
    pub const INVLPGA: u64 = 0x7a;
    pub const IO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const TASK_SWITCH: u64 = 0x7d;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const VMSAVE: u64 = 0x83;
    pub const STGI: u64 = 0x84;
    pub const CLGI: u64 = 0x85;
    pub const SKINIT: u64 = 0x86;
    pub const RDTSCP: u64 = 0x87;
    pub const ICEBP: u64 = 0x88;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const XSETBV: u64 = 0x8d;
    pub const INVPCID: u64 = 0xa2;
    pub const NESTED_FAULT: u64 = 0x400;
    pub const INVALID: u64 = !0;
}

/// Kinds of events, as EVENTINJ and EXITINTINFO have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum EventKind {
    Interrupt = 0,
    Nmi = 2,
    Exception = 3,
    Software = 4,
}

/// EXITINFO1 of a control register's intercept: a MOV, whose general register the low bits name.
const IS_MOV_CR: u64 = 1 << 63;

/// Fields of EVENTINJ and EXITINTINFO.
pub(super) mod event {
    pub const VECTOR: u64 = 0xff;
    pub const KIND_SHIFT: u32 = 8;
    pub const ERROR_VALID: u64 = 1 << 11;
    pub const VALID: u64 = 1 << 31;
    pub const ERROR_SHIFT: u32 = 32;
}

/// An event in EXITINTINFO's format.
pub(crate) fn event_info(fault: &Fault, kind: EventKind) -> u64 {
    let error =
        fault.error.map_or(0, |error| event::ERROR_VALID | u64::from(error) << event::ERROR_SHIFT);
    event::VALID | u64::from(fault.vector) | (kind as u64) << event::KIND_SHIFT | error
}

impl Cpu {
    /// Whether a guest is running and the host intercepts what `code` stands for.
    #[inline(always)]
    pub(crate) fn intercepts(&self, code: u64) -> bool {
        let svm = &self.state.svm;
        svm.guest && svm.intercepts[(code >> 5) as usize % 6] >> (code & 31) & 1 != 0
    }

    /// The trap that unwinds to the exit `code`.
    #[cold]
    pub(crate) fn exit_to_host(&mut self, code: u64, info1: u64, info2: u64) -> Trap {
        let next_rip = self.state.rip;
        self.state.svm.exit = Exit { code, info1, info2, event: 0, next_rip };
        self.fault = Fault { exit: true, ..Fault::default() };
        Trap::Exception
    }

    /// For instructions without exit information, `state.rip` being the next one already.
    #[inline(always)]
    pub(crate) fn intercept(&mut self, code: u64) -> Result<(), Trap> {
        if self.intercepts(code) {
            return Err(self.exit_to_host(code, 0, 0));
        }
        Ok(())
    }

    /// For instructions of which decode assists tell `found` in EXITINFO1 (APM vol. 2, 15.8.4).
    pub(crate) fn intercept_decoded(&mut self, code: u64, found: u64) -> Result<(), Trap> {
        if !self.intercepts(code) {
            return Ok(());
        }
        let found = if self.model.has(feature::DECODE_ASSISTS) { found } else { 0 };
        Err(self.exit_to_host(code, found, 0))
    }

    /// MOV of control register `number` from or to a general one; `base` is the code for CR0.
    pub(crate) fn intercept_cr(&mut self, base: u64, number: u8, register: u8) -> Result<(), Trap> {
        self.intercept_decoded(base + u64::from(number & 15), IS_MOV_CR | u64::from(register & 15))
    }

    /// What is going to write `value` to CR0: MOV from a general register, or LMSW. The selective
    /// intercept ignores changes of TS and MP.
    pub(crate) fn intercept_cr0_write(
        &mut self,
        value: u64,
        register: Option<u8>,
    ) -> Result<(), Trap> {
        const UNINTERESTING: u64 = crate::state::cr0::TS | crate::state::cr0::MP;
        let changed = (self.state.cr0 ^ value) & !UNINTERESTING != 0;
        let found = register.map_or(0, |register| IS_MOV_CR | u64::from(register & 15));
        // LMSW is intercepted whatever it changes.
        if changed || register.is_none() {
            self.intercept_decoded(exit::CR0_SELECTIVE, found)?;
        }
        self.intercept_decoded(exit::WRITE_CR0, found)
    }

    /// RDMSR and WRMSR: by the permission map.
    pub(crate) fn intercept_msr(&mut self, number: u32, write: bool) -> Result<(), Trap> {
        if !self.intercepts(exit::MSR) {
            return Ok(());
        }
        let base = match number {
            0..=0x1fff => 0,
            0xc000_0000..=0xc000_1fff => 0x800,
            0xc001_0000..=0xc001_1fff => 0x1000,
            _ => return Err(self.exit_to_host(exit::MSR, write.into(), 0)),
        };
        let bit = 2 * u64::from(number & 0x1fff) + u64::from(write);
        let mut byte = [0];
        self.phys_read(self.state.svm.msr_map + base + bit / 8, &mut byte);
        if byte[0] >> (bit % 8) & 1 != 0 {
            return Err(self.exit_to_host(exit::MSR, write.into(), 0));
        }
        Ok(())
    }

    /// IN, OUT and their string forms, by the permission map. `form` has the bits of EXITINFO1 that
    /// the instruction knows, `next` is the address behind it.
    pub(crate) fn intercept_port(
        &mut self,
        port: u16,
        size: u8,
        form: u64,
        next: u64,
    ) -> Result<(), Trap> {
        const SIZE_SHIFT: u32 = 4;
        if !self.intercepts(exit::IO) {
            return Ok(());
        }
        let mut bytes = [0; 2];
        let at = self.state.svm.io_map + u64::from(port / 8);
        for (i, byte) in (0..).zip(bytes.chunks_mut(1)) {
            self.phys_read(at + i, byte);
        }
        if u16::from_le_bytes(bytes) >> (port % 8) & ((1 << size) - 1) == 0 {
            return Ok(());
        }
        let info = form | u64::from(size) << SIZE_SHIFT | u64::from(port) << 16;
        let trap = self.exit_to_host(exit::IO, info, next);
        self.state.svm.exit.next_rip = next;
        Err(trap)
    }

    /// PAUSE: intercepted when the filter has counted down. With a threshold, it begins again where
    /// more time than that has passed since the last one (APM vol. 2, 15.14.4).
    pub(crate) fn intercept_pause(&mut self) -> Result<(), Trap> {
        if !self.intercepts(exit::PAUSE) {
            return Ok(());
        }
        let now = self.own_tsc();
        let pauses = &mut self.state.svm.pauses;
        let rested = now.wrapping_sub(std::mem::replace(&mut pauses.last, now));
        if pauses.threshold != 0 && rested > pauses.threshold.into() {
            pauses.left = pauses.filter;
            if pauses.left > 0 {
                return Ok(());
            }
        }
        match pauses.left.checked_sub(1) {
            Some(left) if left > 0 => {
                pauses.left = left;
                Ok(())
            }
            _ => Err(self.exit_to_host(exit::PAUSE, 0, 0)),
        }
    }

    /// An exception that is about to be delivered, after `before` if it arose from another event's
    /// delivery.
    pub(crate) fn intercept_exception(&mut self, fault: &Fault, before: u64) -> Result<(), Trap> {
        let code = exit::EXCEPTION + u64::from(fault.vector & 31);
        if !self.intercepts(code) {
            return Ok(());
        }
        let error = fault.error.unwrap_or(0).into();
        let linear = if fault.vector == vector::PF { self.state.svm.fault_linear } else { 0 };
        let trap = self.exit_to_host(code, error, linear);
        let exit = &mut self.state.svm.exit;
        exit.event = before;
        // No instruction comes next, unless one asked for the exception (APM vol. 2, 15.7.1).
        exit.next_rip = 0;
        Err(trap)
    }
}

/// Bits of EXITINFO1 for port accesses.
#[allow(missing_docs)]
pub(crate) mod io_form {
    pub const IN: u64 = 1;
    pub const STRING: u64 = 1 << 2;
    pub const REPEATED: u64 = 1 << 3;
    pub const SEGMENT_SHIFT: u32 = 10;

    /// The bit for an address size of 16, 32 or 64 bits.
    pub fn address(bits: u8) -> u64 {
        u64::from(bits / 16) << 7
    }
}
