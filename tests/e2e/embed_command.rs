//! `headswap embed`: the server's features, as NumPy's files and as JSON lines.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use headswap_proto::{EmbedRequest, embed_request};

use crate::support::program::{Ran, headswap};
use crate::support::{CHELSEA, ROCKET, Server};

/// Rows of a .npy file of float32, read by its specification (numpy.lib.format, version 1.0).
fn npy_rows(file: &[u8]) -> Vec<Vec<f32>> {
    assert_eq!(&file[..8], b"\x93NUMPY\x01\x00");
    let header_bytes = u16::from_le_bytes([file[8], file[9]]) as usize;
    assert_eq!((10 + header_bytes) % 64, 0);
    let header = std::str::from_utf8(&file[10..10 + header_bytes]).unwrap();
    assert!(
        header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': ("),
        "{header}"
    );
    assert!(header.ends_with('\n'));
    let shape = header.split(['(', ')']).nth(1).unwrap();
    let (rows, columns) = shape.split_once(", ").unwrap();
    let (rows, columns): (usize, usize) = (rows.parse().unwrap(), columns.parse().unwrap());
    let data = &file[10 + header_bytes..];
    assert_eq!(data.len(), rows * columns * 4);
    let mut matrix = Vec::new();
    for row in data.chunks(columns * 4) {
        let values = row.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        matrix.push(values.collect());
    }
    matrix
}

async fn features(server: &Server, image: &'static [u8]) -> Vec<f32> {
    let request = EmbedRequest {
        input: Some(embed_request::Input::Image(image.into())),
        ..Default::default()
    };
    let answer = server.classifier().await.embed(request).await.unwrap();
    answer.into_inner().features
}

#[tokio::test]
async fn features_are_the_servers_in_the_order_of_the_pictures() {
    let (dir, photos) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(dir.path(), &[]);
    let (rocket, chelsea) = (features(&server, ROCKET).await, features(&server, CHELSEA).await);
    let mut expected = Vec::new();
    for number in 0..20 {
        let (bytes, features) = if number % 3 == 0 {
            (CHELSEA, &chelsea)
        } else {
            (ROCKET, &rocket)
        };
        fs::write(photos.path().join(format!("{number:02}.jpg")), bytes).unwrap();
        expected.push(features.clone());
    }
    let output = photos.path().join("features.npy");
    let (folder, output) = (photos.path().to_str().unwrap(), output.to_str().unwrap());
    let ran = Ran::of(&["embed", "--address", &server.grpc, "--output", output, folder]).succeeded();
    let matrix = npy_rows(&fs::read(output).unwrap());
    assert!(matrix == expected, "the rows are others");
    let names: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(names.len(), 20);
    assert!(names.is_sorted() && names[3].ends_with("03.jpg"), "{names:?}");

    let args = ["embed", "--address", &server.grpc, "images/rocket.jpg", "-"];
    let ran = Ran::with_stdin(&args, CHELSEA).succeeded();
    let lines = ran.json_lines();
    assert_eq!(
        (&lines[0]["image"], &lines[1]["image"]),
        (&"images/rocket.jpg".into(), &"-".into())
    );
    for (line, expected) in lines.iter().zip([&rocket, &chelsea]) {
        let mut features = Vec::new();
        for value in line["features"].as_array().unwrap() {
            features.push(value.as_f64().unwrap() as f32);
        }
        assert!(features == *expected, "the features are others");
        assert_eq!(line["backbone_digest"].as_str().unwrap().len(), 64);
    }
}

#[tokio::test]
async fn what_fails_has_no_row_and_a_failed_file_leaves_the_old_one() {
    let (dir, photos) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(dir.path(), &[]);
    fs::write(photos.path().join("a.jpg"), ROCKET).unwrap();
    fs::write(photos.path().join("b.jpg"), &ROCKET[..500]).unwrap();
    fs::write(photos.path().join("c.jpg"), CHELSEA).unwrap();
    let output = photos.path().join("features.npy");
    let (folder, out) = (photos.path().to_str().unwrap(), output.to_str().unwrap());
    let embed = ["embed", "--address", &server.grpc, "--output", out];
    let ran = Ran::of(&[&embed[..], &[folder, "missing.jpg"]].concat()).failed(1, "2 of 4 pictures have no features");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.stderr);
    assert!(lines[0].contains("b.jpg: InvalidArgument: "), "{}", ran.stderr);
    assert!(lines[1].contains("cannot read missing.jpg: "), "{}", ran.stderr);
    assert_eq!(ran.stdout.lines().count(), 2);
    let matrix = npy_rows(&fs::read(&output).unwrap());
    assert!(matrix == [features(&server, ROCKET).await, features(&server, CHELSEA).await]);

    // Nothing to write, no folder to write to, no server: what was there stays, and nothing else.
    let before = fs::read(&output).unwrap();
    Ran::of(&[&embed[..], &["missing.jpg"]].concat()).failed(1, "none of 1 pictures has features");
    let nowhere = format!("{folder}/none/features.npy");
    Ran::of(&["embed", "--address", &server.grpc, "--output", &nowhere, folder]).failed(1, "cannot write ");
    let gone = server.grpc.clone();
    drop(server);
    Ran::of(&["embed", "--address", &gone, "--output", out, folder]).failed(3, "no server answers at");
    assert_eq!(fs::read(&output).unwrap(), before);
    assert_eq!(names_in(photos.path()), ["a.jpg", "b.jpg", "c.jpg", "features.npy"]);
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        names.push(entry.unwrap().file_name().into_string().unwrap());
    }
    names.sort();
    names
}

#[test]
fn a_server_that_is_lost_leaves_no_file() {
    let (dir, photos) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let slow = ["--backend", "null", "--null-row-us", "20000", "--max-batch", "1"];
    let server = Server::start(dir.path(), &slow);
    let rocket = fs::canonicalize("images/rocket.jpg").unwrap();
    for number in 0..500 {
        std::os::unix::fs::symlink(&rocket, photos.path().join(format!("{number}.jpg"))).unwrap();
    }
    let before = names_in(photos.path());
    let output = photos.path().join("features.npy");
    let (folder, output) = (photos.path().to_str().unwrap(), output.to_str().unwrap());
    let mut command = headswap(&["embed", "--address", &server.grpc, "--output", output, folder]);
    let embed = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let answered = "headswap_requests_total{method=\"Embed\",code=\"Ok\"}";
    while !server.get("/metrics").1.contains(answered) {}
    server.signal(libc::SIGKILL);
    server.wait();
    let ran = Ran::from(embed.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.lines().count() < 500);
    assert_eq!(names_in(photos.path()), before);
}

/// A reader that has enough, as `head` has, is no failure; a full disk is one.
#[tokio::test]
async fn a_closed_output_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let args: [&[&str]; 6] = [
        &["embed", "--address", &server.grpc, "images"],
        &["classify", "--address", &server.grpc, "images"],
        &["describe", "--admin-address", &server.admin],
        &["head", "list", "--admin-address", &server.admin],
        &["completions", "bash"],
        &["weights", "inspect", "tests/fixtures/checkpoints/zip_f32.pth"],
    ];
    for args in args {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = Ran::from(headswap(args).stdout(writer).output().unwrap());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{args:?}");
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ran = Ran::from(headswap(args).stdout(full).output().unwrap());
        ran.failed(1, "cannot write to standard output: No space left on device");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = headswap(args)
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .status();
        assert_eq!(status.unwrap().code(), Some(0), "{args:?}");
    }
    // Nor is a closed standard error a panic.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = headswap(&["classify", "--address", "unix:/nowhere", "images"])
        .stderr(writer)
        .status();
    assert_eq!(status.unwrap().code(), Some(3));
}
