//! Shard by the domain behind the last `@`.

use std::collections::HashMap;

use super::super::name;
use crate::config::Routing;
use crate::names::{ShardId, UserName};

/// Domains in canonical form, and their shards.
#[derive(Debug)]
pub(in super::super) struct Domains {
    by_domain: HashMap<String, ShardId>,
}

/// What is wrong with a domain of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum DomainFault {
    /// No user can have it.
    Bad(name::NameError),
    /// It is there twice, perhaps spelled in another way.
    Doubled,
}

impl Domains {
    /// Takes the list over; gives the first domain that is wrong.
    pub(in super::super) fn load(
        routing: &Routing,
        domains: &[(String, ShardId)],
    ) -> Result<Self, (String, DomainFault)> {
        let mut by_domain = HashMap::with_capacity(domains.len());
        for (domain, shard) in domains {
            let fault = |fault| (domain.clone(), fault);
            // As in a name, so that both get the same canonical form.
            let name = name::canonical(routing, format!("x@{domain}").as_bytes())
                .map_err(|error| fault(DomainFault::Bad(error)))?;
            let canonical = name::domain_of(&name).unwrap_or_default().to_owned();
            if by_domain.insert(canonical, shard.clone()).is_some() {
                return Err(fault(DomainFault::Doubled));
            }
        }
        Ok(Self { by_domain })
    }

    /// The shard of the user's domain.
    pub(in super::super) fn lookup(&self, user: &UserName) -> Option<&ShardId> {
        self.by_domain.get(name::domain_of(user)?)
    }
}
