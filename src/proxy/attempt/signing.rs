//! What a login goes by besides its place: whether and when it may be, what signs in there.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use crate::config::TlsMode;
use crate::names::UserName;
use crate::proxy::attempt::{Attempt, BLOCKED, Failure};
use crate::routing::query::Login;
use crate::sasl::{Credentials, Proof, plain};
use crate::session::answer::Answer;
use crate::upstream::backends::Backend;
use crate::upstream::login::LOGIN_MESSAGE_BYTES_MAX;

/// The longest that a login waits because a lookup says so.
const DELAY_MAX: Duration = Duration::from_secs(30);

/// A password that is not the client's own, as an HTTP server may give one, goes over no leg in
/// clear text but loopback, whichever way the login came to that backend.
pub(super) fn check_leg(login: Option<&Login>, backend: &Backend) -> Result<(), Failure> {
    let foreign = login.is_some_and(|login| login.password.is_some());
    if foreign && backend.config.tls == TlsMode::None {
        let addresses = backend.addresses.current();
        if addresses.is_empty() || !addresses.iter().all(|address| address.ip().is_loopback()) {
            return Err(Failure::new(Answer::Unavailable, "clear_text_backend"));
        }
    }
    Ok(())
}

impl Attempt<'_> {
    /// Right before anything of the login is given to a backend, when the registry has it as
    /// live: whoever was blocked or kicked while he was on his way goes no further. What
    /// passes here is among the sessions that a kick finds.
    pub(super) fn check_still_welcome(&self, user: &UserName) -> Result<(), Failure> {
        self.check_not_blocked(user)?;
        if self.under_way.is_kicked([&self.identity.user, user]) {
            return Err(Failure::new(Answer::Unavailable, "kicked"));
        }
        Ok(())
    }

    /// The user may have been blocked by any of the names that lead to him, also while he
    /// was on his way.
    pub(super) fn check_not_blocked(&self, user: &UserName) -> Result<(), Failure> {
        if self.shared.overrides.is_blocked(user) {
            return Err(Failure::new(Answer::AuthenticationFailed, BLOCKED));
        }
        Ok(())
    }

    /// What signs in to the backend: what the client sent, or what the lookup has in its place.
    pub(super) fn signs_in(&self, login: Option<&Login>) -> Result<Cow<'_, Proof>, Failure> {
        let Some(login) = login else { return Ok(Cow::Borrowed(self.proof)) };
        let separator = self.snapshot.config.master.as_ref().map(|master| master.separator);
        let needs_authzid = self.identity.needs_authzid;
        let signed = renamed(self.proof, login, needs_authzid, separator).ok_or_else(|| {
            let session = self.client.session;
            tracing::warn!(%session, "a lookup names a login, which a relayed exchange cannot have");
            Failure::new(Answer::Unavailable, "renamed_exchange")
        })?;
        if is_too_long(&signed) {
            return Err(Failure::new(Answer::Unavailable, "lookup_too_large"));
        }
        Ok(Cow::Owned(signed))
    }
}

/// Whether servers would not read credentials of that length.
pub(super) fn is_too_long(proof: &Proof) -> bool {
    matches!(proof, Proof::Credentials(credentials)
        if plain::message_base64_bytes(credentials) > LOGIN_MESSAGE_BYTES_MAX)
}

/// Waits where a lookup says that the user may log in later, but not for long.
pub(super) async fn wait_for(moment: Option<SystemTime>) -> Result<(), Failure> {
    let left = moment.and_then(|moment| moment.duration_since(SystemTime::now()).ok());
    match left {
        Some(left) if left > DELAY_MAX => Err(Failure::new(Answer::Unavailable, "delayed")),
        Some(left) => {
            tokio::time::sleep(left).await;
            Ok(())
        }
        None => Ok(()),
    }
}

/// The credentials with another name, and another password where there is one. A master user
/// stays one, of the other name. `None` for an exchange, whose messages hold the name.
fn renamed(
    proof: &Proof,
    login: &Login,
    needs_authzid: bool,
    separator: Option<char>,
) -> Option<Proof> {
    let Proof::Credentials(sent) = proof else { return None };
    if let Some(password) = &login.password {
        let (user, password) = (login.user.clone(), password.clone());
        return Some(Proof::Credentials(Credentials { authzid: None, user, password }));
    }
    let mut renamed = sent.clone();
    if needs_authzid {
        renamed.authzid = Some(login.user.clone());
        return Some(Proof::Credentials(renamed));
    }
    let is_separator = |byte: &u8| separator == Some(char::from(*byte));
    let master = sent.user.iter().position(is_separator).and_then(|at| sent.user.get(at..));
    renamed.authzid = None;
    renamed.user = [&login.user, master.unwrap_or_default()].concat();
    Some(Proof::Credentials(renamed))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::config::Config;
    use crate::metrics::Metrics;
    use crate::names::BackendId;
    use crate::names::Secret;
    use crate::net::resolve::Resolver;
    use crate::upstream::backends::Upstreams;

    fn sent(authzid: Option<&str>, user: &str) -> Proof {
        Proof::Credentials(Credentials {
            authzid: authzid.map(|text| text.as_bytes().to_vec()),
            user: user.as_bytes().to_vec(),
            password: Secret::new(b"typed".to_vec()),
        })
    }

    fn login(user: &str, password: Option<&str>) -> Login {
        let password = password.map(|text| Secret::new(text.as_bytes().to_vec()));
        Login { user: user.as_bytes().to_vec(), password }
    }

    #[test]
    fn another_name_signs_in_with_the_clients_password() {
        let renamed = |proof| renamed(&proof, &login("old", None), false, Some('*'));
        assert_eq!(renamed(sent(None, "bob")), Some(sent(None, "old")));
        assert_eq!(renamed(sent(Some("BOB"), "bob")), Some(sent(None, "old")));
        assert_eq!(renamed(sent(Some(""), "bob")), Some(sent(None, "old")));
    }

    #[test]
    fn a_master_user_stays_one() {
        let renamed = |proof, both| renamed(&proof, &login("old", None), both, Some('*'));
        assert_eq!(renamed(sent(None, "bob*admin"), false), Some(sent(None, "old*admin")));
        assert_eq!(renamed(sent(Some("bob"), "admin"), true), Some(sent(Some("old"), "admin")));
    }

    #[test]
    fn a_checked_password_comes_with_the_whole_login() {
        let whole = renamed(&sent(Some("bob"), "admin"), &login("vmail", Some("s3")), true, None);
        let Some(Proof::Credentials(credentials)) = whole else { panic!("{whole:?}") };
        assert_eq!(credentials.authzid, None);
        assert_eq!(credentials.user, b"vmail");
        assert_eq!(credentials.password.expose(), b"s3");
    }

    #[tokio::test]
    async fn a_foreign_password_goes_over_tls_or_loopback_alone() {
        let text = "\
listeners: [ { name: c, address: \"127.0.0.1:1\", tls: none } ]
shards: { s: { kind: shared, backends: [
  { name: far, address: \"192.0.2.1:143\", tls: none },
  { name: near, address: \"127.0.0.1:143\", tls: none },
  { name: secure, address: \"192.0.2.1:993\", tls: implicit } ] } }
routing: { lookups: [ { shard: s } ] }
store: { path: /nowhere }
";
        let config = Config::parse(Path::new("test.yaml"), text).unwrap();
        let metrics = Metrics::register().unwrap();
        let resolver =
            Resolver::with_ask(Arc::clone(&metrics), |_| Box::pin(std::future::pending()));
        let upstreams =
            Upstreams::build(&config, &Upstreams::default(), &resolver, &metrics).unwrap();
        let (own, foreign) = (login("bob", None), login("vmail", Some("s3")));
        let may = |name: &str, login| {
            check_leg(login, &upstreams.backend(&BackendId::new(name)).unwrap()).is_ok()
        };
        assert!(may("near", Some(&foreign)) && may("secure", Some(&foreign)));
        assert!(!may("far", Some(&foreign)));
        assert!(may("far", Some(&own)) && may("far", None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_waits_for_its_moment_but_not_for_long() {
        assert!(wait_for(None).await.is_ok());
        assert!(wait_for(Some(SystemTime::UNIX_EPOCH)).await.is_ok());
        let soon = SystemTime::now() + DELAY_MAX / 2;
        let start = Instant::now();
        assert!(wait_for(Some(soon)).await.is_ok());
        assert!(start.elapsed() > DELAY_MAX / 4);
        let late = SystemTime::now() + DELAY_MAX * 2;
        assert!(wait_for(Some(late)).await.is_err());
    }
}
