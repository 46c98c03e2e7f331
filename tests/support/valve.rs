//! A place on the wire between a client and a server where a test turns the flow off, or
//! into something else.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They are passed on.
    Open,
    /// Connections are taken and nothing is ever said.
    Silent,
    /// Whatever the client says is answered with something that no protocol knows.
    Garbage,
    /// Connections end at once.
    Cut,
}

/// Listens until the test's process ends.
pub struct Valve {
    address: SocketAddr,
    flow: Arc<Mutex<Flow>>,
    accepted: Arc<AtomicUsize>,
}

impl Valve {
    /// Stands before that server, open.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, super::free_port())).unwrap();
        let address = listener.local_addr().unwrap();
        let flow = Arc::new(Mutex::new(Flow::Open));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (state, count) = (Arc::clone(&flow), Arc::clone(&accepted));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                // A server that is gone is as if it had closed.
                let Ok(server) = TcpStream::connect(server) else { continue };
                let (to_client, to_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                pass(server, to_client, None, Arc::clone(&state));
                let answers = client.try_clone().unwrap();
                pass(client, to_server, Some(answers), Arc::clone(&state));
            }
        });
        Self { address, flow, accepted }
    }

    /// Where to connect in place of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What becomes of bytes from now on.
    pub fn turn(&self, flow: Flow) {
        *self.flow.lock().unwrap() = flow;
    }

    /// How many connections came.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// `answers` leads back to the one who speaks, where garbage is answered.
fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    mut answers: Option<TcpStream>,
    flow: Arc<Mutex<Flow>>,
) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let now = *flow.lock().unwrap();
            if now == Flow::Cut {
                break;
            }
            let read = match from.read(&mut buffer) {
                Ok(read) if read > 0 => read,
                _ => break,
            };
            let now = *flow.lock().unwrap();
            let passed = if now == Flow::Open {
                to.write_all(&buffer[..read])
            } else if now == Flow::Garbage {
                let garbage: Vec<u8> = (0..200).map(|_| fastrand::u8(..)).collect();
                answers.as_mut().map_or(Ok(()), |answers| answers.write_all(&garbage))
            } else {
                Ok(())
            };
            if passed.is_err() || now == Flow::Cut {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
