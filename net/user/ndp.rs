//! Neighbour discovery (RFC 4861): our addresses, and the router that we play.

use std::net::Ipv6Addr;

use super::config::{Net6, mac6};
use super::icmp;
use super::out::OutFrame;
use super::tcp::Shared;
use super::wire::{Mac, Packet, Route};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
const PREFIX_INFORMATION: u8 = 3;

const HOP_LIMIT: u8 = 64;
/// In seconds.
const ROUTER_LIFETIME: u16 = 1800;
/// The prefix is on this link, and addresses may be formed from it.
const ON_LINK_AUTONOMOUS: u8 = 0xc0;
const VALID_LIFETIME: u32 = 86400;
const PREFERRED_LIFETIME: u32 = 14400;

/// We are a router, were asked, and mean it.
const ROUTER_SOLICITED_OVERRIDE: u8 = 0xe0;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// The address on this link alone that goes with one of ours: the same interface.
pub fn link_local(address: Ipv6Addr) -> Ipv6Addr {
    let interface = u128::from(address) & u128::from(u64::MAX);
    Ipv6Addr::from(0xfe80 << 112 | interface)
}

/// Which of our addresses is meant, as the one with the network's prefix.
pub fn ours(net: &Net6, address: Ipv6Addr) -> Option<Ipv6Addr> {
    [net.host, net.dns].into_iter().find(|&own| address == own || address == link_local(own))
}

/// The answer to a message of neighbour discovery, if it is one that wants an answer.
pub fn answer(
    message: &[u8],
    packet: &Packet,
    guest_mac: Mac,
    net: &Net6,
    shared: &mut Shared,
) -> Option<OutFrame> {
    // RFC 4861, 6.1.1 and 7.1.1: from this link only.
    if packet.ttl != 255 || message.get(1) != Some(&0) {
        return None;
    }
    match *message.first()? {
        ROUTER_SOLICITATION => {
            let route = Route {
                source_mac: mac6(net.host),
                target_mac: ALL_NODES_MAC,
                source: link_local(net.host).into(),
                target: ALL_NODES.into(),
            };
            Some(icmp::frame(&route, 255, 0, router_advertisement(net), shared))
        }
        NEIGHBOUR_SOLICITATION => {
            let octets: [u8; 16] = message.get(8..24)?.try_into().ok()?;
            let target = Ipv6Addr::from(octets);
            let mac = mac6(ours(net, target)?);
            if packet.source.is_unspecified() {
                // Somebody else wants the address for itself (RFC 4862, 5.4): everybody is told.
                let route = Route {
                    source_mac: mac,
                    target_mac: ALL_NODES_MAC,
                    source: target.into(),
                    target: ALL_NODES.into(),
                };
                return Some(icmp::frame(&route, 255, 0, advertisement(target, mac), shared));
            }
            let route = Route {
                source_mac: mac,
                target_mac: guest_mac,
                source: target.into(),
                target: packet.source,
            };
            Some(icmp::frame(&route, 255, 0, advertisement(target, mac), shared))
        }
        _ => None,
    }
}

fn advertisement(target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, ROUTER_SOLICITED_OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    message.extend_from_slice(&[TARGET_LINK_ADDRESS, 1]);
    message.extend_from_slice(&mac);
    message
}

fn router_advertisement(net: &Net6) -> Vec<u8> {
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, 0];
    message.extend_from_slice(&ROUTER_LIFETIME.to_be_bytes());
    // Reachable time and retransmission timer: the guest's own.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[SOURCE_LINK_ADDRESS, 1]);
    message.extend_from_slice(&mac6(net.host));
    message.extend_from_slice(&[PREFIX_INFORMATION, 4, net.prefix_len, ON_LINK_AUTONOMOUS]);
    message.extend_from_slice(&VALID_LIFETIME.to_be_bytes());
    message.extend_from_slice(&PREFERRED_LIFETIME.to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&net.prefix.octets());
    message
}
