//! The commands, as one table.

mod chardev;
mod fds;
mod machine;
mod monitor;

use serde_json::{Map, Value};

use super::{Call, Command};
use crate::qapi::{Qapi, QmpError, Type};
pub(super) use monitor::version;

fn invoke<A: Qapi, R: Qapi>(
    function: impl Fn(&Call<'_>, A) -> Result<R, QmpError>,
    call: &Call<'_>,
    arguments: Map<String, Value>,
) -> Result<Value, QmpError> {
    let result = function(call, A::read(arguments.into(), "")?)?;
    Ok(result.write().unwrap_or_default())
}

fn types<A: Qapi, R: Qapi>(_: impl Fn(&Call<'_>, A) -> Result<R, QmpError>) -> (Type, Type) {
    (A::ty(), R::ty())
}

macro_rules! commands {
    ($($name:literal => $function:path),* $(,)?) => {
        pub(super) const COMMANDS: &[Command] = &[$(Command {
            name: $name,
            run: |call, arguments| invoke($function, call, arguments),
            types: || types($function),
        }),*];
    };
}

commands! {
    "add-fd" => fds::add_fd,
    "chardev-remove" => chardev::remove,
    "chardev-send-break" => chardev::send_break,
    "closefd" => fds::closefd,
    "cont" => machine::cont,
    "getfd" => fds::getfd,
    "human-monitor-command" => monitor::human_monitor_command,
    "inject-nmi" => machine::inject_nmi,
    "qmp_capabilities" => monitor::qmp_capabilities,
    "query-chardev" => chardev::query,
    "query-chardev-backends" => chardev::query_backends,
    "query-commands" => monitor::query_commands,
    "query-cpus-fast" => machine::query_cpus_fast,
    "query-fdsets" => fds::query_fdsets,
    "query-kvm" => machine::query_kvm,
    "query-name" => machine::query_name,
    "query-qmp-schema" => monitor::query_qmp_schema,
    "query-status" => machine::query_status,
    "query-target" => machine::query_target,
    "query-uuid" => machine::query_uuid,
    "query-version" => monitor::query_version,
    "quit" => machine::quit,
    "remove-fd" => fds::remove_fd,
    "ringbuf-read" => chardev::ringbuf_read,
    "ringbuf-write" => chardev::ringbuf_write,
    "set-action" => machine::set_action,
    "stop" => machine::stop,
    "system_powerdown" => machine::system_powerdown,
    "system_reset" => machine::system_reset,
    "system_wakeup" => machine::system_wakeup,
}
