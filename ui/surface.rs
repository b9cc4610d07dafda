//! Pixels, and which of them changed.

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Rect {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl Rect {
    /// A rectangle.
    pub const fn new(x: u32, y: u32, width: u32, height: u32) -> Self {
        Rect { x, y, width, height }
    }

    /// First column to the right of it.
    pub const fn right(&self) -> u32 {
        self.x.saturating_add(self.width)
    }

    /// First row below it.
    pub const fn bottom(&self) -> u32 {
        self.y.saturating_add(self.height)
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// What is in both. Nothing is at the origin, so that it lies within every surface.
    pub fn intersection(&self, other: &Rect) -> Rect {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let width = self.right().min(other.right()).saturating_sub(x);
        let height = self.bottom().min(other.bottom()).saturating_sub(y);
        let both = Rect { x, y, width, height };
        if both.is_empty() { Rect::default() } else { both }
    }

    /// Whether all of another one lies in it.
    pub const fn contains(&self, other: &Rect) -> bool {
        other.x >= self.x
            && other.y >= self.y
            && other.right() <= self.right()
            && other.bottom() <= self.bottom()
    }

    /// The smallest that holds both.
    pub fn union(&self, other: &Rect) -> Rect {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => *other,
            (_, true) => *self,
            _ => {
                let (x, y) = (self.x.min(other.x), self.y.min(other.y));
                let width = self.right().max(other.right()) - x;
                let height = self.bottom().max(other.bottom()) - y;
                Rect { x, y, width, height }
            }
        }
    }
}

/// What a refresh has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// The surface has another size than before; all of it is new.
    pub resized: bool,
    /// What is new, in no order, within the surface.
    pub rects: Vec<Rect>,
}

impl Damage {
    /// All of a surface.
    pub fn all(surface: &Surface) -> Self {
        Damage { resized: false, rects: vec![surface.bounds()] }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        !self.resized && self.rects.is_empty()
    }

    /// Adds whole rows; those that follow on the last rectangle of whole rows make it grow.
    pub fn add_rows(&mut self, y: u32, height: u32, width: u32) {
        match self.rects.last_mut() {
            Some(last) if last.x == 0 && last.width == width && last.bottom() == y => {
                last.height += height;
            }
            _ => self.rects.push(Rect::new(0, y, width, height)),
        }
    }
}

/// The picture of one head: rows of `0x00RRGGBB` without gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surface {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
}

impl Surface {
    /// Widest and highest that a surface can be.
    pub const MAX_SIDE: u32 = 16384;

    /// A black picture.
    pub fn new(width: u32, height: u32) -> Self {
        let mut surface = Surface::default();
        surface.resize(width, height);
        surface
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// All of it.
    pub fn bounds(&self) -> Rect {
        Rect::new(0, 0, self.width, self.height)
    }

    /// Gives it another size, black all over. Says whether it had another size before; if not,
    /// it stays as it is. Sides are cut at [`Self::MAX_SIDE`].
    pub fn resize(&mut self, width: u32, height: u32) -> bool {
        let (width, height) = (width.min(Self::MAX_SIDE), height.min(Self::MAX_SIDE));
        if (self.width, self.height) == (width, height) {
            return false;
        }
        (self.width, self.height) = (width, height);
        self.pixels.clear();
        self.pixels.resize(width as usize * height as usize, 0);
        true
    }

    /// All pixels, row by row.
    pub fn pixels(&self) -> &[u32] {
        &self.pixels
    }

    /// All pixels, row by row.
    pub fn pixels_mut(&mut self) -> &mut [u32] {
        &mut self.pixels
    }

    /// A row; empty below the picture.
    pub fn row(&self, y: u32) -> &[u32] {
        let at = y as usize * self.width as usize;
        self.pixels.get(at..at + self.width as usize).unwrap_or_default()
    }

    /// A row; empty below the picture.
    pub fn row_mut(&mut self, y: u32) -> &mut [u32] {
        let at = y as usize * self.width as usize;
        self.pixels.get_mut(at..at + self.width as usize).unwrap_or_default()
    }

    /// The part of a rectangle that lies within, row by row.
    pub fn rows(&self, rect: &Rect) -> impl Iterator<Item = &[u32]> {
        let rect = rect.intersection(&self.bounds());
        let columns = rect.x as usize..rect.right() as usize;
        (rect.y..rect.bottom()).map(move |y| self.row(y).get(columns.clone()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_meet_and_join() {
        let (a, b) = (Rect::new(0, 0, 10, 10), Rect::new(5, 8, 10, 10));
        assert_eq!(a.intersection(&b), Rect::new(5, 8, 5, 2));
        assert_eq!(a.union(&b), Rect::new(0, 0, 15, 18));
        assert!(a.intersection(&Rect::new(10, 0, 5, 5)).is_empty());
        assert_eq!(a.union(&Rect::default()), a);
    }

    #[test]
    fn rows_that_follow_each_other_are_one_rectangle() {
        let mut damage = Damage::default();
        damage.add_rows(2, 1, 8);
        damage.add_rows(3, 2, 8);
        damage.add_rows(7, 1, 8);
        assert_eq!(damage.rects, [Rect::new(0, 2, 8, 3), Rect::new(0, 7, 8, 1)]);
    }

    #[test]
    fn nothing_lies_outside_of_a_surface() {
        let mut surface = Surface::new(4, 2);
        surface.row_mut(1).fill(7);
        surface.row_mut(2).fill(9);
        assert_eq!(surface.pixels(), [0, 0, 0, 0, 7, 7, 7, 7]);
        let inside: Vec<_> = surface.rows(&Rect::new(2, 1, 50, u32::MAX)).collect();
        assert_eq!(inside, [[7, 7]]);
        assert!(!surface.resize(4, 2));
        assert!(surface.resize(2, 2));
        assert_eq!(surface.pixels(), [0; 4]);
    }
}
