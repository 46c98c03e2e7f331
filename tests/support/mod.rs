//! What the integration tests share: real servers, scripted peers, a scripted client.
//!
//! Every server is started on a free loopback port below a folder of its own, and is
//! ended with its whole process group when its value is dropped, or when the test
//! process dies.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "test code: every test file uses a part of it, a broken set-up must panic, \
              and real servers run on the real clock"
)]

pub mod authorization;
pub mod backend;
pub mod client;
pub mod clock;
pub mod conversation;
pub mod cyrus;
pub mod databases;
pub mod dnsmasq;
pub mod dovecot;
pub mod flood;
pub mod http;
pub mod namespace;
pub mod nginx;
pub mod operator;
pub mod ordinary;
pub mod pointsman;
pub mod process;
pub mod programs;
pub mod recorder;
pub mod redis;
pub mod sasl_programs;
pub mod secrets;
pub mod slapd;
pub mod tls;
pub mod valve;
pub mod wire;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// How long a test waits for anything that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A loopback port that nothing listens on and that no other test takes while this
/// process lives. It lies below the ports that the kernel gives to outgoing
/// connections, so none of those can take it either.
pub fn free_port() -> u16 {
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = std::env::temp_dir().join("pointsman-test-ports");
    std::fs::create_dir_all(&folder).unwrap();
    for _ in 0..2_000 {
        let port = fastrand::u16(20_000..32_000);
        let lock = File::create(folder.join(port.to_string())).unwrap();
        if lock.try_lock().is_ok() && nobody_listens_on(port) {
            HELD.lock().unwrap().push(lock);
            return port;
        }
    }
    panic!("no free loopback port between 20000 and 32000");
}

/// Binds without listening: a child that another test forks just now may inherit the
/// socket for a moment, and only a listening one would then be in the way.
fn nobody_listens_on(port: u16) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).is_ok()
}

/// A new folder that service users can enter, removed with its content when dropped.
pub fn temporary_folder(name: &str) -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new().prefix(&format!("pm-{name}-")).tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

/// Asks every 5 ms until the answer is there; panics with `what` after [`PATIENCE`].
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says that it is over where it is dropped: threads of a scope that wait for this end also
/// when the test fails, or the scope would wait for them for ever.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Measures how long something real takes.
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts to run.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A mail with these words as subject and body, and CRLF line ends.
pub fn mail(words: &str) -> Vec<u8> {
    format!(
        "From: sender@example.test\r\nTo: reader@example.test\r\nSubject: {words}\r\n\
         Date: Mon, 02 Mar 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n\r\n{words}\r\n"
    )
    .into_bytes()
}

/// A mail of at least so many bytes, every line of it different.
pub fn large_mail(bytes: usize) -> Vec<u8> {
    use std::io::Write;
    let mut text = mail("large");
    let mut line = 0_u32;
    while text.len() < bytes {
        write!(text, "{line:08} a line that looks like a command: a{line} OK done {{5}}\r\n")
            .unwrap();
        line += 1;
    }
    text
}
