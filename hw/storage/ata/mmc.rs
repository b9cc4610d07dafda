//! The commands of CD and DVD drives (MMC-5; SPC-3 for those that all SCSI devices have; SFF-8020i).
//! Answers as QEMU 10.0 gives them, where those leave a choice.

use base::state::State;

use super::drive::Drive;
use super::packet::PACKET;

/// Bytes of a block.
pub const BLOCK: usize = 2048;
/// Bytes of a block with all that is around it on a disc.
pub const RAW_BLOCK: usize = 2352;
/// Frames of a second, and how many come before the first block.
const FRAMES: u64 = 75;
const LEAD_IN: u64 = 150;
/// More blocks than that are on no CD: the medium is a DVD.
const MAX_CD_BLOCKS: u64 = 80 * 60 * FRAMES;

/// Why a command failed: sense key and additional code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
pub struct Sense {
    pub(super) key: u8,
    code: u8,
}

/// Reasons that there are.
pub mod sense {
    use super::Sense;

    pub const NONE: Sense = Sense { key: 0, code: 0 };
    pub const NO_MEDIUM: Sense = Sense { key: 2, code: 0x3a };
    pub const READ_ERROR: Sense = Sense { key: 3, code: 0x11 };
    pub const INVALID_COMMAND: Sense = Sense { key: 5, code: 0x20 };
    pub const OUT_OF_RANGE: Sense = Sense { key: 5, code: 0x21 };
    pub const INVALID_FIELD: Sense = Sense { key: 5, code: 0x24 };
    pub const INCOMPATIBLE_MEDIUM: Sense = Sense { key: 5, code: 0x30 };
    pub const NO_SAVED_PAGES: Sense = Sense { key: 5, code: 0x39 };
    pub const MEDIUM_CHANGED: Sense = Sense { key: 6, code: 0x28 };
    /// Locked with a medium inside, and without.
    pub const LOCKED: Sense = Sense { key: 2, code: 0x53 };
    pub const LOCKED_EMPTY: Sense = Sense { key: 5, code: 0x53 };
}

/// What the guest does not know yet of a change of the medium. It is told in two steps, since there are
/// guests that must have seen an empty drive in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
pub enum Change {
    /// Nothing.
    #[default]
    Told,
    /// That there was none.
    Removed,
    /// That there is another.
    Inserted,
}

type Packet = [u8; PACKET];

/// A command and what must be so for it to run.
struct Command {
    code: u8,
    /// It needs a medium.
    medium: bool,
    /// It transfers data.
    data: bool,
    /// It runs although the guest has something to be told.
    always: bool,
    run: fn(&mut Drive, &Packet),
}

const MEDIUM: u8 = 1;
const DATA: u8 = 2;
const ALWAYS: u8 = 4;

const fn command(code: u8, needs: u8, run: fn(&mut Drive, &Packet)) -> Command {
    Command {
        code,
        medium: needs & MEDIUM != 0,
        data: needs & DATA != 0,
        always: needs & ALWAYS != 0,
        run,
    }
}

const COMMANDS: [Command; 18] = [
    command(0x00, MEDIUM, |drive, _| drive.packet_done()),
    command(0x03, DATA | ALWAYS, Drive::request_sense),
    command(0x12, DATA | ALWAYS, Drive::inquiry),
    command(0x1b, 0, Drive::start_stop),
    command(0x1e, 0, Drive::prevent_removal),
    command(0x25, MEDIUM | DATA, Drive::read_capacity),
    command(0x28, MEDIUM | DATA, |drive, packet| {
        drive.read_medium(be32(packet, 2), be16(packet, 7).into());
    }),
    command(0x2b, MEDIUM, Drive::seek),
    command(0x43, MEDIUM | DATA, Drive::read_toc),
    command(0x46, DATA | ALWAYS, Drive::get_configuration),
    command(0x4a, DATA | ALWAYS, Drive::get_event_status),
    command(0x51, MEDIUM | DATA, Drive::read_disc_information),
    command(0x5a, DATA, Drive::mode_sense),
    command(0xa8, MEDIUM | DATA, |drive, packet| {
        drive.read_medium(be32(packet, 2), be32(packet, 6));
    }),
    command(0xad, MEDIUM | DATA, Drive::read_dvd_structure),
    // There is but one speed.
    command(0xbb, 0, |drive, _| drive.packet_done()),
    command(0xbd, DATA, Drive::mechanism_status),
    command(0xbe, MEDIUM | DATA, Drive::read_cd),
];

fn be16(packet: &Packet, at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn be32(packet: &Packet, at: usize) -> u32 {
    u32::from(be16(packet, at)) << 16 | u32::from(be16(packet, at + 2))
}

/// Minute, second and frame of a block; what does not fit is cut off.
fn msf(block: u64) -> [u8; 3] {
    let frames = block.wrapping_add(LEAD_IN);
    let seconds = frames / FRAMES;
    [(seconds / 60) as u8, (seconds % 60) as u8, (frames % FRAMES) as u8]
}

/// A block's address in a table of contents.
fn toc_address(block: u64, by_time: bool) -> [u8; 4] {
    if by_time {
        let [minute, second, frame] = msf(block);
        [0, minute, second, frame]
    } else {
        (block as u32).to_be_bytes()
    }
}

/// Appends a block with synchronisation, header (ECMA-130, 14 and 16: mode 1) and room for the codes
/// that nobody checks.
pub fn raw_block(number: u64, data: &[u8], to: &mut Vec<u8>) {
    let start = to.len();
    to.push(0);
    to.extend([0xff; 10]);
    to.push(0);
    to.extend(msf(number).map(|value| value / 10 << 4 | value % 10));
    to.push(1);
    to.extend(data);
    to.resize(start + RAW_BLOCK, 0);
}

/// Profiles of media.
mod profile {
    pub const NONE: u16 = 0;
    pub const CD_ROM: u16 = 0x08;
    pub const DVD_ROM: u16 = 0x10;
}

impl Drive {
    /// Runs the command of a packet.
    pub(super) fn run_packet(&mut self, packet: &Packet) {
        let found = COMMANDS.iter().find(|command| command.code == packet[0]);
        let told = found.is_some_and(|command| command.always);
        if self.st.packet.sense.key == sense::MEDIUM_CHANGED.key && !told {
            return self.check_condition(self.st.packet.sense);
        }
        if !told && self.has_medium() {
            match std::mem::take(&mut self.st.packet.change) {
                Change::Told => {}
                Change::Removed => {
                    self.st.packet.change = Change::Inserted;
                    return self.check_condition(sense::NO_MEDIUM);
                }
                Change::Inserted => return self.check_condition(sense::MEDIUM_CHANGED),
            }
        }
        let Some(command) = found else { return self.check_condition(sense::INVALID_COMMAND) };
        if command.medium && !self.has_medium() {
            return self.check_condition(sense::NO_MEDIUM);
        }
        if command.data && !self.may_have_data() {
            return self.abort();
        }
        (command.run)(self, packet);
    }

    fn request_sense(&mut self, packet: &Packet) {
        let Sense { key, code } = self.st.packet.sense;
        let mut data = vec![0; 18];
        (data[0], data[2], data[7], data[12]) = (0xf0, key, 10, code);
        if key == sense::MEDIUM_CHANGED.key {
            self.st.packet.sense = sense::NONE;
        }
        self.reply(data, packet[4].into());
    }

    fn inquiry(&mut self, packet: &Packet) {
        const CD: u8 = 5;
        const VITAL_DATA: u8 = 1;
        const SUPPORTED_PAGES: u8 = 0x00;
        const IDENTIFICATION: u8 = 0x83;
        let page = packet[2];
        let padded = |text: &str, len| {
            text.bytes().chain(std::iter::repeat(b' ')).take(len).collect::<Vec<u8>>()
        };
        let data = if packet[1] & VITAL_DATA == 0 {
            // Removable; ATAPI; format of the answer and its length.
            let mut data = vec![CD, 0x80, 0x00, 0x21, 31, 0, 0, 0];
            data.extend(padded("QEMU", 8));
            data.extend(padded("QEMU DVD-ROM", 16));
            data.extend(padded(&self.cfg.version, 4));
            data
        } else if page == SUPPORTED_PAGES {
            vec![CD, page, 0, 2, SUPPORTED_PAGES, IDENTIFICATION]
        } else if page == IDENTIFICATION {
            // In ASCII, as the vendor likes.
            let mut data = vec![CD, page, 0, 24, 0x02, 0x00, 0x00, 20];
            data.extend(padded(&self.cfg.serial, 20));
            data
        } else {
            return self.check_condition(sense::INVALID_FIELD);
        };
        self.reply(data, packet[4].into());
    }

    fn start_stop(&mut self, packet: &Packet) {
        const START: u8 = 1;
        const LOAD_OR_EJECT: u8 = 2;
        let open = packet[4] & START == 0;
        if packet[4] & LOAD_OR_EJECT == 0 {
            return self.packet_done();
        }
        let state = &mut self.st.packet;
        if open && !state.tray_open && state.tray_locked {
            let empty = self.sectors.is_none();
            return self.check_condition(if empty { sense::LOCKED_EMPTY } else { sense::LOCKED });
        }
        if state.tray_open == open {
            return self.packet_done();
        }
        state.tray_open = open;
        self.move_tray(open);
    }

    fn prevent_removal(&mut self, packet: &Packet) {
        self.st.packet.tray_locked = packet[4] & 1 != 0;
        self.packet_done();
    }

    fn read_capacity(&mut self, _: &Packet) {
        let mut data = (self.blocks().saturating_sub(1) as u32).to_be_bytes().to_vec();
        data.extend((BLOCK as u32).to_be_bytes());
        self.reply(data, 8);
    }

    /// Whether blocks are on the medium.
    fn holds(&self, first: u32, count: u32) -> bool {
        u64::from(first) + u64::from(count) <= self.blocks()
    }

    fn read_medium(&mut self, first: u32, count: u32) {
        if count > 0 && !self.holds(first, count) {
            return self.check_condition(sense::OUT_OF_RANGE);
        }
        self.reply_blocks(first.into(), count, false);
    }

    fn seek(&mut self, packet: &Packet) {
        if u64::from(be32(packet, 2)) > self.blocks() {
            return self.check_condition(sense::OUT_OF_RANGE);
        }
        self.packet_done();
    }

    fn read_cd(&mut self, packet: &Packet) {
        const NOTHING: u8 = 0x00;
        const USER_DATA: u8 = 0x10;
        const EVERYTHING: u8 = 0xf8;
        let first = be32(packet, 2);
        let count = u32::from_be_bytes([0, packet[6], packet[7], packet[8]]);
        let raw = match packet[9] & EVERYTHING {
            _ if count == 0 => return self.packet_done(),
            NOTHING => return self.packet_done(),
            USER_DATA => false,
            EVERYTHING => true,
            _ => return self.check_condition(sense::INVALID_FIELD),
        };
        if !self.holds(first, count) {
            return self.check_condition(sense::OUT_OF_RANGE);
        }
        self.reply_blocks(first.into(), count, raw);
    }

    fn read_toc(&mut self, packet: &Packet) {
        const LEAD_OUT: u8 = 0xaa;
        /// A data track.
        const DATA_TRACK: u8 = 0x14;
        const LEAD_OUT_TRACK: u8 = 0x16;
        let by_time = packet[1] & 2 != 0;
        let first = packet[6];
        // Where SFF-8020i has it, and where MMC has it.
        let format = if packet[9] >> 6 != 0 { packet[9] >> 6 } else { packet[2] & 0xf };
        // First and last track, or session.
        let mut data = vec![0, 0, 1, 1];
        match format {
            0 if first > 1 && first != LEAD_OUT => {
                return self.check_condition(sense::INVALID_FIELD);
            }
            0 => {
                if first <= 1 {
                    data.extend([0, DATA_TRACK, 1, 0]);
                    data.extend(toc_address(0, by_time));
                }
                data.extend([0, LEAD_OUT_TRACK, LEAD_OUT, 0]);
                data.extend(toc_address(self.blocks(), by_time));
            }
            1 => data.extend([0; 8]),
            2 => {
                for point in [0xa0, 0xa1] {
                    data.extend([1, DATA_TRACK, 0, point, 0, 0, 0, 0, 1, 0, 0]);
                }
                let points = [(0xa2, self.blocks()), (1, 0)];
                for (point, block) in points {
                    data.extend([1, DATA_TRACK, 0, point, 0, 0, 0]);
                    data.extend(toc_address(block, by_time));
                }
            }
            _ => return self.check_condition(sense::INVALID_FIELD),
        }
        let len = (data.len() - 2) as u16;
        data[..2].copy_from_slice(&len.to_be_bytes());
        self.reply(data, be16(packet, 7).into());
    }

    fn profile(&self) -> u16 {
        match self.blocks() {
            _ if !self.has_medium() => profile::NONE,
            blocks if blocks > MAX_CD_BLOCKS => profile::DVD_ROM,
            _ => profile::CD_ROM,
        }
    }

    fn get_configuration(&mut self, packet: &Packet) {
        const PROFILE_LIST: [u8; 4] = [0, 0, 3, 8];
        // Features from this number on; there is but the list of profiles.
        if be16(packet, 2) != 0 {
            return self.check_condition(sense::INVALID_FIELD);
        }
        let current = self.profile();
        let mut data = vec![0, 0, 0, 16, 0, 0];
        data.extend(current.to_be_bytes());
        data.extend(PROFILE_LIST);
        for profile in [profile::DVD_ROM, profile::CD_ROM] {
            data.extend(profile.to_be_bytes());
            data.extend([u8::from(profile == current), 0]);
        }
        self.reply(data, be16(packet, 7).into());
    }

    fn get_event_status(&mut self, packet: &Packet) {
        const POLLED: u8 = 1;
        const MEDIA: u8 = 4;
        const NO_EVENT: u8 = 0x80;
        const EJECT_REQUEST: u8 = 1;
        const NEW_MEDIUM: u8 = 2;
        if packet[1] & POLLED == 0 {
            return self.check_condition(sense::INVALID_FIELD);
        }
        let classes = 1 << MEDIA;
        let data = if packet[4] & classes == 0 {
            vec![0, 0, NO_EVENT, classes]
        } else {
            let state = &mut self.st.packet;
            let event = if std::mem::take(&mut state.eject_wanted) {
                EJECT_REQUEST
            } else if std::mem::take(&mut state.new_medium) {
                NEW_MEDIUM
            } else {
                0
            };
            let tray = u8::from(state.tray_open);
            let present = if self.has_medium() { 2 } else { 0 };
            vec![0, 4, MEDIA, classes, event, tray | present, 0, 0]
        };
        self.reply(data, be16(packet, 7).into());
    }

    fn read_disc_information(&mut self, packet: &Packet) {
        if packet[1] & 7 != 0 {
            return self.check_condition(sense::INVALID_FIELD);
        }
        // Complete, with one session of one track; for any use.
        let mut data = vec![0, 32, 0x0e, 1, 1, 1, 1, 0x20];
        data.resize(34, 0);
        self.reply(data, be16(packet, 7).into());
    }

    fn mode_sense(&mut self, packet: &Packet) {
        const CURRENT: u8 = 0;
        const SAVED: u8 = 3;
        const HEADER: usize = 8;
        /// A data CD is inside, whatever is.
        const MEDIUM_TYPE: u8 = 0x70;
        match packet[2] >> 6 {
            CURRENT => {}
            SAVED => return self.check_condition(sense::NO_SAVED_PAGES),
            _ => return self.check_condition(sense::INVALID_FIELD),
        }
        let page: &[u8] = match packet[2] & 0x3f {
            // Errors: five retries.
            0x01 => &[0x01, 6, 0, 5, 0, 0, 0, 0],
            // Audio.
            0x0e => &[0x0e, 14, 0, 0, 0x24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            // Capabilities: what is read, how, and that the tray can be locked; 4x speed, 512 KB.
            0x2a => {
                let locks = if self.st.packet.tray_locked { 0x2b } else { 0x29 };
                &[
                    0x2a, 20, 0x3b, 0, 0x71, 0x60, locks, 0, 2, 0xc0, 0, 2, 2, 0, 2, 0xc0, 0, 0, 0,
                    0, 0, 0,
                ]
            }
            _ => return self.check_condition(sense::INVALID_FIELD),
        };
        let mut data = vec![0; HEADER];
        data.extend(page);
        let len = (data.len() - 2) as u16;
        data[..2].copy_from_slice(&len.to_be_bytes());
        data[2] = MEDIUM_TYPE;
        self.reply(data, be16(packet, 7).into());
    }

    fn mechanism_status(&mut self, packet: &Packet) {
        self.reply(vec![0, 0, 0, 0, 0, 1, 0, 0], be16(packet, 8).into());
    }

    fn read_dvd_structure(&mut self, packet: &Packet) {
        const STRUCTURES: u8 = 0xff;
        const LEN: usize = BLOCK + 4;
        let allocated = be16(packet, 8).into();
        if packet[7] < STRUCTURES && (packet[1] & 0xf != 0 || self.profile() != profile::DVD_ROM) {
            return self.check_condition(sense::INCOMPATIBLE_MEDIUM);
        }
        let mut data = match packet[7] {
            // Physical format: a DVD-ROM of 120 mm with one layer.
            0x00 => {
                let mut data = vec![0; LEN];
                let last = (self.blocks() as u32).wrapping_sub(1).to_be_bytes();
                data[4..8].copy_from_slice(&[0x01, 0x0f, 0x01, 0]);
                data[12..16].copy_from_slice(&last);
                data[16..20].copy_from_slice(&last);
                data
            }
            // Copyright: none, all regions.
            0x01 => vec![0; 8],
            // What the maker adds: nothing.
            0x04 => vec![0; LEN],
            STRUCTURES => {
                let listed = [(0x00, LEN as u16), (0x01, 8), (0x03, 192), (0x04, LEN as u16)];
                let mut data = vec![0; 4];
                for (structure, len) in listed {
                    data.extend([structure, 0x40]);
                    data.extend(len.to_be_bytes());
                }
                data
            }
            _ => return self.check_condition(sense::INVALID_FIELD),
        };
        let len = (data.len() - 2) as u16;
        data[..2].copy_from_slice(&len.to_be_bytes());
        self.reply(data, allocated);
    }
}
