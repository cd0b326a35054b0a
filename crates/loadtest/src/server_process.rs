//! A server as a child process, on free ports: for the demo and the benchmarks, as a user would run it.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use headswap_client::{Admin, Classifier, ClientError, connect_admin, connect_classifier};
use headswap_proto::{DescribeModelRequest, DescribeModelResponse};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::clients::connect_clients;

/// Killed when dropped, unless stopped before.
pub struct ServerProcess {
    child: Child,
    grpc: String,
    admin: String,
    http: String,
    dir: PathBuf,
}

impl ServerProcess {
    /// Starts this program as a server with `args` and waits until it is ready.
    pub async fn start<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Result<Self, ClientError> {
        let args: Vec<A> = args.into_iter().collect();
        let dir = new_dir()?;
        let log = dir.join("server.log");
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--announce"])
            .args(&args)
            .arg("--heads-dir")
            .arg(dir.join("heads"));
        for listen in ["--listen", "--admin-listen", "--http-listen"] {
            if !args.iter().any(|arg| arg.as_ref() == listen) {
                command.args([listen, "127.0.0.1:0"]);
            }
        }
        // The variables of the caller's own server are not this one's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HEADSWAP_")) {
            command.env_remove(name);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true);
        let mut child = command.spawn()?;

        let (mut grpc, mut admin, mut http) = (String::new(), String::new(), String::new());
        if let Some(stdout) = child.stdout.take() {
            let mut lines = BufReader::new(stdout).lines();
            while let Some(line) = lines.next_line().await? {
                let said: Value = serde_json::from_str(&line).unwrap_or_default();
                let address = said["address"].as_str().unwrap_or_default().to_owned();
                match said["listening"].as_str() {
                    Some("grpc") => grpc = address,
                    Some("admin") => admin = address,
                    Some("http") => http = address,
                    _ if said["ready"] == true => {
                        return Ok(Self {
                            child,
                            grpc,
                            admin,
                            http,
                            dir,
                        });
                    }
                    _ => {}
                }
            }
        }
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Err(ClientError::Failed(format!(
            "the server did not start; the end of its log:\n{}",
            last.join("\n")
        )))
    }

    /// The address of ClassifierService.
    pub fn address(&self) -> &str {
        &self.grpc
    }

    /// The model that it serves.
    pub async fn model(&self) -> Result<DescribeModelResponse, ClientError> {
        let request = DescribeModelRequest::default();
        Ok(self.admin().await?.describe_model(request).await?.into_inner())
    }

    /// The value of an unlabelled metric.
    pub async fn metric(&self, name: &str) -> Result<f64, ClientError> {
        let mut stream = TcpStream::connect(&self.http).await?;
        let request = format!(
            "GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.http
        );
        stream.write_all(request.as_bytes()).await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.ok_or_else(|| ClientError::Failed(format!("the server does not measure {name}")))
    }

    /// A new connection to ClassifierService.
    pub async fn classifier(&self) -> Result<Classifier, ClientError> {
        connect_classifier(&self.grpc).await
    }

    /// `count` clients, sixteen of which share a connection, as those of one program do.
    pub async fn classifiers(&self, count: usize) -> Result<Vec<Classifier>, ClientError> {
        connect_clients(&self.grpc, count).await
    }

    /// A new connection to HeadAdminService.
    pub async fn admin(&self) -> Result<Admin, ClientError> {
        connect_admin(&self.admin).await
    }

    /// Its CPU time so far, in seconds; 0 where the system does not tell.
    pub fn cpu_seconds(&self) -> f64 {
        // utime and stime, fields 14 and 15 of proc_pid_stat(5), in ticks of 1/100 s.
        let stat = self
            .child
            .id()
            .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        let stat = stat.unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|n| n.parse::<u64>().ok())
            .sum();
        ticks as f64 / 100.0
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = self
            .child
            .id()
            .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    }

    /// Asks it to stop, as Kubernetes would, and waits.
    pub async fn stop(mut self) -> Result<ExitStatus, ClientError> {
        if let Some(pid) = self.child.id() {
            // SAFETY: sends a signal to a child that has not been waited for, so the number is still its.
            unsafe { libc::kill(pid as i32, libc::SIGTERM) };
        }
        Ok(self.child.wait().await?)
    }
}

/// Creates a directory that no other server of this process has.
fn new_dir() -> io::Result<PathBuf> {
    let mut number = 0;
    loop {
        let dir = std::env::temp_dir().join(format!("headswap-{}-{number}", std::process::id()));
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            created => return created.map(|()| dir),
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
