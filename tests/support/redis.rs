//! A real Redis with its own folder, on a free loopback port.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use tempfile::TempDir;

use super::process::Process;
use super::tls::Authority;

/// A running server; ended when dropped.
pub struct Redis {
    pub process: Process,
    address: SocketAddr,
    tls_port: u16,
    password: Option<String>,
    _folder: TempDir,
}

impl Redis {
    /// One that takes everybody, and TLS on a second port.
    pub fn start(authority: &Authority) -> Self {
        Self::with_password(authority, None)
    }

    /// One that wants a password.
    pub fn with_password(authority: &Authority, password: Option<&str>) -> Self {
        let folder = super::temporary_folder("redis");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()));
        let tls_port = super::free_port();
        let (certificate, key) = authority.issue(&["localhost"]).write(folder.path(), "redis");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--tls-auth-clients", "no"])
            .args(["--tls-port", &tls_port.to_string()])
            .arg("--tls-cert-file")
            .arg(certificate)
            .arg("--tls-key-file")
            .arg(key)
            .arg("--tls-ca-cert-file")
            .arg(ca)
            .arg("--dir")
            .arg(folder.path());
        if let Some(password) = password {
            command.args(["--requirepass", password]);
        }
        let name = format!("Redis on {address}");
        let mut process = Process::start(&name, &mut command, &folder.path().join("log"));
        process.wait_for_port(address);
        let password = password.map(str::to_owned);
        Self { process, address, tls_port, password, _folder: folder }
    }

    /// Where it listens in clear text.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same for a configuration.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Where it listens with TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.tls_port)
    }

    /// Runs a command; gives the first line of the answer. Panics when it is refused.
    pub fn command(&self, words: &[&[u8]]) -> String {
        let mut socket = TcpStream::connect(self.address).unwrap();
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut run = |words: &[&[u8]]| {
            let mut request = format!("*{}\r\n", words.len()).into_bytes();
            for word in words {
                request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                request.extend_from_slice(word);
                request.extend_from_slice(b"\r\n");
            }
            socket.write_all(&request).unwrap();
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert!(!line.starts_with('-'), "{line}");
            line
        };
        if let Some(password) = &self.password {
            run(&[b"AUTH", password.as_bytes()]);
        }
        run(words)
    }

    /// Sets a string.
    pub fn set(&self, key: &str, value: &[u8]) {
        self.command(&[b"SET", key.as_bytes(), value]);
    }

    /// Sets fields of a hash.
    pub fn set_hash(&self, key: &str, fields: &[(&str, &str)]) {
        let mut words: Vec<&[u8]> = vec![b"HSET", key.as_bytes()];
        words.extend(fields.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
        self.command(&words);
    }
}
