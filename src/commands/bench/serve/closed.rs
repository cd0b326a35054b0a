//! A closed loop: each client sends its next request when its last is answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use headswap_client::{Classifier, describe_status};
use headswap_loadtest::{LoadSummary, Workload, run_load};
use headswap_proto::{ClassifyRequest, ClassifyResponse};
use tonic::Status;

use super::asked::Asked;
use crate::commands::error::CliError;
use crate::commands::output::note;

/// A load and how many of its requests failed, by the names of their gRPC codes.
pub(super) struct ClosedLoop {
    pub load: LoadSummary,
    pub failures: BTreeMap<String, usize>,
}

impl ClosedLoop {
    pub async fn run(clients: Vec<Classifier>, asked: &Asked, length: Duration) -> Result<Self, CliError> {
        let endless = Arc::new(Endless {
            asked: asked.clone(),
            end: Instant::now() + length,
            failures: Mutex::default(),
        });
        let load = run_load(clients, Arc::clone(&endless)).await?;
        let failures = std::mem::take(&mut *endless.failures.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Self { load, failures })
    }

    pub fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    /// The latency that this share of the requests stays below or at, in seconds.
    pub fn quantile_s(&self, share: f64) -> f64 {
        self.load.quantile(share).as_secs_f64()
    }
}

/// The pictures in turn, until the time is over.
struct Endless {
    asked: Asked,
    end: Instant,
    failures: Mutex<BTreeMap<String, usize>>,
}

impl Workload for Endless {
    fn next(&self, index: u64) -> Option<ClassifyRequest> {
        (Instant::now() < self.end).then(|| self.asked.request(index))
    }

    fn check(&self, _: u64, _: Instant, answer: Result<ClassifyResponse, Status>) {
        if let Err(status) = answer {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if failures.is_empty() {
                note(describe_status(&status));
            }
            *failures.entry(format!("{:?}", status.code())).or_default() += 1;
        }
    }
}

/// Failures by code for a cell of a table: `0`, or `3 (ResourceExhausted 2, Unavailable 1)`.
pub(super) fn failures_cell(failures: &BTreeMap<String, usize>) -> String {
    let mut codes = Vec::new();
    for (code, count) in failures {
        codes.push(format!("{code} {count}"));
    }
    match failures.values().sum::<usize>() {
        0 => "0".to_owned(),
        total => format!("{total} ({})", codes.join(", ")),
    }
}

/// The middle value of some runs; there is always one.
pub(super) fn median<T>(runs: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
