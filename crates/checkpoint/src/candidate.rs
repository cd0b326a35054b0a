//! The dictionaries and modules of a pickle that could be the network.

use std::borrow::Cow;
use std::collections::HashSet;

use super::entry::TENSORS_MAX;
use super::module_tree::{Tree, is_weight, module};
use super::pickle::{Objects, Ref, Value};

/// The keys under which training scripts save it, the most usual first.
pub(super) const CONTAINERS: [&str; 8] = [
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
];
/// Limit of the nesting of dictionaries.
pub(super) const DEPTH_MAX: usize = 3;
/// Limit of the networks that are told apart.
pub(super) const CANDIDATES_MAX: usize = 32;
/// Limit of the keys that begin a path; a pickle may repeat one any number of times.
const MATCHING_MAX: usize = 4;
/// A dictionary with fewer matrices may be anything.
pub(super) const MATRICES_MIN: usize = 2;

pub(super) type Path<'a> = Vec<Cow<'a, str>>;

/// A dictionary or module that could be the network, and the path of keys to it.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub path: Path<'a>,
    pub value: Ref,
}

/// Returns the candidate under a usual key, the most usual first.
pub(super) fn usual<'a>(objects: &'a Objects, value: Ref, depth: usize) -> Option<Candidate<'a>> {
    if depth == 0 || module(objects, value).is_some() {
        return None;
    }
    for key in CONTAINERS {
        let Some(child) = objects.value_of(objects.entries(value), key) else {
            continue;
        };
        let inner = usual(objects, child, depth - 1);
        let itself = || {
            let holds = module(objects, child).is_some() || !own_tensors(objects, child).is_empty();
            holds.then(|| Candidate {
                path: Vec::new(),
                value: child,
            })
        };
        if let Some(mut found) = inner.or_else(itself) {
            found.path.insert(0, key.into());
            return Some(found);
        }
    }
    None
}

/// Looks for dictionaries and modules that could be networks.
pub(super) struct Search<'a> {
    objects: &'a Objects,
    pub found: Vec<Candidate<'a>>,
    /// What was looked at: a value under two keys is one candidate, and cycles end.
    seen: HashSet<Ref>,
    /// Modules that were walked.
    modules: usize,
    matrices_min: usize,
}

impl<'a> Search<'a> {
    pub fn new(objects: &'a Objects, matrices_min: usize) -> Self {
        Self {
            objects,
            found: Vec::new(),
            seen: HashSet::new(),
            modules: 0,
            matrices_min,
        }
    }

    pub fn collect(&mut self, value: Ref, path: &mut Path<'a>, depth: usize) {
        let objects = self.objects;
        if self.found.len() == CANDIDATES_MAX || !self.seen.insert(value) {
            return;
        }
        if self.is_network(value) {
            self.found.push(Candidate {
                path: path.clone(),
                value,
            });
        }
        if depth == 0 || module(objects, value).is_some() || is_optimiser(objects, value) {
            return;
        }
        for (key, child) in objects.entries(value) {
            if let Some(key) = objects.text(*key)
                && matches!(objects.get(*child), Value::Dict(_) | Value::Object(_))
            {
                path.push(key.into());
                self.collect(*child, path, depth - 1);
                path.pop();
            }
        }
        // A list or a tuple is looked through only if it is the result itself.
        let elements = objects.sequence(value).filter(|_| path.is_empty()).unwrap_or(&[]);
        for (index, child) in elements.iter().enumerate() {
            if matches!(objects.get(*child), Value::Dict(_) | Value::Object(_)) {
                path.push(index.to_string().into());
                self.collect(*child, path, depth - 1);
                path.pop();
            }
        }
    }

    fn is_network(&mut self, value: Ref) -> bool {
        let objects = self.objects;
        if module(objects, value).is_some() {
            self.modules += 1;
            if self.modules > CANDIDATES_MAX {
                return false;
            }
            return Tree::of(objects, value, "").is_ok_and(|tree| {
                tree.quantised.is_some() || tree.tensors.iter().any(|(_, value)| is_matrix(objects, *value))
            });
        }
        let tensors = own_tensors(objects, value);
        let matrices = tensors.iter().filter(|(_, value)| is_matrix(objects, *value)).count();
        !tensors.is_empty() && matrices >= self.matrices_min && !is_optimiser(objects, value)
    }
}

fn is_optimiser(objects: &Objects, value: Ref) -> bool {
    objects.value_of(objects.entries(value), "param_groups").is_some()
}

fn is_matrix(objects: &Objects, value: Ref) -> bool {
    match objects.get(value) {
        Value::Tensor(tensor) => tensor.sizes.len() >= 2,
        Value::Sparse(sparse) => sparse.sizes.len() >= 2,
        _ => true,
    }
}

/// Returns the tensors of a dictionary whose keys are text; one more than the limit if there are too many.
pub(super) fn own_tensors(objects: &Objects, dict: Ref) -> Vec<(&str, Ref)> {
    let entries = match objects.get(dict) {
        Value::Object(object) if object.entries.is_empty() => &[],
        _ => objects.entries(dict),
    };
    let named = entries
        .iter()
        .filter_map(|(key, value)| Some((objects.text(*key)?, *value)));
    let tensors = named.filter(|(key, value)| is_weight(objects, key, *value));
    tensors.take(TENSORS_MAX + 1).collect()
}

/// Returns the dictionary or module at a path of keys, joined by dots.
pub(super) fn resolve(objects: &Objects, value: Ref, path: &str) -> Option<Ref> {
    let elements = objects.sequence(value).unwrap_or(&[]).iter().copied().enumerate();
    let elements = elements.map(|(index, child)| (Cow::from(index.to_string()), child));
    let entries = objects.entries(value).iter();
    let entries = entries.filter_map(|(key, child)| Some((Cow::from(objects.text(*key)?), *child)));
    let children = elements.chain(entries).filter(|(key, _)| !key.is_empty());
    let matching = children.filter(|(key, _)| {
        let rest = path.strip_prefix(&**key);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    });
    for (key, child) in matching.take(MATCHING_MAX) {
        let rest = &path[key.len()..];
        let found = match rest.strip_prefix('.') {
            Some(rest) => resolve(objects, child, rest),
            None if rest.is_empty() => within(objects, child),
            None => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Returns the value itself if it is a module or holds tensors, else what a usual key in it holds, else the first
/// network in it.
fn within(objects: &Objects, value: Ref) -> Option<Ref> {
    if module(objects, value).is_some() || !own_tensors(objects, value).is_empty() {
        return Some(value);
    }
    if let Some(found) = usual(objects, value, DEPTH_MAX) {
        return Some(found.value);
    }
    let mut search = Search::new(objects, MATRICES_MIN);
    search.collect(value, &mut Vec::new(), DEPTH_MAX);
    search.found.first().map(|found| found.value)
}
