//! What is asked for: `-chardev backend,id=...,key=value` as types.

use std::time::Duration;

use super::ChardevError;
use super::socket::address::Family;
use super::vc::VcSize;
use crate::options::number::{parse_int, parse_size};

/// What is written as the value of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OptionType {
    String,
    Bool,
    Number,
    Size,
}

use OptionType::{Bool, Number, Size, String as Text};

/// Every option of `-chardev`, in alphabetical order. One table for all back ends: what a back end
/// has no use for is accepted and ignored, as it always was.
pub const OPTIONS: &[(&str, OptionType)] = &[
    ("abstract", Bool),
    ("append", Bool),
    ("backend", Text),
    ("chardev", Text),
    ("cols", Number),
    ("delay", Bool),
    ("fd", Text),
    ("height", Number),
    ("host", Text),
    ("id", Text),
    ("input-path", Text),
    ("ipv4", Bool),
    ("ipv6", Bool),
    ("localaddr", Text),
    ("localport", Text),
    ("logappend", Bool),
    ("logfile", Text),
    ("mux", Bool),
    ("name", Text),
    ("nodelay", Bool),
    ("path", Text),
    ("port", Text),
    ("reconnect", Number),
    ("reconnect-ms", Number),
    ("rows", Number),
    ("server", Bool),
    ("signal", Bool),
    ("size", Size),
    ("telnet", Bool),
    ("tight", Bool),
    ("tls-authz", Text),
    ("tls-creds", Text),
    ("tn3270", Bool),
    ("to", Number),
    ("wait", Bool),
    ("websocket", Bool),
    ("width", Number),
];

/// The names of all back ends.
pub const BACKENDS: &[&str] =
    &["file", "mux", "null", "pipe", "pty", "ringbuf", "serial", "socket", "stdio", "udp", "vc"];

/// A character device to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChardevSpec {
    /// Its id.
    pub id: String,
    /// Several front ends may attach.
    pub mux: bool,
    /// A copy of all output goes here.
    pub logfile: Option<String>,
    /// Keep what the log file already has.
    pub logappend: bool,
    /// Where the bytes go.
    pub backend: BackendSpec,
}

/// A back end to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named as the options are.
pub enum BackendSpec {
    Null,
    /// A text console, which displays show.
    Vc(VcSize),
    Stdio {
        signal: bool,
    },
    File {
        path: String,
        append: bool,
        input_path: Option<String>,
    },
    Pipe {
        path: String,
    },
    Pty {
        path: Option<String>,
    },
    Serial {
        path: String,
    },
    Socket(SocketSpec),
    Udp(UdpSpec),
    Ringbuf {
        size: Option<u64>,
    },
    Mux {
        chardev: String,
    },
}

/// A socket to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSpec {
    /// Where.
    pub address: SocketAddress,
    /// Listen rather than connect.
    pub server: bool,
    /// A server: do not go on before somebody has connected.
    pub wait: bool,
    /// Speak telnet.
    pub telnet: bool,
    /// TCP: send small packets at once.
    pub nodelay: bool,
    /// A client: try again after this time; never if zero.
    pub reconnect: Duration,
}

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named as the options are.
pub enum SocketAddress {
    Unix {
        path: String,
        abstract_name: bool,
        tight: bool,
    },
    Inet {
        host: String,
        port: String,
        to: Option<u16>,
        family: Family,
    },
    /// A descriptor that this process inherited, by number.
    Fd(String),
}

/// A pair of UDP addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named as the options are.
pub struct UdpSpec {
    pub host: String,
    pub port: String,
    pub local_host: Option<String>,
    pub local_port: Option<String>,
    pub family: Family,
}

impl ChardevSpec {
    /// A device without any extras.
    pub fn new(id: impl Into<String>, backend: BackendSpec) -> ChardevSpec {
        ChardevSpec { id: id.into(), mux: false, logfile: None, logappend: false, backend }
    }

    /// From the keys and values of `-chardev`; where a key is repeated, the last counts.
    pub fn from_options(options: &[(String, String)]) -> Result<ChardevSpec, ChardevError> {
        let options = Options(options);
        options.check()?;
        let id = options.text("id").ok_or(ChardevError::NoId)?;
        if !is_identifier(&id) {
            return Err(ChardevError::BadValue { name: "id", expects: IDENTIFIER });
        }
        let Some(name) = options.text("backend") else { return Err(ChardevError::NoBackend(id)) };
        Ok(ChardevSpec {
            mux: options.flag("mux")?.unwrap_or(false),
            logfile: options.text("logfile"),
            logappend: options.flag("logappend")?.unwrap_or(false),
            backend: BackendSpec::from_options(&name, &options)?,
            id,
        })
    }
}

const IDENTIFIER: &str = "an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', \
                          starting with a letter.";
const SIZE: &str = "a non-negative number below 2^64\n\
                    Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                    and exabytes, respectively.";

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

/// Options as they were written, with typed access. Values have been checked before they are used.
struct Options<'a>(&'a [(String, String)]);

impl Options<'_> {
    fn check(&self) -> Result<(), ChardevError> {
        for (key, _) in self.0 {
            let Some(&(name, kind)) = OPTIONS.iter().find(|(name, _)| name == key) else {
                return Err(ChardevError::InvalidParameter(key.clone()));
            };
            match kind {
                Text => {}
                Bool => drop(self.flag(name)?),
                Number => drop(self.number(name)?),
                Size => drop(self.size(name)?),
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(Into::into)
    }

    fn parse<T>(
        &self,
        name: &'static str,
        expects: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ChardevError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        parse(text).map(Some).ok_or(ChardevError::BadValue { name, expects })
    }

    fn flag(&self, name: &'static str) -> Result<Option<bool>, ChardevError> {
        self.parse(name, "'on' or 'off'", |text| match text {
            "on" | "yes" | "true" | "y" => Some(true),
            "off" | "no" | "false" | "n" => Some(false),
            _ => None,
        })
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, ChardevError> {
        self.parse(name, "a number", |text| parse_int(text)?.try_into().ok())
    }

    fn size(&self, name: &'static str) -> Result<Option<u64>, ChardevError> {
        self.parse(name, SIZE, |text| parse_size(text, 1).ok())
    }

    /// A value that a back end cannot do without.
    fn needed(
        &self,
        name: &str,
        backend: &'static str,
        problem: &'static str,
    ) -> Result<String, ChardevError> {
        self.text(name).ok_or(ChardevError::Missing { backend, problem })
    }
}

fn refused<T>(reason: &str) -> Result<T, ChardevError> {
    Err(ChardevError::Refused(reason.into()))
}

impl BackendSpec {
    /// The name of the kind.
    pub fn name(&self) -> &'static str {
        match self {
            BackendSpec::Null => "null",
            BackendSpec::Vc(_) => "vc",
            BackendSpec::Stdio { .. } => "stdio",
            BackendSpec::File { .. } => "file",
            BackendSpec::Pipe { .. } => "pipe",
            BackendSpec::Pty { .. } => "pty",
            BackendSpec::Serial { .. } => "serial",
            BackendSpec::Socket(_) => "socket",
            BackendSpec::Udp(_) => "udp",
            BackendSpec::Ringbuf { .. } => "ringbuf",
            BackendSpec::Mux { .. } => "mux",
        }
    }

    fn from_options(name: &str, options: &Options<'_>) -> Result<BackendSpec, ChardevError> {
        Ok(match name {
            "null" => BackendSpec::Null,
            "vc" => BackendSpec::Vc(VcSize::from_options(options)?),
            "stdio" => BackendSpec::Stdio { signal: options.flag("signal")?.unwrap_or(true) },
            "file" => BackendSpec::File {
                path: options.needed("path", "file", "no filename given")?,
                append: options.flag("append")?.unwrap_or(false),
                input_path: options.text("input-path"),
            },
            "pipe" => {
                BackendSpec::Pipe { path: options.needed("path", "pipe", "no device path given")? }
            }
            "pty" => BackendSpec::Pty { path: options.text("path") },
            "serial" => BackendSpec::Serial {
                path: options.needed("path", "serial/tty", "no device path given")?,
            },
            "socket" => BackendSpec::Socket(SocketSpec::from_options(options)?),
            "udp" => BackendSpec::Udp(UdpSpec::from_options(options)?),
            "ringbuf" | "memory" => BackendSpec::Ringbuf { size: options.size("size")? },
            "mux" => {
                BackendSpec::Mux { chardev: options.needed("chardev", "mux", "no chardev given")? }
            }
            _ => return Err(ChardevError::UnknownBackend(name.into())),
        })
    }
}

fn family(options: &Options<'_>) -> Result<Family, ChardevError> {
    Family::from_options(options.flag("ipv4")?, options.flag("ipv6")?)
}

impl SocketSpec {
    fn from_options(options: &Options<'_>) -> Result<SocketSpec, ChardevError> {
        let flag = |name| Ok::<_, ChardevError>(options.flag(name)?.unwrap_or(false));
        let server = flag("server")?;
        let address = SocketAddress::from_options(options)?;
        if let Some(creds) = options.get("tls-creds") {
            return refused(&format!("No TLS credentials with id '{creds}'"));
        }
        if options.get("tls-authz").is_some() {
            return refused("'tls_authz' option requires 'tls_creds' option");
        }
        for unsupported in ["websocket", "tn3270"] {
            if flag(unsupported)? {
                return refused(&format!("'{unsupported}' is not supported for socket chardevs"));
            }
        }
        let reconnect = match (options.number("reconnect")?, options.number("reconnect-ms")?) {
            (Some(_), Some(_)) => {
                return refused("'reconnect' and 'reconnect-ms' are mutually exclusive");
            }
            (Some(_), None) if server => {
                return refused(
                    "'reconnect' option is incompatible with socket in server listen mode",
                );
            }
            (Some(seconds), None) => Duration::from_secs(seconds),
            // A server has nothing to connect to again; this one is ignored there.
            (None, Some(_)) if server => Duration::ZERO,
            (None, Some(milliseconds)) => Duration::from_millis(milliseconds),
            (None, None) => Duration::ZERO,
        };
        let wait = options.flag("wait")?;
        if wait.is_some() && !server {
            return refused("'wait' option is incompatible with socket in client connect mode");
        }
        Ok(SocketSpec {
            address,
            server,
            wait: server && wait.unwrap_or(true),
            telnet: flag("telnet")?,
            nodelay: options
                .flag("nodelay")?
                .or(options.flag("delay")?.map(|delay| !delay))
                .unwrap_or(false),
            reconnect,
        })
    }
}

impl SocketAddress {
    fn from_options(options: &Options<'_>) -> Result<SocketAddress, ChardevError> {
        match (options.text("path"), options.text("fd"), options.text("host")) {
            (Some(path), None, None) => Ok(SocketAddress::Unix {
                path,
                abstract_name: options.flag("abstract")?.unwrap_or(false),
                tight: options.flag("tight")?.unwrap_or(true),
            }),
            (None, Some(number), None) => Ok(SocketAddress::Fd(number)),
            (None, None, Some(host)) => Ok(SocketAddress::Inet {
                host,
                port: options.needed("port", "socket", "no port given")?,
                to: options.number("to")?.map(|to| to.try_into().unwrap_or(u16::MAX)),
                family: family(options)?,
            }),
            (None, None, None) => refused("Unable to parse FD number "),
            _ => refused("None or one of 'path', 'fd' or 'host' option required."),
        }
    }
}

impl VcSize {
    fn from_options(options: &Options<'_>) -> Result<VcSize, ChardevError> {
        let numbers = |characters: &'static str, pixels: &'static str| {
            Ok::<_, ChardevError>((options.number(characters)?, options.number(pixels)?))
        };
        Ok(VcSize::new(numbers("cols", "width")?, numbers("rows", "height")?))
    }
}

impl UdpSpec {
    fn from_options(options: &Options<'_>) -> Result<UdpSpec, ChardevError> {
        let not_empty = |name| options.text(name).filter(|text| !text.is_empty());
        let port = not_empty("port");
        Ok(UdpSpec {
            host: not_empty("host").unwrap_or_else(|| "localhost".into()),
            port: port.ok_or(ChardevError::Missing {
                backend: "udp",
                problem: "remote port not specified",
            })?,
            local_host: not_empty("localaddr"),
            local_port: not_empty("localport"),
            family: family(options)?,
        })
    }
}

#[cfg(test)]
mod tests;
