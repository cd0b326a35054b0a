//! Class labels on their way to a server.

use std::path::Path;

use headswap_checkpoint::labels_from_json;
use headswap_spec::LABEL_BYTES_MAX;

use super::error::ClientError;

/// Bytes of a file of labels at most: the server's limit on all labels of a head.
const FILE_BYTES_MAX: u64 = 3 << 20;

/// Labels in the order of the classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// One for each class.
    pub labels: Vec<String>,
    /// What a user should know of their order.
    pub note: Option<String>,
}

/// Reads labels in the order of the classes: text with a label on each line, which may be empty; a JSON list; a JSON mapping
/// of labels to numbers, as Keras's `class_indices` and torchvision's `class_to_idx` are; or a directory of training pictures,
/// whose directories are the classes in the order of their names, as Keras and torchvision number them.
///
/// # Errors
/// [`ClientError::Read`], or [`ClientError::Head`] if it is none of these.
pub fn read_labels(path: &Path) -> Result<Labels, ClientError> {
    let metadata = std::fs::metadata(path).map_err(|error| ClientError::unreadable(path, error))?;
    let labels = match metadata.is_dir() {
        true => of_directory(path)?,
        false => of_file(path, metadata.len())?,
    };
    if let Some(index) = labels.iter().position(|label| label.len() > LABEL_BYTES_MAX) {
        let reason = format!("label {index} is longer than {LABEL_BYTES_MAX} bytes");
        return Err(refused(path, &reason));
    }
    let note = note(&labels);
    Ok(Labels { labels, note })
}

fn of_directory(path: &Path) -> Result<Vec<String>, ClientError> {
    let unreadable = |error| ClientError::unreadable(path, error);
    let mut labels = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A link to a directory counts as one, as it does for Python.
        if entry.path().is_dir() && !name.starts_with('.') {
            labels.push(name);
        }
    }
    labels.sort_unstable();
    if labels.is_empty() {
        let reason = "it has no directories; give the directory of training pictures with one for each class, or a text \
                      file of labels";
        return Err(refused(path, reason));
    }
    Ok(labels)
}

fn of_file(path: &Path, length: u64) -> Result<Vec<String>, ClientError> {
    if length > FILE_BYTES_MAX {
        let reason = format!("it has {length} bytes; the limit is {FILE_BYTES_MAX}");
        return Err(refused(path, &reason));
    }
    let bytes = std::fs::read(path).map_err(|error| ClientError::unreadable(path, error))?;
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(refused(path, "it is not UTF-8 text; give a label on each line"));
    };
    // Windows' editors begin UTF-8 files with this mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let labels = match labels_from_json(text) {
        Ok(labels) => labels,
        Err(reason) if text.trim_start().starts_with('{') => {
            let reason = format!("{reason}; give a JSON mapping of labels to 0 to n - 1, or a label on each line");
            return Err(refused(path, &reason));
        }
        Err(_) => text.lines().map(str::to_owned).collect(),
    };
    if labels.is_empty() {
        let reason = "it is empty; give a label on each line, or leave out --labels";
        return Err(refused(path, reason));
    }
    Ok(labels)
}

/// Says which order numbers are in: Keras's and torchvision's readers of directories order them as text.
fn note(labels: &[String]) -> Option<String> {
    let numbers: Option<Vec<u64>> = labels.iter().map(|label| label.parse().ok()).collect();
    let is_numeric = numbers?.is_sorted();
    let mut as_text = labels.to_vec();
    as_text.sort_unstable();
    if as_text.is_sorted_by_key(|label| label.parse::<u64>().unwrap_or_default()) {
        return None;
    }
    let first: Vec<&str> = as_text.iter().take(3).map(String::as_str).collect();
    let first = first.join(", ");
    if is_numeric {
        return Some(format!(
            "the labels are in the order of numbers; if they were directories, Keras and torchvision numbered the classes in \
             the order of text ({first}, …): give the directory, or class_indices.json"
        ));
    }
    (labels == as_text).then(|| {
        format!("the labels are in the order of text ({first}, …), in which Keras and torchvision number directories")
    })
}

fn refused(path: &Path, reason: &str) -> ClientError {
    ClientError::Head {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn labels_are_read_in_the_order_of_the_classes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("labels");
        let list = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        for (text, expected) in [
            ("cat\ndog\n", list(&["cat", "dog"])),
            (r#"["b", "a"]"#, list(&["b", "a"])),
            (r#"{"dog": 1, "cat": 0}"#, list(&["cat", "dog"])),
            (r#"{"0": "x", "1": "y"}"#, list(&["x", "y"])),
            ("1\n2\n10\n", list(&["1", "2", "10"])),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(read_labels(&file).unwrap().labels, expected, "{text}");
        }
        fs::write(&file, r#"{"dog": 2, "cat": 0}"#).unwrap();
        assert!(read_labels(&file).unwrap_err().to_string().contains("0 to n - 1"));
    }

    #[test]
    fn directories_are_classes_in_the_order_of_text() {
        let folder = tempfile::tempdir().unwrap();
        for class in ["10", "2", "1", ".cache"] {
            fs::create_dir(folder.path().join(class)).unwrap();
        }
        fs::write(folder.path().join("3"), "").unwrap();
        let read = read_labels(folder.path()).unwrap();
        assert_eq!(read.labels, ["1", "10", "2"]);
        assert!(read.note.unwrap().contains("order of text (1, 10, 2"));
    }

    #[test]
    fn numbers_whose_order_as_text_is_another_get_a_note() {
        let of = |labels: &[&str]| note(&labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>());
        assert!(of(&["1", "2", "10"]).unwrap().contains("class_indices.json"));
        assert!(of(&["1", "10", "2"]).is_some());
        for labels in [&["0", "1", "2"][..], &["cat", "10", "2"], &["01", "02", "10"]] {
            assert_eq!(of(labels), None, "{labels:?}");
        }
    }
}
