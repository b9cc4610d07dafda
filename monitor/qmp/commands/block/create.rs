//! New images, and the jobs that make them.

use std::sync::Arc;

use block::driver::Preallocation;
use block::engine::block_on;
use block::graph::Graph;
use block::job::{Job, Status};
use block::node::{Claim, Role};
use block::open::create_file;
use block::qcow2::{self, Compression, CreateOptions};
use serde_json::Value;

use crate::qapi::{Members, Qapi, QmpError, Type};
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

/// The version of a qcow2 image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qmp) struct Version(u32);
const VERSIONS: &[Version] = &[Version(2), Version(3)];
qapi_words!(Version, VERSIONS, |version| if version.0 == 2 { "v2" } else { "v3" });

const COMPRESSIONS: &[Compression] = &[Compression::Zlib, Compression::Zstd];
qapi_words!(Compression, COMPRESSIONS, Compression::name);

qapi_struct! {
    /// A new file.
    pub(in crate::qmp) struct NewFile { "filename" filename: String, "size" size: u64 }
}

qapi_struct! {
    /// A new qcow2 image.
    pub(in crate::qmp) struct NewQcow2 {
        "file" file: String,
        "size" size: u64,
        "version" version: Option<Version>,
        "backing-file" backing_file: Option<String>,
        "backing-fmt" backing_fmt: Option<String>,
        "cluster-size" cluster_size: Option<u64>,
        "lazy-refcounts" lazy_refcounts: Option<bool>,
        "refcount-bits" refcount_bits: Option<u64>,
        "compression-type" compression_type: Option<Compression>,
    }
}

/// A new image, by its driver.
pub(in crate::qmp) enum NewImage {
    File(NewFile),
    Qcow2(NewQcow2),
}

impl Qapi for NewImage {
    fn ty() -> Type {
        let names = Type::Enum { name: "CreatedDriver", values: vec!["file", "qcow2"] };
        let driver = crate::qapi::Member { name: "driver", ty: names, optional: false };
        Type::Union {
            name: "BlockdevCreateOptions",
            members: vec![driver],
            tag: "driver",
            variants: vec![("file", NewFile::ty()), ("qcow2", NewQcow2::ty())],
        }
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut members = Members::of(value, name)?;
        let driver: String = members.take("driver")?;
        let rest = Value::Object(members.rest());
        match driver.as_str() {
            "file" => NewFile::read(rest, name).map(NewImage::File),
            "qcow2" => NewQcow2::read(rest, name).map(NewImage::Qcow2),
            known if block::format::driver_names().contains(&known) => {
                Err(QmpError::new("Driver does not support blockdev-create"))
            }
            _ => Err(QmpError::not_accepted("driver", &driver)),
        }
    }

    fn write(self) -> Option<Value> {
        match self {
            NewImage::File(file) => file.write(),
            NewImage::Qcow2(image) => image.write(),
        }
    }
}

/// A job that makes an image. Reading is all that is done with it.
pub(in crate::qmp) struct Creation {
    job_id: String,
    options: NewImage,
}

impl Qapi for Creation {
    fn ty() -> Type {
        let member = |name, ty| crate::qapi::Member { name, ty, optional: false };
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
    let work = move || match options {
        NewImage::File(file) => create(&inside, file),
        NewImage::Qcow2(image) => format(&inside, image),
    };
    Ok(graph.jobs().start(&job_id, "create", work)?)
}

fn create(graph: &Arc<Graph>, file: NewFile) -> block::Result<()> {
    block_on(async {
        let node = create_file(&file.filename, graph.io().clone()).await?;
        node.truncate(file.size, Preallocation::Off).await
    })
}

fn format(graph: &Arc<Graph>, image: NewQcow2) -> block::Result<()> {
    let missing = || {
        let name = &image.file;
        block::Error::invalid(format!("Cannot find device='{name}' nor node-name='{name}'"))
    };
    let file = graph.node(&image.file).ok_or_else(missing)?;
    let defaults = CreateOptions::default();
    let options = CreateOptions {
        size: image.size,
        version: image.version.map_or(defaults.version, |version| version.0),
        cluster_size: image.cluster_size.unwrap_or(defaults.cluster_size),
        refcount_bits: image.refcount_bits.unwrap_or(defaults.refcount_bits),
        compression: image.compression_type.unwrap_or(defaults.compression),
        lazy_refcounts: image.lazy_refcounts.unwrap_or(defaults.lazy_refcounts),
        backing: image.backing_file.map(|file| (file, image.backing_fmt)),
        ..CreateOptions::default()
    };
    let _hold = file.attach("job 'create'", Role::User, Claim::WRITER)?;
    block_on(qcow2::create(&file, &options))
}
