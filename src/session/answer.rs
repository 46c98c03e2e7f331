//! What a client is told about its login; the design's table of answers.

use crate::names::SessionId;
use crate::protocol::command::Tag;
use crate::protocol::response::{Code, Status};
use crate::protocol::response_code::{NoMeans, ResponseCode};
use crate::protocol::strings;

const CANCELLED: &str = "Authentication cancelled.";

/// The tagged answer to a login that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Wrong user or password, unknown user, no route: one text for all of them.
    AuthenticationFailed,
    /// The same with the words of the server that checked the password, where the operator
    /// lets clients see them.
    Refused(String),
    /// A backend or lookup cannot be reached or cannot be understood.
    Unavailable,
    /// A loop or a broken configuration.
    ServerBug,
    /// Over a limit of the proxy.
    Limit,
    /// A login in clear text.
    PrivacyRequired,
    /// The backend's NO with a code that is passed on.
    Backend {
        /// One that [`ResponseCode::no_means`] passes on.
        code: ResponseCode,
        /// Cleaned text.
        text: String,
    },
    /// The client cancelled the exchange with `*`.
    Cancelled,
    /// The same, or broken, with this text, when the server had refused the login already: BAD
    /// all the same (RFC 9051 section 6.2.2), and a failed login.
    Refusal(&'static str),
    /// The client broke the protocol.
    Bad(&'static str),
}

impl Answer {
    /// What the client gets for a backend's tagged answer to its login; `None` for OK,
    /// which is no failure.
    pub fn of_backend(status: Status, code: Option<&Code<'_>>, text: &[u8]) -> Option<Self> {
        match status {
            Status::Ok => None,
            Status::No => Some(Self::of_no(code.map_or(ResponseCode::Other, Code::kind), text)),
            Status::Bad | Status::Bye | Status::Preauth => Some(Self::Unavailable),
        }
    }

    fn of_no(code: ResponseCode, text: &[u8]) -> Self {
        match code.no_means() {
            // The backend's own text could tell unknown users from wrong passwords.
            _ if code == ResponseCode::AuthenticationFailed => Self::AuthenticationFailed,
            NoMeans::AuthenticationFailed => Self::AuthenticationFailed,
            NoMeans::Unavailable => Self::Unavailable,
            NoMeans::SameCode => Self::Backend { code, text: strings::clean_text(text) },
        }
    }

    /// Whether it says that the credentials were wrong, so that the delay of failed
    /// logins applies.
    pub const fn is_auth_failed(&self) -> bool {
        matches!(self, Self::AuthenticationFailed | Self::Refused(_) | Self::Refusal(_))
    }

    /// The answer to a client that ended an exchange in which it had been refused already.
    #[must_use]
    pub fn of_refused(self) -> Self {
        match self {
            Self::Cancelled => Self::Refusal(CANCELLED),
            Self::Bad(text) => Self::Refusal(text),
            other => other,
        }
    }

    /// Whether it says that the login could not be tried.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable | Self::Backend { code: ResponseCode::Unavailable, .. })
    }

    /// Whether it says that a limit is reached, the proxy's or the backend's.
    pub const fn is_limit(&self) -> bool {
        matches!(self, Self::Limit | Self::Backend { code: ResponseCode::Limit, .. })
    }

    /// The metric label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::AuthenticationFailed | Self::Refused(_) | Self::Refusal(_) => {
                "authentication_failed"
            }
            Self::Unavailable => "unavailable",
            Self::ServerBug => "server_bug",
            Self::Limit => "limit",
            Self::PrivacyRequired => "privacy_required",
            Self::Backend { .. } => "backend_no",
            Self::Cancelled => "cancelled",
            Self::Bad(_) => "bad",
        }
    }

    /// Appends the tagged line.
    pub fn encode(&self, tag: &Tag, session: &SessionId, out: &mut Vec<u8>) {
        out.extend_from_slice(tag.as_bytes());
        let status = match self {
            Self::Cancelled | Self::Refusal(_) | Self::Bad(_) => " BAD ",
            _ => " NO ",
        };
        out.extend_from_slice(status.as_bytes());
        self.encode_text(session, out);
    }

    /// Appends the same as an untagged BYE, for clients that must be sent away.
    pub fn encode_bye(&self, session: &SessionId, out: &mut Vec<u8>) {
        out.extend_from_slice(b"* BYE ");
        self.encode_text(session, out);
    }

    fn code(&self) -> Option<ResponseCode> {
        match self {
            Self::AuthenticationFailed | Self::Refused(_) => {
                Some(ResponseCode::AuthenticationFailed)
            }
            Self::Unavailable => Some(ResponseCode::Unavailable),
            Self::ServerBug => Some(ResponseCode::ServerBug),
            Self::Limit => Some(ResponseCode::Limit),
            Self::PrivacyRequired => Some(ResponseCode::PrivacyRequired),
            Self::Backend { code, .. } => Some(*code),
            Self::Cancelled | Self::Refusal(_) | Self::Bad(_) => None,
        }
    }

    fn encode_text(&self, session: &SessionId, out: &mut Vec<u8>) {
        if let Some(code) = self.code() {
            out.extend_from_slice(format!("[{}] ", code.name()).as_bytes());
        }
        let text = match self {
            Self::AuthenticationFailed => "Authentication failed.",
            Self::Refused(words) => words,
            Self::Unavailable => "Please try again later.",
            Self::ServerBug => "Internal error, please tell your administrator.",
            Self::Limit => "Over a limit, please try again later.",
            Self::PrivacyRequired => "Log in over TLS only.",
            Self::Backend { text, .. } if text.is_empty() => "Login refused.",
            Self::Backend { text, .. } => text,
            Self::Cancelled => CANCELLED,
            Self::Refusal(text) | Self::Bad(text) => text,
        };
        out.extend_from_slice(text.as_bytes());
        if matches!(self, Self::Unavailable | Self::ServerBug) {
            out.extend_from_slice(format!(" ({session})").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the answer to a login that succeeded: the list in the code, and before it
/// untagged where the client had asked CAPABILITY itself, since such clients do not read
/// the code. `capabilities` is filtered already; `text` is cleaned here.
pub fn encode_login_ok(
    tag: &Tag,
    capabilities: &[u8],
    text: &[u8],
    asked_capability: bool,
    out: &mut Vec<u8>,
) {
    if asked_capability {
        out.extend_from_slice(b"* CAPABILITY ");
        out.extend_from_slice(capabilities);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(tag.as_bytes());
    out.extend_from_slice(b" OK [CAPABILITY ");
    out.extend_from_slice(capabilities);
    out.extend_from_slice(b"] ");
    let text = strings::clean_text(text);
    out.extend_from_slice(if text.is_empty() { b"Logged in." } else { text.as_bytes() });
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::response::{self, Response};

    fn session() -> SessionId {
        SessionId::from_bits(7)
    }

    fn told(line: &[u8]) -> String {
        let Ok(Response::Tagged { status, code, text, .. }) = response::parse(line) else {
            panic!("{line:?}")
        };
        let answer = Answer::of_backend(status, code.as_ref(), text).expect("a failure");
        let mut out = Vec::new();
        answer.encode(&Tag::of_line(b"a1").unwrap(), &session(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_backends_no_becomes_what_the_table_says() {
        let failed = "a1 NO [AUTHENTICATIONFAILED] Authentication failed.\r\n";
        assert_eq!(told(b"x NO [AUTHENTICATIONFAILED] no such user"), failed);
        assert_eq!(told(b"x NO bare"), failed);
        assert_eq!(told(b"x NO [NONSENSE] y"), failed);
        assert_eq!(told(b"x NO [limit] too\x07 many"), "a1 NO [LIMIT] too many\r\n");
        for code in [
            "AUTHORIZATIONFAILED",
            "EXPIRED",
            "PRIVACYREQUIRED",
            "CONTACTADMIN",
            "LIMIT",
            "UNAVAILABLE",
            "ALERT",
        ] {
            let line = format!("x NO [{code}] why");
            assert_eq!(told(line.as_bytes()), format!("a1 NO [{code}] why\r\n"));
        }
    }

    /// B-55, B-57.
    #[test]
    fn a_backends_trouble_is_unavailable() {
        let unavailable =
            format!("a1 NO [UNAVAILABLE] Please try again later. ({})\r\n", session());
        for line in [
            "x BAD what",
            "x NO [SERVERBUG] y",
            "x NO [INUSE] y",
            "x NO [CORRUPTION] y",
            "x NO [SYS/TEMP] y",
            "x NO [SYS/PERM] y",
            "x NO [REFERRAL imap://h/] y",
        ] {
            assert_eq!(told(line.as_bytes()), unavailable, "{line}");
        }
        assert_eq!(Answer::of_backend(Status::Ok, None, b""), None);
    }

    #[test]
    fn only_wrong_credentials_are_delayed() {
        assert!(Answer::AuthenticationFailed.is_auth_failed());
        assert!(!Answer::Unavailable.is_auth_failed() && Answer::Unavailable.is_unavailable());
        assert!(!Answer::Cancelled.is_auth_failed());
    }

    /// B-48.
    #[test]
    fn success_lists_capabilities_twice_for_clients_that_asked() {
        let tag = Tag::of_line(b"a1 LOGIN").unwrap();
        let mut out = Vec::new();
        encode_login_ok(&tag, b"IMAP4rev1 IDLE", b"Welcome\r\n", true, &mut out);
        let both = b"* CAPABILITY IMAP4rev1 IDLE\r\na1 OK [CAPABILITY IMAP4rev1 IDLE] Welcome\r\n";
        assert_eq!(out, both);
        out.clear();
        encode_login_ok(&tag, b"IMAP4rev1", b"", false, &mut out);
        assert_eq!(out, b"a1 OK [CAPABILITY IMAP4rev1] Logged in.\r\n");
    }

    #[test]
    fn a_farewell_says_the_same() {
        let mut out = Vec::new();
        Answer::Limit.encode_bye(&session(), &mut out);
        assert_eq!(out, b"* BYE [LIMIT] Over a limit, please try again later.\r\n");
    }
}
