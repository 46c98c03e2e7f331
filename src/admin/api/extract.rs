//! What a call is given, read or refused in JSON.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::refusal;

/// The body of a call that changes something. No form of a web page can send it.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.map(|kind| kind.as_bytes().trim_ascii()) != Some(b"application/json") {
            let message = "the body must be JSON, and Content-Type say so: application/json";
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message));
        }
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|error| refusal(error.status(), "bad_request", &error.body_text()))?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            let message = format!("the body cannot be read: {error}");
            refusal(StatusCode::BAD_REQUEST, "bad_request", &message)
        })
    }
}

/// The query of a call that looks.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(error) => Err(refusal(StatusCode::BAD_REQUEST, "bad_request", &error.body_text())),
        }
    }
}
