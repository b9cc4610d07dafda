//! A serial port as a PCI function (QEMU's "QEMU pci serial devices" specification).

use base::chardev::{Chardev, ChardevError};
use base::clock::Clocks;
use base::props::{ChardevId, Props};

use super::serial::{PORTS, Serial};
use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, PciBus, PciDevice, PciError, PciProps, ids, reg,
};

const IDENTITY: Identity = Identity {
    vendor: ids::REDHAT,
    device: ids::REDHAT_SERIAL,
    revision: 1,
    class: 0x070000,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 1,
};

/// A 16550.
const COMPATIBLE_16550: u8 = 2;

/// Properties of `pci-serial`.
#[derive(Debug, Props)]
pub struct PciSerialProps {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
    /// The character device.
    pub chardev: Option<ChardevId>,
    /// Programming interface that the header shows.
    #[prop(default = COMPATIBLE_16550)]
    pub prog_if: u8,
}

/// Why the port could not be plugged.
#[derive(Debug, thiserror::Error)]
pub enum PciSerialError {
    /// The bus has no place.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The character device is taken.
    #[error(transparent)]
    Chardev(#[from] ChardevError),
}

impl PciDevice for Serial {}

/// Plugs a port.
pub fn plug(
    bus: &PciBus,
    props: &PciSerialProps,
    chardev: Option<&Chardev>,
    clocks: &Clocks,
) -> Result<(), PciSerialError> {
    let mut config = ConfigSpace::new(&IDENTITY);
    config.allow_device_registers();
    config.set_u8(reg::PROG_IF, props.prog_if);
    config.add_bar(0, Bar { kind: BarKind::Io, size: PORTS });
    let mut attached = Ok(());
    bus.plug("pci-serial", &props.pci, config, |wires| {
        let (serial, region) = Serial::create(wires.intx, clocks);
        if let Some(chardev) = chardev {
            attached = Serial::attach(&serial, chardev);
        }
        (serial, vec![(0, region)])
    })?;
    Ok(attached?)
}
