//! What a PC's CMOS memory tells firmware, as SeaBIOS expects it.

use hw::firmware::acpi::FloppyDrive;
use hw::storage::ide::IdeDisk;
use hw::timer::rtc::Rtc;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Memory that the 16-bit counts of kilobytes can express, from 1 MiB on.
const KILOBYTES_MAX: u64 = 0xffff;

/// Tells firmware why the processor starts anew.
pub const RESET_CODE: u8 = 0x0f;
/// In [`RESET_CODE`]: after suspend to RAM.
pub const RESUME: u8 = 0xfe;

const FLOPPY_TYPES: u8 = 0x10;
const EQUIPMENT: u8 = 0x14;
const BASE_MEMORY: u8 = 0x15;
const EXTENDED_MEMORY: u8 = 0x17;
const EXTENDED_MEMORY_AGAIN: u8 = 0x30;
const MEMORY_ABOVE_16M: u8 = 0x34;
const BOOT_THIRD: u8 = 0x38;
const BOOT_FIRST: u8 = 0x3d;
const MEMORY_ABOVE_4G: u8 = 0x5b;
const OTHER_CPUS: u8 = 0x5f;

const EQUIPMENT_FPU: u8 = 1 << 1;
const EQUIPMENT_PS2_MOUSE: u8 = 1 << 2;

/// What the memory is filled with.
pub struct CmosContent<'a> {
    /// RAM below 4 GiB.
    pub below_4g: u64,
    /// RAM above 4 GiB.
    pub above_4g: u64,
    /// Processors present at start.
    pub cpus: u32,
    /// `-boot order=`: up to three drive letters.
    pub boot_order: &'a str,
    /// Whether firmware checks a floppy's signature before it boots from it.
    pub floppy_boot_check: bool,
}

/// SeaBIOS's number of a boot device.
fn boot_device(letter: u8) -> u8 {
    match letter {
        b'a' => 1,
        b'c' => 2,
        b'd' => 3,
        b'n' => 4,
        _ => 0,
    }
}

impl CmosContent<'_> {
    /// Writes the content.
    pub fn store(&self, rtc: &mut Rtc) {
        let mut word = |index: u8, value: u64| {
            rtc.set_cmos(index, value as u8);
            rtc.set_cmos(index + 1, (value >> 8) as u8);
        };
        word(BASE_MEMORY, self.below_4g.min(640 * KIB) / KIB);
        let extended = (self.below_4g.saturating_sub(MIB) / KIB).min(KILOBYTES_MAX);
        word(EXTENDED_MEMORY, extended);
        word(EXTENDED_MEMORY_AGAIN, extended);
        let above_16m = self.below_4g.saturating_sub(16 * MIB) / (64 * KIB);
        word(MEMORY_ABOVE_16M, above_16m.min(0xffff));
        let above_4g = self.above_4g / (64 * KIB);
        word(MEMORY_ABOVE_4G, above_4g);
        rtc.set_cmos(MEMORY_ABOVE_4G + 2, (above_4g >> 16) as u8);
        rtc.set_cmos(OTHER_CPUS, self.cpus.saturating_sub(1) as u8);
        set_boot_order(rtc, self.boot_order, self.floppy_boot_check);
        rtc.set_cmos(EQUIPMENT, EQUIPMENT_FPU | EQUIPMENT_PS2_MOUSE);
    }
}

/// Tells firmware of floppy drives.
pub fn set_floppies(rtc: &mut Rtc, drives: [Option<FloppyDrive>; 2]) {
    let [first, second] = drives.map(|drive| drive.map_or(0, |drive| drive.kind));
    rtc.set_cmos(FLOPPY_TYPES, first << 4 | second);
}

/// Tells firmware of IDE disks: the geometry of those on the first channel, and how to translate each.
pub fn set_disks(rtc: &mut Rtc, disks: &[IdeDisk]) {
    /// Types of both disks, a half-byte each: look further on.
    const TYPES: u8 = 0x12;
    /// The type that says so, and where it is for each disk.
    const EXTENDED_TYPES: [u8; 2] = [0x19, 0x1a];
    const USER_DEFINED: u8 = 47;
    const PARAMETERS: [u8; 2] = [0x1b, 0x24];
    /// Two bits for each disk of both channels.
    const TRANSLATIONS: u8 = 0x39;
    /// No write precompensation; retries are off; whether there are more than eight heads.
    const NO_RETRIES: u8 = 0xc0;
    const MANY_HEADS: u8 = 1 << 3;
    let (mut types, mut translations) = (0, 0);
    for disk in disks {
        translations |= (disk.translation as u8) << (2 * (2 * disk.channel + disk.place));
        let geometry = disk.geometry;
        let places = EXTENDED_TYPES.get(disk.place).zip(PARAMETERS.get(disk.place));
        let Some((&extended, &parameters)) = places.filter(|_| disk.channel == 0) else { continue };
        types |= 0xf0 >> (4 * disk.place);
        rtc.set_cmos(extended, USER_DEFINED);
        let [low, high, ..] = geometry.cylinders.to_le_bytes();
        let control = NO_RETRIES | if geometry.heads > 8 { MANY_HEADS } else { 0 };
        let (heads, sectors) = (geometry.heads as u8, geometry.sectors as u8);
        let bytes = [low, high, heads, 0xff, 0xff, control, low, high, sectors];
        for (index, byte) in (parameters..).zip(bytes) {
            rtc.set_cmos(index, byte);
        }
    }
    rtc.set_cmos(TYPES, types);
    rtc.set_cmos(TRANSLATIONS, translations);
}

/// Tells firmware which devices to try, and whether floppies without a signature will do.
pub fn set_boot_order(rtc: &mut Rtc, order: &str, floppy_boot_check: bool) {
    let device = |n: usize| order.as_bytes().get(n).map_or(0, |&letter| boot_device(letter));
    rtc.set_cmos(BOOT_FIRST, device(1) << 4 | device(0));
    rtc.set_cmos(BOOT_THIRD, device(2) << 4 | u8::from(!floppy_boot_check));
}
