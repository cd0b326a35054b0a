//! The file of a Unix socket, from its server's start to its end.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// The user and the group may connect.
const MODE: u32 = 0o660;

/// Removes the file when dropped, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    /// Listens at `path`, in the place of a file whose server has ended without removing it.
    ///
    /// # Errors
    /// The system's: `AddrInUse` if a server listens there or the file is no socket.
    pub fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        if is_stale(path) {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        let (path, id) = (path.to_owned(), id(path)?);
        let file = Self { path, id };
        fs::set_permissions(&file.path, Permissions::from_mode(MODE))?;
        Ok((listener, file))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|id| id == self.id) {
            // What cannot be removed is stale for the next server.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Whether there is a socket at which nobody listens. Without waiting: a live server's backlog may be full.
fn is_stale(path: &Path) -> bool {
    let refused = || -> io::Result<bool> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let answer = socket.connect(&SockAddr::unix(path)?);
        Ok(answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
    };
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) && refused().unwrap_or(false)
}
