//! Validated weights: every [`HeadWeights`] that exists can be placed on the device.

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use headswap_checkpoint::{
    Checkpoint, CheckpointError, Digest, HeadFileError, HeadOptions, HeadPolicy, HeadReport, NormalHead, Parameters,
    Throttle, read_head_for, stored_spec,
};
use headswap_spec::{Architecture, CompleteSpec, HeadSpec, LAST_BIAS, LAST_WEIGHT, Output, Preprocessing};

use super::backbones::{Backbones, KnownBackbone};
use super::error::HeadError;
use super::head_request::{HeadRequest, check_labels};

/// What a head's weights are checked against.
#[derive(Clone, Debug)]
pub struct HeadLimits {
    /// Maximum number of classes.
    pub classes_max: usize,
    /// The backbones' architecture.
    pub architecture: Architecture,
    /// True to refuse heads without a spec.
    pub require_spec: bool,
    /// The backbones.
    pub backbones: Backbones,
}

impl HeadLimits {
    /// Returns the backbone of a head before its file is read: the one that the request names, or the only one.
    fn chosen(&self, request: &HeadRequest) -> Result<Option<usize>, HeadError> {
        match &request.backbone[..] {
            "" if self.backbones.all().len() > 1 => Ok(None),
            name => Ok(Some(self.backbones.find(name)?)),
        }
    }
}

/// A head's parameters, spec and labels, complete, of the right shapes, finite.
#[derive(Clone, Debug)]
pub struct HeadWeights {
    /// The index of the backbone that it stands on.
    pub backbone: usize,
    /// Those of [`CompleteSpec::parameter_names`], and the parameters that differ from that backbone's.
    pub parameters: Arc<Parameters>,
    /// What it computes of which pictures.
    pub spec: Arc<CompleteSpec>,
    /// False if the spec is the backbone's preprocessing and a softmax because nothing else was said. It is then neither
    /// stored nor part of the digest.
    pub has_spec: bool,
    /// Labels that fit the spec, or none.
    pub labels: Arc<[String]>,
    /// SHA-256 of the parameters and the labels, and of the spec if it has one.
    pub digest: Digest,
    /// What was assumed when it was read, a line each.
    pub assumed: Arc<[String]>,
    /// The prefixes of names that were seen through, the tensors that were left out, and the labels that did not fit. Not
    /// stored.
    pub report: Arc<HeadReport>,
}

impl HeadWeights {
    /// Wraps the parameters of a last Linear on the first backbone, and others that a head overrides, without checks;
    /// `classifier.6.weight` and `.bias` must be there. `preprocessing` is the backbone's.
    pub fn new(parameters: Parameters, labels: Vec<String>, preprocessing: Preprocessing) -> Self {
        let classes = parameters[LAST_BIAS].values.len();
        Self {
            backbone: 0,
            digest: Digest::of_parameters(&parameters, &labels),
            parameters: Arc::new(parameters),
            spec: Arc::new(CompleteSpec::plain(preprocessing, classes)),
            has_spec: false,
            labels: labels.into(),
            assumed: Arc::default(),
            report: Arc::default(),
        }
    }

    /// Reads a file in memory, in any format of [`Checkpoint`].
    ///
    /// # Errors
    /// [`HeadError`] names the tensor, the key of the spec or the label, and the fault.
    pub fn from_bytes(bytes: Bytes, request: &HeadRequest, limits: &HeadLimits) -> Result<Self, HeadError> {
        let checkpoint = Checkpoint::from_bytes(bytes).map_err(|error| failed(Path::new("the file"), error))?;
        Self::from_checkpoint(&checkpoint, request, limits, &Throttle::off())
    }

    /// As [`HeadWeights::from_bytes`], from a file on the disk, tensor by tensor.
    ///
    /// # Errors
    /// As there, or [`HeadError::Unreadable`] if the system refuses to read the file.
    pub fn from_file(
        path: &Path,
        request: &HeadRequest,
        limits: &HeadLimits,
        throttle: &Throttle,
    ) -> Result<Self, HeadError> {
        let weights = Self::from_checkpoint(&open_checkpoint(path)?, request, limits, throttle);
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
        request: &HeadRequest,
        limits: &HeadLimits,
        throttle: &Throttle,
    ) -> Result<Self, HeadError> {
        let stored = stored_spec(checkpoint).map_err(refused_file)?;
        let with_stored = HeadRequest {
            spec: request.spec.clone().or(stored.map(|spec| HeadSpec {
                labels: spec.labels.filter(|_| request.labels.is_empty()),
                ..spec
            })),
            labels: request.labels.clone(),
            backbone: request.backbone.clone(),
        };
        let spec = with_stored.spec_with_labels()?;
        if spec.is_none() && limits.require_spec {
            return Err(HeadError::SpecMissing);
        }
        let options = HeadOptions {
            architecture: limits.architecture,
            spec: spec.as_ref(),
            labels: &request.labels,
            throttle,
        };
        // An unknown name is refused before the tensors are read.
        let chosen = limits.chosen(request)?;
        let is_dropped = |name: &str, digest: &Digest| match chosen {
            Some(index) => limits.backbones.get(index).has(name, *digest),
            // Known once all are read.
            None => false,
        };
        let policy = HeadPolicy {
            rows_max: limits.classes_max,
            is_dropped: Some(&is_dropped),
        };
        let normal = read_head_for(checkpoint, &options, policy).map_err(refused_file)?;
        let index = chosen.unwrap_or_else(|| limits.backbones.nearest(&normal.parameters));
        let backbone = limits.backbones.get(index);
        let (complete, assumed) = complete(&normal, spec.as_ref(), backbone.preprocessing)?;
        let labels = normal.labels;
        check_labels(&labels, &complete)?;
        check_stored_form(&complete)?;

        backbone.check(&limits.architecture.steps(), &normal.parameters, &complete)?;
        let mut parameters = normal.parameters;
        parameters.retain(|name, tensor| !backbone.has(name, tensor.digest()));
        let is_plain = complete == CompleteSpec::plain(backbone.preprocessing, normal.rows);
        let weights = Self::with_spec(parameters, complete, spec.is_some() || !is_plain, labels);
        Ok(Self {
            backbone: index,
            assumed: assumed.into(),
            report: Arc::new(normal.report),
            ..weights
        })
    }

    /// Reads a file that a store wrote of a head on the backbone of this index: tensors by their names in normal form, and the
    /// labels. `spec` is the stored one; without one the head is a last Linear and what it overrides.
    ///
    /// # Errors
    /// [`HeadError`] if a tensor is missing or cannot be read.
    pub fn from_store(
        path: &Path,
        spec: Option<CompleteSpec>,
        backbone: (usize, &KnownBackbone),
        throttle: &Throttle,
    ) -> Result<Self, HeadError> {
        let (index, backbone) = backbone;
        let checkpoint = open_checkpoint(path)?;
        let labels = checkpoint.labels().map_err(|error| HeadError::Labels {
            reason: error.to_string(),
        })?;
        let mut parameters = Parameters::new();
        for entry in checkpoint.tensors() {
            let tensor = checkpoint
                .read_throttled(entry, throttle)
                .map_err(|error| failed(path, error))?;
            tensor.digest_throttled(throttle);
            parameters.insert(entry.name.clone(), Arc::new(tensor));
        }
        let has_spec = spec.is_some();
        let last = [LAST_WEIGHT, LAST_BIAS].map(str::to_owned);
        let names = match &spec {
            Some(spec) => (0..spec.layers.len())
                .filter_map(|layer| spec.parameter_names(layer))
                .flatten()
                .collect(),
            None => last.to_vec(),
        };
        if let Some(missing) = names.iter().find(|name| !parameters.contains_key(*name)) {
            return Err(refused(format!("it lacks {missing}")));
        }
        let Some(spec) = spec else {
            return Ok(Self {
                backbone: index,
                ..Self::new(parameters, labels, backbone.preprocessing)
            });
        };
        Ok(Self {
            backbone: index,
            ..Self::with_spec(parameters, spec, has_spec, labels)
        })
    }

    fn with_spec(parameters: Parameters, spec: CompleteSpec, has_spec: bool, labels: Vec<String>) -> Self {
        let digest = if has_spec {
            Digest::of_head(&parameters, &spec.to_spec(&labels).to_json())
        } else {
            Digest::of_parameters(&parameters, &labels)
        };
        Self {
            backbone: 0,
            parameters: Arc::new(parameters),
            spec: Arc::new(spec),
            has_spec,
            labels: labels.into(),
            digest,
            assumed: Arc::default(),
            report: Arc::default(),
        }
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.spec.classes
    }

    /// Its tensors' bytes in f32.
    pub fn bytes(&self) -> u64 {
        self.parameters.values().map(|tensor| tensor.bytes() as u64).sum()
    }
}

/// Returns the complete spec of a head, and what of it was assumed.
fn complete(
    normal: &NormalHead,
    spec: Option<&HeadSpec>,
    preprocessing: Preprocessing,
) -> Result<(CompleteSpec, Vec<String>), HeadError> {
    let mut assumed = Vec::new();
    if spec.is_none() {
        assumed.push(ASSUMED_PREPROCESSING.to_owned());
    }
    let output = match normal.output {
        Some(output) => output,
        None if normal.rows == 1 => return Err(HeadError::OneOutput),
        None => {
            assumed.push(ASSUMED_OUTPUT.to_owned());
            Output::Softmax
        }
    };
    assumed.extend(normal.report.assumed.iter().cloned());
    let complete = CompleteSpec {
        preprocessing: normal.preprocessing.unwrap_or(preprocessing),
        input: normal.input,
        layers: normal.layers.clone(),
        output,
        classes: normal.classes,
    };
    Ok((complete, assumed))
}

/// What is assumed of heads without a spec.
const ASSUMED_PREPROCESSING: &str = "preprocessing: the backbone's";
const ASSUMED_OUTPUT: &str = "output: softmax";

/// One for all heads, of which there may be many.
static ASSUMED_WITHOUT_SPEC: LazyLock<Arc<[String]>> =
    LazyLock::new(|| [ASSUMED_PREPROCESSING, ASSUMED_OUTPUT].map(str::to_owned).into());

/// Returns what is assumed of a stored head without a spec.
pub fn assumed_without_spec() -> Arc<[String]> {
    Arc::clone(&ASSUMED_WITHOUT_SPEC)
}

/// Checks that a spec is the same after a restart: its JSON, which is stored, reads back as itself.
fn check_stored_form(complete: &CompleteSpec) -> Result<(), HeadError> {
    let json = complete.to_spec(&[]).to_json();
    let reason = match HeadSpec::from_json(&json) {
        Ok(read) if read.to_json() == json => return Ok(()),
        Ok(_) => "its JSON reads back as another spec".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(HeadError::Spec {
        reason: format!("what was read from the file and the request is no spec that can be stored: {reason}"),
    })
}

/// Opens a file of weights and reads its headers.
///
/// # Errors
/// [`HeadError::Weights`] or [`HeadError::Unreadable`].
pub fn open_checkpoint(path: &Path) -> Result<Checkpoint, HeadError> {
    Checkpoint::open(path).map_err(|error| failed(path, error))
}

/// Maps an error of a head's file to what the caller can change: the labels, the spec or the file.
fn refused_file(error: HeadFileError) -> HeadError {
    let reason = error.to_string();
    match error {
        HeadFileError::Checkpoint(error) => failed(Path::new("a tensor"), error),
        HeadFileError::OneOutput => HeadError::Output { reason },
        HeadFileError::Spec(error) => HeadError::Spec {
            reason: format!("that in the file's metadata: {error}"),
        },
        HeadFileError::Labels { .. } | HeadFileError::LabelBytes { .. } => HeadError::Labels { reason },
        HeadFileError::Classes { .. } | HeadFileError::Groups { .. } | HeadFileError::Counts { .. } => {
            HeadError::Spec { reason }
        }
        _ => refused(reason),
    }
}

/// Maps an error of a checkpoint. An early end of the file is the file's fault, any other I/O error the system's.
fn failed(path: &Path, error: CheckpointError) -> HeadError {
    match error {
        CheckpointError::Read(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            refused("the file ends before its tensors do; save it again".into())
        }
        CheckpointError::Read(source) => unreadable(path, source),
        CheckpointError::Labels { .. } => HeadError::Labels {
            reason: error.to_string(),
        },
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use half::{bf16, f16};
    use proptest::prelude::*;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;
    use headswap_spec::{HeadLayer, Preset};

    fn limits() -> HeadLimits {
        HeadLimits {
            classes_max: 5,
            architecture: Architecture::Vgg16Narrow,
            require_spec: false,
            backbones: Backbones::new(
                KnownBackbone::of_any_heads("default", Digest::of_backbone([]), Preset::Torchvision.preprocessing()),
                [],
            ),
        }
    }

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

    /// Numbers that every element type holds exactly.
    const NUMBERS: [f32; 256] = {
        let mut numbers = [0.5; 256];
        (numbers[1], numbers[2], numbers[3], numbers[254], numbers[255]) = (-1.0, 2.0, 0.0, -0.25, 8.0);
        numbers
    };
    const WEIGHT: Tensor<'_> = (LAST_WEIGHT, &[2, 128], &NUMBERS);
    const BIAS: Tensor<'_> = (LAST_BIAS, &[2], &[1.0, -2.0]);

    fn read(bytes: &[u8]) -> Result<HeadWeights, HeadError> {
        HeadWeights::from_bytes(bytes.to_vec().into(), &HeadRequest::default(), &limits())
    }

    fn read_with_labels(bytes: &[u8], labels: Vec<String>) -> Result<HeadWeights, HeadError> {
        let request = HeadRequest {
            labels,
            spec: None,
            ..HeadRequest::default()
        };
        HeadWeights::from_bytes(bytes.to_vec().into(), &request, &limits())
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
        assert_eq!((expected.classes(), expected.bytes()), (2, 1032));
        assert_eq!(expected.parameters[LAST_WEIGHT].values, WEIGHT.2);
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
            for (weight, bias) in [
                (LAST_WEIGHT, LAST_BIAS),
                ("weight", "bias"),
                ("module.classifier.6.weight", "module.classifier.6.bias"),
            ] {
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
        let head = read_with_labels(&bytes, given).unwrap();
        assert_eq!(head.labels[..], ["a", "b"]);
        assert_ne!(
            read(&bytes).unwrap().digest,
            read(&file(&[WEIGHT, BIAS])).unwrap().digest
        );
    }

    #[test]
    fn a_spec_that_would_not_survive_a_restart_is_refused() {
        let with = |layers: Vec<HeadLayer>| CompleteSpec {
            layers,
            ..CompleteSpec::plain(Preset::Torchvision.preprocessing(), 2)
        };
        let (linear, relu) = (HeadLayer::Linear, HeadLayer::Relu);
        check_stored_form(&with(vec![linear, HeadLayer::LeakyRelu(Some(0.1)), linear])).unwrap();
        for (layers, part) in [
            (
                vec![linear, HeadLayer::LeakyRelu(Some(f32::INFINITY))],
                "a layer is its name",
            ),
            (vec![linear, HeadLayer::Elu(Some(f32::NAN))], "a layer is its name"),
            (vec![linear, HeadLayer::LeakyRelu(Some(-0.0))], "another spec"),
            ([vec![relu; 256], vec![linear]].concat(), "more than 256 entries"),
        ] {
            let error = check_stored_form(&with(layers)).unwrap_err();
            assert!(matches!(error, HeadError::Spec { .. }));
            assert!(error.to_string().contains(part), "{error}");
        }
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
        check_weights_refused(b"{}", "the file is JSON");
        check_weights_refused(b"?", "neither safetensors");
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
        check_weights_refused(&altered(&good, "[2,128]", "[3,128]"), "damaged");
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
            (file(&[BIAS]), "no Linear"),
            (b"\x02\0\0\0\0\0\0\0{}".to_vec(), "no Linear"),
            // A bias that is not where its weight is must not be left out.
            (file(&[short_weight, BIAS]), "classifier.6.bias [2] has no place"),
            (file(&[WEIGHT, short_bias]), "bias [2] has no place"),
            (file(&[WEIGHT, BIAS, short_weight]), "several heads"),
            (
                file(&[WEIGHT, BIAS, deeper]),
                "classifier.3.bias has shape [2]; [128] is expected",
            ),
            (
                file(&[WEIGHT, BIAS, ("classifier.6.a\nb", BIAS.1, BIAS.2)]),
                r"classifier.6.a\nb",
            ),
        ] {
            check_weights_refused(&bytes, part);
        }
        // Tensors of other modules are left out, and are in the report.
        let head = read(&file(&[WEIGHT, BIAS, short_bias, ("a\nb", BIAS.1, BIAS.2)])).unwrap();
        assert_eq!(head.digest, read(&file(&[WEIGHT, BIAS])).unwrap().digest);
        assert_eq!(head.report.left_out, ["bias", r"a\nb"]);
    }

    /// PyTorch's `Linear(bias=False)`.
    #[test]
    fn a_linear_without_a_bias_has_zeros() {
        let head = read(&file(&[WEIGHT])).unwrap();
        assert_eq!(head.parameters[LAST_BIAS].values, [0.0, 0.0]);
        let zeros = file(&[WEIGHT, (LAST_BIAS, &[2], &[0.0, 0.0])]);
        assert_eq!(head.digest, read(&zeros).unwrap().digest);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        for (weight, bias, part) in [
            (&[0, 128][..], &[0][..], "no Linear"),
            (&[6, 128], &[6], "has 6 outputs; 1 to 5 are accepted"),
            (&[2, 127], &[2], "takes 127 values"),
            (&[256], &[2], "bias has shape [2]; [256] is expected"),
            (&[256], &[256], "no Linear"),
            (&[2, 128, 1], &[2], "no Linear"),
            (&[2, 128], &[3], "bias has shape [3]; [2] is expected"),
            (&[2, 128], &[], "bias has shape []; [2] is expected"),
            (&[2, 128], &[2, 2], "bias has shape [2, 2]; [2] is expected"),
        ] {
            let weights = vec![0.5; weight.iter().product()];
            let biases = vec![0.5; bias.iter().product()];
            let bytes = file(&[(LAST_WEIGHT, weight, &weights), (LAST_BIAS, bias, &biases)]);
            check_weights_refused(&bytes, part);
        }
    }

    #[test]
    fn a_bias_may_be_a_row_or_a_column() {
        let expected = read(&file(&[WEIGHT, BIAS])).unwrap();
        for shape in [[1, 2], [2, 1]] {
            let head = read(&file(&[WEIGHT, (LAST_BIAS, &shape, BIAS.2)])).unwrap();
            assert_eq!((&head.parameters, head.digest), (&expected.parameters, expected.digest));
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
        let error = read_with_labels(&bytes, given).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, HeadError::Labels { .. }), "{message}");
        assert!(message.contains(part), "{message:?} lacks {part:?}");
        assert!(message.len() < 500, "{message:?}");
    }

    #[test]
    fn wrong_labels_are_refused() {
        let long = format!("{:?}", "x".repeat(10_000));
        for (metadata, part) in [
            (r#"["a"]"#, "there are 1 labels and 2 classes"),
            ("cat, dog", "not a JSON list of strings"),
            // The form of Hugging Face's `id2label`.
            (r#"{"0": "cat"}"#, "there are 1 labels and 2 classes"),
            (r#"{"0": "cat", "2": "dog"}"#, "not a JSON list of strings"),
            (&long, "not a JSON list of strings"),
        ] {
            check_labels_refused(Vec::new(), metadata, part);
        }
        for (given, part) in [
            (vec!["a".into()], "there are 1 labels and 2 classes"),
            (vec!["a".into(); 3], "there are 3 labels and 2 classes"),
            (
                vec!["a".into(), "x".repeat(4097)],
                "label 1 has 4097 bytes; the limit is 4096",
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
        let (weight, bias) = (vec![0.5; 5 * 128], vec![0.5; 5]);
        let bytes = file(&[(LAST_WEIGHT, &[5, 128], &weight), (LAST_BIAS, &[5], &bias)]);
        let head = read_with_labels(&bytes, vec!["x".repeat(4096); 5]).unwrap();
        assert_eq!((head.classes(), head.labels[4].len()), (5, 4096));
    }

    fn is_valid(head: &HeadWeights) -> bool {
        let finite = head
            .parameters
            .values()
            .all(|tensor| tensor.values.iter().all(|value| value.is_finite()));
        let names: Vec<&String> = head.parameters.keys().collect();
        finite && names == [LAST_BIAS, LAST_WEIGHT] && head.parameters[LAST_WEIGHT].shape == [head.classes(), 128]
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
