//! Requests of HTTP/1.1 (RFC 9112), as far as servers for browsers need them.

/// Longest head of a request.
pub const MAX_HEAD: usize = 8 << 10;
/// Most fields of one.
const MAX_FIELDS: usize = 64;

/// The head of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub method: String,
    /// With what: the path, and perhaps a query.
    pub target: String,
    /// Names and values.
    fields: Vec<(String, String)>,
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They mean something else.
    Malformed,
    /// It goes on and on.
    TooLong,
}

impl Request {
    /// Reads a head, and says how many bytes it has; `None` while it is not all there.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Fault> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooLong),
            Err(_) => return Err(Fault::Malformed),
        };
        let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version)
        else {
            return Err(Fault::Malformed);
        };
        let field = |field: &httparse::Header<'_>| {
            let value = std::str::from_utf8(field.value).map_err(|_| Fault::Malformed)?;
            Ok((field.name.to_owned(), value.trim().to_owned()))
        };
        let fields = request.headers.iter().map(field).collect::<Result<_, Fault>>()?;
        let request = Request { method: method.into(), target: target.into(), fields };
        Ok(Some((request, length)))
    }

    /// The value of a field, the first if there are several.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).next()
    }

    /// The value of a field that may occur only once; an error if it does not keep to that.
    pub fn single(&self, name: &str) -> Result<Option<&str>, Fault> {
        let mut values = self.fields(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(Fault::Malformed),
        }
    }

    fn fields(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.fields.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    /// The items of a field that is a list.
    pub fn items(&self, name: &str) -> impl Iterator<Item = &str> {
        self.fields(name).flat_map(|value| value.split(',')).map(str::trim)
    }

    /// Whether a list has an item, in whatever letters.
    pub fn lists(&self, name: &str, wanted: &str) -> bool {
        self.items(name).any(|item| item.eq_ignore_ascii_case(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_when_they_are_all_there() {
        let text = b"GET /a?b HTTP/1.1\r\nHost:  here \r\nAccept: x, Y\r\naccept: z\r\n\r\nrest";
        for end in 0..text.len() - 4 {
            assert_eq!(Request::parse(&text[..end]), Ok(None), "{end}");
        }
        let (request, length) = Request::parse(text).unwrap().unwrap();
        assert_eq!(&text[length..], b"rest");
        assert_eq!((&*request.method, &*request.target), ("GET", "/a?b"));
        assert_eq!(request.single("host"), Ok(Some("here")));
        assert_eq!(request.single("accept"), Err(Fault::Malformed));
        assert_eq!(request.items("ACCEPT").collect::<Vec<_>>(), ["x", "Y", "z"]);
        assert!(request.lists("accept", "y") && !request.lists("accept", "w"));
    }

    #[test]
    fn what_is_too_long_or_something_else_is_refused() {
        let fault = |text: &[u8]| Request::parse(text).unwrap_err();
        assert_eq!(fault(b"RFB 003.008\n"), Fault::Malformed);
        assert_eq!(fault(b"GET / HTTP/1.0\r\n\r\n"), Fault::Malformed);
        assert_eq!(fault(b"GET / HTTP/1.1\r\nA: \xff\r\n\r\n"), Fault::Malformed);
        let many = "A: b\r\n".repeat(MAX_FIELDS + 1);
        assert_eq!(fault(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()), Fault::TooLong);
        let long = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(MAX_HEAD));
        assert_eq!(fault(long.as_bytes()), Fault::TooLong);
        assert_eq!(fault(format!("{long}\r\n\r\n").as_bytes()), Fault::TooLong);
    }
}
