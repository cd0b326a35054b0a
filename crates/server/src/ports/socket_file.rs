//! The file of a Unix socket: created at start, removed at the end.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// The server's user and group may connect.
const MODE: u32 = 0o660;

/// Removes the file when dropped, unless another file has replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl SocketFile {
    /// Listens at `path`. Replaces a socket file that a dead server has left there.
    ///
    /// # Errors
    /// Those of the system: `AddrInUse` if another server listens there or the file is not a socket.
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
            // If this fails, the next server finds a stale file and replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Returns true if the path is a socket on which no process listens.
fn is_stale(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) && refuses(path).unwrap_or(false)
}

/// Returns true if the socket refuses connections. Does not wait, because the backlog of a live server may be full.
fn refuses(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let connected = socket.connect(&SockAddr::unix(path)?);
    Ok(connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}
