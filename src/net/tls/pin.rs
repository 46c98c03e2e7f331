//! Trust by the backend's public key instead of by an authority.

use std::fmt::Write;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, DigitallySignedStruct, Error as RustlsError, OtherError, SignatureScheme,
    SupportedCipherSuite,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Accepts the one key whose `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7) has this SHA-256.
///
/// Name and dates are not looked at, since the key itself is what was agreed on; where
/// the backend also has a `ca`, the whole verification by authority is done as well.
/// That the peer *owns* the key is proven by the handshake's signature, always checked.
pub(super) struct PinVerifier {
    pub(super) pin_sha256: [u8; 32],
    pub(super) authorities: Option<Arc<WebPkiServerVerifier>>,
    pub(super) provider: Arc<CryptoProvider>,
}

/// The presented key is another one.
#[derive(Debug, thiserror::Error)]
#[error("its public key has SHA-256 {presented}, which is not `pin_sha256`")]
struct PinMismatch {
    presented: String,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let digest = sha256(parsed.public_key().raw)?;
        if !equal_in_constant_time(&digest, &self.pin_sha256) {
            let error = OtherError(Arc::new(PinMismatch { presented: hex(&digest) }));
            return Err(CertificateError::Other(error).into());
        }
        match &self.authorities {
            Some(authorities) => {
                authorities.verify_server_cert(leaf, intermediates, server_name, ocsp_response, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl std::fmt::Debug for PinVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinVerifier")
            .field("pin_sha256", &hex(&self.pin_sha256))
            .finish_non_exhaustive()
    }
}

/// SHA-256 by the provider: the hash of the suite that every TLS 1.3 peer must know.
fn sha256(bytes: &[u8]) -> Result<Vec<u8>, RustlsError> {
    match rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls13(suite) => {
            Ok(suite.common.hash_provider.hash(bytes).as_ref().to_vec())
        }
        SupportedCipherSuite::Tls12(_) => Err(RustlsError::General("no SHA-256".into())),
    }
}

/// Looks at all bytes whatever they are, so that time says nothing of where they differ.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    let differing = left.iter().zip(right).fold(0, |seen, (left, right)| seen | (left ^ right));
    left.len() == right.len() && differing == 0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(
            hex(&sha256(b"abc").unwrap()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn only_equal_bytes_are_equal() {
        assert!(equal_in_constant_time(&[1, 2, 3], &[1, 2, 3]));
        assert!(!equal_in_constant_time(&[1, 2, 3], &[1, 2, 4]));
        assert!(!equal_in_constant_time(&[1, 2], &[1, 2, 3]));
    }
}
