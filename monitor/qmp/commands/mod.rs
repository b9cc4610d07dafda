//! The commands, as one table.

mod about;
pub(crate) mod block;
mod chardev;
mod chardev_add;
mod devices;
pub(crate) mod display;
mod fds;
mod input;
mod machine;
mod memory;
mod monitor;
mod network;
mod objects;
mod processors;
mod trace;
pub(crate) mod vnc;

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

/// What clients may rely on in commands, besides their types.
pub(super) const FEATURES: &[(&str, &[&str])] =
    &[("device_add", &["json-cli", "json-cli-hotplug"])];

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
    "block-dirty-bitmap-add" => block::block_dirty_bitmap_add,
    "block-dirty-bitmap-clear" => block::block_dirty_bitmap_clear,
    "block-dirty-bitmap-disable" => block::block_dirty_bitmap_disable,
    "block-dirty-bitmap-enable" => block::block_dirty_bitmap_enable,
    "block-dirty-bitmap-merge" => block::block_dirty_bitmap_merge,
    "block-dirty-bitmap-remove" => block::block_dirty_bitmap_remove,
    "block-set-write-threshold" => block::block_set_write_threshold,
    "block_resize" => block::block_resize,
    "block_set_io_throttle" => block::block_set_io_throttle,
    "announce-self" => network::announce_self,
    "blockdev-add" => block::blockdev_add,
    "blockdev-change-medium" => block::blockdev_change_medium,
    "blockdev-close-tray" => block::blockdev_close_tray,
    "blockdev-create" => block::blockdev_create,
    "blockdev-del" => block::blockdev_del,
    "blockdev-insert-medium" => block::blockdev_insert_medium,
    "blockdev-open-tray" => block::blockdev_open_tray,
    "blockdev-remove-medium" => block::blockdev_remove_medium,
    "blockdev-reopen" => block::blockdev_reopen,
    "blockdev-snapshot" => block::blockdev_snapshot,
    "blockdev-snapshot-delete-internal-sync" => block::blockdev_snapshot_delete_internal_sync,
    "blockdev-snapshot-internal-sync" => block::blockdev_snapshot_internal_sync,
    "blockdev-snapshot-sync" => block::blockdev_snapshot_sync,
    "change-vnc-password" => vnc::change_vnc_password,
    "chardev-add" => chardev_add::add,
    "chardev-remove" => chardev::remove,
    "chardev-send-break" => chardev::send_break,
    "closefd" => fds::closefd,
    "cont" => machine::cont,
    "device_add" => devices::device_add,
    "device_del" => devices::device_del,
    "device-list-properties" => objects::device_list_properties,
    "display-reload" => vnc::display_reload,
    "display-update" => vnc::display_update,
    "eject" => block::eject,
    "expire_password" => vnc::expire_password,
    "getfd" => fds::getfd,
    "human-monitor-command" => monitor::human_monitor_command,
    "inject-nmi" => machine::inject_nmi,
    "input-send-event" => input::input_send_event,
    "job-dismiss" => block::job_dismiss,
    "memsave" => memory::memsave,
    "netdev_add" => network::netdev_add,
    "netdev_del" => network::netdev_del,
    "object-add" => objects::object_add,
    "object-del" => objects::object_del,
    "pmemsave" => memory::pmemsave,
    "qmp_capabilities" => monitor::qmp_capabilities,
    "qom-get" => objects::qom_get,
    "qom-list" => objects::qom_list,
    "qom-list-properties" => objects::qom_list_properties,
    "qom-list-types" => objects::qom_list_types,
    "qom-set" => objects::qom_set,
    "query-acpi-ospm-status" => about::query_ospm_status,
    "query-block" => block::query_block,
    "query-block-jobs" => block::query_block_jobs,
    "query-blockstats" => block::query_blockstats,
    "query-chardev" => chardev::query,
    "query-chardev-backends" => chardev::query_backends,
    "query-command-line-options" => about::query_options,
    "query-commands" => monitor::query_commands,
    "query-cpu-definitions" => processors::query_cpu_definitions,
    "query-cpu-model-expansion" => processors::query_cpu_model_expansion,
    "query-cpus-fast" => processors::query_cpus_fast,
    "query-current-machine" => about::query_current_machine,
    "query-fdsets" => fds::query_fdsets,
    "query-hotpluggable-cpus" => processors::query_hotpluggable_cpus,
    "query-iothreads" => devices::query_iothreads,
    "query-jobs" => block::query_jobs,
    "query-kvm" => machine::query_kvm,
    "query-machines" => about::query_machines,
    "query-memdev" => memory::query_memdev,
    "query-memory-devices" => memory::query_devices,
    "query-memory-size-summary" => memory::query_size,
    "query-mice" => input::query_mice,
    "query-name" => machine::query_name,
    "query-named-block-nodes" => block::query_named_block_nodes,
    "query-qmp-schema" => monitor::query_qmp_schema,
    "query-rx-filter" => network::query_rx_filter,
    "query-status" => machine::query_status,
    "query-target" => machine::query_target,
    "query-uuid" => machine::query_uuid,
    "query-version" => monitor::query_version,
    "query-vnc" => vnc::query_vnc,
    "query-vnc-servers" => vnc::query_vnc_servers,
    "quit" => machine::quit,
    "remove-fd" => fds::remove_fd,
    "ringbuf-read" => chardev::ringbuf_read,
    "ringbuf-write" => chardev::ringbuf_write,
    "screendump" => display::screendump,
    "send-key" => input::send_key,
    "set-action" => machine::set_action,
    "set_link" => network::set_link,
    "set_password" => vnc::set_password,
    "stop" => machine::stop,
    "system_powerdown" => machine::system_powerdown,
    "system_reset" => machine::system_reset,
    "system_wakeup" => machine::system_wakeup,
    "trace-event-get-state" => trace::get_state,
    "trace-event-set-state" => trace::set_state,
    "transaction" => block::transaction,
    "watchdog-set-action" => machine::watchdog_set_action,
    "x-debug-block-dirty-bitmap-sha256" => block::block_dirty_bitmap_sha256,
    "x-query-interrupt-controllers" => monitor::interrupt_controllers,
    "x-query-irq" => monitor::interrupts,
    "x-query-jit" => monitor::translations,
    "x-query-numa" => monitor::numa,
    "x-query-usb" => monitor::usb,
}
