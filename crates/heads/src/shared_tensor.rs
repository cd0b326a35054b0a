//! Tensors that versions have in common: held once, and counted once.
//!
//! Heads of one network that no `--weights` names have its convolutions as parameters of their own. The backend places equal
//! parameters of a step once; here they are held once in host memory, and their bytes count once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use headswap_checkpoint::{Digest, HostTensor, Parameters};
use headswap_spec::CompleteSpec;

/// Smaller tensors count for each version.
const SHARED_BYTES_MIN: usize = 64 << 10;

/// A tensor of a version that other versions may have, too: one with this name and digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedTensor {
    /// Its name in normal form.
    pub name: Arc<str>,
    /// Its digest.
    pub digest: Digest,
    /// Its size in f32.
    pub bytes: u64,
}

impl SharedTensor {
    /// Returns those of a head's parameters. The last Linear is not one, because a device keeps it for each head.
    pub(super) fn of(parameters: &Parameters, spec: &CompleteSpec) -> Arc<[Self]> {
        let last = spec.parameter_names(spec.last_linear()).unwrap_or_default();
        let mut shared = Vec::new();
        for (name, tensor) in parameters {
            if tensor.bytes() >= SHARED_BYTES_MIN && !last.contains(name) {
                shared.push(Self {
                    name: name.as_str().into(),
                    digest: tensor.digest(),
                    bytes: tensor.bytes() as u64,
                });
            }
        }
        shared.into()
    }
}

/// The tensors in host memory, by digest, as long as a version has them.
#[derive(Default)]
pub(super) struct TensorPool(Mutex<Pooled>);

#[derive(Default)]
struct Pooled {
    tensors: HashMap<Digest, Weak<HostTensor>>,
    /// At this number, entries of tensors that no version has any more are removed.
    swept_at: usize,
}

impl TensorPool {
    /// Returns the parameters with the pool's tensors in the place of equal ones; the pool keeps track of the others.
    pub fn share(&self, parameters: &Arc<Parameters>) -> Arc<Parameters> {
        if parameters.values().all(|tensor| tensor.bytes() < SHARED_BYTES_MIN) {
            return Arc::clone(parameters);
        }
        let mut shared = Parameters::clone(parameters);
        for tensor in shared.values_mut() {
            if tensor.bytes() >= SHARED_BYTES_MIN {
                // Outside the lock: the first call computes it.
                let digest = tensor.digest();
                *tensor = self.get(digest, tensor);
            }
        }
        Arc::new(shared)
    }

    fn get(&self, digest: Digest, tensor: &Arc<HostTensor>) -> Arc<HostTensor> {
        let mut pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = pooled.tensors.get(&digest).and_then(Weak::upgrade) {
            return known;
        }
        if pooled.tensors.len() >= pooled.swept_at {
            pooled.tensors.retain(|_, tensor| tensor.strong_count() > 0);
            // Twice as many, so that a sweep costs little for each tensor.
            pooled.swept_at = 64.max(2 * pooled.tensors.len());
        }
        pooled.tensors.insert(digest, Arc::downgrade(tensor));
        Arc::clone(tensor)
    }
}

#[cfg(test)]
mod tests {
    use headswap_spec::{LAST_WEIGHT, Preset};

    use super::*;

    fn parameters(values: &[(&str, f32)]) -> Arc<Parameters> {
        let mut parameters = Parameters::new();
        for (name, value) in values {
            let count = SHARED_BYTES_MIN / 4;
            parameters.insert(
                (*name).to_owned(),
                Arc::new(HostTensor::new(vec![count], vec![*value; count])),
            );
        }
        Arc::new(parameters)
    }

    #[test]
    fn equal_tensors_are_held_once_while_a_version_has_them() {
        let pool = TensorPool::default();
        let first = pool.share(&parameters(&[("a", 1.0), ("b", 2.0)]));
        let second = pool.share(&parameters(&[("a", 1.0), ("b", 3.0)]));
        assert!(Arc::ptr_eq(&first["a"], &second["a"]));
        assert!(!Arc::ptr_eq(&first["b"], &second["b"]));
        let held = Arc::downgrade(&first["a"]);
        drop((first, second));
        assert_eq!(held.strong_count(), 0);
        for round in 0..1000 {
            drop(pool.share(&parameters(&[("a", round as f32)])));
        }
        assert!(pool.0.lock().unwrap().tensors.len() <= 128);
    }

    #[test]
    fn last_linears_and_small_tensors_are_not_shared() {
        let mut parameters = Parameters::clone(&parameters(&[("features.0.weight", 1.0), (LAST_WEIGHT, 1.0)]));
        parameters.insert("features.0.bias".into(), Arc::new(HostTensor::new(vec![1], vec![1.0])));
        let spec = CompleteSpec::plain(Preset::Torchvision.preprocessing(), 2);
        let shared = SharedTensor::of(&parameters, &spec);
        assert_eq!(shared.len(), 1);
        assert_eq!(
            (&*shared[0].name, shared[0].bytes),
            ("features.0.weight", SHARED_BYTES_MIN as u64)
        );
    }
}
