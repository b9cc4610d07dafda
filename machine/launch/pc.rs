//! Building a PC from a configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::backdoor::Backdoor;
use base::irq::{FnSink, IrqLine, IrqSink, Patch};
use base::memory::AddressSpace;
use base::memory::backend::Defaults;
use base::request::WakeReason;
use block::backend::Interface;
use cpu::kvm::KvmVm;
use cpu::signals::{Signals, request};
use cpu::vcpu::Vcpus;
use hw::acpi::cpu_hotplug::{CPU_HOTPLUG_PORT, PossibleCpu};
use hw::acpi::pci_hotplug::PCI_HOTPLUG_PORT;
use hw::firmware::acpi::{self, FloppyDrive, LegacyPort};
use hw::firmware::smbios;
use hw::input::I8042;
use hw::input::vmmouse::VmMouse;
use hw::misc::vmport::VmPort;
use hw::pci::piix4_pm::PmConfig;
use hw::pci::{PciFunction, devfn};
use hw::registry::{Fact, Identity};
use hw::storage::ide::IdeDisk;
use hw::usb::uhci::{self, Uhci, UhciProps};
use parking_lot::Mutex;
use serde_json::Map;

use super::accelerator::{Accelerator, Surroundings};
use super::characters::Characters;
use super::chips::{self, Board as Chipset};
use super::devices::{BoardDevice, Equipment, Means};
use super::flash::{self, Flash};
use super::handover::Handover;
use super::hotplug::Devices;
use super::kernel::{Kernel, Start, Tables};
use super::memory;
use super::processors::{self, FlushOnChange, Processors};
use super::tree::{self, Tree};
use super::{Host, display, drives, fault, firmware, globals, networks, options};
use crate::config::{ConfigError, DeviceConfig, MachineConfig, NumaPlan};
use crate::data_files::DataFiles;
use crate::inventory::Inventory;
use crate::machines::MachineType;
use crate::pc::board::{Chips, Pc, PcConfig, PcWires};
use crate::pc::cmos;
use crate::pc::cmos::set_boot_order;
use crate::pc::memory::PcMemory;
use crate::pc::onboard::LostTickPolicy;
use crate::pc::props::PcProps;
use crate::pc::tables::{Description, PlacedFunction};
use crate::vm::{Board, HotplugError, Released, Vm};

/// Address line 20: the processors look at the flag, but remember translations made before.
struct A20Gate {
    open: Arc<AtomicBool>,
    processors: Vec<Arc<Signals>>,
}

impl IrqSink for A20Gate {
    fn set_irq(&self, _: u32, level: bool) {
        if self.open.swap(level, Ordering::AcqRel) != level {
            self.processors.iter().for_each(|signals| signals.post(request::FLUSH_TLB));
        }
    }
}

/// `-boot once=`: the order that firmware finds from the second start on.
struct LaterBoots {
    order: String,
    floppy_boot_check: bool,
    /// Whether there was a start.
    started: AtomicBool,
}

struct PcMachine {
    pc: Pc,
    devices: Devices,
    later_boots: Option<LaterBoots>,
    /// Has the interrupt controllers and the interval timer instead of the board, perhaps.
    kvm: Option<Arc<KvmVm>>,
    start: Start,
}

impl Board for PcMachine {
    fn reset(&self) {
        self.pc.reset();
        self.devices.tell_boot_order(&self.pc);
        if let Some(later) = &self.later_boots
            && later.started.swap(true, Ordering::Relaxed)
        {
            set_boot_order(&mut self.pc.rtc.lock(), &later.order, later.floppy_boot_check);
        }
        if let Some(kvm) = &self.kvm
            && let Err(error) = kvm.reset_chips()
        {
            base::error_report!("{error}");
        }
    }
    fn power_button(&self) {
        if let Some(pm) = &self.pc.pm {
            pm.lock().power_button();
        }
    }
    fn suspend(&self) {
        self.pc.rtc.lock().set_cmos(cmos::RESET_CODE, cmos::RESUME);
    }
    fn may_wake(&self, reason: WakeReason) -> bool {
        self.pc.pm.as_ref().is_none_or(|pm| pm.lock().may_wake(reason))
    }
    fn wake_up(&self, reason: WakeReason, vcpus: &Vcpus) {
        if let Some(pm) = &self.pc.pm {
            pm.lock().wake(reason);
        }
        self.start.wake(&self.pc, vcpus);
    }
    fn memory(&self) -> &AddressSpace {
        &self.pc.map.memory
    }
    fn ports(&self) -> &AddressSpace {
        &self.pc.map.ports
    }
    fn spaces(&self) -> Vec<AddressSpace> {
        let map = &self.pc.map;
        vec![map.memory.clone(), map.ports.clone(), map.smm.clone()]
    }
    fn add_device(&self, device: &DeviceConfig) -> Result<(), HotplugError> {
        self.devices.add(&self.pc, device)
    }
    fn request_removal(&self, device: &str) -> Result<Vec<Released>, HotplugError> {
        self.devices.request_removal(&self.pc, device)
    }
    fn release(&self, function: Arc<PciFunction>) -> Vec<Released> {
        self.devices.release(function)
    }
    fn enter(&self, vcpus: &Vcpus) {
        self.start.enter(&self.pc, vcpus);
    }
    fn start_kernel(&self, vcpus: &Vcpus) {
        self.start.start_kernel(&self.pc, vcpus);
    }
}

/// Builds a PC; returns where it is told why its kernel could not be placed in memory.
pub(super) fn build(
    machine: &'static MachineType,
    config: &MachineConfig,
    host: &Host,
    vm: &Arc<Vm>,
    characters: &Characters,
    accelerator: Accelerator,
    serve_monitors: impl FnOnce() -> Result<(), ConfigError>,
) -> Result<Arc<Mutex<Option<ConfigError>>>, ConfigError> {
    let (mut given, mut flash_names) = (config.machine_props.clone(), Map::new());
    for name in flash::PROPERTIES {
        flash_names.extend(given.remove_entry(name));
    }
    let props: PcProps = super::machine_props(machine, &given)?;
    props.check()?;
    let objects = vm.user_objects();
    objects.set_defaults(Defaults { merge: props.mem_merge, dump: props.dump_guest_core });
    memory::create_objects(config, objects)?;
    let drives = drives::create(config, vm.graph(), Interface::Ide)?;
    let flash = Flash::choose(&flash_names, vm.graph())?;
    let cards = networks::create(config, vm.networks(), true)?;
    memory::create_filters(config, objects)?;
    serve_monitors()?;
    let chips = globals::onboard(config)?;
    chips.fdc.check().map_err(fault)?;
    if accelerator.is_kvm() && props.bus_lock_ratelimit > 0 {
        return Err(ConfigError::new("kvm: bus lock detection unsupported"));
    }
    let processors = Processors::choose(config, machine.name, &accelerator)?;
    // Nodes of a size were given up with version 5.1.
    let numa = NumaPlan::resolve(&config.numa, &processors.smp, !machine.since(5, 1))?;
    numa.warnings.iter().for_each(super::warn);
    let node_sizes = memory::node_sizes(&numa, objects)?;
    let ram = memory::guest_ram(&config.memory, &numa, objects)?;
    for warning in props.warnings(ram.size) {
        base::warn_report!("{warning}");
    }
    let (is_kvm, types, support) =
        (accelerator.is_kvm(), accelerator.chip_types(), accelerator.support()?);
    let translator_report = accelerator.translator_report();
    let map = PcMemory::new(ram.region, ram.size, props.max_below_4g());
    let a20 = Arc::new(AtomicBool::new(true));
    let timer = props.pit.resolve(true).then_some(chips.kernel_pit.lost_tick_policy);
    let mouse = (props.vmport.resolve(true) && props.i8042).then(|| VmMouse::new(vm.input()));
    let backdoor: Option<Arc<dyn Backdoor>> = props.vmport.resolve(true).then(|| {
        Arc::new(VmPort {
            ram: ram.size,
            uuid: config.identity.uuid.map_or([0; 16], |uuid| uuid.0),
            x2apic: accelerator.is_kvm() && processors.has_x2apic(),
            mouse: mouse.clone(),
        }) as _
    });
    let fpu_interrupt = Arc::<Patch>::default();
    let fpu_error = IrqLine::new(fpu_interrupt.clone(), 0);
    let around = Surroundings {
        map: &map,
        a20: &a20,
        clocks: &host.clocks,
        backdoor,
        fpu_error: &fpu_error,
        timer,
    };
    let wired = accelerator.wire(&processors, &around)?;
    let signals: Vec<_> = wired.engines.iter().map(|(signals, _)| signals.clone()).collect();
    for space in [&map.memory, &map.smm] {
        space.listen(Arc::new(FlushOnChange(signals.clone())));
    }
    // As on QEMU's board, SMIs of the chipset reach the boot processor.
    let smi_target = signals.first().cloned();
    let smm = wired.resolve_smm(props.smm)?;
    let topology = &processors.topology;
    let possible =
        |index| PossibleCpu { apic_id: topology.apic_id(index), present: index < processors.count };
    let firmware_is_named = config.firmware.is_some() || flash.is_used();
    let kernel = Kernel::read(&config.kernel, firmware_is_named, &processors)?;
    let firmware_runs = kernel.as_ref().is_none_or(Kernel::is_behind_firmware);
    let usual_order = config.boot.order.clone().unwrap_or_else(|| "cad".into());
    let cfg = PcConfig {
        chips: Chips {
            pic: props.pic.resolve(true),
            pit: props.pit.resolve(true),
            i8042: props.i8042,
            hpet: props.hpet,
            acpi: props.acpi.resolve(true),
        },
        bios: (firmware_runs && !flash.is_used()).then(|| firmware::bios(config)).transpose()?,
        cpus: (0..processors.max).map(possible).collect(),
        boot_order: config.boot.once.clone().unwrap_or_else(|| usual_order.clone()),
        floppy_boot_check: props.floppy_boot_check,
        rtc: options::rtc(
            config,
            config.rtc.slew || chips.rtc.lost_tick_policy == LostTickPolicy::Slew,
            &host.clocks,
        ),
        pm: PmConfig {
            smm,
            disable_s3: chips.pm.disable_s3 != 0,
            disable_s4: chips.pm.disable_s4 != 0,
            s4_value: chips.pm.s4_val.into(),
            ..PmConfig::default()
        },
        rtc_place: (chips.rtc.iobase.into(), chips.rtc.irq.into()),
        floppy_place: (chips.fdc.iobase.into(), chips.fdc.irq, chips.fdc.dma as usize),
        floppy_fallback: chips.fdc.fallback.kind(),
        keyboard_irqs: [chips.i8042.keyboard_irq, chips.i8042.mouse_irq].map(u32::from),
        fw_cfg_dma: chips.fw_cfg.dma_enabled,
        data_files: DataFiles::new(&config.data_dirs),
    };
    let wires = PcWires {
        apic_bus: wired.apic_bus.clone(),
        intr: wired.intr.clone(),
        kernel_chips: wired.kernel_chips(),
        smi: IrqLine::new(
            Arc::new(FnSink(move |_, level| {
                if let Some(signals) = smi_target.as_ref().filter(|_| level && smm) {
                    signals.post(request::SMI);
                }
            })),
            0,
        ),
        a20: IrqLine::new(Arc::new(A20Gate { open: a20, processors: signals }), 0),
        fpu_error,
        fpu_interrupt,
        requests: vm.request_sink(),
        time_changed: vm.rtc_changed(),
        // No processor has been asked to leave: the guest is not heeded.
        cpu_events: Box::new(|event| {
            base::guest_error!("unexpected CPU hot-plug event: {event:?}")
        }),
        ejected: {
            let jobs = vm.jobs();
            Box::new(move |function| jobs(Box::new(move |vm| vm.release(function))))
        },
    };
    let flash = flash.place(&map, props.max_firmware.0)?;
    let mut pc = Pc::new(map, &cfg, wires, &host.clocks).map_err(fault)?;
    wired.connect_pic(&pc.int_ack());
    if let Some(keyboard) = &pc.keyboard {
        I8042::connect(keyboard, vm.input());
        if let Some(mouse) = &mouse {
            mouse.connect(keyboard);
        }
    }
    if let Some(mouse) = mouse {
        pc.add_device(mouse);
    }
    if props.usb {
        let seat = uhci::Seat::Board(devfn(1, 2));
        Uhci::plug(&pc.pci, &seat, &UhciProps::default(), vm.usb(), &host.clocks).map_err(fault)?;
    }
    let apics = wired.apics();
    let described = tree::machine(machine, config, &props);
    let mut tree =
        Tree::new(vm, described.with(tree::resources(config, &processors.smp, ram.size)));
    for chip in flash.enter(&mut tree) {
        pc.add_device(chip);
    }
    let (vmport, smbus) = (props.vmport.resolve(true), props.smbus);
    let chipset = Chipset {
        pc: &pc,
        chips: cfg.chips,
        types,
        kvm: is_kvm,
        kernel: wired.kvm.clone().filter(|kvm| kvm.pins().is_some()),
        vmport,
        smbus,
        usb: vm.usb().newest(),
        onboard: &chips,
        apics: &apics,
    };
    // Without nodes the plan has every processor on the first.
    let nodes = if numa.nodes.is_empty() { &[][..] } else { &numa.cpus };
    let cpus = chips::enter_processors(&mut tree, &processors, &chipset, nodes);
    let mut ide_drives = BoardDevice::on_ide(vm.graph());
    let mut floppies = BoardDevice::on_floppy(vm.graph());
    let mut adapter = display::adapter(config)?.map(BoardDevice::adapter);
    let isa_bus = chipset.enter_first(&mut tree, &mut ide_drives, adapter.as_mut());
    vm.describe(Inventory {
        machine,
        kvm: is_kvm,
        support,
        cpu_type: Some(processors.type_name.clone()),
        cpus,
        node_sizes: node_sizes.clone(),
        ram: ram.size,
        memory_slots: config.memory.slots,
        can_suspend: cfg.chips.acpi,
        translator_report,
    });
    let means = Means {
        isa_bus: isa_bus.clone(),
        clocks: host.clocks.clone(),
        chardevs: characters.all.clone(),
        graph: vm.graph().clone(),
        objects: vm.user_objects().clone(),
        main_loop: host.main_loop.clone(),
        processors: processors.count,
        requests: vm.request_sink(),
        msi: wired.apic_bus.clone(),
        nics: vm.networks().nics().clone(),
        consoles: vm.consoles().clone(),
        input: vm.input().clone(),
        usb: vm.usb().clone(),
        kvm: wired.kvm.clone(),
        globals: config.globals.clone(),
    };
    let mut equipment = Equipment {
        pc: &pc,
        tree: &mut tree,
        means: &means,
        hot: false,
        identity: Identity::default(),
        bus: None,
        floppy_bus: String::new(),
        settled: Vec::new(),
        facts: Vec::new(),
        chips: Vec::new(),
        usb: None,
    };
    if let Some(adapter) = &adapter {
        equipment.add_board_device(adapter)?;
    }
    for drive in &ide_drives {
        equipment.add_board_device(drive)?;
    }
    equipment.add_consoles(characters)?;
    let chipset = Chipset {
        pc: equipment.pc,
        chips: cfg.chips,
        types,
        kvm: is_kvm,
        kernel: wired.kvm.clone().filter(|kvm| kvm.pins().is_some()),
        vmport,
        smbus,
        usb: vm.usb().newest(),
        onboard: &chips,
        apics: &apics,
    };
    equipment.floppy_bus = chipset.enter_rest(equipment.tree, &isa_bus, &mut floppies);
    for (place, index) in (0..).zip([chips.fdc.boot_index_a, chips.fdc.boot_index_b]) {
        if let Some(index) = index {
            equipment.facts.push(Fact::bootable_floppy(index, chips.fdc.iobase, place));
        }
    }
    for drive in &floppies {
        equipment.add_board_device(drive)?;
    }
    for card in &cards.list {
        equipment.add_board_card(&card.device)?;
    }
    chipset.enter_last(equipment.tree);
    equipment.add_usb_devices(config)?;
    let added = equipment.add_devices(config, &drives.devices)?;
    drives.check_all_connected()?;
    cards.settle(vm.networks());
    let Equipment { mut facts, chips, .. } = equipment;
    chips.into_iter().for_each(|chip| pc.add_device(chip));
    cmos::set_disks(&mut pc.rtc.lock(), &ide_disks(&facts));
    cmos::set_floppies(&mut pc.rtc.lock(), floppy_drives(&facts));
    let choices = Choices { machine, config, props: &props, board: &cfg, numa, node_sizes };
    let tables = describe(choices, &pc, &processors, &facts, &options::smbios(config)?);
    {
        let mut fw_cfg = pc.fw_cfg.lock();
        let about = &tables.description;
        about.store(&mut fw_cfg, tables.acpi.as_ref(), &tables.smbios).map_err(fault)?;
        let kernel = kernel.as_ref().filter(|kernel| kernel.is_behind_firmware());
        if let Some(kernel) = kernel {
            facts.insert(0, kernel.tell_firmware(&tables, &mut fw_cfg)?);
        }
        options::add_files(config, &facts, &mut fw_cfg)?;
    }
    let handover = Handover::create(&pc, vm.request_sink());
    let failure = Arc::default();
    let start = Start { kernel, handover, tables, failure: Arc::clone(&failure) };
    let vcpus = processors::start(wired.engines, vm, wired.names)?;
    let later_boots = config.boot.once.is_some().then(|| LaterBoots {
        order: usual_order,
        floppy_boot_check: props.floppy_boot_check,
        started: AtomicBool::new(false),
    });
    let devices = Devices::new(means, options::BootOrder::of(config), tree, added, facts);
    vm.assemble(Arc::new(PcMachine { pc, devices, later_boots, kvm: wired.kvm, start }), vcpus);
    Ok(failure)
}

/// The floppy drives that firmware's tables describe, by place.
fn floppy_drives(facts: &[Fact]) -> [Option<FloppyDrive>; 2] {
    [0, 1].map(|place| {
        facts.iter().find_map(|fact| match fact {
            Fact::Floppy(drive) if drive.place == place => {
                let (cylinder, sectors, head) = drive.kind.limits();
                let geometry = (cylinder as u8, sectors as u8, head as u8);
                Some(FloppyDrive { kind: drive.kind as u8, geometry })
            }
            _ => None,
        })
    })
}

/// The disks that CMOS memory describes.
fn ide_disks(facts: &[Fact]) -> Vec<IdeDisk> {
    let disk = |fact: &Fact| match fact {
        Fact::IdeDisk(disk) => Some(*disk),
        _ => None,
    };
    facts.iter().filter_map(disk).collect()
}

/// What was asked for, of what the tables tell.
struct Choices<'a> {
    machine: &'a MachineType,
    config: &'a MachineConfig,
    props: &'a PcProps,
    board: &'a PcConfig,
    numa: NumaPlan,
    node_sizes: Vec<u64>,
}

/// What the board is, for the tables.
fn describe(
    choices: Choices<'_>,
    pc: &Pc,
    processors: &Processors,
    facts: &[Fact],
    smbios: &smbios::Config,
) -> Tables {
    let Choices { machine, config, props, board, numa, node_sizes } = choices;
    let topology = &processors.topology;
    let ports = |select: fn(&Fact) -> Option<LegacyPort>| facts.iter().filter_map(select).collect();
    let description = Description {
        memory: (pc.map.below_4g, pc.map.above_4g),
        cpus: board.cpus.clone(),
        threads_per_socket: topology.threads_per_package(),
        cores_per_socket: topology.threads_per_package() / topology.threads.max(1),
        sockets: topology.sockets,
        processor_id: processors.identity(),
        machine: machine.name.into(),
        no_graphic: config.no_graphic || !props.graphics,
        serial_console: config.no_graphic,
        uuid: config.identity.uuid.map_or([0; 16], |uuid| uuid.0),
        pci: pc.pci.functions().iter().map(|function| PlacedFunction::of(function)).collect(),
        serial: ports(|fact| match *fact {
            Fact::Serial(port) => Some(port),
            _ => None,
        }),
        parallel: ports(|fact| match *fact {
            Fact::Parallel(port) => Some(port),
            _ => None,
        }),
        floppy_drives: floppy_drives(facts),
        keyboard: board.chips.i8042,
        oem: props.oem(),
        entry_point: props.entry_point(),
        // Fixed with version 5.2.
        pci_root_uid: if machine.since(5, 2) { 0 } else { 1 },
        hpet: board.chips.hpet,
        cpu_hotplug: pc.hotplug.as_ref().map(|_| CPU_HOTPLUG_PORT as u16),
        pci_hotplug: pc.hotplug.as_ref().map(|_| PCI_HOTPLUG_PORT as u16),
        pvpanic: facts.iter().find_map(|fact| match *fact {
            Fact::Pvpanic(port) => Some(port),
            _ => None,
        }),
        generation_id: facts.iter().find_map(|fact| match *fact {
            Fact::GenerationId(id) => Some(id),
            _ => None,
        }),
        numa: (!numa.nodes.is_empty()).then(|| acpi::Numa {
            nodes: numa.nodes.len() as u32,
            memory: acpi::numa_memory(&node_sizes, pc.map.below_4g),
            distances: numa.distances,
        }),
        cpu_nodes: numa.cpus,
        s3: !board.pm.disable_s3,
        s4: (!board.pm.disable_s4).then_some(board.pm.s4_value as u8),
    };
    Tables {
        acpi: board.chips.acpi.then(|| description.acpi()),
        smbios: smbios.build(&description.smbios_hardware()),
        smbios_of_kernel: smbios.with_firmware().build(&description.smbios_hardware()),
        description,
    }
}
