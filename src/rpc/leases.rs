//! The heads of a request, on the device before it is computed and until it is answered.

use std::sync::Arc;

use futures::future::join_all;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::gate::Serving;
use super::status;
use crate::heads::{Acquired, HeadError, HeadName, HeadVersion, Lease, Pending, Urgency};
use crate::model::PlacedHead;

/// A version that a request resolved.
pub(super) type Version = Arc<HeadVersion<PlacedHead>>;

/// What a request holds of one head.
pub(super) struct Held {
    pub version: Version,
    pub lease: Lease<PlacedHead>,
}

/// Whether a request waits for its turn or is refused when the server is at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// For unary calls.
    Refused,
    /// For streams, which have flow control.
    Waits,
}

impl Patience {
    /// What a unary call waits for is loaded before what streams wait for.
    fn urgency(self) -> Urgency {
        match self {
            Self::Refused => Urgency::Interactive,
            Self::Waits => Urgency::Bulk,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// The version of every head; 0 is the live one.
    pub version: u64,
    pub deadline: Option<Instant>,
    pub patience: Patience,
}

enum Found {
    Held(Held),
    Loading(HeadName, Version, Pending<PlacedHead>),
    Failed(Status),
}

/// Every head that is asked for, or why not: each fails by itself. What is not on the device is loaded meanwhile.
///
/// # Errors
/// If the deadline passes, or no more requests may wait for heads.
pub(super) async fn lease(
    serving: &Serving,
    names: &[String],
    asked: Asked,
) -> Result<Vec<Result<Held, Status>>, Status> {
    let found: Vec<Found> = names.iter().map(|name| find(serving, name, asked)).collect();
    let waits = found.iter().any(|found| matches!(found, Found::Loading(..)));
    let all = async {
        let _permit = match asked.patience {
            _ if !waits => None,
            Patience::Refused => Some(serving.load_waits.try_acquire().map_err(|_| status::overloaded())?),
            // The semaphore is never closed.
            Patience::Waits => serving.load_waits.acquire().await.ok(),
        };
        let settled = found.into_iter().map(|found| settled(serving, found, asked));
        Ok(join_all(settled).await)
    };
    match asked.deadline.filter(|_| waits) {
        None => all.await,
        Some(deadline) => timeout_at(deadline, all).await.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(
                "the deadline passed while a head was being loaded",
            ))
        }),
    }
}

fn find(serving: &Serving, name: &str, asked: Asked) -> Found {
    let resolve = || -> Result<_, HeadError> {
        let name = HeadName::parse(name)?;
        Ok((serving.registry.table().resolve(&name, asked.version)?, name))
    };
    match resolve() {
        Ok((version, name)) => acquire(serving, name, version, asked.patience.urgency()),
        Err(error) => Found::Failed(status::of_head(&error)),
    }
}

fn acquire(serving: &Serving, name: HeadName, version: Version, urgency: Urgency) -> Found {
    match serving.registry.acquire(&version, urgency) {
        Acquired::Hot(lease) => Found::Held(Held { version, lease }),
        Acquired::Wait(pending) => Found::Loading(name, version, pending),
        Acquired::Load(pending, task) => {
            // Detached: others may wait for it, too.
            drop(tokio::task::spawn_blocking(|| task.run()));
            Found::Loading(name, version, pending)
        }
    }
}

async fn settled(serving: &Serving, mut found: Found, asked: Asked) -> Result<Held, Status> {
    loop {
        let (name, version, pending) = match found {
            Found::Held(held) => return Ok(held),
            Found::Failed(status) => return Err(status),
            Found::Loading(name, version, pending) => (name, version, pending),
        };
        found = match pending.await {
            Ok(lease) => Found::Held(Held { version, lease }),
            // Others took its place while this waited; a request for the live one gets the one that is live now.
            Err(error) if matches!(*error, HeadError::LetGo { .. }) => find(serving, name.as_str(), asked),
            Err(error) => Found::Failed(status::of_head(&*error)),
        };
    }
}
