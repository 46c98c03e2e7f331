//! Mechanisms that hide the secret from the proxy: SCRAM and bearer tokens go through it
//! to a real Dovecot that does the verifying, tokens against a real authorisation server.
//! Real programs are told the same through the proxy as by the server itself.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use support::authorization::AuthorizationServer;
use support::client::Client;
use support::dovecot::{Dovecot, Settings};
use support::pointsman::{Places, Pointsman};
use support::recorder::Recorder;
use support::sasl_programs::{SignIn, Told};
use support::secrets::Secrets;
use support::tls::Authority;
use support::{mail, wait_until};

/// A password that any wrong quoting or escaping would break.
const PASSWORD: &str = "pass, word=1 and 100 % more";
const SUBJECT: &str = "a mail for the owner";
/// The server keeps one hash a user, so each has the mechanism of his own.
const USERS: [(&str, &str); 2] = [("anna", "SCRAM-SHA-256"), ("bert", "SCRAM-SHA-1")];

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A Dovecot that knows hashes and asks about tokens, and the proxy before it.
struct Scene {
    proxy: Pointsman,
    dovecot: Dovecot,
    oauth: AuthorizationServer,
    ca: PathBuf,
}

impl Scene {
    fn start() -> Self {
        Self::with(AuthorizationServer::start())
    }

    fn with(oauth: AuthorizationServer) -> Self {
        let mut settings = Settings::new(&AUTHORITY, &[]).oauth(&oauth).extra(
            "auth_mechanisms = plain scram-sha-1 scram-sha-256 oauthbearer xoauth2\n\
             disable_plaintext_auth = no",
        );
        for (user, mechanism) in USERS {
            settings = settings.hashed(user, mechanism, PASSWORD);
        }
        let dovecot = settings.start();
        for (user, _) in USERS {
            dovecot.put(user, PASSWORD, "INBOX", &[mail(SUBJECT)]);
        }
        let proxy =
            Pointsman::start(&AUTHORITY, |places| configuration(places, dovecot.imap().port()));
        let ca = proxy.places().ca.clone();
        Self { proxy, dovecot, oauth, ca }
    }

    /// What that program is told by the server itself, which the proxy must tell too.
    fn told<'s>(
        &'s self,
        (user, secret): (&'s str, &'s str),
        program: impl Fn(&SignIn<'s>) -> Told,
    ) -> Told {
        let told = |address| program(&SignIn { address, ca: &self.ca, user, secret });
        let by_server = told(self.dovecot.imap());
        assert_eq!(told(self.proxy.places().imap), by_server);
        by_server
    }

    /// Dovecot's lines come by a process of its own, after its answers.
    fn wait_for_logins(&self, mechanism: &str, count: usize) {
        let line = format!(", method={mechanism}, ");
        wait_until(&format!("{count} logins by {mechanism}"), || {
            (self.dovecot.log().matches(&line).count() == count).then_some(())
        });
    }
}

fn configuration(places: &Places, port: u16) -> String {
    let mechanisms = "[PLAIN, SCRAM-SHA-1, SCRAM-SHA-256, OAUTHBEARER, XOAUTH2]";
    let head = places
        .head()
        .replace("tls: starttls }", &format!("tls: starttls, mechanisms: {mechanisms} }}"))
        .replace("tls: none,", &format!("tls: none, mechanisms: {mechanisms},"));
    format!(
        "{head}shards: {{ s: {{ kind: primary, backends: [ {{ name: b, tls: starttls, ca: \"{}\", \
         address: \"localhost:{port}\" }} ] }} }}\nrouting: {{ lookups: [ {{ shard: s }} ] }}\n",
        places.ca.display()
    )
}

fn xoauth2(user: &str, token: &str) -> String {
    STANDARD.encode(format!("user={user}\u{1}auth=Bearer {token}\u{1}\u{1}"))
}

fn is_refused(told: &Told) -> bool {
    told.as_ref().is_err_and(|text| text.contains("AUTHENTICATIONFAILED"))
}

/// The whole exchange, the server's own signature included, which only who has the hash
/// can make.
#[test]
fn scram_reaches_a_server_that_keeps_only_a_hash_and_proves_that_server_to_the_client() {
    let scene = Scene::start();
    for (user, mechanism) in USERS {
        let account = (user, PASSWORD);
        let gsasl = scene.told(account, |sign_in| sign_in.gsasl(mechanism));
        assert_eq!(gsasl.unwrap(), "server trusted");
        let mbsync = scene.told(account, |sign_in| sign_in.mbsync(mechanism));
        assert_eq!(mbsync.unwrap(), SUBJECT);
        let mutt = scene.told(account, |sign_in| Ok(sign_in.mutt(mechanism)));
        assert_eq!(mutt.unwrap(), SUBJECT);
        // Three programs, twice each: nothing was turned into another mechanism.
        scene.wait_for_logins(mechanism, 6);
    }
}

#[test]
fn a_wrong_password_is_refused_by_scram_as_the_server_refuses_it() {
    let scene = Scene::start();
    for (user, mechanism) in USERS {
        for account in [(user, "wrong"), ("nobody", PASSWORD)] {
            let told = scene.told(account, |sign_in| sign_in.gsasl(mechanism));
            assert!(is_refused(&told), "{told:?}");
            let told = scene.told(account, |sign_in| sign_in.mbsync(mechanism));
            assert!(is_refused(&told), "{told:?}");
        }
    }
}

/// With PLAIN the same search finds the password at once.
#[test]
fn in_a_scram_exchange_the_proxy_hears_nothing_of_the_password() {
    let scene = Scene::start();
    let mut secrets = Secrets::default();
    secrets.keep(PASSWORD);
    for (mechanism, hears) in [("SCRAM-SHA-256", false), ("PLAIN", true)] {
        let recorder = Recorder::before(scene.proxy.places().clear);
        let address = recorder.address();
        let sign_in = SignIn { address, ca: &scene.ca, user: "anna", secret: PASSWORD };
        assert!(sign_in.gsasl_in_clear(mechanism).is_ok());
        let heard = recorder.heard();
        assert!(!heard.is_empty());
        assert_eq!(!secrets.found_in(&heard).is_empty(), hears, "{mechanism}");
    }
}

#[test]
fn a_token_reaches_the_server_by_oauthbearer_and_by_xoauth2() {
    let scene = Scene::start();
    let token = scene.oauth.token("anna");
    let account = ("anna", token.as_str());
    assert_eq!(scene.told(account, SignIn::curl).unwrap(), SUBJECT);
    let imapflow = scene.told(account, SignIn::imapflow).unwrap();
    assert_eq!(imapflow, format!("{{\"subjects\":[\"{SUBJECT}\"]}}"));
    for mechanism in ["OAUTHBEARER", "XOAUTH2"] {
        let mutt = scene.told(account, |sign_in| Ok(sign_in.mutt(mechanism)));
        assert_eq!(mutt.unwrap(), SUBJECT);
    }
    scene.wait_for_logins("OAUTHBEARER", 6);
    scene.wait_for_logins("XOAUTH2", 2);
}

/// Its reason, as JSON, and where the server has its tokens from, reach the client.
fn is_told_why(scene: &Scene, user: &str, token: &str) {
    let curl = scene.told((user, token), SignIn::curl).unwrap_err();
    let lines: Vec<&str> = curl.lines().collect();
    let challenge = STANDARD.decode(&lines[0]["< + ".len()..]).unwrap();
    let challenge: serde_json::Value = serde_json::from_slice(&challenge).unwrap();
    assert_eq!(challenge["status"], "invalid_token");
    assert_eq!(challenge["openid-configuration"], scene.oauth.discovery_url());
    assert_eq!(lines[1], "> AQ==");
    assert!(lines[2].ends_with(" NO [AUTHENTICATIONFAILED] Authentication failed."), "{curl}");
    let imapflow = scene.told((user, token), SignIn::imapflow);
    assert!(is_refused(&imapflow), "{imapflow:?}");
    assert!(imapflow.unwrap_err().contains("\"oauthError\":{\"status\":\"invalid_token\""));
}

#[test]
fn b53_a_token_that_is_taken_back_or_foreign_is_refused_and_the_client_is_told_why() {
    let scene = Scene::start();
    let token = scene.oauth.token("anna");
    scene.oauth.revoke(&token);
    assert!(!scene.oauth.is_active(&token));
    is_told_why(&scene, "anna", &token);
    let foreign = AuthorizationServer::start();
    is_told_why(&scene, "anna", &foreign.token("anna"));
}

#[test]
fn b53_an_expired_token_is_refused_and_the_client_is_told_why() {
    let scene = Scene::with(AuthorizationServer::with_lifetime(1));
    let token = scene.oauth.token("anna");
    wait_until("the token has expired", || (!scene.oauth.is_active(&token)).then_some(()));
    is_told_why(&scene, "anna", &token);
}

/// The proxy routes by the name that the client gives; that it is the token's own is for
/// the server to see to, and Dovecot does.
#[test]
fn a_token_of_another_user_is_refused_by_the_server() {
    let scene = Scene::start();
    let token = scene.oauth.token("bert");
    is_told_why(&scene, "anna", &token);
    assert!(scene.told(("bert", &token), SignIn::curl).is_ok());
}

/// One conversation by hand: a refused token, its reason, each answer that clients have
/// for it, and then a good one on the same connection.
fn dialogue(address: SocketAddr, bad: &str, good: &str) -> Vec<String> {
    let mut client = Client::clear(address);
    client.starttls("localhost", &AUTHORITY.client_config());
    let mut heard = Vec::new();
    for answer in ["", "AQ==", "*"] {
        client.send(format!("a AUTHENTICATE XOAUTH2 {}\r\n", xoauth2("anna", bad)));
        heard.push(client.expect("+ "));
        client.send(format!("{answer}\r\n"));
        let status = client.read_response("a").status;
        // The words are each server's own where the client gave up.
        heard.push(if answer == "*" { status[..4].to_owned() } else { status });
    }
    let message = xoauth2("anna", good);
    client.send("b AUTHENTICATE XOAUTH2\r\n");
    heard.push(client.expect("+ "));
    client.send(format!("{message}\r\n"));
    assert!(client.read_response("b").is_ok());
    client.command_ok("SELECT INBOX");
    client.logout();
    heard
}

#[test]
fn b53_xoauth2_says_the_same_as_the_server_and_the_connection_stays_good_for_another_try() {
    let scene = Scene::start();
    let (bad, good) = (scene.oauth.token("bert"), scene.oauth.token("anna"));
    let by_server = dialogue(scene.dovecot.imap(), &bad, &good);
    assert_eq!(dialogue(scene.proxy.places().imap, &bad, &good), by_server);
    let expected = "NO [AUTHENTICATIONFAILED] Authentication failed.";
    assert_eq!((by_server[1].as_str(), by_server[3].as_str()), (expected, expected));
    assert_eq!(by_server[5], "BAD ");
}
