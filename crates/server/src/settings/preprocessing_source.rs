//! How the backbone's pictures are prepared.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum as _;
use headswap_spec::{Preprocessing, Preset};

/// The value of `--preprocessing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreprocessingSource {
    /// A usual one.
    Preset(Preset),
    /// A file with the JSON of a spec's `preprocessing`.
    File(PathBuf),
}

impl PreprocessingSource {
    /// Returns the preprocessing.
    ///
    /// # Errors
    /// Why the file cannot be used.
    pub fn read(&self) -> Result<Preprocessing, String> {
        match self {
            Self::Preset(preset) => Ok(preset.preprocessing()),
            Self::File(path) => {
                let path_text = path.display();
                let json = std::fs::read_to_string(path).map_err(|error| {
                    format!("--preprocessing {path_text}: {error}; give a preset or a file of JSON")
                })?;
                Preprocessing::from_json(&json).map_err(|error| format!("--preprocessing {path_text}: {error}"))
            }
        }
    }
}

impl FromStr for PreprocessingSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match Preset::from_str(text, false) {
            Ok(preset) => Self::Preset(preset),
            Err(_) => Self::File(text.into()),
        })
    }
}

impl fmt::Display for PreprocessingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preset(preset) => match preset.to_possible_value() {
                Some(value) => f.write_str(value.get_name()),
                None => Ok(()),
            },
            Self::File(path) => path.display().fmt(f),
        }
    }
}
