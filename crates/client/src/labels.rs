//! Class labels on their way to a server.

use std::path::Path;

use super::error::ClientError;

/// Bytes of a label at most: the server's limit.
const LABEL_BYTES_MAX: usize = 1024;
/// Bytes of a file of labels at most: the server's limit on all labels of a head.
const FILE_BYTES_MAX: u64 = 3 << 20;

/// Reads a text file that has a label on each line, in the order of the classes.
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
    let mut labels = Vec::new();
    for (index, label) in text.lines().enumerate() {
        if label.trim().is_empty() {
            let reason = format!(
                "line {} is blank; give a label on each line, and nothing else",
                index + 1
            );
            return Err(refused(path, &reason));
        }
        labels.push(label.to_owned());
    }
    if labels.is_empty() {
        return Err(refused(
            path,
            "it is empty; give a label on each line, or leave out --labels",
        ));
    }
    Ok(labels)
}

/// Whether these are the labels of so many classes. None at all are.
pub(super) fn check_labels(labels: &[String], classes: usize) -> Result<(), String> {
    if !labels.is_empty() && labels.len() != classes {
        return Err(format!(
            "there are {} labels for {classes} classes; give one for each or none",
            labels.len()
        ));
    }
    for (index, label) in labels.iter().enumerate() {
        if label.len() > LABEL_BYTES_MAX {
            return Err(format!(
                "label {index} has {} bytes; the limit is {LABEL_BYTES_MAX}",
                label.len()
            ));
        }
    }
    Ok(())
}

fn refused(path: &Path, reason: &str) -> ClientError {
    ClientError::Head {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
