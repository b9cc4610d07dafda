//! Disks.

use base::options::{Keyval, Opts, is_help};
use block::backend::Interface;
use block::schema::Form;
use machine::config::{BlockdevConfig, DriveConfig, Located, Origin};

use super::table::CliOption;
use super::{Builder, Done, Exit, Stop, fault, groups, standard};

pub(super) const OPTIONS: &[CliOption] = &[
    CliOption::text(
        &["fda"],
        "FILE",
        "use FILE as image of the first floppy",
        |b, file, origin| short(b, origin, Some(Interface::Floppy), 0, file, ""),
    ),
    CliOption::text(
        &["fdb"],
        "FILE",
        "use FILE as image of the second floppy",
        |b, file, origin| short(b, origin, Some(Interface::Floppy), 1, file, ""),
    ),
    CliOption::text(
        &["hda"],
        "FILE",
        "use FILE as image of the first hard disk",
        |b, file, origin| short(b, origin, None, 0, file, "disk"),
    ),
    CliOption::text(
        &["hdb"],
        "FILE",
        "use FILE as image of the second hard disk",
        |b, file, origin| short(b, origin, None, 1, file, "disk"),
    ),
    CliOption::text(
        &["hdc"],
        "FILE",
        "use FILE as image of the third hard disk",
        |b, file, origin| short(b, origin, None, 2, file, "disk"),
    ),
    CliOption::text(
        &["hdd"],
        "FILE",
        "use FILE as image of the fourth hard disk",
        |b, file, origin| short(b, origin, None, 3, file, "disk"),
    ),
    CliOption::text(
        &["cdrom"],
        "FILE",
        "use FILE as CD-ROM in the third IDE drive",
        |b, file, origin| short(b, origin, None, 2, file, "cdrom"),
    ),
    CliOption::text(
        &["pflash"],
        "FILE",
        "use FILE as an image of the flash memory that firmware is in",
        |b, file, origin| {
            let entries = vec![("file".to_owned(), file.to_owned())];
            let opts = Opts { id: None, entries };
            let drive = DriveConfig { opts, interface: Some(Interface::Pflash) };
            b.config.drives.push(Located::new(drive, origin));
            Ok(())
        },
    ),
    CliOption::opts(
        &["drive"],
        "[file=FILE][,if=type][,index=n | ,bus=n,unit=n][,media=d][,format=f][,id=id]\n\
         [,snapshot=on|off][,cache=mode][,aio=threads|native|io_uring][,readonly=on|off]\n\
         [,werror=action][,rerror=action][,discard=ignore|unmap][,detect-zeroes=on|off|unmap]\n\
         [,copy-on-read=on|off][,throttling.limit=n][,driver's own key=value]",
        "use FILE as a drive image",
        &groups::DRIVE,
        drive,
    )
    .with_first_look(drive_help),
    CliOption::text(
        &["blockdev"],
        "[driver=]driver[,node-name=name][,key=value[,...]]",
        "make a node of the block layer",
        blockdev,
    ),
    CliOption::flag(&["snapshot"], "write to temporary files instead of disk images", |builder| {
        builder.config.snapshot = true;
        Ok(())
    }),
];

fn short(
    builder: &mut Builder<'_, '_>,
    origin: &Origin,
    interface: Option<Interface>,
    index: u32,
    file: &str,
    media: &str,
) -> Done {
    let drive = DriveConfig::short(interface, index, file, media);
    builder.config.drives.push(Located::new(drive, origin));
    Ok(())
}

/// A disk image without an option.
pub(super) fn image(builder: &mut Builder<'_, '_>, file: &str) {
    let drive = DriveConfig::short(None, 0, file, "disk");
    builder.config.drives.push(Located::new(drive, &Origin::CommandLine(file.into())));
}

fn drive_help(_: &mut Builder<'_, '_>, text: &str, _: &Origin) -> Result<bool, Stop> {
    let asks = text.split(',').any(|part| part.strip_prefix("format=").is_some_and(is_help));
    if !asks {
        return Ok(false);
    }
    let names = block::format::driver_names().join(" ");
    let text = format!("Supported formats: {names}\nSupported formats (read-only): {names}\n");
    Err(Stop::Exit(Exit::listing(text)))
}

fn drive(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let drives = &mut builder.config.drives;
    if let Some(id) = &opts.id
        && drives.iter().any(|other| other.value.opts.id.as_ref() == Some(id))
    {
        return fault(origin, format!("Duplicate ID '{id}' for drive"));
    }
    drives.push(Located::new(DriveConfig { opts, interface: None }, origin));
    Ok(())
}

fn blockdev(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    let (tree, form) = if text.starts_with('{') {
        (standard::json_object(text, origin)?, Form::Json)
    } else {
        let parsed = Keyval::parse(text, Some("driver")).or_else(|error| fault(origin, error))?;
        if parsed.help {
            return fault(origin, "Help is not available for this option");
        }
        (parsed.tree, Form::Keyval)
    };
    builder.config.blockdevs.push(Located::new(BlockdevConfig { tree, form }, origin));
    Ok(())
}
