//! One client's side of the protocol, without any input or output of its own: bytes come in, bytes
//! are to go out, and the guest is acted upon through a [`Desk`].

mod handshake;
mod terminal;
#[cfg(test)]
mod tests;
mod updates;

use std::sync::Arc;
use std::time::Duration;

use base::input::{Axis, Button, InputEvent, KeyCode, Leds};

use super::encode::{Encoder, Encoding};
use super::keyboard::Keyboard;
use super::pixel::PixelFormat;
use super::protocol::{self, Fault, Message, Power, encoding, server_message};
use super::tiles::Tiles;
use crate::keymap::Keymap;
use crate::text::VcTerminal;
use crate::{Cursor, Rect};
use handshake::{Handshake, Step};
use updates::Updates;

/// What a client sits at: the guest, and the server that lets clients in.
pub trait Desk: Send + Sync {
    /// Whether a client may enter that answered a challenge so.
    fn knows_password(&self, challenge: &[u8; 16], response: &[u8; 16]) -> bool;
    /// Bytes that nobody can guess.
    fn challenge(&self) -> Option<[u8; 16]>;
    /// Whether a client may stay that wants to share the screen with others, or does not.
    fn enter(&self, shared: bool) -> bool;
    /// The client sees and types from now on.
    fn entered(&self) {}
    /// What the screen is called.
    fn name(&self) -> String;
    /// The pointer does something.
    fn point(&self, events: &[InputEvent]);
    /// Whether the guest wants to be told where the pointer is rather than how it moves.
    fn is_absolute(&self) -> bool;
    /// The lights of the guest's keyboard.
    fn leds(&self) -> Leds;
    /// A power button is pressed.
    fn power(&self, button: Power);
    /// The client would like the screen to have this size; says whether the guest is told.
    fn wish_size(&self, width: u32, height: u32) -> bool;
}

/// What a server demands of its clients, and offers them.
#[derive(Clone)]
pub struct Terms {
    /// Clients have to prove that they know the password.
    pub password: bool,
    /// Clients have to encrypt from within the protocol.
    pub tls: bool,
    /// Pictures may lose detail on their way, if the client allows it.
    pub lossy: bool,
    /// Then only where they change all the time.
    pub adaptive: bool,
    /// Clients may press power buttons.
    pub power: bool,
    /// Caps Lock and Num Lock follow what is typed.
    pub sync_locks: bool,
    /// The layout of the guest's keyboard.
    pub keymap: Arc<Keymap>,
    /// Keys are found by what they mean even if the client tells which they are.
    pub by_meaning: bool,
    /// Ctrl, Alt and a digit choose another screen.
    pub chooses: bool,
}

/// What a session needs from whoever moves its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// More bytes.
    Bytes,
    /// Encryption: what is in the output goes out as it is, what comes then is encrypted.
    Tls,
}

/// What the client understands beyond the pictures.
#[derive(Clone, Copy, Debug, Default)]
struct Abilities {
    copy: bool,
    desktop_size: bool,
    extended_desktop_size: bool,
    rich_cursor: bool,
    alpha_cursor: bool,
    pointer_type: bool,
    extended_key: bool,
    leds: bool,
    name: bool,
    power: bool,
}

/// What the guest has changed since the client was last told.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// What may have changed of the picture.
    pub tiles: Tiles,
    /// The pointer's shape, if it may have changed.
    pub cursor: Option<Cursor>,
}

/// One client.
pub struct Session {
    desk: Arc<dyn Desk>,
    terms: Terms,
    input: Vec<u8>,
    /// Bytes of a clipboard's text that are still to come.
    skip: usize,
    output: Vec<u8>,
    /// `None` once it is done.
    handshake: Option<Handshake>,
    abilities: Abilities,
    encoder: Encoder,
    updates: Updates,
    keyboard: Keyboard,
    pointer: Pointer,
    /// What takes keys, if that is not the guest.
    terminal: Option<Arc<VcTerminal>>,
}

/// The client's pointer as it last was.
#[derive(Default)]
struct Pointer {
    at: Option<(u16, u16)>,
    buttons: u8,
}

/// What the bits of a pointer message mean.
const BUTTONS: [Button; 7] = [
    Button::Left,
    Button::Middle,
    Button::Right,
    Button::WheelUp,
    Button::WheelDown,
    Button::WheelLeft,
    Button::WheelRight,
];

/// Where a pointer is that has not moved, for clients that tell movements.
const REST: u16 = 0x7fff;

impl Session {
    /// A client that has just connected to a screen of this size; it is greeted.
    pub fn new(desk: Arc<dyn Desk>, terms: Terms, width: u32, height: u32) -> Self {
        let mut keyboard = Keyboard::new(terms.keymap.clone(), terms.sync_locks, terms.by_meaning);
        keyboard.set_leds(desk.leds());
        if terms.chooses {
            keyboard.let_choose();
        }
        let updates = Updates::new(width, height, terms.adaptive);
        let mut output = Vec::new();
        let handshake = Some(Handshake::greet(&mut output));
        Session {
            desk,
            terms,
            input: Vec::new(),
            skip: 0,
            output,
            handshake,
            abilities: Abilities::default(),
            encoder: Encoder::default(),
            updates,
            keyboard,
            pointer: Pointer::default(),
            terminal: None,
        }
    }

    /// The number of another screen, from 0, if the client wants to see one.
    pub fn take_choice(&mut self) -> Option<usize> {
        self.keyboard.take_choice()
    }

    /// Another screen is shown: the guest's, or that of a terminal.
    pub fn show(&mut self, terminal: Option<Arc<VcTerminal>>) {
        self.terminal = terminal;
    }

    /// What is to be sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Takes bytes that came.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Need, Fault> {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut taken = 0;
        let need = loop {
            let skipped = self.skip.min(input.len() - taken);
            self.skip -= skipped;
            taken += skipped;
            let step = self.step(&input[taken..])?;
            taken += step.taken;
            match step.need {
                // Whoever turns to encryption does not send anything before it is there.
                Some(Need::Tls) if taken < input.len() => {
                    return Err(Fault::Nonsense("data before encryption"));
                }
                Some(need) => break need,
                None => {}
            }
        };
        input.drain(..taken);
        self.input = input;
        Ok(need)
    }

    /// Takes the next message, if it is all there.
    fn step(&mut self, input: &[u8]) -> Result<Step, Fault> {
        let Some(handshake) = &mut self.handshake else {
            let Some((message, taken)) = protocol::parse(input)? else {
                return Ok(Step { taken: 0, need: Some(Need::Bytes) });
            };
            self.handle(message)?;
            return Ok(Step { taken, need: None });
        };
        let step = handshake.step(input, &*self.desk, &self.terms, &mut self.output)?;
        if handshake.is_done() {
            self.handshake = None;
            self.push_init();
            self.desk.entered();
        }
        Ok(step)
    }

    /// Whether the client sees the screen.
    pub fn is_running(&self) -> bool {
        self.handshake.is_none()
    }

    /// Whether the client waits for a picture.
    pub fn wants_update(&self) -> bool {
        self.updates.is_requested()
    }

    /// When [`Self::update`] is worth calling though nothing changed, counted from whenever.
    pub fn next_update(&self) -> Option<Duration> {
        self.updates.next_refinement()
    }

    fn push_init(&mut self) {
        let (width, height) = self.updates.size();
        for side in [width, height] {
            self.output.extend((side as u16).to_be_bytes());
        }
        self.output.extend(PixelFormat::NATIVE.to_wire());
        push_text(&self.desk.name(), &mut self.output);
    }

    fn handle(&mut self, message: Message) -> Result<(), Fault> {
        match message {
            Message::SetPixelFormat(format) => {
                self.encoder.set_format(format);
                self.updates.format_changed();
                if format == PixelFormat::MAPPED {
                    self.push_colour_map();
                }
            }
            Message::SetEncodings(encodings) => self.set_encodings(&encodings),
            Message::UpdateRequest(request) => {
                let [x, y, width, height] =
                    [request.x, request.y, request.width, request.height].map(u32::from);
                self.updates.request(Rect::new(x, y, width, height), request.incremental);
            }
            Message::Key { down, keysym } => {
                self.keyboard.key(keysym, down);
                self.type_into_terminal(keysym, down);
            }
            Message::ExtendedKey { down, keysym, scancode } => {
                self.keyboard.extended_key(keysym, scancode, down);
                self.type_into_terminal(keysym, down);
            }
            Message::Pointer { buttons, x, y } => self.point(buttons, x, y),
            Message::CutText(length) => self.skip = length as usize,
            Message::SetDesktopSize { width, height } => {
                let (width, height) = (width.into(), height.into());
                if width == 0 || height == 0 {
                    return Err(Fault::Nonsense("a screen without pixels"));
                }
                let told = self.terminal.is_none() && self.desk.wish_size(width, height);
                self.updates.answer_wish(told);
            }
            Message::Power(button) => match button.filter(|_| self.terms.power) {
                Some(button) => self.desk.power(button),
                None => self.output.extend([server_message::XVP, 0, 1, 0]),
            },
            Message::Audio => {}
        }
        Ok(())
    }

    fn set_encodings(&mut self, encodings: &[i32]) {
        let had = self.abilities;
        let has = |number| encodings.contains(&number);
        self.abilities = Abilities {
            copy: has(encoding::COPY_RECT),
            desktop_size: has(encoding::DESKTOP_SIZE),
            extended_desktop_size: has(encoding::EXTENDED_DESKTOP_SIZE),
            rich_cursor: has(encoding::RICH_CURSOR),
            alpha_cursor: has(encoding::ALPHA_CURSOR),
            pointer_type: has(encoding::POINTER_TYPE),
            extended_key: has(encoding::EXTENDED_KEY),
            leds: has(encoding::LED_STATE),
            name: has(encoding::DESKTOP_NAME),
            power: has(encoding::XVP),
        };
        let pixels = encodings.iter().find_map(|&number| Encoding::from_number(number));
        let within = |range: std::ops::RangeInclusive<i32>| {
            let found = encodings.iter().find(|number| range.contains(number));
            found.map(|number| (number - range.start()) as u8)
        };
        // From 0 to 9, to what JPEG calls quality.
        let quality = within(encoding::QUALITY).filter(|_| self.terms.lossy);
        let quality = quality
            .map(|quality| [15, 29, 41, 42, 62, 77, 79, 86, 92, 100][usize::from(quality.min(9))]);
        self.encoder.choose(pixels.unwrap_or_default(), within(encoding::COMPRESSION), quality);
        self.updates.abilities_changed(&had, &self.abilities);
        if self.abilities.power && !had.power && self.terms.power {
            self.output.extend([server_message::XVP, 0, 1, 1]);
        }
    }

    fn push_colour_map(&mut self) {
        self.output.extend([server_message::SET_COLOUR_MAP, 0, 0, 0, 1, 0]);
        for component in PixelFormat::colour_map().flatten() {
            self.output.extend(component.to_be_bytes());
        }
    }

    fn point(&mut self, buttons: u8, x: u16, y: u16) {
        let mut events = Vec::new();
        let (width, height) = self.updates.size();
        let last = self.pointer.at.replace((x, y));
        if self.desk.is_absolute() {
            let place = |at: u16, side: u32| {
                let last = side.saturating_sub(1).max(1);
                (u32::from(at).min(last) * base::input::ABS_MAX as u32 / last) as i32
            };
            events.push(InputEvent::Abs(Axis::X, place(x, width)));
            events.push(InputEvent::Abs(Axis::Y, place(y, height)));
        } else {
            // Clients that know of it tell movements; others are followed.
            let from = match self.abilities.pointer_type {
                true => (REST, REST),
                false => last.unwrap_or((x, y)),
            };
            let moved = [(Axis::X, x, from.0), (Axis::Y, y, from.1)];
            let moved = moved.map(|(axis, to, from)| (axis, i32::from(to) - i32::from(from)));
            events.extend(
                moved
                    .into_iter()
                    .filter(|(_, by)| *by != 0)
                    .map(|(axis, by)| InputEvent::Rel(axis, by)),
            );
        }
        let changed = buttons ^ std::mem::replace(&mut self.pointer.buttons, buttons);
        for (bit, button) in BUTTONS.into_iter().enumerate() {
            if changed >> bit & 1 != 0 {
                events.push(InputEvent::Button(button, buttons >> bit & 1 != 0));
            }
        }
        if !events.is_empty() && self.terminal.is_none() {
            self.desk.point(&events);
        }
    }

    /// The guest has switched the lights of its keyboard.
    pub fn leds_changed(&mut self, leds: Leds) {
        self.keyboard.set_leds(leds);
        self.updates.leds_changed();
    }

    /// The guest now wants to be told where the pointer is, or how it moves.
    pub fn pointer_type_changed(&mut self) {
        self.updates.pointer_type_changed();
    }

    /// The next key that goes down or up.
    pub fn next_stroke(&mut self) -> Option<(KeyCode, bool)> {
        self.keyboard.next_stroke()
    }

    /// Whether there is a next one.
    pub fn has_strokes(&self) -> bool {
        self.keyboard.has_strokes()
    }

    /// The client goes: what it holds is released.
    pub fn leave(&mut self) {
        self.keyboard.release_all();
        if self.pointer.buttons != 0
            && let Some((x, y)) = self.pointer.at
        {
            let (x, y) = if self.abilities.pointer_type && !self.desk.is_absolute() {
                (REST, REST)
            } else {
                (x, y)
            };
            self.point(0, x, y);
        }
    }
}

/// Appends a text with its length in front.
fn push_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
}
