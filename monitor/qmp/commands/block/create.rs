//! New images, and the jobs that make them.

use block::creation;
use block::job::{Job, Status};
use block::schema::{self, Key};
use serde_json::{Map, Value};

use super::nodes;
use crate::qapi::{Member, Members, Qapi, QmpError, Type};
use crate::qmp::Call;
use crate::{qapi_struct, qapi_words};

qapi_words!(Status, Status::ALL, Status::name);

qapi_struct! {
    /// A job.
    pub(in crate::qmp) struct JobInfo {
        "id" id: String,
        "type" kind: String,
        "status" status: Status,
        "current-progress" current_progress: u64,
        "total-progress" total_progress: u64,
        "error" error: Option<String>,
    }
}

impl From<Job> for JobInfo {
    fn from(job: Job) -> Self {
        JobInfo {
            id: job.id,
            kind: job.kind.into(),
            status: job.status,
            current_progress: job.progress.0,
            total_progress: job.progress.1,
            error: job.error,
        }
    }
}

pub(in crate::qmp) fn query_jobs(call: &Call<'_>, (): ()) -> Result<Vec<JobInfo>, QmpError> {
    Ok(call.target.vm.graph().jobs().list().into_iter().map(Into::into).collect())
}

/// Jobs on disks; none of the kinds that there are is one.
pub(in crate::qmp) fn query_block_jobs(_: &Call<'_>, (): ()) -> Result<Vec<Value>, QmpError> {
    Ok(Vec::new())
}

qapi_struct! {
    /// A job.
    pub(in crate::qmp) struct JobId { "id" id: String }
}

pub(in crate::qmp) fn job_dismiss(call: &Call<'_>, JobId { id }: JobId) -> Result<(), QmpError> {
    Ok(call.target.vm.graph().jobs().dismiss(&id)?)
}

/// A new image, by its driver.
pub(in crate::qmp) struct NewImage(Map<String, Value>);

impl Qapi for NewImage {
    fn ty() -> Type {
        let values = schema::CREATED.iter().map(|(name, _)| *name).collect();
        let names = Type::Enum { name: "CreatedDriver", values };
        let own = |&(name, keys): &(&'static str, &'static [Key])| {
            (name, Type::Object { name, members: keys.iter().map(nodes::member).collect() })
        };
        Type::Union {
            name: "BlockdevCreateOptions",
            members: vec![Member { name: "driver", ty: names, optional: false }],
            tag: "driver",
            variants: schema::CREATED.iter().map(own).collect(),
        }
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut options = Members::of(value, name)?.rest();
        schema::check_creation(&mut options, name)?;
        Ok(NewImage(options))
    }

    fn write(self) -> Option<Value> {
        Some(self.0.into())
    }
}

/// A job that makes an image. Reading is all that is done with it.
pub(in crate::qmp) struct Creation {
    job_id: String,
    options: NewImage,
}

impl Qapi for Creation {
    fn ty() -> Type {
        let member = |name, ty| Member { name, ty, optional: false };
        Type::Object {
            name: "Creation",
            members: vec![member("job-id", String::ty()), member("options", NewImage::ty())],
        }
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut members = Members::of(value, name)?;
        let read = Creation { job_id: members.take("job-id")?, options: members.take("options")? };
        members.finish()?;
        Ok(read)
    }

    fn write(self) -> Option<Value> {
        self.options.write()
    }
}

pub(in crate::qmp) fn blockdev_create(
    call: &Call<'_>,
    Creation { job_id, options }: Creation,
) -> Result<(), QmpError> {
    let graph = call.target.vm.graph();
    let inside = graph.clone();
    let work = move || creation::create(&inside, options.0);
    Ok(graph.jobs().start(&job_id, "create", work)?)
}
