//! The steps and their parameters: the backbone's, and in their place those that a head overrides.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use headswap_checkpoint::{Digest, HostTensor, Parameters};
use headswap_spec::{LayerKind, PICTURE_SIDE, Step};

use super::plan::StepKey;

/// The parameters of one step as a device has them: a weight of type `W`, a bias of type `B`.
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

/// The backbone without its last Linear. Shared by the device's thread and by those who place heads.
pub struct Stack<W, B> {
    /// In their order.
    pub steps: Vec<Step>,
    backbone: Vec<StepParameters<W, B>>,
}

impl<W, B> Stack<W, B> {
    /// As many parameters as steps.
    pub fn new(steps: Vec<Step>, backbone: Vec<StepParameters<W, B>>) -> Self {
        assert_eq!(steps.len(), backbone.len(), "each step has parameters");
        Self { steps, backbone }
    }

    /// What a step uses for a head, or for the backbone itself.
    pub fn parameters<'a>(&'a self, step: usize, head: Option<&'a Overrides<W, B>>) -> &'a StepParameters<W, B> {
        head.and_then(|head| head.steps.get(&step))
            .unwrap_or(&self.backbone[step])
    }

    /// Height and width of the maps that enter a step, if it is a convolution.
    pub fn input_side(&self, step: usize) -> usize {
        PICTURE_SIDE >> self.steps[..step].iter().filter(|step| step.pool).count()
    }

    /// The shape of one row that enters a step, or that leaves the last one: channels, side and side, or a length.
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

    /// How many of the steps are convolutions; they come first.
    pub fn convolutions(&self) -> usize {
        self.steps.iter().take_while(|step| step.is_convolution()).count()
    }
}

/// The steps that a head overrides. For each, both parameters: one of them may be the backbone's.
pub struct Overrides<W, B> {
    steps: BTreeMap<usize, StepParameters<W, B>>,
    /// Which parameters each step uses, up to the last overridden one.
    pub keys: Vec<StepKey>,
}

impl<W, B> Overrides<W, B> {
    /// The first step with a parameter of the head's.
    pub fn first(&self) -> Option<usize> {
        self.steps.keys().next().copied()
    }

    /// The sizes of the head's own parameters, summed.
    pub fn bytes(&self, weight: impl Fn(&W) -> usize, bias: impl Fn(&B) -> usize) -> usize {
        let one = |(&step, parameters): (&usize, &StepParameters<W, B>)| {
            let key = self.keys[step];
            let weight = if key.weight == 0 { 0 } else { weight(&parameters.weight) };
            weight + if key.bias == 0 { 0 } else { bias(&parameters.bias) }
        };
        self.steps.iter().map(one).sum()
    }
}

/// Places what heads override, and lets them share what they have in common.
pub struct ParamInterner<W, B> {
    weights: Sharing<W>,
    biases: Sharing<B>,
}

impl<W, B> Default for ParamInterner<W, B> {
    fn default() -> Self {
        Self {
            weights: Sharing::default(),
            biases: Sharing::default(),
        }
    }
}

impl<W, B> ParamInterner<W, B> {
    /// Places those of `parameters` that belong to steps.
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
            // The parameters live as long as the head, and so do their addresses, by which steps are told apart.
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

/// Parameters by step and digest, for as long as a head has them.
struct Sharing<T>(Mutex<HashMap<(usize, Digest), Weak<T>>>);

impl<T> Default for Sharing<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Sharing<T> {
    /// As another head placed it, or new.
    fn get<E>(&self, step: usize, host: &HostTensor, place: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let key = (step, host.digest());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = lock().get(&key).and_then(Weak::upgrade);
        if let Some(found) = found {
            return Ok(found);
        }
        // Without the lock: placing may take a while, and at worst two place the same.
        let new = Arc::new(place()?);
        let mut placed = lock();
        placed.retain(|_, placed| placed.strong_count() > 0);
        placed.insert(key, Arc::downgrade(&new));
        Ok(new)
    }
}
