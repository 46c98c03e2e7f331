//! Sockets, TLS, the PROXY protocol, name resolution and relay buffers. Knows bytes
//! and addresses, never IMAP.

pub mod cidr;
pub mod listen;
pub mod pool;
pub mod proxy_header;
pub mod resolve;
pub mod sockets;
pub mod stream;
pub mod tls;

pub use stream::Stream;
