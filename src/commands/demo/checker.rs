//! What every version must answer to every photograph.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use headswap_client::describe_status;
use headswap_loadtest::{KnownHead, Workload, difference};
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyResponse};
use tonic::Status;

use super::HEAD;
use crate::commands::output::note;

/// A photograph, with the features that the server computed of it.
pub(super) struct Photograph {
    pub name: String,
    pub image: Bytes,
    pub features: Vec<f32>,
}

/// Logits by digest and photograph.
type Expected = HashMap<(String, usize), Arc<Vec<f64>>>;

/// Sends the photographs in turn until it is stopped, and recomputes every answer.
pub(super) struct Checker {
    photographs: Vec<Photograph>,
    /// How far logits may be off, of the largest.
    tolerance: f64,
    heads: Mutex<HashMap<String, Arc<KnownHead>>>,
    expected: Mutex<Expected>,
    /// When ReplaceHead returned, and with which version.
    acknowledged: Mutex<Vec<(Instant, u64)>>,
    versions_seen: Mutex<BTreeSet<u64>>,
    stopped: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
}

impl Checker {
    pub(super) fn new(photographs: Vec<Photograph>, tolerance: f64) -> Self {
        Self {
            photographs,
            tolerance,
            heads: Mutex::default(),
            expected: Mutex::default(),
            acknowledged: Mutex::default(),
            versions_seen: Mutex::default(),
            stopped: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        }
    }

    pub(super) fn photographs(&self) -> &[Photograph] {
        &self.photographs
    }

    /// From now on answers of this head may arrive.
    pub(super) fn sending(&self, head: KnownHead) {
        lock(&self.heads).insert(head.digest.clone(), Arc::new(head));
    }

    /// Requests sent from now on must be answered by this version or a later one.
    pub(super) fn acknowledged(&self, version: u64) {
        lock(&self.acknowledged).push((Instant::now(), version));
    }

    /// Sends requests again, or ends the load.
    pub(super) fn set_stopped(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn wrong(&self) -> u64 {
        self.wrong.load(Ordering::Relaxed)
    }

    pub(super) fn versions_seen(&self) -> usize {
        lock(&self.versions_seen).len()
    }

    /// What is wrong with an answer, if anything.
    fn fault(&self, index: u64, sent: Instant, response: &ClassifyResponse) -> Option<String> {
        let [result] = &response.results[..] else {
            return Some(format!("{} results", response.results.len()));
        };
        if response.request_id != index.to_string() {
            return Some(format!("it is the answer to request {}", response.request_id));
        }
        lock(&self.versions_seen).insert(result.version);
        let acknowledged = lock(&self.acknowledged);
        let floor = acknowledged
            .iter()
            .rev()
            .find(|(at, _)| *at <= sent)
            .map_or(0, |(_, version)| *version);
        drop(acknowledged);
        if result.version < floor {
            return Some(format!(
                "version {}, though {floor} had been acknowledged before it was sent",
                result.version
            ));
        }
        let Some(head) = lock(&self.heads).get(&result.digest).cloned() else {
            return Some(format!("an unknown digest {}", result.digest));
        };
        let photograph = index as usize % self.photographs.len();
        let key = (result.digest.clone(), photograph);
        let cached = lock(&self.expected).get(&key).cloned();
        let expected = cached.unwrap_or_else(|| {
            let expected = Arc::new(head.logits(&self.photographs[photograph].features));
            lock(&self.expected).insert(key, Arc::clone(&expected));
            expected
        });
        debug_assert_eq!(expected.len(), head.classes);
        difference(result, &expected, self.tolerance)
    }
}

impl Workload for Checker {
    fn next(&self, index: u64) -> Option<ClassifyRequest> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let photograph = index as usize % self.photographs.len();
        Some(ClassifyRequest {
            input: Some(Input::Image(self.photographs[photograph].image.clone())),
            heads: vec![HEAD.into()],
            include_logits: true,
            request_id: index.to_string(),
            ..ClassifyRequest::default()
        })
    }

    fn check(&self, index: u64, sent: Instant, answer: Result<ClassifyResponse, Status>) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        match answer {
            Err(status) => {
                if self.failed.fetch_add(1, Ordering::Relaxed) < 5 {
                    note(format_args!("request {index} failed: {}", describe_status(&status)));
                }
            }
            Ok(response) => {
                if let Some(fault) = self.fault(index, sent, &response) {
                    self.wrong.fetch_add(1, Ordering::Relaxed);
                    note(format_args!("request {index} was answered wrongly: {fault}"));
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
