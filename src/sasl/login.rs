//! The obsolete LOGIN mechanism: two prompts, user then password.

use super::{Credentials, Mechanism, Progress, SaslError, is_credential};
use crate::names::Secret;

/// Which prompt is open.
#[derive(Debug)]
pub enum Exchange {
    /// The user name comes next, also as an initial response.
    User,
    /// The password comes next.
    Password {
        /// The name that came.
        user: Vec<u8>,
    },
}

impl Exchange {
    /// The prompt for what comes next.
    pub(super) fn open(self) -> Progress {
        let text: &'static [u8] = match self {
            Self::User => b"Username:",
            Self::Password { .. } => b"Password:",
        };
        Progress::Challenge { text, next: super::Exchange::Login(self) }
    }

    /// Takes the user name, then the password.
    pub(super) fn step(self, message: &Secret) -> Result<Progress, SaslError> {
        const BAD: SaslError = SaslError::Malformed(Mechanism::Login);
        let text = message.expose();
        if !is_credential(text) {
            return Err(BAD);
        }
        match self {
            Self::User if text.is_empty() => Err(BAD),
            Self::User => Ok(Self::Password { user: text.to_vec() }.open()),
            Self::Password { user } => {
                let password = message.clone();
                let credentials = Credentials { authzid: None, user, password };
                Ok(Progress::Done(Mechanism::Login, credentials))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::strings;

    #[test]
    fn the_prompts_are_the_ones_that_clients_know() {
        let Progress::Challenge { text, next } = Exchange::User.open() else { panic!("no prompt") };
        assert_eq!(strings::encode_base64(text), "VXNlcm5hbWU6");
        let Ok(Progress::Challenge { text, next }) = next.step(&Secret::new(b"bob".to_vec()))
        else {
            panic!("no second prompt")
        };
        assert_eq!(strings::encode_base64(text), "UGFzc3dvcmQ6");
        let Ok(Progress::Done(_, done)) = next.step(&Secret::new(b"pw".to_vec())) else {
            panic!("not done")
        };
        assert_eq!((done.user, done.password.expose()), (b"bob".to_vec(), &b"pw"[..]));
        assert_eq!(done.authzid, None);
    }

    #[test]
    fn empty_names_and_line_breaks_are_refused() {
        for odd in [&b""[..], b"a\0b", b"a\r", b"\n"] {
            let answer = Exchange::User.step(&Secret::new(odd.to_vec()));
            assert!(matches!(answer, Err(SaslError::Malformed(Mechanism::Login))), "{odd:?}");
        }
        let password = Exchange::Password { user: b"bob".to_vec() };
        assert!(password.step(&Secret::new(b"p\0w".to_vec())).is_err());
    }
}
