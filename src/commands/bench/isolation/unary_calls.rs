//! Unary calls beside streams, and how long they took of what they had to take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headswap_client::{Classifier, connect_classifier, describe_status};
use headswap_loadtest::{Workload, run_load};
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyResponse};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tonic::Status;

use crate::commands::error::CliError;
use crate::commands::output::note;

/// When clients send no more.
#[derive(Clone, Debug)]
pub(super) enum Until {
    /// After this many calls.
    Calls(u64),
    /// At this time.
    Time(Instant),
    /// Once this is set.
    Stopped(Arc<AtomicBool>),
}

/// Calls and their answers.
#[derive(Debug, Default)]
pub(super) struct UnaryCalls {
    answered: Vec<Answered>,
    pub refused: u64,
}

#[derive(Clone, Copy, Debug)]
struct Answered {
    latency: Duration,
    /// The forward pass of its own batch.
    own: Duration,
}

impl UnaryCalls {
    /// Has each client send a call when its last is answered.
    pub async fn run(clients: Vec<Classifier>, pictures: &[Input], until: Until) -> Result<Self, CliError> {
        let sequence = Arc::new(Sequence {
            pictures: pictures.to_vec(),
            until,
            calls: Mutex::default(),
        });
        run_load(clients, Arc::clone(&sequence)).await?;
        let calls = std::mem::take(&mut *sequence.lock());
        Ok(calls)
    }

    /// Adds those of another time.
    pub fn extend(&mut self, other: &Self) {
        self.answered.extend_from_slice(&other.answered);
        self.refused += other.refused;
    }

    pub fn answered(&self) -> u64 {
        self.answered.len() as u64
    }

    /// The longest forward pass that one of them was part of.
    pub fn longest_own(&self) -> Duration {
        let own = self.answered.iter().map(|call| call.own);
        own.max().unwrap_or_default()
    }

    /// The median forward pass of their own batches.
    pub fn own(&self) -> Duration {
        quantile(self.answered.iter().map(|call| call.own.as_secs_f64()), 0.5)
    }

    /// The latency that this share of the calls stays below or at.
    pub fn latency(&self, share: f64) -> Duration {
        quantile(self.answered.iter().map(|call| call.latency.as_secs_f64()), share)
    }

    /// The same in milliseconds.
    pub fn latency_ms(&self, share: f64) -> f64 {
        self.latency(share).as_secs_f64() * 1e3
    }

    /// The same of each call's latency divided by what it may have had to wait for: the `longest` batch, which ran when
    /// it came, and its own.
    pub fn ratio(&self, longest: Duration, share: f64) -> f64 {
        let mut ratios = Vec::with_capacity(self.answered.len());
        for call in &self.answered {
            ratios.push(call.latency.as_secs_f64() / (longest + call.own).as_secs_f64());
        }
        quantile(ratios.into_iter(), share).as_secs_f64()
    }
}

/// A client on a thread and a connection of its own, so that what this process does for the streams delays it no more than
/// another process would. It has made a call, as clients have that live long: its connection is open.
pub(super) struct UnaryClient {
    begin: oneshot::Sender<u64>,
    calls: oneshot::Receiver<Result<UnaryCalls, CliError>>,
}

impl UnaryClient {
    pub async fn connect(address: &str, pictures: &[Input]) -> Result<Self, CliError> {
        let (address, pictures) = (address.to_owned(), pictures.to_vec());
        let ((connected, when_connected), (begin, when_begun)) = (oneshot::channel(), oneshot::channel());
        let (done, calls) = oneshot::channel();
        let client = async move {
            let client = match Self::connected(&address, &pictures).await {
                Ok(client) => client,
                Err(error) => return drop(connected.send(Err(error))),
            };
            let _ = connected.send(Ok(()));
            // Without a number of calls, the measurement was given up.
            if let Ok(count) = when_begun.await {
                let _ = done.send(UnaryCalls::run(vec![client], &pictures, Until::Calls(count)).await);
            }
        };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("unary".into());
        thread.spawn(move || runtime.block_on(client))?;
        when_connected.await.map_err(panicked)??;
        Ok(Self { begin, calls })
    }

    async fn connected(address: &str, pictures: &[Input]) -> Result<Classifier, CliError> {
        let client = connect_classifier(address).await?;
        UnaryCalls::run(vec![client.clone()], pictures, Until::Calls(1)).await?;
        Ok(client)
    }

    /// Sends calls one after the other.
    pub async fn run(self, calls: u64) -> Result<UnaryCalls, CliError> {
        // If its thread ended by a panic, so says the answer.
        let _ = self.begin.send(calls);
        self.calls.await.map_err(panicked)?
    }
}

fn panicked(_: oneshot::error::RecvError) -> CliError {
    CliError::Failed("the unary client's thread ended by a panic".into())
}

/// The value that this share of the values stays below or at.
fn quantile(values: impl Iterator<Item = f64>, share: f64) -> Duration {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    let value = values.get(rank.saturating_sub(1)).copied().unwrap_or_default();
    Duration::from_secs_f64(value)
}

/// The pictures in turn.
struct Sequence {
    pictures: Vec<Input>,
    until: Until,
    calls: Mutex<UnaryCalls>,
}

impl Sequence {
    fn lock(&self) -> MutexGuard<'_, UnaryCalls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workload for Sequence {
    fn next(&self, index: u64) -> Option<ClassifyRequest> {
        let goes_on = match &self.until {
            Until::Calls(calls) => index < *calls,
            Until::Time(end) => Instant::now() < *end,
            Until::Stopped(stopped) => !stopped.load(Ordering::Relaxed),
        };
        goes_on.then(|| ClassifyRequest {
            input: Some(self.pictures[index as usize % self.pictures.len()].clone()),
            ..ClassifyRequest::default()
        })
    }

    fn check(&self, _: u64, sent: Instant, answer: Result<ClassifyResponse, Status>) {
        let latency = sent.elapsed();
        let mut calls = self.lock();
        match answer {
            Ok(answer) => {
                let compute_us = answer.timing.map_or(0, |timing| timing.compute_us);
                calls.answered.push(Answered {
                    latency,
                    own: Duration::from_micros(compute_us),
                });
            }
            Err(status) => {
                if calls.refused == 0 {
                    note(describe_status(&status));
                }
                calls.refused += 1;
            }
        }
    }
}
