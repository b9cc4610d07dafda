//! What `-vnc` says.

use std::time::Duration;

use base::chardev::{Family, SocketAddress};
use base::options::{OptDesc, OptGroup, OptType, Opts};

use super::VncError;

/// Port of display 0.
const BASE_PORT: u16 = 5900;
/// Port of display 0 for WebSockets.
const WEBSOCKET_PORT: u16 = 5700;
const DEFAULT_KEY_DELAY: u64 = 10;
const DEFAULT_CONNECTIONS: u64 = 32;

const fn key(name: &'static str, kind: OptType) -> OptDesc {
    OptDesc::new(name, kind)
}

/// The keys of `-vnc`.
pub const GROUP: OptGroup = OptGroup {
    name: "vnc",
    implied: Some("vnc"),
    keys: &[
        key("vnc", OptType::String),
        key("websocket", OptType::String),
        key("tls-creds", OptType::String),
        key("share", OptType::String),
        key("display", OptType::String),
        key("head", OptType::Number),
        key("connections", OptType::Number),
        key("to", OptType::Number),
        key("ipv4", OptType::Bool),
        key("ipv6", OptType::Bool),
        key("password", OptType::Bool),
        key("password-secret", OptType::String),
        key("reverse", OptType::Bool),
        key("lock-key-sync", OptType::Bool),
        key("key-delay-ms", OptType::Number),
        key("sasl", OptType::Bool),
        key("tls-authz", OptType::String),
        key("sasl-authz", OptType::String),
        key("lossy", OptType::Bool),
        key("non-adaptive", OptType::Bool),
        key("audiodev", OptType::String),
        key("power-control", OptType::Bool),
    ],
};

/// Who may look at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// Everybody, until somebody wants to be alone.
    #[default]
    AllowExclusive,
    /// Only those who want to share.
    ForceShared,
    /// Everybody, whatever they want.
    Ignore,
}

/// What `-vnc` says about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named as the options are.
pub struct Settings {
    pub addresses: Vec<SocketAddress>,
    pub websockets: Vec<SocketAddress>,
    pub reverse: bool,
    pub password: bool,
    pub password_secret: Option<String>,
    pub tls_creds: Option<String>,
    pub share: Share,
    /// The device that is shown; the first if none is named.
    pub display: Option<String>,
    pub head: u32,
    pub connections: usize,
    pub lock_key_sync: bool,
    pub key_delay: Duration,
    pub lossy: bool,
    pub adaptive: bool,
    pub power_control: bool,
}

impl Settings {
    /// Reads what was given.
    pub fn new(opts: &Opts) -> Result<Self, VncError> {
        let text = |key| opts.get(key).map(str::to_owned);
        let bool = |key, default| Ok::<_, VncError>(opts.bool(key)?.unwrap_or(default));
        let number = |key, default| Ok::<_, VncError>(opts.number(key)?.unwrap_or(default));
        let family = Family::from_options(opts.bool("ipv4")?, opts.bool("ipv6")?)?;
        let reverse = bool("reverse", false)?;
        let to = opts.number("to")?;
        let displays = opts.get_all("vnc").filter(|name| !matches!(*name, "" | "none"));
        let named: Vec<&str> = displays.collect();
        let mut addresses = Vec::new();
        for name in &named {
            addresses.push(address(name, reverse, to, family)?);
        }
        let mut websockets = Vec::new();
        for value in opts.get_all("websocket") {
            if reverse {
                return Err(VncError::Refused("Cannot use websockets in reverse mode".into()));
            }
            let Some(display) = named.first() else { continue };
            websockets.extend(websocket_address(value, display, family)?);
        }
        let share = match opts.get("share") {
            None | Some("allow-exclusive") => Share::AllowExclusive,
            Some("force-shared") => Share::ForceShared,
            Some("ignore") => Share::Ignore,
            Some(_) => return Err(VncError::Refused("unknown vnc share= option".into())),
        };
        let password = opts.bool("password")?;
        if password.is_some() && opts.get("password-secret").is_some() {
            let message = "'password' flag is redundant with 'password-secret'";
            return Err(VncError::Refused(message.into()));
        }
        if bool("sasl", false)? {
            let message = "VNC SASL auth requires cyrus-sasl support";
            return Err(VncError::Refused(message.into()));
        }
        if opts.get("tls-authz").is_some() {
            let message = match opts.get("tls-creds") {
                Some(_) => "authorization of certificates is not available in this build",
                None => "'tls-authz' provided but TLS is not enabled",
            };
            return Err(VncError::Refused(message.into()));
        }
        if opts.get("sasl-authz").is_some() {
            let message = "'sasl-authz' provided but SASL auth is not enabled";
            return Err(VncError::Refused(message.into()));
        }
        if let Some(name) = opts.get("audiodev") {
            return Err(VncError::Refused(format!("audiodev '{name}' not found")));
        }
        Ok(Settings {
            addresses,
            websockets,
            reverse,
            password: password.unwrap_or(false) || opts.get("password-secret").is_some(),
            password_secret: text("password-secret"),
            tls_creds: text("tls-creds"),
            share,
            display: text("display"),
            head: number("head", 0)?.try_into().unwrap_or(u32::MAX),
            connections: number("connections", DEFAULT_CONNECTIONS)?
                .try_into()
                .unwrap_or(usize::MAX),
            lock_key_sync: bool("lock-key-sync", true)?,
            key_delay: Duration::from_millis(
                number("key-delay-ms", DEFAULT_KEY_DELAY)?.min(10_000),
            ),
            lossy: bool("lossy", false)?,
            adaptive: !bool("non-adaptive", false)?,
            power_control: bool("power-control", false)?,
        })
    }
}

/// `host:display` or `unix:path`.
fn address(
    name: &str,
    reverse: bool,
    to: Option<u64>,
    family: Family,
) -> Result<SocketAddress, VncError> {
    let refused = |message: String| Err(VncError::Refused(message));
    if let Some(path) = name.strip_prefix("unix:") {
        if to.is_some() {
            return refused("Port range not support with UNIX socket".into());
        }
        return Ok(SocketAddress::Unix { path: path.into(), abstract_name: false, tight: true });
    }
    let Some((host, display)) = name.rsplit_once(':') else {
        return refused("no vnc port specified".into());
    };
    let Ok(number) = display.parse::<u64>() else {
        return refused(format!("can't convert to a number: {display}"));
    };
    // The port that a viewer waits at is told as it is.
    let base = if reverse { 0 } else { BASE_PORT };
    let in_range = u16::try_from(number).ok().and_then(|number| number.checked_add(base));
    let Some(port) = in_range else {
        return refused(format!("port {display} out of range"));
    };
    let last = to.map(|to| u16::try_from(to).unwrap_or(u16::MAX).saturating_add(base));
    if last.is_some_and(|last| last < port) {
        return refused("Failed to create a socket".into());
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(SocketAddress::Inet { host, port: port.to_string(), to: last, family })
}

/// `on`, a port, or `host:port`.
fn websocket_address(
    value: &str,
    display: &str,
    family: Family,
) -> Result<Option<SocketAddress>, VncError> {
    if value == "off" {
        return Ok(None);
    }
    let Some((display_host, number)) = display.rsplit_once(':').filter(|(host, _)| *host != "unix")
    else {
        return Err(VncError::Refused("No websocket port specified".into()));
    };
    let (host, port) = match value.rsplit_once(':') {
        Some((host, port)) => (host, port.to_owned()),
        None if matches!(value, "on" | "") => {
            let port =
                number.parse::<u16>().ok().and_then(|number| number.checked_add(WEBSOCKET_PORT));
            (display_host, port.map_or(String::new(), |port| port.to_string()))
        }
        None => (display_host, value.to_owned()),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Some(SocketAddress::Inet { host, port, to: None, family }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let opts = GROUP.parse(text).map_err(|error| error.to_string())?.opts;
        Settings::new(&opts).map_err(|error| error.to_string())
    }

    fn inet(host: &str, port: u16, to: Option<u16>) -> SocketAddress {
        let port = port.to_string();
        SocketAddress::Inet { host: host.into(), port, to, family: Family::Any }
    }

    /// As QEMU 10.0.2 says it.
    #[test]
    fn faults_are_named_as_qemu_names_them() {
        for (text, message) in [
            (":bad", "can't convert to a number: bad"),
            ("foo", "no vnc port specified"),
            (":0,bogus=1", "Invalid parameter 'bogus'"),
            (":70000", "port 70000 out of range"),
            (":-1", "can't convert to a number: -1"),
            (":1,password=maybe", "Parameter 'password' expects 'on' or 'off'"),
            (":1,share=foo", "unknown vnc share= option"),
            (":1,to=x", "Parameter 'to' expects a number"),
            (":78,to=9", "Failed to create a socket"),
            ("unix:/x,to=5", "Port range not support with UNIX socket"),
            (
                ":1,password=on,password-secret=s",
                "'password' flag is redundant with 'password-secret'",
            ),
            (":1,audiodev=x", "audiodev 'x' not found"),
            (":1,websocket=on,reverse=on", "Cannot use websockets in reverse mode"),
            (":1,ipv4=off,ipv6=off", "Cannot disable IPv4 and IPv6 at same time"),
            (":1,tls-authz=x", "'tls-authz' provided but TLS is not enabled"),
        ] {
            assert_eq!(read(text), Err(message.into()), "{text}");
        }
    }

    #[test]
    fn addresses_are_counted_from_display_0() {
        let settings = read("127.0.0.1:3,to=9,websocket=on,websocket=[::1]:80").unwrap();
        assert_eq!(settings.addresses, [inet("127.0.0.1", 5903, Some(5909))]);
        assert_eq!(settings.websockets, [inet("127.0.0.1", 5703, None), inet("::1", 80, None)]);
        assert_eq!(read("[::1]:0").unwrap().addresses, [inet("::1", 5900, None)]);
        assert_eq!(read("viewer:5500,reverse=on").unwrap().addresses, [inet("viewer", 5500, None)]);
        assert_eq!(read("none").unwrap().addresses, []);
    }

    #[test]
    fn what_is_not_said_is_as_in_qemu() {
        let settings = read(":0,password-secret=s,non-adaptive=on,key-delay-ms=0").unwrap();
        assert!(
            settings.password && settings.lock_key_sync && !settings.adaptive && !settings.lossy
        );
        assert_eq!((settings.connections, settings.key_delay), (32, Duration::ZERO));
        assert_eq!(read(":0").unwrap().share, Share::AllowExclusive);
    }
}
