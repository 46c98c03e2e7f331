//! What a hand-off must know of the session's state at the server.

use super::Status;
use super::arguments;
use super::effect::{Effect, Selected};

/// Most bytes that are kept of what `* ENABLED` lines named.
pub(super) const ENABLED_BYTES_MAX: usize = 256;

/// What is known of the session's state at the server. It changes when a tagged answer
/// comes, not when a command is sent: on OK, and on the NO to a SELECT, which leaves no
/// mailbox selected (RFC 9051 §6.3.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    pub(super) selected: Option<Box<Selected>>,
    pub(super) enabled: Box<[u8]>,
    pub(super) contexts: u8,
    pub(super) lost: Lost,
    pub(super) flags: Flags,
}

/// The facts that are yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub(super) struct Flags {
    pub(super) notify: bool,
    pub(super) saved_search: bool,
    pub(super) name_unknown: bool,
    pub(super) removed: bool,
    pub(super) enabled_cut: bool,
    pub(super) odd_tag: bool,
    pub(super) unknown_command: bool,
}

/// Whether a command with an effect went by that could not be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Lost {
    #[default]
    Nothing,
    /// A SELECT that is followed makes it good.
    UntilSelect,
    /// Nothing does.
    ForGood,
}

/// Why a session cannot be moved live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockReason {
    /// The server direction is not parsed.
    Opaque,
    /// A command had a tag that no server can answer with.
    OddTag,
    /// A command that is not known succeeded; it may have left anything behind.
    UnknownCommand,
    /// Too many commands were in flight, or two with one tag, to follow what they did.
    LostTrack,
    /// NOTIFY is in force.
    Notify,
    /// A search is being updated (CONTEXT=SEARCH).
    SearchUpdates,
    /// The selected mailbox or a parent of it was deleted or renamed.
    MailboxRemoved,
    /// The selected mailbox's name is too long to be kept, or not readable.
    MailboxName,
    /// `* ENABLED` lines named more than is kept.
    Enabled,
}

impl BlockReason {
    /// The reason for metrics, logs and answers to the operator, from a closed set.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Opaque => "opaque",
            Self::OddTag => "odd-tag",
            Self::UnknownCommand => "unknown-command",
            Self::LostTrack => "lost-track",
            Self::Notify => "notify",
            Self::SearchUpdates => "search-updates",
            Self::MailboxRemoved => "mailbox-removed",
            Self::MailboxName => "mailbox-name",
            Self::Enabled => "enabled",
        }
    }
}

impl Facts {
    /// The selected mailbox. Nothing also where it is selected but its name is not known
    /// ([`BlockReason::MailboxName`]).
    pub fn selected(&self) -> Option<&Selected> {
        self.selected.as_deref()
    }

    /// What `* ENABLED` lines confirmed, as spelled by the server, one blank between.
    pub fn enabled(&self) -> &[u8] {
        &self.enabled
    }

    /// Whether NOTIFY SET is in force.
    pub fn notify(&self) -> bool {
        self.flags.notify
    }

    /// Whether a SEARCH RETURN (SAVE) ran since the mailbox was selected.
    pub fn saved_search(&self) -> bool {
        self.flags.saved_search
    }

    /// Why the session cannot be moved live, as far as the facts say.
    pub(super) fn blocked(&self) -> Option<BlockReason> {
        let reasons = [
            (self.flags.odd_tag, BlockReason::OddTag),
            (self.flags.unknown_command, BlockReason::UnknownCommand),
            (self.lost != Lost::Nothing, BlockReason::LostTrack),
            (self.flags.notify, BlockReason::Notify),
            (self.contexts > 0, BlockReason::SearchUpdates),
            (self.flags.removed, BlockReason::MailboxRemoved),
            (self.flags.name_unknown, BlockReason::MailboxName),
            (self.flags.enabled_cut, BlockReason::Enabled),
        ];
        reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason)
    }

    /// A command with that effect was answered. `fresh` says that no untimed command was
    /// in flight since it was sent.
    pub(super) fn answered(&mut self, effect: Effect, status: Status, fresh: bool) {
        match (effect, status) {
            (Effect::Select(selected), Status::Ok) => {
                self.deselect();
                self.flags.name_unknown = selected.is_none();
                self.selected = selected;
                if fresh && self.lost == Lost::UntilSelect {
                    self.lost = Lost::Nothing;
                }
            }
            (Effect::Select(_), Status::No) => self.deselect(),
            (effect, Status::Ok) => self.succeeded(effect),
            (_, Status::No | Status::Bad) => {}
        }
    }

    fn succeeded(&mut self, effect: Effect) {
        match effect {
            Effect::Nothing | Effect::Select(_) => {}
            Effect::Deselect => self.deselect(),
            Effect::Enable(words) => self.enable(&words),
            Effect::EnableCut => self.flags.enabled_cut = true,
            Effect::Notify(set) => self.flags.notify = set,
            Effect::Search { saved, updates } => {
                self.flags.saved_search |= saved;
                self.contexts = self.contexts.saturating_add(u8::from(updates));
            }
            Effect::CancelUpdates(count) => self.contexts = self.contexts.saturating_sub(count),
            Effect::Remove(name) => self.flags.removed |= self.concerns(name.as_deref()),
            Effect::Unknown => self.flags.unknown_command = true,
        }
    }

    /// A command with that effect was sent, but its answer will not be known for certain.
    pub(super) fn lose(&mut self, effect: &Effect) {
        match effect {
            Effect::Nothing => return,
            Effect::Enable(_) | Effect::EnableCut => self.lost = Lost::ForGood,
            Effect::Notify(_) => self.flags.notify = true,
            _ => {}
        }
        if self.lost == Lost::Nothing {
            self.lost = Lost::UntilSelect;
        }
    }

    fn deselect(&mut self) {
        self.selected = None;
        self.contexts = 0;
        self.flags.saved_search = false;
        self.flags.name_unknown = false;
        self.flags.removed = false;
    }

    fn enable(&mut self, words: &[u8]) {
        let mut all = self.enabled.to_vec();
        for word in words.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            let known = all.split(|byte| *byte == b' ').any(|old| old.eq_ignore_ascii_case(word));
            if known {
                continue;
            }
            if all.len().saturating_add(word.len()) >= ENABLED_BYTES_MAX {
                self.flags.enabled_cut = true;
                return;
            }
            if !all.is_empty() {
                all.push(b' ');
            }
            all.extend_from_slice(word);
        }
        self.enabled = all.into();
    }

    /// Whether the mailbox of that name may be the selected one or a parent of it. The
    /// separator is not known here, so any longer name counts.
    fn concerns(&self, name: Option<&[u8]>) -> bool {
        let Some(selected) = &self.selected else {
            return false;
        };
        let Some(name) = name else {
            return true;
        };
        let selected = arguments::value(&selected.spelling);
        selected.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
    }
}
