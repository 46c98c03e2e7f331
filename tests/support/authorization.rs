//! A real authorisation server (OAuth 2.0), installed by `scripts/setup-node-packages`.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process::{Process, run};

const PROGRAM: &str = include_str!("../node/authorization_server.mjs");
/// How long its tokens are good for unless a test says otherwise.
const LIFETIME_SECONDS: u32 = 3600;

/// A running authorisation server; ended when dropped. What it has issued is forgotten
/// then, so that another one knows nothing of its tokens.
pub struct AuthorizationServer {
    _process: Process,
    folder: TempDir,
    address: SocketAddr,
}

impl AuthorizationServer {
    /// A server whose tokens outlive any test.
    pub fn start() -> Self {
        Self::with_lifetime(LIFETIME_SECONDS)
    }

    /// A server whose tokens are good for so many seconds.
    pub fn with_lifetime(seconds: u32) -> Self {
        let folder = super::temporary_folder("oauth");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()));
        let program = folder.path().join("server.mjs");
        std::fs::write(&program, PROGRAM).unwrap();
        symlink(node_modules(), folder.path().join("node_modules")).unwrap();
        let mut process = Process::start(
            &format!("authorisation server on {address}"),
            Command::new("node")
                .arg(&program)
                .args([address.port().to_string(), seconds.to_string()]),
            &folder.path().join("log"),
        );
        process.wait_for_port(address);
        Self { _process: process, folder, address }
    }

    /// Where an IMAP server asks what a token is worth, with its own name and secret.
    pub fn introspection_url(&self) -> String {
        format!("http://imap-server:imap-server-secret@{}/token/introspection", self.address)
    }

    /// Where a mail program reads what the server can do.
    pub fn discovery_url(&self) -> String {
        format!("http://{}/.well-known/openid-configuration", self.address)
    }

    /// Signs that user in as a browser would, gives consent, and gives the access token
    /// that the mail program then gets for the code.
    pub fn token(&self, user: &str) -> String {
        let cookies = self.folder.path().join(format!("cookies-{user}"));
        let _ = std::fs::remove_file(&cookies);
        let done = format!("http://{}/done", self.address);
        let begin = format!(
            "http://{}/auth?client_id=mail-program&response_type=code&scope=openid\
             &redirect_uri={done}",
            self.address
        );
        let sign_in = browse(&cookies, &begin, &[]);
        let consent =
            browse(&cookies, &sign_in, &["prompt=login", &format!("login={user}"), "password=any"]);
        let arrived = browse(&cookies, &consent, &["prompt=consent"]);
        let code = between(&arrived, "code=", "&");
        let granted = post(
            &format!("http://{}/token", self.address),
            &[
                "grant_type=authorization_code",
                "client_id=mail-program",
                &format!("code={code}"),
                &format!("redirect_uri={done}"),
            ],
        );
        between(&granted, "\"access_token\":\"", "\"").to_owned()
    }

    /// Takes a token back (RFC 7009).
    pub fn revoke(&self, token: &str) {
        post(
            &format!("http://{}/token/revocation", self.address),
            &["client_id=mail-program", &format!("token={token}")],
        );
    }

    /// Whether the server says that the token is good.
    pub fn is_active(&self, token: &str) -> bool {
        let answer = post(&self.introspection_url(), &[&format!("token={token}")]);
        answer.contains("\"active\":true")
    }
}

/// The folder in which `scripts/setup-node-packages` has put the packages.
pub fn node_modules() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("node/node_modules");
    assert!(
        folder.is_dir(),
        "{} is not there; run scripts/setup-node-packages {}",
        folder.display(),
        target.join("node").display()
    );
    folder
}

/// Opens a page, or sends a form to it, follows where it leads, and gives the address
/// of the last page. Nobody answers with a page at the very last one, and need not.
fn browse(cookies: &Path, url: &str, form: &[&str]) -> String {
    let mut command = curl();
    command.args(["--location", "--output", "/dev/null", "--write-out", "%{url_effective}"]);
    command.arg("--cookie").arg(cookies).arg("--cookie-jar").arg(cookies);
    text(command.args(encoded(form)).arg(url))
}

fn post(url: &str, form: &[&str]) -> String {
    text(curl().arg("--fail-with-body").args(encoded(form)).arg(url))
}

fn encoded<'a>(form: &[&'a str]) -> Vec<&'a str> {
    form.iter().flat_map(|field| ["--data-urlencode", field]).collect()
}

fn curl() -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "20"]);
    command
}

fn text(command: &mut Command) -> String {
    String::from_utf8_lossy(&run(command)).into_owned()
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("no {start:?} in {text}"));
    rest.split_once(end).map_or(rest, |(found, _)| found)
}
