//! Real mail programs, run once against one account, in clear text or over TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{in_terminal, run};

/// How a program reaches the server. Over TLS the certificate is verified against `ca`,
/// for the name `localhost`.
#[derive(Debug, Clone, Copy)]
pub enum Security<'a> {
    Clear,
    StartTls { ca: &'a Path },
    Implicit { ca: &'a Path },
}

impl<'a> Security<'a> {
    /// The authority that the server's certificate is verified against.
    pub fn ca(self) -> Option<&'a Path> {
        match self {
            Self::Clear => None,
            Self::StartTls { ca } | Self::Implicit { ca } => Some(ca),
        }
    }

    /// As in a listener's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clear => "none",
            Self::StartTls { .. } => "starttls",
            Self::Implicit { .. } => "implicit",
        }
    }
}

/// Where a program logs in.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    pub address: SocketAddr,
    pub security: Security<'a>,
    pub user: &'a str,
    pub password: &'a str,
}

impl<'a> Account<'a> {
    /// An account that is reached in clear text.
    pub fn clear(address: SocketAddr, user: &'a str, password: &'a str) -> Self {
        Self { address, security: Security::Clear, user, password }
    }

    /// Runs Python statements with `c`, an `imaplib` connection that has logged in, and
    /// gives what they print. `connect()` gives another one. The connection is logged
    /// out behind them.
    pub fn python(&self, statements: &str) -> String {
        let (ca, connect) = match self.security {
            Security::Clear => (None, "imaplib.IMAP4(host, port)"),
            Security::StartTls { ca } => (Some(ca), "starttls(imaplib.IMAP4(host, port))"),
            Security::Implicit { ca } => {
                (Some(ca), "imaplib.IMAP4_SSL(host, port, ssl_context=context())")
            }
        };
        let script = format!(
            "\
import imaplib, ssl, sys
host, port, user, password, ca = sys.argv[1:]
port = int(port)

def context():
    return ssl.create_default_context(cafile=ca)

def starttls(c):
    c.starttls(context())
    return c

def connect():
    c = {connect}
    c.login(user, password)
    return c

c = connect()
{statements}
c.logout()
"
        );
        let output = run(Command::new("python3")
            .args(["-c", &script, &self.host(), &self.address.port().to_string()])
            .args([self.user, self.password])
            .arg(ca.unwrap_or(Path::new(""))));
        String::from_utf8_lossy(&output).into_owned()
    }

    fn host(&self) -> String {
        match self.security {
            Security::Clear => self.address.ip().to_string(),
            _ => "localhost".to_owned(),
        }
    }

    /// The mail with that number of INBOX, by curl.
    pub fn curl_fetch(&self, number: u32) -> Vec<u8> {
        self.curl_get(&format!("INBOX;MAILINDEX={number}"), &[])
    }

    /// Appends the file to INBOX by curl.
    pub fn curl_append(&self, mail: &Path) {
        run(self.curl().arg("--upload-file").arg(mail).arg(self.url("INBOX")));
    }

    /// What curl gives for that path of the account, with further arguments.
    pub fn curl_get(&self, path: &str, arguments: &[&str]) -> Vec<u8> {
        run(self.curl_command(path).args(arguments))
    }

    /// curl for that path of the account.
    pub fn curl_command(&self, path: &str) -> Command {
        let mut command = self.curl();
        command.arg(self.url(path));
        command
    }

    /// Copies INBOX into the Maildir `folder/INBOX` by mbsync, both ways with `both_ways`.
    /// Called again it brings what is new; its state lies in the folder too.
    pub fn mbsync(&self, folder: &Path, both_ways: bool) {
        run(&mut self.mbsync_command(folder, both_ways));
    }

    /// The same, not run yet.
    pub fn mbsync_command(&self, folder: &Path, both_ways: bool) -> Command {
        let rc = folder.join("mbsyncrc");
        let text = format!(
            "\
FSync no

IMAPAccount far
Host {host}
Port {port}
User {user}
Pass \"{password}\"
{security}
AuthMechs LOGIN

IMAPStore far
Account far

MaildirStore near
Path {folder}/
Inbox {folder}/INBOX

Channel inbox
Far :far:
Near :near:
Patterns INBOX
Sync {sync}
Create Near
SyncState *
",
            host = self.host(),
            port = self.address.port(),
            security = self.mbsync_security(),
            user = self.user,
            password = self.password,
            folder = folder.display(),
            sync = if both_ways { "All" } else { "Pull" },
        );
        std::fs::write(&rc, text).unwrap();
        let mut command = Command::new("mbsync");
        command.arg("-c").arg(&rc).arg("inbox");
        command
    }

    /// Copies all mails of INBOX into the mbox file `folder/copied` by mutt.
    pub fn mutt_copy(&self, folder: &Path) -> Vec<u8> {
        let copied = folder.join("copied");
        let keys = format!(
            "<tag-pattern>~A<enter><tag-prefix><copy-message>{}<enter><quit>",
            copied.display()
        );
        self.mutt("mutt", folder, &keys);
        std::fs::read(&copied).unwrap()
    }

    /// Opens INBOX in mutt or neomutt and types these keys.
    pub fn mutt(&self, program: &str, folder: &Path, keys: &str) {
        let rc = self.mutt_settings(folder, &format!("push \"{keys}\"\n"));
        run(&mut in_terminal(&format!("{program} -n -F {}", rc.display()), folder));
    }

    /// Writes what mutt and neomutt need for this account, and more, into a file.
    pub fn mutt_settings(&self, folder: &Path, more: &str) -> PathBuf {
        let rc = folder.join("muttrc");
        let text = format!(
            "\
set folder=\"{url}\"
set spoolfile=\"{url}INBOX\"
set imap_user=\"{user}\"
set imap_pass=\"{password}\"
set imap_authenticators=\"login\"
{security}
unset confirmappend
unset header_cache
set confirmcreate=no
set mbox_type=mbox
set quit=yes
set sleep_time=0
set tmpdir=\"{folder}\"
set delete=yes
set sort=mailbox-order
{more}",
            url = self.url(""),
            security = self.mutt_security(),
            user = self.user,
            password = self.password,
            folder = folder.display(),
        );
        std::fs::write(&rc, text).unwrap();
        rc
    }

    /// The scheme of the account's URLs.
    pub fn scheme(&self) -> &'static str {
        match self.security {
            Security::Implicit { .. } => "imaps",
            Security::Clear | Security::StartTls { .. } => "imap",
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}://{}:{}/{path}", self.scheme(), self.host(), self.address.port())
    }

    fn mbsync_security(&self) -> String {
        match self.security {
            Security::Clear => "SSLType None".to_owned(),
            Security::StartTls { ca } => format!("SSLType STARTTLS\n{}", mbsync_trust(ca)),
            Security::Implicit { ca } => format!("SSLType IMAPS\n{}", mbsync_trust(ca)),
        }
    }

    /// mutt shall fail, not ask, where a certificate does not verify.
    fn mutt_security(&self) -> String {
        let trust = |ca: &Path| format!("set ssl_ca_certificates_file=\"{}\"", ca.display());
        match self.security {
            Security::Clear => "unset ssl_starttls\nunset ssl_force_tls".to_owned(),
            Security::StartTls { ca } | Security::Implicit { ca } => {
                format!("set ssl_starttls=yes\nset ssl_force_tls=yes\n{}", trust(ca))
            }
        }
    }

    fn curl(&self) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "120", "--user"]);
        command.arg(format!("{}:{}", self.user, self.password));
        if let Some(ca) = self.security.ca() {
            command.arg("--ssl-reqd").arg("--cacert").arg(ca);
        }
        command
    }
}

fn mbsync_trust(ca: &Path) -> String {
    format!("SystemCertificates no\nCertificateFile {}", ca.display())
}
