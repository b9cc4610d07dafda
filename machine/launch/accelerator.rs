//! The accelerator that was asked for, and the processors on it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base::backdoor::Backdoor;
use base::clock::Clocks;
use base::interrupt::{ApicBus, IntAck};
use base::irq::{IrqLine, IrqSink};
use base::props::OnOffAuto;
use cpu::Cpu;
use cpu::accel::{self, Accel, TcgProps};
use cpu::apic::{ApicFabric, LocalApic};
use cpu::bus::Bus;
use cpu::cpuid::Support;
use cpu::icount::Icount;
use cpu::kvm::{Interrupts, Irqchip, KvmEngine, KvmError, KvmVm, PicLine, VmOptions};
use cpu::signals::Signals;
use cpu::soft::{Software, VirtualTsc};
use cpu::vcpu::{Engine, NoEngine};

use super::fault;
use super::processors::Processors;
use crate::config::{ConfigError, MachineConfig, Origin};
use crate::pc::board::KernelChips;
use crate::pc::memory::PcMemory;
use crate::pc::onboard::LostTickPolicy;

/// The name that messages begin with.
const PROGRAM: &str = "qemu-system-x86_64";

/// What executes guest code.
pub(super) enum Accelerator {
    Software(Software),
    Nobody,
    Kvm(Kvm),
}

/// A KVM machine before it has processors.
pub(super) struct Kvm {
    irqchip: Irqchip,
    /// Whether the guest may put host processors to sleep.
    host_sleep: bool,
    kvm: cpu::kvm::Kvm,
}

/// Processors in software, whose instructions are counted if that is asked for.
fn software(
    props: &TcgProps,
    config: &MachineConfig,
    clocks: &Clocks,
) -> Result<Accelerator, ConfigError> {
    let Some(icount) = &config.icount else {
        return Ok(Accelerator::Software(Software::new(props, None, config.seed)));
    };
    // What was typed, as the default is for those who do not count.
    for accel in config.accels.iter().filter(|accel| accel.value.name == "tcg") {
        let typed =
            |key: &str, value: &str| accel.value.props.iter().any(|(k, v)| k == key && v == value);
        if typed("thread", "multi") {
            return Err(ConfigError::at(&accel.origin, "No MTTCG when icount is enabled"));
        }
        if props.check {
            let message = "blocks are not checked while instructions are counted";
            return Err(ConfigError::at(&accel.origin, message));
        }
    }
    let icount = Icount::new(icount.value, clocks);
    Ok(Accelerator::Software(Software::new(props, Some(icount), config.seed)))
}

impl Accelerator {
    /// The first of the configured accelerators that works; software if none was named.
    pub fn choose(config: &MachineConfig, clocks: &Clocks) -> Result<Self, ConfigError> {
        let accels = &config.accels;
        if accels.is_empty() {
            return software(&TcgProps::default(), config, clocks);
        }
        let candidates: Vec<_> =
            accels.iter().map(|a| (a.value.name.as_str(), a.value.props.as_slice())).collect();
        let mut messages = Vec::new();
        let accel = accel::open_first(&candidates, |about, message| {
            let origin = about.map_or(&Origin::None, |n| &accels[n].origin);
            messages.push(ConfigError::at(origin, message));
        });
        // Without an accelerator the last message is what the program ends with.
        let last = if accel.is_none() { messages.pop() } else { None };
        for message in messages {
            eprintln!("{}{}", message.origin.prefix(PROGRAM), message.message);
        }
        match accel {
            Some(Accel::Tcg(props)) => software(&props, config, clocks),
            Some(_) if config.icount.is_some() => {
                Err(ConfigError::new("-icount is not allowed with hardware virtualization"))
            }
            Some(Accel::Qtest) => Ok(Accelerator::Nobody),
            Some(Accel::Kvm(props, kvm)) => {
                let host_sleep = config.overcommit.cpu_pm;
                Ok(Accelerator::Kvm(Kvm { irqchip: props.kernel_irqchip.into(), host_sleep, kvm }))
            }
            None => Err(last.unwrap_or_else(|| ConfigError::new("No accelerator found"))),
        }
    }

    /// Whether it is the kernel's.
    pub fn is_kvm(&self) -> bool {
        matches!(self, Accelerator::Kvm(_))
    }

    /// Whether anybody executes guest code.
    pub fn executes(&self) -> bool {
        !matches!(self, Accelerator::Nobody)
    }

    /// Tells what the translator has made, if there is one.
    pub fn translator_report(&self) -> Option<Arc<dyn Fn() -> String + Send + Sync>> {
        match self {
            Accelerator::Software(software) => software.translator_report(),
            _ => None,
        }
    }

    /// The type names of what QEMU's board has of the accelerator: the local APIC, the 8259, the
    /// I/O APIC and the interval timer.
    pub fn chip_types(&self) -> [&'static str; 4] {
        let kernel = |irqchip: Irqchip| match irqchip {
            Irqchip::Kernel => ["kvm-apic", "kvm-i8259", "kvm-ioapic", "kvm-pit"],
            Irqchip::Split => ["kvm-apic", "isa-i8259", "ioapic", "isa-pit"],
            Irqchip::User => ["apic", "isa-i8259", "ioapic", "isa-pit"],
        };
        match self {
            Accelerator::Kvm(kvm) => kernel(kvm.irqchip),
            _ => kernel(Irqchip::User),
        }
    }

    /// What processor models may offer.
    pub fn support(&self) -> Result<Support, ConfigError> {
        match self {
            Accelerator::Kvm(kvm) => kvm.kvm.support(kvm.irqchip).map_err(fault),
            Accelerator::Software(_) | Accelerator::Nobody => Ok(Support::software()),
        }
    }
}

/// The processors, and their side of the board's wires.
pub(super) struct Wired {
    pub engines: Vec<(Arc<Signals>, Box<dyn Engine>)>,
    /// What the threads are called.
    pub names: &'static str,
    pub apic_bus: Arc<dyn ApicBus>,
    /// Whether the processors have a system management mode.
    smm: bool,
    /// Takes the 8259 pair's output.
    pub intr: IrqLine,
    /// The machine in the kernel, whose chips are reset with the board's.
    pub kvm: Option<Arc<KvmVm>>,
    /// Who asks the 8259 pair for vectors.
    askers: Askers,
}

enum Askers {
    Apics(Arc<ApicFabric>),
    Line(Arc<PicLine>),
}

impl Wired {
    /// Whether there is a system management mode, as far as `-machine smm=` leaves it open.
    pub fn resolve_smm(&self, wish: OnOffAuto) -> Result<bool, ConfigError> {
        if wish == OnOffAuto::On && !self.smm {
            return Err(ConfigError::new(
                "System Management Mode not supported by this hypervisor.",
            ));
        }
        Ok(wish.resolve(self.smm))
    }

    /// The chips that the kernel has.
    pub fn kernel_chips(&self) -> Option<KernelChips> {
        let kvm = self.kvm.clone()?;
        let gsi = kvm.pins()?;
        let cut_timer = Box::new(move |cut| {
            if let Err(error) = kvm.cut_timer(cut) {
                base::error_report!("{error}");
            }
        });
        Some(KernelChips { gsi, cut_timer })
    }

    /// The local APICs that are not in the kernel, by number of the processor.
    pub fn apics(&self) -> Vec<Arc<LocalApic>> {
        match &self.askers {
            Askers::Apics(fabric) => fabric.apics(),
            Askers::Line(_) => Vec::new(),
        }
    }

    /// Connects the acknowledge cycle of the board's 8259 pair.
    pub fn connect_pic(&self, pic: &Arc<dyn IntAck>) {
        match &self.askers {
            Askers::Apics(fabric) => {
                fabric.apics().iter().for_each(|apic| apic.connect_pic(pic.clone()));
            }
            Askers::Line(line) => line.connect_pic(pic.clone()),
        }
    }
}

/// The 8259 pair's output goes to LINT0 of every processor.
struct Lint0(Arc<ApicFabric>);

impl IrqSink for Lint0 {
    fn set_irq(&self, _: u32, level: bool) {
        self.0.apics().iter().for_each(|apic| apic.set_irq(0, level));
    }
}

/// What processors are wired to.
pub(super) struct Surroundings<'a> {
    pub map: &'a PcMemory,
    pub a20: &'a Arc<AtomicBool>,
    pub clocks: &'a Clocks,
    /// The back door, if there is one.
    pub backdoor: Option<Arc<dyn Backdoor>>,
    /// The processors' FERR#.
    pub fpu_error: &'a IrqLine,
    /// What becomes of the interval timer's late interrupts, if there is one.
    pub timer: Option<LostTickPolicy>,
}

impl Surroundings<'_> {
    fn bus(&self, apic: Option<Arc<LocalApic>>) -> Bus {
        Bus {
            memory: self.map.memory.clone(),
            smm: self.map.smm.clone(),
            ports: self.map.ports.clone(),
            a20: self.a20.clone(),
            apic: apic.map(|apic| apic as _),
            backdoor: self.backdoor.clone(),
            fpu_error: self.fpu_error.clone(),
            tsc: Arc::new(VirtualTsc(self.clocks.clone())),
        }
    }
}

impl Accelerator {
    /// Makes the processors.
    pub fn wire(
        self,
        processors: &Processors,
        around: &Surroundings<'_>,
    ) -> Result<Wired, ConfigError> {
        match self {
            Accelerator::Kvm(kvm) => kvm.wire(processors, around).map_err(fault),
            Accelerator::Software(_) | Accelerator::Nobody => {
                let fabric = ApicFabric::new();
                let engine = |index: u32| {
                    let signals = Arc::<Signals>::default();
                    let apic = our_apic(&fabric, index, &signals, processors, around);
                    let bus = around.bus(Some(apic.clone()));
                    let cpu = Cpu::new(index, processors.model.clone(), bus, signals.clone());
                    let engine: Box<dyn Engine> = match &self {
                        Accelerator::Software(software) => software.engine(cpu, apic, index == 0),
                        _ => Box::new(NoEngine),
                    };
                    (signals, engine)
                };
                Ok(Wired {
                    engines: (0..processors.count).map(engine).collect(),
                    names: if self.executes() { "CPU {}/TCG" } else { "CPU {}/DUMMY" },
                    apic_bus: fabric.clone(),
                    smm: true,
                    intr: IrqLine::new(Arc::new(Lint0(fabric.clone())), 0),
                    kvm: None,
                    askers: Askers::Apics(fabric),
                })
            }
        }
    }
}

fn our_apic(
    fabric: &Arc<ApicFabric>,
    index: u32,
    signals: &Arc<Signals>,
    processors: &Processors,
    around: &Surroundings<'_>,
) -> Arc<LocalApic> {
    let id = processors.topology.apic_id(index);
    let tsc = Arc::new(VirtualTsc(around.clocks.clone()));
    LocalApic::new(id, index == 0, signals.clone(), fabric, around.clocks, tsc)
}

impl Kvm {
    fn wire(self, processors: &Processors, around: &Surroundings<'_>) -> Result<Wired, KvmError> {
        let options = VmOptions {
            irqchip: self.irqchip,
            pit: around.timer.is_some(),
            pit_catches_up: around.timer != Some(LostTickPolicy::Discard),
            host_sleep: self.host_sleep,
            max_vcpus: processors.max as usize,
        };
        let vm = KvmVm::new(self.kvm, options)?;
        vm.attach_memory(&around.map.memory, &around.map.smm);
        let fabric = ApicFabric::new();
        let mailboxes: Vec<_> = (0..processors.count).map(|_| Arc::<Signals>::default()).collect();
        // There is a boot processor in every machine; the line outlives it in none.
        let line = PicLine::new(mailboxes.first().cloned().unwrap_or_default());
        let mut engines: Vec<(Arc<Signals>, Box<dyn Engine>)> = Vec::new();
        for (index, signals) in (0..).zip(mailboxes) {
            let interrupts = match self.irqchip {
                Irqchip::User => {
                    Interrupts::Apic(our_apic(&fabric, index, &signals, processors, around))
                }
                Irqchip::Split if index == 0 => Interrupts::Pic(line.clone()),
                Irqchip::Split | Irqchip::Kernel => Interrupts::Kernel,
            };
            let model = processors.model.clone();
            let bus = around.bus(None);
            let engine = KvmEngine::new(&vm, index, model, bus, signals.clone(), interrupts)?;
            engines.push((signals, Box::new(engine)));
        }
        let (apic_bus, sink, askers): (Arc<dyn ApicBus>, Arc<dyn IrqSink>, _) = match self.irqchip {
            Irqchip::User => {
                (fabric.clone(), Arc::new(Lint0(fabric.clone())), Askers::Apics(fabric))
            }
            _ => (vm.apics().clone(), line.clone(), Askers::Line(line)),
        };
        Ok(Wired {
            engines,
            names: "CPU {}/KVM",
            apic_bus,
            smm: vm.has_smm(),
            intr: IrqLine::new(sink, 0),
            kvm: Some(vm),
            askers,
        })
    }
}
