//! What the fuzz targets share: a whole board, and ways to knock at its registers.
//!
//! An input is a list of steps, made of the fuzzer's bytes by [`arbitrary`].

mod adapter;
mod board;
mod card;
mod code;
mod disk;
mod steps;
mod wire;

pub use adapter::{Act, Adapter};
pub use board::Board;
pub use card::{Card, Deed, RINGS};
pub use code::Code;
pub use disk::Memory;
pub use steps::{Place, Size, Step, knock};
pub use wire::{Socket, Wire};
