//! The response codes that decide what a client is told about its login.

/// A response code (RFC 9051 §7.1, RFC 5530) as far as the proxy tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResponseCode {
    /// `ALERT`: the text must be shown to the user.
    Alert,
    /// `AUTHENTICATIONFAILED`: wrong user or password.
    AuthenticationFailed,
    /// `AUTHORIZATIONFAILED`: right password, but not for that identity.
    AuthorizationFailed,
    /// `CANNOT`: can never succeed.
    Cannot,
    /// `CAPABILITY`: the argument is a capability list.
    Capability,
    /// `CONTACTADMIN`.
    ContactAdmin,
    /// `CORRUPTION`: the server found broken state.
    Corruption,
    /// `EXPIRED`: the password is too old.
    Expired,
    /// `INUSE`: another session holds what is needed.
    InUse,
    /// `LIMIT`: over a limit.
    Limit,
    /// `PRIVACYREQUIRED`: needs TLS.
    PrivacyRequired,
    /// `REFERRAL`: another server should be asked (RFC 2221).
    Referral,
    /// `SERVERBUG`.
    ServerBug,
    /// `SYS/PERM`: a lasting system fault.
    SysPerm,
    /// `SYS/TEMP`: a passing system fault.
    SysTemp,
    /// `UNAVAILABLE`: a part behind the server is down.
    Unavailable,
    /// Any other.
    Other,
}

/// What the client gets for a backend's NO with some code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoMeans {
    /// The same code goes to the client.
    SameCode,
    /// The client gets `[UNAVAILABLE]`.
    Unavailable,
    /// The client gets `[AUTHENTICATIONFAILED]`.
    AuthenticationFailed,
}

impl ResponseCode {
    const NAMES: [(&'static str, Self); 16] = [
        ("ALERT", Self::Alert),
        ("AUTHENTICATIONFAILED", Self::AuthenticationFailed),
        ("AUTHORIZATIONFAILED", Self::AuthorizationFailed),
        ("CANNOT", Self::Cannot),
        ("CAPABILITY", Self::Capability),
        ("CONTACTADMIN", Self::ContactAdmin),
        ("CORRUPTION", Self::Corruption),
        ("EXPIRED", Self::Expired),
        ("INUSE", Self::InUse),
        ("LIMIT", Self::Limit),
        ("PRIVACYREQUIRED", Self::PrivacyRequired),
        ("REFERRAL", Self::Referral),
        ("SERVERBUG", Self::ServerBug),
        ("SYS/PERM", Self::SysPerm),
        ("SYS/TEMP", Self::SysTemp),
        ("UNAVAILABLE", Self::Unavailable),
    ];

    /// The code of that name, in any case; [`Self::Other`] when unknown.
    pub fn of(name: &[u8]) -> Self {
        Self::NAMES
            .iter()
            .find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
            .map_or(Self::Other, |(_, code)| *code)
    }

    /// The code's name on the wire, upper case; empty for [`Self::Other`].
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, code)| *code == self).map_or("", |(name, _)| name)
    }

    /// What a backend's NO with this code means for the client who logs in.
    ///
    /// A referral never reaches the client; whoever can follow it does so before
    /// asking here, and one that cannot be followed is no wrong password.
    pub const fn no_means(self) -> NoMeans {
        match self {
            Self::Alert
            | Self::AuthenticationFailed
            | Self::AuthorizationFailed
            | Self::ContactAdmin
            | Self::Expired
            | Self::Limit
            | Self::PrivacyRequired
            | Self::Unavailable => NoMeans::SameCode,
            Self::Corruption
            | Self::InUse
            | Self::Referral
            | Self::ServerBug
            | Self::SysPerm
            | Self::SysTemp => NoMeans::Unavailable,
            Self::Cannot | Self::Capability | Self::Other => NoMeans::AuthenticationFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_code_is_found_by_its_name_in_any_case() {
        for (name, code) in ResponseCode::NAMES {
            assert_eq!(ResponseCode::of(name.to_lowercase().as_bytes()), code);
            assert_eq!(code.name(), name);
        }
        assert_eq!(ResponseCode::of(b"TRYCREATE"), ResponseCode::Other);
        assert_eq!(ResponseCode::Other.name(), "");
    }

    #[test]
    fn an_outage_code_is_never_a_wrong_password() {
        for name in ["SERVERBUG", "INUSE", "CORRUPTION", "SYS/TEMP", "SYS/PERM", "REFERRAL"] {
            assert_eq!(ResponseCode::of(name.as_bytes()).no_means(), NoMeans::Unavailable);
        }
        assert_eq!(ResponseCode::of(b"NONSENSE").no_means(), NoMeans::AuthenticationFailed);
        assert_eq!(ResponseCode::Limit.no_means(), NoMeans::SameCode);
    }
}
