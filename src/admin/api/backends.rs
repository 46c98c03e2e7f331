//! `/api/v1/backends`.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::extract::Body;
use super::{Api, answer, carry_out, show};
use crate::control::{AdminState, OperateError, StateOrder};

/// What a backend is to do from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateRequest {
    /// `up`, `drain`, `standby` or `down`.
    pub(crate) state: String,
    /// See [`StateOrder::force`].
    #[serde(default)]
    pub(crate) force: bool,
    /// See [`StateOrder::fenced`].
    #[serde(default)]
    pub(crate) fenced: bool,
    /// See [`StateOrder::end_within`].
    #[serde(default)]
    pub(crate) end_within_seconds: Option<u32>,
}

pub(super) async fn list(State(api): State<Api>) -> Response {
    show(&api.control.backends())
}

pub(super) async fn set_state(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(request): Body<StateRequest>,
) -> Response {
    let Some(state) = AdminState::of_word(&request.state) else {
        let message = format!("there is no state {:?}", request.state);
        return answer::<()>(Err(OperateError::Nonsense(message)));
    };
    let order = StateOrder {
        state,
        force: request.force,
        fenced: request.fenced,
        end_within: request.end_within_seconds.map(|time| Duration::from_secs(time.into())),
    };
    carry_out(async move { api.control.set_backend_state(api.caller, &name, order).await }).await
}
