//! Log lines on their way to standard error: a bounded queue and a thread that writes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait at most: a burst of some seconds, a few megabytes.
const LINES_MAX: usize = 8192;

/// Longest wait for the queue to empty, at the end of the process.
const FLUSH_MAX: Duration = Duration::from_secs(2);

enum Item {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// The queue's entrance. Writing to it never waits.
#[derive(Debug, Clone)]
pub(super) struct LineQueue {
    items: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl LineQueue {
    /// Starts the thread, which ends with the last entrance.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (items, queue) = sync_channel(LINES_MAX);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&queue, out))?;
        Ok(Self { items, dropped: Arc::default() })
    }

    pub(super) fn lines_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what is queued is written; not when the queue is full, for then
    /// nobody reads.
    pub(super) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.items.try_send(Item::Flush(done)).is_ok() {
            // Either way there is nothing more to do.
            let _ = wait.recv_timeout(FLUSH_MAX);
        }
    }
}

impl<'w> MakeWriter<'w> for LineQueue {
    type Writer = LineWriter<'w>;

    fn make_writer(&'w self) -> Self::Writer {
        LineWriter(self)
    }
}

/// Takes one whole line a write, as the formatting layer gives it.
#[derive(Debug)]
pub(super) struct LineWriter<'q>(&'q LineQueue);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.items.try_send(Item::Line(line.to_vec())).is_err() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(queue: &Receiver<Item>, mut out: impl Write) {
    for item in queue {
        // Where standard error is gone there is no place left to say so.
        match item {
            Item::Line(line) => {
                let _ = out.write_all(&line);
            }
            Item::Flush(done) => {
                let _ = out.flush();
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Hands every line to the test, once the test lets it.
    struct Stalling {
        go: Receiver<()>,
        lines: Sender<Vec<u8>>,
    }

    impl Write for Stalling {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.go.recv();
            let _ = self.lines.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_reader_costs_lines_and_no_time() {
        let (release, go) = channel();
        let (lines, written) = channel();
        let queue = LineQueue::start(Stalling { go, lines }).unwrap();
        for number in 0..LINES_MAX + 100 {
            queue.make_writer().write_all(number.to_string().as_bytes()).unwrap();
        }
        let dropped = usize::try_from(queue.lines_dropped()).unwrap();
        assert!((99..=100).contains(&dropped), "{dropped} dropped");
        drop(release);
        drop(queue);
        assert_eq!(written.iter().count(), LINES_MAX + 100 - dropped);
    }

    #[test]
    fn a_flush_waits_for_the_lines_before_it() {
        let (release, go) = channel();
        let (lines, written) = channel();
        let queue = LineQueue::start(Stalling { go, lines }).unwrap();
        queue.make_writer().write_all(b"one").unwrap();
        queue.make_writer().write_all(b"two").unwrap();
        release.send(()).unwrap();
        release.send(()).unwrap();
        queue.flush();
        let lines: Vec<Vec<u8>> = written.try_iter().collect();
        assert_eq!(lines, [b"one".to_vec(), b"two".to_vec()]);
    }
}
