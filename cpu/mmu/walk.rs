//! Page walks: 32-bit, PAE, 4-level and 5-level paging (SDM vol. 3, chapter 4).

use super::Format;
use super::tlb::Walked;
use super::{Access, Context};
use crate::core::Cpu;
use crate::cpuid::{Vendor, feature};
use crate::state::{cr0, cr4, efer};
use crate::svm::{NestedFault, Purpose};

/// Bits of the #PF error code (SDM vol. 3, 4.7).
pub(crate) mod code {
    pub const PRESENT: u32 = 1;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const RESERVED: u32 = 1 << 3;
    pub const FETCH: u32 = 1 << 4;
    pub const KEY: u32 = 1 << 5;
}

/// Bits of paging-structure entries.
pub(crate) mod entry {
    pub const PRESENT: u64 = 1;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const GLOBAL: u64 = 1 << 8;
    pub const NX: u64 = 1 << 63;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// Bits `from..=to`.
pub(crate) const fn bits(from: u32, to: u32) -> u64 {
    if from > to { 0 } else { (!0 >> (63 - to)) & (!0 << from) }
}

/// Why a walk failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refused {
    /// By the page tables: a #PF error code.
    Page(u32),
    /// By the tables of the host that runs this guest.
    Nested(NestedFault),
}

impl From<u32> for Refused {
    fn from(code: u32) -> Self {
        Refused::Page(code)
    }
}

impl From<NestedFault> for Refused {
    fn from(fault: NestedFault) -> Self {
        Refused::Nested(fault)
    }
}

/// The lower `width` bits of `linear`, with the highest of these repeated above.
pub(crate) fn sign_extend(linear: u64, width: u32) -> u64 {
    let unused = 64 - width;
    ((linear << unused) as i64 >> unused) as u64
}

/// Whether the bits of `linear` above its lower `width` repeat the highest of these.
fn sign_extends(linear: u64, width: u32) -> bool {
    sign_extend(linear, width) == linear
}

/// One of the walk's steps, for setting its accessed bit at the end.
#[derive(Clone, Copy, Default)]
struct Step {
    at: u64,
    value: u64,
}

impl Cpu {
    /// The layout of page tables.
    fn format(&self) -> Format {
        Format::of(&self.state, self.model.has(feature::PDPE1GB))
    }

    /// Whether `linear` is canonical for the number of levels in use (SDM vol. 1, 3.3.7.1).
    pub(crate) fn is_canonical(&self, linear: u64) -> bool {
        sign_extends(linear, if self.cr4_has(cr4::LA57) { 57 } else { 48 })
    }

    /// Whether `linear` is canonical as a memory operand, after linear-address masking.
    pub(crate) fn is_canonical_data(&self, linear: u64) -> bool {
        self.is_canonical(self.mode.lam.untag(linear))
    }

    /// Whether a register that holds an address takes `linear`: processors look at what they are
    /// capable of, not at the number of levels in use.
    pub(crate) fn is_canonical_register(&self, linear: u64) -> bool {
        sign_extends(linear, self.linear_bits())
    }

    /// How many bits of linear addresses the processor is capable of.
    pub(crate) fn linear_bits(&self) -> u32 {
        if self.model.has(feature::LA57) { 57 } else { 48 }
    }

    /// What the translations that are cached now depend on, beside page tables. Protection keys and
    /// the registers of breakpoints forget what they concern when they are written.
    pub(crate) fn translation_controls(&self) -> super::tlb::Controls {
        let state = &self.state;
        let nested = state.svm.nested;
        let nested = nested.map_or([0; 4], |paging| [1, paging.cr3, paging.cr4, paging.efer]);
        let own = [state.cr0, state.cr3, state.cr4, state.msr.efer, state.dr[7]];
        let mut controls = [0; 9];
        controls[..5].copy_from_slice(&own);
        controls[5..].copy_from_slice(&nested);
        // These do not concern translations, and guests come and go with them.
        controls[0] &= cr0::PG | cr0::PE | cr0::WP;
        controls
    }

    /// Translates for `access`, setting accessed and dirty bits.
    pub(crate) fn walk(&mut self, linear: u64, access: Access) -> Result<Walked, Refused> {
        let mut walked = self.walk_tables(linear, access)?;
        if let Some(paging) = self.state.svm.nested {
            let purpose = match (access.write, access.fetch) {
                (true, _) => Purpose::Write,
                (_, true) => Purpose::Fetch,
                _ => Purpose::Read,
            };
            let address = walked.phys;
            let page = self.nested_walk(paging, address, purpose);
            let page =
                page.map_err(|info| NestedFault { info, address: address | linear & 0xfff })?;
            walked.phys = page.phys;
            walked.dirty &= page.writable;
            walked.fetch_needs_walk = !page.executable;
        }
        Ok(walked)
    }

    fn walk_tables(&mut self, linear: u64, access: Access) -> Result<Walked, Refused> {
        if self.state.cr0 & cr0::PG == 0 {
            return Ok(Walked {
                phys: linear & 0xffff_f000,
                writable: true,
                user: true,
                executable: true,
                dirty: true,
                shift: 12,
                ..Walked::default()
            });
        }
        loop {
            if let Some(walked) = self.try_walk(linear, access)? {
                return Ok(walked);
            }
        }
    }

    /// One attempt; `None` if an entry changed under the walk.
    fn try_walk(&mut self, linear: u64, access: Access) -> Result<Option<Walked>, Refused> {
        let format = self.format();
        let size = format.entry_size();
        let base_code = self.access_code(access);
        let phys_bits = self.model.phys_bits();
        let nxe = self.state.msr.efer & efer::NXE != 0;

        let (mut table, mut shift) = (format.root(self.state.cr3), format.top());
        if format.is_pae() {
            let pointer = self.pdpte((linear >> 30 & 3) as usize)?;
            if pointer & entry::PRESENT == 0 {
                return Err(base_code.into());
            }
            // Only VMRUN leaves one so: others are refused when they are loaded.
            if self.is_bad_pdpte(pointer) {
                return Err((base_code | code::PRESENT | code::RESERVED).into());
            }
            (table, shift) = (format.table(pointer), 21);
        }
        let mut reserved = if size == 4 { 0 } else { bits(phys_bits, 51) };
        if format.is_pae() {
            reserved |= bits(52, 62);
        }
        if size == 8 && !nxe {
            reserved |= entry::NX;
        }

        let mut steps = [Step::default(); 5];
        let mut depth = 0;
        let mut result =
            Walked { writable: true, user: true, executable: true, ..Walked::default() };
        loop {
            let index_bits = format.index_bits(shift);
            let at = table + (linear >> shift & ((1 << index_bits) - 1)) * size;
            let at = self.nested_entry(at)?;
            let value = self.read_entry(at, size);
            if value & entry::PRESENT == 0 {
                return Err(base_code.into());
            }
            let leaf = format.is_leaf(shift, value);
            let mut forbidden = reserved;
            if size == 8 && shift > 12 && value & entry::LARGE != 0 {
                // PS is reserved where no large page can be; in a large page, the address bits
                // below its size (bit 12 is PAT).
                forbidden |= if leaf { bits(13, shift - 1) } else { entry::LARGE };
            } else if size == 4 && shift == 22 && leaf {
                forbidden |= self.large4_reserved();
            }
            if format.is_long() && !leaf {
                forbidden |= self.table_reserved(shift, value);
            }
            if value & forbidden != 0 {
                return Err((base_code | code::PRESENT | code::RESERVED).into());
            }
            result.writable &= value & entry::WRITABLE != 0;
            result.user &= value & entry::USER != 0;
            result.executable &= size == 4 || value & entry::NX == 0;
            steps[depth] = Step { at, value };
            depth += 1;
            if leaf {
                let offset = bits(12, shift.max(13) - 1) * u64::from(shift > 12) & linear;
                result.phys = format.page(shift, value) | offset;
                result.shift = shift as u8;
                result.global = value & entry::GLOBAL != 0 && self.cr4_has(cr4::PGE);
                result.dirty = value & entry::DIRTY != 0;
                result.key = (value >> 59 & 15) as u8;
                break;
            }
            table = format.table(value);
            shift = format.below(shift);
        }
        self.permits(&result, access)?;
        if access.debug {
            return Ok(Some(result));
        }
        for (i, step) in steps.iter().take(depth).enumerate() {
            let mut want = entry::ACCESSED;
            if i + 1 == depth && access.write {
                want |= entry::DIRTY;
                result.dirty = true;
            }
            if step.value & want != want && !self.set_entry_bits(step.at, size, step.value, want) {
                return Ok(None);
            }
        }
        Ok(Some(result))
    }

    /// Bits that are reserved in an entry of 4- and 5-level paging that leads to another table: above
    /// page directories, AMD's processors reserve the bit that tells global pages (APM vol. 2, 5.4.1).
    pub(crate) fn table_reserved(&self, shift: u32, value: u64) -> u64 {
        // Hardly ever set, so that the vendor is hardly ever asked for.
        let reserves =
            value & entry::GLOBAL != 0 && shift >= 30 && self.model.vendor() == Vendor::Amd;
        if reserves { entry::GLOBAL } else { 0 }
    }

    /// Bits that are reserved in the entry of a 4 MiB page.
    pub(crate) fn large4_reserved(&self) -> u64 {
        let phys_bits = self.model.phys_bits();
        let top = if self.model.has(feature::PSE36) { phys_bits.min(40) } else { 32 };
        bits(top - 19, 21)
    }

    /// A PAE page-directory pointer: loaded with CR3, but under nested paging read as needed (APM
    /// vol. 2, 15.25.10).
    fn pdpte(&mut self, index: usize) -> Result<u64, NestedFault> {
        if self.state.svm.nested.is_none() {
            return Ok(self.state.pdpte[index]);
        }
        let at = self.nested_entry((self.state.cr3 & 0xffff_ffe0) + 8 * index as u64)?;
        Ok(self.read_entry(at, 8))
    }

    /// Whether the PAE page-directory pointers are in use.
    pub(crate) fn uses_pae_pointers(&self) -> bool {
        Format::is_used(&self.state) && self.format().is_pae()
    }

    /// The error-code bits that describe the access itself.
    fn access_code(&self, access: Access) -> u32 {
        let mut code = 0;
        if access.write {
            code |= code::WRITE;
        }
        if access.context.is_user() {
            code |= code::USER;
        }
        let nx_on = self.state.msr.efer & efer::NXE != 0 && self.cr4_has(cr4::PAE);
        if access.fetch && (nx_on || self.cr4_has(cr4::SMEP)) {
            code |= code::FETCH;
        }
        code
    }

    /// Checks a completed walk's permissions (SDM vol. 3, 4.6). The error is a #PF error code.
    pub(crate) fn permits(&self, page: &Walked, access: Access) -> Result<(), u32> {
        if self.state.cr0 & cr0::PG == 0 || access.debug {
            return Ok(());
        }
        // The key's bit is set whatever else stands in the way.
        let key = if self.key_permits(page, access) { 0 } else { code::KEY };
        if key == 0 && self.rights_permit(page, access) {
            return Ok(());
        }
        Err(self.access_code(access) | code::PRESENT | key)
    }

    /// Whether what the entries say of writing, executing and users permits an access.
    fn rights_permit(&self, page: &Walked, access: Access) -> bool {
        let write_protect = self.state.cr0 & cr0::WP != 0;
        if access.context.is_user() {
            if !page.user || access.write && !page.writable {
                return false;
            }
        } else {
            if page.user && access.fetch && self.cr4_has(cr4::SMEP) {
                return false;
            }
            if page.user
                && !access.fetch
                && self.cr4_has(cr4::SMAP)
                && access.context != Context::SupervisorOverUser
            {
                return false;
            }
            if access.write && !page.writable && write_protect {
                return false;
            }
        }
        !access.fetch || page.executable
    }

    /// Whether the page's protection key permits an access (SDM vol. 3, 4.6.2).
    fn key_permits(&self, page: &Walked, access: Access) -> bool {
        let keys = match page.user {
            true if self.cr4_has(cr4::PKE) => Some(self.state.pkru),
            false if self.cr4_has(cr4::PKS) => Some(self.state.msr.pkrs as u32),
            _ => None,
        };
        let Some(keys) = keys.filter(|_| !access.fetch && self.mode.long) else { return true };
        let rights = keys >> (2 * u32::from(page.key));
        let protects = access.context.is_user() || self.state.cr0 & cr0::WP != 0;
        rights & 1 == 0 && !(access.write && protects && rights & 2 != 0)
    }

    /// Loads the four PAE page-directory pointers from `cr3`; `false` if one has reserved bits set
    /// (SDM vol. 3, 4.4.1).
    #[must_use]
    pub(crate) fn load_pdptes(&mut self, cr3: u64) -> bool {
        if self.state.svm.nested.is_some() {
            return true;
        }
        let pointers = self.read_pdptes(cr3);
        let good = !pointers.iter().any(|pointer| self.is_bad_pdpte(*pointer));
        if good {
            self.state.pdpte = pointers;
        }
        good
    }

    /// The four PAE page-directory pointers at `cr3`.
    pub(crate) fn read_pdptes(&mut self, cr3: u64) -> [u64; 4] {
        let table = cr3 & 0xffff_ffe0;
        std::array::from_fn(|i| self.read_entry(table + 8 * i as u64, 8))
    }

    fn is_bad_pdpte(&self, pointer: u64) -> bool {
        let reserved = bits(1, 2) | bits(5, 8) | bits(self.model.phys_bits(), 63);
        pointer & entry::PRESENT != 0 && pointer & reserved != 0
    }
}
