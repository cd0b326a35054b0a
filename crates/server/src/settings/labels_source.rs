//! The source of the backbone's class labels.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The value of `--labels`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelsSource {
    /// The names of ImageNet's 1000 classes, which are built in.
    ImageNet,
    /// No labels.
    None,
    /// A file with one label on each line.
    File(PathBuf),
}

impl FromStr for LabelsSource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "imagenet" => Self::ImageNet,
            "none" => Self::None,
            path => Self::File(path.into()),
        })
    }
}

impl fmt::Display for LabelsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ImageNet => f.write_str("imagenet"),
            Self::None => f.write_str("none"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
