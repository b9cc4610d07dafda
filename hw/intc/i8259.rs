//! The pair of 8259A interrupt controllers of a PC, with the edge/level control registers that EISA
//! added (Intel 8259A datasheet; 82371SB datasheet, 2.5.5).

use std::sync::Arc;

use base::device::{self, Device, Shared};
use base::interrupt::IntAck;
use base::irq::{IrqLine, IrqSink};
use base::memory::{AccessSizes, Region};
use base::state::State;
use base::trace_event;
use parking_lot::Mutex;

/// First port of the primary controller.
pub const PRIMARY_PORT: u64 = 0x20;
/// First port of the secondary controller.
pub const SECONDARY_PORT: u64 = 0xa0;
/// First edge/level control port.
pub const ELCR_PORT: u64 = 0x4d0;

const PRIMARY: u32 = 0;
const SECONDARY: u32 = 1;
const ELCR: u32 = 2;

/// Input of the primary that the secondary hangs on.
const CASCADE: u8 = 2;
/// Inputs that may be level-triggered: the timer, keyboard, cascade, RTC and FPU lines may not.
const ELCR_MASKS: [u8; 2] = [0xf8, 0xde];

const ICW1_INIT: u8 = 1 << 4;
const ICW1_NEEDS_ICW4: u8 = 1;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_NESTED: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;
const OCW3_POLL: u8 = 1 << 2;

/// Which initialisation word port 1 expects next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum Expect {
    #[default]
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

impl Expect {
    fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Expect::Icw2,
            2 => Expect::Icw3,
            3 => Expect::Icw4,
            _ => Expect::Mask,
        }
    }
}

/// Registers of one controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct ChipState {
    /// Levels of the inputs.
    pub inputs: u8,
    /// Interrupts that were requested.
    pub irr: u8,
    /// Inputs that are masked.
    pub imr: u8,
    /// Interrupts in service.
    pub isr: u8,
    /// Which inputs are level-triggered.
    pub elcr: u8,
    /// The vector of input 0.
    pub vector_base: u8,
    /// The input that has the highest priority.
    pub highest: u8,
    /// Whether port 0 shows the interrupts in service.
    pub read_isr: bool,
    /// Whether the next read is a poll.
    pub poll: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// Interrupts end as they are acknowledged.
    pub auto_eoi: bool,
    /// They are lowest in priority then.
    pub rotate_on_auto_eoi: bool,
    /// Special fully nested mode.
    pub special_nested: bool,
    /// The initialisation word that is expected next, or 0.
    pub expect: u8,
    /// A fourth initialisation word follows.
    pub needs_icw4: bool,
    /// There is no secondary.
    pub single: bool,
}

impl ChipState {
    /// The registers, as people read them.
    pub fn report(&self, primary: bool) -> String {
        format!(
            "pic{}: irr={:02x} imr={:02x} isr={:02x} hprio={} irq_base={:02x} rr_sel={} \
             elcr={:02x} fnm={}\n",
            u8::from(!primary),
            self.irr,
            self.imr,
            self.isr,
            self.highest,
            self.vector_base,
            u8::from(self.read_isr),
            self.elcr,
            u8::from(self.special_nested)
        )
    }

    fn level_triggered(&self, n: u8) -> bool {
        self.elcr >> n & 1 != 0
    }

    fn set_input(&mut self, n: u8, level: bool) {
        let bit = 1 << n;
        if self.level_triggered(n) {
            self.irr = if level { self.irr | bit } else { self.irr & !bit };
        } else if level && self.inputs & bit == 0 {
            // An edge is remembered though it may go away, which real chips would call spurious: so it
            // is with every other PC that is not made of silicon.
            self.irr |= bit;
        }
        self.inputs = if level { self.inputs | bit } else { self.inputs & !bit };
    }

    /// Priority of the first set bit of `mask`: 0 is the highest, 8 none.
    fn priority(&self, mask: u8) -> u8 {
        mask.rotate_right(self.highest.into()).trailing_zeros() as u8
    }

    /// The input to interrupt for, if any may now.
    fn pending(&self, is_primary: bool) -> Option<u8> {
        let wanting = self.priority(self.irr & !self.imr);
        let mut serving = self.isr;
        if self.special_mask {
            serving &= !self.imr;
        }
        if self.special_nested && is_primary {
            // The secondary may interrupt its own earlier interrupt.
            serving &= !(1 << CASCADE);
        }
        (wanting < self.priority(serving)).then(|| (wanting + self.highest) & 7)
    }

    fn acknowledge(&mut self, n: u8) {
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.highest = (n + 1) & 7;
            }
        } else {
            self.isr |= 1 << n;
        }
        if !self.level_triggered(n) {
            self.irr &= !(1 << n);
        }
    }

    /// OCW2: end of interrupt and rotation.
    fn command(&mut self, value: u8) {
        let target = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            kind @ (1 | 5) => {
                let serving = self.priority(self.isr);
                if serving < 8 {
                    let n = (serving + self.highest) & 7;
                    self.isr &= !(1 << n);
                    if kind == 5 {
                        self.highest = (n + 1) & 7;
                    }
                }
            }
            3 => self.isr &= !(1 << target),
            6 => self.highest = (target + 1) & 7,
            7 => {
                self.isr &= !(1 << target);
                self.highest = (target + 1) & 7;
            }
            _ => {}
        }
    }

    fn write(&mut self, port: u64, value: u8) {
        if port == 0 {
            if value & ICW1_INIT != 0 {
                *self = ChipState {
                    inputs: self.inputs,
                    elcr: self.elcr,
                    // Edges seen before are forgotten, levels are not. Bit 3, which made all inputs
                    // level-triggered once, has given way to the edge/level control registers.
                    irr: self.inputs & self.elcr,
                    expect: Expect::Icw2 as u8,
                    needs_icw4: value & ICW1_NEEDS_ICW4 != 0,
                    single: value & ICW1_SINGLE != 0,
                    ..ChipState::default()
                };
            } else if value & OCW3 != 0 {
                self.poll = value & OCW3_POLL != 0;
                if value & 2 != 0 {
                    self.read_isr = value & 1 != 0;
                }
                if value & 0x40 != 0 {
                    self.special_mask = value & 0x20 != 0;
                }
            } else {
                self.command(value);
            }
            return;
        }
        let next = match Expect::from_bits(self.expect) {
            Expect::Mask => {
                self.imr = value;
                Expect::Mask
            }
            Expect::Icw2 => {
                self.vector_base = value & 0xf8;
                match (self.single, self.needs_icw4) {
                    (false, _) => Expect::Icw3,
                    (true, true) => Expect::Icw4,
                    (true, false) => Expect::Mask,
                }
            }
            Expect::Icw3 if self.needs_icw4 => Expect::Icw4,
            Expect::Icw3 => Expect::Mask,
            Expect::Icw4 => {
                self.special_nested = value & ICW4_NESTED != 0;
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                Expect::Mask
            }
        };
        self.expect = next as u8;
    }
}

/// Registers of the pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct PicState {
    chips: [ChipState; 2],
}

/// The pair.
pub struct Pic {
    output: IrqLine,
    st: PicState,
}

/// The pair with its regions.
pub struct PicParts {
    /// The pair.
    pub pic: Shared<Pic>,
    /// For [`PRIMARY_PORT`].
    pub primary: Region,
    /// For [`SECONDARY_PORT`].
    pub secondary: Region,
    /// For [`ELCR_PORT`].
    pub elcr: Region,
}

impl Pic {
    /// The pair, whose output drives `output` (the processors' LINT0).
    pub fn create(output: IrqLine) -> PicParts {
        let pic = device::share(|_| Pic { output, st: PicState::default() });
        let region = |number, name| device::region(&pic, number, name, 2, AccessSizes::BYTE);
        let (primary, secondary) = (region(PRIMARY, "pic"), region(SECONDARY, "pic"));
        let elcr = region(ELCR, "elcr");
        PicParts { pic, primary, secondary, elcr }
    }

    /// The registers of one of the pair, as people read them.
    pub fn report(&self, primary: bool) -> String {
        self.st.chips[usize::from(!primary)].report(primary)
    }

    fn set_input(&mut self, n: u8, level: bool) {
        if n < 16 && n != CASCADE {
            let (chip, irq, level_bit) = (n >> 3 ^ 1, n & 7, u8::from(level));
            trace_event!(pic_set_irq, "master {chip} irq {irq} level {level_bit}");
            self.st.chips[usize::from(n >> 3)].set_input(n & 7, level);
            self.update();
        }
    }

    /// Lets the secondary drive the cascade, and the primary the output.
    fn update(&mut self) {
        let cascade = self.st.chips[1].pending(false).is_some();
        let primary = &mut self.st.chips[0];
        primary.inputs = primary.inputs & !(1 << CASCADE) | u8::from(cascade) << CASCADE;
        primary.irr = primary.irr & !(1 << CASCADE) | u8::from(cascade) << CASCADE;
        self.output.set(self.st.chips[0].pending(true).is_some());
    }

    fn acknowledge(&mut self) -> u8 {
        let vector = match self.st.chips[0].pending(true) {
            Some(CASCADE) => {
                self.st.chips[0].acknowledge(CASCADE);
                let secondary = &mut self.st.chips[1];
                let n = secondary.pending(false);
                if let Some(n) = n {
                    secondary.acknowledge(n);
                }
                // Input 7 stands for an interrupt that went away: it is not put into service.
                secondary.vector_base | n.unwrap_or(7)
            }
            Some(n) => {
                self.st.chips[0].acknowledge(n);
                self.st.chips[0].vector_base | n
            }
            None => self.st.chips[0].vector_base | 7,
        };
        trace_event!(pic_interrupt, "irq {} intno {vector}", vector & 7);
        self.update();
        vector
    }

    /// A read in poll mode: an acknowledge that tells the input instead of the vector.
    fn poll(&mut self, chip: usize) -> u8 {
        let n = self.st.chips[chip].pending(chip == 0);
        let value = match n {
            Some(n) => {
                self.st.chips[chip].acknowledge(n);
                0x80 | n
            }
            None => 0,
        };
        self.st.chips[chip].poll = false;
        self.update();
        value
    }
}

impl Device for Pic {
    fn read(&mut self, region: u32, offset: u64, _: u8) -> u64 {
        let port = (offset & 1) as usize;
        let value = match region {
            ELCR => self.st.chips[port].elcr,
            _ => {
                let chip = region as usize & 1;
                let st = &self.st.chips[chip];
                match (st.poll, port) {
                    (true, _) => self.poll(chip),
                    (_, 1) => st.imr,
                    _ if st.read_isr => st.isr,
                    _ => st.irr,
                }
            }
        };
        value.into()
    }

    fn write(&mut self, region: u32, offset: u64, _: u8, value: u64) {
        let (port, value) = ((offset & 1) as usize, value as u8);
        match region {
            ELCR => self.st.chips[port].elcr = value & ELCR_MASKS[port],
            _ => {
                trace_event!(
                    pic_ioport_write,
                    "master {} addr {port:#x} val {value:#x}",
                    region & 1 ^ 1
                );
                self.st.chips[region as usize & 1].write(offset & 1, value);
            }
        }
        self.update();
    }

    fn reset(&mut self) {
        for chip in &mut self.st.chips {
            *chip = ChipState { inputs: chip.inputs, ..ChipState::default() };
        }
        self.update();
    }
}

/// The sixteen inputs.
pub struct PicInputs(pub Shared<Pic>);

impl IrqSink for PicInputs {
    fn set_irq(&self, n: u32, level: bool) {
        self.0.lock().set_input(n.min(16) as u8, level);
    }
}

/// The acknowledge cycle, for the processors.
pub struct PicAck(pub Arc<Mutex<Pic>>);

impl IntAck for PicAck {
    fn acknowledge(&self) -> u8 {
        self.0.lock().acknowledge()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair initialised as firmware does: vectors 8 and 0x70, nothing masked.
    fn pic() -> Pic {
        let mut pic = Pic { output: IrqLine::unconnected(), st: PicState::default() };
        for (region, base, icw3) in [(PRIMARY, 0x08, 4), (SECONDARY, 0x70, 2)] {
            pic.write(region, 0, 1, 0x11);
            pic.write(region, 1, 1, base);
            pic.write(region, 1, 1, icw3);
            pic.write(region, 1, 1, 0x01);
            pic.write(region, 1, 1, 0x00);
        }
        pic
    }

    fn output(pic: &Pic) -> bool {
        pic.st.chips[0].pending(true).is_some()
    }

    #[test]
    fn lower_inputs_come_first_and_block_higher_ones() {
        let mut pic = pic();
        pic.set_input(4, true);
        pic.set_input(1, true);
        assert_eq!(pic.acknowledge(), 0x09);
        assert!(!output(&pic), "input 1 is in service");
        pic.write(PRIMARY, 0, 1, 0x20);
        assert_eq!(pic.acknowledge(), 0x0c);
    }

    #[test]
    fn the_secondary_interrupts_through_the_cascade() {
        let mut pic = pic();
        pic.set_input(12, true);
        assert_eq!(pic.acknowledge(), 0x74);
        pic.write(PRIMARY, 0, 1, 0x0b);
        assert_eq!(pic.read(PRIMARY, 0, 1), 1 << CASCADE);
        pic.write(SECONDARY, 0, 1, 0x20);
        pic.write(PRIMARY, 0, 1, 0x20);
        assert!(!output(&pic), "the edge was used up");
    }

    #[test]
    fn a_level_interrupts_again_until_it_is_taken_away() {
        let mut pic = pic();
        pic.write(ELCR, 1, 1, 1 << 2);
        pic.set_input(10, true);
        assert_eq!(pic.acknowledge(), 0x72);
        pic.write(SECONDARY, 0, 1, 0x20);
        pic.write(PRIMARY, 0, 1, 0x20);
        assert_eq!(pic.acknowledge(), 0x72);
        pic.set_input(10, false);
        pic.write(SECONDARY, 0, 1, 0x20);
        pic.write(PRIMARY, 0, 1, 0x20);
        assert!(!output(&pic));
    }

    #[test]
    fn a_level_that_goes_away_is_spurious() {
        let mut pic = pic();
        pic.write(ELCR, 0, 1, 1 << 3);
        pic.set_input(3, true);
        pic.set_input(3, false);
        assert_eq!(pic.acknowledge(), 0x0f);
        assert_eq!(pic.st.chips[0].isr, 0);
    }

    #[test]
    fn elcr_keeps_only_what_may_be_level_triggered() {
        let mut pic = pic();
        pic.write(ELCR, 0, 1, 0xff);
        pic.write(ELCR, 1, 1, 0xff);
        assert_eq!((pic.read(ELCR, 0, 1), pic.read(ELCR, 1, 1)), (0xf8, 0xde));
    }

    #[test]
    fn rotation_makes_the_served_input_the_lowest() {
        let mut pic = pic();
        pic.set_input(0, true);
        assert_eq!(pic.acknowledge(), 0x08);
        pic.write(PRIMARY, 0, 1, 0xa0);
        pic.set_input(0, false);
        pic.set_input(0, true);
        pic.set_input(1, true);
        assert_eq!(pic.acknowledge(), 0x09);
    }

    #[test]
    fn polling_acknowledges() {
        let mut pic = pic();
        pic.set_input(5, true);
        pic.write(PRIMARY, 0, 1, 0x0c);
        assert_eq!(pic.read(PRIMARY, 0, 1), 0x85);
        assert_eq!(pic.st.chips[0].isr, 1 << 5);
    }
}
