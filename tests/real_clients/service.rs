//! The servers and the proxy that all these tests share, and the users on them.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::ClientConfig;

use super::support::client::{Client, quoted};
use super::support::cyrus::Cyrus;
use super::support::dovecot::Dovecot;
use super::support::pointsman::Pointsman;
use super::support::process::Process;
use super::support::programs::{Account, Security};
use super::support::tls::Authority;
use super::support::{free_port, mail, wait_until};

/// What each test has an account for, on each shard: no test sees another's mail.
const PURPOSES: [&str; 28] = [
    "script-direct",
    "script-implicit",
    "script-starttls",
    "curl",
    "curl-moves",
    "pull",
    "sync",
    "mutt",
    "large",
    "read",
    "spell",
    "recent",
    "imapclient",
    "aioimaplib",
    "imapflow",
    "getmail",
    "getmail-waits",
    "fetchmail",
    "offlineimap",
    "offlineimap-idle",
    "imapfilter",
    "s-nail",
    "alpine",
    "mutt-moves",
    "neomutt-moves",
    "mutt-waits",
    "neomutt-waits",
    "refused",
];

/// A user whose shard's only server does not answer.
const STRANDED: &str = "stranded";

/// Three shards, one server each, and the proxy in front of them.
pub struct Service {
    north: Dovecot,
    south: Dovecot,
    west: Cyrus,
    pub proxy: Pointsman,
    pub tls: Arc<ClientConfig>,
}

/// Shared by all tests: the servers take seconds to start.
pub static SERVICE: LazyLock<Service> = LazyLock::new(Service::start);

impl Service {
    fn start() -> Self {
        let authority = Authority::new();
        let accounts = |shard: &str| -> Vec<(String, String)> {
            PURPOSES.iter().map(|purpose| credentials(shard, purpose)).collect()
        };
        let [north, south, west] = ["north", "south", "west"].map(accounts);
        let mut users_file = String::new();
        for (shard, users) in [("north", &north), ("south", &south), ("west", &west)] {
            for (user, _) in users {
                writeln!(users_file, "{user} {shard}").unwrap();
            }
        }
        writeln!(users_file, "{STRANDED} gone").unwrap();
        let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let north = Dovecot::start(&authority, &borrowed(&north));
        let south = Dovecot::start(&authority, &borrowed(&south));
        let west = Cyrus::start(&authority, &borrowed(&west));
        let proxy = Pointsman::start(&authority, |places| {
            std::fs::write(places.file("users"), &users_file).unwrap();
            let backend = |name: &str, address: SocketAddr, tls: &str| {
                format!(
                    "  {name}: {{ kind: primary, backends: [ {{ name: {name}1, \
                     address: \"localhost:{}\", {tls} }} ] }}\n",
                    address.port(),
                )
            };
            let verified = |tls: &str| format!("tls: {tls}, ca: \"{}\"", places.ca.display());
            places.head()
                + "shards:\n"
                + &backend("north", north.imap(), "tls: none")
                + &backend("south", south.imaps(), &verified("implicit"))
                + &backend("west", west.imap(), &verified("starttls"))
                + &backend("gone", nobody, "tls: none")
                + &format!(
                    "routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}\n",
                    places.file("users").display()
                )
        });
        Self { north, south, west, proxy, tls: authority.client_config() }
    }

    pub fn implicit(&self) -> (SocketAddr, Security<'_>) {
        let places = self.proxy.places();
        (places.imaps, Security::Implicit { ca: &places.ca })
    }

    pub fn starttls(&self) -> (SocketAddr, Security<'_>) {
        let places = self.proxy.places();
        (places.imap, Security::StartTls { ca: &places.ca })
    }
}

pub fn credentials(shard: &str, purpose: &str) -> (String, String) {
    // Passwords that need care in every spelling of a login.
    let odd = if purpose == "spell" { " \"quoted\" \\ {4}" } else { "" };
    (format!("{purpose}-{shard}"), format!("{shard}-secret{odd}"))
}

pub fn borrowed(users: &[(String, String)]) -> Vec<(&str, &str)> {
    users.iter().map(|(user, password)| (user.as_str(), password.as_str())).collect()
}

/// One user of one shard, and the ways to the mailbox.
pub struct Resident {
    pub service: &'static Service,
    pub shard: &'static str,
    pub user: String,
    pub password: String,
}

impl Resident {
    /// The server itself, in clear text.
    pub fn address(&self) -> SocketAddr {
        match self.shard {
            "north" => self.service.north.imap(),
            "south" => self.service.south.imap(),
            _ => self.service.west.imap(),
        }
    }

    pub fn direct(&self) -> Account<'_> {
        Account::clear(self.address(), &self.user, &self.password)
    }

    pub fn implicit(&self) -> Account<'_> {
        let (address, security) = self.service.implicit();
        Account { address, security, user: &self.user, password: &self.password }
    }

    pub fn starttls(&self) -> Account<'_> {
        let (address, security) = self.service.starttls();
        Account { address, security, user: &self.user, password: &self.password }
    }

    /// Both ways through the proxy.
    pub fn proxied(&self) -> [Account<'_>; 2] {
        [self.implicit(), self.starttls()]
    }

    pub fn direct_client(&self) -> Client {
        let mut client = Client::clear(self.address());
        client.login(&self.user, &self.password);
        client
    }

    pub fn proxied_client(&self) -> Client {
        let mut client = Client::tls(self.service.proxy.places().imaps, &self.service.tls);
        client.login(&self.user, &self.password);
        client
    }

    pub fn put(&self, mails: &[Vec<u8>]) {
        let mut client = self.direct_client();
        client.append_all("INBOX", mails);
        client.logout();
    }

    /// Creates the mailbox with these mails.
    pub fn put_into(&self, mailbox: &str, mails: &[Vec<u8>]) {
        let mut client = self.direct_client();
        client.command_ok(&format!("CREATE {}", quoted(mailbox)));
        client.append_all(mailbox, mails);
        client.logout();
    }

    pub fn create(&self, mailbox: &str) {
        self.direct_client().command_ok(&format!("CREATE {}", quoted(mailbox)));
    }

    /// Asserts, on the server itself, that the mailbox holds these mails alone, in this
    /// order, each with at least those flags.
    pub fn assert_holds(&self, mailbox: &str, expected: &[(&[u8], &str)]) {
        let mut client = self.direct_client();
        let selected = client.command_ok(&format!("EXAMINE {}", quoted(mailbox))).text();
        let exists = format!("* {} EXISTS", expected.len());
        assert!(selected.contains(&exists), "{mailbox} of {}: {selected}", self.user);
        for (number, (text, flags)) in (1..).zip(expected) {
            let found = client.fetch_mail(number);
            assert!(found == *text, "{}", String::from_utf8_lossy(&found));
            let set = client.command_ok(&format!("FETCH {number} FLAGS")).text();
            for flag in flags.split_whitespace() {
                assert!(set.contains(flag), "{flag} in {mailbox} of {}: {set}", self.user);
            }
        }
    }

    /// Puts a mail into INBOX, past the proxy, once the program says that it waits in
    /// IDLE for one.
    pub fn wake(&self, program: &mut Process, waits: &str) {
        wait_for_words(program, waits);
        self.put(&[wake_up()]);
    }
}

/// The mail that wakes a program from IDLE.
pub fn wake_up() -> Vec<u8> {
    mail("wake up")
}

/// Waits until the program has said so; it must not end before.
pub fn wait_for_words(program: &mut Process, words: &str) {
    wait_until(&format!("the program says {words:?}"), || {
        let ended = program.ended().is_some();
        let log = program.log();
        assert!(!ended || log.contains(words), "ended without {words:?}:\n{log}");
        log.contains(words).then_some(())
    });
}

/// The user whose shard is down, by implicit TLS; the password is of no account.
pub fn stranded() -> Account<'static> {
    let (address, security) = SERVICE.implicit();
    Account { address, security, user: STRANDED, password: "secret" }
}

/// A folder of what the tests' set-up has installed, beside cargo's own.
pub fn installed(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join(name);
    assert!(folder.is_dir(), "{} is not there; see scripts/test", folder.display());
    folder
}

/// Writes the mails into files of the folder and gives their paths.
pub fn files(folder: &Path, mails: &[Vec<u8>]) -> Vec<PathBuf> {
    let write = |(number, text): (usize, &Vec<u8>)| {
        let file = folder.join(format!("mail-{number}"));
        std::fs::write(&file, text).unwrap();
        file
    };
    mails.iter().enumerate().map(write).collect()
}

pub fn with_bare_line_ends(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| *byte != b'\r').collect()
}

/// The files of a folder, sorted by content; without any where there is no folder.
pub fn contents(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    // One may be renamed just now; who waits asks again.
    let mut texts: Vec<_> =
        entries.filter_map(|entry| std::fs::read(entry.unwrap().path()).ok()).collect();
    texts.sort();
    texts
}

/// What a program that turns line ends into LF makes of these mails, sorted.
pub fn as_kept(mails: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut texts: Vec<_> = mails.iter().map(|text| with_bare_line_ends(text)).collect();
    texts.sort();
    texts
}

/// Asserts that all lines are the same, one by one, so that a difference is seen at once.
pub fn assert_same_lines(expected: &str, actual: &str) {
    for (expected, actual) in expected.lines().zip(actual.lines()) {
        assert_eq!(expected, actual);
    }
    assert_eq!(expected.lines().count(), actual.lines().count(), "{actual}");
}

pub fn resident(shard: &'static str, purpose: &str) -> Resident {
    let (user, password) = credentials(shard, purpose);
    Resident { service: &SERVICE, shard, user, password }
}

/// Runs the test on all three shards at the same time.
pub fn on_each_shard(test: impl Fn(&'static str) + Sync) {
    on_shards(&["north", "south", "west"], test);
}

/// Runs the test on one Dovecot and on Cyrus at the same time.
pub fn on_dovecot_and_cyrus(test: impl Fn(&'static str) + Sync) {
    on_shards(&["north", "west"], test);
}

fn on_shards(shards: &[&'static str], test: impl Fn(&'static str) + Sync) {
    std::thread::scope(|scope| {
        for &shard in shards {
            let test = &test;
            std::thread::Builder::new()
                .name(format!("on {shard}"))
                .spawn_scoped(scope, move || test(shard))
                .unwrap();
        }
    });
}

/// Mails that a proxy could stumble over.
pub fn difficult_mails() -> Vec<Vec<u8>> {
    let all_bytes: Vec<u8> = (1..=255).filter(|byte| !b"\r\n".contains(byte)).collect();
    let bodies: [&[u8]; 6] = [
        b"nothing special\r\n",
        b"* BYE no answer\r\nt1 OK done\r\n+ go on\r\nt2 NO {12}\r\n",
        b"{5}\r\n{5+}\r\n~{5}\r\nliteral {3}\r\n",
        b"no line end",
        b"",
        &[all_bytes.as_slice(), b"\r\n"].concat(),
    ];
    let mails = bodies.iter().enumerate().map(|(number, body)| {
        let mut text = mail(&format!("difficult {number}"));
        text.extend_from_slice(body);
        text
    });
    mails.collect()
}
