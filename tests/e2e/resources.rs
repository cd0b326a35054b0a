//! What a machine lacks is named at start, before anything is loaded, and nothing panics.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

fn serve(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headswap"));
    command.args(["serve", "--weights", "demo", "--log", "warn"]).args(args);
    for listen in ["--listen", "--admin-listen", "--http-listen"] {
        command.args([listen, "127.0.0.1:0"]);
    }
    command
}

fn check_refused(output: &Output, parts: &[&str]) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("headswap: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    for part in parts {
        assert!(lines[0].contains(part), "{part:?} is not in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn more_threads_than_the_limit_are_refused() {
    let output = serve(&["--threads", "99999"]).output().unwrap();
    check_refused(&output, &["--threads 99999: the limit is 1024"]);
}

#[test]
fn a_backbone_that_does_not_fit_is_refused_with_what_it_needs() {
    let mut command = serve(&["--precision", "f32"]);
    limit(&mut command, libc::RLIMIT_AS, 700 << 20, None);
    let output = command.output().unwrap();
    check_refused(&output, &["the process may use 734 MB", "--precision int16"]);
}

/// A limit on processes counts the threads of a user, and root has none, so the server runs as a user of its own.
#[test]
fn a_limit_on_threads_is_named_before_anything_panics() {
    // SAFETY: the call has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let mut command = serve(&["--threads", "64", "--heads-dir", "/nonexistent"]);
    limit(&mut command, libc::RLIMIT_NPROC, 20, Some(54_321));
    match command.output() {
        Ok(output) => check_refused(&output, &["threads are needed at the same time", "lower --threads"]),
        // The build folder is closed to other users.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}"),
    }
}

#[test]
fn a_benchmark_beyond_the_limit_on_threads_names_it() {
    // SAFETY: the call has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_headswap"));
    command.args(["bench", "forward", "--seconds", "1", "--threads", "64"]);
    limit(&mut command, libc::RLIMIT_NPROC, 20, Some(54_321));
    match command.output() {
        Ok(output) => check_refused(&output, &["threads are needed at the same time", "the system allows"]),
        // The build folder is closed to other users.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}"),
    }
}

/// Runs the command with a resource limit, and as another user if one is given.
fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, value: u64, user: Option<u32>) {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: between fork and exec it calls setrlimit and setuid alone, which are safe there (signal-safety(7)).
    unsafe {
        command.pre_exec(move || {
            if libc::setrlimit(resource, &raw const limit) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            match user {
                Some(user) if libc::setuid(user) != 0 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        });
    }
}
