//! A bus and the functions plugged into it.

use std::sync::{Arc, Weak};

use base::device::Shared;
use base::irq::IrqLine;
use base::memory::{AddressSpace, Dma, Region};
use parking_lot::{Mutex, RwLock};

use super::config::{ConfigSpace, ROM_BAR, reg};
use super::function::{Intx, PciDevice, PciFunction, PciWires, Seat};
use super::props::PciProps;
use super::rom::{self, RomError, RomFiles};

/// Why a device could not be plugged.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// Somebody is there already.
    #[error("PCI: slot {slot} function {function} not available for {new}, in use by {old}")]
    InUse {
        /// Slot number.
        slot: u8,
        /// Function number.
        function: u8,
        /// The new device's type.
        new: String,
        /// The old device's type.
        old: String,
    },
    /// No slot is left.
    #[error("PCI: no slot/function available for {0}, all in use or reserved")]
    Full(String),
    /// Its expansion ROM.
    #[error(transparent)]
    Rom(#[from] RomError),
}

/// Maps a function and its pin (1 to 4) to one of the host's interrupt inputs.
pub type IntxMap = fn(devfn: u8, pin: u8) -> usize;

/// A PCI bus.
pub struct PciBus {
    me: Weak<PciBus>,
    memory: Region,
    io: Region,
    dma_space: AddressSpace,
    functions: RwLock<Vec<Option<Arc<PciFunction>>>>,
    intx_map: IntxMap,
    outputs: Vec<IrqLine>,
    rom_files: Box<dyn RomFiles>,
    /// How many functions hold each output high.
    pulls: Mutex<Vec<u32>>,
}

impl PciBus {
    /// A bus whose BARs appear in `memory` and `io`, whose devices reach `dma_space`, whose INTx pins
    /// end at `outputs`, and whose expansion ROMs are among `rom_files`.
    pub fn new(
        memory: Region,
        io: Region,
        dma_space: AddressSpace,
        intx_map: IntxMap,
        outputs: Vec<IrqLine>,
        rom_files: Box<dyn RomFiles>,
    ) -> Arc<Self> {
        let pulls = Mutex::new(vec![0; outputs.len()]);
        Arc::new_cyclic(|me| PciBus {
            me: me.clone(),
            memory,
            io,
            dma_space,
            functions: RwLock::new(vec![None; 256]),
            intx_map,
            outputs,
            rom_files,
            pulls,
        })
    }

    /// Where memory BARs appear.
    pub fn memory(&self) -> &Region {
        &self.memory
    }

    /// Where port BARs appear.
    pub fn io(&self) -> &Region {
        &self.io
    }

    /// Where expansion ROMs come from.
    pub fn rom_files(&self) -> &dyn RomFiles {
        &*self.rom_files
    }

    /// Plugs a device that the operator adds, where its properties say or into the first free slot.
    /// `build` makes the model and the regions of its BARs from what the bus connects it to.
    pub fn plug<D: PciDevice>(
        &self,
        name: &str,
        props: &PciProps,
        config: ConfigSpace,
        build: impl FnOnce(PciWires) -> (Shared<D>, Vec<(usize, Region)>),
    ) -> Result<Arc<PciFunction>, PciError> {
        self.plug_with_rom(name, props, None, config, build)
    }

    /// As [`Self::plug`], for a type whose devices have an expansion ROM unless the operator wants
    /// another or none.
    pub fn plug_with_rom<D: PciDevice>(
        &self,
        name: &str,
        props: &PciProps,
        usual_rom: Option<&str>,
        mut config: ConfigSpace,
        build: impl FnOnce(PciWires) -> (Shared<D>, Vec<(usize, Region)>),
    ) -> Result<Arc<PciFunction>, PciError> {
        let devfn = self.place(name, props.devfn())?;
        props.apply(&mut config);
        let rom = rom::load(props, usual_rom, &mut config, &*self.rom_files)?;
        self.seat(name, devfn, config, |wires| {
            let (device, mut bars) = build(wires);
            bars.extend(rom.map(|region| (ROM_BAR, region)));
            (device, bars)
        })
    }

    /// Whether there is a place for a device, for those who have something else to do before they plug
    /// it.
    pub fn check_place(&self, name: &str, props: &PciProps) -> Result<(), PciError> {
        self.place(name, props.devfn()).map(drop)
    }

    /// Plugs a chip of the board, as [`Self::plug`] does a device.
    pub fn plug_chip<D: PciDevice>(
        &self,
        name: &str,
        devfn: u8,
        config: ConfigSpace,
        build: impl FnOnce(PciWires) -> (Shared<D>, Vec<(usize, Region)>),
    ) -> Result<Arc<PciFunction>, PciError> {
        let devfn = self.place(name, Some(devfn))?;
        self.seat(name, devfn, config, build)
    }

    fn seat<D: PciDevice>(
        &self,
        name: &str,
        devfn: u8,
        config: ConfigSpace,
        build: impl FnOnce(PciWires) -> (Shared<D>, Vec<(usize, Region)>),
    ) -> Result<Arc<PciFunction>, PciError> {
        let intx = Intx::new(self.me.clone(), devfn, config.u8(reg::INTERRUPT_PIN));
        let dma = Dma::new(self.dma_space.clone());
        let wires = PciWires { intx: IrqLine::new(intx.clone(), 0), dma: dma.clone() };
        let (device, bars) = build(wires);
        let seat = Seat { bus: self.me.clone(), devfn, intx, dma };
        let function = Arc::new(PciFunction::new(seat, name, config, device, bars));
        self.functions.write()[usize::from(devfn)] = Some(function.clone());
        function.reset();
        Ok(function)
    }

    fn place(&self, name: &str, devfn: Option<u8>) -> Result<u8, PciError> {
        let functions = self.functions.read();
        match devfn {
            Some(devfn) => match &functions[usize::from(devfn)] {
                None => Ok(devfn),
                Some(old) => Err(PciError::InUse {
                    slot: devfn >> 3,
                    function: devfn & 7,
                    new: name.into(),
                    old: old.shown_name(),
                }),
            },
            None => (0..=255u8)
                .step_by(8)
                .find(|&devfn| functions[usize::from(devfn)].is_none())
                .ok_or_else(|| PciError::Full(name.into())),
        }
    }

    /// Takes a function out. It goes when the caller drops it, which may have to wait for what it has
    /// under way.
    pub fn unplug(&self, devfn: u8) -> Option<Arc<PciFunction>> {
        let function = self.functions.write()[usize::from(devfn)].take()?;
        function.detach();
        Some(function)
    }

    /// The function at a place.
    pub fn function(&self, devfn: u8) -> Option<Arc<PciFunction>> {
        self.functions.read()[usize::from(devfn)].clone()
    }

    /// All functions, by place.
    pub fn functions(&self) -> Vec<Arc<PciFunction>> {
        self.functions.read().iter().flatten().cloned().collect()
    }

    /// Resets every function.
    pub fn reset(&self) {
        self.functions().iter().for_each(|function| function.reset());
    }

    pub(super) fn set_intx(&self, devfn: u8, pin: u8, level: bool) {
        let n = (self.intx_map)(devfn, pin);
        let mut pulls = self.pulls.lock();
        if let (Some(count), Some(output)) = (pulls.get_mut(n), self.outputs.get(n)) {
            *count = if level { *count + 1 } else { count.saturating_sub(1) };
            output.set(*count > 0);
        }
    }
}
