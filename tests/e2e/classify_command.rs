//! `headswap classify`: files, folders and standard input, in order, with times.

use std::fs;
use std::path::Path;

use crate::support::program::Ran;
use crate::support::{CHELSEA, ROCKET, Server, replace};

/// A folder with pictures in it and below it, and what is none.
fn photos() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("b")).unwrap();
    for (name, bytes) in [
        ("c.JPG", ROCKET),
        ("a.png", CHELSEA),
        ("b/z.jpeg", ROCKET),
        ("notes.txt", b"no picture".as_slice()),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn images(ran: &Ran) -> Vec<String> {
    let mut images = Vec::new();
    for line in ran.json_lines() {
        images.push(line["image"].as_str().unwrap().to_owned());
    }
    images
}

fn paths(folder: &Path, names: &[&str]) -> Vec<String> {
    names
        .iter()
        .map(|name| folder.join(name).display().to_string())
        .collect()
}

#[tokio::test]
async fn folders_and_standard_input_are_answered_in_order() {
    let (dir, photos) = (tempfile::tempdir().unwrap(), photos());
    let server = Server::start(dir.path(), &[]);
    let (folder, single) = (photos.path().to_str().unwrap(), photos.path().join("c.JPG"));
    let args = [
        "classify",
        "--address",
        &server.grpc,
        "--json",
        "--timing",
        single.to_str().unwrap(),
        folder,
        "-",
    ];
    let ran = Ran::with_stdin(&args, CHELSEA).succeeded();
    let mut expected = paths(photos.path(), &["c.JPG", "a.png", "b/z.jpeg", "c.JPG"]);
    expected.push("-".into());
    assert_eq!(images(&ran), expected);
    let lines = ran.json_lines();
    assert_eq!(
        lines[4]["results"], lines[1]["results"],
        "the same picture by either way"
    );
    for line in &lines {
        let timing = &line["timing"];
        assert!(
            timing["decode_ms"].as_f64().unwrap() > 0.0 && timing["compute_ms"].as_f64().unwrap() > 0.0,
            "{line}"
        );
        assert!(timing["queue_ms"].as_f64().unwrap() >= 0.0);
        assert!((1..=4).contains(&timing["batch_size"].as_u64().unwrap()));
    }
    let plain = Ran::of(&["classify", "--address", &server.grpc, "--json", folder]).succeeded();
    assert!(plain.json_lines().iter().all(|line| line.get("timing").is_none()));

    let table = Ran::of(&[
        "classify",
        "--address",
        &server.grpc,
        "--timing",
        "--top-k",
        "2",
        folder,
    ])
    .succeeded();
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!(lines.len(), 1 + 3 * 2, "{}", table.stdout);
    for heading in ["picture", "decode ms", "queue ms", "compute ms", "batch"] {
        assert!(lines[0].contains(heading), "{}", lines[0]);
    }
    assert!(lines[1].split_whitespace().count() > lines[2].split_whitespace().count());
    assert!(!table.stdout.contains('\x1b'), "no colours");
}

#[tokio::test]
async fn failures_are_reported_at_the_end() {
    let (dir, photos) = (tempfile::tempdir().unwrap(), photos());
    let server = Server::start(dir.path(), &[]);
    server.admin().await.replace_head(replace("cats", 2, 1)).await.unwrap();
    fs::write(photos.path().join("broken.png"), &CHELSEA[..300]).unwrap();
    std::os::unix::fs::symlink("nowhere", photos.path().join("b/gone.webp")).unwrap();
    let folder = photos.path().to_str().unwrap();
    let args = [
        "classify",
        "--address",
        &server.grpc,
        "--json",
        "--head",
        "cats",
        "missing.jpg",
        folder,
    ];
    let ran = Ran::of(&args).failed(1, "3 of 6 pictures have no complete answer");
    let expected = paths(photos.path(), &["a.png", "b/z.jpeg", "broken.png", "c.JPG"]);
    assert_eq!(images(&ran), expected);
    assert!(ran.json_lines()[2]["results"][0]["error"]["code"] == 3);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.stderr);
    assert!(lines[0].contains("broken.png: head cats: "), "{}", ran.stderr);
    assert!(lines[1].contains("cannot read missing.jpg: "), "{}", ran.stderr);
    assert!(
        lines[2].contains("cannot read ") && lines[2].contains("gone.webp"),
        "{}",
        ran.stderr
    );
    Ran::of(&[
        "classify",
        "--address",
        &server.grpc,
        "--head",
        "dogs",
        "images/rocket.jpg",
    ])
    .failed(1, "1 of 1 pictures have no complete answer");
}

/// Wrong usage is reported before there is a connection: nothing listens at this address.
#[test]
fn wrong_usage_has_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let nowhere = "unix:/nowhere/headswap.sock";
    for command in ["classify", "embed"] {
        Ran::of(&[command, "--address", nowhere, folder]).failed(2, "holds no pictures");
        Ran::of(&[command, "--address", nowhere, "-", "-"]).failed(2, "`-` is given twice");
        Ran::of(&[command, "--address", nowhere, "images"]).failed(3, "no server answers at");
    }
    for args in [
        vec!["classify", "--logits", "images"],
        vec!["classify"],
        vec!["embed", "--output", "features.csv", "images"],
        vec!["embed", "--concurrency", "0", "images"],
        vec!["bench", "serve", "--rate", "0"],
        vec!["bench", "serve", "--seed", "7"],
        vec!["bench", "serve", "--head", "cats"],
        vec!["bench", "serve", "--address", nowhere, "--backend", "native"],
        vec!["bench", "serve", "--rate", "5", "--concurrency", "4"],
    ] {
        let ran = Ran::of(&args);
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
    }
    let many = [
        "bench",
        "serve",
        "--address",
        nowhere,
        "--rate",
        "1e6",
        "--seconds",
        "5",
    ];
    Ran::of(&many).failed(2, "the limit is 4000000");
    let help = Ran::of(&["--help"]).succeeded().stdout;
    assert!(help.contains("Exit codes: 0 success, 1 something failed, 2 wrong usage, 3 the server cannot be reached."));
}
