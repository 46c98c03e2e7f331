//! `/api/v1/route`, `/pin`, `/unpin`, `/block`, `/unblock`, and the lists of both.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::extract::{Asked, Body};
use super::{Api, answer, carry_out, show};
use crate::control::USERS_MAX;

/// A page of users.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    max: Option<usize>,
    from: Option<String>,
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PinRequest {
    /// The user, in any spelling.
    pub(crate) user: String,
    /// The shard.
    pub(crate) shard: String,
}

/// A user alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserRequest {
    /// The user, in any spelling.
    pub(crate) user: String,
}

/// Whose way is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteQuery {
    user: String,
}

pub(super) async fn route(State(api): State<Api>, Asked(who): Asked<RouteQuery>) -> Response {
    answer(api.control.route(&who.user).await)
}

pub(super) async fn pins(State(api): State<Api>, Asked(page): Asked<PageQuery>) -> Response {
    show(&api.control.pins(page.max.unwrap_or(USERS_MAX), page.from.as_deref()))
}

pub(super) async fn blocked(State(api): State<Api>, Asked(page): Asked<PageQuery>) -> Response {
    show(&api.control.blocked(page.max.unwrap_or(USERS_MAX), page.from.as_deref()))
}

pub(super) async fn pin(State(api): State<Api>, Body(pin): Body<PinRequest>) -> Response {
    carry_out(async move { api.control.pin(api.caller, &pin.user, Some(&pin.shard)).await }).await
}

pub(super) async fn unpin(State(api): State<Api>, Body(who): Body<UserRequest>) -> Response {
    carry_out(async move { api.control.pin(api.caller, &who.user, None).await }).await
}

pub(super) async fn block(State(api): State<Api>, Body(who): Body<UserRequest>) -> Response {
    carry_out(async move { api.control.block(api.caller, &who.user, true).await }).await
}

pub(super) async fn unblock(State(api): State<Api>, Body(who): Body<UserRequest>) -> Response {
    carry_out(async move { api.control.block(api.caller, &who.user, false).await }).await
}
