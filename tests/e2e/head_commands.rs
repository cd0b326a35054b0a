//! `headswap head get` and `head list`: labels, dates and totals.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::program::{Ran, headswap};
use crate::support::{Server, replace};

/// A server with heads of 2 and of 5 classes, of which the second has labels.
async fn server(dir: &std::path::Path) -> Server {
    let server = Server::start(dir, &[]);
    let mut admin = server.admin().await;
    admin.replace_head(replace("cats", 2, 1)).await.unwrap();
    let mut labelled = replace("dogs", 5, 2);
    labelled.labels = ["pug", "boxer", "collie", "beagle\n\u{1b}[31m", "husky"]
        .map(str::to_owned)
        .into();
    labelled.annotations = [("run".to_owned(), "42".to_owned())].into();
    admin.replace_head(labelled).await.unwrap();
    server
}

/// What follows a name in the first column.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim()
}

#[tokio::test]
async fn get_shows_labels_and_the_date_in_utc() {
    let dir = tempfile::tempdir().unwrap();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let server = server(dir.path()).await;
    let get = ["head", "get", "--admin-address", &server.admin, "dogs"];
    let plain = Ran::of(&get).succeeded().stdout;
    assert_eq!(field(&plain, "labels"), "5: pug, boxer, collie, …");
    assert_eq!(field(&plain, "run"), "42");
    assert!(!plain.contains("husky"), "{plain}");

    let json = Ran::of(&[&get[..], &["--json"]].concat())
        .succeeded()
        .json_lines()
        .remove(0);
    let head = &json["head"];
    assert_eq!(head["labels"][4], "husky");
    let created = head["created_unix_us"].as_u64().unwrap() / 1_000_000;
    assert!(created >= before);
    assert_eq!(field(&plain, "created"), head["created"].as_str().unwrap());
    let date = head["created"].as_str().unwrap();
    assert!(date.len() == 20 && date.ends_with('Z'), "{date}");
    // The machine's time zone and language change nothing.
    let elsewhere = headswap(&get)
        .env("TZ", "Asia/Kathmandu")
        .env("LC_ALL", "de_DE.UTF-8")
        .output();
    assert_eq!(Ran::from(elsewhere.unwrap()).succeeded().stdout, plain);

    let all = Ran::of(&[&get[..], &["--labels"]].concat()).succeeded().stdout;
    let rows: Vec<&str> = all.lines().skip_while(|line| !line.contains("class ")).collect();
    assert_eq!(rows.len(), 6, "{all}");
    assert!(rows[5].contains('4') && rows[5].contains("husky"), "{all}");
    assert!(all.contains("beagle\\n\\u{1b}[31m") && !all.contains('\x1b'), "{all}");
    let none = Ran::of(&["head", "get", "--admin-address", &server.admin, "cats", "--labels"]);
    assert_eq!(field(&none.succeeded().stdout, "labels"), "none");
}

#[tokio::test]
async fn list_ends_with_totals() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path()).await;
    let list = ["head", "list", "--admin-address", &server.admin];
    let json = Ran::of(&[&list[..], &["--json"]].concat())
        .succeeded()
        .json_lines()
        .remove(0);
    let heads = json["heads"].as_array().unwrap();
    let mut bytes = 0;
    for head in heads {
        bytes += head["resident_bytes"].as_u64().unwrap();
        assert!(head["created"].as_str().unwrap().starts_with("20"), "{head}");
    }
    assert_eq!((heads.len(), &json["total_heads"]), (3, &3.into()));
    assert_eq!(json["listed"]["resident_bytes"], bytes);
    // 2 and 5 classes of 129 numbers of 4 bytes.
    let two = Ran::of(&[&list[..], &["--prefix", "cat"]].concat()).succeeded().stdout;
    assert_eq!(two.lines().last(), Some("1 head, 1.0 kB"), "{two}");
    let limited = Ran::of(&[&list[..], &["--limit", "1"]].concat()).succeeded().stdout;
    assert_eq!(limited.lines().last(), Some("1 of 3 heads, 1.0 kB"), "{limited}");
    let zero = Ran::of(&[&list[..], &["--limit", "0"]].concat()).succeeded().stdout;
    assert_eq!(zero.lines().last(), Some("0 of 3 heads, 0 B"), "{zero}");

    let plain = Ran::of(&list).succeeded().stdout;
    assert!(plain.contains("created") && !plain.contains("pug"), "{plain}");
    let labels = Ran::of(&[&list[..], &["--labels"]].concat()).succeeded().stdout;
    assert!(labels.contains("5: pug, boxer, collie, …"), "{labels}");
}
