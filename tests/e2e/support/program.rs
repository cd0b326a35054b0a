//! The command line as its users run it.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// `headswap` with these arguments and no variable of the machine's.
pub fn headswap(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headswap"));
    command
        .args(args)
        .env_remove("HEADSWAP_ADDRESS")
        .env_remove("HEADSWAP_ADMIN_ADDRESS")
        .stdin(Stdio::null());
    command
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Runs the program to its end.
    pub fn of(args: &[&str]) -> Self {
        headswap(args).output().unwrap().into()
    }

    /// Runs the program with this standard input.
    pub fn with_stdin(args: &[&str], stdin: &[u8]) -> Self {
        let mut command = headswap(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// Each line of standard output as JSON.
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let mut lines = Vec::new();
        for line in self.stdout.lines() {
            lines.push(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
        }
        lines
    }

    /// Panics unless the program succeeded and said nothing on standard error.
    pub fn succeeded(self) -> Self {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self
    }

    /// Panics unless the program ended with this code and, last, a line with this text.
    pub fn failed(self, code: i32, text: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("headswap: ") && last.contains(text),
            "{text:?}: {self:?}"
        );
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
