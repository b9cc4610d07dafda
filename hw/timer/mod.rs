//! Clocks and timers of the board.

pub mod calendar;
pub mod i8254;
pub mod rtc;
