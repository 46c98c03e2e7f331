//! Which certificate a client gets: a table made at load and never changed, so that a
//! flood of made-up server names costs look-ups and no memory.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::net::tls::certificates::Loaded;

/// Certificates by DNS name; under each name the cheapest signature first.
#[derive(Debug, Default)]
pub(super) struct CertificateTable {
    /// For clients without a server name, or with an unknown one: the first certificate
    /// of the configuration and those that carry the same names with another key type.
    default: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// Key: what stands behind `*.`; it matches exactly one label before it (RFC 9525 §6.3).
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl CertificateTable {
    /// The table of these certificates, the default first.
    pub(super) fn new(certificates: &[Loaded]) -> Self {
        let mut table = Self::default();
        let default_names = certificates.first().map(|first| sorted(&first.dns_names));
        for (index, certificate) in certificates.iter().enumerate() {
            for name in &certificate.dns_names {
                let place = match name.strip_prefix("*.") {
                    Some(suffix) => table.wildcard.entry(suffix.to_owned()),
                    None => table.exact.entry(name.clone()),
                };
                place.or_default().push(Arc::clone(&certificate.key));
            }
            let same_names = !certificate.dns_names.is_empty()
                && default_names.as_ref() == Some(&sorted(&certificate.dns_names));
            if index == 0 || same_names {
                table.default.push(Arc::clone(&certificate.key));
            }
        }
        let lists = table.exact.values_mut().chain(table.wildcard.values_mut());
        for list in lists.chain([&mut table.default]) {
            list.sort_by_key(|key| signature_cost(key.key.algorithm()));
        }
        table
    }

    /// The certificate for a server name (lower case) and what the client can verify.
    pub(super) fn choose(
        &self,
        server_name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let candidates = server_name.and_then(|name| self.by_name(name)).unwrap_or(&self.default);
        candidates
            .iter()
            .find(|key| key.key.choose_scheme(schemes).is_some())
            // With nothing that fits, rustls says in its alert what was missing.
            .or_else(|| candidates.first())
            .cloned()
    }

    fn by_name(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        self.exact.get(name).or_else(|| {
            let (label, suffix) = name.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(suffix) }
        })
    }
}

impl ResolvesServerCert for CertificateTable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names
}

/// P-256 signs in a quarter of the time of RSA-2048; a sort by this is stable, so that
/// among equals the operator's order holds.
const fn signature_cost(algorithm: SignatureAlgorithm) -> u8 {
    match algorithm {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 | SignatureAlgorithm::ED448 => 1,
        _ => 2,
    }
}
