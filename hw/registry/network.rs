//! Network cards.

use base::props::Props;

use super::{Done, Fact, Setting, Slots, parse};
use crate::net::card::{NicPlace, NicProps};
use crate::net::e1000::{E1000, E1000Props};
use crate::net::ne2k::{Ne2k, Ne2kProps};
use crate::net::pcnet::{Pcnet, PcnetProps};
use crate::net::rtl8139::{Rtl8139, Rtl8139Props};
use crate::pci::PciFunction;
use crate::virtio::net::{self as virtio_net, Net, NetProps};
use crate::virtio::pci::{InterfaceProps, Interfaces, Place, QueueProps, VirtioPciProps};

/// Properties of network cards of any form but the one that is told its interfaces.
#[derive(Debug, Props)]
pub(super) struct VirtioNetProps {
    #[prop(flatten)]
    net: NetProps,
    #[prop(flatten)]
    pci: VirtioPciProps,
    #[prop(flatten)]
    queues: QueueProps,
}

#[derive(Debug, Props)]
pub(super) struct VirtioNetPciProps {
    #[prop(flatten)]
    rest: VirtioNetProps,
    #[prop(flatten)]
    interfaces: InterfaceProps,
}

pub(super) fn virtio_net_pci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-net-pci";
    let props: VirtioNetPciProps = parse(name, settings)?;
    virtio_net(name, props.interfaces.interfaces(), &props.rest, slots)
}

pub(super) fn virtio_net_transitional(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-net-pci-transitional";
    virtio_net(name, Interfaces::TRANSITIONAL, &parse(name, settings)?, slots)
}

pub(super) fn virtio_net_non_transitional(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-net-pci-non-transitional";
    virtio_net(name, Interfaces::NON_TRANSITIONAL, &parse(name, settings)?, slots)
}

fn virtio_net(
    type_name: &'static str,
    interfaces: Interfaces,
    props: &VirtioNetProps,
    slots: &mut dyn Slots,
) -> Done {
    let VirtioNetProps { net, pci, queues } = props;
    let placement = virtio_net::Placement {
        bus: slots.pci(),
        place: Place {
            type_name,
            interfaces,
            class: 0,
            vectors: queues.vectors,
            props: pci,
            beside: None,
        },
        identity: slots.identity(),
        main_loop: slots.main_loop().clone(),
        nics: slots.nics().clone(),
        msi: slots.msi(),
    };
    let function = Net::plug(placement, net)?;
    tell_boot_index(&net.nic, &function, slots);
    Ok(())
}

/// Tells firmware's name of a network card, if it has a place among what is booted from.
fn tell_boot_index(props: &NicProps, card: &PciFunction, slots: &mut dyn Slots) {
    if let Some(index) = props.bootindex {
        slots.tell(Fact::bootable(index, card, "ethernet", "ethernet-phy@0"));
    }
}

pub(super) fn e1000(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: E1000Props = parse("e1000", settings)?;
    let function = E1000::plug(nic_place(slots), &props)?;
    tell_boot_index(&props.nic, &function, slots);
    Ok(())
}

pub(super) fn ne2k_pci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: Ne2kProps = parse("ne2k_pci", settings)?;
    let function = Ne2k::plug(nic_place(slots), &props)?;
    tell_boot_index(&props.nic, &function, slots);
    Ok(())
}

pub(super) fn pcnet(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: PcnetProps = parse("pcnet", settings)?;
    let function = Pcnet::plug(nic_place(slots), &props)?;
    tell_boot_index(&props.nic, &function, slots);
    Ok(())
}

pub(super) fn rtl8139(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: Rtl8139Props = parse("rtl8139", settings)?;
    let function = Rtl8139::plug(nic_place(slots), &props)?;
    tell_boot_index(&props.nic, &function, slots);
    Ok(())
}

fn nic_place(slots: &dyn Slots) -> NicPlace<'_> {
    NicPlace {
        bus: slots.pci(),
        clocks: slots.clocks(),
        main_loop: slots.main_loop().clone(),
        nics: slots.nics().clone(),
        identity: slots.identity(),
    }
}
