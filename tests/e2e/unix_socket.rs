//! ClassifierService on a Unix socket.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output};

use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{Server, classify};

fn address(dir: &Path) -> String {
    format!("unix:{}", dir.join("grpc.sock").display())
}

fn headswap(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headswap"))
        .args(args)
        .output()
        .unwrap()
}

#[tokio::test]
async fn a_unix_socket_serves_until_the_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let address = address(dir.path());
    let server = Server::start(dir.path(), &["--listen", &address]);
    assert_eq!(server.grpc, address);
    let path = dir.path().join("grpc.sock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/images/rocket.jpg");
    for address in [address.clone(), address.replace("unix:", "unix://")] {
        let output = headswap(&["classify", "--address", &address, picture]);
        assert!(output.status.success(), "{output:?}");
    }

    let mut requests = JoinSet::new();
    for _ in 0..32 {
        let mut client = server.classifier().await;
        requests.spawn(async move { client.classify(classify(&[])).await });
    }
    // The first response shows that requests are in flight.
    requests.join_next().await.unwrap().unwrap().unwrap();
    server.signal(libc::SIGTERM);
    while let Some(answer) = requests.join_next().await {
        if let Err(status) = answer.unwrap() {
            // Not accepted: the request was sent after the GOAWAY on its connection.
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
    }
    assert!(server.wait().success());
    assert!(!path.exists());
    let output = headswap(&["classify", "--address", &address, picture]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[tokio::test]
async fn the_file_of_a_dead_server_is_replaced_and_of_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let address = address(dir.path());
    let server = Server::start(dir.path(), &["--listen", &address]);
    check_refused(&address);
    server.classifier().await.classify(classify(&[])).await.unwrap();

    server.signal(libc::SIGKILL);
    server.wait();
    assert!(
        fs::metadata(dir.path().join("grpc.sock"))
            .unwrap()
            .file_type()
            .is_socket()
    );
    let server = Server::start(dir.path(), &["--listen", &address]);
    server.classifier().await.classify(classify(&[])).await.unwrap();

    // The server does not remove a file that is not a socket.
    let file = dir.path().join("file");
    fs::write(&file, "kept").unwrap();
    check_refused(&format!("unix:{}", file.display()));
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
}

/// A server cannot listen at this address, and its error says so once.
fn check_refused(address: &str) {
    let ports = ["--admin-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let output = headswap(&[&["serve", "--weights", "demo", "--listen", address][..], &ports].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected = format!("headswap: cannot listen on {address} (--listen): ");
    let count = stderr.lines().filter(|line| line.starts_with(&expected)).count();
    assert_eq!(count, 1, "{stderr}");
}
