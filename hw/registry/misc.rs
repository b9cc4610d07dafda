//! Watchdogs, what guests tell about themselves, and devices for tests.

use base::props::UuidOrAuto;

use super::{DeviceError, Done, Fact, NoProps, Setting, Slots, parse};
use crate::firmware::fw_cfg::FwCfgError;
use crate::misc::debug_exit::{self, DebugExitProps};
use crate::misc::edu::{Edu, EduProps};
use crate::misc::pci_testdev::{PciTestdev, PciTestdevProps};
use crate::misc::pvpanic::{self, Pvpanic, PvpanicPciProps, PvpanicProps};
use crate::misc::vmcoreinfo::VmCoreInfo;
use crate::misc::vmgenid::{VmGenId, VmGenIdProps, as_guid};
use crate::watchdog::i6300esb::{I6300Esb, I6300EsbProps};
use crate::watchdog::ib700::{self, Ib700};

pub(super) fn isa_debug_exit(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: DebugExitProps = parse("isa-debug-exit", settings)?;
    let ports = debug_exit::ports(&props, slots.requests());
    slots.isa().place(&ports, props.iobase.into());
    Ok(())
}

pub(super) fn pvpanic(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: PvpanicProps = parse("pvpanic", settings)?;
    let file = props.ioport.to_le_bytes().to_vec();
    slots.fw_cfg().lock().add_file(pvpanic::PORT_FILE, file, Default::default())?;
    let (device, port) = Pvpanic::create(props.events, slots.requests());
    slots.isa().place(&port, props.ioport.into());
    slots.add(device);
    slots.tell(Fact::Pvpanic(props.ioport));
    Ok(())
}

pub(super) fn pvpanic_pci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: PvpanicPciProps = parse("pvpanic-pci", settings)?;
    Ok(Pvpanic::plug(slots.pci(), &props, slots.requests())?)
}

pub(super) fn pci_testdev(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: PciTestdevProps = parse("pci-testdev", settings)?;
    Ok(PciTestdev::plug(slots.pci(), &props)?)
}

pub(super) fn edu(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: EduProps = parse("edu", settings)?;
    Ok(Edu::plug(slots.pci(), &props, slots.msi(), slots.clocks())?)
}

/// A random (version 4) UUID.
fn random_uuid() -> std::io::Result<[u8; 16]> {
    let mut uuid = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut uuid)?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

pub(super) fn vmgenid(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: VmGenIdProps = parse("vmgenid", settings)?;
    if slots.facts().iter().any(|fact| matches!(fact, Fact::GenerationId(_))) {
        return Err(DeviceError::OnlyOne("vmgenid"));
    }
    let uuid = match props.guid {
        UuidOrAuto::Given(uuid) => uuid.0,
        UuidOrAuto::Auto => random_uuid().map_err(DeviceError::Random)?,
    };
    let device = VmGenId::create(slots.fw_cfg())?;
    slots.add(device);
    slots.tell(Fact::GenerationId(as_guid(uuid)));
    Ok(())
}

pub(super) fn vmcoreinfo(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let _: NoProps = parse("vmcoreinfo", settings)?;
    let device = VmCoreInfo::create(slots.fw_cfg()).map_err(|error| match error {
        FwCfgError::Duplicate(_) => DeviceError::OnlyOne("vmcoreinfo"),
        other => other.into(),
    })?;
    slots.add(device);
    Ok(())
}

pub(super) fn i6300esb(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: I6300EsbProps = parse("i6300esb", settings)?;
    Ok(I6300Esb::plug(slots.pci(), &props, slots.clocks(), slots.requests())?)
}

pub(super) fn pc_testdev(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let _: NoProps = parse("pc-testdev", settings)?;
    crate::misc::pc_testdev::plug(slots.isa());
    Ok(())
}

pub(super) fn ib700(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let _: NoProps = parse("ib700", settings)?;
    let (device, [stop, start]) = Ib700::create(slots.clocks(), slots.requests());
    slots.isa().place(&stop, ib700::STOP_PORT);
    slots.isa().place(&start, ib700::START_PORT);
    slots.add(device);
    Ok(())
}
