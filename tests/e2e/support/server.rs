//! A server process for tests: the program on free ports, with a narrow VGG16 and demo weights.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use headswap_checkpoint::Parameters;
use headswap_model::demo_head;
use headswap_proto::classifier_service_client::ClassifierServiceClient;
use headswap_proto::classify_request::Input;
use headswap_proto::head_admin_service_client::HeadAdminServiceClient;
use headswap_proto::replace_head_request::Source;
use headswap_proto::{ClassifyRequest, ReplaceHeadRequest};
use headswap_spec::Architecture;
use tonic::transport::Channel;

pub const NARROW: Architecture = Architecture::Vgg16Narrow;
pub const ROCKET: &[u8] = include_bytes!("../../../images/rocket.jpg");
pub const CHELSEA: &[u8] = include_bytes!("../../../images/chelsea.png");

pub type Classifier = ClassifierServiceClient<Channel>;
pub type Admin = HeadAdminServiceClient<Channel>;

/// A server process, which is killed when dropped.
pub struct Server {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    pub grpc: String,
    pub admin: String,
    pub http: String,
}

impl Server {
    /// Starts the server with this directory of heads and waits until it is ready.
    pub fn start(heads_dir: &Path, args: &[&str]) -> Self {
        Self::spawn(heads_dir, args).ready()
    }

    /// Starts the server with a file of weights and waits until it is ready.
    pub fn start_on(weights: &str, heads_dir: &Path) -> Self {
        Self::spawn_with(weights, heads_dir, &[], Stdio::inherit()).ready()
    }

    /// As [`Server::start_on`], with more arguments.
    pub fn start_on_with(weights: &str, heads_dir: &Path, args: &[&str]) -> Self {
        Self::spawn_with(weights, heads_dir, args, Stdio::inherit()).ready()
    }

    /// Starts the server with its log in the file `log` and waits until it is ready.
    pub fn start_logging(log: &Path, heads_dir: &Path, args: &[&str]) -> Self {
        let log = std::fs::File::create(log).unwrap();
        Self::spawn_with("demo", heads_dir, args, log.into()).ready()
    }

    /// Starts the server and waits until it listens.
    pub fn spawn(heads_dir: &Path, args: &[&str]) -> Self {
        Self::spawn_with("demo", heads_dir, args, Stdio::inherit())
    }

    fn spawn_with(weights: &str, heads_dir: &Path, args: &[&str], stderr: Stdio) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headswap"));
        command.args([
            "serve",
            "--weights",
            weights,
            "--arch",
            "vgg16-narrow",
            "--device",
            "cpu",
        ]);
        for (flag, value) in [
            ("--max-batch", "4"),
            ("--listen", "127.0.0.1:0"),
            ("--admin-listen", "127.0.0.1:0"),
            ("--http-listen", "127.0.0.1:0"),
            ("--log", "warn"),
        ] {
            if !args.contains(&flag) {
                command.args([flag, value]);
            }
        }
        command.arg("--heads-dir").arg(heads_dir).arg("--announce").args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut server = Self {
            child,
            stdout,
            grpc: String::new(),
            admin: String::new(),
            http: String::new(),
        };
        server.grpc = server.address("grpc");
        server.admin = server.address("admin");
        server.http = server.address("http");
        server
    }

    /// Waits until the server is ready.
    fn ready(mut self) -> Self {
        let line = self.line();
        assert!(
            line.contains("\"ready\":true"),
            "the server did not become ready: {line}"
        );
        self
    }

    fn line(&mut self) -> String {
        self.stdout.next().expect("the server ended early").unwrap()
    }

    fn address(&mut self, kind: &str) -> String {
        let line: serde_json::Value = serde_json::from_str(&self.line()).unwrap();
        assert_eq!(line["listening"], kind);
        line["address"].as_str().unwrap().to_owned()
    }

    /// Connects to the listener of ClassifierService.
    pub async fn channel(&self) -> Channel {
        let endpoint = tonic::transport::Endpoint::from_shared(self.grpc_uri()).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub async fn classifier(&self) -> Classifier {
        Classifier::connect(self.grpc_uri()).await.unwrap()
    }

    fn grpc_uri(&self) -> String {
        let address = &self.grpc;
        if address.starts_with("unix:") {
            address.clone()
        } else {
            format!("http://{address}")
        }
    }

    pub async fn admin(&self) -> Admin {
        Admin::connect(format!("http://{}", self.admin)).await.unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Returns the status and body of a page of the HTTP listener.
    pub fn get(&self, path: &str) -> (u16, String) {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&self.http).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Returns the value of a metric; `name` includes its labels, if any.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
            .parse()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the parameters as a safetensors file.
pub fn safetensors(parameters: &Parameters, metadata: &[(&str, &str)]) -> Vec<u8> {
    let metadata = metadata
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    let tensors = parameters.iter().map(|(name, tensor)| (name, &**tensor));
    safetensors::serialize(tensors, Some(metadata)).unwrap()
}

/// Returns a ReplaceHead request with a seeded head.
pub fn replace(head: &str, classes: usize, seed: u64) -> ReplaceHeadRequest {
    let file = safetensors(&demo_head(NARROW, classes, seed), &[]);
    ReplaceHeadRequest {
        head: head.into(),
        source: Some(Source::Safetensors(file.into())),
        ..Default::default()
    }
}

/// Returns a request to classify a photograph by some heads, with logits.
pub fn classify(heads: &[&str]) -> ClassifyRequest {
    ClassifyRequest {
        input: Some(Input::Image(ROCKET.into())),
        heads: heads.iter().map(ToString::to_string).collect(),
        include_logits: true,
        ..Default::default()
    }
}
