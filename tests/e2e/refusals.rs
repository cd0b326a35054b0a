//! Invalid requests get the right status and a message that names the mistake, and the live head keeps serving.

use std::path::Path;
use std::sync::Arc;

use headswap_checkpoint::{Checkpoint, Parameters};
use headswap_model::{demo_head, demo_parameters};
use headswap_proto::classify_request::Input;
use headswap_proto::replace_head_request::Source;
use headswap_proto::{ClassifyRequest, ReplaceHeadRequest};
use headswap_spec::{LAST_BIAS, LAST_WEIGHT};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{Classifier, NARROW, ROCKET, Server, classify, replace, safetensors};

fn input(input: Input) -> ClassifyRequest {
    ClassifyRequest {
        input: Some(input),
        ..Default::default()
    }
}

fn image(bytes: &[u8]) -> ClassifyRequest {
    input(Input::Image(bytes.to_vec().into()))
}

/// Sends a request that must fail with `code` and a message that contains `part`. Returns the status.
async fn refused(client: &mut Classifier, request: ClassifyRequest, code: Code, part: &str) -> Status {
    let status = client.classify(request).await.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(part), "{:?} lacks {part:?}", status.message());
    status
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.classifier().await;

    // The header of a PNG of 60,000 x 60,000 pixels, with a correct checksum.
    let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bomb.extend([0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60, 8, 2, 0, 0, 0]);
    bomb.extend(crc32(&bomb[12..]).to_be_bytes());
    bomb.extend(b"\0\0\0\x10IDAT\x78\x9c\xed\xc1");

    let invalid = Code::InvalidArgument;
    for cut in [3, 20, 500, 20_000, ROCKET.len() - 500] {
        refused(&mut client, image(&ROCKET[..cut]), invalid, "").await;
    }
    let status = refused(&mut client, image(b""), invalid, "0 bytes").await;
    assert_eq!(
        status.get_details_bad_request().unwrap().field_violations[0].field,
        "input"
    );
    refused(&mut client, image(&bomb), invalid, "60000x60000").await;
    refused(&mut client, image(b"hello, world"), invalid, "plain text").await;
    let pixels = input(Input::Pixels(vec![0; 150_527].into()));
    refused(&mut client, pixels, invalid, "150527 bytes").await;
    refused(&mut client, ClassifyRequest::default(), invalid, "image").await;
    refused(&mut client, classify(&["no-such"]), Code::NotFound, "no-such").await;
    refused(&mut client, classify(&["../etc"]), invalid, "not a valid head name").await;
    let missing = ClassifyRequest {
        head_version: 7,
        ..classify(&[])
    };
    refused(&mut client, missing, Code::NotFound, "version 7").await;
    let long = ClassifyRequest {
        request_id: "x".repeat(129),
        ..classify(&[])
    };
    refused(&mut client, long, invalid, "129 bytes").await;

    assert_eq!(
        client.classify(classify(&[])).await.unwrap().into_inner().results[0].version,
        1
    );
    assert_eq!(server.metric("headswap_expired_executed_total"), 0.0);
}

#[tokio::test]
async fn the_error_for_a_picture_that_needs_too_much_memory_names_the_setting() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--decode-bytes-max", "4000000"]);
    let mut client = server.classifier().await;
    // A photograph of 640 x 427 pixels, decoded row by row, takes 2 MB; the two canvases of a lossless WebP do not fit.
    client.classify(classify(&[])).await.unwrap();
    let webp = include_bytes!("../fixtures/images/rocket.jpg.golden.webp");
    let status = client
        .classify(input(Input::Image(webp.to_vec().into())))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let violations = status.get_details_quota_failure().unwrap().violations;
    assert_eq!(violations[0].subject, "--decode-bytes-max");
    // A retry would fail the same way.
    assert!(status.get_details_retry_info().is_none());
    assert_eq!(server.metric("headswap_decode_reserved_bytes"), 0.0);
}

#[tokio::test]
async fn an_unknown_head_among_several_fails_only_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let response = server
        .classifier()
        .await
        .classify(classify(&["no-such", "default"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(response.results[0].error.as_ref().unwrap().code, Code::NotFound as i32);
    assert_eq!(response.results[0].head, "no-such");
    assert!(response.results[1].error.is_none());
    assert_eq!(response.results[1].logits.len(), 1000);
}

#[tokio::test]
async fn invalid_heads_are_refused_and_the_live_one_stays() {
    let sources = tempfile::tempdir().unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--head-source-dir", sources.path().to_str().unwrap()]);
    let (mut admin, mut client) = (server.admin().await, server.classifier().await);
    admin.replace_head(replace("cats", 3, 1)).await.unwrap();
    let before = client.classify(classify(&["cats"])).await.unwrap().into_inner().results;

    let link = sources.path().join("link.safetensors");
    std::os::unix::fs::symlink(secret.path(), &link).unwrap();
    let mut cases = invalid_tensors();
    cases.extend(invalid_files());
    cases.extend(invalid_replacements());
    cases.extend(invalid_uris(sources.path(), secret.path(), &link));
    for (name, request, code, part) in cases {
        let status = admin.replace_head(request).await.expect_err(name);
        assert_eq!(status.code(), code, "{name}: {status:?}");
        assert!(
            status.message().contains(part),
            "{name}: {:?} lacks {part:?}",
            status.message()
        );
    }
    let after = client.classify(classify(&["cats"])).await.unwrap().into_inner().results;
    assert_eq!(after, before);
    let dry = admin
        .replace_head(ReplaceHeadRequest {
            dry_run: true,
            ..bytes(head_with(|_| ()))
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((dry.head.unwrap().version, dry.previous_version), (2, 1));
    assert_eq!(
        client.classify(classify(&["cats"])).await.unwrap().into_inner().results,
        before
    );
}

/// A replacement that must fail: its name in this test, the request, the error's code and a part of its message.
type InvalidReplacement = (&'static str, ReplaceHeadRequest, Code, &'static str);

/// Returns heads whose tensors have the wrong names, shapes or values.
fn invalid_tensors() -> Vec<InvalidReplacement> {
    let no_classes = head_with(|parameters| {
        reshape(parameters, LAST_WEIGHT, &[0, 128]);
        reshape(parameters, LAST_BIAS, &[0]);
    });
    let narrow = head_with(|parameters| reshape(parameters, LAST_WEIGHT, &[3, 127]));
    let flat = head_with(|parameters| reshape(parameters, LAST_WEIGHT, &[384]));
    let long_bias = head_with(|parameters| reshape(parameters, LAST_BIAS, &[4]));
    let nan = head_with(|parameters| set(parameters, LAST_WEIGHT, 200, f32::NAN));
    let infinite = head_with(|parameters| set(parameters, LAST_BIAS, 1, f32::INFINITY));
    let deeper = head_with(|parameters| {
        let bias = parameters[LAST_BIAS].clone();
        parameters.insert("classifier.3.bias".into(), bias);
    });
    let invalid = Code::InvalidArgument;
    vec![
        ("no classes", bytes(no_classes), invalid, "no Linear"),
        ("wrong width", bytes(narrow), invalid, "takes 127 values"),
        ("wrong rank", bytes(flat), invalid, "[384] is expected"),
        ("wrong bias", bytes(long_bias), invalid, "[3] is expected"),
        ("NaN", bytes(nan), invalid, "element 200"),
        ("infinite", bytes(infinite), invalid, "inf"),
        ("deeper", bytes(deeper), invalid, "classifier.3.bias"),
    ]
}

/// Returns bytes that are not a supported safetensors file.
fn invalid_files() -> Vec<InvalidReplacement> {
    let valid = head_with(|_| ());
    let truncated = valid[..valid.len() - 1].to_vec();
    let mut huge_header = valid.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut integers = valid;
    let at = integers.windows(5).position(|window| window == b"\"F32\"").unwrap();
    integers[at..at + 5].copy_from_slice(b"\"I32\"");
    let invalid = Code::InvalidArgument;
    vec![
        ("wrong dtype", bytes(integers), invalid, "I32"),
        ("truncated", bytes(truncated), invalid, "safetensors"),
        ("huge header", bytes(huge_header), invalid, "safetensors"),
        ("empty", bytes(Vec::new()), invalid, "safetensors"),
    ]
}

/// Returns valid files with invalid other fields.
fn invalid_replacements() -> Vec<InvalidReplacement> {
    let valid = bytes(head_with(|_| ()));
    let labels = ReplaceHeadRequest {
        labels: vec!["a".into()],
        ..valid.clone()
    };
    let stale = ReplaceHeadRequest {
        expected_version: Some(9),
        ..valid.clone()
    };
    let not_new = ReplaceHeadRequest {
        expected_version: Some(0),
        ..valid.clone()
    };
    let name = ReplaceHeadRequest {
        head: "No Name".into(),
        ..valid
    };
    let invalid = Code::InvalidArgument;
    vec![
        ("nothing", ReplaceHeadRequest::default(), invalid, "set `file`"),
        ("labels", labels, invalid, "1 labels and 3 classes"),
        ("stale", stale, Code::Aborted, "9"),
        ("not new", not_new, Code::Aborted, "0"),
        ("name", name, invalid, "not a valid head name"),
    ]
}

/// Returns URIs that do not name a file in `--head-source-dir`.
fn invalid_uris(sources: &Path, secret: &Path, link: &Path) -> Vec<InvalidReplacement> {
    let outside = format!("file://{}", secret.display());
    let upwards = format!("file://{}/../../etc/passwd", sources.display());
    let linked = format!("file://{}", link.display());
    let (invalid, flag) = (Code::InvalidArgument, "--head-source-dir");
    vec![
        ("outside", uri(&outside), invalid, flag),
        ("upwards", uri(&upwards), invalid, flag),
        ("linked", uri(&linked), invalid, flag),
        ("no file", uri("http://example.com/x"), invalid, "not a file URI"),
    ]
}

fn bytes(file: Vec<u8>) -> ReplaceHeadRequest {
    ReplaceHeadRequest {
        head: "cats".into(),
        source: Some(Source::Safetensors(file.into())),
        ..Default::default()
    }
}

fn uri(uri: &str) -> ReplaceHeadRequest {
    ReplaceHeadRequest {
        head: "cats".into(),
        source: Some(Source::Uri(uri.into())),
        ..Default::default()
    }
}

/// Returns the file of a head of three classes with changed parameters.
fn head_with(change: impl FnOnce(&mut Parameters)) -> Vec<u8> {
    let mut parameters = demo_head(NARROW, 3, 2);
    change(&mut parameters);
    safetensors(&parameters, &[])
}

fn reshape(parameters: &mut Parameters, name: &str, shape: &[usize]) {
    let tensor = Arc::make_mut(parameters.get_mut(name).unwrap());
    tensor.values.resize(shape.iter().product(), 0.0);
    tensor.shape = shape.to_vec();
}

/// Returns the checksum of PNG chunks (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                0xedb8_8320 ^ (crc >> 1)
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

fn set(parameters: &mut Parameters, name: &str, index: usize, value: f32) {
    Arc::make_mut(parameters.get_mut(name).unwrap()).values[index] = value;
}

/// Returns the error of a server that is started with these weights.
fn start_error(parameters: &Parameters) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vgg16.safetensors");
    std::fs::write(&path, safetensors(parameters, &[])).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_headswap"))
        .args(["serve", "--arch", "vgg16-narrow", "--device", "cpu", "--log", "warn"])
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--http-listen", "127.0.0.1:0", "--weights"])
        .arg(&path)
        .arg("--heads-dir")
        .arg(dir.path().join("heads"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("vgg16.safetensors"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

#[test]
fn the_error_for_an_invalid_backbone_names_the_tensor() {
    let whole = demo_parameters(NARROW);
    for name in ["features.10.weight", "classifier.3.bias", LAST_WEIGHT, LAST_BIAS] {
        let mut parameters = whole.clone();
        parameters.remove(name).unwrap();
        let stderr = start_error(&parameters);
        assert!(stderr.contains(&format!("lacks the tensor {name}")), "{stderr}");
    }
    let mut parameters = whole.clone();
    let weight = parameters.get("features.0.weight").unwrap().clone();
    parameters.insert("features.31.weight".into(), weight);
    assert!(start_error(&parameters).contains("holds the tensor features.31.weight"));
    let mut parameters = whole.clone();
    Arc::make_mut(parameters.get_mut("classifier.0.bias").unwrap()).shape = vec![2, 64];
    assert!(start_error(&parameters).contains("classifier.0.bias has shape [2, 64]; [128] is expected"));
    let mut parameters = whole;
    set(&mut parameters, "features.2.bias", 1, f32::NAN);
    assert!(start_error(&parameters).contains("features.2.bias holds NaN at element 1"));
}

#[tokio::test]
async fn the_error_for_a_pickle_with_a_function_names_the_function() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    for file in ["call_is_result.pth", "call_is_state_dict.pth"] {
        let file = std::fs::read(format!("tests/fixtures/pickles/{file}")).unwrap();
        let status = server.admin().await.replace_head(bytes(file)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("posix.system"), "{}", status.message());
    }
}

#[tokio::test]
async fn a_head_keeps_only_the_tensors_that_differ_from_the_backbone() {
    let dir = tempfile::tempdir().unwrap();
    let path = "tests/fixtures/checkpoints/narrow_timm_bf16.pth";
    let server = Server::start_on(path, dir.path());
    let mut admin = server.admin().await;
    let unchanged = ReplaceHeadRequest {
        head: "whole".into(),
        ..bytes(std::fs::read(path).unwrap())
    };
    let replaced = admin.replace_head(unchanged).await.unwrap();
    let overridden = replaced.into_inner().head.unwrap().parameters;
    assert_eq!(overridden, ["classifier.6.bias", "classifier.6.weight"]);

    let checkpoint = Checkpoint::open(path.as_ref()).unwrap();
    let mut parameters = Parameters::default();
    for entry in checkpoint.tensors() {
        parameters.insert(entry.name.clone(), Arc::new(checkpoint.read(entry).unwrap()));
    }
    set(&mut parameters, "features.28.bias", 3, 1e12);
    let tuned = ReplaceHeadRequest {
        head: "whole".into(),
        ..bytes(safetensors(&parameters, &[]))
    };
    let replaced = admin.replace_head(tuned).await.unwrap();
    let overridden = replaced.into_inner().head.unwrap().parameters;
    assert_eq!(
        overridden,
        ["classifier.6.bias", "classifier.6.weight", "features.28.bias"]
    );
    let whole = dir.path().join("whole.safetensors");
    std::fs::write(&whole, safetensors(&parameters, &[])).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_headswap"))
        .args([
            "head",
            "replace",
            "from-cli",
            whole.to_str().unwrap(),
            "--preprocessing",
            "torchvision",
            "--output",
            "softmax",
            "--admin-address",
            &server.admin,
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("3 of 32 tensors differ from the backbone"), "{stderr}");

    let mut client = server.classifier().await;
    let results = client
        .classify(classify(&["default", "whole"]))
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_ne!(results[0].logits, results[1].logits);
}
