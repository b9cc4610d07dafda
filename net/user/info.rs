//! `info usernet`: what goes through, in rows.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use super::forwards::Listener;
use super::stack::Stack;
use super::tcp::Phase;

/// One row.
struct Row {
    state: String,
    fd: i32,
    source: Option<SocketAddr>,
    target: SocketAddr,
    queues: (usize, usize),
}

fn show(rows: &[Row]) -> String {
    let mut text = String::from(
        "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n",
    );
    for row in rows {
        let source = match row.source {
            Some(source) if !source.ip().is_unspecified() => source.ip().to_string(),
            _ => "*".into(),
        };
        let source_port = row.source.map_or(0, |source| source.port());
        let (target, target_port) = (row.target.ip(), row.target.port());
        let (receive, send) = row.queues;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  {:<17} {:>3} {source:>15} {source_port:>5} {:>15} {target_port:>5} {receive:>5} {send:>5}",
            row.state,
            row.fd,
            target.to_string(),
        );
    }
    text
}

impl Stack {
    /// The rows, with their heading.
    pub fn info(&self) -> String {
        let mut rows = Vec::new();
        for forward in self.forwards.iter() {
            let (protocol, fd) = match &forward.listener {
                Listener::Tcp(listener) => ("TCP", listener.as_fd().as_raw_fd()),
                Listener::Udp(_) => continue,
            };
            rows.push(Row {
                state: format!("{protocol}[HOST_FORWARD]"),
                fd,
                source: Some(SocketAddr::V4(forward.rule.host)),
                target: SocketAddr::V4(forward.rule.guest),
                queues: (0, 0),
            });
        }
        for flow in self.tcp.iter() {
            let state = match (flow.phase(), flow.closed()) {
                (Phase::Connecting | Phase::Answered, _) => "SYN_RCVD",
                (Phase::Offered, _) => "SYN_SENT",
                (Phase::Established, (false, false)) => "ESTABLISHED",
                (Phase::Established, (true, false)) => "CLOSE_WAIT",
                (Phase::Established, (false, true)) => "FIN_WAIT_1",
                (Phase::Established, (true, true)) => "LAST_ACK",
            };
            rows.push(Row {
                state: format!("TCP[{state}]"),
                fd: flow.socket().as_raw_fd(),
                source: Some(flow.key().guest),
                target: flow.key().remote,
                queues: flow.queued(),
            });
        }
        // The newest first.
        rows.reverse();
        let tcp = rows.len();
        for flow in self.udp.iter() {
            let fd = flow.socket().as_raw_fd();
            let local = flow.socket().local_addr().ok();
            let (state, source, target) = match (flow.is_forward(), local) {
                (true, Some(local)) => ("UDP[HOST_FORWARD]".into(), local, flow.guest()),
                (_, local) => {
                    let left = flow.expires().unwrap_or(0).saturating_sub(self.shared.now);
                    let left = left / base::clock::SECOND;
                    let local = local.unwrap_or_else(|| flow.guest());
                    (format!("UDP[{left} sec]"), flow.guest(), local)
                }
            };
            rows.push(Row { state, fd, source: Some(source), target, queues: (0, 0) });
        }
        rows[tcp..].reverse();
        show(&rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 10.0 shows it.
    #[test]
    fn rows_have_the_usual_columns() {
        let row = |state: &str, fd, source: &str, target: &str| Row {
            state: state.into(),
            fd,
            source: source.parse().ok(),
            target: target.parse().unwrap(),
            queues: (0, 0),
        };
        let rows = [
            row("TCP[HOST_FORWARD]", 9, "0.0.0.0:60122", "10.0.2.15:22"),
            row("TCP[HOST_FORWARD]", 14, "127.0.0.1:60129", "10.0.2.16:23"),
        ];
        let expected = "\
\x20 Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]   9               * 60122       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  14       127.0.0.1 60129       10.0.2.16    23     0     0
";
        assert_eq!(show(&rows), expected);
    }
}
