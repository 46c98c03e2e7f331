//! Showing backends what operators said of them.

use super::run_time::{Stated, States};
use crate::names::BackendId;
use crate::proxy::shared::Shared;
use crate::upstream::backends::{AdminState, Upstreams};

impl Stated for Shared {
    fn show(&self, name: &BackendId, state: Option<AdminState>) {
        let snapshot = self.snapshot.load();
        let Some(backend) = snapshot.upstreams.backend(name) else { return };
        backend.set_admin_state(state);
        if backend.admin_state() != AdminState::Up {
            // Memory does not bring users back there.
            self.registry.forget_backend(name);
        }
    }

    fn show_all(&self, states: &States) {
        self.snapshot.load().upstreams.show_all(states);
    }
}

impl Stated for Upstreams {
    fn show(&self, name: &BackendId, state: Option<AdminState>) {
        if let Some(backend) = self.backend(name) {
            backend.set_admin_state(state);
        }
    }

    fn show_all(&self, states: &States) {
        for backend in self.all_backends() {
            backend.set_admin_state(states.get(backend.name()).copied());
        }
    }
}
