//! What a monitor says about itself (VESA Enhanced EDID Standard, release A, revision 2, with the
//! extension blocks of CTA-861 and DisplayID 1.3). The monitor is QEMU's, byte for byte.

const BLOCK: usize = 128;
/// Room for the base block and two extensions; what is not used is zero.
const SIZE: usize = 3 * BLOCK;

/// Pixels in ten inches: the resolution of the imagined screen.
const PIXELS_PER_10_INCHES: u32 = 1000;
/// In thousandths of a Hertz, unless told otherwise.
const USUAL_REFRESH_RATE: u32 = 75_000;
const USUAL_SIZE: (u32, u32) = (1280, 800);

/// Descriptors of the base block, each of 18 bytes.
const DESCRIPTORS: usize = 4;
const DESCRIPTOR: usize = 18;
const FIRST_DESCRIPTOR: usize = 54;
/// Kinds of descriptors that are no timings.
mod tag {
    pub const NAME: u8 = 0xfc;
    pub const LIMITS: u8 = 0xfd;
    pub const ESTABLISHED_3: u8 = 0xf7;
    pub const DUMMY: u8 = 0x10;
}

/// Sizes that established timings stand for, and the bit of each: byte of the block, bit.
const ESTABLISHED: [(u32, u32, usize, u8); 3] =
    [(640, 480, 35, 5), (800, 600, 35, 0), (1024, 768, 36, 3)];

/// A bit of a descriptor, if there is one: byte, bit.
type Bit = Option<(usize, u8)>;

/// Other sizes in order of preference; those that have no more room among the standard timings are
/// told of by a bit of the descriptor of established timings III, if there is one.
const OTHERS: [(u32, u32, Bit); 14] = [
    (2048, 1152, None),
    (1920, 1080, None),
    (1920, 1200, None),
    (1600, 1200, None),
    (1680, 1050, None),
    (1440, 900, None),
    (1280, 1024, None),
    (1280, 960, None),
    (1280, 768, Some((7, 6))),
    (1920, 1440, Some((11, 5))),
    (1856, 1392, Some((10, 3))),
    (1792, 1344, Some((10, 5))),
    (1360, 768, Some((8, 7))),
    (1400, 1050, Some((8, 1))),
];

/// Standard timings: where they are, and what an unused one is.
const STANDARD: std::ops::Range<usize> = 38..54;
const NO_STANDARD: [u8; 2] = [1, 1];

/// Sizes of video formats of CTA-861, and their numbers.
const VIDEO_FORMATS: [(u32, u32, u8); 6] = [
    (5120, 2160, 125),
    (4096, 2160, 101),
    (3840, 2160, 96),
    (2560, 1080, 89),
    (1920, 1080, 31),
    (3840, 2160, 97),
];

/// A monitor.
#[derive(Clone, Debug, Default)]
pub struct Edid {
    /// The width that it prefers; the usual one if zero.
    pub width: u32,
    /// The height that it prefers; the usual one if zero.
    pub height: u32,
    /// The largest width that it shows; any if zero.
    pub max_width: u32,
    /// The largest height that it shows; any if zero.
    pub max_height: u32,
    /// In thousandths of a Hertz; the usual one if zero.
    pub refresh_rate: u32,
    /// Size of the screen in millimetres, if it is known.
    pub millimetres: Option<(u32, u32)>,
}

/// The timing of the preferred size. Blanking is a fixed share of what is shown.
struct Timing {
    active: (u32, u32),
    front: (u32, u32),
    sync: (u32, u32),
    blank: (u32, u32),
    /// In 10 kHz.
    clock: u32,
}

impl Timing {
    fn new((width, height): (u32, u32), refresh_rate: u32) -> Self {
        let blank = (width * 35 / 100, height * 35 / 1000);
        let dots = u64::from(width + blank.0) * u64::from(height + blank.1);
        Timing {
            active: (width, height),
            front: (width * 25 / 100, height * 5 / 1000),
            sync: (width * 3 / 100, height * 5 / 1000),
            blank,
            clock: (dots * u64::from(refresh_rate) / 10_000_000).min(u32::MAX.into()) as u32,
        }
    }

    /// Whether it is too large for a detailed timing of the base block.
    fn is_large(&self) -> bool {
        self.active.0 > 4095 || self.active.1 > 4095 || self.clock > 0xffff
    }
}

impl Edid {
    /// The size that it prefers.
    pub fn size(&self) -> (u32, u32) {
        let or = |value: u32, usual| if value == 0 { usual } else { value.min(u16::MAX.into()) };
        (or(self.width, USUAL_SIZE.0), or(self.height, USUAL_SIZE.1))
    }

    fn millimetres(&self) -> (u32, u32) {
        let (width, height) = self.size();
        let length = |pixels: u32| pixels * 254 / PIXELS_PER_10_INCHES;
        self.millimetres.unwrap_or((length(width), length(height)))
    }

    fn shows(&self, width: u32, height: u32) -> bool {
        let within = |value, max| max == 0 || value <= max;
        within(width, self.max_width) && within(height, self.max_height)
    }

    /// Its description.
    pub fn bytes(&self) -> Vec<u8> {
        let refresh_rate = match self.refresh_rate {
            0 => USUAL_REFRESH_RATE,
            rate => rate,
        };
        let timing = Timing::new(self.size(), refresh_rate);
        let mut bytes = self.base(&timing).to_vec();
        bytes.extend(self.video_formats());
        if timing.is_large() {
            bytes.extend(display_id(&timing));
        }
        bytes.resize(SIZE, 0);
        bytes
    }

    fn base(&self, timing: &Timing) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
        // RHT, product 1234h, week 42 of 2014, version 1.4.
        block[8..10].copy_from_slice(&[0x49, 0x14]);
        block[10..12].copy_from_slice(&0x1234_u16.to_le_bytes());
        block[16..20].copy_from_slice(&[42, 24, 1, 4]);
        // Digital, 8 bits a colour, DisplayPort.
        block[20] = 0xa5;
        let (width, height) = self.millimetres();
        block[21] = (width / 10).min(255) as u8;
        block[22] = (height / 10).min(255) as u8;
        // Gamma 2.2; sRGB, the first timing is the preferred one; primaries and white of sRGB.
        block[23..25].copy_from_slice(&[0x78, 0x06]);
        block[25..35]
            .copy_from_slice(&[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
        for (width, height, byte, bit) in ESTABLISHED {
            if self.shows(width, height) {
                block[byte] |= 1 << bit;
            }
        }
        let established_3 = self.other_sizes(&mut block);
        let mut descriptors = Vec::new();
        if !timing.is_large() {
            descriptors.push(detailed(timing, self.millimetres()));
        }
        descriptors.push(established_3);
        // 50 to 125 Hz, 30 to 160 kHz, to 2550 MHz; range limits only.
        descriptors.push(described(tag::LIMITS, &[50, 125, 30, 160, 255, 1], true));
        descriptors.push(described(tag::NAME, b"QEMU Monitor", true));
        descriptors.resize(DESCRIPTORS, described(tag::DUMMY, &[], false));
        for (at, descriptor) in block[FIRST_DESCRIPTOR..].chunks_mut(DESCRIPTOR).zip(descriptors) {
            at.copy_from_slice(&descriptor);
        }
        block[126] = if timing.is_large() { 2 } else { 1 };
        finish(&mut block);
        block
    }

    /// Fills the standard timings; returns the descriptor of established timings III.
    fn other_sizes(&self, block: &mut [u8; BLOCK]) -> [u8; DESCRIPTOR] {
        let mut full = false;
        // Revision 10 of the descriptor's own list.
        let mut third = described(tag::ESTABLISHED_3, &[10], false);
        let mut standard = Vec::new();
        for (width, height, bit) in OTHERS {
            if !self.shows(width, height) {
                continue;
            }
            full |= standard.len() == STANDARD.len() / 2;
            if !full {
                standard.extend(standard_timing(width, height));
            } else if let Some((byte, bit)) = bit {
                third[byte] |= 1 << bit;
            }
        }
        standard.resize(STANDARD.len() / 2, NO_STANDARD);
        for (slot, timing) in block[STANDARD].chunks_mut(2).zip(standard) {
            slot.copy_from_slice(&timing);
        }
        third
    }

    /// The CTA-861 extension: a list of video formats.
    fn video_formats(&self) -> [u8; BLOCK] {
        const REVISION: u8 = 3;
        const VIDEO: u8 = 2 << 5;
        let numbers: Vec<u8> = VIDEO_FORMATS
            .into_iter()
            .filter(|(width, height, _)| self.shows(*width, *height))
            .map(|(_, _, number)| number)
            .collect();
        let mut block = [0; BLOCK];
        let end = 5 + numbers.len();
        block[..5].copy_from_slice(&[2, REVISION, end as u8, 0, VIDEO | numbers.len() as u8]);
        block[5..end].copy_from_slice(&numbers);
        for at in block[end..BLOCK - 1].chunks_exact_mut(DESCRIPTOR) {
            at.copy_from_slice(&described(tag::DUMMY, &[], false));
        }
        finish(&mut block);
        block
    }
}

/// A size at 60 Hz as a standard timing, if it can be one.
fn standard_timing(width: u32, height: u32) -> Option<[u8; 2]> {
    const ASPECTS: [(u32, u32); 4] = [(16, 10), (4, 3), (5, 4), (16, 9)];
    let aspect = ASPECTS.iter().position(|(across, down)| width * down == height * across)?;
    width.is_multiple_of(16).then(|| [(width / 8 - 31) as u8, (aspect as u8) << 6])
}

/// A descriptor that is no timing.
fn described(tag: u8, content: &[u8], is_text: bool) -> [u8; DESCRIPTOR] {
    let mut bytes = [0; DESCRIPTOR];
    bytes[3] = tag;
    let room = &mut bytes[5..];
    if is_text {
        room.fill(b' ');
        room[content.len()] = b'\n';
    }
    room[..content.len()].copy_from_slice(content);
    bytes
}

/// A detailed timing.
fn detailed(timing: &Timing, millimetres: (u32, u32)) -> [u8; DESCRIPTOR] {
    const SEPARATE_SYNC: u8 = 0x18;
    let high = |a: u32, b: u32| (a >> 4 & 0xf0 | b >> 8 & 0x0f) as u8;
    let [clock, clock_high, ..] = timing.clock.to_le_bytes();
    let Timing { active, blank, front, sync, .. } = timing;
    [
        clock,
        clock_high,
        active.0 as u8,
        blank.0 as u8,
        high(active.0, blank.0),
        active.1 as u8,
        blank.1 as u8,
        high(active.1, blank.1),
        front.0 as u8,
        sync.0 as u8,
        ((front.1 & 15) << 4 | sync.1 & 15) as u8,
        ((front.0 >> 8 & 3) << 6
            | (sync.0 >> 8 & 3) << 4
            | (front.1 >> 4 & 3) << 2
            | sync.1 >> 4 & 3) as u8,
        millimetres.0 as u8,
        millimetres.1 as u8,
        high(millimetres.0, millimetres.1),
        0,
        0,
        SEPARATE_SYNC,
    ]
}

/// The DisplayID extension, with the timing of a size that the base block has no room for.
fn display_id(timing: &Timing) -> [u8; BLOCK] {
    const EXTENSION: u8 = 0x70;
    const VERSION_1_3: u8 = 0x13;
    const DESKTOP_MONITOR: u8 = 3;
    const TYPE_1_TIMING: u8 = 3;
    const TIMING_LEN: u8 = 20;
    /// Preferred; 16:9 or so.
    const OPTIONS: u8 = 0x88;
    let section = TIMING_LEN + 3;
    let mut content = vec![VERSION_1_3, section, DESKTOP_MONITOR, 0, TYPE_1_TIMING, 0, TIMING_LEN];
    content.extend(&timing.clock.to_le_bytes()[..3]);
    content.push(OPTIONS);
    let Timing { active, blank, front, sync, .. } = timing;
    let across = [active.0, blank.0, front.0, sync.0];
    let down = [active.1, blank.1, front.1, sync.1];
    for value in across.into_iter().chain(down) {
        content.extend((value.saturating_sub(1) as u16).to_le_bytes());
    }
    content.push(checksum(&content));
    let mut block = [0; BLOCK];
    block[0] = EXTENSION;
    block[1..=content.len()].copy_from_slice(&content);
    finish(&mut block);
    block
}

/// What makes the sum of the bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

fn finish(block: &mut [u8; BLOCK]) {
    block[BLOCK - 1] = checksum(&block[..BLOCK - 1]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums_are_zero(bytes: &[u8]) {
        for block in bytes.chunks(BLOCK) {
            assert_eq!(block.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        }
    }

    /// As QEMU 10.0's VGA says without any properties.
    #[test]
    fn the_usual_monitor() {
        let bytes = Edid::default().bytes();
        sums_are_zero(&bytes);
        assert_eq!(bytes.len(), 384);
        let preferred = [
            0xea, 0x29, 0x00, 0xc0, 0x51, 0x20, 0x1c, 0x30, 0x40, 0x26, 0x44, 0x40, 0x45, 0xcb,
            0x10, 0x00, 0x00, 0x18,
        ];
        assert_eq!(bytes[54..72], preferred);
        let standard = [
            0xe1, 0xc0, 0xd1, 0xc0, 0xd1, 0x00, 0xa9, 0x40, 0xb3, 0x00, 0x95, 0x00, 0x81, 0x80,
            0x81, 0x40,
        ];
        assert_eq!(bytes[35..38], [0x21, 0x08, 0x00]);
        assert_eq!(bytes[STANDARD], standard);
        assert_eq!(bytes[72..84], [0, 0, 0, 0xf7, 0, 0x0a, 0, 0x40, 0x82, 0, 0x28, 0x20]);
        assert_eq!(bytes[126..128], [1, 0x3a]);
        assert_eq!(bytes[128..140], [2, 3, 11, 0, 0x46, 125, 101, 96, 89, 31, 97, 0]);
        assert_eq!(bytes[255], 0x2f);
        assert!(bytes[256..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn limits_leave_sizes_out() {
        let edid = Edid { max_width: 1920, max_height: 1440, ..Edid::default() };
        let bytes = edid.bytes();
        sums_are_zero(&bytes);
        assert_eq!(bytes[52..54], [0xd1, 0x40], "1920x1440 has found room");
        assert_eq!(bytes[77..84], [0x0a, 0, 0, 0x82, 0, 0x28, 0]);
        assert_eq!(bytes[128..134], [2, 3, 6, 0, 0x41, 31]);
        let small = Edid { max_width: 800, max_height: 600, width: 640, height: 480, ..edid };
        assert_eq!(small.bytes()[35..38], [0x21, 0, 0]);
        assert_eq!(small.bytes()[STANDARD], [1; 16]);
    }

    #[test]
    fn what_is_too_large_for_the_base_block_has_an_extension() {
        let bytes = Edid { width: 3840, height: 2160, ..Edid::default() }.bytes();
        sums_are_zero(&bytes);
        assert_eq!(bytes[54..58], [0, 0, 0, 0xf7]);
        assert_eq!(bytes[108..112], [0, 0, 0, 0x10]);
        let timing = [
            0x70, 0x13, 0x17, 0x03, 0x00, 0x03, 0x00, 0x14, 0x70, 0x53, 0x01, 0x88, 0xff, 0x0e,
            0x3f, 0x05, 0xbf, 0x03, 0x72, 0x00, 0x6f, 0x08, 0x4a, 0x00, 0x09, 0x00, 0x09, 0x00,
            0x18,
        ];
        assert_eq!(bytes[256..285], timing);
    }

    #[test]
    fn the_refresh_rate_sets_the_clock() {
        let bytes = Edid { refresh_rate: 59_940, ..Edid::default() }.bytes();
        assert_eq!(bytes[54..56], [0x80, 0x21]);
        // Absurd ones stay within their fields.
        sums_are_zero(&Edid { refresh_rate: u32::MAX, width: 65535, ..Edid::default() }.bytes());
    }
}
