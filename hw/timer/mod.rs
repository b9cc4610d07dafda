//! Clocks and timers of the board.

pub mod i8254;
