//! What the store says of users by name, after a restart that changed the rules for names.

use crate::config::Routing;
use crate::names::UserName;
use crate::routing::name;
use crate::routing::overrides;
use crate::store::{Change, Compare, Outcome, StoreError, TopologyStore, Txn};

/// Gives pins and blocks the names that the present rules make of theirs: by the former ones no
/// login would find them, and nobody could take them back. One that stands there already wins.
/// `shown` is how the log names a user.
///
/// # Errors
/// Where the store cannot be read or written.
pub async fn follow_rules(
    store: &impl TopologyStore,
    routing: &Routing,
    shown: impl Fn(&UserName) -> String,
) -> Result<(), StoreError> {
    let snapshot = store.snapshot().await?;
    for (key, row) in &snapshot.view {
        let Some((kind, user)) = overrides::split_key(key) else { continue };
        let present = match name::canonical(routing, user.as_bytes()) {
            Ok(present) if present.as_str() == user => continue,
            Ok(present) => present,
            Err(error) => {
                let user = shown(&UserName::new(user));
                tracing::warn!(user, %error, "a pin or block of no user's name has no effect");
                continue;
            }
        };
        let renamed = format!("{kind}{present}");
        let mut changes = vec![Change::Delete { key: key.clone() }];
        let mut compares = vec![Compare { key: key.clone(), modified: row.modified }];
        if !snapshot.view.contains_key(&renamed) {
            compares.push(Compare { key: renamed.clone(), modified: 0 });
            changes.push(Change::Put { key: renamed.clone(), value: row.value.clone() });
        }
        match store.txn(Txn { compares, changes }).await? {
            Outcome::Committed(_) => {
                let user = shown(&present);
                tracing::warn!(user, "a pin or block follows the rules for names");
            }
            // Of somebody else, who follows them too.
            Outcome::Conflict | Outcome::Unknown => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Canonical;
    use crate::names::ShardId;
    use crate::store::EmbeddedStore;

    #[tokio::test]
    async fn pins_and_blocks_keep_their_users_when_the_rules_for_names_change() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path()).unwrap();
        let pin = |user: &str| overrides::pin_key(&UserName::new(user));
        let block = |user: &str| overrides::block_key(&UserName::new(user));
        let rows = [
            (pin("Kim"), overrides::pin_value(&ShardId::new("south"))),
            (block("Kim"), overrides::block_value()),
            (block("bob@example.org"), overrides::block_value()),
            (block("Bob"), overrides::block_value()),
            ("backends/Kim".to_owned(), b"v1\ndrain\n".to_vec()),
        ];
        let changes = rows.into_iter().map(|(key, value)| Change::Put { key, value }).collect();
        let written = store.txn(Txn { compares: Vec::new(), changes }).await.unwrap();
        assert!(matches!(written, Outcome::Committed(_)));
        let rules = Routing::of_names(Canonical::Lowercase, Some("example.org".to_owned()));
        for _ in 0..2 {
            follow_rules(&store, &rules, UserName::to_string).await.unwrap();
            let keys: Vec<String> = store.snapshot().await.unwrap().view.into_keys().collect();
            let kim = "kim@example.org";
            assert_eq!(
                keys,
                ["backends/Kim".to_owned(), block("bob@example.org"), block(kim), pin(kim)]
            );
        }
    }
}
