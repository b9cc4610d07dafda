//! The 82093AA I/O APIC, version 20h with the EOI register (82093AA datasheet).

use std::sync::{Arc, Weak};

use base::device::{self, Device, Shared};
use base::interrupt::{ApicBus, ApicMessage, DeliveryMode, DestinationMode, EoiListener, Trigger};
use base::irq::IrqSink;
use base::memory::{AccessSizes, Region};
use base::state::State;
use base::trace_event;
use parking_lot::Mutex;

/// Where the board places the registers.
pub const IOAPIC_ADDRESS: u64 = 0xfec0_0000;
/// Size of the register page.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Number of inputs.
pub const PINS: usize = 24;

const VERSION: u32 = 0x20;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const ID_REGISTER: u8 = 0;
const VERSION_REGISTER: u8 = 1;
const ARBITRATION_REGISTER: u8 = 2;
const FIRST_ENTRY: u8 = 0x10;

const DELIVERY_STATUS: u64 = 1 << 12;
const ACTIVE_LOW: u64 = 1 << 13;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const LOGICAL: u64 = 1 << 11;
const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct IoapicState {
    /// Its number.
    pub id: u8,
    /// The index register.
    pub select: u8,
    /// Levels of the inputs.
    pub inputs: u32,
    /// Levels as they are, and edges on their way.
    pub irr: u32,
    /// The redirection entries.
    pub entries: [u64; PINS],
}

impl IoapicState {
    fn at_reset() -> Self {
        IoapicState { id: 0, select: 0, inputs: 0, irr: 0, entries: [MASKED; PINS] }
    }

    /// The registers, as people read them.
    pub fn report(&self) -> String {
        const DELIVERY: [&str; 8] =
            ["fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT"];
        let select = self.select;
        let mut text =
            format!("ioapic0: ver=0x{VERSION:x} id=0x{:02x} sel=0x{select:02x}", self.id);
        if let Some(n) = select.checked_sub(FIRST_ENTRY) {
            text += &format!(" (redir[{}])", n >> 1);
        }
        text.push('\n');
        for (n, entry) in self.entries.iter().enumerate() {
            let pick = |bit: u64, set, clear| if entry & bit != 0 { set } else { clear };
            text += &format!(
                "  pin {n:<2} 0x{entry:016x} dest={:x} vec={:<3} {} {:<5} {:<6} {:<6} {}\n",
                entry >> 56,
                entry & 0xff,
                pick(ACTIVE_LOW, "active-lo", "active-hi"),
                pick(LEVEL, "level", "edge"),
                pick(MASKED, "masked", ""),
                DELIVERY[(entry >> 8 & 7) as usize],
                pick(LOGICAL, "logical", "physical"),
            );
        }
        let remote = |n: &usize| self.entries[*n] & REMOTE_IRR != 0;
        text += &format!("  IRR      {}\n", numbers(|n| self.irr >> n & 1 != 0));
        text + &format!("  Remote IRR {}\n", numbers(remote))
    }
}

/// The I/O APIC.
pub struct Ioapic {
    bus: Arc<dyn ApicBus>,
    /// Kept alive here: the bus knows it weakly.
    _eoi: Arc<dyn EoiListener>,
    st: IoapicState,
}

/// The pins that fulfil a condition, in columns.
fn numbers(wanted: impl Fn(&usize) -> bool) -> String {
    let pins: String = (0..PINS).filter(wanted).map(|n| format!("{n:<3}")).collect();
    if pins.is_empty() { "(none)".into() } else { pins }
}

fn message(entry: u64) -> ApicMessage {
    let level = entry & LEVEL != 0;
    ApicMessage {
        destination: ApicMessage::xapic_destination((entry >> 56) as u8),
        mode: if entry & LOGICAL != 0 {
            DestinationMode::Logical
        } else {
            DestinationMode::Physical
        },
        delivery: DeliveryMode::from_bits(entry as u32 >> 8),
        vector: entry as u8,
        level: true,
        trigger: if level { Trigger::Level } else { Trigger::Edge },
    }
}

impl Ioapic {
    /// The I/O APIC and the region of its registers.
    pub fn create(bus: Arc<dyn ApicBus>) -> (Shared<Self>, Region) {
        let ioapic = device::share(|me| {
            let listener: Arc<dyn EoiListener> = Arc::new(Eoi(me.clone()));
            bus.subscribe_eoi(Arc::downgrade(&listener));
            Ioapic { bus, _eoi: listener, st: IoapicState::at_reset() }
        });
        let region = device::region(&ioapic, 0, "ioapic", IOAPIC_SIZE, AccessSizes::UP_TO_DWORD);
        (ioapic, region)
    }

    /// The registers, as people read them.
    pub fn report(&self) -> String {
        self.st.report()
    }

    fn set_input(&mut self, n: usize, level: bool) {
        if n >= PINS {
            return;
        }
        let bit = 1 << n;
        let rose = level && self.st.inputs & bit == 0;
        self.st.inputs = if level { self.st.inputs | bit } else { self.st.inputs & !bit };
        if self.st.entries[n] & LEVEL != 0 {
            self.st.irr = if level { self.st.irr | bit } else { self.st.irr & !bit };
            self.service(n);
        } else if rose && self.st.entries[n] & MASKED == 0 {
            // An edge on a masked input is lost.
            self.st.irr |= bit;
            self.service(n);
        }
    }

    /// Sends the interrupt of input `n` if it waits and may.
    fn service(&mut self, n: usize) {
        let entry = self.st.entries[n];
        if self.st.irr & 1 << n == 0 || entry & MASKED != 0 {
            return;
        }
        if entry & LEVEL != 0 {
            if entry & REMOTE_IRR != 0 {
                return;
            }
            self.st.entries[n] |= REMOTE_IRR;
        } else {
            self.st.irr &= !(1 << n);
        }
        self.bus.deliver(message(entry));
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        for n in 0..PINS {
            let entry = self.st.entries[n];
            if entry as u8 == vector && entry & LEVEL != 0 {
                self.st.entries[n] &= !REMOTE_IRR;
                self.service(n);
            }
        }
    }

    fn register(&self) -> u32 {
        match self.st.select {
            ID_REGISTER | ARBITRATION_REGISTER => u32::from(self.st.id) << 24,
            VERSION_REGISTER => VERSION | (PINS as u32 - 1) << 16,
            select => match self.entry_half(select) {
                Some((n, false)) => self.st.entries[n] as u32,
                Some((n, true)) => (self.st.entries[n] >> 32) as u32,
                None => 0,
            },
        }
    }

    /// Which redirection entry a register belongs to, and whether it is the upper half.
    fn entry_half(&self, select: u8) -> Option<(usize, bool)> {
        let n = usize::from(select.checked_sub(FIRST_ENTRY)?);
        (n < 2 * PINS).then_some((n / 2, n % 2 != 0))
    }

    fn set_register(&mut self, value: u32) {
        if self.st.select == ID_REGISTER {
            self.st.id = (value >> 24) as u8 & 0xf;
        }
        let Some((n, upper)) = self.entry_half(self.st.select) else { return };
        let old = self.st.entries[n];
        let new = if upper {
            old & 0xffff_ffff | u64::from(value) << 32
        } else {
            let kept = old & (READ_ONLY | !0xffff_ffff);
            kept | u64::from(value) & !READ_ONLY
        };
        // An edge-triggered entry has no interrupt in service.
        self.st.entries[n] = if new & LEVEL == 0 { new & !REMOTE_IRR } else { new };
        if (new ^ old) & LEVEL != 0 {
            let level = new & LEVEL != 0 && self.st.inputs & 1 << n != 0;
            self.st.irr = self.st.irr & !(1 << n) | u32::from(level) << n;
        }
        let entry = self.st.entries[n];
        self.bus.route_changed(n as u32, (entry & MASKED == 0).then(|| message(entry)));
        self.service(n);
    }
}

impl Device for Ioapic {
    fn read(&mut self, _: u32, offset: u64, size: u8) -> u64 {
        let value = match offset & 0xff {
            SELECT => self.st.select.into(),
            WINDOW => self.register().into(),
            _ => 0,
        };
        let select = self.st.select;
        trace_event!(
            ioapic_mem_read,
            "ioapic mem read addr {offset:#04x} regsel: {select:#04x} size {size:#x} retval {value:#x}"
        );
        value
    }

    fn write(&mut self, _: u32, offset: u64, size: u8, value: u64) {
        let select = self.st.select;
        trace_event!(
            ioapic_mem_write,
            "ioapic mem write addr {offset:#04x} regsel: {select:#04x} size {size:#x} val {value:#x}"
        );
        match offset & 0xff {
            SELECT => self.st.select = value as u8,
            WINDOW => self.set_register(value as u32),
            EOI => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }

    fn reset(&mut self) {
        let inputs = self.st.inputs;
        self.st = IoapicState { inputs, ..IoapicState::at_reset() };
    }
}

struct Eoi(Weak<Mutex<Ioapic>>);

impl EoiListener for Eoi {
    fn end_of_interrupt(&self, vector: u8) {
        if let Some(ioapic) = self.0.upgrade() {
            ioapic.lock().end_of_interrupt(vector);
        }
    }
}

/// The inputs.
pub struct IoapicInputs(pub Shared<Ioapic>);

impl IrqSink for IoapicInputs {
    fn set_irq(&self, n: u32, level: bool) {
        self.0.lock().set_input(n as usize, level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::interrupt::{MsiMessage, MsiSink};

    #[derive(Default)]
    struct Recorder {
        vectors: Mutex<Vec<u8>>,
    }

    impl MsiSink for Recorder {
        fn send(&self, message: MsiMessage) {
            self.deliver(ApicMessage::from_msi(message));
        }
    }

    impl ApicBus for Recorder {
        fn deliver(&self, message: ApicMessage) {
            self.vectors.lock().push(message.vector);
        }
        fn subscribe_eoi(&self, _: Weak<dyn EoiListener>) {}
    }

    fn ioapic() -> (Shared<Ioapic>, Arc<Recorder>) {
        let bus = Arc::new(Recorder::default());
        (Ioapic::create(bus.clone()).0, bus)
    }

    fn set_entry(ioapic: &Shared<Ioapic>, n: u8, value: u64) {
        let mut ioapic = ioapic.lock();
        for (half, value) in [(1, value >> 32), (0, value & 0xffff_ffff)] {
            ioapic.write(0, SELECT, 4, u64::from(FIRST_ENTRY + 2 * n + half));
            ioapic.write(0, WINDOW, 4, value);
        }
    }

    fn entry(ioapic: &Shared<Ioapic>, n: u8) -> u64 {
        let mut ioapic = ioapic.lock();
        ioapic.write(0, SELECT, 4, u64::from(FIRST_ENTRY + 2 * n));
        ioapic.read(0, WINDOW, 4)
    }

    #[test]
    fn an_edge_is_sent_once_unless_it_is_masked() {
        let (ioapic, bus) = ioapic();
        let inputs = IoapicInputs(ioapic.clone());
        inputs.set_irq(4, true);
        set_entry(&ioapic, 4, 0x34);
        assert_eq!(*bus.vectors.lock(), [0; 0]);
        inputs.set_irq(4, false);
        inputs.set_irq(4, true);
        inputs.set_irq(4, true);
        assert_eq!(*bus.vectors.lock(), [0x34], "one edge, one interrupt");
    }

    #[test]
    fn a_level_is_sent_once_per_end_of_interrupt() {
        let (ioapic, bus) = ioapic();
        let inputs = IoapicInputs(ioapic.clone());
        set_entry(&ioapic, 10, 0x52 | LEVEL);
        inputs.set_irq(10, true);
        inputs.set_irq(10, true);
        assert_eq!(*bus.vectors.lock(), [0x52]);
        assert_ne!(entry(&ioapic, 10) & REMOTE_IRR, 0);
        ioapic.lock().end_of_interrupt(0x52);
        assert_eq!(*bus.vectors.lock(), [0x52, 0x52], "still high");
        inputs.set_irq(10, false);
        ioapic.lock().write(0, EOI, 4, 0x52);
        assert_eq!(entry(&ioapic, 10) & REMOTE_IRR, 0);
        assert_eq!(bus.vectors.lock().len(), 2);
    }

    #[test]
    fn identification() {
        let (ioapic, _) = ioapic();
        let mut ioapic = ioapic.lock();
        ioapic.write(0, SELECT, 4, 1);
        assert_eq!(ioapic.read(0, WINDOW, 4), 0x0017_0020);
    }
}
