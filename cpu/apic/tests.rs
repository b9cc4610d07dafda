use std::sync::Arc;

use base::clock::Clocks;
use base::interrupt::{
    ApicBus, ApicMessage, BROADCAST, DeliveryMode, DestinationMode, EoiListener, IntAck, Trigger,
};
use base::irq::IrqSink;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::regs::Vectors;
use super::{ApicFabric, LocalApic};
use crate::bus::{ApicPage, TimeStamp};
use crate::signals::{Signals, request};

struct Stopped;

impl TimeStamp for Stopped {
    fn ticks(&self) -> u64 {
        0
    }
    fn frequency(&self) -> u64 {
        1_000_000_000
    }
}

struct Bed {
    clocks: Clocks,
    fabric: Arc<ApicFabric>,
    apics: Vec<Arc<LocalApic>>,
    signals: Vec<Arc<Signals>>,
}

fn bed(count: u32) -> Bed {
    let clocks = Clocks::new();
    clocks.step_by_hand();
    let fabric = ApicFabric::new();
    let signals: Vec<_> = (0..count).map(|_| Arc::<Signals>::default()).collect();
    let apics: Vec<_> = (0..count)
        .map(|n| {
            let mailbox = signals[n as usize].clone();
            LocalApic::new(n, n == 0, mailbox, &fabric, &clocks, Arc::new(Stopped))
        })
        .collect();
    for apic in &apics {
        apic.write(0xf0, 4, 0x1ff);
    }
    Bed { clocks, fabric, apics, signals }
}

fn fixed(destination: u32, vector: u8) -> ApicMessage {
    ApicMessage {
        destination,
        mode: DestinationMode::Physical,
        delivery: DeliveryMode::Fixed,
        vector,
        level: true,
        trigger: Trigger::Edge,
    }
}

fn interrupted(bed: &Bed, n: usize) -> bool {
    bed.signals[n].pending() & request::INTR != 0
}

#[test]
fn priorities_decide_what_interrupts() {
    let bed = bed(1);
    let apic = &bed.apics[0];
    bed.fabric.deliver(fixed(0, 0x51));
    bed.fabric.deliver(fixed(0, 0x81));
    assert_eq!(apic.take_interrupt(), Some(0x81));
    assert!(!interrupted(&bed, 0), "0x51 is below what is in service");
    assert_eq!(apic.read(0xa0, 4), 0x80);
    apic.write(0xb0, 4, 0);
    assert!(interrupted(&bed, 0));
    apic.set_tpr(5);
    assert!(!interrupted(&bed, 0), "the task's priority class holds it off");
    apic.set_tpr(4);
    assert_eq!(apic.take_interrupt(), Some(0x51));
}

#[test]
fn the_8259_interrupts_through_lint0() {
    struct Pic;
    impl IntAck for Pic {
        fn acknowledge(&self) -> u8 {
            0x31
        }
    }
    let bed = bed(1);
    // Software-enabling does not unmask; the boot processor starts with ExtINT unmasked.
    bed.apics[0].reset();
    bed.apics[0].connect_pic(Arc::new(Pic));
    bed.apics[0].set_irq(0, true);
    assert!(interrupted(&bed, 0));
    assert_eq!(bed.apics[0].take_interrupt(), Some(0x31));
    bed.apics[0].set_irq(0, false);
    assert!(!interrupted(&bed, 0));
}

#[test]
fn periodic_timer() {
    let bed = bed(1);
    let apic = &bed.apics[0];
    apic.write(0x3e0, 4, 0xb);
    apic.write(0x320, 4, 0x2_0040);
    apic.write(0x380, 4, 1000);
    bed.clocks.step_to(999);
    assert!(!interrupted(&bed, 0));
    assert_eq!(apic.read(0x390, 4), 1);
    for n in 1..4 {
        bed.clocks.step_to(1000 * n);
        assert_eq!(apic.take_interrupt(), Some(0x40), "period {n}");
        apic.write(0xb0, 4, 0);
    }
}

#[test]
fn one_shot_timer_with_a_divisor() {
    let bed = bed(1);
    let apic = &bed.apics[0];
    apic.write(0x3e0, 4, 0x3);
    apic.write(0x320, 4, 0x0041);
    apic.write(0x380, 4, 100);
    bed.clocks.step_to(1599);
    assert!(!interrupted(&bed, 0));
    bed.clocks.step_to(1600);
    assert_eq!(apic.take_interrupt(), Some(0x41));
    bed.clocks.step_to(10_000);
    assert!(!interrupted(&bed, 0));
    assert_eq!(apic.read(0x390, 4), 0);
}

#[test]
fn init_and_startup_reach_the_others() {
    let bed = bed(3);
    bed.apics[0].write(0x300, 4, 0x000c_4500);
    assert_eq!(bed.signals[0].pending(), 0);
    assert_eq!(bed.signals[2].pending(), request::INIT);
    bed.apics[0].write(0x310, 4, 2 << 24);
    bed.apics[0].write(0x300, 4, 0x0000_469a);
    assert_eq!(bed.signals[1].pending(), request::INIT);
    assert_eq!(bed.signals[2].pending(), request::INIT | request::SIPI);
    assert_eq!(bed.apics[2].sipi_vector(), 0x9a);
}

#[test]
fn logical_destinations() {
    let bed = bed(3);
    for (n, apic) in bed.apics.iter().enumerate() {
        apic.write(0xd0, 4, 1 << (24 + n));
    }
    let message = ApicMessage { mode: DestinationMode::Logical, ..fixed(0b110, 0x33) };
    bed.fabric.deliver(message);
    assert_eq!([0, 1, 2].map(|n| interrupted(&bed, n)), [false, true, true]);
    bed.fabric.deliver(fixed(BROADCAST, 0x34));
    assert!(interrupted(&bed, 0));
}

#[test]
fn lowest_priority_picks_one() {
    let bed = bed(2);
    for (n, apic) in bed.apics.iter().enumerate() {
        apic.write(0xd0, 4, 1 << (24 + n));
    }
    bed.apics[0].set_tpr(3);
    bed.fabric.deliver(ApicMessage {
        mode: DestinationMode::Logical,
        delivery: DeliveryMode::LowestPriority,
        ..fixed(0b11, 0x50)
    });
    assert_eq!([0, 1].map(|n| interrupted(&bed, n)), [false, true]);
}

#[test]
fn the_end_of_a_level_interrupt_is_broadcast() {
    #[derive(Default)]
    struct Listener(Mutex<Vec<u8>>);
    impl EoiListener for Listener {
        fn end_of_interrupt(&self, vector: u8) {
            self.0.lock().push(vector);
        }
    }
    let bed = bed(1);
    let listener = Arc::new(Listener::default());
    let weak = Arc::downgrade(&listener);
    bed.fabric.subscribe_eoi(weak);
    for trigger in [Trigger::Edge, Trigger::Level] {
        bed.fabric.deliver(ApicMessage { trigger, ..fixed(0, 0x61) });
        assert_eq!(bed.apics[0].take_interrupt(), Some(0x61));
        bed.apics[0].write(0xb0, 4, 0);
    }
    assert_eq!(*listener.0.lock(), [0x61]);
}

#[test]
fn x2apic_registers_are_msrs() {
    let bed = bed(2);
    let apic = &bed.apics[1];
    apic.set_base(0xfee0_0c00);
    assert_eq!(apic.read_msr(0x802), Some(1));
    assert_eq!(apic.read_msr(0x80d), Some(0x2));
    assert_eq!(apic.read_msr(0x80e), None, "no destination format");
    assert!(!apic.write_msr(0x80b, 1), "EOI takes zero only");
    assert!(apic.write_msr(0x83f, 0x77));
    assert_eq!(apic.take_interrupt(), Some(0x77));
    assert!(apic.write_msr(0x830, 0x0000_0000_0000_0055));
    assert!(interrupted(&bed, 0));
}

#[test]
fn illegal_vectors_are_errors() {
    let bed = bed(1);
    let apic = &bed.apics[0];
    apic.write(0x370, 4, 0xfe);
    bed.fabric.deliver(fixed(0, 3));
    apic.write(0x280, 4, 0);
    assert_eq!(apic.read(0x280, 4), 1 << 6);
    assert_eq!(apic.take_interrupt(), Some(0xfe));
}

proptest! {
    #[test]
    fn vectors_agree_with_a_set(steps in prop::collection::vec((any::<u8>(), any::<bool>()), 0..64)) {
        let mut vectors = Vectors::default();
        let mut set = std::collections::BTreeSet::new();
        for (vector, add) in steps {
            if add {
                prop_assert_eq!(vectors.set(vector), !set.insert(vector));
            } else {
                prop_assert_eq!(vectors.clear(vector), set.remove(&vector));
            }
            prop_assert_eq!(vectors.highest(), set.last().copied());
        }
    }

    #[test]
    fn what_is_taken_outranks_what_is_served(vectors in prop::collection::vec(16u8.., 1..40)) {
        let bed = bed(1);
        let apic = &bed.apics[0];
        let mut served = Vec::new();
        for vector in vectors {
            bed.fabric.deliver(fixed(0, vector));
            if let Some(taken) = apic.take_interrupt() {
                prop_assert!(served.last().is_none_or(|&last: &u8| taken & 0xf0 > last & 0xf0));
                served.push(taken);
            }
        }
        while served.pop().is_some() {
            apic.write(0xb0, 4, 0);
        }
        prop_assert_eq!(apic.read(0xa0, 4), 0);
    }
}
