//! Clocks and timers of the board.

pub mod calendar;
pub mod hpet;
pub mod i8254;
pub mod rtc;
