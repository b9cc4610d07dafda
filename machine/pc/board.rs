//! The board itself: which chips there are, where they sit, how they are wired.

use std::sync::Arc;

use base::clock::{ClockKind, Clocks};
use base::device::{AnyDevice, Shared};
use base::interrupt::{ApicBus, IntAck};
use base::irq::{IrqLine, IrqSink};
use base::memory::{Dma, Region};
use base::request::RequestSink;
use hw::acpi::apm::APM_PORT;
use hw::firmware::fw_cfg::{FW_CFG_DMA_PORT, FW_CFG_PORT, FwCfg};
use hw::input::i8042::{
    COMMAND_PORT, DATA_PORT as KEYBOARD_PORT, I8042, I8042Wires, KEYBOARD_IRQ, MOUSE_IRQ,
};
use hw::intc::gsi::GsiFanout;
use hw::intc::i8259::{ELCR_PORT, PRIMARY_PORT, Pic, PicAck, PicInputs, SECONDARY_PORT};
use hw::intc::ioapic::{IOAPIC_ADDRESS, Ioapic, IoapicInputs};
use hw::isa::IsaBus;
use hw::isa::port92::{self, Port92};
use hw::isa::silent::{self, COPROCESSOR_PORT, POST_PORT};
use hw::pci::host::{ADDRESS_PORT, ConfigPorts, DATA_PORT};
use hw::pci::i440fx::{I440Fx, intx_map};
use hw::pci::piix3::{Piix3, PirqRouter, RESET_PORT};
use hw::pci::piix4_pm::{GPE_PORT, Piix4Pm, PmConfig, PmWires};
use hw::pci::{PciBus, devfn};
use hw::timer::i8254::{PIT_PORT, Pit, SPEAKER_PORT};
use hw::timer::rtc::{RTC_PORT, Rtc, RtcConfig, TimeChanged};

use super::cmos::CmosContent;
use super::memory::PcMemory;
use crate::MachineError;

/// ISA interrupts of the board's own chips.
mod isa_irq {
    pub const TIMER: u32 = 0;
    pub const RTC: u32 = 8;
    pub const SCI: u32 = 9;
}

/// Slot of the south bridge.
const SOUTH_BRIDGE: u8 = 1;

/// What the operator chose.
pub struct PcConfig {
    /// The BIOS image, if firmware is to run.
    pub bios: Option<Vec<u8>>,
    /// Processors present at start.
    pub cpus: u32,
    /// `-boot order=`.
    pub boot_order: String,
    /// `-machine fd-bootchk=`.
    pub floppy_boot_check: bool,
    /// The real-time clock.
    pub rtc: RtcConfig,
    /// Power management.
    pub pm: PmConfig,
}

/// What the board needs of the processors' side.
pub struct PcWires {
    /// Where interrupt messages go.
    pub apic_bus: Arc<dyn ApicBus>,
    /// The 8259 pair's output.
    pub intr: IrqLine,
    /// System management interrupt.
    pub smi: IrqLine,
    /// Address line 20, which the keyboard controller and port 92h drive.
    pub a20: IrqLine,
    /// Wishes of devices that concern the whole machine.
    pub requests: RequestSink,
    /// Told when the guest sets the real-time clock.
    pub time_changed: TimeChanged,
}

/// The board.
pub struct Pc {
    /// Memory and ports.
    pub map: PcMemory,
    /// The PCI bus.
    pub pci: Arc<PciBus>,
    /// The ISA bus.
    pub isa: IsaBus,
    /// Global system interrupts.
    pub gsi: Arc<dyn IrqSink>,
    /// The 8259 pair.
    pub pic: Shared<Pic>,
    /// The I/O APIC.
    pub ioapic: Shared<Ioapic>,
    /// The interval timer.
    pub pit: Shared<Pit>,
    /// The real-time clock.
    pub rtc: Shared<Rtc>,
    /// The keyboard controller.
    pub keyboard: Shared<I8042>,
    /// Power management.
    pub pm: Shared<Piix4Pm>,
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

        let pic = Pic::create(wires.intr);
        place(&pic.primary, PRIMARY_PORT);
        place(&pic.secondary, SECONDARY_PORT);
        place(&pic.elcr, ELCR_PORT);
        let (ioapic, ioapic_registers) = Ioapic::create(wires.apic_bus);
        map.low.system.add(&ioapic_registers, IOAPIC_ADDRESS, 0);
        let gsi: Arc<dyn IrqSink> = GsiFanout::new(
            Arc::new(PicInputs(pic.pic.clone())),
            Arc::new(IoapicInputs(ioapic.clone())),
        );
        // ISA devices and PCI interrupts share the sixteen wires.
        let shared = SharedIrqs::new(&gsi);
        let isa = IsaBus::new(io.clone(), &shared.isa);

        let pit = Pit::create(isa.irq(isa_irq::TIMER), clocks);
        place(&pit.ports, PIT_PORT);
        place(&pit.speaker, SPEAKER_PORT);
        let rtc = Rtc::create(cfg.rtc, isa.irq(isa_irq::RTC), clocks, wires.time_changed);
        place(&rtc.ports, RTC_PORT);
        CmosContent {
            below_4g: map.below_4g,
            above_4g: map.above_4g,
            cpus: cfg.cpus,
            boot_order: &cfg.boot_order,
            floppy_boot_check: cfg.floppy_boot_check,
        }
        .store(&mut rtc.rtc.lock());

        let keyboard = I8042::create(I8042Wires {
            keyboard_irq: isa.irq(KEYBOARD_IRQ),
            mouse_irq: isa.irq(MOUSE_IRQ),
            a20: wires.a20.clone(),
            requests: wires.requests.clone(),
        });
        place(&keyboard.data, KEYBOARD_PORT);
        place(&keyboard.command, COMMAND_PORT);
        let (port92, port92_region) = Port92::create(wires.a20, wires.requests.clone());
        place(&port92_region, port92::PORT);
        let (post, coprocessor) = silent::regions();
        place(&post, POST_PORT);
        place(&coprocessor, COPROCESSOR_PORT);

        let router = PirqRouter::new(shared.pci);
        let dma_space = map.memory.clone();
        let pci =
            PciBus::new(map.low.pci.clone(), io.clone(), dma_space, intx_map, router.inputs());
        let (config_ports, address, data) = ConfigPorts::create(&pci);
        place(&address, ADDRESS_PORT);
        place(&data, DATA_PORT);
        I440Fx::create(&pci, &map.low)?;
        let (_, reset_port) =
            Piix3::create(&pci, devfn(SOUTH_BRIDGE, 0), router, wires.requests.clone())?;
        io.add(&reset_port, RESET_PORT, 1);
        let pm_wires = PmWires {
            sci: isa.irq(isa_irq::SCI),
            smi: wires.smi,
            requests: wires.requests.clone(),
        };
        let pm = Piix4Pm::create(&pci, devfn(SOUTH_BRIDGE, 3), cfg.pm, pm_wires, clocks)?;
        place(&pm.gpe, GPE_PORT);
        place(&pm.apm, APM_PORT);

        let (fw_cfg, control, dma) = FwCfg::create(Dma::new(map.memory.clone()));
        place(&control, FW_CFG_PORT);
        place(&dma, FW_CFG_DMA_PORT);
        if let Some(bios) = &cfg.bios {
            map.place_bios(bios)?;
        }

        let devices: Vec<Arc<dyn AnyDevice>> = vec![
            pic.pic.clone(),
            ioapic.clone(),
            pit.pit.clone(),
            rtc.rtc.clone(),
            keyboard.device.clone(),
            port92,
            fw_cfg.clone(),
        ];
        Ok(Pc {
            map,
            pci,
            isa,
            gsi,
            pic: pic.pic,
            ioapic,
            pit: pit.pit,
            rtc: rtc.rtc,
            keyboard: keyboard.device,
            pm: pm.device,
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
    }
}

/// The clock that the real-time clock follows, and the date it starts at, when nothing is said.
pub fn default_rtc(clocks: &Clocks) -> RtcConfig {
    let now = clocks.now(ClockKind::Host);
    RtcConfig { clock: ClockKind::Host, shows: now, at: now }
}

/// Two sets of the sixteen ISA interrupts, wired together.
struct SharedIrqs {
    isa: Arc<dyn IrqSink>,
    pci: Vec<IrqLine>,
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
        let pairs = (0..hw::isa::IRQS).map(|n| IrqLine::new(gsi.clone(), n).shared(2));
        let (isa, pci) =
            pairs.map(|pair| (pair[0].clone(), pair[1].clone())).unzip::<_, _, Vec<_>, Vec<_>>();
        SharedIrqs { isa: Arc::new(Lines(isa)), pci }
    }
}
