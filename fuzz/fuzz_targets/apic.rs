//! Local APICs, an I/O APIC and message-signalled interrupts, with processors that take what
//! arrives.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use base::clock::Clocks;
use base::device::Shared;
use base::interrupt::{MsiMessage, MsiSink};
use base::irq::IrqSink;
use base::memory::{AddressSpace, Region};
use cpu::apic::{ApicFabric, LocalApic};
use cpu::bus::ApicPage;
use cpu::signals::{Signals, request};
use cpu::soft::VirtualTsc;
use hw::intc::ioapic::{Ioapic, IoapicInputs};
use libfuzzer_sys::fuzz_target;

const PROCESSORS: u32 = 3;
/// Longest step of the clock, in nanoseconds.
const LONGEST_STEP: u32 = 20_000_000;

#[derive(Arbitrary, Debug)]
enum Action {
    Read { cpu: u8, offset: u16, size: u8 },
    Write { cpu: u8, register: u8, value: u32 },
    ReadMsr { cpu: u8, register: u8 },
    WriteMsr { cpu: u8, register: u8, value: u64 },
    Deadline { cpu: u8, value: u32 },
    Base { cpu: u8, x2apic: bool, enabled: bool },
    Priority { cpu: u8, class: u8 },
    Take { cpu: u8 },
    Lint { cpu: u8, input: bool, level: bool },
    Message { address: u32, data: u32 },
    Pin { n: u8, level: bool },
    Ioapic { select: u8, value: u32 },
    Init { cpu: u8 },
    Advance { nanoseconds: u32 },
}

struct Bed {
    clocks: Clocks,
    fabric: Arc<ApicFabric>,
    apics: Vec<(Arc<LocalApic>, Arc<Signals>)>,
    ioapic: Shared<Ioapic>,
    memory: AddressSpace,
}

impl Bed {
    fn new() -> Self {
        let clocks = Clocks::new();
        clocks.step_by_hand();
        let fabric = ApicFabric::new();
        let apic = |id| {
            let signals = Arc::<Signals>::default();
            let tsc = Arc::new(VirtualTsc(clocks.clone()));
            (LocalApic::new(id, id == 0, signals.clone(), &fabric, &clocks, tsc), signals)
        };
        let apics = (0..PROCESSORS).map(apic).collect();
        let (ioapic, region) = Ioapic::create(fabric.clone());
        let root = Region::container("memory", 0x1000);
        root.add(&region, 0, 0);
        let memory = AddressSpace::new("memory", root);
        Bed { clocks, fabric, apics, ioapic, memory }
    }

    fn apic(&self, cpu: u8) -> &LocalApic {
        &self.apics[usize::from(cpu) % self.apics.len()].0
    }

    fn perform(&self, action: &Action) {
        match *action {
            Action::Read { cpu, offset, size } => {
                self.apic(cpu).read(u32::from(offset & 0xfff), 1 << (size % 3));
            }
            Action::Write { cpu, register, value } => {
                self.apic(cpu).write(u32::from(register) << 4, 4, value);
            }
            Action::ReadMsr { cpu, register } => {
                self.apic(cpu).read_msr(0x800 + u32::from(register));
            }
            Action::WriteMsr { cpu, register, value } => {
                let _ = self.apic(cpu).write_msr(0x800 + u32::from(register), value);
            }
            Action::Deadline { cpu, value } => {
                let _ = self.apic(cpu).write_msr(0x6e0, value.into());
            }
            Action::Base { cpu, x2apic, enabled } => {
                let bits = u64::from(x2apic) << 10 | u64::from(enabled) << 11;
                self.apic(cpu).set_base(0xfee0_0000 | bits);
            }
            Action::Priority { cpu, class } => self.apic(cpu).set_tpr(class & 0xf),
            Action::Take { cpu } => drop(self.apic(cpu).take_interrupt()),
            Action::Lint { cpu, input, level } => self.apic(cpu).set_irq(input.into(), level),
            Action::Message { address, data } => {
                self.fabric.send(MsiMessage { address: address.into(), data });
            }
            Action::Pin { n, level } => {
                IoapicInputs(self.ioapic.clone()).set_irq((n % 32).into(), level);
            }
            Action::Ioapic { select, value } => {
                self.memory.write_uint(0, 4, select.into());
                self.memory.write_uint(0x10, 4, value.into());
                self.memory.read_uint(0x10, 4);
            }
            Action::Init { cpu } => self.apic(cpu).init(),
            Action::Advance { nanoseconds } => {
                let now = self.clocks.now_virtual();
                self.clocks.step_to(now + i64::from(nanoseconds % LONGEST_STEP));
            }
        }
    }
}

fuzz_target!(|actions: Vec<Action>| {
    let bed = Bed::new();
    for action in &actions {
        bed.perform(action);
        // An interrupt that a processor can take is announced in its mailbox, and no other.
        for (apic, signals) in &bed.apics {
            if signals.pending() & request::INTR == 0 {
                assert_eq!(apic.take_interrupt(), None, "after {action:?}");
            }
        }
    }
});
