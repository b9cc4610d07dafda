//! `qemu-img check`

use serde_json::{Map, json};

use super::access::{Access, check_cache};
use super::args::common::{FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, QUIET, SHARE};
use super::args::{Args, Command, value};
use super::{Failure, Outcome, Output, text};
use crate::driver::{CheckReport, Repair};
use crate::engine::block_on;
use crate::qcow2::Purpose;

pub(super) const COMMAND: Command = Command {
    name: "check",
    about: "Check basic image integrity",
    operands: "FILE",
    options: &[
        QUIET,
        FORMAT,
        IMAGE_OPTS,
        value(Some('T'), "cache", "CACHE_MODE", "cache mode of the image (writeback)"),
        SHARE,
        OUTPUT,
        value(Some('r'), "repair", "leaks|all", "mend what is wrong, or only what is lost"),
        OBJECT,
    ],
    run,
};

const NOT_SUPPORTED: u8 = 63;

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let json = args.json()?;
    let repair = match args.get("repair") {
        None => Repair::Nothing,
        Some("leaks") => Repair::Leaks,
        Some("all") => Repair::All,
        Some(other) => {
            let text = format!("--repair (-r) expects 'leaks' or 'all' not '{other}'");
            return Err(Failure::usage(text));
        }
    };
    let [name] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let purpose = if repair == Repair::Nothing { Purpose::Read } else { Purpose::Repair };
    let access = Access { checks: true, ..Access::from_args(args, purpose)? };
    check_cache(args, "cache", "source ")?;
    let node = access.open(name, output)?;
    let check = |repair| {
        block_on(node.driver().check(repair)).map_err(|error| {
            if error.errno() == libc::ENOTSUP {
                let text = "This image format does not support checks";
                return Failure::new(text).with_code(NOT_SUPPORTED);
            }
            Failure::new(format!("Check failed: {error}"))
        })
    };
    let quiet = args.has("quiet");
    let mut report = check(repair)?;
    report.messages.iter().for_each(|line| output.note(line));
    if let Some(errno) = report.failure {
        let error = crate::Error::from_errno(errno);
        return Err(Failure::new(format!("Check failed: {error}")));
    }
    let (leaks, corruptions) = (report.leaks_fixed, report.corruptions_fixed);
    if leaks + corruptions > 0 {
        if !quiet && !json {
            output.print(&format!(
                "The following inconsistencies were found and repaired:\n\n    {leaks} leaked \
                 clusters\n    {corruptions} corruptions\n\nDouble checking the fixed image \
                 now...\n"
            ));
        }
        report = check(Repair::Nothing)?;
        report.messages.iter().for_each(|line| output.note(line));
        (report.leaks_fixed, report.corruptions_fixed) = (leaks, corruptions);
    }
    if json {
        output.print(&text::json(&to_json(name, node.driver().name(), &report)));
    } else if !quiet {
        output.print(&human(&report));
    }
    if report.errors > 0 {
        return Err(Failure::new("Check failed"));
    }
    Ok(match report {
        _ if report.corruptions > 0 => 2,
        _ if report.leaks > 0 => 3,
        _ => 0,
    })
}

fn to_json(name: &str, format: &str, report: &CheckReport) -> serde_json::Value {
    let mut map = Map::new();
    let mut add = |key: &str, value: u64, always: bool| {
        if always || value > 0 {
            map.insert(key.into(), json!(value));
        }
    };
    add("image-end-offset", report.image_end_offset, false);
    add("compressed-clusters", report.compressed_clusters, false);
    add("total-clusters", report.total_clusters, false);
    add("corruptions-fixed", report.corruptions_fixed, false);
    add("corruptions", report.corruptions, false);
    add("check-errors", report.errors, true);
    add("leaks-fixed", report.leaks_fixed, false);
    add("leaks", report.leaks, false);
    add("allocated-clusters", report.allocated_clusters, false);
    map.insert("filename".into(), json!(name));
    map.insert("format".into(), json!(format));
    if report.fragmented_clusters > 0 {
        map.insert("fragmented-clusters".into(), json!(report.fragmented_clusters));
    }
    map.into()
}

fn human(report: &CheckReport) -> String {
    let mut out = String::new();
    if report.corruptions + report.leaks + report.errors == 0 {
        out += "No errors were found on the image.\n";
    }
    if report.corruptions > 0 {
        out += &format!(
            "\n{} errors were found on the image.\nData may be corrupted, or further writes to \
             the image may corrupt it.\n",
            report.corruptions
        );
    }
    if report.leaks > 0 {
        out += &format!(
            "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no \
             harm to data.\n",
            report.leaks
        );
    }
    if report.errors > 0 {
        let errors = report.errors;
        out += &format!("\n{errors} internal errors have occurred during the check.\n");
    }
    let (total, allocated) = (report.total_clusters, report.allocated_clusters);
    if total > 0 && allocated > 0 {
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        out += &format!(
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            percent(allocated, total),
            percent(report.fragmented_clusters, allocated),
            percent(report.compressed_clusters, allocated)
        );
    }
    if report.image_end_offset > 0 {
        out += &format!("Image end offset: {}\n", report.image_end_offset);
    }
    out
}
