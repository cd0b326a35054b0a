//! `headswap bench`: a running server measured with the user's pictures, and tables that explain themselves.

use headswap_proto::DescribeModelRequest;

use crate::support::program::Ran;
use crate::support::{Server, replace};

/// 50 rows a second at most: the null backend sleeps for each.
const SLOW: [&str; 6] = ["--backend", "null", "--null-row-us", "20000", "--max-batch", "1"];

#[tokio::test]
async fn an_open_loop_counts_from_the_intended_start() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &SLOW);
    let bench = |arrivals: &str| {
        let args = [
            "bench",
            "serve",
            "--address",
            &server.grpc,
            "--pixels",
            "--rate",
            "200",
            "--seconds",
            "0.5",
            "--json",
            "--arrivals",
            arrivals,
        ];
        let lines = Ran::of(&args).succeeded().json_lines();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["machine"]["server"], server.grpc);
        lines[1].clone()
    };
    let measured = bench("uniform");
    assert_eq!((&measured["sent"], &measured["answered"]), (&100.into(), &100.into()));
    assert_eq!(measured["failed"], serde_json::json!({}));
    // 100 rows take 2 s at least, of which the last request, due within 0.5 s, waits for 1.5 s: however late it is sent.
    let ms = |name: &str| measured[name].as_f64().unwrap();
    assert!(ms("max_ms") >= 1500.0, "{measured}");
    let quantiles = ["p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"].map(ms);
    assert!(quantiles.is_sorted(), "{measured}");
    assert!(ms("achieved_per_second") <= 50.0, "{measured}");
    assert!(measured["late"].as_u64().unwrap() <= 100);
    let sent = [bench("poisson"), bench("poisson")].map(|measured| measured["sent"].clone());
    assert_eq!(sent[0], sent[1], "the same seed gives the same times");
}

#[tokio::test]
async fn an_open_loop_counts_failures_by_code() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[&SLOW[..], &["--in-flight-max", "4"]].concat());
    let args = [
        "bench",
        "serve",
        "--address",
        &server.grpc,
        "--pixels",
        "--rate",
        "200",
        "--seconds",
        "0.5",
    ];
    let lines = Ran::of(&[&args[..], &["--json"]].concat());
    let measured = &lines.json_lines()[1];
    let failed = measured["failed"]["ResourceExhausted"].as_u64().unwrap();
    assert!(failed > 0, "{measured}");
    assert_eq!(
        measured["sent"].as_u64().unwrap(),
        measured["answered"].as_u64().unwrap() + failed
    );
    // What the first failure says is a note; the failures are results.
    assert_eq!(
        (lines.code, lines.stderr.lines().count()),
        (Some(0), 1),
        "{}",
        lines.stderr
    );
    let table = Ran::of(&args);
    assert!(table.stdout.contains("(ResourceExhausted "), "{}", table.stdout);
}

/// Every heading of the table is explained below it, then comes the machine.
fn check_legend(stdout: &str, headings: &[&str]) {
    let lines: Vec<&str> = stdout.lines().collect();
    for heading in headings {
        let explained = lines.iter().filter(|line| {
            let rest = line.strip_prefix("  ").and_then(|line| line.strip_prefix(heading));
            rest.is_some_and(|meaning| meaning.starts_with("  ") && meaning.trim().len() > 5)
        });
        assert_eq!(explained.count(), 1, "{heading} in\n{stdout}");
    }
    let machine = lines.last().unwrap();
    assert!(machine.contains(", cores: "), "{stdout}");
}

#[tokio::test]
async fn a_running_server_is_measured_with_the_users_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    server.admin().await.replace_head(replace("cats", 2, 1)).await.unwrap();
    let args = [
        "bench",
        "serve",
        "--address",
        &server.grpc,
        "--admin-address",
        &server.admin,
        "--images",
        "images",
        "--head",
        "cats",
        "--concurrency",
        "1,3",
        "--seconds",
        "0.05",
        "--repetitions",
        "2",
    ];
    let table = Ran::of(&args).succeeded().stdout;
    check_legend(
        &table,
        &["clients", "requests", "images/s", "p50", "p90", "p99", "max", "failed"],
    );
    let model = server
        .admin()
        .await
        .describe_model(DescribeModelRequest::default())
        .await
        .unwrap();
    let facts = format!("device: cpu, precision: {}", model.into_inner().precision);
    assert!(
        table.contains(&format!("server: {}, asked from ", server.grpc)) && table.contains(&facts),
        "{table}"
    );

    let lines = Ran::of(&[&args[..], &["--json"]].concat()).succeeded().json_lines();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[1]["clients"], &lines[2]["clients"]), (&1.into(), &3.into()));
    let mut requests = 0;
    for line in &lines[1..] {
        assert_eq!(line["failed"], serde_json::json!({}));
        requests += line["requests"].as_u64().unwrap();
    }
    let (_, metrics) = server.get("/metrics");
    let served = "headswap_requests_total{method=\"Classify\",code=\"Ok\"} ";
    let served = metrics.lines().find_map(|line| line.strip_prefix(served)).unwrap();
    // Those of the table before, and one of each call that tries the head.
    assert!(served.parse::<u64>().unwrap() > requests);

    let unknown = ["bench", "serve", "--address", &server.grpc, "--head", "dogs"];
    Ran::of(&unknown).failed(1, "NotFound: there is no head `dogs`");
    let missing = ["bench", "serve", "--address", &server.grpc, "--images", "missing.jpg"];
    Ran::of(&missing).failed(1, "cannot read missing.jpg");
    let gone = server.grpc.clone();
    drop(server);
    Ran::of(&["bench", "serve", "--address", &gone]).failed(3, "no server answers at");
}

#[test]
fn tables_explain_their_columns_and_name_the_machine() {
    let args = ["bench", "image", "--seconds", "0.01", "images/rocket.jpg"];
    let table = Ran::of(&args).succeeded().stdout;
    check_legend(&table, &["picture", "ms", "images/s", "mean", "p99", "max"]);
    let machine = table.lines().last().unwrap();
    assert!(
        machine.starts_with("machine: ")
            && machine.contains(", instruction set: ")
            && machine.ends_with(", threads: 1"),
        "{machine}"
    );
    let lines = Ran::of(&[&args[..], &["--json"]].concat()).succeeded().json_lines();
    assert_eq!(lines.len(), 2);
    for fact in [
        "cpu",
        "cores",
        "instruction_set",
        "backend",
        "device",
        "precision",
        "threads",
        "server",
    ] {
        assert!(lines[0]["machine"].get(fact).is_some(), "{fact} in {}", lines[0]);
    }
    assert_eq!(lines[1]["image"], "images/rocket.jpg");
}

/// Returns the lines of a part of `bench architectures`.
fn part<'a>(lines: &'a [serde_json::Value], name: &str) -> Vec<&'a serde_json::Value> {
    lines.iter().filter(|line| line["part"] == name).collect()
}

#[test]
fn architectures_sizes_and_preprocessings_are_measured() {
    let args = [
        "bench",
        "architectures",
        "--arch",
        "vgg16-narrow",
        "--heads",
        "10",
        "--images",
        "2",
        "--sides",
        "64,320",
        "--batch",
        "2",
        "--concurrency",
        "8",
        "--seconds",
        "0.05",
        "--repetitions",
        "2",
    ];
    let lines = Ran::of(&[&args[..], &["--json"]].concat()).succeeded().json_lines();
    let heads = part(&lines, "heads");
    for measured in heads[0]["measured"].as_array().unwrap() {
        assert!(measured["images_per_second"].as_f64().unwrap() > 0.0, "{measured}");
        assert_eq!((&measured["failed"], &measured["wrong"]), (&0.into(), &0.into()));
    }
    assert_eq!(heads[0]["measured"][1]["heads"], "five, mixed");
    assert!(heads[0]["tensor_bytes"].as_u64().unwrap() > 0);

    let sizes = part(&lines, "sizes");
    let sides: Vec<u64> = sizes.iter().map(|line| line["side"].as_u64().unwrap()).collect();
    assert_eq!(sides, [224, 64, 320]);
    assert_eq!(
        (&sizes[0]["a_pixel"], &sizes[0]["average_a_pixel"]),
        (&1.0.into(), &1.0.into())
    );

    let preprocessings = part(&lines, "preprocessings");
    assert_eq!(preprocessings[0]["wrong"], 0);
    let second = preprocessings[0]["second_round"].as_array().unwrap();
    assert_eq!(second.len(), 5);
    for one in second {
        assert_eq!(
            (&one["pictures"], &one["hits"], &one["wrong"]),
            (&2.into(), &2.into(), &0.into())
        );
    }

    for (part, headings) in [
        ("heads", &["heads", "images/s", "of one", "p99", "failed", "wrong"][..]),
        (
            "sizes",
            &["side", "features", "a pixel", "average", "a pixel of average", "tiles"],
        ),
    ] {
        check_legend(
            &Ran::of(&[&args[..], &["--parts", part]].concat()).succeeded().stdout,
            headings,
        );
    }
}
