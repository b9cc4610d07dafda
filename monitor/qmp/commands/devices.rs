//! Commands about devices that come and go.

use machine::config::{DeviceConfig, PropList};
use machine::vm::HotplugError;
use serde_json::{Map, Value};

use super::objects::ObjectId;
use crate::qapi::{ErrorClass, Member, Members, Qapi, QmpError, Type};
use crate::qapi_struct;
use crate::qmp::Call;

impl From<HotplugError> for QmpError {
    fn from(error: HotplugError) -> Self {
        let class = match error {
            HotplugError::NotFound(_) => ErrorClass::DeviceNotFound,
            HotplugError::Refused(_) => ErrorClass::GenericError,
        };
        QmpError::of(class, error.to_string())
    }
}

/// A device to be made: its type, its id, its bus, and the properties of the type.
pub(in crate::qmp) struct DeviceOptions {
    driver: String,
    bus: Option<String>,
    id: Option<String>,
    props: Map<String, Value>,
}

impl Qapi for DeviceOptions {
    fn ty() -> Type {
        let member = |name, optional| Member { name, ty: String::ty(), optional };
        let members = vec![member("driver", false), member("bus", true), member("id", true)];
        Type::Object { name: "DeviceOptions", members }
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut members = Members::of(value, name)?;
        Ok(DeviceOptions {
            driver: members.take("driver")?,
            bus: members.take("bus")?,
            id: members.take("id")?,
            props: members.rest(),
        })
    }

    fn write(self) -> Option<Value> {
        let mut map = self.props;
        map.insert("driver".into(), self.driver.into());
        map.extend(self.bus.map(|bus| ("bus".into(), bus.into())));
        map.extend(self.id.map(|id| ("id".into(), id.into())));
        Some(map.into())
    }
}

pub(in crate::qmp) fn device_add(call: &Call<'_>, options: DeviceOptions) -> Result<(), QmpError> {
    let DeviceOptions { driver, bus, id, props } = options;
    let device = DeviceConfig { driver, id, bus, props: PropList::Json(props) };
    match call.target.vm.board() {
        Some(board) => Ok(board.add_device(&device)?),
        None => Err(QmpError::new("The machine is not there yet")),
    }
}

pub(in crate::qmp) fn device_del(
    call: &Call<'_>,
    ObjectId { id }: ObjectId,
) -> Result<(), QmpError> {
    Ok(call.target.vm.request_removal(&id)?)
}

qapi_struct! {
    /// An I/O thread.
    pub(in crate::qmp) struct IoThreadInfo {
        "id" id: String,
        "thread-id" thread_id: i64,
        "poll-max-ns" poll_max_ns: i64,
        "poll-grow" poll_grow: i64,
        "poll-shrink" poll_shrink: i64,
        "aio-max-batch" aio_max_batch: i64,
    }
}

pub(in crate::qmp) fn query_iothreads(
    call: &Call<'_>,
    (): (),
) -> Result<Vec<IoThreadInfo>, QmpError> {
    let threads = call.target.vm.user_objects().io_threads();
    let info = |(id, thread): (String, std::sync::Arc<machine::io_threads::IoThread>)| {
        let props = thread.props();
        IoThreadInfo {
            id,
            thread_id: thread.thread_id().into(),
            poll_max_ns: props.poll_max_ns,
            poll_grow: props.poll_grow,
            poll_shrink: props.poll_shrink,
            aio_max_batch: props.aio_max_batch,
        }
    };
    Ok(threads.into_iter().map(info).collect())
}
