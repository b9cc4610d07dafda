//! The picture of a VGA, for its console.

use std::sync::Arc;

use base::clock::Clocks;
use base::device::Shared;
use base::memory::{Client, RamBlock};
use parking_lot::Mutex;
use ui::{Adapter, Damage, Surface, TextScreen};

use super::graphics::LinePainter;
use super::picture::{Kind, Picture};
use super::planes::PLANAR_SIZE;
use super::text::{Phase, TextPainter, characters};
use super::{HasVga, Vga};

/// What is shown before the guest has chosen anything.
const INITIAL_SIZE: (u32, u32) = (640, 480);

/// What was drawn last, and how.
#[derive(Default)]
struct Painter {
    last: Option<(Picture, Phase)>,
    text: TextPainter,
    lines: LinePainter,
}

/// The head of a VGA.
pub struct Head<D> {
    device: Shared<D>,
    memory: Arc<RamBlock>,
    clocks: Clocks,
    painter: Mutex<Painter>,
}

impl<D: HasVga> Head<D> {
    /// The head of `device`.
    pub fn new(device: &Shared<D>, clocks: &Clocks) -> Arc<Self> {
        let memory = device.lock().vga().memory().clone();
        Arc::new(Head {
            device: device.clone(),
            memory,
            clocks: clocks.clone(),
            painter: Mutex::default(),
        })
    }

    fn picture(&self) -> Picture {
        self.device.lock().vga().picture()
    }
}

impl<D: HasVga> Adapter for Head<D> {
    fn refresh(&self, surface: &mut Surface, full: bool) -> Damage {
        let picture = self.picture();
        let phase = Phase::at(self.clocks.now_virtual());
        let painter = &mut *self.painter.lock();
        let resized = match picture.size() {
            Some((width, height)) => surface.resize(width, height),
            None if surface.width() == 0 => surface.resize(INITIAL_SIZE.0, INITIAL_SIZE.1),
            None => false,
        };
        let same = painter.last.as_ref().is_some_and(|(last, _)| last.shows_as(&picture));
        let full = full || resized || !same;
        let mut damage = match &picture.kind {
            Kind::Blank if full => {
                surface.pixels_mut().fill(0);
                Damage::all(surface)
            }
            Kind::Blank => Damage::default(),
            Kind::Text(text) => {
                let mut dirty = painter
                    .last
                    .as_ref()
                    .is_none_or(|(last, was)| *was != phase || last.kind != picture.kind);
                let planes = u64::from(PLANAR_SIZE);
                let tracking = self.memory.tracking();
                tracking.take_dirty(Client::Display, 0, planes, |_| dirty = true);
                if full {
                    painter.text.forget();
                }
                match dirty || full {
                    true => painter.text.paint(&picture, text, &self.memory, phase, surface),
                    false => Damage::default(),
                }
            }
            Kind::Graphics(graphics) => {
                painter.lines.paint(&picture, graphics, &self.memory, full, surface)
            }
        };
        painter.last = Some((picture, phase));
        damage.resized = resized;
        damage
    }

    fn text(&self) -> Option<TextScreen> {
        let picture = self.picture();
        match &picture.kind {
            Kind::Text(text) => Some(characters(&picture, text, &self.memory)),
            _ => None,
        }
    }
}

impl HasVga for Vga {
    fn vga(&mut self) -> &mut Vga {
        self
    }
}
