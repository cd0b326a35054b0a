//! The steps and their parameters: the backbone's, and those by which heads override them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use headswap_checkpoint::{Digest, HostTensor, Parameters};
use headswap_spec::{LayerKind, PICTURE_SIDE, Step};

use super::plan::StepKey;

/// The parameters of one step on a device: a weight of type `W`, a bias of type `B`.
pub struct StepParameters<W, B> {
    /// The convolution's or Linear's weight.
    pub weight: Arc<W>,
    /// Its bias.
    pub bias: Arc<B>,
}

impl<W, B> Clone for StepParameters<W, B> {
    fn clone(&self) -> Self {
        Self {
            weight: Arc::clone(&self.weight),
            bias: Arc::clone(&self.bias),
        }
    }
}

/// The backbone without its last Linear. The device's thread and the threads that place heads share it.
pub struct Stack<W, B> {
    /// The steps, in order.
    pub steps: Vec<Step>,
    backbone: Vec<StepParameters<W, B>>,
}

impl<W, B> Stack<W, B> {
    /// Returns a stack of these steps. `backbone` are the parameters of each.
    ///
    /// # Panics
    /// If there are not as many parameters as steps.
    pub fn new(steps: Vec<Step>, backbone: Vec<StepParameters<W, B>>) -> Self {
        assert_eq!(steps.len(), backbone.len(), "each step has parameters");
        Self { steps, backbone }
    }

    /// Returns the parameters of a step for a head, or for the backbone itself.
    pub fn parameters<'a>(&'a self, step: usize, head: Option<&'a Overrides<W, B>>) -> &'a StepParameters<W, B> {
        head.and_then(|head| head.steps.get(&step))
            .unwrap_or(&self.backbone[step])
    }

    /// Returns the height and width of the maps that enter a step, which must be a convolution.
    pub fn input_side(&self, step: usize) -> usize {
        PICTURE_SIDE >> self.steps[..step].iter().filter(|step| step.pool).count()
    }

    /// Returns the shape of one row that enters a step, or that leaves the last one if `step` is the number of steps:
    /// channels, height and width, or a length.
    pub fn input_shape(&self, step: usize) -> Vec<usize> {
        match (self.steps.get(step), self.steps.last()) {
            (Some(next), _) => match next.kind {
                LayerKind::Conv { input, .. } => vec![input, self.input_side(step), self.input_side(step)],
                LayerKind::Linear { input, .. } => vec![input],
                _ => unreachable!("only layers with parameters are steps"),
            },
            (None, Some(last)) => match last.kind {
                LayerKind::Conv { output, .. } | LayerKind::Linear { output, .. } => vec![output],
                _ => unreachable!("only layers with parameters are steps"),
            },
            (None, None) => Vec::new(),
        }
    }

    /// Returns the number of convolutions, which are the first steps.
    pub fn convolutions(&self) -> usize {
        self.steps.iter().take_while(|step| step.is_convolution()).count()
    }
}

/// The steps that a head overrides, each with both parameters, of which one may be the backbone's.
pub struct Overrides<W, B> {
    steps: BTreeMap<usize, StepParameters<W, B>>,
    /// The parameters that each step uses, up to the last overridden one.
    pub keys: Vec<StepKey>,
}

impl<W, B> Overrides<W, B> {
    /// Returns the first step that the head overrides.
    pub fn first(&self) -> Option<usize> {
        self.steps.keys().next().copied()
    }

    /// Returns the sum of the sizes of the head's own parameters.
    pub fn bytes(&self, weight: impl Fn(&W) -> usize, bias: impl Fn(&B) -> usize) -> usize {
        let mut bytes = 0;
        for (&step, parameters) in &self.steps {
            let key = self.keys[step];
            if key.weight != 0 {
                bytes += weight(&parameters.weight);
            }
            if key.bias != 0 {
                bytes += bias(&parameters.bias);
            }
        }
        bytes
    }
}

/// Places the parameters that heads override; heads with equal parameters share them.
pub struct ParamInterner<W, B> {
    weights: Interned<W>,
    biases: Interned<B>,
}

impl<W, B> Default for ParamInterner<W, B> {
    fn default() -> Self {
        Self {
            weights: Interned::default(),
            biases: Interned::default(),
        }
    }
}

impl<W, B> ParamInterner<W, B> {
    /// Places those of `parameters` that belong to steps. `weight` and `bias` each place one parameter.
    pub fn place<E>(
        &self,
        stack: &Stack<W, B>,
        parameters: &Parameters,
        weight: impl Fn(&Step, &Arc<HostTensor>) -> Result<W, E>,
        bias: impl Fn(&Arc<HostTensor>) -> Result<B, E>,
    ) -> Result<Overrides<W, B>, E> {
        let (mut steps, mut keys) = (BTreeMap::new(), Vec::new());
        for (index, step) in stack.steps.iter().enumerate() {
            let (own_weight, own_bias) = (parameters.get(&step.weight()), parameters.get(&step.bias()));
            if own_weight.is_none() && own_bias.is_none() {
                continue;
            }
            let mut placed = stack.parameters(index, None).clone();
            let mut key = StepKey::default();
            // A key is an address, which is unique as long as the head owns the parameter.
            if let Some(own) = own_weight {
                placed.weight = self.weights.get(index, own, || weight(step, own))?;
                key.weight = Arc::as_ptr(&placed.weight).addr();
            }
            if let Some(own) = own_bias {
                placed.bias = self.biases.get(index, own, || bias(own))?;
                key.bias = Arc::as_ptr(&placed.bias).addr();
            }
            steps.insert(index, placed);
            keys.resize(index, StepKey::default());
            keys.push(key);
        }
        Ok(Overrides { steps, keys })
    }
}

/// Parameters by step and digest, for as long as a head owns them.
struct Interned<T>(Mutex<HashMap<(usize, Digest), Weak<T>>>);

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Interned<T> {
    /// Returns the parameter that another head placed, or places it.
    fn get<E>(&self, step: usize, host: &HostTensor, place: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let key = (step, host.digest());
        let found = self.lock().get(&key).and_then(Weak::upgrade);
        if let Some(found) = found {
            return Ok(found);
        }
        // Without the lock: placing is slow, and at worst two threads place the same parameter.
        let new = Arc::new(place()?);
        let mut placed = self.lock();
        placed.retain(|_, placed| placed.strong_count() > 0);
        placed.insert(key, Arc::downgrade(&new));
        Ok(new)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(usize, Digest), Weak<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
