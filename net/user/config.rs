//! The options of `-netdev user`, and the addresses that follow from them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::NetError;
use crate::options::{Key, Kind, Values, opt};

use super::forward::{GuestForward, HostForward};
use super::wire::Mac;

/// The keys. `ipv6-net` and the old names are QEMU's too.
pub const KEYS: &[Key] = &[
    opt("hostname", Kind::Text),
    opt("restrict", Kind::Bool),
    opt("ipv4", Kind::Bool),
    opt("ipv6", Kind::Bool),
    opt("ip", Kind::Text),
    opt("net", Kind::Text),
    opt("host", Kind::Text),
    opt("tftp", Kind::Text),
    opt("bootfile", Kind::Text),
    opt("dhcpstart", Kind::Text),
    opt("dns", Kind::Text),
    opt("dnssearch", Kind::Texts),
    opt("domainname", Kind::Text),
    opt("ipv6-net", Kind::Text),
    opt("ipv6-prefix", Kind::Text),
    opt("ipv6-prefixlen", Kind::Int),
    opt("ipv6-host", Kind::Text),
    opt("ipv6-dns", Kind::Text),
    opt("smb", Kind::Text),
    opt("smbserver", Kind::Text),
    opt("hostfwd", Kind::Texts),
    opt("guestfwd", Kind::Texts),
    opt("tftp-server-name", Kind::Text),
];

/// Texts that DHCP carries in one option.
const MAX_OPTION: usize = 255;
/// The boot file's name ends with a zero in its field (RFC 951).
const MAX_BOOTFILE: usize = 127;

/// The IPv4 side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net4 {
    /// The network.
    pub net: Ipv4Addr,
    /// Its mask.
    pub mask: Ipv4Addr,
    /// The host, as the guest sees it.
    pub host: Ipv4Addr,
    /// The name server, as the guest sees it.
    pub dns: Ipv4Addr,
    /// The first address for guests.
    pub dhcp_start: Ipv4Addr,
    /// Where the SMB server seems to be.
    pub smb: Option<Ipv4Addr>,
}

impl Net4 {
    /// Whether something of the host's may seem to be at an address.
    pub fn has_room_for(&self, address: Ipv4Addr) -> bool {
        let mask = u32::from(self.mask);
        u32::from(address) & mask == u32::from(self.net)
            && ![self.host, self.dns].contains(&address)
            && u32::from(address) | mask != u32::MAX
    }
}

/// The IPv6 side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net6 {
    /// The network.
    pub prefix: Ipv6Addr,
    /// Length of the prefix in bits.
    pub prefix_len: u8,
    /// The host, as the guest sees it.
    pub host: Ipv6Addr,
    /// The name server, as the guest sees it.
    pub dns: Ipv6Addr,
}

/// Everything that was set.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// IPv4, unless it is switched off.
    pub v4: Option<Net4>,
    /// IPv6, unless it is switched off.
    pub v6: Option<Net6>,
    /// Nothing goes out but through forwards.
    pub restrict: bool,
    /// What the guest is told to be called.
    pub hostname: Option<String>,
    /// The domain.
    pub domain: Option<String>,
    /// Domains to search.
    pub search: Vec<String>,
    /// The directory that TFTP shows.
    pub tftp: Option<PathBuf>,
    /// The name of the TFTP server.
    pub tftp_server: Option<String>,
    /// What to boot.
    pub bootfile: Option<String>,
    /// The directory that SMB shows.
    pub smb: Option<PathBuf>,
    /// From host to guest, the last one first.
    pub host_forwards: Vec<(String, HostForward)>,
    /// From guest to host, the last one first.
    pub guest_forwards: Vec<GuestForward>,
}

impl Config {
    /// Reads and checks the options.
    pub fn new(values: &Values) -> Result<Config, NetError> {
        let (v4, v6) = families(values)?;
        let limited = |key: &str, shown: &str, limit: usize| match values.text(key) {
            Some(text) if text.len() > limit => {
                Err(NetError::failed(format!("'{shown}' parameter cannot exceed {limit} bytes")))
            }
            text => Ok(text.filter(|text| !text.is_empty()).map(str::to_string)),
        };
        let v4 = v4.then(|| net4(values)).transpose()?;
        let v6 = v6.then(|| net6(values)).transpose()?;
        let domain = limited("domainname", "domainname", MAX_OPTION)?;
        if values.text("domainname").is_some_and(str::is_empty) {
            return Err(NetError::failed("'domainname' parameter cannot be empty"));
        }
        let hostname = limited("hostname", "vhostname", MAX_OPTION)?;
        let tftp_server = limited("tftp-server-name", "tftp-server-name", MAX_OPTION)?;
        let bootfile = limited("bootfile", "bootfile", MAX_BOOTFILE)?;
        let guest = v4.map_or(Ipv4Addr::UNSPECIFIED, |v4| v4.dhcp_start);
        // The last one first, as QEMU goes through them: that decides what it complains about.
        let guest_forwards = values
            .texts("guestfwd")
            .rev()
            .map(|rule| GuestForward::parse(rule, v4.as_ref()))
            .collect::<Result<_, _>>()?;
        let host_forwards = values
            .texts("hostfwd")
            .rev()
            .map(|rule| Ok((rule.to_string(), HostForward::parse(rule, guest)?)))
            .collect::<Result<_, NetError>>()?;
        let path = |key| values.text(key).filter(|text| !text.is_empty()).map(PathBuf::from);
        Ok(Config {
            restrict: values.bool("restrict").unwrap_or(false),
            hostname,
            domain,
            search: values.texts("dnssearch").map(str::to_string).collect(),
            tftp: path("tftp"),
            tftp_server,
            bootfile,
            smb: values.text("smb").map(PathBuf::from),
            host_forwards,
            guest_forwards,
            v4,
            v6,
        })
    }
}

/// Which families are on. One that is switched on switches the other one off, unless that is on too.
fn families(values: &Values) -> Result<(bool, bool), NetError> {
    let (v4, v6) = match (values.bool("ipv4"), values.bool("ipv6")) {
        (None, None) => (true, true),
        (Some(v4), None) => (v4, !v4),
        (None, Some(v6)) => (!v6, v6),
        (Some(v4), Some(v6)) => (v4, v6),
    };
    if !v4 && !v6 {
        return Err(NetError::failed("IPv4 and IPv6 disabled"));
    }
    if !v4 && ["net", "host", "dns"].iter().any(|key| values.has(key)) {
        return Err(NetError::failed("IPv4 disabled but netmask/host/dns provided"));
    }
    let own = ["ipv6-net", "ipv6-prefix", "ipv6-prefixlen", "ipv6-host", "ipv6-dns"];
    if !v6 && own.iter().any(|key| values.has(key)) {
        return Err(NetError::failed("IPv6 disabled but prefix/host6/dns6 provided"));
    }
    Ok((v4, v6))
}

fn net4(values: &Values) -> Result<Net4, NetError> {
    let (net, mask) = match values.text("net").or_else(|| values.text("ip")) {
        Some(text) => network(text)?,
        None => (0x0a000200, 0xffffff00),
    };
    let address = |key: &str, default: u32, what: &str| match values.text(key) {
        Some(text) => loose_ipv4(text)
            .map(u32::from)
            .ok_or_else(|| NetError::failed(format!("Failed to parse {what}"))),
        None => Ok(net | default & !mask),
    };
    let inside = |address: u32, what: &str| match address & mask == net {
        true => Ok(()),
        false => Err(NetError::failed(format!("{what} doesn't belong to network"))),
    };
    let host = address("host", 0x0202, "host")?;
    inside(host, "Host")?;
    let dhcp = address("dhcpstart", 0x020f, "DHCP start address")?;
    inside(dhcp, "DHCP")?;
    let dns = address("dns", 0x0203, "DNS")?;
    if dns == host {
        return Err(NetError::failed("DNS must be different from host"));
    }
    if dhcp == host || dhcp == dns {
        return Err(NetError::failed("DHCP must be different from host and DNS"));
    }
    let smb = match (values.text("smbserver"), values.text("smb")) {
        (Some(text), _) => {
            Some(loose_ipv4(text).ok_or_else(|| NetError::failed("Failed to parse SMB address"))?)
        }
        (None, Some(_)) => Some(Ipv4Addr::from(net | 0x0204 & !mask)),
        (None, None) => None,
    };
    Ok(Net4 {
        net: net.into(),
        mask: mask.into(),
        host: host.into(),
        dns: dns.into(),
        dhcp_start: dhcp.into(),
        smb,
    })
}

/// `10.0.2.0`, `10.0.2.0/24` or `10.0.2.0/255.255.255.0`. Without a mask, private networks have
/// the size that RFC 1918 gives them.
fn network(text: &str) -> Result<(u32, u32), NetError> {
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text, None),
    };
    let address = loose_ipv4(address).ok_or_else(|| NetError::failed("Failed to parse netmask"))?;
    let address = u32::from(address);
    let mask = match mask {
        None if address >> 31 == 0 => 0xff00_0000,
        None if address >> 30 == 0b10 => 0xfff0_0000,
        None if address >> 29 == 0b110 => 0xffff_0000,
        None => 0xffff_ff00,
        Some(mask) => match loose_ipv4(mask) {
            Some(dotted) if mask.contains('.') => u32::from(dotted),
            _ => {
                let trailing = || NetError::failed("Failed to parse netmask (trailing chars)");
                let bits: u32 = mask.parse().map_err(|_| trailing())?;
                if !(4..=32).contains(&bits) {
                    let words = "Invalid netmask provided (must be in range 4-32)";
                    return Err(NetError::failed(words));
                }
                u32::MAX << (32 - bits)
            }
        },
    };
    Ok((address & mask, mask))
}

fn net6(values: &Values) -> Result<Net6, NetError> {
    let address = |text: &str, what: &str| -> Result<Ipv6Addr, NetError> {
        text.parse().map_err(|_| NetError::failed(format!("Failed to parse IPv6 {what}")))
    };
    let (text, len) = match values.text("ipv6-net") {
        None => (values.text("ipv6-prefix").unwrap_or("fec0::"), values.int("ipv6-prefixlen")),
        Some(text) => match text.split_once('/') {
            None => (text, None),
            Some((prefix, len)) => {
                let malformed =
                    || NetError::failed("parameter 'ipv6-net' expects a number after '/'");
                (prefix, Some(len.parse().map_err(|_| malformed())?))
            }
        },
    };
    let prefix = address(text, "prefix")?;
    let words = "Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)";
    let prefix_len = u8::try_from(len.unwrap_or(64)).ok().filter(|&len| len <= 126);
    let prefix_len = prefix_len.ok_or_else(|| NetError::failed(words))?;
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0);
    let net = u128::from(prefix) & mask;
    let host = match values.text("ipv6-host") {
        Some(text) => address(text, "host")?,
        None => Ipv6Addr::from(net | 2),
    };
    if u128::from(host) & mask != net {
        return Err(NetError::failed("IPv6 Host doesn't belong to network"));
    }
    let dns = match values.text("ipv6-dns") {
        Some(text) => address(text, "DNS")?,
        None => Ipv6Addr::from(net | 3),
    };
    Ok(Net6 { prefix: net.into(), prefix_len, host, dns })
}

/// An address as `inet_aton` reads it: one to four numbers, decimal, octal or hexadecimal, of which
/// the last one fills what is left.
pub fn loose_ipv4(text: &str) -> Option<Ipv4Addr> {
    let number = |text: &str| {
        let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hex) => (hex, 16),
            None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
            None => (text, 10),
        };
        let plain = digits.starts_with(|c: char| c.is_digit(radix));
        u32::from_str_radix(digits, radix).ok().filter(|_| plain)
    };
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (&last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|&part| part > 255) {
        return None;
    }
    let left = 32 - 8 * first.len() as u32;
    if left < 32 && last >> left != 0 {
        return None;
    }
    let high = first.iter().fold(0u64, |sum, &part| sum << 8 | u64::from(part));
    Some(Ipv4Addr::from((high << left) as u32 | last))
}

/// The hardware address that stands for one of our IPv4 addresses.
pub fn mac4(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x52, 0x55, a, b, c, d]
}

/// The hardware address that stands for one of our IPv6 addresses.
pub fn mac6(address: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = address.octets();
    [0x52, 0x56, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::read_text;

    fn config(text: &str) -> Result<Config, String> {
        let values = read_text(text, false).and_then(|mut tree| {
            tree.shift_remove("type");
            Values::from_text(KEYS, &tree)
        });
        values.and_then(|values| Config::new(&values)).map_err(|error| error.to_string())
    }

    fn v4(text: &str) -> [String; 4] {
        let v4 = config(text).unwrap().v4.unwrap();
        [v4.mask, v4.host, v4.dhcp_start, v4.dns].map(|address| address.to_string())
    }

    #[test]
    fn addresses_follow_from_the_network() {
        let usual = ["255.255.255.0", "10.0.2.2", "10.0.2.15", "10.0.2.3"];
        assert_eq!(v4("user"), usual);
        assert_eq!(v4("user,net=10.0.2.7/24"), usual);
        assert_eq!(v4("user,net=0x0a000200/255.255.255.0"), usual);
        assert_eq!(v4("user,net=10.0.0.0"), ["255.0.0.0", "10.0.2.2", "10.0.2.15", "10.0.2.3"]);
        let seen = ["255.240.0.0", "172.16.2.2", "172.16.2.15", "172.16.2.3"];
        assert_eq!(v4("user,net=172.20.0.0"), seen);
        let seen = ["255.255.0.0", "192.168.2.2", "192.168.2.15", "192.168.2.3"];
        assert_eq!(v4("user,net=192.168.7.0"), seen);
        let seen = ["255.255.255.248", "10.0.2.2", "10.0.2.7", "10.0.2.3"];
        assert_eq!(v4("user,net=10.0.2.0/29"), seen);
        let v6 = config("user,ipv6-net=2001:db8::/32").unwrap().v6.unwrap();
        assert_eq!((v6.host.to_string(), v6.prefix_len), ("2001:db8::2".into(), 32));
    }

    #[test]
    fn a_family_switched_on_is_alone() {
        let on = |text: &str| {
            let config = config(text).unwrap();
            (config.v4.is_some(), config.v6.is_some())
        };
        assert_eq!(on("user"), (true, true));
        assert_eq!(on("user,ipv4=on"), (true, false));
        assert_eq!(on("user,ipv6=on"), (false, true));
        assert_eq!(on("user,ipv4=off"), (false, true));
        assert_eq!(on("user,ipv4=on,ipv6=on"), (true, true));
    }

    /// All as QEMU 10.0 says it.
    #[test]
    fn faults_are_told_in_the_usual_words() {
        for (text, words) in [
            ("net=foo", "Failed to parse netmask"),
            ("net=10.0.2.0/33", "Invalid netmask provided (must be in range 4-32)"),
            ("net=10.0.2.0/x", "Failed to parse netmask (trailing chars)"),
            ("host=1.2.3.4", "Host doesn't belong to network"),
            ("host=x", "Failed to parse host"),
            ("dhcpstart=1.2.3.4", "DHCP doesn't belong to network"),
            ("dhcpstart=x", "Failed to parse DHCP start address"),
            ("dns=10.0.2.2", "DNS must be different from host"),
            ("dns=x", "Failed to parse DNS"),
            ("net=10.0.2.0/31", "DHCP must be different from host and DNS"),
            ("smbserver=x", "Failed to parse SMB address"),
            ("ipv4=off,ipv6=off", "IPv4 and IPv6 disabled"),
            ("ipv4=off,net=10.0.2.0/24", "IPv4 disabled but netmask/host/dns provided"),
            ("ipv6-prefix=zz", "Failed to parse IPv6 prefix"),
            (
                "ipv6-net=fec0::/130",
                "Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)",
            ),
            ("ipv6-host=2001::1", "IPv6 Host doesn't belong to network"),
            ("foo=1", "Invalid parameter 'foo'"),
        ] {
            assert_eq!(config(&format!("user,{text}")).unwrap_err(), words, "{text}");
        }
        let long = "x".repeat(300);
        let error = config(&format!("user,hostname={long}")).unwrap_err();
        assert_eq!(error, "'vhostname' parameter cannot exceed 255 bytes");
    }

    #[test]
    fn addresses_may_be_written_loosely() {
        let read = |text| loose_ipv4(text).map(|address| address.to_string());
        assert_eq!(read("10.2"), Some("10.0.0.2".into()));
        assert_eq!(read("0x7f000001"), Some("127.0.0.1".into()));
        assert_eq!(read("010.0.0.1"), Some("8.0.0.1".into()));
        for wrong in ["", "1.2.3.4.5", "256.1", "1.2.3.256", "+1.2.3.4", "1..2", "a"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
