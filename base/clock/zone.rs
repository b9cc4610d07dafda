//! The host's time zone.
//!
//! `unsafe` because the C library, which knows the zones, has no other interface.

#![allow(unsafe_code)]

/// Seconds by which local time is ahead of UTC at a time, given in seconds since 1970; zero where
/// the C library does not know.
pub fn local_offset(seconds: i64) -> i64 {
    // SAFETY: the structure is plain numbers and a pointer that may be null.
    let mut broken_down: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are good for the length of the call, which keeps neither.
    let known = unsafe { !libc::localtime_r(&seconds, &mut broken_down).is_null() };
    if known { broken_down.tm_gmtoff } else { 0 }
}
