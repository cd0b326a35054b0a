//! Requests to heads whose logits are known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use headswap_client::{Admin, describe_status};
use headswap_loadtest::{
    LoadSummary, PHOTOGRAPHS, ServerProcess, SpecHead, SplitMix64, Workload, difference, run_load, tolerance,
};
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyResponse, EmbedKind, EmbedRequest, ReplaceHeadRequest, embed_request};
use tonic::Status;

use super::families::Family;
use crate::commands::error::CliError;
use crate::commands::output::note;

/// JPEG files, and the inputs of heads that the server computes of them.
pub(super) struct Photographs {
    files: Vec<Bytes>,
    /// By file, the input of each family.
    inputs: Vec<Vec<(EmbedKind, Vec<f32>)>>,
    tolerance: f64,
}

/// A head on the server.
pub(super) struct PlacedHead {
    name: String,
    /// By file.
    logits: Vec<Vec<f64>>,
    pub tensor_bytes: usize,
}

impl Photographs {
    pub async fn embed(server: &ServerProcess) -> Result<Self, CliError> {
        Self::embed_on(server, "").await
    }

    /// As [`Photographs::embed`], with the inputs that a backbone computes.
    pub async fn embed_on(server: &ServerProcess, backbone: &str) -> Result<Self, CliError> {
        let mut client = server.classifier().await?;
        let (mut files, mut inputs) = (Vec::new(), Vec::new());
        for (_, jpeg) in PHOTOGRAPHS.iter().filter(|(name, _)| name.ends_with(".jpg")) {
            let jpeg = Bytes::from_static(jpeg);
            let mut of_file = Vec::new();
            for kind in [EmbedKind::Features, EmbedKind::Pool, EmbedKind::Gap] {
                let request = EmbedRequest {
                    input: Some(embed_request::Input::Image(jpeg.clone())),
                    kind: kind.into(),
                    backbone: backbone.to_owned(),
                    ..EmbedRequest::default()
                };
                of_file.push((kind, client.embed(request).await?.into_inner().features));
            }
            files.push(jpeg);
            inputs.push(of_file);
        }
        let tolerance = tolerance(server).await?;
        Ok(Self {
            files,
            inputs,
            tolerance,
        })
    }

    /// Sends a head to the server and computes its logits.
    pub async fn place(
        &self,
        admin: &mut Admin,
        name: String,
        (family, head): (Family, SpecHead),
    ) -> Result<PlacedHead, CliError> {
        self.place_on(admin, "", name, (family, &head)).await
    }

    /// As [`Photographs::place`], on the backbone that computed the inputs.
    pub async fn place_on(
        &self,
        admin: &mut Admin,
        backbone: &str,
        name: String,
        (family, head): (Family, &SpecHead),
    ) -> Result<PlacedHead, CliError> {
        let request = ReplaceHeadRequest {
            backbone: backbone.to_owned(),
            ..head.request(&name)?
        };
        admin.replace_head(request).await?;
        let mut logits = Vec::new();
        for inputs in &self.inputs {
            let input = inputs.iter().find(|(kind, _)| *kind == family.embed_kind());
            logits.push(input.map_or_else(Vec::new, |(_, input)| head.logits(input)));
        }
        Ok(PlacedHead {
            name,
            logits,
            tensor_bytes: head.tensor_bytes(),
        })
    }
}

/// A load of photographs on some heads, or on the backbone's own if there are none.
pub(super) struct KnownTraffic {
    photographs: Arc<Photographs>,
    heads: Arc<Vec<PlacedHead>>,
    end: Instant,
    failed: AtomicU64,
    wrong: AtomicU64,
}

/// What a load measured.
pub(super) struct KnownLoad {
    pub summary: LoadSummary,
    /// Requests that got an error.
    pub failed: u64,
    /// Answers with other logits.
    pub wrong: u64,
}

impl KnownTraffic {
    pub async fn run(
        server: &ServerProcess,
        photographs: &Arc<Photographs>,
        heads: &Arc<Vec<PlacedHead>>,
        (concurrency, seconds): (usize, f64),
    ) -> Result<KnownLoad, CliError> {
        let clients = server.classifiers(concurrency).await?;
        let traffic = Arc::new(Self {
            photographs: Arc::clone(photographs),
            heads: Arc::clone(heads),
            end: Instant::now() + Duration::from_secs_f64(seconds),
            failed: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        });
        let summary = run_load(clients, Arc::clone(&traffic)).await?;
        Ok(KnownLoad {
            summary,
            failed: traffic.failed.load(Ordering::Relaxed),
            wrong: traffic.wrong.load(Ordering::Relaxed),
        })
    }

    /// Returns the head of request number `index`: the same in every run.
    fn head(&self, index: u64) -> Option<&PlacedHead> {
        let share = SplitMix64::at(index).next_share();
        self.heads.get((share * self.heads.len() as f64) as usize)
    }

    fn file(&self, index: u64) -> usize {
        index as usize % self.photographs.files.len()
    }

    fn fault(&self, index: u64, response: &ClassifyResponse) -> Option<String> {
        let head = self.head(index)?;
        let [result] = &response.results[..] else {
            return Some(format!("{} results", response.results.len()));
        };
        if result.head != head.name {
            return Some(format!("it is of {}, not of {}", result.head, head.name));
        }
        let expected = &head.logits[self.file(index)];
        difference(result, expected, self.photographs.tolerance).map(|fault| format!("{}: {fault}", head.name))
    }
}

impl Workload for KnownTraffic {
    fn next(&self, index: u64) -> Option<ClassifyRequest> {
        (Instant::now() < self.end).then(|| ClassifyRequest {
            input: Some(Input::Image(self.photographs.files[self.file(index)].clone())),
            heads: self.head(index).map(|head| head.name.clone()).into_iter().collect(),
            include_logits: true,
            ..ClassifyRequest::default()
        })
    }

    fn check(&self, index: u64, _: Instant, answer: Result<ClassifyResponse, Status>) {
        let (counter, fault) = match answer {
            Err(status) => (&self.failed, describe_status(&status)),
            Ok(response) => match self.fault(index, &response) {
                Some(fault) => (&self.wrong, format!("request {index} was answered wrongly: {fault}")),
                None => return,
            },
        };
        if counter.fetch_add(1, Ordering::Relaxed) == 0 {
            note(fault);
        }
    }
}
