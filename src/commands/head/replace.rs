//! `headswap head replace`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use headswap_checkpoint::excerpt;
use headswap_client::{Admin, ClientError, Differing, GivenSpec, HeadFile, upload};
use headswap_proto::replace_head_request::{self, Source};
use headswap_proto::{GetHeadRequest, ReplaceHeadRequest, ReplaceHeadResponse, UploadHeadHeader, upload_head_header};
use serde_json::json;
use tonic::Code;

use super::spec_args::SpecArgs;
use super::target::Target;
use super::{head_json, labels_summary, listed, print_report};
use crate::commands::address::AdminAddress;
use crate::commands::error::CliError;
use crate::commands::output::{WorkBar, bytes, ms, note, print_json, print_line, spinner};

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap head replace cats cats.safetensors --preprocessing torchvision --output softmax \\
      --labels cats.txt
  headswap head replace cats finetuned.pth --spec cats.json         send only what differs
  headswap head replace cats cats.safetensors                       its spec is in the file
  headswap head replace cats cats.safetensors --expected-version 3  only if 3 is live
  headswap head replace cats cats.safetensors --dry-run             check it, change nothing
  headswap head replace cats file:///srv/heads/cats.safetensors     a file on the server

A local file is read and checked before anything is sent. What neither the file nor the flags say
is refused, because pictures that are prepared otherwise than in training get wrong answers without
an error; `headswap head inspect FILE` shows what is missing. Without labels, those of the version
before are sent again if the classes are as many.";

/// A larger file is sent in pieces.
const ONE_MESSAGE_BYTES_MAX: u64 = 4 << 20;

#[derive(Args, Debug)]
pub(crate) struct ReplaceArgs {
    /// The head; it may be new
    name: String,
    /// A file of weights, safetensors, PyTorch's, Keras's or ONNX: a head, or a whole fine-tuned VGG16, of which only what differs from the
    /// backbone is sent; or a file:// URI on the server
    source: String,
    /// The backbone that it stands on [default: the one with which the file shares most, or else the server's first]
    #[arg(long, value_name = "NAME")]
    backbone: Option<String>,
    #[command(flatten)]
    spec: SpecArgs,
    /// Replace only if this version is live; 0 only if the head is new
    #[arg(long, value_name = "N")]
    expected_version: Option<u64>,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
    /// A note to keep with the version; may be given several times
    #[arg(long = "annotate", value_name = "KEY=VALUE", value_parser = annotation)]
    annotations: Vec<(String, String)>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: AdminAddress,
}

pub(super) async fn run(args: ReplaceArgs) -> Result<(), CliError> {
    let response = replace(&args).await?;
    let head = response.head.unwrap_or_default();
    if args.json {
        return print_json(&json!({
            "head": head_json(&head), "previous_version": response.previous_version, "dry_run": args.dry_run,
            "validate_us": response.validate_us, "place_us": response.place_us, "store_us": response.store_us,
            "sync_us": response.sync_us, "prefixes": response.prefixes, "left_out": response.left_out,
            "labels_left_out": response.labels_left_out,
        }));
    }
    let (verb, previous) = (if args.dry_run { "would be" } else { "is" }, response.previous_version);
    print_line(format_args!(
        "{}@{} {verb} live (before: {previous}), {} classes",
        head.head, head.version, head.classes
    ))?;
    print_line(format_args!("digest   {}", head.digest))?;
    for assumed in &head.assumed {
        print_line(format_args!("assumed  {}", excerpt(assumed)))?;
    }
    print_line(format_args!(
        "took     checking {}, placing {}, storing {} of which fsync {}",
        us(response.validate_us),
        us(response.place_us),
        us(response.store_us),
        us(response.sync_us)
    ))
}

async fn replace(args: &ReplaceArgs) -> Result<ReplaceHeadResponse, CliError> {
    let given = args.spec.given()?;
    let mut header = UploadHeadHeader {
        head: args.name.clone(),
        expected_version: args.expected_version,
        dry_run: args.dry_run,
        annotations: HashMap::from_iter(args.annotations.clone()),
        backbone: args.backbone.clone().unwrap_or_default(),
        ..UploadHeadHeader::default()
    };
    if args.source.contains("://") {
        header.head_spec = spec_of_uri(&given)?;
        let mut client = args.address.connect().await?;
        Target::check(&mut client, args.backbone.as_deref()).await?;
        return in_one_message(client, header, Source::Uri(args.source.clone())).await;
    }
    // Everything that can be wrong with the file itself is known before there is a connection.
    let reading = spinner("reading the file");
    let read = HeadFile::open(Path::new(&args.source), &given);
    reading.finish_and_clear();
    let mut file = read?;
    print_report(file.report());
    let mut client = args.address.connect().await?;
    let target = Target::choose(&mut client, &file, args.backbone.as_deref()).await?;
    file.check_architecture(&target.parameters)?;
    if file.spec().labels.is_none() {
        keep_labels(&mut client, &args.name, &mut file).await?;
    }
    let differing = file.differing(&target.parameters)?;
    report(&differing, &target.name);
    header.backbone = target.name;
    send(client, header, differing.file.path()).await
}

/// Returns the spec for a file on the server. What is given must be a whole spec, or nothing: the file may have its own.
fn spec_of_uri(given: &GivenSpec) -> Result<Option<upload_head_header::HeadSpec>, CliError> {
    if given.tensors.is_some() {
        return Err(CliError::Usage("--tensors is for local files".into()));
    }
    if given.keys.is_empty() {
        return Ok(None);
    }
    let spec = given
        .keys
        .finish()
        .map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(Some(upload_head_header::HeadSpec::SpecJson(spec.to_json())))
}

/// Takes over the labels of the live version, if there is one with as many classes and the same output.
async fn keep_labels(client: &mut Admin, name: &str, file: &mut HeadFile) -> Result<(), CliError> {
    let request = GetHeadRequest {
        head: name.to_owned(),
        version: 0,
    };
    let before = match client.get_head(request).await {
        Ok(got) => got.into_inner().head.unwrap_or_default(),
        Err(status) if status.code() == Code::NotFound => return Ok(()),
        Err(status) => return Err(status.into()),
    };
    let is_same = file.spec().classes == Some(before.classes as usize);
    if is_same && !before.labels.is_empty() {
        note(format_args!(
            "no labels were given: those of version {} are kept ({})",
            before.version,
            labels_summary(&before.labels)
        ));
        file.set_labels(before.labels);
    }
    Ok(())
}

/// Sends a file that was checked, in one message or in pieces.
async fn send(mut client: Admin, header: UploadHeadHeader, path: &Path) -> Result<ReplaceHeadResponse, CliError> {
    let metadata = std::fs::metadata(path).map_err(|error| ClientError::unreadable(path, error))?;
    if metadata.len() > ONE_MESSAGE_BYTES_MAX {
        let progress = Arc::new(WorkBar::bytes("uploading"));
        return Ok(upload(&mut client, header, path, progress).await?);
    }
    let file = std::fs::read(path).map_err(|error| ClientError::unreadable(path, error))?;
    in_one_message(client, header, Source::File(file.into())).await
}

fn us(us: u64) -> String {
    ms(Duration::from_micros(us))
}

/// Prints what is sent; `backbone` is empty for a server's only one.
fn report(differing: &Differing, backbone: &str) {
    if differing.same == 0 {
        return;
    }
    note(format_args!(
        "{} of {} tensors differ from the backbone{}{backbone}: {}; {} to send",
        differing.names.len(),
        differing.names.len() + differing.same,
        if backbone.is_empty() { "" } else { " " },
        listed(&differing.names),
        bytes(differing.bytes)
    ));
}

async fn in_one_message(
    mut client: Admin,
    header: UploadHeadHeader,
    source: Source,
) -> Result<ReplaceHeadResponse, CliError> {
    let request = ReplaceHeadRequest {
        head: header.head,
        source: Some(source),
        labels: header.labels,
        expected_version: header.expected_version,
        dry_run: header.dry_run,
        annotations: header.annotations,
        backbone: header.backbone,
        head_spec: header.head_spec.map(|spec| match spec {
            upload_head_header::HeadSpec::Spec(spec) => replace_head_request::HeadSpec::Spec(spec),
            upload_head_header::HeadSpec::SpecJson(json) => replace_head_request::HeadSpec::SpecJson(json),
        }),
    };
    let spinner = spinner("uploading and checking");
    let response = client.replace_head(request).await;
    spinner.finish_and_clear();
    Ok(response?.into_inner())
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
