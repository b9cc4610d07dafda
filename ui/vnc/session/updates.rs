//! What a client is sent of the picture, and when.

use std::time::Duration;

use super::{Abilities, News, Session};
use crate::vnc::canvas::Canvas;
use crate::vnc::encode::push_header;
use crate::vnc::protocol::{encoding, server_message};
use crate::vnc::tiles::Tiles;
use crate::{Cursor, CursorShape, Rect, Surface};

/// Most rectangles of one update; their number has 16 bits, and Tight makes several of one.
const MAX_RECTS: usize = 4096;
/// What has not changed for so long is sent again without losses, if there were any.
const REFINE_AFTER: Duration = Duration::from_millis(400);
/// What changed within one such time and again in the next changes all the time.
const BUSY_TIME: Duration = Duration::from_millis(200);

/// Widest and highest pointer.
const MAX_CURSOR: u32 = 512;
static NO_CURSOR: CursorShape =
    CursorShape { width: 0, height: 0, hot_x: 0, hot_y: 0, pixels: Vec::new() };

/// Why a size is told (extended desktop size).
const BY_SERVER: u16 = 0;
const BY_THIS_CLIENT: u16 = 1;
/// What became of a client's wish.
const DONE: u16 = 0;
const PROHIBITED: u16 = 1;
const FORWARDED: u16 = 4;

/// What is to be told beyond the picture.
#[derive(Default)]
struct Pending {
    /// The screen's size, and why and how.
    sizes: Vec<(u16, u16)>,
    name: bool,
    extended_key: bool,
    pointer_type: bool,
    leds: bool,
    cursor: bool,
}

/// What a client is sent of the picture, and when.
pub(super) struct Updates {
    canvas: Canvas,
    /// The size that the client knows of, which may not be the surface's if it cannot be told.
    told: (u32, u32),
    request: Option<Rect>,
    pending: Pending,
    cursor: Option<Cursor>,
    adaptive: bool,
    busy: Busy,
    /// When something was last sent with losses.
    blurred_at: Duration,
}

/// Which tiles change all the time.
#[derive(Default)]
struct Busy {
    since: Duration,
    now: Tiles,
    before: Tiles,
}

impl Updates {
    pub(super) fn new(width: u32, height: u32, adaptive: bool) -> Self {
        Updates {
            canvas: Canvas::new(width, height),
            told: (width, height),
            request: None,
            pending: Pending::default(),
            cursor: None,
            adaptive,
            busy: Busy::default(),
            blurred_at: Duration::ZERO,
        }
    }

    /// The size that the client knows of.
    pub(super) fn size(&self) -> (u32, u32) {
        self.told
    }

    pub(super) fn is_requested(&self) -> bool {
        self.request.is_some()
    }

    pub(super) fn request(&mut self, area: Rect, incremental: bool) {
        if !incremental {
            self.canvas.want(&area);
        }
        self.request = Some(self.request.map_or(area, |before| before.union(&area)));
    }

    /// Pixels that the client has are what they were, but the pointer's are not.
    pub(super) fn format_changed(&mut self) {
        self.pending.cursor = self.cursor.is_some();
    }

    pub(super) fn abilities_changed(&mut self, had: &Abilities, has: &Abilities) {
        let new = |had: bool, has: bool| has && !had;
        let pending = &mut self.pending;
        if new(had.extended_desktop_size, has.extended_desktop_size) {
            pending.sizes.push((BY_SERVER, DONE));
        }
        pending.name |= new(had.name, has.name);
        pending.extended_key |= new(had.extended_key, has.extended_key);
        pending.pointer_type |= new(had.pointer_type, has.pointer_type);
        pending.leds |= new(had.leds, has.leds);
        pending.cursor |=
            new(had.rich_cursor, has.rich_cursor) || new(had.alpha_cursor, has.alpha_cursor);
    }

    /// A client's wish for a size was told to the guest, or was not.
    pub(super) fn answer_wish(&mut self, told: bool) {
        // One answer is enough for many wishes.
        self.pending.sizes.retain(|(why, _)| *why != BY_THIS_CLIENT);
        self.pending.sizes.push((BY_THIS_CLIENT, if told { FORWARDED } else { PROHIBITED }));
    }

    pub(super) fn leds_changed(&mut self) {
        self.pending.leds = true;
    }

    pub(super) fn pointer_type_changed(&mut self) {
        self.pending.pointer_type = true;
    }

    /// When what was sent with losses is to be sent without.
    pub(super) fn next_refinement(&self) -> Option<Duration> {
        let waits = self.request.is_some() && self.canvas.is_blurred();
        waits.then(|| self.blurred_at + REFINE_AFTER)
    }
}

impl Busy {
    /// Notes what changes; says whether most of it does so all the time.
    fn note(&mut self, rect: &Rect, canvas: &Canvas, now: Duration) -> bool {
        if now.saturating_sub(self.since) >= BUSY_TIME || self.now.columns() == 0 {
            let none = Tiles::none(canvas.width(), canvas.height());
            let fresh = now.saturating_sub(self.since) < 2 * BUSY_TIME;
            let last = std::mem::replace(&mut self.now, none.clone());
            self.before = if fresh { last } else { none };
            self.since = now;
        }
        self.now.mark(rect);
        let mut tiles = Tiles::none(canvas.width(), canvas.height());
        tiles.mark(rect);
        let all = tiles.count();
        tiles.keep(&self.before);
        tiles.count() * 2 > all
    }
}

impl Session {
    /// Puts an update into the output if the client waits for one and there is something to tell.
    /// `now` is counted from whenever, but always from the same moment.
    pub fn update(&mut self, surface: &Surface, news: News, now: Duration) {
        let updates = &mut self.updates;
        if let Some(cursor) = news.cursor {
            let new = updates
                .cursor
                .as_ref()
                .is_none_or(|known| known.visible != cursor.visible || !known.same_shape(&cursor));
            updates.pending.cursor |= new && (cursor.shape.is_some() || updates.cursor.is_some());
            updates.cursor = Some(cursor);
        }
        updates.canvas.suspect(&news.tiles);
        let Some(area) = updates.request else { return };
        if !self.is_running() || surface.bounds().is_empty() {
            return;
        }
        let start = self.output.len();
        self.output.extend([server_message::FRAMEBUFFER_UPDATE, 0, 0, 0]);
        let (resized, mut count) = self.push_sizes(surface);
        if !resized {
            // What is behind a new size would be clipped to the old one by some.
            count += self.push_pending() + self.push_picture(surface, &area, now);
        }
        if count == 0 {
            self.output.truncate(start);
            return;
        }
        self.output[start + 2..start + 4].copy_from_slice(&(count as u16).to_be_bytes());
        self.updates.request = None;
    }

    /// Tells the size if it has changed or somebody asked; says whether it has changed, and how many
    /// rectangles it took.
    fn push_sizes(&mut self, surface: &Surface) -> (bool, u32) {
        let Abilities { desktop_size, extended_desktop_size, .. } = self.abilities;
        let size = (surface.width(), surface.height());
        let updates = &mut self.updates;
        let resized = size != updates.told && (desktop_size || extended_desktop_size);
        if resized {
            updates.told = size;
            updates.canvas = Canvas::new(size.0, size.1);
            updates.busy = Busy::default();
            updates.pending.sizes.push((BY_SERVER, DONE));
        }
        let sizes = std::mem::take(&mut updates.pending.sizes);
        let (width, height) = updates.told;
        if !extended_desktop_size {
            if resized {
                let rect = Rect::new(0, 0, width, height);
                push_header(&rect, encoding::DESKTOP_SIZE, &mut self.output);
            }
            return (resized, u32::from(resized));
        }
        for &(why, how) in &sizes {
            let rect = Rect::new(why.into(), how.into(), width, height);
            push_header(&rect, encoding::EXTENDED_DESKTOP_SIZE, &mut self.output);
            // One screen, of number 0, at the upper left corner, without flags.
            self.output.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            self.output.extend((width as u16).to_be_bytes());
            self.output.extend((height as u16).to_be_bytes());
            self.output.extend([0; 4]);
        }
        (resized, sizes.len() as u32)
    }

    /// Tells what is to be told beyond the picture; says how many rectangles it took.
    fn push_pending(&mut self) -> u32 {
        let sizes = std::mem::take(&mut self.updates.pending.sizes);
        let pending =
            std::mem::replace(&mut self.updates.pending, Pending { sizes, ..Pending::default() });
        let (width, height) = self.updates.told;
        let out = &mut self.output;
        let mut count = 0;
        if pending.name && self.abilities.name {
            push_header(&Rect::default(), encoding::DESKTOP_NAME, out);
            super::push_text(&self.desk.name(), out);
            count += 1;
        }
        if pending.extended_key && self.abilities.extended_key {
            push_header(&Rect::new(0, 0, width, height), encoding::EXTENDED_KEY, out);
            count += 1;
        }
        if pending.pointer_type && self.abilities.pointer_type {
            let absolute = self.desk.is_absolute().into();
            push_header(&Rect::new(absolute, 0, width, height), encoding::POINTER_TYPE, out);
            count += 1;
        }
        if pending.leds && self.abilities.leds {
            let leds = self.desk.leds();
            push_header(&Rect::new(0, 0, 1, 1), encoding::LED_STATE, out);
            out.push(u8::from(leds.scroll) | u8::from(leds.num) << 1 | u8::from(leds.caps) << 2);
            count += 1;
        }
        if pending.cursor
            && (self.abilities.alpha_cursor || self.abilities.rich_cursor)
            && let Some(cursor) = &self.updates.cursor
        {
            let shape = cursor.shape.as_deref().filter(|shape| {
                let area = shape.width as usize * shape.height as usize;
                cursor.visible
                    && shape.width.max(shape.height) <= MAX_CURSOR
                    && shape.pixels.len() == area
            });
            // A pointer without pixels cannot be seen.
            let shape = shape.unwrap_or(&NO_CURSOR);
            self.encoder.append_cursor(shape, self.abilities.alpha_cursor, out);
            count += 1;
        }
        count
    }

    /// Sends what has changed; says how many rectangles it took.
    fn push_picture(&mut self, surface: &Surface, area: &Rect, now: Duration) -> u32 {
        let Updates { canvas, told, adaptive, busy, blurred_at, .. } = &mut self.updates;
        let clipped;
        let surface = match (surface.width(), surface.height()) == *told {
            true => surface,
            false => {
                clipped = clip(surface, *told);
                canvas.suspect(&Tiles::all(told.0, told.1));
                &clipped
            }
        };
        let refined = canvas.is_blurred() && now >= *blurred_at + REFINE_AFTER;
        if refined {
            canvas.take_blurred().iter().for_each(|rect| canvas.want(rect));
        }
        let changes = canvas.update(surface, area, self.abilities.copy);
        let mut count = 0;
        if let Some((from, to)) = &changes.moved {
            self.encoder.append_copy(*from, to, &mut self.output);
            count += 1;
        }
        let (rects, later) = changes.rects.split_at(changes.rects.len().min(MAX_RECTS));
        later.iter().for_each(|rect| canvas.want(rect));
        for rect in rects {
            let calm = *adaptive && !busy.note(rect, canvas, now);
            let exact = refined || calm || !self.encoder.loses();
            if self.encoder.loses() {
                canvas.set_blurred(rect, !exact);
                *blurred_at = now;
            }
            if let Some(view) = canvas.view(rect) {
                count += self.encoder.append(rect.x, rect.y, view, exact, &mut self.output);
            }
        }
        count
    }
}

/// What of a surface fits a client that cannot be told another size.
fn clip(surface: &Surface, (width, height): (u32, u32)) -> Surface {
    let mut clipped = Surface::new(width, height);
    let columns = surface.width().min(width) as usize;
    for y in 0..surface.height().min(height) {
        clipped.row_mut(y)[..columns].copy_from_slice(&surface.row(y)[..columns]);
    }
    clipped
}
