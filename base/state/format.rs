//! The encoding: little endian, each value headed by a byte that tells its type.
//!
//! | value | after the type byte |
//! | --- | --- |
//! | integers, `bool` | the value in its own width |
//! | text, bytes | `u32` length, contents |
//! | list | `u32` count, the values |
//! | none / some | nothing / the value |
//! | struct | `u32` version, `u16` count, fields |
//! | variant | name, then as a struct |
//!
//! A field is its name, the `u32` length of the value, and the value. A name is a `u8` length and
//! UTF-8 text.

use super::{State, StateError};

/// The type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tag {
    Bool = 0x01,
    U8 = 0x10,
    U16,
    U32,
    U64,
    U128,
    I8 = 0x20,
    I16,
    I32,
    I64,
    Text = 0x30,
    Bytes,
    List,
    None = 0x40,
    Some,
    Struct = 0x50,
    Variant,
}

const TAGS: [(Tag, &str); 17] = [
    (Tag::Bool, "bool"),
    (Tag::U8, "u8"),
    (Tag::U16, "u16"),
    (Tag::U32, "u32"),
    (Tag::U64, "u64"),
    (Tag::U128, "u128"),
    (Tag::I8, "i8"),
    (Tag::I16, "i16"),
    (Tag::I32, "i32"),
    (Tag::I64, "i64"),
    (Tag::Text, "text"),
    (Tag::Bytes, "bytes"),
    (Tag::List, "list"),
    (Tag::None, "none"),
    (Tag::Some, "some"),
    (Tag::Struct, "struct"),
    (Tag::Variant, "variant"),
];

impl Tag {
    fn from_byte(byte: u8) -> Result<Self, StateError> {
        let found = TAGS.iter().find(|(tag, _)| *tag as u8 == byte);
        found.map(|(tag, _)| *tag).ok_or_else(|| StateError::unknown_type(byte))
    }

    fn name(self) -> &'static str {
        TAGS.iter().find(|(tag, _)| *tag == self).map_or("?", |(_, name)| name)
    }
}

/// Collects an encoding.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn tagged(&mut self, tag: Tag, bytes: &[u8]) {
        self.bytes.push(tag as u8);
        self.raw(bytes);
    }

    pub(super) fn blob(&mut self, tag: Tag, len: usize, bytes: impl Iterator<Item = u8>) {
        self.tagged(tag, &(len as u32).to_le_bytes());
        self.bytes.extend(bytes);
    }

    /// The head of a list; its values follow.
    pub fn list(&mut self, count: usize) {
        self.tagged(Tag::List, &(count as u32).to_le_bytes());
    }

    /// A struct. The derived code calls this.
    pub fn fields(&mut self, version: u32, fields: &[(&str, &dyn State)]) {
        self.bytes.push(Tag::Struct as u8);
        self.field_list(version, fields);
    }

    /// A variant of an enumeration. The derived code calls this.
    pub fn variant(&mut self, name: &str, version: u32, fields: &[(&str, &dyn State)]) {
        self.bytes.push(Tag::Variant as u8);
        self.name(name);
        self.field_list(version, fields);
    }

    fn field_list(&mut self, version: u32, fields: &[(&str, &dyn State)]) {
        self.raw(&version.to_le_bytes());
        self.raw(&(fields.len() as u16).to_le_bytes());
        for (name, value) in fields {
            self.name(name);
            self.sized(|writer| value.encode(writer));
        }
    }

    /// What `write` writes, behind its length.
    pub(super) fn sized(&mut self, write: impl FnOnce(&mut Self)) {
        let start = self.bytes.len() + 4;
        self.raw(&[0; 4]);
        write(self);
        let len = (self.bytes.len() - start) as u32;
        self.bytes[start - 4..start].copy_from_slice(&len.to_le_bytes());
    }

    /// Names are identifiers of this program: shorter than 256 bytes.
    pub(super) fn name(&mut self, name: &str) {
        debug_assert!(name.len() < 256);
        self.bytes.push(name.len() as u8);
        self.raw(name.as_bytes());
    }
}

/// Reads an encoding, trusting nothing in it.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes }
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Fails unless all was read.
    pub fn finish(&self) -> Result<(), StateError> {
        if self.is_empty() { Ok(()) } else { Err(StateError::trailing_bytes()) }
    }

    pub(super) fn raw(&mut self, len: usize) -> Result<&'a [u8], StateError> {
        let (head, tail) = self.bytes.split_at_checked(len).ok_or_else(StateError::truncated)?;
        self.bytes = tail;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let (head, tail) = self.bytes.split_first_chunk().ok_or_else(StateError::truncated)?;
        self.bytes = tail;
        Ok(*head)
    }

    pub(super) fn length(&mut self) -> Result<usize, StateError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    pub(super) fn tag(&mut self) -> Result<Tag, StateError> {
        Tag::from_byte(self.array::<1>()?[0])
    }

    pub(super) fn expect(&mut self, expected: Tag) -> Result<(), StateError> {
        let found = self.tag()?;
        if found == expected {
            Ok(())
        } else {
            Err(StateError::wrong_type(expected.name(), found.name()))
        }
    }

    pub(super) fn tagged<const N: usize>(&mut self, tag: Tag) -> Result<[u8; N], StateError> {
        self.expect(tag)?;
        self.array()
    }

    pub(super) fn blob(&mut self, tag: Tag) -> Result<&'a [u8], StateError> {
        self.expect(tag)?;
        let len = self.length()?;
        self.raw(len)
    }

    /// The head of a list: how many values follow.
    pub fn list(&mut self) -> Result<usize, StateError> {
        self.expect(Tag::List)?;
        self.count()
    }

    /// A count of values, of which each takes a byte at least.
    pub(super) fn count(&mut self) -> Result<usize, StateError> {
        let count = self.length()?;
        if count > self.bytes.len() { Err(StateError::truncated()) } else { Ok(count) }
    }

    /// The fields of a struct. The derived code calls this.
    pub fn fields(&mut self, supported: u32) -> Result<Fields<'a>, StateError> {
        self.expect(Tag::Struct)?;
        self.field_list(supported)
    }

    /// Name and fields of a variant. The derived code calls this.
    pub fn variant(&mut self, supported: u32) -> Result<(&'a str, Fields<'a>), StateError> {
        self.expect(Tag::Variant)?;
        Ok((self.name()?, self.field_list(supported)?))
    }

    pub(super) fn field_list(&mut self, supported: u32) -> Result<Fields<'a>, StateError> {
        let version = u32::from_le_bytes(self.array()?);
        if version > supported {
            return Err(StateError::newer_version(version, supported));
        }
        let mut entries: Vec<(&str, &[u8])> = Vec::new();
        for _ in 0..u16::from_le_bytes(self.array()?) {
            let name = self.name()?;
            let len = self.length()?;
            let value = self.raw(len).map_err(|error| error.at(name))?;
            entries.push((name, value));
        }
        Ok(Fields { version, entries })
    }

    pub(super) fn name(&mut self) -> Result<&'a str, StateError> {
        let len = self.array::<1>()?[0];
        std::str::from_utf8(self.raw(usize::from(len))?).map_err(|_| StateError::not_text())
    }
}

/// The fields of a struct that is being read.
#[derive(Debug)]
pub struct Fields<'a> {
    version: u32,
    pub(super) entries: Vec<(&'a str, &'a [u8])>,
}

impl Fields<'_> {
    /// Reads the field `name`.
    pub fn take<T: State>(&mut self, name: &str) -> Result<T, StateError> {
        self.find(name)?.ok_or_else(|| StateError::missing_field(name))
    }

    /// Reads the field `name`, which saves before version `since` do not have.
    pub fn take_since<T: State>(
        &mut self,
        name: &str,
        since: u32,
        default: impl FnOnce() -> T,
    ) -> Result<T, StateError> {
        match self.find(name)? {
            Some(value) => Ok(value),
            None if self.version < since => Ok(default()),
            None => Err(StateError::missing_field(name)),
        }
    }

    /// Fails if there are fields that nobody asked for.
    pub fn finish(self) -> Result<(), StateError> {
        match self.entries.first() {
            Some((name, _)) => Err(StateError::unknown_field(name)),
            None => Ok(()),
        }
    }

    fn find<T: State>(&mut self, name: &str) -> Result<Option<T>, StateError> {
        let Some(index) = self.entries.iter().position(|(entry, _)| *entry == name) else {
            return Ok(None);
        };
        let (_, bytes) = self.entries.remove(index);
        if self.entries.iter().any(|(entry, _)| *entry == name) {
            return Err(StateError::duplicate_field(name));
        }
        let mut reader = Reader::new(bytes);
        let read = T::decode(&mut reader).and_then(|value| reader.finish().map(|()| value));
        read.map(Some).map_err(|error| error.at(name))
    }
}
