//! The client's connection before its relay: read into the inbox, said goodbye to.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroize;

use crate::net::stream::Stream;
use crate::proxy::orders::CloseReason;
use crate::session::prelogin::Inbox;

/// Bytes taken from a client at once before its login.
const READ_BYTES: usize = 4096;
/// How long a client that was sent away may take to close.
const PARTING_TIME: Duration = Duration::from_secs(1);

/// The client's connection and what came over it and was not used yet.
pub(super) struct Link {
    pub(super) stream: Stream,
    pub(super) inbox: Inbox,
}

/// Says goodbye properly: the client's last bytes are read away for a moment, so that
/// what it was told is not lost in a reset. Gives the reason back.
pub(super) async fn part(stream: &mut Stream, reason: CloseReason) -> CloseReason {
    let until = Instant::now() + PARTING_TIME;
    let goodbye = async {
        stream.shutdown().await?;
        while read_away(stream).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether it went well or not, the connection is over.
    let _ = timeout_at(until, goodbye).await;
    reason
}

/// Reads what is there into the inbox; 0 is the end. A connection that waits keeps no
/// buffer: the bytes pass over the stack. The caller sees to it that there is room.
pub(super) async fn read_some(link: &mut Link) -> io::Result<usize> {
    let Link { stream, inbox } = link;
    poll_fn(|cx| {
        let mut space = [0; READ_BYTES];
        let room = inbox.room().min(READ_BYTES);
        let mut window = ReadBuf::new(space.get_mut(..room).unwrap_or_default());
        match ready!(Pin::new(&mut *stream).poll_read(cx, &mut window)) {
            Ok(()) => {}
            // TLS without a last word: an end like any other.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        let count = inbox.push(window.filled());
        space.zeroize();
        Poll::Ready(Ok(count))
    })
    .await
}

/// Says goodbye in no time: what the client sent so far is read away, so that the close is
/// no reset. For clients of whom there may be a crowd.
pub(super) async fn dismiss(stream: &mut Stream) {
    let _ = stream.shutdown().await;
    let _ = at_once(read_away(stream)).await;
}

/// Whether the client has ended the connection and left nothing to do. One that only ended
/// its own half behind further commands has not.
pub(super) async fn has_left(link: &mut Link) -> bool {
    if !link.inbox.is_empty() {
        return false;
    }
    match at_once(read_some(link)).await {
        Some(Ok(count)) => count == 0,
        Some(Err(_)) => true,
        None => false,
    }
}

/// The outcome of something that need not wait, else `None`.
async fn at_once<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        outcome = work => Some(outcome),
        () = std::future::ready(()) => None,
    }
}

async fn read_away(stream: &mut Stream) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut space = [0; READ_BYTES];
        let mut window = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut window))?;
        Poll::Ready(Ok(window.filled().len()))
    })
    .await
}
