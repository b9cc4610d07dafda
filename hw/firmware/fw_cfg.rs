//! The firmware configuration device: named blobs that firmware and guests read through two ports or
//! by DMA (QEMU's "Firmware Configuration (fw_cfg) Device" specification).

use std::collections::BTreeMap;

use base::device::{self, Device, Shared};
use base::memory::{AccessSizes, Dma, Region};
use base::state::State;
use base::trace_event;

/// Port of the selector; the data register follows it.
pub const FW_CFG_PORT: u64 = 0x510;
/// Port of the DMA address register.
pub const FW_CFG_DMA_PORT: u64 = 0x514;

const CONTROL: u32 = 0;
const DMA: u32 = 1;

/// Numbers of well-known items.
#[allow(missing_docs)]
pub mod item {
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NO_GRAPHIC: u16 = 0x04;
    pub const CPU_COUNT: u16 = 0x05;
    pub const KERNEL_ADDRESS: u16 = 0x07;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_ADDRESS: u16 = 0x0a;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const BOOT_DEVICE: u16 = 0x0c;
    pub const NUMA: u16 = 0x0d;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const COMMAND_LINE_ADDRESS: u16 = 0x13;
    pub const COMMAND_LINE_SIZE: u16 = 0x14;
    pub const COMMAND_LINE_DATA: u16 = 0x15;
    pub const SETUP_ADDRESS: u16 = 0x16;
    pub const SETUP_SIZE: u16 = 0x17;
    pub const SETUP_DATA: u16 = 0x18;
    pub const FILE_DIRECTORY: u16 = 0x19;
    pub const FIRST_FILE: u16 = 0x20;
    /// Items whose meaning is the architecture's.
    pub const ARCH_LOCAL: u16 = 0x8000;
    pub const IRQ0_OVERRIDE: u16 = ARCH_LOCAL + 2;
    pub const HPET: u16 = ARCH_LOCAL + 4;
}

/// Bit in a selector that asks for writing through the data port, which is long gone.
const WRITE_CHANNEL: u16 = 1 << 14;
/// Highest number of files.
const MAX_FILES: usize = 0x100;
/// Longest name, with its terminating zero.
const NAME_LEN: usize = 56;

const FEATURE_PORTS: u32 = 1;
const FEATURE_DMA: u32 = 1 << 1;
const DMA_SIGNATURE: u64 = 0x51454d5520434647;

const DMA_ERROR: u32 = 1;
const DMA_READ: u32 = 1 << 1;
const DMA_SKIP: u32 = 1 << 2;
const DMA_SELECT: u32 = 1 << 3;
const DMA_WRITE: u32 = 1 << 4;

/// Why a file could not be added.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FwCfgError {
    /// Two files of one name.
    #[error("duplicate fw_cfg file name: {0}")]
    Duplicate(String),
    /// The name does not fit its field.
    #[error("fw_cfg file name '{0}' is too long (max. 55 char)")]
    NameTooLong(String),
    /// No room in the directory.
    #[error("too many fw_cfg files: there is no room for '{0}'")]
    TooMany(String),
}

/// Called after the guest has written to a file, with the file's new content.
type Written = Box<dyn Fn(&[u8]) + Send>;
/// Makes a file's content anew each time it is selected.
type Refresh = Box<dyn Fn() -> Vec<u8> + Send>;

/// What a file does beyond holding bytes.
#[derive(Default)]
pub struct FileHooks {
    /// The guest may write, and this is told.
    pub written: Option<Written>,
    /// The content is made when the guest selects the file.
    pub refresh: Option<Refresh>,
}

struct File {
    data: Vec<u8>,
    hooks: FileHooks,
}

/// Registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct FwCfgState {
    selected: u16,
    offset: u32,
    dma_address: u64,
}

/// The device.
pub struct FwCfg {
    dma: Dma,
    items: BTreeMap<u16, Vec<u8>>,
    files: BTreeMap<String, File>,
    /// Numbers of the files in order of their names, fixed when the guest first looks.
    numbering: Vec<String>,
    st: FwCfgState,
}

impl FwCfg {
    /// The device and its regions, for [`FW_CFG_PORT`] and [`FW_CFG_DMA_PORT`].
    pub fn create(dma: Dma) -> (Shared<Self>, Region, Region) {
        let device = device::share(|_| FwCfg::new(dma));
        let control = device::region(&device, CONTROL, "fwcfg", 2, AccessSizes { min: 1, max: 2 });
        let dma = device::region(&device, DMA, "fwcfg.dma", 8, AccessSizes { min: 1, max: 8 });
        (device, control, dma)
    }

    fn new(dma: Dma) -> Self {
        let mut device = FwCfg {
            dma,
            items: BTreeMap::new(),
            files: BTreeMap::new(),
            numbering: Vec::new(),
            st: FwCfgState::default(),
        };
        device.set_item(item::SIGNATURE, b"QEMU".to_vec());
        device.set_item(item::ID, (FEATURE_PORTS | FEATURE_DMA).to_le_bytes().to_vec());
        device
    }

    /// Tells firmware that it is to read through the ports.
    pub fn deny_dma(&mut self) {
        self.set_item(item::ID, FEATURE_PORTS.to_le_bytes().to_vec());
    }

    /// Sets a numbered item.
    pub fn set_item(&mut self, number: u16, data: Vec<u8>) {
        self.items.insert(number, data);
    }

    /// Adds a file.
    pub fn add_file(
        &mut self,
        name: &str,
        data: Vec<u8>,
        hooks: FileHooks,
    ) -> Result<(), FwCfgError> {
        if name.len() >= NAME_LEN {
            return Err(FwCfgError::NameTooLong(name.into()));
        }
        if self.files.contains_key(name) {
            return Err(FwCfgError::Duplicate(name.into()));
        }
        if self.files.len() >= MAX_FILES {
            return Err(FwCfgError::TooMany(name.into()));
        }
        self.files.insert(name.into(), File { data, hooks });
        self.numbering = self.files.keys().cloned().collect();
        Ok(())
    }

    /// Replaces a file's content, or adds the file.
    pub fn set_file(&mut self, name: &str, data: Vec<u8>) -> Result<(), FwCfgError> {
        match self.files.get_mut(name) {
            Some(file) => {
                file.data = data;
                Ok(())
            }
            None => self.add_file(name, data, FileHooks::default()),
        }
    }

    /// A file's content.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|file| file.data.as_slice())
    }

    /// The content of the first file of a directory.
    pub fn first_file_in(&self, directory: &str) -> Option<&[u8]> {
        let inside =
            |name: &str| name.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        let (_, file) = self.files.iter().find(|(name, _)| inside(name))?;
        Some(&file.data)
    }

    fn directory(&self) -> Vec<u8> {
        let mut bytes = (self.numbering.len() as u32).to_be_bytes().to_vec();
        for (number, name) in (item::FIRST_FILE..).zip(&self.numbering) {
            let size = self.files.get(name).map_or(0, |file| file.data.len());
            bytes.extend((size as u32).to_be_bytes());
            bytes.extend(number.to_be_bytes());
            bytes.extend([0; 2]);
            let mut field = [0; NAME_LEN];
            field[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(field);
        }
        bytes
    }

    fn selected_file(&mut self) -> Option<&mut File> {
        let number = self.st.selected.checked_sub(item::FIRST_FILE)?;
        self.files.get_mut(self.numbering.get(usize::from(number))?)
    }

    fn select(&mut self, number: u16) {
        self.st.selected = number & !WRITE_CHANNEL;
        self.st.offset = 0;
        if self.st.selected == item::FILE_DIRECTORY {
            let directory = self.directory();
            self.items.insert(item::FILE_DIRECTORY, directory);
        }
        if let Some(file) = self.selected_file()
            && let Some(refresh) = &file.hooks.refresh
        {
            file.data = refresh();
        }
        let known = self.items.contains_key(&self.st.selected) || self.selected_file().is_some();
        trace_event!(fw_cfg_select, "key {number:#06x}, ret: {}", u8::from(known));
    }

    /// The rest of the selected item, from the current offset.
    fn rest(&mut self) -> &[u8] {
        let (selected, offset) = (self.st.selected, self.st.offset as usize);
        if !self.items.contains_key(&selected) {
            return match self.selected_file() {
                Some(file) => file.data.get(offset..).unwrap_or(&[]),
                None => &[],
            };
        }
        self.items.get(&selected).and_then(|data| data.get(offset..)).unwrap_or(&[])
    }

    fn read_byte(&mut self) -> u8 {
        let byte = self.rest().first().copied();
        if byte.is_some() {
            self.st.offset += 1;
        }
        let byte = byte.unwrap_or(0);
        trace_event!(fw_cfg_read, "= {byte:#04x}");
        byte
    }

    /// Carries out the DMA command at the address that was written.
    fn run_dma(&mut self) {
        const LENGTH: u64 = 4;
        const ADDRESS: u64 = 8;
        let at = std::mem::take(&mut self.st.dma_address);
        let mut command = [0; 16];
        if !self.dma.read(at, &mut command) {
            self.dma.write(at, &DMA_ERROR.to_be_bytes());
            return;
        }
        let word = |offset: u64| {
            let offset = offset as usize;
            u32::from_be_bytes(command[offset..offset + 4].try_into().unwrap_or_default())
        };
        let control = word(0);
        let length = word(LENGTH);
        let address = u64::from(word(ADDRESS)) << 32 | u64::from(word(ADDRESS + 4));
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let failed = if control & DMA_READ != 0 {
            !self.dma_read(address, length)
        } else if control & DMA_WRITE != 0 {
            !self.dma_write(address, length)
        } else {
            false
        };
        if control & DMA_SKIP != 0 && control & (DMA_READ | DMA_WRITE) == 0 {
            self.st.offset = self.st.offset.saturating_add(length);
        }
        self.dma.write(at, &if failed { DMA_ERROR } else { 0 }.to_be_bytes());
    }

    /// Copies item content to the guest, and zeros behind its end.
    fn dma_read(&mut self, address: u64, length: u32) -> bool {
        let available = self.rest().len().min(length as usize);
        let chunk = self.rest()[..available].to_vec();
        self.st.offset += available as u32;
        let mut done = self.dma.write(address, &chunk);
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut at = available as u64;
        // Stops at the first address that is not memory: a hostile length must not cost time.
        while done && at < length.into() {
            let count = (u64::from(length) - at).min(ZEROS.len() as u64);
            done = self.dma.write(address.wrapping_add(at), &ZEROS[..count as usize]);
            at += count;
        }
        done
    }

    fn dma_write(&mut self, address: u64, length: u32) -> bool {
        let dma = self.dma.clone();
        let offset = self.st.offset as usize;
        let Some(file) = self.selected_file() else { return false };
        let Some(written) = &file.hooks.written else { return false };
        let Some(target) =
            offset.checked_add(length as usize).and_then(|end| file.data.get_mut(offset..end))
        else {
            return false;
        };
        if !dma.read(address, target) {
            return false;
        }
        written(&file.data);
        self.st.offset += length;
        true
    }
}

impl Device for FwCfg {
    fn read(&mut self, region: u32, offset: u64, size: u8) -> u64 {
        match (region, offset, size) {
            // The selector reads as the data register does.
            (CONTROL, _, 1) => self.read_byte().into(),
            (CONTROL, ..) => 0,
            (_, 0..=7, 1..=8) => {
                // The signature, big-endian, whatever part of it is read.
                let shift = 8 * (8 - (offset + u64::from(size)).min(8));
                let value = DMA_SIGNATURE >> shift;
                value.swap_bytes() >> (64 - 8 * u32::from(size))
            }
            _ => 0,
        }
    }

    fn write(&mut self, region: u32, offset: u64, size: u8, value: u64) {
        match (region, offset, size) {
            (CONTROL, 0, 2) => self.select(value as u16),
            (CONTROL, ..) => {}
            (_, 0, 4) => self.st.dma_address = u64::from((value as u32).swap_bytes()) << 32,
            (_, 4, 4) => {
                self.st.dma_address |= u64::from((value as u32).swap_bytes());
                self.run_dma();
            }
            (_, 0, 8) => {
                self.st.dma_address = value.swap_bytes();
                self.run_dma();
            }
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.st = FwCfgState::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::memory::{AddressSpace, RamBlock};
    use parking_lot::Mutex;
    use std::sync::Arc;

    fn device() -> (FwCfg, AddressSpace) {
        let root = Region::container("memory", 1 << 64);
        root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", 0x10000).unwrap())), 0, 0);
        let space = AddressSpace::new("memory", root);
        (FwCfg::new(Dma::new(space.clone())), space)
    }

    fn read(device: &mut FwCfg, number: u16, count: usize) -> Vec<u8> {
        device.write(CONTROL, 0, 2, number.into());
        (0..count).map(|_| device.read(CONTROL, 1, 1) as u8).collect()
    }

    fn dma(device: &mut FwCfg, space: &AddressSpace, control: u32, length: u32, at: u64) -> u32 {
        space.write(0x100, &control.to_be_bytes());
        space.write(0x104, &length.to_be_bytes());
        space.write(0x108, &at.to_be_bytes());
        device.write(DMA, 4, 4, u64::from(0x100u32.swap_bytes()));
        (space.read_uint(0x100, 4) as u32).swap_bytes()
    }

    #[test]
    fn signature_and_features() {
        let (mut device, _) = device();
        assert_eq!(read(&mut device, item::SIGNATURE, 6), b"QEMU\0\0");
        assert_eq!(read(&mut device, item::ID, 4), [3, 0, 0, 0]);
        let halves = [device.read(DMA, 0, 4) as u32, device.read(DMA, 4, 4) as u32];
        assert_eq!(halves.map(u32::to_le_bytes).concat(), b"QEMU CFG");
    }

    #[test]
    fn files_are_listed_by_name() {
        let (mut device, _) = device();
        device.set_file("etc/b", vec![2; 5]).unwrap();
        device.set_file("etc/a", vec![1; 3]).unwrap();
        let directory = read(&mut device, item::FILE_DIRECTORY, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..12], [0, 0, 0, 3, 0, 0x20, 0, 0]);
        assert_eq!(&directory[12..18], b"etc/a\0");
        assert_eq!(read(&mut device, 0x21, 6), [2, 2, 2, 2, 2, 0]);
    }

    #[test]
    fn dma_reads_and_pads_with_zeros() {
        let (mut device, space) = device();
        device.set_file("f", b"hello".to_vec()).unwrap();
        space.write(0x200, &[0xff; 16]);
        let control = 0x20 << 16 | DMA_SELECT | DMA_READ;
        assert_eq!(dma(&mut device, &space, control, 8, 0x200), 0);
        let mut bytes = [0; 9];
        space.read(0x200, &mut bytes);
        assert_eq!(&bytes, b"hello\0\0\0\xff");
        assert_eq!(dma(&mut device, &space, control, !0, 0x8000), DMA_ERROR, "beyond RAM");
    }

    #[test]
    fn only_writable_files_are_written() {
        let (mut device, space) = device();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let hook = seen.clone();
        let hooks = FileHooks {
            written: Some(Box::new(move |data| *hook.lock() = data.to_vec())),
            refresh: None,
        };
        device.add_file("a", vec![0; 4], hooks).unwrap();
        device.set_file("b", vec![0; 4]).unwrap();
        space.write(0x200, &[1, 2, 3, 4]);
        let select = |number: u32| number << 16 | DMA_SELECT | DMA_WRITE;
        assert_eq!(dma(&mut device, &space, select(0x20), 4, 0x200), 0);
        assert_eq!(*seen.lock(), [1, 2, 3, 4]);
        assert_eq!(dma(&mut device, &space, select(0x20), 5, 0x200), DMA_ERROR);
        assert_eq!(dma(&mut device, &space, select(0x21), 4, 0x200), DMA_ERROR);
    }

    #[test]
    fn names_are_checked() {
        let (mut device, _) = device();
        let add = |device: &mut FwCfg, name: &str| {
            device.add_file(name, Vec::new(), FileHooks::default())
        };
        assert_eq!(add(&mut device, "x"), Ok(()));
        assert_eq!(add(&mut device, "x"), Err(FwCfgError::Duplicate("x".into())));
        let long = "y".repeat(56);
        assert_eq!(add(&mut device, &long), Err(FwCfgError::NameTooLong(long)));
    }
}
