//! `headswap weights`: inspecting, converting, and fetching files from correct and faulty servers.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use headswap_checkpoint::{Checkpoint, Digest};
use headswap_model::{Backbone, WeightsSource, demo_parameters};
use headswap_spec::Architecture;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures/checkpoints").join(name)
}

fn weights(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headswap"));
    command.arg("weights").args(args).env_remove("HEADSWAP_WEIGHTS_MIRROR");
    // The test's own server must be reached without a proxy.
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Returns the last line of a failed command's errors.
fn stderr(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.lines().last().unwrap().to_owned()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn inspect_shows_names_digests_and_the_matching_architecture() {
    let path = fixture("narrow_timm_bf16.pth");
    let text = stdout(&weights(&["inspect", path.to_str().unwrap()]).output().unwrap());
    for part in [
        "format  PyTorch (zip)",
        "names   timm's, behind `module.`, under the key `state_dict`",
        "32 tensors, 131,800 numbers",
        "fits --arch vgg16-narrow: a whole backbone of 2 classes",
        "module.pre_logits.fc1.weight",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let json = stdout(
        &weights(&["inspect", path.to_str().unwrap(), "--json"])
            .output()
            .unwrap(),
    );
    let json: Value = serde_json::from_str(&json).unwrap();
    let backbone = Backbone::load(&WeightsSource::File(path), Architecture::Vgg16Narrow).unwrap();
    assert_eq!(json["backbone"]["digest"], backbone.digest.to_string());
    let tensor = json["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|tensor| tensor["name"] == "classifier.0.weight");
    let tensor = tensor.unwrap();
    assert_eq!(tensor["file_name"], "module.pre_logits.fc1.weight");
    assert_eq!(
        tensor["sha256"],
        backbone.parameters["classifier.0.weight"].digest().to_string()
    );

    let small = stdout(&inspect("zip_f32.pth"));
    assert!(
        small.contains("fits neither as a backbone nor as a head: features.0.weight has shape"),
        "{small}"
    );
    let error = stderr(&inspect("../pickles/call_is_result.pth"));
    assert!(
        error.contains("call_is_result.pth: the file asks Python to run posix.system;"),
        "{error}"
    );
}

fn inspect(name: &str) -> Output {
    weights(&["inspect", fixture(name).to_str().unwrap()]).output().unwrap()
}

fn digests(path: &Path) -> HashMap<String, Digest> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let mut digests = HashMap::new();
    for entry in checkpoint.tensors() {
        digests.insert(entry.name.clone(), checkpoint.read(entry).unwrap().digest());
    }
    digests
}

#[test]
fn convert_writes_the_same_numbers_in_every_dtype() {
    let folder = tempfile::tempdir().unwrap();
    let expected = digests(&fixture("reference.safetensors"));
    for input in [
        "zip_strided.pth",
        "legacy_nested_model.pth",
        "zip_f64.pth",
        "timm_f16.safetensors",
    ] {
        for dtype in ["f32", "f16", "bf16"] {
            let output = folder.path().join(format!("{input}.{dtype}.safetensors"));
            let (from, to) = (fixture(input), output.to_str().unwrap());
            let text = stdout(
                &weights(&["convert", from.to_str().unwrap(), to, "--dtype", dtype])
                    .output()
                    .unwrap(),
            );
            assert!(text.contains("10 tensors"), "{text}");
            assert_eq!(digests(&output), expected, "{input} as {dtype}");
            let bytes = fs::read(&output).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let stored = format!("{:?}", file.tensor("classifier.0.weight").unwrap().dtype());
            assert_eq!(stored.to_lowercase(), dtype);
        }
    }
    assert_eq!(names_in(folder.path()).len(), 12);
    let copy = folder.path().join("copy.safetensors");
    let from = fixture("reference.safetensors");
    stdout(
        &weights(&["convert", from.to_str().unwrap(), copy.to_str().unwrap()])
            .output()
            .unwrap(),
    );
    assert_eq!(
        Checkpoint::open(&copy).unwrap().metadata()["labels"],
        r#"["a", "b", "c"]"#
    );
}

#[test]
fn a_failed_conversion_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.safetensors");
    let mut parameters = headswap_model::demo_head(Architecture::Vgg16Narrow, 2, 1);
    Arc::make_mut(parameters.get_mut("classifier.6.weight").unwrap()).values[200] = 70_000.0;
    fs::write(&large, crate::support::safetensors(&parameters, &[])).unwrap();
    let output = folder.path().join("out.safetensors");
    let error = failed_conversion(&large, &output);
    assert!(
        error.contains("classifier.6.weight holds 70000 at element 200, which is too large for F16"),
        "{error}"
    );
    assert!(failed_conversion(&fixture("../pickles/call_is_result.pth"), &output).contains("posix.system"));
    assert!(failed_conversion(Path::new("no-such-file"), &output).contains("cannot read the file"));
    assert_eq!(names_in(folder.path()), ["large.safetensors"]);
}

/// Returns the error of a conversion to f16.
fn failed_conversion(from: &Path, to: &Path) -> String {
    let mut command = weights(&["convert"]);
    command.args([from, to]).args(["--dtype", "f16"]);
    stderr(&command.output().unwrap())
}

/// A client's request: the path, and the headers with names in lower case.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    headers: HashMap<String, String>,
}

/// A server's response. With `cut`, the connection ends after that many bytes of the body.
#[derive(Default)]
struct Answer {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    cut: Option<usize>,
}

impl Answer {
    fn full(content: &[u8]) -> Self {
        Self {
            status: "200 OK",
            headers: vec!["etag: \"one\"".into()],
            body: content.to_vec(),
            cut: None,
        }
    }

    /// Returns the response of a server that supports range requests.
    fn to(request: &Request, content: &[u8]) -> Self {
        let Some(range) = request.headers.get("range") else {
            return Self::full(content);
        };
        let start: usize = range
            .strip_prefix("bytes=")
            .unwrap()
            .strip_suffix('-')
            .unwrap()
            .parse()
            .unwrap();
        let length = content.len();
        if start >= length {
            return Self {
                status: "416 Range Not Satisfiable",
                headers: vec![format!("content-range: bytes */{length}")],
                ..Self::default()
            };
        }
        Self {
            status: "206 Partial Content",
            headers: vec![format!("content-range: bytes {start}-{}/{length}", length - 1)],
            body: content[start..].to_vec(),
            cut: None,
        }
    }

    fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }
}

/// A server on a free port, whose response to request number n is `answer(n, request)`.
struct FileServer {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl FileServer {
    fn start(answer: impl Fn(usize, &Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = Arc::clone(&requests);
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let path = lines.next().unwrap().unwrap().split(' ').nth(1).unwrap().to_owned();
                let headers = lines.map(Result::unwrap).take_while(|line| !line.is_empty());
                let headers = headers.map(|line| {
                    let (name, value) = line.split_once(": ").unwrap();
                    (name.to_lowercase(), value.to_owned())
                });
                let request = Request {
                    path,
                    headers: headers.collect(),
                };
                let number = seen.lock().unwrap().len();
                let answer = answer(number, &request);
                seen.lock().unwrap().push(request);
                let mut head = format!(
                    "HTTP/1.1 {}\r\ncontent-length: {}\r\n",
                    answer.status,
                    answer.body.len()
                );
                for header in answer.headers {
                    head += &format!("{header}\r\n");
                }
                let _ = stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes());
                let _ = stream.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())]);
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// A generated file, its name with its checksum, and the directory to fetch it into.
struct Download {
    content: Vec<u8>,
    name: String,
    folder: tempfile::TempDir,
}

impl Download {
    fn new() -> Self {
        let content = crate::support::safetensors(&demo_parameters(Architecture::Vgg16Narrow), &[]);
        let sha256 = sha256(&content);
        Self {
            name: format!("narrow-{}.safetensors", &sha256[..8]),
            content,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    fn fetch(&self, server: &FileServer, more: &[&str]) -> Output {
        let url = format!("{}/models/{}?x=y", server.url, self.name);
        let output = self.output();
        let args = [
            "fetch",
            "--url",
            &url,
            "--output",
            output.to_str().unwrap(),
            "--retry-delay-ms",
            "1",
        ];
        weights(&args).args(more).output().unwrap()
    }

    /// Checks that the file is complete and that no partial file is left. Returns the command's output.
    fn assert_fetched(&self, output: &Output) -> String {
        let text = stdout(output);
        assert!(fs::read(self.output()).unwrap() == self.content, "the content differs");
        let labels = self.name.replace(".safetensors", ".labels.txt");
        assert_eq!(names_in(self.folder.path()), [labels, self.name.clone()]);
        text
    }
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn a_fetched_file_is_checked_and_ready_to_serve() {
    let download = Download::new();
    let content = download.content.clone();
    let server = FileServer::start(move |_, request| Answer::to(request, &content));
    let text = download.assert_fetched(&download.fetch(&server, &[]));
    let (path, labels) = (download.output(), download.output().with_extension("labels.txt"));
    let serve = format!(
        "headswap serve --weights {} --arch vgg16-narrow --labels {}",
        path.display(),
        labels.display()
    );
    assert!(
        text.starts_with(&format!("{}\n", path.display())) && text.contains(&serve),
        "{text}"
    );
    assert_eq!(fs::read_to_string(labels).unwrap().lines().count(), 1000);

    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, format!("/models/{}?x=y", download.name));
    assert!(requests[0].headers["user-agent"].starts_with("headswap/"));
    // A second run finds the file and sends no request.
    download.assert_fetched(&download.fetch(&server, &[]));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let download = Download::new();
    let content = download.content.clone();
    let server = FileServer::start(move |number, request| match number {
        0 => Answer::full(&content).cut(100_000),
        1 => Answer::to(request, &content).cut(50_000),
        _ => Answer::to(request, &content),
    });
    download.assert_fetched(&download.fetch(&server, &["--retries", "1"]));
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(!requests[0].headers.contains_key("range"));
    assert_eq!(requests[1].headers["range"], "bytes=100000-");
    assert_eq!(requests[1].headers["if-range"], "\"one\"");
    assert_eq!(requests[2].headers["range"], "bytes=150000-");
}

#[test]
fn a_later_run_resumes_the_partial_file() {
    let download = Download::new();
    let content = download.content.clone();
    let server = FileServer::start(move |number, request| match number {
        0 => Answer::full(&content).cut(100_000),
        1 => Answer {
            status: "503 Service Unavailable",
            ..Answer::default()
        },
        _ => Answer::to(request, &content),
    });
    let error = stderr(&download.fetch(&server, &["--retries", "0"]));
    assert!(
        error.contains("run the same command again to resume, 100000 bytes are kept in "),
        "{error}"
    );
    let partial = format!("{}.partial", download.name);
    assert_eq!(
        names_in(download.folder.path()),
        [partial.clone(), format!("{partial}.etag")]
    );
    download.assert_fetched(&download.fetch(&server, &["--retries", "0"]));
    assert_eq!(server.requests()[2].headers["range"], "bytes=100000-");
    assert_eq!(server.requests()[2].headers["if-range"], "\"one\"");
}

#[test]
fn without_ranges_the_download_restarts() {
    let download = Download::new();
    let content = download.content.clone();
    let server = FileServer::start(move |number, _| match number {
        // A part of another file.
        0 => Answer {
            body: vec![7; content.len()],
            ..Answer::full(&content)
        }
        .cut(100_000),
        _ => Answer::full(&content),
    });
    download.assert_fetched(&download.fetch(&server, &[]));
    assert_eq!(server.requests()[1].headers["range"], "bytes=100000-");
}

#[test]
fn a_wrong_range_is_rejected() {
    let download = Download::new();
    let content = download.content.clone();
    let server = FileServer::start(move |number, request| match number {
        0 => Answer::full(&content).cut(100_000),
        1 => {
            let mut answer = Answer::to(request, &content);
            answer.headers = vec![format!(
                "content-range: bytes 5-{}/{}",
                content.len() - 1,
                content.len()
            )];
            answer
        }
        _ => Answer::to(request, &content),
    });
    download.assert_fetched(&download.fetch(&server, &[]));
    assert!(!server.requests()[2].headers.contains_key("range"));
}

#[test]
fn a_complete_partial_file_is_accepted() {
    let download = Download::new();
    let partial = download.folder.path().join(format!("{}.partial", download.name));
    fs::write(&partial, &download.content).unwrap();
    let content = download.content.clone();
    let server = FileServer::start(move |_, request| Answer::to(request, &content));
    download.assert_fetched(&download.fetch(&server, &[]));
    // A partial file that is too long belongs to another file.
    fs::remove_file(download.output()).unwrap();
    fs::write(&partial, [&download.content[..], b"more"].concat()).unwrap();
    download.assert_fetched(&download.fetch(&server, &[]));
}

#[test]
fn a_file_with_another_checksum_is_refused_and_deleted() {
    let download = Download::new();
    let mut other = download.content.clone();
    *other.last_mut().unwrap() ^= 1;
    let actual = sha256(&other);
    let server = FileServer::start(move |_, request| Answer::to(request, &other));
    let error = stderr(&download.fetch(&server, &[]));
    assert!(
        error.contains(&format!(
            "has the SHA-256 {actual}, {} is expected",
            &download.name[7..15]
        )),
        "{error}"
    );
    assert!(names_in(download.folder.path()).is_empty());
    // --sha256 overrides the checksum in the name.
    let error = stderr(&download.fetch(&server, &["--sha256", &"0".repeat(64)]));
    assert!(error.contains(&format!("{} is expected", "0".repeat(64))), "{error}");
    let fetched = download.fetch(&server, &["--sha256", &actual.to_uppercase()]);
    assert!(stdout(&fetched).contains("headswap serve"));
    // An existing file is not changed.
    let error = stderr(&download.fetch(&server, &[]));
    assert!(error.contains("exists already and has the SHA-256"), "{error}");
    assert_eq!(sha256(&fs::read(download.output()).unwrap()), actual);
}

#[test]
fn a_404_is_not_retried() {
    let download = Download::new();
    let server = FileServer::start(|_, _| Answer {
        status: "404 Not Found",
        ..Answer::default()
    });
    let output = download.fetch(&server, &[]);
    let error = stderr(&output);
    assert!(error.contains("answers 404 Not Found; check the URL"), "{error}");
    assert_eq!(server.requests().len(), 1);
    let failing = FileServer::start(|_, _| Answer {
        status: "500 Internal Server Error",
        ..Answer::default()
    });
    let error = stderr(&download.fetch(&failing, &["--retries", "2"]));
    assert!(
        error.contains("the server answers 500 Internal Server Error"),
        "{error}"
    );
    assert_eq!(failing.requests().len(), 3);
    assert!(names_in(download.folder.path()).is_empty());
    for url in ["no url", "ftp://127.0.0.1/x-01234567.pth", "http://127.0.0.1:1/"] {
        let error = stderr(&weights(&["fetch", "--url", url, "--retries", "0"]).output().unwrap());
        assert!(error.contains(url), "{error}");
    }
}

#[test]
fn a_mirror_replaces_pytorchs_server() {
    let download = Download::new();
    let sha256 = sha256(&download.content);
    let content = download.content.clone();
    let server = FileServer::start(move |_, request| Answer::to(request, &content));
    let cache = download.folder.path();
    let mut fetch = weights(&["fetch"]);
    fetch.env("XDG_CACHE_HOME", cache);
    fetch.env("HEADSWAP_WEIGHTS_MIRROR", format!("{}/pytorch/", server.url));
    // The name has the checksum of torchvision's file, which this is not.
    assert!(stderr(&fetch.output().unwrap()).contains("397923af is expected"));
    fetch.args(["--sha256", &sha256]);
    assert!(stdout(&fetch.output().unwrap()).contains("vgg16-397923af.pth"));
    assert_eq!(server.requests()[1].path, "/pytorch/vgg16-397923af.pth");
    let names = names_in(&cache.join("headswap/weights"));
    assert_eq!(names, ["vgg16-397923af.labels.txt", "vgg16-397923af.pth"]);
}
