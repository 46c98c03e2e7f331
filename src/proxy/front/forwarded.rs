//! A client that a trusted proxy describes.

use std::net::SocketAddr;

use super::Front;
use crate::admission::AddressPermit;
use crate::metrics::Limit;
use crate::net::cidr;
use crate::proxy::link::{Link, part};
use crate::proxy::orders::CloseReason;
use crate::session::forwarded::Forwarded;
use crate::session::prelogin::Tally;
use crate::upstream::dial::ClientAddresses;

/// Who the client is without any ID.
pub(super) struct Arrived {
    client: ClientAddresses,
    exempt: bool,
}

impl Front<'_> {
    /// Whether the peer is a proxy whose ID is believed.
    pub(super) fn is_trusted_proxy(&self) -> bool {
        cidr::any_contains(&self.listener.config.id_trusted, self.client.remote.ip())
    }

    /// Takes over what a trusted proxy says: from here on that client is the one for limits,
    /// delays, logs and backends. Its place among the connections that are not logged in
    /// is taken before the proxy's own is given back.
    pub(super) async fn believe(
        &mut self,
        told: Forwarded,
        link: &mut Link,
        permit: &mut AddressPermit,
    ) -> Result<(), CloseReason> {
        if self.arrived.is_none() {
            let arrived = Arrived { client: self.client.clone(), exempt: self.exempt };
            self.arrived = Some(Box::new(arrived));
        }
        if let Some(ip) = told.remote_ip {
            self.exempt = cidr::any_contains(&self.config.limits.exempt, ip);
            let remote = SocketAddr::new(ip, told.remote_port.unwrap_or(0));
            self.set_remote(remote, link, permit).await?;
        }
        if let Some(ip) = told.local_ip {
            self.client.local = SocketAddr::new(ip, told.local_port.unwrap_or(0));
        }
        if let Some(session) = told.session {
            self.story.outer_session = Some(session.clone());
            self.client.session = session;
        }
        self.client.tls = told.tls.unwrap_or(self.client.tls);
        self.client.server_name = told.server_name.or(self.client.server_name.take());
        self.forward = told.forward;
        Ok(())
    }

    /// Forgets it again: before STARTTLS anybody on the way may have said it (RFC 9051 section
    /// 6.2.1).
    pub(super) async fn forget_told(
        &mut self,
        link: &mut Link,
        permit: &mut AddressPermit,
    ) -> Result<(), CloseReason> {
        let Some(arrived) = self.arrived.take() else { return Ok(()) };
        let Arrived { client, exempt } = *arrived;
        let (described, remote) = (self.client.remote, client.remote);
        self.client = client;
        self.exempt = exempt;
        self.story.outer_session = None;
        self.forward = Vec::new();
        if described == remote {
            return Ok(());
        }
        self.set_remote(remote, link, permit).await
    }

    async fn set_remote(
        &mut self,
        remote: SocketAddr,
        link: &mut Link,
        permit: &mut AddressPermit,
    ) -> Result<(), CloseReason> {
        self.client.remote = remote;
        self.story.remote = remote;
        self.place.cell.set_remote(remote);
        match self.shared.addresses.acquire(remote.ip(), &self.config.limits) {
            Some(own) => *permit = own,
            None => return Err(self.refuse_address(link).await),
        }
        Ok(())
    }

    /// A trusted proxy's ID that could not be used is its operator's business.
    pub(super) fn tell_of_bad_field(&self, tally: Tally) {
        if let Some(field) = tally.bad_field {
            let remote = self.client.remote.ip().to_canonical();
            tracing::warn!(remote_address = %remote, field, "a trusted proxy's ID was refused");
        }
    }

    async fn refuse_address(&mut self, link: &mut Link) -> CloseReason {
        self.shared.metrics.sessions.limit_hit(Limit::UnauthenticatedPerAddress);
        let bye = b"* BYE [LIMIT] Too many connections that are not logged in.\r\n";
        match self.write(&mut link.stream, bye).await {
            Ok(()) => part(&mut link.stream, CloseReason::Limit).await,
            Err(reason) => reason,
        }
    }
}
