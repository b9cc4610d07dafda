//! Taps: `-netdev tap` and `-netdev bridge`. The host's kernel is the other end of the cable.

mod device;
mod helper;
mod script;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use base::report::strerror;

use crate::netdev::{Context, NetdevKind};
use crate::options::{Kind, Values, opt};
use crate::packets::Packets;
use crate::{Backend, Cable, NetError, Netdev, Side, dgram};
use device::Tap;

/// `-netdev tap`.
pub static KIND: NetdevKind = NetdevKind {
    name: "tap",
    keys: &[
        opt("ifname", Kind::Text),
        opt("fd", Kind::Text),
        opt("fds", Kind::Text),
        opt("script", Kind::Text),
        opt("downscript", Kind::Text),
        opt("br", Kind::Text),
        opt("helper", Kind::Text),
        opt("sndbuf", Kind::Size),
        opt("vnet_hdr", Kind::Bool),
        opt("vhost", Kind::Bool),
        opt("vhostfd", Kind::Text),
        opt("vhostfds", Kind::Text),
        opt("vhostforce", Kind::Bool),
        opt("queues", Kind::Uint(32)),
        opt("poll-us", Kind::Uint(32)),
    ],
    dotted: false,
    make: make_tap,
};

/// `-netdev bridge`: a tap that a helper with privileges makes and puts into a bridge.
pub static BRIDGE: NetdevKind = NetdevKind {
    name: "bridge",
    keys: &[opt("br", Kind::Text), opt("helper", Kind::Text)],
    dotted: false,
    make: make_bridge,
};

/// The kernel's limit.
const MAX_QUEUES: u64 = 1024;
const DEFAULT_SCRIPT: &str = "/etc/qemu-ifup";
const DEFAULT_DOWN_SCRIPT: &str = "/etc/qemu-ifdown";
const DEFAULT_BRIDGE: &str = "br0";

/// The owner of the ends.
struct Network {
    ends: Vec<Arc<Packets<Tap>>>,
    /// Of each end, or one for all.
    info: Vec<String>,
    /// Runs when the network goes: a script, and the name of the interface.
    down: Option<(String, String)>,
}

impl Backend for Network {
    fn info(&self, lane: usize) -> String {
        let info = self.info.get(lane).or(self.info.first());
        info.cloned().unwrap_or_default()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.ends.clear();
        if let Some((script, interface)) = &self.down
            && let Err(error) = script::run(script, interface)
        {
            base::warn_report!("{error}");
        }
    }
}

fn make_tap(context: &Context, id: &str, values: &Values) -> Result<Netdev, NetError> {
    check_vhost(values)?;
    let given = |names: &[&str]| names.iter().any(|name| values.has(name));
    let queues = values.uint("queues").unwrap_or(1).clamp(1, MAX_QUEUES) as usize;
    if let Some(number) = values.text("fd") {
        if given(&[
            "ifname",
            "script",
            "downscript",
            "vnet_hdr",
            "helper",
            "queues",
            "fds",
            "vhostfds",
        ]) {
            return Err(NetError::failed(
                "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= \
                 are invalid with fd=",
            ));
        }
        let taps = vec![Tap::of(passed(id, number)?)?];
        return finish(context, KIND.name, id, taps, vec![format!("fd={number}")], None);
    }
    if let Some(numbers) = values.text("fds") {
        if given(&["ifname", "script", "downscript", "vnet_hdr", "helper", "queues", "vhostfd"]) {
            return Err(NetError::failed(
                "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= are \
                 invalid with fds=",
            ));
        }
        let one = |number: &str| Tap::of(passed(id, number)?);
        let taps = numbers.split(':').map(one).collect::<Result<Vec<_>, _>>()?;
        let info = numbers.split(':').map(|number| format!("fd={number}")).collect();
        return finish(context, KIND.name, id, taps, info, None);
    }
    if let Some(helper) = values.text("helper") {
        if given(&["ifname", "script", "downscript", "vnet_hdr", "queues", "vhostfds"]) {
            return Err(NetError::failed(
                "ifname=, script=, downscript=, vnet_hdr=, queues=, and vhostfds= are invalid with \
                 helper=",
            ));
        }
        let bridge = values.text("br").unwrap_or(DEFAULT_BRIDGE);
        let taps = vec![Tap::of(helper::open(helper, bridge)?)?];
        return finish(context, KIND.name, id, taps, vec![format!("helper={helper}")], None);
    }
    if values.has("vhostfds") {
        return Err(NetError::failed("vhostfds= is invalid if fds= wasn't specified"));
    }
    let wanted = values.text("ifname").unwrap_or("tap%d");
    let vnet = values.bool("vnet_hdr").unwrap_or(true);
    let first = Tap::open(wanted, vnet, queues > 1)?;
    let name = first.name().to_owned();
    let mut taps = vec![first];
    for _ in 1..queues {
        taps.push(Tap::open(&name, vnet, true)?);
    }
    for tap in &taps {
        tap.limit_buffer(values.uint("sndbuf"));
    }
    let chosen = |key: &str, default: &str| {
        let path = values.text(key).unwrap_or(default);
        (path != "no" && !path.is_empty()).then(|| path.to_owned())
    };
    let up = chosen("script", DEFAULT_SCRIPT);
    let down = chosen("downscript", DEFAULT_DOWN_SCRIPT);
    if let Some(script) = &up {
        script::run(script, &name)?;
    }
    let word = |script: &Option<String>| script.clone().unwrap_or("no".into());
    let info = vec![format!("ifname={name},script={},downscript={}", word(&up), word(&down))];
    finish(context, KIND.name, id, taps, info, down.map(|script| (script, name)))
}

fn make_bridge(context: &Context, id: &str, values: &Values) -> Result<Netdev, NetError> {
    let helper = values.text("helper").map_or_else(helper::default, Into::into);
    let bridge = values.text("br").unwrap_or(DEFAULT_BRIDGE);
    let taps = vec![Tap::of(helper::open(&helper, bridge)?)?];
    finish(context, BRIDGE.name, id, taps, vec![format!("helper={helper},br={bridge}")], None)
}

/// In-kernel virtio is an accelerator of the host's. Without the host's device it is refused, as
/// elsewhere; where it would be possible, a network works without it, unless it is insisted on.
fn check_vhost(values: &Values) -> Result<(), NetError> {
    const DEVICE: &str = "/dev/vhost-net";
    let passed = values.has("vhostfd") || values.has("vhostfds");
    let forced = values.bool("vhostforce").unwrap_or(false);
    if !passed && !forced && !values.bool("vhost").unwrap_or(false) {
        return Ok(());
    }
    if !passed && let Err(error) = OpenOptions::new().read(true).write(true).open(DEVICE) {
        return Err(fault("tap: open vhost char device failed", &error));
    }
    const WITHOUT: &str = "vhost-net requested but could not be initialized";
    if forced {
        return Err(NetError::failed(WITHOUT));
    }
    base::warn_report!("tap: {WITHOUT}; frames go through the emulator");
    Ok(())
}

fn passed(id: &str, number: &str) -> Result<OwnedFd, NetError> {
    let number = number
        .parse()
        .map_err(|_| NetError::Failed(format!("Invalid file descriptor number '{number}'")))?;
    dgram::passed(id, number)
}

fn finish(
    context: &Context,
    kind: &'static str,
    id: &str,
    taps: Vec<Tap>,
    info: Vec<String>,
    down: Option<(String, String)>,
) -> Result<Netdev, NetError> {
    let cable = Cable::new(id);
    let end = |(lane, tap)| Packets::create(tap, cable.plug(Side::Host, lane), &context.handle);
    let ends = taps.into_iter().enumerate().map(end).collect::<Result<_, _>>()?;
    Ok(Netdev { kind, cable, backend: Arc::new(Network { ends, info, down }) })
}

/// In words.
fn fault(what: &str, error: &std::io::Error) -> NetError {
    NetError::Failed(format!("{what}: {}", strerror(error)))
}
