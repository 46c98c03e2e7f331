//! Real mail programs that sign in by a SASL mechanism which never shows the server's
//! proxy a password: SCRAM, and bearer tokens. Each runs over STARTTLS, verifies the
//! certificate for `localhost`, and says what it got: the mail in INBOX, or how it tells
//! its user that it was refused.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use super::authorization::node_modules;
use super::process::{in_terminal, output};

const IMAPFLOW: &str = include_str!("../node/imapflow.mjs");

/// Where and as whom a program signs in.
#[derive(Debug, Clone, Copy)]
pub struct SignIn<'a> {
    pub address: SocketAddr,
    pub ca: &'a Path,
    pub user: &'a str,
    /// A password or a token.
    pub secret: &'a str,
}

/// What a program got, or how it tells that it was refused.
pub type Told = Result<String, String>;

impl SignIn<'_> {
    /// GNU SASL's own IMAP client. It signs in, checks the server's signature, and leaves.
    pub fn gsasl(&self, mechanism: &str) -> Told {
        self.gsasl_with(&[&format!("--x509-ca-file={}", self.ca.display())], mechanism)
    }

    /// The same in clear text, for who wants to see what goes over the wire.
    pub fn gsasl_in_clear(&self, mechanism: &str) -> Told {
        self.gsasl_with(&["--no-starttls"], mechanism)
    }

    fn gsasl_with(&self, security: &[&str], mechanism: &str) -> Told {
        let output = output(
            Command::new("gsasl")
                .args(["--imap", "--no-cb", "--connect", &format!("localhost:{}", self.port())])
                .args(security)
                .args(["--mechanism", mechanism, "--authentication-id", self.user])
                .args(["--password", self.secret]),
        );
        let said = text(&output);
        if output.status.success() {
            let trusted = said.contains("(server trusted)");
            return Ok(if trusted { "server trusted" } else { "signed in" }.to_owned());
        }
        Err(line_with(&said, ". NO "))
    }

    /// mbsync, by Cyrus SASL: copies INBOX and gives its mails' subjects.
    pub fn mbsync(&self, mechanism: &str) -> Told {
        let folder = super::temporary_folder("mbsync");
        let rc = folder.path().join("mbsyncrc");
        let settings = format!(
            "\
FSync no

IMAPAccount far
Host localhost
Port {port}
User {user}
Pass \"{password}\"
SSLType STARTTLS
SystemCertificates no
CertificateFile {ca}
AuthMechs {mechanism}

IMAPStore far
Account far

MaildirStore near
Path {folder}/
Inbox {folder}/INBOX

Channel inbox
Far :far:
Near :near:
Patterns INBOX
Sync Pull
Create Near
SyncState *
",
            port = self.port(),
            user = self.user,
            password = escaped(self.secret),
            ca = self.ca.display(),
            folder = folder.path().display(),
        );
        std::fs::write(&rc, settings).unwrap();
        let output = output(Command::new("mbsync").arg("-c").arg(&rc).arg("inbox"));
        if output.status.success() {
            return Ok(subjects_in(&folder.path().join("INBOX/new")));
        }
        // The command that it repeats before this holds a number used once.
        let said = line_with(&text(&output), " returned an error: ");
        Err(said.split_once(" returned an error: ").unwrap().1.to_owned())
    }

    /// mutt, by GNU SASL for SCRAM and by itself for tokens: copies INBOX and gives its
    /// mails' subjects. Refused, it would wait for a key, so it must not be.
    pub fn mutt(&self, mechanism: &str) -> String {
        let folder = super::temporary_folder("mutt");
        let at = folder.path();
        let (rc, copied, secret) = (at.join("muttrc"), at.join("copied"), at.join("secret"));
        std::fs::write(&secret, self.secret).unwrap();
        let settings = format!(
            "\
set folder=\"imap://localhost:{port}/\"
set spoolfile=\"imap://localhost:{port}/INBOX\"
set imap_user=\"{user}\"
set imap_pass=\"{password}\"
set imap_oauth_refresh_command=\"cat {secret}\"
set imap_authenticators=\"{mechanism}\"
set ssl_starttls=yes
set ssl_force_tls=yes
set ssl_ca_certificates_file=\"{ca}\"
unset confirmappend
unset header_cache
set confirmcreate=no
set mbox_type=mbox
set quit=yes
set sleep_time=0
set tmpdir=\"{folder}\"
push \"<tag-pattern>~A<enter><tag-prefix><copy-message>{copied}<enter><quit>\"
",
            port = self.port(),
            user = self.user,
            password = escaped(self.secret),
            secret = secret.display(),
            mechanism = mechanism.to_ascii_lowercase(),
            ca = self.ca.display(),
            folder = at.display(),
            copied = copied.display(),
        );
        std::fs::write(&rc, settings).unwrap();
        output(&mut in_terminal(&format!("mutt -n -F {}", rc.display()), at));
        let mails = std::fs::read(&copied).unwrap_or_default();
        subjects(&String::from_utf8_lossy(&mails))
    }

    /// curl with a token: the first mail's subject, or what it was told. It chooses
    /// OAUTHBEARER where that is offered, else XOAUTH2.
    pub fn curl(&self) -> Told {
        let output = output(
            Command::new("curl")
                .args(["--silent", "--show-error", "--verbose", "--max-time", "60", "--ssl-reqd"])
                .arg("--cacert")
                .arg(self.ca)
                .args(["--user", &format!("{}:", self.user), "--oauth2-bearer", self.secret])
                .arg(format!("imap://localhost:{}/INBOX;MAILINDEX=1", self.port())),
        );
        if output.status.success() {
            return Ok(subjects(&String::from_utf8_lossy(&output.stdout)));
        }
        // The server's challenge, curl's answer to it, and the end.
        let said = text(&output);
        let lines = said.lines().map(str::trim_end);
        let dialogue = lines.filter(|line| line.starts_with("< ") || line.starts_with("> "));
        let dialogue = dialogue.skip_while(|line| !line.starts_with("< + ")).take(3);
        Err(dialogue.collect::<Vec<_>>().join("\n"))
    }

    /// imapflow with a token: one line of JSON with the subjects or with all that it
    /// knows of the refusal. It prefers OAUTHBEARER to XOAUTH2.
    pub fn imapflow(&self) -> Told {
        let folder = super::temporary_folder("imapflow");
        let program = folder.path().join("program.mjs");
        std::fs::write(&program, IMAPFLOW).unwrap();
        symlink(node_modules(), folder.path().join("node_modules")).unwrap();
        let output = output(
            Command::new("node")
                .arg(&program)
                .args(["localhost", &self.port().to_string()])
                .arg(self.ca)
                .args([self.user, self.secret]),
        );
        assert!(output.status.success(), "{}", text(&output));
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if said.contains("authenticationFailed") { Err(said) } else { Ok(said) }
    }

    fn port(&self) -> u16 {
        self.address.port()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// As both mbsync and mutt read what stands in quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn line_with(text: &str, part: &str) -> String {
    let found = text.lines().find(|line| line.contains(part));
    found.unwrap_or_else(|| panic!("no {part:?} in:\n{text}")).trim_end().to_owned()
}

fn subjects(mails: &str) -> String {
    let lines = mails.lines().filter_map(|line| line.strip_prefix("Subject: "));
    lines.map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn subjects_in(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mails =
        files.map(|file| String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned());
    let mut found: Vec<String> = mails.map(|mail| subjects(&mail)).collect();
    found.sort();
    found.join("\n")
}
