//! The documents agree with the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args as _;

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

/// Every `--flag` and `HEADSWAP_*` variable in a document or manifest is in the program's help or in `scripts/setup`.
#[test]
fn documented_flags_exist() {
    let commands: &[&[&str]] = &[
        &[],
        &["serve"],
        &["classify"],
        &["embed"],
        &["head", "replace"],
        &["head", "list"],
        &["head", "get"],
        &["head", "inspect"],
        &["head", "doctor"],
        &["head", "convert"],
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
    let mut known = setup;
    for args in commands {
        known.push_str(&help(args));
    }
    let mut documents = vec![("README.md".into(), fs::read_to_string("README.md").unwrap())];
    documents.extend(files("deploy", &["md", "yaml"]));
    documents.extend(files("docs", &["md"]));
    if Path::new("Dockerfile").exists() {
        documents.push(("Dockerfile".into(), fs::read_to_string("Dockerfile").unwrap()));
    }
    let mut seen = 0;
    for (path, text) in documents {
        for line in text.lines() {
            // Flags behind one of the sub-commands are checked, up to the next program of a pipe.
            let arguments = commands
                .iter()
                .filter_map(|command| Some(*line.split_once(&command_line(command)?)?.1.split('|').next().as_ref()?));
            let flags = arguments
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
        "only {seen} names were found; the test no longer reads the documents correctly"
    );
}

fn help(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_headswap"))
        .args(args)
        .arg("--help")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Returns true for the characters of flags and variables.
fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// Returns the beginning of this sub-command's command lines.
fn command_line(command: &[&str]) -> Option<String> {
    Some(format!("headswap {} ", command.first()?))
}

const CONFIGURATION: &str = "docs/configuration.md";

/// `docs/configuration.md` is generated from the help of the flags. WRITE_DOCS=1 writes it; without, it must be up to date.
#[test]
fn the_configuration_reference_is_up_to_date() {
    let generated = configuration_reference();
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(CONFIGURATION, &generated).unwrap();
    }
    let written = fs::read_to_string(CONFIGURATION).unwrap();
    assert!(
        written == generated,
        "{CONFIGURATION} is out of date; run: WRITE_DOCS=1 cargo test --no-default-features --test e2e configuration_reference"
    );
}

fn configuration_reference() -> String {
    let mut text = String::from(
        "# Configuration of `headswap serve`\n\n\
         Generated from `headswap serve --help`; do not edit. A flag overrides its variable, and a variable overrides the \
         default. At start, the server logs the settings that flags or variables set, and warns of `HEADSWAP_*` variables \
         that are not settings.\n",
    );
    let command = headswap_server::ServeArgs::augment_args(clap::Command::new("serve"));
    let mut heading = None;
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let own = argument.get_help_heading().unwrap_or("Addresses");
        if heading != Some(own.to_owned()) {
            heading = Some(own.to_owned());
            text.push_str(&format!(
                "\n## {own}\n\n| flag | variable | default | meaning |\n|---|---|---|---|\n"
            ));
        }
        let defaults: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        let mut meaning = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let values = argument.get_possible_values();
        let takes_value = argument.get_action().takes_values();
        if takes_value && !values.is_empty() {
            for value in values.iter().filter(|value| !value.is_hide_set()) {
                let help = value.get_help().map(ToString::to_string).unwrap_or_default();
                meaning.push_str(&format!("<br>`{}`: {help}", value.get_name()));
            }
        }
        text.push_str(&format!(
            "| `--{}` | `{}` | {} | {} |\n",
            argument.get_long().unwrap_or_default(),
            argument.get_env().unwrap_or_default().to_string_lossy(),
            if defaults.is_empty() || !takes_value {
                String::new()
            } else {
                format!("`{}`", defaults.join(","))
            },
            meaning.replace('|', "\\|"),
        ));
    }
    text
}

/// The manifests take the images of this version.
#[test]
fn the_manifests_name_this_version() {
    let mut tags = 0;
    for (path, text) in files("deploy", &["yaml"]) {
        for (_, tag) in text.lines().filter_map(|line| line.split_once("newTag: ")) {
            let version = tag.split([' ', '-']).next().unwrap();
            assert_eq!(version, env!("CARGO_PKG_VERSION"), "{}", path.display());
            tags += 1;
        }
    }
    assert!(tags >= 2, "{tags}");
}

/// The tests that the invariants of ARCHITECTURE.md name are there.
#[test]
fn the_tests_of_the_invariants_exist() {
    let text = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let (_, after) = text.split_once("## Invariants").unwrap();
    let (invariants, _) = after.split_once("\n## ").unwrap();
    let mut sources = String::new();
    for dir in ["crates", "tests/e2e", "fuzz/src"] {
        for (_, source) in files(dir, &["rs"]) {
            sources.push_str(&source);
        }
    }
    let mut named = 0;
    for name in invariants.split('`').skip(1).step_by(2) {
        if name.contains('_')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && !name.starts_with("headswap_")
        {
            assert!(sources.contains(&format!("fn {name}(")), "there is no test {name}");
            named += 1;
        }
    }
    assert!(named >= 12, "{named}");
}
