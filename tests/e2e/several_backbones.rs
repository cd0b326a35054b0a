//! Several backbones in one server.

use std::fs;
use std::path::{Path, PathBuf};

use headswap_checkpoint::Parameters;
use headswap_model::{demo_head, demo_head_from};
use headswap_proto::embed_request::Input;
use headswap_proto::replace_head_request::{HeadSpec, Source};
use headswap_proto::{
    ClassifyRequest, DescribeModelRequest, EmbedKind, EmbedRequest, GetHeadRequest, HeadInfo, HeadResult,
    ListHeadsRequest, ReplaceHeadRequest,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::program::Ran;
use crate::support::{Admin, NARROW, ROCKET, Server, classify, safetensors};

/// A head of three classes on the means of the last map's 16 channels.
const POOLED: &str = r#"{"preprocessing": {"preset": "torchvision"}, "output": "softmax", "input": "global_average",
    "layers": ["linear"]}"#;

/// Two generated networks in files, and a directory for heads.
struct Bench {
    dir: tempfile::TempDir,
}

/// Returns a whole network of 1000 classes.
fn whole(seed: u64) -> Parameters {
    demo_head_from(NARROW, "features.0", 1000, seed)
}

/// Returns a fine-tuned network: all of `seed`'s, with other numbers from `classifier.3` on.
fn fine_tuned(seed: u64, classes: usize) -> Parameters {
    let mut parameters = whole(seed);
    parameters.extend(demo_head_from(NARROW, "classifier.3", classes, seed + 100));
    parameters
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (name, seed) in [("a", 1), ("b", 2)] {
            bench.write(name, &whole(seed));
        }
        let mut map = whole(2);
        map.retain(|name, _| name.starts_with("features."));
        bench.write("map", &map);
        bench
    }

    fn write(&self, name: &str, parameters: &Parameters) {
        fs::write(self.path(name), safetensors(parameters, &[])).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.safetensors"))
    }

    fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn heads(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A server of one backbone, with heads of its own.
    fn one(&self, backbone: &str) -> Server {
        Server::start_on(&self.file(backbone), &self.heads(&format!("heads-{backbone}")))
    }

    /// A server of the backbone `a`, called `default`, and of others.
    fn several(&self, heads: &Path, others: &[&str]) -> Server {
        let mut args = Vec::new();
        for other in others {
            args.extend(["--weights".to_owned(), format!("{other}={}", self.file(other))]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Server::start_on_with(&self.file("a"), heads, &args)
    }
}

fn request(head: &str, parameters: &Parameters, backbone: &str) -> ReplaceHeadRequest {
    ReplaceHeadRequest {
        head: head.into(),
        source: Some(Source::File(safetensors(parameters, &[]).into())),
        backbone: backbone.into(),
        ..Default::default()
    }
}

/// Returns a head on the means of the last map.
fn pooled(head: &str, backbone: &str) -> ReplaceHeadRequest {
    let mut parameters = Parameters::new();
    for (name, tensor) in demo_head(NARROW, 3, 21) {
        let mut tensor = (*tensor).clone();
        if tensor.shape.len() == 2 {
            tensor = headswap_checkpoint::HostTensor::new(vec![3, 16], tensor.values[..48].to_vec());
        }
        let leaf = name.rsplit('.').next().unwrap();
        parameters.insert(format!("fc.{leaf}"), tensor.into());
    }
    ReplaceHeadRequest {
        head_spec: Some(HeadSpec::SpecJson(POOLED.into())),
        ..request(head, &parameters, backbone)
    }
}

async fn replace(admin: &mut Admin, request: ReplaceHeadRequest) -> HeadInfo {
    let replaced = admin.replace_head(request).await.unwrap().into_inner();
    replaced.head.unwrap()
}

async fn answers(server: &Server, heads: &[&str]) -> Vec<HeadResult> {
    let mut client = server.classifier().await;
    client.classify(classify(heads)).await.unwrap().into_inner().results
}

async fn embed(server: &Server, request: EmbedRequest) -> Result<(Vec<f32>, String), tonic::Status> {
    let request = EmbedRequest {
        input: Some(Input::Image(ROCKET.into())),
        ..request
    };
    let embedded = server.classifier().await.embed(request).await?.into_inner();
    Ok((embedded.features, embedded.backbone_digest))
}

fn on(backbone: &str, kind: EmbedKind) -> EmbedRequest {
    EmbedRequest {
        backbone: backbone.into(),
        kind: kind.into(),
        ..Default::default()
    }
}

/// The same numbers, bit by bit, in one request and in batches of any mix.
#[tokio::test]
async fn heads_of_two_backbones_answer_as_on_servers_of_one() {
    let bench = Bench::new();
    let both = bench.several(&bench.heads("heads"), &["b"]);
    let (of_a, of_b) = (bench.one("a"), bench.one("b"));
    let mut expected = Vec::new();
    let mut admin = both.admin().await;
    for (server, backbone, seed) in [(&of_a, "default", 1), (&of_b, "b", 2)] {
        let mut single = server.admin().await;
        let (last, deep) = (format!("{backbone}-last"), format!("{backbone}-deep"));
        for (name, parameters, chosen) in [
            // A last Linear alone does not say whose it is.
            (&last, demo_head(NARROW, 5, seed), backbone),
            // A whole network does.
            (&deep, fine_tuned(seed, 4), ""),
        ] {
            replace(&mut single, request(name, &parameters, "")).await;
            let head = replace(&mut admin, request(name, &parameters, chosen)).await;
            assert_eq!(head.backbone, backbone, "{name}");
        }
        let head = admin.get_head(GetHeadRequest {
            head: deep.clone(),
            version: 0,
        });
        let parameters = head.await.unwrap().into_inner().head.unwrap().parameters;
        assert_eq!(
            parameters,
            [
                "classifier.3.bias",
                "classifier.3.weight",
                "classifier.6.bias",
                "classifier.6.weight"
            ]
        );
        expected.extend(answers(server, &[&last, &deep]).await);
    }
    expected.extend(answers(&of_a, &["default"]).await);

    let heads: Vec<String> = expected.iter().map(|result| result.head.clone()).collect();
    let names: Vec<&str> = heads.iter().map(String::as_str).collect();
    assert_eq!(answers(&both, &names).await, expected);
    let mut requests = JoinSet::new();
    for index in 0..24 {
        let (mut client, index) = (both.classifier().await, index % heads.len());
        let request = classify(&[names[index]]);
        requests.spawn(async move { (index, client.classify(request).await.unwrap().into_inner().results) });
    }
    while let Some(done) = requests.join_next().await {
        let (index, results) = done.unwrap();
        assert_eq!(results[..], expected[index..=index]);
    }
    let listed = admin
        .list_heads(ListHeadsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let backbones: Vec<&str> = listed.heads.iter().map(|head| head.backbone.as_str()).collect();
    assert_eq!(backbones, ["b", "b", "default", "default", "default"]);
}

#[tokio::test]
async fn requests_choose_a_backbone() {
    let bench = Bench::new();
    let both = bench.several(&bench.heads("heads"), &["b"]);
    let (of_a, of_b) = (bench.one("a"), bench.one("b"));
    let mut admin = both.admin().await;
    replace(&mut admin, pooled("b-pooled", "b")).await;
    for (request, single) in [
        (EmbedRequest::default(), &of_a),
        (on("default", EmbedKind::Pool), &of_a),
        (on("b", EmbedKind::Features), &of_b),
        (on("b", EmbedKind::Gap), &of_b),
        (
            EmbedRequest {
                head: "b-pooled".into(),
                ..Default::default()
            },
            &of_b,
        ),
    ] {
        let alone = EmbedRequest {
            backbone: String::new(),
            head: String::new(),
            ..request.clone()
        };
        assert_eq!(
            embed(&both, request).await.unwrap(),
            embed(single, alone).await.unwrap()
        );
    }
    for (backbone, server, has_head) in [("default", &of_a, true), ("b", &of_b, false)] {
        let request = DescribeModelRequest {
            backbone: backbone.into(),
            ..Default::default()
        };
        let described = admin.describe_model(request).await.unwrap().into_inner();
        let mut single = server.admin().await;
        let alone = single
            .describe_model(DescribeModelRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(described.backbone, backbone);
        assert_eq!(described.backbone_digest, alone.backbone_digest);
        assert_eq!((described.head.is_some(), described.backbones.len()), (has_head, 2));
        assert_eq!(alone.backbones.len(), 1);
        // The last Linear belongs to a head.
        let count = described.parameters.len();
        assert_eq!(count, if has_head { 32 } else { 30 });
        let both_digests = described.parameters.iter().map(|parameter| &parameter.digest).take(30);
        assert!(both_digests.eq(alone.parameters.iter().map(|parameter| &parameter.digest).take(30)));
        assert!(
            described
                .parameters
                .iter()
                .take(30)
                .all(|parameter| !parameter.overridden)
        );
    }
    // A head of one backbone beside another's parameters.
    let request = DescribeModelRequest {
        head: "b-pooled".into(),
        backbone: "default".into(),
    };
    let described = admin.describe_model(request).await.unwrap().into_inner();
    assert!(described.parameters.iter().all(|parameter| parameter.overridden));

    let unknown = embed(&both, on("c", EmbedKind::Gap)).await.unwrap_err();
    let replacing = admin.replace_head(request_of_unknown()).await.unwrap_err();
    let describing = DescribeModelRequest {
        backbone: "c".into(),
        ..Default::default()
    };
    let describing = admin.describe_model(describing).await.unwrap_err();
    for status in [unknown, replacing, describing] {
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
        assert_eq!(status.message(), "there is no backbone `c`; this server has default, b");
    }
}

fn request_of_unknown() -> ReplaceHeadRequest {
    request("cats", &demo_head(NARROW, 2, 1), "c")
}

#[tokio::test]
async fn a_backbone_may_lack_its_linears() {
    let bench = Bench::new();
    let server = bench.several(&bench.heads("heads"), &["map"]);
    let of_b = bench.one("b");
    let mut admin = server.admin().await;
    let refused = embed(&server, on("map", EmbedKind::Features)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("`map` has no features"), "{refused:?}");
    let mean = on("", EmbedKind::Gap);
    assert_eq!(
        embed(&server, on("map", EmbedKind::Gap)).await.unwrap().0,
        embed(&of_b, mean).await.unwrap().0
    );

    let last = request("cats", &demo_head(NARROW, 2, 1), "map");
    let refused = admin.replace_head(last).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("`map` has classifier.0"), "{refused:?}");
    // A head with convolutions of its own goes where they are; Linears of its own replace those that the backbone lacks.
    let deep = replace(&mut admin, request("deep", &fine_tuned(2, 4), "")).await;
    assert_eq!((deep.backbone.as_str(), deep.parameters.len()), ("map", 6));
    replace(&mut admin, pooled("pooled", "map")).await;
    let mut single = of_b.admin().await;
    replace(&mut single, request("deep", &fine_tuned(2, 4), "")).await;
    replace(&mut single, pooled("pooled", "")).await;
    let (got, expected) = (
        answers(&server, &["deep", "pooled"]).await,
        answers(&of_b, &["deep", "pooled"]).await,
    );
    assert_eq!(got[1].logits, expected[1].logits);
    // A head's own Linears are multiplied in another order than a backbone's.
    for (got, expected) in got[0].logits.iter().zip(&expected[0].logits) {
        assert!((got - expected).abs() < 1e-5, "{got} {expected}");
    }
}

#[tokio::test]
async fn a_server_of_convolutions_alone_has_no_default_head() {
    let bench = Bench::new();
    let server = bench.one("map");
    let mut classifier = server.classifier().await;
    let refused = classifier.classify(classify(&[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    let mut admin = server.admin().await;
    let described = admin
        .describe_model(DescribeModelRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!((described.head, described.parameters.len()), (None, 26));
    assert!(!described.backbones[0].has_features);
    let refused = admin
        .replace_head(request("", &demo_head(NARROW, 2, 1), ""))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    // Version 1 is that of a backbone's own head.
    assert_eq!(replace(&mut admin, pooled("", "")).await.version, 2);
    let default = ClassifyRequest {
        heads: Vec::new(),
        ..classify(&[])
    };
    let answered = classifier.classify(default).await.unwrap().into_inner();
    assert_eq!(answered.results[0].logits.len(), 3);
}

#[tokio::test]
async fn heads_stay_on_their_backbones() {
    let bench = Bench::new();
    let heads = bench.heads("heads");
    let both = bench.several(&heads, &["b"]);
    let mut admin = both.admin().await;
    replace(&mut admin, request("cats", &demo_head(NARROW, 3, 1), "")).await;
    let moved = replace(&mut admin, request("cats", &demo_head(NARROW, 3, 1), "b")).await;
    assert_eq!((moved.version, moved.backbone.as_str()), (2, "b"));
    replace(&mut admin, pooled("pooled", "b")).await;
    let of_version_1 = ClassifyRequest {
        head_version: 1,
        ..classify(&["cats"])
    };
    let mut classifier = both.classifier().await;
    let first = classifier
        .classify(of_version_1.clone())
        .await
        .unwrap()
        .into_inner()
        .results;
    let live = answers(&both, &["cats", "pooled"]).await;
    assert_ne!(first[0].logits, live[0].logits);
    both.signal(libc::SIGKILL);
    both.wait();

    // The other backbone's heads are ignored without it, and kept.
    let alone = Server::start_on(&bench.file("a"), &heads);
    assert_eq!(answers(&alone, &["cats"]).await, first);
    let mut admin = alone.admin().await;
    let pooled = GetHeadRequest {
        head: "pooled".into(),
        version: 0,
    };
    assert_eq!(admin.get_head(pooled).await.unwrap_err().code(), Code::NotFound);
    drop(alone);

    let again = bench.several(&heads, &["b"]);
    assert_eq!(answers(&again, &["cats", "pooled"]).await, live);
    let mut classifier = again.classifier().await;
    let older = classifier.classify(of_version_1).await.unwrap().into_inner().results;
    assert_eq!(older, first);
}

/// Servers of one backbone each, of any release, may have used the same directory.
#[tokio::test]
async fn stored_heads_of_two_servers_are_served_by_one() {
    let bench = Bench::new();
    let heads = bench.heads("heads");
    let mut expected = Vec::new();
    for (backbone, name) in [("a", "cats"), ("b", "dogs")] {
        let server = Server::start_on(&bench.file(backbone), &heads);
        let mut admin = server.admin().await;
        replace(&mut admin, request(name, &demo_head(NARROW, 3, 1), "")).await;
        expected.extend(answers(&server, &[name]).await);
    }
    let both = bench.several(&heads, &["b"]);
    assert_eq!(answers(&both, &["cats", "dogs"]).await, expected);
}

/// Heads of one network that no `--weights` names have most of their parameters in common.
#[tokio::test]
async fn heads_of_an_unknown_backbone_share_its_parameters() {
    const HEADS: usize = 12;
    let bench = Bench::new();
    // Enough for the network's Linears once, and for all else of each head.
    let args = ["--heads-resident-bytes-max", "1700000", "--heads-warm-bytes-max", "0"];
    let server = Server::start_on_with(&bench.file("a"), &bench.heads("heads"), &args);
    let mut admin = server.admin().await;
    let names: Vec<String> = (0..HEADS).map(|head| format!("head-{head}")).collect();
    for (index, name) in names.iter().enumerate() {
        let mut parameters = whole(9);
        parameters.extend(demo_head(NARROW, 3, index as u64));
        let head = replace(&mut admin, request(name, &parameters, "")).await;
        assert!(head.resident_bytes > 500_000, "{head:?}");
    }
    let hot = |server: &Server| server.metric("headswap_head_versions{tier=\"hot\"}");
    assert!((hot(&server) - (1.0 + HEADS as f64)).abs() < 0.5);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let expected = answers(&server, &names).await;
    drop(server);
    let again = Server::start_on_with(&bench.file("a"), &bench.heads("heads"), &args);
    assert!((hot(&again) - (1.0 + HEADS as f64)).abs() < 0.5);
    assert_eq!(answers(&again, &names).await, expected);
}

#[tokio::test]
async fn the_command_line_chooses_a_backbone() {
    let bench = Bench::new();
    let server = bench.several(&bench.heads("heads"), &["b"]);
    bench.write("tuned", &fine_tuned(2, 4));
    bench.write("last", &demo_head(NARROW, 3, 7));
    let push = |name: &str, file: &str, more: &[&str]| {
        let given = ["--preprocessing", "torchvision", "--output", "softmax", "--json"];
        let path = bench.file(file);
        let args = ["head", "replace", "--admin-address", &server.admin, name, &path];
        Ran::of(&[&args[..], more, &given].concat())
    };
    let tuned = push("tuned", "tuned", &[]);
    assert!(
        tuned.stderr.contains("4 of 32 tensors differ from the backbone b: "),
        "{tuned:?}"
    );
    assert_eq!(tuned.json_lines()[0]["head"]["backbone"], "b");
    assert_eq!(
        push("alone", "last", &[]).json_lines()[0]["head"]["backbone"],
        "default"
    );
    let chosen = push("chosen", "last", &["--backbone", "b"]);
    assert_eq!(chosen.json_lines()[0]["head"]["backbone"], "b");
    push("other", "last", &["--backbone", "c"]).failed(1, "there is no backbone `c`; this server has default, b");

    let address = ["--admin-address", &server.admin];
    let listed = Ran::of(&[&["head", "list"][..], &address].concat()).succeeded().stdout;
    assert!(listed.contains("backbone"), "{listed}");
    let described = Ran::of(&[&["describe", "--backbone", "b"][..], &address].concat())
        .succeeded()
        .stdout;
    assert!(described.contains("backbone  b (this one): "), "{described}");
    assert!(described.contains("backbone  default: "), "{described}");

    let picture = bench.dir.path().join("rocket.jpg");
    fs::write(&picture, ROCKET).unwrap();
    let picture = picture.display().to_string();
    let args = [
        "embed",
        "--address",
        &server.grpc,
        "--backbone",
        "b",
        "--kind",
        "gap",
        &picture,
    ];
    let line = Ran::of(&args).succeeded().json_lines().remove(0);
    let (_, digest) = embed(&server, on("b", EmbedKind::Gap)).await.unwrap();
    assert_eq!(line["backbone_digest"], digest);
}
