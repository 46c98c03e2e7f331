//! The logins on their way to a backend, by session id: a login that comes back to the
//! proxy names the id of one of them and is known as a loop at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Sessions whose login waits for a backend. There are at most as many as held logins.
#[derive(Debug, Default)]
pub struct LoginsUnderWay {
    by_session: Mutex<HashMap<String, Row>>,
}

/// One session id; proxies in front may use one id for two connections.
#[derive(Debug, Default)]
struct Row {
    logins: u32,
    came_back: bool,
}

impl LoginsUnderWay {
    /// No logins.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Notes a login that will be told to a backend under that session id.
    pub(super) fn enter(self: &Arc<Self>, session: &str) -> LoginUnderWay {
        self.rows().entry(session.to_owned()).or_default().logins += 1;
        LoginUnderWay { logins: Arc::clone(self), session: session.to_owned() }
    }

    /// Whether one of these session ids is that of a login under way, which is then marked.
    pub(super) fn came_back<'a>(&self, sessions: impl IntoIterator<Item = &'a str>) -> bool {
        let mut rows = self.rows();
        let mut found = false;
        for session in sessions {
            if let Some(row) = rows.get_mut(session) {
                row.came_back = true;
                found = true;
            }
        }
        found
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<String, Row>> {
        self.by_session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A login on its way to a backend.
#[derive(Debug)]
#[must_use = "dropping it says that the login is over"]
pub(super) struct LoginUnderWay {
    logins: Arc<LoginsUnderWay>,
    session: String,
}

impl LoginUnderWay {
    /// Whether the login came back to this proxy.
    pub(super) fn came_back(&self) -> bool {
        self.logins.rows().get(&self.session).is_some_and(|row| row.came_back)
    }
}

impl Drop for LoginUnderWay {
    fn drop(&mut self) {
        let mut rows = self.logins.rows();
        let Some(row) = rows.get_mut(&self.session) else { return };
        row.logins -= 1;
        if row.logins == 0 {
            rows.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_that_comes_back_is_known_while_it_is_under_way() {
        let logins = LoginsUnderWay::new();
        let first = logins.enter("s1");
        let second = logins.enter("s2");
        assert!(!logins.came_back(["other"]));
        assert!(logins.came_back(["other", "s1"]));
        assert!(first.came_back() && !second.came_back());
        drop(first);
        assert!(!logins.came_back(["s1"]));
        drop(second);
        assert!(logins.rows().is_empty());
    }
}
