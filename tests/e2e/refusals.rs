//! Wrong requests get the right status and a message that says what is wrong, and the live head goes on serving.

use std::sync::Arc;

use headswap_checkpoint::{Checkpoint, Parameters, TensorEntry};
use headswap_model::{demo_head, demo_parameters};
use headswap_proto::classify_request::Input;
use headswap_proto::replace_head_request::Source;
use headswap_proto::{ClassifyRequest, ReplaceHeadRequest};
use headswap_spec::{LAST_BIAS, LAST_WEIGHT};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{NARROW, ROCKET, Server, classify, replace, safetensors};

fn input(input: Input) -> ClassifyRequest {
    ClassifyRequest {
        input: Some(input),
        ..Default::default()
    }
}

#[tokio::test]
async fn wrong_pictures_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.classifier().await;

    // The header of a PNG of 60,000 x 60,000 pixels, with a right checksum.
    let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bomb.extend([0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60, 8, 2, 0, 0, 0]);
    bomb.extend(crc32(&bomb[12..]).to_be_bytes());
    bomb.extend(b"\0\0\0\x10IDAT\x78\x9c\xed\xc1");

    let check = async |client: &mut crate::support::Classifier, request: ClassifyRequest, code: Code, part: &str| {
        let status = client.classify(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(part), "{:?} lacks {part:?}", status.message());
        status
    };
    let invalid = Code::InvalidArgument;
    for cut in [3, 20, 500, 20_000, ROCKET.len() - 500] {
        check(
            &mut client,
            input(Input::Image(ROCKET[..cut].to_vec().into())),
            invalid,
            "",
        )
        .await;
    }
    let status = check(&mut client, input(Input::Image(Vec::new().into())), invalid, "0 bytes").await;
    assert_eq!(
        status.get_details_bad_request().unwrap().field_violations[0].field,
        "input"
    );
    check(&mut client, input(Input::Image(bomb.into())), invalid, "60000x60000").await;
    check(
        &mut client,
        input(Input::Image(b"hello, world".to_vec().into())),
        invalid,
        "plain text",
    )
    .await;
    check(
        &mut client,
        input(Input::Pixels(vec![0; 150_527].into())),
        invalid,
        "150527 bytes",
    )
    .await;
    check(&mut client, ClassifyRequest::default(), invalid, "image").await;
    check(&mut client, classify(&["no-such"]), Code::NotFound, "no-such").await;
    check(&mut client, classify(&["../etc"]), invalid, "no name").await;
    let missing = ClassifyRequest {
        head_version: 7,
        ..classify(&[])
    };
    check(&mut client, missing, Code::NotFound, "version 7").await;
    let long = ClassifyRequest {
        request_id: "x".repeat(129),
        ..classify(&[])
    };
    check(&mut client, long, invalid, "129 bytes").await;

    assert_eq!(
        client.classify(classify(&[])).await.unwrap().into_inner().results[0].version,
        1
    );
    assert_eq!(server.metric("headswap_expired_executed_total"), 0.0);
}

#[tokio::test]
async fn a_picture_that_takes_too_much_memory_is_refused_by_the_settings_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--decode-bytes-max", "4000000"]);
    let mut client = server.classifier().await;
    // A photograph of 640 x 427 pixels in rows takes 2 MB; a lossless WebP's two canvases do not fit.
    client.classify(classify(&[])).await.unwrap();
    let webp = include_bytes!("../fixtures/images/rocket.jpg.golden.webp");
    let status = client
        .classify(input(Input::Image(webp.to_vec().into())))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let violations = status.get_details_quota_failure().unwrap().violations;
    assert_eq!(violations[0].subject, "--decode-bytes-max");
    // Another try would end the same way.
    assert!(status.get_details_retry_info().is_none());
    assert_eq!(server.metric("headswap_decode_reserved_bytes"), 0.0);
}

#[tokio::test]
async fn one_unknown_head_among_several_is_that_results_error() {
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
async fn wrong_heads_are_refused_and_the_live_one_stays() {
    let sources = tempfile::tempdir().unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--head-source-dir", sources.path().to_str().unwrap()]);
    let (mut admin, mut client) = (server.admin().await, server.classifier().await);
    admin.replace_head(replace("cats", 3, 1)).await.unwrap();
    let before = client.classify(classify(&["cats"])).await.unwrap().into_inner().results;

    let file = |change: &dyn Fn(&mut Parameters)| {
        let mut parameters = demo_head(NARROW, 3, 2);
        change(&mut parameters);
        safetensors(&parameters, &[])
    };
    let bytes = |bytes: Vec<u8>| ReplaceHeadRequest {
        head: "cats".into(),
        source: Some(Source::Safetensors(bytes.into())),
        ..Default::default()
    };
    let good = file(&|_| ());
    let mut lying = good.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut wrong_dtype = good.clone();
    let at = wrong_dtype.windows(5).position(|window| window == b"\"F32\"").unwrap();
    wrong_dtype[at..at + 5].copy_from_slice(b"\"I32\"");
    let uri = |uri: String| ReplaceHeadRequest {
        head: "cats".into(),
        source: Some(Source::Uri(uri)),
        ..Default::default()
    };
    let link = sources.path().join("link.safetensors");
    std::os::unix::fs::symlink(secret.path(), &link).unwrap();

    let invalid = Code::InvalidArgument;
    let shape = |name: &'static str, shape: Vec<usize>| {
        move |parameters: &mut Parameters| {
            let tensor = Arc::make_mut(parameters.get_mut(name).unwrap());
            tensor.values.resize(shape.iter().product(), 0.0);
            tensor.shape = shape.clone();
        }
    };
    let cases: Vec<(&str, ReplaceHeadRequest, Code, &str)> = vec![
        ("nothing", ReplaceHeadRequest::default(), invalid, "safetensors"),
        (
            "no classes",
            bytes(file(&|p| {
                shape(LAST_WEIGHT, vec![0, 128])(p);
                shape(LAST_BIAS, vec![0])(p);
            })),
            invalid,
            "0 classes",
        ),
        (
            "wrong width",
            bytes(file(&shape(LAST_WEIGHT, vec![3, 127]))),
            invalid,
            "[3, 128] is expected",
        ),
        (
            "wrong rank",
            bytes(file(&shape(LAST_WEIGHT, vec![384]))),
            invalid,
            "[K, 128] is expected",
        ),
        (
            "wrong bias",
            bytes(file(&shape(LAST_BIAS, vec![4]))),
            invalid,
            "[3] is expected",
        ),
        ("wrong dtype", bytes(wrong_dtype), invalid, "I32"),
        (
            "NaN",
            bytes(file(&|p| set(p, LAST_WEIGHT, 200, f32::NAN))),
            invalid,
            "element 200",
        ),
        (
            "infinite",
            bytes(file(&|p| set(p, LAST_BIAS, 1, f32::INFINITY))),
            invalid,
            "inf",
        ),
        (
            "missing",
            bytes(file(&|p| drop(p.remove(LAST_BIAS)))),
            invalid,
            "lacks classifier.6.bias",
        ),
        (
            "deeper",
            bytes(file(&|p| {
                let bias = p[LAST_BIAS].clone();
                p.insert("classifier.3.bias".into(), bias);
            })),
            invalid,
            "classifier.3.bias",
        ),
        (
            "truncated",
            bytes(good[..good.len() - 1].to_vec()),
            invalid,
            "safetensors",
        ),
        ("lying header", bytes(lying), invalid, "safetensors"),
        ("empty", bytes(Vec::new()), invalid, "safetensors"),
        (
            "labels",
            ReplaceHeadRequest {
                labels: vec!["a".into()],
                ..bytes(good.clone())
            },
            invalid,
            "1 for 3 classes",
        ),
        (
            "stale",
            ReplaceHeadRequest {
                expected_version: Some(9),
                ..bytes(good.clone())
            },
            Code::Aborted,
            "9",
        ),
        (
            "not new",
            ReplaceHeadRequest {
                expected_version: Some(0),
                ..bytes(good.clone())
            },
            Code::Aborted,
            "0",
        ),
        (
            "name",
            ReplaceHeadRequest {
                head: "No Name".into(),
                ..bytes(good.clone())
            },
            invalid,
            "no name",
        ),
        (
            "outside",
            uri(format!("file://{}", secret.path().display())),
            invalid,
            "--head-source-dir",
        ),
        (
            "upwards",
            uri(format!("file://{}/../../etc/passwd", sources.path().display())),
            invalid,
            "--head-source-dir",
        ),
        (
            "linked",
            uri(format!("file://{}", link.display())),
            invalid,
            "--head-source-dir",
        ),
        ("no file", uri("http://example.com/x".into()), invalid, "not a file URI"),
    ];
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
            ..bytes(good)
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

/// The checksum of PNG chunks (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| {
        if crc & 1 == 1 {
            0xedb8_8320 ^ (crc >> 1)
        } else {
            crc >> 1
        }
    };
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc))
    })
}

fn set(parameters: &mut Parameters, name: &str, index: usize, value: f32) {
    Arc::make_mut(parameters.get_mut(name).unwrap()).values[index] = value;
}

/// A server told to load this file; what it says instead of starting.
fn refused_weights(parameters: &Parameters) -> String {
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
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("vgg16.safetensors"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn wrong_backbones_are_refused_by_the_tensor() {
    let whole = demo_parameters(NARROW);
    for name in ["features.10.weight", "classifier.3.bias", LAST_WEIGHT, LAST_BIAS] {
        let mut parameters = whole.clone();
        parameters.remove(name).unwrap();
        let said = refused_weights(&parameters);
        assert!(said.contains(&format!("lacks the tensor {name}")), "{said}");
    }
    let mut parameters = whole.clone();
    let weight = parameters.get("features.0.weight").unwrap().clone();
    parameters.insert("features.31.weight".into(), weight);
    assert!(refused_weights(&parameters).contains("holds the tensor features.31.weight"));
    let mut parameters = whole.clone();
    Arc::make_mut(parameters.get_mut("classifier.0.bias").unwrap()).shape = vec![2, 64];
    assert!(refused_weights(&parameters).contains("classifier.0.bias has shape [2, 64]; [128] is expected"));
    let mut parameters = whole;
    set(&mut parameters, "features.2.bias", 1, f32::NAN);
    assert!(refused_weights(&parameters).contains("features.2.bias holds NaN at element 1"));
}

#[tokio::test]
async fn a_pickle_that_names_a_function_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    for file in ["zip_os_system.pth", "legacy_os_system.pth"] {
        let bytes = std::fs::read(format!("tests/fixtures/checkpoints/{file}")).unwrap();
        let request = ReplaceHeadRequest {
            head: "cats".into(),
            source: Some(Source::Safetensors(bytes.into())),
            ..Default::default()
        };
        let status = server.admin().await.replace_head(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("posix.system"), "{}", status.message());
    }
}

#[tokio::test]
async fn of_a_whole_checkpoint_only_what_differs_becomes_the_head() {
    let dir = tempfile::tempdir().unwrap();
    let path = "tests/fixtures/checkpoints/narrow_timm_bf16.pth";
    let server = Server::start_on(path, dir.path());
    let request = |checkpoint: Vec<u8>| ReplaceHeadRequest {
        head: "whole".into(),
        source: Some(Source::Safetensors(checkpoint.into())),
        ..Default::default()
    };
    let mut admin = server.admin().await;
    let same = admin.replace_head(request(std::fs::read(path).unwrap())).await.unwrap();
    let overridden = same.into_inner().head.unwrap().parameters;
    assert_eq!(overridden, ["classifier.6.bias", "classifier.6.weight"]);

    let checkpoint = Checkpoint::open(path.as_ref()).unwrap();
    let read = |entry: &TensorEntry| (entry.name.clone(), Arc::new(checkpoint.read(entry).unwrap()));
    let mut parameters: Parameters = checkpoint.tensors().map(read).collect();
    set(&mut parameters, "features.28.bias", 3, 1e12);
    let tuned = admin
        .replace_head(request(safetensors(&parameters, &[])))
        .await
        .unwrap();
    let overridden = tuned.into_inner().head.unwrap().parameters;
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
            "--admin-address",
            &server.admin,
        ])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("3 of 32 tensors differ from the backbone"), "{said}");

    let mut client = server.classifier().await;
    let results = client
        .classify(classify(&["default", "whole"]))
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_ne!(results[0].logits, results[1].logits);
}
