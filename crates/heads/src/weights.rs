//! A head's weights, checked: once a [`HeadWeights`] exists, it can be placed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use headswap_checkpoint::{Checkpoint, CheckpointError, Digest, Parameters, TensorEntry, Throttle, excerpt};
use headswap_spec::{LAST_BIAS, LAST_WEIGHT};

use super::error::HeadError;

const LABEL_BYTES_MAX: usize = 1024;
/// A file's header has 4 MiB at most, and the annotations, the record and the tensors need some of them.
const STORED_LABELS_BYTES_MAX: usize = 3 * 1024 * 1024;

/// What a head may be.
#[derive(Clone, Debug)]
pub struct HeadLimits {
    /// The most classes.
    pub classes_max: usize,
    /// The length of a row of features: the backbone's.
    pub features: usize,
    /// The backbone's parameters before the last Linear, any of which a head may override.
    pub deeper: BTreeMap<String, Overridable>,
}

/// A parameter of the backbone that a head may override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridable {
    /// Which the head's must have, too.
    pub shape: Vec<usize>,
    /// Of the backbone's own; a head's tensor that equals it is no override.
    pub digest: Digest,
}

/// A head's parameters and labels, complete, of the right shapes, finite.
#[derive(Clone, Debug)]
pub struct HeadWeights {
    /// `classifier.6.weight` of shape `[K, features]`, `classifier.6.bias` of shape `[K]`, and those of the backbone's
    /// other parameters that differ from it.
    pub parameters: Arc<Parameters>,
    /// K labels, or none.
    pub labels: Arc<[String]>,
    /// SHA-256 of both.
    pub digest: Digest,
    /// K.
    pub classes: usize,
}

impl HeadWeights {
    /// Wraps parameters that are known to be right, as the backbone's own: both are there, and their shapes agree.
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

    /// Reads a file in memory, in any of the formats of [`Checkpoint`]. Empty `labels` means those in a safetensors
    /// file's metadata under `labels`, a JSON list.
    ///
    /// # Errors
    /// [`HeadError::Weights`] or [`HeadError::Labels`] says which tensor or label is wrong, and how.
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

    /// As [`HeadWeights::from_bytes`], of an open checkpoint: names and shapes first, then tensor by tensor.
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
        return Err(refused("it is a directory".into()));
    }
    Checkpoint::open(path).map_err(|error| failed(path, error))
}

/// Why a file was not read. That it ends early is its own fault; other failures of reading are the system's.
fn failed(path: &Path, error: CheckpointError) -> HeadError {
    match error {
        CheckpointError::Read(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            refused("the file ends before its tensors do".into())
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

/// The checkpoint's tensors by their full names, all of which VGG16 has.
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
                "it holds {name} twice, under its full and its short name"
            )));
        }
    }
    Ok(entries)
}

/// K, if every tensor that belongs in a head is there and has the right shape.
fn check_shapes(entries: &BTreeMap<&str, &TensorEntry>, limits: &HeadLimits) -> Result<usize, HeadError> {
    let shape = |name: &str| {
        let entry = entries.get(name).ok_or_else(|| refused(format!("it lacks {name}")))?;
        Ok::<&[usize], HeadError>(&entry.shape)
    };
    let weight = shape(LAST_WEIGHT)?;
    shape(LAST_BIAS)?;
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

/// What labels take as a JSON text within a JSON text.
fn stored_bytes(labels: &[String]) -> usize {
    let twice = serde_json::to_string(labels).and_then(|text| serde_json::to_string(&text));
    twice.map_or(usize::MAX, |text| text.len())
}

fn check_labels(labels: &[String], classes: usize) -> Result<(), HeadError> {
    let refused = |reason| Err(HeadError::Labels { reason });
    if !labels.is_empty() && labels.len() != classes {
        return refused(format!(
            "there are {} for {classes} classes; give one for each or none",
            labels.len()
        ));
    }
    let bytes = stored_bytes(labels);
    if bytes > STORED_LABELS_BYTES_MAX {
        return refused(format!(
            "they take {bytes} bytes of a file's header; {STORED_LABELS_BYTES_MAX} are the most"
        ));
    }
    match labels.iter().position(|label| label.len() > LABEL_BYTES_MAX) {
        Some(index) => refused(format!(
            "label {index} has {} bytes; {LABEL_BYTES_MAX} are the most",
            labels[index].len()
        )),
        None => Ok(()),
    }
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

    fn file_of(dtype: Dtype, tensors: &[Tensor<'_>], metadata: &[(&str, &str)]) -> Vec<u8> {
        let encode = |value: &f32| match dtype {
            Dtype::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
            Dtype::F64 => f64::from(*value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|tensor| tensor.2.iter().flat_map(encode).collect())
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

    /// Only what is in the file, or lacks in it, is the file's fault.
    #[test]
    fn a_refused_read_is_told_apart_from_a_wrong_file() {
        let check = |error: io::Error, is_files_fault: bool| {
            let kind = error.kind();
            match failed(Path::new("/heads/cats"), CheckpointError::Read(error)) {
                HeadError::Weights { .. } => assert!(is_files_fault, "{kind}"),
                HeadError::Unreadable { path, source } => {
                    assert!(!is_files_fault, "{kind}");
                    assert_eq!((path, source.kind()), (PathBuf::from("/heads/cats"), kind));
                }
                other => panic!("{other}"),
            }
        };
        check(io::ErrorKind::UnexpectedEof.into(), true);
        for errno in [
            libc::EIO,
            libc::EMFILE,
            libc::EINTR,
            libc::ENOMEM,
            libc::EACCES,
            libc::ENOENT,
        ] {
            check(io::Error::from_raw_os_error(errno), false);
        }
    }

    #[test]
    fn every_dtype_and_both_styles_of_names_give_the_same_head() {
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
        let labels = |given: &[&str]| {
            let given = given.iter().map(ToString::to_string).collect();
            HeadWeights::from_bytes(bytes.to_vec().into(), given, &LIMITS)
                .unwrap()
                .labels
        };
        assert_eq!(labels(&[])[..], ["cat", "dog"]);
        assert_eq!(labels(&["a", "b"])[..], ["a", "b"]);
        assert_ne!(
            read(&bytes).unwrap().digest,
            read(&file(&[WEIGHT, BIAS])).unwrap().digest
        );
    }

    #[test]
    fn wrong_weights_are_refused() {
        let check = |bytes: &[u8], part: &str| {
            let error = read(bytes).unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, HeadError::Weights { .. }), "{message}");
            assert!(message.contains(part), "{message:?} lacks {part:?}");
            assert!(
                message.len() < 500 && !message.contains(char::is_control),
                "{message:?}"
            );
        };
        let good = file(&[WEIGHT, BIAS]);
        let with_header = |length: u64| [&length.to_le_bytes(), &good[8..]].concat();
        check(b"", "it is empty");
        check(b"{}", "neither safetensors");
        check(&good[..good.len() - 1], "safetensors file is damaged");
        check(&[&good[..], b"\0"].concat(), "safetensors file is damaged");
        check(&with_header(u64::MAX), "safetensors file is damaged");
        check(&with_header(99_999_999), "safetensors file is damaged");
        check(&with_header(7), "safetensors file is damaged");
        let lying = |from: &str, to: &str| {
            let at = good
                .windows(from.len())
                .position(|part| part == from.as_bytes())
                .unwrap();
            [&good[..at], to.as_bytes(), &good[at + from.len()..]].concat()
        };
        check(&lying("[2,4]", "[3,4]"), "damaged");
        check(
            &lying("\"F32\"", "\"I32\""),
            "has dtype I32; F32, F16, BF16 and F64 are accepted",
        );
        check(&lying("\"F32\"", "\"\n!!\""), "safetensors file is damaged");
        let long_dtype = format!(
            r#"{{"weight":{{"dtype":"{}","shape":[],"data_offsets":[0,0]}}}}"#,
            "x".repeat(9999)
        );
        check(
            &[&(long_dtype.len() as u64).to_le_bytes(), long_dtype.as_bytes()].concat(),
            "safetensors file is damaged",
        );

        check(&file(&[WEIGHT]), "it lacks classifier.6.bias");
        check(&file(&[BIAS]), "it lacks classifier.6.weight");
        check(b"\x02\0\0\0\0\0\0\0{}", "it lacks classifier.6.weight");
        let deeper = ("classifier.3.bias", BIAS.1, BIAS.2);
        check(&file(&[WEIGHT, BIAS, deeper]), "`classifier.3.bias`");
        check(&file(&[WEIGHT, BIAS, deeper]), "which VGG16 does not have");
        check(&file(&[WEIGHT, BIAS, ("a\nb", BIAS.1, BIAS.2)]), r"`a\nb`");
        check(
            &file(&[WEIGHT, BIAS, ("bias", BIAS.1, BIAS.2)]),
            "classifier.6.bias twice",
        );
        check(
            &file(&[WEIGHT, BIAS, ("weight", WEIGHT.1, WEIGHT.2)]),
            "classifier.6.weight twice",
        );
    }

    #[test]
    fn wrong_shapes_and_numbers_are_refused() {
        let check = |weight: &[usize], bias: &[usize], change: (&str, usize, f32), part: &str| {
            let numbers = |name: &str, shape: &[usize]| {
                let mut values = vec![0.5; shape.iter().product()];
                if name == change.0 {
                    values[change.1] = change.2;
                }
                values
            };
            let (w, b) = (numbers(LAST_WEIGHT, weight), numbers(LAST_BIAS, bias));
            let message = read(&file(&[(LAST_WEIGHT, weight, &w), (LAST_BIAS, bias, &b)]))
                .unwrap_err()
                .to_string();
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        };
        let fine = ("", 0, 0.0);
        check(&[0, 4], &[0], fine, "has 0 classes; 1 to 5 are accepted");
        check(&[6, 4], &[6], fine, "has 6 classes; 1 to 5 are accepted");
        check(&[2, 3], &[2], fine, "weight has shape [2, 3]; [2, 4] is expected");
        check(&[8], &[2], fine, "weight has shape [8]; [K, 4] is expected");
        check(&[2, 4, 1], &[2], fine, "weight has shape [2, 4, 1]; [K, 4] is expected");
        check(&[2, 4], &[3], fine, "bias has shape [3]; [2] is expected");
        check(&[2, 4], &[], fine, "bias has shape []; [2] is expected");
        check(&[2, 4], &[2, 1], fine, "bias has shape [2, 1]; [2] is expected");
        check(
            &[2, 4],
            &[2],
            (LAST_WEIGHT, 6, f32::NAN),
            "classifier.6.weight holds NaN at element 6",
        );
        check(
            &[2, 4],
            &[2],
            (LAST_BIAS, 1, f32::INFINITY),
            "classifier.6.bias holds inf at element 1",
        );
        check(
            &[2, 4],
            &[2],
            (LAST_BIAS, 0, f32::NEG_INFINITY),
            "classifier.6.bias holds -inf at element 0",
        );
    }

    #[test]
    fn wrong_labels_are_refused() {
        let check = |given: Vec<String>, metadata: &str, part: &str| {
            let bytes = file_of(Dtype::F32, &[WEIGHT, BIAS], &[("labels", metadata)]);
            let error = HeadWeights::from_bytes(bytes.to_vec().into(), given, &LIMITS).unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, HeadError::Labels { .. }), "{message}");
            assert!(message.contains(part), "{message:?} lacks {part:?}");
            assert!(message.len() < 500, "{message:?}");
        };
        check(vec!["a".into()], "", "there are 1 for 2 classes");
        check(vec!["a".into(); 3], "", "there are 3 for 2 classes");
        check(Vec::new(), r#"["a"]"#, "there are 1 for 2 classes");
        check(Vec::new(), "cat, dog", "not a JSON list of strings");
        check(Vec::new(), r#"{"0": "cat"}"#, "not a JSON list of strings");
        check(
            Vec::new(),
            &format!("{:?}", "x".repeat(10_000)),
            "not a JSON list of strings",
        );
        check(
            vec!["a".into(), "x".repeat(1025)],
            "",
            "label 1 has 1025 bytes; 1024 are the most",
        );
        check(
            vec!["x".repeat(5 << 20); 2],
            "",
            "they take 10485773 bytes of a file's header; 3145728 are the most",
        );
    }

    #[test]
    fn limits_themselves_are_within_limits() {
        let (weight, bias) = (vec![0.5; 20], vec![0.5; 5]);
        let bytes = file(&[(LAST_WEIGHT, &[5, 4], &weight), (LAST_BIAS, &[5], &bias)]);
        HeadWeights::from_bytes(bytes.to_vec().into(), vec!["x".repeat(1024); 5], &LIMITS).unwrap();
    }

    fn is_sound(head: &HeadWeights) -> bool {
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
        fn random_bytes_never_panic(header in any::<Vec<u8>>(), data in any::<Vec<u8>>(), honest in any::<bool>()) {
            let length = (header.len() as u64).to_le_bytes();
            let bytes = if honest { [&length, &header[..], &data].concat() } else { data };
            prop_assert!(read(&bytes).is_ok_and(|head| is_sound(&head)) || read(&bytes).is_err());
        }

        #[test]
        fn mutated_files_are_refused_or_sound(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            insert in any::<Vec<u8>>(),
        ) {
            let mut bytes = file_of(Dtype::F32, &[WEIGHT, BIAS], &[("labels", r#"["cat", "dog"]"#)]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            prop_assert!(read(&bytes).map_or(true, |head| is_sound(&head)));
            let cut = cut.index(bytes.len());
            bytes.splice(cut..cut, insert);
            prop_assert!(read(&bytes).map_or(true, |head| is_sound(&head)));
            bytes.truncate(cut);
            prop_assert!(read(&bytes).is_err());
        }
    }
}
