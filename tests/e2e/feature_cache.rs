//! The feature cache: a cached picture costs only the last Linear layer, and its logits are bit-identical.

use futures::future::join_all;
use headswap_model::demo_head_from;
use headswap_proto::classify_request::Input;
use headswap_proto::replace_head_request::Source;
use headswap_proto::{ClassifyRequest, EmbedRequest, ReplaceHeadRequest, embed_request};

use crate::support::{CHELSEA, Classifier, NARROW, ROCKET, Server, classify, replace, safetensors};

const CACHE: [&str; 2] = ["--feature-cache-bytes-max", "2000"];

async fn logits(client: &mut Classifier, heads: &[&str]) -> Vec<Vec<f32>> {
    let response = client.classify(classify(heads)).await.unwrap().into_inner();
    response.results.into_iter().map(|result| result.logits).collect()
}

/// Returns the number of pictures that the first convolution has processed.
fn convolved(server: &Server) -> f64 {
    for line in server.get("/metrics").1.lines() {
        if let Some(value) = line.strip_prefix("headswap_layer_rows_total{layer=\"features.0\"} ") {
            return value.parse().unwrap();
        }
    }
    // The metric does not exist before the first picture.
    0.0
}

#[tokio::test]
async fn a_cached_picture_is_not_convolved_again_and_has_the_same_logits() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &CACHE);
    let (mut client, mut admin) = (server.classifier().await, server.admin().await);
    admin.replace_head(replace("cats", 3, 1)).await.unwrap();
    let before = convolved(&server);
    let first = logits(&mut client, &["default", "cats"]).await;
    assert_eq!(convolved(&server), before + 1.0);
    for heads in [&["default", "cats"][..], &["cats", "default"]] {
        let again = logits(&mut client, heads).await;
        assert_eq!(again[usize::from(heads[0] == "cats")], first[0]);
    }
    assert_eq!(convolved(&server), before + 1.0);
    assert_eq!(server.metric("headswap_feature_cache_hits_total"), 2.0);
    assert_eq!(server.metric("headswap_feature_cache_misses_total"), 1.0);

    // Embed uses the cache, too.
    let embed = EmbedRequest {
        input: Some(embed_request::Input::Image(ROCKET.into())),
        ..Default::default()
    };
    assert_eq!(client.embed(embed).await.unwrap().into_inner().features.len(), 128);
    assert_eq!(convolved(&server), before + 1.0);
}

#[tokio::test]
async fn a_new_version_uses_cached_features() {
    let (dir, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, without) = (Server::start(dir.path(), &CACHE), Server::start(plain.path(), &[]));
    let mut client = server.classifier().await;
    logits(&mut client, &["default"]).await;
    for seed in 1..4 {
        for server in [&server, &without] {
            server
                .admin()
                .await
                .replace_head(replace("default", 5, seed))
                .await
                .unwrap();
        }
        let known = logits(&mut client, &["default"]).await;
        let computed = logits(&mut without.classifier().await, &["default"]).await;
        assert_eq!(known, computed);
    }
    assert_eq!(server.metric("headswap_feature_cache_hits_total"), 3.0);
}

#[tokio::test]
async fn a_head_with_an_earlier_split_layer_bypasses_the_cache() {
    let (dir, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, without) = (Server::start(dir.path(), &CACHE), Server::start(plain.path(), &[]));
    let deep = ReplaceHeadRequest {
        head: "deep".into(),
        source: Some(Source::Safetensors(
            safetensors(&demo_head_from(NARROW, "features.28", 4, 9), &[]).into(),
        )),
        ..Default::default()
    };
    for server in [&server, &without] {
        server.admin().await.replace_head(deep.clone()).await.unwrap();
    }
    let mut client = server.classifier().await;
    logits(&mut client, &["default"]).await;
    let before = convolved(&server);
    let got = logits(&mut client, &["deep"]).await;
    assert_eq!(convolved(&server), before + 1.0);
    assert_eq!(got, logits(&mut without.classifier().await, &["deep"]).await);
}

#[tokio::test]
async fn concurrent_requests_compute_a_picture_once_and_the_limit_holds() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &CACHE);
    let mut client = server.classifier().await;
    let before = convolved(&server);
    let many = join_all((0..32).map(|_| {
        let mut client = client.clone();
        async move { logits(&mut client, &["default"]).await }
    }));
    let many = many.await;
    assert!(many.iter().all(|logits| *logits == many[0]));
    assert_eq!(convolved(&server), before + 1.0);

    // An entry has 640 bytes, so three fit.
    for shade in 0..10 {
        let request = ClassifyRequest {
            input: Some(Input::Pixels(vec![shade; 224 * 224 * 3].into())),
            ..Default::default()
        };
        client.classify(request).await.unwrap();
        assert!(server.metric("headswap_feature_cache_bytes") <= 2000.0);
    }
    assert_eq!(convolved(&server), before + 11.0);
}

#[tokio::test]
async fn a_damaged_picture_is_an_error_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &CACHE);
    let mut client = server.classifier().await;
    for _ in 0..3 {
        let request = ClassifyRequest {
            input: Some(Input::Image(CHELSEA[..1000].to_vec().into())),
            ..Default::default()
        };
        let status = client.classify(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }
    assert_eq!(server.metric("headswap_feature_cache_bytes"), 0.0);
    assert_eq!(server.metric("headswap_feature_cache_hits_total"), 0.0);
}
