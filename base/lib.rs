//! What everything stands on.
