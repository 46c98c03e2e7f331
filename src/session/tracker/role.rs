//! What a command can do to the state of a session.

use crate::protocol::command_kind::CommandKind;

/// What must be known of a command besides its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Leaves nothing behind in the session.
    Plain,
    /// SELECT, EXAMINE
    Select,
    /// CLOSE, UNSELECT
    Deselect,
    /// ENABLE
    Enable,
    /// NOTIFY
    Notify,
    /// SEARCH, SORT, THREAD: may save a result or ask for updates of it
    Search,
    /// CANCELUPDATE
    CancelUpdate,
    /// DELETE, RENAME
    Remove,
    /// IDLE
    Idle,
    /// UID: the next word tells
    Uid,
    /// Not known; it may leave anything behind.
    Unknown,
}

impl Role {
    const ALL: [Self; 11] = [
        Self::Plain,
        Self::Select,
        Self::Deselect,
        Self::Enable,
        Self::Notify,
        Self::Search,
        Self::CancelUpdate,
        Self::Remove,
        Self::Idle,
        Self::Uid,
        Self::Unknown,
    ];

    /// Kind and role of a command word in any case.
    pub(super) fn of(word: &[u8]) -> (CommandKind, Self) {
        let kind = CommandKind::of(word);
        let role = match kind {
            CommandKind::Select | CommandKind::Examine => Self::Select,
            CommandKind::Close => Self::Deselect,
            CommandKind::Enable => Self::Enable,
            CommandKind::Delete => Self::Remove,
            CommandKind::Search => Self::Search,
            CommandKind::Idle => Self::Idle,
            CommandKind::Other => Self::of_other(word),
            _ => Self::Plain,
        };
        (kind, role)
    }

    /// Kind and role of UID, from the word behind it.
    pub(super) fn of_uid(word: &[u8]) -> (CommandKind, Self) {
        let is = |known: &str| known.as_bytes().eq_ignore_ascii_case(word);
        let kind = CommandKind::of_uid(word);
        let role = match kind {
            CommandKind::UidSearch => Self::Search,
            CommandKind::Other if is("SORT") || is("THREAD") => Self::Search,
            CommandKind::Other if is("REPLACE") => Self::Plain,
            CommandKind::Other => Self::Unknown,
            _ => Self::Plain,
        };
        (kind, role)
    }

    fn of_other(word: &[u8]) -> Self {
        /// Known to leave nothing behind: an allow-list, since a wrong guess would lose
        /// state in a hand-off.
        const PLAIN: [&[u8]; 24] = [
            b"CAPABILITY",
            b"SUBSCRIBE",
            b"UNSUBSCRIBE",
            b"GETACL",
            b"SETACL",
            b"DELETEACL",
            b"LISTRIGHTS",
            b"MYRIGHTS",
            b"GETQUOTA",
            b"GETQUOTAROOT",
            b"SETQUOTA",
            b"GETMETADATA",
            b"SETMETADATA",
            b"GETANNOTATION",
            b"SETANNOTATION",
            b"XLIST",
            b"RLIST",
            b"RLSUB",
            b"GENURLAUTH",
            b"RESETKEY",
            b"URLFETCH",
            b"ESEARCH",
            b"REPLACE",
            b"GETJMAPACCESS",
        ];
        let is = |known: &[u8]| known.eq_ignore_ascii_case(word);
        match () {
            () if is(b"UID") => Self::Uid,
            () if is(b"NOTIFY") => Self::Notify,
            () if is(b"CANCELUPDATE") => Self::CancelUpdate,
            () if is(b"RENAME") => Self::Remove,
            () if is(b"SORT") || is(b"THREAD") => Self::Search,
            () if PLAIN.iter().any(|known| is(known)) => Self::Plain,
            () => Self::Unknown,
        }
    }

    /// Most bytes of the arguments that are kept to see what the command does.
    pub(super) const fn captured_bytes_max(self) -> usize {
        match self {
            Self::Plain | Self::Deselect | Self::Enable | Self::Idle | Self::Unknown => 0,
            Self::Notify | Self::Uid => 16,
            Self::Search | Self::CancelUpdate => 256,
            Self::Select | Self::Remove => 1200,
        }
    }

    /// The role's number in the state's encoding.
    pub(super) fn code(self) -> u8 {
        Self::ALL.iter().zip(0_u8..).find(|(role, _)| **role == self).map_or(0, |(_, code)| code)
    }

    /// The role of that number.
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}
