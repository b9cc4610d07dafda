//! What a client has on its screen: the server's copy of it, by which only what really differs is
//! sent, and by which pictures that were only moved are found.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::encode::View;
use super::tiles::{SIDE, Tiles};
use crate::{Rect, Surface};

/// Rows that have to have moved alike, for a movement to be looked at.
const MIN_MOVED: usize = 24;
/// How many updates are not searched for movements after many searches in vain.
const MAX_REST: u32 = 32;

/// What a client has on its screen.
#[derive(Default)]
pub struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
    /// What may differ from the surface.
    suspect: Tiles,
    /// What is to be sent even if it does not.
    wanted: Tiles,
    /// What was sent with losses.
    blurred: Tiles,
    search: Search,
}

/// When to search for movements.
#[derive(Default)]
struct Search {
    /// Updates to go until the next search.
    rest: u32,
    /// Searches in vain since the last one that was not.
    failures: u32,
}

/// What has to be done to bring a client up to date.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// First, what is there is copied from this place to that rectangle.
    pub moved: Option<((u32, u32), Rect)>,
    /// Then these are sent; they are taken from the canvas.
    pub rects: Vec<Rect>,
}

impl Canvas {
    /// A black screen of this size, all of which is to be sent.
    pub fn new(width: u32, height: u32) -> Self {
        Canvas {
            width,
            height,
            pixels: vec![0; width as usize * height as usize],
            suspect: Tiles::none(width, height),
            wanted: Tiles::all(width, height),
            blurred: Tiles::none(width, height),
            search: Search::default(),
        }
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// These tiles may differ.
    pub fn suspect(&mut self, tiles: &Tiles) {
        self.suspect.add(tiles);
    }

    /// This part is to be sent whether it differs or not.
    pub fn want(&mut self, rect: &Rect) {
        self.wanted.mark(rect);
    }

    /// A rectangle's pixels.
    pub fn view(&self, rect: &Rect) -> Option<View<'_>> {
        let at = rect.y as usize * self.width as usize + rect.x as usize;
        let pixels = self.pixels.get(at..)?;
        View::new(pixels, self.width as usize, rect.width as usize, rect.height as usize)
    }

    /// A rectangle was sent with losses, or without.
    pub fn set_blurred(&mut self, rect: &Rect, blurred: bool) {
        if blurred { self.blurred.mark(rect) } else { self.blurred.unmark(rect) }
    }

    /// Whether there is something that was sent with losses.
    pub fn is_blurred(&self) -> bool {
        !self.blurred.is_empty()
    }

    /// What was sent with losses, to be sent again without.
    pub fn take_blurred(&mut self) -> Vec<Rect> {
        let blurred = std::mem::replace(&mut self.blurred, Tiles::none(self.width, self.height));
        blurred.rects(self.width, self.height)
    }

    /// Takes over what differs within `area`, and says how the client does the same. The surface must
    /// be of the same size. With `may_move` the client can copy.
    pub fn update(&mut self, surface: &Surface, area: &Rect, may_move: bool) -> Changes {
        if (surface.width(), surface.height()) != (self.width, self.height) {
            return Changes::default();
        }
        let moved = if may_move { self.find_movement(surface) } else { None };
        if let Some((from, to)) = moved {
            self.copy(from, &to);
        }
        let area = area.intersection(&surface.bounds());
        let mut changed = Tiles::none(self.width, self.height);
        for row in area.y / SIDE..area.bottom().div_ceil(SIDE) {
            for column in area.x / SIDE..area.right().div_ceil(SIDE) {
                let wanted = self.wanted.take(column, row);
                if (self.suspect.take(column, row) || wanted)
                    && self.take_over(surface, column, row) | wanted
                {
                    changed.set(column, row);
                }
            }
        }
        Changes { moved, rects: changed.rects(self.width, self.height) }
    }

    /// Copies a tile from the surface; says whether it was different.
    fn take_over(&mut self, surface: &Surface, column: u32, row: u32) -> bool {
        let tile = Rect::new(column * SIDE, row * SIDE, SIDE, SIDE);
        let mut differs = false;
        let tile = tile.intersection(&surface.bounds());
        let columns = tile.x as usize..tile.right() as usize;
        let mine = self.pixels.chunks_exact_mut(self.width as usize).skip(tile.y as usize);
        for (mine, theirs) in mine.zip(surface.rows(&tile)) {
            let mine = &mut mine[columns.clone()];
            if mine != theirs {
                differs = true;
                mine.copy_from_slice(theirs);
            }
        }
        differs
    }

    fn copy(&mut self, from: (u32, u32), to: &Rect) {
        let width = self.width as usize;
        let columns = |x: u32| x as usize..(x + to.width) as usize;
        let mut copy_row = |i: u32| {
            let source = (from.1 + i) as usize * width;
            let target = (to.y + i) as usize * width + to.x as usize;
            let columns = columns(from.0);
            self.pixels.copy_within(source + columns.start..source + columns.end, target);
        };
        // Rows that are still needed are not to be overwritten.
        if to.y < from.1 {
            (0..to.height).for_each(&mut copy_row);
        } else {
            (0..to.height).rev().for_each(&mut copy_row);
        }
        self.suspect.mark(to);
    }

    /// Looks for rows that have moved up or down, as a console's do, if enough has changed. What it
    /// finds is a guess: what the copy gets wrong differs and is sent.
    fn find_movement(&mut self, surface: &Surface) -> Option<((u32, u32), Rect)> {
        // What the client may have lost cannot be copied, nor what was blurred.
        if !self.wanted.is_empty() || self.is_blurred() {
            return None;
        }
        let bounds = self.suspect.bounds();
        let many = self.suspect.columns() * self.suspect.rows() / 8;
        if (bounds.height * SIDE) as usize <= MIN_MOVED || self.suspect.count() < many.max(2) {
            return None;
        }
        if self.search.rest > 0 {
            self.search.rest -= 1;
            return None;
        }
        let bounds =
            Rect::new(bounds.x * SIDE, bounds.y * SIDE, bounds.width * SIDE, bounds.height * SIDE)
                .intersection(&surface.bounds());
        let found = self.movement_within(surface, &bounds);
        match found {
            Some(_) => self.search.failures = 0,
            None => {
                self.search.rest = self.search.failures.min(MAX_REST);
                self.search.failures = self.search.failures.saturating_add(4);
            }
        }
        found
    }

    fn movement_within(&self, surface: &Surface, bounds: &Rect) -> Option<((u32, u32), Rect)> {
        let columns = bounds.x as usize..bounds.right() as usize;
        let mine = self.pixels.chunks_exact(self.width as usize);
        let before: Vec<u64> = mine
            .skip(bounds.y as usize)
            .take(bounds.height as usize)
            .map(|row| hash(&row[columns.clone()]))
            .collect();
        let after: Vec<u64> = surface.rows(bounds).map(hash).collect();
        // Where a row was, if there was but one like it.
        let mut places: HashMap<u64, Option<usize>> = HashMap::new();
        for (y, &row) in before.iter().enumerate() {
            match places.entry(row) {
                Entry::Vacant(entry) => drop(entry.insert(Some(y))),
                Entry::Occupied(mut entry) => drop(entry.insert(None)),
            }
        }
        let came_from = |y: usize| places.get(&after[y]).copied().flatten();
        let mut votes: HashMap<isize, usize> = HashMap::new();
        for y in (0..after.len()).filter(|&y| before[y] != after[y]) {
            if let Some(from) = came_from(y) {
                *votes.entry(from as isize - y as isize).or_default() += 1;
            }
        }
        let (&distance, &count) = votes.iter().max_by_key(|(_, count)| **count)?;
        if count < MIN_MOVED {
            return None;
        }
        let moved =
            |&y: &usize| came_from(y).is_some_and(|from| from as isize - y as isize == distance);
        let first = (0..after.len()).find(moved)?;
        let last = (0..after.len()).rev().find(moved)?;
        let source = bounds.y as isize + first as isize + distance;
        let target =
            Rect::new(bounds.x, bounds.y + first as u32, bounds.width, (last - first + 1) as u32);
        Some(((bounds.x, source as u32), target))
    }
}

/// A number that is another for other pixels, mostly. In four lanes, as a multiplication waits for
/// the one before it.
fn hash(row: &[u32]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [1_u64, 2, 3, 4];
    let mut chunks = row.chunks_exact(4);
    for chunk in &mut chunks {
        for (lane, &pixel) in lanes.iter_mut().zip(chunk) {
            *lane = (*lane ^ u64::from(pixel)).wrapping_mul(FACTOR).rotate_left(23);
        }
    }
    let rest = chunks.remainder().iter().map(|&pixel| u64::from(pixel));
    lanes
        .into_iter()
        .chain(rest)
        .fold(0, |sum, word| (sum ^ word).wrapping_mul(FACTOR).rotate_left(29))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client that does what it is told.
    struct Client(Surface);

    impl Client {
        fn apply(&mut self, canvas: &Canvas, changes: &Changes) {
            if let Some(((x, y), to)) = changes.moved {
                let before = self.0.clone();
                let source = Rect::new(x, y, to.width, to.height);
                let rows: Vec<&[u32]> = before.rows(&source).collect();
                for (i, row) in rows.into_iter().enumerate() {
                    let columns = to.x as usize..to.right() as usize;
                    self.0.row_mut(to.y + i as u32)[columns].copy_from_slice(row);
                }
            }
            for rect in &changes.rects {
                let view = canvas.view(rect).unwrap();
                for (i, row) in view.rows().enumerate() {
                    let columns = rect.x as usize..rect.right() as usize;
                    self.0.row_mut(rect.y + i as u32)[columns].copy_from_slice(row);
                }
            }
        }
    }

    /// Every row of pixels differs from every other.
    fn text(surface: &mut Surface, first: u32) {
        for y in 0..surface.height() {
            for (x, pixel) in (0..).zip(surface.row_mut(y)) {
                *pixel = (y + first).wrapping_mul(0x9e37_79b1) >> (x % 24) & 0x00ff_ffff;
            }
        }
    }

    fn suspect_all(canvas: &mut Canvas) {
        let all = Tiles::all(canvas.width(), canvas.height());
        canvas.suspect(&all);
    }

    #[test]
    fn only_what_differs_is_sent() {
        let mut surface = Surface::new(100, 50);
        let mut canvas = Canvas::new(100, 50);
        let area = surface.bounds();
        assert_eq!(canvas.update(&surface, &area, false).rects, [area]);
        suspect_all(&mut canvas);
        assert_eq!(canvas.update(&surface, &area, false), Changes::default());
        surface.row_mut(49)[99] = 1;
        suspect_all(&mut canvas);
        // Not where nobody looks.
        let left = Rect::new(0, 0, 50, 50);
        assert_eq!(canvas.update(&surface, &left, false), Changes::default());
        assert_eq!(canvas.update(&surface, &area, false).rects, [Rect::new(96, 48, 4, 2)]);
        canvas.want(&Rect::new(0, 0, 1, 1));
        assert_eq!(canvas.update(&surface, &area, false).rects, [Rect::new(0, 0, 16, 16)]);
    }

    #[test]
    fn a_picture_that_was_moved_is_moved() {
        for second in [150 + 16, 150 - 16] {
            let mut surface = Surface::new(200, 160);
            let area = surface.bounds();
            text(&mut surface, 150);
            let mut canvas = Canvas::new(200, 160);
            let mut client = Client(Surface::new(200, 160));
            let changes = canvas.update(&surface, &area, true);
            client.apply(&canvas, &changes);
            text(&mut surface, second);
            suspect_all(&mut canvas);
            let changes = canvas.update(&surface, &area, true);
            client.apply(&canvas, &changes);
            assert_eq!(client.0, surface);
            let (from, to) = changes.moved.expect("moved");
            let expected = if second > 150 {
                ((0, 16), Rect::new(0, 0, 200, 144))
            } else {
                ((0, 0), Rect::new(0, 16, 200, 144))
            };
            assert_eq!((from, to), expected);
            let sent: u32 = changes.rects.iter().map(|rect| rect.width * rect.height).sum();
            assert_eq!(sent, 200 * 16);
        }
    }

    proptest! {
        #[test]
        fn a_client_that_does_what_it_is_told_sees_the_picture(
            frames in proptest::collection::vec(
                (0_u32..80, proptest::collection::vec((0_u32..90, 0_u32..70, 1_u32..40, 1_u32..40), 0..5)),
                1..6,
            ),
        ) {
            let mut surface = Surface::new(90, 70);
            let mut canvas = Canvas::new(90, 70);
            let mut client = Client(Surface::new(90, 70));
            for (scroll, spots) in frames {
                text(&mut surface, scroll);
                for (x, y, width, height) in spots {
                    let spot = Rect::new(x, y, width, height).intersection(&surface.bounds());
                    for row in spot.y..spot.bottom() {
                        surface.row_mut(row)[spot.x as usize..spot.right() as usize].fill(x * y);
                    }
                }
                suspect_all(&mut canvas);
                let changes = canvas.update(&surface, &Rect::new(0, 0, 90, 70), true);
                client.apply(&canvas, &changes);
                prop_assert_eq!(&client.0, &surface);
            }
        }
    }
}
