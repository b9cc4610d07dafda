//! Linux on the user-mode network, by each network card.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use testbed::modules;
use testbed::vm::Launch;

use crate::machine;

const LEN: usize = 8 << 20;

/// Bytes that no part of which is like another.
fn file() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.by_ref().take(LEN / 8).flatten().collect()
}

/// Serves one connection on a port of the loopback interface.
fn serve<T: Send + 'static>(
    serve: impl FnOnce(std::net::TcpStream) -> std::io::Result<T> + Send + 'static,
) -> Result<(SocketAddr, JoinHandle<std::io::Result<T>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    Ok((address, thread::spawn(move || serve(listener.accept()?.0))))
}

/// A guest gets an address, a file of the host's, and sends it back; what it says.
fn a_file_goes_to_and_fro(card: &str, driver: &str) -> Result<String> {
    let guest = modules::network()?;
    let contents = file();
    let (sent, expected) = (contents.clone(), contents.len());
    let (from, sender) = serve(move |mut stream| stream.write_all(&sent))?;
    let (to, receiver) = serve(|mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    })?;
    let (web, server) = serve(|mut stream| {
        let _ = stream.read(&mut [0; 1024])?;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nrhea-network: page\n")
    })?;
    let ports = [from, to, web].map(|address| address.port());
    let scripts = format!(
        "network,poweroff rhea.from={} rhea.to={} rhea.web={}",
        ports[0], ports[1], ports[2]
    );
    let ended = machine()
        .args(["-netdev", "user,id=n", "-device", &format!("{card},netdev=n")])
        .kernel(&guest.kernel, &guest.initrd, &scripts)
        .run()?;
    let output = ended.stdout;
    for line in [
        &format!("driver {driver}"),
        "address 52:54:00:12:34:56",
        "lease 10.0.2.15/24 via 10.0.2.2 dns 10.0.2.3",
        &format!("received {expected}"),
        "sent",
        "page",
        "rx_errors 0",
        "tx_errors 0",
    ] {
        ensure!(output.contains(&format!("rhea-network: {line}")), "no {line:?}:\n{output}");
    }
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    sender.join().ok().context("the sender")??;
    let returned = receiver.join().ok().context("the receiver")??;
    server.join().ok().context("the server")??;
    ensure!(returned == contents, "what came back is not what went out");
    Ok(output)
}

#[test]
fn by_virtio_net() -> Result<()> {
    a_file_goes_to_and_fro("virtio-net-pci", "virtio_net").map(drop)
}

#[test]
fn by_virtio_net_with_packed_rings_and_without_offloads() -> Result<()> {
    let card = "virtio-net-pci,packed=on,mrg_rxbuf=off,csum=off,guest_csum=off";
    a_file_goes_to_and_fro(card, "virtio_net").map(drop)
}

#[test]
fn by_virtio_net_of_legacy_drivers() -> Result<()> {
    a_file_goes_to_and_fro("virtio-net-pci,disable-modern=on,vectors=0", "virtio_net").map(drop)
}

#[test]
fn by_e1000() -> Result<()> {
    a_file_goes_to_and_fro("e1000", "e1000").map(drop)
}

/// Frames by rings of descriptors, as Linux' driver of the C+ drives the card.
#[test]
fn by_rtl8139() -> Result<()> {
    a_file_goes_to_and_fro("rtl8139", "8139cp").map(drop)
}

#[test]
fn by_ne2k_pci() -> Result<()> {
    a_file_goes_to_and_fro("ne2k_pci", "ne2k-pci").map(drop)
}

#[test]
fn by_pcnet() -> Result<()> {
    a_file_goes_to_and_fro("pcnet", "pcnet32").map(drop)
}

/// What Linux is told by DHCP, and what it sees of each card.
fn what_is_seen(machine: Launch) -> Result<Vec<String>> {
    let guest = modules::network()?;
    let options = "user,id=n,hostname=guest,domainname=example.org,dnssearch=a.example,\
                   dnssearch=b.example,tftp-server-name=server,bootfile=file";
    let mut machine = machine.args(["-netdev", options, "-device", "virtio-net-pci,netdev=n"]);
    for (n, card) in ["e1000", "rtl8139", "ne2k_pci", "pcnet"].into_iter().enumerate() {
        let network = format!("user,id=n{n},restrict=on");
        let device = format!("{card},netdev=n{n}");
        machine = machine.args(["-netdev", &network, "-device", &device]);
    }
    let ended =
        machine.kernel(&guest.kernel, &guest.initrd, "network,poweroff rhea.cards").run()?;
    let lines = ended.stdout.lines().map(str::trim_end);
    let lines = lines.filter(|line| line.starts_with("rhea-network: "));
    // Interrupts are given out in the order of their drivers' asking.
    Ok(lines.filter(|line| !line.contains(" pci irq ")).map(str::to_owned).collect())
}

#[test]
fn linux_sees_what_it_sees_under_qemu() -> Result<()> {
    let reference = match testbed::reference_qemu() {
        Ok(reference) => reference,
        Err(reason) => {
            testbed::skip(&reason);
            return Ok(());
        }
    };
    let ours = what_is_seen(machine())?;
    let theirs = what_is_seen(Launch::headless(reference).accel())?;
    ensure!(theirs.iter().any(|line| line.contains("option boot_file file")), "{theirs:#?}");
    let only = |these: &[String], others: &[String]| {
        these.iter().filter(|line| !others.contains(line)).cloned().collect::<Vec<_>>()
    };
    let differences = [only(&ours, &theirs), only(&theirs, &ours)];
    ensure!(differences.iter().all(Vec::is_empty), "ours and theirs: {differences:#?}");
    Ok(())
}
