//! Which frames get to the driver (virtio 1.2, 5.1.6.5.1 to 5.1.6.5.3).

use base::props::MacAddr;

use crate::net::card::{RxFilter, RxMode};

/// Addresses that the tables have room for.
pub(super) const TABLE: usize = 64;
const VLANS: usize = 4096;
/// The type of a frame of a virtual network.
const TAG: [u8; 2] = [0x81, 0x00];
const TAG_AT: usize = 12;

/// A list of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub addresses: Vec<MacAddr>,
    /// More came than there is room for: all are let through.
    pub overflow: bool,
}

/// What the driver wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub mac: MacAddr,
    pub promiscuous: bool,
    pub all_multicast: bool,
    pub all_unicast: bool,
    pub no_multicast: bool,
    pub no_unicast: bool,
    pub no_broadcast: bool,
    pub unicast: Table,
    pub multicast: Table,
    vlans: Vec<u64>,
}

impl Filter {
    /// That after a reset lets everything through: not every driver knows it.
    pub fn new(mac: MacAddr) -> Self {
        Filter {
            mac,
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: Table::default(),
            multicast: Table::default(),
            vlans: vec![!0; VLANS / 64],
        }
    }

    /// All virtual networks, or none yet.
    pub fn passes_vlans(&mut self, all: bool) {
        self.vlans.fill(if all { !0 } else { 0 });
    }

    /// One virtual network; returns whether there is such a one.
    pub fn set_vlan(&mut self, id: u16, on: bool) -> bool {
        let bit = 1 << (id % 64);
        let Some(word) = self.vlans.get_mut(usize::from(id / 64)) else { return false };
        *word = if on { *word | bit } else { *word & !bit };
        true
    }

    fn has_vlan(&self, id: u16) -> bool {
        self.vlans.get(usize::from(id / 64)).is_some_and(|word| word >> (id % 64) & 1 != 0)
    }

    /// Whether a frame that begins so gets through.
    pub fn wants(&self, header: &[u8; 16]) -> bool {
        if self.promiscuous {
            return true;
        }
        let tag = u16::from_be_bytes([header[14], header[15]]) & 0xfff;
        if header[TAG_AT..TAG_AT + 2] == TAG && !self.has_vlan(tag) {
            return false;
        }
        let mut address = [0; 6];
        address.copy_from_slice(&header[..6]);
        let listed = |table: &Table| table.addresses.iter().any(|known| known.0 == address);
        if address == [0xff; 6] {
            !self.no_broadcast
        } else if address[0] & 1 != 0 {
            !self.no_multicast
                && (self.all_multicast || self.multicast.overflow || listed(&self.multicast))
        } else {
            !self.no_unicast
                && (self.all_unicast
                    || self.unicast.overflow
                    || address == self.mac.0
                    || listed(&self.unicast))
        }
    }

    /// As the operator sees it; `by_vlan` says whether the driver names virtual networks.
    pub fn shown(&self, by_vlan: bool) -> RxFilter {
        let mode = |none: bool, all: bool| match (none, all) {
            (true, _) => RxMode::None,
            (_, true) => RxMode::All,
            _ => RxMode::Normal,
        };
        RxFilter {
            promiscuous: self.promiscuous,
            multicast: mode(self.no_multicast, self.all_multicast),
            unicast: mode(self.no_unicast, self.all_unicast),
            vlan: if by_vlan { RxMode::Normal } else { RxMode::All },
            // The other way round, as QEMU tells it.
            broadcast_allowed: self.no_broadcast,
            multicast_overflow: self.multicast.overflow,
            unicast_overflow: self.unicast.overflow,
            main_mac: self.mac,
            vlan_table: (0..VLANS as u16).rev().filter(|&id| self.has_vlan(id)).collect(),
            unicast_table: self.unicast.addresses.clone(),
            multicast_table: self.multicast.addresses.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
    const GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

    fn header(to: [u8; 6], vlan: Option<u16>) -> [u8; 16] {
        let mut header = [0; 16];
        header[..6].copy_from_slice(&to);
        if let Some(id) = vlan {
            header[TAG_AT..TAG_AT + 2].copy_from_slice(&TAG);
            header[14..].copy_from_slice(&(id | 0xe000).to_be_bytes());
        }
        header
    }

    #[test]
    fn frames_are_let_through_by_kind() {
        let mut filter = Filter::new(MacAddr(OWN));
        let other = [0x52; 6];
        assert!(filter.wants(&header(other, Some(5))), "everything, after a reset");
        filter.promiscuous = false;
        let seen = |filter: &Filter| {
            [OWN, other, GROUP, [0xff; 6]].map(|to| filter.wants(&header(to, None)))
        };
        assert_eq!(seen(&filter), [true, false, false, true]);
        filter.multicast.addresses.push(MacAddr(GROUP));
        filter.unicast.addresses.push(MacAddr(other));
        assert_eq!(seen(&filter), [true; 4]);
        (filter.no_unicast, filter.no_broadcast) = (true, true);
        assert_eq!(seen(&filter), [false, false, true, false]);
        filter.multicast = Table { addresses: Vec::new(), overflow: true };
        assert!(seen(&filter)[2]);
    }

    #[test]
    fn virtual_networks_are_named() {
        let mut filter = Filter::new(MacAddr(OWN));
        filter.promiscuous = false;
        filter.passes_vlans(false);
        assert!(!filter.wants(&header(OWN, Some(7))));
        assert!(filter.set_vlan(7, true) && filter.wants(&header(OWN, Some(7))));
        assert!(!filter.wants(&header(OWN, Some(8))));
        assert!(!filter.set_vlan(4096, true));
        assert_eq!(filter.shown(true).vlan_table, [7]);
        filter.passes_vlans(true);
        assert!(filter.wants(&header(OWN, Some(4095))));
    }
}
