//! The server and the proxy that these conversations are held with, and scripted ones.

use std::io::Result;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;

use super::support::backend::{Backend, Conversation, Opening, fault, shard};
use super::support::client::Client;
use super::support::conversation::Step::{self, Line};
use super::support::conversation::{Pace, Player};
use super::support::dovecot::{Dovecot, Settings};
use super::support::mail;
use super::support::ordinary::Ordinary;
use super::support::pointsman::{Places, Pointsman};
use super::support::tls::Authority;

/// One account for each client on the real server: none sees another's mail.
const CLIENTS: [&str; 14] = [
    "k9",
    "k9-push",
    "ios",
    "thunderbird",
    "macos",
    "evolution",
    "aerc",
    "outlook",
    "classic",
    "javamail",
    "roundcube",
    "email-proxy",
    "dmarc",
    "mbsync",
];

/// The password of every account.
pub const PASSWORD: &str = "secret";

/// The greeting before and inside TLS.
pub const CLEAR: Step =
    Line("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID STARTTLS LOGINDISABLED] ");
pub const SECURE: Step = Line("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID AUTH=PLAIN] ");

/// The list that a client gets who asks inside TLS.
pub const SECURE_LIST: &str = "* CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID AUTH=PLAIN";

pub static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| AUTHORITY.client_config());

/// Where a client comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    Implicit,
    StartTls,
}

/// A Dovecot that would compress, and the proxy before it.
pub struct Site {
    pub dovecot: Dovecot,
    pub proxy: Pointsman,
}

/// Shared by all tests: the server takes its time to start.
pub static SITE: LazyLock<Site> = LazyLock::new(Site::start);

impl Site {
    fn start() -> Self {
        let users = CLIENTS.map(|client| (client, PASSWORD));
        let compression =
            "mail_plugins = zlib\nprotocol imap {\n  mail_plugins = zlib imap_zlib\n}";
        let dovecot = Settings::new(&AUTHORITY, &users).extra(compression).start();
        let mut direct = Client::clear(dovecot.imap());
        let listed = direct.login(CLIENTS[0], PASSWORD).status;
        assert!(listed.contains("COMPRESS=DEFLATE"), "{listed}");
        let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one(dovecot.imap()));
        Self { dovecot, proxy }
    }

    /// Leaves one mail in the user's INBOX.
    pub fn fill(&self, user: &str) {
        let mut client = Client::clear(self.dovecot.imap());
        client.login(user, PASSWORD);
        client.command_ok("SELECT INBOX");
        client.command_ok("UID STORE 1:* +FLAGS.SILENT (\\Deleted)");
        client.command_ok("EXPUNGE");
        client.append_all("INBOX", &[mail("one")]);
        client.logout();
    }

    /// Delivers another mail, past the proxy.
    pub fn deliver(&self, user: &str) {
        self.dovecot.put(user, PASSWORD, "INBOX", &[mail("two")]);
    }
}

fn one(address: SocketAddr) -> String {
    format!(
        "shards:\n  s: {{ kind: shared, backends: [ {{ name: b, address: \"{address}\", \
         tls: none }} ] }}\nrouting: {{ lookups: [ {{ shard: s }} ] }}\n"
    )
}

pub fn connect(proxy: &Pointsman, listener: Listener) -> Client {
    let Places { imaps, imap, .. } = proxy.places();
    match listener {
        Listener::Implicit => Client::connect_tls(*imaps, "localhost", &TLS).unwrap(),
        Listener::StartTls => Client::connect(*imap).unwrap(),
    }
}

/// STARTTLS, behind the greeting.
pub fn secure(client: &mut Client) {
    client.starttls("localhost", &TLS);
}

/// A client that has read nothing yet.
pub fn player(proxy: &Pointsman, listener: Listener, pace: Pace) -> Player {
    Player::new(connect(proxy, listener), &TLS, pace)
}

/// Holds the conversation at both paces, each on a connection of its own.
pub fn play(proxy: &Pointsman, listener: Listener, steps: &[Step]) {
    for pace in [Pace::AsSent, Pace::ByteByByte] {
        player(proxy, listener, pace).play(steps);
    }
}

/// The same with the real server, on which `user` has one mail and gets another between the
/// two parts.
pub fn play_with_mail(listener: Listener, user: &str, [first, then]: [&[Step]; 2]) {
    for pace in [Pace::AsSent, Pace::ByteByByte] {
        SITE.fill(user);
        let mut player = player(&SITE.proxy, listener, pace);
        player.play(first);
        SITE.deliver(user);
        player.play(then);
    }
}

/// A proxy before that backend, with these mechanisms on both listeners with TLS and these
/// limits.
pub fn proxy(backend: &Backend, mechanisms: &str, limits: &str) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| {
        let offered = |tls: &str| format!("tls: {tls}, mechanisms: [{mechanisms}] }}");
        let head = places
            .head_without_limits()
            .replace("tls: implicit }", &offered("implicit"))
            .replace("tls: starttls }", &offered("starttls"));
        format!("{head}limits: {{ failed_login_delay: 1ms, {limits} }}\n{}", shard(backend))
    })
}

/// A server that takes tokens but the one `old`, of which it says why (RFC 7628 section
/// 3.2.2), and that notes both the token's message and the client's answer to the reason.
pub fn token_server(mechanism: &'static str) -> Backend {
    Backend::start(Opening::clear(), move |peer| take_token(peer, mechanism))
}

/// `{"status":"invalid_token"}`
pub const REASON: &str = "+ eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIn0=";

fn take_token(peer: &mut Conversation, mechanism: &str) -> Result<()> {
    peer.send(format!("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH={mechanism} AUTH=PLAIN] hi\r\n"))?;
    let line = String::from_utf8_lossy(&peer.line()?).into_owned();
    let words: Vec<&str> = line.split(' ').collect();
    let [tag, "AUTHENTICATE", asked, message] = words[..] else {
        return Err(fault(format!("no token with the command: {line}")));
    };
    let message = STANDARD.decode(message).unwrap_or_default();
    peer.note_login(asked, b"", &message, b"");
    if !message.windows(10).any(|part| part == b"Bearer old") {
        peer.send(format!("{tag} OK [CAPABILITY IMAP4rev1 ID IDLE] in\r\n"))?;
        return Ordinary::new().serve(peer);
    }
    peer.send(format!("{REASON}\r\n"))?;
    let answer = peer.line()?;
    peer.note_login("the answer", b"", &answer, b"");
    peer.send(format!("{tag} NO [AUTHENTICATIONFAILED] The token is old.\r\n"))
}
