//! The grammar of command-line arguments: `key=value,...` and JSON.

pub mod number;
