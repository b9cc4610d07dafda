//! Sections: the states of many devices in one stream.
//!
//! A section is a name, the `u32` instance, the `u32` version, the `u32` length and the body. The
//! order of sections carries no meaning; the reader finds the device by name and instance.

use super::{DynState, Reader, StateError, Writer};

impl Writer {
    /// Appends a section with the state of one device.
    pub fn section(&mut self, name: &str, instance: u32, state: &dyn DynState) {
        self.name(name);
        self.raw(&instance.to_le_bytes());
        self.raw(&state.state_version().to_le_bytes());
        self.sized(|writer| state.save(writer));
    }
}

/// One section of a stream.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    /// The kind of device.
    pub name: &'a str,
    /// Which of them.
    pub instance: u32,
    /// The version that wrote it.
    pub version: u32,
    body: &'a [u8],
}

impl Section<'_> {
    /// Puts the section's contents into the device, or says why not and leaves the device alone.
    pub fn load_into(&self, state: &mut dyn DynState) -> Result<(), StateError> {
        let supported = state.state_version();
        if self.version > supported {
            return Err(StateError::newer_version(self.version, supported).at(self.name));
        }
        state.load(self.body).map_err(|error| error.at(self.name))
    }

    /// The contents for people.
    pub fn dump(&self) -> Result<super::Value, StateError> {
        super::describe(&mut Reader::new(self.body))
    }
}

/// The sections of a stream, in order. Ends after the first malformed one.
#[derive(Clone, Debug)]
pub struct Sections<'a> {
    reader: Reader<'a>,
}

impl<'a> Sections<'a> {
    /// Reads `bytes` from the start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Sections { reader: Reader::new(bytes) }
    }

    fn read(&mut self) -> Result<Section<'a>, StateError> {
        let reader = &mut self.reader;
        let name = reader.name()?;
        let instance = u32::from_le_bytes(reader.array()?);
        let version = u32::from_le_bytes(reader.array()?);
        let len = reader.length()?;
        let body = reader.raw(len).map_err(|error| error.at(name))?;
        Ok(Section { name, instance, version, body })
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let section = self.read();
        if section.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(section)
    }
}
