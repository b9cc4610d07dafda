use std::sync::mpsc;

use base::clock::{ClockKind, SECOND};
use parking_lot::Mutex;

use super::*;
use crate::interp::RunExit;
use crate::state::gpr::{RAX, RCX, RDI, RSI};
use crate::testbed::Testbed;
use crate::vcpu::{EventSink, Vcpus};

const CODE: u64 = 0x1000;
const SHIFT: u32 = 3;

/// A processor whose instructions are counted, with this code, and a slice of so many instructions.
fn bed(code: &[u8], slice: i64) -> Testbed {
    let mut bed = Testbed::new().unwrap();
    bed.ram.write(CODE, code);
    let counter = Counter::new(SHIFT);
    counter.limit_to(|| slice << SHIFT);
    bed.cpu.counter = Some(Arc::new(counter));
    bed.cpu.state.rip = CODE;
    bed
}

fn counted(bed: &Testbed) -> i64 {
    let now = bed.cpu.counter.as_ref().unwrap().now();
    assert_eq!(now & 7, 0);
    now >> SHIFT
}

/// inc eax, a hundred times: more than a block holds; hlt
fn line() -> Vec<u8> {
    let mut code = [0xff, 0xc0].repeat(100);
    code.push(0xf4);
    code
}

#[test]
fn every_instruction_counts_once() {
    // mov ecx, 1000; 1: dec ecx; jnz 1b; hlt
    let mut bed = bed(&[0xb9, 0xe8, 0x03, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf4], 1 << 40);
    assert_eq!(bed.cpu.run(), RunExit::Halted);
    assert_eq!(counted(&bed), 2002);
    let mut bed = self::bed(&line(), 1 << 40);
    assert_eq!(bed.cpu.run(), RunExit::Halted);
    assert_eq!(counted(&bed), 101);
}

#[test]
fn a_slice_ends_at_its_instruction() {
    for slice in 1..=100 {
        let mut bed = bed(&line(), slice);
        assert_eq!(bed.cpu.run(), RunExit::Signal);
        assert_eq!((counted(&bed), bed.cpu.state.regs[RAX] as i64), (slice, slice));
        assert_eq!(bed.cpu.state.rip, CODE + 2 * slice as u64);
        // Where it was left it goes on.
        bed.cpu.signals.take(request::YIELD);
        bed.cpu.counter.as_ref().unwrap().limit_to(|| OPEN);
        assert_eq!(bed.cpu.run(), RunExit::Halted);
        assert_eq!((counted(&bed), bed.cpu.state.regs[RAX]), (101, 100));
    }
}

#[test]
fn repeated_elements_count() {
    // rep movsb; hlt
    for slice in [1, 300, 999, 1000, 5000] {
        let mut bed = bed(&[0xf3, 0xa4, 0xf4], slice);
        let regs = &mut bed.cpu.state.regs;
        (regs[RSI], regs[RDI], regs[RCX]) = (0x8000, 0x2_0000, 1000);
        let exit = bed.cpu.run();
        if slice > 1000 {
            assert_eq!((exit, counted(&bed)), (RunExit::Halted, 1001));
        } else {
            assert_eq!((exit, counted(&bed)), (RunExit::Signal, slice));
            assert_eq!(bed.cpu.state.regs[RCX] as i64, 1000 - slice);
        }
    }
    // Without an element it is an instruction all the same.
    let mut bed = bed(&[0xf3, 0xa4, 0xf4], 1000);
    assert_eq!((bed.cpu.run(), counted(&bed)), (RunExit::Halted, 2));
}

#[test]
fn what_faults_does_not_count() {
    // inc eax; inc eax; ud2
    let mut bed = bed(&[0xff, 0xc0, 0xff, 0xc0, 0x0f, 0x0b], 1000);
    assert_eq!(bed.cpu.run(), RunExit::Shutdown);
    assert_eq!(counted(&bed), 2);
}

/// Executes instructions, or sleeps for ever; tells when it begins.
struct Fake {
    counter: Arc<Counter>,
    signals: Arc<Signals>,
    sleeps: bool,
    begins: Box<dyn Fn(i64) + Send>,
}

impl Engine for Fake {
    fn run(&mut self) -> Exit {
        (self.begins)(self.counter.now());
        if self.sleeps {
            return Exit::Halted { wake: request::INTR };
        }
        while self.signals.pending() & (request::STOP | request::YIELD) == 0 {
            if self.counter.count(1) {
                self.signals.post(request::YIELD);
            }
        }
        Exit::Attention
    }
    fn reset(&mut self) {}
    fn with_state(&mut self, _: &mut dyn FnMut(&mut CpuState)) {}
}

const AT_ONCE: Options = Options { shift: Shift::Fixed(0), align: false, sleep: false };

fn start(
    icount: &Arc<Icount>,
    count: usize,
    sleeps: bool,
    begins: impl Fn(usize, i64) + Send + Clone + 'static,
) -> Vcpus {
    let engine = |index: usize| {
        let (signals, begins) = (Arc::<Signals>::default(), begins.clone());
        let begins = Box::new(move |now| begins(index, now));
        let fake = Fake { counter: icount.counter(), signals: signals.clone(), sleeps, begins };
        let engine = Counted::new(fake, signals.clone(), icount);
        (signals, Box::new(engine) as Box<dyn Engine>)
    };
    let sink: EventSink = Arc::new(|_| ());
    let vcpus = Vcpus::start((0..count).map(engine).collect(), &sink, "CPU {}").unwrap();
    icount.clocks.start_virtual();
    vcpus.resume();
    vcpus
}

#[test]
fn timers_run_at_their_instruction() {
    for sleeps in [false, true] {
        let clocks = Clocks::new();
        let icount = Icount::new(AT_ONCE, &clocks);
        let (send, receive) = mpsc::channel();
        let (send, clock) = (Mutex::new(send), clocks.clone());
        let timer = clocks.timer(ClockKind::Virtual, move || {
            let _ = send.lock().send(clock.now_virtual());
        });
        timer.set(12_345);
        let vcpus = start(&icount, 2, sleeps, |_, _| ());
        assert_eq!(receive.recv(), Ok(12_345));
        // A timer that somebody else sets ends the wait, or the slice.
        let next = if sleeps { SECOND } else { clocks.now_virtual() + 100_000 };
        timer.set(next);
        let at = receive.recv().unwrap();
        assert!(at == next || at > next && !sleeps, "{at}, not {next}");
        vcpus.pause();
    }
}

#[test]
fn the_order_of_turns_is_counted() {
    let turns = || {
        let clocks = Clocks::new();
        let icount = Icount::new(AT_ONCE, &clocks);
        let (send, receive) = mpsc::channel();
        let vcpus = start(&icount, 3, false, move |index, now| {
            let _ = send.send((index, now));
        });
        let seen: Vec<(usize, i64)> = receive.iter().take(30).collect();
        vcpus.pause();
        seen
    };
    let first = turns();
    let expected: Vec<_> = (0..30).map(|n| (n % 3, (n as i64) << 15)).collect();
    assert_eq!(first, expected);
    assert_eq!(turns(), first);
}

#[test]
fn who_is_paused_keeps_its_turn() {
    let clocks = Clocks::new();
    let icount = Icount::new(AT_ONCE, &clocks);
    let (send, receive) = mpsc::channel();
    let vcpus = start(&icount, 2, false, move |index, now| {
        let _ = send.send((index, now));
    });
    let mut before = receive.recv().unwrap();
    for _ in 0..20 {
        vcpus.pause();
        before = receive.try_iter().last().unwrap_or(before);
        let stopped = icount.counter.now();
        vcpus.resume();
        let after = receive.recv().unwrap();
        assert_eq!(after.1, stopped);
        let turn_was_over = stopped % (1 << 15) == 0;
        assert!(after.0 == before.0 || turn_was_over, "{before:?} {after:?}");
        before = after;
    }
    vcpus.pause();
}
