//! Commands about character devices.

use std::sync::Arc;

use base::chardev::{BACKENDS, Chardev, ChardevError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::qapi::QmpError;
use crate::qmp::Call;
use crate::target::Target;
use crate::{qapi_struct, qapi_words};

impl From<ChardevError> for QmpError {
    fn from(error: ChardevError) -> Self {
        QmpError::new(error.to_string())
    }
}

qapi_struct! {
    /// A character device.
    pub(in crate::qmp) struct ChardevInfo {
        "label" label: String,
        "filename" filename: String,
        "frontend-open" frontend_open: bool,
    }
}

pub(in crate::qmp) fn query(call: &Call<'_>, (): ()) -> Result<Vec<ChardevInfo>, QmpError> {
    let devices = call.target.chardevs.query().into_iter();
    let info = |device: base::chardev::ChardevInfo| ChardevInfo {
        label: device.label,
        filename: device.filename,
        frontend_open: device.frontend_open,
    };
    Ok(devices.map(info).collect())
}

qapi_struct! {
    /// A kind of character device.
    pub(in crate::qmp) struct BackendInfo { "name" name: String }
}

pub(in crate::qmp) fn query_backends(_: &Call<'_>, (): ()) -> Result<Vec<BackendInfo>, QmpError> {
    Ok(BACKENDS.iter().map(|name| BackendInfo { name: (*name).into() }).collect())
}

qapi_struct! {
    /// The device meant.
    pub(in crate::qmp) struct Id { "id" id: String }
}

pub(in crate::qmp) fn remove(call: &Call<'_>, argument: Id) -> Result<(), QmpError> {
    Ok(call.target.chardevs.remove(&argument.id)?)
}

pub(in crate::qmp) fn send_break(call: &Call<'_>, argument: Id) -> Result<(), QmpError> {
    call.target.chardevs.get(&argument.id)?.send_break();
    Ok(())
}

/// How bytes are put into a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::qmp) enum DataFormat {
    #[default]
    Utf8,
    Base64,
}

qapi_words!(DataFormat, [DataFormat::Utf8, DataFormat::Base64], |format| match format {
    DataFormat::Utf8 => "utf8",
    DataFormat::Base64 => "base64",
});

impl Target {
    /// The ring buffer of this id.
    pub(crate) fn ring(&self, id: &str) -> Result<Arc<Chardev>, QmpError> {
        let device = self.chardevs.get(id);
        let device = device.map_err(|_| QmpError::new(format!("Device '{id}' not found")))?;
        match device.ring_read(0) {
            Some(_) => Ok(device),
            None => Err(QmpError::new(format!("{id} is not a ringbuf device"))),
        }
    }
}

qapi_struct! {
    /// What to read from which ring buffer.
    pub(in crate::qmp) struct RingRead {
        "device" device: String,
        "size" size: i64,
        "format" format: Option<DataFormat>,
    }
}

pub(in crate::qmp) fn ringbuf_read(call: &Call<'_>, read: RingRead) -> Result<String, QmpError> {
    let device = call.target.ring(&read.device)?;
    let size = usize::try_from(read.size).ok().filter(|&size| size > 0);
    let size = size.ok_or_else(|| QmpError::new("size must be greater than zero"))?;
    let bytes = device.ring_read(size).unwrap_or_default();
    Ok(match read.format.unwrap_or_default() {
        DataFormat::Utf8 => String::from_utf8_lossy(&bytes).into_owned(),
        DataFormat::Base64 => BASE64.encode(bytes),
    })
}

qapi_struct! {
    /// What to write to which ring buffer.
    pub(in crate::qmp) struct RingWrite {
        "device" device: String,
        "data" data: String,
        "format" format: Option<DataFormat>,
    }
}

pub(in crate::qmp) fn ringbuf_write(call: &Call<'_>, write: RingWrite) -> Result<(), QmpError> {
    let device = call.target.ring(&write.device)?;
    let bytes = match write.format.unwrap_or_default() {
        DataFormat::Utf8 => write.data.into_bytes(),
        DataFormat::Base64 => BASE64
            .decode(&write.data)
            .map_err(|_| QmpError::new(format!("Base64 data '{}' is not valid", write.data)))?,
    };
    device.ring_write(&bytes);
    Ok(())
}
