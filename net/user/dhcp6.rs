//! DHCPv6 without addresses (RFC 8415, 18.3.6: Information-request): name servers and what to boot.

use std::net::Ipv6Addr;

use super::config::{Config, Net6, mac6};
use super::dhcp::search_list;
use super::wire::half;

/// The server's port.
pub const SERVER_PORT: u16 = 547;

/// All servers and relays.
pub const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

const INFORMATION_REQUEST: u8 = 11;
const REPLY: u8 = 7;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const OPTION_REQUEST: u16 = 6;
const NAME_SERVERS: u16 = 23;
const DOMAIN_LIST: u16 = 24;
const BOOT_FILE_URL: u16 = 59;

/// A DUID that is a hardware address of Ethernet (RFC 8415, 11.4).
const LINK_LAYER_DUID: [u8; 4] = [0, 3, 0, 1];

/// The answer to a message, if there is one. The server's identifier, without which clients that follow
/// the RFC ignore an answer, stands behind what QEMU tells.
pub fn answer(message: &[u8], config: &Config, net: &Net6) -> Option<Vec<u8>> {
    if *message.first()? != INFORMATION_REQUEST {
        return None;
    }
    let mut reply = message.get(..4)?.to_vec();
    reply[0] = REPLY;
    let mut wanted = Vec::new();
    let mut rest = &message[4..];
    while !rest.is_empty() {
        let (code, len) = (half(rest, 0)?, usize::from(half(rest, 2)?));
        let (value, tail) = rest.get(4..)?.split_at_checked(len)?;
        match code {
            CLIENT_ID => option(&mut reply, CLIENT_ID, value),
            OPTION_REQUEST => {
                wanted
                    .extend(value.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])));
            }
            _ => {}
        }
        rest = tail;
    }
    if wanted.contains(&NAME_SERVERS) {
        option(&mut reply, NAME_SERVERS, &net.dns.octets());
    }
    if wanted.contains(&DOMAIN_LIST) && !config.search.is_empty() {
        // Not compressed here (RFC 8415, 10).
        let lists = config.search.iter().map(std::slice::from_ref).map(search_list);
        option(&mut reply, DOMAIN_LIST, &lists.collect::<Vec<_>>().concat());
    }
    if let Some(file) = config.bootfile.as_ref().filter(|_| wanted.contains(&BOOT_FILE_URL)) {
        let groups = net.host.segments().map(|group| format!("{group:04x}"));
        let url = format!("tftp://[{}]/{file}", groups.join(":"));
        option(&mut reply, BOOT_FILE_URL, url.as_bytes());
    }
    option(&mut reply, SERVER_ID, &[&LINK_LAYER_DUID[..], &mac6(net.host)].concat());
    Some(reply)
}

fn option(reply: &mut Vec<u8>, code: u16, value: &[u8]) {
    reply.extend_from_slice(&code.to_be_bytes());
    reply.extend_from_slice(&(value.len() as u16).to_be_bytes());
    reply.extend_from_slice(value);
}
