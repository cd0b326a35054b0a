//! docs/coverage.md: each of its lines is run as it is printed, on the files of `tests/fixtures/coverage`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, HeadResult, ListHeadsRequest, ListHeadsResponse, OutputKind};
use serde::Deserialize;

use crate::support::fixture_heads::BACKBONE;
use crate::support::program::{Ran, headswap};
use crate::support::{Classifier, Server};

const PAGE: &str = "docs/coverage.md";
const FIXTURES: &str = "tests/fixtures/coverage";
const PICTURES: &str = "tests/fixtures/coverage/pictures";
const SECOND: &str = "second=tests/fixtures/coverage/second.pth";

/// What the page says.
struct Page {
    served: Vec<Line>,
    refused: Vec<Line>,
    /// The specs that commands name, by file.
    specs: BTreeMap<String, String>,
    /// The lines that the tables of the census refer to.
    named: BTreeSet<String>,
}

/// A line of a table: a command, and the error that it prints, if any.
#[derive(Debug)]
struct Line {
    fixture: String,
    command: String,
    error: Option<String>,
}

impl Page {
    fn read() -> Self {
        let text = fs::read_to_string(PAGE).unwrap();
        let mut page = Self {
            served: Vec::new(),
            refused: Vec::new(),
            specs: BTreeMap::new(),
            named: BTreeSet::new(),
        };
        for section in text.split("\n## ").skip(1) {
            match section.lines().next().unwrap() {
                "Combinations" => page.served = lines(section),
                "Refusals" => page.refused = lines(section),
                "Specs" => page.specs = specs(section),
                _ => page.named.extend(named(section)),
            }
        }
        page
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.served.iter().chain(&self.refused)
    }

    /// Fills a directory with the files of a line's fixture, as their owner has them, and the specs of the page.
    fn unpack(&self, line: &Line, folder: &Path) {
        for entry in fs::read_dir(fixture(&line.fixture)).unwrap() {
            let path = fs::canonicalize(entry.unwrap().path()).unwrap();
            symlink(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        for (file, spec) in &self.specs {
            fs::write(folder.join(file), spec).unwrap();
        }
    }

    /// Runs a line's command in a directory of its own, for the server of this admin address.
    fn run(&self, line: &Line, admin: &str) -> Ran {
        let mut words = line.command.split_whitespace();
        assert_eq!(words.next(), Some("headswap"), "{line:?}");
        let args: Vec<&str> = words.collect();
        let folder = tempfile::tempdir().unwrap();
        self.unpack(line, folder.path());
        let mut command = headswap(&args);
        command.current_dir(folder.path()).env("HEADSWAP_ADMIN_ADDRESS", admin);
        command.output().unwrap().into()
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(FIXTURES).join(name)
}

/// Returns the cells of each row of a section's tables, without their headings.
fn rows(section: &str) -> Vec<Vec<&str>> {
    let mut rows = Vec::new();
    let mut lines = section.lines().peekable();
    while let Some(line) = lines.next() {
        let is_heading = lines.peek().is_some_and(|next| next.starts_with("|---"));
        if let Some(cells) = line.strip_prefix("| ").filter(|_| !is_heading) {
            let cells = cells.strip_suffix(" |").unwrap_or_else(|| panic!("{line}"));
            rows.push(cells.split(" | ").collect());
        }
    }
    rows
}

/// Returns what a cell has between backticks; between two and spaces if it holds some.
fn code(cell: &str) -> String {
    let inner = |mark: &str, end: &str| cell.strip_prefix(mark)?.strip_suffix(end);
    let inner = inner("`` ", " ``").or_else(|| inner("`", "`"));
    inner.unwrap_or_else(|| panic!("{cell:?} is not code")).to_owned()
}

/// Returns a table's lines: the link to its fixture is the first cell, its command the second, and its error, if any, the last.
fn lines(section: &str) -> Vec<Line> {
    let mut found = Vec::new();
    for cells in rows(section) {
        let (name, link) = cells[0].split_once("](").unwrap_or_else(|| panic!("{cells:?}"));
        let fixture = link
            .strip_prefix("../tests/fixtures/coverage/")
            .and_then(|link| link.strip_suffix(')'));
        let fixture = fixture.unwrap_or_else(|| panic!("{cells:?}"));
        assert_eq!(name, format!("[{fixture}"), "{cells:?}");
        found.push(Line {
            fixture: fixture.to_owned(),
            command: code(cells[1]),
            error: section.starts_with("Refusals").then(|| code(cells[2])),
        });
    }
    found
}

/// Returns the blocks of JSON, each by the name of the file in the line before it.
fn specs(section: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in section.split("\n```json\n").skip(1).zip(section.split("\n```json\n")) {
        let (after, before) = part;
        let name = before.trim_end().rsplit('\n').next().unwrap();
        let name = name
            .split('`')
            .nth(1)
            .unwrap_or_else(|| panic!("{name:?} names no file"));
        let (json, _) = after.split_once("\n```").unwrap();
        found.insert(name.to_owned(), json.to_owned());
    }
    found
}

/// Returns the lines that the last column of a section's tables names.
fn named(section: &str) -> Vec<String> {
    let mut found = Vec::new();
    for cells in rows(section) {
        let names = cells.last().unwrap().split('`').skip(1).step_by(2);
        found.extend(names.map(str::to_owned));
    }
    found
}

/// What a framework answers.
#[derive(Deserialize)]
struct Expected {
    /// The largest difference of a logit, value or probability.
    tolerance: f32,
    labels: Vec<String>,
    pictures: BTreeMap<String, Answer>,
}

#[derive(Deserialize)]
struct Answer {
    logits: Vec<f32>,
    /// Probabilities, or values, by class.
    outputs: Vec<f32>,
}

impl Expected {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(fixture(name).join("expected.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Returns what is wrong with an answer, if anything.
    fn difference(&self, picture: &str, result: &HeadResult) -> Option<String> {
        let answer = &self.pictures[picture];
        if let Some(error) = &result.error {
            return Some(format!("{error:?}"));
        }
        if result.logits.len() != answer.logits.len() || result.predictions.len() != answer.outputs.len() {
            let (got, expected) = ((&result.logits, result.predictions.len()), &answer.logits);
            return Some(format!("logits {got:?} for {expected:?}"));
        }
        for (got, expected) in result.logits.iter().zip(&answer.logits) {
            if (got - expected).abs() >= self.tolerance {
                return Some(format!("logits {:?} for {:?}", result.logits, answer.logits));
            }
        }
        for prediction in &result.predictions {
            let index = prediction.index as usize;
            let got = match prediction.kind() {
                OutputKind::Linear => prediction.value,
                _ => prediction.probability,
            };
            if (got - answer.outputs[index]).abs() >= self.tolerance {
                return Some(format!("{:?} for {:?}", result.predictions, answer.outputs));
            }
            // Groups may share their labels.
            let label = self.labels.get(index % self.labels.len().max(1));
            if prediction.label != label.map_or("", String::as_str) {
                return Some(format!("{prediction:?} for the label {label:?}"));
            }
        }
        None
    }
}

async fn classify(client: &mut Classifier, picture: &str, head: &str) -> HeadResult {
    let image = fs::read(format!("{PICTURES}/{picture}")).unwrap();
    let request = ClassifyRequest {
        input: Some(Input::Image(image.into())),
        heads: vec![head.to_owned()],
        top_k: 10_000,
        include_logits: true,
        ..Default::default()
    };
    client.classify(request).await.unwrap().into_inner().results.remove(0)
}

/// Starts the server of the page.
fn start(folder: &Path) -> Server {
    Server::start_on_with(BACKBONE, &folder.join("heads"), &["--weights", SECOND])
}

#[tokio::test]
async fn each_combination_is_answered_as_its_framework_answers() {
    let page = Page::read();
    assert!(page.served.len() >= 40, "{}", page.served.len());
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let mut client = server.classifier().await;
    let mut wrong = Vec::new();
    for line in &page.served {
        let ran = page.run(line, &server.admin);
        if ran.code != Some(0) {
            wrong.push(format!("{}: {}", line.command, ran.stderr));
            continue;
        }
        let expected = Expected::read(&line.fixture);
        assert!(expected.pictures.len() >= 4, "{line:?}");
        let head = line.command.split_whitespace().nth(3).unwrap();
        for picture in expected.pictures.keys() {
            let result = classify(&mut client, picture, head).await;
            if let Some(difference) = expected.difference(picture, &result) {
                wrong.push(format!("{}: {picture}: {difference}", line.command));
            }
        }
    }
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
}

/// All that a refused command could change: the heads, the counted swaps, and the files of the store.
async fn state(server: &Server, folder: &Path) -> (ListHeadsResponse, f64, BTreeMap<PathBuf, u64>) {
    let listed = server.admin().await.list_heads(ListHeadsRequest::default()).await;
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.join("heads")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                files.insert(entry.path(), metadata.len());
            }
        }
    }
    (
        listed.unwrap().into_inner(),
        server.metric("headswap_swaps_total"),
        files,
    )
}

#[tokio::test]
async fn each_refusal_is_as_printed_and_changes_nothing() {
    let page = Page::read();
    assert!(page.refused.len() >= 10, "{}", page.refused.len());
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let before = state(&server, dir.path()).await;
    let mut wrong = Vec::new();
    for line in &page.refused {
        let ran = page.run(line, &server.admin);
        let expected = format!("headswap: {}\n", line.error.as_ref().unwrap());
        if (ran.code, ran.stdout.as_str()) != (Some(1), "") || ran.stderr != expected {
            wrong.push(format!("{}: {ran:?}", line.command));
        }
    }
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
    assert_eq!(
        state(&server, dir.path()).await,
        before,
        "a refused head changed something"
    );
}

#[test]
fn the_page_and_the_fixtures_name_the_same() {
    let page = Page::read();
    let of_lines: BTreeSet<String> = page.lines().map(|line| line.fixture.clone()).collect();
    let mut folders = BTreeSet::new();
    for entry in fs::read_dir(FIXTURES).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() && entry.file_name() != "pictures" {
            folders.insert(entry.file_name().into_string().unwrap());
        }
    }
    assert_eq!(
        of_lines, folders,
        "the lines of {PAGE} and the directories of {FIXTURES}"
    );
    let unknown: Vec<_> = page.named.difference(&of_lines).collect();
    assert!(
        unknown.is_empty(),
        "{PAGE} refers to lines that it has not: {unknown:?}"
    );
    let unnamed: Vec<_> = of_lines.difference(&page.named).collect();
    assert!(
        unnamed.is_empty(),
        "no table of the census refers to the lines {unnamed:?}"
    );
    for file in page.specs.keys() {
        let is_given = |line: &Line| line.command.split_whitespace().any(|word| word == file);
        assert!(page.lines().any(is_given), "no command names {file}");
    }
}
