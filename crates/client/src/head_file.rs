//! A file of a head, read and checked before anything of it is sent.

use std::collections::BTreeMap;
use std::io::{BufWriter, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use headswap_checkpoint::{
    Checkpoint, CheckpointError, HeadFileError, HeadOptions, HeadReport, HostTensor, Inspection, NormalHead, Throttle,
    inspect_head, inspect_head_with, read_head, stored_spec, write_head,
};
use headswap_proto::{Backbone, Parameter};
use headswap_spec::{HeadSpec, SpecDraft, SpecError};
use serde_json::json;
use tempfile::NamedTempFile;

use super::error::ClientError;

/// What is said about a head besides its file.
#[derive(Clone, Debug, Default)]
pub struct GivenSpec {
    /// The keys of the spec that were given.
    pub keys: SpecDraft,
    /// Which of several networks in the file is the head: a key of the file's dictionaries, or a prefix of names.
    pub tensors: Option<String>,
}

/// A head's file that was read to its end: its tensors are finite and have the right shapes, its spec is complete, and its
/// labels fit. Only the backbone is left to compare with the server's.
#[derive(Debug)]
pub struct HeadFile {
    path: PathBuf,
    normal: NormalHead,
    spec: HeadSpec,
}

/// What of a head's file a server needs.
#[derive(Debug)]
pub struct Differing {
    /// A safetensors file of it in normal form, with the spec; removed when this is dropped.
    pub file: NamedTempFile,
    /// The names of its tensors.
    pub names: Vec<String>,
    /// Their bytes in the file.
    pub bytes: u64,
    /// How many tensors the backbone has already.
    pub same: usize,
}

impl HeadFile {
    /// Opens the file and reads all of it.
    ///
    /// # Errors
    /// [`ClientError::Read`], [`ClientError::Checkpoint`] or [`ClientError::Head`] says what is wrong and what to do, and
    /// [`ClientError::Missing`] what neither the file nor `given` says.
    pub fn open(path: &Path, given: &GivenSpec) -> Result<Self, ClientError> {
        let checkpoint = open(path, given)?;
        let mut draft = match stored_spec(&checkpoint).map_err(|error| unusable_head(path, error))? {
            Some(stored) => SpecDraft::from(&stored),
            None => SpecDraft::default(),
        };
        draft.extend(given.keys.clone());
        let known = draft.partial().map_err(|error| refused_spec(path, &error))?;
        let inspection = inspect_head_with(&checkpoint, None, &known).map_err(|error| unusable_head(path, error))?;
        let spec = spec(path, draft, &inspection)?;
        let options = HeadOptions {
            architecture: inspection.architecture,
            spec: Some(&spec),
            labels: &[],
            throttle: &Throttle::off(),
        };
        let normal = read_head(&checkpoint, &options).map_err(|error| unusable_head(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            spec: normal.full_spec(&spec),
            normal,
        })
    }

    /// Returns what is in a file, without reading its tensors.
    ///
    /// # Errors
    /// As [`HeadFile::open`]; what is missing is not an error.
    pub fn inspect(path: &Path, tensors: Option<&str>) -> Result<(Checkpoint, Inspection), ClientError> {
        let given = GivenSpec {
            tensors: tensors.map(str::to_owned),
            ..GivenSpec::default()
        };
        let checkpoint = open(path, &given)?;
        let inspection = inspect_head(&checkpoint, None).map_err(|error| unusable_head(path, error))?;
        Ok((checkpoint, inspection))
    }

    /// As [`HeadFile::inspect`], with what is said about the head besides its file.
    ///
    /// # Errors
    /// As there.
    pub fn inspect_with(path: &Path, given: &GivenSpec) -> Result<(Checkpoint, Inspection), ClientError> {
        let checkpoint = open(path, given)?;
        let known = given.keys.partial().map_err(|error| refused_spec(path, &error))?;
        let inspection = inspect_head_with(&checkpoint, None, &known).map_err(|error| unusable_head(path, error))?;
        Ok((checkpoint, inspection))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The complete spec.
    pub fn spec(&self) -> &HeadSpec {
        &self.spec
    }

    /// The head.
    pub fn normal(&self) -> &NormalHead {
        &self.normal
    }

    /// What was found and decided while it was read.
    pub fn report(&self) -> &HeadReport {
        &self.normal.report
    }

    /// Sets the labels of a head that has none.
    pub fn set_labels(&mut self, labels: Vec<String>) {
        self.normal.labels.clone_from(&labels);
        self.spec.labels = Some(labels);
    }

    /// Returns the backbone with which it shares most bytes of equal tensors, by the rule of the server; none if it shares no
    /// tensor with any.
    pub fn nearest<'a>(&self, backbones: &'a [Backbone]) -> Option<&'a Backbone> {
        let (mut nearest, mut most) = (None, 0);
        for backbone in backbones {
            let digests = digests(&backbone.parameters);
            let mut shared = 0;
            for (name, tensor) in &self.normal.parameters {
                if is_same(&digests, name, tensor) {
                    shared += tensor.bytes();
                }
            }
            if shared > most {
                (nearest, most) = (Some(backbone), shared);
            }
        }
        nearest
    }

    /// Compares the tensors with those of the server's model, `parameters`.
    ///
    /// # Errors
    /// [`ClientError::Head`] if the file is of another architecture.
    pub fn check_architecture(&self, parameters: &[Parameter]) -> Result<(), ClientError> {
        for (name, tensor) in &self.normal.parameters {
            let Some(parameter) = parameters.iter().find(|parameter| parameter.name == *name) else {
                continue;
            };
            let own: Vec<u64> = tensor.shape.iter().map(|size| *size as u64).collect();
            // The last Linear's rows are the head's own.
            let is_last = parameter.digest.is_empty();
            if own != parameter.shape && !(is_last && own[1..] == parameter.shape[1..]) {
                let expected = match parameter.shape[..] {
                    [_, features] if is_last => format!("[K, {features}]"),
                    _ => format!("{:?}", parameter.shape),
                };
                let reason =
                    format!("{name} has shape {own:?}, the server's model takes {expected}; use a head of that model");
                return Err(refused(&self.path, reason));
            }
        }
        Ok(())
    }

    /// Writes the spec and the tensors that differ from the server's, `parameters`, to a file of their own.
    ///
    /// # Errors
    /// [`ClientError::Io`] if there is no space for it.
    pub fn differing(mut self, parameters: &[Parameter]) -> Result<Differing, ClientError> {
        let backbone = digests(parameters);
        let count = self.normal.parameters.len();
        self.normal
            .parameters
            .retain(|name, tensor| !is_same(&backbone, name, tensor));
        let parameters = &self.normal.parameters;
        Ok(Differing {
            names: parameters.keys().cloned().collect(),
            bytes: parameters.values().map(|tensor| tensor.bytes() as u64).sum(),
            same: count - parameters.len(),
            file: self.write()?,
        })
    }

    /// Writes the head in normal form, with its spec, as safetensors.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        write_head(&self.normal, &self.spec, out)
    }

    fn write(&self) -> Result<NamedTempFile, ClientError> {
        let mut file = NamedTempFile::new()?;
        let mut out = BufWriter::new(file.as_file_mut());
        self.write_to(&mut out)?;
        out.flush()?;
        drop(out);
        Ok(file)
    }
}

/// Returns the digests of parameters by name.
fn digests(parameters: &[Parameter]) -> BTreeMap<&str, &str> {
    let mut digests = BTreeMap::new();
    for parameter in parameters {
        digests.insert(parameter.name.as_str(), parameter.digest.as_str());
    }
    digests
}

fn is_same(digests: &BTreeMap<&str, &str>, name: &str, tensor: &HostTensor) -> bool {
    let other = digests.get(name);
    other.is_some_and(|digest| *digest == tensor.digest().to_string())
}

fn open(path: &Path, given: &GivenSpec) -> Result<Checkpoint, ClientError> {
    Checkpoint::open_selecting(path, given.tensors.as_deref()).map_err(|error| unusable(path, error))
}

/// Returns the spec of a file: what its own and the given keys say, with the output that its modules say.
fn spec(path: &Path, mut draft: SpecDraft, inspection: &Inspection) -> Result<HeadSpec, ClientError> {
    if !draft.has("output")
        && let Some(output) = inspection.output
    {
        draft.set("output", json!(output));
    }
    let mut missing = Vec::new();
    for lack in &inspection.missing {
        if !draft.has(lack.key) {
            missing.push(format!("{} ({})", lack.what, lack.flag));
        }
    }
    if !missing.is_empty() {
        return Err(ClientError::Missing {
            path: path.to_owned(),
            missing: missing.join("; "),
        });
    }
    draft.finish().map_err(|error| refused_spec(path, &error))
}

fn refused_spec(path: &Path, error: &SpecError) -> ClientError {
    refused(path, format!("what is said about it is refused: {error}"))
}

fn refused(path: &Path, reason: String) -> ClientError {
    ClientError::Head {
        path: path.to_owned(),
        reason,
    }
}

fn unusable_head(path: &Path, error: HeadFileError) -> ClientError {
    match error {
        HeadFileError::Checkpoint(error) => unusable(path, error),
        error => refused(path, error.to_string()),
    }
}

fn unusable(path: &Path, error: CheckpointError) -> ClientError {
    match error {
        CheckpointError::Read(source) if source.kind() == ErrorKind::UnexpectedEof => refused(
            path,
            "it ends before its tensors do; fetch it or save it again".to_owned(),
        ),
        CheckpointError::Read(source) => ClientError::unreadable(path, source),
        source => ClientError::Checkpoint {
            path: path.to_owned(),
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use headswap_checkpoint::{StoredDtype, safetensors_header};
    use headswap_spec::{HeadInput, HeadLayer};

    use super::*;

    /// A file of Linears without a bias: path, outputs and inputs.
    fn file(linears: &[(&str, usize, usize)]) -> NamedTempFile {
        let shapes: Vec<(String, [usize; 2])> = linears
            .iter()
            .map(|(path, output, input)| (format!("{path}.weight"), [*output, *input]))
            .collect();
        let tensors = shapes.iter().map(|(name, shape)| (name.as_str(), &shape[..]));
        let mut bytes = safetensors_header(tensors, StoredDtype::F32, &HashMap::new());
        for (_, shape) in &shapes {
            bytes.extend(0.5f32.to_le_bytes().repeat(shape.iter().product()));
        }
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    fn given(json: &str) -> GivenSpec {
        GivenSpec {
            keys: SpecDraft::from_json(json).unwrap(),
            tensors: None,
        }
    }

    #[test]
    fn what_is_given_counts_while_the_file_is_understood() {
        // 3 x 1 positions of 512 channels. Without the input, 512 is a width that a head may take, and 1536 is not.
        let flat = file(&[("fc1", 512, 1536), ("fc2", 3, 512)]);
        let said = r#"{"preprocessing": {"resize": {"stretch": [96, 32]}, "scale": 1}, "output": "softmax",
            "input": "flatten", "layers": ["linear", "relu", "linear"]}"#;
        let head = HeadFile::open(flat.path(), &given(said)).unwrap();
        assert_eq!(head.spec().input, Some(HeadInput::Flatten));
        let layers = [HeadLayer::Linear, HeadLayer::Relu, HeadLayer::Linear];
        assert_eq!(head.spec().layers.as_deref(), Some(&layers[..]));

        let unknown = HeadFile::open(flat.path(), &given("{}")).unwrap_err();
        assert!(unknown.to_string().contains("transposed?"), "{unknown}");
        let missing = HeadFile::open(flat.path(), &given(r#"{"input": "flatten"}"#)).unwrap_err();
        assert!(matches!(missing, ClientError::Missing { .. }), "{missing}");
        let wrong = HeadFile::open(flat.path(), &given(r#"{"layers": ["relu"]}"#)).unwrap_err();
        assert!(wrong.to_string().contains("there is no linear"), "{wrong}");
    }
}
