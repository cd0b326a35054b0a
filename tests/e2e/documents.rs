//! What the documents name exists.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn files(dir: &str, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(path.to_str().unwrap(), extensions));
        } else if path
            .extension()
            .is_some_and(|e| extensions.iter().any(|wanted| e == *wanted))
        {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

/// Every `--flag` and `HEADSWAP_*` variable that a document or manifest names is in the program's help, or
/// is the set-up's.
#[test]
fn documented_flags_exist() {
    let help = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_headswap"))
            .args(args)
            .arg("--help")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let commands: &[&[&str]] = &[
        &[],
        &["serve"],
        &["classify"],
        &["embed"],
        &["head", "replace"],
        &["head", "list"],
        &["head", "get"],
        &["describe"],
        &["weights", "inspect"],
        &["weights", "convert"],
        &["weights", "fetch"],
        &["bench", "forward"],
        &["bench", "image"],
        &["bench", "serve"],
        &["bench", "cache"],
        &["bench", "heads"],
        &["bench", "upload"],
        &["bench", "isolation"],
        &["demo"],
        &["completions"],
    ];
    let setup = fs::read_to_string("scripts/setup").unwrap();
    let known: String = commands.iter().map(|args| help(args)).chain([setup]).collect();
    let mut documents = vec![("README.md".into(), fs::read_to_string("README.md").unwrap())];
    documents.extend(files("deploy", &["md", "yaml"]));
    if Path::new("Dockerfile").exists() {
        documents.push(("Dockerfile".into(), fs::read_to_string("Dockerfile").unwrap()));
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut seen = 0;
    for (path, text) in documents {
        for line in text.lines() {
            // A flag is ours behind one of our sub-commands, up to the next program of a pipe.
            let ours = commands
                .iter()
                .filter_map(|command| Some(*line.split_once(&command_line(command)?)?.1.split('|').next().as_ref()?));
            let flags = ours
                .flat_map(|rest| rest.split(|c| !is_name(c)))
                .filter(|word| word.starts_with("--") && word.len() > 2);
            let variables = line.split(|c| !is_name(c)).filter(|word| word.starts_with("HEADSWAP_"));
            for word in flags.chain(variables) {
                assert!(
                    known.contains(word),
                    "{}: {word} is not in the help: {line}",
                    path.display()
                );
                seen += 1;
            }
        }
    }
    assert!(
        seen > 20,
        "only {seen} names were found: the documents are not read as meant"
    );
}

/// How a document writes a call of this sub-command.
fn command_line(command: &[&str]) -> Option<String> {
    Some(format!("headswap {} ", command.first()?))
}
