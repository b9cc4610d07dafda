//! The PACKET feature set: how a command packet and its data pass (ATA/ATAPI-7 volume 2, 9.9 to 9.11).

use base::state::State;

use super::drive::{Drive, Job, Task};
use super::identify;
use super::mmc::{BLOCK, Change, RAW_BLOCK, Sense, sense};
use super::spec::{command, reason, status};

/// Bytes of a command packet.
pub const PACKET: usize = 12;
/// In the features register: data move by DMA.
const BY_DMA: u8 = 1;
/// In the features register: the device may release the bus.
const OVERLAPPED: u8 = 1 << 1;
/// The largest even byte count.
const MAX_COUNT: u16 = 0xfffe;
/// Blocks that are read at once for the data register: as much as one interrupt can stand for, and what
/// it leaves of a block.
const BLOCKS_AT_ONCE: u32 = 33;
/// Blocks that one transfer by DMA moves.
const DMA_BLOCKS_AT_ONCE: u32 = 256;

/// Where a packet command stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
enum Phase {
    #[default]
    Command,
    Data,
    /// Something that has no data.
    Motion,
}

/// Blocks that are still to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
struct Blocks {
    next: u64,
    left: u32,
    /// With headers and all that a block on the disc has.
    raw: bool,
}

/// What packet commands remember.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct PacketState {
    phase: Phase,
    dma: bool,
    blocks: Blocks,
    /// Bytes that are still to pass.
    left: u64,
    /// Bytes for one interrupt.
    limit: u16,
    /// Where in the buffer that begins what is being read.
    fresh: usize,
    pub(super) sense: Sense,
    pub(super) tray_open: bool,
    pub(super) tray_locked: bool,
    pub(super) change: Change,
    /// There is a new medium, or the operator wants to have it, since the guest last asked.
    pub(super) new_medium: bool,
    pub(super) eject_wanted: bool,
}

impl Drive {
    pub(super) fn packet_device_command(&mut self, code: u8) {
        match code {
            command::PACKET => self.begin_packet(),
            command::IDENTIFY_PACKET => {
                let data = identify::cdrom(&self.cfg);
                self.answer(data);
            }
            command::DEVICE_RESET => {
                self.show_signature();
                self.st.status = 0;
            }
            // Hosts try these to tell kinds of devices apart.
            command::IDENTIFY | command::READ => {
                self.show_signature();
                self.abort();
            }
            command::SET_FEATURES => self.set_features(),
            command::FLUSH if self.sectors.is_some() => self.finish(),
            _ => self.abort(),
        }
    }

    fn begin_packet(&mut self) {
        let features = self.st.taskfile.features();
        if features & OVERLAPPED != 0 {
            return self.abort();
        }
        let [_, mid, high] = self.st.taskfile.address();
        let packet = &mut self.st.packet;
        packet.dma = features & BY_DMA != 0;
        packet.limit = u16::from_le_bytes([mid, high]).min(MAX_COUNT);
        packet.phase = Phase::Command;
        packet.blocks = Blocks::default();
        self.st.taskfile.set_count(reason::COMMAND);
        self.st.task = Task::Packet;
        self.accept(PACKET);
    }

    pub(super) fn packet_to_host(&self) -> bool {
        self.st.packet.phase == Phase::Data
    }

    /// A run through the data register has ended.
    pub(super) fn packet_data_passed(&mut self) {
        match self.st.packet.phase {
            Phase::Command => {
                let mut packet = [0; PACKET];
                let count = self.st.buffer.len().min(PACKET);
                packet[..count].copy_from_slice(&self.st.buffer[..count]);
                self.clear_buffer();
                self.run_packet(&packet);
            }
            Phase::Data => self.pass_data(),
            Phase::Motion => {}
        }
    }

    /// Whether a command that has data may go on.
    pub(super) fn may_have_data(&self) -> bool {
        self.st.packet.dma || self.st.packet.limit >= 2
    }

    /// Ends a packet command well.
    pub(super) fn packet_done(&mut self) {
        self.clear_buffer();
        self.st.taskfile.set_count(reason::COMMAND | reason::TO_HOST);
        self.finish();
    }

    /// Ends a packet command with something for REQUEST SENSE to tell.
    pub(super) fn check_condition(&mut self, sense: Sense) {
        self.clear_buffer();
        self.st.packet.sense = sense;
        self.st.taskfile.set_count(reason::COMMAND | reason::TO_HOST);
        self.finish();
        self.st.error = sense.key << 4;
        self.st.status = status::READY | status::ERROR;
    }

    /// The medium has failed.
    pub(super) fn packet_failed(&mut self) {
        let gone = self.sectors.is_none();
        self.check_condition(if gone { sense::NO_MEDIUM } else { sense::READ_ERROR });
    }

    /// Answers with data, of which the host wants no more than `allocated` bytes.
    pub(super) fn reply(&mut self, mut data: Vec<u8>, allocated: usize) {
        data.truncate(allocated);
        if data.is_empty() {
            return self.packet_done();
        }
        self.st.packet.left = data.len() as u64;
        self.st.packet.phase = Phase::Data;
        self.clear_buffer();
        self.st.buffer = data;
        self.pass_data();
    }

    /// Answers with blocks of the medium.
    pub(super) fn reply_blocks(&mut self, next: u64, count: u32, raw: bool) {
        if count == 0 {
            return self.packet_done();
        }
        let size = if raw { RAW_BLOCK } else { BLOCK };
        let packet = &mut self.st.packet;
        packet.blocks = Blocks { next, left: count, raw };
        packet.left = u64::from(count) * size as u64;
        packet.phase = Phase::Data;
        self.clear_buffer();
        self.pass_data();
    }

    /// Does something with the tray; nothing else happens until it is done.
    pub(super) fn move_tray(&mut self, open: bool) {
        self.st.packet.phase = Phase::Motion;
        self.wait_for(Job::MoveTray { open });
    }

    /// Goes on with data, by whichever way.
    fn pass_data(&mut self) {
        if self.st.packet.left == 0 {
            self.packet_done();
        } else if self.st.packet.dma {
            self.pass_by_dma();
        } else {
            self.pass_by_register();
        }
    }

    fn pass_by_dma(&mut self) {
        let blocks = self.st.packet.blocks;
        self.st.taskfile.set_count(reason::TO_HOST);
        if !self.st.buffer.is_empty() {
            self.wait_for(Job::Deliver);
        } else if blocks.raw {
            self.read_blocks(BLOCKS_AT_ONCE);
        } else {
            let count = blocks.left.min(DMA_BLOCKS_AT_ONCE);
            let at = blocks.next * BLOCK as u64;
            self.wait_for(Job::ReadDma { at, len: count as usize * BLOCK });
        }
    }

    fn pass_by_register(&mut self) {
        let packet = &self.st.packet;
        let mut count = u64::from(packet.limit);
        if count < packet.left {
            // All but the last are even.
            count &= !1;
        } else {
            count = packet.left;
        }
        let held = self.st.buffer.len() - self.st.position;
        if (held as u64) < count && packet.blocks.left > 0 {
            return self.read_blocks(BLOCKS_AT_ONCE);
        }
        self.st.taskfile.set_count(reason::TO_HOST);
        self.st.taskfile.set_mid_high(count as u16);
        self.st.packet.left -= count;
        self.offer(count as usize);
        self.interrupt();
    }

    /// Reads the next blocks behind what is in the buffer and has not passed.
    fn read_blocks(&mut self, most: u32) {
        let passed = self.st.position.min(self.st.buffer.len());
        self.st.buffer.drain(..passed);
        (self.st.position, self.st.end) = (0, 0);
        self.st.packet.fresh = self.st.buffer.len();
        let blocks = self.st.packet.blocks;
        let len = blocks.left.min(most) as usize * BLOCK;
        self.wait_for(Job::Read { at: blocks.next * BLOCK as u64, len });
    }

    fn blocks_passed(&mut self, count: u32) {
        let blocks = &mut self.st.packet.blocks;
        blocks.next += u64::from(count);
        blocks.left = blocks.left.saturating_sub(count);
    }

    pub(super) fn packet_job_done(&mut self, job: &Job) {
        match *job {
            Job::Read { len, .. } => {
                let count = (len / BLOCK) as u32;
                if self.st.packet.blocks.raw {
                    self.make_raw();
                }
                self.blocks_passed(count);
            }
            Job::ReadDma { len, .. } => {
                self.blocks_passed((len / BLOCK) as u32);
                self.st.packet.left = self.st.packet.left.saturating_sub(len as u64);
            }
            Job::Deliver => {
                let len = self.st.buffer.len() as u64;
                self.st.packet.left = self.st.packet.left.saturating_sub(len);
                self.clear_buffer();
            }
            _ => return self.packet_done(),
        }
        self.pass_data();
    }

    /// Puts around each block that was just read what is around it on a disc.
    fn make_raw(&mut self) {
        let fresh = self.st.packet.fresh.min(self.st.buffer.len());
        let cooked = self.st.buffer.split_off(fresh);
        let first = self.st.packet.blocks.next;
        for (number, data) in (first..).zip(cooked.chunks(BLOCK)) {
            super::mmc::raw_block(number, data, &mut self.st.buffer);
        }
    }

    /// Whether there is a medium that can be read.
    pub(super) fn has_medium(&self) -> bool {
        self.sectors.is_some() && !self.st.packet.tray_open
    }

    /// Blocks of the medium.
    pub(super) fn blocks(&self) -> u64 {
        self.sectors.unwrap_or(0) / (BLOCK as u64 / super::spec::SECTOR)
    }

    /// The operator has moved the tray, and perhaps changed what lies in it.
    pub fn medium_changed(&mut self, loaded: bool, sectors: Option<u64>) {
        self.sectors = sectors;
        let packet = &mut self.st.packet;
        packet.tray_open = !loaded;
        packet.change = Change::Removed;
        packet.new_medium = true;
        packet.eject_wanted = false;
    }

    /// The operator asks for the medium; with `force`, the tray is no longer locked.
    pub fn eject_requested(&mut self, force: bool) {
        let packet = &mut self.st.packet;
        packet.eject_wanted = true;
        if force {
            packet.tray_locked = false;
        }
    }

    /// Whether the tray is open.
    pub fn is_tray_open(&self) -> bool {
        self.st.packet.tray_open
    }

    /// Whether the guest keeps the tray shut.
    pub fn is_tray_locked(&self) -> bool {
        self.st.packet.tray_locked
    }
}
