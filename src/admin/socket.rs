//! The admin API's Unix socket: made so that only its owner may use it, put in the place of
//! one that nobody serves any more, removed at the end.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A process answers there.
    #[error("admin.socket {path:?} is in use by another running process")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else lies there.
    #[error("admin.socket {path:?} is a file that is no socket; move it away or name another path")]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error(
        "admin.socket {path:?} cannot be made: {source}; its directory must be there and belong to \
         the user that the proxy runs as"
    )]
    Failed {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A listening socket with its file; the file is removed with it.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

impl AdminSocket {
    /// Listens at that path, mode 0600. A socket that nobody serves is replaced.
    ///
    /// # Errors
    /// Where it is served by another process, is no socket, or cannot be made.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        check_unused(path)?;
        let failed = |source| SocketError::Failed { path: path.to_owned(), source };
        // Made under another name and moved into place: at no moment is it there for others,
        // or not there at all.
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:08x}", fastrand::u32(..)));
        let beside = PathBuf::from(name);
        let listener = UnixListener::bind(&beside).map_err(failed)?;
        let moved = fs::set_permissions(&beside, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&beside, path))
            .and_then(|()| fs::symlink_metadata(path));
        let metadata = moved.map_err(|error| {
            let _ = fs::remove_file(&beside);
            failed(error)
        })?;
        let file = SocketFile { path: path.to_owned(), id: (metadata.dev(), metadata.ino()) };
        Ok(Self { listener, file })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

/// The file of a socket, removed when dropped unless another took its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn check_unused(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Failed { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(SocketError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        // Left behind by a process that was killed.
        Err(error)
            if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) =>
        {
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_its_owners_and_goes_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_is_served_and_a_file_stay_and_a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let served = UnixListener::bind(&path).unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::InUse { .. })));
        drop(served);
        drop(AdminSocket::bind(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::NoSocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_socket_that_took_its_place_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let old = AdminSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _new = UnixListener::bind(&path).unwrap();
        drop(old);
        assert!(path.exists());
    }
}
