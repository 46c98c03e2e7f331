//! LOGIN, AUTHENTICATE and ID against imap-codec.

use pointsman::protocol::command::{self, Tag, Word};

use crate::oracle;

/// One whole command.
pub fn run(data: &[u8]) {
    if let Err(difference) = oracle::compare(data) {
        panic!("{difference}");
    }
    // Whatever the bytes: the parts that are looked at early agree with the whole.
    let parsed = command::parse(data);
    let tag = Tag::of_line(data);
    match &parsed {
        Ok(command) => assert_eq!(Some(&command.tag), tag.as_ref()),
        Err(error) => assert_eq!(error.tag(), tag.as_ref()),
    }
    if parsed.is_ok() {
        assert!(Word::of_line(data).is_some());
    }
    let _ = command::brings_oauth_token(data);
}
