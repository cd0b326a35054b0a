//! Validated weights: every [`HeadWeights`] that exists can be placed on the device.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use headswap_checkpoint::{Checkpoint, CheckpointError, Digest, Parameters, TensorEntry, Throttle, excerpt};
use headswap_spec::{LAST_BIAS, LAST_WEIGHT};

use super::error::HeadError;

const LABEL_BYTES_MAX: usize = 1024;
/// The limit for a file's header is 4 MiB; the annotations, the record and the list of tensors need the rest.
const STORED_LABELS_BYTES_MAX: usize = 3 * 1024 * 1024;

/// What a head's weights are checked against.
#[derive(Clone, Debug)]
pub struct HeadLimits {
    /// Maximum number of classes.
    pub classes_max: usize,
    /// The number of features per row that the backbone computes.
    pub features: usize,
    /// The backbone's parameters before the last Linear, any of which a head may override.
    pub deeper: BTreeMap<String, Overridable>,
}

/// A parameter of the backbone that a head may override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridable {
    /// Its shape, which an override must have, too.
    pub shape: Vec<usize>,
    /// Its digest; a head's tensor with the same digest is dropped, as it overrides nothing.
    pub digest: Digest,
}

/// A head's parameters and labels, complete, of the right shapes, finite.
#[derive(Clone, Debug)]
pub struct HeadWeights {
    /// `classifier.6.weight` of shape `[K, features]`, `classifier.6.bias` of shape `[K]`, and the parameters that differ
    /// from the backbone's.
    pub parameters: Arc<Parameters>,
    /// K labels, or none.
    pub labels: Arc<[String]>,
    /// SHA-256 of both.
    pub digest: Digest,
    /// K.
    pub classes: usize,
}

impl HeadWeights {
    /// Wraps parameters without checks; the last Linear's weight and bias must be there, and their shapes agree.
    pub fn new(parameters: Parameters, labels: Vec<String>) -> Self {
        let digest = Digest::of_parameters(&parameters, &labels);
        let classes = parameters[LAST_BIAS].values.len();
        Self {
            parameters: Arc::new(parameters),
            labels: labels.into(),
            digest,
            classes,
        }
    }

    /// Reads a file in memory, in any format of [`Checkpoint`]. If `labels` is empty, the labels are read from a
    /// safetensors file's metadata: the key `labels`, a JSON list.
    ///
    /// # Errors
    /// [`HeadError::Weights`] or [`HeadError::Labels`], which name the tensor or label and the fault.
    pub fn from_bytes(bytes: Bytes, labels: Vec<String>, limits: &HeadLimits) -> Result<Self, HeadError> {
        let checkpoint = Checkpoint::from_bytes(bytes).map_err(|error| failed(Path::new("the file"), error))?;
        Self::from_checkpoint(&checkpoint, labels, limits, &Throttle::off())
    }

    /// As [`HeadWeights::from_bytes`], from a file on the disk, tensor by tensor.
    ///
    /// # Errors
    /// As there, or [`HeadError::Unreadable`] if the system refuses to read the file.
    pub fn from_file(
        path: &Path,
        labels: Vec<String>,
        limits: &HeadLimits,
        throttle: &Throttle,
    ) -> Result<Self, HeadError> {
        let weights = Self::from_checkpoint(&open_checkpoint(path)?, labels, limits, throttle);
        weights.map_err(|error| match error {
            HeadError::Unreadable { source, .. } => unreadable(path, source),
            error => error,
        })
    }

    /// As [`HeadWeights::from_bytes`], from an open checkpoint: names and shapes first, then tensor by tensor.
    ///
    /// # Errors
    /// As there.
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        labels: Vec<String>,
        limits: &HeadLimits,
        throttle: &Throttle,
    ) -> Result<Self, HeadError> {
        let entries = entries(checkpoint, limits)?;
        let classes = check_shapes(&entries, limits)?;
        let labels = if labels.is_empty() {
            checkpoint.labels().map_err(|error| HeadError::Labels {
                reason: error.to_string(),
            })?
        } else {
            labels
        };
        check_labels(&labels, classes)?;
        let mut parameters = Parameters::new();
        for (name, entry) in entries {
            let tensor = checkpoint
                .read_throttled(entry, throttle)
                .map_err(|error| failed(Path::new("a tensor"), error))?;
            let backbone = limits.deeper.get(name);
            if backbone.is_none_or(|backbone| backbone.digest != tensor.digest_throttled(throttle)) {
                parameters.insert(name.to_owned(), Arc::new(tensor));
            }
        }
        for tensor in parameters.values() {
            tensor.digest_throttled(throttle);
        }
        Ok(Self::new(parameters, labels))
    }

    /// Its tensors' bytes in f32.
    pub fn bytes(&self) -> u64 {
        self.parameters.values().map(|tensor| tensor.bytes() as u64).sum()
    }
}

/// Opens a file of weights and reads its headers.
///
/// # Errors
/// [`HeadError::Weights`] or [`HeadError::Unreadable`].
pub fn open_checkpoint(path: &Path) -> Result<Checkpoint, HeadError> {
    if path.is_dir() {
        return Err(refused("it is a directory; give a file of weights".into()));
    }
    Checkpoint::open(path).map_err(|error| failed(path, error))
}

/// Maps an error of a checkpoint. An early end of the file is the file's fault, any other I/O error the system's.
fn failed(path: &Path, error: CheckpointError) -> HeadError {
    match error {
        CheckpointError::Read(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            refused("the file ends before its tensors do; save it again".into())
        }
        CheckpointError::Read(source) => unreadable(path, source),
        error => refused(error.to_string()),
    }
}

fn unreadable(path: &Path, source: io::Error) -> HeadError {
    HeadError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

fn refused(reason: String) -> HeadError {
    HeadError::Weights { reason }
}

/// Returns the checkpoint's tensors by their full names, all of which VGG16 has.
fn entries<'a>(
    checkpoint: &'a Checkpoint,
    limits: &HeadLimits,
) -> Result<BTreeMap<&'a str, &'a TensorEntry>, HeadError> {
    let mut entries = BTreeMap::new();
    for entry in checkpoint.tensors() {
        let name = match entry.name.as_str() {
            "weight" => LAST_WEIGHT,
            "bias" => LAST_BIAS,
            other => other,
        };
        if ![LAST_WEIGHT, LAST_BIAS].contains(&name) && !limits.deeper.contains_key(name) {
            return Err(refused(format!(
                "it holds `{}`, which VGG16 does not have; use torchvision's or timm's names, or weight and bias for the \
                 last Linear",
                excerpt(&entry.file_name)
            )));
        }
        if entries.insert(name, entry).is_some() {
            return Err(refused(format!(
                "it holds {name} twice, under its full and its short name; leave one of them out"
            )));
        }
    }
    Ok(entries)
}

/// Checks that the last Linear is complete and every tensor has the right shape. Returns K.
fn check_shapes(entries: &BTreeMap<&str, &TensorEntry>, limits: &HeadLimits) -> Result<usize, HeadError> {
    for name in [LAST_WEIGHT, LAST_BIAS] {
        if !entries.contains_key(name) {
            return Err(refused(format!(
                "it lacks {name}; a head needs the last Linear, {LAST_WEIGHT} and {LAST_BIAS} (or weight and bias)"
            )));
        }
    }
    let weight = &entries[LAST_WEIGHT].shape;
    let &HeadLimits {
        classes_max, features, ..
    } = limits;
    let [classes, _] = weight[..] else {
        return Err(refused(format!(
            "{LAST_WEIGHT} has shape {weight:?}; [K, {features}] is expected"
        )));
    };
    if classes == 0 || classes > classes_max {
        return Err(refused(format!(
            "{LAST_WEIGHT} has {classes} classes; 1 to {classes_max} are accepted"
        )));
    }
    let last = [(LAST_WEIGHT, vec![classes, features]), (LAST_BIAS, vec![classes])];
    let last = last.iter().map(|(name, shape)| (*name, &shape[..]));
    let deeper = limits
        .deeper
        .iter()
        .map(|(name, backbone)| (name.as_str(), &backbone.shape[..]));
    for (name, expected) in last.chain(deeper) {
        if let Some(entry) = entries.get(name).filter(|entry| entry.shape[..] != *expected) {
            let got = &entry.shape;
            return Err(refused(format!("{name} has shape {got:?}; {expected:?} is expected")));
        }
    }
    Ok(classes)
}

/// Returns the size of the labels in a file's header: a JSON list inside a JSON string.
fn stored_bytes(labels: &[String]) -> usize {
    let nested = serde_json::to_string(labels).and_then(|list| serde_json::to_string(&list));
    nested.map_or(usize::MAX, |text| text.len())
}

fn check_labels(labels: &[String], classes: usize) -> Result<(), HeadError> {
    let bytes = stored_bytes(labels);
    let reason = if !labels.is_empty() && labels.len() != classes {
        format!(
            "there are {} for {classes} classes; give one for each or none",
            labels.len()
        )
    } else if bytes > STORED_LABELS_BYTES_MAX {
        format!("they take {bytes} bytes of a file's header; the limit is {STORED_LABELS_BYTES_MAX}")
    } else if let Some(index) = labels.iter().position(|label| label.len() > LABEL_BYTES_MAX) {
        format!(
            "label {index} has {} bytes; the limit is {LABEL_BYTES_MAX}",
            labels[index].len()
        )
    } else {
        return Ok(());
    };
    Err(HeadError::Labels { reason })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use half::{bf16, f16};
    use proptest::prelude::*;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        classes_max: 5,
        features: 4,
        deeper: BTreeMap::new(),
    };

    type Tensor<'a> = (&'a str, &'a [usize], &'a [f32]);

    fn encode(value: f32, dtype: Dtype) -> Vec<u8> {
        match dtype {
            Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            Dtype::F64 => f64::from(value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        }
    }

    fn file_of(dtype: Dtype, tensors: &[Tensor<'_>], metadata: &[(&str, &str)]) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|tensor| tensor.2.iter().flat_map(|value| encode(*value, dtype)).collect())
            .collect();
        let views = tensors.iter().zip(&bytes);
        let views =
            views.map(|((name, shape, _), bytes)| (name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap()));
        let metadata = metadata
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        safetensors::serialize(views, Some(metadata)).unwrap()
    }

    fn file(tensors: &[Tensor<'_>]) -> Vec<u8> {
        file_of(Dtype::F32, tensors, &[])
    }

    const WEIGHT: Tensor<'_> = (LAST_WEIGHT, &[2, 4], &[0.5, -1.0, 2.0, 0.0, 1.5, 3.0, -0.25, 8.0]);
    const BIAS: Tensor<'_> = (LAST_BIAS, &[2], &[1.0, -2.0]);

    fn read(bytes: &[u8]) -> Result<HeadWeights, HeadError> {
        HeadWeights::from_bytes(bytes.to_vec().into(), Vec::new(), &LIMITS)
    }

    #[test]
    fn a_short_file_is_the_files_fault() {
        let error = CheckpointError::Read(io::ErrorKind::UnexpectedEof.into());
        let error = failed(Path::new("/heads/cats"), error);
        assert!(matches!(error, HeadError::Weights { .. }), "{error}");
    }

    #[test]
    fn other_read_errors_are_the_systems_fault() {
        for errno in [
            libc::EIO,
            libc::EMFILE,
            libc::EINTR,
            libc::ENOMEM,
            libc::EACCES,
            libc::ENOENT,
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let kind = error.kind();
            match failed(Path::new("/heads/cats"), CheckpointError::Read(error)) {
                HeadError::Unreadable { path, source } => {
                    assert_eq!((path, source.kind()), (PathBuf::from("/heads/cats"), kind));
                }
                other => panic!("{kind}: {other}"),
            }
        }
    }

    #[test]
    fn the_dtype_and_the_style_of_names_do_not_change_a_head() {
        let expected = read(&file(&[WEIGHT, BIAS])).unwrap();
        assert_eq!((expected.classes, expected.bytes()), (2, 40));
        assert_eq!(expected.parameters[LAST_WEIGHT].values, WEIGHT.2);
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
            for (weight, bias) in [(LAST_WEIGHT, LAST_BIAS), ("weight", "bias"), ("weight", LAST_BIAS)] {
                let bytes = file_of(dtype, &[(weight, WEIGHT.1, WEIGHT.2), (bias, BIAS.1, BIAS.2)], &[]);
                let head = read(&bytes).unwrap();
                assert_eq!(head.parameters, expected.parameters);
                assert_eq!(head.digest, expected.digest);
            }
        }
    }

    #[test]
    fn labels_come_from_the_request_or_else_from_the_file() {
        let bytes = file_of(Dtype::F32, &[WEIGHT, BIAS], &[("labels", r#"["cat", "dog"]"#)]);
        assert_eq!(read(&bytes).unwrap().labels[..], ["cat", "dog"]);
        let given = ["a", "b"].map(ToOwned::to_owned).to_vec();
        let head = HeadWeights::from_bytes(bytes.to_vec().into(), given, &LIMITS).unwrap();
        assert_eq!(head.labels[..], ["a", "b"]);
        assert_ne!(
            read(&bytes).unwrap().digest,
            read(&file(&[WEIGHT, BIAS])).unwrap().digest
        );
    }

    fn check_weights_refused(bytes: &[u8], part: &str) {
        let error = read(bytes).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, HeadError::Weights { .. }), "{message}");
        assert!(message.contains(part), "{message:?} lacks {part:?}");
        assert!(
            message.len() < 500 && !message.contains(char::is_control),
            "{message:?}"
        );
    }

    fn with_header_length(file: &[u8], length: u64) -> Vec<u8> {
        [&length.to_le_bytes(), &file[8..]].concat()
    }

    /// Returns a copy of `file` with the first `from` replaced by `to`.
    fn altered(file: &[u8], from: &str, to: &str) -> Vec<u8> {
        let at = file
            .windows(from.len())
            .position(|part| part == from.as_bytes())
            .unwrap();
        [&file[..at], to.as_bytes(), &file[at + from.len()..]].concat()
    }

    #[test]
    fn damaged_files_are_refused() {
        let good = file(&[WEIGHT, BIAS]);
        let long_dtype = format!(
            r#"{{"weight":{{"dtype":"{}","shape":[],"data_offsets":[0,0]}}}}"#,
            "x".repeat(9999)
        );
        check_weights_refused(b"", "it is empty");
        check_weights_refused(b"{}", "neither safetensors");
        for damaged in [
            good[..good.len() - 1].to_vec(),
            [&good[..], b"\0"].concat(),
            with_header_length(&good, u64::MAX),
            with_header_length(&good, 99_999_999),
            with_header_length(&good, 7),
            altered(&good, "\"F32\"", "\"\n!!\""),
            [&(long_dtype.len() as u64).to_le_bytes(), long_dtype.as_bytes()].concat(),
        ] {
            check_weights_refused(&damaged, "safetensors file is damaged");
        }
        check_weights_refused(&altered(&good, "[2,4]", "[3,4]"), "damaged");
        check_weights_refused(
            &altered(&good, "\"F32\"", "\"I32\""),
            "has dtype I32; F32, F16, BF16 and F64 are accepted",
        );
    }

    #[test]
    fn missing_unknown_and_repeated_tensors_are_refused() {
        let deeper = ("classifier.3.bias", BIAS.1, BIAS.2);
        let short_bias = ("bias", BIAS.1, BIAS.2);
        let short_weight = ("weight", WEIGHT.1, WEIGHT.2);
        for (bytes, part) in [
            (file(&[WEIGHT]), "it lacks classifier.6.bias"),
            (file(&[BIAS]), "it lacks classifier.6.weight"),
            (b"\x02\0\0\0\0\0\0\0{}".to_vec(), "it lacks classifier.6.weight"),
            (file(&[WEIGHT, BIAS, deeper]), "`classifier.3.bias`"),
            (file(&[WEIGHT, BIAS, deeper]), "which VGG16 does not have"),
            (file(&[WEIGHT, BIAS, ("a\nb", BIAS.1, BIAS.2)]), r"`a\nb`"),
            (file(&[WEIGHT, BIAS, short_bias]), "classifier.6.bias twice"),
            (file(&[WEIGHT, BIAS, short_weight]), "classifier.6.weight twice"),
        ] {
            check_weights_refused(&bytes, part);
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        for (weight, bias, part) in [
            (&[0, 4][..], &[0][..], "has 0 classes; 1 to 5 are accepted"),
            (&[6, 4], &[6], "has 6 classes; 1 to 5 are accepted"),
            (&[2, 3], &[2], "weight has shape [2, 3]; [2, 4] is expected"),
            (&[8], &[2], "weight has shape [8]; [K, 4] is expected"),
            (&[2, 4, 1], &[2], "weight has shape [2, 4, 1]; [K, 4] is expected"),
            (&[2, 4], &[3], "bias has shape [3]; [2] is expected"),
            (&[2, 4], &[], "bias has shape []; [2] is expected"),
            (&[2, 4], &[2, 1], "bias has shape [2, 1]; [2] is expected"),
        ] {
            let weights = vec![0.5; weight.iter().product()];
            let biases = vec![0.5; bias.iter().product()];
            let bytes = file(&[(LAST_WEIGHT, weight, &weights), (LAST_BIAS, bias, &biases)]);
            check_weights_refused(&bytes, part);
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        let mut weights = WEIGHT.2.to_vec();
        weights[6] = f32::NAN;
        let bytes = file(&[(LAST_WEIGHT, WEIGHT.1, &weights), BIAS]);
        check_weights_refused(&bytes, "classifier.6.weight holds NaN at element 6");
        for (biases, part) in [
            ([0.5, f32::INFINITY], "classifier.6.bias holds inf at element 1"),
            ([f32::NEG_INFINITY, 0.5], "classifier.6.bias holds -inf at element 0"),
        ] {
            check_weights_refused(&file(&[WEIGHT, (LAST_BIAS, BIAS.1, &biases)]), part);
        }
    }

    fn check_labels_refused(given: Vec<String>, metadata: &str, part: &str) {
        let bytes = file_of(Dtype::F32, &[WEIGHT, BIAS], &[("labels", metadata)]);
        let error = HeadWeights::from_bytes(bytes.into(), given, &LIMITS).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, HeadError::Labels { .. }), "{message}");
        assert!(message.contains(part), "{message:?} lacks {part:?}");
        assert!(message.len() < 500, "{message:?}");
    }

    #[test]
    fn wrong_labels_are_refused() {
        let long = format!("{:?}", "x".repeat(10_000));
        for (metadata, part) in [
            (r#"["a"]"#, "there are 1 for 2 classes"),
            ("cat, dog", "not a JSON list of strings"),
            (r#"{"0": "cat"}"#, "not a JSON list of strings"),
            (&long, "not a JSON list of strings"),
        ] {
            check_labels_refused(Vec::new(), metadata, part);
        }
        for (given, part) in [
            (vec!["a".into()], "there are 1 for 2 classes"),
            (vec!["a".into(); 3], "there are 3 for 2 classes"),
            (
                vec!["a".into(), "x".repeat(1025)],
                "label 1 has 1025 bytes; the limit is 1024",
            ),
            (
                vec!["x".repeat(5 << 20); 2],
                "they take 10485773 bytes of a file's header; the limit is 3145728",
            ),
        ] {
            check_labels_refused(given, "", part);
        }
    }

    #[test]
    fn values_at_the_limits_are_accepted() {
        let (weight, bias) = (vec![0.5; 20], vec![0.5; 5]);
        let bytes = file(&[(LAST_WEIGHT, &[5, 4], &weight), (LAST_BIAS, &[5], &bias)]);
        HeadWeights::from_bytes(bytes.to_vec().into(), vec!["x".repeat(1024); 5], &LIMITS).unwrap();
    }

    fn is_valid(head: &HeadWeights) -> bool {
        let finite = head
            .parameters
            .values()
            .all(|tensor| tensor.values.iter().all(|value| value.is_finite()));
        let names: Vec<&String> = head.parameters.keys().collect();
        finite && names == [LAST_BIAS, LAST_WEIGHT] && head.parameters[LAST_WEIGHT].shape == [head.classes, 4]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        #[test]
        fn random_bytes_never_panic(header in any::<Vec<u8>>(), data in any::<Vec<u8>>(), framed in any::<bool>()) {
            let length = (header.len() as u64).to_le_bytes();
            let bytes = if framed { [&length, &header[..], &data].concat() } else { data };
            prop_assert!(read(&bytes).map_or(true, |head| is_valid(&head)));
        }

        #[test]
        fn mutated_files_are_refused_or_valid(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            insert in any::<Vec<u8>>(),
        ) {
            let mut bytes = file_of(Dtype::F32, &[WEIGHT, BIAS], &[("labels", r#"["cat", "dog"]"#)]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            prop_assert!(read(&bytes).map_or(true, |head| is_valid(&head)));
            let cut = cut.index(bytes.len());
            bytes.splice(cut..cut, insert);
            prop_assert!(read(&bytes).map_or(true, |head| is_valid(&head)));
            bytes.truncate(cut);
            prop_assert!(read(&bytes).is_err());
        }
    }
}
