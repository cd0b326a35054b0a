//! Heads of any preprocessing, layers and outputs: pushed as `head inspect` asks, they are answered as PyTorch answers.

use std::collections::BTreeMap;
use std::fs;

use futures::future::join_all;
use headswap_model::demo_head;
use headswap_proto::classify_request::Input;
use headswap_proto::replace_head_request::{HeadSpec as RequestSpec, Source};
use headswap_proto::{
    ChannelOrder, ClassifyRequest, DescribeModelRequest, EmbedKind, EmbedRequest, GetHeadRequest, HeadInfo, HeadInput,
    HeadLayer, HeadLayerKind, HeadResult, HeadSpec, OutputKind, PictureSize, Preprocessing, ReplaceHeadRequest,
    ResizeFilter, embed_request, preprocessing,
};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::fixture_heads::{BACKBONE, FixtureHead, fixture_head, fixture_heads};
use crate::support::program::Ran;
use crate::support::{Admin, Classifier, NARROW, Server, replace, safetensors};

const PHOTOGRAPHS: [&str; 3] = ["chelsea.png", "grace_hopper.jpg", "rocket.jpg"];

fn photograph(name: &str) -> Input {
    Input::Image(fs::read(format!("images/{name}")).unwrap().into())
}

/// Replaces each head by its file and its whole spec.
async fn push_all(admin: &mut Admin, heads: &[FixtureHead]) -> BTreeMap<String, HeadInfo> {
    let mut pushed = BTreeMap::new();
    for head in heads {
        let response = admin.replace_head(head.request()).await;
        let response = response.unwrap_or_else(|status| panic!("{}: {}", head.file, status.message()));
        pushed.insert(head.name().to_owned(), response.into_inner().head.unwrap());
    }
    pushed
}

/// Returns the results of heads by name, with logits and all classes.
async fn results(client: &mut Classifier, input: Input, heads: &[&str]) -> Vec<HeadResult> {
    let request = ClassifyRequest {
        input: Some(input),
        heads: heads.iter().map(ToString::to_string).collect(),
        top_k: 10_000,
        include_logits: true,
        ..Default::default()
    };
    client.classify(request).await.unwrap().into_inner().results
}

/// Returns the results of each head alone, by photograph and head.
async fn results_alone(client: &mut Classifier, heads: &[FixtureHead]) -> BTreeMap<(String, String), HeadResult> {
    let mut alone = BTreeMap::new();
    for name in PHOTOGRAPHS {
        for head in heads {
            let mut result = results(client, photograph(name), &[head.name()]).await;
            alone.insert((name.to_owned(), head.name().to_owned()), result.remove(0));
        }
    }
    alone
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[tokio::test]
async fn heads_are_answered_as_pytorch_answers_alone_and_in_any_mix() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, &dir.path().join("heads"), &[]);
    let heads = fixture_heads();
    for head in &heads {
        head.push(&server.admin, dir.path());
    }
    let mut client = server.classifier().await;
    let alone = results_alone(&mut client, &heads).await;
    for name in PHOTOGRAPHS {
        for head in &heads {
            head.check(name, &alone[&(name.to_owned(), head.name().to_owned())]);
        }
    }

    // All in one call, and 32 calls at once with some of them in another order.
    let names: Vec<&str> = heads.iter().map(FixtureHead::name).collect();
    let mut calls = vec![("rocket.jpg", names.clone())];
    for call in 0..32 {
        let mut some = names.clone();
        some.rotate_left(call % names.len());
        some.truncate(1 + call % 5);
        calls.push((PHOTOGRAPHS[call % 3], some));
    }
    let mixed = join_all(calls.iter().map(|(name, heads)| {
        let mut client = client.clone();
        async move { results(&mut client, photograph(name), heads).await }
    }));
    for ((name, heads), results) in calls.iter().zip(mixed.await) {
        assert_eq!(results.len(), heads.len());
        for (head, result) in heads.iter().zip(results) {
            let alone = &alone[&((*name).to_owned(), (*head).to_owned())];
            assert_eq!(bits(&result.logits), bits(&alone.logits), "{head} of {name}");
            assert_eq!(result.predictions, alone.predictions, "{head} of {name}");
        }
    }
}

#[tokio::test]
async fn int16_has_the_same_first_class() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, dir.path(), &["--precision", "int16"]);
    let heads = fixture_heads();
    push_all(&mut server.admin().await, &heads).await;
    let mut client = server.classifier().await;
    let alone = results_alone(&mut client, &heads).await;
    for name in PHOTOGRAPHS {
        for head in &heads {
            head.check_top(name, &alone[&(name.to_owned(), head.name().to_owned())]);
        }
    }
}

#[tokio::test]
async fn pixels_have_the_size_of_the_heads_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, dir.path(), &[]);
    let heads = fixture_heads();
    let pushed = push_all(&mut server.admin().await, &heads).await;
    let mut client = server.classifier().await;
    let sides = |name: &str| match name {
        "pooled_norm" => 150,
        "small" => 32,
        _ => 224,
    };
    let names: Vec<&str> = pushed.keys().map(String::as_str).collect();
    for side in [32, 150, 224] {
        // A picture with an edge in each channel.
        let pixels: Vec<u8> = (0..side * side * 3)
            .map(|at| if at % 7 < 3 { 250 } else { (at / side) as u8 })
            .collect();
        let input = Input::Pixels(pixels.into());
        let all = results(&mut client, input.clone(), &names).await;
        for (name, result) in names.iter().zip(all) {
            if sides(name) == side {
                let alone = results(&mut client, input.clone(), &[name]).await;
                assert_eq!(bits(&result.logits), bits(&alone[0].logits), "{name}");
                assert!(!result.logits.is_empty());
            } else {
                let error = result.error.unwrap();
                assert_eq!(error.code, Code::InvalidArgument as i32, "{name}: {}", error.message);
                let own = format!("{0} rows of {0} pixels", sides(name));
                assert!(error.message.contains(&own), "{name}: {}", error.message);
            }
        }
    }
    // A single head's error is the call's.
    let request = ClassifyRequest {
        input: Some(Input::Pixels(vec![7; 150 * 150 * 3].into())),
        heads: vec!["small".into()],
        ..Default::default()
    };
    let status = client.classify(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
    assert!(
        status.message().contains("32 rows of 32 pixels"),
        "{}",
        status.message()
    );
}

#[tokio::test]
async fn the_feature_cache_serves_every_preprocessing() {
    let dir = tempfile::tempdir().unwrap();
    let cached = Server::start_on_with(BACKBONE, dir.path(), &["--feature-cache-bytes-max", "10000000"]);
    let heads = fixture_heads();
    push_all(&mut cached.admin().await, &heads).await;
    let mut client = cached.classifier().await;
    let hits = || cached.metric("headswap_feature_cache_hits_total");
    for head in &heads {
        let first = results(&mut client, photograph("rocket.jpg"), &[head.name()]).await;
        head.check("rocket.jpg", &first[0]);
        let before = hits();
        let second = results(&mut client, photograph("rocket.jpg"), &[head.name()]).await;
        assert_eq!(bits(&first[0].logits), bits(&second[0].logits), "{}", head.file);
        // Another backbone's convolutions leave nothing to share.
        let expected = if head.name() == "norms" { 0.0 } else { 1.0 };
        assert_eq!(hits() - before, expected, "{}", head.file);
    }
}

#[tokio::test]
async fn a_head_has_one_digest_whichever_way_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, &dir.path().join("heads"), &[]);
    let mut admin = server.admin().await;
    let heads = fixture_heads();
    let by_rpc = push_all(&mut admin, &heads).await;
    for head in &heads {
        let digest = &by_rpc[head.name()].digest;
        let by_flags = head.push(&server.admin, dir.path());
        assert_eq!(by_flags["head"]["digest"], **digest, "{}", head.file);

        let spec = head.asked_spec(dir.path());
        let converted = dir.path().join(format!("{}.safetensors", head.name()));
        let converted = converted.to_str().unwrap();
        let ran = Ran::of(&["head", "convert", &head.path(), converted, "--spec", &spec]);
        assert_eq!(ran.code, Some(0), "{}: {}", head.file, ran.stderr);
        let args = [
            "head",
            "replace",
            "--json",
            "--admin-address",
            &server.admin,
            head.name(),
            converted,
        ];
        let ran = Ran::of(&args);
        assert_eq!(ran.code, Some(0), "{}: {}", head.file, ran.stderr);
        assert_eq!(ran.json_lines()[0]["head"]["digest"], **digest, "{}", head.file);

        let request = ReplaceHeadRequest {
            source: Some(Source::File(fs::read(converted).unwrap().into())),
            head_spec: None,
            ..head.request()
        };
        let pushed = admin.replace_head(request).await.unwrap().into_inner().head.unwrap();
        assert_eq!(pushed.digest, *digest, "{}", head.file);
        assert_eq!(pushed.spec_json, by_rpc[head.name()].spec_json);
    }
    for (file, spec) in typed_specs() {
        let head = fixture_head(file);
        let request = ReplaceHeadRequest {
            head_spec: Some(RequestSpec::Spec(spec)),
            ..head.request()
        };
        let pushed = admin.replace_head(request).await.unwrap().into_inner().head.unwrap();
        assert_eq!(pushed.digest, by_rpc[head.name()].digest, "{file}");
    }
}

/// The specs of some heads as messages.
fn typed_specs() -> Vec<(&'static str, HeadSpec)> {
    let stretch = |side| Some(preprocessing::Resize::Stretch(size(side)));
    let labels = |all: &[&str]| all.iter().map(ToString::to_string).collect();
    let layers = |kinds: &[HeadLayerKind]| {
        let layer = |kind: &HeadLayerKind| HeadLayer {
            kind: (*kind).into(),
            number: None,
        };
        kinds.iter().map(layer).collect()
    };
    let stack = HeadSpec {
        preprocessing: Some(Preprocessing {
            resize: stretch(256),
            filter: ResizeFilter::Bicubic.into(),
            crop: Some(size(224)),
            scale: 1.0 / 255.0,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
            ..Default::default()
        }),
        layers: layers(&[HeadLayerKind::Linear, HeadLayerKind::Relu, HeadLayerKind::Linear]),
        output: OutputKind::Softmax.into(),
        ..Default::default()
    };
    let pooled = HeadSpec {
        preprocessing: Some(Preprocessing {
            resize: stretch(150),
            filter: ResizeFilter::Nearest.into(),
            scale: 1.0 / 255.0,
            ..Default::default()
        }),
        input: HeadInput::GlobalAverage.into(),
        layers: layers(&[
            HeadLayerKind::Linear,
            HeadLayerKind::BatchNorm,
            HeadLayerKind::Relu,
            HeadLayerKind::Linear,
        ]),
        output: OutputKind::Softmax.into(),
        ..Default::default()
    };
    let one_unit = HeadSpec {
        preprocessing: Some(Preprocessing {
            resize: stretch(224),
            channels: ChannelOrder::Bgr.into(),
            standardise: true,
            ..Default::default()
        }),
        output: OutputKind::Sigmoid.into(),
        labels: labels(&["no", "yes"]),
        ..Default::default()
    };
    let groups = HeadSpec {
        preprocessing: Some(Preprocessing {
            resize: stretch(224),
            channels: ChannelOrder::Grey.into(),
            scale: 1.0 / 255.0,
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
            ..Default::default()
        }),
        output: OutputKind::Groups.into(),
        groups: 2,
        labels: labels(&["ant", "bee", "cat", "dog", "elk", "fox"]),
        ..Default::default()
    };
    let wrapped = HeadSpec {
        preprocessing: Some(Preprocessing {
            preset: "torchvision-stretch".into(),
            ..Default::default()
        }),
        output: OutputKind::Softmax.into(),
        ..Default::default()
    };
    vec![
        ("stack_last.pth", stack),
        ("pooled_norm.pth", pooled),
        ("one_unit.pth", one_unit),
        ("groups.pth", groups),
        ("wrapped.pth", wrapped),
    ]
}

fn size(side: u32) -> PictureSize {
    PictureSize {
        height: side,
        width: side,
    }
}

async fn described(admin: &mut Admin, head: &str) -> HeadInfo {
    let request = GetHeadRequest {
        head: head.into(),
        version: 0,
    };
    admin.get_head(request).await.unwrap().into_inner().head.unwrap()
}

#[tokio::test]
async fn a_restart_changes_neither_digests_nor_answers() {
    let dir = tempfile::tempdir().unwrap();
    let heads = fixture_heads();
    let server = Server::start_on_with(BACKBONE, dir.path(), &[]);
    let pushed = push_all(&mut server.admin().await, &heads).await;
    let before = results_alone(&mut server.classifier().await, &heads).await;
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());

    let server = Server::start_on_with(BACKBONE, dir.path(), &[]);
    let mut admin = server.admin().await;
    for (name, pushed) in &pushed {
        let found = described(&mut admin, name).await;
        assert_eq!((&found.digest, &found.spec), (&pushed.digest, &pushed.spec), "{name}");
        assert_eq!(
            (&found.labels, &found.assumed),
            (&pushed.labels, &pushed.assumed),
            "{name}"
        );
    }
    // The description of a head with layers of its own ends with them.
    let request = DescribeModelRequest {
        head: "pooled_norm".into(),
        ..Default::default()
    };
    let model = admin.describe_model(request).await.unwrap().into_inner();
    assert!(!model.layers.contains("classifier"), "{}", model.layers);
    assert!(
        model.layers.contains("  (head): Sequential(\n    (input): global_"),
        "{}",
        model.layers
    );
    assert!(
        model
            .parameters
            .iter()
            .all(|parameter| parameter.name.starts_with("features."))
    );
    let after = results_alone(&mut server.classifier().await, &heads).await;
    for (key, before) in &before {
        assert_eq!(bits(&before.logits), bits(&after[key].logits), "{key:?}");
        assert_eq!(before.predictions, after[key].predictions, "{key:?}");
    }
}

/// Returns a request without a spec.
fn unspecified(file: &str) -> ReplaceHeadRequest {
    ReplaceHeadRequest {
        head_spec: None,
        ..fixture_head(file).request()
    }
}

#[tokio::test]
async fn without_a_spec_the_server_assumes_one_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, dir.path(), &[]);
    let mut admin = server.admin().await;
    let assumed = ["preprocessing: the backbone's", "output: softmax"];
    for file in ["wrapped.pth", "dropout_last.pth", "groups.pth"] {
        let pushed = admin
            .replace_head(unspecified(file))
            .await
            .unwrap()
            .into_inner()
            .head
            .unwrap();
        assert_eq!(pushed.assumed, assumed, "{file}");
        assert_eq!(described(&mut admin, &pushed.head).await.assumed, assumed, "{file}");
    }
    // dropout_last.pth was trained with the backbone's preprocessing.
    let mut client = server.classifier().await;
    let result = results(&mut client, photograph("rocket.jpg"), &["dropout_last"]).await;
    fixture_head("dropout_last.pth").check("rocket.jpg", &result[0]);
    for (file, text) in [
        (
            "one_unit.pth",
            "the head has one output, and nothing says what it means",
        ),
        ("stack_last.pth", "layers"),
        ("pooled_norm.pth", "classifier.0.weight [32, 16] takes 16 values"),
    ] {
        let status = admin.replace_head(unspecified(file)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{file}: {}", status.message());
        assert!(status.message().contains(text), "{file}: {}", status.message());
        assert!(!status.message().contains('\n'), "{file}: {}", status.message());
    }
}

#[tokio::test]
async fn a_server_that_requires_specs_refuses_a_head_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, dir.path(), &["--require-spec"]);
    let mut admin = server.admin().await;
    for request in [unspecified("wrapped.pth"), replace("cats", 3, 1)] {
        let status = admin.replace_head(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
        assert!(status.message().contains("requires one"), "{}", status.message());
    }
    admin.replace_head(fixture_head("wrapped.pth").request()).await.unwrap();
}

#[test]
fn the_command_line_names_the_flags_of_what_is_missing() {
    for (file, flags) in [
        ("wrapped.pth", &["--preprocessing", "--output"][..]),
        ("course.pth", &["--preprocessing"]),
        ("stack_last.pth", &["--preprocessing", "--layers", "--output"]),
        (
            "pooled_norm.pth",
            &["--preprocessing", "--input", "--layers", "--output"],
        ),
    ] {
        let path = fixture_head(file).path();
        let ran = Ran::of(&["head", "replace", "--admin-address", "unix:/nowhere", "cats", &path]);
        let ran = ran.failed(1, "neither the file nor the command says");
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        for flag in ["--preprocessing", "--input", "--layers", "--output"] {
            assert_eq!(
                ran.stderr.contains(flag),
                flags.contains(&flag),
                "{file} {flag}: {}",
                ran.stderr
            );
        }
    }
}

#[tokio::test]
async fn labels_may_hold_any_text_and_are_kept_by_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, &dir.path().join("heads"), &[]);
    let mut admin = server.admin().await;
    let labels = [
        "two\nlines",
        "",
        "tab\t and \u{1b}[31mred\u{0}",
        "\u{1f408} \u{202e}cat",
        "\"",
    ];
    let file = dir.path().join("labels.json");
    fs::write(&file, json!(labels).to_string()).unwrap();
    let (path, labels_file) = (fixture_head("wrapped.pth").path(), file.to_str().unwrap());
    let push = |flags: &[&str]| {
        let args = ["head", "replace", "--admin-address", &server.admin, "cats", &path];
        let spec = ["--preprocessing", "torchvision-stretch", "--output", "softmax"];
        let ran = Ran::of(&[&args[..], &spec, flags].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran
    };
    push(&["--labels", labels_file]);
    let first = described(&mut admin, "cats").await;
    assert_eq!(first.labels, labels);

    let ran = push(&[]);
    let kept = "no labels were given: those of version 1 are kept";
    let line = ran.stderr.lines().find(|line| line.contains(kept));
    assert!(
        line.is_some_and(|line| !line.contains(char::is_control)),
        "{}",
        ran.stderr
    );
    let second = described(&mut admin, "cats").await;
    assert_eq!((&second.labels, &second.digest), (&first.labels, &first.digest));
    for args in [&["head", "get", "cats", "--labels"][..], &["head", "list", "--labels"]] {
        let ran = Ran::of(&[args, &["--admin-address", &server.admin]].concat()).succeeded();
        let escaped = ran.stdout.chars().any(|char| char.is_control() && char != '\n');
        assert!(!escaped, "{}", ran.stdout);
    }

    // By RPC no label is kept.
    let mut request = fixture_head("wrapped.pth").request();
    request.head = "cats".into();
    assert!(
        admin
            .replace_head(request)
            .await
            .unwrap()
            .into_inner()
            .head
            .unwrap()
            .labels
            .is_empty()
    );
    let mut client = server.classifier().await;
    let results = results(&mut client, photograph("rocket.jpg"), &["cats"]).await;
    assert!(
        results[0]
            .predictions
            .iter()
            .all(|prediction| prediction.label.is_empty())
    );
}

#[tokio::test]
async fn labels_that_do_not_fit_are_refused_with_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, dir.path(), &[]);
    let mut admin = server.admin().await;
    for (file, count, text) in [
        ("wrapped.pth", 4, "there are 4 labels and 5 classes"),
        ("one_unit.pth", 3, "there are 3 labels and 1 class"),
        ("groups.pth", 4, "there are 4 labels and 6 classes"),
        ("thousand.pth", 1000, "there are 1000 labels, and 7 classes"),
    ] {
        let mut spec = fixture_head(file).spec;
        spec["labels"] = json!(vec!["x"; count]);
        let request = ReplaceHeadRequest {
            head_spec: Some(RequestSpec::SpecJson(spec.to_string())),
            ..fixture_head(file).request()
        };
        let status = admin.replace_head(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{file}: {}", status.message());
        assert!(status.message().contains(text), "{file}: {}", status.message());
    }
}

#[tokio::test]
async fn embed_returns_each_kind_with_a_heads_preprocessing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, dir.path(), &[]);
    let heads = fixture_heads();
    push_all(&mut server.admin().await, &heads).await;
    let mut client = server.classifier().await;
    let embed = |head: &str, kind: EmbedKind| EmbedRequest {
        input: Some(embed_request::Input::Image(
            fs::read("images/rocket.jpg").unwrap().into(),
        )),
        head: head.into(),
        kind: kind.into(),
        ..Default::default()
    };
    // A map of 150 x 150 has 4 x 4 places, one of 32 x 32 a single one.
    for (head, places) in [("", 49), ("wrapped", 49), ("pooled_norm", 16), ("small", 1)] {
        let mut counts = Vec::new();
        let mut answers = Vec::new();
        for kind in [EmbedKind::Features, EmbedKind::Pool, EmbedKind::Gap] {
            let answer = client.embed(embed(head, kind)).await.unwrap().into_inner().features;
            counts.push(answer.len());
            answers.push(answer);
        }
        assert_eq!(counts, [128, 16 * places, 16], "{head}");
        for (channel, mean) in answers[1].chunks(places).zip(&answers[2]) {
            let sum: f32 = channel.iter().sum();
            assert!(
                (sum / places as f32 - mean).abs() < 1e-4 * mean.abs().max(1.0),
                "{head}"
            );
        }
        let plain = client.embed(embed(head, EmbedKind::Unspecified)).await.unwrap();
        assert_eq!(plain.into_inner().features, answers[0], "{head}");
    }
    let status = client.embed(embed("nobody", EmbedKind::Gap)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    // What a head computes of its features is what Embed returns of them.
    let features = client.embed(embed("dropout_last", EmbedKind::Features)).await.unwrap();
    let backbones = client.embed(embed("", EmbedKind::Features)).await.unwrap();
    assert_eq!(features.into_inner().features, backbones.into_inner().features);
}

#[tokio::test]
async fn embed_takes_a_preprocessing_in_place_of_a_heads() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, dir.path(), &[]);
    let head = fixture_head("pooled_norm.pth");
    push_all(&mut server.admin().await, std::slice::from_ref(&head)).await;
    let mut client = server.classifier().await;
    let embed = |head: &str, preprocessing: &str| EmbedRequest {
        input: Some(embed_request::Input::Image(
            fs::read("images/rocket.jpg").unwrap().into(),
        )),
        head: head.into(),
        preprocessing_json: preprocessing.into(),
        kind: EmbedKind::Pool.into(),
        ..Default::default()
    };
    let own = head.spec["preprocessing"].to_string();
    let by_head = client
        .embed(embed("pooled_norm", ""))
        .await
        .unwrap()
        .into_inner()
        .features;
    let by_json = client.embed(embed("", &own)).await.unwrap().into_inner().features;
    assert_eq!(by_head, by_json);
    assert_ne!(
        by_json,
        client.embed(embed("", "")).await.unwrap().into_inner().features
    );
    let long = format!(r#"{{"{}": 1}}"#, "x".repeat(5000));
    for (head, json) in [
        ("pooled_norm", own.as_str()),
        ("", "keras-caffe"),
        ("", r#"{"preset": "none"}"#),
        ("", r#"{"resize": {"short_side": 256}, "scale": 1}"#),
        ("", r#"{"resize": {"stretch": [4000, 4000]}, "scale": 1}"#),
        ("", long.as_str()),
    ] {
        let status = client.embed(embed(head, json)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{json}");
        let fields = status
            .get_error_details()
            .bad_request()
            .unwrap()
            .field_violations
            .clone();
        assert_eq!(fields[0].field, "preprocessing_json");
        assert!(status.message().len() < 6000);
    }
}

#[tokio::test]
async fn a_client_that_knows_no_specs_sends_what_it_always_sent() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut admin = server.admin().await;
    let file = safetensors(&demo_head(NARROW, 2, 1), &[("labels", r#"["cat", "dog"]"#)]);
    let old = admin
        .replace_head(replace("old", 2, 1))
        .await
        .unwrap()
        .into_inner()
        .head
        .unwrap();
    let request = ReplaceHeadRequest {
        head: "new".into(),
        source: Some(Source::File(file.into())),
        ..Default::default()
    };
    let new = admin.replace_head(request).await.unwrap().into_inner().head.unwrap();
    assert_eq!(new.labels, ["cat", "dog"]);
    let labelled = ReplaceHeadRequest {
        labels: new.labels.clone(),
        ..replace("old", 2, 1)
    };
    let labelled = admin.replace_head(labelled).await.unwrap().into_inner().head.unwrap();
    assert_eq!(labelled.digest, new.digest);
    assert_ne!(old.digest, new.digest);
}
