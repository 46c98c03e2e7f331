//! Which path answers what, and the check of the `Host` header before all of them.

use std::net::IpAddr;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::AdminState;

/// GET `/metrics`, `/healthz` and `/readyz`; 404 for other paths, 405 for other methods.
pub(super) fn router(state: AdminState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .layer(middleware::from_fn_with_state(state.clone(), check_host))
        .with_state(state)
}

async fn metrics(State(state): State<AdminState>) -> Response {
    match state.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn readyz(State(state): State<AdminState>) -> Response {
    match state.readiness.unready() {
        None => "ready\n".into_response(),
        Some(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", why.reason())).into_response()
        }
    }
}

/// Refuses a request that a browser sends for somebody else's name (DNS rebinding): the
/// name in `Host`, and in an absolute target, must be an address or a name of this host.
async fn check_host(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    let named = match named_host(request.version(), request.headers()) {
        Ok(named) => named,
        Err(refusal) => return refusal.into_response(),
    };
    let targets = [named.as_ref(), request.uri().authority()];
    if targets.into_iter().flatten().all(|target| is_ours(target.host(), &state.host_names)) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "unknown host name\n").into_response()
}

/// The one `Host` header; absent only in HTTP/1.0, which no browser speaks but some
/// balancers' probes do.
fn named_host(version: Version, headers: &HeaderMap) -> Result<Option<Authority>, StatusCode> {
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (None, _) if version == Version::HTTP_10 => Ok(None),
        (Some(value), None) => {
            Authority::try_from(value.as_bytes()).map(Some).map_err(|_| StatusCode::BAD_REQUEST)
        }
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

fn is_ours(host: &str, host_names: &[String]) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || host_names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_of_this_host_are_ours_and_others_are_not() {
        let names = ["imap1.example.org".to_owned()];
        for ours in ["127.0.0.1", "[::1]", "10.0.0.7", "LocalHost", "IMAP1.example.org"] {
            assert!(is_ours(ours, &names), "{ours}");
        }
        for foreign in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(!is_ours(foreign, &names), "{foreign}");
        }
    }
}
