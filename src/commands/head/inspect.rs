//! `headswap head inspect`.

use std::path::PathBuf;

use clap::Args;
use headswap_checkpoint::{Checkpoint, Finding, Graph, InspectedModule, Inspection, excerpt};
use headswap_client::{ClientError, HeadFile};
use headswap_proto::{DescribeModelRequest, Parameter};
use headswap_spec::{ChannelTransform, HeadLayer};
use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::address::AdminAddress;
use crate::commands::error::CliError;
use crate::commands::output::{print_json, print_line, print_table, table};

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap head inspect finetuned.pth
  headswap head inspect finetuned.pth --against-server     also which tensors equal the backbone's
  headswap head inspect checkpoint.pth --tensors model_ema

Nothing in the file is run. The last lines say what `head replace` and `head convert` need besides
the file.";

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A file of weights: safetensors, or what PyTorch saved
    file: PathBuf,
    /// Which of several networks in the file: a key of its dictionary, or a prefix of names
    #[arg(long, value_name = "KEY")]
    tensors: Option<String>,
    /// Compare the tensors with the backbone of a running server
    #[arg(long)]
    against_server: bool,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: AdminAddress,
}

pub(super) async fn run(args: InspectArgs) -> Result<(), CliError> {
    let (checkpoint, inspection) = HeadFile::inspect(&args.file, args.tensors.as_deref())?;
    let compared = match args.against_server {
        true => Some(compare(&args, &checkpoint).await?),
        false => None,
    };
    if args.json {
        return print_json(&to_json(&checkpoint, &inspection, compared.as_ref()));
    }
    print_line(format_args!("file      {}", args.file.display()))?;
    print_line(format_args!("format    {}", checkpoint.format()))?;
    print_line(format_args!("network   {}", network(&inspection)))?;
    if let Some(graph) = &inspection.graph {
        print_line(format_args!("pictures  {}", pictures(graph)))?;
    }
    print_names("prefixes", &inspection.prefixes)?;
    if let Some(compared) = &compared {
        print_line(format_args!(
            "backbone  {} tensors equal the server's; {} differ: {}",
            compared.same.len(),
            compared.differing.len(),
            listed(&compared.differing)
        ))?;
    }
    print_modules(&inspection.modules)?;
    print_line(format_args!("input     {}", finding(&inspection.input)))?;
    print_line(format_args!("layers    {}", layers(&inspection.layers)))?;
    let output = inspection
        .output
        .map_or("not in the file".to_owned(), |output| text_of(&output));
    print_line(format_args!("output    {output}, {} rows", inspection.rows))?;
    for (key, count) in &inspection.label_lists {
        print_line(format_args!("labels    {count} under {}", excerpt(key)))?;
    }
    print_names("left out", &inspection.left_out)?;
    for assumed in &inspection.assumed {
        print_line(format_args!("assumed   {}", excerpt(assumed)))?;
    }
    for missing in &inspection.missing {
        print_line(format_args!("missing   {}: {}", missing.what, missing.flag))?;
    }
    Ok(())
}

/// Which tensors of a file equal the backbone's.
#[derive(Serialize)]
struct Compared {
    same: Vec<String>,
    differing: Vec<String>,
}

async fn compare(args: &InspectArgs, checkpoint: &Checkpoint) -> Result<Compared, CliError> {
    let mut client = args.address.connect().await?;
    let model = client
        .describe_model(DescribeModelRequest::default())
        .await?
        .into_inner();
    let mut compared = Compared {
        same: Vec::new(),
        differing: Vec::new(),
    };
    for entry in checkpoint.tensors() {
        let digest = checkpoint.read(entry).map(|tensor| tensor.digest().to_string());
        let digest = digest.map_err(|source| ClientError::Checkpoint {
            path: args.file.clone(),
            source,
        })?;
        let is_own = |parameter: &&Parameter| parameter.digest == digest;
        match model.parameters.iter().find(is_own) {
            Some(_) => compared.same.push(entry.file_name.clone()),
            None => compared.differing.push(entry.file_name.clone()),
        }
    }
    Ok(compared)
}

fn to_json(checkpoint: &Checkpoint, inspection: &Inspection, compared: Option<&Compared>) -> Value {
    let mut json = json!(inspection);
    json["format"] = json!(checkpoint.format().to_string());
    if let Some(compared) = compared {
        json["backbone"] = json!(compared);
    }
    json
}

fn network(inspection: &Inspection) -> String {
    let architecture = text_of(&inspection.architecture);
    let norms = if inspection.bn {
        ", a batch norm after each convolution"
    } else {
        ""
    };
    match inspection.convolutions {
        0 => format!("a head alone, for {architecture}: it stands on the server's backbone"),
        count => format!("{architecture}, {count} convolutions{norms}"),
    }
}

/// What a file says of its pictures.
fn pictures(graph: &Graph) -> String {
    let size = match graph.size {
        Some([height, width]) => format!("{height}x{width}"),
        None => "of any size".to_owned(),
    };
    let transform = &graph.transform;
    if *transform == ChannelTransform::IDENTITY {
        return size;
    }
    let order = if transform.reversed {
        "channels reversed, then "
    } else {
        ""
    };
    let scale = transform.scale.map(|factor| factor as f32);
    let shift = transform.shift.map(|number| number as f32);
    format!("{size}; the file itself computes, of what it is fed: {order}x · {scale:?} + {shift:?}")
}

fn print_modules(modules: &[InspectedModule]) -> Result<(), CliError> {
    let mut rows = table(&["module", "kind", "shape", "bias", "then"]);
    for module in modules {
        let bias = if module.bias { "yes" } else { "no" };
        let then = module.activations.as_deref().map_or("?".to_owned(), listed_layers);
        let shape = format!("{:?}", module.shape);
        rows.add_row([&excerpt(&module.name), module.kind, &shape, bias, &then]);
    }
    print_line("")?;
    print_table(&rows)?;
    print_line("")
}

fn print_names(what: &str, names: &[String]) -> Result<(), CliError> {
    match names.len() {
        0 => Ok(()),
        _ => print_line(format_args!("{what:<9} {}", listed(names))),
    }
}

/// The first of many names, safe for a terminal.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(|name| excerpt(name)).collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    shown.join(" ")
}

fn finding<T: Serialize>(finding: &Finding<T>) -> String {
    match finding {
        Finding::Known(value) => text_of(value),
        Finding::Assumed(value) => format!("{} (assumed)", text_of(value)),
        Finding::Missing => "not in the file".to_owned(),
    }
}

/// Layers in the form that --layers takes.
fn layers(found: &Finding<Vec<HeadLayer>>) -> String {
    match found {
        Finding::Known(layers) => listed_layers(layers),
        Finding::Assumed(layers) => format!("{} (assumed)", listed_layers(layers)),
        Finding::Missing => "not in the file".to_owned(),
    }
}

fn listed_layers(layers: &[HeadLayer]) -> String {
    let mut texts = Vec::with_capacity(layers.len());
    for layer in layers {
        texts.push(layer.to_string());
    }
    texts.join(",")
}

/// A value as a spec writes it, without quotes.
fn text_of(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    json.trim_matches('"').to_owned()
}
