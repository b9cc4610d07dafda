//! The privileged half of the architecture: segmentation, control transfers between segments and
//! rings, interrupts, tasks, control registers, system management mode.
//!
//! What is here runs with `state.rip` at the next instruction and changes nothing when it returns
//! an exception, unless the architecture says so (task switches fault in the new task).

mod control;
mod event;
mod far;
mod fast;
mod flags;
mod gate;
mod hypercall;
mod misc;
mod msr;
mod port;
mod returns;
mod segment;
mod smm;
mod stack;
mod task;
mod v86;

pub(crate) use msr::debugctl;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
