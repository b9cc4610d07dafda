//! Pictures of screens.

use ui::PictureFormat;

use super::command::{Context, Printed};
use super::words::Arguments;
use crate::qapi::QmpError;
use crate::qmp::display_commands::{Screendump, format_name, save};

pub(super) fn screendump(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let missing = || "screendump: filename expected".to_owned();
    let filename = arguments.word().ok_or_else(missing)?.to_owned();
    let format = if arguments.flag('f')? {
        let name = arguments.word().unwrap_or_default();
        let known = [PictureFormat::Ppm, PictureFormat::Png];
        let found = known.into_iter().find(|format| format_name(*format) == name);
        Some(found.ok_or_else(|| QmpError::not_accepted("format", name))?)
    } else {
        None
    };
    let device = arguments.word().map(str::to_owned);
    let head = if device.is_some() && !arguments.at_end() {
        Some(arguments.expression()? as i64)
    } else {
        None
    };
    arguments.end("screendump")?;
    save(context.vm.consoles(), &Screendump { filename, device, head, format })?;
    Ok(String::new())
}
