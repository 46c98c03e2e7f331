//! The authorities that may sign a backend's certificate, each file read once per load.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;

use crate::net::tls::{TlsError, pem};

/// Where systems keep the public authorities: Debian, RHEL, Alpine and the BSDs.
const SYSTEM_FILES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Authorities by file, shared by all backends of one configuration: the system's list
/// is about 150 certificates, and a thousand backends need it once.
#[derive(Debug, Default)]
pub struct TrustStores {
    by_file: HashMap<PathBuf, Arc<RootCertStore>>,
    system: Option<Arc<RootCertStore>>,
}

impl TrustStores {
    /// The authorities in a backend's own file. Each of them must be usable.
    pub(super) fn file(&mut self, path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
        if let Some(store) = self.by_file.get(path) {
            return Ok(Arc::clone(store));
        }
        let mut store = RootCertStore::empty();
        for certificate in pem::load_certificates(path)? {
            store.add(certificate).map_err(|error| TlsError::BadCertificate {
                path: path.into(),
                detail: error.to_string(),
            })?;
        }
        let store = Arc::new(store);
        self.by_file.insert(path.into(), Arc::clone(&store));
        Ok(store)
    }

    /// The system's authorities; those that cannot be parsed are left out.
    pub(super) fn system(&mut self) -> Result<Arc<RootCertStore>, TlsError> {
        if let Some(store) = &self.system {
            return Ok(Arc::clone(store));
        }
        let store = system_from(&SYSTEM_FILES)?;
        self.system = Some(Arc::clone(&store));
        Ok(store)
    }
}

fn system_from(files: &[&str]) -> Result<Arc<RootCertStore>, TlsError> {
    let missing = || TlsError::NoSystemStore { looked_for: files.join(", ") };
    let file = files.iter().map(Path::new).find(|file| file.exists()).ok_or_else(missing)?;
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(pem::load_certificates(file)?);
    if store.is_empty() { Err(missing()) } else { Ok(Arc::new(store)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_authorities_gets_advice() {
        let error = system_from(&["/nonexistent/bundle.crt"]).unwrap_err();
        assert_eq!(error.reason(), "no_system_store");
        let text = error.to_string();
        assert!(text.contains("/nonexistent/bundle.crt") && text.contains("ca-certificates"));
    }
}
