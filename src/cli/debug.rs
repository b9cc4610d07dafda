//! Logs, traces and the test protocol.

use base::options::number::parse_int;
use base::options::{Opts, is_help};
use machine::config::{Located, Origin};

use super::table::CliOption;
use super::{Builder, Done, Stop, fault, groups, take_text};

pub(super) const OPTIONS: &[CliOption] = &[
    CliOption::text(
        &["d"],
        "item[,...]",
        "log these items ('-d help' lists them)",
        |builder, text, _| {
            if is_help(text) {
                let items = builder.catalog.log_items();
                builder.list(items);
            } else if text == "trace:help" {
                let events = builder.catalog.trace_events();
                builder.list(events);
            } else {
                builder.config.log.items = Some(text.into());
            }
            Ok(())
        },
    ),
    CliOption::text(&["D"], "file", "write the log to a file", |builder, text, _| {
        builder.config.log.file = Some(text.into());
        Ok(())
    }),
    CliOption::text(
        &["dfilter"],
        "first..last|start+size|end-size[,...]",
        "log the execution of these addresses only",
        filter,
    ),
    CliOption::flag(&["perfmap"], "write a map of translated code for perf", |builder| {
        builder.config.log.perf_map = true;
        Ok(())
    }),
    CliOption::opts(
        &["trace"],
        "[[enable=]pattern][,events=file][,file=file]",
        "trace events that match a pattern or one of those in a file ('-trace help' lists events)",
        &groups::TRACE,
        trace,
    )
    .with_first_look(trace_help),
    CliOption::text(
        &["qtest"],
        "chardev",
        "serve the test protocol on a character device",
        |builder, text, _| {
            builder.config.qtest.chardev = Some(text.into());
            Ok(())
        },
    ),
    CliOption::text(&["qtest-log"], "file", "log the test protocol", |builder, text, _| {
        builder.config.qtest.log = Some(text.into());
        Ok(())
    }),
];

fn filter(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    let is_range = |range: &str| {
        let (first, second) = range
            .split_once("..")
            .or_else(|| range.split_once('-'))
            .or_else(|| range.split_once('+'))?;
        parse_int(first).and(parse_int(second))
    };
    if !text.is_empty() && text.split(',').any(|range| is_range(range).is_none()) {
        return fault(origin, "Bad range specifier");
    }
    builder.config.log.filter = Some(text.into());
    Ok(())
}

fn trace_help(builder: &mut Builder<'_, '_>, text: &str, _: &Origin) -> Result<bool, Stop> {
    if is_help(text) {
        let events = builder.catalog.trace_events();
        builder.list(events);
    }
    Ok(is_help(text))
}

fn trace(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    let log = &mut builder.config.log;
    log.trace_patterns
        .extend(opts.get("enable").map(|pattern| Located::new(pattern.into(), origin)));
    log.trace_event_files.extend(opts.get("events").map(|file| Located::new(file.into(), origin)));
    take_text(&opts, "file", &mut log.trace_file);
    Ok(())
}
