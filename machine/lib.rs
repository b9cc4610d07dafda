//! Boards, boot and run state: what makes a machine of parts.

pub mod pc;
