//! A VNC client that says anything, in any pieces, while the screen changes; and one that does so in
//! WebSocket frames.
#![no_main]

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use base::input::{InputEvent, Leds};
use libfuzzer_sys::fuzz_target;
use ui::keymap::Keymap;
use ui::vnc::session::{Desk, News, Session, Terms};
use ui::vnc::{Power, Tiles};
use ui::websocket::WebSocket;
use ui::{Rect, Surface};

static KEYMAP: LazyLock<Arc<Keymap>> =
    LazyLock::new(|| Arc::new(Keymap::load("de").expect("a layout that is built in")));

#[derive(Arbitrary, Debug)]
struct Input {
    password: bool,
    tls: bool,
    lossy: bool,
    adaptive: bool,
    websocket: bool,
    inside: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Say(Vec<u8>),
    Encodings(Vec<i16>),
    Request { incremental: bool, area: [u16; 4] },
    Draw { area: [u8; 4], colour: u32, step: u32 },
    Resize { width: u8, height: u8 },
    Update,
    Wait(u16),
}

/// A guest that does not mind anything.
struct Guest;

impl Desk for Guest {
    fn knows_password(&self, _: &[u8; 16], response: &[u8; 16]) -> bool {
        response[0] & 1 == 0
    }
    fn challenge(&self) -> Option<[u8; 16]> {
        Some([7; 16])
    }
    fn enter(&self, shared: bool) -> bool {
        shared
    }
    fn name(&self) -> String {
        "QEMU".into()
    }
    fn point(&self, _: &[InputEvent]) {}
    fn is_absolute(&self) -> bool {
        true
    }
    fn leds(&self) -> Leds {
        Leds::default()
    }
    fn power(&self, _: Power) {}
    fn wish_size(&self, width: u32, height: u32) -> bool {
        width > height
    }
}

fuzz_target!(|input: Input| {
    let terms = Terms {
        password: input.password,
        tls: input.tls,
        lossy: input.lossy,
        adaptive: input.adaptive,
        power: true,
        sync_locks: true,
        keymap: KEYMAP.clone(),
        by_meaning: false,
        chooses: true,
    };
    let mut surface = Surface::new(40, 30);
    let mut session = Session::new(Arc::new(Guest), terms, 40, 30);
    let mut websocket = input.websocket.then(WebSocket::default);
    if input.inside && session.receive(b"RFB 003.008\n\x01\x01").is_err() {
        return;
    }
    let mut now = Duration::ZERO;
    let mut news = News::default();
    for step in input.steps {
        let said = match step {
            Step::Say(bytes) => bytes,
            Step::Encodings(numbers) => {
                let mut message = vec![2, 0];
                message.extend((numbers.len() as u16).to_be_bytes());
                message.extend(numbers.iter().flat_map(|&number| i32::from(number).to_be_bytes()));
                message
            }
            Step::Request { incremental, area } => {
                let mut message = vec![3, incremental.into()];
                message.extend(area.iter().flat_map(|number| number.to_be_bytes()));
                message
            }
            Step::Draw { area: [x, y, width, height], colour, step } => {
                let area = Rect::new(x.into(), y.into(), width.into(), height.into())
                    .intersection(&surface.bounds());
                if area.is_empty() {
                    continue;
                }
                for row in area.y..area.bottom() {
                    let columns = area.x as usize..area.right() as usize;
                    for (i, pixel) in (0..).zip(&mut surface.row_mut(row)[columns]) {
                        *pixel = colour.wrapping_add(step.wrapping_mul(i ^ row)) & 0x00ff_ffff;
                    }
                }
                let mut tiles = Tiles::none(surface.width(), surface.height());
                tiles.mark(&area);
                news.tiles.renew(tiles);
                continue;
            }
            Step::Resize { width, height } => {
                surface.resize(width.into(), height.into());
                news.tiles = Tiles::all(surface.width(), surface.height());
                continue;
            }
            Step::Update => {
                session.update(&surface, std::mem::take(&mut news), now);
                session.output().clear();
                continue;
            }
            Step::Wait(milliseconds) => {
                now += Duration::from_millis(milliseconds.into());
                continue;
            }
        };
        let mut plain = said;
        if let Some(websocket) = &mut websocket {
            let (mut data, mut reply) = (Vec::new(), Vec::new());
            if websocket.receive(&plain, &mut data, &mut reply).is_err() {
                break;
            }
            plain = data;
        }
        if session.receive(&plain).is_err() {
            break;
        }
        while session.next_stroke().is_some() {}
    }
    session.leave();
});
