//! A real name server, Debian's dnsmasq, on a free loopback port.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;

/// A running dnsmasq that knows `example.test` and nothing else; ended when dropped.
pub struct Dnsmasq {
    /// For signals.
    pub process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl Dnsmasq {
    /// One with these records, as options: `--host-record=b.example.test,127.0.0.2,1` and so
    /// on. It reads no file of the system.
    pub fn start(records: &[impl AsRef<OsStr>]) -> Self {
        let folder = super::temporary_folder("dnsmasq");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()));
        let process = run(address, &folder, records);
        Self { process, address, folder }
    }

    /// Ends it, however it is, and starts it with other records at the same address.
    pub fn restart(&mut self, records: &[impl AsRef<OsStr>]) {
        self.process.kill();
        self.process = run(self.address, &self.folder, records);
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many questions with these words it has noted.
    pub fn asked(&self, words: &str) -> usize {
        self.process.log().lines().filter(|line| line.contains(words)).count()
    }
}

fn run(address: SocketAddr, folder: &TempDir, records: &[impl AsRef<OsStr>]) -> Process {
    let mut command = Command::new("/usr/sbin/dnsmasq");
    command
        .args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"])
        .args(["--log-queries", "--log-facility=-", "--local-ttl=1", "--pid-file="])
        .args(["--user=root", "--group=root", "--bind-interfaces", "--local=/example.test/"])
        .arg(format!("--listen-address={}", address.ip()))
        .arg(format!("--port={}", address.port()))
        .args(records);
    let name = format!("dnsmasq on {address}");
    let mut process = Process::start(&name, &mut command, &folder.path().join("log"));
    // It answers on TCP as well.
    process.wait_for_port(address);
    process
}

/// A name server that takes questions and answers none, until dropped.
pub struct SilentServer {
    socket: UdpSocket,
}

impl SilentServer {
    /// On a free port.
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, super::free_port())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Whether a question has come that nobody has read.
    pub fn was_asked(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let asked = self.socket.peek(&mut [0; 512]).is_ok();
        self.socket.set_nonblocking(false).unwrap();
        asked
    }

    /// Waits until it was asked for a name with this label.
    pub fn wait_for_question(&self, label: &str) {
        let mut question = [0; 512];
        loop {
            let length = self.socket.recv(&mut question).unwrap();
            if question[..length].windows(label.len()).any(|part| part == label.as_bytes()) {
                return;
            }
        }
    }
}
