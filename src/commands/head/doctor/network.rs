//! The network of a head's file, computed by this process.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use headswap_checkpoint::{Digest, NormalHead, Parameters};
use headswap_doctor::Logits;
use headswap_image::{ImageSettings, Prepared, prepare_all};
use headswap_model::{
    Backbone, Backend, BackendSettings, HeadRows, InputRow, PlacedHead, Placer, TorchRuntime, WeightsSource,
    open_backend,
};
use headswap_spec::{Architecture, CompleteSpec, Output, Preprocessing};

use super::server_network::ServerNetwork;
use crate::commands::error::CliError;

/// Rows that are computed together.
const BATCH: usize = 8;

/// Rows that are prepared before they are computed.
const PREPARED_MAX: usize = 256;

/// A picture to be prepared in one way, and answered by every reading of the file.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The picture's index.
    pub picture: usize,
    /// How it is prepared for the first convolution.
    pub preprocessing: Preprocessing,
}

/// What answers questions.
pub enum Network {
    /// This process.
    Local(LocalNetwork),
    /// A server, up to the head's own layers.
    Server(Box<ServerNetwork>),
}

impl Network {
    /// Answers questions: for each, the logits of every reading. `done` is called with the number of questions that were
    /// answered, now and then.
    pub async fn answer(
        &mut self,
        questions: &[Question],
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Logits>, CliError> {
        match self {
            Self::Local(network) => tokio::task::block_in_place(|| network.answer(questions, done)),
            Self::Server(network) => network.answer(questions, done).await,
        }
    }
}

/// The network of one file, read in one way or several.
pub struct LocalNetwork {
    lanes: Vec<Box<dyn Backend>>,
    placer: Arc<dyn Placer>,
    readings: Vec<NormalHead>,
    /// The readings, placed for pictures of a size.
    placed: HashMap<[u32; 2], Vec<Arc<PlacedHead>>>,
    /// The pictures' paths, for errors, and their bytes.
    pictures: Vec<(PathBuf, Bytes)>,
}

impl LocalNetwork {
    /// Opens the network that the readings of a file share: the file's own convolutions, or else those of `weights`.
    pub fn open(
        mut readings: Vec<NormalHead>,
        architecture: Architecture,
        weights: Option<&WeightsSource>,
        settings: &BackendSettings,
        torch: Option<&dyn TorchRuntime>,
        pictures: Vec<(PathBuf, Bytes)>,
    ) -> Result<Self, CliError> {
        let backbone = match weights {
            Some(source) => {
                let mut backbone =
                    Backbone::load(source, architecture).map_err(|error| CliError::Failed(error.to_string()))?;
                backbone.take_last_linear();
                backbone
            }
            None => own_backbone(&mut readings, architecture)?,
        };
        let network = open_backend(vec![backbone], settings, torch).map_err(|error| failed(&error))?;
        Ok(Self {
            placer: network.placer(),
            lanes: network.into_lanes().into_iter().flatten().collect(),
            readings,
            placed: HashMap::new(),
            pictures,
        })
    }

    fn answer(&mut self, questions: &[Question], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Logits>, CliError> {
        let mut answers = Vec::with_capacity(questions.len());
        for part in questions.chunks(PREPARED_MAX) {
            answers.extend(self.answer_part(part, done)?);
        }
        Ok(answers)
    }

    fn answer_part(&mut self, questions: &[Question], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Logits>, CliError> {
        let prepared = self.prepare(questions)?;
        let mut by_size: HashMap<[u32; 2], Vec<usize>> = HashMap::new();
        for (index, question) in questions.iter().enumerate() {
            let size = question.preprocessing.size().map_err(|error| failed(&error))?;
            by_size.entry(size).or_default().push(index);
        }
        let mut batches = Vec::new();
        for (size, indices) in by_size {
            let heads = self.placed_for(size, &questions[indices[0]].preprocessing)?;
            for rows in indices.chunks(BATCH) {
                batches.push((heads.clone(), rows.to_vec()));
            }
        }
        let (batches, answers) = (Mutex::new(batches), Mutex::new(vec![Vec::new(); questions.len()]));
        let lock_batch = || batches.lock().map_or(None, |mut batches| batches.pop());
        let work = |lane: &mut Box<dyn Backend>| -> Result<(), CliError> {
            while let Some((heads, rows)) = lock_batch() {
                let computed = compute(lane.as_mut(), &heads, &rows, questions, &prepared)?;
                if let Ok(mut answers) = answers.lock() {
                    for (index, answer) in rows.iter().zip(computed) {
                        answers[*index] = answer;
                    }
                }
                done(rows.len());
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = self
                .lanes
                .iter_mut()
                .map(|lane| scope.spawn(move || work(lane)))
                .collect();
            for thread in threads {
                match thread.join() {
                    Ok(result) => result?,
                    Err(_) => return Err(ended()),
                }
            }
            Ok(())
        })?;
        answers.into_inner().map_err(|_| ended())
    }

    /// Returns the logits of every reading of a picture, by its head's inputs, one for each reading.
    pub fn logits(&mut self, preprocessing: &Preprocessing, inputs: &[Vec<f32>]) -> Result<Logits, CliError> {
        let size = preprocessing.size().map_err(|error| failed(&error))?;
        let heads = self.placed_for(size, preprocessing)?;
        let lane = self.lanes.first_mut().ok_or_else(ended)?;
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut groups = Vec::with_capacity(heads.len());
        for (row, head) in heads.iter().enumerate() {
            groups.push(HeadRows { head, rows: vec![row] });
        }
        lane.logits(&inputs, &groups).map_err(|error| failed(&error))
    }

    /// Prepares the pictures, each decoded once.
    fn prepare(&self, questions: &[Question]) -> Result<Vec<Arc<Prepared>>, CliError> {
        let mut wanted: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, question) in questions.iter().enumerate() {
            wanted.entry(question.picture).or_default().push(index);
        }
        let mut prepared: Vec<Option<Arc<Prepared>>> = vec![None; questions.len()];
        for (picture, indices) in wanted {
            let preprocessings: Vec<Preprocessing> =
                indices.iter().map(|index| questions[*index].preprocessing).collect();
            let (path, bytes) = &self.pictures[picture];
            let decoded = prepare_all(bytes, ImageSettings::default(), &preprocessings);
            let decoded = decoded.map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
            for (index, picture) in indices.into_iter().zip(decoded) {
                prepared[index] = Some(picture);
            }
        }
        Ok(prepared.into_iter().flatten().collect())
    }

    fn placed_for(&mut self, size: [u32; 2], preprocessing: &Preprocessing) -> Result<Vec<Arc<PlacedHead>>, CliError> {
        if let Some(placed) = self.placed.get(&size) {
            return Ok(placed.clone());
        }
        let mut placed = Vec::with_capacity(self.readings.len());
        for reading in &self.readings {
            let spec = CompleteSpec {
                preprocessing: *preprocessing,
                input: reading.input,
                layers: reading.layers.clone(),
                output: Output::Linear,
                classes: reading.rows,
            };
            let head = self.placer.place(&reading.parameters, &spec);
            placed.push(Arc::new(head.map_err(|error| failed(&error))?));
        }
        self.placed.insert(size, placed.clone());
        Ok(placed)
    }
}

/// Takes the backbone's parameters out of the readings.
fn own_backbone(readings: &mut [NormalHead], architecture: Architecture) -> Result<Backbone, CliError> {
    let mut parameters = Parameters::new();
    for reading in readings {
        for step in architecture.steps() {
            for name in [step.weight(), step.bias()] {
                if let Some(tensor) = reading.parameters.remove(&name) {
                    parameters.insert(name, tensor);
                }
            }
        }
    }
    let digest = Digest::of_parameters(&parameters, &[]);
    Ok(Backbone {
        architecture,
        parameters,
        digest,
        legacy_digest: digest,
        classes: None,
        graph: None,
    })
}

/// Computes the rows of one batch: for each, the logits of every head.
fn compute(
    lane: &mut dyn Backend,
    heads: &[Arc<PlacedHead>],
    rows: &[usize],
    questions: &[Question],
    prepared: &[Arc<Prepared>],
) -> Result<Vec<Logits>, CliError> {
    let mut inputs = Vec::with_capacity(rows.len());
    for row in rows {
        inputs.push(InputRow {
            picture: &prepared[*row],
            preprocessing: &questions[*row].preprocessing,
        });
    }
    let groups: Vec<HeadRows<'_>> = heads
        .iter()
        .map(|head| HeadRows {
            head,
            rows: (0..rows.len()).collect(),
        })
        .collect();
    let outputs = lane.forward(&inputs, &groups, &[]).map_err(|error| failed(&error))?;
    let mut answers = vec![Vec::with_capacity(heads.len()); rows.len()];
    for (head, logits) in heads.iter().zip(outputs.logits) {
        for (answer, row) in answers.iter_mut().zip(logits.chunks_exact(head.classes.max(1))) {
            answer.push(row.to_vec());
        }
    }
    Ok(answers)
}

fn ended() -> CliError {
    CliError::Failed("the network's thread has ended".into())
}

fn failed(error: &dyn std::error::Error) -> CliError {
    CliError::Failed(error.to_string())
}
