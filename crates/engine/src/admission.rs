//! How many requests are under way: unary calls beyond the bound are refused, those of streams wait for a place.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::class::Class;
use super::error::{EngineError, Stage};
use super::metrics::Counted;

/// Places for requests; clones share them. Each class has places of its own, so that no number of streams makes the
/// server refuse a unary call.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    interactive: Arc<Semaphore>,
    /// First come, first served; a stream asks for one place at a time, so streams take turns.
    bulk: Arc<Semaphore>,
    in_flight: Gauge,
}

/// A request's place, from its admission until it is answered or dropped.
#[derive(Debug)]
pub struct Admitted {
    class: Class,
    _place: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Admission {
    /// `in_flight_max` places for each class.
    pub fn new(in_flight_max: usize, in_flight: Gauge) -> Self {
        let places = || Arc::new(Semaphore::new(in_flight_max.min(Semaphore::MAX_PERMITS)));
        Self {
            interactive: places(),
            bulk: places(),
            in_flight,
        }
    }

    /// A place for a request of this class: at once or not at all for a unary call, within its deadline for a stream's.
    pub async fn admit(&self, class: Class, deadline: Option<Instant>) -> Result<Admitted, EngineError> {
        let place = match class {
            Class::Interactive => {
                let place = Arc::clone(&self.interactive).try_acquire_owned();
                place.map_err(|_| EngineError::Full)?
            }
            Class::Bulk => {
                let place = Arc::clone(&self.bulk).acquire_owned();
                let place = match deadline {
                    None => place.await,
                    Some(deadline) => {
                        let expired = |_| EngineError::Expired(Stage::Waiting);
                        timeout_at(deadline, place).await.map_err(expired)?
                    }
                };
                place.map_err(|_| EngineError::Stopped)?
            }
        };
        Ok(Admitted {
            class,
            _place: place,
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
    async fn a_unary_call_is_refused_by_its_own_kind_alone_and_streams_wait() {
        let admission = Admission::new(2, Gauge::default());
        let bulk = || admission.admit(Class::Bulk, None);
        let interactive = || admission.admit(Class::Interactive, None);
        let held = [bulk().await.unwrap(), bulk().await.unwrap()];
        let mut third = Box::pin(bulk());
        assert!(third.as_mut().now_or_never().is_none());

        let calls = [interactive().await.unwrap(), interactive().await.unwrap()];
        assert_eq!(admission.in_flight.get(), 4);
        assert!(matches!(interactive().await, Err(EngineError::Full)));
        drop(calls);
        interactive().await.unwrap();
        // A unary call's place is none for a stream.
        assert!(third.as_mut().now_or_never().is_none());
        drop(held);
        third.await.unwrap();
        assert_eq!(admission.in_flight.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_place_ends_at_the_deadline() {
        let admission = Admission::new(1, Gauge::default());
        let _held = admission.admit(Class::Bulk, None).await.unwrap();
        let deadline = Instant::now() + std::time::Duration::from_secs(1);
        let refused = admission.admit(Class::Bulk, Some(deadline)).await;
        assert!(matches!(refused, Err(EngineError::Expired(Stage::Waiting))));
        assert_eq!(Instant::now(), deadline);
    }
}
