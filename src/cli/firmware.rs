//! What the guest boots, and what it is told about the machine.

use base::options::{OptionError, Opts, ParsedOpts};
use base::props::Uuid;
use machine::config::{FwCfgEntry, FwCfgSource, Located, OptionRom, Origin, SmbiosEntry};

use super::table::CliOption;
use super::{Builder, Done, fault, groups, standard};

pub(super) const OPTIONS: &[CliOption] = &[
    CliOption::text(&["bios"], "file", "set the firmware", |b, text, _| set(b, "firmware", text)),
    CliOption::text(&["L"], "path", "search firmware and keymaps there first ('-L help' lists directories)", data_dir),
    CliOption::text(&["kernel"], "file", "boot this kernel (bzImage, PVH or Multiboot)", |b, text, _| {
        set(b, "kernel", text)
    }),
    CliOption::text(&["append"], "text", "give the kernel this command line", |b, text, _| set(b, "append", text)),
    CliOption::text(&["initrd"], "file", "give the kernel this initial RAM disk", |b, text, _| {
        set(b, "initrd", text)
    }),
    CliOption::text(&["shim"], "file", "boot the kernel by this EFI shim", |b, text, _| set(b, "shim", text)),
    CliOption::text(&["dtb"], "file", "give the kernel this device tree", |b, text, _| set(b, "dtb", text)),
    CliOption::text(
        &["boot"],
        "[order=drives][,once=drives][,menu=on|off][,splash=file][,splash-time=ms][,reboot-timeout=ms][,strict=on|off]",
        "say in which order drives are tried: floppy (a), disk (c), CD-ROM (d), network (n)",
        standard::boot,
    )
    .with_group(&groups::BOOT),
    CliOption::flag(&["no-fd-bootchk"], "let the firmware boot floppies without boot signature", |builder| {
        builder.set_machine("fd-bootchk", "off");
        Ok(())
    }),
    CliOption::opts(
        &["fw_cfg"],
        "[name=]name,file=file | [name=]name,string=text",
        "add an entry to the firmware configuration device",
        &groups::FW_CFG,
        fw_cfg,
    ),
    CliOption::opts(
        &["option-rom"],
        "[romfile=]file[,bootindex=n]",
        "have firmware run this option ROM",
        &groups::OPTION_ROM,
        option_rom,
    ),
    CliOption::text(
        &["smbios"],
        "file=file | type=n[,field=value[,...]]",
        "add an SMBIOS structure, or set fields of one",
        smbios,
    )
    .with_group(&groups::SMBIOS),
    CliOption::opts(
        &["rtc"],
        "[base=utc|localtime|datetime][,clock=host|rt|vm][,driftfix=none|slew]",
        "set the real-time clock's start and what drives it",
        &groups::RTC,
        |builder, opts, _| {
            builder.rtc.entries.extend(opts.entries);
            Ok(())
        },
    ),
    CliOption::opts(
        &["icount"],
        "[shift=N|auto][,align=on|off][,sleep=on|off]",
        "have the guest's clock count instructions, 2^N nanoseconds each (auto: such\n\
         that it keeps pace with real time); align=on waits where it is ahead of real\n\
         time, sleep=off does not wait while the guest sleeps",
        &groups::ICOUNT,
        icount,
    ),
    CliOption::text(
        &["seed"],
        "number",
        "have the processors' random numbers follow from this one",
        seed,
    ),
];

fn seed(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    let number =
        base::options::number::parse_int(text).and_then(|number| u64::try_from(number).ok());
    let Some(number) = number else {
        return fault(origin, format!("Invalid seed number: {text}"));
    };
    builder.config.seed = Some(number);
    Ok(())
}

fn icount(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let all = builder.icount.get_or_insert_with(|| Located::new(Opts::default(), origin));
    all.value.entries.extend(opts.entries);
    Ok(())
}

fn set(builder: &mut Builder<'_, '_>, key: &str, text: &str) -> Done {
    builder.set_machine(key, text);
    Ok(())
}

fn data_dir(builder: &mut Builder<'_, '_>, text: &str, _: &Origin) -> Done {
    if base::options::is_help(text) {
        let dirs = builder.catalog.data_dirs(&builder.config.data_dirs);
        builder.list(dirs);
    } else {
        builder.config.data_dirs.push(text.into());
    }
    Ok(())
}

/// Longest name of an entry: 56 bytes in the directory, less the terminating zero.
const FW_CFG_NAME: usize = 55;

fn fw_cfg(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let text = |key: &str| opts.get(key).filter(|text| !text.is_empty()).map(str::to_string);
    let sources = [
        text("file").map(FwCfgSource::File),
        opts.get("string").map(|text| FwCfgSource::Text(text.into())),
        text("gen_id").map(FwCfgSource::Object),
    ];
    let mut sources = sources.into_iter().flatten();
    let (Some(name), Some(source), None) = (text("name"), sources.next(), sources.next()) else {
        return fault(origin, "name, plus exactly one of file, string and gen_id, are needed");
    };
    if name.len() > FW_CFG_NAME {
        return fault(origin, format!("name too long (max. {FW_CFG_NAME} char)"));
    }
    if !name.starts_with("opt/") {
        builder
            .warn(origin, "externally provided fw_cfg item names should be prefixed with \"opt/\"");
    }
    builder.config.fw_cfg.push(Located::new(FwCfgEntry { name, source }, origin));
    Ok(())
}

fn option_rom(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let boot_index = opts.number("bootindex").or_else(|error| fault(origin, error))?;
    let Some(file) = opts.get("romfile").map(str::to_owned) else {
        return fault(origin, "Option ROM file is not specified");
    };
    let boot_index = boot_index.map(|index| index as i32);
    builder.config.option_roms.push(Located::new(OptionRom { file, boot_index }, origin));
    Ok(())
}

fn smbios(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    let ParsedOpts { opts, help, .. } = builder.parse_opts(None, text, origin)?;
    if help {
        return fault(origin, OptionError::InvalidParameter("help".into()));
    }
    smbios_opts(builder, opts, origin)
}

pub(super) fn smbios_opts(builder: &mut Builder<'_, '_>, mut opts: Opts, origin: &Origin) -> Done {
    if let Some(file) = opts.take("file") {
        if let Some((key, _)) = opts.entries.first() {
            return fault(origin, OptionError::InvalidParameter(key.clone()));
        }
        builder.config.smbios.push(Located::new(SmbiosEntry::File(file), origin));
        return Ok(());
    }
    let Some(kind) = opts.number("type").or_else(|error| fault(origin, error))? else {
        return fault(origin, "Must specify type= or file=");
    };
    let Ok(kind) = u8::try_from(kind) else {
        return fault(origin, "out of range!");
    };
    let Some((_, group)) = groups::SMBIOS_TYPES.iter().find(|(number, _)| *number == kind) else {
        return fault(origin, format!("Don't know how to build fields for SMBIOS type {kind}"));
    };
    opts.take("type");
    group.check(&opts).or_else(|error| fault(origin, error))?;
    if opts.get("uuid").is_some_and(|uuid| Uuid::parse(uuid).is_none()) {
        return fault(origin, "Invalid UUID");
    }
    if opts.get("release").is_some_and(|release| !is_release(release)) {
        return fault(origin, "Invalid release");
    }
    for key in ["max-speed", "current-speed"] {
        let speed = opts.number(key).or_else(|error| fault(origin, error))?;
        if speed.is_some_and(|speed| speed > u64::from(u16::MAX)) {
            return fault(origin, "SMBIOS CPU speed is too large (> 65535)");
        }
    }
    builder.config.smbios.push(Located::new(SmbiosEntry::Fields { kind, fields: opts }, origin));
    Ok(())
}

/// `major.minor`, each a byte
fn is_release(text: &str) -> bool {
    text.split_once('.')
        .is_some_and(|(major, minor)| major.parse::<u8>().is_ok() && minor.parse::<u8>().is_ok())
}
