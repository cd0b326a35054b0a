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
async fn clients_are_answered_until_the_socket_goes() {
    let dir = tempfile::tempdir().unwrap();
    let address = address(dir.path());
    let server = Server::start(dir.path(), &["--listen", &address]);
    assert_eq!(server.grpc, address);
    let path = dir.path().join("grpc.sock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/images/rocket.jpg");
    for address in [address.clone(), address.replace("unix:", "unix://")] {
        let asked = headswap(&["classify", "--address", &address, picture]);
        assert!(asked.status.success(), "{asked:?}");
    }

    let mut requests = JoinSet::new();
    for _ in 0..32 {
        let mut client = server.classifier().await;
        requests.spawn(async move { client.classify(classify(&[])).await });
    }
    // The first answer shows that requests are under way.
    requests.join_next().await.unwrap().unwrap().unwrap();
    server.signal(libc::SIGTERM);
    while let Some(answer) = requests.join_next().await {
        if let Err(status) = answer.unwrap() {
            // Not accepted: it came on a connection that the server had told to go away.
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
    }
    assert!(server.wait().success());
    assert!(!path.exists());
    let asked = headswap(&["classify", "--address", &address, picture]);
    assert_eq!(asked.status.code(), Some(3), "{asked:?}");
}

#[tokio::test]
async fn a_dead_servers_file_is_replaced_and_a_live_servers_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let address = address(dir.path());
    let server = Server::start(dir.path(), &["--listen", &address]);
    let refused = |address: &str| {
        let listen = ["--admin-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
        let second = headswap(&[&["serve", "--weights", "demo", "--listen", address][..], &listen].concat());
        assert_eq!(second.status.code(), Some(1), "{second:?}");
        let said = String::from_utf8(second.stderr).unwrap();
        let expected = format!("headswap: cannot listen on {address} (--listen): ");
        assert_eq!(
            said.lines().filter(|line| line.starts_with(&expected)).count(),
            1,
            "{said}"
        );
    };
    refused(&address);
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

    // A file that is no socket is not the server's to remove.
    let file = dir.path().join("file");
    fs::write(&file, "kept").unwrap();
    refused(&format!("unix:{}", file.display()));
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
}
