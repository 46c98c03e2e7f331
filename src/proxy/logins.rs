//! The logins on their way to a backend. By session id: a login that comes back to the
//! proxy names the id of one of them and is known as a loop at once. And by when they began:
//! one that began before its user was kicked goes no further.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::names::UserName;

/// Kicks kept at most for logins under way. Beyond it the oldest count for every user: a few
/// logins are put off that nobody kicked.
const KICKS_MAX: usize = 10_000;

/// Sessions whose login waits for a backend. There are at most as many as held logins.
#[derive(Debug, Default)]
pub struct LoginsUnderWay {
    by_session: Mutex<HashMap<String, Row>>,
    kicks: Mutex<Kicks>,
}

/// One session id; proxies in front may use one id for two connections.
#[derive(Debug, Default)]
struct Row {
    logins: u32,
    /// How many proxies the login may still pass, itself among them; the most of them all.
    proxies_left: u32,
    came_back: bool,
}

/// The kicks that a login under way may have to hear of.
#[derive(Debug, Default)]
struct Kicks {
    /// Kicks so far.
    count: u64,
    /// The number of the last one that counts for every user.
    everybody: u64,
    /// The latest, by number.
    latest: VecDeque<(u64, UserName)>,
    /// Logins under way by the number of kicks when they began.
    begun: BTreeMap<u64, u32>,
}

impl Kicks {
    fn begin(&mut self) -> u64 {
        *self.begun.entry(self.count).or_default() += 1;
        self.count
    }

    fn end(&mut self, begun: u64) {
        if let Some(logins) = self.begun.get_mut(&begun) {
            *logins -= 1;
            if *logins == 0 {
                self.begun.remove(&begun);
            }
        }
        // The others began later, or not at all.
        let oldest = self.begun.keys().next().copied().unwrap_or(self.count);
        while self.latest.front().is_some_and(|(number, _)| *number <= oldest) {
            self.latest.pop_front();
        }
    }

    fn kick(&mut self, user: &UserName) {
        self.count += 1;
        if self.begun.is_empty() {
            return;
        }
        if self.latest.len() == KICKS_MAX
            && let Some((number, _)) = self.latest.pop_front()
        {
            self.everybody = number;
        }
        self.latest.push_back((self.count, user.clone()));
    }

    fn kicked_since(&self, begun: u64, users: [&UserName; 2]) -> bool {
        let later = self.latest.iter().rev().take_while(|(number, _)| *number > begun);
        begun < self.everybody || { later }.any(|(_, kicked)| users.contains(&kicked))
    }
}

impl LoginsUnderWay {
    /// No logins.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Notes a login that will be told to a backend under that session id, and that came with
    /// leave to pass so many proxies.
    pub(super) fn enter(self: &Arc<Self>, session: &str, proxies_left: u32) -> LoginUnderWay {
        let mut rows = self.rows();
        let row = rows.entry(session.to_owned()).or_default();
        row.logins += 1;
        row.proxies_left = row.proxies_left.max(proxies_left);
        drop(rows);
        let begun = self.kicks().begin();
        LoginUnderWay { logins: Arc::clone(self), session: session.to_owned(), begun }
    }

    /// The logins of a user that are under way end before they give a backend anything. Those
    /// that have are live sessions in the registry, which must be looked at after this.
    pub fn kick(&self, user: &UserName) {
        self.kicks().kick(user);
    }

    /// Whether one of these session ids is that of a login under way, which is then marked.
    /// `proxies_left` is what the newcomer may pass, where it says so: a proxy in front that
    /// tries once more under the same id says what it said before, and one that came back has
    /// passed a proxy more.
    pub(super) fn came_back<'a>(
        &self,
        sessions: impl IntoIterator<Item = &'a str>,
        proxies_left: Option<u32>,
    ) -> bool {
        let mut rows = self.rows();
        let mut found = false;
        for session in sessions {
            if let Some(row) = rows.get_mut(session)
                && proxies_left.is_none_or(|left| left < row.proxies_left)
            {
                row.came_back = true;
                found = true;
            }
        }
        found
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<String, Row>> {
        self.by_session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kicks(&self) -> MutexGuard<'_, Kicks> {
        self.kicks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A login on its way to a backend.
#[derive(Debug)]
#[must_use = "dropping it says that the login is over"]
pub(super) struct LoginUnderWay {
    logins: Arc<LoginsUnderWay>,
    session: String,
    /// The number of kicks when it began.
    begun: u64,
}

impl LoginUnderWay {
    /// Whether one of these users was kicked since the login began.
    pub(super) fn is_kicked(&self, users: [&UserName; 2]) -> bool {
        self.logins.kicks().kicked_since(self.begun, users)
    }

    /// Whether the login came back to this proxy.
    pub(super) fn came_back(&self) -> bool {
        self.logins.rows().get(&self.session).is_some_and(|row| row.came_back)
    }
}

impl Drop for LoginUnderWay {
    fn drop(&mut self) {
        self.logins.kicks().end(self.begun);
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
        let first = logins.enter("s1", 5);
        let second = logins.enter("s2", 5);
        assert!(!logins.came_back(["other"], None));
        // Another try of the proxy in front.
        assert!(!logins.came_back(["s1"], Some(5)) && !first.came_back());
        assert!(logins.came_back(["other", "s1"], Some(4)));
        assert!(first.came_back() && !second.came_back());
        drop(first);
        assert!(!logins.came_back(["s1"], None));
        assert!(logins.came_back(["s2"], None), "it does not say how many it passed");
        drop(second);
        assert!(logins.rows().is_empty());
    }

    #[test]
    fn a_kick_ends_the_logins_of_its_user_that_began_before_it() {
        let logins = LoginsUnderWay::new();
        let (anna, bert, none) = (UserName::new("anna"), UserName::new("bert"), UserName::new("-"));
        logins.kick(&anna);
        let first = logins.enter("s1", 5);
        assert!(!first.is_kicked([&anna, &none]));
        logins.kick(&anna);
        let second = logins.enter("s2", 5);
        logins.kick(&bert);
        assert!(first.is_kicked([&anna, &none]) && first.is_kicked([&none, &bert]));
        assert!(!first.is_kicked([&none, &none]));
        assert!(!second.is_kicked([&anna, &anna]) && second.is_kicked([&bert, &none]));
        drop(first);
        assert_eq!(logins.kicks().latest.len(), 1, "what none can have missed is forgotten");
        drop(second);
        assert!(logins.kicks().latest.is_empty() && logins.kicks().begun.is_empty());
    }

    #[test]
    fn beyond_their_bound_the_oldest_kicks_count_for_everybody() {
        let logins = LoginsUnderWay::new();
        let (anna, bert) = (UserName::new("anna"), UserName::new("bert"));
        let first = logins.enter("s1", 5);
        logins.kick(&anna);
        let second = logins.enter("s2", 5);
        for _ in 0..KICKS_MAX {
            assert!(!first.is_kicked([&bert, &bert]));
            logins.kick(&anna);
        }
        assert_eq!(logins.kicks().latest.len(), KICKS_MAX);
        assert!(first.is_kicked([&bert, &bert]) && !second.is_kicked([&bert, &bert]));
        assert!(second.is_kicked([&anna, &bert]));
    }
}
