//! The board itself: which chips there are, where they sit, how they are wired.

use std::sync::Arc;

use base::clock::Clocks;
use base::device::{self, AnyDevice, Shared};
use base::interrupt::{ApicBus, IntAck};
use base::irq::{FnSink, IrqLine, IrqSink, Patch, Probe};
use base::memory::{Dma, Region};
use base::request::RequestSink;
use hw::acpi::apm::APM_PORT;
use hw::acpi::cpu_hotplug::{
    CPU_HOTPLUG_GPE, CPU_HOTPLUG_PORT, CpuEvents, CpuHotplug, PossibleCpu,
};
use hw::acpi::pci_hotplug::{HotplugBus, PCI_HOTPLUG_GPE, PCI_HOTPLUG_PORT, PciHotplug};
use hw::dma::i8237::DmaPair;
use hw::firmware::fw_cfg::{FW_CFG_DMA_PORT, FW_CFG_PORT, FwCfg};
use hw::input::i8042::{COMMAND_PORT, DATA_PORT as KEYBOARD_PORT, I8042, I8042Wires};
use hw::intc::gsi::{GSI_COUNT, GsiFanout, PicPins};
use hw::intc::i8259::{ELCR_PORT, PRIMARY_PORT, Pic, PicAck, PicInputs, SECONDARY_PORT};
use hw::intc::ioapic::{IOAPIC_ADDRESS, Ioapic, IoapicInputs};
use hw::isa::IsaBus;
use hw::isa::port92::{self, Port92};
use hw::isa::ports::{self, COPROCESSOR_PORT, POST_PORT};
use hw::pci::host::{ADDRESS_PORT, ConfigPorts, DATA_PORT};
use hw::pci::i440fx::{I440Fx, intx_map};
use hw::pci::piix3::{Piix3, PirqRouter, RESET_PORT};
use hw::pci::piix4_pm::{GPE_PORT, Piix4Pm, PmConfig, PmWires};
use hw::pci::{PciBus, PciFunction, devfn};
use hw::storage::fdc::formats::DriveKind;
use hw::storage::fdc::{self, Fdc};
use hw::storage::piix3_ide::{self, Piix3Ide};
use hw::timer::hpet::{HPET_ADDRESS, Hpet, LegacyGate};
use hw::timer::i8254::{PIT_PORT, Pit, SPEAKER_PORT};
use hw::timer::rtc::{Rtc, RtcConfig, TimeChanged};

use super::cmos::CmosContent;
use super::memory::PcMemory;
use super::roms::OptionRoms;
use crate::MachineError;
use crate::data_files::DataFiles;

/// ISA interrupts of the board's own chips.
mod isa_irq {
    pub const TIMER: u32 = 0;
    pub const SCI: u32 = 9;
    pub const FPU: u32 = 13;
}

/// Slot of the south bridge.
const SOUTH_BRIDGE: u8 = 1;

/// Which of the chips that can be left out there are.
#[derive(Clone, Copy, Debug)]
pub struct Chips {
    /// The 8259 pair.
    pub pic: bool,
    /// The 8254 and port 61h.
    pub pit: bool,
    /// The keyboard controller and port 92h.
    pub i8042: bool,
    /// The HPET.
    pub hpet: bool,
    /// The power management function and the hot-plug controllers.
    pub acpi: bool,
}

/// What the operator chose.
pub struct PcConfig {
    /// Which of the chips that can be left out there are.
    pub chips: Chips,
    /// The BIOS image, if firmware is to run.
    pub bios: Option<Vec<u8>>,
    /// All possible processors.
    pub cpus: Vec<PossibleCpu>,
    /// `-boot order=`.
    pub boot_order: String,
    /// `-machine fd-bootchk=`.
    pub floppy_boot_check: bool,
    /// The real-time clock.
    pub rtc: RtcConfig,
    /// Its index register's port, and its interrupt.
    pub rtc_place: (u64, u32),
    /// Interrupts of keyboard and mouse.
    pub keyboard_irqs: [u32; 2],
    /// The floppy disk controller's first port, interrupt and DMA channel.
    pub floppy_place: (u64, u32, usize),
    /// What a floppy drive is whose disk tells nothing.
    pub floppy_fallback: Option<DriveKind>,
    /// Power management.
    pub pm: PmConfig,
    /// Whether firmware configuration can be read by DMA.
    pub fw_cfg_dma: bool,
    /// Where expansion ROMs are.
    pub data_files: DataFiles,
}

/// The 8259 pair, the I/O APIC and the interval timer of an accelerator. Nobody meets the board's
/// own then.
pub struct KernelChips {
    /// Their global system interrupts.
    pub gsi: Arc<dyn IrqSink>,
    /// Takes the interval timer's interrupt away, or gives it back.
    pub cut_timer: Box<dyn Fn(bool) + Send + Sync>,
}

/// What the board needs of the processors' side.
pub struct PcWires {
    /// Where interrupt messages go.
    pub apic_bus: Arc<dyn ApicBus>,
    /// The 8259 pair's output.
    pub intr: IrqLine,
    /// Chips that the accelerator has itself.
    pub kernel_chips: Option<KernelChips>,
    /// System management interrupt.
    pub smi: IrqLine,
    /// Address line 20, which the keyboard controller and port 92h drive.
    pub a20: IrqLine,
    /// The processors' FERR#.
    pub fpu_error: IrqLine,
    /// Where FERR# is to be connected.
    pub fpu_interrupt: Arc<Patch>,
    /// Wishes of devices that concern the whole machine.
    pub requests: RequestSink,
    /// Told when the guest sets the real-time clock.
    pub time_changed: TimeChanged,
    /// Told what the guest says about processors that come and go.
    pub cpu_events: CpuEvents,
    /// Takes devices that were taken off the root bus, while locks are held.
    pub ejected: Box<dyn Fn(Arc<PciFunction>) + Send + Sync>,
}

/// The hot-plug controllers, which the guest knows through ACPI.
pub struct Hotplug {
    /// Of processors.
    pub cpu: Shared<CpuHotplug>,
    /// Of the root bus.
    pub pci: Shared<PciHotplug>,
}

/// The board.
pub struct Pc {
    /// Memory and ports.
    pub map: PcMemory,
    /// The PCI bus.
    pub pci: Arc<PciBus>,
    /// The ISA bus.
    pub isa: IsaBus,
    /// The IDE controller.
    pub ide: Shared<Piix3Ide>,
    /// The floppy disk controller.
    pub fdc: Shared<Fdc>,
    /// Global system interrupts.
    pub gsi: Arc<dyn IrqSink>,
    /// The 8259s' inputs.
    pub pic_pins: Arc<PicPins>,
    /// The 8259 pair's output.
    pub intr: IrqLine,
    /// The I/O APIC's inputs.
    pub ioapic_inputs: Arc<Probe>,
    /// The 8259 pair.
    pub pic: Shared<Pic>,
    /// The I/O APIC.
    pub ioapic: Shared<Ioapic>,
    /// The interval timer.
    pub pit: Shared<Pit>,
    /// The real-time clock.
    pub rtc: Shared<Rtc>,
    /// The keyboard controller.
    pub keyboard: Option<Shared<I8042>>,
    /// Power management.
    pub pm: Option<Shared<Piix4Pm>>,
    /// The DMA controllers.
    pub dma: DmaPair,
    /// The HPET.
    pub hpet: Option<Shared<Hpet>>,
    /// The hot-plug controllers.
    pub hotplug: Option<Hotplug>,
    /// Firmware configuration.
    pub fw_cfg: Shared<FwCfg>,
    config_ports: Arc<ConfigPorts>,
    /// Everything that is reset and is not on the PCI bus, in order.
    devices: Vec<Arc<dyn AnyDevice>>,
}

impl Pc {
    /// Puts the board together.
    pub fn new(
        map: PcMemory,
        cfg: &PcConfig,
        wires: PcWires,
        clocks: &Clocks,
    ) -> Result<Self, MachineError> {
        let io = map.ports.root().clone();
        let place = |region: &Region, at: u64| io.add(region, at, 0);

        let mut chips = cfg.chips;
        if wires.kernel_chips.is_some() {
            (chips.pic, chips.pit) = (false, false);
        }
        // Without a place and an output nobody meets the chip.
        let intr = if chips.pic { wires.intr } else { IrqLine::unconnected() };
        let pic = Pic::create(intr.clone());
        if chips.pic {
            place(&pic.primary, PRIMARY_PORT);
            place(&pic.secondary, SECONDARY_PORT);
            place(&pic.elcr, ELCR_PORT);
        }
        let (ioapic, ioapic_registers) = Ioapic::create(wires.apic_bus);
        if wires.kernel_chips.is_none() {
            map.low.system.add(&ioapic_registers, IOAPIC_ADDRESS, 0);
        }
        let pic_inputs: Arc<dyn IrqSink> = Arc::new(PicInputs(pic.pic.clone()));
        let pic_pins = Arc::new(PicPins::new(&pic_inputs));
        let gsi = GsiFanout::new(pic_pins.clone(), Arc::new(IoapicInputs(ioapic.clone())));
        let ioapic_inputs = gsi.ioapic_inputs();
        let (gsi, cut_kernel_timer): (Arc<dyn IrqSink>, _) = match wires.kernel_chips {
            Some(kernel) => (kernel.gsi, Some(kernel.cut_timer)),
            None => (gsi, None),
        };
        // ISA devices, PCI interrupts and the HPET share the sixteen wires.
        let shared = SharedIrqs::new(&gsi);
        let isa = IsaBus::new(io.clone(), map.low.pci.clone(), &shared.isa);

        let pit = Pit::create(isa.irq(isa_irq::TIMER), clocks);
        if chips.pit {
            place(&pit.ports, PIT_PORT);
            place(&pit.speaker, SPEAKER_PORT);
        }
        let (rtc_port, rtc_irq) = cfg.rtc_place;
        let rtc_gate = LegacyGate::new(isa.irq(rtc_irq));
        let rtc_irq = IrqLine::new(rtc_gate.clone(), 0);
        let rtc = Rtc::create(cfg.rtc, rtc_irq, clocks, wires.time_changed);
        rtc.rtc.lock().wake_by(wires.requests.clone());
        place(&rtc.ports, rtc_port);
        CmosContent {
            below_4g: map.below_4g,
            above_4g: map.above_4g,
            cpus: cfg.cpus.iter().filter(|cpu| cpu.present).count() as u32,
            boot_order: &cfg.boot_order,
            floppy_boot_check: cfg.floppy_boot_check,
        }
        .store(&mut rtc.rtc.lock());

        let keyboard = chips.i8042.then(|| {
            let parts = I8042::create(I8042Wires {
                keyboard_irq: isa.irq(cfg.keyboard_irqs[0]),
                mouse_irq: isa.irq(cfg.keyboard_irqs[1]),
                a20: wires.a20.clone(),
                requests: wires.requests.clone(),
            });
            place(&parts.data, KEYBOARD_PORT);
            place(&parts.command, COMMAND_PORT);
            let (port92, region) = Port92::create(wires.a20.clone(), wires.requests.clone());
            place(&region, port92::PORT);
            (parts.device, port92)
        });
        let fpu_interrupt = isa.irq(isa_irq::FPU);
        wires.fpu_interrupt.connect(FnSink(move |_, level| fpu_interrupt.set(level)));
        place(&ports::post(), POST_PORT);
        place(&ports::coprocessor(wires.fpu_error), COPROCESSOR_PORT);
        let hpet = chips.hpet.then(|| {
            let pit = pit.pit.clone();
            let legacy = move |on| {
                pit.lock().set_irq_disabled(on || !chips.pit);
                if let Some(cut) = &cut_kernel_timer {
                    cut(on);
                }
                rtc_gate.set_cut(on);
            };
            let (hpet, registers) = Hpet::create(shared.hpet, Box::new(legacy), clocks);
            map.low.system.add(&registers, HPET_ADDRESS, 0);
            hpet
        });
        let dma_pair = DmaPair::create(Dma::new(map.memory.clone()));
        dma_pair.ports.iter().for_each(|(at, region)| place(region, *at));

        let (port, irq, channel) = cfg.floppy_place;
        let floppy = Fdc::create(isa.irq(irq), dma_pair.channel(channel), clocks);
        floppy.fdc.lock().set_fallback(cfg.floppy_fallback);
        place(&floppy.registers, port + fdc::REGISTERS);
        place(&floppy.input, port + fdc::INPUT_REGISTER);

        let router = PirqRouter::new(shared.pci);
        let dma_space = map.memory.clone();
        let (fw_cfg, control, dma) = FwCfg::create(Dma::new(map.memory.clone()));
        place(&control, FW_CFG_PORT);
        if cfg.fw_cfg_dma {
            place(&dma, FW_CFG_DMA_PORT);
        } else {
            fw_cfg.lock().deny_dma();
        }
        let roms = OptionRoms { files: cfg.data_files.clone(), fw_cfg: fw_cfg.clone() };
        let pci = PciBus::new(
            map.low.pci.clone(),
            io.clone(),
            dma_space,
            intx_map,
            router.inputs(),
            Box::new(roms),
        );
        let (config_ports, address, data) = ConfigPorts::create(&pci);
        place(&address, ADDRESS_PORT);
        place(&data, DATA_PORT);
        I440Fx::create(&pci, &map.low)?;
        let (_, reset_port) =
            Piix3::create(&pci, devfn(SOUTH_BRIDGE, 0), router, wires.requests.clone())?;
        io.add(&reset_port, RESET_PORT, 1);
        let ide_irqs = piix3_ide::ISA_IRQS.map(|n| isa.irq(n));
        let ide = Piix3Ide::create(&pci, devfn(SOUTH_BRIDGE, 1), ide_irqs)?;
        let (mut pm, mut hotplug) = (None, None);
        if chips.acpi {
            let pm_wires = PmWires {
                sci: isa.irq(isa_irq::SCI),
                smi: wires.smi,
                requests: wires.requests.clone(),
            };
            let parts = Piix4Pm::create(&pci, devfn(SOUTH_BRIDGE, 3), cfg.pm, pm_wires, clocks)?;
            place(&parts.gpe, GPE_PORT);
            place(&parts.apm, APM_PORT);
            let event = |n: u8| {
                device::input_line(&parts.device, n.into(), |pm: &mut Piix4Pm, n, level| {
                    if level {
                        pm.raise_gpe(n as u8);
                    }
                })
            };
            let (cpu, cpu_ports) =
                CpuHotplug::create(&cfg.cpus, event(CPU_HOTPLUG_GPE), wires.cpu_events);
            place(&cpu_ports, CPU_HOTPLUG_PORT);
            let slots = RootSlots { bus: pci.clone(), ejected: wires.ejected };
            let (pci, pci_ports) = PciHotplug::create(Box::new(slots), event(PCI_HOTPLUG_GPE));
            place(&pci_ports, PCI_HOTPLUG_PORT);
            hotplug = Some(Hotplug { cpu, pci });
            pm = Some(parts.device);
        }

        if let Some(bios) = &cfg.bios {
            map.place_bios(bios)?;
        }

        let mut devices: Vec<Arc<dyn AnyDevice>> =
            vec![rtc.rtc.clone(), fw_cfg.clone(), floppy.fdc.clone()];
        let keyboard = keyboard.map(|(keyboard, port92)| {
            devices.push(keyboard.clone());
            devices.push(port92);
            keyboard
        });
        if chips.pit {
            devices.push(pit.pit.clone());
        } else {
            // Nothing will ever reset or program it.
            pit.pit.lock().set_irq_disabled(true);
        }
        for controller in &dma_pair.controllers {
            devices.push(controller.clone());
        }
        // After the timers that it replaces.
        if let Some(hpet) = &hpet {
            devices.push(hpet.clone());
        }
        if let Some(Hotplug { cpu, pci }) = &hotplug {
            devices.push(cpu.clone());
            devices.push(pci.clone());
        }
        Ok(Pc {
            map,
            pci,
            isa,
            ide,
            fdc: floppy.fdc,
            gsi,
            pic_pins,
            intr,
            ioapic_inputs,
            pic: pic.pic,
            ioapic,
            pit: pit.pit,
            rtc: rtc.rtc,
            keyboard,
            pm,
            dma: dma_pair,
            hpet,
            hotplug,
            fw_cfg,
            config_ports,
            devices,
        })
    }

    /// The 8259 pair's acknowledge cycle.
    pub fn int_ack(&self) -> Arc<dyn IntAck> {
        Arc::new(PicAck(self.pic.clone()))
    }

    /// Adds a device to those that are reset with the board.
    pub fn add_device(&mut self, device: Arc<dyn AnyDevice>) {
        self.devices.push(device);
    }

    /// Resets every chip. The processors must stand still.
    pub fn reset(&self) {
        self.devices.iter().for_each(|device| device.reset());
        self.config_ports.reset();
        self.pci.reset();
        // Last, so that what the others' outputs do as they are reset leaves no request behind.
        AnyDevice::reset(&*self.ioapic);
        AnyDevice::reset(&*self.pic);
    }
}

/// Whether a slot of the root bus holds chips of the board, which stay.
pub fn is_board_slot(slot: u8) -> bool {
    slot <= SOUTH_BRIDGE
}

/// The root bus as its hot-plug controller sees it.
struct RootSlots {
    bus: Arc<PciBus>,
    ejected: Box<dyn Fn(Arc<PciFunction>) + Send + Sync>,
}

impl HotplugBus for RootSlots {
    fn is_fixed(&self, slot: u8) -> bool {
        is_board_slot(slot)
    }
    fn label(&self, _: u8) -> u32 {
        0
    }
    fn eject(&self, slot: u8) {
        let functions = (0..8).filter_map(|function| self.bus.unplug(devfn(slot, function)));
        functions.for_each(|function| (self.ejected)(function));
    }
}

/// Three sets of the ISA interrupts, wired together; the HPET reaches the interrupts beyond too.
struct SharedIrqs {
    isa: Arc<dyn IrqSink>,
    pci: Vec<IrqLine>,
    hpet: Vec<IrqLine>,
}

struct Lines(Vec<IrqLine>);

impl IrqSink for Lines {
    fn set_irq(&self, n: u32, level: bool) {
        if let Some(line) = self.0.get(n as usize) {
            line.set(level);
        }
    }
}

impl SharedIrqs {
    fn new(gsi: &Arc<dyn IrqSink>) -> Self {
        let (mut isa, mut pci, mut hpet) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..hw::isa::IRQS {
            let wire = IrqLine::new(gsi.clone(), n).shared(3);
            isa.push(wire[0].clone());
            pci.push(wire[1].clone());
            hpet.push(wire[2].clone());
        }
        hpet.extend((hw::isa::IRQS..GSI_COUNT).map(|n| IrqLine::new(gsi.clone(), n)));
        SharedIrqs { isa: Arc::new(Lines(isa)), pci, hpet }
    }
}
