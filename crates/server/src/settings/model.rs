//! The backbones and what computes them.

use std::num::NonZeroUsize;

use clap::Args;
use clap::builder::BoolishValueParser;
use headswap_model::{
    BACKBONES_MAX, BackendChoice, BackendSettings, DeviceChoice, Precision, THREADS_MAX, WeightsSource,
};
use headswap_spec::{Architecture, Preset};

use super::labels_source::LabelsSource;
use super::memory;
use super::named::{Named, SEPARATOR};
use super::preprocessing_source::PreprocessingSource;
use crate::ServerError;

/// The name of the first backbone, unless it is given another.
const FIRST: &str = "default";

/// One backbone, as the settings describe it.
#[derive(Clone, Debug)]
pub struct BackboneArgs {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub weights: WeightsSource,
    /// How its pictures are prepared.
    pub preprocessing: PreprocessingSource,
}

/// The backbones and what computes them.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A backbone: a file with a VGG16 in any format that heads may have, its classifier included or not, or `demo` for seeded,
    /// untrained numbers. May be given several times, in the variable one on each line: the first is for requests that name no
    /// backbone and is called `default`, unless it has a name; every other needs one of up to 64 lower-case letters, digits, '.',
    /// '_' and '-'. A file whose own name reads so is given as ./NAME=FILE
    #[arg(
        long,
        env = "HEADSWAP_WEIGHTS",
        value_name = "[NAME=]FILE|demo",
        value_delimiter = SEPARATOR
    )]
    pub weights: Vec<Named<WeightsSource>>,
    /// The first backbone's class labels: a file with one on each line, `imagenet`, or `none` [default: imagenet for trained weights
    /// of 1000 classes]
    #[arg(long, env = "HEADSWAP_LABELS", value_name = "FILE|imagenet|none")]
    pub labels: Option<LabelsSource>,
    /// Architecture of the backbones
    #[arg(long, env = "HEADSWAP_ARCH", value_enum, default_value = "vgg16")]
    pub arch: Architecture,
    /// How pictures are prepared for a backbone, and for heads on it without a spec: torchvision (the default),
    /// torchvision-stretch, unit, half, keras-unit, keras-caffe, keras-raw, tensorflow-unit, tensorflow-caffe, tensorflow-raw, or a
    /// file with the JSON of a spec's `preprocessing`. May be given several times, in the variable one on each line: without a name
    /// for the first backbone, with one for the backbone of that name
    #[arg(
        long,
        env = "HEADSWAP_PREPROCESSING",
        value_name = "[NAME=]PRESET|FILE",
        default_value = "torchvision",
        value_delimiter = SEPARATOR
    )]
    pub preprocessing: Vec<Named<PreprocessingSource>>,
    /// auto, cpu, cuda (every GPU) or cuda:N
    #[arg(long, env = "HEADSWAP_DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Numbers that the forward pass multiplies; auto is f32 on the CPU, where int16 is faster, and bf16 on a GPU
    #[arg(long, env = "HEADSWAP_PRECISION", value_enum, default_value = "auto")]
    pub precision: Precision,
    /// Threads of the forward pass on the CPU; 0 takes one for each core
    #[arg(long, env = "HEADSWAP_THREADS", default_value_t = 0)]
    pub threads: usize,
    /// Pin each thread of our own forward pass to one CPU, taking the first CPUs that the process may use; for a machine that
    /// does nothing else. Two of these CPUs may be threads of one core: choose the CPUs with taskset or a cpuset
    #[arg(
        long,
        env = "HEADSWAP_PIN_THREADS",
        value_parser = BoolishValueParser::new()
    )]
    pub pin_threads: bool,
    /// What computes the forward pass
    #[arg(long, alias = "engine", env = "HEADSWAP_BACKEND", value_enum, default_value = "auto")]
    pub backend: BackendChoice,
}

impl ModelArgs {
    pub(super) fn check(&self, mistakes: &mut Vec<String>) {
        if self.weights.is_empty() {
            let text = "--weights is missing: give a file with a trained VGG16 (safetensors or .pth), or `--weights demo` for \
                        untrained numbers to try the server with";
            mistakes.push(text.to_owned());
        }
        match self.backbones() {
            Ok(backbones) => {
                for backbone in backbones {
                    mistakes.extend(backbone.preprocessing.read().err());
                }
            }
            Err(found) => mistakes.extend(found),
        }
        if self.threads > THREADS_MAX {
            let threads = self.threads;
            mistakes.push(format!(
                "--threads {threads}: the limit is {THREADS_MAX}; 0 takes one for each core"
            ));
        }
    }

    /// Returns the backbones, the first one first.
    ///
    /// # Errors
    /// Every mistake in the names.
    pub fn backbones(&self) -> Result<Vec<BackboneArgs>, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut backbones: Vec<BackboneArgs> = Vec::new();
        for weights in &self.weights {
            let name = match &weights.name {
                Some(name) => name.clone(),
                None if backbones.is_empty() => FIRST.to_owned(),
                None => {
                    mistakes.push(format!(
                        "--weights {weights}: give every backbone but the first a name, as NAME=FILE"
                    ));
                    continue;
                }
            };
            if backbones.iter().any(|other| other.name == name) {
                mistakes.push(format!(
                    "--weights {weights}: another backbone is called {name}; give it another name"
                ));
            }
            backbones.push(BackboneArgs {
                name,
                weights: weights.value.clone(),
                preprocessing: PreprocessingSource::Preset(Preset::Torchvision),
            });
        }
        if backbones.len() > BACKBONES_MAX {
            let count = backbones.len();
            mistakes.push(format!(
                "--weights is given {count} times; the limit is {BACKBONES_MAX}"
            ));
        }
        mistakes.extend(self.assign_preprocessings(&mut backbones));
        if mistakes.is_empty() {
            Ok(backbones)
        } else {
            Err(mistakes)
        }
    }

    /// Gives each backbone its preprocessing. Returns the mistakes.
    fn assign_preprocessings(&self, backbones: &mut [BackboneArgs]) -> Vec<String> {
        let (mut mistakes, mut assigned) = (Vec::new(), Vec::new());
        let names: Vec<String> = backbones.iter().map(|backbone| backbone.name.clone()).collect();
        for preprocessing in &self.preprocessing {
            let index = match &preprocessing.name {
                None => 0,
                Some(name) => match names.iter().position(|known| known == name) {
                    Some(index) => index,
                    None => {
                        let known = names.join(", ");
                        mistakes.push(format!(
                            "--preprocessing {preprocessing}: there is no backbone {name}; the --weights are {known}"
                        ));
                        continue;
                    }
                },
            };
            if assigned.contains(&index) {
                mistakes.push(format!(
                    "--preprocessing {preprocessing}: the backbone {} has two; leave out one",
                    names.get(index).map_or(FIRST, String::as_str)
                ));
            }
            assigned.push(index);
            if let Some(backbone) = backbones.get_mut(index) {
                backbone.preprocessing.clone_from(&preprocessing.value);
            }
        }
        mistakes
    }

    /// What the forward pass needs to know.
    pub fn backend(&self) -> BackendSettings {
        BackendSettings {
            backend: self.backend,
            device: self.device,
            precision: self.precision,
            threads: NonZeroUsize::new(self.threads),
            pin_threads: self.pin_threads,
        }
    }

    /// Refuses to load backbones that would not fit, instead of being killed half-way.
    pub(super) fn check_memory(&self) -> Result<(), ServerError> {
        let settings = self.backend();
        let count = self.weights.len();
        let (needed, available) = (settings.host_bytes(self.arch, count), memory::available());
        if settings.backend == BackendChoice::Null || needed <= available {
            return Ok(());
        }
        let int16 = BackendSettings {
            precision: Precision::Int16,
            ..settings
        };
        Err(ServerError::Settings(format!(
            "the {} about {} MB of memory while being loaded, and the process may use {} MB; raise the memory limit, or \
             choose --precision int16, which takes {} MB",
            if count == 1 { "backbone takes" } else { "backbones take" },
            needed / 1_000_000,
            available / 1_000_000,
            int16.host_bytes(self.arch, count) / 1_000_000,
        )))
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;

    fn args(words: &[&str]) -> ModelArgs {
        let command = ModelArgs::augment_args(Command::new("serve"));
        let matches = command.try_get_matches_from([&["serve"], words].concat()).unwrap();
        ModelArgs::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn each_backbone_has_a_name_and_a_preprocessing() {
        let words = [
            "--weights",
            "a.pth",
            "--weights",
            "keras=b.keras",
            "--preprocessing",
            "keras=keras-caffe",
        ];
        let backbones = args(&words).backbones().unwrap();
        let mut found = Vec::new();
        for backbone in &backbones {
            found.push(format!(
                "{} {} {}",
                backbone.name, backbone.weights, backbone.preprocessing
            ));
        }
        assert_eq!(found, ["default a.pth torchvision", "keras b.keras keras-caffe"]);
        let both = args(&["--weights", "first=a.pth\nb=b.pth", "--preprocessing", "unit\nb=half"]);
        let backbones = both.backbones().unwrap();
        assert_eq!((backbones[0].name.as_str(), backbones[1].name.as_str()), ("first", "b"));
        assert_eq!(backbones[0].preprocessing.to_string(), "unit");
        assert_eq!(backbones[1].preprocessing.to_string(), "half");
    }

    #[test]
    fn mistakes_in_names_are_refused() {
        for (words, mistake) in [
            (
                &["--weights", "a", "--weights", "b"][..],
                "give every backbone but the first a name",
            ),
            (
                &["--weights", "a", "--weights", "default=b"],
                "another backbone is called default",
            ),
            (
                &["--weights", "a", "--preprocessing", "keras=unit"],
                "there is no backbone keras; the --weights are default",
            ),
            (
                &[
                    "--weights",
                    "a",
                    "--preprocessing",
                    "unit",
                    "--preprocessing",
                    "default=half",
                ],
                "the backbone default has two; leave out one",
            ),
        ] {
            let mistakes = args(words).backbones().unwrap_err().join("\n");
            assert!(mistakes.contains(mistake), "{mistakes}");
        }
        let mut many = vec!["--weights".to_owned(), "a".to_owned()];
        for index in 0..BACKBONES_MAX {
            many.extend(["--weights".to_owned(), format!("b{index}=b")]);
        }
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mistakes = args(&many).backbones().unwrap_err();
        assert_eq!(mistakes, ["--weights is given 17 times; the limit is 16"]);
    }
}
