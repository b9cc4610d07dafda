//! Boards, boot and run state.
