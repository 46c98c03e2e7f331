//! Which users share a backend of their shard: those with the same routing key.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code: panics are wanted")]

mod support;

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::json;

use support::backend::Backend;
use support::client::Client;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A proxy with one shared shard of three backends, `n0` to `n2`. Nobody is remembered.
struct Site {
    backends: [Backend; 3],
    proxy: Pointsman,
}

fn configuration(places: &Places, backends: &[Backend], routing_key: &str) -> String {
    let backends: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(n, backend)| {
            format!("{{ name: n{n}, address: \"{}\", tls: none }}", backend.address())
        })
        .collect();
    format!(
        "{}shards:\n  s: {{ kind: shared, backends: [ {} ] }}\nrouting: {{ sticky: 0s, \
         routing_key: {routing_key}, lookups: [ {{ shard: s }} ] }}\n",
        places.head(),
        backends.join(", ")
    )
}

impl Site {
    fn start(routing_key: &str) -> Self {
        let backends = [Backend::ordinary(), Backend::ordinary(), Backend::ordinary()];
        let proxy =
            Pointsman::start(&AUTHORITY, |places| configuration(places, &backends, routing_key));
        Self { backends, proxy }
    }

    fn reload(&self, routing_key: &str) {
        self.proxy.rewrite(|places| configuration(places, &self.backends, routing_key));
        self.proxy.reload();
        let taken = self.proxy.metrics().sum("pointsman_config_last_reload_success", &[]);
        assert!(taken > 0.5, "{}", self.proxy.log());
    }

    /// Logs a user in; the backend that has him then, which is the one that `route` told.
    fn login(&self, user: &str, key: &str) -> (Client, String) {
        let told = self.proxy.operate_json(&["route", user]);
        assert_eq!(told["route"]["routing_key"], json!(key), "{told}");
        let users = || self.backends.each_ref().map(|backend| backend.users().len());
        let before = users();
        let client = self.proxy.logged_in(user, "secret");
        let after = users();
        let place = (0..3).find(|place| after[*place] > before[*place]).unwrap();
        let backend = format!("n{place}");
        assert_eq!(told["backend"], json!(backend), "{told}");
        (client, backend)
    }

    fn wait_until_empty(&self) {
        self.proxy.wait_for_metrics("nobody is there", |now| {
            now.sum("pointsman_backend_sessions", &[]) < 0.5
        });
    }
}

#[test]
fn users_of_a_domain_share_a_backend_and_a_reload_parts_nobody_from_his_sessions() {
    let site = Site::start("domain");
    let user = |number: usize| format!("u{number}@example.org");
    let mut of_domains = HashSet::new();
    for domain in 0..8 {
        let domain = format!("d{domain}.example");
        let on = |name: &str| site.login(&format!("{name}@{domain}"), &domain).1;
        let of_users: HashSet<String> = ["a", "b", "c", "d"].iter().map(|name| on(name)).collect();
        assert_eq!(of_users.len(), 1, "{domain}: {of_users:?}");
        of_domains.extend(of_users);
    }
    assert!(of_domains.len() > 1, "{of_domains:?}");
    // Without a domain the name is the key.
    let alone = (0..8).map(|number| format!("u{number}"));
    let of_names: HashSet<String> = alone.map(|name| site.login(&name, &name).1).collect();
    assert!(of_names.len() > 1, "{of_names:?}");
    site.wait_until_empty();

    let open: Vec<(Client, String)> =
        (0..8).map(|number| site.login(&user(number), "example.org")).collect();
    site.reload("user");
    for (number, (_, backend)) in open.iter().enumerate() {
        let user = user(number);
        assert_eq!(site.login(&user, &user).1, *backend, "{user} joins his sessions");
    }
    drop(open);
    site.wait_until_empty();
    let moved: HashSet<String> =
        (0..8).map(|number| site.login(&user(number), &user(number)).1).collect();
    assert!(moved.len() > 1, "{moved:?}");
}
