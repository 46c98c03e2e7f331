//! `admin`, `store`, `shutdown`: the process itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::config::check::{Check, Names, Text};
use crate::config::listener::check_address;
use crate::config::source::Object;

const STORE_PATH: &str = "/var/lib/pointsman/state";
/// The admin socket's name in the store's directory.
const SOCKET_NAME: &str = "admin.sock";
/// Longest path of a Unix socket in bytes, as Linux has it; a name beside it, with nine
/// characters more, must fit too while the socket is made.
const SOCKET_BYTES_MAX: usize = 98;
const LAME_DUCK: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_secs(30);
const SHUTDOWN_MAX: Duration = Duration::from_secs(86_400);

/// Where the proxy is looked at and changed. A reload cannot change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Address of the HTTP listener for `/metrics`, `/healthz`, `/readyz`; absent: none.
    pub address: Option<SocketAddr>,
    /// Unix socket of the admin API; `none`: none. Default: `admin.sock` in `store.path`.
    pub socket: Option<PathBuf>,
}

/// The embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Directory, made when absent. Default `/var/lib/pointsman/state`.
    pub path: PathBuf,
}

/// What SIGTERM does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// `/readyz` says 503 and listeners stay open this long. Default 5 s.
    pub lame_duck: Duration,
    /// Sessions get BYE spread over this time. Default 30 s.
    pub drain: Duration,
}

/// `admin` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    address: Option<Text>,
    socket: Option<Text>,
}

impl RawAdmin {
    pub(super) fn check(
        self,
        store: &Store,
        addresses: &mut Names,
        check: &mut Check<'_>,
    ) -> Admin {
        let socket = self.socket.as_ref();
        let socket = socket.map_or_else(
            || Some(store.path.join(SOCKET_NAME)),
            |text| {
                check.remember(Object::AdminSocket, text.defined);
                check_socket(text, check)
            },
        );
        let address = self.address.and_then(|text| {
            check.remember(Object::AdminAddress, text.defined);
            check_address("address", &text, addresses, check)
        });
        Admin { address, socket }
    }
}

/// The path of a Unix socket, or `none`.
fn check_socket(text: &Text, check: &mut Check<'_>) -> Option<PathBuf> {
    if text.value == "none" {
        return None;
    }
    let path = check.path("socket", text)?;
    if path.as_os_str().len() > SOCKET_BYTES_MAX {
        let expected = format!("a path of at most {SOCKET_BYTES_MAX} bytes, or `none`");
        check.refuse_value("socket", text, expected);
        return None;
    }
    Some(path)
}

/// `store` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    path: Option<Text>,
}

impl RawStore {
    pub(super) fn check(self, check: &mut Check<'_>) -> Store {
        let path = self.path.and_then(|text| {
            check.remember(Object::StorePath, text.defined);
            check.path("path", &text)
        });
        Store { path: path.unwrap_or_else(|| PathBuf::from(STORE_PATH)) }
    }
}

/// `shutdown` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawShutdown {
    lame_duck: Option<Text>,
    drain: Option<Text>,
}

impl RawShutdown {
    pub(super) fn check(self, check: &mut Check<'_>) -> Shutdown {
        let range = Duration::ZERO..=SHUTDOWN_MAX;
        let lame_duck = self.lame_duck.as_ref();
        Shutdown {
            lame_duck: check.duration("lame_duck", lame_duck, range.clone(), LAME_DUCK),
            drain: check.duration("drain", self.drain.as_ref(), range, DRAIN),
        }
    }
}
