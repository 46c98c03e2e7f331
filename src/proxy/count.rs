//! What the conversation before a login adds to the metrics.

use crate::metrics::{
    Limit, ListenerHandles, LoginMechanism, LoginResult, Metrics, SessionMetrics,
};
use crate::protocol::framer::Bound;
use crate::proxy::orders::CloseReason;
use crate::sasl::Mechanism;
use crate::session::answer::Answer;
use crate::session::prelogin::{LoginMethod, Refused, Tally};

/// Counts what the state machine answered by itself.
pub(super) fn tally(tally: Tally, metrics: &Metrics, listener: &ListenerHandles) {
    for _ in 0..tally.syntax_errors {
        metrics.sessions.client_error("syntax");
    }
    if let Some((method, why)) = tally.refused {
        let mechanism = method.map_or(LoginMechanism::Other, mechanism_of);
        listener.login(mechanism, result_of_refusal(why));
    }
    if let Some(bound) = tally.over {
        metrics.sessions.limit_hit(match bound {
            Bound::Line => Limit::LineBytes,
            Bound::Literal => Limit::LiteralBytes,
            Bound::Command => Limit::CommandBytes,
        });
    }
}

/// Counts an end that is a limit's work.
pub(super) fn ending(reason: CloseReason, metrics: &SessionMetrics) {
    match reason {
        CloseReason::SyntaxErrors => metrics.limit_hit(Limit::SyntaxErrors),
        CloseReason::LoginTries => metrics.limit_hit(Limit::LoginTries),
        CloseReason::LoginDeadline => metrics.limit_hit(Limit::LoginDeadline),
        _ => {}
    }
}

/// The result of a login that got this answer.
pub(super) fn result_of(answer: &Answer) -> LoginResult {
    match answer {
        Answer::AuthenticationFailed | Answer::Refused(_) | Answer::Refusal(_) => {
            LoginResult::AuthFailed
        }
        Answer::Unavailable => LoginResult::Unavailable,
        Answer::ServerBug => LoginResult::ServerBug,
        Answer::Limit => LoginResult::Limit,
        Answer::PrivacyRequired => LoginResult::Privacy,
        Answer::Backend { .. } if answer.is_unavailable() => LoginResult::Unavailable,
        Answer::Backend { .. } if answer.is_limit() => LoginResult::Limit,
        Answer::Backend { .. } => LoginResult::Refused,
        Answer::Cancelled => LoginResult::Cancelled,
        Answer::Bad(_) => LoginResult::Malformed,
    }
}

/// The label of a way to sign in.
pub(super) const fn mechanism_of(method: LoginMethod) -> LoginMechanism {
    match method {
        LoginMethod::Login => LoginMechanism::Login,
        LoginMethod::Sasl(Mechanism::ScramSha256) => LoginMechanism::ScramSha256,
        LoginMethod::Sasl(Mechanism::ScramSha1) => LoginMechanism::ScramSha1,
        LoginMethod::Sasl(Mechanism::OAuthBearer) => LoginMechanism::OAuthBearer,
        LoginMethod::Sasl(Mechanism::XOAuth2) => LoginMechanism::XOAuth2,
        LoginMethod::Sasl(Mechanism::Plain) => LoginMechanism::Plain,
        LoginMethod::Sasl(Mechanism::Login) => LoginMechanism::SaslLogin,
    }
}

const fn result_of_refusal(why: Refused) -> LoginResult {
    match why {
        Refused::InClear => LoginResult::Privacy,
        Refused::Cancelled => LoginResult::Cancelled,
        Refused::Malformed => LoginResult::Malformed,
        Refused::NotOffered => LoginResult::NotOffered,
    }
}
