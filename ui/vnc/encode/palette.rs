//! The colours of a rectangle, numbered in the order in which they first appear.

use super::view::View;

/// Most colours that any encoding has use for.
pub const MAX_COLOURS: usize = 256;
/// Places of the table: twice as many as there are colours, so that searches are short.
const PLACES: usize = 2 * MAX_COLOURS;
/// In a place that is free. No colour has this number.
const FREE: u16 = u16::MAX;

pub struct Palette {
    colours: Vec<u32>,
    /// Numbers of colours, by a hash of the colour.
    places: Box<[u16; PLACES]>,
}

impl Default for Palette {
    fn default() -> Self {
        Palette { colours: Vec::with_capacity(MAX_COLOURS), places: Box::new([FREE; PLACES]) }
    }
}

impl Palette {
    /// Takes the colours of a view; says false if there are more than `most`, which is at most
    /// [`MAX_COLOURS`].
    pub fn collect(&mut self, view: &View<'_>, most: usize) -> bool {
        debug_assert!(most <= MAX_COLOURS);
        self.colours.clear();
        self.places.fill(FREE);
        let mut last = !view.first();
        for row in view.rows() {
            for &pixel in row {
                if pixel != last {
                    last = pixel;
                    let place = self.place(pixel);
                    if self.places[place] == FREE {
                        if self.colours.len() == most {
                            return false;
                        }
                        self.places[place] = self.colours.len() as u16;
                        self.colours.push(pixel);
                    }
                }
            }
        }
        true
    }

    /// The colours, by their numbers.
    pub fn colours(&self) -> &[u32] {
        &self.colours
    }

    /// The number of a colour that was collected.
    pub fn number(&self, colour: u32) -> u8 {
        self.places[self.place(colour)] as u8
    }

    /// Where a colour is, or is to be.
    fn place(&self, colour: u32) -> usize {
        let mut place = (colour.wrapping_mul(0x9e37_79b1) >> 23) as usize % PLACES;
        // Ends, as half of the places are free.
        while let Some(&other) = self.colours.get(usize::from(self.places[place]))
            && other != colour
        {
            place = (place + 1) % PLACES;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_numbered_as_they_appear() {
        let pixels = [5, 5, 9, 5, 0x00ff_ffff, 9];
        let view = View::new(&pixels, 3, 3, 2).unwrap();
        let mut palette = Palette::default();
        assert!(palette.collect(&view, 3));
        assert_eq!(palette.colours(), [5, 9, 0x00ff_ffff]);
        assert_eq!([9, 0x00ff_ffff, 5].map(|colour| palette.number(colour)), [1, 2, 0]);
        assert!(!palette.collect(&view, 2));
    }

    #[test]
    fn a_full_palette_knows_all_its_colours() {
        // Colours whose hashes are alike too.
        let pixels: Vec<u32> = (0..256).map(|i| i << 16 | i * i).collect();
        let view = View::new(&pixels, 256, 256, 1).unwrap();
        let mut palette = Palette::default();
        assert!(palette.collect(&view, 256));
        for (number, &colour) in pixels.iter().enumerate() {
            assert_eq!(usize::from(palette.number(colour)), number);
        }
    }
}
