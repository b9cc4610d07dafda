//! Commands about what people see.

use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;

use ui::{Console, Consoles, PictureFormat};

use crate::qapi::{ErrorClass, QmpError};
use crate::qmp::Call;
use crate::{qapi_struct, qapi_words};

const FORMATS: [PictureFormat; 2] = [PictureFormat::Ppm, PictureFormat::Png];

/// A format's name.
pub(crate) fn format_name(format: PictureFormat) -> &'static str {
    match format {
        PictureFormat::Ppm => "ppm",
        PictureFormat::Png => "png",
    }
}

qapi_words!(PictureFormat, FORMATS, format_name);

qapi_struct! {
    /// A picture to be taken.
    pub(crate) struct Screendump {
        "filename" filename: String,
        "device" device: Option<String>,
        "head" head: Option<i64>,
        "format" format: Option<PictureFormat>,
    }
}

pub(in crate::qmp) fn screendump(call: &Call<'_>, wanted: Screendump) -> Result<(), QmpError> {
    save(call.target.vm.consoles(), &wanted)
}

/// Writes a picture of what a console shows.
pub(crate) fn save(consoles: &Consoles, wanted: &Screendump) -> Result<(), QmpError> {
    let picture = find(consoles, wanted)?.snapshot();
    let filename = &wanted.filename;
    let file = File::create(filename).map_err(|error| {
        let reason = base::report::strerror(&error);
        QmpError::new(format!("failed to open file '{filename}': {reason}"))
    })?;
    let format = wanted.format.unwrap_or_default();
    picture.save(format, BufWriter::new(file)).map_err(|error| QmpError::new(error.to_string()))
}

fn find(consoles: &Consoles, wanted: &Screendump) -> Result<Arc<Console>, QmpError> {
    let Some(device) = &wanted.device else {
        if wanted.head.is_some_and(|head| head != 0) {
            return Err(QmpError::new("'head' must be specified together with 'device'"));
        }
        let none = "There is no console to take a screendump from";
        return consoles.first().ok_or_else(|| QmpError::new(none));
    };
    if consoles.of_device(device, 0).is_none() {
        let text = format!("Device '{device}' not found");
        return Err(QmpError::of(ErrorClass::DeviceNotFound, text));
    }
    let head = wanted.head.unwrap_or(0);
    u32::try_from(head).ok().and_then(|head| consoles.of_device(device, head)).ok_or_else(|| {
        QmpError::new(format!("Device {device} (head {head}) is not bound to a QemuConsole"))
    })
}
