//! Walks the modules of a pickled network and names their tensors as `state_dict()` does.

use super::entry::{NAME_BYTES_MAX, TENSORS_MAX};
use super::error::CheckpointError;
use super::pickle::{Object, Objects, Ref, Value};

/// Limit of the modules of a network. A VGG16 has 44 with itself.
const MODULES_MAX: usize = 4096;
/// Limit of the bytes of all modules' and tensors' paths.
const PATH_BYTES_MAX: usize = 1 << 20;
/// Limit of the entries looked at: a pickle may refer to the same long dictionary any number of times.
const ENTRIES_MAX: usize = 1 << 20;
/// Limit of the attributes of a module.
const ATTRIBUTES_MAX: usize = 256;
/// Limit of the nesting of modules.
const DEPTH_MAX: usize = 32;

/// A network's modules, in order of definition and depth first, and its tensors.
#[derive(Default)]
pub(super) struct Tree {
    /// Paths, and the objects.
    pub modules: Vec<(String, Ref)>,
    /// Names, and the values under them, which need not be readable tensors.
    pub tensors: Vec<(String, Ref)>,
    /// The first quantised module, whose weights are packed into an object.
    pub quantised: Option<String>,
    path_bytes: usize,
    entries_seen: usize,
}

/// Returns the object if the value is a module: a pickled `nn.Module`, or one of TorchScript.
pub(super) fn module(objects: &Objects, value: Ref) -> Option<&Object> {
    let Value::Object(object) = objects.get(value) else {
        return None;
    };
    let attributes = objects.attributes(object);
    if attributes.len() > ATTRIBUTES_MAX {
        return None;
    }
    let has = |key| objects.value_of(attributes, key).is_some();
    let is_module = is_script(objects, object) || has("_modules") && has("_parameters");
    (!object.is_called && is_module).then_some(object)
}

/// Returns the full name of an object's class; empty if it has none.
pub(super) fn class<'a>(objects: &'a Objects, object: &Object) -> &'a str {
    objects.full_name(object.class).unwrap_or_default()
}

fn is_script(objects: &Objects, object: &Object) -> bool {
    class(objects, object).starts_with("__torch__.")
}

impl Tree {
    /// Walks a module; all paths begin with `prefix`, which is empty or ends with a dot.
    pub fn of(objects: &Objects, root: Ref, prefix: &str) -> Result<Self, CheckpointError> {
        let mut tree = Self::default();
        tree.visit(objects, root, prefix.trim_end_matches('.').to_owned(), DEPTH_MAX)?;
        Ok(tree)
    }

    fn visit(&mut self, objects: &Objects, value: Ref, path: String, depth: usize) -> Result<(), CheckpointError> {
        let Some(object) = module(objects, value) else {
            return Ok(());
        };
        if depth == 0 || self.modules.len() == MODULES_MAX {
            return Err(refused("more or deeper modules than a network needs"));
        }
        if class(objects, object).contains(".quantized.") && self.quantised.is_none() {
            self.quantised = Some(if path.is_empty() {
                "the model".into()
            } else {
                path.clone()
            });
        }
        self.modules.push((path.clone(), value));
        let attributes = objects.attributes(object);
        let children = match is_script(objects, object) {
            true => {
                for (key, value) in attributes {
                    self.tensor(objects, &path, *key, *value)?;
                }
                attributes
            }
            false => {
                self.tensors_of(objects, attributes, &path)?;
                let modules = objects.value_of(attributes, "_modules");
                modules.map_or(&[][..], |modules| objects.entries(modules))
            }
        };
        for (key, child) in children {
            self.spend(ATTRIBUTES_MAX / 8)?;
            if let Some(key) = objects.text(*key)
                && module(objects, *child).is_some()
            {
                let path = self.join(&path, key)?;
                self.visit(objects, *child, path, depth - 1)?;
            }
        }
        Ok(())
    }

    /// Adds a module's own parameters and persistent buffers.
    fn tensors_of(&mut self, objects: &Objects, attributes: &[(Ref, Ref)], path: &str) -> Result<(), CheckpointError> {
        let passing = objects.value_of(attributes, "_non_persistent_buffers_set");
        let passing = passing.and_then(|names| objects.sequence(names)).unwrap_or(&[]);
        for group in ["_parameters", "_buffers"] {
            let group = objects.value_of(attributes, group);
            for (key, value) in group.map_or(&[][..], |group| objects.entries(group)) {
                self.spend(1 + passing.len())?;
                let name = objects.text(*key);
                let is_passing = passing
                    .iter()
                    .any(|other| name.is_some() && objects.text(*other) == name);
                if !is_passing {
                    self.tensor(objects, path, *key, *value)?;
                }
            }
        }
        Ok(())
    }

    fn tensor(&mut self, objects: &Objects, path: &str, key: Ref, value: Ref) -> Result<(), CheckpointError> {
        let Some(key) = objects.text(key).filter(|key| is_weight(objects, key, value)) else {
            return Ok(());
        };
        if self.tensors.len() == TENSORS_MAX {
            return Err(refused("more tensors than a network needs"));
        }
        let name = self.join(path, key)?;
        self.tensors.push((name, value));
        Ok(())
    }

    fn spend(&mut self, entries: usize) -> Result<(), CheckpointError> {
        self.entries_seen += entries;
        match self.entries_seen <= ENTRIES_MAX {
            true => Ok(()),
            false => Err(refused("more modules than a network needs")),
        }
    }

    fn join(&mut self, path: &str, key: &str) -> Result<String, CheckpointError> {
        let joined = match path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        self.path_bytes += joined.len();
        if joined.len() > NAME_BYTES_MAX || self.path_bytes > PATH_BYTES_MAX {
            return Err(refused("modules with too long names"));
        }
        Ok(joined)
    }
}

/// Returns true if a state dict's value is a tensor, or should be one: what an unknown function made under the name of a
/// weight.
pub(super) fn is_weight(objects: &Objects, key: &str, value: Ref) -> bool {
    match objects.get(value) {
        Value::Tensor(_) | Value::Sparse(_) | Value::Unreadable(_) => true,
        Value::Object(object) => object.is_called && (key.ends_with("weight") || key.ends_with("bias")),
        // The packed weight and bias of a layer that `quantize_dynamic` made.
        Value::Sequence(_) => key.ends_with("_packed_params._packed_params"),
        _ => false,
    }
}

fn refused(reason: &str) -> CheckpointError {
    CheckpointError::StateDict {
        reason: reason.to_owned(),
    }
}
