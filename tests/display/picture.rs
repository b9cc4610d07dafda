//! Pictures as `screendump` writes them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A rectangle of pixels: column, row, width, height.
pub type Rect = (usize, usize, usize, usize);

/// A picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// Reads a portable pixmap.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path)?;
        let mut parts = bytes.splitn(4, |byte| *byte == b'\n');
        let mut line = || parts.next().context("no pixmap");
        ensure!(line()? == b"P6", "no binary pixmap");
        let size = String::from_utf8_lossy(line()?).into_owned();
        ensure!(line()? == b"255", "levels are no bytes");
        let (width, height) = size.split_once(' ').context("no size")?;
        let (width, height) = (width.parse()?, height.parse()?);
        let pixels = line()?.as_chunks().0.to_vec();
        ensure!(pixels.len() == width * height, "cut short");
        Ok(Picture { width, height, pixels })
    }

    /// Writes one.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut bytes = format!("P6\n{} {}\n255\n", self.width, self.height).into_bytes();
        bytes.extend(self.pixels.as_flattened());
        Ok(fs::write(path, bytes)?)
    }

    /// Whether nothing is on it.
    pub fn is_black(&self) -> bool {
        self.pixels.iter().all(|pixel| *pixel == [0; 3])
    }

    /// Covers a part.
    pub fn blacken(&mut self, &(x, y, width, height): &Rect) {
        for row in self.pixels.chunks_mut(self.width).skip(y).take(height) {
            let columns = x.min(row.len())..(x + width).min(row.len());
            row[columns].fill([0; 3]);
        }
    }

    /// Which characters are not blank, if it consists of them.
    pub fn characters(&self) -> Vec<bool> {
        let (columns, rows) = (self.width / 8, self.height / 16);
        let mut characters = vec![false; columns * rows];
        for (n, pixel) in self.pixels.iter().enumerate() {
            let (x, y) = (n % self.width / 8, n / self.width / 16);
            if *pixel != [0; 3] && x < columns && y < rows {
                characters[y * columns + x] = true;
            }
        }
        characters
    }

    /// How many pixels differ; all, if the size does.
    pub fn differences(&self, other: &Picture) -> usize {
        if (self.width, self.height) != (other.width, other.height) {
            return self.pixels.len();
        }
        self.pixels.iter().zip(&other.pixels).filter(|(a, b)| a != b).count()
    }

    /// In words.
    pub fn compare(&self, wanted: &Picture) -> String {
        let first = self.pixels.iter().zip(&wanted.pixels).position(|(a, b)| a != b).unwrap_or(0);
        let (x, y) = (first % self.width.max(1), first / self.width.max(1));
        format!(
            "{}x{} instead of {}x{}, {} pixels differ, the first at {x}, {y}",
            self.width,
            self.height,
            wanted.width,
            wanted.height,
            self.differences(wanted)
        )
    }
}
