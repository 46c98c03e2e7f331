//! One check of a backend: as far as the configuration says, then a polite end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{CheckMode, Silence, TestUser};
use crate::names::Secret;
use crate::protocol::capability::Capabilities;
use crate::sasl::{Credentials, Proof};
use crate::upstream::backends::Backend;
use crate::upstream::conversation::Conversation;
use crate::upstream::dial::{self, DialError, Origin, Turn};
use crate::upstream::health::Outcome;
use crate::upstream::login::{LoginError, Plan};

/// How long the backend's end is waited for after LOGOUT. It decides nothing.
const FAREWELL: Duration = Duration::from_secs(1);
/// How a check calls itself in ID before it logs in, so that a backend's log can tell it
/// from people.
const NAME: &str = "pointsman-check";

/// What a good check has learnt.
#[derive(Debug, Default)]
pub struct Learnt {
    /// The capabilities listed before a login.
    pub before_login: Option<Capabilities>,
    /// Those listed after it.
    pub after_login: Option<Capabilities>,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The connection, the greeting or the login.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The file with the test user's password.
    #[error("the test user's password cannot be read: {0}")]
    Password(std::io::Error),
}

impl CheckError {
    /// The metric's `result`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Dial(error) => error.reason(),
            Self::Password(_) => "password",
        }
    }

    /// Whether the proxy could not even ask, which says nothing of the backend.
    pub fn is_own(&self) -> bool {
        match self {
            Self::Password(_) => true,
            Self::Dial(error) => error.is_own(),
        }
    }

    /// What it says of the backend, where it says something.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Dial(error) => error.outcome(),
            Self::Password(_) => Outcome::Faulty,
        }
    }
}

/// Checks a backend once, within its `check.timeout` and a moment for the farewell.
///
/// # Errors
/// Where it did not do what the mode asks of it.
pub async fn check(backend: &Backend, silence: Silence) -> Result<Learnt, CheckError> {
    let deadline = Instant::now() + backend.config.check.timeout;
    let work = examine(backend, deadline, silence);
    let (learnt, conversation) =
        timeout_at(deadline, work).await.map_err(|_| DialError::Timeout)??;
    // A backend that does not say goodbye has passed all the same.
    let _ = timeout(FAREWELL, conversation.say_goodbye()).await;
    Ok(learnt)
}

async fn examine(
    backend: &Backend,
    deadline: Instant,
    silence: Silence,
) -> Result<(Learnt, Conversation), CheckError> {
    let settings = &backend.config.check;
    if settings.mode <= CheckMode::Connect {
        let connected = dial::reach(backend, Origin::Proxy, deadline, silence).await?;
        return Ok((Learnt::default(), connected));
    }
    let prefix = format!("c{:08x}.", fastrand::u32(..));
    let greeted = dial::greet(backend, Origin::Proxy, prefix, (deadline, silence)).await?;
    let before_login = greeted.capabilities().cloned();
    let test_user = settings.test_user.as_ref().filter(|_| settings.mode == CheckMode::Login);
    let Some(test_user) = test_user else {
        let learnt = Learnt { before_login, after_login: None };
        return Ok((learnt, greeted.into_conversation()));
    };
    let plan = plan(test_user).await?;
    let opened = greeted.begin(plan, deadline).await?;
    let joined = match opened.log_in().await.map_err(|lost| lost.error)? {
        Turn::Joined(joined) => joined,
        Turn::Challenge(_) => {
            let what = "a challenge to a password";
            return Err(DialError::from(LoginError::Protocol { what }).into());
        }
    };
    let after_login = Some(Capabilities::parse(&joined.answer.capabilities));
    let conversation = Conversation::new(joined.stream);
    Ok((Learnt { before_login, after_login }, conversation))
}

async fn plan(test_user: &TestUser) -> Result<Plan, CheckError> {
    let TestUser { user, password } = test_user.clone();
    let loaded = tokio::task::spawn_blocking(move || password.load()).await;
    let password: Secret = loaded
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(CheckError::Password)?;
    let credentials = Credentials { authzid: None, user: user.into_bytes(), password };
    Ok(Plan {
        id: vec![(b"name".to_vec(), Some(NAME.as_bytes().to_vec()))],
        proof: Proof::Credentials(credentials),
        needs_authzid: false,
    })
}

/// Checks run on the control runtime, whose tasks move between threads.
const _: fn() = || {
    fn sendable<T: Send>(_: T) {}
    let _ =
        |backend: Arc<Backend>, silence| sendable(async move { check(&backend, silence).await });
};
