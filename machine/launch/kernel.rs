//! Starting a kernel: by ourselves, which is fast, or behind firmware, if the operator names one or the kernel calls
//! the BIOS.

use std::sync::Arc;

use cpu::state::{CpuState, Seg, Segment, TableReg, cr0};
use cpu::vcpu::Vcpus;
use hw::firmware::acpi::AcpiFiles;
use hw::firmware::e820::Entry;
use hw::firmware::fw_cfg::{FwCfg, item};
use hw::firmware::mptable::Processor;
use hw::firmware::smbios::SmbiosFiles;
use hw::registry::Fact;
use parking_lot::Mutex;

use super::fault;
use super::handover::{self, Handover};
use super::processors::Processors;
use crate::boot::entry::{self, CpuEntry, Segment as EntrySegment};
use crate::boot::starter::{self, Screen};
use crate::boot::tables::{self, Inputs, Placed};
use crate::boot::{self, BootImage, Module, mtrr, multiboot};
use crate::config::{ConfigError, KernelConfig, Origin};
use crate::pc::board::Pc;
use crate::pc::memory::ABOVE_4G;
use crate::pc::roms;
use crate::pc::setup;
use crate::pc::tables::Description;

/// Files of a kernel to start, read once.
pub(super) struct Kernel {
    name: String,
    image: Vec<u8>,
    command_line: String,
    modules: Vec<Module>,
    device_tree: Option<Vec<u8>>,
    long_mode: bool,
    phys_bits: u32,
    /// Firmware runs first, and does what we would do else.
    behind_firmware: bool,
    /// Where the operating system says how it wants to be woken; known once the tables are placed.
    facs: Mutex<Option<u64>>,
    /// What goes into memory when the display has been set up.
    prepared: Mutex<Option<Prepared>>,
}

/// A kernel that can start, and what firmware would have left for it.
struct Prepared {
    tables: Placed,
    image: BootImage,
}

/// Offset of the waking vector in the FACS (ACPI 6.5, table 5.12).
const WAKING_VECTOR: u64 = 12;

/// Reads a file; `fault` is how messages begin when that fails.
fn read(path: &str, fault: &str) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|error| {
        let reason = base::report::strerror(&error);
        ConfigError::at(&Origin::Loader, format!("{fault}: {reason}"))
    })
}

impl Kernel {
    /// Reads what `-kernel` and its companions name.
    pub fn read(
        config: &KernelConfig,
        firmware_is_named: bool,
        processors: &Processors,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(name) = config.kernel.clone() else { return Ok(None) };
        let image = read(&name, &format!("could not open kernel file '{name}'"))?;
        let files = match &config.initrd {
            None => Vec::new(),
            Some(list) if multiboot::find_header(&image).is_some() => {
                multiboot::split_modules(list)
            }
            Some(path) => vec![multiboot::ModuleName { file: path.clone(), text: path.clone() }],
        };
        let modules = files
            .into_iter()
            .map(|module| {
                let fault = format!("error reading initrd {}", module.file);
                Ok(Module { data: read(&module.file, &fault)?, text: module.text })
            })
            .collect::<Result<_, ConfigError>>()?;
        let tree = |path: &String| read(path, &format!("error reading dtb {path}"));
        let device_tree = config.dtb.as_ref().map(tree).transpose()?;
        let command_line = config.append.clone().unwrap_or_default();
        let mut kernel = Kernel {
            name,
            image,
            command_line,
            modules,
            device_tree,
            long_mode: processors.long_mode(),
            phys_bits: processors.model.phys_bits(),
            behind_firmware: false,
            facs: Mutex::default(),
            prepared: Mutex::default(),
        };
        let calls_bios = boot::calls_bios(&kernel.request(&[], 0, None));
        kernel.behind_firmware = firmware_is_named || calls_bios;
        Ok(Some(kernel))
    }

    /// Whether firmware runs before it.
    pub fn is_behind_firmware(&self) -> bool {
        self.behind_firmware
    }

    /// Gives firmware a ROM to boot from, and what it needs to start a kernel of Linux in its own way. Returns what
    /// the list of what is booted begins with.
    pub fn tell_firmware(&self, about: &Tables, fw_cfg: &mut FwCfg) -> Result<Fact, ConfigError> {
        const ROM: &str = "kernel.bin";
        roms::add(fw_cfg, ROM, starter::boot_rom(), false).map_err(fault)?;
        let top = tables::RESERVED_BY_FIRMWARE;
        let map = about.description.map_for_kernel(top);
        let usable = about.description.memory.0.saturating_sub(top);
        let request = self.request(&map, usable, None);
        let refuse = |error: boot::BootError| ConfigError::at(&Origin::Loader, error.to_string());
        if let Some(files) = boot::for_loader(&request).map_err(refuse)? {
            let mut add = |(at, data): (u64, Vec<u8>), [address, size, content]: [u16; 3]| {
                fw_cfg.set_item(address, (at as u32).to_le_bytes().to_vec());
                fw_cfg.set_item(size, (data.len() as u32).to_le_bytes().to_vec());
                fw_cfg.set_item(content, data);
            };
            add(files.code, [item::KERNEL_ADDRESS, item::KERNEL_SIZE, item::KERNEL_DATA]);
            add(files.initrd, [item::INITRD_ADDRESS, item::INITRD_SIZE, item::INITRD_DATA]);
            let command_line =
                [item::COMMAND_LINE_ADDRESS, item::COMMAND_LINE_SIZE, item::COMMAND_LINE_DATA];
            add(files.command_line, command_line);
            add(files.setup, [item::SETUP_ADDRESS, item::SETUP_SIZE, item::SETUP_DATA]);
            fw_cfg.set_file("etc/boot/kernel", self.image.clone()).map_err(fault)?;
        }
        let path = format!("/rom@{}", roms::file_name(ROM, false));
        Ok(Fact::Bootable { index: 0, path })
    }

    /// Has firmware begin, or does its work and has the display set up by its ROM. The kernel starts after that.
    fn enter(&self, pc: &Pc, about: &Tables, vcpus: &Vcpus) -> Result<(), boot::BootError> {
        if self.behind_firmware {
            *self.prepared.lock() = Some(self.prepare(pc, about)?);
            return Ok(());
        }
        setup::set_up(pc);
        *self.prepared.lock() = Some(self.prepare(pc, about)?);
        leave_smm_handler(pc);
        self.prepare_processors(pc, vcpus);
        setup::open_roms(pc);
        let (writes, entry) = starter::prepare(handover::display_rom(pc).as_ref());
        writes.iter().for_each(|(at, bytes)| pc.map.ram.write(*at, bytes));
        start(vcpus, entry);
        Ok(())
    }

    fn prepare(&self, pc: &Pc, about: &Tables) -> Result<Prepared, boot::BootError> {
        let present = about.description.cpus.iter().filter(|cpu| cpu.present);
        let processors: Vec<_> = present
            .enumerate()
            .map(|(n, cpu)| Processor { apic_id: cpu.apic_id, boot: n == 0 })
            .collect();
        let below_4g = about.description.memory.0;
        let tables = tables::place(&Inputs {
            acpi: about.acpi.as_ref(),
            smbios: Some(&about.smbios_of_kernel),
            processors: &processors,
            cpuid: about.description.processor_id,
            pci_interrupts: &setup::pci_interrupts(pc),
            below_4g,
        })?;
        let map = about.description.map_for_kernel(tables.reserved_top);
        let usable = below_4g.saturating_sub(tables.reserved_top);
        // Firmware has its own place for the root of the tables.
        let rsdp = tables.rsdp.filter(|_| !self.behind_firmware);
        let image = boot::load(&self.request(&map, usable, rsdp))?;
        Ok(Prepared { tables, image })
    }

    fn request<'a>(
        &'a self,
        memory_map: &'a [Entry],
        usable_below_4g: u64,
        rsdp: Option<u64>,
    ) -> boot::Request<'a> {
        boot::Request {
            name: &self.name,
            kernel: &self.image,
            command_line: &self.command_line,
            modules: &self.modules,
            memory_map,
            usable_below_4g,
            rsdp,
            device_tree: self.device_tree.as_deref(),
            long_mode: self.long_mode,
        }
    }

    /// Puts the kernel into memory and the first processor at its entry.
    fn start(&self, pc: &Pc, vcpus: &Vcpus) {
        let Some(Prepared { tables, image }) = self.prepared.lock().take() else { return };
        if self.behind_firmware {
            // It has placed the tables.
            store(pc, &[], &image);
        } else {
            setup::close_roms(pc);
            store(pc, &tables.writes, &image);
            *self.facs.lock() = tables.facs;
        }
        let mut bios_data = [0; Screen::BIOS_DATA_END];
        pc.map.ram.read(0, &mut bios_data);
        if let (Some(screen), Some(at)) = (Screen::read(&bios_data), image.screen_info) {
            pc.map.ram.write(at, &screen.for_linux());
        }
        start(vcpus, image.entry);
    }

    /// Goes on where the operating system wants to after suspend to RAM, as firmware would.
    fn wake(&self, pc: &Pc, vcpus: &Vcpus) {
        if self.behind_firmware {
            return;
        }
        self.prepare_processors(pc, vcpus);
        let facs = *self.facs.lock();
        let vector = facs.map_or(0, |facs| {
            let mut vector = [0; 4];
            pc.map.ram.read(facs + WAKING_VECTOR, &mut vector);
            u32::from_le_bytes(vector)
        });
        if vector == 0 {
            base::guest_error!("suspended without a vector to wake up by");
        }
        start(vcpus, entry::waking(vector));
    }

    /// What firmware programs on every processor.
    fn prepare_processors(&self, pc: &Pc, vcpus: &Vcpus) {
        let (below_4g, phys_bits) = (pc.map.below_4g, self.phys_bits);
        for index in 0..vcpus.count() {
            vcpus.run_on(index, move |engine| {
                engine.with_state(&mut |state| {
                    state.msr.smbase = SMBASE;
                    mtrr::set(&mut state.msr, below_4g, phys_bits);
                });
            });
        }
    }
}

/// What the tables placed for a kernel are made of.
pub(super) struct Tables {
    pub description: Description,
    pub acpi: Option<AcpiFiles>,
    /// For firmware, which adds a structure about itself.
    pub smbios: SmbiosFiles,
    /// The same with such a structure.
    pub smbios_of_kernel: SmbiosFiles,
}

/// Firmware leaves a handler for system management interrupts behind, since writing the APM port
/// raises them. There is nothing for it to do but to return.
fn leave_smm_handler(pc: &Pc) {
    const ENTRY: u64 = SMBASE + 0x8000;
    const RSM: [u8; 2] = [0x0f, 0xaa];
    pc.map.ram.write(ENTRY, &RSM);
}

const SMBASE: u64 = 0xa_0000;

/// Has the first processor begin at `entry`.
fn start(vcpus: &Vcpus, entry: CpuEntry) {
    vcpus.run_on(0, move |engine| engine.with_state(&mut |state| apply(&entry, state)));
}

static ZEROS: [u8; 0x1_0000] = [0; 0x1_0000];

/// Writes into RAM itself, whatever the memory map shows above it.
fn store(pc: &Pc, tables: &[(u64, Vec<u8>)], image: &BootImage) {
    let map = &pc.map;
    for &(at, len) in &image.clears {
        let end = at.saturating_add(len).min(map.below_4g);
        for start in (at..end).step_by(ZEROS.len()) {
            map.ram.write(start, &ZEROS[..ZEROS.len().min((end - start) as usize)]);
        }
    }
    for (at, data) in tables.iter().chain(&image.writes) {
        match at.checked_sub(ABOVE_4G) {
            Some(above) => map.ram.write(above + map.below_4g, data),
            None => map.ram.write(*at, data),
        }
    }
}

fn segment(from: &EntrySegment) -> Segment {
    Segment { selector: from.selector, base: from.base, limit: from.limit, attr: from.access }
}

/// Puts a processor into the state that the kernel expects.
fn apply(entry: &CpuEntry, state: &mut CpuState) {
    state.halted = false;
    state.regs[..16].copy_from_slice(&entry.gprs);
    state.rip = entry.rip;
    state.flags.set(entry.rflags);
    for (n, target) in state.seg.iter_mut().enumerate() {
        *target = segment(if n == Seg::Cs as usize { &entry.cs } else { &entry.data });
    }
    state.tr = segment(&entry.tr);
    state.gdtr = TableReg { base: entry.gdt.base, limit: entry.gdt.limit };
    state.idtr = TableReg { base: entry.idt.base, limit: entry.idt.limit };
    // Firmware has enabled the caches.
    state.cr0 = entry.cr0 & !(cr0::CD | cr0::NW);
    state.cr3 = entry.cr3;
    state.cr4 = entry.cr4;
    state.msr.efer = entry.efer;
}

/// What runs after a reset: a kernel, or firmware that starts by itself.
pub(super) struct Start {
    pub kernel: Option<Kernel>,
    /// When the kernel's turn has come.
    pub handover: Handover,
    pub tables: Tables,
    /// Why the kernel could not be placed, for the program to report.
    pub failure: Arc<Mutex<Option<ConfigError>>>,
}

impl Start {
    pub fn enter(&self, pc: &Pc, vcpus: &Vcpus) {
        let Some(kernel) = &self.kernel else { return };
        self.handover.open();
        if let Err(error) = kernel.enter(pc, &self.tables, vcpus) {
            let origin = match error {
                boot::BootError::NoPvhNote => Origin::None,
                _ => Origin::Loader,
            };
            *self.failure.lock() = Some(ConfigError::at(&origin, error.to_string()));
        }
    }

    /// The display has been set up.
    pub fn start_kernel(&self, pc: &Pc, vcpus: &Vcpus) {
        if let Some(kernel) = self.kernel.as_ref().filter(|_| self.handover.take()) {
            kernel.start(pc, vcpus);
        }
    }

    /// What runs after suspend to RAM; firmware finds its way by itself.
    pub fn wake(&self, pc: &Pc, vcpus: &Vcpus) {
        if let Some(kernel) = &self.kernel {
            kernel.wake(pc, vcpus);
        }
    }
}
