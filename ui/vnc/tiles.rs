//! Which parts of a picture need to be looked at: a bit for each tile.

use crate::Rect;

/// Side of a tile.
pub const SIDE: u32 = 16;

/// A set of tiles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tiles {
    columns: u32,
    rows: u32,
    /// Words of 64 tiles, row by row.
    bits: Vec<u64>,
}

impl Tiles {
    /// No tile of a picture of this size.
    pub fn none(width: u32, height: u32) -> Self {
        let (columns, rows) = (width.div_ceil(SIDE), height.div_ceil(SIDE));
        let bits = vec![0; (columns.div_ceil(64) * rows) as usize];
        Tiles { columns, rows, bits }
    }

    /// All tiles of a picture of this size.
    pub fn all(width: u32, height: u32) -> Self {
        let mut tiles = Tiles::none(width, height);
        tiles.mark(&Rect::new(0, 0, width, height));
        tiles
    }

    fn words(&self) -> usize {
        self.columns.div_ceil(64) as usize
    }

    /// How many tiles lie side by side.
    pub fn columns(&self) -> u32 {
        self.columns
    }

    /// How many rows of tiles there are.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Whether no tile is in the set.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|&word| word == 0)
    }

    /// How many tiles are in the set.
    pub fn count(&self) -> u32 {
        self.bits.iter().map(|word| word.count_ones()).sum()
    }

    /// Adds the tiles that a rectangle touches.
    pub fn mark(&mut self, rect: &Rect) {
        self.for_each_touched(rect, |word, bit| *word |= bit);
    }

    /// Takes out the tiles that a rectangle touches.
    pub fn unmark(&mut self, rect: &Rect) {
        self.for_each_touched(rect, |word, bit| *word &= !bit);
    }

    fn for_each_touched(&mut self, rect: &Rect, change: impl Fn(&mut u64, u64)) {
        if rect.is_empty() {
            return;
        }
        let words = self.words();
        let columns = rect.x / SIDE..rect.right().div_ceil(SIDE).min(self.columns);
        for row in rect.y / SIDE..rect.bottom().div_ceil(SIDE).min(self.rows) {
            for column in columns.clone() {
                let at = row as usize * words + column as usize / 64;
                change(&mut self.bits[at], 1 << (column % 64));
            }
        }
    }

    /// Adds a tile, which must be one of the picture's.
    pub fn set(&mut self, column: u32, row: u32) {
        let at = row as usize * self.words() + column as usize / 64;
        self.bits[at] |= 1 << (column % 64);
    }

    /// Takes a tile out; says whether it was in the set.
    pub fn take(&mut self, column: u32, row: u32) -> bool {
        let at = row as usize * self.words() + column as usize / 64;
        let bit = 1 << (column % 64);
        let was = self.bits.get(at).is_some_and(|word| word & bit != 0);
        if was {
            self.bits[at] &= !bit;
        }
        was
    }

    /// Adds the tiles of another set, of a picture of the same size.
    pub fn add(&mut self, other: &Tiles) {
        if (self.columns, self.rows) == (other.columns, other.rows) {
            self.bits.iter_mut().zip(&other.bits).for_each(|(word, other)| *word |= other);
        }
    }

    /// No tile of the same picture.
    pub fn emptied(&self) -> Self {
        Tiles { columns: self.columns, rows: self.rows, bits: vec![0; self.bits.len()] }
    }

    /// Adds the tiles of a newer set; if it is of another size, only those count.
    pub fn renew(&mut self, newer: Tiles) {
        if (self.columns, self.rows) == (newer.columns, newer.rows) {
            self.add(&newer);
        } else {
            *self = newer;
        }
    }

    /// Keeps only the tiles that are in another set too; none are in a set of another size.
    pub fn keep(&mut self, other: &Tiles) {
        let same = (self.columns, self.rows) == (other.columns, other.rows);
        for (at, word) in self.bits.iter_mut().enumerate() {
            *word &= other.bits.get(at).copied().filter(|_| same).unwrap_or(0);
        }
    }

    /// The columns of a row that are in the set.
    pub fn row(&self, row: u32) -> impl Iterator<Item = u32> + use<> {
        let words = self.words();
        let at = row as usize * words;
        let bits = self.bits.get(at..at + words).unwrap_or_default().to_vec();
        (0_u32..).step_by(64).zip(bits).flat_map(|(first, mut word)| {
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                word &= word.wrapping_sub(1);
                (bit < 64).then_some(first + bit)
            })
        })
    }

    /// The smallest rectangle that holds all, in tiles.
    pub fn bounds(&self) -> Rect {
        let rows = (0..self.rows).filter_map(|row| {
            let mut columns = self.row(row);
            let first = columns.next()?;
            let last = columns.last().unwrap_or(first);
            Some(Rect::new(first, row, last - first + 1, 1))
        });
        rows.fold(Rect::default(), |bounds, row| bounds.union(&row))
    }

    /// Rectangles of pixels that cover the tiles, and nothing twice.
    pub fn rects(&self, width: u32, height: u32) -> Vec<Rect> {
        let mut done = Vec::new();
        // Those that reach the row before, and may grow.
        let mut open: Vec<Rect> = Vec::new();
        for row in 0..self.rows {
            let mut grown = Vec::new();
            for run in runs(self.row(row)) {
                let rect = Rect::new(run.start, row, run.len() as u32, 1);
                let above = open.iter().position(|o| (o.x, o.width) == (rect.x, rect.width));
                grown.push(above.map_or(rect, |above| open.swap_remove(above).union(&rect)));
            }
            done.append(&mut open);
            open = grown;
        }
        done.append(&mut open);
        let picture = Rect::new(0, 0, width, height);
        let pixels = |rect: Rect| {
            let [x, y, width, height] =
                [rect.x, rect.y, rect.width, rect.height].map(|number| number * SIDE);
            Rect::new(x, y, width, height).intersection(&picture)
        };
        done.into_iter().map(pixels).collect()
    }
}

/// Numbers that follow each other, as ranges.
fn runs(numbers: impl Iterator<Item = u32>) -> Vec<std::ops::Range<u32>> {
    let mut runs: Vec<std::ops::Range<u32>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tiles_are_touched_by_rectangles() {
        let mut tiles = Tiles::none(1300, 40);
        tiles.mark(&Rect::new(15, 0, 2, 1));
        tiles.mark(&Rect::new(1290, 39, 500, 500));
        tiles.mark(&Rect::new(5, 5, 0, 9));
        assert_eq!(tiles.row(0).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(tiles.row(2).collect::<Vec<_>>(), [80, 81]);
        assert_eq!(tiles.count(), 4);
        assert_eq!(tiles.bounds(), Rect::new(0, 0, 82, 3));
        assert!(tiles.take(80, 2) && !tiles.take(80, 2));
        let rects = tiles.rects(1300, 40);
        assert_eq!(rects, [Rect::new(0, 0, 32, 16), Rect::new(1296, 32, 4, 8)]);
    }

    #[test]
    fn a_whole_picture_is_one_rectangle() {
        assert_eq!(Tiles::all(720, 400).rects(720, 400), [Rect::new(0, 0, 720, 400)]);
        assert_eq!(Tiles::none(720, 400).rects(720, 400), []);
    }

    proptest! {
        #[test]
        fn rectangles_cover_the_tiles_and_nothing_twice(
            marked in proptest::collection::vec((0_u32..90, 0_u32..20), 0..300),
        ) {
            let (width, height) = (90 * SIDE, 20 * SIDE);
            let mut tiles = Tiles::none(width, height);
            marked.iter().for_each(|&(column, row)| tiles.set(column, row));
            let rects = tiles.rects(width, height);
            let mut again = Tiles::none(width, height);
            rects.iter().for_each(|rect| again.mark(rect));
            let area: u32 = rects.iter().map(|rect| rect.width * rect.height).sum();
            prop_assert_eq!(area, tiles.count() * SIDE * SIDE);
            prop_assert_eq!(again, tiles);
        }
    }
}
