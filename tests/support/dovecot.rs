//! A real Dovecot with its own configuration and mail, on free loopback ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::authorization::AuthorizationServer;
use super::client::{Client, is_refused};
use super::process::{Process, give_to, run};
use super::tls::Authority;
use super::wait_until;

/// The system user that owns the mail; it is on every Debian.
const MAIL_OWNER: &str = "nobody:nogroup";

/// What one Dovecot is started with.
pub struct Settings<'a> {
    authority: &'a Authority,
    users: Vec<(String, String)>,
    mail_folder: Option<PathBuf>,
    extra: String,
    haproxy: bool,
    oauth: Option<String>,
}

impl<'a> Settings<'a> {
    /// Those users and passwords, a certificate of that authority for `localhost`.
    pub fn new(authority: &'a Authority, users: &[(&str, &str)]) -> Self {
        let owned =
            |(user, password): &(&str, &str)| ((*user).to_owned(), format!("{{PLAIN}}{password}"));
        Self {
            authority,
            users: users.iter().map(owned).collect(),
            mail_folder: None,
            extra: String::new(),
            haproxy: false,
            oauth: None,
        }
    }

    /// A further user of whose password the server keeps only the hash of that scheme,
    /// such as `SCRAM-SHA-256`.
    #[must_use]
    pub fn hashed(mut self, user: &str, scheme: &str, password: &str) -> Self {
        let hash = run(Command::new("doveadm").args(["pw", "-s", scheme, "-p", password]));
        let hash = String::from_utf8(hash).unwrap().trim_end().to_owned();
        self.users.push((user.to_owned(), hash));
        self
    }

    /// Asks that authorisation server about the tokens of OAUTHBEARER and XOAUTH2, which
    /// must have been issued to the user whom the client names. These mechanisms still
    /// have to be listed in `auth_mechanisms`.
    #[must_use]
    pub fn oauth(mut self, server: &AuthorizationServer) -> Self {
        self.oauth = Some(format!(
            "introspection_mode = post\nintrospection_url = {}\nopenid_configuration_url = {}\n\
             username_attribute = sub\nusername_format = %u\nactive_attribute = active\n\
             active_value = true\n",
            server.introspection_url(),
            server.discovery_url(),
        ));
        self
    }

    /// Keeps the mail in that folder, for two servers over one storage.
    #[must_use]
    pub fn mail_folder(mut self, folder: &Path) -> Self {
        self.mail_folder = Some(folder.to_owned());
        self
    }

    /// Further configuration, put at the end of the file.
    #[must_use]
    pub fn extra(mut self, text: &str) -> Self {
        self.extra.push_str(text);
        self
    }

    /// Also listens for the PROXY protocol in clear text, on [`Dovecot::haproxy`].
    #[must_use]
    pub fn haproxy(mut self) -> Self {
        self.haproxy = true;
        self
    }

    /// Starts it and waits until it accepts connections.
    pub fn start(self) -> Dovecot {
        Dovecot::with(&self)
    }
}

/// A running Dovecot; ended when dropped.
pub struct Dovecot {
    process: Process,
    folder: TempDir,
    imap: SocketAddr,
    imaps: SocketAddr,
    haproxy: Option<SocketAddr>,
    mail_folder: PathBuf,
}

impl Dovecot {
    /// A server with those users and passwords.
    pub fn start(authority: &Authority, users: &[(&str, &str)]) -> Self {
        Settings::new(authority, users).start()
    }

    fn with(settings: &Settings<'_>) -> Self {
        let folder = super::temporary_folder("dovecot");
        let at = folder.path();
        let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()));
        let (imap, imaps, haproxy) = (local(), local(), settings.haproxy.then(local));
        let mail_folder = settings.mail_folder.clone().unwrap_or_else(|| at.join("mail"));
        std::fs::create_dir_all(&mail_folder).unwrap();
        give_to(MAIL_OWNER, &mail_folder);
        write_users(at, &settings.users);
        let identity = settings.authority.issue(&["localhost", "127.0.0.1"]);
        identity.write(at, "server");

        let file = at.join("dovecot.conf");
        let text = configuration(at, &mail_folder, [Some(imap), Some(imaps), haproxy]);
        let passdb = settings.oauth.as_deref().map(|oauth| oauth_passdb(at, oauth));
        let text = text.replace("@PASSDB@\n", &passdb.unwrap_or_default());
        std::fs::write(&file, format!("{text}{}\n", settings.extra)).unwrap();
        let mut process = Process::start(
            &format!("dovecot on {imap}"),
            Command::new("dovecot").arg("-F").arg("-c").arg(&file),
            &at.join("log"),
        );
        process.wait_for_port(imap);
        process.wait_for_port(imaps);
        Self { process, folder, imap, imaps, haproxy, mail_folder }
    }

    /// Clear text; logins are taken here, and STARTTLS.
    pub fn imap(&self) -> SocketAddr {
        self.imap
    }

    /// TLS from the first byte.
    pub fn imaps(&self) -> SocketAddr {
        self.imaps
    }

    /// Clear text behind a PROXY header; only with [`Settings::haproxy`].
    pub fn haproxy(&self) -> SocketAddr {
        self.haproxy.expect("started without haproxy()")
    }

    /// Where the mail lies: one folder a user.
    pub fn mail_folder(&self) -> &Path {
        &self.mail_folder
    }

    /// The server's own folder with its configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The number of its process group.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The process, for its log and signals (SIGSTOP to its group cuts it off).
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The server's log; logins stand there as `imap-login: Info: Login: user=<anna>`.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until the log holds the text.
    pub fn wait_for_log(&self, text: &str) {
        self.process.wait_for_log(text);
    }

    /// Puts mails into a mailbox that exists, in this order; 2,000 take a second or two.
    pub fn put(&self, user: &str, password: &str, mailbox: &str, mails: &[Vec<u8>]) {
        let mut client = Client::clear(self.imap);
        client.login(user, password);
        client.append_all(mailbox, mails);
        client.logout();
    }

    /// Runs `doveadm` on this server and gives its output.
    pub fn doveadm(&self, arguments: &[&str]) -> String {
        let file = self.folder.path().join("dovecot.conf");
        let output = run(Command::new("doveadm").arg("-c").arg(file).args(arguments));
        String::from_utf8_lossy(&output).into_owned()
    }

    /// The users that have a session now, one entry a session.
    pub fn who(&self) -> Vec<String> {
        let listed = self.doveadm(&["-f", "tab", "who", "-1"]);
        let user = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
        listed.lines().skip(1).map(user).collect()
    }

    /// Ends the server in order; sessions get BYE.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Kills the server and all its sessions at once, and waits until nobody listens.
    pub fn kill(&mut self) {
        self.process.kill();
        wait_until("the killed dovecot refuses", || is_refused(self.imap).then_some(()));
    }

    /// Starts the stopped or killed server again, on the same ports with the same mail.
    pub fn restart(&mut self) {
        self.process.kill();
        // A killed master leaves its pid file, which a new one would heed.
        let _ = std::fs::remove_file(self.folder.path().join("run/master.pid"));
        let file = self.folder.path().join("dovecot.conf");
        self.process = Process::start(
            &format!("dovecot on {}", self.imap),
            Command::new("dovecot").arg("-F").arg("-c").arg(&file),
            &self.folder.path().join("log"),
        );
        self.process.wait_for_port(self.imap);
        self.process.wait_for_port(self.imaps);
    }
}

fn write_users(folder: &Path, users: &[(String, String)]) {
    use std::fmt::Write;
    let mut text = String::new();
    for (user, stored) in users {
        writeln!(text, "{user}:{stored}").unwrap();
    }
    std::fs::write(folder.join("users"), text).unwrap();
}

/// Before the password file in the configuration: a token is asked for first, and what
/// is no token's mechanism never comes here.
fn oauth_passdb(at: &Path, settings: &str) -> String {
    let file = at.join("oauth2.conf");
    std::fs::write(&file, settings).unwrap();
    format!(
        "passdb {{\n  driver = oauth2\n  mechanisms = oauthbearer xoauth2\n  args = {}\n  \
         result_failure = return-fail\n  result_internalfail = return-fail\n}}\n",
        file.display()
    )
}

/// `ports`: clear, implicit TLS, PROXY header.
fn configuration(at: &Path, mail: &Path, ports: [Option<SocketAddr>; 3]) -> String {
    let [imap, imaps, haproxy] = ports.map(|port| port.map_or(0, |address| address.port()));
    let haproxy = if haproxy == 0 {
        String::new()
    } else {
        format!("  inet_listener imap_haproxy {{\n    port = {haproxy}\n    haproxy = yes\n  }}\n")
    };
    include_str!("dovecot.conf")
        .replace("@FOLDER@", &at.to_string_lossy())
        .replace("@MAIL@", &mail.to_string_lossy())
        .replace("@IMAP@", &imap.to_string())
        .replace("@IMAPS@", &imaps.to_string())
        .replace("@HAPROXY@", &haproxy)
}
