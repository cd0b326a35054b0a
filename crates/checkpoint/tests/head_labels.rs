//! Classes and labels fit the rows, or are refused with the numbers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;

use head_fixture::{FEATURES, File, refused, spec};

fn head(rows: usize) -> File {
    File::new().linear("fc", rows, FEATURES)
}

fn check(rows: usize, keys: &str, labels: &[&str]) {
    let head = head(rows).read(Some(&spec(keys))).unwrap();
    assert_eq!(head.labels, labels, "{keys}");
    assert_eq!(head.rows, rows);
}

#[test]
fn the_labels_of_the_spec_fit() {
    check(2, r#""labels": ["a", "b"]"#, &["a", "b"]);
    check(1000, r#""labels": ["a", "b"], "classes": 2"#, &["a", "b"]);
    check(1, r#""output": "sigmoid", "labels": ["yes"]"#, &["yes"]);
    check(1, r#""output": "sigmoid", "labels": ["no", "yes"]"#, &["no", "yes"]);
    check(4, r#""output": {"groups": 2}, "labels": ["a", "b"]"#, &["a", "b"]);
    check(
        4,
        r#""output": {"groups": 2}, "labels": ["a", "b", "c", "d"]"#,
        &["a", "b", "c", "d"],
    );
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    refused(&head(7), Some(r#""labels": ["a", "b"]"#), &["2 labels and 7 classes"]);
    refused(&head(2), Some(r#""labels": ["a"]"#), &["1 labels and 2 classes"]);
    let one = r#""output": "linear", "labels": ["a", "b"]"#;
    refused(&head(1), Some(one), &["2 labels and 1 classes"]);
    refused(&head(7), Some(r#""classes": 8"#), &["8 and the last Linear has 7 rows"]);
    refused(
        &head(7),
        Some(r#""output": {"groups": 2}"#),
        &["7 classes are not 2 groups"],
    );
}

#[test]
fn a_softmax_over_one_output_is_refused() {
    let reason = "a softmax over one output is 1 for every picture";
    refused(&head(1), Some(r#""output": "softmax""#), &[reason]);
    refused(&head(3), Some(r#""output": {"groups": 3}"#), &[reason]);
    for output in [r#""output": "sigmoid""#, r#""output": "linear""#] {
        head(1).read(Some(&spec(output))).unwrap();
    }
    // Nothing says what it means; the server then refuses it.
    assert_eq!(head(1).read(None).unwrap().output, None);
}

#[test]
fn the_labels_of_safetensors_count_unless_the_spec_has_some() {
    let labelled = head(2).metadata("labels", r#"["x", "y"]"#);
    assert_eq!(labelled.read(None).unwrap().labels, ["x", "y"]);
    let spec = spec(r#""labels": ["a", "b"]"#);
    assert_eq!(labelled.read(Some(&spec)).unwrap().labels, ["a", "b"]);
    refused(
        &head(2).metadata("labels", r#"["x"]"#),
        None,
        &["1 labels and 2 classes"],
    );
    let long = format!("[\"x\", \"{}\"]", "y".repeat(4097));
    refused(
        &head(2).metadata("labels", &long),
        None,
        &["a label has 4097 bytes; the limit is 4096"],
    );
}
