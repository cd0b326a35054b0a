//! The settings of `headswap serve`, from flags or `HEADSWAP_*` variables: one struct for each part of the server.

mod addresses;
mod batching;
mod environment;
mod heads;
mod labels_source;
mod limits;
mod listen_address;
mod memory;
mod model;
mod named;
mod null_backend;
mod operations;
mod pictures;
mod preprocessing_source;
mod threads;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};
use headswap_service::heads::SourceSettings;

pub use addresses::AddressArgs;
pub use batching::BatchingArgs;
pub use heads::HeadArgs;
pub use labels_source::LabelsSource;
pub use limits::LimitArgs;
pub use listen_address::{ListenAddress, ParseListenAddressError};
pub use model::{BackboneArgs, ModelArgs};
pub use null_backend::NullArgs;
pub use operations::{LogFormat, OperationArgs};
pub use pictures::PictureArgs;

use crate::ServerError;

/// The settings of a server.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Where the server listens
    #[command(flatten)]
    pub addresses: AddressArgs,
    /// The backbones and what computes them
    #[command(flatten)]
    pub model: ModelArgs,
    /// How requests become batches
    #[command(flatten)]
    pub batching: BatchingArgs,
    /// Limits on requests, messages and memory
    #[command(flatten)]
    pub limits: LimitArgs,
    /// How pictures are decoded
    #[command(flatten)]
    pub pictures: PictureArgs,
    /// Where heads are stored, and limits on them
    #[command(flatten)]
    pub heads: HeadArgs,
    /// How the server stops and logs
    #[command(flatten)]
    pub operations: OperationArgs,
    /// What the null backend does
    #[command(flatten)]
    pub null: NullArgs,
    /// The settings that the user gave, as `--flag value`
    #[arg(skip)]
    pub given: Vec<String>,
}

impl ServeArgs {
    /// Records the settings that come from flags or variables, not from defaults, for the log.
    pub fn note_given(&mut self, matches: &ArgMatches) {
        let command = Self::augment_args(Command::new("serve"));
        for argument in command.get_arguments() {
            let id = argument.get_id().as_str();
            let is_given = matches!(
                matches.value_source(id),
                Some(ValueSource::CommandLine | ValueSource::EnvVariable)
            );
            if let Some(flag) = argument.get_long().filter(|_| is_given) {
                let mut text = format!("--{flag}");
                for value in matches.get_raw(id).into_iter().flatten() {
                    text.push(' ');
                    text.push_str(&value.to_string_lossy());
                }
                self.given.push(text);
            }
        }
    }

    /// Returns which files of this machine ReplaceHead may read.
    pub(super) fn head_sources(&self) -> SourceSettings {
        SourceSettings {
            dir: self.heads.head_source_dir.clone(),
            bytes_max: self.limits.upload_bytes_max,
        }
    }

    /// Logs what the server was given and refuses what cannot work. To be called before the runtime is built.
    ///
    /// # Errors
    /// [`ServerError::Settings`], with a line for each mistake.
    pub fn prepare(&self) -> Result<(), ServerError> {
        environment::warn_unknown();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            settings = self.given.join(" "),
            "starting"
        );
        self.check()?;
        self.model.check_memory()?;
        self.check_threads()
    }

    /// Checks all settings and reports every mistake, not only the first.
    fn check(&self) -> Result<(), ServerError> {
        let mut mistakes = Vec::new();
        self.model.check(&mut mistakes);
        self.limits.check(&mut mistakes);
        self.heads.check(&mut mistakes);
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(ServerError::Settings(mistakes.join("\n")))
        }
    }
}

/// Adds a mistake if the value is zero.
fn at_least_one<N: Default + PartialEq>(flag: &str, value: N, mistakes: &mut Vec<String>) {
    if value == N::default() {
        mistakes.push(format!("{flag} must be at least 1"));
    }
}
