//! SASL messages: what is understood says the same when it is encoded again, and names
//! and passwords are free of what could end a line or a C string.

use pointsman::names::Secret;
use pointsman::protocol::strings;
use pointsman::sasl::{
    self, Credentials, Exchange, Mechanism, Opening, Progress, SaslError, plain,
};

use crate::cuts::first;

/// Messages of an exchange, and steps within one that lead nowhere.
const STEPS_MAX: usize = 6;

/// First byte: the mechanism and how it opens; then the client's lines, each ended by LF.
pub fn run(data: &[u8]) {
    let (choice, text) = first(data);
    let mechanism = Mechanism::ALL[usize::from(choice >> 1) % Mechanism::ALL.len()];
    assert_eq!(Mechanism::of(mechanism.name().as_bytes()), Some(mechanism));
    base64(text);
    for raw in [false, true] {
        exchange(mechanism, choice % 2 == 1, raw, text);
    }
}

/// Decoding gives what encoding took, and takes no other spelling of it.
fn base64(text: &[u8]) {
    let wire = strings::encode_base64(text);
    let decoded = strings::decode_base64(wire.as_bytes()).expect("own base64");
    assert_eq!(decoded.expose(), text);
    if let Ok(bytes) = strings::decode_base64(text) {
        assert_eq!(strings::encode_base64(bytes.expose()).as_bytes(), text, "two spellings");
    }
    if text != b"=" {
        assert_eq!(sasl::decode_initial(text).ok(), strings::decode_base64(text).ok());
    }
}

/// Plays an exchange; `raw` messages are in base64 only on the wire.
fn exchange(mechanism: Mechanism, initial: bool, raw: bool, text: &[u8]) {
    let mut lines = text.split(|byte| *byte == b'\n').take(STEPS_MAX);
    let message = |line: &[u8]| {
        if raw { Ok(Secret::new(line.to_vec())) } else { sasl::decode_line(line) }
    };
    let mut state = Exchange::new(mechanism);
    if !initial {
        match state.open() {
            Progress::Challenge { next, .. } => state = next,
            other => panic!("{other:?} before the client said a word"),
        }
    }
    while let Some(line) = lines.next() {
        assert_eq!(state.mechanism(), mechanism);
        let message = match message(line) {
            Ok(message) => message,
            Err(error) => {
                assert_eq!(error == SaslError::Cancelled, line == b"*");
                return;
            }
        };
        match state.step(&message) {
            Ok(Progress::Challenge { next, .. }) => state = next,
            Ok(Progress::Done(said, credentials)) => {
                assert_eq!(said, mechanism);
                return check(mechanism, &message, &credentials);
            }
            Ok(Progress::Opened(opening)) => return check_opening(mechanism, &message, &opening),
            Ok(Progress::Refused(said)) => {
                assert_eq!((said, mechanism), (Mechanism::OAuthBearer, said));
                return;
            }
            Err(SaslError::ChannelBinding) => {
                assert!(mechanism.is_relayed() && message.expose().starts_with(b"p="));
                return;
            }
            Err(error) => return assert_eq!(error, SaslError::Malformed(mechanism)),
        }
    }
}

/// Of a first message the user is read, and all of it is passed on.
fn check_opening(mechanism: Mechanism, message: &Secret, opening: &Opening) {
    assert!(mechanism.is_relayed());
    assert_eq!((opening.mechanism, &opening.message), (mechanism, message));
    for name in [Some(&opening.user), opening.authzid.as_ref()].into_iter().flatten() {
        assert!(!name.is_empty() && !name.iter().any(|byte| b"\0\r\n".contains(byte)), "{name:?}");
    }
    assert!(!opening.allows(1, message) || !mechanism.is_scram(), "an opening as a proof");
}

fn check(mechanism: Mechanism, last: &Secret, credentials: &Credentials) {
    let Credentials { authzid, user, password } = credentials;
    let parts = [authzid.as_deref().unwrap_or_default(), user, password.expose()];
    for part in parts {
        assert!(!part.iter().any(|byte| b"\0\r\n".contains(byte)), "{part:?}");
    }
    assert!(!user.is_empty(), "an empty name");
    assert!(authzid.as_ref().is_none_or(|authzid| !authzid.is_empty()));
    if mechanism == Mechanism::Plain {
        assert_eq!(parts.join(&0), last.expose());
    } else {
        assert_eq!(password, last);
    }
    // The message for the backend says the same.
    let again = Exchange::new(Mechanism::Plain).step(&plain::message(credentials));
    match again {
        Ok(Progress::Done(_, again)) => assert_eq!(again, *credentials),
        other => panic!("own message is not understood: {other:?}"),
    }
}
