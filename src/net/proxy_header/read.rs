//! Reading a header from a socket without taking one byte that follows it.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::net::proxy_header::{Progress, ProxyHeader, ProxyHeaderError, V1_BYTES_MAX, parse, v2};

/// Reads the header that must begin a connection, at most for `deadline`.
///
/// What follows it (a TLS `ClientHello`, an IMAP command) stays in the socket: of version
/// 2 exactly the declared length is read; of version 1 the bytes in the socket are
/// looked at first and taken up to the line end.
///
/// A peer that closes without a byte is [`ProxyHeaderError::Silent`].
pub async fn read_proxy_header(
    stream: &mut TcpStream,
    deadline: Duration,
) -> Result<ProxyHeader, ProxyHeaderError> {
    tokio::time::timeout(deadline, read(stream))
        .await
        .unwrap_or(Err(ProxyHeaderError::Timeout { waited: deadline }))
}

async fn read(stream: &mut TcpStream) -> Result<ProxyHeader, ProxyHeaderError> {
    let mut taken = Vec::with_capacity(V1_BYTES_MAX);
    loop {
        if let Progress::Complete { header, .. } = parse(&taken)? {
            return Ok(header);
        }
        let before = taken.len();
        match surely_header_bytes(&taken)? {
            Some(wanted) => read_some(stream, &mut taken, wanted).await,
            None => read_line_part(stream, &mut taken).await,
        }
        .map_err(|error| lost(error, taken.is_empty()))?;
        if taken.len() == before {
            return Err(ended(taken.is_empty()));
        }
    }
}

/// How many more bytes belong to the header whatever they are; `None` for version 1,
/// whose end must be looked for.
fn surely_header_bytes(taken: &[u8]) -> Result<Option<usize>, ProxyHeaderError> {
    let signature_bytes = v2::SIGNATURE.len();
    if taken.len() < signature_bytes {
        // The shortest version 1 header, `PROXY UNKNOWN` CRLF, is longer than this.
        return Ok(Some(signature_bytes - taken.len()));
    }
    if !taken.starts_with(v2::SIGNATURE) {
        return Ok(None);
    }
    let length = v2::declared_length(taken)?.unwrap_or(0);
    Ok(Some((v2::FIXED_BYTES + length).saturating_sub(taken.len())))
}

/// One read of at most `wanted` bytes, appended.
async fn read_some(stream: &mut TcpStream, taken: &mut Vec<u8>, wanted: usize) -> io::Result<()> {
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    stream.take(wanted).read_buf(taken).await.map(drop)
}

/// Looks at what has come and takes it up to the first line end, so that every look is
/// followed by progress and a slow sender costs no spinning.
async fn read_line_part(stream: &mut TcpStream, taken: &mut Vec<u8>) -> io::Result<()> {
    let mut seen = [0; V1_BYTES_MAX];
    let seen_bytes = stream.peek(&mut seen).await?;
    let seen = seen.get(..seen_bytes).unwrap_or_default();
    let wanted = memchr::memchr(b'\n', seen).map_or(seen.len(), |end| end + 1);
    if wanted == 0 {
        return Ok(());
    }
    read_some(stream, taken, wanted).await
}

fn ended(nothing_came: bool) -> ProxyHeaderError {
    if nothing_came { ProxyHeaderError::Silent } else { ProxyHeaderError::Truncated }
}

fn lost(error: io::Error, nothing_came: bool) -> ProxyHeaderError {
    if error.kind() == io::ErrorKind::ConnectionReset {
        ended(nothing_came)
    } else {
        ProxyHeaderError::Io(error)
    }
}
