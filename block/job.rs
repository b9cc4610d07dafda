//! Work that takes its time, and that operators watch: `query-jobs`.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::backend::{Event, EventSink};
use crate::{Error, Result};

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Status {
    Created,
    Running,
    Waiting,
    Pending,
    Aborting,
    Concluded,
    /// It is gone.
    Null,
}

impl Status {
    /// All of them.
    pub const ALL: &'static [Status] = &[
        Status::Created,
        Status::Running,
        Status::Waiting,
        Status::Pending,
        Status::Aborting,
        Status::Concluded,
        Status::Null,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Waiting => "waiting",
            Status::Pending => "pending",
            Status::Aborting => "aborting",
            Status::Concluded => "concluded",
            Status::Null => "null",
        }
    }
}

/// A job as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: &'static str,
    /// How far it is.
    pub status: Status,
    /// Units done, and in all.
    pub progress: (u64, u64),
    /// Why it failed.
    pub error: Option<String>,
}

/// All jobs, newest first.
pub struct Jobs {
    jobs: Mutex<Vec<Job>>,
    events: Arc<dyn EventSink>,
}

impl Jobs {
    /// None yet.
    pub fn new(events: &Arc<dyn EventSink>) -> Arc<Self> {
        Arc::new(Self { jobs: Mutex::default(), events: events.clone() })
    }

    /// All jobs, newest first.
    pub fn list(&self) -> Vec<Job> {
        self.jobs.lock().clone()
    }

    fn enter(&self, id: &str, status: Status) {
        if let Some(job) = self.jobs.lock().iter_mut().find(|job| job.id == id) {
            job.status = status;
        }
        self.events.tell(Event::JobStatus { id: id.into(), status });
    }

    /// Starts a job on a thread of its own.
    pub fn start(
        self: &Arc<Self>,
        id: &str,
        kind: &'static str,
        work: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<()> {
        if base::options::check_id(id).is_err() {
            return Err(Error::invalid(format!("Invalid job ID '{id}'")));
        }
        {
            let mut jobs = self.jobs.lock();
            if jobs.iter().any(|job| job.id == id) {
                return Err(Error::invalid(format!("Job ID '{id}' already in use")));
            }
            let (status, progress) = (Status::Created, (0, 1));
            jobs.insert(0, Job { id: id.into(), kind, status, progress, error: None });
        }
        self.enter(id, Status::Created);
        self.enter(id, Status::Running);
        let (me, name) = (self.clone(), id.to_owned());
        let thread = std::thread::Builder::new().name("job".into());
        let started = thread.spawn(move || {
            let result = work();
            me.conclude(&name, result);
        });
        if let Err(error) = started {
            self.conclude(id, Err(error.into()));
        }
        Ok(())
    }

    fn conclude(&self, id: &str, result: Result<()>) {
        if let Some(job) = self.jobs.lock().iter_mut().find(|job| job.id == id) {
            job.progress = (1, 1);
            job.error = result.as_ref().err().map(ToString::to_string);
        }
        match result {
            Ok(()) => [Status::Waiting, Status::Pending].iter().for_each(|s| self.enter(id, *s)),
            Err(_) => self.enter(id, Status::Aborting),
        }
        self.enter(id, Status::Concluded);
    }

    /// Forgets a job that has concluded.
    pub fn dismiss(&self, id: &str) -> Result<()> {
        {
            let mut jobs = self.jobs.lock();
            let missing = || Error::invalid("Job not found");
            let at = jobs.iter().position(|job| job.id == id).ok_or_else(missing)?;
            let status = jobs[at].status;
            if status != Status::Concluded {
                return Err(Error::invalid(format!(
                    "Job '{id}' in state '{}' cannot accept command verb 'dismiss'",
                    status.name()
                )));
            }
            jobs.remove(at);
        }
        self.enter(id, Status::Null);
        Ok(())
    }
}
