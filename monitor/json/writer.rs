//! Writing: one object to a line, in the form that people's scripts match on.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// A value on one line, with its line end.
pub(crate) fn line(value: &Value) -> Vec<u8> {
    write(value, Ascii(Spaced))
}

/// A value spread over lines.
pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    write(value, Ascii(PrettyFormatter::with_indent(b"    ")))
}

fn write(value: &Value, formatter: impl Formatter) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
    // A JSON value has string keys, and memory does not refuse bytes: nothing can fail.
    let _ = value.serialize(&mut serializer);
    bytes.extend(b"\r\n");
    bytes
}

/// `{"a": 1, "b": 2}`
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }
    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

/// Another form, with everything outside of printable ASCII escaped.
struct Ascii<F>(F);

macro_rules! delegate {
    ($($method:ident($($arg:ident: $type:ty),*));* $(;)?) => {
        $(fn $method<W: ?Sized + io::Write>(&mut self, w: &mut W, $($arg: $type),*) -> io::Result<()> {
            self.0.$method(w, $($arg),*)
        })*
    };
}

impl<F: Formatter> Formatter for Ascii<F> {
    delegate! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            if matches!(c, ' '..='~') {
                w.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(w, "\\u{unit:04X}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_form_is_that_of_qemu() {
        let value = json!({"a": [1, 2.5, "x"], "b": {}, "c": "é😀\n\u{7f}\"\\"});
        assert_eq!(
            String::from_utf8(line(&value)).unwrap(),
            "{\"a\": [1, 2.5, \"x\"], \"b\": {}, \"c\": \"\\u00E9\\uD83D\\uDE00\\n\\u007F\\\"\\\\\"}\r\n"
        );
        let nested = String::from_utf8(pretty(&json!({"a": {"b": 1}}))).unwrap();
        assert_eq!(nested, "{\n    \"a\": {\n        \"b\": 1\n    }\n}\r\n");
    }
}
