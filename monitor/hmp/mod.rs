//! The human monitor: commands for people at a `(qemu) ` prompt.

mod command;

pub(crate) use command::execute;
