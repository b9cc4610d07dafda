//! The CPU hot-plug controller that the DSDT drives ("ACPI CPU hotplug" in QEMU's specifications).
//!
//! It starts as a bitmap of the processors present, which old firmware reads. A zero written to the
//! first port changes it for good into the register interface: a selector, and for the selected
//! processor flags, a command and its data.

use base::device::{self, Device, Shared};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use base::state::State;

/// First port on the i440FX board.
pub const CPU_HOTPLUG_PORT: u64 = 0xaf00;
/// Ports while the controller is a bitmap, and with them all that it ever answers.
const PORTS: u64 = 0x20;
/// Ports of the register interface.
const REGISTERS: u64 = 12;

/// General-purpose event of the controller.
pub const CPU_HOTPLUG_GPE: u8 = 2;

mod reg {
    pub const SELECTOR: u64 = 0;
    pub const FLAGS: u64 = 4;
    pub const COMMAND: u64 = 5;
    pub const DATA: u64 = 8;
}

mod flag {
    pub const PRESENT: u8 = 1;
    pub const INSERTED: u8 = 1 << 1;
    pub const REMOVING: u8 = 1 << 2;
    /// Written: take the processor out.
    pub const EJECT: u8 = 1 << 3;
    /// The removal is left to firmware.
    pub const FIRMWARE: u8 = 1 << 4;
}

mod command {
    /// Selects the next processor with an event; data reads as the selector.
    pub const NEXT_EVENT: u8 = 0;
    /// Data is the event that `_OST` reports.
    pub const OST_EVENT: u8 = 1;
    /// Data is the status that `_OST` reports, and completes the report.
    pub const OST_STATUS: u8 = 2;
    /// Data reads as the APIC id.
    pub const APIC_ID: u8 = 3;
}

/// What the guest tells the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuEvent {
    /// The guest lets go of a processor: it may be taken out.
    Eject {
        /// Its number.
        cpu: usize,
    },
    /// `_OST` was evaluated.
    Status {
        /// The processor's number.
        cpu: usize,
        /// What the status is about.
        event: u32,
        /// How it went.
        status: u32,
    },
}

/// A possible processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PossibleCpu {
    /// Its APIC id.
    pub apic_id: u32,
    /// Whether it is there at start.
    pub present: bool,
}

/// Where the guest's words go.
pub type CpuEvents = Box<dyn Fn(CpuEvent) + Send + Sync>;

/// What the controller knows of a processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
struct Slot {
    present: bool,
    inserted: bool,
    removing: bool,
    firmware: bool,
    ost_event: u32,
}

impl Slot {
    fn flags(&self) -> u8 {
        let bits = [
            (self.present, flag::PRESENT),
            (self.inserted, flag::INSERTED),
            (self.removing, flag::REMOVING),
            (self.firmware, flag::FIRMWARE),
        ];
        bits.iter().filter(|(set, _)| *set).fold(0, |flags, (_, bit)| flags | bit)
    }
}

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct CpuHotplugState {
    bitmap: bool,
    selector: u32,
    command: u8,
    slots: Vec<Slot>,
}

/// The controller.
pub struct CpuHotplug {
    /// APIC ids of all possible processors.
    apic_ids: Vec<u32>,
    gpe: IrqLine,
    events: CpuEvents,
    st: CpuHotplugState,
}

impl CpuHotplug {
    /// The controller of these processors, and its ports. `gpe` is pulsed when the guest has to look.
    pub fn create(cpus: &[PossibleCpu], gpe: IrqLine, events: CpuEvents) -> (Shared<Self>, Region) {
        let slots = cpus.iter().map(|cpu| Slot { present: cpu.present, ..Slot::default() });
        let st = CpuHotplugState {
            bitmap: true,
            selector: 0,
            command: command::NEXT_EVENT,
            slots: slots.collect(),
        };
        let apic_ids = cpus.iter().map(|cpu| cpu.apic_id).collect();
        let controller = device::share(|_| CpuHotplug { apic_ids, gpe, events, st });
        let sizes = AccessSizes::UP_TO_DWORD;
        let ports = device::region(&controller, 0, "acpi-cpu-hotplug", PORTS, sizes);
        (controller, ports)
    }

    /// A processor was put in while the guest runs.
    pub fn plug(&mut self, cpu: usize) {
        if let Some(slot) = self.st.slots.get_mut(cpu) {
            (slot.present, slot.inserted) = (true, true);
            self.gpe.pulse();
        }
    }

    /// Asks the guest to let go of a processor.
    pub fn request_removal(&mut self, cpu: usize) {
        if let Some(slot) = self.st.slots.get_mut(cpu) {
            slot.removing = true;
            self.gpe.pulse();
        }
    }

    /// A processor was taken out.
    pub fn unplug(&mut self, cpu: usize) {
        if let Some(slot) = self.st.slots.get_mut(cpu) {
            *slot = Slot::default();
        }
    }

    /// Bit `n` of the bitmap is the processor with APIC id `n`.
    fn read_bitmap(&self, offset: u64) -> u8 {
        let present = self.apic_ids.iter().zip(&self.st.slots).filter(|(_, slot)| slot.present);
        let byte = present.filter(|(id, _)| u64::from(**id / 8) == offset);
        byte.fold(0, |byte, (id, _)| byte | 1 << (id % 8))
    }

    fn selected(&mut self) -> Option<(usize, &mut Slot)> {
        let n = self.st.selector as usize;
        self.st.slots.get_mut(n).map(|slot| (n, slot))
    }

    fn read_data(&mut self) -> u32 {
        let (selector, command) = (self.st.selector, self.st.command);
        let Some((n, _)) = self.selected() else { return 0 };
        match command {
            command::NEXT_EVENT => selector,
            command::APIC_ID => self.apic_ids[n],
            _ => 0,
        }
    }

    fn write_flags(&mut self, value: u8) {
        let Some((cpu, slot)) = self.selected() else { return };
        if value & flag::INSERTED != 0 {
            slot.inserted = false;
        } else if value & flag::REMOVING != 0 {
            slot.removing = false;
        } else if value & flag::EJECT != 0 {
            // The processor that everything started on stays.
            if slot.present && cpu != 0 {
                (self.events)(CpuEvent::Eject { cpu });
            }
        } else if value & flag::FIRMWARE != 0 {
            slot.firmware = !slot.firmware;
        }
    }

    fn write_command(&mut self, value: u8) {
        self.st.command = value;
        if value == command::NEXT_EVENT {
            self.select_next_event();
        }
    }

    /// From the selected processor on, and round; where there is no event the selector stays.
    fn select_next_event(&mut self) {
        let count = self.st.slots.len();
        let start = self.st.selector as usize;
        if start >= count {
            return;
        }
        let has_event = |n: &usize| {
            let slot = &self.st.slots[*n];
            slot.inserted || slot.removing || slot.firmware
        };
        if let Some(next) = (start..count).chain(0..start).find(has_event) {
            self.st.selector = next as u32;
        }
    }

    fn write_data(&mut self, value: u32) {
        let command = self.st.command;
        let Some((cpu, slot)) = self.selected() else { return };
        match command {
            command::OST_EVENT => slot.ost_event = value,
            command::OST_STATUS => {
                let event = slot.ost_event;
                (self.events)(CpuEvent::Status { cpu, event, status: value });
            }
            _ => {}
        }
    }
}

impl Device for CpuHotplug {
    fn read(&mut self, _: u32, offset: u64, size: u8) -> u64 {
        if self.st.bitmap {
            let bytes = (0..u64::from(size)).map(|n| (n, self.read_bitmap(offset + n)));
            return bytes.fold(0, |value, (n, byte)| value | u64::from(byte) << (8 * n));
        }
        match offset {
            reg::FLAGS => self.selected().map_or(0, |(_, slot)| slot.flags().into()),
            reg::DATA => self.read_data().into(),
            REGISTERS.. => (1 << (8 * u32::from(size))) - 1,
            // The upper half of the APIC id, for command 3 at the selector's place, is zero.
            _ => 0,
        }
    }

    fn write(&mut self, _: u32, offset: u64, _: u8, value: u64) {
        if self.st.bitmap {
            if offset == reg::SELECTOR && value == 0 {
                self.st.bitmap = false;
            }
            return;
        }
        match offset {
            reg::SELECTOR => self.st.selector = value as u32,
            reg::FLAGS => self.write_flags(value as u8),
            reg::COMMAND => self.write_command(value as u8),
            reg::DATA => self.write_data(value as u32),
            _ => {}
        }
    }

    /// Processors stay as they are; the guest that comes next finds them without being told.
    fn reset(&mut self) {
        self.st.bitmap = true;
        (self.st.selector, self.st.command) = (0, command::NEXT_EVENT);
        for slot in &mut self.st.slots {
            *slot = Slot { present: slot.present, ..Slot::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::irq::FnSink;
    use parking_lot::Mutex;
    use proptest::prelude::*;

    use super::*;

    struct Bed {
        controller: Shared<CpuHotplug>,
        events: Arc<Mutex<Vec<CpuEvent>>>,
        pulses: Arc<Mutex<u32>>,
    }

    fn bed(present: usize, possible: usize) -> Bed {
        let cpus: Vec<_> = (0..possible)
            .map(|n| PossibleCpu { apic_id: n as u32, present: n < present })
            .collect();
        let (events, pulses) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(Mutex::new(0)));
        let (heard, counted) = (events.clone(), pulses.clone());
        let gpe = FnSink(move |_, level| *counted.lock() += u32::from(level));
        let (controller, _) = CpuHotplug::create(
            &cpus,
            IrqLine::new(Arc::new(gpe), 2),
            Box::new(move |event| heard.lock().push(event)),
        );
        Bed { controller, events, pulses }
    }

    impl Bed {
        fn read(&self, offset: u64, size: u8) -> u64 {
            self.controller.lock().read(0, offset, size)
        }
        fn write(&self, offset: u64, value: u64) {
            self.controller.lock().write(0, offset, 4, value);
        }
        fn modern(self) -> Self {
            self.write(0, 0);
            self
        }
    }

    /// Values read from QEMU 10.0.2.
    #[test]
    fn a_bitmap_until_a_zero_is_written_to_the_first_port() {
        let bed = bed(4, 8);
        assert_eq!((bed.read(0, 4), bed.read(1, 1), bed.read(0x1f, 1)), (0x0f, 0, 0));
        for (offset, value) in [(4, 1), (1, 0), (0, 1)] {
            bed.write(offset, value);
            assert_eq!(bed.read(0, 1), 0x0f);
        }
        bed.write(0, 0);
        assert_eq!((bed.read(0, 4), bed.read(4, 4), bed.read(0xc, 1)), (0, 1, 0xff));
    }

    /// Values read from QEMU 10.0.2.
    #[test]
    fn flags_and_data_of_the_selected_processor() {
        let bed = bed(4, 8).modern();
        for (selector, flags, data) in [(3, 1, 3), (7, 0, 7), (8, 0, 0), (200, 0, 0)] {
            bed.write(0, selector);
            assert_eq!((bed.read(4, 1), bed.read(8, 4)), (flags, data), "{selector}");
        }
        bed.write(0, 2);
        for (command, data) in [(0, 2), (3, 2), (1, 0), (2, 0)] {
            bed.write(5, command);
            assert_eq!((bed.read(8, 4), bed.read(0, 4)), (data, 0), "{command}");
        }
        bed.write(4, 0xff);
        assert_eq!(bed.read(4, 1), 1);
    }

    #[test]
    fn a_plugged_processor_is_found_and_acknowledged() {
        let bed = bed(1, 4).modern();
        bed.controller.lock().plug(2);
        assert_eq!(*bed.pulses.lock(), 1);
        bed.write(5, 0);
        assert_eq!((bed.read(8, 4), bed.read(4, 1)), (2, 3));
        bed.write(4, flag::INSERTED.into());
        assert_eq!(bed.read(4, 1), 1);
    }

    #[test]
    fn a_processor_goes_when_the_guest_lets_go_of_it() {
        let bed = bed(2, 4).modern();
        bed.controller.lock().request_removal(1);
        bed.write(5, 0);
        assert_eq!((bed.read(8, 4), bed.read(4, 1)), (1, 5));
        bed.write(4, flag::REMOVING.into());
        bed.write(4, flag::EJECT.into());
        assert_eq!(*bed.events.lock(), [CpuEvent::Eject { cpu: 1 }]);
        bed.controller.lock().unplug(1);
        assert_eq!(bed.read(4, 1), 0);
        bed.write(0, 0);
        bed.write(4, flag::EJECT.into());
        assert_eq!(bed.events.lock().len(), 1, "the boot processor stays");
    }

    #[test]
    fn ost_is_passed_on() {
        let bed = bed(2, 2).modern();
        for (register, value) in [(0, 1), (5, 1), (8, 0x103), (5, 2), (8, 0x80)] {
            bed.write(register, value);
        }
        let status = CpuEvent::Status { cpu: 1, event: 0x103, status: 0x80 };
        assert_eq!(*bed.events.lock(), [status]);
    }

    proptest! {
        #[test]
        fn any_access_is_survived(
            accesses in prop::collection::vec((0u64..0x20, 0u32..3, any::<u32>()), 1..60),
            possible in 1usize..10,
        ) {
            let bed = bed(1, possible);
            for (offset, size, value) in accesses {
                bed.controller.lock().write(0, offset, 1 << size, (value % 12).into());
                bed.read(offset, 1 << size);
            }
            bed.controller.lock().reset();
            let once = bed.controller.lock().st.clone();
            bed.controller.lock().reset();
            prop_assert_eq!(&once, &bed.controller.lock().st);
        }
    }
}
