//! `headswap head replace`: what is wrong with a file is reported before anything is sent.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headswap_checkpoint::{HostTensor, Parameters};
use headswap_model::{demo_head, demo_head_from};
use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT};

use crate::support::program::Ran;
use crate::support::{NARROW, Server, replace, safetensors};

/// Nothing listens here.
const NOWHERE: &str = "unix:/nowhere/admin.sock";

/// A folder to write files of weights and labels into.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn head(&self, name: &str, parameters: &Parameters) -> String {
        self.write(name, &safetensors(parameters, &[]))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn replace_at(address: &str, args: &[&str]) -> Ran {
    let given = ["--preprocessing", "torchvision", "--output", "softmax"];
    Ran::of(&[&["head", "replace", "--admin-address", address, "cats"], args, &given].concat())
}

fn tensor(shape: &[usize]) -> Arc<HostTensor> {
    let count = shape.iter().product();
    Arc::new(HostTensor::new(shape.to_vec(), vec![0.5; count]))
}

/// A head of two classes with another tensor in the place of `name`, or without it.
fn with(name: &str, tensor: Option<Arc<HostTensor>>) -> Parameters {
    let mut parameters = demo_head(NARROW, 2, 1);
    parameters.remove(name);
    parameters.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
    parameters
}

fn poisoned(name: &str, value: f32) -> Parameters {
    let mut parameters = demo_head(NARROW, 2, 1);
    let tensor = Arc::make_mut(parameters.get_mut(name).unwrap());
    *tensor.values.last_mut().unwrap() = value;
    parameters
}

#[test]
fn a_wrong_file_is_refused_before_there_is_a_connection() {
    let files = Files::new();
    let good = safetensors(&demo_head(NARROW, 2, 1), &[]);
    let folder = files.path("folder");
    fs::create_dir(&folder).unwrap();
    let metadata = [("labels", r#"["only one"]"#)];
    let cases = [
        (folder.display().to_string(), "a directory: give a file of weights"),
        (files.path("none").display().to_string(), "cannot read "),
        (files.write("empty", b""), "it is empty; save model.state_dict()"),
        (files.write("text", b"hello, world"), "neither safetensors nor"),
        (files.write("cut", &good[..good.len() - 1]), "is damaged"),
        (
            files.write(
                "pickle",
                &fs::read("tests/fixtures/pickles/call_is_result.pth").unwrap(),
            ),
            "asks Python to run posix.system",
        ),
        (
            files.head("bias-only", &with(LAST_WEIGHT, None)),
            "the file holds no module of VGG16 and no Linear",
        ),
        (
            files.head("foreign", &with("fc.weight", Some(tensor(&[2, 128])))),
            "the file holds several heads, classifier.6.weight [2, 128], fc.weight [2, 128]",
        ),
        (
            files.head("deeper", &with("features.1.weight", Some(tensor(&[2, 128])))),
            "the file holds several heads, classifier.6.weight [2, 128], features.1.weight [2, 128]",
        ),
        (
            files.head("rank", &with(LAST_WEIGHT, Some(tensor(&[256])))),
            "classifier.6.bias has shape [2]; [256] is expected",
        ),
        (
            files.head("rows", &with(LAST_BIAS, Some(tensor(&[3])))),
            "classifier.6.bias has shape [3]; [2] is expected",
        ),
        (
            files.head("nan", &poisoned(LAST_WEIGHT, f32::NAN)),
            "classifier.6.weight holds NaN at element 255; every weight must be finite",
        ),
        (
            files.head("inf", &poisoned(LAST_BIAS, f32::INFINITY)),
            "classifier.6.bias holds inf at element 1",
        ),
        (
            files.write("labels", &safetensors(&demo_head(NARROW, 2, 1), &metadata)),
            "there are 1 labels and 2 classes",
        ),
    ];
    for (path, text) in cases {
        let ran = replace_at(NOWHERE, &[&path]).failed(1, text);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(&path), "{}", ran.stderr);
    }
    let good = files.write("good", &good);
    replace_at(NOWHERE, &[&good]).failed(3, "no server answers at");
}

#[test]
fn wrong_labels_are_refused_before_there_is_a_connection() {
    let files = Files::new();
    let head = files.head("head", &demo_head(NARROW, 2, 1));
    let folder = files.0.path().display().to_string();
    for (labels, text) in [
        (folder, "it has no directories; give the directory of training pictures"),
        (files.path("none").display().to_string(), "cannot read "),
        (files.write("empty.txt", b""), "it is empty; give a label on each line"),
        (files.write("latin1.txt", b"\xe9t\xe9\ncat\n"), "it is not UTF-8 text"),
        (files.write("blank.txt", b"cat\n\ndog\n"), "there are 3 labels"),
        (
            files.write("three.txt", b"cat\ndog\nbird\n"),
            "there are 3 labels and 2 classes",
        ),
        (
            files.write("long.txt", format!("cat\n{}\n", "x".repeat(4097)).as_bytes()),
            "label 1 is longer than 4096 bytes",
        ),
        (
            files.write("huge.txt", "x\n".repeat(2 << 20).as_bytes()),
            "the limit is 3145728",
        ),
    ] {
        replace_at(NOWHERE, &[&head, "--labels", &labels]).failed(1, text);
    }
}

/// All that could be sent: the swaps and calls that the server counts.
fn sent(server: &Server) -> (f64, f64, Vec<String>) {
    let (_, metrics) = server.get("/metrics");
    let calls = metrics
        .lines()
        .filter(|line| line.contains("method=\"UploadHead\"") || line.contains("method=\"ReplaceHead\""));
    (
        server.metric("headswap_swaps_total"),
        server.metric("headswap_uploads_in_flight"),
        calls.map(str::to_owned).collect(),
    )
}

#[tokio::test]
async fn shapes_of_another_model_are_refused_without_an_upload() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.admin().await.replace_head(replace("cats", 2, 1)).await.unwrap();
    // A call may be counted a little after its answer.
    let replaced = "headswap_requests_total{method=\"ReplaceHead\",code=\"Ok\"} 1";
    while !server.get("/metrics").1.contains(replaced) {}
    let before = sent(&server);
    let files = Files::new();
    let check = [
        // 33 MB of the real VGG16 for a narrow one.
        (
            files.head("wide", &demo_head(Architecture::Vgg16, 2000, 1)),
            "classifier.6.weight has shape [2000, 4096], the server's model takes [K, 128]",
        ),
        // 7 MB whose last number is infinite.
        (files.head("infinite", &infinite(14_000)), "every weight must be finite"),
        (
            files.head("deep", &with("classifier.3.weight", Some(tensor(&[128, 64])))),
            "where classifier.3.weight [128, 64] stands: it takes 64 values (--input KIND or --spec)",
        ),
    ];
    for (path, text) in check {
        let ran = replace_at(&server.admin, &[&path]).failed(1, text);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
    assert_eq!(sent(&server), before, "something was sent");
}

fn infinite(classes: usize) -> Parameters {
    let mut parameters = demo_head(NARROW, classes, 1);
    let weight = Arc::make_mut(parameters.get_mut(LAST_WEIGHT).unwrap());
    *weight.values.last_mut().unwrap() = f32::NEG_INFINITY;
    parameters
}

#[tokio::test]
async fn right_files_become_live_with_their_labels() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let files = Files::new();
    let labels = files.write("labels.txt", "\u{feff}cat\r\ndog\r\n".as_bytes());
    let short: Parameters = demo_head(NARROW, 2, 1)
        .into_iter()
        .map(|(name, tensor)| (name.rsplit('.').next().unwrap().to_owned(), tensor))
        .collect();
    for path in [
        files.head("head", &demo_head(NARROW, 2, 1)),
        files.head("short-names", &short),
        files.head("deep", &demo_head_from(NARROW, "classifier.3", 2, 1)),
    ] {
        let ran = replace_at(&server.admin, &[&path, "--labels", &labels, "--json"]).succeeded();
        assert_eq!(
            ran.json_lines()[0]["head"]["labels"],
            serde_json::json!(["cat", "dog"]),
            "{}",
            Path::new(&path).display()
        );
    }
}
