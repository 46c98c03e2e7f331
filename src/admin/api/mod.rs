//! `/api/v1`: looking at the proxy and changing it, over the Unix socket only.
//!
//! Whatever changes something is a POST with a JSON body. Every answer is JSON; a refusal is
//! a [`Refusal`] with a status of 400 or more.

mod backends;
mod extract;
mod sessions;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;

pub(crate) use self::backends::StateRequest;
use self::extract::Body;
pub(crate) use self::sessions::KickRequest;
pub(crate) use self::users::{PinRequest, UserRequest};
use crate::control::report::Refusal;
use crate::control::{Blame, Caller, Control, OperateError};

/// Bytes of a request's body at most.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// What a call needs: the door to the proxy, and who stands there.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pub(super) control: Arc<Control>,
    pub(super) caller: Caller,
}

/// All calls, for one connection.
pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/backends", get(backends::list))
        .route("/api/v1/backends/{name}/state", post(backends::set_state))
        .route("/api/v1/route", get(users::route))
        .route("/api/v1/sessions", get(sessions::list))
        .route("/api/v1/kick", post(sessions::kick))
        .route("/api/v1/pins", get(users::pins))
        .route("/api/v1/pin", post(users::pin))
        .route("/api/v1/unpin", post(users::unpin))
        .route("/api/v1/blocked", get(users::blocked))
        .route("/api/v1/block", post(users::block))
        .route("/api/v1/unblock", post(users::unblock))
        .route("/api/v1/reload", post(reload))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}

/// Answers everything with a refusal: for callers who may do nothing.
pub(super) fn closed() -> Router {
    let refuse = || async {
        let message = "only root and the user that the proxy runs as may use this socket";
        refusal(StatusCode::FORBIDDEN, "forbidden", message)
    };
    Router::new().fallback(refuse)
}

async fn status(State(api): State<Api>) -> Response {
    show(&api.control.status())
}

async fn reload(State(api): State<Api>, Body(Nothing {}): Body<Nothing>) -> Response {
    carry_out(async move { api.control.reload_for(api.caller).await }).await
}

/// A body that says nothing more: `{}`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "not_found", "there is no such call")
}

async fn wrong_method() -> Response {
    let message = "the call wants another method: GET to look, POST to change";
    refusal(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}

fn show(body: &impl Serialize) -> Response {
    json(StatusCode::OK, body)
}

/// Does what changes something, to its end and its line in the log, also where the caller
/// goes away meanwhile.
async fn carry_out<T: Serialize + Send + 'static>(
    work: impl Future<Output = Result<T, OperateError>> + Send + 'static,
) -> Response {
    match tokio::spawn(work).await {
        Ok(result) => answer(result),
        Err(error) => {
            tracing::error!(%error, "an admin call was not carried out");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "fault", "a fault of the proxy; see its log")
        }
    }
}

fn answer<T: Serialize>(result: Result<T, OperateError>) -> Response {
    match result {
        Ok(body) => show(&body),
        Err(error) => {
            let status = match error.blame() {
                Blame::Request => StatusCode::BAD_REQUEST,
                Blame::Missing => StatusCode::NOT_FOUND,
                Blame::State => StatusCode::CONFLICT,
                Blame::Configuration => StatusCode::UNPROCESSABLE_ENTITY,
                Blame::Proxy => StatusCode::SERVICE_UNAVAILABLE,
            };
            refusal(status, error.reason(), &error.to_string())
        }
    }
}

fn refusal(status: StatusCode, reason: &str, message: &str) -> Response {
    json(status, &Refusal { reason: reason.to_owned(), message: message.to_owned() })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer of the admin API could not be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
