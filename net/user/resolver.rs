//! The host's name servers, from `/etc/resolv.conf`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use base::clock::SECOND;

/// How long what was read is believed.
const LIFETIME: i64 = SECOND;

const FILE: &str = "/etc/resolv.conf";

/// The name servers, read again now and then.
#[derive(Default)]
pub struct Resolver {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    read_at: Option<i64>,
}

impl Resolver {
    /// The name server of a family. Without one for IPv4, a local one might be there.
    pub fn server(&mut self, v6: bool, now: i64) -> Option<IpAddr> {
        if self.read_at.is_none_or(|at| now - at >= LIFETIME || now < at) {
            self.read(Path::new(FILE));
            self.read_at = Some(now);
        }
        match v6 {
            true => self.v6.map(IpAddr::V6),
            false => Some(IpAddr::V4(self.v4.unwrap_or(Ipv4Addr::LOCALHOST))),
        }
    }

    fn read(&mut self, path: &Path) {
        // A file that is being replaced may be missing for a moment: the old servers stay.
        let Ok(text) = std::fs::read_to_string(path) else { return };
        (self.v4, self.v6) = parse(&text);
    }
}

/// The first server of each family.
fn parse(text: &str) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let servers: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next())
        // Link-local ones, with their zone, cannot be reached through the guest's link.
        .filter_map(|word| word.parse().ok())
        .collect();
    let v4 = servers.iter().find_map(|server| match server {
        IpAddr::V4(server) => Some(*server),
        IpAddr::V6(_) => None,
    });
    let v6 = servers.iter().find_map(|server| match server {
        IpAddr::V6(server) => Some(*server),
        IpAddr::V4(_) => None,
    });
    (v4, v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_server_of_each_family_counts() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver\t 10.1.2.3 # x\nnameserver 10.1.2.4\n\
                    nameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameservers 9.9.9.9\n";
        let v6 = "2001:db8::1".parse().unwrap();
        assert_eq!(parse(text), (Some([10, 1, 2, 3].into()), Some(v6)));
        assert_eq!(parse(""), (None, None));
    }
}
