//! Running a machine: the main loop around it, signals, and how the program ends.

use std::process::ExitCode;
use std::sync::Arc;

use base::clock::Clocks;
use base::event_loop::{EventLoop, Signal, block_signals};
use base::fdset::FdSets;
use machine::config::{ConfigError, MachineConfig};
use machine::launch::{Host, Launched, launch, open_web};
use machine::run_state::Cause;
use monitor::{Target, WebHost, hmp, qmp, qtest};

use crate::cli::{self, PROGRAM};
use crate::process::{self, Setting};

/// Signals that end the machine in good order.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Applies `-d`, `-D`, `-dfilter` and `-trace`.
fn start_log(config: &MachineConfig) -> Result<(), ConfigError> {
    let fault = |error: base::log::LogError| ConfigError::new(error.to_string());
    let settings = &config.log;
    if let Some(items) = &settings.items {
        let selection = base::log::parse_items(items).map_err(fault)?;
        base::log::select(&selection);
        for pattern in &selection.trace {
            base::trace::set_enabled(pattern, true);
        }
    }
    if let Some(filter) = &settings.filter {
        base::log::set_filter(filter).map_err(fault)?;
    }
    for pattern in &settings.trace_patterns {
        base::trace::apply(&pattern.value);
    }
    for file in &settings.trace_event_files {
        if !base::trace::apply_file(&file.value) {
            return Err(ConfigError::at(&file.origin, "could not read trace events"));
        }
    }
    if settings.perf_map {
        let failed = |error| ConfigError::new(format!("-perfmap: {error}"));
        cpu::jit::open_map().map_err(failed)?;
    }
    if let Some(file) = settings.file.as_ref().or(settings.trace_file.as_ref()) {
        base::log::open(file).map_err(fault)?;
    }
    Ok(())
}

/// Builds and runs the machine; returns the program's exit status.
pub fn run(config: &MachineConfig) -> Result<ExitCode, ConfigError> {
    let failed = |what: &str, error: std::io::Error| ConfigError::new(format!("{what}: {error}"));
    base::report::set_program(PROGRAM);
    base::report::set_timestamp(config.messages.timestamp);
    let guest_name = config.identity.name.clone();
    base::report::set_guest_name(guest_name.filter(|_| config.messages.guest_name));
    start_log(config)?;
    let mut setting = Setting::prepare(config)?;
    // Before any thread starts, so that no thread has them unblocked.
    block_signals(&ENDING).map_err(|error| failed("cannot block signals", error))?;
    let mut main_loop =
        EventLoop::new().map_err(|error| failed("cannot set up the main loop", error))?;
    let clocks = Clocks::new();
    let wake = main_loop.handle();
    clocks.set_wake(move || wake.wake());
    let host = Host {
        main_loop: main_loop.handle(),
        clocks: clocks.clone(),
        fd_sets: Arc::new(FdSets::default()),
    };
    for given in &config.process.fds {
        host.fd_sets
            .add_inherited(i64::try_from(given.set).ok(), Some(given.fd), given.opaque.clone())
            .map_err(|error| ConfigError::new(format!("-add-fd: {error}")))?;
    }
    let mut target = None;
    let launched = launch(config, &host, |launched| {
        let target = target.insert(self::target(config, &host, launched));
        serve_monitors(config, &host, launched, target)
    })?;
    let vm = launched.vm.clone();
    let webs = match target {
        Some(target) if !config.webs.is_empty() => {
            let page: Arc<dyn ui::web::Host> =
                Arc::new(WebHost::new(target, host.main_loop.clone()));
            open_web(config, &host.main_loop, &vm, &launched.chardevs, &page)?
        }
        _ => Vec::new(),
    };
    let ended = Arc::downgrade(&vm);
    let _signals = main_loop
        .handle()
        .on_signals(&ENDING, move |info| {
            if let Some(vm) = ended.upgrade() {
                base::error_report!(
                    "terminating on signal {} from pid {} ({})",
                    info.signal as i32,
                    info.pid,
                    process::name_of(info.pid)
                );
                vm.shut_down(Cause::HostSignal);
            }
        })
        .map_err(|error| failed("cannot watch for signals", error))?;
    vm.power_up();
    if let Some(error) = launched.failure.lock().take() {
        return Err(error);
    }
    setting.settle()?;
    if !config.start_paused {
        vm.resume();
    }
    main_loop.run(&clocks).map_err(|error| failed("the main loop failed", error))?;
    webs.iter().for_each(|web| web.close());
    vm.vnc().close();
    drop(launched.curses);
    vm.graph().close();
    vm.networks().networks().close();
    launched.chardevs.clean_up();
    Ok(ExitCode::from(vm.exit_status().unwrap_or(0) as u8))
}

/// What monitors act upon.
fn target(config: &MachineConfig, host: &Host, launched: &Launched) -> Arc<Target> {
    Target::new(
        launched.vm.clone(),
        launched.chardevs.clone(),
        host.fd_sets.clone(),
        config.identity.clone(),
        cli::command_line_options(),
    )
}

/// Gives each monitor, and the test protocol, its character device.
fn serve_monitors(
    config: &MachineConfig,
    host: &Host,
    launched: &Launched,
    target: &Arc<Target>,
) -> Result<(), ConfigError> {
    for (monitor, chardev) in &launched.monitors {
        let served = match monitor.value.control {
            true => qmp::serve(target, chardev, monitor.value.pretty),
            false => hmp::serve(target, chardev, &host.main_loop),
        };
        served.map_err(|error| ConfigError::at(&monitor.origin, error.to_string()))?;
    }
    if let Some(chardev) = &launched.qtest {
        let path = config.qtest.log.as_deref();
        let log = qtest::Log::open(path, &host.clocks).map_err(|error| {
            ConfigError::new(format!("could not open '{}': {error}", path.unwrap_or_default()))
        })?;
        qtest::serve(target, chardev, log, launched.by_test)
            .map_err(|error| ConfigError::new(error.to_string()))?;
    }
    Ok(())
}
