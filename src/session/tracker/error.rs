//! Why the tracker gives up.

/// Why the client's side cannot be followed any further; the session must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ClientError {
    /// The line has no readable head: it starts with a blank or tab, has two blanks or a
    /// tab behind the tag, control bytes, or neither blank nor line end soon enough.
    #[error("a line without readable tag and command word")]
    Unreadable,
    /// A CR that no LF follows.
    #[error("a bare CR in a line")]
    BareCr,
    /// A NUL outside literals.
    #[error("a NUL in a line")]
    Nul,
    /// Servers differ on whether a bare LF ends the announcement.
    #[error("a literal announced before a bare LF")]
    LiteralBeforeBareLf,
    /// The line ends inside a quoted string.
    #[error("a line that ends inside quotes")]
    OpenQuote,
    /// The literal's size has more than 64 bits.
    #[error("a literal of more than 64 bits of size")]
    LiteralTooLarge,
    /// `{}` or `{+}`.
    #[error("a literal without a size")]
    LiteralWithoutSize,
    /// A line that is no command ends in an announcement; servers differ on what follows.
    #[error("a literal in a line without a command")]
    LiteralWithoutCommand,
    /// A synchronising literal whose refusal could not be told from other lines.
    #[error("a synchronising literal under a tag that no server can answer with")]
    LiteralWithOddTag,
    /// A line start inside a literal reads as a command that changes identity, or as
    /// COMPRESS DEFLATE, which would hide one.
    #[error("a command that changes or hides identity at a line start inside a literal")]
    IdentityInLiteral,
    /// A line that the proxy must answer, but no border for the answer is known.
    #[error("a line for the proxy to answer while the server is not parsed")]
    ForbiddenWhileOpaque,
}

impl ClientError {
    /// The reason for metrics and logs, from a closed set.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::BareCr => "bare-cr",
            Self::Nul => "nul",
            Self::LiteralBeforeBareLf => "literal-before-bare-lf",
            Self::OpenQuote => "open-quote",
            Self::LiteralTooLarge => "literal-too-large",
            Self::LiteralWithoutSize => "literal-without-size",
            Self::LiteralWithoutCommand => "literal-without-command",
            Self::LiteralWithOddTag => "literal-with-odd-tag",
            Self::IdentityInLiteral => "identity-in-literal",
            Self::ForbiddenWhileOpaque => "forbidden-while-opaque",
        }
    }
}

/// Why bytes are no tracker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by another version.
    #[error("tracker state of version {0}")]
    Version(u8),
    /// Cut short, too long, or out of range.
    #[error("broken tracker state")]
    Broken,
}
