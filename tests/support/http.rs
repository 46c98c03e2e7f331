//! A GET over HTTP/1.1, as small as a probe.

use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Status and body of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// A GET, as [`send`].
pub fn fetch(address: SocketAddr, path: &str) -> Result<Answer> {
    send(address, "GET", path, "")
}

/// Asks for a path and reads until the server closes. Bodies are not dechunked: what
/// sends them in chunks is a fault of the caller's choice of endpoint.
pub fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer> {
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = body.len();
    // At once: in pieces, each would wait for the one before it to be acknowledged.
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes())?;
    let mut all = Vec::new();
    socket.read_to_end(&mut all)?;
    let all = String::from_utf8_lossy(&all);
    let invalid = || std::io::Error::other(format!("no HTTP answer: {all:?}"));
    let (head, body) = all.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(invalid)?;
    Ok(Answer { status, body: body.to_owned() })
}
