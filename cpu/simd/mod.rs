//! What vector instructions compute: pure functions on 128-bit lanes, by mnemonic.

mod crypto;
mod float;
mod immediate;
mod integer;
mod lanes;
mod mmx;
mod strings;
mod vex;

pub use float::{
    Float, FloatTernary, FromInt, Order, ToInt, Unit, float, float_from_int, float_order,
    float_ternary, float_to_int,
};
pub use immediate::{
    BinaryImm, Ternary, Test, extract_bits, extract_lane, immediate_step, insert_bits, insert_lane,
    int_immediate, int_ternary, int_test, sign_mask,
};
pub use integer::{Binary, int_binary};
pub use mmx::{MmxBinary, mmx_binary, mmx_immediate};
pub use strings::{StringMatch, compare_strings};
pub use vex::{AcrossLanes, Vector, across_lanes, sse_name};
