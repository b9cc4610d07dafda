//! What instructions do: one function per operation, generic over operand width and kind.

pub mod alu;
pub mod area;
pub mod bit;
pub mod branch;
mod bulk;
pub mod cond;
pub mod decimal;
pub mod float;
pub mod form;
pub mod masked;
pub mod movement;
pub mod muldiv;
pub mod shift;
pub mod sse;
pub mod stack;
pub mod string;
pub mod system;
pub mod vector;
pub mod x87;
pub mod xsave;
