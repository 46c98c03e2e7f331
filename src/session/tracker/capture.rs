//! Keeps the start of a command's arguments where they change the session's state.

use crate::protocol::command_kind::CommandKind;

use super::arguments;
use super::effect::Effect;
use super::role::Role;

/// What stays allocated between commands.
const BYTES_KEPT: usize = 16;

/// The command that the client is sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capture {
    pub(super) kind: CommandKind,
    pub(super) role: Role,
    /// Some bytes are missing.
    pub(super) cut: bool,
    pub(super) args: Vec<u8>,
}

impl Capture {
    /// No command.
    pub(super) const fn new() -> Self {
        Self { kind: CommandKind::Other, role: Role::Plain, cut: false, args: Vec::new() }
    }

    /// A command whose word was read.
    pub(super) fn start(&mut self, kind: CommandKind, role: Role) {
        self.kind = kind;
        self.role = role;
        self.cut = false;
        self.args.clear();
    }

    /// Takes what follows the command word, as it comes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.cut {
            let room = self.bytes_max().saturating_sub(self.args.len());
            let (fits, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.args.extend_from_slice(fits);
            self.cut = room == 0;
            bytes = rest;
        }
    }

    /// Of UID, only a search needs more than its word.
    fn bytes_max(&self) -> usize {
        let searches = || Role::of_uid(arguments::word(&self.args).0).1 == Role::Search;
        if self.role == Role::Uid && self.args.len() >= BYTES_KEPT && searches() {
            return Role::Search.captured_bytes_max();
        }
        self.role.captured_bytes_max()
    }

    /// The kind, known for UID once its line has ended.
    pub(super) fn kind(&self) -> CommandKind {
        match self.role {
            Role::Uid => Role::of_uid(arguments::word(&self.args).0).0,
            _ => self.kind,
        }
    }

    /// What the command will have done; forgets it.
    pub(super) fn finish(&mut self) -> Effect {
        let effect = arguments::effect(self.role, self.kind, &self.args, self.cut);
        self.role = Role::Plain;
        self.args.clear();
        self.args.shrink_to(BYTES_KEPT);
        effect
    }
}
