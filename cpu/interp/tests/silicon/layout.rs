//! Where the instructions under test find themselves, natively and in the interpreter alike.

use crate::flags::bit;

/// The first address. All of it is low, so that absolute addresses and 32-bit code reach it.
pub const BASE: u64 = 0x80_0000;
/// What only the native side uses: saved state, and the code that switches between host and test.
pub const CONTEXT: u64 = BASE;
pub const STUB: u64 = BASE + 0x1000;
/// The instructions, a slot each; the last ones reach into the second page.
pub const CODE: u64 = BASE + 0x2000;
pub const CODE_LEN: usize = 0x2000;
pub const SLOT: usize = 64;
/// Two pages to read and write, a hole, a page to read, a hole.
pub const DATA: u64 = BASE + 0x4000;
pub const DATA_LEN: usize = 0x2000;
pub const HOLE: u64 = DATA + DATA_LEN as u64;
pub const CONSTANT: u64 = HOLE + 0x1000;
/// Everything.
pub const END: u64 = CONSTANT + 0x2000;

/// The address that an instruction pointer of 0 means. In 16-bit code the code segment begins where the
/// code does, and ends with it.
pub fn code_origin(bits: u32) -> u64 {
    if bits == 16 { CODE } else { 0 }
}

/// The address that an offset of 0 in the data segments means. In 16-bit code these begin with the data,
/// and end behind the last hole.
pub fn data_origin(bits: u32) -> u64 {
    if bits == 16 { DATA } else { 0 }
}

/// Limits of the segments of 16-bit code.
pub const CODE_LIMIT: u32 = CODE_LEN as u32 - 1;
pub const DATA_LIMIT: u32 = (END - DATA) as u32 - 1;

/// Length of the memory image of x87, SSE and AVX state.
pub const IMAGE: usize = 832;

/// The registers that instructions see and change.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    pub regs: [u64; 16],
    pub flags: u64,
    /// As XSAVE writes it, in the standard format.
    pub image: [u8; IMAGE],
}

/// Offsets in the image.
pub mod image {
    pub const CONTROL: usize = 0;
    pub const STATUS: usize = 2;
    pub const TAGS: usize = 4;
    pub const OPCODE: usize = 6;
    pub const OPERAND: usize = 16;
    pub const MXCSR: usize = 24;
    pub const MXCSR_MASK: usize = 28;
    pub const X87: usize = 32;
    pub const XMM: usize = 160;
    /// What is nobody's begins here.
    pub const UNUSED: usize = 416;
    pub const HEADER: usize = 512;
    pub const YMM: usize = 576;
}

impl State {
    pub fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.image[at..at + 4].try_into().unwrap())
    }
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        self.image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    /// The low and the high half of a vector register.
    pub fn vector(&self, number: usize) -> [u128; 2] {
        [image::XMM, image::YMM].map(|base| {
            let at = base + 16 * number;
            u128::from_le_bytes(self.image[at..at + 16].try_into().unwrap())
        })
    }
    pub fn set_vector(&mut self, number: usize, [low, high]: [u128; 2]) {
        self.set(image::XMM + 16 * number, &low.to_le_bytes());
        self.set(image::YMM + 16 * number, &high.to_le_bytes());
    }
}

/// The flags that user code can change.
pub const COMPARED: u64 = bit::ARITH | bit::DF | bit::TF | bit::NT | bit::AC | bit::ID;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exception, or `None` at the end of the code.
    pub vector: Option<u8>,
    /// Its error code; 0 if it has none.
    pub error: u64,
    /// The address of a page fault.
    pub address: u64,
    /// Where it ended.
    pub rip: u64,
}

impl Outcome {
    /// The same with the page of the address only.
    pub fn page(self) -> Self {
        Outcome { address: self.address & !0xfff, ..self }
    }
}
