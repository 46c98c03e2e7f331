//! `tls`: the certificates of the listeners.

use std::path::PathBuf;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::check::{Check, Text};
use crate::config::source::Object;

/// Certificates and their use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The first is the default, the others are chosen by the names in them (SNI).
    pub certificates: Vec<Certificate>,
}

/// A certificate chain and its key, PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Path of the chain, leaf first.
    pub cert: PathBuf,
    /// Path of the private key.
    pub key: PathBuf,
}

/// `tls` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    certificates: Option<Vec<Spanned<RawCertificate>>>,
}

/// A certificate as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCertificate {
    cert: Option<Text>,
    key: Option<Text>,
}

impl RawTls {
    /// How many certificates are written down, right or wrong.
    pub(super) fn certificate_count(&self) -> usize {
        self.certificates.as_ref().map_or(0, Vec::len)
    }

    pub(super) fn check(self, check: &mut Check<'_>) -> Tls {
        let mut certificates = Vec::new();
        for (index, raw) in self.certificates.unwrap_or_default().into_iter().enumerate() {
            let place = raw.defined;
            let cert = raw.value.cert.as_ref();
            let cert = check.required("cert", cert, place, "`cert`: a PEM file, leaf first");
            let key = raw.value.key.as_ref();
            let key = check.required("key", key, place, "`key`: a PEM file");
            let (Some(cert), Some(key)) = (cert, key) else { continue };
            check.remember(Object::Certificate(index), cert.defined);
            check.remember(Object::CertificateKey(index), key.defined);
            let paths = (check.path("cert", cert), check.path("key", key));
            if let (Some(cert), Some(key)) = paths {
                certificates.push(Certificate { cert, key });
            }
        }
        Tls { certificates }
    }
}
