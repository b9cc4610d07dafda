//! Display adapters: what a driver does with one, with looks at what it shows in between.

use arbitrary::Arbitrary;

use crate::{Board, Place, Step};

/// Where indexed registers are selected: sequencer, graphics controller, CRT controller.
const SETS: [u64; 3] = [0x3c4, 0x3ce, 0x3d4];
/// More of them than any adapter has.
const INDICES: u8 = 0x40;

/// An adapter on the PCI bus.
pub struct Adapter {
    /// Name of its type.
    pub device: &'static str,
    /// Vendor and device.
    pub id: u32,
    /// Registers of configuration space that place its BARs.
    pub bars: &'static [(u8, u64)],
    /// Where its registers and its memory are then.
    pub places: &'static [Place],
}

/// What a driver does.
#[derive(Arbitrary, Debug)]
pub enum Act {
    /// Writes an indexed register.
    Register { set: u8, index: u8, value: u8 },
    /// Writes a register of the attribute controller.
    Attribute { index: u8, value: u8 },
    /// Writes a register of Bochs' extension.
    Extension { index: u8, value: u16 },
    /// Somebody looks at the screen.
    Look { anew: bool },
    /// Anything else.
    Else(Step),
}

impl Adapter {
    /// Acts upon it, and looks at what came of it.
    pub fn drive(&self, acts: &[Act]) {
        Board::with_adapter(self.device, |board| {
            board.place(self.id, self.bars);
            acts.iter().for_each(|act| self.take(board, act));
            look(board, false);
        });
    }

    fn take(&self, board: &mut Board, act: &Act) {
        let ports = board.wired().ports();
        match *act {
            Act::Register { set, index, value } => {
                let port = SETS[usize::from(set) % SETS.len()];
                ports.write_uint(port, 1, (index % INDICES).into());
                ports.write_uint(port + 1, 1, value.into());
            }
            Act::Attribute { index, value } => {
                ports.read_uint(0x3da, 1);
                ports.write_uint(0x3c0, 1, index.into());
                ports.write_uint(0x3c0, 1, value.into());
            }
            Act::Extension { index, value } => {
                ports.write_uint(0x1ce, 2, (index % 16).into());
                ports.write_uint(0x1cf, 2, value.into());
            }
            Act::Look { anew } => look(board, anew),
            Act::Else(ref step) => step.take(board, self.places),
        }
    }
}

fn look(board: &Board, anew: bool) {
    for console in board.vm().consoles().all() {
        console.refresh(anew);
        console.text();
    }
}
