//! An open-loop load: requests start at times that were fixed beforehand, whether or not those before are answered.
//!
//! A latency is counted from the time at which its request was to start. Counted from when it was sent, the waiting that a
//! stalled server causes in its clients would be left out ("coordinated omission").

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use headswap_client::ClientError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tonic::Code;

use super::quantile::quantile;

/// A request that is sent later than this after its time counts as late.
pub const LATE_AFTER: Duration = Duration::from_millis(1);
/// Requests under way at most; what would be more is sent late.
pub const IN_FLIGHT_MAX: usize = 10_000;

/// What is asked in an open loop.
pub trait OpenWorkload: Send + Sync + 'static {
    /// Sends request number `index` and waits for its answer.
    fn call(&self, index: usize) -> impl Future<Output = Result<(), Code>> + Send;
}

/// One request and its answer. Times are counted from the beginning of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When it was to start.
    pub intended: Duration,
    /// When it was sent.
    pub sent: Duration,
    /// When its answer came.
    pub ended: Duration,
    /// How it ended.
    pub code: Code,
}

/// What an open-loop load measured.
#[derive(Clone, Debug, Default)]
pub struct OpenLoopSummary {
    /// Requests that were sent.
    pub sent: usize,
    /// Those that were sent later than [`LATE_AFTER`] after their time: this side could not keep up.
    pub late: usize,
    /// Those that failed, by the names of their gRPC codes.
    pub failures: BTreeMap<String, usize>,
    /// From the beginning to the last answer, or to the end of the schedule if that is later.
    pub elapsed: Duration,
    /// From the intended starts to the answers of those that succeeded, ascending.
    latencies: Vec<Duration>,
}

impl OpenLoopSummary {
    /// Sums up the requests of a load that was to last `length`.
    pub fn of(length: Duration, outcomes: &[Outcome]) -> Self {
        let mut summary = Self {
            sent: outcomes.len(),
            elapsed: length,
            ..Self::default()
        };
        for outcome in outcomes {
            summary.late += usize::from(outcome.sent > outcome.intended + LATE_AFTER);
            summary.elapsed = summary.elapsed.max(outcome.ended);
            if outcome.code == Code::Ok {
                summary.latencies.push(outcome.ended.saturating_sub(outcome.intended));
            } else {
                *summary.failures.entry(format!("{:?}", outcome.code)).or_default() += 1;
            }
        }
        summary.latencies.sort_unstable();
        summary
    }

    /// How many requests succeeded.
    pub fn answered(&self) -> usize {
        self.latencies.len()
    }

    /// Successful answers a second.
    pub fn achieved_per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that this share of the successful requests stays below or at.
    pub fn quantile(&self, share: f64) -> Duration {
        quantile(&self.latencies, share)
    }
}

/// Sends a request at each time of `schedule`, which ascends within `length`, and waits for all answers.
///
/// # Errors
/// [`ClientError::Io`] if the system gives no thread, [`ClientError::Failed`] if a request panicked.
pub async fn run_open_loop(
    schedule: Vec<Duration>,
    length: Duration,
    workload: Arc<impl OpenWorkload>,
) -> Result<OpenLoopSummary, ClientError> {
    let began = Instant::now();
    let mut outcomes = Vec::with_capacity(schedule.len());
    let (pacer, mut due) = Pacer::start(began, schedule)?;
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut running = JoinSet::new();
    while let Some((index, intended)) = due.recv().await {
        let permit = Arc::clone(&in_flight).acquire_owned().await;
        let workload = Arc::clone(&workload);
        running.spawn(async move {
            let _until_answered = permit;
            let sent = began.elapsed();
            let result = workload.call(index).await;
            Outcome {
                intended,
                sent,
                ended: began.elapsed(),
                code: result.err().unwrap_or(Code::Ok),
            }
        });
        while let Some(ended) = running.try_join_next() {
            outcomes.push(ended.map_err(stopped)?);
        }
    }
    pacer.join()?;
    while let Some(ended) = running.join_next().await {
        outcomes.push(ended.map_err(stopped)?);
    }
    Ok(OpenLoopSummary::of(length, &outcomes))
}

fn stopped(error: tokio::task::JoinError) -> ClientError {
    ClientError::Failed(format!("a client stopped: {error}"))
}

/// A thread that tells when each request is due: the system's timers are finer than tokio's, of a millisecond.
struct Pacer(thread::JoinHandle<()>);

impl Pacer {
    /// Ends with the schedule, or at its next time if the receiver is dropped.
    fn start(
        began: Instant,
        schedule: Vec<Duration>,
    ) -> Result<(Self, mpsc::Receiver<(usize, Duration)>), ClientError> {
        let (sender, due) = mpsc::channel(1024);
        let thread = thread::Builder::new().name("pacer".into());
        let thread = thread.spawn(move || {
            for (index, intended) in schedule.into_iter().enumerate() {
                thread::sleep(intended.saturating_sub(began.elapsed()));
                if sender.blocking_send((index, intended)).is_err() {
                    return;
                }
            }
        })?;
        Ok((Self(thread), due))
    }

    /// Waits for its end, which has come when the receiver has got everything.
    fn join(self) -> Result<(), ClientError> {
        let joined = self.0.join();
        joined.map_err(|_| ClientError::Failed("the thread that paces requests ended by a panic".into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::sync::Notify;

    use super::*;

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        (0..1000u64, 0..5000u64, 0..1000u64, 0..3i32).prop_map(|(intended, delay_us, service, code)| {
            let intended = Duration::from_millis(intended);
            let sent = intended + Duration::from_micros(delay_us);
            let ended = sent + Duration::from_millis(service);
            let code = Code::from_i32(code);
            Outcome {
                intended,
                sent,
                ended,
                code,
            }
        })
    }

    proptest! {
        #[test]
        fn every_request_is_counted_once(outcomes in proptest::collection::vec(any_outcome(), 0..100)) {
            let length = Duration::from_secs(1);
            let summary = OpenLoopSummary::of(length, &outcomes);
            prop_assert!(summary.elapsed >= length);
            prop_assert!(outcomes.iter().all(|outcome| outcome.ended <= summary.elapsed));
            let failed: usize = summary.failures.values().sum();
            prop_assert_eq!(summary.sent, outcomes.len());
            prop_assert_eq!(summary.answered() + failed, outcomes.len());
            prop_assert!(summary.late <= summary.sent);
            let shares = [0.0, 0.5, 0.9, 0.99, 0.999, 1.0].map(|share| summary.quantile(share));
            prop_assert!(shares.is_sorted());
        }

        /// However late this side sends, the latency begins when the request was due.
        #[test]
        fn latency_counts_from_the_intended_start(outcome in any_outcome()) {
            let outcome = Outcome { code: Code::Ok, ..outcome };
            let summary = OpenLoopSummary::of(Duration::ZERO, &[outcome]);
            prop_assert_eq!(summary.quantile(1.0), outcome.ended - outcome.intended);
            prop_assert_eq!(summary.late == 1, outcome.sent - outcome.intended > LATE_AFTER);
        }
    }

    /// Answers nothing until every request has been sent.
    struct Stalled {
        count: usize,
        sent: std::sync::atomic::AtomicUsize,
        all_sent: Notify,
    }

    impl OpenWorkload for Stalled {
        async fn call(&self, index: usize) -> Result<(), Code> {
            let all_sent = self.all_sent.notified();
            if self.sent.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == self.count {
                self.all_sent.notify_waiters();
            } else {
                all_sent.await;
            }
            if index == 0 {
                Err(Code::ResourceExhausted)
            } else {
                Ok(())
            }
        }
    }

    #[tokio::test]
    async fn a_stalled_server_does_not_hold_back_requests() {
        let schedule: Vec<Duration> = (0..50).map(Duration::from_millis).collect();
        let workload = Arc::new(Stalled {
            count: schedule.len(),
            sent: std::sync::atomic::AtomicUsize::new(0),
            all_sent: Notify::new(),
        });
        let summary = run_open_loop(schedule, Duration::from_millis(50), workload)
            .await
            .unwrap();
        assert_eq!((summary.sent, summary.answered()), (50, 49));
        assert_eq!(summary.failures, [("ResourceExhausted".to_owned(), 1)].into());
        // The second waited for the last, which was due 48 ms later.
        assert!(summary.quantile(1.0) >= Duration::from_millis(48));
    }
}
