//! Class labels on their way to a server.

use std::path::Path;

use headswap_spec::LABEL_BYTES_MAX;

use super::error::ClientError;

/// Bytes of a file of labels at most: the server's limit on all labels of a head.
const FILE_BYTES_MAX: u64 = 3 << 20;

/// Reads a file of labels in the order of the classes: text with a label on each line, which may be empty, or a JSON list.
///
/// # Errors
/// [`ClientError::Read`], or [`ClientError::Head`] if it is not such a text.
pub fn read_labels(path: &Path) -> Result<Vec<String>, ClientError> {
    let metadata = std::fs::metadata(path).map_err(|error| ClientError::unreadable(path, error))?;
    if metadata.is_dir() {
        return Err(refused(path, "it is a directory; give a text file of labels"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        let reason = format!("it has {} bytes; the limit is {FILE_BYTES_MAX}", metadata.len());
        return Err(refused(path, &reason));
    }
    let bytes = std::fs::read(path).map_err(|error| ClientError::unreadable(path, error))?;
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(refused(path, "it is not UTF-8 text; give a label on each line"));
    };
    // Windows' editors begin UTF-8 files with this mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let labels: Vec<String> = match serde_json::from_str(text) {
        Ok(labels) => labels,
        Err(_) => text.lines().map(str::to_owned).collect(),
    };
    if labels.is_empty() {
        let reason = "it is empty; give a label on each line, or leave out --labels";
        return Err(refused(path, reason));
    }
    if let Some(index) = labels.iter().position(|label| label.len() > LABEL_BYTES_MAX) {
        let reason = format!("label {index} is longer than {LABEL_BYTES_MAX} bytes");
        return Err(refused(path, &reason));
    }
    Ok(labels)
}

fn refused(path: &Path, reason: &str) -> ClientError {
    ClientError::Head {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
