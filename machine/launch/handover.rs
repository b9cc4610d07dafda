//! From power-up to a kernel that is started without firmware: the display's ROM runs in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::memory::{IoHandler, Region};
use base::request::{Request, RequestSink};
use hw::pci::{PciFunction, ROM_BAR, reg};

use crate::boot::starter::{self, DisplayRom, HANDOVER_PORT};
use crate::pc::board::Pc;
use crate::pc::roms;

/// The port that what runs first writes to when it is done.
pub(super) struct Handover {
    port: Region,
    asked: Arc<Asked>,
}

struct Asked {
    requests: RequestSink,
    /// So that a write before a reset does not count after it.
    yes: AtomicBool,
}

impl IoHandler for Asked {
    fn read(&self, _: u64, _: u8) -> u64 {
        u64::MAX
    }
    fn write(&self, _: u64, _: u8, _: u64) {
        if !self.yes.swap(true, Ordering::AcqRel) {
            self.requests.send(Request::StartKernel);
        }
    }
}

impl Handover {
    pub fn create(pc: &Pc, requests: RequestSink) -> Self {
        let asked = Arc::new(Asked { requests, yes: AtomicBool::new(false) });
        let port = Region::io("handover", 1, asked.clone());
        port.set_enabled(false);
        pc.map.ports.root().add(&port, HANDOVER_PORT, 1);
        Handover { port, asked }
    }

    /// Waits for the write.
    pub fn open(&self) {
        self.asked.yes.store(false, Ordering::Release);
        self.port.set_enabled(true);
    }

    /// Whether the write has come. From then on there is no such port.
    pub fn take(&self) -> bool {
        let asked = self.asked.yes.swap(false, Ordering::AcqRel);
        if asked {
            self.port.set_enabled(false);
        }
        asked
    }
}

/// The register of a function's base class, and what displays have there.
const CLASS: usize = reg::SUBCLASS + 1;
const DISPLAY: u8 = 3;
const ROM_ENABLE: u32 = 1;
const ROM_ADDRESS: u32 = 0xffff_f800;

/// The ROM of the first display; its BARs have been placed.
pub(super) fn display_rom(pc: &Pc) -> Option<DisplayRom> {
    let functions = pc.pci.functions();
    let mut displays = functions.iter().filter(|function| function.config().u8(CLASS) == DISPLAY);
    let of_pci = displays.find_map(|function| {
        Some(DisplayRom { image: rom_of(pc, function)?, place: function.devfn().into() })
    });
    of_pci.or_else(|| {
        let image = roms::first_display(&pc.fw_cfg.lock())?.to_vec();
        Some(DisplayRom { image, place: 0 })
    })
}

/// What a function's ROM BAR shows.
fn rom_of(pc: &Pc, function: &PciFunction) -> Option<Vec<u8>> {
    let size = (*function.config().bars().get(ROM_BAR)?)?.size;
    let closed = function.config().u32(reg::ROM);
    function.config_write(reg::ROM, 4, closed | ROM_ENABLE);
    let mut image = vec![0; usize::try_from(size).ok()?.min(starter::LARGEST)];
    pc.map.memory.read(u64::from(closed & ROM_ADDRESS), &mut image);
    function.config_write(reg::ROM, 4, closed);
    Some(image)
}
