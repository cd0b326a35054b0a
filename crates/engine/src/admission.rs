//! Admission: beyond the limit of requests in flight, unary calls are refused and streams' requests wait for a permit.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::class::Class;
use super::error::{EngineError, Stage};
use super::metrics::Counted;

/// Permits for requests in flight; clones share them. Each class has its own, so that streams never make the server refuse
/// a unary call.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    interactive: Arc<Semaphore>,
    /// FIFO; a stream waits for one permit at a time, so streams take turns.
    bulk: Arc<Semaphore>,
    in_flight: Gauge,
}

/// A request's permit, from its admission until it is answered or dropped.
#[derive(Debug)]
pub struct Admitted {
    class: Class,
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Admission {
    /// Creates `in_flight_max` permits for each class.
    pub fn new(in_flight_max: usize, in_flight: Gauge) -> Self {
        let permits = in_flight_max.min(Semaphore::MAX_PERMITS);
        Self {
            interactive: Arc::new(Semaphore::new(permits)),
            bulk: Arc::new(Semaphore::new(permits)),
            in_flight,
        }
    }

    /// Admits a request: a unary call at once or not at all, a request of a stream before its deadline.
    pub async fn admit(&self, class: Class, deadline: Option<Instant>) -> Result<Admitted, EngineError> {
        let permit = match class {
            Class::Interactive => {
                let permit = Arc::clone(&self.interactive).try_acquire_owned();
                permit.map_err(|_| EngineError::Full)?
            }
            Class::Bulk => {
                let acquire = Arc::clone(&self.bulk).acquire_owned();
                let permit = match deadline {
                    None => acquire.await,
                    Some(deadline) => timeout_at(deadline, acquire)
                        .await
                        .map_err(|_| EngineError::Expired(Stage::Waiting))?,
                };
                permit.map_err(|_| EngineError::Stopped)?
            }
        };
        Ok(Admitted {
            class,
            _permit: permit,
            _counted: Counted::new(&self.in_flight),
        })
    }
}

impl Admitted {
    /// The class that it was admitted as.
    pub fn class(&self) -> Class {
        self.class
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_class_has_its_own_limit_and_only_streams_wait() {
        let admission = Admission::new(2, Gauge::default());
        let mut held = Vec::new();
        for class in [Class::Bulk, Class::Interactive] {
            for _ in 0..2 {
                held.push(admission.admit(class, None).await.unwrap());
            }
        }
        assert_eq!(admission.in_flight.get(), 4);
        let mut third = Box::pin(admission.admit(Class::Bulk, None));
        assert!(third.as_mut().now_or_never().is_none());
        let refused = admission.admit(Class::Interactive, None).await;
        assert!(matches!(refused, Err(EngineError::Full)));

        held.retain(|admitted| admitted.class() == Class::Bulk);
        admission.admit(Class::Interactive, None).await.unwrap();
        // A stream cannot use the permit of a unary call.
        assert!(third.as_mut().now_or_never().is_none());
        held.clear();
        third.await.unwrap();
        assert_eq!(admission.in_flight.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_permit_ends_at_the_deadline() {
        let admission = Admission::new(1, Gauge::default());
        let _held = admission.admit(Class::Bulk, None).await.unwrap();
        let deadline = Instant::now() + std::time::Duration::from_secs(1);
        let refused = admission.admit(Class::Bulk, Some(deadline)).await;
        assert!(matches!(refused, Err(EngineError::Expired(Stage::Waiting))));
        assert_eq!(Instant::now(), deadline);
    }
}
