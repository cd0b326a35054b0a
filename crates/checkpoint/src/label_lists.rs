//! Finds the names of classes in what a training script saved, and in the metadata of a safetensors file.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::pickle::{Objects, Ref};

/// The keys of class names.
const KEYS: [&str; 7] = [
    "classes",
    "class_names",
    "labels",
    "idx_to_class",
    "class_to_idx",
    "id2label",
    "label2id",
];
/// The keys of settings, in which class names are looked for, too.
const SETTINGS: [&str; 5] = ["hyper_parameters", "hparams", "args", "config", "cfg"];
/// Limit of the bytes of all class names and their pointers. A pickle may refer to the same list many times.
const BYTES_MAX: usize = 512 * 1024;

/// Returns the complete lists of class names in a dictionary, each with the path of keys to it.
pub(super) fn find(objects: &Objects, result: Ref) -> Vec<(String, Vec<String>)> {
    let mut lists = Vec::new();
    let mut bytes_left = BYTES_MAX;
    find_in(objects, result, "", &mut lists, &mut bytes_left);
    for key in SETTINGS {
        if let Some(settings) = objects.value_of(objects.entries(result), key) {
            find_in(objects, settings, &format!("{key}."), &mut lists, &mut bytes_left);
        }
    }
    lists
}

fn find_in(objects: &Objects, dict: Ref, prefix: &str, lists: &mut Vec<(String, Vec<String>)>, bytes_left: &mut usize) {
    for key in KEYS {
        let Some(value) = objects.value_of(objects.entries(dict), key) else {
            continue;
        };
        if let Some(labels) = list(objects, value, bytes_left).filter(|labels| !labels.is_empty()) {
            lists.push((format!("{prefix}{key}"), labels));
        }
    }
}

/// Returns the labels of a list, or of a mapping between labels and 0 to n - 1.
fn list(objects: &Objects, value: Ref, bytes_left: &mut usize) -> Option<Vec<String>> {
    let mut label = |value: Ref| {
        let text = objects.text(value)?;
        *bytes_left = bytes_left.checked_sub(text.len() + 4 * size_of::<String>())?;
        Some(text.to_owned())
    };
    if let Some(elements) = objects.sequence(value) {
        return elements.iter().map(|element| label(*element)).collect();
    }
    let mut numbered = BTreeMap::new();
    for (key, value) in objects.entries(value) {
        let (index, label) = match (index(objects, *key), index(objects, *value)) {
            (Some(index), _) if objects.text(*value).is_some() => (index, label(*value)?),
            (_, Some(index)) => (index, label(*key)?),
            _ => return None,
        };
        if numbered.insert(index, label).is_some() {
            return None;
        }
    }
    complete(numbered)
}

/// Returns an integer, or text that is one.
fn index(objects: &Objects, value: Ref) -> Option<usize> {
    objects.size(value).or_else(|| objects.text(value)?.parse().ok())
}

/// Returns the labels in order if they are numbered from 0 without gaps.
fn complete(numbered: BTreeMap<usize, String>) -> Option<Vec<String>> {
    let is_complete = numbered.keys().copied().eq(0..numbered.len());
    is_complete.then(|| numbered.into_values().collect())
}

/// Returns the labels of JSON: a list of text, or a mapping between text and 0 to n - 1.
///
/// # Errors
/// Why the text is neither.
pub fn from_json(text: &str) -> Result<Vec<String>, String> {
    match serde_json::from_str(text).map_err(|error| error.to_string())? {
        Json::Object(entries) => {
            let mut numbered = BTreeMap::new();
            for (key, value) in entries {
                let (index, label) = match value {
                    Json::String(label) => (key.parse().ok(), label),
                    number => (number.as_u64().map(|number| number as usize), key),
                };
                let index = index.ok_or("an entry is not of a label and its number")?;
                if numbered.insert(index, label).is_some() {
                    return Err(format!("two labels have the number {index}"));
                }
            }
            complete(numbered).ok_or_else(|| "the numbers of the labels are not 0 to n - 1".into())
        }
        list => serde_json::from_value(list).map_err(|error| error.to_string()),
    }
}
