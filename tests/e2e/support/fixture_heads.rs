//! Heads as training scripts save them, with what PyTorch (`scripts/fixtures/heads.py`) or Keras answers
//! (`scripts/fixtures/keras_models.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use headswap_proto::replace_head_request::{HeadSpec, Source};
use headswap_proto::{HeadResult, OutputKind, ReplaceHeadRequest};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::program::Ran;

const PYTORCH: &str = "tests/fixtures/heads";
const KERAS: &str = "tests/fixtures/keras";

/// The backbone of all heads.
pub const BACKBONE: &str = "tests/fixtures/heads/backbone.pth";

/// A file with a head.
#[derive(Debug, Deserialize)]
pub struct FixtureHead {
    #[serde(skip)]
    folder: &'static str,
    pub file: String,
    /// What the file may not say.
    pub spec: Value,
    /// The framework's answers by photograph, a file of `images`.
    pub answers: BTreeMap<String, Expected>,
}

/// What PyTorch or Keras answers.
#[derive(Debug, Deserialize)]
pub struct Expected {
    pub logits: Vec<f32>,
    /// Probabilities, or values, by class.
    pub outputs: Vec<f32>,
    /// The class of the first prediction.
    pub top: u32,
}

/// Returns PyTorch's heads.
pub fn fixture_heads() -> Vec<FixtureHead> {
    read(PYTORCH)
}

/// Returns Keras's heads.
pub fn keras_heads() -> Vec<FixtureHead> {
    read(KERAS)
}

fn read(folder: &'static str) -> Vec<FixtureHead> {
    let json = fs::read_to_string(format!("{folder}/expected.json")).unwrap();
    let mut heads: Vec<FixtureHead> = serde_json::from_str(&json).unwrap();
    for head in &mut heads {
        head.folder = folder;
    }
    heads
}

/// Returns the head of one file.
pub fn fixture_head(file: &str) -> FixtureHead {
    let mut heads = fixture_heads();
    heads.retain(|head| head.file == file);
    heads.pop().unwrap()
}

impl FixtureHead {
    /// Returns the name it is served under.
    pub fn name(&self) -> &str {
        self.file.split('.').next().unwrap()
    }

    pub fn path(&self) -> String {
        format!("{}/{}", self.folder, self.file)
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// Writes the keys of the spec for which `head inspect` asks, and those that it cannot know of, to a file in `folder`, and
    /// returns its path.
    pub fn asked_spec(&self, folder: &Path) -> String {
        let ran = Ran::of(&["head", "inspect", &self.path(), "--json"]).succeeded();
        let inspection: Value = serde_json::from_str(&ran.stdout).unwrap();
        let mut asked = Map::new();
        for key in ["classes", "labels"] {
            if let Some(value) = self.spec.get(key) {
                asked.insert(key.to_owned(), value.clone());
            }
        }
        for missing in inspection["missing"].as_array().unwrap() {
            let key = missing["key"].as_str().unwrap();
            let value = self.spec.get(key).unwrap_or_else(|| panic!("{}: {missing}", self.file));
            asked.insert(key.to_owned(), value.clone());
        }
        let path = folder.join(format!("{}.json", self.name()));
        fs::write(&path, json!(asked).to_string()).unwrap();
        path.display().to_string()
    }

    /// Replaces it by the command line as `head inspect` asks. Returns what the command says.
    pub fn push(&self, admin: &str, folder: &Path) -> Value {
        let spec = self.asked_spec(folder);
        let args = ["head", "replace", "--json", "--admin-address", admin, self.name()];
        let ran = Ran::of(&[&args[..], &[&self.path(), "--spec", &spec]].concat());
        assert_eq!(ran.code, Some(0), "{}: {}", self.file, ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// Returns the request that replaces it by the file itself and the spec as JSON.
    pub fn request(&self) -> ReplaceHeadRequest {
        ReplaceHeadRequest {
            head: self.name().to_owned(),
            source: Some(Source::File(self.bytes().into())),
            head_spec: Some(HeadSpec::SpecJson(self.spec.to_string())),
            ..Default::default()
        }
    }

    /// Panics unless the result is PyTorch's for this photograph: logits within 2e-3 of the largest of any photograph.
    pub fn check(&self, photograph: &str, result: &HeadResult) {
        let (expected, at) = (&self.answers[photograph], format!("{} of {photograph}", self.file));
        assert_eq!(result.error, None, "{at}");
        let mut largest = 0.0_f32;
        for answer in self.answers.values() {
            for logit in &answer.logits {
                largest = largest.max(logit.abs());
            }
        }
        let tolerance = largest * 2e-3;
        assert_eq!(result.logits.len(), expected.logits.len(), "{at}");
        for (got, expected) in result.logits.iter().zip(&expected.logits) {
            assert!((got - expected).abs() < tolerance, "{at}: {got} for {expected}");
        }
        self.check_top(photograph, result);
        for prediction in &result.predictions {
            let expected = expected.outputs[prediction.index as usize];
            let (got, tolerance) = match prediction.kind() {
                OutputKind::Linear => (prediction.value, tolerance),
                _ => (prediction.probability, 2e-3),
            };
            assert!(
                (got - expected).abs() < tolerance,
                "{at}: {prediction:?} for {expected}"
            );
        }
    }

    /// Panics unless the first prediction is PyTorch's.
    pub fn check_top(&self, photograph: &str, result: &HeadResult) {
        let top = result.predictions.first().map(|prediction| prediction.index);
        let at = format!("{} of {photograph}: {:?}", self.file, result.error);
        assert_eq!(top, Some(self.answers[photograph].top), "{at}");
    }
}
