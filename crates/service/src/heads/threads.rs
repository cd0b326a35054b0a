//! The threads of administration, a bounded number of each kind.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use headswap_checkpoint::{Throttle, lower_priority};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::ServiceError;

/// Starts a thread for each piece of work. Dropping this waits for the running threads.
pub(super) struct Threads {
    name: &'static str,
    permits: Arc<Semaphore>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

/// A permit to run one thread.
pub(super) type ThreadPermit = OwnedSemaphorePermit;

/// The priority of work against requests.
#[derive(Clone, Debug)]
pub(super) enum Priority {
    /// The same as other threads.
    Normal,
    /// A low thread priority, and a throttle that sleeps while this gauge of requests in flight is above 0.
    Background(Gauge),
}

impl Priority {
    /// Sets the calling thread's priority and returns the throttle of its work.
    fn apply(self) -> Throttle {
        match self {
            Self::Normal => Throttle::off(),
            Self::Background(in_flight) => {
                lower_priority();
                Throttle::new(move || in_flight.get() > 0)
            }
        }
    }
}

/// Work on a thread, which goes on if this is dropped. Resolves to the thread's permit and the result.
pub(super) struct Running<T>(oneshot::Receiver<(ThreadPermit, T)>);

impl Threads {
    /// Allows `max` threads at a time.
    pub fn new(name: &'static str, max: usize) -> Self {
        Self {
            name,
            permits: Arc::new(Semaphore::new(max)),
            running: Mutex::default(),
        }
    }

    /// Waits for a permit, in order of arrival.
    pub async fn permit(&self) -> Result<ThreadPermit, ServiceError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        permit.map_err(|_| ServiceError::Internal("the threads of administration ended".into()))
    }

    /// Returns a permit if one is free.
    pub fn try_permit(&self) -> Option<ThreadPermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Starts `work` on a thread, which holds the permit until it ends, even if the caller does not wait.
    ///
    /// # Errors
    /// [`ServiceError::Internal`] if the thread cannot be started.
    pub fn start<T: Send + 'static>(
        &self,
        permit: ThreadPermit,
        priority: Priority,
        work: impl FnOnce(&Throttle) -> T + Send + 'static,
    ) -> Result<Running<T>, ServiceError> {
        let (sender, receiver) = oneshot::channel();
        let thread = std::thread::Builder::new().name(self.name.into());
        let thread = thread.spawn(move || {
            let result = work(&priority.apply());
            let _ = sender.send((permit, result));
        });
        let thread = thread.map_err(|error| failed(&error.to_string()))?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|thread| !thread.is_finished());
        running.push(thread);
        Ok(Running(receiver))
    }

    /// Waits for a permit, runs `work` on a thread and returns its result.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ServiceError> {
        let permit = self.permit().await?;
        let (_permit, result) = self.start(permit, Priority::Normal, |_| work())?.await?;
        Ok(result)
    }
}

impl<T> Future for Running<T> {
    type Output = Result<(ThreadPermit, T), ServiceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = Pin::new(&mut self.0).poll(context);
        ended.map(|result| result.map_err(|_| failed("it panicked")))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        for thread in running.drain(..) {
            // A panic has been reported to the caller.
            let _ = thread.join();
        }
    }
}

fn failed(reason: &str) -> ServiceError {
    ServiceError::Internal(format!("work on heads failed ({reason}); the live versions stay live"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use headswap_checkpoint::NICENESS;

    #[tokio::test]
    async fn threads_are_bounded_and_joined_on_drop() {
        let threads = Threads::new("test", 1);
        let (go, wait) = mpsc::channel::<()>();
        let permit = threads.permit().await.unwrap();
        let blocked = threads.start(permit, Priority::Normal, move |_| wait.recv());
        assert!(threads.try_permit().is_none());
        // The thread keeps its permit after its caller gave up.
        drop(blocked);
        assert!(threads.try_permit().is_none());
        go.send(()).unwrap();
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);

        let ended = Arc::new(Mutex::new(false));
        let end = Arc::clone(&ended);
        let (go, wait) = mpsc::channel::<()>();
        let permit = threads.permit().await.unwrap();
        let last = threads.start(permit, Priority::Normal, move |_| {
            wait.recv().unwrap();
            *end.lock().unwrap() = true;
        });
        go.send(()).unwrap();
        drop(threads);
        assert!(*ended.lock().unwrap());
        drop(last);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_releases_the_permit() {
        let threads = Threads::new("test", 1);
        let error = threads.run(|| panic!("a test's panic")).await.unwrap_err();
        assert!(error.to_string().contains("it panicked"), "{error}");
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn background_work_is_throttled_while_requests_are_in_flight() {
        let threads = Threads::new("test", 1);
        let in_flight = Gauge::<i64, std::sync::atomic::AtomicI64>::default();
        in_flight.set(1);
        let permit = threads.permit().await.unwrap();
        let (_permit, niceness) = threads
            .start(permit, Priority::Background(in_flight), work_until_throttled)
            .unwrap()
            .await
            .unwrap();
        assert!(niceness >= NICENESS);
    }

    /// Works until the throttle has slept, which it does for nine times as long after each millisecond of work. Returns the
    /// thread's niceness.
    fn work_until_throttled(throttle: &Throttle) -> i32 {
        let started = std::time::Instant::now();
        let mut slept = false;
        while !slept {
            let before = started.elapsed();
            throttle.pause();
            slept = (started.elapsed() - before).as_millis() > 5;
        }
        // SAFETY: getpriority takes plain numbers; 0 is the calling thread.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }
}
