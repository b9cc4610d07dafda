//! Pictures as files.

use std::io::{self, Write};

use crate::Surface;

/// How a picture is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PictureFormat {
    /// Portable pixmap, binary.
    #[default]
    Ppm,
    /// Portable network graphics.
    Png,
}

/// Why a picture could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The file.
    #[error("{}", base::report::strerror(.0))]
    Io(#[from] io::Error),
    /// The encoder.
    #[error("{0}")]
    Png(#[from] png::EncodingError),
}

impl Surface {
    /// Writes the picture.
    pub fn save(&self, format: PictureFormat, to: impl Write) -> Result<(), PictureError> {
        let bytes: Vec<u8> = self.pixels().iter().flat_map(|&pixel| rgb(pixel)).collect();
        let (width, height) = (self.width(), self.height());
        match format {
            PictureFormat::Ppm => {
                let mut to = to;
                write!(to, "P6\n{width} {height}\n255\n")?;
                to.write_all(&bytes)?;
                to.flush()?;
            }
            PictureFormat::Png => {
                let mut encoder = png::Encoder::new(to, width, height);
                encoder.set_color(png::ColorType::Rgb);
                encoder.set_depth(png::BitDepth::Eight);
                let mut writer = encoder.write_header()?;
                writer.write_image_data(&bytes)?;
                writer.finish()?;
            }
        }
        Ok(())
    }
}

fn rgb(pixel: u32) -> [u8; 3] {
    let [_, r, g, b] = pixel.to_be_bytes();
    [r, g, b]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Surface {
        let mut surface = Surface::new(2, 1);
        surface.pixels_mut().copy_from_slice(&[0x0012_3456, 0x00ff_8001]);
        surface
    }

    #[test]
    fn pixmaps_have_a_header_of_their_size() {
        let mut file = Vec::new();
        picture().save(PictureFormat::Ppm, &mut file).unwrap();
        assert_eq!(file, b"P6\n2 1\n255\n\x12\x34\x56\xff\x80\x01");
    }

    #[test]
    fn network_graphics_hold_the_same_pixels() {
        let mut file = Vec::new();
        picture().save(PictureFormat::Png, &mut file).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(file)).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut bytes).unwrap();
        assert_eq!(bytes, b"\x12\x34\x56\xff\x80\x01");
    }
}
