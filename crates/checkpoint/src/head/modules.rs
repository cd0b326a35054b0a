//! What the modules of a pickled network say about a head.

use std::collections::HashMap;

use headswap_spec::{GeluKind, HeadInput, HeadLayer, Output};

use super::error::HeadFileError;
use super::found::parent;
use super::part::{Part, PartKind, is_within};
use crate::{Module, ModuleKind, excerpt};

/// What is known of a head; `None` is what its modules do not say.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub input: Option<HeadInput>,
    pub layers: Option<Vec<HeadLayer>>,
    pub output: Option<Output>,
}

/// A network's modules, found by their paths.
#[derive(Debug)]
pub(super) struct Modules<'a> {
    modules: &'a [Module],
    /// True if they are all that the network computes, in order.
    is_graph: bool,
    places: HashMap<&'a str, usize>,
}

/// What a module without parameters does to a vector.
enum Step {
    Nothing,
    Activation(HeadLayer),
    Probabilities(Output),
    Parameters,
}

/// Which layers of the backbone are modules, rather than functions that a class applies.
struct Expected {
    relus: bool,
    pools: bool,
}

fn unlike(module: &Module, expected: &'static str) -> HeadFileError {
    HeadFileError::Backbone {
        name: excerpt(&module.path),
        class: module.kind.class().to_owned(),
        expected,
    }
}

/// The number in single precision; -0 becomes 0, as in specs.
fn single(number: f64) -> f32 {
    number as f32 + 0.0
}

impl<'a> Modules<'a> {
    pub fn new(modules: &'a [Module], is_graph: bool) -> Self {
        let mut places = HashMap::with_capacity(modules.len());
        for (place, module) in modules.iter().enumerate() {
            places.entry(module.path.as_str()).or_insert(place);
        }
        Self {
            modules,
            is_graph,
            places,
        }
    }

    /// True if the modules are all that the network computes, in order.
    pub fn is_graph(&self) -> bool {
        self.is_graph
    }

    /// The place of a module in the order of definition.
    pub fn place(&self, path: &str) -> Option<usize> {
        self.places.get(path).copied()
    }

    /// The module at a place.
    pub fn at(&self, place: usize) -> Option<&'a Module> {
        self.modules.get(place)
    }

    /// The eps of the batch norm at this path.
    pub fn eps(&self, path: &str) -> Option<f64> {
        match self.modules[self.place(path)?].kind {
            ModuleKind::BatchNorm { eps } => Some(eps),
            _ => None,
        }
    }

    /// Reads the modules around a head's parts, which are in order.
    pub fn read(&self, parts: &[&Part<'_>]) -> Said {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Said::default();
        };
        let (tail, output) = self.after(last.path);
        Said {
            input: self.input(first.path),
            layers: self.layers(parts, tail),
            output,
        }
    }

    /// The layers from the first part on. Two Linears without an activation between them may be in a `ModuleList`, whose class
    /// applies functions between them, so that their layers are not known.
    fn layers(&self, parts: &[&Part<'_>], tail: Option<Vec<HeadLayer>>) -> Option<Vec<HeadLayer>> {
        let mut layers = parts.first().map_or_else(Vec::new, |first| self.leading(first.path));
        let mut is_joined = false;
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                let activations = self.between(parts[index - 1].path, part.path)?;
                is_joined &= activations.is_empty();
                layers.extend(activations);
            }
            let layer = self.layer_of(part)?;
            if layer == HeadLayer::Linear {
                if is_joined && !self.is_graph {
                    return None;
                }
                is_joined = true;
            }
            layers.push(layer);
        }
        layers.extend(tail?);
        Some(layers)
    }

    /// The activations between the last pooling and a head's first part. A ReLU changes nothing of what VGG16 pools.
    fn leading(&self, first: &str) -> Vec<HeadLayer> {
        let mut layers = Vec::new();
        for place in (0..self.place(first).unwrap_or_default()).rev() {
            match self.step(place) {
                Some(Step::Nothing) => {}
                Some(step) if self.is_sequential(&self.modules[place].path, first) => match step {
                    Step::Activation(layer) => layers.push(layer),
                    Step::Probabilities(Output::Sigmoid) => layers.push(HeadLayer::Sigmoid),
                    // Without a pooling between, they belong to what comes before.
                    _ => return Vec::new(),
                },
                _ => break,
            }
        }
        while layers.last() == Some(&HeadLayer::Relu) {
            layers.pop();
        }
        layers.reverse();
        layers
    }

    /// Checks that the modules of VGG16's convolutions compute what VGG16 computes. `convolutions` are their paths, with true
    /// where a pooling follows.
    ///
    /// # Errors
    /// [`HeadFileError::Backbone`] names the module that does not. A class of its own, whose code is not read, is trusted.
    pub fn check_convolutions(&self, convolutions: &[(&str, bool)]) -> Result<(), HeadFileError> {
        let (Some(first), Some(last)) = (convolutions.first(), convolutions.last()) else {
            return Ok(());
        };
        let (Some(start), Some(end)) = (self.place(first.0), self.place(last.0)) else {
            return Ok(());
        };
        let all = &self.modules[start.min(end)..end];
        let expected = Expected {
            relus: self.is_graph || all.iter().any(|module| module.kind == ModuleKind::Relu),
            pools: self.is_graph || all.iter().any(|module| module.kind == ModuleKind::MaxPool),
        };
        for (path, pool) in convolutions {
            self.check_convolution(path, *pool, *path == last.0, &expected)?;
        }
        Ok(())
    }

    fn check_convolution(
        &self,
        path: &str,
        pool: bool,
        is_last: bool,
        expected: &Expected,
    ) -> Result<(), HeadFileError> {
        let Some(start) = self.place(path) else {
            return Ok(());
        };
        if self.modules[start].kind != (ModuleKind::Conv2d { padding: [1, 1] }) {
            return Err(unlike(
                &self.modules[start],
                "a convolution of 3 x 3 with a stride and a padding of 1",
            ));
        }
        let (mut relu, mut pooled) = (false, false);
        for place in start + 1..self.modules.len() {
            let module = &self.modules[place];
            if !self.is_sequential(path, &module.path) {
                return Ok(());
            }
            let step = self.step(place);
            match (&module.kind, step) {
                (ModuleKind::BatchNorm { .. } | ModuleKind::Affine, _) if !relu && !pooled => {}
                (ModuleKind::Relu, _) => relu = true,
                (ModuleKind::MaxPool, _) if pool && !pooled => pooled = true,
                (_, Some(Step::Nothing)) => {}
                _ if expected.relus && !relu => return Err(unlike(module, "a ReLU")),
                _ if expected.pools && pool && !pooled => return Err(unlike(module, "a max pooling of 2 x 2")),
                // Only before a ReLU does it belong to its convolution.
                (ModuleKind::BatchNorm { .. } | ModuleKind::Affine, _) if !is_last => {
                    return Err(unlike(module, "a convolution"));
                }
                // The next convolution, or what follows the last pooling.
                (_, Some(Step::Parameters)) => return Ok(()),
                _ if pool && pooled => return Ok(()),
                // What follows the last convolution is the head's, unless a pooling is expected.
                _ if is_last && !expected.pools => return Ok(()),
                (_, Some(Step::Activation(_) | Step::Probabilities(_))) => return Err(unlike(module, "a ReLU")),
                _ if pool => return Err(unlike(module, "a max pooling of 2 x 2")),
                _ => return Err(unlike(module, "a convolution")),
            }
        }
        Ok(())
    }

    /// The layer that a part is, if its module is there.
    pub fn layer_of(&self, part: &Part<'_>) -> Option<HeadLayer> {
        let kind = &self.modules[self.place(part.path)?].kind;
        match (part.kind, kind) {
            (PartKind::Linear { .. }, ModuleKind::Linear | ModuleKind::Conv2d { .. }) => Some(HeadLayer::Linear),
            (PartKind::BatchNorm { .. }, ModuleKind::BatchNorm { eps }) => {
                Some(HeadLayer::BatchNorm(Some(single(*eps))))
            }
            (PartKind::Affine { .. }, ModuleKind::Affine) => Some(HeadLayer::Affine),
            _ => None,
        }
    }

    /// Returns the activations between two modules, or `None` if they are not known: a module of a class of its own
    /// computes what its code says, so that the two must be in one Sequential, or the first one's Sequential must end in an
    /// activation.
    pub fn between(&self, first: &str, second: &str) -> Option<Vec<HeadLayer>> {
        let (start, end) = (self.place(first)?, self.place(second)?);
        let mut activations = Vec::new();
        let mut ends_in_activation = false;
        for place in start + 1..end.max(start + 1) {
            let layer = match self.step(place)? {
                Step::Nothing => continue,
                Step::Activation(layer) => layer,
                Step::Probabilities(Output::Sigmoid) => HeadLayer::Sigmoid,
                Step::Probabilities(_) | Step::Parameters => return None,
            };
            activations.push(layer);
            ends_in_activation |= self.is_sequential(first, &self.modules[place].path);
        }
        (start < end && (self.is_sequential(first, second) || ends_in_activation)).then_some(activations)
    }

    /// Returns the layers after the last Linear in its Sequential, and what its last one says of the output.
    fn after(&self, last: &str) -> (Option<Vec<HeadLayer>>, Option<Output>) {
        let Some(start) = self.place(last) else {
            return (None, None);
        };
        let mut layers = Vec::new();
        let mut output = None;
        for place in start + 1..self.modules.len() {
            if !self.is_sequential(last, &self.modules[place].path) {
                continue;
            }
            match self.step(place) {
                Some(Step::Nothing) => {}
                // What follows probabilities is not a head's layer.
                Some(Step::Activation(layer)) if output.is_none() => layers.push(layer),
                Some(Step::Probabilities(kind)) if output.is_none() => output = Some(kind),
                _ => return (None, None),
            }
        }
        (Some(layers), output)
    }

    /// Where the head stands, by the last pooling before it, or by how a graph flattens the map.
    pub fn input(&self, first: &str) -> Option<HeadInput> {
        let mut input = None;
        let mut concatenated = None;
        let mut is_map = true;
        for module in &self.modules[..self.place(first)?] {
            let pooled = match &module.kind {
                ModuleKind::Conv2d { .. } | ModuleKind::Linear => None,
                ModuleKind::Flatten { channels_last } if self.is_graph && is_map => match channels_last {
                    true => Some(HeadInput::FlattenHwc),
                    false => Some(HeadInput::Flatten),
                },
                ModuleKind::AdaptiveAveragePool { size: [7, 7] } => Some(HeadInput::Adaptive7x7),
                ModuleKind::AdaptiveAveragePool { size: [1, 1] } => Some(HeadInput::GlobalAverage),
                ModuleKind::AdaptiveMaxPool { size: [1, 1] } => Some(HeadInput::GlobalMax),
                ModuleKind::AdaptiveAveragePool { .. } | ModuleKind::AdaptiveMaxPool { .. } => None,
                // fastai's: the largest values first.
                ModuleKind::Other(class) if class.ends_with("AdaptiveConcatPool2d") => {
                    concatenated = Some(module.path.as_str());
                    Some(HeadInput::GlobalMaxAverage)
                }
                _ => continue,
            };
            if concatenated.is_none_or(|path| path == module.path || !is_within(&module.path, path)) {
                input = pooled;
            }
            is_map = matches!(module.kind, ModuleKind::Conv2d { .. });
        }
        input
    }

    /// Returns `None` for a module that is not known.
    fn step(&self, place: usize) -> Option<Step> {
        let module = &self.modules[place];
        let activation = match &module.kind {
            ModuleKind::Relu => HeadLayer::Relu,
            ModuleKind::LeakyRelu { slope } => HeadLayer::LeakyRelu(Some(single(*slope))),
            ModuleKind::Elu { alpha } => HeadLayer::Elu(Some(single(*alpha))),
            ModuleKind::Gelu { tanh: true } => HeadLayer::Gelu(Some(GeluKind::Tanh)),
            ModuleKind::Gelu { tanh: false } => HeadLayer::Gelu(Some(GeluKind::Exact)),
            ModuleKind::Silu => HeadLayer::Silu,
            ModuleKind::Tanh => HeadLayer::Tanh,
            ModuleKind::Sigmoid => return Some(Step::Probabilities(Output::Sigmoid)),
            ModuleKind::Softmax | ModuleKind::LogSoftmax => return Some(Step::Probabilities(Output::Softmax)),
            ModuleKind::Dropout | ModuleKind::Flatten { .. } | ModuleKind::Identity | ModuleKind::Container => {
                return Some(Step::Nothing);
            }
            ModuleKind::Linear | ModuleKind::Conv2d { .. } | ModuleKind::BatchNorm { .. } | ModuleKind::Affine => {
                return Some(Step::Parameters);
            }
            ModuleKind::MaxPool | ModuleKind::AdaptiveAveragePool { .. } | ModuleKind::AdaptiveMaxPool { .. } => {
                return None;
            }
            // The class around others: whether their order is known is judged by their paths.
            ModuleKind::Other(_) => {
                let next = self.modules.get(place + 1)?;
                return is_within(&next.path, &module.path).then_some(Step::Nothing);
            }
        };
        Some(Step::Activation(activation))
    }

    /// Returns true if both are in one Sequential, directly or in others within it.
    pub fn is_sequential(&self, first: &str, second: &str) -> bool {
        if self.is_graph {
            return true;
        }
        let mut around = parent(first);
        while !is_within(second, around) {
            if !self.is_container(around) {
                return false;
            }
            around = parent(around);
        }
        let mut inner = parent(second);
        loop {
            if !self.is_container(inner) {
                return false;
            }
            if inner == around || inner.is_empty() {
                return inner == around;
            }
            inner = parent(inner);
        }
    }

    fn is_container(&self, path: &str) -> bool {
        self.place(path)
            .is_some_and(|place| self.modules[place].kind == ModuleKind::Container)
    }
}

#[cfg(test)]
mod tests {
    use headswap_spec::HeadLayer::{BatchNorm, LeakyRelu, Linear, Relu, Tanh};

    use super::*;

    fn network(modules: &[(&str, ModuleKind)]) -> Vec<Module> {
        let mut network = Vec::new();
        for (path, kind) in modules {
            network.push(Module {
                path: (*path).to_owned(),
                kind: kind.clone(),
            });
        }
        network
    }

    /// Checks what the modules say of a head whose Linears and batch norms are those in the list.
    fn check(modules: &[(&str, ModuleKind)], layers: Option<&[HeadLayer]>, output: Option<Output>) {
        let network = network(modules);
        let mut parts = Vec::new();
        for module in &network {
            let kind = match module.kind {
                ModuleKind::Linear => PartKind::Linear { output: 2, input: 2 },
                ModuleKind::BatchNorm { .. } => PartKind::BatchNorm { width: 2 },
                _ => continue,
            };
            parts.push(Part {
                path: &module.path,
                kind,
                weight: None,
                bias: None,
                running_mean: None,
                running_var: None,
                extra: Vec::new(),
            });
        }
        let parts: Vec<&Part<'_>> = parts.iter().collect();
        let said = Modules::new(&network, false).read(&parts);
        assert_eq!((said.layers.as_deref(), said.output), (layers, output), "{modules:?}");
    }

    fn other(class: &str) -> ModuleKind {
        ModuleKind::Other(class.to_owned())
    }

    #[test]
    fn a_sequential_says_its_layers() {
        use ModuleKind as M;
        let stack = [
            ("classifier", M::Container),
            ("classifier.fc1", M::Linear),
            ("classifier.bn", M::BatchNorm { eps: 0.001 }),
            ("classifier.relu", M::LeakyRelu { slope: 0.5 }),
            ("classifier.drop", M::Dropout),
            ("classifier.fc2", M::Linear),
            ("classifier.output", M::LogSoftmax),
        ];
        let layers = [Linear, BatchNorm(Some(0.001)), LeakyRelu(Some(0.5)), Linear];
        check(&stack, Some(&layers), Some(Output::Softmax));
        let nested = [
            ("", M::Container),
            ("0", M::Container),
            ("0.0", M::Linear),
            ("0.1", M::Tanh),
            ("1", M::Linear),
            ("2", M::Sigmoid),
        ];
        check(&nested, Some(&[Linear, Tanh, Linear]), Some(Output::Sigmoid));
    }

    #[test]
    fn a_class_of_its_own_does_not_say_its_functions() {
        use ModuleKind as M;
        check(
            &[("", other("Net")), ("fc1", M::Linear), ("fc2", M::Linear)],
            None,
            None,
        );
        // The attribute may be used anywhere, or not at all.
        let attribute = [
            ("", other("Net")),
            ("fc1", M::Linear),
            ("act", M::Relu),
            ("fc2", M::Linear),
        ];
        check(&attribute, None, None);
        let blocks = [
            ("", other("Net")),
            ("hidden", M::Container),
            ("hidden.0", M::Linear),
            ("hidden.1", M::Relu),
            ("out", M::Container),
            ("out.0", M::Linear),
            ("out.1", M::Softmax),
        ];
        check(&blocks, Some(&[Linear, Relu, Linear]), Some(Output::Softmax));
        let list = [
            ("", other("Net")),
            ("hidden", M::Container),
            ("hidden.0", M::Linear),
            ("hidden.1", M::BatchNorm { eps: 1e-5 }),
            ("hidden.2", M::Linear),
        ];
        check(&list, None, None);
        let unknown = [
            ("c", M::Container),
            ("c.0", M::Linear),
            ("c.1", other("PReLU")),
            ("c.2", M::Linear),
        ];
        check(&unknown, None, None);
    }

    /// Checks two convolutions, of which the second is pooled, with these modules after the first and after the second.
    fn check_backbone(modules: [&[ModuleKind]; 2], expected: Result<(), &str>) {
        let convolution = ModuleKind::Conv2d { padding: [1, 1] };
        let mut all = vec![ModuleKind::Container];
        for after in modules {
            all.push(convolution.clone());
            all.extend_from_slice(after);
        }
        all.push(ModuleKind::AdaptiveAveragePool { size: [7, 7] });
        let mut network = Vec::new();
        for (index, kind) in all.iter().enumerate() {
            let path = if index == 0 {
                String::new()
            } else {
                (index - 1).to_string()
            };
            let kind = kind.clone();
            network.push(Module { path, kind });
        }
        let second = (modules[0].len() + 1).to_string();
        let checked = Modules::new(&network, false).check_convolutions(&[("0", false), (&second, true)]);
        match (checked, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (checked, _) => panic!("{checked:?} for {modules:?}"),
        }
    }

    #[test]
    fn convolutions_that_are_not_vgg16s_are_named() {
        use ModuleKind as M;
        let leaky = M::LeakyRelu { slope: 0.1 };
        let pool = other("AvgPool2d");
        check_backbone([&[M::Relu], &[M::Relu, M::MaxPool]], Ok(()));
        check_backbone(
            [
                &[M::BatchNorm { eps: 1e-5 }, M::Relu, M::Dropout],
                &[M::MaxPool, M::Relu],
            ],
            Ok(()),
        );
        // Functions of the class around them.
        check_backbone([&[], &[]], Ok(()));
        check_backbone(
            [&[M::Relu], &[leaky.clone(), M::MaxPool]],
            Err("3 is of class LeakyReLU where VGG16 has a ReLU"),
        );
        check_backbone(
            [std::slice::from_ref(&leaky), std::slice::from_ref(&leaky)],
            Err("1 is of class LeakyReLU where VGG16 has a ReLU"),
        );
        check_backbone(
            [&[M::Relu, M::MaxPool], &[M::Relu]],
            Err("2 is of class MaxPool2d where VGG16 has a convolution"),
        );
        check_backbone(
            [&[M::Relu, M::Identity, M::Tanh], &[M::Relu, M::MaxPool]],
            Err("3 is of class Tanh where VGG16 has a ReLU"),
        );
        check_backbone(
            [&[other("AvgPool2d")], &[pool]],
            Err("1 is of class AvgPool2d where VGG16 has a convolution"),
        );
    }

    #[test]
    fn an_activation_before_the_first_linear_is_a_layer() {
        use ModuleKind as M;
        let gap = M::AdaptiveAveragePool { size: [1, 1] };
        for (activation, layers) in [
            (M::Tanh, &[Tanh, Linear][..]),
            (M::Sigmoid, &[HeadLayer::Sigmoid, Linear]),
            (M::Relu, &[Linear]),
        ] {
            let modules = [
                ("", M::Container),
                ("pool", gap.clone()),
                ("head", M::Container),
                ("head.0", M::Flatten { channels_last: false }),
                ("head.1", activation),
                ("head.2", M::Linear),
            ];
            check(&modules, Some(layers), None);
        }
    }

    #[test]
    fn the_last_pooling_says_the_input() {
        use ModuleKind as M;
        let one = [1, 1];
        let concatenated = [
            ("1.0", other("fastai.layers.AdaptiveConcatPool2d")),
            ("1.0.ap", M::AdaptiveAveragePool { size: one }),
            ("1.0.mp", M::AdaptiveMaxPool { size: one }),
            ("1.2", M::Linear),
        ];
        let average = [
            ("features.28", M::Conv2d { padding: one }),
            ("avgpool", M::AdaptiveAveragePool { size: one }),
            ("fc", M::Linear),
        ];
        let none = [
            ("pool", M::AdaptiveAveragePool { size: one }),
            ("conv", M::Conv2d { padding: one }),
            ("fc", M::Linear),
        ];
        for (modules, first, input) in [
            (&concatenated[..], "1.2", Some(HeadInput::GlobalMaxAverage)),
            (&average, "fc", Some(HeadInput::GlobalAverage)),
            (&none, "fc", None),
        ] {
            assert_eq!(Modules::new(&network(modules), false).input(first), input);
        }
    }
}
