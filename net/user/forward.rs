//! `hostfwd` and `guestfwd`: the rules.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::NetError;

use super::config::{Net4, loose_ipv4};

/// From a port of the host to one of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostForward {
    /// Which protocol.
    pub udp: bool,
    /// Where to listen.
    pub host: SocketAddrV4,
    /// Whom to give it to.
    pub guest: SocketAddrV4,
}

/// From an address that the guest sees to something on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestForward {
    /// The address in the guest's network.
    pub server: SocketAddrV4,
    /// What is behind it.
    pub target: ForwardTarget,
}

/// What is behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardTarget {
    /// A command for each connection, which talks through stdin and stdout.
    Command(String),
    /// One character device for all.
    Chardev(String),
}

impl HostForward {
    /// Reads `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`. `guest` is the address to
    /// forward to if the rule names none.
    pub fn parse(rule: &str, guest: Ipv4Addr) -> Result<HostForward, NetError> {
        let failed =
            |why: &str| NetError::Failed(format!("Invalid host forwarding rule '{rule}' ({why})"));
        let (udp, rest) = protocol(rule).map_err(failed)?;
        let (address, rest) = rest.split_once(':').ok_or_else(|| failed("Missing : separator"))?;
        let host_address = match address {
            "" => Ipv4Addr::UNSPECIFIED,
            text => loose_ipv4(text).ok_or_else(|| failed("Bad host address"))?,
        };
        let (port, rest) = rest.split_once('-').ok_or_else(|| failed("Bad host port separator"))?;
        let host_port = loose_number(port).ok_or_else(|| failed("Bad host port"))?;
        let (address, port) =
            rest.split_once(':').ok_or_else(|| failed("Missing guest address"))?;
        let guest_address = match address {
            "" => guest,
            text => loose_ipv4(text).ok_or_else(|| failed("Bad guest address"))?,
        };
        let guest_port = loose_number(port).filter(|&port| port > 0);
        let guest_port = guest_port.ok_or_else(|| failed("Bad guest port"))?;
        Ok(HostForward {
            udp,
            host: SocketAddrV4::new(host_address, host_port),
            guest: SocketAddrV4::new(guest_address, guest_port),
        })
    }

    /// Reads the argument of `hostfwd_remove`, `[tcp|udp]:[hostaddr]:hostport`.
    pub fn parse_listener(text: &str) -> Option<(bool, SocketAddrV4)> {
        let (udp, rest) = protocol(text).ok()?;
        let (address, port) = rest.split_once(':')?;
        let address = match address {
            "" => Ipv4Addr::UNSPECIFIED,
            text => loose_ipv4(text)?,
        };
        // A number that is no port's is found nowhere.
        let port = port.parse::<i32>().ok()?.try_into().unwrap_or(0);
        Some((udp, SocketAddrV4::new(address, port)))
    }
}

fn protocol(rule: &str) -> Result<(bool, &str), &'static str> {
    let (protocol, rest) = rule.split_once(':').ok_or("No : separators")?;
    match protocol {
        "tcp" | "" => Ok((false, rest)),
        "udp" => Ok((true, rest)),
        _ => Err("Bad protocol name"),
    }
}

/// A port as C's `strtol` reads it, which finds the base itself: nothing is made of what follows the digits.
fn loose_number(text: &str) -> Option<u16> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (radix, text) = match (text.strip_prefix("0x"), text.starts_with('0')) {
        (Some(digits), _) => (16, digits),
        (None, true) => (8, text),
        (None, false) => (10, text),
    };
    let digits = text.split(|c: char| !c.is_digit(radix)).next().unwrap_or_default();
    u16::from_str_radix(digits, radix).ok()
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()))
}

impl GuestForward {
    /// Reads `[tcp]:server:port-dev`; `dev` is `cmd:` with a command, or a character device.
    pub fn parse(rule: &str, net: Option<&Net4>) -> Result<GuestForward, NetError> {
        let failed = || NetError::Failed(format!("Invalid guest forwarding rule '{rule}'"));
        let (protocol, rest) = rule.split_once(':').ok_or_else(failed)?;
        if !matches!(protocol, "tcp" | "") {
            return Err(failed());
        }
        let (address, rest) = rest.split_once(':').ok_or_else(failed)?;
        let (port, target) = rest.split_once('-').ok_or_else(failed)?;
        let address = loose_ipv4(address).ok_or_else(failed)?;
        let port = number(port).filter(|&port| port > 0).ok_or_else(failed)?;
        if !net.is_some_and(|net| net.has_room_for(address)) {
            let words = format!("Conflicting/invalid host:port in guest forwarding rule '{rule}'");
            return Err(NetError::Failed(words));
        }
        let target = match target.strip_prefix("cmd:") {
            Some(command) => ForwardTarget::Command(command.into()),
            None => ForwardTarget::Chardev(target.into()),
        };
        Ok(GuestForward { server: SocketAddrV4::new(address, port), target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

    #[test]
    fn rules_may_leave_things_out() {
        let parse = |rule| {
            let rule = HostForward::parse(rule, GUEST).unwrap();
            (rule.udp, rule.host.to_string(), rule.guest.to_string())
        };
        let usual = (false, "0.0.0.0:60022".to_string(), "10.0.2.15:22".to_string());
        assert_eq!(parse("tcp::60022-:22"), usual);
        assert_eq!(parse("::60022-:22"), usual);
        let full = (true, "127.0.0.1:5353".to_string(), "10.0.2.16:53".to_string());
        assert_eq!(parse("udp:127.0.0.1:5353-10.0.2.16:53"), full);
        let listener = Some((true, "127.0.0.1:5353".parse().unwrap()));
        assert_eq!(HostForward::parse_listener("udp:127.0.0.1:5353"), listener);
        for wrong in ["xx", "tcp::", "tcp::22x", "tcp::0x16"] {
            assert_eq!(HostForward::parse_listener(wrong), None, "{wrong}");
        }
        let nowhere = Some((false, "0.0.0.0:0".parse().unwrap()));
        assert_eq!(HostForward::parse_listener("tcp::99999"), nowhere);
    }

    /// As QEMU 10.0.2 takes them.
    #[test]
    fn ports_are_read_as_c_reads_numbers() {
        let ports = |rule| {
            let rule = HostForward::parse(rule, GUEST).unwrap();
            (rule.host.port(), rule.guest.port())
        };
        assert_eq!(ports("tcp::0x1f91-:0x50"), (8081, 80));
        assert_eq!(ports("tcp::010-:010"), (8, 8));
        assert_eq!(ports("tcp::45609x-:10-"), (45609, 10));
        assert_eq!(ports("tcp::+45678-:+3"), (45678, 3));
        assert_eq!(ports("tcp::0-:3"), (0, 3));
    }

    #[test]
    fn faults_of_rules_are_named() {
        for (rule, why) in [
            ("tcp:x", "Missing : separator"),
            ("foo::1-:2", "Bad protocol name"),
            ("tcp::99999-:2", "Bad host port"),
            ("tcp::-:2", "Bad host port"),
            ("tcp::45678-:", "Bad guest port"),
            ("tcp::45678-:0", "Bad guest port"),
            ("tcp::45678-:65536", "Bad guest port"),
            ("tcp::45678-::3", "Bad guest port"),
            ("tcp::22-:x", "Bad guest port"),
        ] {
            let error = HostForward::parse(rule, GUEST).unwrap_err().to_string();
            assert_eq!(error, format!("Invalid host forwarding rule '{rule}' ({why})"));
        }
        for rule in ["tcp:1.2.3.4:80", "udp:10.0.2.100:80-cmd:cat", "tcp:10.0.2.100:0x50-cmd:cat"] {
            let error = GuestForward::parse(rule, None).unwrap_err().to_string();
            assert_eq!(error, format!("Invalid guest forwarding rule '{rule}'"));
        }
    }
}
