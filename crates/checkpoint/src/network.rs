//! Finds the network in what a training script saved: a dictionary of tensors, or a module.

use std::collections::{BTreeSet, HashSet};

use super::candidate::{
    CANDIDATES_MAX, CONTAINERS, Candidate, DEPTH_MAX, MATRICES_MIN, Search, own_tensors, resolve, usual,
};
use super::entry::TENSORS_MAX;
use super::error::CheckpointError;
use super::module_tree::{Tree, class, module};
use super::names;
use super::pickle::{Objects, Place, Ref, Value};
use super::text::excerpt;

/// Limit of the keys that an error names.
const NAMED_MAX: usize = 6;
/// Limit of the prefixes that are tried for the names of a module's tensors.
const PREFIXES_MAX: usize = 8;
/// The tensors of the network, and its modules as far as the file holds them.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// The path of keys to it; empty for the result itself.
    pub container: String,
    /// The key that was asked for, unless it is that of a dictionary.
    pub selected: Option<String>,
    /// Names, and the values under them.
    pub tensors: Vec<(String, Ref)>,
    pub modules: Vec<(String, Ref)>,
    /// The first quantised module.
    pub quantised: Option<String>,
}

/// Finds the network in a pickle's result: what `key` names, else what a usual key holds, else the result itself, else
/// the only one in it.
pub(super) fn find(objects: &Objects, result: Ref, key: Option<&str>) -> Result<Network, CheckpointError> {
    if let Value::Object(object) = objects.get(result)
        && object.is_called
    {
        return Err(none_in(objects, result));
    }
    if let Some(key) = key
        && let Some(value) = resolve(objects, result, key)
    {
        let candidate = Candidate {
            path: vec![key.into()],
            value,
        };
        return network(objects, result, candidate, None);
    }
    let mut search = Search::new(objects, MATRICES_MIN);
    search.collect(result, &mut Vec::new(), DEPTH_MAX);
    let strong = search.found;
    let chosen = usual(objects, result, DEPTH_MAX).or_else(|| by_itself(objects, result, &strong));
    let chosen = match (chosen, strong.first()) {
        (Some(chosen), _) => chosen,
        (None, Some(first)) => strong
            .iter()
            .find(|candidate| candidate.value != result)
            .unwrap_or(first)
            .clone(),
        (None, None) => weak(objects, result)?.ok_or_else(|| none_in(objects, result))?,
    };
    let chosen = with_names_of(objects, &strong, chosen)?;
    if chosen.value != result {
        check_only(objects, &strong, &chosen)?;
        check_only(objects, &namesakes(objects, result, &chosen), &chosen)?;
    }
    network(objects, result, chosen, key)
}

/// Returns the result itself if it is a network, or holds tensors while nothing in it is one.
fn by_itself<'a>(objects: &'a Objects, result: Ref, strong: &[Candidate<'a>]) -> Option<Candidate<'a>> {
    // Matrices beside a network may be anything, unless they have a parameter's name.
    let has_name = |(key, _): &(&str, Ref)| key.contains('.') || key.ends_with("weight");
    let is_alone = strong.iter().all(|candidate| candidate.value == result);
    let is_strong = strong.iter().any(|candidate| candidate.value == result)
        && (is_alone || own_tensors(objects, result).iter().any(has_name));
    let has_tensors = |tree: Tree| !tree.tensors.is_empty();
    let is_strong = is_strong || Tree::of(objects, result, "").is_ok_and(has_tensors);
    let is_only = strong.is_empty() && !own_tensors(objects, result).is_empty();
    (is_strong || is_only).then(|| Candidate {
        path: Vec::new(),
        value: result,
    })
}

/// Returns the only dictionary in the result that holds tensors, if none holds enough to be a network by itself.
fn weak<'a>(objects: &'a Objects, result: Ref) -> Result<Option<Candidate<'a>>, CheckpointError> {
    let mut search = Search::new(objects, 0);
    search.collect(result, &mut Vec::new(), 1);
    match &search.found[..] {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        several => Err(several_in(several.iter())),
    }
}

/// Returns the dictionary that names all tensors of the chosen module, if there is one: it is the module's state dict.
fn with_names_of<'a>(
    objects: &'a Objects,
    strong: &[Candidate<'a>],
    chosen: Candidate<'a>,
) -> Result<Candidate<'a>, CheckpointError> {
    if module(objects, chosen.value).is_none() {
        return Ok(chosen);
    }
    for other in strong {
        if module(objects, other.value).is_none() && prefix_in(objects, &chosen, other.value)?.is_some() {
            return Ok(other.clone());
        }
    }
    Ok(chosen)
}

/// Checks that no other candidate could be the network.
fn check_only<'a>(
    objects: &'a Objects,
    strong: &[Candidate<'a>],
    chosen: &Candidate<'a>,
) -> Result<(), CheckpointError> {
    let mut others = Vec::new();
    for other in strong {
        let is_same = other.value == chosen.value
            || have_same_tensors(objects, other.value, chosen.value)
            || module(objects, other.value).is_some() && prefix_in(objects, other, chosen.value)?.is_some();
        if !is_same && !other.path.is_empty() {
            others.push(other);
        }
    }
    match others.is_empty() {
        true => Ok(()),
        false => Err(several_in([chosen].into_iter().chain(others))),
    }
}

/// Returns the dictionaries with tensors of the names of the chosen one: a last layer alone, which is not a network by itself, may be
/// there twice, as trained and as averaged.
fn namesakes<'a>(objects: &'a Objects, result: Ref, chosen: &Candidate<'a>) -> Vec<Candidate<'a>> {
    let names = bare_names(objects, chosen.value);
    let mut search = Search::new(objects, 0);
    search.collect(result, &mut Vec::new(), DEPTH_MAX);
    let mut found = search.found;
    found.retain(|other| !names.is_empty() && bare_names(objects, other.value) == names);
    found
}

/// Returns the names of a dictionary's tensors, without the prefixes of wrappers.
fn bare_names(objects: &Objects, dict: Ref) -> BTreeSet<&str> {
    let tensors = own_tensors(objects, dict).into_iter();
    tensors.map(|(name, _)| &name[names::prefix(name).len()..]).collect()
}

/// Returns true if two dictionaries hold the same tensors: a state dict that was asked for twice.
fn have_same_tensors(objects: &Objects, one: Ref, other: Ref) -> bool {
    let (one, other) = (own_tensors(objects, one), own_tensors(objects, other));
    let place = |value: Ref| match objects.get(value) {
        Value::Tensor(tensor) => match tensor.storage.place {
            Place::Key(key) => Some((objects.text(key), tensor.offset)),
            Place::Pickle(..) => None,
        },
        _ => None,
    };
    !one.is_empty()
        && one.len() == other.len()
        && one
            .iter()
            .zip(&other)
            .all(|((name, value), (other_name, other_value))| {
                name == other_name && place(*value).is_some() && place(*value) == place(*other_value)
            })
}

/// Returns the prefix that makes the names of a module's tensors those of a state dict: empty, a wrapper's, or the
/// module's key and a dot. `None` if some are not in the state dict, or if it has none.
fn prefix_in(objects: &Objects, candidate: &Candidate<'_>, dict: Ref) -> Result<Option<String>, CheckpointError> {
    let names: HashSet<&str> = own_tensors(objects, dict).into_iter().map(|(name, _)| name).collect();
    let tree = Tree::of(objects, candidate.value, "")?;
    let Some((first, _)) = tree.tensors.first() else {
        return Ok(None);
    };
    let key = candidate.path.last().map_or("", |key| key);
    let mut prefixes: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_suffix(first.as_str()))
        .collect();
    prefixes.sort_unstable_by_key(|prefix| prefix.len());
    for prefix in prefixes.into_iter().take(PREFIXES_MAX) {
        let is_key = prefix
            .strip_suffix('.')
            .is_some_and(|path| path == key || path.strip_suffix(key).is_some_and(|front| front.ends_with('.')));
        let fits = |(name, _): &(String, Ref)| names.contains(format!("{prefix}{name}").as_str());
        // Empty, or that of a wrapper such as DataParallel.
        let is_wrapper = names::prefix(prefix) == prefix;
        if (is_wrapper || is_key) && tree.tensors.iter().all(fits) {
            return Ok(Some(prefix.to_owned()));
        }
    }
    Ok(None)
}

/// Returns the chosen network, with the modules beside it that describe it.
fn network(
    objects: &Objects,
    result: Ref,
    chosen: Candidate<'_>,
    key: Option<&str>,
) -> Result<Network, CheckpointError> {
    let mut network = Network {
        container: excerpt(&chosen.path.join(".")),
        selected: key.map(str::to_owned),
        ..Network::default()
    };
    if module(objects, chosen.value).is_some() {
        let tree = Tree::of(objects, chosen.value, "")?;
        network.tensors = tree.tensors;
        network.modules = tree.modules;
        network.quantised = tree.quantised;
        return Ok(network);
    }
    let tensors = own_tensors(objects, chosen.value);
    if tensors.len() > TENSORS_MAX {
        return Err(refused(format!("more than {TENSORS_MAX} tensors")));
    }
    network.tensors = tensors
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let beside = objects
        .entries(result)
        .iter()
        .filter(|(_, value)| module(objects, *value).is_some());
    for (key, value) in beside.take(CANDIDATES_MAX) {
        let Some(key) = objects.text(*key) else { continue };
        let candidate = Candidate {
            path: vec![key.into()],
            value: *value,
        };
        if let Some(prefix) = prefix_in(objects, &candidate, chosen.value)? {
            network.modules.extend(Tree::of(objects, *value, &prefix)?.modules);
        }
    }
    Ok(network)
}

/// Returns the error for a result without a network: by the name of what should have been run, if that is the reason.
fn none_in(objects: &Objects, result: Ref) -> CheckpointError {
    if let Some(object) = module(objects, result) {
        return refused(match class(objects, object).starts_with("__torch__.") {
            true => "a TorchScript module without parameters, as torch.jit.freeze leaves it".into(),
            false => "a module without tensors".into(),
        });
    }
    let usual = CONTAINERS
        .iter()
        .filter_map(|key| objects.value_of(objects.entries(result), key));
    for value in [result].into_iter().chain(usual) {
        if let Some(name) = objects.full_name(value) {
            return CheckpointError::Global { name: excerpt(name) };
        }
    }
    let is_tensor = |value: &Ref| matches!(objects.get(*value), Value::Tensor(_));
    match objects.sequence(result) {
        Some(elements) if elements.iter().any(is_tensor) => refused("a list of tensors, which have no names".into()),
        _ => refused("no dictionary of tensors".into()),
    }
}

fn several_in<'a>(candidates: impl Iterator<Item = &'a Candidate<'a>>) -> CheckpointError {
    let mut keys: Vec<String> = Vec::new();
    for candidate in candidates {
        let key: String = excerpt(&candidate.path.join(".")).chars().take(60).collect();
        keys.push(key);
    }
    keys.sort_unstable();
    let more = keys.len().saturating_sub(NAMED_MAX);
    keys.truncate(NAMED_MAX);
    for key in &mut keys {
        *key = format!("`{key}`");
    }
    if more > 0 {
        keys.push(format!("{more} more"));
    }
    CheckpointError::Several { keys: keys.join(", ") }
}

fn refused(reason: String) -> CheckpointError {
    CheckpointError::StateDict { reason }
}
