use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::input::{Axis, Button};

const A: KeyCode = KeyCode::A;
const B: KeyCode = KeyCode::B;

#[derive(Default)]
struct Log(Mutex<Vec<Vec<InputEvent>>>);

impl InputSink for Log {
    fn input(&self, events: &[InputEvent]) {
        self.0.lock().push(events.to_vec());
    }
}

impl Log {
    fn take(&self) -> Vec<Vec<InputEvent>> {
        std::mem::take(&mut self.0.lock())
    }
}

struct Bed {
    clocks: Clocks,
    router: Arc<Router>,
}

fn bed() -> Bed {
    let clocks = Clocks::new();
    clocks.step_by_hand();
    let router = Router::new(&clocks);
    router.set_running(true);
    Bed { clocks, router }
}

impl Bed {
    fn device(&self, name: &'static str, kinds: Kinds) -> (Registration, Arc<Log>) {
        let log = Arc::new(Log::default());
        (self.router.register(name, kinds, None, log.clone()), log)
    }
}

const MOUSE: Kinds = Kinds(Kinds::BUTTON.0 | Kinds::REL.0);
const TABLET: Kinds = Kinds(Kinds::BUTTON.0 | Kinds::ABS.0);

fn x(dx: i32) -> InputEvent {
    InputEvent::Rel(Axis::X, dx)
}

fn at(x: i32) -> InputEvent {
    InputEvent::Abs(Axis::X, x)
}

fn left(down: bool) -> InputEvent {
    InputEvent::Button(Button::Left, down)
}

#[test]
fn each_device_gets_its_share_at_once() {
    let bed = bed();
    let (_keyboard, keys) = bed.device("keyboard", Kinds::KEY);
    let (_mouse, moves) = bed.device("mouse", MOUSE);
    let events = [x(1), InputEvent::Key(A, true), x(2), at(3), left(true)];
    bed.router.send(None, &events);
    assert_eq!(keys.take(), [[InputEvent::Key(A, true)]]);
    assert_eq!(moves.take(), [[x(1), x(2), left(true)]]);
    let missing = bed.router.check(None, &events).map_err(|error| error.to_string());
    assert_eq!(missing, Err("Input handler not found for event type abs".into()));
    assert_eq!(bed.router.check(None, &events[..3]), Ok(()));
    bed.router.set_running(false);
    bed.router.send(None, &events);
    assert!(keys.take().is_empty() && moves.take().is_empty());
}

/// The order of the list and the words as QEMU 10.0.2 has them.
#[test]
fn who_was_activated_last_comes_first() {
    let bed = bed();
    let (_keyboard, _) = bed.device("Keyboard", Kinds::KEY);
    let (_mouse, moves) = bed.device("Mouse", MOUSE);
    let (tablet, places) = bed.device("Tablet", TABLET);
    let (_other, _) = bed.device("Other", TABLET);
    let list = || {
        let mice = bed.router.mice();
        assert_eq!(mice.iter().position(|mouse| mouse.current), Some(mice.len() - 1));
        mice.into_iter().map(|mouse| mouse.index).collect::<Vec<_>>()
    };
    assert_eq!(list(), [4, 3, 2]);
    assert!(!bed.router.is_absolute(None));
    tablet.activate();
    assert_eq!(list(), [4, 2, 3]);
    assert!(bed.router.is_absolute(None));
    bed.router.send(None, &[left(true), x(1)]);
    assert_eq!((places.take(), moves.take()), (vec![vec![left(true)]], vec![vec![x(1)]]));
    bed.router.choose_mouse(2).unwrap();
    assert_eq!(list(), [4, 3, 2]);
    bed.router.choose_mouse(4).unwrap();
    assert_eq!(list(), [3, 2, 4]);
    let refusal = |index| bed.router.choose_mouse(index).unwrap_err().to_string();
    assert_eq!(refusal(1), "Input device 'Keyboard' is not a mouse");
    assert_eq!(refusal(9), "Mouse at index '9' not found");
    tablet.deactivate();
    assert_eq!(list(), [3, 2, 4]);
    drop(tablet);
    assert_eq!(list(), [2, 4]);
}

#[test]
fn a_device_of_a_screen_takes_what_happens_there() {
    let bed = bed();
    let screen = |head| Screen { device: "vga".into(), head };
    let (_all, everywhere) = bed.device("all", TABLET);
    let log = Arc::new(Log::default());
    let _own = bed.router.register("own", TABLET, Some(screen(1)), log.clone());
    for (from, bound) in [(None, false), (Some(screen(0)), false), (Some(screen(1)), true)] {
        bed.router.send(from.as_ref(), &[at(5)]);
        assert_eq!((log.take().len(), everywhere.take().len()), (bound.into(), (!bound).into()));
    }
}

#[test]
fn listeners_hear_of_lights_and_order() {
    let bed = bed();
    let log = Arc::new(Mutex::new(Vec::new()));
    let heard = log.clone();
    bed.router.listen(move |change| heard.lock().push(change));
    let (mouse, _) = bed.device("mouse", MOUSE);
    mouse.activate();
    let leds = Leds { caps: true, ..Leds::default() };
    mouse.set_leds(leds);
    mouse.set_leds(leds);
    assert_eq!(bed.router.leds(), leds);
    drop(mouse);
    assert_eq!(*log.lock(), [Change::Order, Change::Leds(leds), Change::Order]);
}

/// Pace and order as observed with QEMU 10.0.2.
#[test]
fn pressed_keys_are_released_the_other_way_round() {
    let bed = bed();
    let (_keyboard, log) = bed.device("keyboard", Kinds::KEY);
    let typed = || log.take().concat();
    let key = InputEvent::Key;
    bed.router.press(&[A, B], Some(20));
    bed.router.key(None, B, true);
    assert_eq!(typed(), [key(A, true)]);
    for (until, wanted) in [
        (19, vec![]),
        (20, vec![key(B, true)]),
        (40, vec![key(B, false)]),
        (60, vec![key(A, false)]),
        (80, vec![key(B, true)]),
        (200, vec![]),
    ] {
        bed.clocks.step_to(until * 1_000_000);
        assert_eq!(typed(), wanted, "{until} ms");
    }
    bed.router.key(None, B, false);
    assert_eq!(typed(), [key(B, false)]);
    bed.router.press(&[A], Some(0));
    bed.clocks.step_to(210_000_000);
    assert_eq!(typed(), [key(A, true), key(A, false)]);
    bed.router.set_running(false);
    bed.router.press(&[A], None);
    assert!(typed().is_empty());
}

#[test]
fn what_cannot_be_typed_in_time_is_forgotten() {
    let bed = bed();
    let (_keyboard, log) = bed.device("keyboard", Kinds::KEY);
    (0..2000).for_each(|_| bed.router.press(&[A], None));
    bed.clocks.step_to(3_600_000_000_000);
    assert_eq!(log.take().len(), 1 + 1024 / 2);
    assert_eq!(bed.clocks.next_virtual_deadline(), None);
}

proptest! {
    /// Whatever devices come and go, an event reaches the first that takes it, and no other.
    #[test]
    fn an_event_has_one_receiver(
        kinds in prop::collection::vec(1u8..32, 1..6),
        moves in prop::collection::vec((0usize..6, any::<bool>()), 0..12),
        kind in 0usize..5,
    ) {
        let bed = bed();
        let mut order: Vec<usize> = (0..kinds.len()).collect();
        let devices: Vec<_> = kinds.iter().map(|&kinds| bed.device("any", Kinds(kinds))).collect();
        for (n, first) in moves {
            let n = n % devices.len();
            order.retain(|&other| other != n);
            if first {
                devices[n].0.activate();
                order.insert(0, n);
            } else {
                devices[n].0.deactivate();
                order.push(n);
            }
        }
        let event = [
            InputEvent::Key(A, true), left(true), x(1), at(1),
            InputEvent::Touch {
                kind: crate::input::TouchKind::Begin, slot: 0, id: 0, axis: Axis::X, value: 0,
            },
        ][kind];
        bed.router.send(None, &[event]);
        let receiver = order.into_iter().find(|&n| kinds[n] & event.kind().0 != 0);
        for (n, (_, log)) in devices.iter().enumerate() {
            prop_assert_eq!(log.take().len(), usize::from(Some(n) == receiver));
        }
        prop_assert_eq!(bed.router.check(None, &[event]).is_ok(), receiver.is_some());
    }
}
