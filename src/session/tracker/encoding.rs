//! The state as bytes, with a version: numbers little-endian, fields in the order of
//! their declaration.

use crate::protocol::command_kind::CommandKind;

use super::capabilities::List;
use super::capture::Capture;
use super::client::{self, ClientSide, Sort, Stall};
use super::conversation::Conversation;
use super::effect::{Effect, Selected};
use super::facts::{Facts, Flags, Lost};
use super::flight::{Answered, Entry, Flight, Marks};
use super::guard::Guard;
use super::inline::Inline;
use super::line::{Line, Quote};
use super::literal::{Brace, Size};
use super::role::Role;
use super::server::{self, ServerSide};
use super::{DecodeError, Status, TIMED_MAX, Tracker};

/// The version that this code writes and reads.
const VERSION: u8 = 1;

/// Appends the tracker's state.
pub(super) fn encode(tracker: &Tracker, out: &mut Vec<u8>) {
    out.push(VERSION);
    tracker.client.write(out);
    tracker.server.write(out);
    tracker.conversation.write(out);
}

/// Reads a tracker's state.
pub(super) fn decode(bytes: &[u8]) -> Result<Tracker, DecodeError> {
    let (version, left) = bytes.split_first().ok_or(DecodeError::Broken)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    let mut reader = Reader { left };
    let tracker = read_tracker(&mut reader).ok_or(DecodeError::Broken)?;
    if reader.left.is_empty() { Ok(tracker) } else { Err(DecodeError::Broken) }
}

fn read_tracker(from: &mut Reader<'_>) -> Option<Tracker> {
    Some(Tracker {
        client: ClientSide::read(from)?,
        server: ServerSide::read(from)?,
        conversation: Conversation::read(from)?,
    })
}

/// Bytes not read yet.
struct Reader<'b> {
    left: &'b [u8],
}

impl<'b> Reader<'b> {
    fn bytes(&mut self, len: usize) -> Option<&'b [u8]> {
        let (bytes, left) = self.left.split_at_checked(len)?;
        self.left = left;
        Some(bytes)
    }
}

/// A part of the state.
trait Part: Sized {
    fn write(&self, out: &mut Vec<u8>);
    fn read(from: &mut Reader<'_>) -> Option<Self>;
}

impl Part for u8 {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        from.bytes(1)?.first().copied()
    }
}

impl Part for u16 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self::from_le_bytes(from.bytes(2)?.try_into().ok()?))
    }
}

impl Part for u64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self::from_le_bytes(from.bytes(8)?.try_into().ok()?))
    }
}

impl Part for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        match u8::read(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Part> Part for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        self.is_some().write(out);
        if let Some(part) = self {
            part.write(out);
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        if bool::read(from)? { Some(Some(T::read(from)?)) } else { Some(None) }
    }
}

impl<T: Part> Part for Box<T> {
    fn write(&self, out: &mut Vec<u8>) {
        T::write(self, out);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        T::read(from).map(Self::new)
    }
}

impl Part for Vec<u8> {
    fn write(&self, out: &mut Self) {
        // Nothing that is kept comes near 4 GiB; were it longer, decoding would refuse it.
        u64::try_from(self.len()).unwrap_or(u64::MAX).write(out);
        out.extend_from_slice(self);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let len = usize::try_from(u64::read(from)?).ok()?;
        Some(from.bytes(len)?.to_vec())
    }
}

impl Part for Box<[u8]> {
    fn write(&self, out: &mut Vec<u8>) {
        self.to_vec().write(out);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Vec::read(from).map(Self::from)
    }
}

impl<const N: usize> Part for Inline<N> {
    fn write(&self, out: &mut Vec<u8>) {
        u8::try_from(self.len()).unwrap_or(u8::MAX).write(out);
        out.extend_from_slice(self.as_slice());
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let len = usize::from(u8::read(from)?);
        let mut inline = Self::new();
        (inline.extend(from.bytes(len)?) == len).then_some(inline)
    }
}

/// A struct is its fields, one behind the other.
macro_rules! fields {
    ($name:ty { $($field:ident),+ $(,)? }) => {
        impl Part for $name {
            fn write(&self, out: &mut Vec<u8>) {
                $(self.$field.write(out);)+
            }

            fn read(from: &mut Reader<'_>) -> Option<Self> {
                Some(Self { $($field: Part::read(from)?),+ })
            }
        }
    };
}

/// An enum is the number of its variant, then the variant's fields.
macro_rules! variants {
    ($name:ty { $($code:literal => $variant:ident $(($($field:ident),+))?),+ $(,)? }) => {
        impl Part for $name {
            fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $(($($field),+))? => {
                        out.push($code);
                        $($($field.write(out);)+)?
                    })+
                }
            }

            fn read(from: &mut Reader<'_>) -> Option<Self> {
                match u8::read(from)? {
                    $($code => Some(Self::$variant $(($({
                        let $field = Part::read(from)?;
                        $field
                    }),+))?),)+
                    _ => None,
                }
            }
        }
    };
}

fields!(ClientSide { phase, sort, line, guard, held, capture, early, stall, check_literal_lines });
variants!(client::Phase { 0 => Head, 1 => Line, 2 => Literal(left), 3 => Waiting(bytes) });
variants!(Sort {
    0 => Empty, 1 => Lone, 2 => Done, 3 => Forbidden, 4 => Uncounted, 5 => Untimed, 6 => Timed,
});
variants!(Stall { 0 => Nothing, 1 => Answers, 2 => Room, 3 => Others });
fields!(Line { brace, quote, cr });
variants!(Quote { 0 => Outside, 1 => Inside, 2 => Escaped });
variants!(Brace { 0 => Nothing, 1 => Digits(size), 2 => Plus(size), 3 => Closed(size, plus) });
variants!(Size { 0 => Missing, 1 => Bytes(bytes), 2 => TooLarge });
variants!(Guard {
    0 => Off, 1 => Start, 2 => Tag, 3 => Blank, 4 => Word(which, len), 5 => Rest,
});
fields!(Capture { kind, role, cut, args });

fields!(ServerSide { phase, tag, word, answer, began, brace, cr, kept });
variants!(server::Phase {
    0 => Tag, 1 => Word, 2 => Code(matched), 3 => Text, 4 => Continuation, 5 => Data,
    6 => Literal(left), 7 => Capabilities(list), 8 => Enabled, 9 => Opaque,
});
fields!(List { code, passing });
variants!(Answered { 0 => Timed(place), 1 => Untimed, 2 => Done });
variants!(Status { 0 => Ok, 1 => No, 2 => Bad });

fields!(Conversation { flight, facts, answers, opaque });
fields!(Entry { tag_len, kind, marks, sent, first_byte, effect });
fields!(Marks { open, reused, fresh, plus, done });
fields!(Facts { selected, enabled, contexts, lost, flags });
fields!(Flags {
    notify,
    saved_search,
    name_unknown,
    removed,
    enabled_cut,
    odd_tag,
    unknown_command,
});
variants!(Lost { 0 => Nothing, 1 => UntilSelect, 2 => ForGood });
fields!(Selected { spelling, read_only, condstore });

impl Part for Flight {
    fn write(&self, out: &mut Vec<u8>) {
        u8::try_from(self.entries.len()).unwrap_or(u8::MAX).write(out);
        for entry in &self.entries {
            entry.write(out);
        }
        self.tags.write(out);
        self.untimed.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let count = usize::from(u8::read(from)?);
        if count > TIMED_MAX {
            return None;
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(Entry::read(from)?);
        }
        let tags = Vec::read(from)?;
        let tag_bytes: usize = entries.iter().map(|entry| usize::from(entry.tag_len)).sum();
        let untimed = u64::read(from)?;
        (tags.len() == tag_bytes).then_some(Self { entries, tags, untimed })
    }
}

impl Part for (Answered, Status) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some((Answered::read(from)?, Status::read(from)?))
    }
}

impl Part for CommandKind {
    fn write(&self, out: &mut Vec<u8>) {
        u8::from(*self).write(out);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Self::from_index(u8::read(from)?)
    }
}

impl Part for Role {
    fn write(&self, out: &mut Vec<u8>) {
        self.code().write(out);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Self::from_code(u8::read(from)?)
    }
}

impl Part for Effect {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => out.push(0),
            Self::Select(selected) => {
                out.push(1);
                selected.write(out);
            }
            Self::Deselect => out.push(2),
            Self::Enable(words) => {
                out.push(3);
                words.write(out);
            }
            Self::EnableCut => out.push(4),
            Self::Notify(set) => {
                out.push(5);
                set.write(out);
            }
            Self::Search { saved, updates } => {
                out.push(6);
                saved.write(out);
                updates.write(out);
            }
            Self::CancelUpdates(count) => {
                out.push(7);
                count.write(out);
            }
            Self::Remove(name) => {
                out.push(8);
                name.write(out);
            }
            Self::Unknown => out.push(9),
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(match u8::read(from)? {
            0 => Self::Nothing,
            1 => Self::Select(Part::read(from)?),
            2 => Self::Deselect,
            3 => Self::Enable(Part::read(from)?),
            4 => Self::EnableCut,
            5 => Self::Notify(Part::read(from)?),
            6 => Self::Search { saved: Part::read(from)?, updates: Part::read(from)? },
            7 => Self::CancelUpdates(Part::read(from)?),
            8 => Self::Remove(Part::read(from)?),
            9 => Self::Unknown,
            _ => return None,
        })
    }
}
