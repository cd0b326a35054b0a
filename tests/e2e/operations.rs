//! Metrics, probes and ports are as the documents and manifests say.

use std::collections::BTreeSet;
use std::fs;

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Server, classify, replace};

const DOCUMENTS: [&str; 5] = [
    "README.md",
    "docs/operating.md",
    "deploy/README.md",
    "deploy/base/deployment.yaml",
    "ARCHITECTURE.md",
];

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

#[tokio::test]
async fn documented_metrics_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.classifier().await;
    server.admin().await.replace_head(replace("cats", 2, 1)).await.unwrap();
    client.classify(classify(&["cats"])).await.unwrap();
    let refused = client.classify(classify(&["no-such-head"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);

    let (status, text) = server.get("/metrics");
    assert_eq!(status, 200);
    let mut documented = BTreeSet::new();
    for document in DOCUMENTS {
        let text = read(document);
        documented.extend(
            words(&text)
                .filter(|word| word.starts_with("headswap_"))
                .map(str::to_owned),
        );
    }
    let measured: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split([' ', '{']).next())
        .collect();
    for name in &documented {
        let histogram = format!("{name}_bucket");
        assert!(
            measured.contains(name.as_str()) || measured.contains(histogram.as_str()),
            "{name} is not in\n{text}"
        );
    }
    assert!(documented.len() > 10, "{documented:?}");
    // Every metric is documented.
    let operating = read("docs/operating.md");
    for name in measured {
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part))
            .unwrap_or(name);
        assert!(operating.contains(name), "docs/operating.md does not name {name}");
    }

    for (name, expected) in [
        ("requests_total{method=\"Classify\",code=\"Ok\"}", 1.0),
        ("requests_total{method=\"Classify\",code=\"NotFound\"}", 1.0),
        ("live_head_version{head=\"cats\"}", 1.0),
        ("swaps_total", 1.0),
        ("queue_wait_seconds_count", 1.0),
        ("batch_size_sum", 1.0),
        ("decode_seconds_count", 1.0),
        ("compute_seconds_count", 1.0),
        ("in_flight", 0.0),
        ("queue_length", 0.0),
        ("expired_executed_total", 0.0),
    ] {
        assert_eq!(server.metric(&format!("headswap_{name}")), expected, "{name}");
    }
}

/// Returns the value of `key` in a line of a YAML flow mapping such as `{ port: 1, service: a }`.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.split_once(&format!("{key}: "))?.1;
    rest.split([',', ' ', '}', '\n']).next()
}

#[tokio::test]
async fn deployed_probes_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let manifest = read("deploy/base/deployment.yaml");
    let (mut grpc, mut http) = (0, 0);
    for line in manifest.lines() {
        if let Some(service) = field(line, "service") {
            assert_eq!(field(line, "port"), Some("50051"), "{line}");
            let service = service.to_owned();
            let mut health = HealthClient::new(server.channel().await);
            let answer = health.check(HealthCheckRequest { service }).await.unwrap().into_inner();
            assert_eq!(answer.status, ServingStatus::Serving as i32, "{line}");
            grpc += 1;
        }
        let path = field(line, "path").or_else(|| line.trim().strip_prefix("prometheus.io/path: "));
        if let Some(path) = path {
            assert_eq!(server.get(path).0, 200, "{line}");
            http += 1;
        }
    }
    assert_eq!((grpc, http), (2, 2), "startup, readiness; liveness, metrics");
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(server.get(path).0, 200);
        assert!(read("README.md").contains(path));
    }
}

/// Each port has the same number in the defaults, the image, the manifests and the documents.
#[test]
fn ports_agree() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_headswap"))
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (image, manifest, services) = (
        read("Dockerfile"),
        read("deploy/base/deployment.yaml"),
        read("deploy/base/services.yaml"),
    );
    assert!(image.contains("EXPOSE 50051 50052 9090"));
    for (flag, name, port) in [
        ("LISTEN", "grpc", 50051),
        ("ADMIN_LISTEN", "admin", 50052),
        ("HTTP_LISTEN", "http", 9090),
    ] {
        assert!(help.contains(&format!("[default: 127.0.0.1:{port}]")), "{port}\n{help}");
        assert!(image.contains(&format!("HEADSWAP_{flag}=0.0.0.0:{port}")), "{flag}");
        assert!(manifest.contains(&format!("name: HEADSWAP_{flag}, value: \"0.0.0.0:{port}\"")));
        assert!(manifest.contains(&format!("name: {name}, containerPort: {port}")));
        assert!(
            name == "http" || services.contains(&format!("port: {port}")),
            "{services}"
        );
        assert!(read("README.md").contains(&port.to_string()));
    }
}
