//! Derive macros for properties and saved state.
