//! `headswap weights fetch`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use headswap_checkpoint::Checkpoint;
use headswap_client::ClientError;

use super::download::{Retries, download};
use super::partial::{Partial, sha256};
use super::{Fit, arch_name};
use crate::commands::error::CliError;
use crate::commands::new_file::NewFile;
use crate::commands::output::{byte_progress, note, print_line};

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap weights fetch                                    torchvision's VGG16, 553 MB
  headswap weights fetch --mirror https://mirror.internal/pytorch/
  headswap weights fetch --url https://example.com/cats.pth --sha256 5b3c... --output cats.pth";

/// torchvision's VGG16_Weights.IMAGENET1K_V1. The name carries the first digits of its SHA-256.
const FILE: &str = "vgg16-397923af.pth";
/// ImageNet-1k's classes, one on a line; `assets/README.md` says whence.
const LABELS: &str = include_str!("../../../assets/imagenet1k_labels.txt");
const LABELS_COUNT: usize = 1000;

/// Fetches a file of weights, resumes an interrupted download, and checks the SHA-256 of the whole.
#[derive(Args, Debug)]
pub(crate) struct FetchArgs {
    /// Where the file is, instead of torchvision's VGG16
    #[arg(long)]
    url: Option<String>,
    /// URL of the directory that has torchvision's VGG16
    #[arg(
        long,
        env = "HEADSWAP_WEIGHTS_MIRROR",
        default_value = "https://download.pytorch.org/models/",
        value_name = "URL"
    )]
    mirror: String,
    /// The file's SHA-256; by default, its first digits are taken from a name such as vgg16-397923af.pth
    #[arg(long, value_name = "HEX", value_parser = hex)]
    sha256: Option<String>,
    /// Where to put it [default: headswap/weights in the user's cache directory]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Consecutive retries without new data before giving up
    #[arg(long, default_value_t = 5, value_name = "N")]
    retries: u32,
    /// Wait before trying again, in milliseconds; doubles each time
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    retry_delay_ms: u64,
}

pub(super) fn run(args: &FetchArgs) -> Result<(), CliError> {
    let url = match &args.url {
        Some(url) => url.clone(),
        None => format!("{}/{FILE}", args.mirror.trim_end_matches('/')),
    };
    let name = file_name(&url);
    let expected = args.sha256.clone().or_else(|| sha256_in_name(name));
    let output = args.output.clone().or_else(|| Some(cache_folder()?.join(name)));
    let output = output.filter(|output| output.file_name().is_some() && !name.is_empty());
    let output =
        output.ok_or_else(|| CliError::Failed(format!("{url} names no file; say where to put it with --output")))?;
    if output.exists() {
        check_existing(&output, expected.as_deref())?;
    } else {
        fetch(args, &url, &output, expected.as_deref())?;
    }
    present(&output)
}

fn fetch(args: &FetchArgs, url: &str, output: &Path, expected: Option<&str>) -> Result<(), CliError> {
    if let Some(folder) = output.parent() {
        fs::create_dir_all(folder).map_err(|error| cannot_write(output, &error))?;
    }
    let mut partial = Partial::open(output).map_err(|error| cannot_write(output, &error))?;
    let retries = Retries {
        max: args.retries,
        delay: Duration::from_millis(args.retry_delay_ms),
    };
    let bar = byte_progress(0, "fetching");
    let fetched = download(url, &mut partial, retries, &bar);
    bar.finish_and_clear();
    if let Err(error) = fetched {
        if partial.length() == 0 {
            partial.remove().map_err(|error| cannot_write(output, &error))?;
        }
        return Err(CliError::Failed(error.to_string()));
    }
    let actual = partial.sha256().map_err(|error| cannot_write(output, &error))?;
    if expected.is_some_and(|expected| !actual.starts_with(expected)) {
        partial.remove().map_err(|error| cannot_write(output, &error))?;
        return Err(CliError::Failed(format!(
            "the file from {url} has the SHA-256 {actual}, {} is expected; it was removed: try again, or give another --mirror",
            expected.unwrap_or_default()
        )));
    }
    if expected.is_none() {
        note(format_args!(
            "its SHA-256 is {actual}; it was not checked: neither --sha256 nor the file's name gives one"
        ));
    }
    partial.finish(output).map_err(|error| cannot_write(output, &error))
}

/// A file that is there already is not touched; that it is the right one can only be known by its SHA-256.
fn check_existing(output: &Path, expected: Option<&str>) -> Result<(), CliError> {
    let path = output.display();
    let Some(expected) = expected else {
        return Err(CliError::Failed(format!(
            "{path} exists already; give its --sha256, another --output, or remove it"
        )));
    };
    let actual = File::open(output).and_then(|mut file| sha256(&mut file));
    let actual = actual.map_err(|error| ClientError::unreadable(output, error))?;
    if actual.starts_with(expected) {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{path} exists already and has the SHA-256 {actual}, {expected} is expected; remove it or give another --output"
    )))
}

/// Says where the file is and what to do with it; puts ImageNet's labels beside a backbone of as many classes.
fn present(output: &Path) -> Result<(), CliError> {
    print_line(output.display())?;
    let checkpoint = match Checkpoint::open(output) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            note(format_args!("it cannot be served: {error}"));
            return Ok(());
        }
    };
    let (arch, classes) = match Fit::of(&checkpoint) {
        Ok(Fit::Backbone(arch, classes)) => (arch_name(arch), classes),
        Ok(Fit::Head(..)) => {
            return print_line(format_args!(
                "\nMake it live with:\n  headswap head replace NAME {}",
                quoted(output)
            ));
        }
        Err(misfit) => {
            note(format_args!("it cannot be served: {misfit}"));
            return Ok(());
        }
    };
    let mut line = format!("headswap serve --weights {}", quoted(output));
    if arch != "vgg16" {
        line = format!("{line} --arch {arch}");
    }
    if classes == LABELS_COUNT {
        let path = output.with_extension("labels.txt");
        write_labels(&path).map_err(|error| cannot_write(&path, &error))?;
        print_line(path.display())?;
        line = format!("{line} --labels {}", quoted(&path));
    }
    print_line(format_args!("\nServe it with:\n  {line}"))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> CliError {
    CliError::Failed(format!("cannot write {}: {error}", path.display()))
}

fn write_labels(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut file = NewFile::create(path)?;
    file.write_all(LABELS.as_bytes())?;
    file.finish()
}

/// What follows the last slash of a URL's path.
fn file_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.rsplit_once('/').map_or("", |(_, name)| name);
    if matches!(name, "." | "..") { "" } else { name }
}

/// As torch.hub has it: `name-0123abcd.pth`, with 8 digits or more.
fn sha256_in_name(name: &str) -> Option<String> {
    let (stem, _) = name.split_once('.')?;
    let (_, digits) = stem.rsplit_once('-')?;
    let fits = (8..=64).contains(&digits.len()) && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    fits.then(|| digits.to_owned())
}

fn hex(text: &str) -> Result<String, String> {
    let fits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then(|| text.to_ascii_lowercase())
        .ok_or_else(|| "64 hexadecimal digits are expected".to_owned())
}

/// As the XDG Base Directory Specification has it.
fn cache_folder() -> Option<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => std::env::home_dir()?.join(".cache"),
    };
    Some(cache.join("headswap/weights"))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_alphanumeric() || "/._-+=:@%".contains(c)) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_checksums_come_from_urls() {
        for (url, name, digits) in [
            (
                "https://a.b/models/vgg16-397923af.pth",
                "vgg16-397923af.pth",
                Some("397923af"),
            ),
            (
                "https://a.b/x-0123456789.tar.gz?y=/z#/w",
                "x-0123456789.tar.gz",
                Some("0123456789"),
            ),
            ("https://a.b/vgg16-397923a.pth", "vgg16-397923a.pth", None),
            ("https://a.b/my-backbone.pth", "my-backbone.pth", None),
            ("https://a.b/", "", None),
            ("https://a.b", "", None),
            ("https://a.b/..", "", None),
        ] {
            assert_eq!(file_name(url), name, "{url}");
            assert_eq!(sha256_in_name(name).as_deref(), digits, "{url}");
        }
    }

    #[test]
    fn there_are_a_thousand_labels() {
        assert_eq!(LABELS.lines().count(), LABELS_COUNT);
        assert_eq!(
            (LABELS.lines().next(), LABELS.lines().last()),
            (Some("tench"), Some("toilet tissue"))
        );
        assert!(LABELS.lines().all(|label| !label.is_empty() && label.trim() == label));
    }

    #[test]
    fn paths_survive_a_shell() {
        assert_eq!(quoted(Path::new("/a/b-1.pth")), "/a/b-1.pth");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
