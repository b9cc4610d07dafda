//! Derive macros for typed properties (`Props`) and saved state (`State`).
//!
//! What they accept and what they expand to is documented where the traits live: `base::props`
//! and `base::state`.

mod props;
mod state;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `base::props::Props` and `Default` for a struct of properties.
#[proc_macro_derive(Props, attributes(prop))]
pub fn derive_props(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    props::expand(&input).unwrap_or_else(|error| error.into_compile_error()).into()
}

/// Implements `base::state::State` (and, when asked to by `reset`, `Default`).
#[proc_macro_derive(State, attributes(state))]
pub fn derive_state(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    state::expand(&input).unwrap_or_else(|error| error.into_compile_error()).into()
}
