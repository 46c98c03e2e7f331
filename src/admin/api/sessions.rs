//! `/api/v1/sessions` and `/api/v1/kick`.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::extract::{Asked, Body};
use super::{Api, answer, carry_out};
use crate::control::{Kick, OperateError, Selection};

/// Sessions on a page unless asked for more or fewer.
const PAGE_DEFAULT: usize = 100;

/// Which sessions are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    user: Option<String>,
    backend: Option<String>,
    max: Option<usize>,
    from: Option<String>,
}

/// Which sessions are to end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KickRequest {
    /// Those of a user.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// Those on a backend.
    #[serde(default)]
    pub(crate) backend: Option<String>,
    /// All.
    #[serde(default)]
    pub(crate) all: bool,
    /// See [`Kick::block`].
    #[serde(default)]
    pub(crate) block: bool,
    /// See [`Kick::force`].
    #[serde(default)]
    pub(crate) force: bool,
}

pub(super) async fn list(State(api): State<Api>, Asked(query): Asked<ListQuery>) -> Response {
    let selection = match (query.user, query.backend) {
        (Some(user), None) => Selection::User(user),
        (None, Some(backend)) => Selection::Backend(backend),
        (None, None) => Selection::All,
        (Some(_), Some(_)) => {
            // A user's sessions are all on one backend.
            let message = "`user` and `backend` cannot both be asked for".to_owned();
            return answer::<()>(Err(OperateError::Nonsense(message)));
        }
    };
    let max = query.max.unwrap_or(PAGE_DEFAULT);
    answer(api.control.sessions(&selection, max, query.from.as_deref()).await)
}

pub(super) async fn kick(State(api): State<Api>, Body(request): Body<KickRequest>) -> Response {
    let selection = match (request.user, request.backend, request.all) {
        (Some(user), None, false) => Selection::User(user),
        (None, Some(backend), false) => Selection::Backend(backend),
        (None, None, true) => Selection::All,
        _ => {
            let message = "exactly one of `user`, `backend` and `all` must be said".to_owned();
            return answer::<()>(Err(OperateError::Nonsense(message)));
        }
    };
    let kick = Kick { selection, block: request.block, force: request.force };
    carry_out(async move { api.control.kick(api.caller, &kick).await }).await
}
