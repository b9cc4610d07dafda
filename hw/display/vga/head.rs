//! The picture of a VGA, for its console.

use std::sync::Arc;

use base::clock::Clocks;
use base::device::{Device, Shared};
use base::memory::{Client, RamBlock};
use parking_lot::Mutex;
use ui::{Adapter, Damage, Surface, TextScreen};

use super::graphics::{Extent, LinePainter};
use super::overlay::Overlay;
use super::picture::{Kind, Picture};
use super::planes::PLANAR_SIZE;
use super::text::{Phase, TextPainter, characters};

/// A device that shows what a VGA can show.
pub trait Shows: Device {
    /// Its memory.
    fn memory(&self) -> &Arc<RamBlock>;

    /// What of it is shown.
    fn picture(&self) -> Picture;

    /// The pointer that is laid over it.
    fn overlay(&self) -> Option<Overlay> {
        None
    }
}

/// What was drawn last, and how.
#[derive(Default)]
struct Painter {
    last: Option<(Picture, Phase)>,
    overlay: Option<Overlay>,
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

impl<D: Shows> Head<D> {
    /// The head of `device`.
    pub fn new(device: &Shared<D>, clocks: &Clocks) -> Arc<Self> {
        let memory = device.lock().memory().clone();
        Arc::new(Head {
            device: device.clone(),
            memory,
            clocks: clocks.clone(),
            painter: Mutex::default(),
        })
    }

    /// Whether the guest has shown anything yet.
    pub fn has_begun(&self) -> bool {
        self.painter.lock().last.is_some()
    }
}

impl<D: Shows> Adapter for Head<D> {
    fn refresh(&self, surface: &mut Surface, full: bool) -> Damage {
        let (picture, overlay) = {
            let device = self.device.lock();
            (device.picture(), device.overlay())
        };
        let phase = Phase::at(self.clocks.now_virtual());
        let painter = &mut *self.painter.lock();
        let resized = picture.size().is_some_and(|(width, height)| surface.resize(width, height));
        let same = painter.last.as_ref().is_some_and(|(last, _)| last.shows_as(&picture));
        let full = full || resized || !same;
        let mut damage = match &picture.kind {
            // The guest has shown nothing yet.
            Kind::Blank if painter.last.is_none() => return Damage::default(),
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
                let moved = painter.overlay != overlay;
                let overlays = [painter.overlay.as_ref(), overlay.as_ref()];
                let touched = overlays.into_iter().flatten().filter(|_| moved).map(Overlay::covers);
                let extent = Extent { full, lines: touched.collect() };
                let over = overlay.as_ref();
                painter.lines.paint(&picture, graphics, &self.memory, &extent, over, surface)
            }
        };
        painter.overlay = overlay;
        painter.last = Some((picture, phase));
        damage.resized = resized;
        damage
    }

    fn text(&self) -> Option<TextScreen> {
        let picture = self.device.lock().picture();
        match &picture.kind {
            Kind::Text(text) => Some(characters(&picture, text, &self.memory)),
            _ => None,
        }
    }
}
