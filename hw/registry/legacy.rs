//! Serial and parallel ports, and the debug console.

use std::sync::Arc;

use base::chardev::{Chardev, ChardevError};
use base::props::{ChardevId, PropError, Props};

use super::{DeviceError, Done, Fact, Setting, Slots, parse};
use crate::char::debugcon::{self, Debugcon};
use crate::char::parallel::{self, Parallel};
use crate::char::pci_serial::{self, PciSerialError, PciSerialProps};
use crate::char::serial::{self, Serial};
use crate::firmware::acpi::LegacyPort;
use crate::isa::IRQS;

/// Means that the device picks for itself.
const PICK: u32 = u32::MAX;

/// Properties of the legacy ports.
#[derive(Debug, Props)]
pub(super) struct SerialProps {
    /// Which of the ports.
    #[prop(default = PICK)]
    index: u32,
    #[prop(default = PICK)]
    iobase: u32,
    #[prop(default = PICK)]
    irq: u32,
    chardev: Option<ChardevId>,
}

#[derive(Debug, Props)]
pub(super) struct ParallelProps {
    /// Which of the ports.
    #[prop(default = PICK)]
    index: u32,
    #[prop(default = PICK)]
    iobase: u32,
    #[prop(default = parallel::ISA_IRQ)]
    irq: u32,
    chardev: Option<ChardevId>,
}

#[derive(Debug, Props)]
pub(super) struct DebugconProps {
    #[prop(default = debugcon::DEFAULT_PORT as u32)]
    iobase: u32,
    #[prop(default = debugcon::READBACK as u32)]
    readback: u32,
    chardev: Option<ChardevId>,
}

fn chardev(
    slots: &dyn Slots,
    owner: &'static str,
    id: Option<&ChardevId>,
) -> Result<Option<Arc<Chardev>>, PropError> {
    let find = |id: &ChardevId| {
        slots.chardev(&id.0).ok_or_else(|| PropError::no_such_backend(owner, "chardev", &id.0))
    };
    id.map(find).transpose()
}

/// Turns a refusal of the back end into one that names it.
fn refused(owner: &'static str, chardev: &Chardev, source: ChardevError) -> DeviceError {
    DeviceError::Chardev { owner, id: chardev.label().into(), source }
}

/// Where a legacy port goes: its index among those of its kind, its ports, its interrupt.
fn legacy_port(
    what: &'static str,
    (index, iobase, irq): (u32, u32, u32),
    present: usize,
    bases: &[u64],
    irqs: &[u32],
) -> Result<LegacyPort, DeviceError> {
    let index = if index == PICK { present } else { index as usize };
    let too_many = DeviceError::TooMany { what, limit: bases.len() };
    let (Some(&base), Some(&usual_irq)) = (bases.get(index), irqs.get(index)) else {
        return Err(too_many);
    };
    let irq = if irq == PICK { usual_irq } else { irq };
    if irq >= IRQS {
        return Err(DeviceError::NoInterrupt(irq));
    }
    let io_base = if iobase == PICK { base as u16 } else { iobase as u16 };
    Ok(LegacyPort { number: index as u8 + 1, io_base, irq: irq as u8 })
}

pub(super) fn isa_serial(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: SerialProps = parse("isa-serial", settings)?;
    let chardev = chardev(slots, "serial", props.chardev.as_ref())?;
    let present = slots.facts().iter().filter(|fact| matches!(fact, Fact::Serial(_))).count();
    let place = legacy_port(
        "ISA serial",
        (props.index, props.iobase, props.irq),
        present,
        &serial::ISA_PORTS,
        &serial::ISA_IRQS,
    )?;
    let (device, ports) = Serial::create(slots.isa().irq(place.irq.into()), slots.clocks());
    if let Some(chardev) = chardev {
        Serial::attach(&device, &chardev).map_err(|e| refused("serial", &chardev, e))?;
    }
    slots.isa().place(&ports, place.io_base.into());
    slots.add(device);
    slots.tell(Fact::Serial(place));
    Ok(())
}

pub(super) fn pci_serial(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: PciSerialProps = parse("pci-serial", settings)?;
    let chardev = chardev(slots, "serial", props.chardev.as_ref())?;
    pci_serial::plug(slots.pci(), &props, chardev.as_deref(), slots.clocks()).map_err(
        |error| match (error, &chardev) {
            (PciSerialError::Pci(error), _) => error.into(),
            (PciSerialError::Chardev(error), Some(chardev)) => refused("serial", chardev, error),
            (PciSerialError::Chardev(_), None) => DeviceError::NoChardev("serial"),
        },
    )
}

pub(super) fn isa_parallel(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: ParallelProps = parse("isa-parallel", settings)?;
    let chardev = chardev(slots, "isa-parallel", props.chardev.as_ref())?
        .ok_or(DeviceError::NoChardev("parallel"))?;
    let present = slots.facts().iter().filter(|fact| matches!(fact, Fact::Parallel(_))).count();
    let place = legacy_port(
        "parallel",
        (props.index, props.iobase, props.irq),
        present,
        &parallel::ISA_PORTS,
        &[parallel::ISA_IRQ; 3],
    )?;
    let (device, ports) = Parallel::create(slots.isa().irq(place.irq.into()), &chardev)
        .map_err(|e| refused("isa-parallel", &chardev, e))?;
    slots.isa().place(&ports, place.io_base.into());
    slots.add(device);
    slots.tell(Fact::Parallel(place));
    Ok(())
}

pub(super) fn isa_debugcon(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: DebugconProps = parse("isa-debugcon", settings)?;
    let chardev = chardev(slots, "isa-debugcon", props.chardev.as_ref())?
        .ok_or(DeviceError::NoChardev("debugcon"))?;
    let (device, port) = Debugcon::create(props.readback.into(), &chardev)
        .map_err(|e| refused("isa-debugcon", &chardev, e))?;
    slots.isa().place(&port, props.iobase.into());
    slots.add(device);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_ports_are_numbered() {
        let place = |index, present| {
            legacy_port(
                "ISA serial",
                (index, PICK, PICK),
                present,
                &serial::ISA_PORTS,
                &serial::ISA_IRQS,
            )
        };
        let second = LegacyPort { number: 2, io_base: 0x2f8, irq: 3 };
        assert_eq!(place(PICK, 1).ok(), Some(second));
        assert_eq!(place(1, 0).ok(), Some(second));
        let error = place(9, 0).map_err(|error| error.to_string());
        assert_eq!(error, Err("Max. supported number of ISA serial ports is 4.".into()));
    }
}
