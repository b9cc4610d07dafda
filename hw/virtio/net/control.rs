//! The control queue (virtio 1.2, 5.1.6.5).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use base::event_loop::{BottomHalf, LoopHandle};
use base::props::MacAddr;

use super::filter::{Filter, TABLE, Table};
use super::{Shared, feature};
use crate::virtio::{Chain, VirtQueue};

/// Classes of commands.
const RX: u8 = 0;
const MAC: u8 = 1;
const VLAN: u8 = 2;
const ANNOUNCE: u8 = 3;
const MQ: u8 = 4;
const GUEST_OFFLOADS: u8 = 5;

const RX_PROMISCUOUS: u8 = 0;
const RX_ALL_MULTICAST: u8 = 1;
const RX_ALL_UNICAST: u8 = 2;
const RX_NO_MULTICAST: u8 = 3;
const RX_NO_UNICAST: u8 = 4;
const RX_NO_BROADCAST: u8 = 5;
const MAC_TABLES: u8 = 0;
const MAC_ADDRESS: u8 = 1;
const VLAN_ADD: u8 = 0;
const VLAN_REMOVE: u8 = 1;

const OK: u8 = 0;
const ERROR: u8 = 1;

const HEADER: u64 = 2;
const ADDRESS: u64 = 6;
/// Addresses that a table may come with: more than any driver has.
const MAX_ADDRESSES: u32 = 4096;

/// Serves a queue in its role of the control queue.
pub(super) struct Control {
    shared: Arc<Shared>,
    queue: Arc<VirtQueue>,
    job: BottomHalf,
}

impl Control {
    pub fn new(shared: &Arc<Shared>, queue: &Arc<VirtQueue>, main_loop: &LoopHandle) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let me = me.clone();
            let job = main_loop.bottom_half(move || {
                if let Some(control) = me.upgrade() {
                    control.queue.serve(|chain| control.obey(chain));
                }
            });
            Control { shared: shared.clone(), queue: queue.clone(), job }
        })
    }

    pub fn schedule(&self) {
        self.job.schedule();
    }

    fn obey(&self, chain: Chain) {
        let mut header = [0; HEADER as usize];
        if chain.writable_len() == 0 || !chain.read(0, &mut header) {
            return self.queue.refuse("a command without a header or a status");
        }
        let done = self.shared.command(header, &Argument(&chain));
        let status = if done.is_some() { OK } else { ERROR };
        chain.write(0, &[status]);
        self.queue.push(chain, 1);
    }
}

/// What comes behind a command's header.
pub(super) struct Argument<'a>(&'a Chain);

impl Argument<'_> {
    fn bytes<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read(HEADER + at, &mut bytes).then_some(bytes)
    }

    fn switch(&self) -> Option<bool> {
        self.bytes::<1>(0).map(|[byte]| byte != 0)
    }

    /// A table of addresses, and where it ends.
    fn table(&self, at: u64) -> Option<(Vec<MacAddr>, u64)> {
        let count = u32::from_le_bytes(self.bytes(at)?);
        let mut at = at + 4;
        let mut addresses = Vec::new();
        if count > MAX_ADDRESSES {
            return None;
        }
        for _ in 0..count {
            addresses.push(MacAddr(self.bytes(at)?));
            at += ADDRESS;
        }
        Some((addresses, at))
    }
}

impl Shared {
    /// Does what a command says; nothing if it can not be done.
    pub(super) fn command(&self, [class, command]: [u8; 2], argument: &Argument<'_>) -> Option<()> {
        match class {
            RX => {
                let on = argument.switch()?;
                self.change(|filter| {
                    let switch = match command {
                        RX_PROMISCUOUS => &mut filter.promiscuous,
                        RX_ALL_MULTICAST => &mut filter.all_multicast,
                        RX_ALL_UNICAST => &mut filter.all_unicast,
                        RX_NO_MULTICAST => &mut filter.no_multicast,
                        RX_NO_UNICAST => &mut filter.no_unicast,
                        RX_NO_BROADCAST => &mut filter.no_broadcast,
                        _ => return None,
                    };
                    *switch = on;
                    Some(())
                })
            }
            MAC if command == MAC_ADDRESS => {
                let mac = MacAddr(argument.bytes(0)?);
                self.change(|filter| {
                    filter.mac = mac;
                    Some(())
                })
            }
            MAC if command == MAC_TABLES => {
                let (unicast, end) = argument.table(0)?;
                let (multicast, _) = argument.table(end)?;
                self.change(|filter| {
                    let unicast_fits = unicast.len() <= TABLE;
                    let left = TABLE - if unicast_fits { unicast.len() } else { 0 };
                    filter.unicast = table(unicast, TABLE);
                    filter.multicast = table(multicast, left);
                    Some(())
                })
            }
            VLAN => {
                let id = u16::from_le_bytes(argument.bytes(0)?);
                let on = match command {
                    VLAN_ADD => true,
                    VLAN_REMOVE => false,
                    _ => return None,
                };
                self.change(|filter| filter.set_vlan(id, on).then_some(()))
            }
            ANNOUNCE if command == 0 => self.announces.swap(false, Ordering::Relaxed).then_some(()),
            MQ if command == 0 && self.has(feature::MQ) => {
                let pairs = u16::from_le_bytes(argument.bytes(0)?);
                if !(1..=self.shown.pairs).contains(&pairs) {
                    return None;
                }
                self.pairs.store(pairs.into(), Ordering::Release);
                Some(())
            }
            GUEST_OFFLOADS if command == 0 && self.has(feature::CTRL_GUEST_OFFLOADS) => {
                let wanted = u64::from_le_bytes(argument.bytes(0)?);
                let possible = self.features.load(Ordering::Acquire) & feature::GUEST_OFFLOADS;
                if wanted & !possible != 0 {
                    return None;
                }
                self.guest_offloads.store(wanted, Ordering::Release);
                Some(())
            }
            _ => None,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Filter) -> Option<()>) -> Option<()> {
        let done = change(&mut self.filter.lock());
        self.filter_changed();
        done
    }

    /// The link went up or down: the driver is told.
    pub(super) fn look_at_link(&self) {
        let up = self.cable.is_up();
        if self.link_up.swap(up, Ordering::Relaxed) != up {
            self.driver.config_changed();
        }
    }
}

fn table(addresses: Vec<MacAddr>, room: usize) -> Table {
    match addresses.len() > room {
        true => Table { addresses: Vec::new(), overflow: true },
        false => Table { addresses, overflow: false },
    }
}
