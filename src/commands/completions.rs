//! `headswap completions`.

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use crate::commands::error::CliError;
use crate::commands::output::print_line;

/// Prints a completion script, as: headswap completions bash > ~/.local/share/bash-completion/completions/headswap
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    generate(args.shell, &mut super::Cli::command(), "headswap", &mut script);
    print_line(String::from_utf8_lossy(&script).trim_end())
}
