//! Hardware task switches (SDM vol. 3, chapter 7).

use super::event::dr6;
use super::segment::{is_null, kind, rpl, selector_error};
use crate::core::{Cpu, Trap, vector};
use crate::flags::bit;
use crate::state::{Seg, Segment, attr, cr0};
use crate::svm::exit;

/// What makes the processor switch tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Jump,
    Call,
    /// IRET with NT set.
    Return,
    /// An interrupt or exception through a task gate: the error code to push and the image of
    /// RFLAGS to save.
    Event {
        error: Option<u32>,
        flags: u64,
    },
}

/// Bits of a TSS descriptor's type.
const BUSY: u16 = 2;
const IS_32: u16 = 8;

/// Where things are in a TSS.
struct Layout {
    size: u64,
    ip: u64,
    /// EFLAGS, then the eight general registers, follow EIP.
    segments: u64,
    segment_step: u64,
    segment_count: usize,
    ldt: u64,
    /// Lowest acceptable limit.
    limit: u32,
}

const TSS32: Layout = Layout {
    size: 4,
    ip: 0x20,
    segments: 0x48,
    segment_step: 4,
    segment_count: 6,
    ldt: 0x60,
    limit: 0x67,
};
const TSS16: Layout = Layout {
    size: 2,
    ip: 0x0e,
    segments: 0x22,
    segment_step: 2,
    segment_count: 4,
    ldt: 0x2a,
    limit: 0x2b,
};

impl Layout {
    fn of(attr: u16) -> &'static Layout {
        if attr & IS_32 != 0 { &TSS32 } else { &TSS16 }
    }
}

/// The registers a TSS holds.
struct Image {
    cr3: Option<u32>,
    ip: u32,
    flags: u32,
    regs: [u32; 8],
    segments: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Cpu {
    /// The exit that tells the host of a task switch (APM vol. 2, 15.14.1).
    fn exit_for_task_switch(&mut self, selector: u16, reason: Reason) -> Trap {
        const RETURN: u64 = 1 << 36;
        const JUMP: u64 = 1 << 38;
        const HAS_ERROR: u64 = 1 << 44;
        const RESUME: u64 = 1 << 48;
        let (kind, flags) = match reason {
            Reason::Jump => (JUMP, self.state.flags.get()),
            Reason::Call => (0, self.state.flags.get()),
            Reason::Return => (RETURN, self.state.flags.get()),
            Reason::Event { error, flags } => {
                (error.map_or(0, |error| HAS_ERROR | u64::from(error)), flags)
            }
        };
        let resume = if flags & bit::RF != 0 { RESUME } else { 0 };
        self.exit_to_host(exit::TASK_SWITCH, selector.into(), kind | resume)
    }

    /// Switches to the task whose TSS `selector` names. Faults up to the loading of the new task's
    /// state leave the old task untouched; later ones happen in the new task.
    pub(super) fn switch_task(&mut self, selector: u16, reason: Reason) -> Result<(), Trap> {
        if self.intercepts(exit::TASK_SWITCH) {
            return Err(self.exit_for_task_switch(selector, reason));
        }
        let error = selector_error(selector);
        // A bad TSS is #TS for IRET, #GP for everybody else.
        let bad = if reason == Reason::Return { vector::TS } else { vector::GP };
        if is_null(selector) || selector & 4 != 0 {
            return Err(self.raise(bad, Some(error)));
        }
        let (descriptor, at) = self.descriptor(selector, bad)?;
        let busy = matches!(descriptor.kind(), kind::TSS16_BUSY | kind::TSS32_BUSY);
        let free = matches!(descriptor.kind(), kind::TSS16 | kind::TSS32);
        let wanted = if reason == Reason::Return { busy } else { free };
        if !descriptor.is_system() || !wanted {
            return Err(self.raise(bad, Some(error)));
        }
        if !descriptor.present() {
            return Err(self.raise(vector::NP, Some(error)));
        }
        let new = descriptor.segment(selector);
        let layout = Layout::of(new.attr);
        if new.limit < layout.limit {
            return Err(self.raise(vector::TS, Some(error)));
        }
        let old_layout = Layout::of(self.state.tr.attr);
        self.probe_write_as(0, self.state.tr.base, u64::from(old_layout.limit) + 1)?;
        self.probe_write_as(0, new.base, u64::from(layout.limit) + 1)?;
        let image = self.read_task(&new, layout)?;

        let nested = matches!(reason, Reason::Call | Reason::Event { .. });
        let mut flags = match reason {
            Reason::Event { flags, .. } => flags,
            _ => self.state.flags.get(),
        };
        if reason == Reason::Return {
            flags &= !bit::NT;
        }
        self.save_task(old_layout, flags)?;
        let old = self.state.tr;
        if nested {
            self.store_implicit(new.base, old.selector)?;
        } else if let Some(at) = self.descriptor_address(old.selector) {
            self.set_busy(at, false)?;
        }
        if reason != Reason::Return {
            self.set_busy(at, true)?;
        }
        self.state.tr = Segment { attr: new.attr | BUSY, ..new };
        self.state.cr0 |= cr0::TS;
        self.load_task(image, layout, nested)?;
        if let Reason::Event { error: Some(error), .. } = reason {
            let mut stack = self.stack();
            stack.push(self, error.into(), layout.size)?;
            stack.commit(self);
        }
        Ok(())
    }

    fn set_busy(&mut self, descriptor: u64, busy: bool) -> Result<(), Trap> {
        let at = descriptor.wrapping_add(5);
        let kind: u8 = self.load_implicit(at)?;
        let kind = kind & !(BUSY as u8) | if busy { BUSY as u8 } else { 0 };
        self.store_implicit(at, kind)
    }

    fn save_task(&mut self, layout: &Layout, flags: u64) -> Result<(), Trap> {
        let base = self.state.tr.base;
        let mut words = [0; 10];
        words[0] = self.state.rip;
        words[1] = flags;
        words[2..].copy_from_slice(&self.state.regs[..8]);
        for (i, word) in words.into_iter().enumerate() {
            let at = base.wrapping_add(layout.ip + i as u64 * layout.size);
            if layout.size == 4 {
                self.store_implicit(at, word as u32)?;
            } else {
                self.store_implicit(at, word as u16)?;
            }
        }
        for i in 0..layout.segment_count {
            let at = base.wrapping_add(layout.segments + i as u64 * layout.segment_step);
            self.store_implicit(at, self.state.seg[i].selector)?;
        }
        Ok(())
    }

    fn read_task(&mut self, tss: &Segment, layout: &Layout) -> Result<Image, Trap> {
        let wide = layout.size == 4;
        let at = |offset: u64| tss.base.wrapping_add(offset);
        let mut words = [0; 10];
        for (i, word) in words.iter_mut().enumerate() {
            let place = at(layout.ip + i as u64 * layout.size);
            *word = if wide {
                self.load_implicit(place)?
            } else {
                // A 16-bit task finds ones in the upper halves of the general registers.
                let upper = if i >= 2 { 0xffff_0000 } else { 0 };
                u32::from(self.load_implicit::<u16>(place)?) | upper
            };
        }
        let mut segments = [0; 6];
        for (i, segment) in segments.iter_mut().enumerate().take(layout.segment_count) {
            *segment = self.load_implicit(at(layout.segments + i as u64 * layout.segment_step))?;
        }
        let mut regs = [0; 8];
        regs.copy_from_slice(&words[2..]);
        Ok(Image {
            cr3: if wide { Some(self.load_implicit(at(0x1c))?) } else { None },
            ip: words[0],
            flags: words[1],
            regs,
            segments,
            ldt: self.load_implicit(at(layout.ldt))?,
            trap: wide && self.load_implicit::<u16>(at(0x64))? & 1 != 0,
        })
    }

    /// Takes over the new task's registers. From here on faults belong to the new task.
    fn load_task(&mut self, image: Image, layout: &Layout, nested: bool) -> Result<(), Trap> {
        if let Some(cr3) = image.cr3
            && self.state.cr0 & cr0::PG != 0
            && !self.load_cr3(cr3.into())
        {
            return Err(self.raise(vector::TS, Some(selector_error(self.state.tr.selector))));
        }
        let mut flags = u64::from(image.flags);
        if nested {
            flags |= bit::NT;
        }
        let kept = if layout.size == 4 { 0 } else { self.state.flags.get() & !0xffff };
        let defined =
            super::returns::USER_FLAGS | bit::IF | bit::IOPL | bit::VM | bit::VIF | bit::VIP;
        self.state.flags.set(flags & defined | kept & !(bit::VM | bit::RF));
        self.state.interrupt_shadow = false;
        self.state.stack_switched = false;
        self.state.rip = image.ip.into();
        for (reg, value) in self.state.regs.iter_mut().zip(image.regs) {
            *reg = value.into();
        }
        self.state.dr[7] &= !super::control::dr7::LOCAL;
        let v86 = self.state.flags.get() & bit::VM != 0;
        // The visible selectors first: a fault below must find them in place.
        for (segment, selector) in self.state.seg.iter_mut().zip(image.segments) {
            *segment = if v86 {
                let base = u64::from(selector) << 4;
                Segment { selector, base, limit: 0xffff, attr: 0xf3 }
            } else {
                Segment { selector, ..Segment::default() }
            };
        }
        self.exit_block = true;
        if v86 {
            self.update_mode();
        } else {
            // Until SS is loaded, the RPL of CS is the privilege level.
            let cpl = rpl(image.segments[Seg::Cs as usize]);
            self.state.seg[Seg::Ss as usize].attr = u16::from(cpl) << attr::DPL_SHIFT;
            self.update_mode();
        }
        self.load_ldtr(image.ldt, vector::TS)?;
        if !v86 {
            self.load_task_segments(&image)?;
        }
        let cs = self.state.seg[Seg::Cs as usize];
        if self.state.rip > u64::from(cs.limit) {
            return Err(self.gp(0));
        }
        if image.trap {
            self.pending_debug |= dr6::BT;
        }
        Ok(())
    }

    fn load_task_segments(&mut self, image: &Image) -> Result<(), Trap> {
        let selector = image.segments[Seg::Cs as usize];
        let cpl = rpl(selector);
        let error = Some(selector_error(selector));
        if is_null(selector) {
            return Err(self.raise(vector::TS, error));
        }
        let (mut code, at) = self.descriptor(selector, vector::TS)?;
        let privilege_fits =
            if code.is_conforming() { code.dpl() <= cpl } else { code.dpl() == cpl };
        if !code.is_code() || !privilege_fits {
            return Err(self.raise(vector::TS, error));
        }
        if !code.present() {
            return Err(self.raise(vector::NP, error));
        }
        self.mark_accessed(&mut code, at)?;
        let cs = code.segment(selector);
        let ss = self.stack_segment(image.segments[Seg::Ss as usize], cpl, vector::TS)?;
        self.state.seg[Seg::Cs as usize] = cs;
        self.state.seg[Seg::Ss as usize] = ss;
        self.update_mode();
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let selector = image.segments[seg as usize];
            if is_null(selector) {
                continue;
            }
            let error = Some(selector_error(selector));
            let (mut descriptor, at) = self.descriptor(selector, vector::TS)?;
            let conforming = descriptor.is_code() && descriptor.is_conforming();
            if !descriptor.is_readable() || !conforming && rpl(selector).max(cpl) > descriptor.dpl()
            {
                return Err(self.raise(vector::TS, error));
            }
            if !descriptor.present() {
                return Err(self.raise(vector::NP, error));
            }
            self.mark_accessed(&mut descriptor, at)?;
            self.state.seg[seg as usize] = descriptor.segment(selector);
        }
        self.update_mode();
        Ok(())
    }
}
