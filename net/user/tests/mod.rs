//! The whole back end against a guest that is made of frames, and sockets of this host.

mod basics;
mod ipv6;
mod lossy;
mod tcp;
mod world;
