//! The closed sets of label values. A metric label is a configured name or a word from here.

macro_rules! label_set {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$member_doc:meta])* $member:ident => $label:literal,)+ }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$member_doc])* $member,)+
        }

        impl $name {
            /// Every member of the set.
            pub const ALL: &'static [Self] = &[$(Self::$member),+];
            /// How many members the set has.
            pub const COUNT: usize = Self::ALL.len();

            /// The label value in the exposition.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$member => $label,)+
                }
            }

            /// The member's place in [`Self::ALL`], and in tables of handles.
            #[allow(clippy::as_conversions, reason = "a fieldless enum with repr(u8) is its number")]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label_set! {
    /// How a backend answered a command.
    CommandStatus {
        /// Tagged OK.
        Ok => "ok",
        /// Tagged NO.
        No => "no",
        /// Tagged BAD, the backend's or the proxy's own.
        Bad => "bad",
    }
}

label_set! {
    /// Which way relayed bytes went, counted inside TLS.
    Direction {
        /// From the client to the backend.
        ToBackend => "to_backend",
        /// From the backend to the client.
        ToClient => "to_client",
    }
}

label_set! {
    /// The parts of a login, in the order they happen.
    Stage {
        /// The client's TLS handshake.
        Tls => "tls",
        /// From the greeting to complete credentials: the client's own time.
        Client => "client",
        /// The lookup chain, to the route.
        Lookup => "lookup",
        /// Reaching the backend: TCP and TLS.
        Connect => "connect",
        /// The backend's greeting and capabilities.
        Greeting => "greeting",
        /// From credentials sent to the backend's tagged answer.
        Auth => "auth",
    }
}

label_set! {
    /// How the client signed in.
    LoginMechanism {
        /// The LOGIN command.
        Login => "login",
        /// AUTHENTICATE PLAIN.
        Plain => "plain",
        /// AUTHENTICATE LOGIN, the obsolete mechanism.
        SaslLogin => "sasl_login",
        /// AUTHENTICATE SCRAM-SHA-256, relayed.
        ScramSha256 => "scram_sha_256",
        /// AUTHENTICATE SCRAM-SHA-1, relayed.
        ScramSha1 => "scram_sha_1",
        /// AUTHENTICATE OAUTHBEARER, relayed.
        OAuthBearer => "oauthbearer",
        /// AUTHENTICATE XOAUTH2, relayed.
        XOAuth2 => "xoauth2",
        /// An AUTHENTICATE whose mechanism is not offered.
        Other => "other",
    }
}

label_set! {
    /// How one login attempt ended.
    LoginResult {
        /// The backend said OK and the session is relayed.
        Ok => "ok",
        /// Wrong credentials, unknown user or no route.
        AuthFailed => "auth_failed",
        /// The backend refused with another definite code (EXPIRED, CONTACTADMIN, ...).
        Refused => "refused",
        /// It could not be tried or finished: the client got `[UNAVAILABLE]`.
        Unavailable => "unavailable",
        /// Over a limit, of the proxy or of the backend: the client got `[LIMIT]`.
        Limit => "limit",
        /// Credentials in clear text.
        Privacy => "privacy",
        /// The client cancelled AUTHENTICATE with `*`.
        Cancelled => "cancelled",
        /// The credentials could not be read: tagged BAD.
        Malformed => "malformed",
        /// The mechanism is not offered on this listener.
        NotOffered => "not_offered",
        /// The backend said OK, but the client had left without another word by then.
        ClientGone => "client_gone",
        /// A loop or a broken configuration: the client got `[SERVERBUG]`.
        ServerBug => "server_bug",
    }
}

label_set! {
    /// The lookup that decided a route.
    LookupSource {
        /// A pin of the operator.
        Pins => "pins",
        /// The users file.
        Users => "users",
        /// The table of domains.
        Domains => "domains",
        /// The list of patterns.
        Patterns => "patterns",
        /// The slot table.
        Hash => "hash",
        /// The fixed shard.
        Shard => "shard",
        /// A server asked by nginx's protocol.
        AuthHttp => "auth_http",
        /// A search in an LDAP tree.
        Ldap => "ldap",
        /// A key of Redis.
        Redis => "redis",
        /// A query of a database.
        Sql => "sql",
        /// None of them knew the user.
        None => "none",
    }
}

label_set! {
    /// What a lookup said.
    LookupResult {
        /// A shard was found.
        Found => "found",
        /// The user is not known.
        Miss => "miss",
        /// A shard was found in the cache.
        CachedFound => "cached_found",
        /// The cache knows that the user is not known.
        CachedMiss => "cached_miss",
        /// The source failed; a former answer took its place.
        Stale => "stale",
        /// The source failed, or its answer cannot be used.
        Failed => "failed",
        /// The source knows that the login must not be.
        Refused => "refused",
    }
}

label_set! {
    /// A bound that a client or the whole proxy ran into.
    Limit {
        /// Descriptors for sessions in all: accepting pauses.
        Sessions => "sessions",
        /// The share of connections that are not logged in.
        Unauthenticated => "unauthenticated",
        /// Connections not logged in from one address.
        UnauthenticatedPerAddress => "unauthenticated_per_address",
        /// Connections of one listener.
        SessionsPerListener => "sessions_per_listener",
        /// Sessions of one user.
        SessionsPerUser => "sessions_per_user",
        /// Sessions of one user from one address.
        SessionsPerUserAddress => "sessions_per_user_address",
        /// Sessions on one backend.
        BackendSessions => "backend_sessions",
        /// Logins that wait for one backend.
        LoginQueue => "login_queue",
        /// Logins that wait.
        HeldLogins => "held_logins",
        /// Login attempts on one connection.
        LoginTries => "login_tries",
        /// Syntax errors on one connection before login.
        SyntaxErrors => "syntax_errors",
        /// Length of a line before login.
        LineBytes => "line_bytes",
        /// Length of a literal before login.
        LiteralBytes => "literal_bytes",
        /// Length of a whole command with its literals before login.
        CommandBytes => "command_bytes",
        /// Length of a user name.
        UserNameBytes => "user_name_bytes",
        /// Time from accept to login.
        LoginDeadline => "login_deadline",
        /// Idle time after login.
        Idle => "idle",
    }
}

label_set! {
    /// What the operator lets a backend do.
    BackendState {
        /// It takes users.
        Up => "up",
        /// No new users.
        Drain => "drain",
        /// Taken only while no other can be used.
        Standby => "standby",
        /// Nobody.
        Down => "down",
    }
}

label_set! {
    /// How a lookup of a backend's name ended.
    DnsResult {
        /// With addresses.
        Ok => "ok",
        /// The name servers refused, failed or could not be reached.
        Failed => "failed",
        /// There is no such name, it has no addresses, or its service is switched off.
        Empty => "empty",
        /// No name server answered in time.
        Timeout => "timeout",
    }
}

label_set! {
    /// What became of a configuration that was read again.
    ReloadResult {
        /// It is in force.
        Applied => "applied",
        /// It was refused; the former one stays.
        Refused => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! assert_closed {
        ($($set:ident),+) => {$(
            let mut seen = std::collections::HashSet::new();
            for (place, member) in $set::ALL.iter().enumerate() {
                assert_eq!(member.index(), place);
                let label = member.label();
                assert!(seen.insert(label), "{label} stands twice");
                let plain = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
                assert!(plain, "{label} is no plain word");
            }
        )+};
    }

    #[test]
    fn every_label_is_a_plain_word_that_stands_once_at_its_index() {
        assert_closed!(CommandStatus, Direction, Stage, LoginMechanism, LoginResult);
        assert_closed!(LookupSource, LookupResult, Limit, BackendState, ReloadResult, DnsResult);
    }
}
