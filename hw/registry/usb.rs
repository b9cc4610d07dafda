//! USB: controllers and devices.

use super::{Done, Setting, Slots, parse};
use crate::usb::hid::Kind;
use crate::usb::props::{HubProps, KeyboardProps, MouseProps, TabletProps, UsbDeviceError};
use crate::usb::uhci::{self, Uhci, UhciProps};
use crate::usb::xhci::{self, NecXhciProps, XhciProps};
use crate::usb::{self, Newcomer};

pub(super) fn piix3_usb_uhci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: UhciProps = parse(uhci::TYPE, settings)?;
    let seat = uhci::Seat::Added(slots.identity().id);
    Uhci::plug(slots.pci(), &seat, &props, slots.usb(), slots.clocks())?;
    Ok(())
}

fn xhci_seat(slots: &dyn Slots) -> xhci::Seat<'_> {
    xhci::Seat {
        pci: slots.pci(),
        id: slots.identity().id,
        msi: slots.msi(),
        buses: slots.usb(),
        clocks: slots.clocks(),
    }
}

pub(super) fn qemu_xhci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: XhciProps = parse(xhci::TYPE, settings)?;
    Ok(xhci::plug(xhci_seat(slots), &props)?)
}

pub(super) fn nec_usb_xhci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: NecXhciProps = parse(xhci::NEC_TYPE, settings)?;
    Ok(xhci::plug_nec(xhci_seat(slots), &props)?)
}

fn attach(slots: &mut dyn Slots, newcomer: Result<Newcomer, UsbDeviceError>) -> Done {
    Ok(slots.attach_usb(newcomer?).map_err(UsbDeviceError::from)?)
}

pub(super) fn usb_mouse(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "usb-mouse";
    let props: MouseProps = parse(name, settings)?;
    let newcomer = usb::props::hid(Kind::Mouse, name, &props, None, slots);
    attach(slots, newcomer)
}

pub(super) fn usb_kbd(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "usb-kbd";
    let props: KeyboardProps = parse(name, settings)?;
    let screen = props.display.as_deref().map(|display| (display, 0));
    let newcomer = usb::props::hid(Kind::Keyboard, name, &props.mouse, screen, slots);
    attach(slots, newcomer)
}

pub(super) fn usb_tablet(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "usb-tablet";
    let props: TabletProps = parse(name, settings)?;
    let screen = props.display.as_deref().map(|display| (display, props.head));
    let newcomer = usb::props::hid(Kind::Tablet, name, &props.mouse, screen, slots);
    attach(slots, newcomer)
}

pub(super) fn usb_hub(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: HubProps = parse(usb::hub::TYPE, settings)?;
    let newcomer = usb::props::hub(&props, slots);
    attach(slots, newcomer)
}
