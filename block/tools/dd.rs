//! `qemu-img dd`

use super::access::Access;
use super::args::common::{FORMAT, IMAGE_OPTS, OBJECT, SHARE};
use super::args::{Args, Command, value};
use super::create::make;
use super::creation::Chosen;
use super::formats::creator;
use super::{Failure, Outcome, Output};
use crate::engine::block_on;
use crate::qcow2::Purpose;
use crate::vector::Vector;

pub(super) const COMMAND: Command = Command {
    name: "dd",
    about: "Copy input to output with optional format conversion",
    operands: "[bs=BLOCK_SIZE] [count=BLOCKS] [skip=BLOCKS] if=INPUT of=OUTPUT",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        value(Some('O'), "output-format", "OUTPUT_FMT", "the format of the output (raw)"),
        SHARE,
        OBJECT,
    ],
    run,
};

fn number(text: &str, what: &str, least: u64) -> Result<u64, Failure> {
    use base::options::number::{SizeError, parse_size};
    let most = if what == "bs" { i32::MAX as u64 } else { i64::MAX as u64 };
    match parse_size(text, 1) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Err(SizeError::Malformed) => {
            Err(Failure::new(format!("Invalid {what} specified: '{text}'.")))
        }
        _ => {
            let range = format!("Must be between {least} and {most}.");
            Err(Failure::new(format!("Invalid {what} specified. {range}")))
        }
    }
}

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let (mut input, mut target) = (None, None);
    let (mut block, mut count, mut skip) = (512, None, 0);
    for operand in &args.operands {
        let unknown = |name: &str| Failure::new(format!("unrecognized operand {name}"));
        let (name, value) = operand.split_once('=').ok_or_else(|| unknown(operand))?;
        match name {
            "if" => input = Some(value),
            "of" => target = Some(value),
            "bs" => block = number(value, name, 1)?,
            "count" => count = Some(number(value, name, 0)?),
            "skip" => skip = number(value, name, 0)?,
            _ => return Err(unknown(name)),
        }
    }
    let (Some(input), Some(target)) = (input, target) else {
        return Err(Failure::new("Must specify both input and output files"));
    };
    let from = Access::from_args(args, Purpose::Read)?.open(input, output)?;
    let format = args.get("output-format").unwrap_or("raw");
    let creator = creator(format).map_err(|known| match known {
        true => Failure::new(format!("Format driver '{format}' does not support image creation")),
        false => Failure::new("Unknown file format"),
    })?;
    let len = from.len()?;
    let end = match count {
        // Blocks that are skipped count, as they do for QEMU's.
        Some(count) => len.min(count.saturating_mul(block)),
        None => len,
    };
    let begin = skip.saturating_mul(block);
    let size = end.saturating_sub(begin);
    let mut chosen = Chosen::defaults(creator.options);
    chosen.set("size", &size.to_string())?;
    make(creator, target, &chosen).map_err(|error| {
        Failure::new(format!("{target}: error while creating output image: {error}"))
    })?;
    let to =
        Access::new(Purpose::Write, &args.objects).format(Some(format)).open(target, output)?;
    if begin > len {
        output.report(&format!("{input}: cannot skip to specified offset"));
    }
    let whole = Vector::zeroed(block.min(size) as usize);
    let mut done = 0;
    while done < size {
        let now = block.min(size - done);
        let data = whole.slice(0, now as usize);
        let fail =
            |what: &str, error| Failure::new(format!("error while {what} image file: {error}"));
        block_on(from.read(begin + done, data.clone()))
            .map_err(|e| fail("reading from input", e))?;
        block_on(to.write(done, data)).map_err(|e| fail("writing to output", e))?;
        done += now;
    }
    block_on(to.close())?;
    Ok(0)
}
