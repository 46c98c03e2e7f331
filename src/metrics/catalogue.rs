//! Handles by name: made once, shared, and ended when the name leaves the configuration.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use super::series::lock;

/// The handles of one configured thing.
pub(super) trait Handles {
    /// Whether something still lives behind them that a gauge counts.
    fn busy(&self) -> bool;
    /// Removes their series; what is observed later is not exported.
    fn end(&self);
}

/// Handles by name. Locked at login and reload only.
pub(super) struct Catalogue<K, H>(Mutex<HashMap<K, Entry<H>>>);

struct Entry<H> {
    handles: Arc<H>,
    /// No longer configured, kept while busy.
    leaving: bool,
}

impl<K: Eq + Hash + Clone, H: Handles> Catalogue<K, H> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// The handles of that name, made if there are none.
    pub(super) fn resolve(&self, name: &K, make: impl FnOnce() -> H) -> Arc<H> {
        let mut entries = lock(&self.0);
        if let Some(entry) = entries.get(name) {
            return Arc::clone(&entry.handles);
        }
        let handles = Arc::new(make());
        let entry = Entry { handles: Arc::clone(&handles), leaving: false };
        entries.insert(name.clone(), entry);
        handles
    }

    /// Ends the series of all names but these; busy ones end when they are no longer busy.
    pub(super) fn retain(&self, configured: impl Fn(&K) -> bool) {
        let mut entries = lock(&self.0);
        for (name, entry) in entries.iter_mut() {
            entry.leaving = !configured(name);
        }
        sweep(&mut entries);
    }

    /// Ends what had to leave and has fallen silent since.
    pub(super) fn sweep(&self) {
        sweep(&mut lock(&self.0));
    }
}

fn sweep<K, H: Handles>(entries: &mut HashMap<K, Entry<H>>) {
    entries.retain(|_, entry| {
        let stays = !entry.leaving || entry.handles.busy();
        if !stays {
            entry.handles.end();
        }
        stays
    });
}
