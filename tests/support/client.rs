//! A scripted IMAP client: says what it is told and reads byte by byte.

use std::io::{ErrorKind, Result};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::tls;
use super::wire::Wire;

/// One client connection. A wait that is too long, or a line that is not the expected
/// one, panics and shows what came instead.
pub struct Client {
    wire: Wire,
    tag_number: u32,
}

/// All that a server sent up to and with one tagged line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The untagged and continuation lines, each with its literals and its line end.
    pub untagged: Vec<Vec<u8>>,
    /// The tagged line without its tag and line end, e.g. `OK [READ-WRITE] done`.
    pub status: String,
}

impl Response {
    /// Whether the tagged line says OK.
    pub fn is_ok(&self) -> bool {
        self.status.starts_with("OK ")
    }

    /// The untagged lines as text.
    pub fn text(&self) -> String {
        self.untagged.iter().map(|line| String::from_utf8_lossy(line)).collect()
    }

    /// The content of the first literal in the untagged lines.
    pub fn literal(&self) -> Option<&[u8]> {
        self.untagged.iter().find_map(|line| {
            let end = memchr::memchr(b'\n', line)? + 1;
            let bytes = announced_literal(&line[..end])?;
            line.get(end..end + bytes)
        })
    }
}

impl Client {
    /// Connects in clear text; the greeting is not read yet.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        Ok(Self { wire: Wire::new(socket)?, tag_number: 0 })
    }

    /// In clear text on a connection that stands; reads the greeting.
    pub fn on(socket: TcpStream) -> Self {
        let mut client = Self { wire: Wire::new(socket).unwrap(), tag_number: 0 };
        client.expect("* OK");
        client
    }

    /// Connects in clear text and reads the greeting.
    pub fn clear(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).unwrap();
        client.expect("* OK");
        client
    }

    /// Connects with TLS from the first byte; the greeting is not read yet.
    pub fn connect_tls(
        address: SocketAddr,
        name: &str,
        config: &Arc<ClientConfig>,
    ) -> Result<Self> {
        let mut client = Self::connect(address)?;
        client.wire.start_tls_as_client(tls::client_side(config, name))?;
        Ok(client)
    }

    /// Connects with TLS to the name `localhost` and reads the greeting.
    pub fn tls(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let mut client = Self::connect_tls(address, "localhost", config).unwrap();
        client.expect("* OK");
        client
    }

    /// Sends STARTTLS and shakes hands.
    pub fn starttls(&mut self, name: &str, config: &Arc<ClientConfig>) {
        let response = self.command("STARTTLS");
        assert!(response.is_ok(), "{}", response.status);
        self.wire.start_tls_as_client(tls::client_side(config, name)).unwrap();
    }

    /// The connection itself, for what has no method here.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The address that the server sees this client as.
    pub fn local_address(&self) -> SocketAddr {
        self.wire.socket().local_addr().unwrap()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write(bytes.as_ref()).unwrap();
    }

    /// Sends each byte in a packet of its own.
    pub fn send_byte_by_byte(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.wire.write(&[*byte]).unwrap();
        }
    }

    /// The next line without its end, as text.
    pub fn read_line(&mut self) -> String {
        let line = self.wire.read_line().unwrap();
        String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()
    }

    /// Reads a line that must begin so, and gives it.
    pub fn expect(&mut self, start: &str) -> String {
        let line = self.read_line();
        assert!(line.starts_with(start), "expected {start:?}, got {line:?}");
        line
    }

    /// Reads untagged lines until one begins so, and gives it.
    pub fn expect_eventually(&mut self, start: &str) -> String {
        loop {
            let line = self.read_line();
            if line.starts_with(start) {
                return line;
            }
            assert!(line.starts_with("* "), "expected {start:?}, got {line:?}");
        }
    }

    /// Reads until lines came that begin so, in this order, and gives all that was read,
    /// each line with its literals; only untagged lines may come between them.
    pub fn expect_in_order(&mut self, starts: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        for start in starts {
            loop {
                let line = self.read_with_literals();
                let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                let found = line.starts_with(start);
                assert!(found || line.starts_with("* "), "expected {start:?}, got {line:?}");
                lines.push(line);
                if found {
                    break;
                }
            }
        }
        lines
    }

    /// Reads exactly so many bytes.
    pub fn read_exactly(&mut self, bytes: usize) -> Vec<u8> {
        self.wire.read_exactly(bytes).unwrap()
    }

    /// Asserts that nothing comes for that long.
    pub fn expect_silence(&mut self, for_long: Duration) {
        let came = self.wire.has_line_within(for_long).unwrap();
        let unread = self.wire.unread();
        assert!(!came && unread.is_empty(), "{:?}", String::from_utf8_lossy(unread));
    }

    /// Waits for the server's end and gives what came before it.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        self.wire.read_to_end().unwrap()
    }

    /// Asserts that the server closes without another byte.
    pub fn expect_end(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "more came: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Waits until the session is over; a BYE may come before the end.
    pub fn expect_end_of_session(&mut self) {
        let rest = self.read_to_end();
        let text = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || text.starts_with("* BYE "), "{text:?}");
    }

    /// Reads until the line with this tag; literals in untagged lines are taken by count.
    pub fn read_response(&mut self, tag: &str) -> Response {
        let mut untagged = Vec::new();
        loop {
            let line = self.read_with_literals();
            let text = String::from_utf8_lossy(&line);
            let status = text.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' '));
            if let Some(status) = status {
                let status = status.trim_end_matches(['\r', '\n']).to_owned();
                return Response { untagged, status };
            }
            assert!(
                line.starts_with(b"* ") || line.starts_with(b"+"),
                "while waiting for {tag}: {text:?}"
            );
            untagged.push(line);
        }
    }

    /// Sends a command with a tag of its own and reads to its tagged line.
    pub fn command(&mut self, command: &str) -> Response {
        let tag = self.send_command(command);
        self.read_response(&tag)
    }

    /// Sends a command and gives its tag; the answer is not read.
    pub fn send_command(&mut self, command: &str) -> String {
        self.tag_number += 1;
        let tag = format!("t{}", self.tag_number);
        self.send(format!("{tag} {command}\r\n"));
        tag
    }

    /// The same, but the answer must be OK.
    pub fn command_ok(&mut self, command: &str) -> Response {
        let response = self.command(command);
        assert!(response.is_ok(), "{command}: {}", response.status);
        response
    }

    /// LOGIN with quoted strings; gives the tagged line.
    pub fn try_login(&mut self, user: &str, password: &str) -> Response {
        self.command(&format!("LOGIN {} {}", quoted(user), quoted(password)))
    }

    /// LOGIN that must succeed.
    pub fn login(&mut self, user: &str, password: &str) -> Response {
        let response = self.try_login(user, password);
        assert!(response.is_ok(), "login of {user}: {}", response.status);
        response
    }

    /// AUTHENTICATE PLAIN with an initial response.
    pub fn try_authenticate_plain(&mut self, user: &str, password: &str) -> Response {
        use base64::Engine;
        let message = format!("\0{user}\0{password}");
        let message = base64::engine::general_purpose::STANDARD.encode(message);
        self.command(&format!("AUTHENTICATE PLAIN {message}"))
    }

    /// APPEND with a synchronising literal; must succeed.
    pub fn append(&mut self, mailbox: &str, mail: &[u8]) -> Response {
        let tag = self.send_command(&format!("APPEND {} {{{}}}", quoted(mailbox), mail.len()));
        let line = self.wire.read_line().unwrap();
        assert!(line.starts_with(b"+"), "{:?}", String::from_utf8_lossy(&line));
        self.send(mail);
        self.send(b"\r\n");
        let response = self.read_response(&tag);
        assert!(response.is_ok(), "{}", response.status);
        response
    }

    /// Appends many small mails in few round trips, by non-synchronising literals
    /// (the server must list LITERAL+); all must succeed.
    pub fn append_all(&mut self, mailbox: &str, mails: &[Vec<u8>]) {
        for batch in mails.chunks(50) {
            let mut bytes = Vec::new();
            for (number, mail) in batch.iter().enumerate() {
                let head = format!("m{number} APPEND {} {{{}+}}\r\n", quoted(mailbox), mail.len());
                bytes.extend_from_slice(head.as_bytes());
                bytes.extend_from_slice(mail);
                bytes.extend_from_slice(b"\r\n");
            }
            self.send(&bytes);
            for number in 0..batch.len() {
                let response = self.read_response(&format!("m{number}"));
                assert!(response.is_ok(), "{}", response.status);
            }
        }
    }

    /// Appends many small mails by few commands (the server must list MULTIAPPEND and
    /// LITERAL+), which spares a server that syncs at each command's end.
    pub fn append_at_once(&mut self, mailbox: &str, mails: &[Vec<u8>]) {
        for batch in mails.chunks(200) {
            let mut bytes = format!("m APPEND {}", quoted(mailbox)).into_bytes();
            for mail in batch {
                bytes.extend_from_slice(format!(" {{{}+}}\r\n", mail.len()).as_bytes());
                bytes.extend_from_slice(mail);
            }
            bytes.extend_from_slice(b"\r\n");
            self.send(&bytes);
            let response = self.read_response("m");
            assert!(response.is_ok(), "{}", response.status);
        }
    }

    /// The whole text of a mail of the selected mailbox, by sequence number.
    pub fn fetch_mail(&mut self, number: u32) -> Vec<u8> {
        let response = self.command_ok(&format!("FETCH {number} BODY.PEEK[]"));
        response.literal().expect("FETCH gives a literal").to_vec()
    }

    /// LOGOUT, BYE, tagged OK, end.
    pub fn logout(mut self) {
        let response = self.command_ok("LOGOUT");
        assert!(response.text().contains("* BYE"), "{}", response.text());
        self.expect_end();
    }

    /// A line and, where it ends in a literal's announcement, all that belongs to it.
    /// Status responses, tagged and continuation lines never announce one.
    fn read_with_literals(&mut self) -> Vec<u8> {
        let mut all = self.wire.read_line().unwrap();
        if !all.starts_with(b"* ") || is_status(&all) {
            return all;
        }
        let mut last = all.clone();
        while let Some(bytes) = announced_literal(&last) {
            all.extend(self.wire.read_exactly(bytes).unwrap());
            last = self.wire.read_line().unwrap();
            all.extend_from_slice(&last);
        }
        all
    }
}

/// Whether a connection is refused or closed before a byte came.
pub fn is_refused(address: SocketAddr) -> bool {
    match Client::connect(address).and_then(|mut client| client.wire.read_line()) {
        Ok(_) => false,
        Err(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
        ),
    }
}

/// A quoted string (RFC 9051 section 4.3).
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The count in a literal's announcement at the end of a line: `{5}`, `{5+}`, `~{5}`.
pub fn announced_literal(line: &[u8]) -> Option<usize> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.strip_suffix(b"}")?;
    let line = line.strip_suffix(b"+").unwrap_or(line);
    let open = memchr::memrchr(b'{', line)?;
    std::str::from_utf8(line.get(open + 1..)?).ok()?.parse().ok()
}

fn is_status(line: &[u8]) -> bool {
    [&b"* OK "[..], b"* NO ", b"* BAD ", b"* BYE ", b"* PREAUTH "]
        .iter()
        .any(|start| line.starts_with(start))
}
