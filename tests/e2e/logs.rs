//! Logs as operators and machines read them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use headswap_model::{demo_head, demo_parameters};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::support::{NARROW, Server, classify, replace, safetensors};

/// An object whose keys are all different.
struct Unique(BTreeSet<String>);

impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Unique;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Unique, M::Error> {
                let mut keys = BTreeSet::new();
                while let Some((key, _)) = map.next_entry::<String, Value>()? {
                    assert!(keys.insert(key.clone()), "{key} is there twice");
                }
                Ok(Unique(keys))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// The events of a log, each of which keeps the schema.
fn events(log: &str) -> Vec<Value> {
    let mut events = Vec::new();
    for line in log.lines() {
        let keys: Unique = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "message", "target"] {
            assert!(keys.0.contains(key), "{key} is missing: {line}");
        }
        events.push(serde_json::from_str(line).unwrap());
    }
    events
}

fn find<'a>(events: &'a [Value], message: &str) -> &'a Value {
    let found = events.iter().find(|event| event["message"] == message);
    found.unwrap_or_else(|| panic!("no {message:?} in {events:#?}"))
}

#[tokio::test]
async fn json_logs_name_the_request_its_head_and_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let server = Server::start_logging(&log, dir.path(), &["--log-format", "json", "--log", "debug"]);
    let mut client = server.classifier().await;
    let mut request = classify(&["default"]);
    request.request_id = "first".into();
    client.classify(request.clone()).await.unwrap();
    request.request_id = "second".into();
    request.heads = vec!["no-such-head".into()];
    client.classify(request).await.unwrap_err();
    server
        .admin()
        .await
        .replace_head(replace("Wrong Name", 2, 1))
        .await
        .unwrap_err();
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());

    let events = events(&fs::read_to_string(&log).unwrap());
    let answered = find(&events, "request answered");
    assert_eq!(
        (
            &answered["method"],
            &answered["request_id"],
            &answered["head"],
            &answered["level"]
        ),
        (&"Classify".into(), &"first".into(), &"default".into(), &"DEBUG".into())
    );
    assert!(answered["elapsed_us"].is_u64() && answered["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let refused: Vec<&Value> = events
        .iter()
        .filter(|event| event["message"] == "request refused")
        .collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_eq!(
        (&refused[0]["request_id"], &refused[0]["code"]),
        (&"second".into(), &"NotFound".into())
    );
    assert!(refused[0]["reason"].as_str().unwrap().contains("no-such-head"));
    assert_eq!(
        (&refused[1]["method"], &refused[1]["head"]),
        (&"ReplaceHead".into(), &"Wrong Name".into())
    );
    assert!(
        find(&events, "starting")["settings"]
            .as_str()
            .unwrap()
            .contains("--log-format json")
    );
    let opened = find(&events, "backend opened");
    assert_eq!(
        (&opened["backend"], &opened["precision"]),
        (&"native".into(), &"f32".into())
    );
    assert!(
        opened["threads"].is_u64() && opened["instruction_set"].is_string(),
        "{opened}"
    );
    assert!(find(&events, "ready")["max_batch"].is_u64());
}

fn serve(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headswap"));
    command.args(["serve", "--heads-dir"]).arg(dir).args(args);
    for listen in ["--listen", "--admin-listen", "--http-listen"] {
        command.args([listen, "127.0.0.1:0"]);
    }
    command.envs(variables.iter().copied());
    command.output().unwrap()
}

#[test]
fn a_failed_start_is_an_event_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let failed = serve(
        dir.path(),
        &[
            "--log-format",
            "json",
            "--weights",
            "/no/such.pth",
            "--in-flight-max",
            "0",
        ],
        &[
            ("HEADSWAP_LISTENS", "1"),
            ("HEADSWAP_ENGINE", "native"),
            ("HEADSWAP_PORT", "tcp://10.0.0.1:80"),
        ],
    );
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.stdout.is_empty());
    let events = events(&String::from_utf8(failed.stderr).unwrap());
    let failure = find(&events, "the server failed");
    assert_eq!(failure["level"], "ERROR");
    assert_eq!(failure["error"], "--in-flight-max must be at least 1");
    let warned: Vec<&Value> = events.iter().filter(|event| event["level"] == "WARN").collect();
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert!(warned.iter().any(|event| event["variable"] == "HEADSWAP_LISTENS"));
    let renamed = warned
        .iter()
        .find(|event| event["variable"] == "HEADSWAP_ENGINE")
        .unwrap();
    assert!(renamed["message"].as_str().unwrap().contains("HEADSWAP_BACKEND"));
}

/// Trained weights of 1000 classes have ImageNet's labels, whatever last Linear stands on the same features shares heads.
#[tokio::test]
async fn trained_weights_have_labels_and_share_heads_by_their_features() {
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("vgg16.safetensors");
    let mut parameters = demo_parameters(NARROW);
    fs::write(&weights, safetensors(&parameters, &[])).unwrap();
    let heads = dir.path().join("heads");
    let server = Server::start_on(weights.to_str().unwrap(), &heads);
    let answer = server
        .classifier()
        .await
        .classify(classify(&["default"]))
        .await
        .unwrap()
        .into_inner();
    let best = &answer.results[0].predictions[0];
    assert_eq!(best.label, headswap_spec::imagenet_labels()[best.index as usize]);
    server.admin().await.replace_head(replace("cats", 2, 1)).await.unwrap();
    drop(server);

    parameters.extend(demo_head(NARROW, 7, 9));
    fs::write(&weights, safetensors(&parameters, &[])).unwrap();
    let server = Server::start_on(weights.to_str().unwrap(), &heads);
    let answer = server
        .classifier()
        .await
        .classify(classify(&["cats", "default"]))
        .await
        .unwrap()
        .into_inner();
    assert!(answer.results.iter().all(|result| result.error.is_none()), "{answer:?}");
    assert!(answer.results[1].predictions[0].label.is_empty());
}
