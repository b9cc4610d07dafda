//! Descriptors, segment registers, and the checks of accesses through them.

use crate::core::{Cpu, Trap, vector};
use crate::state::{Seg, Segment, TableReg, attr};
use crate::svm::exit;

/// An entry of a descriptor table (SDM vol. 3, 3.4.5).
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    low: u32,
    high: u32,
}

/// Types of system descriptors (SDM vol. 3, table 3-2).
pub(super) mod kind {
    pub const TSS16: u16 = 1;
    pub const LDT: u16 = 2;
    pub const TSS16_BUSY: u16 = 3;
    pub const CALL16: u16 = 4;
    pub const TASK_GATE: u16 = 5;
    pub const INTERRUPT16: u16 = 6;
    pub const TRAP16: u16 = 7;
    pub const TSS32: u16 = 9;
    pub const TSS32_BUSY: u16 = 0xb;
    pub const CALL32: u16 = 0xc;
    pub const INTERRUPT32: u16 = 0xe;
    pub const TRAP32: u16 = 0xf;
}

impl Descriptor {
    pub fn new(raw: u64) -> Self {
        Descriptor { low: raw as u32, high: (raw >> 32) as u32 }
    }
    pub fn attr(self) -> u16 {
        (self.high >> 8) as u16 & 0xf0ff
    }
    pub fn base(self) -> u64 {
        u64::from(self.low >> 16 | self.high << 16 & 0xff_0000 | self.high & 0xff00_0000)
    }
    pub fn limit(self) -> u32 {
        let limit = self.low & 0xffff | self.high & 0xf_0000;
        if self.attr() & attr::GRANULAR != 0 { limit << 12 | 0xfff } else { limit }
    }
    pub fn present(self) -> bool {
        self.attr() & attr::PRESENT != 0
    }
    pub fn dpl(self) -> u8 {
        (self.attr() >> attr::DPL_SHIFT) as u8 & 3
    }
    pub fn is_system(self) -> bool {
        self.attr() & attr::S == 0
    }
    pub fn kind(self) -> u16 {
        self.attr() & attr::TYPE
    }
    pub fn is_code(self) -> bool {
        self.attr() & (attr::S | attr::CODE) == attr::S | attr::CODE
    }
    pub fn is_conforming(self) -> bool {
        self.attr() & attr::EXPAND_DOWN_OR_CONFORMING != 0
    }
    pub fn is_readable(self) -> bool {
        !self.is_system() && (!self.is_code() || self.attr() & attr::WRITABLE_OR_READABLE != 0)
    }
    pub fn is_writable_data(self) -> bool {
        let wanted = attr::S | attr::WRITABLE_OR_READABLE;
        self.attr() & (wanted | attr::CODE) == wanted
    }
    /// The segment register this descriptor makes.
    pub fn segment(self, selector: u16) -> Segment {
        Segment { selector, base: self.base(), limit: self.limit(), attr: self.attr() }
    }
    /// The interrupt stack table index of a 64-bit gate.
    pub fn ist(self) -> u8 {
        self.high as u8 & 7
    }
    pub fn low(self) -> u32 {
        self.low
    }
    pub fn high(self) -> u32 {
        self.high
    }
}

/// The error code that names a selector.
pub(super) fn selector_error(selector: u16) -> u32 {
    u32::from(selector & 0xfffc)
}

pub(super) fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

pub(super) fn rpl(selector: u16) -> u8 {
    selector as u8 & 3
}

/// Whether `size` bytes at `offset` lie within the segment's limit (SDM vol. 3, 5.3).
pub(super) fn within_limit(segment: &Segment, offset: u64, size: u64) -> bool {
    let Some(last) = offset.checked_add(size.wrapping_sub(1)) else { return false };
    let expand_down = attr::S | attr::CODE | attr::EXPAND_DOWN_OR_CONFORMING;
    if segment.attr & expand_down == attr::S | attr::EXPAND_DOWN_OR_CONFORMING {
        let top = if segment.attr & attr::BIG != 0 { 0xffff_ffff } else { 0xffff };
        offset > u64::from(segment.limit) && last <= top
    } else {
        last <= u64::from(segment.limit)
    }
}

impl Cpu {
    /// The linear address of `size` bytes at `offset` in `seg`, after all checks.
    pub fn lin(&mut self, seg: Seg, offset: u64, size: u32, write: bool) -> Result<u64, Trap> {
        let base = self.mode.base[seg as usize];
        if self.mode.code_bits == 64 {
            let linear = base.wrapping_add(offset);
            let last = linear.wrapping_add(u64::from(size.max(1)) - 1);
            if self.is_canonical_data(linear) && self.is_canonical_data(last) {
                return Ok(linear);
            }
            return Err(self.segment_violation(seg));
        }
        let segment = self.state.seg[seg as usize];
        if self.mode.protected {
            let code = segment.attr & attr::CODE != 0;
            let bit = segment.attr & attr::WRITABLE_OR_READABLE != 0;
            let allowed = if write { !code && bit } else { !code || bit };
            if !allowed || segment.attr & (attr::PRESENT | attr::S) != attr::PRESENT | attr::S {
                return Err(self.segment_violation(seg));
            }
        }
        if !within_limit(&segment, offset, u64::from(size.max(1))) {
            return Err(self.segment_violation(seg));
        }
        Ok(base.wrapping_add(offset) & 0xffff_ffff)
    }

    #[cold]
    fn segment_violation(&mut self, seg: Seg) -> Trap {
        let vector = if seg == Seg::Ss { vector::SS } else { vector::GP };
        self.raise(vector, Some(0))
    }

    /// Where a selector's descriptor is, if it lies within its table.
    pub(super) fn descriptor_address(&self, selector: u16) -> Option<u64> {
        let (base, limit) = if selector & 4 == 0 {
            (self.state.gdtr.base, u32::from(self.state.gdtr.limit))
        } else if !is_null(self.state.ldtr.selector) && self.state.ldtr.present() {
            (self.state.ldtr.base, self.state.ldtr.limit)
        } else {
            return None;
        };
        (u32::from(selector | 7) <= limit).then(|| base.wrapping_add(u64::from(selector & 0xfff8)))
    }

    /// Reads a selector's descriptor; `vector` is raised if it lies beyond its table.
    pub(super) fn descriptor(
        &mut self,
        selector: u16,
        vector: u8,
    ) -> Result<(Descriptor, u64), Trap> {
        let Some(at) = self.descriptor_address(selector) else {
            return Err(self.raise(vector, Some(selector_error(selector))));
        };
        Ok((Descriptor::new(self.load_implicit(at)?), at))
    }

    /// The upper half of the base of a 16-byte system descriptor at `at` (long mode).
    pub(super) fn descriptor_upper(&mut self, selector: u16, at: u64) -> Result<u64, Trap> {
        let next = selector.checked_add(8).and_then(|next| self.descriptor_address(next));
        if next.is_some() {
            let upper: u64 = self.load_implicit(at.wrapping_add(8))?;
            // The type field of the second half must be zero.
            if upper >> 40 & 0x1f == 0 {
                return Ok(upper);
            }
        }
        Err(self.gp(selector_error(selector)))
    }

    /// Sets the accessed bit of a code or data descriptor that is about to be loaded.
    pub(super) fn mark_accessed(
        &mut self,
        descriptor: &mut Descriptor,
        at: u64,
    ) -> Result<(), Trap> {
        if descriptor.attr() & attr::ACCESSED == 0 {
            descriptor.high |= u32::from(attr::ACCESSED) << 8;
            let byte = (descriptor.high >> 8) as u8;
            self.store_implicit(at.wrapping_add(5), byte)?;
        }
        Ok(())
    }

    /// Loads ES, SS, DS, FS or GS as MOV, POP and LxS do.
    pub fn load_seg(&mut self, seg: Seg, selector: u16) -> Result<(), Trap> {
        let segment = if self.mode.protected {
            self.protected_segment(seg, selector)?
        } else {
            self.real_segment(seg, selector)
        };
        self.state.seg[seg as usize] = segment;
        if seg == Seg::Ss {
            self.state.interrupt_shadow = true;
            self.state.stack_switched = true;
        }
        self.update_mode();
        Ok(())
    }

    /// A segment register as real and virtual-8086 mode load it. Real mode leaves the limit alone,
    /// which "unreal mode" lives on.
    pub(super) fn real_segment(&self, seg: Seg, selector: u16) -> Segment {
        let base = u64::from(selector) << 4;
        if self.mode.v86 {
            return Segment { selector, base, limit: 0xffff, attr: 0xf3 };
        }
        let old = &self.state.seg[seg as usize];
        let kept = old.attr & (attr::BIG | attr::GRANULAR);
        Segment { selector, base, limit: old.limit, attr: kept | 0x93 }
    }

    fn protected_segment(&mut self, seg: Seg, selector: u16) -> Result<Segment, Trap> {
        let cpl = self.mode.cpl;
        let error = selector_error(selector);
        if is_null(selector) {
            if seg == Seg::Ss {
                if self.mode.code_bits != 64 || cpl == 3 || rpl(selector) != cpl {
                    return Err(self.gp(0));
                }
                return Ok(null_stack(selector, cpl));
            }
            let limit = self.state.seg[seg as usize].limit;
            return Ok(Segment { selector, base: 0, limit, attr: 0 });
        }
        if seg == Seg::Ss {
            return self.stack_segment(selector, cpl, vector::GP);
        }
        let (mut descriptor, at) = self.descriptor(selector, vector::GP)?;
        if !descriptor.is_readable() {
            return Err(self.gp(error));
        }
        let conforming = descriptor.is_code() && descriptor.is_conforming();
        if !conforming && rpl(selector).max(cpl) > descriptor.dpl() {
            return Err(self.gp(error));
        }
        if !descriptor.present() {
            return Err(self.raise(vector::NP, Some(error)));
        }
        self.mark_accessed(&mut descriptor, at)?;
        Ok(descriptor.segment(selector))
    }

    /// Checks and reads a selector for SS at privilege `cpl`; `vector` is raised if it is not fit.
    pub(super) fn stack_segment(
        &mut self,
        selector: u16,
        cpl: u8,
        vector: u8,
    ) -> Result<Segment, Trap> {
        let error = selector_error(selector);
        if is_null(selector) {
            return Err(self.raise(vector, Some(0)));
        }
        let (mut descriptor, at) = self.descriptor(selector, vector)?;
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(self.raise(vector, Some(error)));
        }
        if !descriptor.present() {
            return Err(self.raise(vector::SS, Some(error)));
        }
        self.mark_accessed(&mut descriptor, at)?;
        Ok(descriptor.segment(selector))
    }

    /// LLDT.
    pub fn lldt(&mut self, selector: u16) -> Result<(), Trap> {
        self.require_protected_cpl0()?;
        self.intercept(exit::WRITE_LDTR)?;
        self.load_ldtr(selector, vector::GP)
    }

    /// Loads LDTR; `bad` is raised where LLDT raises #GP.
    pub(super) fn load_ldtr(&mut self, selector: u16, bad: u8) -> Result<(), Trap> {
        let error = Some(selector_error(selector));
        if is_null(selector) {
            self.state.ldtr = Segment { selector, ..Segment::default() };
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(self.raise(bad, error));
        }
        let (descriptor, at) = self.descriptor(selector, bad)?;
        if !descriptor.is_system() || descriptor.kind() != kind::LDT {
            return Err(self.raise(bad, error));
        }
        if !descriptor.present() {
            let vector = if bad == vector::TS { vector::TS } else { vector::NP };
            return Err(self.raise(vector, error));
        }
        let mut segment = descriptor.segment(selector);
        if self.mode.long {
            segment.base |= self.descriptor_upper(selector, at)? << 32;
            if !self.is_canonical_register(segment.base) {
                return Err(self.gp(selector_error(selector)));
            }
        }
        self.state.ldtr = segment;
        Ok(())
    }

    /// LTR.
    pub fn ltr(&mut self, selector: u16) -> Result<(), Trap> {
        self.require_protected_cpl0()?;
        self.intercept(exit::WRITE_TR)?;
        let error = selector_error(selector);
        if is_null(selector) || selector & 4 != 0 {
            return Err(self.gp(error & !3));
        }
        let (descriptor, at) = self.descriptor(selector, vector::GP)?;
        let free = match descriptor.kind() {
            kind::TSS32 => true,
            kind::TSS16 => !self.mode.long,
            _ => false,
        };
        if !descriptor.is_system() || !free {
            return Err(self.gp(error));
        }
        if !descriptor.present() {
            return Err(self.raise(vector::NP, Some(error)));
        }
        let mut segment = descriptor.segment(selector);
        if self.mode.long {
            segment.base |= self.descriptor_upper(selector, at)? << 32;
            if !self.is_canonical_register(segment.base) {
                return Err(self.gp(selector_error(selector)));
            }
        }
        segment.attr |= 2;
        self.store_implicit(at.wrapping_add(5), segment.attr as u8)?;
        self.state.tr = segment;
        Ok(())
    }

    /// SLDT.
    pub fn sldt(&mut self) -> Result<u16, Trap> {
        self.require_protected()?;
        self.check_umip()?;
        self.intercept(exit::READ_LDTR)?;
        Ok(self.state.ldtr.selector)
    }

    /// STR.
    pub fn str(&mut self) -> Result<u16, Trap> {
        self.require_protected()?;
        self.check_umip()?;
        self.intercept(exit::READ_TR)?;
        Ok(self.state.tr.selector)
    }

    /// LGDT from the operand at `linear`.
    pub fn lgdt(&mut self, linear: u64, opsize: u32) -> Result<(), Trap> {
        self.state.gdtr = self.load_table_register(linear, opsize, exit::WRITE_GDTR)?;
        Ok(())
    }

    /// LIDT from the operand at `linear`.
    pub fn lidt(&mut self, linear: u64, opsize: u32) -> Result<(), Trap> {
        self.state.idtr = self.load_table_register(linear, opsize, exit::WRITE_IDTR)?;
        Ok(())
    }

    fn load_table_register(
        &mut self,
        linear: u64,
        opsize: u32,
        exit: u64,
    ) -> Result<TableReg, Trap> {
        self.require_cpl0()?;
        self.intercept(exit)?;
        let wide = self.mode.code_bits == 64;
        let mut bytes = [0; 10];
        let len = if wide { 10 } else { 6 };
        self.load_bytes(linear, &mut bytes[..len])?;
        let limit = u16::from_le_bytes([bytes[0], bytes[1]]);
        let mut raw = [0; 8];
        raw.copy_from_slice(&bytes[2..]);
        let mut base = u64::from_le_bytes(raw);
        if wide && !self.is_canonical_register(base) {
            return Err(self.gp(0));
        }
        if !wide && opsize == 2 {
            base &= 0xff_ffff;
        }
        Ok(TableReg { base, limit })
    }

    /// SGDT to the operand at `linear`.
    pub fn sgdt(&mut self, linear: u64) -> Result<(), Trap> {
        self.check_umip()?;
        self.intercept(exit::READ_GDTR)?;
        self.store_table_register(linear, self.state.gdtr)
    }

    /// SIDT to the operand at `linear`.
    pub fn sidt(&mut self, linear: u64) -> Result<(), Trap> {
        self.check_umip()?;
        self.intercept(exit::READ_IDTR)?;
        self.store_table_register(linear, self.state.idtr)
    }

    fn store_table_register(&mut self, linear: u64, table: TableReg) -> Result<(), Trap> {
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
        bytes[2..].copy_from_slice(&table.base.to_le_bytes());
        let len = if self.mode.code_bits == 64 { 10 } else { 6 };
        self.store_bytes(linear, &bytes[..len])
    }

    /// Whether LAR, LSL, VERR and VERW may look at a selector's descriptor.
    fn visible(&mut self, selector: u16) -> Result<Option<(Descriptor, u64)>, Trap> {
        self.require_protected()?;
        if is_null(selector) || self.descriptor_address(selector).is_none() {
            return Ok(None);
        }
        let (descriptor, at) = self.descriptor(selector, vector::GP)?;
        let conforming = descriptor.is_code() && descriptor.is_conforming();
        if !conforming && descriptor.dpl() < self.mode.cpl.max(rpl(selector)) {
            return Ok(None);
        }
        Ok(Some((descriptor, at)))
    }

    /// LAR: the access rights, or `None` for ZF = 0.
    pub fn lar(&mut self, selector: u16) -> Result<Option<u32>, Trap> {
        let Some((descriptor, _)) = self.visible(selector)? else { return Ok(None) };
        let valid = !descriptor.is_system()
            || match descriptor.kind() {
                kind::LDT | kind::TSS32 | kind::TSS32_BUSY | kind::CALL32 => true,
                kind::TSS16 | kind::TSS16_BUSY | kind::CALL16 | kind::TASK_GATE => !self.mode.long,
                _ => false,
            };
        Ok(valid.then(|| descriptor.high() & 0x00f0_ff00))
    }

    /// LSL: the limit, or `None` for ZF = 0.
    pub fn lsl(&mut self, selector: u16) -> Result<Option<u32>, Trap> {
        let Some((descriptor, _)) = self.visible(selector)? else { return Ok(None) };
        let valid = !descriptor.is_system()
            || match descriptor.kind() {
                kind::LDT | kind::TSS32 | kind::TSS32_BUSY => true,
                kind::TSS16 | kind::TSS16_BUSY => !self.mode.long,
                _ => false,
            };
        Ok(valid.then(|| descriptor.limit()))
    }

    /// VERR.
    pub fn verr(&mut self, selector: u16) -> Result<bool, Trap> {
        Ok(self.visible(selector)?.is_some_and(|(descriptor, _)| descriptor.is_readable()))
    }

    /// VERW.
    pub fn verw(&mut self, selector: u16) -> Result<bool, Trap> {
        Ok(self.visible(selector)?.is_some_and(|(descriptor, _)| descriptor.is_writable_data()))
    }

    /// #UD unless in protected mode.
    pub(super) fn require_protected(&mut self) -> Result<(), Trap> {
        if self.mode.protected { Ok(()) } else { Err(self.undefined()) }
    }

    pub(super) fn require_protected_cpl0(&mut self) -> Result<(), Trap> {
        self.require_protected()?;
        self.require_cpl0()
    }

    /// #GP(0) unless at CPL 0.
    pub(crate) fn require_cpl0(&mut self) -> Result<(), Trap> {
        if self.mode.cpl == 0 { Ok(()) } else { Err(self.gp(0)) }
    }

    /// #GP(0) if CR4.UMIP keeps user code from looking.
    pub(super) fn check_umip(&mut self) -> Result<(), Trap> {
        if self.mode.cpl != 0 && self.cr4_has(crate::state::cr4::UMIP) {
            return Err(self.gp(0));
        }
        Ok(())
    }
}

/// SS holding a null selector, as 64-bit code below ring 3 may have it.
pub(super) fn null_stack(selector: u16, cpl: u8) -> Segment {
    let attr = attr::PRESENT | attr::S | 3 | u16::from(cpl) << attr::DPL_SHIFT | attr::BIG;
    Segment { selector, base: 0, limit: 0xffff_ffff, attr }
}
