//! The page on head specs agrees with the crate.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use headswap_spec::{HeadSpec, Preprocessing, Preset};

const PAGE: &str = include_str!("../../../docs/head-specs.md");

#[test]
fn every_spec_on_the_page_is_one() {
    let mut count = 0;
    for block in PAGE.split("```json\n").skip(1) {
        let (json, _) = block.split_once("```").unwrap();
        let read = HeadSpec::from_json(json);
        assert!(read.is_ok(), "{}: {json}", read.unwrap_err());
        count += 1;
    }
    assert!(count > 8, "{count}");
}

/// The numbers of a row of the page's table of presets.
fn numbers(cell: &str) -> Vec<f32> {
    let number = |text: &str| match text.trim() {
        "1/255" => 1.0 / 255.0,
        other => other.parse().unwrap(),
    };
    cell.split(',').map(number).collect()
}

#[test]
fn the_table_of_presets_has_their_numbers() {
    let (_, table) = PAGE.split_once("| preset | resize |").unwrap();
    let mut count = 0;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, resize, filter, crop, channels, scale, mean, std] = cells[..] else {
            panic!("{row}");
        };
        let name = name.trim_matches('`');
        let preset = Preprocessing::from_json(&format!(r#"{{"preset": "{name}"}}"#)).unwrap();
        let resize = match resize.strip_prefix("stretch ") {
            Some(sides) => format!(r#"{{"stretch": [{sides}]}}"#),
            None => format!(r#"{{"short_side": {}}}"#, resize.strip_prefix("short side ").unwrap()),
        };
        let crop = if crop.is_empty() {
            "null".into()
        } else {
            format!("[{crop}]")
        };
        let written = format!(
            r#"{{"resize": {resize}, "filter": "{filter}", "crop": {crop}, "channels": "{channels}", "scale": {},
                 "mean": {:?}, "std": {:?}}}"#,
            numbers(scale)[0],
            numbers(mean),
            numbers(std)
        );
        assert_eq!(Preprocessing::from_json(&written).unwrap(), preset, "{name}");
        count += 1;
    }
    assert_eq!(count, Preset::ALL.len());
}
