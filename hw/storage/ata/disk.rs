//! What disks and CompactFlash cards do (ATA8-ACS, 7).

use super::drive::{Drive, Job, Kind, Task};
use super::identify;
use super::spec::{MAX_MULTIPLE, SECTOR, command, status};
use super::taskfile::Width;

/// DATA SET MANAGEMENT: ranges of the list are to be trimmed.
const TRIM: u8 = 1;
/// Bytes of a range: 48 bits of address, 16 of length.
const TRIM_RANGE: usize = 8;
/// CHECK POWER MODE: the disk turns.
const ACTIVE: u8 = 0xff;
/// What CompactFlash's REQUEST EXTENDED ERROR says: a miscellaneous error.
const CFA_MISCELLANEOUS: u8 = 0x09;

impl Drive {
    /// A command to a disk or a card.
    pub(super) fn disk_command(&mut self, code: u8) {
        use Width::{Narrow, Wide};
        let flash = self.cfg.kind == Kind::CompactFlash;
        match code {
            command::READ | command::READ_ONCE => self.read_singly(Narrow),
            command::READ_EXT => self.read_singly(Wide),
            command::READ_MULTIPLE => self.read_multiply(Narrow),
            command::READ_MULTIPLE_EXT => self.read_multiply(Wide),
            command::WRITE | command::WRITE_ONCE | command::WRITE_VERIFY => {
                self.write_sectors(Narrow, 1);
            }
            command::CFA_WRITE_WITHOUT_ERASE if flash => self.write_sectors(Narrow, 1),
            command::WRITE_EXT => self.write_sectors(Wide, 1),
            command::WRITE_MULTIPLE => self.write_multiply(Narrow),
            command::CFA_WRITE_MULTIPLE_WITHOUT_ERASE if flash => {
                self.write_multiply(Narrow);
            }
            command::WRITE_MULTIPLE_EXT => self.write_multiply(Wide),
            command::READ_DMA | command::READ_DMA_ONCE => self.read_dma(Narrow),
            command::READ_DMA_EXT => self.read_dma(Wide),
            command::WRITE_DMA | command::WRITE_DMA_ONCE => self.write_dma(Narrow),
            command::WRITE_DMA_EXT => self.write_dma(Wide),
            command::DATA_SET_MANAGEMENT if self.cfg.trim => self.manage_data_set(),
            command::FLUSH | command::FLUSH_EXT => {
                self.st.task = Task::Flush;
                self.wait_for(Job::Flush);
            }
            command::IDENTIFY => {
                let sectors = self.sectors.unwrap_or(0);
                let data = if flash {
                    identify::compact_flash(&self.cfg, sectors)
                } else {
                    identify::disk(&self.cfg, &self.st, sectors)
                };
                self.answer(data);
            }
            command::SET_FEATURES => self.set_features(),
            command::SET_MULTIPLE => self.set_multiple(),
            command::READ_NATIVE_MAX => self.read_native_max(Narrow),
            command::READ_NATIVE_MAX_EXT => self.read_native_max(Wide),
            command::CHECK_POWER | command::OLD_CHECK_POWER => {
                self.st.taskfile.set_count(ACTIVE);
                self.finish();
            }
            command::STANDBY_IMMEDIATE
            | command::IDLE_IMMEDIATE
            | command::STANDBY
            | command::IDLE
            | command::SLEEP
            | command::OLD_STANDBY_IMMEDIATE
            | command::OLD_IDLE_IMMEDIATE
            | command::OLD_STANDBY
            | command::OLD_IDLE
            | command::OLD_SLEEP => {
                self.finish();
                self.st.status = status::READY;
            }
            command::SMART if !flash => self.smart(),
            command::SECURITY_FREEZE_LOCK => {
                self.st.taskfile.set_count(0);
                self.finish();
            }
            // Nothing is to be done: there are no heads, and what is on the medium can be read. The
            // geometry stays what it is.
            command::VERIFY
            | command::VERIFY_ONCE
            | command::VERIFY_EXT
            | command::SEEK
            | command::RECALIBRATE
            | command::INITIALIZE_PARAMETERS => self.finish(),
            command::CFA_ERASE if flash => self.finish(),
            command::CFA_REQUEST_EXTENDED_ERROR if flash => {
                self.st.error = CFA_MISCELLANEOUS;
                self.finish();
            }
            command::CFA_TRANSLATE_SECTOR if flash => self.translate_sector(),
            _ => self.abort(),
        }
    }

    fn read_singly(&mut self, width: Width) {
        self.read_sectors(width, self.st.taskfile.sectors(width), 1);
    }

    fn read_multiply(&mut self, width: Width) {
        match self.st.multiple {
            0 => self.abort(),
            block => self.read_sectors(width, self.st.taskfile.sectors(width), block.into()),
        }
    }

    /// Goes on with the next sectors of a read.
    pub(super) fn read_sectors(&mut self, width: Width, left: u32, block: u32) {
        self.clear_buffer();
        if left == 0 {
            self.st.task = Task::None;
            return;
        }
        let count = left.min(block);
        match self.place(width, count) {
            Some(at) => {
                self.st.task = Task::Read { width, left, block };
                self.wait_for(Job::Read { at, len: count as usize * SECTOR as usize });
            }
            None => self.abort(),
        }
    }

    pub(super) fn sectors_read(&mut self, width: Width, left: u32, block: u32) {
        let count = left.min(block);
        self.pass(width, count);
        self.st.taskfile.set_sectors(left - count);
        self.st.task = Task::Read { width, left: left - count, block };
        self.offer(self.st.buffer.len());
        self.interrupt();
    }

    fn write_sectors(&mut self, width: Width, block: u32) {
        let left = self.st.taskfile.sectors(width);
        self.st.task = Task::Write { width, left, block };
        self.accept(left.min(block) as usize * SECTOR as usize);
    }

    fn write_multiply(&mut self, width: Width) {
        match self.st.multiple {
            0 => self.abort(),
            block => self.write_sectors(width, block.into()),
        }
    }

    /// The host has handed over some sectors.
    pub(super) fn sectors_taken(&mut self) {
        let Task::Write { width, left, block } = self.st.task else { return };
        match self.place(width, left.min(block)) {
            Some(at) => self.wait_for(Job::Write { at }),
            None => self.abort(),
        }
    }

    pub(super) fn sectors_written(&mut self, width: Width, left: u32, block: u32) {
        let count = left.min(block);
        self.pass(width, count);
        self.st.taskfile.set_sectors(left - count);
        if left > count {
            self.st.task = Task::Write { width, left: left - count, block };
            self.accept((left - count).min(block) as usize * SECTOR as usize);
            self.interrupt();
        } else {
            self.clear_buffer();
            self.finish();
        }
    }

    /// Where the sectors of a transfer by DMA are. Whether there are such is looked at when it begins.
    fn dma_span(&mut self, width: Width) -> (u64, usize) {
        let sectors = self.st.taskfile.sectors(width);
        self.st.task = Task::Dma { width, sectors };
        let first = self.st.taskfile.sector(width, self.cfg.geometry).unwrap_or(u64::MAX);
        (first.saturating_mul(SECTOR), sectors as usize * SECTOR as usize)
    }

    fn read_dma(&mut self, width: Width) {
        let (at, len) = self.dma_span(width);
        self.wait_for(Job::ReadDma { at, len });
    }

    fn write_dma(&mut self, width: Width) {
        let (at, len) = self.dma_span(width);
        self.wait_for(Job::WriteDma { at, len });
    }

    fn manage_data_set(&mut self) {
        if self.st.taskfile.features() != TRIM {
            return self.abort();
        }
        // No host sends a list so long that the other half of the register counts.
        let sectors = self.st.taskfile.sectors(Width::Narrow);
        self.st.task = Task::Trim { sectors, done: 0 };
        self.wait_for(Job::Fetch { len: sectors as usize * SECTOR as usize });
    }

    /// Goes on with the next range of the list that has a length.
    pub(super) fn trim_next(&mut self, sectors: u32, done: usize) {
        let limit = self.sectors.unwrap_or(0);
        for (index, range) in self.st.buffer.chunks_exact(TRIM_RANGE).enumerate().skip(done) {
            let entry = range.iter().rev().fold(0, |entry, &byte| entry << 8 | u64::from(byte));
            let (first, count) = (entry & ((1 << 48) - 1), entry >> 48);
            if count == 0 {
                continue;
            }
            if first + count > limit {
                return self.abort();
            }
            self.st.task = Task::Trim { sectors, done: index + 1 };
            let job = Job::Discard { at: first * SECTOR, len: count * SECTOR };
            self.wait_for(job);
            self.st.status = status::DONE | status::DATA_REQUEST;
            return;
        }
        self.clear_buffer();
        self.pass(Width::Narrow, sectors);
        self.st.taskfile.set_sectors(0);
        self.finish();
    }

    fn set_multiple(&mut self) {
        let count = self.st.taskfile.count();
        if count > MAX_MULTIPLE || count != 0 && !count.is_power_of_two() {
            return self.abort();
        }
        self.st.multiple = count;
        self.finish();
    }

    fn read_native_max(&mut self, width: Width) {
        let Some(last) = self.sectors.unwrap_or(0).checked_sub(1) else { return self.abort() };
        self.st.taskfile.set_sector(last, width, self.cfg.geometry);
        self.finish();
    }

    fn translate_sector(&mut self) {
        let mut data = vec![0; SECTOR as usize];
        let [low, mid, high] = self.st.taskfile.address();
        let sector = self.st.taskfile.sector(Width::Narrow, self.cfg.geometry).unwrap_or(0);
        let device = self.st.taskfile.read(super::spec::reg::DEVICE, false);
        data[..4].copy_from_slice(&[high, mid, device, low]);
        data[4..7].copy_from_slice(&[(sector >> 16) as u8, (sector >> 8) as u8, sector as u8]);
        // Not erased.
        data[0x13] = 0;
        // Written this often.
        data[0x18..0x1b].copy_from_slice(&[0, 0, 1]);
        self.answer(data);
    }
}
