//! libtorch is loaded by what needs it, and by nothing else.

use std::fs;
use std::process::Command;

use crate::support::Server;
#[cfg(feature = "torch")]
use crate::support::classify;

fn loads_libtorch(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps"))
        .unwrap()
        .contains("libtorch_cpu.so")
}

#[tokio::test]
async fn a_native_server_does_without_libtorch() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--backend", "native"]);
    assert!(!loads_libtorch(server.id()));
}

#[cfg(feature = "torch")]
#[tokio::test]
async fn a_torch_server_answers_as_a_native_one() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut answers = Vec::new();
    for (dir, backend) in dirs.iter().zip(["native", "torch"]) {
        let server = Server::start(dir.path(), &["--backend", backend]);
        assert_eq!(loads_libtorch(server.id()), backend == "torch");
        let answer = server
            .classifier()
            .await
            .classify(classify(&["default"]))
            .await
            .unwrap();
        answers.push(answer.into_inner().results.remove(0).logits);
    }
    let scale = answers[0].iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
    for (native, torch) in answers[0].iter().zip(&answers[1]) {
        assert!((native - torch).abs() <= 1e-4 * scale, "{native} {torch}");
    }
}

#[cfg(feature = "torch")]
#[test]
fn a_program_with_libtorch_of_another_version_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_headswap-torch"))
        .args([
            "serve",
            "--weights",
            "demo",
            "--arch",
            "vgg16-narrow",
            "--backend",
            "torch",
        ])
        .env("_HEADSWAP_STARTED_BY", "0.0.1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("headswap is version 0.0.1"), "{said}");
    assert!(said.contains("install both from one build"), "{said}");
}

#[cfg(not(feature = "torch"))]
#[test]
fn what_needs_libtorch_is_refused_without_it() {
    for args in [["--backend", "torch"], ["--precision", "bf16"], ["--device", "cuda"]] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_headswap"));
        command
            .args(["serve", "--weights", "demo", "--arch", "vgg16-narrow"])
            .args(args);
        command.arg("--heads-dir").arg(dir.path());
        for listen in ["--listen", "--admin-listen", "--http-listen"] {
            command.args([listen, "127.0.0.1:0"]);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("need libtorch, which this build of headswap does not have"),
            "{said}"
        );
    }
}

/// A linked libtorch would be loaded by every call of the command line; `ldd` lists what is linked.
#[test]
fn the_command_line_is_not_linked_to_libtorch() {
    let output = Command::new("ldd")
        .arg(env!("CARGO_BIN_EXE_headswap"))
        .output()
        .unwrap();
    let libraries = String::from_utf8(output.stdout).unwrap();
    assert!(libraries.contains("libc.so"), "{libraries}");
    assert!(
        !libraries.contains("torch") && !libraries.contains("libc10"),
        "{libraries}"
    );
}
