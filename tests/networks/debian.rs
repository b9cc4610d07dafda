//! Debian's programs in a guest, on the user-mode network.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use testbed::vm::{Launch, Vm};
use testbed::{debian, host, skip};

use crate::private::{self, WORLD};
use crate::servers::{ANSWER, Digest, Noise, Web, names, serve};
use crate::{dumps, machine};

/// What is copied each way in the test of programs, in MiB.
const COPIED: usize = 1024;

const SMBD: &str = "/usr/sbin/smbd";

/// Debian, on its way to the checks.
fn spawn(machine: Launch, words: &str) -> Result<Vm> {
    let (kernel, initrd) = debian::network()?;
    let scripts = format!("{words} net.ifnames=0 systemd.show_status=error");
    machine.args(["-m", "2048", "-smp", "2"]).kernel(&kernel, &initrd, &scripts).spawn()
}

/// A child that ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A line of the guest's that begins so.
fn line<'a>(lines: &'a str, begin: &str) -> Result<&'a str> {
    let begin = format!("rhea-talk: {begin}");
    let found = lines.lines().find_map(|line| line.trim_end().strip_prefix(&begin));
    Ok(found.with_context(|| format!("no {begin:?}:\n{lines}"))?.trim())
}

#[test]
#[ignore = "a soak test"]
fn programs_reach_servers() -> Result<()> {
    fetch()?;
    private::run(|| reach_servers("virtio", COPIED, None))
}

#[test]
#[ignore = "a soak test"]
fn wireshark_finds_nothing_wrong_with_what_programs_send_by_virtio_net() -> Result<()> {
    dump_programs("virtio")
}

#[test]
#[ignore = "a soak test"]
fn wireshark_finds_nothing_wrong_with_what_programs_send_by_e1000() -> Result<()> {
    dump_programs("e1000")
}

fn dump_programs(card: &str) -> Result<()> {
    if let Some(reason) = dumps::unreadable() {
        skip(&reason);
        return Ok(());
    }
    fetch()?;
    private::run(|| {
        let scratch = tempfile::tempdir()?;
        let dump = scratch.path().join("dump");
        reach_servers(card, 1, Some(&dump))?;
        let protocols =
            ["arp", "dhcp", "dns", "http", "icmp", "icmpv6", "ipv6", "ssh", "tcp", "tftp"];
        dumps::check(&dump, &protocols)
    })
}

/// What comes from Debian has to come before the network is a private one.
fn fetch() -> Result<()> {
    let _ = host::program("iperf3", "iperf3");
    debian::network().map(drop)
}

/// Everything in one boot, which takes its time. `mebibytes` are copied each way.
fn reach_servers(card: &str, mebibytes: usize, dump: Option<&Path>) -> Result<()> {
    private::make_world()?;
    names()?;
    let scratch = tempfile::tempdir()?;
    let path = |name: &str| scratch.path().join(name).display().to_string();
    fs::create_dir(path("share"))?;
    fs::write(path("share/file"), "from the share")?;
    fs::write(path("file"), "by tftp")?;
    let (web, sums) = Web::new(mebibytes << 20);
    let (web6, _) = Web::new(1 << 20);
    let (ours, ours6) = (web.clone(), web6.clone());
    let http = serve("127.0.0.1:0", move |stream| ours.serve(stream))?;
    let http6 = serve("[::1]:0", move |stream| ours6.serve(stream))?;
    let mut words = format!("rhea.http={http} rhea.http6={http6} rhea.mib={mebibytes}");
    let _iperf = match host::program("iperf3", "iperf3") {
        // A dump of all that it sends would be too long to be read.
        _ if dump.is_some() => None,
        Ok(mut command) => {
            words += " rhea.iperf=5201";
            Some(Server(command.arg("-s").stdout(Stdio::null()).spawn()?))
        }
        Err(reason) => {
            skip(&reason);
            None
        }
    };
    let key = path("key");
    let made = Command::new("ssh-keygen").args(["-qt", "ed25519", "-N", "", "-f", &key]).status();
    ensure!(made.context("ssh-keygen")?.success(), "ssh-keygen");
    let public = fs::read_to_string(format!("{key}.pub"))?;
    words += &format!(" rhea.key={}", public.split(' ').nth(1).context("a key")?);

    let share = match Path::new(SMBD).exists() {
        true => format!(",smb={}", path("share")),
        false => {
            skip(&format!("no {SMBD}: nothing is shared (install samba)"));
            String::new()
        }
    };
    let tftp = scratch.path().display();
    let nic = format!("user,id=n,model={card},hostfwd=tcp::60022-:22,tftp={tftp}{share}");
    let checks = format!("network,network-talk {words}");
    let mut machine = machine().args(["-nic", &nic]);
    if let Some(dump) = dump {
        let filter = format!("filter-dump,id=f,netdev=n,file={}", dump.display());
        machine = machine.args(["-object", &filter]);
    }
    let mut vm = spawn(machine, &checks)?;
    // Each of these takes its time.
    let mut said = String::new();
    for end in ["curl received by IPv6", "curl sent", "getent", "smbclient", " - network-talk\n"] {
        said += &vm.expect(end)?;
    }

    ensure!(line(&said, "curl received ")? == web.sum()?, "{said}");
    ensure!(line(&said, "curl received by IPv6 ")? == web6.sum()?, "{said}");
    ensure!(line(&said, "curl sent ")? == sums.recv()?, "{said}");
    ensure!(line(&said, "curl tftp ")? == "by tftp", "{said}");
    for address in ["10.0.2.2", "fec0::2", WORLD[0], WORLD[1]] {
        let result = line(&said, &format!("ping {address}: "))?;
        ensure!(result.starts_with("3 packets transmitted, 3 received"), "{address}: {result}");
    }
    let answer = ANSWER.map(|byte| byte.to_string()).join(".");
    for begin in ["dig ", "dig by TCP ", "getent "] {
        ensure!(line(&said, begin)?.starts_with(&answer), "{begin}:\n{said}");
    }
    if words.contains("rhea.iperf") {
        for way in ["", "-R", "-u"] {
            let result = line(&said, &format!("iperf3 {way} "))?;
            ensure!(result.contains("bits/sec") && result.ends_with("receiver"), "{result}");
            println!("iperf3 {way}: {result}");
        }
    }
    if !share.is_empty() {
        ensure!(line(&said, "smbclient ")? == "from the share", "{said}");
        ensure!(fs::read(path("share/copy"))? == b"from the share", "the copy differs");
    }
    by_ssh(&mut vm, &key)
}

/// Logs in as whoever follows a tutorial.
fn by_ssh(vm: &mut Vm, key: &str) -> Result<()> {
    vm.expect("login: ")?;
    let ssh = |command: &str| {
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-p",
            "60022",
            "-i",
            key,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "BatchMode=yes",
        ]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
        ssh.args(["root@127.0.0.1", command]);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped());
        ssh
    };
    let mut bytes = vec![0; 8 << 20];
    Noise::new().fill(&mut bytes);
    let mut digest = Digest::new()?;
    digest.update(&bytes)?;
    let mut child = ssh("sha256sum").spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("its input")?, &bytes)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(said == digest.finish()?, "ssh: {output:?}");
    let output = ssh("systemctl --failed --no-legend").output()?;
    ensure!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    ssh("systemctl poweroff").output()?;
    Ok(())
}

/// Virtio-net at a tap, which takes what it offers; the others at the user-mode network.
const CARDS: [&str; 5] = ["virtio-net-pci", "e1000", "rtl8139", "ne2k_pci", "pcnet"];

/// What programs see, line by line.
fn seen(machine: Launch) -> Result<Vec<String>> {
    let options = "user,id=n,hostname=guest,domainname=example.org,dnssearch=a.example,\
                   dnssearch=b.example,tftp-server-name=server,bootfile=file";
    let mut machine = machine.args(["-netdev", options, "-device", "virtio-net-pci,netdev=n"]);
    for (n, card) in CARDS.into_iter().enumerate() {
        let network = match card {
            "virtio-net-pci" => format!("tap,id=n{n},ifname={TAP},script=no,downscript=no"),
            _ => format!("user,id=n{n},restrict=on"),
        };
        machine = machine.args(["-netdev", &network, "-device", &format!("{card},netdev=n{n}")]);
    }
    let mut vm = spawn(machine, "network,network-view")?;
    let said = vm.expect(" - network-view\n")?;
    let lines = said.lines().filter_map(|line| line.trim_end().strip_prefix("rhea-view: "));
    let lines: Vec<_> = lines.map(str::to_owned).collect();
    ensure!(lines.iter().any(|line| line.contains("lspci")), "{said}");
    Ok(lines)
}

const TAP: &str = "view";

/// Checksums and segmentation at the user-mode network: libslirp leaves them to the guest, and we do not.
const OFFLOADS: [[&str; 2]; 12] = [
    ["\ttx-checksum-ip-generic: on", "\ttx-checksum-ip-generic: off [fixed]"],
    ["\ttx-scatter-gather: on", "\ttx-scatter-gather: off [fixed]"],
    ["\ttx-tcp-ecn-segmentation: on", "\ttx-tcp-ecn-segmentation: off [fixed]"],
    ["\ttx-tcp-mangleid-segmentation: off", "\ttx-tcp-mangleid-segmentation: off [fixed]"],
    ["\ttx-tcp-segmentation: on", "\ttx-tcp-segmentation: off [fixed]"],
    ["\ttx-tcp6-segmentation: on", "\ttx-tcp6-segmentation: off [fixed]"],
    ["generic-segmentation-offload: on", "generic-segmentation-offload: off [requested on]"],
    ["rx-gro-hw: on", "rx-gro-hw: off"],
    ["scatter-gather: on", "scatter-gather: off"],
    ["tcp-segmentation-offload: on", "tcp-segmentation-offload: off"],
    ["tx-checksumming: on", "tx-checksumming: off"],
    ["tx-gso-robust: on [fixed]", "tx-gso-robust: off [fixed]"],
];

#[test]
#[ignore = "a soak test"]
fn programs_see_what_they_see_under_qemu() -> Result<()> {
    let reference = match testbed::reference_qemu() {
        Ok(reference) => reference,
        Err(reason) => {
            skip(&reason);
            return Ok(());
        }
    };
    fetch()?;
    private::run(|| {
        private::shell(&format!("ip tuntap add {TAP} mode tap\nip link set {TAP} up"))?;
        let ours = seen(machine())?;
        let theirs = seen(Launch::headless(&reference).accel())?;
        let only = |these: &[String], others: &[String], side: usize| {
            let known = OFFLOADS.map(|pair| format!("eth0 ethtool -k: {}", pair[side]));
            let lines = these.iter().filter(|line| !others.contains(line) && !known.contains(line));
            lines.cloned().collect::<Vec<_>>()
        };
        let differences = [only(&ours, &theirs, 0), only(&theirs, &ours, 1)];
        ensure!(differences.iter().all(Vec::is_empty), "ours and theirs: {differences:#?}");
        Ok(())
    })
}
