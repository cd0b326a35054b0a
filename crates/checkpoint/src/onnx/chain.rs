//! The modules that the nodes are found to be, each with the one before it.
//!
//! A node whose result is not used after all leaves a link that the chain of the output does not have.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use headswap_spec::ChannelTransform;

use crate::entry::{NAME_BYTES_MAX, TENSORS_MAX};
use crate::{CheckpointError, Module, ModuleKind, TensorEntry};

use super::constant::Constant;
use super::model::Node;
use super::refusal::damaged;

/// Limit of the links. Those of a VGG16 are fewer than its nodes.
const LINKS_MAX: usize = 8192;
/// Limit of the batch norms and activations between the last pooling and the vector.
const MOVED_MAX: usize = 16;

/// A module and its parameters.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub before: Option<usize>,
    pub kind: ModuleKind,
    pub path: Rc<str>,
    pub parameters: Vec<Parameter>,
    /// What was computed of the pixels before it.
    pub transform: Option<ChannelTransform>,
}

#[derive(Clone, Debug)]
pub(super) struct Parameter {
    pub leaf: &'static str,
    pub shape: Vec<usize>,
    pub constant: Constant,
}

#[derive(Debug, Default)]
pub(super) struct Chain {
    pub links: Vec<Link>,
}

impl Parameter {
    pub fn vector(leaf: &'static str, constant: Constant) -> Self {
        Self {
            leaf,
            shape: vec![constant.elements()],
            constant,
        }
    }
}

impl Link {
    pub fn new(before: Option<usize>, kind: ModuleKind, path: Rc<str>) -> Self {
        Self {
            before,
            kind,
            path,
            parameters: Vec::new(),
            transform: None,
        }
    }

    pub fn is_norm(&self) -> bool {
        matches!(self.kind, ModuleKind::BatchNorm { .. } | ModuleKind::Affine)
    }

    fn is_activation(&self) -> bool {
        matches!(
            self.kind,
            ModuleKind::Relu
                | ModuleKind::LeakyRelu { .. }
                | ModuleKind::Elu { .. }
                | ModuleKind::Gelu { .. }
                | ModuleKind::Silu
                | ModuleKind::Tanh
                | ModuleKind::Sigmoid
        )
    }
}

impl Chain {
    pub fn push(&mut self, link: Link) -> usize {
        self.links.push(link);
        self.links.len() - 1
    }

    /// Refuses a graph that makes too much of its nodes.
    pub fn check(&self) -> Result<(), CheckpointError> {
        match self.links.len() > LINKS_MAX {
            true => Err(damaged("its graph is too large")),
            false => Ok(()),
        }
    }

    pub fn get(&self, link: Option<usize>) -> Option<&Link> {
        self.links.get(link?)
    }

    /// Adds a module that makes a vector of a map. Batch norms and activations of the map, which act on each channel, are
    /// put after it, with the vectors of batch norms repeated for each of the `positions`.
    ///
    /// Returns `None` if that needs the size of the map and it is not known.
    pub fn push_flatten(
        &mut self,
        tip: Option<usize>,
        channels_last: bool,
        path: Rc<str>,
        positions: Option<usize>,
    ) -> Option<usize> {
        let (before, moved) = self.steps_of_map(tip);
        let mut last = self.push(Link::new(before, ModuleKind::Flatten { channels_last }, path));
        for link in moved {
            let mut link = link;
            link.before = Some(last);
            for parameter in &mut link.parameters {
                let constant = parameter.constant.repeated(positions?, channels_last)?;
                *parameter = Parameter::vector(parameter.leaf, constant);
            }
            last = self.push(link);
        }
        Some(last)
    }

    /// Adds a module that averages a map. A mean of a batch norm is the batch norm of the mean, so batch norms of the map are
    /// put after it. Returns `None` for activations of the map.
    pub fn push_mean(&mut self, tip: Option<usize>, size: [usize; 2], path: Rc<str>) -> Option<usize> {
        let (before, moved) = self.steps_of_map(tip);
        let mut last = self.push(Link::new(before, ModuleKind::AdaptiveAveragePool { size }, path));
        for link in moved {
            let mut link = link;
            if !link.is_norm() {
                return None;
            }
            link.before = Some(last);
            last = self.push(link);
        }
        Some(last)
    }

    /// Adds a module that takes a map's largest values. Returns `None` for batch norms or activations of the map.
    pub fn push_max(&mut self, tip: Option<usize>, path: Rc<str>) -> Option<usize> {
        let (before, moved) = self.steps_of_map(tip);
        moved
            .is_empty()
            .then(|| self.push(Link::new(before, ModuleKind::AdaptiveMaxPool { size: [1, 1] }, path)))
    }

    /// Returns the last pooling, and the batch norms and activations after it, in order. A ReLU changes nothing of what
    /// VGG16 pools.
    fn steps_of_map(&self, tip: Option<usize>) -> (Option<usize>, Vec<Link>) {
        let mut moved = Vec::new();
        let mut at = tip;
        while let Some(link) = self.get(at)
            && (link.is_norm() || link.is_activation())
            && moved.len() < MOVED_MAX
        {
            moved.push(link.clone());
            at = link.before;
        }
        let is_pooled = matches!(
            self.get(at).map(|link| &link.kind),
            Some(ModuleKind::MaxPool | ModuleKind::AdaptiveAveragePool { .. }) | None
        );
        if !is_pooled {
            return (tip, Vec::new());
        }
        moved.reverse();
        let is_vgg = at.is_some();
        while is_vgg && moved.first().is_some_and(|link| link.kind == ModuleKind::Relu) {
            moved.remove(0);
        }
        (at, moved)
    }

    /// Returns the modules up to `tip` in order, with their tensors and what is computed of the pixels.
    pub fn modules(
        &self,
        tip: Option<usize>,
    ) -> Result<(Vec<Module>, Vec<TensorEntry>, ChannelTransform), CheckpointError> {
        let mut links = Vec::new();
        let mut at = tip;
        while let Some(link) = self.get(at) {
            links.push(link);
            at = link.before;
        }
        links.reverse();
        let mut paths = Paths::default();
        let (mut modules, mut entries) = (Vec::with_capacity(links.len()), Vec::new());
        for link in &links {
            let path = paths.unique(&link.path);
            for Parameter { leaf, shape, constant } in &link.parameters {
                entries.push(constant.entry(&format!("{path}.{leaf}"), shape)?);
            }
            let kind = link.kind.clone();
            modules.push(Module { path, kind });
        }
        if entries.len() > TENSORS_MAX {
            return Err(damaged("it has too many tensors"));
        }
        let transform = links.first().and_then(|link| link.transform);
        Ok((modules, entries, transform.unwrap_or(ChannelTransform::IDENTITY)))
    }
}

/// The paths that were given, and how often each was asked for.
#[derive(Default)]
struct Paths<'a> {
    given: HashSet<String>,
    asked: HashMap<&'a str, usize>,
}

impl<'a> Paths<'a> {
    /// Returns the path, with a number if it was given before.
    fn unique(&mut self, path: &'a str) -> String {
        let number = self.asked.entry(path).or_insert(0);
        loop {
            *number += 1;
            let candidate = match *number {
                1 => path.to_owned(),
                number => format!("{path}_{number}"),
            };
            if self.given.insert(candidate.clone()) {
                return candidate;
            }
        }
    }
}

/// Returns a readable path for a node's module: that of PyTorch's parameter, else of the scope that the node's name says, else
/// the operator with the node's number.
pub(super) fn path(node: &Node, index: usize, weight: Option<&str>) -> Rc<str> {
    // Room for the tensor's name and a number.
    const BYTES_MAX: usize = NAME_BYTES_MAX - 64;
    let by_weight = weight.and_then(|weight| weight.strip_suffix(".weight"));
    let by_node = match node.name.rsplit_once('/') {
        // PyTorch repeats the names of the modules around.
        Some((scope, _)) if scope.starts_with('/') => scope.rsplit('/').next(),
        Some((scope, _)) if weight.is_some() => Some(scope),
        _ => Some(node.name.as_str()),
    };
    let candidates = [by_weight, by_node].into_iter().flatten();
    for candidate in candidates {
        if !candidate.is_empty() && candidate.len() <= BYTES_MAX && !candidate.contains("parametrizations.") {
            return candidate.into();
        }
    }
    format!("{}_{index}", crate::text::excerpt(&node.operator)).into()
}
