//! Where a login may go: what the lookups say.

use tokio::time::Instant;

use crate::metrics::{LookupResult, LookupSource, Stage};
use crate::protocol::strings::clean_text;
use crate::proxy::attempt::{Attempt, Failure};
use crate::routing::query::{Query, QueryClient};
use crate::routing::{LookupError, Route, Step};
use crate::sasl::Proof;
use crate::session::answer::Answer;

impl Attempt<'_> {
    /// Asks the lookups where the user belongs.
    pub(super) async fn route(&self) -> Result<Route, Failure> {
        let addresses = self.client.addresses;
        let query = Query {
            user: &self.identity.user,
            typed: self.proof.user(),
            client: Some(QueryClient {
                remote: addresses.remote,
                local: addresses.local,
                server_name: addresses.server_name.as_deref(),
                tls: addresses.tls,
                tls_version: addresses.tls_version,
                tls_cipher: addresses.tls_cipher,
                proxied: addresses.proxied,
                attempt: self.client.attempt,
                session: &addresses.session,
            }),
            password: match self.proof {
                Proof::Credentials(credentials) => Some(&credentials.password),
                Proof::Opening(_) => None,
            },
        };
        let logins = &self.shared.metrics.logins;
        let start = Instant::now();
        let count = |step: Step| logins.lookup(step.source, step.result, step.elapsed);
        let result = self.snapshot.table.route(&query, count).await;
        let elapsed = start.elapsed();
        logins.stage(Stage::Lookup, elapsed);
        result.map_err(|error| match error {
            LookupError::NoRoute => {
                logins.lookup(LookupSource::None, LookupResult::Miss, elapsed);
                Failure::new(Answer::AuthenticationFailed, error.reason())
            }
            LookupError::Unavailable { .. } => Failure::new(Answer::Unavailable, error.reason()),
            LookupError::Refused { ref refusal, .. } => {
                let words = refusal.words.as_ref().map(|words| clean_text(words.as_bytes()));
                let answer = words.map_or(Answer::AuthenticationFailed, Answer::Refused);
                Failure::new(answer, error.reason())
            }
        })
    }
}
