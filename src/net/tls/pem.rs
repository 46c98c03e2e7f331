//! Reading certificates and keys from PEM files of bounded size.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::net::tls::TlsError;

/// Largest file taken. The system's authorities are about 220 KB.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// All certificates of a file in their order; at least one.
pub(super) fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = load(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_pem(path, &error))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificateInFile { path: path.into() });
    }
    Ok(chain)
}

/// The first private key of a file.
pub(super) fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = load(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        PemError::NoItemsFound => TlsError::NoKeyInFile { path: path.into() },
        other => bad_pem(path, &other),
    })
}

/// The file's bytes, wiped when dropped, since they may be a key's.
fn load(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { path: path.into(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    if size > FILE_BYTES_MAX {
        return Err(TlsError::TooLarge { path: path.into(), bytes_max: FILE_BYTES_MAX });
    }
    // Room for all of it at once: a growing vector would leave copies of a key behind.
    let room = usize::try_from(size).unwrap_or(0).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.by_ref().take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn bad_pem(path: &Path, error: &PemError) -> TlsError {
    // The library's text quotes lines as numbers; a key's line must not be quoted at all.
    let detail = match error {
        PemError::MissingSectionEnd { .. } => "a block has no END line".to_owned(),
        PemError::IllegalSectionStart { .. } => "a BEGIN line is malformed".to_owned(),
        PemError::Base64Decode(_) => "a block is not base64".to_owned(),
        PemError::SectionTooLarge => "a block is too large".to_owned(),
        PemError::NoItemsFound => "it holds nothing that was looked for".to_owned(),
        PemError::Io(error) => error.to_string(),
        _ => "unknown fault".to_owned(),
    };
    TlsError::BadPem { path: path.into(), detail }
}
