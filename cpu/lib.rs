//! Who runs guest code.
