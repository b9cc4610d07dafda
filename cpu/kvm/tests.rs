//! Small guests under the kernel's hypervisor. Without /dev/kvm they are left out, with a word why.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use base::clock::Clocks;
use base::interrupt::{ApicBus, ApicMessage, DeliveryMode, DestinationMode, IntAck, Trigger};
use base::irq::{IrqLine, IrqSink};
use base::memory::{AccessSizes, AddressSpace, IoHandler, RamBlock, Region};
use parking_lot::Mutex;

use super::*;
use crate::apic::{ApicFabric, LocalApic};
use crate::bus::{Bus, TimeStamp};
use crate::cpuid::{Model, Topology, select};
use crate::flags::LazyFlags;
use crate::signals::Signals;
use crate::state::{Seg, Segment, cr0, cr4, efer, gpr};
use crate::vcpu::{Engine, EventSink, VcpuEvent, Vcpus};

/// Long enough for anything to have happened that is going to.
const PATIENCE: Duration = Duration::from_secs(20);

struct HostTime;

impl TimeStamp for HostTime {
    fn ticks(&self) -> u64 {
        0
    }
    fn frequency(&self) -> u64 {
        1_000_000_000
    }
}

/// Ports 0x10 and up: what is written is sent to the test, what is read comes from a queue.
struct Ports {
    written: Mutex<mpsc::Sender<(u64, u8, u64)>>,
    input: Mutex<VecDeque<u64>>,
}

impl IoHandler for Ports {
    fn read(&self, _: u64, _: u8) -> u64 {
        self.input.lock().pop_front().unwrap_or(0)
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        // The test may have seen enough already.
        let _ = self.written.lock().send((offset, size, value));
    }
    fn sizes(&self) -> AccessSizes {
        AccessSizes::ANY
    }
}

struct Bed {
    vcpus: Vcpus,
    vm: Arc<KvmVm>,
    ram: Arc<RamBlock>,
    root: Region,
    written: mpsc::Receiver<(u64, u8, u64)>,
    ports: Arc<Ports>,
    events: mpsc::Receiver<VcpuEvent>,
    apics: Vec<Arc<LocalApic>>,
    fabric: Arc<ApicFabric>,
    pic: Option<Arc<PicLine>>,
}

const RAM: u64 = 0x20_0000;
/// A device: what is written to it is sent to the test too.
const MMIO: u64 = 0x30_0000;

fn bed(irqchip: Irqchip, cpus: u32) -> Option<Bed> {
    let kvm = match Kvm::open(Path::new(Kvm::DEVICE)) {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("left out: {error}");
            return None;
        }
    };
    let topology = Topology { threads: cpus, ..Topology::default() };
    let support = kvm.support(irqchip).unwrap();
    let model: Arc<Model> = Arc::new(select("host", &support, topology).unwrap().model);
    let options = VmOptions {
        irqchip,
        pit: irqchip == Irqchip::Kernel,
        pit_catches_up: true,
        host_sleep: false,
        max_vcpus: cpus as usize,
    };
    let vm = KvmVm::new(kvm, options).unwrap();

    let ram = Arc::new(RamBlock::anonymous("ram", RAM).unwrap());
    let root = Region::container("system", 1 << 40);
    root.add(&Region::ram(ram.clone()), 0, 0);
    let (sender, written) = mpsc::channel();
    let ports = Arc::new(Ports { written: Mutex::new(sender), input: Mutex::default() });
    root.add(&Region::io("device", 0x1000, ports.clone()), MMIO, 0);
    let io = Region::container("io", 0x1_0000);
    io.add(&Region::io("ports", 0x100, ports.clone()), 0x10, 0);
    let memory = AddressSpace::new("memory", root.clone());
    vm.attach_memory(&memory, &memory);

    let clocks = Clocks::new();
    let fabric = ApicFabric::new();
    let mut apics = Vec::new();
    let mut pic = None;
    let engines = (0..cpus)
        .map(|n| {
            let signals = Arc::<Signals>::default();
            let interrupts = match irqchip {
                Irqchip::Kernel => Interrupts::Kernel,
                Irqchip::Split if n == 0 => {
                    let line = PicLine::new(signals.clone());
                    pic = Some(line.clone());
                    Interrupts::Pic(line)
                }
                Irqchip::Split => Interrupts::Kernel,
                Irqchip::User => {
                    let mailbox = signals.clone();
                    let tsc = Arc::new(HostTime);
                    let apic = LocalApic::new(n, n == 0, mailbox, &fabric, &clocks, tsc);
                    apics.push(apic.clone());
                    Interrupts::Apic(apic)
                }
            };
            let bus = Bus {
                memory: memory.clone(),
                smm: memory.clone(),
                ports: AddressSpace::with_unassigned("io", io.clone(), 0xff),
                a20: Arc::new(AtomicBool::new(true)),
                backdoor: None,
                fpu_error: IrqLine::unconnected(),
                apic: None,
                tsc: Arc::new(HostTime),
            };
            let engine =
                KvmEngine::new(&vm, n, model.clone(), bus, signals.clone(), interrupts).unwrap();
            (signals, Box::new(engine) as Box<dyn Engine>)
        })
        .collect();
    let (sender, events) = mpsc::channel();
    let sender = Mutex::new(sender);
    let sink: EventSink = Arc::new(move |event| drop(sender.lock().send(event)));
    let vcpus = Vcpus::start(engines, &sink, "CPU {}").unwrap();
    Some(Bed { vcpus, vm, ram, root, written, ports, events, apics, fabric, pic })
}

impl Bed {
    /// Puts code where the boot processor starts in real mode, at 0:1000.
    fn start(&self, code: &[u8]) {
        self.ram.write(0x1000, code);
        self.vcpus.run_on(0, |engine| {
            engine.with_state(&mut |state| {
                state.seg[Seg::Cs as usize] = Segment { attr: 0x9b, ..Segment::real(0) };
                state.rip = 0x1000;
                state.halted = false;
                state.regs[gpr::RSP] = 0x8000;
            });
        });
        self.vcpus.resume();
    }

    fn next(&self) -> (u64, u8, u64) {
        match self.written.recv_timeout(PATIENCE) {
            Ok(write) => write,
            Err(_) => panic!("the guest is silent: {:?}", self.events.try_recv()),
        }
    }
}

fn fixed(vector: u8) -> ApicMessage {
    ApicMessage {
        destination: 0,
        mode: DestinationMode::Physical,
        delivery: DeliveryMode::Fixed,
        vector,
        level: true,
        trigger: Trigger::Edge,
    }
}

#[test]
fn real_mode_reaches_ports_and_devices() {
    let Some(bed) = bed(Irqchip::Kernel, 1) else { return };
    bed.ports.input.lock().extend([0x41, 0x42, 0x43]);
    #[rustfmt::skip]
    bed.start(&[
        0xb0, 0x55,                   // mov al, 0x55
        0xe6, 0x10,                   // out 0x10, al
        0xb8, 0x34, 0x12,             // mov ax, 0x1234
        0xe7, 0x12,                   // out 0x12, ax
        0xe4, 0x18,                   // in al, 0x18
        0xe6, 0x10,                   // out 0x10, al
        0xe4, 0x18,                   // in al, 0x18
        0xe6, 0x10,                   // out 0x10, al
        0xf4,                         // hlt
    ]);
    assert_eq!(bed.next(), (0, 1, 0x55));
    assert_eq!(bed.next(), (2, 2, 0x1234));
    assert_eq!(bed.next(), (0, 1, 0x41));
    assert_eq!(bed.next(), (0, 1, 0x42));
}

/// Long mode, with the first 2 MiB and the device's mapped.
fn enter_long_mode(bed: &Bed, code: &[u8]) {
    bed.ram.write_uint(0x10_0000, 8, 0x10_1003);
    bed.ram.write_uint(0x10_1000, 8, 0x10_2003);
    bed.ram.write_uint(0x10_2000, 8, 0x83);
    bed.ram.write_uint(0x10_2008, 8, 0x20_0083);
    bed.ram.write(0x1000, code);
    bed.vcpus.run_on(0, |engine| {
        engine.with_state(&mut |state| {
            state.cr3 = 0x10_0000;
            state.cr4 = cr4::PAE;
            state.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE;
            state.msr.efer = efer::LME | efer::LMA;
            let flat = |attr| Segment { selector: 8, base: 0, limit: !0, attr };
            state.seg = [flat(0xc093); 6];
            state.seg[Seg::Cs as usize] = flat(0xa09b);
            state.tr = Segment { limit: 0xffff, attr: 0x8b, ..Segment::default() };
            state.rip = 0x1000;
            state.regs[gpr::RSP] = 0x8000;
            state.flags = LazyFlags::new(2);
        });
    });
}

#[test]
fn long_mode_keeps_its_state_across_a_pause() {
    let Some(bed) = bed(Irqchip::Kernel, 1) else { return };
    #[rustfmt::skip]
    enter_long_mode(&bed, &[
        0x49, 0xb8, 8, 7, 6, 5, 4, 3, 2, 1,       // mov r8, 0x0102030405060708
        0xb8, 0x00, 0x00, 0x30, 0x00,             // mov eax, 0x300000
        0x44, 0x89, 0x40, 0x10,                   // mov [rax + 0x10], r8d
        0xeb, 0xfe,                               // jmp $
    ]);
    bed.vcpus.resume();
    assert_eq!(bed.next(), (0x10, 4, 0x0506_0708));
    bed.vcpus.pause();
    let seen = bed.vcpus.run_on(0, |engine| {
        let mut seen = None;
        engine.with_state(&mut |state| {
            seen = Some((state.regs[8], state.rip, state.msr.efer & efer::LMA));
            state.regs[8] = 0x77;
            state.rip = 0x100f;
        });
        seen
    });
    assert_eq!(seen.flatten(), Some((0x0102_0304_0506_0708, 0x1013, efer::LMA)));
    bed.vcpus.resume();
    assert_eq!(bed.next(), (0x10, 4, 0x77));
}

#[test]
fn a_triple_fault_is_a_shutdown() {
    let Some(bed) = bed(Irqchip::Kernel, 1) else { return };
    // The interrupt table is empty.
    enter_long_mode(&bed, &[0x0f, 0x0b]);
    bed.vcpus.run_on(0, |engine| engine.with_state(&mut |state| state.idtr.limit = 0));
    bed.vcpus.resume();
    assert_eq!(bed.events.recv_timeout(PATIENCE), Ok(VcpuEvent::Shutdown { index: 0 }));
    bed.vcpus.pause();
    bed.vcpus.reset();
    bed.start(&[0xe6, 0x10, 0xf4]);
    assert_eq!(bed.next().0, 0);
}

/// STI, HLT; vector 0x40 writes 0x99 and returns, after which the guest writes 0x11.
#[rustfmt::skip]
const WAIT: &[u8] = &[
    0xfa,                             // cli
    0xb0, 0x01, 0xe6, 0x10,           // out 0x10, 1
    0xfb,                             // sti
    0xf4,                             // hlt
    0xfa,                             // cli
    0xb0, 0x11, 0xe6, 0x10,           // out 0x10, 0x11
    0xeb, 0xf7,                       // jmp to sti
];
#[rustfmt::skip]
const HANDLER: &[u8] = &[
    0xb0, 0x99, 0xe6, 0x10,           // out 0x10, 0x99
    0xcf,                             // iret
];

fn waits_for_interrupts(bed: &Bed) {
    bed.ram.write(0x1800, HANDLER);
    bed.ram.write_uint(0x40 * 4, 4, 0x1800);
    bed.start(WAIT);
    assert_eq!(bed.next(), (0, 1, 1));
}

#[test]
fn our_own_apic_wakes_a_halted_guest() {
    let Some(bed) = bed(Irqchip::User, 1) else { return };
    {
        use crate::bus::ApicPage;
        bed.apics[0].write(0xf0, 4, 0x1ff);
        waits_for_interrupts(&bed);
        for _ in 0..3 {
            bed.fabric.deliver(fixed(0x40));
            assert_eq!(bed.next(), (0, 1, 0x99));
            assert_eq!(bed.next(), (0, 1, 0x11));
            bed.apics[0].write(0xb0, 4, 0);
        }
    }
}

#[test]
fn the_8259_outside_interrupts_an_apic_inside() {
    struct Pic(Arc<PicLine>);
    impl IntAck for Pic {
        fn acknowledge(&self) -> u8 {
            self.0.set_irq(0, false);
            0x40
        }
    }
    let Some(bed) = bed(Irqchip::Split, 1) else { return };
    let line = bed.pic.clone().unwrap();
    line.connect_pic(Arc::new(Pic(line.clone())));
    waits_for_interrupts(&bed);
    for _ in 0..3 {
        line.set_irq(0, true);
        assert_eq!(bed.next(), (0, 1, 0x99));
        assert_eq!(bed.next(), (0, 1, 0x11));
    }
}

#[test]
fn the_chips_of_the_kernel_are_saved_and_restored() {
    let Some(bed) = bed(Irqchip::Kernel, 1) else { return };
    // Programs the first 8259's mask and the timer's first channel: mode, count; then tells.
    let program = |mask: u8, mode: u8, count: u8| {
        let out = |port: u8, value: u8| [0xb0, value, 0xe6, port];
        let code = [
            out(0x21, mask),
            out(0x43, 0x30 | mode << 1),
            out(0x40, count),
            out(0x40, 0x12),
            out(0x10, mask),
        ];
        bed.start(&[&code.concat()[..], &[0xfa, 0xf4]].concat());
        assert_eq!(bed.next(), (0, 1, mask.into()));
        bed.vcpus.pause();
    };
    let seen = || {
        let channel = bed.vm.chips().unwrap().timer.unwrap().channels[0];
        (bed.vm.pic(true).unwrap().imr, channel.mode, channel.count)
    };
    let fresh = seen();
    program(0x5a, 2, 0x34);
    assert_eq!(seen(), (0x5a, 2, 0x1234));
    let saved = bed.vm.chips().unwrap();
    program(0xa5, 3, 0x56);
    assert_eq!(seen(), (0xa5, 3, 0x1256));
    bed.vm.set_chips(&saved).unwrap();
    assert_eq!(seen(), (0x5a, 2, 0x1234));
    bed.vm.reset_chips().unwrap();
    assert_eq!(seen(), fresh);
}

#[test]
fn changes_of_the_memory_map_reach_a_running_guest() {
    let Some(bed) = bed(Irqchip::Kernel, 1) else { return };
    let other = Arc::new(RamBlock::anonymous("other", 0x1000).unwrap());
    other.write(0, &[0x5a]);
    let window = Region::ram(other);
    #[rustfmt::skip]
    bed.start(&[
        0xa0, 0x00, 0x40,             // mov al, [0x4000]
        0xe6, 0x10,                   // out 0x10, al
        0xeb, 0xf9,                   // jmp to the start
    ]);
    for _ in 0..5 {
        bed.root.add(&window, 0x4000, 1);
        while bed.next().2 != 0x5a {}
        bed.root.remove(&window);
        while bed.next().2 != 0 {}
    }
    bed.vcpus.pause();
}

#[test]
fn no_pause_is_lost_while_the_memory_map_changes() {
    let Some(bed) = bed(Irqchip::Kernel, 2) else { return };
    let other = Arc::new(RamBlock::anonymous("other", 0x1000).unwrap());
    let window = Region::ram(other);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bed.root.add(&window, 0x4000, 1);
                bed.root.remove(&window);
            }
        });
        bed.start(&[0xeb, 0xfe]);
        for _ in 0..100 {
            bed.vcpus.pause();
            bed.vcpus.resume();
        }
        bed.vcpus.pause();
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn dirty_pages_are_found() {
    use base::memory::Client;
    let Some(bed) = bed(Irqchip::Kernel, 1) else { return };
    let dirty = || {
        let mut pages = Vec::new();
        bed.ram.tracking().take_dirty(Client::Migration, 0x3000, 0x3000, |page| pages.push(page));
        pages
    };
    dirty();
    bed.vm.memory().log_dirty(&bed.ram, true).unwrap();
    #[rustfmt::skip]
    bed.start(&[
        0xa2, 0x00, 0x40,             // mov [0x4000], al
        0xe6, 0x10,                   // out 0x10, al
        0xf4,
    ]);
    bed.next();
    bed.vcpus.pause();
    bed.vm.memory().sync_dirty(&bed.ram).unwrap();
    assert_eq!(dirty(), [0x4000]);
}

#[test]
fn a_second_processor_starts_by_ipi() {
    let Some(bed) = bed(Irqchip::User, 2) else { return };
    bed.ram.write(0x3000, &[0xb0, 0x22, 0xe6, 0x11, 0xf4]);
    bed.start(&[0xf4]);
    let to = |delivery, vector| ApicMessage { destination: 1, delivery, ..fixed(vector) };
    bed.fabric.deliver(to(DeliveryMode::Init, 0));
    bed.fabric.deliver(to(DeliveryMode::StartUp, 3));
    assert_eq!(bed.next(), (1, 1, 0x22));
    bed.vcpus.pause();
}

#[test]
fn a_missing_device_is_explained() {
    let path = Path::new("/nonexistent/kvm");
    let error = Kvm::open(path).err().unwrap();
    assert_eq!(error.to_string(), "Could not access KVM kernel module: No such file or directory");
    assert_eq!(error.summary(), "failed to initialize kvm: No such file or directory");
    let remedy = error.remedy(path).unwrap();
    assert!(remedy.contains("modprobe") && remedy.contains("-accel tcg"), "{remedy}");
}
