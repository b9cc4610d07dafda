use std::sync::Arc;

use base::clock::Clocks;
use base::interrupt::{
    ApicBus, ApicMessage, BROADCAST, DeliveryMode, DestinationMode, EoiListener, IntAck, Trigger,
};
use base::irq::IrqSink;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::core::{ApicCore, Outcome};
use super::regs::{lvt, reg};
use super::vectors::Vectors;
use super::{ApicFabric, LocalApic, Moment};
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
    apic.write(0x380, 4, 100_000);
    bed.clocks.step_to(99_999);
    assert!(!interrupted(&bed, 0));
    assert_eq!(apic.read(0x390, 4), 1);
    for n in 1..4 {
        bed.clocks.step_to(100_000 * n);
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
    let starts = request::SIPI | request::STARTING;
    assert_eq!(bed.signals[2].pending(), request::INIT | starts);
    assert_eq!(bed.signals[0].pending(), request::LET_START);
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

#[test]
fn init_voids_an_earlier_startup() {
    let bed = bed(2);
    let to = |delivery, vector| ApicMessage { delivery, ..fixed(1, vector) };
    bed.fabric.deliver(to(DeliveryMode::StartUp, 1));
    bed.fabric.deliver(to(DeliveryMode::Init, 0));
    assert_eq!(bed.signals[1].pending(), request::INIT);
}

#[test]
fn a_disabled_apic_accepts_no_vectors() {
    let bed = bed(2);
    bed.apics[0].write(0xf0, 4, 0xff);
    bed.fabric.deliver(fixed(0, 0x55));
    bed.apics[0].write(0xf0, 4, 0x1ff);
    assert_eq!(bed.apics[0].take_interrupt(), None);
    // Nor does it take part in the arbitration.
    bed.apics[0].write(0xf0, 4, 0xff);
    bed.apics[1].set_tpr(4);
    bed.fabric
        .deliver(ApicMessage { delivery: DeliveryMode::LowestPriority, ..fixed(BROADCAST, 0x61) });
    assert_eq!(bed.apics[1].take_interrupt(), Some(0x61));
}

#[test]
fn the_focus_processor_gets_what_it_serves() {
    let bed = bed(2);
    bed.fabric.deliver(fixed(1, 0x61));
    assert_eq!(bed.apics[1].take_interrupt(), Some(0x61));
    bed.fabric
        .deliver(ApicMessage { delivery: DeliveryMode::LowestPriority, ..fixed(BROADCAST, 0x61) });
    assert_eq!(bed.apics[0].take_interrupt(), None);
    bed.apics[1].write(0xb0, 4, 0);
    assert_eq!(bed.apics[1].take_interrupt(), Some(0x61));
}

#[test]
fn disabling_loses_the_registers() {
    let bed = bed(1);
    let apic = &bed.apics[0];
    apic.write(0xd0, 4, 0x0100_0000);
    apic.set_base(0xfee0_0000);
    apic.set_base(0xfee0_0800);
    assert_eq!((apic.read(0xd0, 4), apic.read(0xf0, 4)), (0, 0xff));
}

#[test]
fn x2apic_clusters() {
    let bed = bed(3);
    bed.apics.iter().for_each(|apic| apic.set_base(0xfee0_0c00));
    let logical =
        |destination| ApicMessage { mode: DestinationMode::Logical, ..fixed(destination, 0x42) };
    bed.fabric.deliver(logical(0b101));
    assert_eq!([0, 1, 2].map(|n| interrupted(&bed, n)), [true, false, true]);
    bed.fabric.deliver(logical(1 << 16 | 0b010));
    assert!(!interrupted(&bed, 1), "another cluster");
}

#[test]
fn flat_clusters() {
    let bed = bed(2);
    for (apic, id) in bed.apics.iter().zip([0x11, 0x21]) {
        apic.write(0xe0, 4, 0x0fff_ffff);
        apic.write(0xd0, 4, id << 24);
    }
    let logical =
        |destination| ApicMessage { mode: DestinationMode::Logical, ..fixed(destination, 0x42) };
    bed.fabric.deliver(logical(0x23));
    assert_eq!([0, 1].map(|n| interrupted(&bed, n)), [false, true]);
}

/// A moment at which both scales show nanoseconds.
fn at(ns: i64) -> Moment {
    Moment { ns, ticks: ns as u64, frequency: 1_000_000_000 }
}

/// A software-enabled chip.
fn chip() -> ApicCore {
    let mut core = ApicCore::new(0, true);
    core.write(reg::SVR, 0x1ff, &at(0));
    core
}

const TIMER: u32 = reg::LVT + lvt::TIMER as u32;

#[test]
fn tsc_deadline_follows_the_guests_counter() {
    let mut core = chip();
    core.write(TIMER, 2 << 17 | 0x31, &at(0));
    core.set_tsc_offset(5000);
    core.set_tsc_deadline(6000, &at(0));
    assert_eq!(core.timer_expiry(&at(100)), Some(1000));
    core.run_timer(&at(999));
    assert_eq!(core.take_interrupt(), None);
    core.run_timer(&at(1000));
    assert_eq!(core.take_interrupt(), Some(0x31));
    assert_eq!((core.tsc_deadline(&at(1001)), core.timer_expiry(&at(1001))), (0, None));
    // The other modes have no deadline.
    core.set_tsc_deadline(9000, &at(1003));
    core.write(TIMER, 0x31, &at(1002));
    assert_eq!((core.tsc_deadline(&at(1003)), core.timer_expiry(&at(1003))), (0, None));
}

#[test]
fn a_count_that_is_over_before_anyone_looks_still_fires() {
    let mut core = chip();
    core.write(TIMER, 0x31, &at(0));
    core.write(reg::INITIAL_COUNT, 1, &at(10));
    assert!(core.timer_expiry(&at(500)).is_some_and(|at| at <= 500));
    core.run_timer(&at(500));
    assert_eq!(core.take_interrupt(), Some(0x31));
    core.run_timer(&at(900));
    assert_eq!(core.take_interrupt(), None, "once");
}

/// The host has not got round to the timer, but the guest sees that its time is over.
#[test]
fn whoever_sees_the_end_of_a_count_finds_its_interrupt() {
    let armed = |mode: u32| {
        let mut core = chip();
        core.write(TIMER, mode << 17 | 0x31, &at(0));
        core.write(reg::DIVIDE, 0xb, &at(0));
        core.write(reg::INITIAL_COUNT, 1000, &at(0));
        core
    };
    let looks: [fn(&mut ApicCore); 4] = [
        |core| assert_eq!(core.read(reg::CURRENT_COUNT, &at(1500)), 0),
        |core| assert_eq!(core.write(reg::INITIAL_COUNT, 1000, &at(1500)), Outcome::Done),
        |core| assert_eq!(core.write(reg::DIVIDE, 0, &at(1500)), Outcome::Done),
        |core| assert_eq!(core.read_msr(reg::CURRENT_COUNT, &at(1500)), Some(0)),
    ];
    for look in looks {
        let mut core = armed(0);
        look(&mut core);
        assert_eq!(core.take_interrupt(), Some(0x31));
    }
    // One that is over does not begin anew as a periodic one.
    let mut core = armed(0);
    core.write(TIMER, 1 << 17 | 0x31, &at(1500));
    assert_eq!(core.read(reg::CURRENT_COUNT, &at(1600)), 0);
    assert_eq!(core.take_interrupt(), Some(0x31));
    assert_eq!(core.timer_expiry(&at(1600)), None);
    // A period under way goes on as the last.
    let mut core = armed(1);
    core.write(TIMER, 0x31, &at(30_400));
    assert_eq!(core.read(reg::CURRENT_COUNT, &at(30_400)), 600);
    assert_eq!(core.timer_expiry(&at(30_400)), Some(31_000));
    let mut core = chip();
    core.write(TIMER, 2 << 17 | 0x31, &at(0));
    core.set_tsc_deadline(6000, &at(0));
    assert_eq!(core.tsc_deadline(&at(7000)), 0);
    assert_eq!(core.take_interrupt(), Some(0x31));
}

#[test]
fn a_hostile_period_does_not_occupy_the_host() {
    let mut core = chip();
    core.write(TIMER, 1 << 17 | 0x31, &at(0));
    core.write(reg::DIVIDE, 0xb, &at(0));
    core.write(reg::INITIAL_COUNT, 1, &at(0));
    core.run_timer(&at(50_000));
    assert!(core.timer_expiry(&at(50_000)).is_some_and(|at| at >= 60_000));
}

#[test]
fn the_divider_changes_the_speed_of_the_rest() {
    let mut core = chip();
    core.write(TIMER, 0x31, &at(0));
    core.write(reg::DIVIDE, 0xb, &at(0));
    core.write(reg::INITIAL_COUNT, 1000, &at(0));
    core.write(reg::DIVIDE, 0x0, &at(400));
    assert_eq!(core.read(reg::CURRENT_COUNT, &at(400)), 600);
    assert_eq!(core.timer_expiry(&at(400)), Some(400 + 1200));
}

/// One thing that happens to the chip.
#[derive(Clone, Debug)]
enum Step {
    Arrive(u8, bool),
    Take,
    End,
    Priority(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Step::Arrive(vector, level)),
        3 => Just(Step::Take),
        3 => Just(Step::End),
        1 => any::<u8>().prop_map(Step::Priority),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Against a model that keeps sets and a stack.
    #[test]
    fn requests_and_service_agree_with_a_model(steps in steps()) {
        let mut core = chip();
        let mut waiting = std::collections::BTreeMap::new();
        let mut level_of = std::collections::BTreeMap::new();
        let mut served: Vec<u8> = Vec::new();
        let mut tpr = 0;
        for step in steps {
            match step {
                Step::Arrive(vector, level) => {
                    let trigger = if level { Trigger::Level } else { Trigger::Edge };
                    core.accept(DeliveryMode::Fixed, vector, trigger);
                    if vector >= 16 {
                        waiting.insert(vector, ());
                        level_of.insert(vector, level);
                    }
                }
                Step::Take => {
                    let class = served.last().map_or(0, |vector| vector >> 4).max(tpr >> 4);
                    let expected = waiting.keys().last().copied().filter(|v| v >> 4 > class);
                    prop_assert_eq!(core.interrupt_pending(), expected.is_some());
                    prop_assert_eq!(core.take_interrupt(), expected);
                    if let Some(vector) = expected {
                        waiting.remove(&vector);
                        served.push(vector);
                    }
                }
                Step::End => {
                    let ended = served.pop();
                    let told = ended.filter(|vector| level_of[vector]);
                    let expected = told.map_or(Outcome::Done, Outcome::Broadcast);
                    prop_assert_eq!(core.write(reg::EOI, 0, &at(0)), expected);
                }
                Step::Priority(value) => {
                    tpr = value;
                    core.write(reg::TPR, value.into(), &at(0));
                }
            }
            let shown = |first: u32, core: &mut ApicCore| -> Vec<u8> {
                let word = |n: u32, core: &mut ApicCore| core.read(first + n / 32, &at(0));
                (0..256).filter(|&n| word(n, core) >> (n % 32) & 1 != 0).map(|n| n as u8).collect()
            };
            prop_assert_eq!(shown(reg::IRR, &mut core), waiting.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(shown(reg::ISR, &mut core), served.clone());
        }
    }

    /// Whatever is written where, nothing panics, and reading has no effect but the error status.
    #[test]
    fn no_access_is_fatal(accesses in prop::collection::vec((0u32..64, any::<u32>(), 0i64..1 << 40), 0..100)) {
        let mut core = ApicCore::new(3, false);
        for (number, value, ns) in accesses {
            core.write(number, value, &at(ns));
            core.run_timer(&at(ns));
            let first = core.read(number, &at(ns));
            prop_assert_eq!(core.read(number, &at(ns)), first);
            let _ = core.timer_expiry(&at(ns));
        }
    }

    #[test]
    fn vectors_agree_with_a_set(steps in prop::collection::vec((any::<u8>(), any::<bool>()), 0..64)) {
        let mut vectors = Vectors::default();
        let mut set = std::collections::BTreeSet::new();
        for (vector, add) in steps {
            prop_assert_eq!(vectors.contains(vector), set.contains(&vector));
            if add {
                vectors.insert(vector);
                set.insert(vector);
            } else {
                vectors.remove(vector);
                set.remove(&vector);
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
