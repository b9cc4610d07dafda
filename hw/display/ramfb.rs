//! A frame buffer in the guest's own RAM: firmware says where it is through a file of the
//! configuration device (QEMU's "ramfb" and its file `etc/ramfb`).

use std::sync::Arc;

use base::device::{AnyDevice, Shared};
use base::memory::Dma;
use base::props::Props;
use parking_lot::Mutex;
use ui::{Adapter, Damage, Surface, text};

use super::pixels::{Order, rgb16, rgb24, rgb32};
use crate::firmware::fw_cfg::{FileHooks, FwCfg, FwCfgError};
use crate::pci::rom::{self, RomError, RomFiles};

const FILE: &str = "etc/ramfb";
/// Address, format, flags, width, height, bytes from row to row; big-endian.
const LEN: usize = 28;
const ROM: &str = "vgabios-ramfb.bin";
/// Smallest and largest sides.
const SIDES: std::ops::RangeInclusive<u32> = 16..=16384;

/// Properties of `ramfb`.
#[derive(Debug, Props)]
pub struct RamfbProps {
    /// Has no effect: all state is saved.
    #[prop(name = "x-migrate", default = true)]
    pub migrate: bool,
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum RamfbError {
    /// Its file.
    #[error(transparent)]
    FwCfg(#[from] FwCfgError),
    /// Its ROM.
    #[error(transparent)]
    Rom(#[from] RomError),
}

/// How pixels lie, by the codes that Linux's DRM has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Rgb16,
    Rgb24,
    Rgb32,
}

impl Format {
    fn from_code(code: u32) -> Option<Self> {
        match &code.to_le_bytes() {
            b"RG16" => Some(Format::Rgb16),
            b"RG24" => Some(Format::Rgb24),
            b"XR24" | b"AR24" => Some(Format::Rgb32),
            _ => None,
        }
    }

    fn bytes(self) -> u32 {
        match self {
            Format::Rgb16 => 2,
            Format::Rgb24 => 3,
            Format::Rgb32 => 4,
        }
    }
}

/// What the guest has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    address: u64,
    format: Format,
    width: u32,
    height: u32,
    pitch: u32,
}

fn parse(bytes: &[u8]) -> Option<Frame> {
    let address = u64::from_be_bytes(*bytes.first_chunk()?);
    let mut rest = bytes.get(8..LEN)?.as_chunks().0.iter().map(|word| u32::from_be_bytes(*word));
    let format = Format::from_code(rest.next()?)?;
    let _flags = rest.next()?;
    let (width, height, pitch) = (rest.next()?, rest.next()?, rest.next()?);
    if !SIDES.contains(&width) || !SIDES.contains(&height) {
        base::guest_error!("ramfb of {width}x{height}");
        return None;
    }
    let row = width * format.bytes();
    let pitch = if pitch == 0 { row } else { pitch };
    (pitch >= row).then_some(Frame { address, format, width, height, pitch })
}

#[derive(Default)]
struct Drawn {
    last: Option<Frame>,
    bytes: Vec<u8>,
    row: Vec<u32>,
}

/// The device.
pub struct Ramfb {
    memory: Dma,
    fw_cfg: Shared<FwCfg>,
    shown: Arc<Mutex<Option<Frame>>>,
    drawn: Mutex<Drawn>,
}

impl Ramfb {
    /// The device with its file, and its ROM among firmware's.
    pub fn create(
        memory: Dma,
        fw_cfg: &Shared<FwCfg>,
        roms: &dyn RomFiles,
    ) -> Result<Arc<Self>, RamfbError> {
        let shown = Arc::<Mutex<Option<Frame>>>::default();
        let told = shown.clone();
        let written = Box::new(move |bytes: &[u8]| *told.lock() = parse(bytes));
        let hooks = FileHooks { written: Some(written), refresh: None };
        rom::give_to_firmware(ROM, true, roms)?;
        fw_cfg.lock().add_file(FILE, vec![0; LEN], hooks)?;
        let drawn = Mutex::default();
        Ok(Arc::new(Ramfb { memory, fw_cfg: fw_cfg.clone(), shown, drawn }))
    }
}

impl AnyDevice for Ramfb {
    fn reset(&self) {
        *self.shown.lock() = None;
        // The file exists: it was made with the device.
        let _ = self.fw_cfg.lock().set_file(FILE, vec![0; LEN]);
    }
}

/// Rows are compared rather than watched: the frame may lie anywhere in RAM, and is there for the
/// short life of firmware.
impl Adapter for Ramfb {
    fn refresh(&self, surface: &mut Surface, full: bool) -> Damage {
        let frame = *self.shown.lock();
        let Drawn { last, bytes, row } = &mut *self.drawn.lock();
        let full = full || *last != frame;
        *last = frame;
        let Some(Frame { address, format, width, height, pitch }) = frame else {
            return match full {
                true => text::notice(surface, text::NOT_INITIALIZED),
                false => Damage::default(),
            };
        };
        let resized = surface.resize(width, height);
        let full = full || resized;
        let mut damage = Damage { resized, rects: Vec::new() };
        bytes.resize((width * format.bytes()) as usize, 0);
        row.resize(width as usize, 0);
        for y in 0..height {
            let at = address.wrapping_add(u64::from(y) * u64::from(pitch));
            self.memory.read(at, bytes);
            match format {
                Format::Rgb16 => rgb16(bytes, false, row),
                Format::Rgb24 => rgb24(bytes, false, row),
                Format::Rgb32 => rgb32(bytes, Order::Bgrx, row),
            }
            let shown = surface.row_mut(y);
            if full || shown != &**row {
                shown.copy_from_slice(row);
                damage.add_rows(y, 1, width);
            }
        }
        damage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::memory::{AddressSpace, RamBlock, Region};

    fn told(code: &[u8; 4], width: u32, height: u32, pitch: u32) -> Vec<u8> {
        let mut bytes = 0x1000_u64.to_be_bytes().to_vec();
        for word in [u32::from_le_bytes(*code), 0, width, height, pitch] {
            bytes.extend(word.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn nonsense_shows_nothing() {
        assert!(parse(&told(b"XR24", 640, 480, 0)).is_some());
        for nonsense in [
            told(b"NV12", 640, 480, 0),
            told(b"XR24", 0, 480, 0),
            told(b"XR24", 640, u32::MAX, 0),
            told(b"XR24", 640, 480, 100),
            vec![0; LEN],
            Vec::new(),
        ] {
            assert_eq!(parse(&nonsense), None);
        }
    }

    #[test]
    fn rows_that_changed_are_drawn() {
        let ram = Arc::new(RamBlock::anonymous("ram", 0x10000).unwrap());
        let space = AddressSpace::new("memory", Region::ram(ram.clone()));
        let dma = Dma::new(space);
        let fw_cfg = FwCfg::create(dma.clone()).0;
        let shown = Arc::new(Mutex::new(parse(&told(b"XR24", 16, 16, 128))));
        let ramfb = Ramfb { memory: dma, fw_cfg, shown, drawn: Mutex::default() };
        let mut surface = Surface::default();
        assert!(ramfb.refresh(&mut surface, false).resized);
        assert!(ramfb.refresh(&mut surface, false).is_empty());
        ram.write(0x1000 + 3 * 128 + 4, &[1, 2, 3, 0xff]);
        let damage = ramfb.refresh(&mut surface, false);
        assert_eq!(damage.rects, [ui::Rect::new(0, 3, 16, 1)]);
        assert_eq!(surface.row(3)[1], 0x030201);
    }
}
