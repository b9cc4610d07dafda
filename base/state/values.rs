//! The types that state is made of.

use std::collections::{BTreeMap, VecDeque};

use super::format::Tag;
use super::{Reader, State, StateError, Writer};

macro_rules! integer_state {
    ($($ty:ty, $tag:ident;)*) => {$(
        impl State for $ty {
            fn encode(&self, writer: &mut Writer) {
                writer.tagged(Tag::$tag, &self.to_le_bytes());
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
                reader.tagged(Tag::$tag).map(<$ty>::from_le_bytes)
            }
        }
    )*};
}

integer_state! {
    u16, U16;
    u32, U32;
    u64, U64;
    u128, U128;
    i8, I8;
    i16, I16;
    i32, I32;
    i64, I64;
}

/// Lists of `u8` are written as bytes.
impl State for u8 {
    fn encode(&self, writer: &mut Writer) {
        writer.tagged(Tag::U8, &[*self]);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        reader.tagged(Tag::U8).map(u8::from_le_bytes)
    }

    fn encode_list(items: &mut dyn ExactSizeIterator<Item = &Self>, writer: &mut Writer) {
        writer.blob(Tag::Bytes, items.len(), items.copied());
    }

    fn decode_list(reader: &mut Reader<'_>) -> Result<Vec<Self>, StateError> {
        reader.blob(Tag::Bytes).map(<[u8]>::to_vec)
    }
}

/// Written as `u64`, so that a save does not depend on the host.
impl State for usize {
    fn encode(&self, writer: &mut Writer) {
        (*self as u64).encode(writer);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        u64::decode(reader)?.try_into().map_err(|_| StateError::out_of_range())
    }
}

impl State for bool {
    fn encode(&self, writer: &mut Writer) {
        writer.tagged(Tag::Bool, &[u8::from(*self)]);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        match reader.tagged(Tag::Bool)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(StateError::out_of_range()),
        }
    }
}

impl State for String {
    fn encode(&self, writer: &mut Writer) {
        writer.blob(Tag::Text, self.len(), self.bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let bytes = reader.blob(Tag::Text)?;
        std::str::from_utf8(bytes).map(Into::into).map_err(|_| StateError::not_text())
    }
}

impl<T: State> State for Option<T> {
    fn encode(&self, writer: &mut Writer) {
        match self {
            None => writer.tagged(Tag::None, &[]),
            Some(value) => {
                writer.tagged(Tag::Some, &[]);
                value.encode(writer);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        match reader.tag()? {
            Tag::None => Ok(None),
            Tag::Some => T::decode(reader).map(Some),
            _ => Err(StateError::wrong_type("none or some", "something else")),
        }
    }
}

impl<T: State> State for Vec<T> {
    fn encode(&self, writer: &mut Writer) {
        T::encode_list(&mut self.iter(), writer);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        T::decode_list(reader)
    }
}

impl<T: State> State for VecDeque<T> {
    fn encode(&self, writer: &mut Writer) {
        T::encode_list(&mut self.iter(), writer);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        T::decode_list(reader).map(Into::into)
    }
}

impl<T: State, const N: usize> State for [T; N] {
    fn encode(&self, writer: &mut Writer) {
        T::encode_list(&mut self.iter(), writer);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let items = T::decode_list(reader)?;
        let found = items.len();
        items.try_into().map_err(|_| StateError::wrong_length(N, found))
    }
}

impl<T: State> State for Box<T> {
    fn encode(&self, writer: &mut Writer) {
        (**self).encode(writer);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        T::decode(reader).map(Box::new)
    }
}

/// A list of pairs.
impl<K: State + Ord, V: State> State for BTreeMap<K, V> {
    fn encode(&self, writer: &mut Writer) {
        writer.list(self.len());
        for (key, value) in self {
            writer.list(2);
            key.encode(writer);
            value.encode(writer);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Vec::<(K, V)>::decode(reader)?.into_iter().collect())
    }
}

macro_rules! tuple_state {
    ($count:literal: $($ty:ident $index:tt),+) => {
        impl<$($ty: State),+> State for ($($ty,)+) {
            fn encode(&self, writer: &mut Writer) {
                writer.list($count);
                $(self.$index.encode(writer);)+
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
                match reader.list()? {
                    $count => Ok(($($ty::decode(reader)?,)+)),
                    found => Err(StateError::wrong_length($count, found)),
                }
            }
        }
    };
}

tuple_state!(2: A 0, B 1);
tuple_state!(3: A 0, B 1, C 2);
tuple_state!(4: A 0, B 1, C 2, D 3);
