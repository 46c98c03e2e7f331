//! A configured certificate with its key, checked, and what operators want to know of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{Error as RustlsError, InconsistentKeys};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::Certificate;
use crate::net::tls::{TlsError, pem};

/// What `pointsman_certificate_expiry_timestamp_seconds` and the log say of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The first DNS name in it; else its common name; else its file's name.
    pub name: String,
    /// End of its validity, seconds since 1970.
    pub not_after: i64,
    /// Where it was read.
    pub path: PathBuf,
}

impl CertificateInfo {
    /// Whether it has expired at `now` (seconds since 1970). An expired one is still
    /// served: clients decide, and a proxy that will not start helps nobody.
    pub const fn is_expired(&self, now: i64) -> bool {
        self.not_after < now
    }
}

/// A certificate ready to serve.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) info: CertificateInfo,
    /// DNS names from its subjectAltName, lower case, wildcards as written.
    pub(super) dns_names: Vec<String>,
    pub(super) key: Arc<CertifiedKey>,
}

/// Reads chain and key and checks that they belong together.
pub(super) fn load(files: &Certificate, provider: &CryptoProvider) -> Result<Loaded, TlsError> {
    let chain = pem::load_certificates(&files.cert)?;
    let key = pem::load_key(&files.key)?;
    let (info, dns_names) = describe(&files.cert, chain.first())?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| TlsError::BadKey { path: files.key.clone(), detail: error.to_string() })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A key that cannot show its public half cannot be compared; none of ours is such.
        Ok(()) | Err(RustlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(RustlsError::InconsistentKeys(_)) => {
            return Err(TlsError::Mismatch { cert: files.cert.clone(), key: files.key.clone() });
        }
        Err(error) => return Err(bad_certificate(&files.cert, &error)),
    }
    Ok(Loaded { info, dns_names, key: Arc::new(certified) })
}

fn describe(
    path: &Path,
    leaf: Option<&CertificateDer<'_>>,
) -> Result<(CertificateInfo, Vec<String>), TlsError> {
    let der = leaf.map(AsRef::as_ref).unwrap_or_default();
    let (_, leaf) =
        X509Certificate::from_der(der).map_err(|error| bad_certificate(path, &error))?;
    let alternative =
        leaf.subject_alternative_name().map_err(|error| bad_certificate(path, &error))?;
    let dns_names: Vec<String> = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    let common_name = || {
        let mut names = leaf.subject().iter_common_name();
        names.next().and_then(|name| name.as_str().ok()).map(str::to_owned)
    };
    let file_name = || path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = dns_names.first().cloned().or_else(common_name).or_else(file_name);
    let info = CertificateInfo {
        name: name.unwrap_or_default(),
        not_after: leaf.validity().not_after.timestamp(),
        path: path.into(),
    };
    Ok((info, dns_names))
}

fn bad_certificate(path: &Path, error: &dyn std::error::Error) -> TlsError {
    TlsError::BadCertificate { path: path.into(), detail: error.to_string() }
}
