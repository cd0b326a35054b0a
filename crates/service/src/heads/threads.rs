//! Threads of administration's own, a bounded number of each kind.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use headswap_checkpoint::{Throttle, lower_priority};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::ServiceError;

/// Threads that begin with some work and end with it. Dropping this waits for those that run.
pub(super) struct Threads {
    name: &'static str,
    places: Arc<Semaphore>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

/// A place for one thread.
pub(super) type Place = OwnedSemaphorePermit;

/// How much of the CPU some work gets beside requests.
#[derive(Clone, Debug)]
pub(super) enum Priority {
    /// As much as other threads.
    Normal,
    /// What is left: a low priority, and a throttle that sleeps while this gauge of requests in flight is above 0.
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

/// Work on a thread, which goes on if this is dropped. Returns the thread's place with the result.
pub(super) struct Running<T>(oneshot::Receiver<(Place, T)>);

impl Threads {
    /// At most `max` at once.
    pub fn new(name: &'static str, max: usize) -> Self {
        Self {
            name,
            places: Arc::new(Semaphore::new(max)),
            running: Mutex::default(),
        }
    }

    /// A place, in order of arrival.
    pub async fn place(&self) -> Result<Place, ServiceError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        place.map_err(|_| ServiceError::Internal("the threads of administration ended".into()))
    }

    /// A place, if there is one now.
    pub fn try_place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Begins `work`. It has its place until it ends, whether or not its caller waits.
    ///
    /// # Errors
    /// [`ServiceError::Internal`] if the system gives no thread.
    pub fn start<T: Send + 'static>(
        &self,
        place: Place,
        priority: Priority,
        work: impl FnOnce(&Throttle) -> T + Send + 'static,
    ) -> Result<Running<T>, ServiceError> {
        let (done, result) = oneshot::channel();
        let body = move || {
            let answer = work(&priority.apply());
            let _ = done.send((place, answer));
        };
        let thread = std::thread::Builder::new().name(self.name.into()).spawn(body);
        let thread = thread.map_err(|error| failed(&error.to_string()))?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|thread| !thread.is_finished());
        running.push(thread);
        Ok(Running(result))
    }

    /// Waits for a place, then for the work.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ServiceError> {
        let place = self.place().await?;
        let (_place, answer) = self.start(place, Priority::Normal, |_| work())?.await?;
        Ok(answer)
    }
}

impl<T> Future for Running<T> {
    type Output = Result<(Place, T), ServiceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = Pin::new(&mut self.0).poll(context);
        ended.map(|result| result.map_err(|_| failed("it panicked")))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        for thread in running.drain(..) {
            // One that panicked has told its caller.
            let _ = thread.join();
        }
    }
}

fn failed(reason: &str) -> ServiceError {
    ServiceError::Internal(format!("work on heads failed ({reason}); what was live stays live"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use headswap_checkpoint::NICENESS;

    #[tokio::test]
    async fn threads_are_bounded_and_waited_for() {
        let threads = Threads::new("test", 1);
        let (go, wait) = mpsc::channel::<()>();
        let place = threads.place().await.unwrap();
        let blocked = threads.start(place, Priority::Normal, move |_| wait.recv());
        assert!(threads.try_place().is_none());
        // The thread keeps its place if its caller is gone.
        drop(blocked);
        assert!(threads.try_place().is_none());
        go.send(()).unwrap();
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);

        let ended = Arc::new(Mutex::new(false));
        let end = Arc::clone(&ended);
        let (go, wait) = mpsc::channel::<()>();
        let place = threads.place().await.unwrap();
        let last = threads.start(place, Priority::Normal, move |_| {
            wait.recv().unwrap();
            *end.lock().unwrap() = true;
        });
        go.send(()).unwrap();
        drop(threads);
        assert!(*ended.lock().unwrap());
        drop(last);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_gives_the_place_back() {
        let threads = Threads::new("test", 1);
        let error = threads.run(|| panic!("a test's panic")).await.unwrap_err();
        assert!(error.to_string().contains("it panicked"), "{error}");
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn gentle_work_asks_whether_requests_are_under_way() {
        let threads = Threads::new("test", 1);
        let in_flight = Gauge::<i64, std::sync::atomic::AtomicI64>::default();
        in_flight.set(1);
        let place = threads.place().await.unwrap();
        let work = |throttle: &Throttle| {
            // Sleeps after each millisecond of work, nine times as long.
            let started = std::time::Instant::now();
            let mut rested = false;
            while !rested {
                let before = started.elapsed();
                throttle.pause();
                rested = (started.elapsed() - before).as_millis() > 5;
            }
            // SAFETY: getpriority takes plain numbers; 0 is the calling thread.
            unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
        };
        let (_place, niceness) = threads
            .start(place, Priority::Background(in_flight), work)
            .unwrap()
            .await
            .unwrap();
        assert!(niceness >= NICENESS);
    }
}
