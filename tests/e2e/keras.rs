//! Heads and backbones that Keras saved are answered as Keras answers.

use std::fs;

use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, DescribeModelRequest, GetHeadRequest, HeadResult};

use crate::support::fixture_heads::{BACKBONE, FixtureHead, keras_heads};
use crate::support::program::Ran;
use crate::support::{Classifier, Server};

async fn result(client: &mut Classifier, photograph: &str, head: &str) -> HeadResult {
    let image = fs::read(format!("images/{photograph}")).unwrap();
    let request = ClassifyRequest {
        input: Some(Input::Image(image.into())),
        heads: vec![head.to_owned()],
        top_k: 10_000,
        include_logits: true,
        ..Default::default()
    };
    client.classify(request).await.unwrap().into_inner().results.remove(0)
}

async fn check(client: &mut Classifier, head: &FixtureHead) {
    for photograph in head.answers.keys() {
        head.check(photograph, &result(client, photograph, head.name()).await);
    }
}

#[tokio::test]
async fn kerass_heads_are_answered_as_keras_answers_and_cost_their_own_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, &dir.path().join("heads"), &[]);
    let mut client = server.classifier().await;
    let mut admin = server.admin().await;
    for head in keras_heads() {
        // By the command line, as `head inspect` asks, and by one request with the whole spec.
        head.push(&server.admin, dir.path());
        check(&mut client, &head).await;
        admin.replace_head(head.request()).await.unwrap();
        check(&mut client, &head).await;
        let request = GetHeadRequest {
            head: head.name().to_owned(),
            ..Default::default()
        };
        let info = admin.get_head(request).await.unwrap().into_inner().head.unwrap();
        let is_shared = |name: &&String| name.starts_with("features.");
        assert!(
            !info.parameters.iter().any(|name| is_shared(&name)),
            "{}: {:?}",
            head.file,
            info.parameters
        );
    }
}

#[tokio::test]
async fn a_preset_takes_the_size_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, &dir.path().join("heads"), &[]);
    let heads = keras_heads();
    let head = heads.iter().find(|head| head.file == "augmented.h5").unwrap();
    let args = ["head", "replace", "--admin-address", &server.admin, head.name()];
    let flags = [&head.path(), "--preprocessing", "keras-raw", "--output", "softmax"];
    let ran = Ran::of(&[&args[..], &flags[..]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("pictures of 64x64, as the file says"),
        "{}",
        ran.stderr
    );
    check(&mut server.classifier().await, head).await;
}

#[tokio::test]
async fn kerass_models_are_backbones() {
    let heads = keras_heads();
    for (file, alone) in [("scaled.keras", "bottleneck.h5"), ("pooled.weights.h5", "pooled2.h5")] {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("tests/fixtures/keras/{file}");
        let args = ["--preprocessing", "keras-raw"];
        let server = Server::start_on_with(&path, &dir.path().join("heads"), &args);
        let mut client = server.classifier().await;
        let mut admin = server.admin().await;
        let model = admin.describe_model(DescribeModelRequest::default()).await.unwrap();
        assert!(!model.into_inner().backbone_digest.is_empty());
        for name in [file, alone] {
            let head = heads.iter().find(|head| head.file == name).unwrap();
            head.push(&server.admin, dir.path());
            check(&mut client, head).await;
        }
    }
}
