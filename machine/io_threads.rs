//! I/O threads: event loops of their own, which devices may be given to.

use std::sync::Arc;
use std::thread::JoinHandle;

use base::event_loop::{EventLoop, LoopHandle};
use base::object::{Object, Property};
use base::props::{PropInput, Props};
use parking_lot::Mutex;
use serde_json::Value;

/// Properties of an I/O thread. Those about polling are kept for who asks; the loop sleeps whenever
/// it has nothing to do.
#[derive(Clone, Debug, Props)]
pub struct IoThreadProps {
    /// How long to poll before sleeping, in nanoseconds.
    #[prop(name = "poll-max-ns", default = 32768)]
    pub poll_max_ns: i64,
    /// Factor by which polling becomes longer.
    #[prop(name = "poll-grow")]
    pub poll_grow: i64,
    /// Divisor by which polling becomes shorter.
    #[prop(name = "poll-shrink")]
    pub poll_shrink: i64,
    /// Requests that are submitted at once.
    #[prop(name = "aio-max-batch")]
    pub aio_max_batch: i64,
    /// Fewest threads of the pool.
    #[prop(name = "thread-pool-min")]
    pub thread_pool_min: i64,
    /// Most threads of the pool.
    #[prop(name = "thread-pool-max", default = 64)]
    pub thread_pool_max: i64,
}

/// Names of the properties.
const NUMBERS: [&str; 6] = [
    "aio-max-batch",
    "poll-grow",
    "poll-max-ns",
    "poll-shrink",
    "thread-pool-max",
    "thread-pool-min",
];

/// An I/O thread, which ends when this is dropped.
pub struct IoThread {
    handle: LoopHandle,
    props: Arc<Mutex<IoThreadProps>>,
    thread_id: i32,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts a thread.
    pub fn start(id: &str, props: IoThreadProps) -> std::io::Result<Self> {
        let mut event_loop = EventLoop::new()?;
        let handle = event_loop.handle();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = base::thread::builder(&format!("IO {id}")).spawn(move || {
            // Nobody listens only if the one who started it has gone.
            let _ = tell.send(nix::unistd::gettid().as_raw());
            if let Err(error) = event_loop.run(&()) {
                base::error_report!("an I/O thread failed: {error}");
            }
        })?;
        let thread_id = told.recv().unwrap_or_default();
        Ok(IoThread { handle, props: Arc::new(Mutex::new(props)), thread_id, thread: Some(thread) })
    }

    /// Its event loop.
    pub fn handle(&self) -> &LoopHandle {
        &self.handle
    }

    /// The thread's id, as the host's kernel has it.
    pub fn thread_id(&self) -> i32 {
        self.thread_id
    }

    /// Its properties.
    pub fn props(&self) -> IoThreadProps {
        self.props.lock().clone()
    }

    /// The thread as an object.
    pub fn object(&self) -> Object {
        Object::new("iothread").with(NUMBERS.map(|name| {
            let (read, written) = (self.props.clone(), self.props.clone());
            let get = move || read.lock().get(name).unwrap_or_default();
            Property::computed(name, "int", get).writable(move |value: &Value| {
                let set =
                    |props: &mut IoThreadProps| props.set("iothread", name, PropInput::Json(value));
                set(&mut written.lock()).map_err(|error| error.to_string())
            })
        }))
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.handle.quit();
        if let Some(thread) = self.thread.take().filter(|_| !self.handle.is_current()) {
            // It only fails if the thread has panicked, which it has said itself.
            let _ = thread.join();
        }
    }
}
