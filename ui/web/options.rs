//! What `-web` says.

use std::fmt;

use base::chardev::{Family, SocketAddress};
use base::options::{OptDesc, OptGroup, OptType, Opts};

use super::WebError;

const DEFAULT_PORT: u16 = 6080;
/// Where nobody outside of the host comes.
const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_CONNECTIONS: u64 = 64;
/// Bytes of a token that is made up.
const TOKEN_BYTES: usize = 16;

const fn key(name: &'static str, ty: OptType, help: &'static str) -> OptDesc {
    OptDesc { name, ty, help }
}

/// The keys of `-web`.
pub const GROUP: OptGroup = OptGroup {
    name: "web",
    implied: Some("web"),
    keys: &[
        key("web", OptType::String, "[host]:port or unix:path"),
        key("addr", OptType::String, "address to listen at (127.0.0.1)"),
        key("port", OptType::Number, "port to listen at (6080); 0 is any that is free"),
        key("ipv4", OptType::Bool, "listen by IPv4"),
        key("ipv6", OptType::Bool, "listen by IPv6"),
        key("token", OptType::String, "what visitors have to know (made up)"),
        key("token-secret", OptType::String, "id of the secret that is the token"),
        key("tls-creds", OptType::String, "id of the credentials to encrypt with"),
        key("allow-host", OptType::String, "a name that the page may be reached by"),
        key("connections", OptType::Number, "visitors' connections at a time (64)"),
        key("lossy", OptType::Bool, "allow pictures to lose detail"),
    ],
};

/// What visitors have to know.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token that is given. It must be able to stand in a header as it is.
    pub fn new(text: &str) -> Result<Self, WebError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
        if text.is_empty() || !text.chars().all(is_plain) {
            let message = "a token consists of letters, digits, '-', '.', '_' and '~'";
            return Err(WebError::Refused(message.into()));
        }
        Ok(Token(text.into()))
    }

    /// A token that nobody can guess.
    pub fn random() -> Result<Self, WebError> {
        let mut bytes = [0; TOKEN_BYTES];
        let random = rustls::crypto::ring::default_provider().secure_random;
        let none = |_| WebError::Refused("the host has no random numbers".into());
        random.fill(&mut bytes).map_err(none)?;
        Ok(Token(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Whether this is it; takes the same time wherever they differ.
    pub fn is(&self, said: &str) -> bool {
        let (own, said) = (self.0.as_bytes(), said.as_bytes());
        let differing = own.iter().zip(said).fold(0, |all, (a, b)| all | (a ^ b));
        own.len() == said.len() && differing == 0
    }

    /// As it is told to the operator.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What `-web` says about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named as the options are.
pub struct Settings {
    pub address: SocketAddress,
    pub token: Option<Token>,
    pub token_secret: Option<String>,
    pub tls_creds: Option<String>,
    pub allowed_hosts: Vec<String>,
    pub connections: usize,
    pub lossy: bool,
}

impl Settings {
    /// Reads what was given.
    pub fn new(opts: &Opts) -> Result<Self, WebError> {
        let refused = |message: &str| Err(WebError::Refused(message.into()));
        let text = |key| opts.get(key).map(str::to_owned);
        let token = opts.get("token").map(Token::new).transpose()?;
        if token.is_some() && opts.get("token-secret").is_some() {
            return refused("'token' is redundant with 'token-secret'");
        }
        let connections = opts.number("connections")?.unwrap_or(DEFAULT_CONNECTIONS);
        if connections == 0 {
            return refused("a web console without connections is of no use");
        }
        Ok(Settings {
            address: address(opts)?,
            token,
            token_secret: text("token-secret"),
            tls_creds: text("tls-creds"),
            allowed_hosts: opts.get_all("allow-host").map(str::to_lowercase).collect(),
            connections: connections.try_into().unwrap_or(usize::MAX),
            lossy: opts.bool("lossy")?.unwrap_or(false),
        })
    }
}

/// From `[host]:port`, `unix:path`, or `addr=` and `port=`.
fn address(opts: &Opts) -> Result<SocketAddress, WebError> {
    let refused = |message: String| Err(WebError::Refused(message));
    let short = opts.get("web").filter(|short| !short.is_empty());
    let (addr, port) = (opts.get("addr"), opts.number("port")?);
    if short.is_some() && (addr.is_some() || port.is_some()) {
        return refused("'addr' and 'port' are redundant with an address".into());
    }
    let (host, port) = match short {
        None => (addr.unwrap_or_default(), port.unwrap_or(DEFAULT_PORT.into())),
        Some(short) => {
            if let Some(path) = short.strip_prefix("unix:") {
                let path = path.to_owned();
                return Ok(SocketAddress::Unix { path, abstract_name: false, tight: true });
            }
            let Some((host, port)) = short.rsplit_once(':') else {
                return refused(format!("no port in '{short}'"));
            };
            let Ok(number) = port.parse() else {
                return refused(format!("'{port}' is not a port"));
            };
            (host, number)
        }
    };
    let Ok(port) = u16::try_from(port) else {
        return refused(format!("port {port} out of range"));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() { DEFAULT_HOST } else { host };
    let family = Family::from_options(opts.bool("ipv4")?, opts.bool("ipv6")?)?;
    Ok(SocketAddress::Inet { host: host.into(), port: port.to_string(), to: None, family })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let opts = GROUP.parse(text).map_err(|error| error.to_string())?.opts;
        Settings::new(&opts).map_err(|error| error.to_string())
    }

    fn place(text: &str) -> (String, String) {
        match read(text).unwrap().address {
            SocketAddress::Inet { host, port, .. } => (host, port),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nobody_else_gets_in_unless_asked_to() {
        let inet = |host: &str, port: &str| (host.to_owned(), port.to_owned());
        for (text, expected) in [
            ("", inet("127.0.0.1", "6080")),
            (":8000", inet("127.0.0.1", "8000")),
            (":0", inet("127.0.0.1", "0")),
            ("0.0.0.0:80", inet("0.0.0.0", "80")),
            ("[::1]:80", inet("::1", "80")),
            ("port=81", inet("127.0.0.1", "81")),
            ("addr=0.0.0.0", inet("0.0.0.0", "6080")),
        ] {
            assert_eq!(place(text), expected, "{text}");
        }
        let path = read("unix:/run/web").unwrap().address;
        assert_eq!(
            path,
            SocketAddress::Unix { path: "/run/web".into(), abstract_name: false, tight: true }
        );
    }

    #[test]
    fn faults_are_named() {
        for (text, message) in [
            ("host", "no port in 'host'"),
            (":x", "'x' is not a port"),
            (":70000", "port 70000 out of range"),
            (":1,port=2", "'addr' and 'port' are redundant with an address"),
            (":1,token=a b", "a token consists of letters, digits, '-', '.', '_' and '~'"),
            (":1,token=", "a token consists of letters, digits, '-', '.', '_' and '~'"),
            (":1,token=a,token-secret=b", "'token' is redundant with 'token-secret'"),
            (":1,connections=0", "a web console without connections is of no use"),
            (":1,bogus=1", "Invalid parameter 'bogus'"),
        ] {
            assert_eq!(read(text), Err(message.into()), "{text}");
        }
    }

    #[test]
    fn tokens_are_told_apart() {
        let token = Token::new("secret").unwrap();
        assert!(token.is("secret"));
        for other in ["", "secre", "secrets", "Secret"] {
            assert!(!token.is(other), "{other}");
        }
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert!(one != other && one.as_str().len() == 32);
        assert_eq!(format!("{one:?}"), "Token");
    }
}
