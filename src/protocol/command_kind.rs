//! The closed set of command names that metrics tell apart.

/// What a command is, for metrics: 25 names, IDLE kept apart, and all else `Other`.
/// A client's own words never become a label (a client may send `zzz1`, `zzz2`, ...).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CommandKind {
    /// APPEND
    Append,
    /// CLOSE and UNSELECT
    Close,
    /// COPY
    Copy,
    /// CREATE
    Create,
    /// DELETE
    Delete,
    /// ENABLE
    Enable,
    /// EXAMINE
    Examine,
    /// EXPUNGE
    Expunge,
    /// FETCH
    Fetch,
    /// ID
    Id,
    /// LIST
    List,
    /// LOGOUT
    Logout,
    /// LSUB
    Lsub,
    /// MOVE
    Move,
    /// NAMESPACE
    Namespace,
    /// NOOP and CHECK
    Noop,
    /// SEARCH
    Search,
    /// SELECT
    Select,
    /// STATUS
    Status,
    /// STORE
    Store,
    /// UID COPY
    UidCopy,
    /// UID FETCH
    UidFetch,
    /// UID MOVE
    UidMove,
    /// UID SEARCH
    UidSearch,
    /// UID STORE
    UidStore,
    /// IDLE: counted, never part of the latency histogram
    Idle,
    /// Everything else
    Other,
}

impl CommandKind {
    /// All kinds, in the order of [`Self::index`].
    pub const ALL: [Self; 27] = [
        Self::Append,
        Self::Close,
        Self::Copy,
        Self::Create,
        Self::Delete,
        Self::Enable,
        Self::Examine,
        Self::Expunge,
        Self::Fetch,
        Self::Id,
        Self::List,
        Self::Logout,
        Self::Lsub,
        Self::Move,
        Self::Namespace,
        Self::Noop,
        Self::Search,
        Self::Select,
        Self::Status,
        Self::Store,
        Self::UidCopy,
        Self::UidFetch,
        Self::UidMove,
        Self::UidSearch,
        Self::UidStore,
        Self::Idle,
        Self::Other,
    ];

    /// The kind's place in a table of handles: 0 to 26.
    pub fn index(self) -> usize {
        usize::from(u8::from(self))
    }

    /// The kind with that number, as written by the state's encoding.
    pub fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Close => "close",
            Self::Copy => "copy",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Enable => "enable",
            Self::Examine => "examine",
            Self::Expunge => "expunge",
            Self::Fetch => "fetch",
            Self::Id => "id",
            Self::List => "list",
            Self::Logout => "logout",
            Self::Lsub => "lsub",
            Self::Move => "move",
            Self::Namespace => "namespace",
            Self::Noop => "noop",
            Self::Search => "search",
            Self::Select => "select",
            Self::Status => "status",
            Self::Store => "store",
            Self::UidCopy => "uid_copy",
            Self::UidFetch => "uid_fetch",
            Self::UidMove => "uid_move",
            Self::UidSearch => "uid_search",
            Self::UidStore => "uid_store",
            Self::Idle => "idle",
            Self::Other => "other",
        }
    }

    /// The kind of a command word in any case, e.g. `fetch`; `UID` alone is `Other`
    /// (see [`Self::of_uid`]).
    pub fn of(word: &[u8]) -> Self {
        const WORDS: [(&[u8], CommandKind); 23] = [
            (b"APPEND", CommandKind::Append),
            (b"CLOSE", CommandKind::Close),
            (b"UNSELECT", CommandKind::Close),
            (b"COPY", CommandKind::Copy),
            (b"CREATE", CommandKind::Create),
            (b"DELETE", CommandKind::Delete),
            (b"ENABLE", CommandKind::Enable),
            (b"EXAMINE", CommandKind::Examine),
            (b"EXPUNGE", CommandKind::Expunge),
            (b"FETCH", CommandKind::Fetch),
            (b"ID", CommandKind::Id),
            (b"IDLE", CommandKind::Idle),
            (b"LIST", CommandKind::List),
            (b"LOGOUT", CommandKind::Logout),
            (b"LSUB", CommandKind::Lsub),
            (b"MOVE", CommandKind::Move),
            (b"NAMESPACE", CommandKind::Namespace),
            (b"NOOP", CommandKind::Noop),
            (b"CHECK", CommandKind::Noop),
            (b"SEARCH", CommandKind::Search),
            (b"SELECT", CommandKind::Select),
            (b"STATUS", CommandKind::Status),
            (b"STORE", CommandKind::Store),
        ];
        WORDS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(word))
            .map_or(Self::Other, |(_, kind)| *kind)
    }

    /// The kind of the word behind `UID`, in any case.
    pub fn of_uid(word: &[u8]) -> Self {
        match Self::of(word) {
            Self::Copy => Self::UidCopy,
            Self::Fetch => Self::UidFetch,
            Self::Move => Self::UidMove,
            Self::Search => Self::UidSearch,
            Self::Store => Self::UidStore,
            Self::Expunge => Self::Expunge,
            _ => Self::Other,
        }
    }
}

impl From<CommandKind> for u8 {
    #[allow(clippy::as_conversions, reason = "a fieldless enum with repr(u8) is its number")]
    fn from(kind: CommandKind) -> Self {
        kind as Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_at_its_own_index() {
        for (place, kind) in CommandKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), place);
            assert_eq!(CommandKind::from_index(u8::from(kind)), Some(kind));
        }
    }

    #[test]
    fn words_are_known_in_any_case_and_others_are_other() {
        assert_eq!(CommandKind::of(b"fetch"), CommandKind::Fetch);
        assert_eq!(CommandKind::of(b"zzz1"), CommandKind::Other);
        assert_eq!(CommandKind::of_uid(b"Fetch"), CommandKind::UidFetch);
        assert_eq!(CommandKind::of_uid(b"LOGIN"), CommandKind::Other);
    }
}
