//! `headswap weights`: files are inspected, converted, and fetched from servers that behave and misbehave.

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
    // No proxy of the machine's shall stand between the test and its own server.
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The last line of what a failed command says.
fn stderr(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    said.lines().last().unwrap().to_owned()
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
fn inspect_shows_names_digests_and_what_a_file_fits() {
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

    let inspect = |name: &str| weights(&["inspect", fixture(name).to_str().unwrap()]).output().unwrap();
    let small = stdout(&inspect("zip_f32.pth"));
    assert!(
        small.contains("fits neither as a backbone nor as a head: features.0.weight has shape"),
        "{small}"
    );
    let said = stderr(&inspect("legacy_os_system.pth"));
    assert!(
        said.contains("legacy_os_system.pth: the file asks Python to run posix.system;"),
        "{said}"
    );
}

fn digests(path: &Path) -> HashMap<String, Digest> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let read = |entry| checkpoint.read(entry).unwrap().digest();
    checkpoint
        .tensors()
        .map(|entry| (entry.name.clone(), read(entry)))
        .collect()
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
            let said = stdout(
                &weights(&["convert", from.to_str().unwrap(), to, "--dtype", dtype])
                    .output()
                    .unwrap(),
            );
            assert!(said.contains("10 tensors"), "{said}");
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
fn a_failed_conversion_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.safetensors");
    let mut parameters = headswap_model::demo_head(Architecture::Vgg16Narrow, 2, 1);
    Arc::make_mut(parameters.get_mut("classifier.6.weight").unwrap()).values[200] = 70_000.0;
    fs::write(&large, crate::support::safetensors(&parameters, &[])).unwrap();
    let to = folder.path().join("out.safetensors");
    let convert = |from: &Path| {
        let args = [
            "convert",
            from.to_str().unwrap(),
            to.to_str().unwrap(),
            "--dtype",
            "f16",
        ];
        stderr(&weights(&args).output().unwrap())
    };
    let said = convert(&large);
    assert!(
        said.contains("classifier.6.weight holds 70000 at element 200, which is too large for F16"),
        "{said}"
    );
    assert!(convert(&fixture("zip_os_system.pth")).contains("posix.system"));
    assert!(convert(Path::new("no-such-file")).contains("cannot read the file"));
    assert_eq!(names_in(folder.path()), ["large.safetensors"]);
}

/// What a client sent: the path and the headers, in lower case.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    headers: HashMap<String, String>,
}

/// What it is to get; a `cut` body ends early and the connection with it.
#[derive(Default)]
struct Answer {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    cut: Option<usize>,
}

impl Answer {
    fn whole(content: &[u8]) -> Self {
        Self {
            status: "200 OK",
            headers: vec!["etag: \"one\"".into()],
            body: content.to_vec(),
            cut: None,
        }
    }

    /// As a server that knows ranges answers.
    fn to(request: &Request, content: &[u8]) -> Self {
        let Some(range) = request.headers.get("range") else {
            return Self::whole(content);
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

/// A server on a free port that answers request number n with `answer(n, request)`.
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
        // Ends with the test's process.
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

/// A file of generated numbers, a name that carries its checksum, and a folder to fetch it into.
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

    /// The file is there, whole, and nothing of the download is left.
    fn assert_fetched(&self, output: &Output) -> String {
        let said = stdout(output);
        assert!(
            fs::read(self.output()).unwrap() == self.content,
            "the content is another"
        );
        let labels = self.name.replace(".safetensors", ".labels.txt");
        assert_eq!(names_in(self.folder.path()), [labels, self.name.clone()]);
        said
    }
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn a_file_is_fetched_checked_and_ready_to_serve() {
    let download = Download::new();
    let content = download.content.clone();
    let server = FileServer::start(move |_, request| Answer::to(request, &content));
    let said = download.assert_fetched(&download.fetch(&server, &[]));
    let (path, labels) = (download.output(), download.output().with_extension("labels.txt"));
    let serve = format!(
        "headswap serve --weights {} --arch vgg16-narrow --labels {}",
        path.display(),
        labels.display()
    );
    assert!(
        said.starts_with(&format!("{}\n", path.display())) && said.contains(&serve),
        "{said}"
    );
    assert_eq!(fs::read_to_string(labels).unwrap().lines().count(), 1000);

    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, format!("/models/{}?x=y", download.name));
    assert!(requests[0].headers["user-agent"].starts_with("headswap/"));
    // A second run finds it and asks nobody.
    download.assert_fetched(&download.fetch(&server, &[]));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let download = Download::new();
    let content = download.content.clone();
    let server = FileServer::start(move |number, request| match number {
        0 => Answer::whole(&content).cut(100_000),
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
fn a_later_run_goes_on_with_what_an_earlier_one_kept() {
    let download = Download::new();
    let content = download.content.clone();
    let server = FileServer::start(move |number, request| match number {
        0 => Answer::whole(&content).cut(100_000),
        1 => Answer {
            status: "503 Service Unavailable",
            ..Answer::default()
        },
        _ => Answer::to(request, &content),
    });
    let said = stderr(&download.fetch(&server, &["--retries", "0"]));
    assert!(
        said.contains("run the same command again to go on, 100000 bytes are kept in "),
        "{said}"
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
fn a_server_without_ranges_and_a_changed_file_start_anew() {
    let download = Download::new();
    let content = download.content.clone();
    let server = FileServer::start(move |number, _| match number {
        // The beginning of another file.
        0 => Answer {
            body: vec![7; content.len()],
            ..Answer::whole(&content)
        }
        .cut(100_000),
        _ => Answer::whole(&content),
    });
    download.assert_fetched(&download.fetch(&server, &[]));
    assert_eq!(server.requests()[1].headers["range"], "bytes=100000-");
}

#[test]
fn a_part_that_was_not_asked_for_is_not_taken() {
    let download = Download::new();
    let content = download.content.clone();
    let server = FileServer::start(move |number, request| match number {
        0 => Answer::whole(&content).cut(100_000),
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
fn a_partial_file_that_is_already_whole_needs_no_more() {
    let download = Download::new();
    let partial = download.folder.path().join(format!("{}.partial", download.name));
    fs::write(&partial, &download.content).unwrap();
    let content = download.content.clone();
    let server = FileServer::start(move |_, request| Answer::to(request, &content));
    download.assert_fetched(&download.fetch(&server, &[]));
    // One that is too long is of another file.
    fs::remove_file(download.output()).unwrap();
    fs::write(&partial, [&download.content[..], b"more"].concat()).unwrap();
    download.assert_fetched(&download.fetch(&server, &[]));
}

#[test]
fn another_checksum_is_refused_and_thrown_away() {
    let download = Download::new();
    let mut other = download.content.clone();
    *other.last_mut().unwrap() ^= 1;
    let actual = sha256(&other);
    let server = FileServer::start(move |_, request| Answer::to(request, &other));
    let said = stderr(&download.fetch(&server, &[]));
    assert!(
        said.contains(&format!(
            "has the SHA-256 {actual}, {} is expected",
            &download.name[7..15]
        )),
        "{said}"
    );
    assert!(names_in(download.folder.path()).is_empty());
    // Given in full, it counts more than the name.
    let said = stderr(&download.fetch(&server, &["--sha256", &"0".repeat(64)]));
    assert!(said.contains(&format!("{} is expected", "0".repeat(64))), "{said}");
    let fetched = download.fetch(&server, &["--sha256", &actual.to_uppercase()]);
    assert!(stdout(&fetched).contains("headswap serve"));
    // A file that is there is not touched.
    let said = stderr(&download.fetch(&server, &[]));
    assert!(said.contains("is there already and has the SHA-256"), "{said}");
    assert_eq!(sha256(&fs::read(download.output()).unwrap()), actual);
}

#[test]
fn what_is_not_there_is_not_tried_again() {
    let download = Download::new();
    let server = FileServer::start(|_, _| Answer {
        status: "404 Not Found",
        ..Answer::default()
    });
    let output = download.fetch(&server, &[]);
    let said = stderr(&output);
    assert!(said.contains("answers 404 Not Found; check the URL"), "{said}");
    assert_eq!(server.requests().len(), 1);
    let failing = FileServer::start(|_, _| Answer {
        status: "500 Internal Server Error",
        ..Answer::default()
    });
    let said = stderr(&download.fetch(&failing, &["--retries", "2"]));
    assert!(said.contains("the server answers 500 Internal Server Error"), "{said}");
    assert_eq!(failing.requests().len(), 3);
    assert!(names_in(download.folder.path()).is_empty());
    for url in ["no url", "ftp://127.0.0.1/x-01234567.pth", "http://127.0.0.1:1/"] {
        let said = stderr(&weights(&["fetch", "--url", url, "--retries", "0"]).output().unwrap());
        assert!(said.contains(url), "{said}");
    }
}

#[test]
fn a_mirror_takes_the_place_of_pytorchs_server() {
    let download = Download::new();
    let sha256 = sha256(&download.content);
    let content = download.content.clone();
    let server = FileServer::start(move |_, request| Answer::to(request, &content));
    let cache = download.folder.path();
    let fetch = |mirror: &str, more: &[&str]| {
        let mut command = weights(&["fetch"]);
        command
            .args(more)
            .env("XDG_CACHE_HOME", cache)
            .env("HEADSWAP_WEIGHTS_MIRROR", mirror);
        command.output().unwrap()
    };
    let mirror = format!("{}/pytorch/", server.url);
    // The name promises torchvision's file, which this is not.
    assert!(stderr(&fetch(&mirror, &[])).contains("397923af is expected"));
    assert!(stdout(&fetch(&mirror, &["--sha256", &sha256])).contains("vgg16-397923af.pth"));
    assert_eq!(server.requests()[1].path, "/pytorch/vgg16-397923af.pth");
    let names = names_in(&cache.join("headswap/weights"));
    assert_eq!(names, ["vgg16-397923af.labels.txt", "vgg16-397923af.pth"]);
}
