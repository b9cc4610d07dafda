//! JSON as QMP speaks it: values follow each other on a stream without separators, strings may
//! also be in single quotes, and what is sent is pure ASCII.

mod parser;
mod writer;

pub(crate) use parser::Stream;
pub(crate) use writer::{line, pretty};
