//! Watchdogs: unless the guest shows a sign of life in time, the machine is told that it hangs
//! ([`Request::WatchdogExpired`](base::request::Request::WatchdogExpired)), and the operator has
//! decided what then happens.

pub mod i6300esb;
pub mod ib700;
