//! Data breakpoints (SDM vol. 3, 17.2).

use crate::core::Cpu;

/// Breakpoint conditions in DR7.
const ON_EXECUTE: u64 = 0;
const ON_WRITE: u64 = 1;
const ON_IO: u64 = 2;

impl Cpu {
    /// The enabled breakpoints: number, condition, linear address (aligned), length.
    fn breakpoints(&self) -> impl Iterator<Item = (usize, u64, u64, u64)> + use<> {
        let dr = self.state.dr;
        (0..4).filter(move |i| dr[7] >> (2 * i) & 3 != 0).map(move |i| {
            let condition = dr[7] >> (16 + 4 * i) & 3;
            let len = [1, 2, 8, 4][(dr[7] >> (18 + 4 * i) & 3) as usize];
            (i, condition, dr[i] & !(len - 1), len)
        })
    }

    /// Whether accesses to the page of `linear` must be compared with data breakpoints.
    pub(super) fn page_has_watchpoint(&self, linear: u64) -> bool {
        self.state.dr[7] & 0xff != 0
            && self.breakpoints().any(|(_, condition, at, _)| {
                let page = self.mode.lam.untag(linear) >> 12;
                condition != ON_EXECUTE && condition != ON_IO && at >> 12 == page
            })
    }

    /// Notes the data breakpoints that an access hits; the trap comes after the instruction.
    pub(super) fn watch_data(&mut self, linear: u64, len: u64, write: bool) {
        if self.state.dr[7] & 0xff == 0 {
            return;
        }
        let linear = self.mode.lam.untag(linear);
        for (i, condition, at, size) in self.breakpoints() {
            let kind = condition == 3 || condition == ON_WRITE && write;
            if kind && linear < at.wrapping_add(size) && at < linear.wrapping_add(len) {
                self.pending_debug |= 1 << i;
                self.exit_block = true;
            }
        }
    }

    /// Notes the I/O breakpoints that an access to `port` hits (CR4.DE).
    pub(crate) fn watch_port(&mut self, port: u16, len: u64) {
        if self.state.dr[7] & 0xff == 0 || !self.cr4_has(crate::state::cr4::DE) {
            return;
        }
        for (i, condition, at, size) in self.breakpoints() {
            let port = u64::from(port);
            if condition == ON_IO && port < at.wrapping_add(size) && at < port + len {
                self.pending_debug |= 1 << i;
                self.exit_block = true;
            }
        }
    }

    /// DR6 bits of the instruction breakpoints at `linear`. If not zero (and RF is clear), the
    /// engine raises #DB as a fault by [`Cpu::debug_fault`].
    pub fn code_breakpoint(&self, linear: u64) -> u64 {
        self.breakpoints()
            .filter(|&(_, condition, at, _)| condition == ON_EXECUTE && at == linear)
            .fold(0, |hit, (i, ..)| hit | 1 << i)
    }
}
