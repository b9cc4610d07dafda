//! Networks on the host's side: what `-netdev` makes, and the cable to the guest's card.
//!
//! - [`Frame`]: an Ethernet frame in pieces, with what is left to be done to it ([`Offload`]).
//! - [`End`]: what a back end and a card are to each other. It takes frames, and is woken when the
//!   other one can take frames again.
//! - [`Cable`]: joins two ends, lane by lane (a multi-queue back end has several lanes). It knows
//!   whether the link is up, passes frames through the filters, and does in software
//!   ([`segment`]) what the receiver's hardware would have been spared.
//! - [`Plug`]: one side of one lane of a cable, through which an end sends.
//! - [`Networks`]: all that `-netdev` and `netdev_add` made, by id; the kinds of back ends and
//!   their options are tables ([`netdev`]).
//!
//! # How an end behaves
//!
//! [`End::deliver`] may come from any thread. An end locks inside, and calls nobody while it holds
//! its lock: it collects what there is to send, unlocks, and sends. It never answers from inside
//! `deliver`, `flush` or `wake`; an answer is sent from the end's own event loop. So no two ends can
//! wait for each other.
//!
//! A sender calls [`Plug::send`] for each frame of a burst and [`Plug::flush`] once after it: a card
//! interrupts the guest then; a back end gives the host what it has gathered, by one call, and begins to
//! work on its answers.
//!
//! A frame that gets [`Delivery::Full`] stays with the sender, who stops. When there is room, the
//! receiver calls [`Plug::ready`], and the sender's [`End::wake`] is called, in which it schedules
//! itself. It then sends what waits, and flushes in any case, as the cable may hold the rest of a
//! frame that it has taken apart.

mod address;
pub mod cable;
pub mod checksum;
mod dgram;
pub mod end;
mod error;
pub mod filter;
pub mod frame;
mod hub;
#[cfg(test)]
mod links_tests;
pub mod netdev;
mod networks;
pub mod offload;
pub mod options;
mod outbox;
mod packets;
pub mod segment;
mod socket;
mod stream;
mod tap;
#[cfg(test)]
mod testbed;
pub mod user;

pub use cable::{Cable, Plug, Side, next_arrival};
pub use end::{Backend, Delivery, End};
pub use error::NetError;
pub use frame::{Frame, Part};
pub use hub::hub_number;
pub use networks::{Netdev, Networks};
pub use offload::{Checksum, Gso, GsoKind, Offload, Offloads};
