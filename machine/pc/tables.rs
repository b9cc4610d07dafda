//! What the board tells firmware and guests about itself: ACPI, SMBIOS, the memory map, and the items
//! of the configuration device that carry them.

use hw::acpi::cpu_hotplug::PossibleCpu;
use hw::firmware::acpi::{self, AcpiFiles, LegacyPort};
use hw::firmware::e820::{self, Layout};
use hw::firmware::fw_cfg::{FwCfg, FwCfgError, item};
use hw::firmware::smbios::{self, SmbiosFiles};
use hw::pci::{PciFunction, reg};
use hw::timer::hpet;

use super::memory::ABOVE_4G;

use super::board::is_board_slot;

/// First address that PCI devices may use below 4 GiB.
const PCI_HOLE_END: u32 = 0xfebf_ffff;
/// Room for PCI devices above RAM.
const PCI_HOLE_64_SIZE: u64 = 2 << 30;
const GIB: u64 = 1 << 30;
/// Port of the serial line that SeaBIOS uses as its console.
const SERIAL_CONSOLE_FILE: &str = "etc/sercon-port";
const COM1: u64 = 0x3f8;
const FW_CFG_PORT: u16 = hw::firmware::fw_cfg::FW_CFG_PORT as u16;

/// Everything the tables depend on.
pub struct Description {
    /// Bytes of RAM below and above 4 GiB.
    pub memory: (u64, u64),
    /// All possible processors.
    pub cpus: Vec<PossibleCpu>,
    /// Processors per socket and per core.
    pub threads_per_socket: u32,
    /// Cores per socket.
    pub cores_per_socket: u32,
    /// Sockets.
    pub sockets: u32,
    /// CPUID leaf 1: EAX and EDX.
    pub processor_id: (u32, u32),
    /// The machine type, with version.
    pub machine: String,
    /// `-nographic`: firmware talks to the first serial port.
    pub no_graphic: bool,
    /// Firmware shows its messages on the first serial port.
    pub serial_console: bool,
    /// `-uuid`.
    pub uuid: [u8; 16],
    /// Functions on the root bus.
    pub pci: Vec<PlacedFunction>,
    /// Serial ports: number, first port and interrupt.
    pub serial: Vec<LegacyPort>,
    /// Parallel ports.
    pub parallel: Vec<LegacyPort>,
    /// Floppy drives, by place.
    pub floppy_drives: [Option<acpi::FloppyDrive>; 2],
    /// Whether there is a PS/2 controller.
    pub keyboard: bool,
    /// Identification in ACPI tables.
    pub oem: acpi::Oem,
    /// Format of the SMBIOS entry point.
    pub entry_point: smbios::EntryPoint,
    /// `_UID` of the PCI root.
    pub pci_root_uid: u8,
    /// Whether there is an HPET.
    pub hpet: bool,
    /// Port of the CPU hot-plug controller.
    pub cpu_hotplug: Option<u16>,
    /// Port of the PCI hot-plug controller.
    pub pci_hotplug: Option<u16>,
    /// Port of the panic device.
    pub pvpanic: Option<u16>,
    /// The generation identifier, as it lies in memory.
    pub generation_id: Option<[u8; 16]>,
    /// NUMA nodes, if there are any.
    pub numa: Option<acpi::Numa>,
    /// The node of each possible processor.
    pub cpu_nodes: Vec<u32>,
    /// S3 is offered.
    pub s3: bool,
    /// Sleep type of S4, if it is offered.
    pub s4: Option<u8>,
}

/// A function on the root bus.
pub struct PlacedFunction {
    devfn: u8,
    name: String,
    /// Whether it is a display adapter with a VGA's ports.
    is_vga: bool,
}

impl PlacedFunction {
    /// As it was plugged.
    pub fn of(function: &PciFunction) -> Self {
        const VGA: u16 = 0x0300;
        PlacedFunction {
            devfn: function.devfn(),
            name: function.name().to_owned(),
            is_vga: function.config().u16(reg::SUBCLASS) == VGA,
        }
    }
}

impl Description {
    fn layout(&self) -> Layout {
        Layout {
            below_4g: self.memory.0,
            above_4g: self.memory.1,
            hypertransport_hole: true,
            kvm_pages: false,
        }
    }

    /// The memory map for firmware.
    pub fn map_for_firmware(&self) -> Vec<e820::Entry> {
        e820::for_firmware(&self.layout())
    }

    /// The memory map for a kernel that is started without firmware.
    pub fn map_for_kernel(&self, reserved_top: u64) -> Vec<e820::Entry> {
        e820::for_kernel(&self.layout(), reserved_top)
    }

    fn pci_bus(&self) -> acpi::PciBus {
        let functions = self
            .pci
            .iter()
            .map(|function| acpi::PciFunction {
                devfn: function.devfn,
                kind: if function.name == "PIIX3" {
                    acpi::PciKind::IsaBridge(acpi::IsaDevices {
                        pvpanic: self.pvpanic,
                        keyboard: self.keyboard,
                        floppy: Some(self.floppy_drives),
                        parallel: self.parallel.clone(),
                        serial: self.serial.clone(),
                        rtc: true,
                    })
                } else if function.is_vga {
                    acpi::PciKind::Display
                } else {
                    acpi::PciKind::Plain
                },
                hotpluggable: !is_board_slot(function.devfn >> 3) && !function.is_vga,
            })
            .collect();
        acpi::PciBus { hotplug_number: self.pci_hotplug.map(|_| 0), functions }
    }

    /// The ACPI tables.
    pub fn acpi(&self) -> AcpiFiles {
        let cpus = self.cpus.iter().enumerate().map(|(index, cpu)| acpi::Cpu {
            apic_id: cpu.apic_id,
            present: cpu.present,
            removable: index > 0,
            node: self.numa.as_ref().and_then(|_| self.cpu_nodes.get(index).copied()),
        });
        let hole64 = (ABOVE_4G + self.memory.1).next_multiple_of(GIB);
        acpi::build(&acpi::Board {
            oem: self.oem.clone(),
            cpus: cpus.collect(),
            power: acpi::PowerManagement { s3: self.s3, s4: self.s4, ..Default::default() },
            pci_root_uid: self.pci_root_uid,
            pci: self.pci_bus(),
            pci_window: (self.memory.0 as u32, PCI_HOLE_END),
            pci_window64: Some((hole64, hole64 + PCI_HOLE_64_SIZE - 1)),
            express: None,
            cpu_hotplug: self.cpu_hotplug,
            pci_hotplug: self.pci_hotplug,
            fw_cfg: Some(FW_CFG_PORT),
            hpet: self.hpet,
            numa: self.numa.clone(),
            generation_id: self.generation_id,
        })
    }

    /// What the SMBIOS structures say unless the operator says otherwise.
    pub fn smbios_hardware(&self) -> smbios::Hardware {
        smbios::Hardware {
            entry_point: self.entry_point,
            manufacturer: "QEMU".into(),
            product: "Standard PC (i440FX + PIIX, 1996)".into(),
            version: self.machine.clone(),
            uuid: smbios::Uuid(self.uuid),
            processor_id: self.processor_id,
            sockets: self.sockets,
            cores_per_socket: self.cores_per_socket,
            threads_per_socket: self.threads_per_socket,
            memory: self.memory,
            largest_module: 16 * GIB,
        }
    }

    /// Fills the configuration device.
    pub fn store(
        &self,
        fw_cfg: &mut FwCfg,
        acpi: Option<&AcpiFiles>,
        smbios: &SmbiosFiles,
    ) -> Result<(), FwCfgError> {
        let present = self.cpus.iter().filter(|cpu| cpu.present).count();
        let last_id = self.cpus.iter().map(|cpu| cpu.apic_id).max().unwrap_or(0);
        let total = self.memory.0 + self.memory.1;
        fw_cfg.set_item(item::RAM_SIZE, total.to_le_bytes().to_vec());
        fw_cfg.set_item(item::CPU_COUNT, (present as u16).to_le_bytes().to_vec());
        // Firmware waits for APIC ids below this one.
        fw_cfg.set_item(item::MAX_CPUS, (last_id as u16 + 1).to_le_bytes().to_vec());
        fw_cfg.set_item(item::UUID, self.uuid.to_vec());
        fw_cfg.set_item(item::NO_GRAPHIC, u16::from(self.no_graphic).to_le_bytes().to_vec());
        if self.serial_console {
            fw_cfg.set_file(SERIAL_CONSOLE_FILE, COM1.to_le_bytes().to_vec())?;
        }
        fw_cfg.set_item(item::IRQ0_OVERRIDE, 1u32.to_le_bytes().to_vec());
        fw_cfg.set_item(item::HPET, hpet::describe(self.hpet));
        fw_cfg.set_file(e820::FILE, e820::encode(&self.map_for_firmware()))?;
        for (name, data) in acpi.iter().flat_map(|acpi| acpi.files()) {
            fw_cfg.set_file(name, data)?;
        }
        fw_cfg.set_file("etc/system-states", self.system_states().to_vec())?;
        fw_cfg.set_file(smbios::ANCHOR_FILE, smbios.anchor.clone())?;
        fw_cfg.set_file(smbios::TABLES_FILE, smbios.tables.clone())?;
        Ok(())
    }

    /// Which sleep states there are, S0 to S5, and the sleep type of each.
    fn system_states(&self) -> [u8; 6] {
        const PRESENT: u8 = 1 << 7;
        let s3 = if self.s3 { PRESENT | 1 } else { 1 };
        let s4 = self.s4.map_or(0, |sleep_type| PRESENT | sleep_type);
        [PRESENT, 0, 0, s3, s4, PRESENT]
    }
}
