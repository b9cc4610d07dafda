use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::vnc::auth;
use crate::{CursorShape, Surface};

const NO_TIME: Duration = Duration::ZERO;

/// Notes what the client does.
#[derive(Default)]
struct Guest {
    events: Mutex<Vec<InputEvent>>,
    absolute: AtomicBool,
    leds: Mutex<Leds>,
    powered: Mutex<Vec<Power>>,
    alone: AtomicBool,
    wishes: Mutex<Vec<(u32, u32)>>,
}

impl Desk for Guest {
    fn knows_password(&self, challenge: &[u8; 16], response: &[u8; 16]) -> bool {
        auth::response(challenge, b"sesame") == *response
    }
    fn challenge(&self) -> Option<[u8; 16]> {
        Some(*b"0123456789abcdef")
    }
    fn enter(&self, shared: bool) -> bool {
        shared || !self.alone.load(Ordering::Relaxed)
    }
    fn name(&self) -> String {
        "QEMU".into()
    }
    fn point(&self, events: &[InputEvent]) {
        self.events.lock().extend(events);
    }
    fn is_absolute(&self) -> bool {
        self.absolute.load(Ordering::Relaxed)
    }
    fn leds(&self) -> Leds {
        *self.leds.lock()
    }
    fn power(&self, button: Power) {
        self.powered.lock().push(button);
    }
    fn wish_size(&self, width: u32, height: u32) -> bool {
        self.wishes.lock().push((width, height));
        width < 2000
    }
}

fn terms() -> Terms {
    Terms {
        password: false,
        tls: false,
        lossy: false,
        adaptive: true,
        power: false,
        sync_locks: true,
        keymap: Arc::new(Keymap::load("en-us").unwrap()),
        by_meaning: false,
        chooses: true,
    }
}

fn session(terms: Terms) -> (Arc<Guest>, Session) {
    let guest = Arc::new(Guest::default());
    (guest.clone(), Session::new(guest, terms, 32, 16))
}

/// A client that is in.
fn running(terms: Terms) -> (Arc<Guest>, Session) {
    let (guest, mut session) = session(terms);
    session.receive(b"RFB 003.008\n\x01\x01").unwrap();
    assert!(session.is_running());
    session.output().clear();
    (guest, session)
}

fn said(session: &mut Session) -> Vec<u8> {
    std::mem::take(session.output())
}

/// What the server answers to each of several pieces, and how it ends.
fn dialogue(terms: Terms, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Result<Need, Fault>) {
    let (_, mut session) = session(terms);
    assert_eq!(said(&mut session), b"RFB 003.008\n");
    let mut answers = Vec::new();
    let mut last = Ok(Need::Bytes);
    for piece in pieces {
        last = session.receive(piece);
        answers.push(said(&mut session));
        if last.is_err() {
            break;
        }
    }
    (answers, last)
}

const INIT: &[u8] = b"\0\x20\0\x10\x20\x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0\0\0\0\x04QEMU";

/// As QEMU 10.0.2 answers.
#[test]
fn every_version_of_the_protocol_gets_in() {
    let (answers, _) = dialogue(terms(), &[b"RFB 003.008\n", b"\x01", b"\x01"]);
    assert_eq!(answers, [b"\x01\x01", &b"\0\0\0\0"[..], INIT]);
    let (answers, _) = dialogue(terms(), &[b"RFB 003.007\n", b"\x01", b"\x01"]);
    assert_eq!(answers, [b"\x01\x01", &b""[..], INIT]);
    let (answers, _) = dialogue(terms(), &[b"RFB 003.003\n", b"\x01"]);
    assert_eq!(answers, [b"\0\0\0\x01", INIT]);
    // In one piece.
    let (answers, _) = dialogue(terms(), &[b"RFB 003.005\n\x00"]);
    assert_eq!(answers, [[b"\0\0\0\x01", INIT].concat()]);
    let (answers, end) = dialogue(terms(), &[b"RFB 004.001\n"]);
    assert_eq!((answers, end.is_err()), (vec![b"\0\0\0\0".to_vec()], true));
    let (answers, end) = dialogue(terms(), &[b"RFB 003.008\n", b"\x02"]);
    assert_eq!(answers[1], b"\0\0\0\x01\0\0\0\x16Authentication failed\0");
    assert!(end.is_err());
}

#[test]
fn a_password_is_asked_for_and_checked() {
    let terms = || Terms { password: true, ..terms() };
    let challenge = b"0123456789abcdef";
    let right = auth::response(challenge, b"sesame");
    let (answers, _) = dialogue(terms(), &[b"RFB 003.008\n", b"\x02", &right, b"\x01"]);
    assert_eq!(answers, [b"\x01\x02", &challenge[..], b"\0\0\0\0", INIT]);
    let (answers, _) = dialogue(terms(), &[b"RFB 003.003\n", &right, b"\x01"]);
    assert_eq!(answers, [&[b"\0\0\0\x02", &challenge[..]].concat()[..], b"\0\0\0\0", INIT]);
    let wrong = auth::response(challenge, b"other");
    let (answers, end) = dialogue(terms(), &[b"RFB 003.007\n", b"\x02", &wrong]);
    assert_eq!((&answers[2][..], end.is_err()), (&b"\0\0\0\x01"[..], true));
    // The type without a password is not offered, nor taken.
    let (_, end) = dialogue(terms(), &[b"RFB 003.008\n", b"\x01"]);
    assert!(end.is_err());
}

#[test]
fn encryption_comes_before_everything_else() {
    let terms = || Terms { tls: true, password: true, ..terms() };
    let pieces: [&[u8]; 5] = [b"RFB 003.008\n", b"\x13", b"\0\x02", b"\0\0\x01\x05", b""];
    let (answers, end) = dialogue(terms(), &pieces);
    let challenge = b"0123456789abcdef";
    assert_eq!(answers, [b"\x01\x13", &b"\0\x02"[..], b"\0\x01\0\0\x01\x05", b"\x01", challenge]);
    assert_eq!(end, Ok(Need::Bytes));
    let (_, need) = dialogue(terms(), &pieces[..4]);
    assert_eq!(need, Ok(Need::Tls));
    // Nothing that was not encrypted counts as if it was.
    let (_, end) = dialogue(terms(), &[b"RFB 003.008\n\x13\0\x02\0\0\x01\x05smuggled"]);
    assert!(end.is_err());
    let (_, end) = dialogue(terms(), &[b"RFB 003.008\n", b"\x01"]);
    assert!(end.is_err());
    let (_, end) = dialogue(terms(), &[b"RFB 003.003\n"]);
    assert!(end.is_err());
}

#[test]
fn who_wants_to_be_alone_may_be_refused() {
    let (guest, mut session) = session(terms());
    guest.alone.store(true, Ordering::Relaxed);
    assert!(session.receive(b"RFB 003.008\n\x01\x00").is_err());
    assert!(!session.is_running());
}

fn encodings(numbers: &[i32]) -> Vec<u8> {
    let mut message = vec![2, 0];
    message.extend((numbers.len() as u16).to_be_bytes());
    message.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    message
}

fn request(incremental: bool) -> Vec<u8> {
    vec![3, incremental.into(), 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]
}

/// Numbers of the rectangles' encodings in an update of pseudo-encodings without content.
fn updated(session: &mut Session, surface: &Surface, news: News) -> Vec<u8> {
    session.update(surface, news, NO_TIME);
    said(session)
}

/// Nothing is there; what changes elsewhere is not sent.
#[test]
fn clients_may_ask_for_what_is_beside_the_screen() {
    let surface = Surface::new(32, 16);
    for area in [[0, 40, 0, 0, 0, 8, 0, 8], [0, 0, 0, 20, 0, 8, 0, 8], [0xff; 8]] {
        let (_, mut session) = running(terms());
        session.receive(&[&[3, 0][..], &area].concat()).unwrap();
        let news = News { tiles: Tiles::all(32, 16), cursor: None };
        assert_eq!(updated(&mut session, &surface, news), b"", "{area:?}");
    }
}

#[test]
fn pictures_are_sent_when_asked_for_and_when_they_change() {
    let (_, mut session) = running(terms());
    let mut surface = Surface::new(32, 16);
    assert_eq!(updated(&mut session, &surface, News::default()), b"");
    session.receive(&request(true)).unwrap();
    let first = updated(&mut session, &surface, News::default());
    assert_eq!(first[..16], [0, 0, 0, 1, 0, 0, 0, 0, 0, 32, 0, 16, 0, 0, 0, 0]);
    assert_eq!(first.len(), 16 + 32 * 16 * 4);
    session.receive(&request(true)).unwrap();
    assert_eq!(updated(&mut session, &surface, News::default()), b"");
    assert!(session.wants_update());
    // What is said to have changed and has not is not sent.
    let all = || News { tiles: Tiles::all(32, 16), cursor: None };
    assert_eq!(updated(&mut session, &surface, all()), b"");
    surface.row_mut(0)[20] = 0x0012_3456;
    let second = updated(&mut session, &surface, all());
    assert_eq!(second[..16], [0, 0, 0, 1, 0, 16, 0, 0, 0, 16, 0, 16, 0, 0, 0, 0]);
    assert!(!session.wants_update());
    session.receive(&request(false)).unwrap();
    assert_eq!(updated(&mut session, &surface, News::default()).len(), 16 + 32 * 16 * 4);
}

#[test]
fn a_client_learns_of_another_size_if_it_understands() {
    let larger = Surface::new(48, 20);
    let (_, mut session) = running(terms());
    session.receive(&request(false)).unwrap();
    // It does not: it gets what fits.
    assert_eq!(updated(&mut session, &larger, News::default())[8..12], [0, 32, 0, 16]);
    session.receive(&encodings(&[encoding::RAW, encoding::DESKTOP_SIZE])).unwrap();
    session.receive(&request(true)).unwrap();
    let update = updated(&mut session, &larger, News::default());
    assert_eq!(update, [0, 0, 0, 1, 0, 0, 0, 0, 0, 48, 0, 20, 0xff, 0xff, 0xff, 0x21]);
    session.receive(&request(true)).unwrap();
    assert_eq!(updated(&mut session, &larger, News::default())[8..12], [0, 48, 0, 20]);
}

#[test]
fn wishes_for_a_size_are_answered() {
    let (guest, mut session) = running(terms());
    let surface = Surface::new(32, 16);
    session.receive(&encodings(&[encoding::EXTENDED_DESKTOP_SIZE])).unwrap();
    session.receive(&request(false)).unwrap();
    let update = updated(&mut session, &surface, News::default());
    // That it can be done is told with the first picture.
    assert_eq!(update[..4], [0, 0, 0, 2]);
    assert_eq!(update[4..16], [0, 0, 0, 0, 0, 32, 0, 16, 0xff, 0xff, 0xfe, 0xcc]);
    let wish = |width: u16| {
        let mut message = vec![251, 0];
        message.extend([width, 900].iter().flat_map(|side| side.to_be_bytes()));
        message.extend([1, 0]);
        message.extend([0; 16]);
        message
    };
    for (width, status) in [(1440, 4), (3000, 1)] {
        session.receive(&wish(width)).unwrap();
        session.receive(&request(true)).unwrap();
        let update = updated(&mut session, &surface, News::default());
        assert_eq!(update[4..12], [0, 1, 0, status, 0, 32, 0, 16]);
    }
    assert_eq!(*guest.wishes.lock(), [(1440, 900), (3000, 900)]);
}

#[test]
fn what_the_client_understands_is_told_once() {
    let (guest, mut session) = running(terms());
    guest.absolute.store(true, Ordering::Relaxed);
    *guest.leds.lock() = Leds { caps: true, num: true, scroll: false };
    let all = [
        encoding::DESKTOP_NAME,
        encoding::EXTENDED_KEY,
        encoding::POINTER_TYPE,
        encoding::LED_STATE,
        encoding::RICH_CURSOR,
    ];
    session.receive(&encodings(&all)).unwrap();
    session.receive(&request(true)).unwrap();
    let surface = Surface::new(32, 16);
    let shape = CursorShape { width: 1, height: 1, hot_x: 0, hot_y: 0, pixels: vec![0xff00_0001] };
    let cursor = Cursor { shape: Some(Arc::new(shape)), x: 0, y: 0, visible: true };
    let news = News { cursor: Some(cursor.clone()), ..News::default() };
    let update = updated(&mut session, &surface, news);
    let expected = [
        &[0, 0, 0, 6][..],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xfe, 0xcd, 0, 0, 0, 4],
        b"QEMU",
        &[0, 0, 0, 0, 0, 32, 0, 16, 0xff, 0xff, 0xfe, 0xfe],
        &[0, 1, 0, 0, 0, 32, 0, 16, 0xff, 0xff, 0xfe, 0xff],
        &[0, 0, 0, 0, 0, 1, 0, 1, 0xff, 0xff, 0xfe, 0xfb, 6],
        &[0, 0, 0, 0, 0, 1, 0, 1, 0xff, 0xff, 0xff, 0x11, 1, 0, 0, 0, 0x80],
    ]
    .concat();
    assert_eq!(update[..expected.len()], expected);
    session.receive(&encodings(&all)).unwrap();
    session.receive(&request(true)).unwrap();
    // A pointer that has only moved is the client's own affair.
    let moved = News { cursor: Some(Cursor { x: 9, ..cursor.clone() }), ..News::default() };
    assert_eq!(updated(&mut session, &surface, moved), b"");
    let hidden = News { cursor: Some(Cursor { visible: false, ..cursor }), ..News::default() };
    let update = updated(&mut session, &surface, hidden);
    assert_eq!(update[4..], [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x11]);
}

#[test]
fn pointers_are_told_as_the_guest_wants_them() {
    let (guest, mut session) = running(terms());
    let events = || std::mem::take(&mut *guest.events.lock());
    let pointer = |buttons, x: u16, y: u16| {
        let [x1, x0] = x.to_be_bytes();
        let [y1, y0] = y.to_be_bytes();
        [5, buttons, x1, x0, y1, y0]
    };
    session.receive(&pointer(0, 10, 10)).unwrap();
    assert_eq!(events(), []);
    session.receive(&pointer(1, 12, 7)).unwrap();
    let moved = [
        InputEvent::Rel(Axis::X, 2),
        InputEvent::Rel(Axis::Y, -3),
        InputEvent::Button(Button::Left, true),
    ];
    assert_eq!(events(), moved);
    guest.absolute.store(true, Ordering::Relaxed);
    session.receive(&pointer(8, 31, 500)).unwrap();
    let there = [
        InputEvent::Abs(Axis::X, 0x7fff),
        InputEvent::Abs(Axis::Y, 0x7fff),
        InputEvent::Button(Button::Left, false),
        InputEvent::Button(Button::WheelUp, true),
    ];
    assert_eq!(events(), there);
    guest.absolute.store(false, Ordering::Relaxed);
    session.receive(&encodings(&[encoding::POINTER_TYPE])).unwrap();
    session.receive(&pointer(2, 0x7fff + 5, 0x7fff)).unwrap();
    let moved = [
        InputEvent::Rel(Axis::X, 5),
        InputEvent::Button(Button::Middle, true),
        InputEvent::Button(Button::WheelUp, false),
    ];
    assert_eq!(events(), moved);
    session.leave();
    assert_eq!(events(), [InputEvent::Button(Button::Middle, false)]);
}

#[test]
fn power_buttons_are_there_if_the_operator_says_so() {
    let reset = [250, 0, 1, 4];
    let (guest, mut session) = running(terms());
    session.receive(&encodings(&[encoding::XVP])).unwrap();
    session.receive(&reset).unwrap();
    assert_eq!(said(&mut session), [250, 0, 1, 0]);
    assert!(guest.powered.lock().is_empty());
    let (guest, mut session) = running(Terms { power: true, ..terms() });
    session.receive(&encodings(&[encoding::XVP])).unwrap();
    session.receive(&reset).unwrap();
    assert_eq!(said(&mut session), [250, 0, 1, 1]);
    assert_eq!(*guest.powered.lock(), [Power::Reset]);
}

#[test]
fn texts_of_the_clipboard_are_passed_over() {
    let (_, mut session) = running(terms());
    session.receive(&[6, 0, 0, 0, 0, 0, 0x20, 0]).unwrap();
    for _ in 0..4 {
        session.receive(&[0xee; 0x800]).unwrap();
    }
    session.receive(&request(true)).unwrap();
    assert!(session.wants_update());
}

#[test]
fn clients_without_true_colours_get_a_map() {
    let (_, mut session) = running(terms());
    let format = PixelFormat { true_colour: false, ..PixelFormat::NATIVE };
    session.receive(&[&[0, 0, 0, 0][..], &format.to_wire()].concat()).unwrap();
    let map = said(&mut session);
    assert_eq!((&map[..6], map.len()), (&[1, 0, 0, 0, 1, 0][..], 6 + 256 * 6));
}

#[test]
fn what_was_blurred_becomes_sharp_when_it_rests() {
    let (_, mut session) = running(Terms { lossy: true, adaptive: false, ..terms() });
    session.receive(&encodings(&[encoding::TIGHT, -27])).unwrap();
    session.receive(&request(true)).unwrap();
    let mut surface = Surface::new(32, 16);
    for y in 0..16 {
        (0..).zip(surface.row_mut(y)).for_each(|(x, pixel)| *pixel = x * 0x0007_0503 + y * 0x0901);
    }
    session.update(&surface, News::default(), NO_TIME);
    assert_eq!(said(&mut session)[16], 0x90);
    session.receive(&request(true)).unwrap();
    session.update(&surface, News::default(), NO_TIME);
    assert_eq!(said(&mut session), b"");
    let later = session.next_update().unwrap();
    session.update(&surface, News::default(), later);
    assert_eq!(said(&mut session)[16], 0);
    session.receive(&request(true)).unwrap();
    assert_eq!(session.next_update(), None);
}

proptest! {
    #[test]
    fn no_message_does_harm(
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                Just(request(true)),
                Just(request(false)),
                proptest::collection::vec(-320..20_i32, 0..20).prop_map(|numbers| encodings(&numbers)),
            ],
            0..40,
        ),
        lossy in any::<bool>(),
    ) {
        let (_, mut session) = running(Terms { lossy, power: true, ..terms() });
        let surface = Surface::new(40, 30);
        for piece in pieces {
            if session.receive(&piece).is_err() {
                break;
            }
            let news = News { tiles: Tiles::all(32, 16), cursor: None };
            session.update(&surface, news, NO_TIME);
            while session.next_stroke().is_some() {}
            session.output().clear();
        }
        session.leave();
    }
}
