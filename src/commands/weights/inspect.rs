//! `headswap weights inspect`.

use std::path::PathBuf;

use clap::{Args, ValueEnum as _};
use headswap_checkpoint::{Checkpoint, Digest, TensorEntry, Throttle, read_backbone};
use headswap_spec::Architecture;
use serde_json::{Value, json};

use super::{Fit, arch_name};
use crate::commands::describe::grouped;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, print_json, print_line, print_table, table};

/// Shows what a file of weights is and holds; safetensors, PyTorch's, Keras's and ONNX. Nothing in it is run.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// The file
    file: PathBuf,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// A tensor and its digest, or why it cannot be read.
type Inspected<'a> = (&'a TensorEntry, Result<Digest, String>);

pub(super) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let checkpoint = Checkpoint::open(&args.file);
    let checkpoint = checkpoint.map_err(|error| CliError::Failed(format!("{}: {error}", args.file.display())))?;
    let mut tensors: Vec<Inspected<'_>> = Vec::new();
    for entry in checkpoint.tensors() {
        let tensor = checkpoint.read(entry).map_err(|error| error.to_string());
        tensors.push((entry, tensor.map(|tensor| tensor.digest())));
    }
    if args.json {
        print_json(&to_json(&checkpoint, &tensors))
    } else {
        print(args, &checkpoint, &tensors)
    }
}

fn print(args: &InspectArgs, checkpoint: &Checkpoint, tensors: &[Inspected<'_>]) -> Result<(), CliError> {
    print_line(format_args!("file    {}", args.file.display()))?;
    print_line(format_args!("format  {}", checkpoint.format()))?;
    print_line(format_args!("names   {}\n", describe_names(checkpoint)))?;
    let renamed = tensors.iter().any(|(entry, _)| entry.name != entry.file_name);
    let mut headings = vec!["tensor", "dtype", "shape", "SHA-256"];
    if renamed {
        headings.push("in the file");
    }
    let mut rows = table(&headings);
    for (entry, digest) in tensors {
        let digest = digest.as_ref().map_or_else(|_| "unusable".into(), Digest::short);
        let mut row = vec![
            printable(&entry.name),
            format!("{:?}", entry.dtype),
            format!("{:?}", entry.shape),
            digest,
        ];
        if renamed {
            row.push(printable(&entry.file_name));
        }
        rows.add_row(row);
    }
    print_table(&rows)?;
    let numbers = total(checkpoint);
    print_line(format_args!(
        "\n{} tensors, {} numbers, {} in f32",
        tensors.len(),
        grouped(numbers),
        bytes(4 * numbers)
    ))?;
    for (_, digest) in tensors {
        if let Err(error) = digest {
            print_line(format_args!("unusable: {error}"))?;
        }
    }
    print_line(describe_fit(checkpoint, tensors))
}

/// A name from a file must not steer the terminal.
fn printable(name: &str) -> String {
    name.chars().flat_map(char::escape_debug).collect()
}

fn describe_names(checkpoint: &Checkpoint) -> String {
    let naming = checkpoint.naming();
    let whose = if naming.timm { "timm's" } else { "torchvision's" };
    let prefixes = naming.prefixes.iter().map(|prefix| format!(", behind `{prefix}`"));
    let container = match &naming.container[..] {
        "" => String::new(),
        container => format!(", under the key `{container}`"),
    };
    [whose.to_owned()]
        .into_iter()
        .chain(prefixes)
        .chain([container])
        .collect()
}

fn describe_fit(checkpoint: &Checkpoint, tensors: &[Inspected<'_>]) -> String {
    match Fit::of(checkpoint) {
        Ok(Fit::Backbone(arch, classes)) => {
            let digest = whole_digest(tensors).map(|digest| format!("; its digest is {digest}"));
            format!(
                "fits --arch {}: a whole backbone of {classes} classes{}",
                arch_name(arch),
                digest.unwrap_or_default()
            )
        }
        Ok(Fit::Head(arch, classes)) => format!("fits --arch {}: a head of {classes} classes", arch_name(arch)),
        Err(misfit) => match Recognised::of(checkpoint) {
            Some(found) => {
                let linears = match found.has_features {
                    true => "with VGG16's Linears",
                    false => "without VGG16's Linears",
                };
                let arch = arch_name(found.architecture);
                let digest = found.digest;
                format!("fits --arch {arch} under names of its own: as a backbone {linears}; its digest is {digest}")
            }
            None => format!("fits neither as a backbone nor as a head: {misfit}"),
        },
    }
}

/// A backbone under any names, as `serve --weights` reads it.
struct Recognised {
    architecture: Architecture,
    digest: Digest,
    has_features: bool,
}

impl Recognised {
    /// Reads the file's parameters; `None` if it is no VGG16.
    fn of(checkpoint: &Checkpoint) -> Option<Self> {
        for &architecture in Architecture::value_variants() {
            if let Ok(parameters) = read_backbone(checkpoint, architecture, &Throttle::off()) {
                let digests = parameters.iter().map(|(name, tensor)| (name.as_str(), tensor.digest()));
                return Some(Self {
                    architecture,
                    digest: Digest::of_backbone(digests),
                    has_features: parameters.contains_key("classifier.3.weight"),
                });
            }
        }
        None
    }
}

/// A backbone's digest, as the server tells it; None if a tensor cannot be read.
fn whole_digest(tensors: &[Inspected<'_>]) -> Option<Digest> {
    let mut digests = Vec::new();
    for (entry, digest) in tensors {
        digests.push((entry.name.as_str(), *digest.as_ref().ok()?));
    }
    Some(Digest::of_backbone(digests))
}

fn total(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().map(|entry| entry.elements() as u64).sum()
}

fn to_json(checkpoint: &Checkpoint, tensors: &[Inspected<'_>]) -> Value {
    let (mut backbone, mut head, mut misfit) = (Value::Null, Value::Null, Value::Null);
    match Fit::of(checkpoint) {
        Ok(Fit::Backbone(arch, classes)) => {
            let digest = whole_digest(tensors).map(|digest| digest.to_string());
            backbone = json!({ "arch": arch_name(arch), "classes": classes, "digest": digest });
        }
        Ok(Fit::Head(arch, classes)) => head = json!({ "arch": arch_name(arch), "classes": classes }),
        Err(reason) => match Recognised::of(checkpoint) {
            Some(found) => {
                let arch = arch_name(found.architecture);
                backbone = json!({
                    "arch": arch, "classes": null, "digest": found.digest.to_string(), "features": found.has_features,
                });
            }
            None => misfit = json!(reason.to_string()),
        },
    }
    let naming = checkpoint.naming();
    json!({
        "format": checkpoint.format().to_string(),
        "naming": { "timm": naming.timm, "prefixes": naming.prefixes, "container": naming.container },
        "metadata": checkpoint.metadata(),
        "tensors": tensors.iter().map(tensor_json).collect::<Vec<_>>(),
        "numbers": total(checkpoint),
        "backbone": backbone,
        "head": head,
        "misfit": misfit,
    })
}

fn tensor_json((entry, digest): &Inspected<'_>) -> Value {
    json!({
        "name": entry.name, "file_name": entry.file_name, "dtype": format!("{:?}", entry.dtype),
        "shape": entry.shape, "sha256": digest.as_ref().ok().map(ToString::to_string),
        "error": digest.as_ref().err(),
    })
}
