//! Disks: `-blockdev`, `-drive` and its short forms, and the empty drives that a board has by itself.

use std::sync::Arc;

use base::options::Opts;
use block::backend::{Backend, DriveInfo, Interface, Media};
use block::engine::block_on;
use block::graph::Graph;
use block::node::{DetectZeroes, Manner, Node, Role};
use block::open::{open_tree, snapshot_overlay};
use block::throttle::Group;

use crate::config::{
    BlockdevConfig, ConfigError, DeviceConfig, Drive, DriveConfig, Located, MachineConfig,
    ObjectConfig, Origin, PropList,
};
use crate::objects::{UserObjectError, UserObjects, is_early};

/// Types of devices whose presence takes a default drive's place away.
const REPLACE_CDROM: [&str; 5] = ["ide-cd", "ide-hd", "scsi-cd", "scsi-hd", "ide-drive"];
const REPLACE_FLOPPY: [&str; 2] = ["floppy", "isa-fdc"];

/// What comes of the disks' options.
#[derive(Default)]
pub(super) struct Drives {
    /// Devices for drives that are connected by one (`if=virtio`).
    pub devices: Vec<Located<DeviceConfig>>,
    /// Drives that the operator asked for, and where.
    asked: Vec<(Origin, Arc<Backend>)>,
}

/// Makes the limits of `-object throttle-group`, which nodes refer to.
pub(super) fn create_limits(
    objects: &[Located<ObjectConfig>],
    made: &UserObjects,
) -> Result<(), ConfigError> {
    for Located { value: object, origin } in objects {
        if is_early(&object.type_name) {
            made.add(object).map_err(|error| match error {
                UserObjectError::Secret(_) | UserObjectError::Credentials(_) => super::fault(error),
                error => ConfigError::at(origin, error.to_string()),
            })?;
        }
    }
    Ok(())
}

/// Makes the nodes of `-blockdev`.
pub(super) fn create_nodes(
    blockdevs: &[Located<BlockdevConfig>],
    graph: &Graph,
) -> Result<(), ConfigError> {
    for blockdev in blockdevs {
        graph
            .add_node(&blockdev.value.tree, blockdev.value.form)
            .map_err(|error| ConfigError::at(&blockdev.origin, error.to_string()))?;
    }
    Ok(())
}

/// Makes the drives; `usual` is what the board connects them to.
pub(super) fn create(
    config: &MachineConfig,
    graph: &Graph,
    usual: Interface,
) -> Result<Drives, ConfigError> {
    let mut drives = Drives::default();
    for drive in &config.drives {
        let located = |error: ConfigError| match error.origin {
            Origin::None => ConfigError::at(&drive.origin, error.message),
            _ => error,
        };
        drives.add(config, &drive.value, &drive.origin, graph, usual).map_err(located)?;
    }
    if usual == Interface::Ide && !config.no_defaults {
        let has = |types: &[&str]| {
            let mut named = config.devices.iter().map(|device| device.value.driver.as_str());
            let mut set = config.globals.iter().map(|global| global.driver.as_str());
            named.any(|name| types.contains(&name)) || set.any(|name| types.contains(&name))
        };
        if !has(&REPLACE_CDROM) {
            drives.add_empty(graph, Interface::Ide, 2, Media::Cdrom)?;
        }
        if !has(&REPLACE_FLOPPY) {
            drives.add_empty(graph, Interface::Floppy, 0, Media::Disk)?;
        }
    }
    Ok(drives)
}

impl Drives {
    /// An empty drive, unless its place is taken.
    fn add_empty(
        &mut self,
        graph: &Graph,
        interface: Interface,
        index: u32,
        media: Media,
    ) -> Result<(), ConfigError> {
        let (bus, unit) = interface.at_index(index);
        if graph.drive_at(interface, bus, unit).is_some() {
            return Ok(());
        }
        let read_only = media == Media::Cdrom;
        let info = DriveInfo {
            interface,
            bus,
            unit,
            media,
            read_only,
            legacy: true,
            ..Default::default()
        };
        graph.add_backend(&info.name(), info).map(drop).map_err(super::fault)
    }

    fn add(
        &mut self,
        config: &MachineConfig,
        drive: &DriveConfig,
        origin: &Origin,
        graph: &Graph,
        usual: Interface,
    ) -> Result<(), ConfigError> {
        let mut drive = Drive::from_config(drive, usual)?;
        let snapshot = drive.snapshot.unwrap_or(config.snapshot);
        if drive.anywhere {
            let mut free = (drive.index()..).find(|&index| {
                let (bus, unit) = drive.info.interface.at_index(index);
                graph.drive_at(drive.info.interface, bus, unit).is_none()
            });
            drive.set_index(free.take().unwrap_or(0));
        }
        let DriveInfo { interface, bus, unit, .. } = drive.info;
        if graph.drive_at(interface, bus, unit).is_some() {
            return Err(ConfigError::new(format!(
                "drive with bus={bus}, unit={unit} (index={}) exists",
                drive.index()
            )));
        }
        if let Some(warning) = drive.warning {
            super::warn(&Located::new(warning.to_owned(), origin));
        }
        let backend = open(&drive, snapshot, graph).map_err(super::fault)?;
        if interface == Interface::Virtio {
            let props = vec![("drive".to_owned(), backend.name().to_owned())];
            let device = DeviceConfig {
                driver: "virtio-blk-pci".into(),
                id: None,
                bus: None,
                props: PropList::Text(props),
            };
            self.devices.push(Located::new(device, origin));
        }
        self.asked.push((origin.clone(), backend));
        Ok(())
    }

    /// Refuses drives that the board had no place for.
    pub fn check_all_connected(&self) -> Result<(), ConfigError> {
        for (origin, backend) in &self.asked {
            let DriveInfo { interface, bus, unit, .. } = *backend.info();
            if interface != Interface::None && !backend.is_used() {
                let name = interface.name();
                let text = format!("machine type does not support if={name},bus={bus},unit={unit}");
                return Err(ConfigError::at(origin, text));
            }
        }
        Ok(())
    }
}

/// Adds a drive that devices can refer to, while the machine runs (`drive_add`).
pub fn add_drive(opts: Opts, graph: &Graph) -> Result<(), ConfigError> {
    if let Some(id) = opts.id.as_ref().filter(|id| graph.backend(id).is_some()) {
        return Err(ConfigError::new(format!("Duplicate ID '{id}' for drive")));
    }
    let drive = Drive::from_config(&DriveConfig { opts, interface: None }, Interface::Ide)?;
    if drive.info.interface != Interface::None {
        let number = drive.info.interface as u32;
        return Err(ConfigError::new(format!("Can't hot-add drive to type {number}")));
    }
    open(&drive, drive.snapshot.unwrap_or(false), graph).map(drop).map_err(super::fault)
}

/// Opens a drive's image and makes its back end.
fn open(drive: &Drive, snapshot: bool, graph: &Graph) -> block::Result<Arc<Backend>> {
    let node = if drive.is_empty() { None } else { Some(open_image(drive, snapshot, graph)?) };
    let backend = graph.add_backend(&drive.name(), drive.info.clone())?;
    backend.set_node(node)?;
    if drive.limits.is_limited() {
        let name = drive.group.clone().unwrap_or_else(|| drive.name());
        let group = graph.throttle_group(&name);
        backend.set_throttle(Some(group.unwrap_or_else(|| Group::new(&name, drive.limits))));
    }
    Ok(backend)
}

fn open_image(drive: &Drive, snapshot: bool, graph: &Graph) -> block::Result<Arc<Node>> {
    let mut options = drive.options.clone();
    if snapshot {
        options.set("read-only", true);
    }
    // `-drive` takes what `-blockdev` refuses: zeroes that are to be discarded where nothing is.
    let detect_zeroes = options.text("detect-zeroes");
    if let Some(asked) = &detect_zeroes {
        options.set("detect-zeroes", if asked == "unmap" { "on" } else { asked });
    }
    let opened = block_on(open_tree(drive.file.as_deref(), options, &graph.how(), Some(graph)))?;
    for warning in opened.warnings {
        eprintln!("{warning}");
    }
    let mut node = opened.node;
    if detect_zeroes.as_deref() == Some("unmap") {
        node.set_manner(Manner { detect_zeroes: DetectZeroes::Unmap, ..node.manner() });
    }
    if snapshot {
        node = block_on(snapshot_overlay(node, graph.io().clone()))?;
        node.child(Role::File).iter().for_each(|file| graph.enter(file));
        graph.enter(&node);
    }
    if drive.copy_on_read {
        node.set_manner(Manner { copy_on_read: true, ..node.manner() });
    }
    Ok(node)
}
