//! A rectangle of pixels to be encoded.

/// Pixels in rows, which lie `stride` apart. There is at least one pixel.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pixels: &'a [u32],
    stride: usize,
    width: usize,
    height: usize,
}

impl<'a> View<'a> {
    /// The first `width` columns and `height` rows of `pixels`; `None` if there are not so many, or no
    /// pixel is left.
    pub fn new(pixels: &'a [u32], stride: usize, width: usize, height: usize) -> Option<Self> {
        let end = height.checked_sub(1)?.checked_mul(stride)?.checked_add(width)?;
        let fits = width > 0 && width <= stride && end <= pixels.len();
        fits.then_some(View { pixels, stride, width, height })
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// How many pixels there are.
    pub fn area(&self) -> usize {
        self.width * self.height
    }

    /// Row by row.
    pub fn rows(self) -> impl Iterator<Item = &'a [u32]> {
        let width = self.width;
        self.pixels.chunks(self.stride).take(self.height).map(move |row| &row[..width])
    }

    /// The pixels, row by row.
    pub fn pixels(self) -> impl Iterator<Item = u32> {
        self.rows().flatten().copied()
    }

    /// The first pixel.
    pub fn first(&self) -> u32 {
        self.pixels[0]
    }

    /// The colour, if there is but one.
    pub fn solid(&self) -> Option<u32> {
        let colour = self.first();
        // Without an early end within a row, so that rows are compared many pixels at a time.
        let same = |row: &[u32]| row.iter().fold(0, |seen, pixel| seen | (pixel ^ colour)) == 0;
        self.rows().all(same).then_some(colour)
    }

    /// A part, which must begin within; what of it lies outside is left out.
    pub fn part(&self, x: usize, y: usize, width: usize, height: usize) -> View<'a> {
        assert!(x < self.width && y < self.height, "a part begins within");
        View {
            pixels: &self.pixels[y * self.stride + x..],
            stride: self.stride,
            width: width.min(self.width - x),
            height: height.min(self.height - y),
        }
    }

    /// Tiles from left to right and from top to bottom, with where they begin; those at the edges may
    /// be smaller.
    pub fn tiles(
        self,
        width: usize,
        height: usize,
    ) -> impl Iterator<Item = (usize, usize, View<'a>)> {
        let columns = move |y| (0..self.width).step_by(width).map(move |x| (x, y));
        let places = (0..self.height).step_by(height).flat_map(columns);
        places.map(move |(x, y)| (x, y, self.part(x, y, width, height)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_pixel_once() {
        let pixels: Vec<u32> = (0..70).collect();
        let view = View::new(&pixels, 10, 9, 7).unwrap();
        let mut seen: Vec<u32> = view.tiles(4, 3).flat_map(|(_, _, tile)| tile.pixels()).collect();
        seen.sort_unstable();
        let expected: Vec<u32> = (0..70).filter(|pixel| pixel % 10 != 9).collect();
        assert_eq!(seen, expected);
        let (x, y, last) = view.tiles(4, 3).last().unwrap();
        assert_eq!((x, y, last.width(), last.height()), (8, 6, 1, 1));
    }

    #[test]
    fn views_lie_within_their_pixels() {
        let pixels = [0; 12];
        assert!(View::new(&pixels, 4, 4, 3).is_some());
        assert!(View::new(&pixels, 4, 5, 2).is_none());
        assert!(View::new(&pixels, 4, 4, 4).is_none());
        assert!(View::new(&pixels, 4, 0, 1).is_none());
        assert!(View::new(&pixels, 4, 1, 0).is_none());
    }

    #[test]
    fn one_other_pixel_makes_a_view_colourful() {
        let mut pixels = [7; 12];
        assert_eq!(View::new(&pixels, 4, 4, 3).unwrap().solid(), Some(7));
        pixels[10] = 8;
        assert_eq!(View::new(&pixels, 4, 4, 3).unwrap().solid(), None);
        assert_eq!(View::new(&pixels, 4, 2, 3).unwrap().solid(), Some(7));
    }
}
