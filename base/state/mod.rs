//! Saved state: what a device holds that the guest could see a difference in, declared once.
//!
//! A device keeps its volatile registers in a struct of their own:
//!
//! ```
//! use base::state::{DynState, State, StateError, Writer};
//!
//! #[derive(Debug, PartialEq, State)]
//! #[state(version = 2, reset, check)]
//! struct Uart {
//!     #[state(reset = 0x60)]
//!     lsr: u8,
//!     divisor: u16,
//!     fifo: std::collections::VecDeque<u8>,
//!     #[state(since = 2, default = 16)]
//!     depth: usize,
//!     #[state(skip = "follows from divisor")]
//!     nanoseconds_per_byte: u64,
//! }
//!
//! impl Uart {
//!     fn check(&self) -> Result<(), StateError> {
//!         if self.fifo.len() > 16 {
//!             return Err(StateError::invalid("the FIFO holds 16 bytes"));
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let mut writer = Writer::new();
//! Uart { divisor: 12, ..Uart::default() }.save(&mut writer);
//! let mut uart = Uart::default();
//! uart.load(&writer.into_bytes())?;
//! assert_eq!((uart.lsr, uart.divisor), (0x60, 12));
//! assert_eq!(uart.dump()["lsr"], 0x60);
//! # Ok::<(), StateError>(())
//! ```
//!
//! On the type: `version = N`; `check` calls `fn check(&self) -> Result<(), StateError>` on what was
//! read before anyone gets it; `reset` implements `Default` from the fields' `reset = expr` (the
//! state after power-on; other fields get their type's default).
//!
//! On a field: `since = N` says which version brought it, and `default = expr` what it is in older
//! saves; `skip = "reason"` leaves it out, and it is read back as its default.
//!
//! A load builds a whole value first and only then replaces the old one, so that a save that is cut
//! short, foreign or hostile leaves the device as it was. Lengths in the input are never trusted
//! with memory. Fields are found by name: an unknown or missing one is an error that names it.

mod describe;
mod error;
mod format;
mod section;
mod values;

pub use base_derive::State;
pub use describe::describe;
pub use error::StateError;
pub use format::{Fields, Reader, Writer};
pub use section::{Section, Sections};
pub use serde_json::Value;

/// A value that can be saved.
pub trait State {
    /// The version that this build writes.
    fn version() -> u32
    where
        Self: Sized,
    {
        0
    }

    /// Appends the value.
    fn encode(&self, writer: &mut Writer);

    /// Reads a value.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError>
    where
        Self: Sized;

    /// How a list of such values is written; bytes have a compact form.
    #[doc(hidden)]
    fn encode_list(items: &mut dyn ExactSizeIterator<Item = &Self>, writer: &mut Writer)
    where
        Self: Sized,
    {
        writer.list(items.len());
        items.for_each(|item| item.encode(writer));
    }

    /// The counterpart of `encode_list`.
    #[doc(hidden)]
    fn decode_list(reader: &mut Reader<'_>) -> Result<Vec<Self>, StateError>
    where
        Self: Sized,
    {
        let count = reader.list()?;
        let mut items = Vec::new();
        for index in 0..count {
            items.push(Self::decode(reader).map_err(|error| error.at(&index.to_string()))?);
        }
        Ok(items)
    }
}

/// [`State`] for whoever saves devices without knowing their types.
pub trait DynState {
    /// The version that this build writes.
    fn state_version(&self) -> u32;

    /// Appends the state.
    fn save(&self, writer: &mut Writer);

    /// Replaces the state by the saved one, of which `bytes` must be the whole; or says why not and
    /// leaves the state as it was.
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError>;

    /// The state for people.
    fn dump(&self) -> Value;
}

impl<T: State> DynState for T {
    fn state_version(&self) -> u32 {
        T::version()
    }

    fn save(&self, writer: &mut Writer) {
        self.encode(writer);
    }

    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = Reader::new(bytes);
        let state = T::decode(&mut reader)?;
        reader.finish()?;
        *self = state;
        Ok(())
    }

    fn dump(&self) -> Value {
        let mut writer = Writer::new();
        self.encode(&mut writer);
        describe(&mut Reader::new(&writer.into_bytes())).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
