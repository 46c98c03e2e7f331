//! A real Cyrus, unpacked by `scripts/unpack-cyrus`, on a free loopback port.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::client::{Client, is_refused};
use super::process::{Process, give_to, run};
use super::tls::Authority;
use super::wait_until;

/// Cyrus refuses to run as root; this user is on every Debian.
const SERVICE_OWNER: &str = "nobody:nogroup";
/// The realm of names without a domain.
const REALM: &str = "cyrus.test";
const ADMIN: (&str, &str) = ("cyrusadmin", "admin-secret");

/// A running Cyrus; ended when dropped. It checks passwords (sasldb) and knows only
/// PLAIN and LOGIN, which it takes in clear text too.
pub struct Cyrus {
    process: Process,
    folder: TempDir,
    imap: SocketAddr,
    imaps: SocketAddr,
}

impl Cyrus {
    /// A server with those users and passwords, an empty INBOX for each, and a
    /// certificate of that authority for `localhost`. A name may carry a domain.
    pub fn start(authority: &Authority, users: &[(&str, &str)]) -> Self {
        let folder = super::temporary_folder("cyrus");
        let at = folder.path();
        let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()));
        let (imap, imaps) = (local(), local());
        // A copy, since its service user may not be able to enter the target folder.
        run(Command::new("cp").arg("-a").arg(unpacked()).arg(at.join("root")));
        authority.issue(&["localhost", "127.0.0.1"]).write(at, "server");
        write_configuration(at, imap, imaps);
        for (user, password) in users.iter().chain([&ADMIN]) {
            add_user(at, user, password);
        }
        give_to(SERVICE_OWNER, at);

        let process = start_master(at, imap, imaps);
        let mut admin = Client::clear(imap);
        admin.login(ADMIN.0, ADMIN.1);
        for (user, _) in users {
            admin.command_ok(&format!("CREATE \"user/{user}\""));
        }
        admin.logout();
        Self { process, folder, imap, imaps }
    }

    /// Clear text, and STARTTLS.
    pub fn imap(&self) -> SocketAddr {
        self.imap
    }

    /// TLS from the first byte.
    pub fn imaps(&self) -> SocketAddr {
        self.imaps
    }

    /// The server's own folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process, for signals. Cyrus logs to syslog alone, so its log is empty.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Puts mails into a mailbox that exists, in this order.
    pub fn put(&self, user: &str, password: &str, mailbox: &str, mails: &[Vec<u8>]) {
        let mut client = Client::clear(self.imap);
        client.login(user, password);
        client.append_all(mailbox, mails);
        client.logout();
    }

    /// Ends the server in order.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Kills the server and all its sessions at once, and waits until nobody listens.
    pub fn kill(&mut self) {
        self.process.kill();
        wait_until("the killed cyrus refuses", || is_refused(self.imap).then_some(()));
    }

    /// Starts the stopped or killed server again, on the same ports with the same mail.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = start_master(self.folder.path(), self.imap, self.imaps);
    }
}

fn start_master(at: &Path, imap: SocketAddr, imaps: SocketAddr) -> Process {
    let mut process = Process::start(
        &format!("cyrus on {imap}"),
        program(at, "lib/cyrus/bin/master")
            .arg("-D")
            .arg("-C")
            .arg(at.join("imapd.conf"))
            .arg("-M")
            .arg(at.join("cyrus.conf"))
            .arg("-p")
            .arg(at.join("master.pid")),
        &at.join("log"),
    );
    process.wait_for_port(imap);
    process.wait_for_port(imaps);
    process
}

/// The folder that `make test` unpacks Cyrus into, beside cargo's own.
fn unpacked() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("cyrus");
    assert!(
        folder.join("complete").exists(),
        "no Cyrus in {0}; run: scripts/setup-packages test && scripts/unpack-cyrus {0}",
        folder.display()
    );
    folder
}

/// A program of the unpacked tree that finds its libraries there.
fn program(at: &Path, path: &str) -> Command {
    let root = at.join("root/usr");
    let libraries: Vec<String> = std::fs::read_dir(root.join("lib"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with("-linux-gnu"))
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let mut command = Command::new(root.join(path));
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    command
}

fn add_user(at: &Path, user: &str, password: &str) {
    use std::io::Write;
    let (name, realm) = user.split_once('@').unwrap_or((user, REALM));
    let mut child = program(at, "sbin/saslpasswd2")
        .args(["-p", "-c", "-f"])
        .arg(at.join("sasldb2"))
        .args(["-u", realm, name])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "saslpasswd2 for {user}");
}

/// Every path is given, since those in Debian's binaries belong to an installed Cyrus.
fn write_configuration(at: &Path, imap: SocketAddr, imaps: SocketAddr) {
    for folder in ["db", "proc", "socket", "msg", "log", "quota", "user", "sieve"] {
        std::fs::create_dir_all(at.join("conf").join(folder)).unwrap();
    }
    std::fs::create_dir_all(at.join("spool")).unwrap();
    let settings = at.join("imapd.conf");
    let text = format!(
        "\
configdirectory: {at}/conf
defaultpartition: default
partition-default: {at}/spool
cyrus_user: nobody
cyrus_group: nogroup
servername: {REALM}
admins: {admin}
virtdomains: userid
defaultdomain: {REALM}
unixhierarchysep: yes
altnamespace: yes
allowplaintext: yes
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {at}/sasldb2
sasl_mech_list: PLAIN LOGIN
failedloginpause: 0
idlesocket: {at}/conf/socket/idle
lmtpsocket: {at}/conf/socket/lmtp
notifysocket: {at}/conf/socket/notify
sievedir: {at}/conf/sieve
tls_server_cert: {at}/server.pem
tls_server_key: {at}/server.key
",
        at = at.display(),
        admin = ADMIN.0,
    );
    std::fs::write(&settings, text).unwrap();
    let services = format!(
        "\
START {{
  recover cmd=\"{bin}/ctl_cyrusdb -C {settings} -r\"
}}
SERVICES {{
  imap cmd=\"{bin}/imapd -C {settings}\" listen=\"{imap}\" prefork=1 maxchild=500 maxforkrate=500
  imaps cmd=\"{bin}/imapd -s -C {settings}\" listen=\"{imaps}\" prefork=0 maxchild=500 maxforkrate=500
}}
DAEMON {{
  idled cmd=\"{bin}/idled -C {settings} -d\" wait=n
}}
",
        bin = at.join("root/usr/lib/cyrus/bin").display(),
        settings = settings.display(),
    );
    std::fs::write(at.join("cyrus.conf"), services).unwrap();
}
