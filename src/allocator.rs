//! The memory allocator and its settings.
#![allow(unsafe_code, reason = "jemalloc reads its settings from an exported symbol")]

use tikv_jemallocator::Jemalloc;

/// jemalloc gives memory back after a burst of connections; glibc's allocator does not.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Freed pages go back to the system after two seconds, by a thread of jemalloc's own:
/// without it an idle proxy would keep what its last burst of handshakes used.
///
/// SAFETY: the symbol is the one that jemalloc declares for this purpose
/// (`const char *malloc_conf`, with the crate's prefix): a pointer to bytes that end in
/// NUL and live as long as the process. `Option<&u8>` has the layout of such a pointer,
/// and no other object of the program exports the name.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: Option<&'static u8> =
    b"background_thread:true,dirty_decay_ms:2000,muzzy_decay_ms:2000\0".first();
