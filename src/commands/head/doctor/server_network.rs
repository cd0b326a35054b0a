//! The network of a head's file, computed by a server up to the head's own layers.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use headswap_checkpoint::NormalHead;
use headswap_client::Classifier;
use headswap_doctor::Logits;
use headswap_model::pool_maps;
use headswap_proto::embed_request::Input;
use headswap_proto::{EmbedKind, EmbedRequest, Parameter};
use headswap_spec::{Architecture, HeadInput, Preprocessing};

use super::network::{LocalNetwork, Question};
use super::readings::STRIDE;
use crate::commands::error::CliError;

/// Pictures under way at the same time.
const CONCURRENCY: usize = 16;

/// A server's backbone, and the head's own layers in this process.
pub struct ServerNetwork {
    client: Classifier,
    /// The backbone's name for the server.
    backbone: String,
    pictures: Vec<Bytes>,
    /// Where each reading begins.
    inputs: Vec<HeadInput>,
    /// Computes the head's own layers.
    own: LocalNetwork,
}

impl ServerNetwork {
    pub fn new(
        client: Classifier,
        backbone: String,
        pictures: Vec<Bytes>,
        inputs: Vec<HeadInput>,
        own: LocalNetwork,
    ) -> Self {
        Self {
            client,
            backbone,
            pictures,
            inputs,
            own,
        }
    }

    /// As [`Network::answer`](super::network::Network::answer).
    pub async fn answer(
        &mut self,
        questions: &[Question],
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Logits>, CliError> {
        let kind = kind_of(&self.inputs);
        let this = &*self;
        let embedded: Vec<Vec<f32>> = stream::iter(questions)
            .map(|question| async move {
                let answer = this.embed(question, kind).await;
                done(1);
                answer
            })
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        let mut answers = Vec::with_capacity(questions.len());
        for (question, numbers) in questions.iter().zip(embedded) {
            let mut inputs = Vec::with_capacity(self.inputs.len());
            for input in &self.inputs {
                inputs.push(input_of(*input, kind, &numbers, &question.preprocessing));
            }
            answers.push(self.own.logits(&question.preprocessing, &inputs)?);
        }
        Ok(answers)
    }

    async fn embed(&self, question: &Question, kind: EmbedKind) -> Result<Vec<f32>, CliError> {
        let request = EmbedRequest {
            input: Some(Input::Image(self.pictures[question.picture].clone())),
            backbone: self.backbone.clone(),
            preprocessing_json: question.preprocessing.to_json(),
            kind: kind.into(),
            ..EmbedRequest::default()
        };
        let mut client = self.client.clone();
        Ok(client.embed(request).await?.into_inner().features)
    }
}

/// Takes the parameters out of a head that the backbone has. Returns the names of those in which the backbone differs.
pub fn without_backbones(head: &mut NormalHead, architecture: Architecture, parameters: &[Parameter]) -> Vec<String> {
    let mut differing = Vec::new();
    for step in architecture.steps() {
        for name in [step.weight(), step.bias()] {
            let Some(tensor) = head.parameters.remove(&name) else {
                continue;
            };
            let digest = tensor.digest().to_string();
            if !parameters.iter().any(|own| own.name == name && own.digest == digest) {
                differing.push(name);
            }
        }
    }
    differing
}

/// What is asked of the server, from which every input can be made.
fn kind_of(inputs: &[HeadInput]) -> EmbedKind {
    match inputs {
        [HeadInput::Features, ..] => EmbedKind::Features,
        [HeadInput::GlobalAverage] => EmbedKind::Gap,
        _ => EmbedKind::Pool,
    }
}

fn input_of(input: HeadInput, kind: EmbedKind, numbers: &[f32], preprocessing: &Preprocessing) -> Vec<f32> {
    if kind != EmbedKind::Pool {
        return numbers.to_vec();
    }
    let [height, width] = preprocessing.size().unwrap_or_default();
    let mut vector = Vec::new();
    pool_maps(
        input,
        numbers,
        [(height / STRIDE) as usize, (width / STRIDE) as usize],
        &mut vector,
    );
    vector
}
