//! What a command in flight will have done to the session once it is answered.

/// The mailbox that is selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The argument as the client spelled it: atom, quoted, or literal with its `{n}`,
    /// CRLF and body; at most 1 KiB.
    pub spelling: Box<[u8]>,
    /// EXAMINE instead of SELECT.
    pub read_only: bool,
    /// The command asked for CONDSTORE or QRESYNC.
    pub condstore: bool,
}

/// What an OK means for the session's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    Nothing,
    /// A mailbox is selected; nothing in it where its name is not known.
    Select(Option<Box<Selected>>),
    /// No mailbox is selected.
    Deselect,
    /// These words, one blank between, were confirmed by `* ENABLED`.
    Enable(Vec<u8>),
    /// More words were confirmed than are kept.
    EnableCut,
    /// NOTIFY is in force, or not.
    Notify(bool),
    /// A search result was saved, or is being updated.
    Search { saved: bool, updates: bool },
    /// So many updated searches have ended.
    CancelUpdates(u8),
    /// That mailbox (its name's value, if known) is gone or has another name.
    Remove(Option<Box<[u8]>>),
    /// Anything.
    Unknown,
}
