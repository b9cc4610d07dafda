//! What devices say of themselves: the data of IDENTIFY DEVICE and IDENTIFY PACKET DEVICE
//! (ATA8-ACS, 7.16 and 7.17; CompactFlash 4.1, 6.2.1.6). Words as QEMU 10.0 gives them, so that a
//! guest that was installed there finds the same disk.

use super::drive::{Config, DriveState};
use super::spec::MAX_MULTIPLE;

/// 256 words being filled.
struct Words([u16; 256]);

impl Words {
    fn new() -> Self {
        Words([0; 256])
    }

    /// Some words in a row.
    fn set(&mut self, at: usize, words: &[u16]) {
        for (place, &word) in self.0[at..].iter_mut().zip(words) {
            *place = word;
        }
    }

    /// Text, two letters to a word, the first in the high half; padded with spaces.
    fn text(&mut self, at: usize, words: usize, text: &str) {
        let mut letters = text.bytes().chain(std::iter::repeat(b' '));
        for place in &mut self.0[at..at + words] {
            let mut letter = || u16::from(letters.next().unwrap_or(b' '));
            *place = letter() << 8 | letter();
        }
    }

    fn names(&mut self, cfg: &Config) {
        self.text(10, 10, &cfg.serial);
        self.text(23, 4, &cfg.version);
        self.text(27, 20, &cfg.model);
    }

    /// World wide name.
    fn wwn(&mut self, wwn: u64) {
        self.set(108, &[(wwn >> 48) as u16, (wwn >> 32) as u16, (wwn >> 16) as u16, wwn as u16]);
    }

    fn finish(self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

fn low_high(number: u32) -> [u16; 2] {
    [number as u16, (number >> 16) as u16]
}

/// Sectors as far as 28 bits can count them.
fn narrow(sectors: u64) -> u32 {
    sectors.min((1 << 28) - 1) as u32
}

/// Transfer modes selected by SET FEATURES, as words 62, 63 and 88 show them.
mod mode {
    pub const SINGLE_WORD: u8 = 0x10;
    pub const MULTI_WORD: u8 = 0x20;
    pub const ULTRA: u8 = 0x40;
}

/// Words 62, 63 and 88.
fn modes(selected: u8) -> [u16; 3] {
    let [mut single, mut multi, mut ultra] = [0x07, 0x07, 0x3f];
    let bit = 0x100u16 << (selected & 7);
    match selected & !7 {
        mode::SINGLE_WORD => single |= bit,
        mode::MULTI_WORD => multi |= bit,
        mode::ULTRA => ultra |= bit,
        _ => {}
    }
    [single, multi, ultra]
}

/// The data of a disk that holds so many sectors.
pub fn disk(cfg: &Config, st: &DriveState, sectors: u64) -> Vec<u8> {
    let mut words = Words::new();
    let geometry = cfg.geometry;
    let (cylinders, heads, track) =
        (geometry.cylinders as u16, geometry.heads as u16, geometry.sectors as u16);
    words.set(0, &[0x0040, cylinders, 0, heads]);
    words.set(4, &[track.wrapping_mul(512), 512, track]);
    words.names(cfg);
    words.set(20, &[3, 512, 4]);
    words.set(47, &[0x8000 | u16::from(MAX_MULTIPLE), 1]);
    // DMA and linear addresses; IORDY may be disabled.
    words.set(49, &[0x0b00]);
    words.set(51, &[0x200, 0x200, 7]);
    words.set(54, &[cylinders, heads, track]);
    words.set(57, &low_high(geometry.cylinders * geometry.heads * geometry.sectors));
    words.set(59, &[0x100 | u16::from(MAX_MULTIPLE)]);
    words.set(60, &low_high(narrow(sectors)));
    let [single, multi, ultra] = modes(st.transfer_mode());
    words.set(62, &[single, multi, 3, 120, 120, 120, 120]);
    if cfg.trim {
        // Ranges that were trimmed read as they like.
        words.set(69, &[1 << 14]);
        words.set(169, &[1]);
    }
    // ATA/ATAPI-4 to 7, in the words of ATA/ATAPI-6 T13 1410D.
    words.set(80, &[0xf0, 0x16]);
    let named = if cfg.wwn != 0 { 1 << 8 } else { 0 };
    let write_cache = if st.write_cache() { 1 << 5 } else { 0 };
    words.set(82, &[0x4021, 0x7400, 0x4000 | named]);
    words.set(85, &[0x4001 | write_cache, 0x3400, 0x4000 | named, ultra]);
    words.set(93, &[0x6001]);
    words.set(100, &low_high(sectors as u32));
    words.set(102, &low_high((sectors >> 32) as u32));
    words.set(106, &[0x6000 | u16::from(cfg.physical_block_exponent)]);
    words.wwn(cfg.wwn);
    words.set(217, &[cfg.rotation_rate]);
    words.finish()
}

/// The data of a card that holds so many sectors.
pub fn compact_flash(cfg: &Config, sectors: u64) -> Vec<u8> {
    let mut words = Words::new();
    let geometry = cfg.geometry;
    let (cylinders, heads, track) =
        (geometry.cylinders as u16, geometry.heads as u16, geometry.sectors as u16);
    let size = narrow(sectors);
    words.set(0, &[0x848a, cylinders, 0, heads]);
    words.set(6, &[track]);
    // Here the high half comes first.
    words.set(7, &[(size >> 16) as u16, size as u16]);
    words.names(cfg);
    words.set(22, &[4]);
    words.set(47, &[0x8000 | u16::from(MAX_MULTIPLE), 0, 0x0f00]);
    words.set(51, &[2, 1, 3]);
    words.set(54, &[cylinders, heads, track]);
    words.set(57, &low_high(geometry.cylinders * geometry.heads * geometry.sectors));
    words.set(60, &low_high(size));
    words.set(63, &[0x0203, 0x0001, 150, 150, 0, 180]);
    words.set(82, &[0x400c, 0x7068, 0x4000, 0x000c, 0x7044, 0x4000]);
    words.set(91, &[0x4060]);
    words.set(129, &[0x0002, 0x0005, 0x0001]);
    words.set(160, &[0x8100, 0x8001]);
    words.finish()
}

/// The data of a CD drive.
pub fn cdrom(cfg: &Config) -> Vec<u8> {
    let mut words = Words::new();
    // Removable, packets of 12 bytes, data at once.
    words.set(0, &[0x85c0]);
    words.names(cfg);
    words.set(20, &[3, 512, 4]);
    words.set(48, &[1, 0x0300]);
    words.set(53, &[7]);
    words.set(62, &[7, 7, 3, 180, 180, 300, 180]);
    words.set(71, &[30, 30]);
    words.set(80, &[0x1e]);
    words.set(88, &[0x203f]);
    words.set(87, &[if cfg.wwn != 0 { 1 << 8 } else { 0 }]);
    words.wwn(cfg.wwn);
    words.finish()
}
