//! Results on standard output, as tables or JSON lines; progress and notes on standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use headswap_client::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::error::CliError;

/// A table with these headings.
pub(super) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings);
    table
}

/// Prints a table without trailing blanks.
pub(super) fn print_table(table: &Table) -> Result<(), CliError> {
    for line in table.to_string().lines() {
        print_line(line.trim_end())?;
    }
    Ok(())
}

/// Prints one line of JSON.
pub(super) fn print_json(value: &Value) -> Result<(), CliError> {
    print_line(value)
}

/// Prints a line of results. That the reader has closed standard output, as `head` does, is no failure; that a disk is full
/// is one.
pub(super) fn print_line(line: impl Display) -> Result<(), CliError> {
    match writeln!(io::stdout().lock(), "{line}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CliError::Failed(format!("cannot write to standard output: {error}"))),
    }
}

/// Prints a note, warning or error on standard error, which may be closed.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "headswap: {text}");
}

/// Milliseconds with a sensible number of digits.
pub(super) fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 {
        format!("{ms:.2} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// Bytes in the largest fitting unit.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// A bar on standard error; nothing if that is no terminal.
pub(super) fn progress(length: u64, message: &'static str) -> ProgressBar {
    bar(length, message, "{msg} {wide_bar} {pos}/{len} {elapsed}")
}

/// The same for bytes.
pub(super) fn byte_progress(length: u64, message: &'static str) -> ProgressBar {
    bar(
        length,
        message,
        "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    )
}

fn bar(length: u64, message: &'static str, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length).with_message(message);
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A bar that appears when its work begins.
pub(super) struct WorkBar {
    bar: ProgressBar,
}

impl WorkBar {
    /// Counts bytes.
    pub fn bytes(message: &'static str) -> Self {
        Self {
            bar: byte_progress(0, message),
        }
    }
}

impl Progress for WorkBar {
    fn start(&self, total: u64) {
        self.bar.set_length(total);
    }

    fn advance(&self, units: u64) {
        self.bar.inc(units);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A spinner on standard error; nothing if that is no terminal.
pub(super) fn spinner(message: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
