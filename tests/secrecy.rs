//! No secret is told to anybody but the backend: every way of signing in, well or badly,
//! with the log at its most talkative, and then a search for every password, token and
//! proof in all that the proxy shows.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::io::Result;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use support::authorization::AuthorizationServer;
use support::backend::{Backend, Conversation, Opening};
use support::client::Client;
use support::dovecot::{Dovecot, Settings};
use support::http;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::sasl_programs::SignIn;
use support::secrets::Secrets;
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// The user of the real server; others of that domain are unknown there.
const USER: &str = "anna@real.test";
/// What the server of `echo.test` does, by the local part of the user's name. Each tells
/// all that it was told.
const ECHOES: [&str; 9] =
    ["no", "bad", "alert", "bye", "wrong-tag", "junk", "challenge", "greeted", "ok"];

fn encode(message: impl AsRef<[u8]>) -> String {
    STANDARD.encode(message)
}

fn plain(authzid: &str, user: &str, password: &str) -> String {
    encode(format!("{authzid}\0{user}\0{password}"))
}

fn oauthbearer(user: &str, token: &str) -> String {
    encode(format!("n,a={user},\u{1}host=localhost\u{1}auth=Bearer {token}\u{1}\u{1}"))
}

fn xoauth2(user: &str, token: &str) -> String {
    encode(format!("user={user}\u{1}auth=Bearer {token}\u{1}\u{1}"))
}

/// Says the credentials back in its own words, after which the login fails in some way.
fn echo(peer: &mut Conversation) -> Result<()> {
    peer.send(
        "* OK [CAPABILITY IMAP4rev1 SASL-IR ID AUTH=PLAIN AUTH=OAUTHBEARER AUTH=XOAUTH2] hi\r\n",
    )?;
    loop {
        let line = String::from_utf8_lossy(&peer.line()?).into_owned();
        let (tag, command) = line.split_once(' ').unwrap_or((&line, ""));
        let Some((_, message)) = command.split_once(' ').filter(|(word, _)| *word != "ID") else {
            peer.send(format!("{tag} OK done\r\n"))?;
            continue;
        };
        let message = message.rsplit(' ').next().unwrap_or_default();
        let decoded = STANDARD.decode(message).unwrap_or_default();
        let decoded = String::from_utf8_lossy(&decoded).replace(['\0', '\u{1}'], " ");
        let told = format!("{command} is {decoded}");
        let way = ECHOES.iter().find(|way| decoded.contains(&format!("{way}@echo.test")));
        match *way.unwrap_or(&"no") {
            "bad" => peer.send(format!("{tag} BAD Unknown command: {told}\r\n"))?,
            "alert" => peer.send(format!("* NO [ALERT] {told}\r\n{tag} NO [ALERT] {told}\r\n"))?,
            "bye" => return peer.send(format!("* BYE {told}\r\n")),
            "wrong-tag" => peer.send(format!("x{tag} OK {told}\r\n"))?,
            "junk" => peer.send(format!("{told}\r\n"))?,
            "challenge" => {
                peer.send(format!("+ {message}\r\n"))?;
                let more = String::from_utf8_lossy(&peer.line()?).into_owned();
                peer.send(format!("{tag} NO {told} {more}\r\n"))?;
            }
            "greeted" => peer.send(format!("* {told}\r\n{tag} NO {told}\r\n"))?,
            "ok" => peer.send(format!("* CAPABILITY IMAP4rev1\r\n{tag} OK {told}\r\n"))?,
            _ => peer.send(format!("{tag} NO [AUTHENTICATIONFAILED] {told}\r\n"))?,
        }
    }
}

/// A proxy with all its backends, and the secrets that it is given.
struct Scene {
    proxy: Pointsman,
    secrets: Secrets,
    password: String,
    token: String,
    ca: std::path::PathBuf,
    tags: u32,
    _servers: (Dovecot, AuthorizationServer, Backend, Backend),
}

impl Scene {
    fn start(format: &str) -> Self {
        let mut secrets = Secrets::default();
        let password = secrets.fresh();
        let oauth = AuthorizationServer::start();
        let dovecot = Settings::new(&AUTHORITY, &[(USER, &password)])
            .oauth(&oauth)
            .extra("auth_mechanisms = plain scram-sha-1 scram-sha-256 oauthbearer xoauth2")
            .start();
        let echo = Backend::start(Opening::clear(), echo);
        // A server that wants LOGIN with literals, step by step.
        let old = Ordinary::new().capability("IMAP4rev1").start();
        let proxy = Pointsman::start(&AUTHORITY, |places| {
            configuration(
                places,
                format,
                &[
                    ("real", dovecot.imap().port()),
                    ("echo", echo.port()),
                    ("old", old.port()),
                    ("silent", support::free_port()),
                ],
            )
        });
        let token = oauth.token(USER);
        secrets.keep(&token);
        let ca = proxy.places().ca.clone();
        Self { proxy, secrets, password, token, ca, tags: 0, _servers: (dovecot, oauth, echo, old) }
    }

    /// A conversation of its own: each part is sent after a `+` for the one before. The
    /// tagged answer must begin so (`|` between choices); with `*` it is a BYE or the end.
    fn says(&mut self, expected: &str, parts: &[&str]) {
        let mut client = self.proxy.client();
        self.says_to(&mut client, expected, parts);
    }

    fn says_to(&mut self, client: &mut Client, expected: &str, parts: &[&str]) {
        self.tags += 1;
        let tag = format!("t{}", self.tags);
        let mut parts = parts.iter();
        let first = parts.next().unwrap();
        client.send(format!("{tag} {first}\r\n"));
        loop {
            let line = client.wire().read_line().unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            match line.split_once(' ') {
                Some(("+", _)) => match parts.next() {
                    Some(part) => client.send(format!("{part}\r\n")),
                    None => panic!("{first:?} waits for more"),
                },
                Some((own, status)) if own == tag => {
                    let as_expected = expected.split('|').any(|start| status.starts_with(start));
                    assert!(as_expected, "{first:?}: {line}");
                    return;
                }
                Some(("*", bye)) if !bye.starts_with("BYE") && !bye.starts_with("BAD") => {}
                // Without a tag of its own, or at the end of the connection.
                _ => {
                    assert_eq!(expected, "*", "{first:?}: {line:?}");
                    return;
                }
            }
        }
    }
}

fn configuration(places: &Places, format: &str, shards: &[(&str, u16)]) -> String {
    let mechanisms = "[PLAIN, LOGIN, SCRAM-SHA-1, SCRAM-SHA-256, OAUTHBEARER, XOAUTH2]";
    let head = places
        .head()
        .replace("log: { level: debug }", &format!("log: {{ level: trace, format: {format} }}"))
        .replace("tls: implicit }", &format!("tls: implicit, mechanisms: {mechanisms} }}"))
        .replace("tls: starttls }", &format!("tls: starttls, mechanisms: {mechanisms} }}"))
        .replace("tls: none,", &format!("tls: none, mechanisms: {mechanisms},"));
    let shard = |(name, port): &(&str, u16)| {
        format!(
            "  {name}: {{ kind: primary, backends: \
             [ {{ name: {name}1, address: \"127.0.0.1:{port}\", tls: none }} ] }}\n"
        )
    };
    let domain = |(name, _): &(&str, u16)| format!("{name}.test: {name}");
    format!(
        "{head}upstream: {{ connect_tries: 1 }}\nshards:\n{}routing: {{ lookups: [ {{ domains: {{ {} \
         }} }} ] }}\n",
        shards.iter().map(shard).collect::<String>(),
        shards.iter().map(domain).collect::<Vec<_>>().join(", "),
    )
}

/// Every form of LOGIN, and of SASL with a password.
fn passwords(scene: &mut Scene, user: &str, password: &str, expected: &str) {
    let (n, m) = (user.len(), password.len());
    let (user64, password64) = (encode(user), encode(password));
    let message = plain("", user, password);
    let rows: [&[&str]; 11] = [
        &[&format!("LOGIN {user} {password}")],
        &[&format!("login \"{user}\" \"{password}\"")],
        &[&format!("LOGIN {{{n}}}"), &format!("{user} {{{m}}}"), password],
        &[&format!("LOGIN {{{n}+}}\r\n{user} {{{m}+}}\r\n{password}")],
        &[&format!("LOGIN \"{user}\" {{{m}}}"), password],
        &[&format!("AUTHENTICATE PLAIN {message}")],
        &["AUTHENTICATE PLAIN", &message],
        &["authenticate plain", &plain(user, user, password)],
        &["AUTHENTICATE LOGIN", &user64, &password64],
        &[&format!("AUTHENTICATE LOGIN {user64}"), &password64],
        &[&format!("AUTHENTICATE PLAIN {}", plain("", &user.to_uppercase(), password))],
    ];
    for row in rows {
        scene.says(expected, row);
    }
}

fn tokens(scene: &mut Scene, user: &str, token: &str, expected: &str) {
    let (bearer, x) = (oauthbearer(user, token), xoauth2(user, token));
    for (name, message) in [("OAUTHBEARER", bearer), ("XOAUTH2", x)] {
        // Where the server has a challenge, it is answered as each client does it.
        for answer in ["AQ==", "", "*"] {
            let refused = if answer == "*" && expected == "NO" { "BAD" } else { expected };
            scene.says(refused, &[&format!("AUTHENTICATE {name} {message}"), answer]);
            scene.says(refused, &[&format!("AUTHENTICATE {name}"), &message, answer]);
        }
    }
}

fn malformed(scene: &mut Scene) {
    let secret = scene.secrets.fresh();
    let rows: [(&str, &[&str]); 19] = [
        ("BAD", &[&format!("LOGIN {USER} {secret} more")]),
        ("BAD", &[&format!("LOGIN {USER}  {secret}")]),
        ("BAD", &[&format!("LOGIN {USER}\t{secret}")]),
        ("BAD", &[&format!("LOGIN {USER} \"{secret}")]),
        ("BAD", &[&format!("LOGIN {USER} {secret}\0")]),
        ("BAD", &[&format!("LOGIN {secret}")]),
        ("BAD", &[&format!("LOGINN {USER} {secret}")]),
        ("BAD", &[&format!("{secret} {USER}")]),
        ("BAD", &[&format!("ENABLE {secret}")]),
        ("BAD", &[&format!("AUTHENTICATE PLAIN {secret}!")]),
        ("BAD", &["AUTHENTICATE PLAIN", &format!("{secret}!")]),
        ("BAD", &["AUTHENTICATE PLAIN", &encode(format!("\0a\0{secret}\0{secret}"))]),
        ("BAD", &["AUTHENTICATE PLAIN", &encode(&secret)]),
        ("BAD", &["AUTHENTICATE PLAIN", "*"]),
        ("BAD", &["AUTHENTICATE LOGIN", &encode(USER), "*"]),
        ("BAD|NO", &["AUTHENTICATE OAUTHBEARER", &encode(&secret)]),
        ("BAD|NO", &["AUTHENTICATE XOAUTH2", &encode(format!("auth=Bearer {secret}"))]),
        ("NO", &[&format!("AUTHENTICATE NTLM {}", encode(&secret))]),
        ("OK", &[&format!("ID (\"password\" \"{secret}\")")]),
    ];
    for (expected, row) in rows {
        scene.says(expected, row);
    }
    let mut client = scene.proxy.client();
    // A message sent though its mechanism was refused, and a login without a tag.
    let message = encode(&secret);
    client.send(format!("{message}\r\n{secret}\r\nLOGIN {USER} {secret}\r\nz LOGOUT\r\n"));
    let heard = client.read_to_end();
    assert!(String::from_utf8_lossy(&heard).contains("z OK "));
}

fn too_long(scene: &mut Scene) {
    let long = scene.secrets.fresh().repeat(700);
    let part = &long[..9_000];
    let length = part.len();
    scene.says("*", &[&format!("LOGIN {USER} \"{long}\"")]);
    scene.says("BAD", &[&format!("LOGIN {USER} {{{length}}}")]);
    scene.says("*", &[&format!("LOGIN {USER} {{{length}+}}\r\n{part}")]);
    scene.says("*", &[&format!("AUTHENTICATE PLAIN {}", encode(&long))]);
    scene.says("*", &["AUTHENTICATE PLAIN", &encode(&long)]);
    scene.says("*", &["AUTHENTICATE XOAUTH2", &encode(&long)]);
}

/// Backends that fail, and tell what they were told.
fn backend_errors(scene: &mut Scene) {
    for way in ECHOES {
        let user = format!("{way}@echo.test");
        let secret = scene.secrets.fresh();
        let expected = if way == "ok" { "OK" } else { "NO" };
        scene.says(expected, &[&format!("LOGIN {user} {secret}")]);
        scene.says(expected, &[&format!("AUTHENTICATE PLAIN {}", plain("", &user, &secret))]);
        let expected = if way == "ok" { "OK" } else { "NO|BAD" };
        for message in [oauthbearer(&user, &secret), xoauth2(&user, &secret)] {
            let name = if message.starts_with("bix") { "OAUTHBEARER" } else { "XOAUTH2" };
            scene.says(expected, &[&format!("AUTHENTICATE {name} {message}"), "*"]);
        }
    }
    let secret = scene.secrets.fresh();
    scene.says("OK", &[&format!("LOGIN kim@old.test {secret}")]);
    scene.says("NO", &[&format!("LOGIN kim@silent.test {secret}")]);
    scene.says("NO", &[&format!("LOGIN kim@nowhere.test {secret}")]);
}

fn names_of_masters(scene: &mut Scene) {
    let secret = scene.secrets.fresh();
    scene.says("NO", &[&format!("LOGIN \"{USER}*master\" {secret}")]);
    scene.says("NO", &[&format!("AUTHENTICATE PLAIN {}", plain(USER, "master", &secret))]);
    let scram = encode(format!("n,a={USER},n=master,r={}", scene.secrets.fresh()));
    scene.says("NO", &[&format!("AUTHENTICATE SCRAM-SHA-256 {scram}"), "*"]);
    let nobody = encode(format!("n,,\u{1}auth=Bearer {secret}\u{1}\u{1}"));
    scene.says("NO", &["AUTHENTICATE OAUTHBEARER", &nobody, "AQ=="]);
    scene.says("BAD", &["AUTHENTICATE OAUTHBEARER", &oauthbearer("", &secret)]);
}

/// Made by hand, so that the proof is known: it is worth a guess at the password.
fn scram(scene: &mut Scene) {
    for name in ["SCRAM-SHA-1", "SCRAM-SHA-256"] {
        let first = encode(format!("n,,n={USER},r=fyko+d2lbbFgONRv9qkxdawL"));
        let last = encode(format!("c=biws,r=fyko+d2lbbFgONRv9qkxdawL,p={}", scene.secrets.fresh()));
        scene.says("NO", &[&format!("AUTHENTICATE {name} {first}"), &last]);
        scene.says("NO", &[&format!("AUTHENTICATE {name}"), &first, &last]);
        scene.says("BAD|NO", &[&format!("AUTHENTICATE {name} {first}"), "*"]);
        let bound = encode(format!("p=tls-unique,,n={USER},r={}", scene.secrets.fresh()));
        scene.says("BAD|NO", &[&format!("AUTHENTICATE {name} {bound}")]);
    }
    for (secret, right) in [(scene.password.clone(), true), (scene.secrets.fresh(), false)] {
        let address = scene.proxy.places().imap;
        let sign_in = SignIn { address, ca: &scene.ca, user: USER, secret: &secret };
        assert_eq!(sign_in.gsasl("SCRAM-SHA-256").is_ok(), right);
    }
}

/// What comes behind a login in the same packet, and logins of a session that has one.
fn pipelined(scene: &mut Scene) {
    let (good, other) = (scene.password.clone(), scene.secrets.fresh());
    let message = plain("", USER, &other);
    let more = format!(
        "b LOGIN {USER} {other}\r\nc AUTHENTICATE PLAIN {message}\r\n\
         d LOGIN {USER} {{{n}+}}\r\n{other}\r\n",
        n = other.len()
    );
    for password in [&good, &other] {
        let mut client = scene.proxy.client();
        client.send(format!("a LOGIN {USER} {password}\r\n{more}"));
        for tag in ["a", "b", "c", "d"] {
            let response = client.read_response(tag);
            assert_eq!(response.is_ok(), tag == "a" && *password == good, "{}", response.status);
        }
        scene.says_to(&mut client, "BAD|NO", &[&format!("LOGIN {USER} {other}")]);
    }
    let mut client = scene.proxy.client();
    scene.says_to(&mut client, "OK", &[&format!("LOGIN {USER} {good}")]);
    scene.says_to(&mut client, "BAD", &[&format!("LOGIN {USER} {{{}}}", other.len())]);
    scene.says_to(&mut client, "BAD", &[&format!("{other} {other}")]);
    // A line that the proxy cannot read ends the session.
    client.send(format!("{other}\t{other} \"{other}\r\r\n"));
    client.expect_end_of_session();
}

/// In clear text where that is forbidden, and over TLS.
fn guarded(scene: &mut Scene) {
    let (password, token) = (scene.password.clone(), scene.token.clone());
    let rows = [
        format!("LOGIN {USER} {password}"),
        format!("AUTHENTICATE PLAIN {}", plain("", USER, &password)),
        format!("AUTHENTICATE XOAUTH2 {}", xoauth2(USER, &token)),
    ];
    let config = AUTHORITY.client_config();
    for row in &rows {
        let mut client = Client::clear(scene.proxy.places().imap);
        scene.says_to(&mut client, "NO", &[row]);
        client.starttls("localhost", &config);
        scene.says_to(&mut client, "OK", &[row]);
        let mut client = Client::tls(scene.proxy.places().imaps, &config);
        scene.says_to(&mut client, "OK", &[row]);
    }
}

/// All that the proxy shows to anybody who is neither the client nor the backend.
fn shown(scene: &mut Scene) -> Vec<u8> {
    let admin = scene.proxy.places().admin;
    let pages = ["/metrics", "/healthz", "/readyz", "/api/v1/sessions", "/"];
    let mut shown: String =
        pages.iter().map(|page| http::fetch(admin, page).unwrap().body + "\n").collect();
    scene.proxy.reload();
    scene.proxy.terminate();
    assert_eq!(scene.proxy.wait_for_end(), 0);
    shown.push_str(&scene.proxy.log());
    shown.into_bytes()
}

fn sign_in_in_every_way(format: &str) {
    let mut scene = Scene::start(format);
    let (password, token) = (scene.password.clone(), scene.token.clone());
    passwords(&mut scene, USER, &password, "OK");
    for user in [USER, "nobody@real.test"] {
        let wrong = scene.secrets.fresh();
        passwords(&mut scene, user, &wrong, "NO");
    }
    tokens(&mut scene, USER, &token, "OK");
    tokens(&mut scene, "nobody@real.test", &token, "NO");
    let foreign = scene.secrets.fresh();
    tokens(&mut scene, USER, &foreign, "NO");
    scram(&mut scene);
    malformed(&mut scene);
    too_long(&mut scene);
    names_of_masters(&mut scene);
    backend_errors(&mut scene);
    pipelined(&mut scene);
    guarded(&mut scene);

    let shown = shown(&mut scene);
    let text = String::from_utf8_lossy(&shown);
    // The log did talk, of steps too.
    for told in ["DEBUG", "login failed", "session ended", "a backend could not be joined"] {
        assert!(text.contains(told), "no {told:?} among {} bytes", shown.len());
    }
    assert!(scene.secrets.count() > 20);
    let finds = scene.secrets.found_in(&shown);
    assert!(finds.is_empty(), "{} lines:\n{}", finds.len(), finds.join("\n"));
}

#[test]
fn b86_no_secret_stands_in_a_text_log_or_a_page_whatever_happened_at_a_login() {
    sign_in_in_every_way("text");
}

#[test]
fn b86_no_secret_stands_in_a_json_log_or_a_page_whatever_happened_at_a_login() {
    sign_in_in_every_way("json");
}

/// The search itself: it would find a secret in any of these forms, also a part of it.
#[test]
fn the_search_for_secrets_finds_every_form_of_them() {
    let mut secrets = Secrets::default();
    let secret = secrets.fresh();
    let part = &secret[3..19];
    let hex: Vec<String> = part.bytes().map(|byte| format!("{byte:02X}")).collect();
    let forms = [
        part.to_owned(),
        part.to_uppercase(),
        format!("{:?}", part.as_bytes()),
        hex.concat(),
        encode(&secret),
        plain("", "kim", &secret),
        plain("", "anna", &secret),
        plain("x", "anna", &secret),
        xoauth2("anna", &secret),
    ];
    for form in forms {
        let text = format!("2026-11-26 INFO one=1\nINFO text=\"{form}\" more\nthe end");
        assert_eq!(secrets.found_in(text.as_bytes()).len(), 1, "{form}");
    }
    assert!(secrets.found_in(b"nothing of that kind, only words and 112, 97, 115").is_empty());
}
