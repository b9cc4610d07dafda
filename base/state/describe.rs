//! A saved state for people, without knowing the types it came from.

use super::format::{Fields, Tag};
use super::{Reader, State, StateError, Value};

/// No state of ours nests deeper; a hostile one must not exhaust the stack.
const MAX_DEPTH: usize = 64;

/// The tree of one encoded value. Bytes are shown as hexadecimal text, a variant without fields as
/// its name, one with fields as an object of one member.
pub fn describe(reader: &mut Reader<'_>) -> Result<Value, StateError> {
    value(reader, MAX_DEPTH)
}

fn value(reader: &mut Reader<'_>, depth: usize) -> Result<Value, StateError> {
    let depth = depth.checked_sub(1).ok_or_else(StateError::too_deep)?;
    // The tag is looked at twice: here, and by the reader of the value.
    let tag = reader.clone().tag()?;
    Ok(match tag {
        Tag::Bool => bool::decode(reader)?.into(),
        Tag::U8 => u8::decode(reader)?.into(),
        Tag::U16 => u16::decode(reader)?.into(),
        Tag::U32 => u32::decode(reader)?.into(),
        Tag::U64 => u64::decode(reader)?.into(),
        Tag::U128 => format!("{:#034x}", u128::decode(reader)?).into(),
        Tag::I8 => i8::decode(reader)?.into(),
        Tag::I16 => i16::decode(reader)?.into(),
        Tag::I32 => i32::decode(reader)?.into(),
        Tag::I64 => i64::decode(reader)?.into(),
        Tag::Text => String::decode(reader)?.into(),
        Tag::Bytes => hex(reader.blob(Tag::Bytes)?).into(),
        Tag::List => {
            let count = reader.list()?;
            (0..count).map(|_| value(reader, depth)).collect::<Result<_, _>>()?
        }
        Tag::None => {
            reader.tag()?;
            Value::Null
        }
        Tag::Some => {
            reader.tag()?;
            value(reader, depth)?
        }
        Tag::Struct => fields(reader.fields(u32::MAX)?, depth)?,
        Tag::Variant => {
            let (name, body) = reader.variant(u32::MAX)?;
            if body.entries.is_empty() {
                name.into()
            } else {
                Value::Object([(name.to_string(), fields(body, depth)?)].into_iter().collect())
            }
        }
    })
}

fn fields(fields: Fields<'_>, depth: usize) -> Result<Value, StateError> {
    let member = |(name, bytes): (&str, &[u8])| {
        let value = value(&mut Reader::new(bytes), depth).map_err(|error| error.at(name))?;
        Ok((name.to_string(), value))
    };
    Ok(Value::Object(fields.entries.into_iter().map(member).collect::<Result<_, StateError>>()?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
