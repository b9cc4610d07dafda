//! Taps and bridges in a network of their own: each test runs its other half, of the same name, as root
//! of a private namespace.

use std::os::fd::{AsFd, IntoRawFd};
use std::path::Path;
use std::process::Command;

use crate::Delivery;
use crate::testbed::Bed;

/// Has `inside::NAME` run in a namespace; says why not, where that is not possible.
fn run_inside(name: &str) {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.arg("-rnm");
        command
    };
    let probe = unshare().args(["ip", "tuntap", "add", "probe", "mode", "tap"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no private network with taps can be made here");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let test = format!("tap::tests::inside::{name}");
    let output =
        unshare().arg(program).args([&test, "--exact", "--ignored", "--nocapture"]).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
}

fn shell(command: &str) {
    let output = Command::new("sh").args(["-e", "-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
}

/// A bridge, in a network where nobody says anything by himself.
fn quiet_bridge() {
    shell(
        "for all in all default; do echo 1 >/proc/sys/net/ipv6/conf/$all/disable_ipv6; done
         ip link add br0 type bridge forward_delay 0
         ip link set br0 up",
    );
}

/// What is sent to everybody by one guest arrives at the other.
fn frame(n: u8) -> Vec<u8> {
    let mut frame = vec![n; 200];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, n]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

#[test]
fn a_bridge_joins_two_guests() {
    run_inside("a_bridge_joins_two_guests");
}

#[test]
fn scripts_see_interfaces_come_and_go() {
    run_inside("scripts_see_interfaces_come_and_go");
}

#[test]
fn descriptors_are_passed() {
    run_inside("descriptors_are_passed");
}

#[test]
fn a_tap_has_several_queues() {
    run_inside("a_tap_has_several_queues");
}

#[test]
fn a_helper_puts_taps_into_a_bridge() {
    if !Path::new(super::helper::PLACES[0]).exists() {
        eprintln!("skipped: the distribution's helper is not there");
        return;
    }
    run_inside("a_helper_puts_taps_into_a_bridge");
}

/// Words of QEMU 10.0.2.
#[test]
fn without_the_hosts_device_there_is_no_vhost() {
    if Path::new("/dev/vhost-net").exists() {
        return;
    }
    let error = Bed::new().guest("tap,id=t,vhost=on").err().unwrap().to_string();
    assert_eq!(error, "tap: open vhost char device failed: No such file or directory");
}

mod inside {
    use super::*;
    use crate::tap::device::Tap;
    use crate::testbed::Guest;

    /// Frames of this test's that a guest gets: a bridge has its own to say, too.
    fn heard(bed: &mut Bed, guest: &Guest, count: usize) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let frames = bed.frames(guest, 1).into_iter();
            heard.extend(frames.filter(|frame| frame[12..14] == [0x88, 0xb5]));
        }
        heard
    }

    fn talk(bed: &mut Bed, near: &Guest, far: &Guest) {
        for n in 1..20 {
            while near.send(&frame(n)) == Delivery::Full {
                bed.turn();
            }
        }
        let expected: Vec<_> = (1..20).map(frame).collect();
        assert_eq!(heard(bed, far, 19), expected);
        assert_eq!(far.send(&frame(99)), Delivery::Taken);
        assert_eq!(heard(bed, near, 1), [frame(99)]);
    }

    #[test]
    #[ignore = "runs in a namespace by the test of this name"]
    fn a_bridge_joins_two_guests() {
        quiet_bridge();
        let mut bed = Bed::new();
        let tap = |name| format!("tap,id={name},ifname={name},script=no,downscript=no");
        let near = bed.guest(&tap("t0")).unwrap();
        let far = bed.guest(&tap("t1")).unwrap();
        assert_eq!(near.netdev.backend.info(0), "ifname=t0,script=no,downscript=no");
        shell("for tap in t0 t1; do ip link set $tap master br0 up; done");
        talk(&mut bed, &near, &far);
        let error = bed.guest("tap,id=x,ifname=t0,script=no").err().unwrap().to_string();
        assert_eq!(error, "could not configure /dev/net/tun (t0): Device or resource busy");
    }

    #[test]
    #[ignore = "runs in a namespace by the test of this name"]
    fn scripts_see_interfaces_come_and_go() {
        quiet_bridge();
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name).display().to_string();
        let (up, down, log) = (path("up"), path("down"), path("log"));
        shell(&format!(
            "printf '#!/bin/sh\\nip link set $1 master br0 up; echo up $1 >>{log}' >{up}
             printf '#!/bin/sh\\necho down $1 >>{log}; exit 3' >{down}
             chmod +x {up} {down}"
        ));
        let mut bed = Bed::new();
        let tap = |id: &str| format!("tap,id={id},ifname=t%d,script={up},downscript={down}");
        let (near, far) = (bed.guest(&tap("a")).unwrap(), bed.guest(&tap("b")).unwrap());
        talk(&mut bed, &near, &far);
        bed.networks().remove("a").unwrap();
        drop(near);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "up t0\nup t1\ndown t0\n");
        let failing = format!("tap,id=c,ifname=t9,script={down},downscript=no");
        let error = bed.guest(&failing).err().unwrap().to_string();
        assert_eq!(error, format!("network script {down} failed with status 768"));
    }

    #[test]
    #[ignore = "runs in a namespace by the test of this name"]
    fn descriptors_are_passed() {
        quiet_bridge();
        let taps = [("t0", true), ("t1", false)].map(|(name, vnet)| Tap::open(name, vnet, false));
        shell("for tap in t0 t1; do ip link set $tap master br0 up; done");
        let mut bed = Bed::new();
        let [near, far] = taps.map(|tap| {
            // The network owns the descriptor that it is given.
            let fd = tap.unwrap().as_fd().try_clone_to_owned().unwrap();
            let number = fd.into_raw_fd();
            bed.guest(&format!("tap,id=n{number},fd={number}")).unwrap()
        });
        talk(&mut bed, &near, &far);
    }

    #[test]
    #[ignore = "runs in a namespace by the test of this name"]
    fn a_tap_has_several_queues() {
        quiet_bridge();
        let mut bed = Bed::new();
        let several = bed.guest("tap,id=t0,ifname=t0,script=no,downscript=no,queues=3").unwrap();
        let single = bed.guest("tap,id=t1,ifname=t1,script=no,downscript=no").unwrap();
        shell("for tap in t0 t1; do ip link set $tap master br0 up; done");
        let cable = several.netdev.cable.clone();
        assert_eq!(cable.lanes(), 3);
        for lane in 0..3 {
            let bytes = frame(lane as u8);
            let parts = [crate::Part::from(&bytes[..])];
            let frame = crate::Frame::new(&parts, crate::Offload::default());
            assert_eq!(cable.plug(crate::Side::Guest, lane).send(&frame), Delivery::Taken);
        }
        assert_eq!(heard(&mut bed, &single, 3), [frame(0), frame(1), frame(2)]);
    }

    #[test]
    #[ignore = "runs in a namespace by the test of this name"]
    fn a_helper_puts_taps_into_a_bridge() {
        quiet_bridge();
        shell(
            "mount -t tmpfs none /etc
             mkdir -p /etc/qemu
             echo allow br0 >/etc/qemu/bridge.conf",
        );
        let mut bed = Bed::new();
        let near = bed.guest("bridge,id=a").unwrap();
        let helper = super::super::helper::PLACES[0];
        assert_eq!(near.netdev.backend.info(0), format!("helper={helper},br=br0"));
        let far = bed.guest(&format!("tap,id=b,br=br0,helper={helper}")).unwrap();
        talk(&mut bed, &near, &far);
        let error = bed.guest("bridge,id=c,br=br1").err().unwrap().to_string();
        assert_eq!(error, "bridge helper failed");
    }
}
