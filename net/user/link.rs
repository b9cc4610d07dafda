//! The link: who has which hardware address, and ARP (RFC 826).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::wire::{ARP, BROADCAST, ETHERNET, Mac, half, word};

/// As many guests' addresses are remembered.
const MAX_NEIGHBOURS: usize = 256;

const ETHERNET_LINK: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Length of an ARP message for Ethernet and IPv4.
const MESSAGE: usize = 28;

/// The shortest frame that a wire carries.
const SHORTEST: usize = 64;

/// The hardware addresses of the guests.
#[derive(Default)]
pub struct Neighbours {
    known: HashMap<IpAddr, Mac>,
    /// Who was heard last is most often who is heard next.
    last: Option<(IpAddr, Mac)>,
}

impl Neighbours {
    /// Notes who sent something; whether that is news.
    pub fn learn(&mut self, address: IpAddr, mac: Mac) -> bool {
        let multicast = mac[0] & 1 != 0;
        let last = self.last == Some((address, mac));
        if last || multicast || address.is_unspecified() || address.is_multicast() {
            return false;
        }
        self.last = Some((address, mac));
        if self.known.get(&address) == Some(&mac) {
            return false;
        }
        if self.known.len() >= MAX_NEIGHBOURS {
            self.known.clear();
        }
        self.known.insert(address, mac);
        true
    }

    /// Who has an address.
    pub fn find(&self, address: IpAddr) -> Option<Mac> {
        self.known.get(&address).copied()
    }
}

/// An ARP message of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpMessage {
    /// Whether it asks for `target`.
    pub request: bool,
    /// Who sends it.
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    /// Who is meant.
    pub target: Ipv4Addr,
}

impl ArpMessage {
    /// Reads what follows the Ethernet header.
    pub fn read(bytes: &[u8]) -> Option<ArpMessage> {
        let known = half(bytes, 0)? == ETHERNET_LINK && bytes.get(2..6)? == [8, 0, 6, 4];
        let operation = half(bytes, 6)?;
        (known && matches!(operation, REQUEST | REPLY)).then_some(ArpMessage {
            request: operation == REQUEST,
            sender_mac: bytes.get(8..14)?.try_into().ok()?,
            sender: word(bytes, 14)?.into(),
            target: word(bytes, 24)?.into(),
        })
    }

    /// The frame that says that `mac` has the address that was asked for.
    pub fn reply(&self, mac: Mac) -> Vec<u8> {
        frame(REPLY, (mac, self.target), (self.sender_mac, self.sender), self.sender_mac)
    }
}

/// The frame that asks for an address, in the name of ours.
pub fn arp_request(ours: (Mac, Ipv4Addr), wanted: Ipv4Addr) -> Vec<u8> {
    frame(REQUEST, ours, ([0; 6], wanted), BROADCAST)
}

fn frame(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr), to: Mac) -> Vec<u8> {
    let mut frame = Vec::with_capacity(SHORTEST.max(ETHERNET + MESSAGE));
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&sender.0);
    frame.extend_from_slice(&ARP.to_be_bytes());
    frame.extend_from_slice(&ETHERNET_LINK.to_be_bytes());
    frame.extend_from_slice(&[8, 0, 6, 4]);
    frame.extend_from_slice(&operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend_from_slice(&mac);
        frame.extend_from_slice(&address.octets());
    }
    frame.resize(SHORTEST, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request for 10.0.2.2, and what QEMU 10.0 answers.
    #[test]
    fn a_reply_has_the_usual_form() {
        let guest: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
        request.extend_from_slice(&guest);
        request.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
        let message = ArpMessage::read(&request).unwrap();
        assert_eq!((message.request, message.target), (true, Ipv4Addr::new(10, 0, 2, 2)));
        let mut expected = guest.to_vec();
        expected.extend_from_slice(&[0x52, 0x55, 10, 0, 2, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        expected.extend_from_slice(&[0x52, 0x55, 10, 0, 2, 2, 10, 0, 2, 2]);
        expected.extend_from_slice(&guest);
        expected.resize(64, 0);
        assert_eq!(message.reply([0x52, 0x55, 10, 0, 2, 2]), expected);
        for len in 0..request.len() {
            assert_eq!(ArpMessage::read(&request[..len]), None);
        }
    }

    #[test]
    fn memory_of_neighbours_is_bounded() {
        let mut neighbours = Neighbours::default();
        for number in 1..10_000u32 {
            let address = Ipv4Addr::from(number).into();
            assert!(neighbours.learn(address, [2; 6]) && !neighbours.learn(address, [2; 6]));
            assert!(neighbours.known.len() <= MAX_NEIGHBOURS);
        }
        assert!(!neighbours.learn([1, 2, 3, 4].into(), [1; 6]));
        assert_eq!(neighbours.find([1, 2, 3, 4].into()), None, "that is a group's address");
    }
}
