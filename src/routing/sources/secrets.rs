//! Secrets and other small files of directories, read when a connection is made.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::SecretSource;
use crate::names::Secret;
use crate::routing::query::{FailureReason, SourceFailure};

/// Bytes of a file of authorities at most.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A secret, whether it is in the configuration or in a file.
pub(super) async fn load(source: &SecretSource) -> Result<Secret, SourceFailure> {
    let file = source.file().map(Path::to_owned);
    let source = source.clone();
    let loaded = tokio::task::spawn_blocking(move || source.load()).await;
    let loaded = loaded.map_err(std::io::Error::other).and_then(|loaded| loaded);
    loaded.map_err(|error| {
        let detail = format!("its secret in {} cannot be read: {error}", shown(file));
        SourceFailure::new(FailureReason::Connect, detail)
    })
}

/// The same for clients that take text only.
pub(super) async fn load_text(source: &SecretSource) -> Result<Zeroizing<String>, SourceFailure> {
    let secret = load(source).await?;
    let text = std::str::from_utf8(secret.expose()).map(|text| Zeroizing::new(text.to_owned()));
    text.map_err(|_| SourceFailure::new(FailureReason::Connect, "its secret is no UTF-8"))
}

/// A file, such as one of authorities.
pub(super) async fn load_file(path: &Path) -> Result<Vec<u8>, SourceFailure> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(&file)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let read = read.await.map_err(std::io::Error::other).and_then(|read| read);
    read.map_err(|error: std::io::Error| {
        let detail = format!("{} cannot be read: {error}", path.display());
        SourceFailure::new(FailureReason::Connect, detail)
    })
}

fn shown(file: Option<PathBuf>) -> String {
    file.map_or_else(|| "the configuration".to_owned(), |file| file.display().to_string())
}
