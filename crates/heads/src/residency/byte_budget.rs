//! A budget of device memory: bytes are reserved before they are used and released when their last owner is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headswap_checkpoint::Digest;

use crate::shared_tensor::SharedTensor;

/// What a version takes on the device: bytes of its own, and tensors that count once for all versions that have them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demand {
    pub own: u64,
    pub shared: Arc<[SharedTensor]>,
}

/// A limit on bytes; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ByteBudget(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    bytes_max: u64,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: u64,
    /// The number of reservations with a shared tensor.
    shared: HashMap<(Arc<str>, Digest), usize>,
}

/// Bytes that are reserved until this is dropped; the default reserves nothing.
#[derive(Debug, Default)]
pub struct Reservation(Option<Arc<Reserved>>);

#[derive(Debug)]
struct Reserved {
    demand: Demand,
    budget: Mutex<ByteBudget>,
}

impl Used {
    /// Returns the bytes that a demand adds.
    fn added(&self, demand: &Demand) -> u64 {
        let mut bytes = demand.own;
        for tensor in &demand.shared[..] {
            if !self.shared.contains_key(&key(tensor)) {
                bytes = bytes.saturating_add(tensor.bytes);
            }
        }
        bytes
    }

    fn add(&mut self, demand: &Demand) {
        self.bytes += self.added(demand);
        for tensor in &demand.shared[..] {
            *self.shared.entry(key(tensor)).or_default() += 1;
        }
    }

    fn remove(&mut self, demand: &Demand) {
        self.bytes -= demand.own;
        for tensor in &demand.shared[..] {
            let key = key(tensor);
            match self.shared.get_mut(&key) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    self.shared.remove(&key);
                    self.bytes -= tensor.bytes;
                }
            }
        }
    }
}

fn key(tensor: &SharedTensor) -> (Arc<str>, Digest) {
    (Arc::clone(&tensor.name), tensor.digest)
}

impl ByteBudget {
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Counter {
            bytes_max,
            used: Mutex::default(),
        }))
    }

    pub fn bytes_max(&self) -> u64 {
        self.0.bytes_max
    }

    /// Reserves what a version takes if so many bytes are left.
    pub fn reserve(&self, demand: &Demand) -> Option<Reservation> {
        let mut used = self.used();
        let bytes = used.bytes.checked_add(used.added(demand))?;
        if bytes > self.0.bytes_max {
            return None;
        }
        used.add(demand);
        drop(used);
        Some(Reservation(Some(Arc::new(Reserved {
            demand: demand.clone(),
            budget: Mutex::new(self.clone()),
        }))))
    }

    /// Returns how many bytes must be released before a version's can be reserved.
    pub fn lacking(&self, demand: &Demand) -> u64 {
        let used = self.used();
        let bytes = used.bytes.saturating_add(used.added(demand));
        bytes.saturating_sub(self.0.bytes_max)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Returns another owner of the same bytes, which stay reserved until both are dropped.
    pub(crate) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// Moves these bytes to the budget of `other`, which reserved the same, and releases them in their own.
    pub(crate) fn move_into(&self, other: Self) {
        if let (Some(own), Some(other)) = (&self.0, &other.0) {
            debug_assert_eq!(own.demand.own, other.demand.own);
            debug_assert_eq!(own.demand.shared, other.demand.shared);
            std::mem::swap(&mut *own.budget(), &mut *other.budget());
        }
    }
}

impl Reserved {
    fn budget(&self) -> MutexGuard<'_, ByteBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let budget = self.budget().clone();
        budget.used().remove(&self.demand);
    }
}

#[cfg(test)]
mod tests {
    use headswap_checkpoint::Parameters;
    use proptest::prelude::*;

    use super::*;

    fn own(own: u64) -> Demand {
        Demand {
            own,
            ..Demand::default()
        }
    }

    fn tensor(name: u8) -> SharedTensor {
        let name = format!("features.{name}.weight");
        SharedTensor {
            digest: Digest::of_parameters(&Parameters::new(), std::slice::from_ref(&name)),
            bytes: 10 + name.len() as u64,
            name: name.into(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is reserved and released, each tensor counts once while a version has it.
        #[test]
        fn shared_tensors_count_once(steps in prop::collection::vec((0u64..9, prop::collection::btree_set(0u8..4, 0..4), 0usize..4), 1..40)) {
            let budget = ByteBudget::new(60);
            let mut held: Vec<(Demand, Reservation)> = Vec::new();
            for (own, tensors, release) in steps {
                if release == 0 && !held.is_empty() {
                    held.remove(own as usize % held.len());
                }
                let demand = Demand { own, shared: tensors.into_iter().map(tensor).collect() };
                let (before, lacking) = (used(&budget), budget.lacking(&demand));
                match budget.reserve(&demand) {
                    Some(reservation) => {
                        prop_assert_eq!(lacking, 0);
                        held.push((demand, reservation));
                    }
                    None => prop_assert!(lacking > 0 && used(&budget) == before),
                }
                let mut expected: u64 = held.iter().map(|(demand, _)| demand.own).sum();
                for index in 0..4 {
                    let tensor = tensor(index);
                    if held.iter().any(|(demand, _)| demand.shared.contains(&tensor)) {
                        expected += tensor.bytes;
                    }
                }
                prop_assert_eq!(used(&budget), expected);
                prop_assert!(expected <= 60);
            }
            held.clear();
            prop_assert_eq!(used(&budget), 0);
        }
    }

    #[test]
    fn bytes_move_from_one_budget_to_another() {
        let (trial, main) = (ByteBudget::new(10), ByteBudget::new(10));
        let (on_trial, kept) = (trial.reserve(&own(6)).unwrap(), main.reserve(&own(6)).unwrap());
        let held = on_trial.share();
        assert!(trial.reserve(&own(5)).is_none());
        on_trial.move_into(kept);
        assert_eq!((used(&trial), used(&main)), (0, 6));
        drop(on_trial);
        assert_eq!((used(&trial), used(&main)), (0, 6));
        drop(held);
        assert_eq!((used(&trial), used(&main)), (0, 0));
    }

    fn used(budget: &ByteBudget) -> u64 {
        budget.used().bytes
    }
}
