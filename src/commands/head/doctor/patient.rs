//! The file that is diagnosed, and what is open about it.

use headswap_checkpoint::{Inspection, NormalHead};
use headswap_client::{GivenSpec, HeadFile};
use headswap_doctor::{Recipe, Space};
use headswap_spec::{ChannelTransform, Output, Preprocessing, Preset, SpecDraft};
use serde_json::json;

use super::DoctorArgs;
use super::readings::{self, Reading};
use crate::commands::error::CliError;

/// A file, and what is open about it.
pub struct Patient {
    pub given: GivenSpec,
    pub inspection: Inspection,
    pub readings: Vec<Reading>,
    /// What the file computes before its first convolution.
    transform: ChannelTransform,
    pub space: Space,
}

impl Patient {
    pub fn open(args: &DoctorArgs) -> Result<Self, CliError> {
        let given = args.spec.given()?;
        let (checkpoint, inspection) = HeadFile::inspect_with(&args.file, &given)?;
        let framework = checkpoint.format().framework();
        let graph = checkpoint.graph();
        let transform = graph.map_or(ChannelTransform::IDENTITY, |graph| graph.transform);
        let readings = readings::of_file(&inspection, framework);
        let refused = |reason: &str| CliError::Failed(format!("{}: {reason}", args.file.display()));
        let Some(first) = readings.first() else {
            return Err(refused(
                "neither the file nor the width of its layers says where they begin; give --input",
            ));
        };
        let positions = readings::positions(&inspection, first.input);
        let is_side = |side| positions.is_none_or(|positions| readings::has_positions(side, positions));
        let scales = transform != ChannelTransform::IDENTITY;
        let mut space = Space::new(framework, graph.and_then(|graph| graph.size), scales, is_side);
        let declared = given
            .keys
            .partial()
            .map_err(|error| CliError::Usage(error.to_string()))?;
        if let Some(preprocessing) = declared.preprocessing {
            space.declare(preprocessing);
        }
        if space.count() == 0 {
            return Err(refused(
                "no usual size of pictures has a map as large as its first layer takes; give --spec",
            ));
        }
        Ok(Self {
            given,
            inspection,
            readings,
            transform,
            space,
        })
    }

    /// How pictures are prepared for the first convolution; none if no preprocessing computes that.
    pub fn stored(&self, recipe: Recipe) -> Option<Preprocessing> {
        self.space.preprocessing(recipe).followed_by(&self.transform).ok()
    }

    /// What is given and what is found, as the keys of a spec.
    pub fn keys(&self, fed: &Preprocessing, reading: &Reading, output: Output) -> SpecDraft {
        let mut keys = self.given.keys.clone();
        keys.set("preprocessing", json!(fed));
        keys.set("input", json!(reading.input));
        keys.set("layers", json!(reading.layers));
        keys.set("output", json!(output));
        keys
    }

    /// Reads the file in every way.
    pub fn read(&self, args: &DoctorArgs) -> Result<Vec<NormalHead>, CliError> {
        let mut heads = Vec::new();
        for reading in &self.readings {
            heads.push(self.open_as(args, reading)?.normal().clone());
        }
        Ok(heads)
    }

    pub fn open_first(&self, args: &DoctorArgs) -> Result<HeadFile, CliError> {
        match self.readings.first() {
            Some(reading) => self.open_as(args, reading),
            None => Err(CliError::Failed(format!("{}: it cannot be read", args.file.display()))),
        }
    }

    /// Reads the file in one way; any preprocessing of a size that fits does.
    fn open_as(&self, args: &DoctorArgs, reading: &Reading) -> Result<HeadFile, CliError> {
        let fed = self.space.first().unwrap_or(Preset::Torchvision.preprocessing());
        let output = self.inspection.output.unwrap_or(Output::Linear);
        let given = GivenSpec {
            keys: self.keys(&fed, reading, output),
            tensors: self.given.tensors.clone(),
        };
        Ok(HeadFile::open(&args.file, &given)?)
    }

    /// What the logits may mean.
    pub fn outputs(&self, rows: usize, has_numbers: bool) -> Result<Vec<Output>, CliError> {
        let given = self
            .given
            .keys
            .partial()
            .map_err(|error| CliError::Usage(error.to_string()))?;
        let known = given.output.or(self.inspection.output);
        Ok(match (known, has_numbers) {
            // A framework's answers may be what comes before the softmax.
            (Some(Output::Linear), _) => vec![Output::Linear],
            (Some(output), true) => vec![output, Output::Linear],
            (Some(output), false) => vec![output],
            (None, true) if rows == 1 => vec![Output::Sigmoid, Output::Linear],
            (None, true) => vec![Output::Softmax, Output::Sigmoid, Output::Linear],
            (None, false) if rows == 1 => vec![Output::Sigmoid],
            (None, false) => vec![Output::Softmax],
        })
    }
}
